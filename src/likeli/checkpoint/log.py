"""history.jsonl: one JSON object a line, appended, never rewritten; a line torn by a crash is dropped.

While a run that replaces another has not saved yet, its rows follow the line {"replaces": N}, N being the last generation of
the old run, whose rows stand before it.  Once the new run has saved, the file is written anew without what it replaced.
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
PARTIAL = ".history.partial"
MARK = re.compile(rb'\{"replaces": (\d{1,8})\}\n')
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
    data, first = _content(folder), 1
    mark = _mark(data)
    if mark is not None and (held(folder) or max(generations(folder), default=0) > int(mark[1])):
        data, first = data[mark.end() :], 1 + data.count(b"\n", 0, mark.end())
    elif mark is not None:
        data = data[: mark.start()]
    return [_row(line, f"{folder / NAME}: line {i}") for i, line in enumerate(data.split(b"\n")[:-1], first)]


def truncate_history(folder: Path | str, rows: int) -> None:
    """Keep the first `rows` rows, so that a resumed run writes the later ones again.

    Raises:
        CheckpointError: there are fewer.
    """
    with _opened(Path(folder)) as (fd, path), disk.writing(path):
        data = disk.read_at(fd, LIMIT, 0)
        mark = _mark(data)
        first = mark.end() if mark is not None else 0
        ends = [first, *(m.end() for m in re.finditer(b"\n", data) if m.end() > first)]
        require(len(ends) > rows, path, f"at least {rows} rows", f"{len(ends) - 1}", CheckpointError)
        disk.truncate(fd, ends[rows])
        disk.sync(fd)


def sync_history(folder: Path) -> None:
    """Put the rows written so far on the disk."""
    path = folder / NAME
    with disk.opened_folder(folder) as fd:
        there = NAME in disk.listing(fd, folder)
    if there:
        with disk.appending(path) as fd, disk.writing(path):
            disk.sync(fd)


def replaced(folder: Path) -> int | None:
    """The last generation of the run that the last rows are to replace; None where they replace none."""
    mark = _mark(_content(folder))
    return None if mark is None else int(mark[1])


def begin_replacing(folder: Path, after: int) -> None:
    """Mark that the rows from now on are those of a run that is to replace generations up to `after`."""
    with _opened(folder) as (fd, path), disk.writing(path):
        disk.write_all(fd, memoryview(b'{"replaces": %d}\n' % after))
        disk.sync(fd)
    disk.sync_folder(folder)


def keep_replaced(folder: Path) -> None:
    """Drop the mark and what follows: the run that was to be replaced stays."""
    with _opened(folder) as (fd, path), disk.writing(path):
        mark = _mark(disk.read_at(fd, LIMIT, 0))
        if mark is not None:
            disk.truncate(fd, mark.start())
            disk.sync(fd)


def drop_replaced(folder: Path) -> None:
    """Drop the mark and what stands before it, in one step: the run that replaces another has its rows alone."""
    data = _content(folder)
    mark = _mark(data)
    if mark is not None:
        disk.remove_folder(folder / PARTIAL)  # what a full disk or a kill left
        disk.write_new(folder / PARTIAL, [data[mark.end() :]])
        disk.rename(folder / PARTIAL, folder / NAME)


def _content(folder: Path) -> bytes:
    with disk.opened_folder(folder) as fd:
        return disk.read_bytes(fd, NAME, folder / NAME, LIMIT) if NAME in disk.listing(fd, folder) else b""


def _mark(data: bytes) -> re.Match[bytes] | None:
    """The last line that says that the rows after it replace a run."""
    at = data.rfind(b'\n{"replaces": ') + 1
    return MARK.match(data, at) if data else None


def _row(line: bytes, where: str) -> dict[str, Any]:
    require(len(line) <= ROW_LIMIT, where, f"at most {ROW_LIMIT} bytes", len(line), CheckpointError)
    row = strict.loads(line, where)
    if not isinstance(row, dict):
        raise CheckpointError(f"{where}: expected a JSON object")
    return row


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[int, Path]]:
    """The active file, ending in a whole line."""
    path = folder / NAME
    with disk.appending(path) as fd:
        with disk.writing(path):
            _drop_torn_row(fd)
        yield fd, path


def _drop_torn_row(fd: int) -> None:
    size = disk.size(fd)
    if size and disk.read_at(fd, 1, size - 1) != b"\n":
        start = max(0, size - ROW_LIMIT)
        disk.truncate(fd, start + disk.read_at(fd, ROW_LIMIT, start).rfind(b"\n") + 1)
