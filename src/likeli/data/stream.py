"""Rows that stay in files: one pass tells what they are, and epochs go through them window by window in a shuffled order.

Row i is for training, validation or testing by u_i, uniform on [0, 1) and a function of (seed, i).  The order of an epoch is a
function of (seed, epoch): blocks are permuted, successive ones that fit into memory together are a window, and a window's
training rows are permuted.  So a place in the order is one integer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from likeli.data.column_types import ColumnType
from likeli.data.frame import MAX_CATEGORIES, Cells, Frame
from likeli.data.readers.shards import CELLS_OF_A_BLOCK, Shards
from likeli.errors import InputError, nearest
from likeli.random import permutation, uniform_of_rows
from likeli.spaces import Real, Space
from likeli.spaces.dates import UNITS

CELLS_OF_A_WINDOW = CELLS_OF_A_BLOCK >> 3  # 32 MiB of float64; a larger block is a window by itself
CELLS_OF_THE_SAMPLE = 1 << 21
FEWEST_SAMPLED, MOST_SAMPLED = 2_000, 100_000  # rows
SHARES = (0.5, 0.25, 0.25)  # of the sample, for training, validation and testing
MOST_VALUES = 10 * MAX_CATEGORIES  # of a column, up to which each is in the sample
Rows = tuple[Tensor, Tensor | None]


class Streamed(Protocol):
    """Rows of which no more than a batch, or a window, is there as a tensor.

    Attributes:
        digest: sha256 of them.
        place: how they are kept, in words: in files, or sparse.
        facts: what a run says of them.
    """

    place: ClassVar[str]

    @property
    def digest(self) -> str: ...

    @property
    def facts(self) -> dict[str, int]: ...

    def __len__(self) -> int: ...

    def shuffled(self, seed: int, epoch: int, code: Callable[[Any, Any, str], Rows]) -> Callable[[slice], Rows]:
        """Training rows a … b − 1 of an epoch's order when asked for `slice(a, b)`; `code` makes them rows of a model."""
        ...

    def standardised(self, space: Space) -> Space:
        """The space with mean and scale of all training rows, where it was fitted to a sample of them."""
        ...


@dataclass(frozen=True)
class Stream:
    """A table that stays in files, and its training rows in a shuffled order.

    Arguments:
        shards: the files.
        labels: the column that is y.
        seed, fractions: of the split.
        training: how many rows of each block are for training.
        digest: sha256 of the files.
        mean, scale: of the numbers of each column in training rows.
    """

    shards: Shards
    labels: str | None
    seed: int
    fractions: tuple[float, float, float]
    training: list[int]
    digest: str
    mean: dict[str, float]
    scale: dict[str, float]
    place: ClassVar[str] = "in files"

    @property
    def facts(self) -> dict[str, int]:
        """What a run says of it."""
        return {"files": len(self.shards.marks)}

    def __len__(self) -> int:
        return sum(self.training)

    def windows(self, seed: int, epoch: int) -> list[list[int]]:
        """The blocks of each window of an epoch, in its order."""
        most, held, found = CELLS_OF_A_WINDOW // len(self.shards.names), 0, list[list[int]]()
        for number in permutation(len(self.training), seed, epoch, "blocks").tolist():
            rows = self.training[number]
            new = not found or held + rows > most
            held = rows if new else held + rows
            found += [[]] if new else []
            found[-1].append(number)
        return found

    def shuffled(self, seed: int, epoch: int, code: Callable[[Frame, Any, str], Rows]) -> Callable[[slice], Rows]:
        """Training rows a … b − 1 of an epoch's order, when asked for `slice(a, b)`.

        Arguments:
            code: columns, labels and the name for messages as rows of a model.
        """
        windows = self.windows(seed, epoch)
        ends = np.cumsum([sum(self.training[b] for b in window) for window in windows])
        held: dict[int, Rows] = {}

        def window(w: int) -> Rows:
            if w not in held:
                held.clear()
                parts = [code(*part) for number in windows[w] for part in self.training_rows(number)]
                x, y = _joined(parts)
                parts.clear()  # or the window would be there three times
                order = permutation(len(x), seed, epoch, "window", w)
                held[w] = x[order], None if y is None else y[order]
            return held[w]

        def take(rows: slice) -> Rows:
            first, last = np.searchsorted(ends, [rows.start, rows.stop - 1], "right")
            found = []
            for w in range(first, last + 1):
                (x, y), begin = window(w), int(ends[w - 1]) if w else 0
                part = slice(max(rows.start - begin, 0), rows.stop - begin)
                found.append((x[part], None if y is None else y[part]))
            return _joined(found)

        return take

    def training_rows(self, number: int) -> Iterator[tuple[Frame, Any, str]]:
        """The training rows of a block, some at a time: columns, labels, and how they are named in messages."""
        block = self.shards.blocks[number]
        first = block.first
        for frame in self.shards.read(block):
            chosen = np.flatnonzero(part_of_rows(first, len(frame), self.seed, self.fractions)[0] == 0)
            if len(chosen):
                yield with_labels(frame.rows(chosen), self.labels, f"{block.path}, row group {block.group}")
            first += len(frame)

    def standardised(self, space: Space) -> Space:
        """The space with mean and scale of all training rows, where it was fitted to a sample of them."""
        if not isinstance(space, Real) or not space.names:
            return space
        assert isinstance(space.mean, tuple)
        assert isinstance(space.scale, tuple)
        known = [not b and n in self.mean for b, n in zip(space.stretch or (False,) * len(space.names), space.names)]
        mean, scale = (
            tuple(ours[name] if k else of for k, of, name in zip(known, theirs, space.names))
            for ours, theirs in ((self.mean, space.mean), (self.scale, space.scale))
        )
        return Real(space.shape, mean, scale, space.names, space.stretch)


