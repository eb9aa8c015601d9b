"""Cells with finitely many symbols: one-hot rows, places in a table of cells × symbols, smoothed frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.random import is_keyed

DRAWN = 2048  # rows at a time that `completions` draws: large blocks share the cost of a network's pass
IMPOSSIBLE = -1e30  # a log-probability whose exp is 0, and which a file of finite weights can hold


def places(codes: Tensor, symbols: int) -> Tensor:
    """Where each cell's symbol stands among cells × symbols, and the place after them all where it is missing."""
    cells = codes.shape[1]
    at = codes + symbols * torch.arange(cells, device=codes.device)
    return at.masked_fill(codes < 0, cells * symbols)


def one_hot(codes: Tensor, symbols: int) -> Tensor:
    """(b, cells) → (b, cells·symbols) float64; zeros where a symbol is missing."""
    return (F.one_hot(codes.clamp(min=0), symbols) * (codes >= 0)[..., None]).flatten(1).double()


def smoothed(counts: Tensor, smoothing: float | Tensor) -> Tensor:
    """log (count + α) / Σ (count + α) over the last axis; a symbol that a cell does not have gets `IMPOSSIBLE`."""
    log_p = (counts + smoothing).log() - (counts + smoothing).sum(-1, keepdim=True).log()
    return log_p.clamp(min=IMPOSSIBLE)


def present(sizes: tuple[int, ...]) -> Tensor:
    """1 where a cell has the symbol and 0 where it only has fewer, (cells, most symbols) float64."""
    return (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).double()


def after_end(log_pmf: Tensor, before: Tensor, end: int | None) -> Tensor:
    """The next symbol's log_pmf (B, symbols), which is `end` for certain where the symbols before it (B, i) hold one."""
    if end is None:
        return log_pmf
    certain = torch.full_like(log_pmf, -math.inf)
    certain[:, end] = 0
    return torch.where((before == end).any(1, keepdim=True), certain, log_pmf)


def completions(draw: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, y: Tensor | None, n: int) -> Tensor:
    """n draws of the missing cells of rows x (B, *shape), the others as given: (n, B, *shape).

    Arguments:
        draw: cells that are given (rows, *shape) and y of these rows → rows.
        x: (B, *shape), NaN where a cell is missing.
        y: (B, …) or None.
    """
    size = len(x) if is_keyed(len(x)) else DRAWN  # one draw of each row at a time, so that its noise is its own
    blocks = x.repeat(n, *[1] * (x.ndim - 1)).split(size)
    labels = [None] * len(blocks) if y is None else y.repeat(n, *[1] * (y.ndim - 1)).split(size)
    return torch.cat([draw(block, label) for block, label in zip(blocks, labels)]).reshape(n, *x.shape)
