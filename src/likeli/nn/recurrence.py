"""Long short-term memory over a row of symbols: from its beginning, or from either end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from likeli.errors import require
from likeli.nn.embedding import Conditioner, NoiseLevel
from likeli.nn.masked import CausalNetwork
from likeli.spaces import Space

State = tuple[Tensor, Tensor]  # h and c of a layer, (1, B, width)


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
        self.dropout = nn.Dropout(dropout)

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
