"""From names to objects: plugins, data, models.  Everything here may import torch."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import inspect
import re
import resource
import shutil
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.catalogue import Catalogue
from likeli.cli.options import Pairs, read_value
from likeli.cli.output import log, warn
from likeli.cli.plan import TEXT, Plan
from likeli.config import Configurable, registered
from likeli.errors import CheckpointError, InputError, LikeliError, nearest, one_line, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.checkpoint import Checkpoint
    from likeli.contract import GenerativeModel
    from likeli.data import Data
    from likeli.spaces import Space

SMALL_MODEL = 1 << 28  # bytes that a model may take while it is built before its size is known
MOST_TENSORS = 20_000  # that a model may be made of: hundreds of layers take a tenth
BYTES_PER_PARAMETER = 24  # float32: weights, gradient, two moments, average, best


def load_plugins(paths: Sequence[str]) -> None:
    """Register our families and run the user's own Python files, named on the command line and nowhere else.

    Raises:
        InputError: a file is missing or fails.
    """
    from likeli.checkpoint.build import PLUGIN
    from likeli.models import families

    families()  # ours are registered
    for path in paths:
        require(Path(path).is_file(), "plugin", "a Python file", path)
        file = str(Path(path).resolve())
        loaded = [module for name, module in sys.modules.items() if name.startswith(PLUGIN)]
        if any(module.__file__ == file for module in loaded):
            continue
        spec = importlib.util.spec_from_file_location(f"{PLUGIN}{len(loaded)}_{Path(path).stem}", file)
        if spec is None or spec.loader is None:
            raise InputError(f"plugin: expected a file that ends in .py, got {path}")
        before = registered(Configurable)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[spec.name]
            if isinstance(error, LikeliError):
                raise
            raise InputError(f"plugin {path}: {type(error).__name__}: {error}") from error
        log(f"likeli: {path} adds {', '.join(k for k in registered(Configurable) if k not in before) or 'nothing by name'}")


def open_run(args: argparse.Namespace) -> Checkpoint:
    """The run of the command line, its plugins loaded first."""
    from likeli import checkpoint

    load_plugins(args.plugin)
    return checkpoint.read(args.run_folder)


def read_data(plan: Plan) -> Data:
    """The plan's data, with the warnings of reading it told on standard error."""
    import likeli

    given: dict[str, Any] = {"kind": plan.kind, "labels": plan.labels if isinstance(plan.labels, str) else None}
    given["categorical"] = plan.categorical.split(",") if plan.categorical else None
    given |= {name: getattr(plan, name) for name in (*TEXT, "size", "types", "layer")}
    data = likeli.load_data(plan.data, seed=plan.seed, **{k: v for k, v in given.items() if v is not None})
    warn(data.warnings)
    return data


PART = re.compile(r"(?P<base>.+)@(?P<part>train|valid|test)")  # a part of a source


def stored_data(info: Mapping[str, Any], source: str | None = None) -> Data:
    """The data that a run was fitted on, with the same split.

    Arguments:
        source: where they are, if the user says so; else where the run says, which it may if this user fitted it here or if
            what it names is built in: a folder from elsewhere chooses no file to open and no address to ask.

    Raises:
        InputError: the run does not say, or may not, or the data are not what they were.
    """
    from likeli import checkpoint
    from likeli.data import SOURCES, rebuild
    from likeli.data.in_files import marks_of

    about = info.get("data", {})
    require("fingerprint" in about, "data", "--data, since the run does not name its own", "nothing")
    named = str(about.get("source"))
    own = source is not None or named.partition(":")[0] in SOURCES or checkpoint.is_sealed(about)
    wanted = "--data SOURCE@test for the part of its rows that the run was not fitted on"
    why = f"nothing; the run names {one_line(named, 120)!r}, but not by a fit of yours on this machine, so it is not opened"
    require(own or about.get("source") is None, "data", wanted, why)
    elsewhere = source is not None or about.get("source") is None or named.partition(":")[0] in (*SOURCES, "hf")
    there = f"--data SOURCE, since the run's own rows are not found under their name {one_line(named, 120)}"
    require(elsewhere or bool(marks_of(named)), "data", there, "nothing")
    return rebuild(about, source)


