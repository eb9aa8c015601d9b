"""What a diffusion's chain keeps: where it stands, and the rows of its bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from likeli.diffusion.schedule import Point


class State(NamedTuple):
    """Where the chain stands: every level's point, the current one (None above the top) and z there."""

    points: Point
    at: Point | None
    z: Tensor


@dataclass(frozen=True)
class Ledger:
    """The bound in its three rows, nats per example in the user's units.

    Arguments:
        prior: (B,) KL(q(z_1|x) ‖ p(z_1)), the terminal mismatch.
        reconstruction: (B,) log p(x|z_0).
        diffusion: (B, levels) the KLs between, next to the data first, or (B, 1) for their estimated sum.
    """

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor

    @property
    def value(self) -> Tensor:
        """reconstruction − prior − Σ diffusion, (B,)."""
        return self.reconstruction - self.prior - self.diffusion.sum(1)


def standard_error(draws: Tensor) -> Tensor:
    """sd/√K over the first axis, NaN for one draw."""
    return draws.std(0) / math.sqrt(len(draws)) if len(draws) > 1 else torch.full_like(draws[0], math.nan)


def pick(points: Point, level: int) -> Point:
    """The point of one level, counted from 1."""
    return Point(*(v[level - 1] for v in points))