def _joined(parts: list[Rows]) -> Rows:
    y = [y for _, y in parts if y is not None]
    return torch.cat([x for x, _ in parts]), torch.cat(y) if y else None


def with_labels(frame: Frame, labels: str | None, what: str) -> tuple[Frame, Any, str]:
    """Columns, and the labels' cells apart."""
    return frame, frame.pop(labels, what) if labels is not None else None, what


def part_of_rows(first: int, rows: int, seed: int, fractions: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The part of each of some successive rows (0 training, 1 validation, 2 test), and its place in the part, in [0, 1)."""
    u, ends = uniform_of_rows(first, rows, seed, "split").numpy(), np.cumsum([0.0, *fractions])
    part = np.minimum(np.searchsorted(ends, u, "right") - 1, 2)
    part = np.where(np.array(fractions)[part] > 0, part, 0)
    return part, (u - ends[part]) / np.array(fractions)[part]


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
    shards: Shards, labels: Any, said: dict[str, ColumnType], seed: int, fractions: tuple[float, float, float]
) -> tuple[Frame, tuple[Tensor, ...], Stream, str]:
    """Go through the files once: (a sample of rows, those of it that are of each part, where all training rows are, a note).

    Raises:
        InputError: damaged, or labels that are no column.
    """
    if labels is not None and labels not in shards.names:
        near = nearest(str(labels), shards.names)
        raise InputError(f"labels: expected a column of {shards.name}, got {str(labels)[:80]!r}{near}")
    n, size = shards.rows, min(max(CELLS_OF_THE_SAMPLE // len(shards.names), FEWEST_SAMPLED), MOST_SAMPLED)
    chances = np.array([share * size / max(n * f, 1) for share, f in zip(SHARES, fractions)])
    found, training = Survey(chances, said, labels), list[int]()
    for block in shards.blocks:
        first, count = block.first, 0
        for frame in shards.read(block):
            part, place = part_of_rows(first, len(frame), seed, fractions)
            found.add(frame, part, place)
            first, count = first + len(frame), count + int((part == 0).sum())
        training.append(count)
    of = torch.from_numpy(np.concatenate(found.parts))
    numbers = {k: v for k, v in found.columns.items() if v.count}
    mean = {k: v.mean for k, v in numbers.items()}
    scale = {k: float(np.sqrt(v.squares / v.count)) or 1.0 for k, v in numbers.items()}
    stream = Stream(shards, labels, seed, fractions, training, shards.digest(), mean, scale)
    frame = Frame.joined(found.frames)
    files = f"{len(shards.marks)} file{'s' * (len(shards.marks) > 1)}"
    where = f"{n:,} rows in {files} stay there, where training reads them block by block"
    note = f"{shards.name}: {where}; whatever else asks for rows sees a sample of {len(frame):,}"
    return frame, tuple(torch.nonzero(of == part)[:, 0] for part in range(3)), stream, note
