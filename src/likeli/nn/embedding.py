"""Conditions and times as network inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from likeli.space import Space


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
