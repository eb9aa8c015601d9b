"""Save, load and inspect: a run folder with its generations and history, or one flat model folder."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from likeli.checkpoint import disk, log
from likeli.checkpoint import disk as locking
from likeli.checkpoint import strict_json as strict
from likeli.checkpoint.build import config_of
from likeli.checkpoint.generation import (
    CARD,
    CONFIG,
    FOLDER,
    LIMITS,
    MANIFEST,
    PARTIAL,
    SERIAL,
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    Checkpoint,
    contents,
    generations,
    name_of,
    read_generation,
    write_generation,
)
from likeli.checkpoint.log import NAME, begin_replacing, drop_replaced, keep_replaced, replaced, sync_history, truncate_history
from likeli.checkpoint.tensors import check_finite, serialise
from likeli.config import describe, snake_case
from likeli.contract import GenerativeModel
from likeli.errors import CheckpointError, InputError, LikeliError, one_line, require

Part = TypeVar("Part")


def save(
    model: GenerativeModel,
    folder: Path | str,
    *,
    info: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    state_tensors: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
    keep: int = 2,
) -> Path:
    """Add a generation to a run folder; the one before stays loadable whatever happens meanwhile.

    A folder that this process does not hold by `lock` must be new or empty, or be replaced with `overwrite`: the old run goes
    when the new generation is in place.

    Arguments:
        model: the weights to use.
        folder: the run folder.
        info: data, split, training settings, names, metrics: plain values for config.json and the model card.
        state: the trainer's plain values, among them `step`; every finite float keeps its bits.
        state_tensors: the trainer's tensors, of any type.
        overwrite: replace what is there.
        keep: how many generations stay.

    Returns:
        The generation's folder, itself a complete model folder.

    Raises:
        InputError: values that cannot be saved, or a folder that is in use.
        LikeliError: a file call failed (a full disk, for one); the path and the cause are named.
    """
    require(isinstance(keep, int) and keep >= 1, "keep", "at least 1", keep)
    files = contents(model, info or {}, state, state_tensors)
    folder = Path(folder)
    ours = locking.held(folder)
    if not ours:
        prepare_folder(folder, overwrite=overwrite)
    with nullcontext() if ours else locking.lock(folder):
        parent = folder / FOLDER
        disk.make_folder(parent)
        serial = max(generations(folder), default=0) + 1
        sync_history(folder)
        write_generation(files, parent / name_of(serial), parent / PARTIAL)
        finish_replacement(folder)
        remove_generations(folder, generations(folder)[:-keep])
    return parent / name_of(serial)


def annotate(folder: Path | str, info: Mapping[str, Any], model: GenerativeModel | None = None) -> Path:
    """Add to what a run's newest generation says of itself, in a generation that takes its place: every weight keeps its bits.

    What is added holds for these weights: training on writes a generation without it.

    Arguments:
        folder: the run folder.
        info: plain values; a name that is there already is replaced.
        model: the run's, where something was found that its own tensors hold, such as log Z; else the one that is there.

    Returns:
        The new generation's folder.

    Raises:
        InputError: not a run folder, in use by another writer, or not writable.
        CheckpointError: as `load`.
    """
    folder = Path(folder)
    require(FOLDER in _names(folder), str(folder), f"a run folder, with {FOLDER}", "none")
    with input_errors(), nullcontext() if locking.held(folder) else locking.lock(folder):
        found, there = read(folder), generations(folder)
        state = found.state if STATE in found.files else None
        tensors = found.state_tensors if STATE_TENSORS in found.files else None
        kept = found.model if model is None else model
        added = save(kept, folder, info=found.info | dict(info), state=state, state_tensors=tensors, keep=len(there) + 1)
        remove_generations(folder, [int(found.path.name)])
    return added


def load(folder: Path | str, *, device: str | torch.device = "cpu") -> GenerativeModel:
    """The model of a run folder or of a flat model folder, every byte verified, in evaluation mode.

    If the newest generation is damaged the one before is loaded, with a warning that names it.

    Raises:
        CheckpointError: missing, damaged, tampered with, or not what this code expects.
    """
    return _read(Path(folder), device, train_state=False).model


def read(folder: Path | str, *, device: str | torch.device = "cpu") -> Checkpoint:
    """`load` with everything else that was saved: info, and the trainer's state for resuming."""
    return _read(Path(folder), device, train_state=True)


