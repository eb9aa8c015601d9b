"""An autoregressive network for images: LSTMs remember the rows above, and a masked perceptron reads along the present row."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from likeli.errors import require
from likeli.nn.masked import MADE, CausalNetwork, CellFeatures
from likeli.nn.recurrence import LSTMs, State
from likeli.spaces import Pixels, Space

ABOVE = 3  # rows that the perceptron sees as they are
UNITS, MOST_UNITS, DEPTH = 8, 512, 2  # of the perceptron: hidden units for each cell of a row, at most in all, and layers


class RowLSTM(CausalNetwork):
    """Numbers of each cell from the rows above and the cells to the left, in row-major order.

        s_r = LSTM(x_{r−1}, s_{r−1}),    out_r = MADE(x_r; s_r, x_{r−1}, x_{r−2}, x_{r−3}, c)

    An image of H rows costs H steps of the LSTM, not H·W.  Of several planes each is read after the one before; the perceptron
    then also sees that row, and its neighbours, in the planes before.

    Arguments:
        space: images (H, W) or (planes, H, W).
        given: features of the condition.
        channels: numbers of each cell.
        hidden: width of each LSTM, all equal.
        dropout: probability of zeroing a hidden feature in training.

    Raises:
        InputError: not an image.

    Source: van den Oord et al. (2016), arXiv:1601.06759, whose rows are convolved; Germain et al. (2015), arXiv:1502.03509.
    """

    any_order = False

    def __init__(self, space: Space, given: int, channels: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        picture = isinstance(space, Pixels) and len(space.shape) in (2, 3)
        require(picture, "network", "transformer or made for what is not an image", "rows")
        assert isinstance(space, Pixels)
        planes, height, self.width = (1, *space.shape)[-3:]
        self.rows, wide = planes * height, hidden[0]
        across = [plane * height + r for plane in range(1, planes) for r in (-1, 0, 1)]
        self.back = sorted({*range(1, ABOVE + 1), *(b for b in across if b >= 1)})
        row = Pixels((self.width,), space.levels)
        self.features = CellFeatures(row)
        seen = self.width * self.features.width
        self.run, self.dropout = LSTMs(wide, len(hidden), dropout, inputs=seen + given), nn.Dropout(dropout)
        units = (min(UNITS * self.width, MOST_UNITS),) * DEPTH
        self.row = MADE(row, wide + len(self.back) * seen + given, channels, units, dropout, False)
        self.register_buffer("natural", torch.arange(self.width), persistent=False)

    def forward(self, x: Tensor, c: Tensor, order: Tensor) -> Tensor:
        rows = x.reshape(-1, self.width)
        u = self.features(rows, self.row.skip.dtype).reshape(len(x), self.rows, -1)
        before = {b: pad(u, (0, 0, b, 0))[:, : self.rows] for b in self.back}
        told = c[:, None].expand(-1, self.rows, -1)
        s = self.dropout(self.run(torch.cat([before[1], told], 2)))
        out = self.row(rows, torch.cat([s, *before.values(), told], 2).flatten(0, 1), self.natural)
        return out.unflatten(0, (len(x), self.rows)).transpose(1, 2).flatten(2)

    def unroll(self, x: Tensor, c: Tensor, order: Tensor) -> Iterator[Tensor]:
        """As the base class says; the LSTMs step once for each row, and the perceptron reads one row for each cell."""
        u = x.new_zeros(len(x), max(self.back), self.width * self.features.width, dtype=self.row.skip.dtype)
        states = list[State]()
        for r in range(self.rows):
            s = self.run(torch.cat([u[:, -1], c], 1)[:, None], states)[:, 0]
            told = torch.cat([s, *(u[:, -b] for b in self.back), c], 1)
            row = x[:, r * self.width : (r + 1) * self.width]  # a view, which is filled on the way
            for column in range(self.width):
                seen = torch.where(self.natural < column, row, 0)
                yield self.row(seen, told, self.natural)[:, :, column]
            u = torch.cat([u[:, 1:], self.features(row, u.dtype).flatten(1)[:, None]], 1)
