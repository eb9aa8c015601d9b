"""history.jsonl: one JSON object a line, appended, never rewritten; a line torn by a crash is dropped.

While a run that replaces another has not saved yet, its rows are in `history.after-N.jsonl`, N being the last generation of the
old run.  Renaming that file to history.jsonl is the one step that makes the replacement final.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from likeli.checkpoint import disk
from likeli.checkpoint import strict_json as strict
from likeli.checkpoint.disk import held
from likeli.checkpoint.generation import generations
from likeli.errors import CheckpointError, require

NAME = "history.jsonl"
PENDING = re.compile(r"history\.after-(\d{8})\.jsonl")
LIMIT, ROW_LIMIT = 1 << 28, 1 << 20  # bytes of a file and of a row


def append_history(folder: Path | str, row: Mapping[str, Any]) -> None:
    """Add one row of plain JSON values; every finite float keeps its bits, others are written as text (see `strict`).

    The row is on the disk after the next `save`.

    Raises:
        LikeliError: it cannot be written; the rows before it are unharmed.
    """
    line = strict.dumps(row, NAME, ROW_LIMIT) + b"\n"
    with _opened(Path(folder)) as (fd, path), disk.writing(path):
        disk.write_all(fd, memoryview(line))


def read_history(folder: Path | str) -> list[dict[str, Any]]:
    """Every whole row, oldest first; none if there is no history.

    Raises:
        CheckpointError: a line that is not one JSON object, named by its number.
    """
    folder = Path(folder)
    name = _readable(folder)
    if name is None:
        return []
    with disk.opened_folder(folder) as fd:
        data = disk.read_bytes(fd, name, folder / name, LIMIT)
    return [_row(line, f"{folder / name}: line {i}") for i, line in enumerate(data.split(b"\n")[:-1], 1)]


def truncate_history(folder: Path | str, rows: int) -> None:
    """Keep the first `rows` rows, so that a resumed run writes the later ones again.

    Raises:
        CheckpointError: there are fewer.
    """
    with _opened(Path(folder)) as (fd, path), disk.writing(path):
        data = disk.read_at(fd, LIMIT, 0)
        ends = [0, *(m.end() for m in re.finditer(b"\n", data))]
        require(len(ends) > rows, path, f"at least {rows} rows", f"{len(ends) - 1}", CheckpointError)
        disk.truncate(fd, ends[rows])
        disk.sync(fd)


def sync_history(folder: Path) -> None:
    """Put the rows written so far on the disk."""
    with disk.opened_folder(folder) as fd:
        names = disk.listing(fd, folder)
    path = folder / active(folder)
    if path.name in names:
        with disk.appending(path) as fd, disk.writing(path):
            disk.sync(fd)


def pending(folder: Path) -> tuple[str, int] | None:
    """The name of the history of a run that has not replaced another yet, and the other's last generation."""
    with disk.opened_folder(folder) as fd:
        found = [m for m in map(PENDING.fullmatch, disk.listing(fd, folder)) if m]
    return (found[0][0], int(found[0][1])) if found else None


def begin_pending(folder: Path, after: int) -> None:
    """From now on rows go to the history of a run that is to replace generations up to `after`."""
    disk.write_new(folder / f"history.after-{after:08d}.jsonl", [])
    disk.sync_folder(folder)


def active(folder: Path) -> str:
    """The name of the file that rows are appended to."""
    found = pending(folder)
    return found[0] if found else NAME


def _readable(folder: Path) -> str | None:
    """The history that belongs to what the folder would load."""
    with disk.opened_folder(folder) as fd:
        names = disk.listing(fd, folder)
    found = pending(folder)
    if found and (held(folder) or max(generations(folder), default=0) > found[1]):
        return found[0]
    return NAME if NAME in names else None


def _row(line: bytes, where: str) -> dict[str, Any]:
    require(len(line) <= ROW_LIMIT, where, f"at most {ROW_LIMIT} bytes", len(line), CheckpointError)
    row = strict.loads(line, where)
    if not isinstance(row, dict):
        raise CheckpointError(f"{where}: expected a JSON object")
    return row


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[int, Path]]:
    """The active file, ending in a whole line."""
    path = folder / active(folder)
    with disk.appending(path) as fd:
        with disk.writing(path):
            _drop_torn_row(fd)
        yield fd, path


def _drop_torn_row(fd: int) -> None:
    size = disk.size(fd)
    if size and disk.read_at(fd, 1, size - 1) != b"\n":
        start = max(0, size - ROW_LIMIT)
        disk.truncate(fd, start + disk.read_at(fd, ROW_LIMIT, start).rfind(b"\n") + 1)
