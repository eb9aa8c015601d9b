"""Cells with finitely many symbols: one-hot rows, places in a table of cells × symbols, smoothed frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.errors import Unsupported
from likeli.spaces import Space, counted


def symbols_of(space: Space, who: str) -> int:
    """Symbols of a cell.

    Raises:
        Unsupported: the cells are not all of one finite set.
    """
    if space.symbols and space.shape:
        return space.symbols
    raise Unsupported(f"{who} needs cells of finitely many symbols (pixels, binary, tokens), not {space.kind()}; use gmm")


def as_symbols(cells: Tensor, space: Space) -> Tensor:
    """Symbols (rows, cells) as values of the space."""
    return space.check(cells.reshape(-1, *space.shape))


def places(block: Tensor, symbols: int, end: int | None = None) -> Tensor:
    """Where each cell's symbol stands among cells × symbols; behind all of them for a cell after its row's end."""
    cells = block.shape[1]
    at = block.long() + symbols * torch.arange(cells, device=block.device)
    return at if end is None else at.masked_fill(~counted(block, end), cells * symbols)


def one_hot(block: Tensor, symbols: int, end: int | None = None) -> Tensor:
    """(b, cells) → (b, cells·symbols) float64; zeros for a cell after its row's end."""
    rows = F.one_hot(block.long(), symbols)
    return (rows if end is None else rows * counted(block, end)[..., None]).flatten(1).double()


def after_end(log_pmf: Tensor, before: Tensor, end: int | None) -> Tensor:
    """The next symbol's log_pmf (B, symbols), which is `end` for certain where the symbols before it (B, i) hold one."""
    if end is None:
        return log_pmf
    certain = torch.full_like(log_pmf, -math.inf)
    certain[:, end] = 0
    return torch.where((before == end).any(1, keepdim=True), certain, log_pmf)


def smoothed(counts: Tensor, smoothing: float) -> Tensor:
    """log (count + α) / Σ (count + α) over the last axis."""
    return (counts + smoothing).log() - (counts + smoothing).sum(-1, keepdim=True).log()


def uniform_log_pmf(k: int, cells: int, symbols: int) -> Tensor:
    """The pmf of a model that has seen nothing."""
    return torch.full((k, cells, symbols), -math.log(symbols), dtype=torch.float64)
