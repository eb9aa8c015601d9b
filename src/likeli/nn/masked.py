"""Networks whose numbers for a cell depend on the cells before it alone: what they share, and the masked perceptron."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from likeli.nn.mlp import ByteDropout
from likeli.spaces import Space


class CausalNetwork(nn.Module, ABC):
    """(x, c, order) → numbers of each cell, which are functions of c and of the cells before it in the order.

    Attributes of a kind:
        any_order: whether it can follow another order than row-major, and another one for each row.
    """

    any_order: ClassVar[bool]

    @abstractmethod
    def forward(self, x: Tensor, c: Tensor, order: Tensor) -> Tensor:
        """(B, channels, D), the cells row-major.

        Arguments:
            x: (B, D) in the user's units; missing cells hold any value of the space and stand last.
            c: (B, width) features of the condition.
            order: (t,) or (B, t) cells, the first first; numbers of cells that are not among them mean nothing.
        """

    def unroll(self, x: Tensor, c: Tensor, order: Tensor) -> Iterator[Tensor]:
        """(B, channels), the numbers of cell order[…, 0], then order[…, 1], …

        Cells of x are read when the next numbers are asked for, so that x may be filled on the way.
        """
        rows = torch.arange(len(x), device=x.device)
        for cell in order.unbind(-1):
            yield self(x, c, order)[rows, :, cell]


class CellFeatures(nn.Module):
    """Cells in model units: (B, D) → (B, D, width), rows of features padded with zeros; what is missing is 0.

    Arguments:
        space: what one example is.
    """

    index: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space, cells = space, space.dimensions
        inputs = torch.Size(space.model_shape).numel()
        widths = space.widths or (inputs // cells,) * cells
        self.width, starts = max(widths), torch.tensor([0, *widths]).cumsum(0)
        place = torch.arange(self.width)
        index = torch.where(place < torch.tensor(widths)[:, None], starts[:-1, None] + place, inputs)
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        u = self.space.to_model(x.reshape(len(x), *self.space.shape), dtype).flatten(1).nan_to_num(0)
        if self.space.widths is None:
            return u.reshape(len(x), -1, self.width)
        return torch.cat([u, u.new_zeros(len(u), 1)], 1)[:, self.index]


class MADE(CausalNetwork):
    """A perceptron of masked matrices: hidden unit j sees the first m_j cells of the order and speaks to the cells after them.

        h ← (W ∘ [rank(i) < m_j]) u,    h ← h + (V ∘ [m_j' ≤ m_j]) σ(h),
        out_i = (A ∘ [m_j ≤ rank(i)]) σ(h) + (B ∘ [rank(k) < rank(i)]) u

    One set of weights serves every order: a cell's rank moves, the m_j stay.  With orders that change, a further input of 1 for
    each cell tells a hidden unit which cells it sees.

    Arguments:
        space: what one example is.
        given: features of the condition.
        channels: numbers of each cell.
        hidden: widths of the hidden layers; the first sees the cells, the others are residual, of its width.
        dropout: probability of zeroing a hidden feature in training.
        presence: whether each cell has that further input.

    Source: Germain et al. (2015), arXiv:1502.03509.
    """

    any_order = True
    owner: Tensor
    depth: Tensor

    def __init__(
        self, space: Space, given: int, channels: int, hidden: tuple[int, ...], dropout: float, presence: bool
    ) -> None:
        super().__init__()
        self.features, self.channels, self.presence, cells = CellFeatures(space), channels, presence, space.dimensions
        f, width = self.features.width + presence, hidden[0]
        self.register_buffer("owner", torch.arange(cells).repeat_interleave(f), persistent=False)
        self.register_buffer("depth", torch.arange(width) * cells // width, persistent=False)  # m_j, from 0 to D − 1
        self.enter = nn.Linear(cells * f, width)
        self.given = nn.Linear(given, width + cells * channels, bias=False) if given else None
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in pairwise(hidden))
        self.leave = nn.Linear(width, cells * channels)
        self.skip = nn.Parameter(torch.zeros(cells * channels, cells * f))
        self.dropout = ByteDropout(dropout)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, c: Tensor, order: Tensor) -> Tensor:
        u = self.features(x, self.skip.dtype)
        if self.presence:
            u = torch.cat([u, torch.ones_like(u[:, :, :1])], 2)
        if order.ndim == 1:
            return self._follow(u.flatten(1), c, order)
        orders, of = order.unique(dim=0, return_inverse=True)
        if len(orders) == 1:
            return self._follow(u.flatten(1), c, orders[0])
        out = u.new_empty(len(x), self.channels, u.shape[1])
        for k, each in enumerate(orders):
            rows = of == k
            out[rows] = self._follow(u[rows].flatten(1), c[rows], each).to(out.dtype)
        return out

    def _follow(self, u: Tensor, c: Tensor, order: Tensor) -> Tensor:
        cells, m = len(self.owner) // (self.features.width + self.presence), self.depth
        rank = torch.full((cells,), cells, device=order.device)  # what is not in the order is seen by none
        rank[order] = torch.arange(len(order), device=order.device)
        told, spoken = rank[self.owner], rank.repeat_interleave(self.channels)
        inner, outer = self.given(c).split([len(m), len(spoken)], 1) if self.given is not None else (0, 0)
        h = linear(u, self.enter.weight * (told < m[:, None]), self.enter.bias) + inner
        for layer in self.layers:
            h = h + linear(self.dropout(silu(h)), layer.weight * (m <= m[:, None]), layer.bias)
        out = linear(self.dropout(silu(h)), self.leave.weight * (m <= spoken[:, None]), self.leave.bias) + outer
        out = out + linear(u, self.skip * (told < spoken[:, None]))
        return out.reshape(len(u), cells, self.channels).mT
