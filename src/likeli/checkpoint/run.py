"""Save, load and inspect: a run folder with its generations and history, or one flat model folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from likeli.checkpoint import disk, locking
from likeli.checkpoint.card import knows_here
from likeli.checkpoint.disk import refuse
from likeli.checkpoint.generation import (
    FOLDER,
    MANIFEST,
    PARTIAL,
    SERIAL,
    Checkpoint,
    contents,
    generations,
    name_of,
    read_generation,
    write_generation,
)
from likeli.checkpoint.history import sync_history
from likeli.checkpoint.prepare import finish_replacement, input_errors, prepare_folder, remove_generations, require_empty
from likeli.config import describe
from likeli.core import GenerativeModel
from likeli.errors import CheckpointError, InputError, require


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
        "knows": knows_here(model).value,
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
        raise InputError(disk.one_line(f"device: expected one that this machine has, got {str(device)!r}: {error}")) from error


def _verified(folder: Path, *, train_state: bool) -> Checkpoint:
    with disk.opened_folder(folder) as fd:
        names = disk.listing(fd, folder)
        if MANIFEST in names:
            return read_generation(fd, folder, train_state=train_state)
        refuse(FOLDER not in names, folder, f"a saved run or model, with {FOLDER} or {MANIFEST}", "neither")
        with disk.opened_folder(folder / FOLDER, fd) as inner:
            return _newest(inner, folder, train_state=train_state)


def _newest(runs: int, folder: Path, *, train_state: bool) -> Checkpoint:
    failures: list[CheckpointError] = []
    seen: list[str] = []
    while (names := _serials(runs, folder)) != seen:  # a writer may have moved on while we read
        failures, seen = [], names
        for name in reversed(names):
            try:
                with disk.opened_folder(folder / FOLDER / name, runs) as fd:
                    found = read_generation(fd, folder / FOLDER / name, train_state=train_state)
            except CheckpointError as error:
                failures.append(error)
            else:
                return replace(found, warnings=tuple(f"{error}; loading {found.path} instead" for error in failures))
    if failures:
        raise failures[0]
    raise CheckpointError(f"{folder}: expected a saved generation, got none: the run stopped before its first checkpoint")


def _serials(runs: int, folder: Path) -> list[str]:
    return sorted(filter(SERIAL.fullmatch, disk.listing(runs, folder / FOLDER)))