def rows_for(
    saved: Checkpoint, source: str | None, split: str = "test", first: int | None = None, label: str | None = None,
    missing: bool | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The first rows (all if None) of a source, or of the run's own split: x, and y for a conditional model.

    Arguments:
        source: of rows of any kind; or the run's own with @train, @valid or @test, for that part of its split.
        label: as `--label` gives it: the condition of every row, in place of the source's own.
        missing: whether missing cells are taken; if the model takes them, if not given.

    Raises:
        InputError: rows that do not fit the run's space, or no labels where the model needs them.
    """
    from likeli.data import load_rows

    model, labels = saved.model, saved.info.get("data", {}).get("labels")
    one, source = parse_label(label, model), of_layer(saved, source)
    part = None if source is None or Path(source).exists() else PART.fullmatch(source)
    if source is None:
        x, y = stored_data(saved.info).split(split)
    elif part:
        x, y = stored_data(saved.info, part["base"]).split(part["part"])
    else:
        known: dict[str, Any] = {"who": model.kind(), "missing": model.takes_missing if missing is None else missing}
        known |= {} if one is not None else {"labels": labels, "condition": model.condition}
        try:
            x, y = load_rows(source, model.space, **known)
        except InputError as error:
            unlabelled = one is None and labels and (f"no column {labels!r}" in str(error) or "labels: expected" in str(error))
            raise InputError(f"{error}{'; --label Y gives every row one' * bool(unlabelled)}") from error
    if model.condition is None:
        return x[:first], None
    y = y if one is None else model.check_condition(one, len(x))
    require(y is not None, "label", f"--label Y, since {model.kind()} is conditional and {source} has no labels", "nothing")
    return x[:first], y if y is None else y[:first]


def parts_for(
    saved: Checkpoint, source: str, label: str | None = None, missing: bool | None = None, tables: bool = False
) -> tuple[int, Iterator[tuple[Any, Tensor, Tensor | None]]] | None:
    """(how many rows, some of them at a time as (columns as they were read, x, y)) of rows in files or sparse, else None.

    Arguments:
        saved, source, label, missing: as for `rows_for`.
        tables: whether only tables will do.
    """
    from likeli.data import load_parts
    from likeli.data.annotated import find_annotated
    from likeli.data.in_files import find_files, is_table

    model, one, labels = saved.model, parse_label(label, saved.model), saved.info.get("data", {}).get("labels")
    own = not Path(source).exists() and PART.fullmatch(source)
    files = None if own else find_files(source, labels if one is None else None)
    found = find_annotated(of_layer(saved, source))
    rows: Any = found if found is not None and found.sparse else files
    pictures = files is not None and not is_table(files)
    if rows is None or (tables and pictures):
        return None
    known: dict[str, Any] = {"who": model.kind(), "missing": model.takes_missing if missing is None else missing}
    if one is None and model.condition is not None:
        there = isinstance(labels, str) or (pictures and bool(rows.classes))
        require(there, "label", f"--label Y, since the labels of {model.kind()} have no column or folder there", "nothing")
        known |= {"labels": labels, "condition": model.condition}
    parts = load_parts(rows, model.space, **known)
    return len(rows), ((f, x, y if one is None else model.check_condition(one, len(x))) for f, x, y in parts)


def of_layer(saved: Checkpoint, source: str | None) -> str | None:
    """A .h5ad with the layer that the run was fitted on, where it does not name one."""
    layer = saved.info.get("data", {}).get("layer")
    return f"{source}:layer={layer}" if layer and source is not None and source.lower().endswith(".h5ad") else source


def make_model(plan: Plan, data: Data, known: Catalogue) -> GenerativeModel:
    """The untrained model of a plan on the data's space, conditional if labels are asked for; its weights follow the seed.

    Raises:
        InputError: an option does not fit, or labels are asked for and the family or the data have none.
        LikeliError: it would not fit into memory; said before it is taken.
    """
    import torch

    import likeli
    from likeli.checkpoint.build import bounded
    from likeli.models.density import BySize

    if plan.model is None:
        raise InputError(f"model: expected --model FAMILY, one of {', '.join(known.models)}, got nothing")
    name, spec = plan.model["class"], {**plan.model, "space": data.space}
    family = registered(likeli.GenerativeModel).get(name)
    if family is not None and issubclass(family, BySize):
        spec = {**family.suited(data.space, len(data.rows("train")), plan.model), **spec}
    if plan.labels not in (None, False):
        able = [n for n, c in known.models.items() if "condition" in known.constructor(c)]
        why = str(known.attribute(known.family(name), "no_condition") or "")
        require(name in able, "labels", f"a family that takes them: {', '.join(able)}", f"{name}{f' ({why})' * bool(why)}")
        require(data.condition is not None, "labels", "data that have labels", data.name)
        spec["condition"] = data.condition

    def built() -> GenerativeModel:
        with likeli.seeded(plan.seed, "weights"):
            model = likeli.build(spec, likeli.GenerativeModel, where="model")
        count = sum(t.numel() for t in [*model.parameters(), *model.buffers()])
        check_fits(count * BYTES_PER_PARAMETER, f"training {name} with {count:.3g} parameters")
        return model

    with suppress(CheckpointError), bounded(min(SMALL_MODEL, available()), MOST_TENSORS, name) as left:
        return built()
    too_many = InputError(f"model: expected {name} of at most {MOST_TENSORS} tensors, got options that ask for more")
    if left.calls < 0:
        raise too_many
    try:
        with torch.device("meta"), bounded(1 << 62, MOST_TENSORS, name), suppress(NotImplementedError, RuntimeError):
            built()  # arithmetic there would load a compiler
    except CheckpointError:
        raise too_many from None
    return built()


def reasons_against(plan: Plan, data: Data, known: Catalogue) -> dict[str, str]:
    """Why each family, with its defaults, cannot be fitted on the data; an empty text where it can."""
    from likeli.training.batches import refuse_rows_elsewhere

    found = {}
    for name in known.models:
        try:
            model = make_model(replace(plan, model={"class": name}), data, known)
            if data.stream is not None:
                refuse_rows_elsewhere(model, data.stream)
            if not model.takes_missing:
                data.refuse_missing(name)
            found[name] = ""
        except LikeliError as error:
            found[name] = str(error)
    return found


def call_options(function: Callable[..., Any], pairs: Pairs, section: str) -> dict[str, Any]:
    """The dotted options of `section` as keyword arguments of `function`, typed by its annotations.

    Raises:
        InputError: an option that it does not have; the nearest is suggested.
    """
    named = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    keywords = [name for name in named if name != "given"]  # rows, which no option's text can hold
    hints = typing.get_type_hints(function)
    for name, _ in pairs:
        if name not in keywords:
            have = f"it has {', '.join(keywords)}" if keywords else "it has none"
            raise InputError(f"{section}.{name[:80]}: no such option{nearest(name, keywords)}; {have}")
    return {name: read_value(text, hints.get(name, Any), f"{section}.{name}") for name, text in pairs}


def parse_label(text: str | None, model: GenerativeModel) -> Tensor | None:
    """`--label 3`, `--label seven` or `--label 0.5,0.5`: the condition of every sample.

    Raises:
        InputError: the model is not conditional, or the label is not one of its own.
    """
    if model.condition is None:
        require(text is None, "label", "nothing, since this run is not conditional", text)
        return None
    return parse_condition(text, model.condition)


def named_labels(saved: Checkpoint, y: Tensor, n: int) -> dict[str, list[Any]]:
    """The labels of n samples under the name of the column that they had in the data, by name where the classes have names.

    Nothing where y are mixtures of classes, or no classes.
    """
    if y.ndim != 1 or y.is_floating_point():
        return {}
    names = () if saved.model.condition is None else saved.model.condition.names
    column = saved.info.get("data", {}).get("labels") or "label"
    return {str(column): [names[k] if names else k for k in y.expand(n).tolist()]}


def parse_condition(text: str | None, condition: Space) -> Tensor | None:
    """One row of a condition as the command line writes it; a text where it spells one.

    Raises:
        InputError: it is not in the condition's space.
    """
    import torch

    if text is None:
        return None
    if condition.alphabet is not None:
        return condition.check([text], what="text")
    names = list(condition.names)
    if text in names:
        return torch.tensor([names.index(text)])
    try:
        numbers = read_value(text, list[int | float], "label")
    except InputError:
        hint = f", or one of {', '.join(names[:20])}" if names else ""
        raise InputError(f"label: expected numbers separated by commas{hint}{nearest(text, names)}, got {text[:120]}") from None
    one = len(numbers) == 1 and not condition.shape
    return torch.tensor(numbers) if one else torch.tensor([numbers], dtype=torch.get_default_dtype())


def available() -> int:
    """Bytes that this process may still take: the least of free memory, the control group's limit and `ulimit -v`."""
    free = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = (next(iter(_lines(f"/sys/fs/cgroup/memory.{name}")), "").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        cached = [int(line.split()[1]) for line in _lines("/sys/fs/cgroup/memory.stat") if line.startswith("inactive_file ")]
        free.append(max(int(limit) - int(used) + sum(cached), 0))
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        pages = next(iter(_lines("/proc/self/statm")), "0").split()[0]
        free.append(max(soft - int(pages) * resource.getpagesize(), 0))
    return min(free, default=1 << 62)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def check_fits(needed: float, what: str) -> None:
    """Refuse `needed` bytes that are not there.

    Raises:
        LikeliError: names both numbers.
    """
    there = available()
    if needed > there:
        raise LikeliError(f"{what} needs {in_bytes(needed)} of memory, and {in_bytes(there)} can be had")


def check_room(path: str, needed: float, what: str) -> None:
    """Refuse `needed` bytes that the disk of a new file does not have.

    Raises:
        LikeliError: names both numbers.
    """
    free = shutil.disk_usage(Path(path).parent).free
    if needed > free:
        raise LikeliError(f"{what} need {in_bytes(needed)} of disk at least, and {in_bytes(free)} are free")


def in_bytes(count: float) -> str:
    """1500000 → `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


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
