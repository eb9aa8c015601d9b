"""Rows that stay in files: one pass tells what they are, and epochs go through them window by window in a shuffled order.

Row i is for training, validation or testing by u_i, uniform on [0, 1) and a function of (seed, i).  The order of an epoch is a
function of (seed, epoch): blocks are permuted, successive ones that fit into memory together are a window, and a window's
training rows are permuted.  So a place in the order is one integer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from likeli.data.readers.shards import CELLS_OF_A_BLOCK
from likeli.random import permutation, uniform_of_rows
from likeli.spaces import Real, Space

CELLS_OF_A_WINDOW = CELLS_OF_A_BLOCK >> 3  # 32 MiB of float64; a larger block is a window by itself
SHARES = (0.5, 0.25, 0.25)  # of the sample, for training, validation and testing
PARTS = ("train", "valid", "test")
Rows = tuple[Tensor, Tensor | None]
Code = Callable[[Any, Any, str], Rows]  # values, labels and their name for messages as rows of a model


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
class Split:
    """Which part row i is in, a function of (seed, i) but for rows of a part that the source brings.

    Arguments:
        seed, fractions: of the split.
        own: rows of the source's own parts, in the order in which they lie, `train` first; empty if it has none.
    """

    seed: int
    fractions: tuple[float, float, float]
    own: dict[str, int] = field(default_factory=dict)

    def parts(self, first: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of each of some successive rows (0 training, 1 validation, 2 test), and its place in the part, in [0, 1)."""
        if not self.own:
            return part_of_rows(first, rows, self.seed, self.fractions)
        wanted = [0.0 if part in self.own and part != "train" else f for part, f in zip(PARTS, self.fractions)]
        drawn, place = part_of_rows(first, rows, self.seed, (wanted[0] / sum(wanted), *(f / sum(wanted) for f in wanted[1:])))
        at = np.searchsorted(np.cumsum(list(self.own.values())), np.arange(first, first + rows), "right")
        lies = np.array([PARTS.index(part) for part in self.own])[at]
        return np.where(lies > 0, lies, drawn), place

    def expected(self, rows: int) -> np.ndarray:
        """How many of so many rows each part has, on average."""
        if not self.own:
            return rows * np.array(self.fractions)
        rest = sum(f for part, f in zip(PARTS, self.fractions) if part == "train" or part not in self.own)
        of_training = self.own["train"] * np.array(self.fractions) / rest
        return np.array([of_training[i] if i == 0 or p not in self.own else self.own[p] for i, p in enumerate(PARTS)])


@dataclass(frozen=True)
class Stream(ABC):
    """Rows that stay in files, and the training rows among them in a shuffled order.

    Arguments:
        split: of the rows.
        training: how many rows of each block are for training.
        digest: sha256 of the rows, or of the files that they are in.
        mean, scale: of the numbers of each column in training rows, or of all cells under the name "".
    """

    split: Split
    training: list[int]
    digest: str
    mean: dict[str, float]
    scale: dict[str, float]
    place: ClassVar[str] = "in files"

    @property
    def facts(self) -> dict[str, int]:
        """What a run says of it."""
        return {"files": self.files}

    def __len__(self) -> int:
        return sum(self.training)

    @property
    @abstractmethod
    def files(self) -> int:
        """How many files there are."""

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """What a row takes in memory."""

    @abstractmethod
    def window(self, blocks: Sequence[int], order: Tensor, code: Code) -> Callable[[slice], Rows]:
        """Rows a … b − 1 of `order`, of the training rows of these blocks, when asked for `slice(a, b)`."""

    def windows(self, seed: int, epoch: int) -> list[list[int]]:
        """The blocks of each window of an epoch, in its order."""
        most, held, found = 8 * CELLS_OF_A_WINDOW // self.row_bytes, 0, list[list[int]]()
        for number in permutation(len(self.training), seed, epoch, "blocks").tolist():
            rows = self.training[number]
            if not rows:
                continue
            new = not found or held + rows > most
            held = rows if new else held + rows
            found += [[]] if new else []
            found[-1].append(number)
        return found

    def shuffled(self, seed: int, epoch: int, code: Code) -> Callable[[slice], Rows]:
        """Training rows a … b − 1 of an epoch's order, when asked for `slice(a, b)`.

        Arguments:
            code: what was read as rows of a model.
        """
        windows = self.windows(seed, epoch)
        ends = np.cumsum([sum(self.training[b] for b in window) for window in windows])
        held: dict[int, Callable[[slice], Rows]] = {}

        def take(rows: slice) -> Rows:
            first, last = np.searchsorted(ends, [rows.start, rows.stop - 1], "right").tolist()
            found = []
            for w in range(first, last + 1):
                begin = int(ends[w - 1]) if w else 0
                if w not in held:
                    held.clear()
                    order = permutation(int(ends[w]) - begin, seed, epoch, "window", w)
                    held[w] = self.window(windows[w], order, code)
                found.append(held[w](slice(max(rows.start - begin, 0), min(rows.stop, int(ends[w])) - begin)))
            return rows_joined(found)

        return take

    def standardised(self, space: Space) -> Space:
        """The space with mean and scale of all training rows, where it was fitted to a sample of them."""
        if not isinstance(space, Real):
            return space
        if "" in self.mean:
            return Real(space.shape, self.mean[""], self.scale[""], space.names)
        if not space.names:
            return space
        assert isinstance(space.mean, tuple)
        assert isinstance(space.scale, tuple)
        known = [not b and n in self.mean for b, n in zip(space.stretch or (False,) * len(space.names), space.names)]
        mean, scale = (
            tuple(ours[name] if k else of for k, of, name in zip(known, theirs, space.names))
            for ours, theirs in ((self.mean, space.mean), (self.scale, space.scale))
        )
        return Real(space.shape, mean, scale, space.names, space.stretch)


