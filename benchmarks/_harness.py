"""Run the two sides of an entry alternately in pinned one-thread processes, and compare them pair by pair."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTERPRETERS = {"ours": Path(sys.executable), "peer": HERE.parent / ".venv-peers/bin/python"}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


def entries() -> list[str]:
    """The names of the entries: every file here that does not begin with an underscore."""
    return sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))


def interpreter(entry: str, side: str) -> Path:
    """What runs a side; a peer that needs nothing but what we stand on (`OWN_PEER`) is run where ours is."""
    own = getattr(importlib.import_module(f"benchmarks.{entry}"), "OWN_PEER", False)
    return INTERPRETERS["ours" if own else side]


def run_side(entry: str, side: str, folder: Path, core: int, variant: dict, seed: int = 0) -> dict:
    """One run of one side; what it returned.  A side that takes a seed gets the number of the pair."""
    if "seed" in inspect.signature(getattr(importlib.import_module(f"benchmarks.{entry}"), side)).parameters:
        variant = variant | {"seed": seed}
    command = [interpreter(entry, side), HERE / "_side.py", entry, side, folder, str(core), json.dumps(variant)]
    done = subprocess.run(command, capture_output=True, env=os.environ | ONE_THREAD, check=False)
    if done.returncode:
        told = done.stderr.decode().strip().rpartition("\n")[2] or f"no word, exit status {done.returncode}"
        raise RuntimeError(f"{entry} {side}: {told}")
    return json.loads(done.stdout)


def run_entry(name: str, repeats: int, data: Path, core: int, seconds: int | None = None) -> Iterator[dict]:
    """One row for each variant of an entry.

    Arguments:
        repeats: pairs of runs; which side goes first alternates.
        data: folder with the measuring data, for entries that need a file.
        core: the core that both sides are pinned to.
        seconds: the budget of every variant that has one; as the entry has it if not given.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    variants = getattr(module, "VARIANTS", [{}])
    if seconds is not None:
        variants = [v | {"seconds": seconds} if "seconds" in v else v for v in variants]
        variants = [v for i, v in enumerate(variants) if v not in variants[:i]]
    with tempfile.TemporaryDirectory() as folder:
        module.prepare(Path(folder), data)
        for variant in variants:
            pairs = []
            for repeat in range(repeats):
                order = ("ours", "peer") if repeat % 2 == 0 else ("peer", "ours")
                pairs.append({side: run_side(name, side, Path(folder), core, variant, repeat) for side in order})
                print(f"{name} {variant or ''} {repeat + 1}/{repeats}: {pairs[-1]}", file=sys.stderr)
            yield {"entry": name, "variant": variant} | compare(pairs, module)


def compare(pairs: list[dict], module: object) -> dict:
    """Medians of every number of both sides, and the paired ratios of the entry's metric; above 1, ours is better."""
    metric, higher = getattr(module, "METRIC", "seconds"), getattr(module, "HIGHER", False)
    ratios = [p["ours"][metric] / p["peer"][metric] if higher else p["peer"][metric] / p["ours"][metric] for p in pairs]
    medians = {side: {k: statistics.median(p[side][k] for p in pairs) for k in pairs[0][side]} for side in ("ours", "peer")}
    spread = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return medians | {"metric": metric, "ratio": spread, "pairs": len(pairs)}
