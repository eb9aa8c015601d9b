"""From names to objects: plugins, data, models.  Everything here may import torch."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.options import Pairs, parse
from likeli.cli.output import log
from likeli.cli.plan import Plan
from likeli.errors import CheckpointError, InputError, LikeliError, nearest, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.checkpoint import Checkpoint
    from likeli.contract import GenerativeModel
    from likeli.data import Data
import resource

SMALL_MODEL = 1 << 28  # bytes that a model may take while it is built before its size is known
BYTES_PER_PARAMETER = 24  # float32: weights, gradient, two moments, average, best


def load_plugins(paths: Sequence[str]) -> None:
    """Register our families and run the user's own Python files, named on the command line and nowhere else.

    Raises:
        InputError: a file is missing or fails.
    """
    import likeli

    known = set(likeli.families())  # registers ours
    for path in paths:
        require(Path(path).is_file(), "plugin", "a Python file", path)
        spec = importlib.util.spec_from_file_location(f"likeli_plugin_{Path(path).stem}", path)
        if spec is None or spec.loader is None:
            raise InputError(f"plugin: expected a file that ends in .py, got {path}")
        module = importlib.util.module_from_spec(spec)
        if spec.name in sys.modules:
            continue
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[spec.name]
            if isinstance(error, LikeliError):
                raise
            raise InputError(f"plugin {path}: {type(error).__name__}: {error}") from error
        log(f"likeli: {path} adds {', '.join(sorted(set(likeli.families()) - known)) or 'no family'}")


def read_data(plan: Plan) -> Data:
    """The plan's data, with the warnings of reading it told on standard error."""
    import likeli

    given = {"kind": plan.kind, "labels": plan.labels if isinstance(plan.labels, str) else None}
    data = likeli.load_data(plan.data, seed=plan.seed, **{k: v for k, v in given.items() if v is not None})
    for warning in data.warnings:
        log(f"likeli: warning: {warning}")
    return data


def stored_data(info: Mapping[str, Any]) -> Data:
    """The data that a run was fitted on, with the same split.

    Raises:
        InputError: the run does not say, or the data are not what they were.
    """
    from likeli.data import rebuild

    require("fingerprint" in info.get("data", {}), "data", "--data, since the run does not name its own", "nothing")
    return rebuild(info["data"])


def read_rows(source: str, saved: Checkpoint) -> tuple[Tensor, Tensor | None]:
    """All rows of a source as the run's own x, and y for a conditional model.

    Raises:
        InputError: rows that do not fit the run's space.
    """
    from likeli.data import read_rows

    model, labels = saved.model, saved.info.get("data", {}).get("labels")
    return read_rows(
        source, model.space, labels=labels, condition=model.condition, missing=model.takes_missing, who=model.kind()
    )


def build_model(spec: Mapping[str, Any], data: Data, *, seed: int, conditional: bool) -> GenerativeModel:
    """The model of `spec` on the data's space, its first weights a function of `seed`.

    Raises:
        InputError: an option does not fit.
        LikeliError: it would not fit into memory; said before it is taken.
    """
    import torch

    import likeli
    from likeli.checkpoint.build import bounded

    def built() -> GenerativeModel:
        with likeli.seeded(seed, "weights"):
            return likeli.build(spec, likeli.GenerativeModel, where="model")

    def check(model: GenerativeModel) -> None:
        count = sum(t.numel() for t in [*model.parameters(), *model.buffers()])
        check_fits(count * BYTES_PER_PARAMETER, f"training {spec['class']} with {count:.3g} parameters")

    spec = {**spec, "space": data.space} | ({"condition": data.condition} if conditional else {})
    with suppress(CheckpointError), bounded(min(SMALL_MODEL, available()), 10**9, spec["class"]):
        model = built()
        check(model)
        return model
    with torch.device("meta"), suppress(NotImplementedError, RuntimeError):  # arithmetic there would load a compiler
        check(built())
    return built()


def call_options(function: Callable[..., Any], pairs: Pairs, section: str) -> dict[str, Any]:
    """The dotted options of `section` as keyword arguments of `function`, typed by its annotations.

    Raises:
        InputError: an option that it does not have; the nearest is suggested.
    """
    import likeli.config

    keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    hints = typing.get_type_hints(function)
    options = {}
    for name, text in pairs:
        if name not in keywords:
            have = f"it has {', '.join(keywords)}" if keywords else "it has none"
            raise InputError(f"{section}.{name[:80]}: no such option{nearest(name, keywords)}; {have}")
        value = parse(text, str(hints.get(name, "")))
        options[name] = likeli.config.coerce(value, hints.get(name, Any), f"{section}.{name}")
    return options


def parse_label(text: str | None, model: GenerativeModel) -> Tensor | None:
    """`--label 3`, `--label seven` or `--label 0.5,0.5`: the condition of every sample.

    Raises:
        InputError: the model is not conditional, or the label is not one of its own.
    """
    import torch

    if text is None or model.condition is None:
        require(text is None, "label", "nothing, since this run is not conditional", text)
        return None
    names = list(getattr(model.condition, "names", ()))
    if text in names:
        return torch.tensor([names.index(text)])
    parts = [parse(p) for p in text.split(",")]
    numbers = all(isinstance(p, (int, float)) and not isinstance(p, bool) and math.isfinite(p) for p in parts)
    hint = f", or one of {', '.join(names[:20])}" if names else ""
    require(numbers, "label", f"numbers separated by commas{hint}{nearest(text, names)}", text)
    one = len(parts) == 1 and not model.condition.shape
    return torch.tensor(parts) if one else torch.tensor([parts], dtype=torch.get_default_dtype())


def whole_numbers(text: str, what: str) -> list[int]:
    """`3,8` → [3, 8].

    Raises:
        InputError: something else, naming the option `what`.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{what}: expected whole numbers separated by commas, got {text[:80]!r}") from None


def available() -> int:
    """Bytes that this process may still take: the least of free memory, the control group's limit and `ulimit -v`."""
    limits = [_free(), _group()]
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        limits.append(max(soft - _own(), 0))
    return min(limits)


def check_fits(needed: float, what: str) -> None:
    """Refuse `needed` bytes that are not there.

    Raises:
        LikeliError: names both numbers.
    """
    there = available()
    if needed > there:
        raise LikeliError(f"{what} needs {size(needed)} of memory, and {size(there)} can be had")


def size(count: float) -> str:
    """1500000 → `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""


def _free() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def _group() -> int:
    limit = next(iter(_lines("/sys/fs/cgroup/memory.max")), "max").strip()
    used = next(iter(_lines("/sys/fs/cgroup/memory.current")), "0").strip()
    cached = sum(int(line.split()[1]) for line in _lines("/sys/fs/cgroup/memory.stat") if line.startswith("inactive_file "))
    return max(int(limit) - int(used) + cached, 0) if limit.isdigit() and used.isdigit() else 1 << 62


def _own() -> int:
    pages = next(iter(_lines("/proc/self/statm")), "0").split()[0]
    return int(pages) * resource.getpagesize()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next training step; returns whether this system's library could be told so.

    It gives large tensors back to the kernel otherwise and gets them back as zeroed pages, tens of thousands a step: 5 % of a
    U-Net's step in float32 and 10 % in bfloat16.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_TOP_PAD, 2**26)])
