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
    keyed, holes = is_keyed(len(x)), x.isnan().flatten(1).sum(1)
    # one draw of each row at a time where its noise is its own; else rows with as many holes, and so passes, together
    rows = torch.arange(len(x)).repeat(n) if keyed else holes.cpu().argsort(stable=True).repeat_interleave(n)
    parts = rows.split(len(x) if keyed else DRAWN)
    drawn = torch.cat([draw(x[part], None if y is None else y[part]) for part in parts])
    return drawn[rows.argsort(stable=True)].reshape(len(x), n, *x.shape[1:]).movedim(1, 0)