def rows_joined(parts: list[Rows]) -> Rows:
    """Rows one after the other."""
    y = [y for _, y in parts if y is not None]
    return torch.cat([x for x, _ in parts]), torch.cat(y) if y else None


def with_head(parts: Iterable[Rows], head: list[Rows], most: int) -> Iterator[Rows]:
    """The same parts; the first rows of all, `most` of them, are left in `head`."""
    for x, y in parts:
        if most > 0:
            head.append((x[:most], None if y is None else y[:most]))
            most -= len(x)
        yield x, y


def chosen_rows(parts: Iterable[Rows], order: Tensor, least: int = 0) -> Iterator[Rows]:
    """Those rows of successive parts that an ascending order names; parts are read up to its end, and `least` rows at least."""
    begin = 0
    for x, y in parts:
        first, last = torch.searchsorted(order, torch.tensor([begin, begin + len(x)])).tolist()
        here = (order[first:last] - begin).to(x.device)
        begin += len(x)
        if len(here):
            yield (x, y) if len(here) == len(x) else (x[here], None if y is None else y[here])
        if begin > order[-1] and begin >= least:
            return


def picked_rows(parts: Iterable[Rows], order: Tensor, least: int = 0) -> Rows:
    """The rows that an order names, in it."""
    ascending, back = order.sort()
    x, y = rows_joined(list(chosen_rows(parts, ascending, least)))
    place = back.argsort().to(x.device)
    return x[place], None if y is None else y[place]


def whole_batches(parts: Iterable[Rows], size: int) -> Iterator[Rows]:
    """The same rows in parts of which each but the last is a multiple of `size`, so that no batch depends on the parts."""
    rest = list[Rows]()
    for part in parts:
        x, y = rows_joined([*rest, part]) if rest else part
        cut = len(x) - len(x) % size
        if cut:
            yield x[:cut], None if y is None else y[:cut]
        rest = [(x[cut:], None if y is None else y[cut:])] if cut < len(x) else []
    yield from rest


def part_of_rows(first: int, rows: int, seed: int, fractions: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The part of each of some successive rows (0 training, 1 validation, 2 test), and its place in the part, in [0, 1)."""
    u, ends = uniform_of_rows(first, rows, seed, "split").numpy(), np.cumsum([0.0, *fractions])
    part = np.minimum(np.searchsorted(ends, u, "right") - 1, 2)
    part = np.where(np.array(fractions)[part] > 0, part, 0)
    return part, (u - ends[part]) / np.array(fractions)[part]


def chances(size: int, rows: int, split: Split) -> np.ndarray:
    """Of each part's rows, to be in a sample of about `size` of so many rows."""
    return np.array([share * size / max(n, 1) for share, n in zip(SHARES, split.expected(rows))])


def told_of_sample(name: str, rows: int, what: str, files: int, sampled: int) -> str:
    """What is said of rows that stay in files."""
    many = f"{files:,} file{'s' * (files > 1)}"
    where = f"{rows:,} {what}s in {many} stay there, where training reads them block by block"
    return f"{name}: {where}; whatever else asks for rows sees a sample of {sampled:,}"
