"""A causal transformer over the cells of an example, one after the other in any order, with a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, pad, scaled_dot_product_attention

from likeli.nn.masked import CausalNetwork, CellFeatures
from likeli.nn.mlp import ByteDropout
from likeli.nn.transformer import heads_of
from likeli.spaces import Space

REACH = 4  # cells that the short convolution before each attention mixes


class CellMap(nn.Module):
    """A linear map of its own for each cell: (B, D, inputs) → (B, D, outputs).

    Arguments:
        cells: D.
        inputs, outputs: features in and out.
        start: standard deviation of the weights at the start, times √inputs.
    """

    def __init__(self, cells: int, inputs: int, outputs: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(start * inputs**-0.5 * torch.randn(cells, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(cells, outputs))

    def forward(self, h: Tensor) -> Tensor:
        return torch.einsum("bdi,dio->bdo", h, self.weight.to(h.dtype)) + self.bias.to(h.dtype)


class CausalBlock(nn.Module):
    """h + attention(conv(norm h)), then h + two linear layers of norm h; conv mixes each cell with the three read before it.

    All heads share one key and one value of a cell: drawing waits for memory, and so reads less of it.

    Arguments:
        width: features of a cell.
        dropout: probability of zeroing a feature that a branch adds, in training.

    Source: Vaswani et al. (2017), arXiv:1706.03762; So et al. (2021), arXiv:2109.08668, for the convolution; Shazeer (2019),
    arXiv:1911.02150, for the shared keys.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.mix = nn.Parameter(torch.eye(REACH)[-1:].T.repeat(1, width))  # (REACH, width): the cell itself at the start
        self.sizes = [width, width // self.heads, width // self.heads]
        self.enter, self.leave = nn.Linear(width, sum(self.sizes)), nn.Linear(width, width)
        self.first, self.last = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gains = nn.Parameter(torch.ones(2, width))
        self.dropout = ByteDropout(dropout)
        for layer in (self.leave, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        """All cells at once, (B, t, width) → (B, t, width)."""
        u = pad(layer_norm(h, h.shape[-1:]) * self.gains[0], (0, 0, REACH - 1, 0))
        mixed = sum(u[:, k : k + h.shape[1]] * self.mix[k] for k in range(REACH))
        q, k, v = self.enter(mixed).split(self.sizes, -1)
        attended = look_back(q.unflatten(2, (self.heads, -1)).transpose(1, 2), k, v)
        return self._rest(h + self.dropout(self.leave(attended.transpose(1, 2).flatten(2))))

    def step(self, h: Tensor, t: int, cache: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Cell number t alone, (B, width), after those whose keys, values and norms are in the cache."""
        keys, values, recent = cache
        recent.copy_(recent.roll(-1, 1))
        recent[:, -1] = layer_norm(h, h.shape[-1:]) * self.gains[0]
        q, keys[:, t], values[:, t] = self.enter((recent * self.mix).sum(1)).split(self.sizes, -1)
        q = q.unflatten(1, (self.heads, -1))
        weights = (q * q.shape[-1] ** -0.5 @ keys[:, : t + 1].mT).softmax(-1)
        return self._rest(h + self.leave((weights @ values[:, : t + 1]).flatten(1)))

    def cache(self, rows: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
        """Room for keys and values (rows, cells, width / heads), and for the last norms (rows, REACH, width)."""
        keys, values = (self.mix.new_empty(rows, cells, size) for size in self.sizes[1:])
        return keys, values, self.mix.new_zeros(rows, REACH, self.sizes[0])

    def _rest(self, h: Tensor) -> Tensor:
        inner = gelu(self.first(layer_norm(h, h.shape[-1:]) * self.gains[1]), approximate="tanh")
        return h + self.dropout(self.last(inner))


def look_back(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v over a cell and those before it, with one key for all heads.

    Arguments:
        q: (B, heads, n, d).
        k, v: (B, n, d).
    """
    n = q.shape[2]
    if q.device.type == "cpu" and (n <= 64 or q.dtype == torch.bfloat16):  # where torch's kernel takes longer
        scores = ((q * q.shape[-1] ** -0.5).flatten(1, 2) @ k.mT).unflatten(1, (-1, n))
        weights = (scores + scores.new_full((n, n), -torch.inf).triu(1)).softmax(-1).to(v.dtype)
        return (weights.flatten(1, 2) @ v).unflatten(1, (-1, n))
    return scaled_dot_product_attention(q, k[:, None].expand_as(q), v[:, None].expand_as(q), is_causal=True)


class CausalTransformer(CausalNetwork):
    """Row t reads the value of the cell before it in the order, and says what the cell at place t is like.

    Arguments:
        space: what one example is.
        given: features of the condition.
        channels: numbers of each cell.
        hidden: width of each block, all equal.
        dropout: probability of zeroing what a branch adds, in training.
        presence: whether orders change, so that a row is also told where the value that it reads belongs.
    """

    any_order = True

    def __init__(
        self, space: Space, given: int, channels: int, hidden: tuple[int, ...], dropout: float, presence: bool
    ) -> None:
        super().__init__()
        cells, width, symbols = space.dimensions, hidden[0], space.symbols
        self.features = CellFeatures(space)
        self.values: nn.Module = nn.Embedding(symbols, width) if symbols else CellMap(cells, self.features.width, width)
        self.place, self.start = nn.Parameter(0.02 * torch.randn(cells, width)), nn.Parameter(0.02 * torch.randn(width))
        self.came = nn.Parameter(0.02 * torch.randn(cells, width)) if presence else None
        self.given = nn.Linear(given, width, bias=False) if given else None
        self.blocks = nn.ModuleList(CausalBlock(width, dropout) for _ in hidden)
        self.norm, self.dropout = nn.LayerNorm(width), ByteDropout(dropout)
        self.leave: nn.Module = nn.Linear(width, channels) if symbols else CellMap(cells, width, channels, 0.0)
        self.shared = symbols > 0
        if isinstance(self.values, nn.Embedding):
            self._begin(self.values, space)
        if isinstance(self.leave, nn.Linear):
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, c: Tensor, order: Tensor) -> Tensor:
        order = order.expand(len(x), -1)
        h = self._enter(self._values(x, order[:, :-1]), order)
        h = self.dropout(h if self.given is None else h + self.given(c)[:, None])
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        if self.shared:
            out = self.leave(h)
            spread = out.new_zeros(len(x), len(self.place), out.shape[2])
            return spread.scatter(1, order[..., None].expand_as(out), out).mT
        spread = h.new_zeros(len(x), len(self.place), h.shape[2])
        return self.leave(spread.scatter(1, order[..., None].expand_as(h), h)).mT

    def unroll(self, x: Tensor, c: Tensor, order: Tensor) -> Iterator[Tensor]:
        order, told = order.expand(len(x), -1), 0 if self.given is None else self.given(c)
        caches = [block.cache(len(x), order.shape[1]) for block in self.blocks]
        for t in range(order.shape[1]):
            now = order[:, max(t - 1, 0) : t + 1]
            h = self._enter(self._values(x, now[:, :-1]), now, first=t == 0)[:, -1] + told
            for block, cache in zip(self.blocks, caches):
                h = block.step(h, t, cache)
            h = self.norm(h)
            if self.shared:
                yield self.leave(h)
            else:
                cell = now[:, -1]
                yield torch.einsum("bi,bio->bo", h, self.leave.weight[cell]) + self.leave.bias[cell]

    def _values(self, x: Tensor, cells: Tensor) -> Tensor:
        """Embedded values of cells (B, t)."""
        if isinstance(self.values, nn.Embedding):
            return self.values(x.gather(1, cells).long())
        every = self.values(self.features(x, self.place.dtype))
        return every.gather(1, cells[..., None].expand(-1, -1, every.shape[2]))

    def _enter(self, values: Tensor, order: Tensor, first: bool = True) -> Tensor:
        """Values (B, t − 1) of all but the last of the order, behind the start if it is first, with their places, (B, t, …)."""
        if self.came is not None:
            values = values + self.came[order[:, :-1]]
        if first:
            values = torch.cat([self.start.expand(len(order), 1, -1).to(values.dtype), values], 1)
        return values + self.place[order[:, order.shape[1] - values.shape[1] :]]

    @torch.no_grad()
    def _begin(self, values: nn.Embedding, space: Space) -> None:
        """Ordered levels start on a line, so that those that are seldom seen are read like their neighbours."""
        book = space.codebook(self.place)
        nn.init.normal_(values.weight, std=0.1)
        if book is not None and len(book) > 1:
            values.weight.mul_(0.2).add_((book / book.abs().max())[:, None] * 0.1 * torch.randn(values.weight.shape[1]))
