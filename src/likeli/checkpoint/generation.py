"""One generation: a complete model folder, renamed into place when it is whole, read only if every byte is as it was.

config.json  model.safetensors  [train_state.json  train_state.safetensors]  manifest.json, and README.md, the card, which is
there to be edited: loading does not need it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from likeli.checkpoint import disk
from likeli.checkpoint import strict_json as strict
from likeli.checkpoint.build import build_model, check_config, config_of
from likeli.checkpoint.card import card
from likeli.checkpoint.tensors import TensorFile, check_entries, check_finite, non_finite, serialise
from likeli.contract import GenerativeModel
from likeli.errors import CheckpointError, InputError, LikeliError, require

CONFIG, WEIGHTS, CARD, MANIFEST = "config.json", "model.safetensors", "README.md", "manifest.json"
STATE, STATE_TENSORS = "train_state.json", "train_state.safetensors"
REQUIRED, KNOWN = {CONFIG, WEIGHTS}, {CONFIG, WEIGHTS, CARD, STATE, STATE_TENSORS}
LIMITS = {CONFIG: 1 << 24, MANIFEST: 1 << 16, CARD: 1 << 24, STATE: 1 << 24}  # bytes; tensors: the machine's memory
FOLDER, PARTIAL = "checkpoints", ".partial"
SERIAL = re.compile(r"[0-9]{8}")
Contents = dict[str, list[bytes | memoryview]]


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Arguments:
        model: built, with its weights, in evaluation mode.
        info: data, split, training settings, names, metrics, as given to `save`.
        state: the trainer's plain values; empty if none were saved.
        state_tensors: the trainer's tensors, on the CPU.
        step: training step of the generation.
        path: its folder.
        config: config.json as a whole.
        files: bytes and sha256 of each file, as checked.
        warnings: newer generations that were refused, and why; that training diverged after these weights.
    """

    model: GenerativeModel
    info: dict[str, Any]
    state: dict[str, Any]
    state_tensors: dict[str, Tensor]
    step: int
    path: Path
    config: dict[str, Any]
    files: dict[str, dict[str, Any]]
    warnings: tuple[str, ...] = field(default=())


def contents(
    model: GenerativeModel,
    info: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    state_tensors: Mapping[str, Tensor] | None = None,
) -> Contents:
    """The files of a generation, in memory; everything that could be refused is refused here, before the disk is touched.

    Raises:
        InputError: weights that are not finite, values that are not plain, or sizes beyond the limits that loading has.
    """
    weights = model.state_dict()
    check_finite(weights, type(model).kind())
    step = (state or {}).get("step", info.get("step", 0))
    require(type(step) is int and step >= 0, "step", "a whole number of at least 0", step)
    files: Contents = {
        CONFIG: [_described(model, step, info)],
        WEIGHTS: serialise(weights, WEIGHTS),
        CARD: [card(model, step, info).encode("utf-8", "replace")],
    }
    if state is not None:
        files[STATE] = [strict.dumps(state, STATE, LIMITS[STATE])]
    if state_tensors is not None:
        files[STATE_TENSORS] = serialise(state_tensors, STATE_TENSORS)
    for name in files.keys() & LIMITS.keys() - {CARD}:
        value = strict.loads(b"".join(files[name]), name)  # what could not be read back is not published
        check_config(value, name) if name == CONFIG else None
    return files


def check_savable(model: GenerativeModel, info: Mapping[str, Any]) -> None:
    """Raise the `InputError` that saving would end in, if the description of the model or of its data is too long."""
    _described(model, 0, info)


def _described(model: GenerativeModel, step: int, info: Mapping[str, Any]) -> bytes:
    """config.json, which has to be small enough to be read back; what makes it long is named, and what to do."""
    described = config_of(model, step, info)
    data, most = strict.dumps(described, CONFIG, 1 << 62), LIMITS[CONFIG]
    if len(data) > most:
        name, part = "", described
        while isinstance(part, dict) and part:
            key = max(part, key=lambda k: len(str(part[k])))
            name, part = f"{name}.{key}", part[key]
        advice = "fewer columns (--types NAME=drop), or kind real or counts, which say less of each"
        told = f"expected at most {most} bytes, got {len(data)} bytes, most of them of {name[1:100]}"
        raise InputError(f"{CONFIG}: {told}: {advice if 'columns' in name else 'make that shorter'}")
    return data


def write_generation(files: Contents, target: Path, partial: Path) -> None:
    """Write the files under `partial`, fsync each and the folder, and rename it to `target` in the same parent.

    Raises:
        LikeliError: a file call failed; `target` does not exist then, nor, where it could be removed, `partial`.
    """
    disk.remove_folder(partial)
    try:
        disk.make_folder(partial)
        manifest = {name: disk.write_new(partial / name, chunks) for name, chunks in files.items()}
        disk.write_new(partial / MANIFEST, [strict.dumps({"format": 1, "files": manifest}, MANIFEST, LIMITS[MANIFEST])])
        disk.sync_folder(partial)
        disk.rename(partial, target)
    except BaseException:
        with suppress(LikeliError):  # the first error is the one to tell; the next start removes what is left
            disk.remove_folder(partial)
        raise


