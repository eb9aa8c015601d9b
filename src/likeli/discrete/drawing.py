"""Draws of symbols in double precision.

A float32 Gumbel variable −log(−log u), u a multiple of 2⁻²⁴, never exceeds 16.7, so that argmax(log p + Gumbel) hardly ever
gives a symbol whose probability is below 1e−7 of the most probable one's: 50,000 rare symbols may together be lost.  Here the
distribution function is inverted in float64 at a uniform number of 48 bits.

Source: Zheng et al. (2024), arXiv:2409.02908, who found samples of masked diffusion to be sharpened by float32 Gumbel noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from likeli.errors import require
from likeli.random import Noise


def uniform_48(noise: Noise, *shape: int) -> Tensor:
    """Uniform on [0, 1) in multiples of 2⁻⁴⁸ or finer, (rows, *shape) float64, from two draws of at least 24 bits."""
    coarse, fine = noise.uniform(2, *shape).double().unbind(1)
    return (coarse * 2**24).floor() * 2.0**-24 + fine * 2.0**-24


def draw_symbols(log_p: Tensor, noise: Noise) -> Tensor:
    """One symbol of each cell by its log probabilities (rows, *cells, states), unnormalised: (rows, *cells)."""
    cdf = log_p.double().softmax(-1).cumsum(-1)
    u = uniform_48(noise, *log_p.shape[1:-1]).to(cdf)[..., None] * cdf[..., -1:]
    last = (log_p > log_p.amax(-1, keepdim=True) - 1000).int().cumsum(-1).argmax(-1)  # never one of no mass
    return torch.minimum(torch.searchsorted(cdf, u, right=True)[..., 0], last)


def tempered(log_p: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """log p ∝ log p/T, then the most probable symbols alone that together have at least mass top_p; draws are then not p's.

    Raises:
        InputError: a temperature that is not positive, a mass outside (0, 1].
    """
    require(temperature > 0, "temperature", "a positive number", temperature)
    require(0 < top_p <= 1, "top_p", "above 0 and at most 1", top_p)
    log_p = (log_p.double() / temperature).log_softmax(-1)
    if top_p == 1:
        return log_p
    ordered, place = log_p.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    return log_p.masked_fill((before >= top_p).gather(-1, place.argsort(-1)), -torch.inf)
