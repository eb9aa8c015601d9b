"""What a diffusion's chain keeps: where it stands, and the rows of its bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

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


def reference_error(u: Tensor, eps: Tensor, at: Point) -> Tensor:
    """‖ε − ε̂_ref‖² at z = α u + σ ε, (B,)."""
    return reference_cells(u, eps, at.like(u)).flatten(1).sum(1)


def reference_cells(u: Tensor, eps: Tensor, at: Point) -> Tensor:
    """(ε − ε̂_ref)² cell by cell, (B, ...), at a point that is ready to multiply u."""
    scale = at.alpha / (at.alpha.square() + at.sigma.square())
    return (scale * (at.alpha * eps - at.sigma * u)).square()


def reference_integral(u: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """∫ E_ε ‖ε − ε̂_ref‖² dγ from γ = `first` to `last`, (B,)."""
    fall = (-first).sigmoid() - (-last).sigmoid()
    squares = u.square().flatten(1).sum(1)
    return (softplus(-first) - softplus(-last) - fall).to(u) * u[0].numel() + fall.to(u) * squares
