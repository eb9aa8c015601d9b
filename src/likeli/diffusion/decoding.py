"""From model units back to the user's: p(x | z) for the clean end of a diffusion, and what z says of each discrete cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from likeli.distributions import diagonal_gaussian
from likeli.errors import Unsupported
from likeli.observation.pixels import CategoricalCells
from likeli.space import Pixels, Real, Space, Tokens


def evidence(space: Space, z: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """log N(z_i; α c_k, σ²) up to a constant, for every symbol k of every cell i: (B, *model_shape) → (B, K, *shape).

    c_k is the symbol in model units: the centre of a grey level's bin, or the k-th unit vector.
    """
    if isinstance(space, Tokens):
        return (z * (alpha / sigma**2)).movedim(-1, 1)
    assert isinstance(space, Pixels)
    alpha, sigma = (v[:, None] if isinstance(v, Tensor) and v.ndim else v for v in (alpha, sigma))
    levels = symbols(space, z).reshape(-1, *[1] * (z.ndim - 1))
    return -0.5 * ((z[:, None] - alpha * levels) / sigma).square()


def symbols(space: Pixels, like: Tensor) -> Tensor:
    """The grey levels in model units, (K,)."""
    return space.to_model(torch.arange(space.levels, device=like.device), like.dtype)


def gaussian_cells(space: Space, mean: Tensor, std: Tensor) -> Distribution:
    """N(mean, std²) in model units as a distribution of x in the user's units, with the Jacobian in its log_prob.

    Arguments:
        space: reals give the Gaussian itself; grey levels and symbols give P(k) ∝ N(c_k; mean, std²), cell by cell.
        mean: (B, *model_shape).
        std: one number.
    """
    if isinstance(space, Real):
        centre = space.from_model(mean)
        return diagonal_gaussian(centre, (space.from_model(mean + std) - centre).abs())
    return CategoricalCells(evidence(space, mean, 1.0, std))


def clean_gamma(space: Space) -> float:
    """γ at which z still tells the cell's symbol: half the distance of two symbols is four σ/α; −10 for reals."""
    if isinstance(space, Real):
        return -10.0
    distance = space.bin_width if isinstance(space, Pixels) else math.sqrt(2)
    return 2 * math.log(distance / 8)


def check_space(space: Space, family: str) -> None:
    """Refuse what a Gaussian diffusion cannot take.

    Raises:
        Unsupported: neither reals, grey levels nor symbols.
    """
    if not isinstance(space, (Real, Pixels, Tokens)):
        raise Unsupported(f"{family} takes reals, grey levels and symbols, not {space.kind()}; vae takes them")
