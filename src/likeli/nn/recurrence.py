"""Long short-term memory over a row of symbols, from its beginning or from either end, and down the rows of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from likeli.errors import require
from likeli.nn.embedding import Conditioner, NoiseLevel
from likeli.nn.masked import MADE, CausalNetwork, CellFeatures
from likeli.nn.mlp import ByteDropout
from likeli.spaces import Pixels, Space

State = tuple[Tensor, Tensor]  # h and c of a layer, (1, B, width)
ABOVE = 3  # rows of an image that the perceptron sees as they are
UNITS, MOST_UNITS, DEPTH = 8, 512, 2  # of the perceptron: hidden units for each cell of a row, at most in all, and layers


class LSTMs(nn.Module):
    """LSTM layers of one width, one on top of the other, with dropout between them.

    Arguments:
        width: features of each layer.
        layers: how many.
        dropout: probability of zeroing a feature between two layers in training.
        both: whether each layer runs from either end, so that twice the width comes out.
        inputs: features that come in; as many as `width` if not given.

    Source: Hochreiter & Schmidhuber (1997), Neural Computation 9; Graves & Schmidhuber (2005), Neural Networks 18.
    """

    def __init__(self, width: int, layers: int, dropout: float, both: bool = False, inputs: int | None = None) -> None:
        super().__init__()
        wide = [inputs or width, *[(1 + both) * width] * (layers - 1)]
        self.layers = nn.ModuleList(nn.LSTM(w, width, batch_first=True, bidirectional=both) for w in wide)
        self.dropout = ByteDropout(dropout)

    def forward(self, h: Tensor, states: list[State] | None = None) -> Tensor:
        """(B, D, inputs) → (B, D, width), or twice the width.

        Arguments:
            states: of each layer, to begin with, which are replaced by those at the end; all zeros if the list is empty.
        """
        after = list[State]()
        for i, layer in enumerate(self.layers):
            h, last = layer(self.dropout(h) if i else h, states[i] if states else None)
            after.append(last)
        if states is not None:
            states[:] = after
        return h


class CausalLSTM(CausalNetwork):
    """Row t reads the symbol before it, and what LSTMs remember of those before; a draw costs the same at every place.

    Arguments:
        space: rows of symbols.
        given: features of the condition.
        channels: numbers of each cell.
        hidden: width of each layer, all equal.
        dropout: probability of zeroing a feature between two layers in training.

    Raises:
        InputError: cells that are no symbols of one meaning.
    """

    any_order = False

    def __init__(self, space: Space, given: int, channels: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        alike = space.symbols > 0 and space.widths is None
        require(alike, "network", "transformer or made for what is no row of symbols", "lstm")
        width, self.cells = hidden[0], space.dimensions
        self.values, self.start = nn.Embedding(space.symbols, width), nn.Parameter(0.02 * torch.randn(width))
        self.given = nn.Linear(given, width, bias=False) if given else None
        self.run, self.leave = LSTMs(width, len(hidden), dropout), nn.Linear(width, channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, c: Tensor, order: Tensor) -> Tensor:
        h = self.values(x[:, : order.shape[-1] - 1].long())
        h = torch.cat([self.start.to(h.dtype).expand(len(x), 1, -1), h], 1)
        h = self.run(h if self.given is None else h + self.given(c)[:, None])
        return pad(self.leave(h).mT, (0, self.cells - h.shape[1]))

    def unroll(self, x: Tensor, c: Tensor, order: Tensor) -> Iterator[Tensor]:
        told, states = 0 if self.given is None else self.given(c)[:, None], list[State]()
        for t in range(order.shape[-1]):
            h = self.values(x[:, t - 1 : t].long()) if t else self.start.expand(len(x), 1, -1)
            yield self.leave(self.run(h + told, states))[:, 0]


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
        picture = space.symbols > 0 and len(space.shape) in (2, 3)
        require(picture, "network", "transformer or made for what is not an image", "rows")
        planes, height, self.width = (1, *space.shape)[-3:]
        self.rows, wide = planes * height, hidden[0]
        across = [plane * height + r for plane in range(1, planes) for r in (-1, 0, 1)]
        self.back = sorted({*range(1, ABOVE + 1), *(b for b in across if b >= 1)})
        row = Pixels((self.width,), space.symbols)
        self.features = CellFeatures(row)
        seen = self.width * self.features.width
        self.run, self.dropout = LSTMs(wide, len(hidden), dropout, inputs=seen + given), ByteDropout(dropout)
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


class SymbolRecurrence(nn.Module):
    """(z (B, D) symbols, γ (B,), y) → (B, D, outputs) logits; LSTMs run over a row from either end and meet at each cell.

    What is known of a gap passes from cell to cell, as in the forward-backward recursion of a Markov chain, so that sources of
    short memory are learned in a fraction of the steps that attention needs.

    Arguments:
        states: what z can be in each cell, (D,), of one meaning everywhere.
        outputs: logits of each cell.
        hidden: width of each layer, all equal.
        condition: what y is, or None.
        dropout: probability of zeroing a feature between two layers in training.
        timed: whether γ is heard.
    """

    def __init__(
        self,
        states: Sequence[int],
        outputs: int,
        hidden: tuple[int, ...],
        condition: Space | Conditioner | None = None,
        dropout: float = 0.0,
        timed: bool = False,
    ) -> None:
        super().__init__()
        width, self.timed = hidden[0], timed
        self.embed, self.place = nn.Embedding(max(states), width), nn.Parameter(0.02 * torch.randn(len(states), width))
        self.level = NoiseLevel(width, condition) if timed or condition is not None else None
        self.run, self.leave = LSTMs(width, len(hidden), dropout, both=True), nn.Linear(2 * width, outputs)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.embed(z.long()) + self.place
        if self.level is not None:
            h = h + self.level(gamma if self.timed else torch.zeros_like(gamma), y)[:, None]
        return cast(Tensor, self.leave(self.run(h)))