def save_pretrained(model: GenerativeModel, folder: Path | str, *, info: Mapping[str, Any] | None = None) -> None:
    """Write one flat model folder (config.json, model.safetensors, README.md, manifest.json), whole or not at all.

    Raises:
        InputError: the folder exists and is not empty, or cannot be written.
        LikeliError: a file call failed; the path and the cause are named.
    """
    folder = Path(folder).resolve()
    files = contents(model, info or {})
    require_empty(folder)
    with input_errors():
        disk.make_folder(folder.parent)
        write_generation(files, folder, folder.parent / f".{folder.name}{PARTIAL}")


def from_pretrained(folder: Path | str, *, device: str | torch.device = "cpu") -> GenerativeModel:
    """The model of a folder that `save_pretrained` or `save` wrote; the same as `load`."""
    return load(folder, device=device)


def save_part(part: Any, folder: Path | str, told: str, info: Mapping[str, Any]) -> None:
    """Write what is no model of p(x) by itself, such as a classifier that guides one, as one flat folder, whole or not at all.

    Arguments:
        part: a module with a registered constructor, a `space` and a `dtype`.
        folder: new or empty.
        told: what README.md says of it.
        info: plain values for config.json.

    Raises:
        InputError: the folder exists and is not empty, or cannot be written; weights that are not finite.
    """
    folder = Path(folder).resolve()
    check_finite(part.state_dict(), part.kind())
    config = strict.dumps(config_of(part, 0, info), CONFIG, LIMITS[CONFIG])
    files = {CONFIG: [config], WEIGHTS: serialise(part.state_dict(), WEIGHTS), CARD: [told.encode()]}
    require_empty(folder)
    with input_errors():
        disk.make_folder(folder.parent)
        write_generation(files, folder, folder.parent / f".{folder.name}{PARTIAL}")


def load_part(folder: Path | str, base: type[Part]) -> Part:
    """What `save_part` wrote, every byte verified.

    Raises:
        CheckpointError: missing, damaged, or not of the kind `base`.
    """
    folder = Path(folder)
    with disk.opened_folder(folder) as fd:
        there = MANIFEST in disk.listing(fd, folder)
        require(there, folder, f"a saved {snake_case(base.__name__)}, with {MANIFEST}", "none", CheckpointError)
        found: Any = read_generation(fd, folder, train_state=False, base=base).model
    return found


def inspect(folder: Path | str) -> dict[str, Any]:
    """What a run or model folder holds, after verifying all of it, as plain values.

    Raises:
        CheckpointError: as `load`.
    """
    folder = Path(folder)
    found = _verified(folder, train_state=True)
    model = found.model
    return {
        "path": str(folder),
        "generation": str(found.path),
        "class": model.kind(),
        "knows": model.knows_here.value,
        "measure": model.space.measure,
        "strategy": model.strategy,
        "space": describe(model.space),
        "arguments": {k: v for k, v in found.config["model"].items() if k not in ("class", "space")},
        "dtype": found.config["dtype"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "step": found.step,
        "metrics": found.info.get("metrics", {}),
        "info": found.info,
        "resumable": bool(found.state),
        "format": found.config["format"],
        "likeli": found.config["likeli"],
        "torch": found.config["torch"],
        "files": found.files,
        "warnings": list(found.warnings),
    }


def _read(folder: Path, device: str | torch.device, *, train_state: bool) -> Checkpoint:
    found = _verified(folder, train_state=train_state)
    for text in found.warnings:
        warnings.warn(text, stacklevel=4)
    try:
        return replace(found, model=found.model.to(device))
    except (RuntimeError, AssertionError) as error:
        raise InputError(one_line(f"device: expected one that this machine has, got {str(device)!r}: {error}")) from error


def _verified(folder: Path, *, train_state: bool) -> Checkpoint:
    with disk.opened_folder(folder) as fd:
        names = disk.listing(fd, folder)
        if MANIFEST in names:
            return read_generation(fd, folder, train_state=train_state)
        require(FOLDER in names, folder, f"a saved run or model, with {FOLDER} or {MANIFEST}", "neither", CheckpointError)
        with disk.opened_folder(folder / FOLDER, fd) as inner:
            return _newest(inner, folder, train_state=train_state)


def _newest(runs: int, folder: Path, *, train_state: bool) -> Checkpoint:
    failures: list[CheckpointError] = []
    seen: list[str] = []
    while (names := sorted(filter(SERIAL.fullmatch, disk.listing(runs, folder / FOLDER)))) != seen:  # a writer moved on
        failures, seen = [], names
        for name in reversed(names):
            try:
                with disk.opened_folder(folder / FOLDER / name, runs) as fd:
                    found = read_generation(fd, folder / FOLDER / name, train_state=train_state)
            except CheckpointError as error:
                failures.append(error)
            else:
                refused = tuple(f"{error}; loading {found.path} instead" for error in failures)
                return replace(found, warnings=refused + found.warnings)
    if failures:
        raise failures[0]
    raise CheckpointError(f"{folder}: expected a saved generation, got none: the run stopped before its first checkpoint")


# what the system says to a path that the user should not have given
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST, errno.ENOENT}


