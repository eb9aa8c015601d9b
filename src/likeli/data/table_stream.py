"""Tables that stay in files: what one pass over them finds, and training rows read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from likeli.data.column_types import ColumnType
from likeli.data.frame import MAX_CATEGORIES, Cells, Frame
from likeli.data.readers.shards import RowGroup
from likeli.data.stream import Code, Rows, Split, Stream, chances, rows_joined, told_of_sample
from likeli.errors import InputError, nearest
from likeli.spaces.dates import UNITS

CELLS_OF_THE_SAMPLE = 1 << 21
FEWEST_TABLE_ROWS, MOST_TABLE_ROWS = 2_000, 100_000  # in the sample
MOST_VALUES = 10 * MAX_CATEGORIES  # of a column, up to which each is in the sample


class TableFiles(Protocol):
    """A table that stays in files."""

    name: str
    names: list[str]

    @property
    def blocks(self) -> Sequence[RowGroup]:
        """In the order of rows."""
        ...

    @property
    def files(self) -> int:
        """How many there are."""
        ...

    def __len__(self) -> int: ...

    def read(self, block: RowGroup) -> Iterator[Frame]:
        """The rows of a block, some at a time."""
        ...

    def digest(self) -> str:
        """sha256 of all files."""
        ...


@dataclass(frozen=True)
class TableStream(Stream):
    """A table that stays in files, read block by block.

    Arguments:
        table: the files.
        labels: the column that is y.
    """

    table: TableFiles
    labels: str | None

    @property
    def files(self) -> int:
        return self.table.files

    @property
    def row_bytes(self) -> int:
        return 8 * len(self.table.names)

    def window(self, blocks: Sequence[int], order: Tensor, code: Code) -> Callable[[slice], Rows]:
        parts = [code(*part) for number in blocks for part in self.training_rows(number)]
        x, y = rows_joined(parts)
        parts.clear()  # or the window would be there three times
        x, y = x[order], None if y is None else y[order]
        return lambda rows: (x[rows], None if y is None else y[rows])

    def training_rows(self, number: int) -> Iterator[tuple[Frame, Any, str]]:
        """The training rows of a block, some at a time: columns, labels, and how they are named in messages."""
        block = self.table.blocks[number]
        first = block.first
        for frame in self.table.read(block):
            chosen = np.flatnonzero(self.split.parts(first, len(frame))[0] == 0)
            if len(chosen):
                yield with_labels(frame.rows(chosen), self.labels, block.what)
            first += len(frame)


def with_labels(frame: Frame, labels: str | None, what: str) -> tuple[Frame, Any, str]:
    """Columns, and the labels' cells apart."""
    return frame, frame.pop(labels, what) if labels is not None else None, what


@dataclass
class Survey:
    """What one pass over the files finds.

    Rows are sampled by their place in their part.  Beside those, the sample has a row for whatever decides of what type a
    column is: each value of texts and labels, a fraction, a gap, a time of a finer unit, the extremes of training rows.

    Arguments:
        chances: of each part's rows, to be in the sample.
        said: what the user says of columns.
        labels: the column that is y.
    """

    chances: np.ndarray
    said: dict[str, ColumnType]
    labels: str | None
    frames: list[Frame] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    columns: dict[str, ColumnSeen] = field(default_factory=dict)

    def add(self, frame: Frame, part: np.ndarray, place: np.ndarray) -> None:
        """Take some rows in."""
        drawn = place < self.chances[part]
        taken = drawn.copy()
        for name, cells in zip(frame.names, frame.columns):
            said = self.said.get(name)
            if said is None or said.type not in ("drop", "text"):
                named = name == self.labels or (said is not None and said.type in ("categorical", "ordinal", "boolean"))
                taken[self.columns.setdefault(name, ColumnSeen()).new(cells, part == 0, named)] = True
        index = np.flatnonzero(taken)
        self.frames.append(frame.rows(index))
        # a row of another part that was not drawn for it, but shows what there is, is in none
        self.parts.append(np.where(drawn[index] | (part[index] == 0), part[index], 3))


