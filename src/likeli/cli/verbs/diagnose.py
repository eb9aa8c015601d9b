"""say what the latents of a run carry and whether its prior covers them

likeli diagnose runs/x               divergence by level and latent, latents in use, information, prior mismatch and holes
likeli diagnose runs/x --rows 2000   more examples: the information can be followed up to log n nats

For VAEs and hierarchical VAEs, conditional or not.  Alarms come with what to try.  Rows are of the test split of the data that
the run was fitted to, in nats an example.  Exit code 0 whatever is found.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from likeli.cli.objects import load_plugins, read_rows, stored_data
from likeli.cli.output import emit, table

if TYPE_CHECKING:
    from likeli.evaluation.collapse import Collapse

SHOWN = 8  # latents of a level that the table names; --json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    parser.add_argument("--data", metavar="DATA", help="other data than the run's own test split")
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"], help="part of the run's own data [test]")
    parser.add_argument("--rows", type=int, metavar="N", help="examples at most; the cost grows as N² [1000; deep, 300]")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws [0]")


def run(args: argparse.Namespace) -> None:
    """Diagnose and print."""
    from likeli import checkpoint
    from likeli.evaluation.collapse import diagnose_latents

    load_plugins(args.plugin)
    saved = checkpoint.read(args.run_folder)
    x, y = stored_data(saved.info).split(args.split) if args.data is None else read_rows(args.data, saved)
    y = y if saved.model.condition is not None else None
    found = diagnose_latents(saved.model, x, y, rows=args.rows, seed=args.seed)
    emit(args, dataclasses.asdict(found), _text(found))


def _text(found: Collapse) -> str:
    levels = [_level(found, t) for t in range(len(found.latents), 0, -1)]
    header = ["level", "nats", "latents in use", "codes told from prior", "largest latents, nats"]
    facts = [
        f"information I(x; z)      {_nats(found.information)}",
        f"prior mismatch KL(q̄‖p)   {_nats(found.mismatch, found.mismatch_stderr)}",
        f"  at least (95 %)        {_nats(found.mismatch_at_least)}",
        f"prior draws in holes     {'not known' if found.hole is None else f'{found.hole:.1%}'} (1 % if there are none)",
        f"{found.rows} examples",
    ]
    alarms = [f"alarm: {text}" for text in found.alarms] or ["no alarm"]
    return "\n".join([table(header, levels), "", *facts, *alarms])


def _level(found: Collapse, level: int) -> list[str]:
    cells = found.kl_by_latent[level - 1]
    largest = sorted(range(len(cells)), key=lambda i: -cells[i])[:SHOWN]
    names = ", ".join(f"{i}: {cells[i]:.2f}" for i in largest) + (", …" if len(cells) > SHOWN else "")
    return [
        str(level),
        f"{found.kl_by_level[level - 1]:.3f}",
        f"{found.active[level - 1]} of {found.latents[level - 1]}",
        f"AUC {found.told_apart[level - 1]:.2f}" if found.told_apart else "-",
        names or "-",
    ]


def _nats(value: float | None, stderr: float | None = None) -> str:
    if value is None:
        return "not known"
    return f"{value:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}") + " nats"
