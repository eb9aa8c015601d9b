"""The parts of a residual ladder: a bottom-up stack that reads x, and top-down levels that carry the state h.

Dense parts work on (B, width); convolutional ones on (B, width, H/patch, W/patch), one grid for all levels.  Every residual
branch ends in zeros, so that a ladder of any depth begins as the identity and stays trainable.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.errors import require
from likeli.nn.mlp import Residual

Network = Literal["mlp", "conv"]


class ConvResidual(nn.Module):
    """h + W₂ * σ(W₁ * σ(h)), two 3×3 convolutions, the second zero at the start.

    Arguments:
        width: channels.
        dropout: probability of zeroing a hidden channel in training.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.branch = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Dropout2d(dropout), last
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


class Grid:
    """How one kind of network lays out its features: its pointwise map, its residual block and the shape of its state.

    Arguments:
        network: mlp or conv.
        shape: of one example as `Space.to_model` gives it.
        width: features.
        patch: side of the square of pixels that becomes one cell of a convolutional grid.
        dropout: of the residual blocks.
    """

    def __init__(self, network: Network, shape: tuple[int, ...], width: int, patch: int, dropout: float) -> None:
        self.network, self.shape, self.width, self.patch, self.dropout = network, shape, width, patch, dropout
        if network == "conv":
            require(len(shape) in (2, 3), "network", "mlp for data that are not images", network)
            sides = shape[-2:]
            require(all(s % patch == 0 for s in sides), "patch", f"a divisor of {sides[0]} and {sides[1]}", patch)
            self.cells: tuple[int, ...] = (sides[0] // patch, sides[1] // patch)
        else:
            self.cells = ()

    @property
    def inputs(self) -> int:
        """Features of one cell of the input."""
        return math.prod(self.shape) // math.prod(self.cells)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """A map of each cell's features."""
        return nn.Conv2d(inputs, outputs, 1) if self.cells else nn.Linear(inputs, outputs)

    def blocks(self, n: int) -> nn.Sequential:
        """n residual blocks."""
        block = ConvResidual if self.cells else Residual
        return nn.Sequential(*(block(self.width, self.dropout) for _ in range(n)))

    def fold(self, u: Tensor) -> Tensor:
        """(B, *shape) → (B, inputs, *cells)."""
        if not self.cells:
            return u.flatten(1)
        return F.pixel_unshuffle(u.reshape(len(u), -1, *self.shape[-2:]), self.patch)

    def unfold(self, h: Tensor, channels: int, shape: tuple[int, ...]) -> Tensor:
        """(B, channels·prod(shape), *1) → (B, channels, *shape), the inverse layout of `fold`."""
        h = F.pixel_shuffle(h, self.patch) if self.cells else h
        return h.reshape(len(h), channels, *shape)

    def spread(self, y: Tensor) -> Tensor:
        """(B, width) → (B, width, 1, …), to be added to every cell."""
        return y.reshape(*y.shape, *(1 for _ in self.cells))


class Level(nn.Module):
    """One top-down level: from the state h, the prior's parameters; from h or e, the evidence's; into h, its draw.

    Arguments:
        grid: the layout.
        latent: latent features of a cell.
        blocks: residual blocks below the draw.
        depth: levels of the ladder; the draw's map into h is scaled by 1/√depth.
        evidence_inputs: features the evidence is read from.
        condition: features of y.
    """

    def __init__(self, grid: Grid, latent: int, blocks: int, depth: int, evidence_inputs: int, condition: int) -> None:
        super().__init__()
        self.prior, self.evidence = grid.linear(grid.width, 2 * latent), grid.linear(evidence_inputs, 2 * latent)
        self.inject, self.blocks = grid.linear(latent, grid.width), grid.blocks(blocks)
        self.condition = nn.Linear(condition, grid.width, bias=False) if condition else None
        for head in (self.prior, self.evidence):
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.weight.mul_(0.1)
        with torch.no_grad():
            self.inject.weight.mul_(1 / math.sqrt(depth))


def gaussian_parameters(out: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2L, …) → mean and standard deviation, each (B, L, …); log σ is kept inside ±7 smoothly."""
    out = out.float() if out.dtype in (torch.bfloat16, torch.float16) else out  # a KL of half-precision numbers is noise
    mean, log_std = out.chunk(2, 1)
    return mean, (7 * (log_std / 7).tanh()).exp()
