"""Conditions and times as network inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from likeli.spaces import Space


class Condition(nn.Module):
    """y as a flat row of features: one-hot labels, class mixtures, standardised vectors; no features when there is no y.

    Arguments:
        space: what y is, or None.

    `width` is the number of features.
    """

    def __init__(self, space: Space | None) -> None:
        super().__init__()
        self.space = space
        self.width = math.prod(space.model_shape) if space is not None else 0

    def forward(self, y: Tensor | None, like: Tensor) -> Tensor:
        """(B, *condition.shape) → (B, width), with the dtype and device of `like`, whose first axis is B."""
        if self.space is None or y is None:
            return like.new_zeros(len(like), self.width)
        return self.space.to_model(y, like.dtype).to(like.device).flatten(1)


class Fourier(nn.Module):
    """cos and sin of t at `width`/2 geometric frequencies from 1 to `top`, (B,) → (B, width).

    Arguments:
        width: even.
        top: highest frequency.
    """

    def __init__(self, width: int, top: float = 1000.0) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, math.log(top), width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies.to(t)
        return torch.cat([angles.cos(), angles.sin()], 1)


class NoiseLevel(nn.Module):
    """γ and y as one row of features, the same network input for every schedule.

    Arguments:
        width: features out.
        condition: what y is, or None.
    """

    def __init__(self, width: int, condition: Space | None = None) -> None:
        super().__init__()
        self.fourier = Fourier(min(width, 64), top=100.0)
        self.condition = Condition(condition)
        self.level = nn.Linear(min(width, 64), width)
        self.given = nn.Linear(self.condition.width, width, bias=False) if self.condition.width else None
        if self.given is not None:  # a smaller start is not heard beside the level, and never learned
            nn.init.normal_(self.given.weight)
        self.out = nn.Linear(width, width)

    def forward(self, gamma: Tensor, y: Tensor | None = None) -> Tensor:
        """γ (B,), y (B, *condition.shape) → (B, width)."""
        h = self.level(self.fourier(gamma / 40))  # γ in ±20 turns the lowest frequency by ±½ and the highest by ±50
        if self.given is not None:
            h = h + self.given(self.condition(y, h))
        return nn.functional.silu(self.out(nn.functional.silu(h)))
