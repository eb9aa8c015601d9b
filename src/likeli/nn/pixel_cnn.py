"""A masked-convolution network for grey images: a stack that sees the rows above, and one that sees the cells to the left."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from likeli.errors import require
from likeli.nn.masked import CausalNetwork, CellFeatures
from likeli.spaces import Space

UP, SIDE, LEFT = 2, 2, 3  # a layer's vertical filter: this row and one above, 2 columns to each side; its horizontal: 3 cells
FAR_UP, FAR_SIDE, FAR_LEFT = 9, 8, 9  # of the first, which sees few channels and so far at little cost


class GatedLayer(nn.Module):
    """v ← v + gate(U * v) and h ← h + W gate(L * h + P (U * v)),  gate(a, b) = tanh(a) σ(b), * a convolution.

    v at row r knows rows above r, h at (r, c) those and the cells to the left of c; U reaches upwards and L to the left.

    Arguments:
        width: channels of both stacks.
        given: features of the condition, which move the gates.
        dropout: probability of zeroing a channel of what is added, in training.
    """

    def __init__(self, width: int, given: int, dropout: float) -> None:
        super().__init__()
        self.above = nn.Conv2d(width, 2 * width, (UP, 2 * SIDE + 1))
        self.before = nn.Conv2d(width, 2 * width, (1, LEFT), bias=False)
        self.down, self.leave = nn.Conv2d(2 * width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.given = nn.Linear(given, 4 * width, bias=False) if given else None
        self.dropout = nn.Dropout2d(dropout)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, v: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """v, h (B, width, H, W), c (B, given)."""
        tall, told = self.vertical(pad(v, (SIDE, SIDE, UP - 1, 0)), c)
        return v + gate(tall), self.horizontal(h, pad(h, (LEFT - 1, 0)), told)

    def vertical(self, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """U * v of padded rows, and what it tells the other stack."""
        tall = self.above(v)
        told = self.down(tall)
        if self.given is not None:
            tall, told = (t + g[:, :, None, None] for t, g in zip((tall, told), self.given(c).chunk(2, 1)))
        return tall, told

    def horizontal(self, h: Tensor, padded: Tensor, told: Tensor) -> Tensor:
        """The new h of the cells in `told`, whose present ones are h."""
        return h + self.dropout(self.leave(gate(self.before(padded) + told)))


def gate(both: Tensor) -> Tensor:
    """tanh(a) σ(b) of the two halves of the channels."""
    a, b = both.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class GatedPixelCNN(CausalNetwork):
    """Numbers of each cell of an image from the rows above and the cells to the left, in row-major order.

    Arguments:
        space: images (H, W) or (1, H, W).
        given: features of the condition.
        channels: numbers of each cell.
        hidden: channels of each layer, all equal.
        dropout: probability of zeroing a channel of what a layer adds, in training.

    Raises:
        InputError: not one plane of an image.

    Source: van den Oord et al. (2016), arXiv:1606.05328.
    """

    any_order = False

    def __init__(self, space: Space, given: int, channels: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        plane = len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[0] == 1)
        require(plane and space.symbols > 0, "network", "transformer or made for what is not an image of one plane", "conv")
        self.height, self.width = space.shape[-2:]
        self.features, wide = CellFeatures(space), hidden[0]
        inputs = self.features.width + 1  # a 1 in every cell tells the image from what lies beyond its edge
        self.first_above = nn.Conv2d(inputs, wide, (FAR_UP, 2 * FAR_SIDE + 1))
        self.first_before = nn.Conv2d(inputs, wide, (1, FAR_LEFT))
        self.layers = nn.ModuleList(GatedLayer(wide, given, dropout) for _ in hidden)
        self.mix, self.leave = nn.Conv2d(wide, 2 * wide, 1), nn.Conv2d(2 * wide, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, c: Tensor, order: Tensor) -> Tensor:
        u = self._planes(x)
        v = self.first_above(pad(u[:, :, :-1], (FAR_SIDE, FAR_SIDE, FAR_UP, 0)))
        h = self.first_before(pad(u[:, :, :, :-1], (FAR_LEFT, 0))) + v
        v, h = (t.contiguous(memory_format=torch.channels_last) for t in (v, h))
        for layer in self.layers:
            v, h = layer(v, h, c)
        return self.leave(silu(self.mix(silu(h)))).flatten(2)

    def unroll(self, x: Tensor, c: Tensor, order: Tensor) -> Iterator[Tensor]:
        """As the base class says; each row of v and each cell of h is worked out once, from those kept of each layer."""
        wide = self.mix.in_channels
        rows = [x.new_zeros(len(x), wide, UP - 1, self.width + 2 * SIDE, dtype=self.mix.weight.dtype) for _ in self.layers]
        edge = pad(torch.zeros_like(self._planes(x)), (FAR_SIDE, FAR_SIDE, FAR_UP, 0))
        for r in range(self.height):
            edge[:, :, FAR_UP : FAR_UP + r, FAR_SIDE:-FAR_SIDE] = self._planes(x)[:, :, :r]
            v = below = self.first_above(edge[:, :, r : r + FAR_UP])
            told = []
            for kept, layer in zip(rows, self.layers):
                padded = torch.cat([kept, pad(v, (SIDE, SIDE))], 2)
                tall, says = layer.vertical(padded, c)
                kept.copy_(padded[:, :, 1:])
                told.append(says)
                v = v + gate(tall)
            left = [x.new_zeros(len(x), wide, 1, LEFT, dtype=v.dtype) for _ in self.layers]
            for column in range(self.width):
                seen = pad(self._planes(x)[:, :, r : r + 1, :column], (FAR_LEFT, 0))[..., -FAR_LEFT:]
                h = self.first_before(seen) + below[..., column, None]
                for kept, layer, says in zip(left, self.layers, told):
                    kept.copy_(torch.cat([kept[..., 1:], h], 3))
                    h = layer.horizontal(h, kept, says[..., column, None])
                yield self.leave(silu(self.mix(silu(h))))[:, :, 0, 0]

    def _planes(self, x: Tensor) -> Tensor:
        u = self.features(x, self.mix.weight.dtype).mT.reshape(len(x), -1, self.height, self.width)
        return pad(u, (0, 0, 0, 0, 0, 1), value=1.0)