def generations(folder: Path) -> list[int]:
    """Serial numbers of a run's generations, oldest first."""
    with disk.opened_folder(folder) as fd:
        if not disk.listing(fd, folder).get(FOLDER):
            return []
        with disk.opened_folder(folder / FOLDER, fd) as inner:
            names = [name for name, is_folder in disk.listing(inner, folder).items() if is_folder]
    return sorted(int(name) for name in names if SERIAL.fullmatch(name))


def name_of(serial: int) -> str:
    """The folder of a generation."""
    return f"{serial:08d}"


def read_generation(folder: int, where: Path, *, train_state: bool, base: type[Any] = GenerativeModel) -> Checkpoint:
    """Verify a complete model folder and build its model.

    Arguments:
        folder: an open folder.
        where: its path, for messages.
        train_state: read and verify the trainer's files too.
        base: what the folder has to hold.

    Raises:
        CheckpointError: anything at all is not as it was written.
    """
    files = _manifest(folder, where)
    config = check_config(strict.loads(_small(folder, where, CONFIG, files), where / CONFIG), where / CONFIG)
    model = _load_model(folder, where, config, files, base)
    state, state_tensors = _load_state(folder, where, files) if train_state else ({}, {})
    info = config["info"]
    told = (f"{where}: {info['diverged']}",) if isinstance(info.get("diverged"), str) else ()
    return Checkpoint(model.eval(), info, state, state_tensors, config["step"], where, config, files, told)


def _manifest(folder: int, where: Path) -> dict[str, dict[str, Any]]:
    path = where / MANIFEST
    value = strict.loads(disk.read_bytes(folder, MANIFEST, path, LIMITS[MANIFEST]), path)
    require(isinstance(value, dict) and set(value) == {"format", "files"}, path, "format and files", value, CheckpointError)
    require(type(value["format"]) is int and value["format"] == 1, path, "format 1", value["format"], CheckpointError)
    files = value["files"]
    known = isinstance(files, dict) and REQUIRED <= set(files) <= KNOWN
    require(known, path, f"files {', '.join(sorted(REQUIRED))}", files, CheckpointError)
    for name, facts in files.items():
        exact = isinstance(facts, dict) and set(facts) == {"bytes", "sha256"} and type(facts["bytes"]) is int
        valid = exact and isinstance(facts["sha256"], str) and re.fullmatch(r"[0-9a-f]{64}", facts["sha256"])
        require(valid, f"{path}: {name}", "bytes and sha256", facts, CheckpointError)
    there = {name for name in disk.listing(folder, where) if not name.startswith(".")} - {MANIFEST}
    for name in sorted((set(files) ^ there) - {CARD}):
        require(name not in files, where, f"{name}, listed in {MANIFEST}", "no such file", CheckpointError)
        require(False, where, f"only the files listed in {MANIFEST}", name, CheckpointError)
    return files


def _small(folder: int, where: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    data = disk.read_bytes(folder, name, where / name, LIMITS[name])
    size, digest, known = files[name]["bytes"], sha256(data).hexdigest(), files[name]["sha256"]
    require(len(data) == size, where / name, f"{size} bytes as in {MANIFEST}", f"{len(data)}", CheckpointError)
    require(digest == known, where / name, f"sha256 {known[:12]}… as in {MANIFEST}", digest[:12], CheckpointError)
    return data


def _load_model(
    folder: int, where: Path, config: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], base: type[Any]
) -> Any:
    path = where / WEIGHTS
    with disk.opened_file(folder, WEIGHTS, path, disk.physical_memory()) as (fd, size):
        _check_size(size, path, files[WEIGHTS])
        file = TensorFile(fd, size, path)
        model = build_model(config, file.data_size, len(file.entries), where / CONFIG, base)
        check_entries(file.entries, model.state_dict(), path)
        tensors = file.tensors(files[WEIGHTS]["sha256"])
    bad = next(non_finite(tensors), None)
    require(bad is None, f"{path}: {bad}", "finite numbers", "NaN or infinity", CheckpointError)
    model.load_state_dict(tensors)
    return model


def _load_state(folder: int, where: Path, files: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    state, tensors = {}, {}
    if STATE in files:
        state = strict.loads(_small(folder, where, STATE, files), where / STATE)
        require(isinstance(state, dict), where / STATE, "an object", type(state).__name__, CheckpointError)
    if STATE_TENSORS in files:
        path = where / STATE_TENSORS
        with disk.opened_file(folder, STATE_TENSORS, path, disk.physical_memory()) as (fd, size):
            _check_size(size, path, files[STATE_TENSORS])
            tensors = TensorFile(fd, size, path).tensors(files[STATE_TENSORS]["sha256"])
    return state, tensors


def _check_size(size: int, path: Path, facts: Mapping[str, Any]) -> None:
    require(size == facts["bytes"], path, f"{facts['bytes']} bytes as in {MANIFEST}", f"{size}", CheckpointError)
