"""Networks from symbols to a guess of every cell that sees all the others: a transformer, a perceptron, for images a U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, layer_norm

from likeli.nn.embedding import Conditioner, NoiseLevel
from likeli.nn.mlp import Modulated
from likeli.nn.transformer import Block, heads_of, turns
from likeli.nn.unet import UNet
from likeli.spaces import Space

NEAR = 7  # cells that the convolution before the first block mixes


class SymbolTransformer(nn.Module):
    """(z (B, D) symbols, γ (B,), y) → (B, D, outputs) logits; every cell attends to all.

    In a row of symbols a cell also reads its neighbours by a convolution at the entry: attention needs long to find them.

    Arguments:
        states: what z can be in each cell, (D,); cells of one meaning share an embedding if `alike`.
        outputs: logits of each cell.
        hidden: width of each block, all equal.
        condition: what y is, or None.
        dropout: probability of zeroing a hidden feature in training.
        timed: whether γ is heard.
        alike: whether a symbol means the same in every cell, as in text, and not as in a table's columns.
    """

    def __init__(
        self,
        states: Sequence[int],
        outputs: int,
        hidden: tuple[int, ...],
        condition: Space | Conditioner | None = None,
        dropout: float = 0.0,
        timed: bool = False,
        alike: bool = True,
    ) -> None:
        super().__init__()
        cells, width, self.timed, self.alike = len(states), hidden[0], timed, alike
        sizes = torch.tensor([0, *states[:-1]]).cumsum(0) if not alike else torch.zeros(cells, dtype=torch.long)
        self.register_buffer("offset", sizes, persistent=False)
        self.embed = nn.Embedding(max(states) if alike else sum(states), width)
        self.near = nn.Conv1d(width, width, NEAR, padding=NEAR // 2) if alike else None
        self.place = nn.Parameter((0.02 if alike else 0.5) * torch.randn(cells, width))
        self.level = NoiseLevel(width, condition) if timed or condition is not None else None
        self.blocks = nn.ModuleList(Block(width, dropout, steered=self.level is not None) for _ in hidden)
        self.weight = nn.Parameter(torch.zeros(1 if alike else cells, width, outputs))
        self.bias = nn.Parameter(torch.zeros(1 if alike else cells, outputs))
        nn.init.normal_(self.embed.weight, std=0.5)
        turn = turns(cells, width // heads_of(width)) if alike else None  # columns of a table stand in no order
        self.register_buffer("turn", turn, persistent=False)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        e = None if self.level is None else self.level(gamma if self.timed else torch.zeros_like(gamma), y)
        h = self.embed(z.long() + self.offset)
        h = (h if self.near is None else h + self.near(h.mT).mT) + self.place
        for block in self.blocks:
            h = block(h, e, self.turn)
        h = layer_norm(h, h.shape[-1:])
        if self.alike:
            return h @ self.weight[0] + self.bias
        return (h[:, :, None] @ self.weight)[:, :, 0] + self.bias


class SymbolPerceptron(nn.Module):
    """(z (B, D) symbols, γ (B,), y) → (B, D, outputs) logits by residual layers over all cells at once.

    A step takes a small part of a transformer's, which has a token for each of a table's columns.

    Arguments:
        states: what z can be in each cell, (D,).
        outputs: logits of each cell.
        hidden: width of each block, all equal.
        condition: what y is, or None.
        dropout: probability of zeroing a hidden feature in training.
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
        cells, width, self.timed = len(states), hidden[0], timed
        self.register_buffer("offset", torch.tensor([0, *states[:-1]]).cumsum(0), persistent=False)
        self.embed = nn.Embedding(sum(states), width)
        nn.init.normal_(self.embed.weight, std=cells**-0.5)
        self.level = NoiseLevel(128, condition)
        self.blocks = nn.ModuleList(Modulated(width, 128, dropout) for _ in hidden)
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, cells * outputs)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        e = self.level(gamma if self.timed else torch.zeros_like(gamma), y)
        h = embedding_bag(z.long() + self.offset, self.embed.weight, mode="sum")
        for block in self.blocks:
            h = block(h, e)
        return self.leave(self.norm(h)).reshape(*z.shape, -1)


class SymbolImage(nn.Module):
    """The same by a U-Net, which sees z as grey levels and, as further colours, where it is masked.

    Arguments:
        shape: one image, (H, W) or (C, H, W).
        symbols: grey levels; z may be one more, [MASK].
        hidden: a U-Net's channels at each resolution.
        condition: what y is, or None.
        dropout: probability of zeroing a hidden feature in training.
        timed: whether γ is heard.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        symbols: int,
        hidden: tuple[int, ...],
        condition: Space | Conditioner | None = None,
        dropout: float = 0.0,
        timed: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.symbols, self.timed = shape, symbols, timed
        self.colours = shape[0] if len(shape) == 3 else 1
        seen, attention = (2 * self.colours, *shape[-2:]), max(16, shape[-1] * shape[-2] // 16)
        self.net = UNet(seen, hidden, symbols, condition, dropout, 1, attention)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        image = z.reshape(len(z), self.colours, *self.shape[-2:])
        masked = image == self.symbols
        grey = (2 * image.to(gamma) + 1) / self.symbols - 1
        seen = torch.cat([grey.masked_fill(masked, 0), masked.to(gamma)], 1)
        out = self.net(seen, gamma if self.timed else torch.zeros_like(gamma), y)
        return out[:, :, : self.colours].flatten(2).mT
