"""Parquet files that make up one table and are read block by block: those of a folder, or of a pattern, by sorted names.

A block is a row group, the part of a file that can be read without what stands before it.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likeli.data.frame import Frame
from likeli.data.readers.npy import open_regular
from likeli.data.readers.tables import from_pandas, open_parquet
from likeli.errors import InputError, require

CELLS_AT_ONCE = 1 << 19  # that are on their way from a file to rows of a model: some 25 MB with what pandas makes of them
CELLS_OF_A_BLOCK = 1 << 25  # 256 MiB of float64


@dataclass(frozen=True)
class RowGroup:
    """Successive rows that are read together.

    Arguments:
        what: how they are named in messages.
        first: the row of the whole table with which they begin.
        rows: how many there are.
        path: of the file that they are in, where it is one for each.
        group: their number there.
    """

    what: str
    first: int
    rows: int
    path: Path = Path()
    group: int = 0


@dataclass(frozen=True)
class Shards:
    """The files of one table, as they were when they were found.

    Arguments:
        name: of the folder or the pattern.
        marks: size in bytes and time of the last change (ns) of each file.
        names: of the columns.
        blocks: in the order of rows.
    """

    name: str
    marks: dict[Path, tuple[int, int]]
    names: list[str]
    blocks: list[RowGroup]

    @property
    def files(self) -> int:
        """How many there are."""
        return len(self.marks)

    def __len__(self) -> int:
        return self.blocks[-1].first + self.blocks[-1].rows if self.blocks else 0

    @classmethod
    def of(cls, paths: list[Path], name: str) -> Shards:
        """These files, from what stands at their ends: no row is read.

        Raises:
            InputError: damaged, of other columns than the first, without rows, row groups that are too large.
        """
        marks, blocks, first, columns = dict[Path, tuple[int, int]](), list[RowGroup](), 0, dict[str, str]()
        for path in paths:
            with open_parquet(path, whole=False) as file:
                schema, about = file.schema_arrow, file.metadata
                types = {field.name: str(field.type) for field in schema}
                columns = columns or types
                _require_same(types, columns, path, paths[0])
                for group in range(about.num_row_groups):
                    rows = about.row_group(group).num_rows
                    most, got = CELLS_OF_A_BLOCK // max(len(columns), 1), f"{rows:,}; write it with row_group_size={1 << 17}"
                    require(rows <= most, f"{path}: row group {group}", f"at most {most:,} rows of {len(columns)} columns", got)
                    blocks += [RowGroup(f"{path}, row group {group}", first, rows, path, group)] if rows else []
                    first += rows
            marks[path] = mark(path)
        require(bool(blocks), name, "at least 2 rows", "none in any of its files")
        return cls(name, marks, list(columns), blocks)

    def read(self, block: RowGroup) -> Iterator[Frame]:
        """The rows of a block, some at a time.

        Raises:
            InputError: damaged, or not the file that it was.
        """
        with self.opened(block.path) as file:
            for batch in file.iter_batches(max(CELLS_AT_ONCE // len(self.names), 1), row_groups=[block.group]):
                yield from_pandas(batch.to_pandas(), str(block.path))

    @contextmanager
    def opened(self, path: Path) -> Iterator[Any]:
        """One of the files, if it is what it was."""
        refuse_changed(self.marks, path)
        with open_parquet(path, whole=False) as file:
            yield file

    def digest(self) -> str:
        """sha256 of all files, one after the other."""
        return digest_of_files(self.marks)


def digest_of_files(paths: Iterable[Path]) -> str:
    """sha256 of all files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open_regular(path, whole=False) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def refuse_changed(marks: dict[Path, tuple[int, int]], path: Path) -> None:
    """Refuse a file that is not what it was when its mark was taken.

    Raises:
        InputError: another size or time of change.
    """
    got = "another size or time of change"
    require(mark(path) == marks[path], str(path), "the file as it was when its rows were first read", got)


def mark(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change (ns)."""
    try:
        facts = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return facts.st_size, facts.st_mtime_ns


def _require_same(types: dict[str, str], known: dict[str, str], path: Path, first: Path) -> None:
    for name in {**known, **types}:
        ours, theirs = (of.get(name, "no such column") for of in (known, types))
        require(ours == theirs, f"{path}, column {name}", f"{ours} as in {first.name}", theirs)


def find_shards(source: Any) -> Shards | None:
    """The .parquet files of a folder or of a pattern such as `rows/*.parquet`; None for a source of another kind.

    Raises:
        InputError: a pattern that no file fits; see `Shards.of`.
    """
    if not isinstance(source, (str, os.PathLike)) or "\0" in (source := os.fspath(source)):
        return None
    if os.path.isdir(source):
        paths = sorted(p for p in Path(source).glob("*.parquet") if not p.name.startswith("."))
        return Shards.of(paths, os.path.basename(os.path.abspath(source))) if paths else None
    if not source.lower().endswith(".parquet") or not any(c in source for c in "*?[") or os.path.lexists(source):
        return None
    paths = [Path(p) for p in sorted(glob.glob(source))]
    require(bool(paths), "data", f"files that fit {source}", "none")
    return Shards.of(paths, os.path.basename(source))
