"""A column's cells as the leaves of a binary tree of questions, and cells for reals that bring none.

Where an answer halves the mass, a cell of mass m is about log₂ 1/m answers away, so that common values cost few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from likeli.spaces.base import Space
from likeli.spaces.marginal import UNSEEN, Marginal, Marginals, cell_of, quantile_ends

INTERVALS, CELLS = 48, 96  # of a real column without marginal: cut at quantiles, and with halves of halves in the tails
CELL = ("low", "high", "mass", "beyond")  # what is kept of them


@dataclass(frozen=True)
class Questions:
    """A binary tree for each column, whose leaves are the column's cells: numbers in their order, names by falling mass.

    Question q of its column asks whether a cell's rank is in [low, cut) or in [cut, high), with about half the mass in each.

    Arguments:
        column, low, cut, high: (Q,).
        share: (Q,), of the second answer in the column by itself.
        onward: (Q, 2), the question after each answer; −1 where the cell is then `found`.
        found: (Q, 2), that cell.
        root: (D,), a column's first question; −1 where it has one cell only.
        path: (D, most cells, longest), 2·question + answer on the way to each cell; −1 after its end.
        rank: (D, most cells), of each cell.
    """

    column: Tensor
    low: Tensor
    cut: Tensor
    high: Tensor
    share: Tensor
    onward: Tensor
    found: Tensor
    root: Tensor
    path: Tensor
    rank: Tensor

    @classmethod
    def of(cls, coding: Marginals) -> Questions:
        """The questions of columns with marginals, wide ones first in each."""
        asked: list[tuple[int, int, int, int, float]] = []
        onward, found, root = list[list[int]](), list[list[int]](), [-1] * len(coding.sizes)
        ways = dict[tuple[int, int], list[int]]()
        rank = torch.zeros(len(coding.sizes), max(coding.sizes), dtype=torch.int64)
        for j, size in enumerate(coding.sizes):
            mass = coding.mass[j, :size].numpy()
            order = np.argsort(-mass, kind="stable") if coding.nominal[j] else np.arange(size)
            rank[j, torch.from_numpy(order)] = torch.arange(size)
            total = np.concatenate([[0.0], mass[order].cumsum()])
            waiting: list[tuple[int, int, list[int]]] = [(0, size, [])]
            for low, high, way in waiting:  # grows while it is gone through: wide questions come first
                if high - low == 1:
                    ways[j, int(order[low])] = way
                    if way:
                        found[way[-1] // 2][way[-1] % 2] = int(order[low])
                    continue
                q = len(asked)
                if way:
                    onward[way[-1] // 2][way[-1] % 2] = q
                else:
                    root[j] = q
                cut = low + 1 + int(np.abs(total[low + 1 : high] - (total[low] + total[high]) / 2).argmin())
                asked.append((j, low, cut, high, float((total[high] - total[cut]) / (total[high] - total[low]))))
                onward.append([-1, -1])
                found.append([0, 0])
                waiting += [(low, cut, [*way, 2 * q]), (cut, high, [*way, 2 * q + 1])]
        path = torch.full((len(coding.sizes), max(coding.sizes), max(1, *map(len, ways.values()))), -1)
        for (j, cell), way in ways.items():
            path[j, cell, : len(way)] = torch.tensor(way, dtype=torch.int64)
        column, low, cut, high = torch.tensor([a[:4] for a in asked], dtype=torch.int64).reshape(-1, 4).T
        share = torch.tensor([a[4] for a in asked], dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        after, cells = (torch.tensor(v, dtype=torch.int64).reshape(-1, 2) for v in (onward, found))
        return cls(column, low, cut, high, share, after, cells, torch.tensor(root), path, rank)


def unseen(space: Space) -> list[Marginal]:
    """The cells of reals of which no rows were seen: those of normal columns, one model unit wide."""
    mean = space.from_model(torch.zeros(1, *space.shape, dtype=torch.float64)).flatten().tolist()
    above = space.from_model(torch.ones(1, *space.shape, dtype=torch.float64)).flatten().tolist()
    return [Marginal.normal(m, a - m, False, CELLS) for m, a in zip(mean, above)]


def stored_cells(columns: list[Marginal]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`CELL` of columns of equally many cells: three of (columns, cells) and (columns,)."""
    parts = ([getattr(c, name) for c in columns] for name in ("low", "high", "mass", "escape"))
    low, high, mass, escape = (torch.tensor(values, dtype=torch.float64) for values in parts)
    return low, high, mass, escape


def intervals(x: np.ndarray, scale: float) -> Marginal:
    """`CELLS` intervals of reals x (n,), cut at quantiles and then the widest in halves, with tails beyond."""
    ends = np.unique(np.concatenate([quantile_ends(x, INTERVALS), [x.min(), x.max()]]))
    if len(ends) == 1:
        ends = ends[0] + 1e-3 * max(scale, abs(ends[0])) * np.array([-1.0, 1.0])
    count = np.bincount(cell_of(x, ends[:-1], ends[1:]), minlength=len(ends) - 1) + UNSEEN
    escape = min(1.0, count[0], count[-1]) / (count.sum() + 1)
    share, cuts = np.concatenate([[0.0], count.cumsum() / count.sum()]), ends
    while len(cuts) <= CELLS:
        widest = int(np.diff(cuts).argmax())
        cuts = np.insert(cuts, widest + 1, (cuts[widest] + cuts[widest + 1]) / 2)
    mass = np.diff(np.interp(cuts, ends, share))
    low, high, mass = (tuple(v.tolist()) for v in (cuts[:-1], cuts[1:], mass / mass.sum()))
    return Marginal(low, high, mass, float(min(escape, mass[0] / 2, mass[-1] / 2)))