@dataclass
class ColumnSeen:
    """What has been seen of one column."""

    least: float = np.inf
    most: float = -np.inf
    gap: bool = False
    fraction: bool = False
    unit: int = 0
    values: set[Any] = field(default_factory=set)
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def new(self, cells: Cells, training: np.ndarray, named: bool) -> list[int]:
        """The rows that show what no row before has shown."""
        if isinstance(cells, list):
            return self._new_values(cells)
        if cells.dtype.kind == "M":
            gone, numbers, found = np.isnat(cells), cells.astype(np.int64).astype(np.float64), self._new_unit(cells)
        else:
            gone, numbers, found = np.isnan(cells), cells, []
            fractions = np.flatnonzero((cells != np.round(cells)) & ~gone)[:1].tolist()
            found += [] if self.fraction else fractions
            self.fraction = self.fraction or bool(fractions)
            found += self._new_values(cells[~gone].tolist(), np.flatnonzero(~gone)) if named else []
        rows = np.flatnonzero(training & ~gone)
        gaps = np.flatnonzero(training & gone)[:1].tolist()
        found += [] if self.gap else gaps
        self.gap = self.gap or bool(gaps)
        if len(rows):
            seen = numbers[rows]
            low, high = int(seen.argmin()), int(seen.argmax())
            lower, higher = bool(seen[low] < self.least), bool(seen[high] > self.most)
            found += [int(rows[low])] * lower + [int(rows[high])] * higher
            self.least, self.most = min(self.least, float(seen[low])), max(self.most, float(seen[high]))
            self._add_moments(seen)
        return found

    def _new_values(self, cells: list[Any], rows: np.ndarray | None = None) -> list[int]:
        if len(self.values) > MOST_VALUES:
            return []
        fresh = set(cells) - self.values
        self.values |= fresh
        found = [cells.index(v) for v in sorted(fresh, key=str)[:MOST_VALUES]]
        return found if rows is None else rows[found].tolist()

    def _new_unit(self, moments: np.ndarray) -> list[int]:
        found, units = list[int](), list(UNITS)
        seen = ~np.isnat(moments)
        while (odd := (moments.astype(f"M8[{units[self.unit]}]") != moments) & seen).any():
            found.append(int(odd.argmax()))
            self.unit += 1
        return found

    def _add_moments(self, x: np.ndarray) -> None:
        """Mean and Σ(x − mean)² of what was seen and x together.

        Source: Chan, Golub & LeVeque (1983), The American Statistician 37.
        """
        n, mean = len(x), float(x.mean())
        off, total = mean - self.mean, self.count + n
        self.squares += float(np.square(x - mean).sum()) + off * off * self.count * n / total
        self.mean, self.count = self.mean + off * n / total, total


def survey(
    table: TableFiles, labels: Any, said: dict[str, ColumnType], split: Split
) -> tuple[Frame, tuple[Tensor, ...], Stream, str]:
    """Go through the files once: (a sample of rows, those of it that are of each part, where all training rows are, a note).

    Raises:
        InputError: damaged, or labels that are no column.
    """
    if labels is not None and labels not in table.names:
        near = nearest(str(labels), table.names)
        raise InputError(f"labels: expected a column of {table.name}, got {str(labels)[:80]!r}{near}")
    n, size = len(table), min(max(CELLS_OF_THE_SAMPLE // len(table.names), FEWEST_TABLE_ROWS), MOST_TABLE_ROWS)
    found, training = Survey(chances(size, n, split), said, labels), list[int]()
    for block in table.blocks:
        first, count = block.first, 0
        for frame in table.read(block):
            part, place = split.parts(first, len(frame))
            found.add(frame, part, place)
            first, count = first + len(frame), count + int((part == 0).sum())
        training.append(count)
    of = torch.from_numpy(np.concatenate(found.parts))
    numbers = {k: v for k, v in found.columns.items() if v.count}
    mean = {k: v.mean for k, v in numbers.items()}
    scale = {k: float(np.sqrt(v.squares / v.count)) or 1.0 for k, v in numbers.items()}
    stream = TableStream(split, training, table.digest(), mean, scale, table, labels)
    frame = Frame.joined(found.frames)
    note = told_of_sample(table.name, n, "row", table.files, len(frame))
    return frame, tuple(torch.nonzero(of == part)[:, 0] for part in range(3)), stream, note
