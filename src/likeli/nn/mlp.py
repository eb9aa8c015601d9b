"""Fully connected networks."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from likeli.errors import require
from likeli.nn.embedding import Conditioner, NoiseLevel
from likeli.spaces import Space

ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "softplus": nn.Softplus}


def check_layers(hidden: tuple[int, ...], dropout: float) -> None:
    """Refuse hidden layers without a feature, and a dropout that is no probability below 1.

    Raises:
        InputError: one of the two.
    """
    require(all(width >= 1 for width in hidden), "hidden", "widths of at least 1", hidden)
    require(0 <= dropout < 1, "dropout", "a probability below 1", dropout)


class ByteDropout(nn.Dropout):
    """x m / P(m = 1) in training, m being 0 in about p of the cells: a 64-bit number decides over eight of them.

    torch draws a number for each cell, which on a CPU takes as long as a small layer.  p is taken to the next 256th.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) if self.training and self.p > 0 else x

    def mask(self, x: Tensor) -> Tensor:
        """m / P(m = 1), of x's shape, type and layout in memory."""
        kept = min(max(round(256 * (1 - self.p)), 1), 255)
        last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        shape = (len(x), *x.shape[2:], x.shape[1]) if last else x.shape
        cells = math.prod(shape[1:])
        drawn = torch.randint(-(2**63), 2**63 - 1, (len(x), -(-cells // 8)), device=x.device)
        mask = (drawn.view(torch.uint8)[:, :cells] < kept).reshape(shape).to(x.dtype).mul_(256 / kept)
        return mask.movedim(-1, 1) if last else mask


class MLP(nn.Sequential):
    """Linear layers with an activation and dropout between them, (B, inputs) → (B, outputs).

    Arguments:
        inputs, outputs: features in and out.
        hidden: width of each hidden layer; empty for one linear map.
        activation: a key of `ACTIVATIONS`.
        dropout: probability of zeroing a hidden feature in training.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: tuple[int, ...] = (256, 256), activation: str = "silu", dropout: float = 0.0
    ) -> None:
        check_layers(hidden, dropout)
        widths, layers = [inputs, *hidden], []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()] + ([ByteDropout(dropout)] if dropout else [])
        super().__init__(*layers, nn.Linear(widths[-1], outputs))


class Residual(nn.Module):
    """h + W₂ σ(W₁ norm(h)), with W₂ zero at the start so that a deep stack begins as the identity.

    Arguments:
        width: features.
        dropout: probability of zeroing a hidden feature in training.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.branch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), ByteDropout(dropout), last)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class Modulated(nn.Module):
    """h + W₂ σ((1 + a(e)) · W₁ norm(h) + b(e)): a residual block that the noise level e steers.

    Arguments:
        width: features of h.
        features: features of e.
        dropout: probability of zeroing a hidden feature in training.
    """

    def __init__(self, width: int, features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.steer = nn.Linear(features, 2 * width)
        self.dropout = ByteDropout(dropout)
        for layer in (self.last, self.steer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.steer(e).chunk(2, 1)
        inner = torch.addcmul(shift, self.first(self.norm(h)), 1 + scale)
        return h + self.last(self.dropout(nn.functional.silu(inner)))


class DenoisingMLP(nn.Module):
    """(z (B, *shape), γ (B,), y) → (B, outputs, *shape), or (B, *shape) for one output.

    Arguments:
        shape: one z.
        hidden: width of each residual block.
        outputs: numbers for each cell.
        condition: what y is, or None.
        dropout: probability of zeroing a hidden feature in training.
        waves: angular frequencies k whose sin kz and cos kz are further inputs: narrow modes need them.
        views: how many tensors like z it sees side by side, (B, views · cells).
    """

    waves: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: tuple[int, ...] = (256, 256, 256),
        outputs: int = 1,
        condition: Space | Conditioner | None = None,
        dropout: float = 0.0,
        waves: tuple[float, ...] = (),
        views: int = 1,
    ) -> None:
        super().__init__()
        self.shape, self.outputs = shape, outputs
        cells, width = math.prod(shape), hidden[0]
        self.level = NoiseLevel(128, condition)
        self.register_buffer("waves", torch.tensor(waves), persistent=False)
        self.enter = nn.Linear(views * cells * (1 + 2 * len(waves)), width)
        self.blocks = nn.ModuleList(Modulated(width, 128, dropout) for _ in hidden)
        self.leave = nn.Linear(width, cells * outputs)
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        e, h = self.level(gamma, y), z.flatten(1)
        if len(self.waves):
            angles = (h[:, None] * self.waves[:, None]).flatten(1)
            h = torch.cat([h, angles.sin(), angles.cos()], 1)
        h = self.enter(h)
        for block in self.blocks:
            h = block(h, e)
        return self.leave(self.norm(h)).reshape(len(z), *([self.outputs] if self.outputs > 1 else []), *self.shape)