def prepare_folder(folder: Path | str, overwrite: bool = False, resume: bool = False) -> bool:
    """Make a folder ready for a run, before anything costly; nothing that can be loaded is touched.

    Leftovers of a crash are removed.  With `overwrite` the old run stays whole, and is what loads, until the new one has saved.

    Arguments:
        folder: created if need be.
        overwrite: a run in it is to be replaced; files that are not a run's are left alone.
        resume: a run in it is to be continued.

    Returns:
        Whether there is a generation to resume from.

    Raises:
        InputError: not empty and neither asked for, not a run to resume, in use by another writer, or not writable.
    """
    folder = Path(folder)
    require(not (overwrite and resume), "overwrite", "not together with resume", "both")
    if not (overwrite or resume):
        require_empty(folder, "; overwrite replaces it, resume continues it")
    names = _names(folder)
    require(MANIFEST not in names, str(folder), "a run folder", "a single model; use another folder")
    if resume and names and FOLDER not in names:
        ours = names <= {locking.NAME, NAME, log.PARTIAL}
        require(ours, str(folder), "a run to resume", f"one with {_some(names)}")
    with input_errors(), nullcontext() if locking.held(folder) else locking.lock(folder):
        return _prepare(folder, overwrite, resume, bool(names - {locking.NAME}))


def _prepare(folder: Path, overwrite: bool, resume: bool, used: bool) -> bool:
    _recover(folder)
    serials = generations(folder)
    if overwrite and used:
        begin_replacing(folder, max(serials, default=0))
    if resume and not serials and used:
        truncate_history(folder, 0)  # rows of a run that never saved: it starts again
    return resume and bool(serials)


def _recover(folder: Path) -> None:
    disk.remove_folder(folder / FOLDER / PARTIAL)
    disk.remove_folder(folder / log.PARTIAL)
    if replaced(folder) is not None and not finish_replacement(folder):
        keep_replaced(folder)


def finish_replacement(folder: Path) -> bool:
    """If a run has saved that was to replace another, remove the other; interrupted anywhere, it can be done again."""
    last = replaced(folder)
    if last is None or max(generations(folder), default=0) <= last:
        return False
    remove_generations(folder, [serial for serial in generations(folder) if serial <= last])
    drop_replaced(folder)
    return True


def remove_generations(folder: Path, serials: list[int]) -> None:
    """Remove generations, each by way of the temporary name, so that a half-removed one is never taken for a whole."""
    parent = folder / FOLDER
    for serial in serials:
        disk.rename(parent / name_of(serial), parent / PARTIAL)
        disk.remove_folder(parent / PARTIAL)


def require_empty(folder: Path, hint: str = "") -> None:
    """Raise the `InputError` unless the folder is missing or empty; a lock that a dead process left does not count."""
    names = _names(folder) - {locking.NAME}
    require(not names, str(folder), "a new or empty folder", f"one with {_some(names)}{hint}")


@contextmanager
def input_errors() -> Iterator[None]:
    """Inside the block, a path that the system will not let us write is the user's mistake."""
    try:
        yield
    except LikeliError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in REFUSALS and not isinstance(error, InputError):
            raise InputError(str(error)) from error.__cause__
        raise


def _names(folder: Path) -> set[str]:
    try:
        folder.stat()
    except FileNotFoundError:
        return set()
    except (OSError, ValueError):
        pass  # the call below says why
    with disk.opened_folder(folder) as fd:
        return set(disk.listing(fd, folder))


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
