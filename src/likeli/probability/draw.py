"""Drawing from a torch distribution with noise that the caller owns.

`torch.distributions` draws from the global generator; here the noise is an argument, so that a sample depends on its own stream
and a chain can be replayed.  Draws of continuous distributions are reparameterised: z = μ + σ·ε.

Symbols are drawn in double precision.  A float32 Gumbel variable −log(−log u), u a multiple of 2⁻²⁴, never exceeds 16.7, so
that argmax(log p + Gumbel) hardly ever gives a symbol whose probability is below 1e−7 of the most probable one's: 50,000 rare
symbols may together be lost (Zheng et al., 2024, arXiv:2409.02908).  `draw_symbols` inverts the distribution function in
float64 at a uniform number of 48 bits.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor
from torch import distributions as D

from likeli.errors import require
from likeli.random import Noise


def diagonal_gaussian(mean: Tensor, std: Tensor) -> D.Independent:
    """N(mean, diag(std²)) over everything but the first axis."""
    return D.Independent(D.Normal(mean, std, validate_args=False), mean.ndim - 1, validate_args=False)


def at_least_single(h: Tensor) -> Tensor:
    """h, in float32 if it came in a half precision: what autocast leaves is too coarse for the parameters of a distribution."""
    return h.float() if h.dtype in (torch.bfloat16, torch.float16) else h


@singledispatch
def draw(p: D.Distribution, noise: Noise) -> Tensor:
    """z ~ p, one draw for each row of p's batch, from `noise`; a distribution may also bring its own `draw(noise)`."""
    own = getattr(p, "draw", None)
    if own is None:
        raise TypeError(f"draw: no way to draw from {type(p).__name__} with given noise")
    return own(noise)


@draw.register
def _(p: D.Independent, noise: Noise) -> Tensor:
    return draw(p.base_dist, noise)


@draw.register
def _(p: D.Normal, noise: Noise) -> Tensor:
    return p.loc + p.scale * noise.normal(*_cells(p)).to(p.loc)


@draw.register
def _(p: D.MultivariateNormal, noise: Noise) -> Tensor:
    eps = noise.normal(*p.loc.shape[1:]).to(p.loc)
    return p.loc + (p._unbroadcasted_scale_tril @ eps[..., None])[..., 0]


@draw.register
def _(p: D.Bernoulli, noise: Noise) -> Tensor:
    return (noise.uniform(*_cells(p)).to(p.logits) < p.probs).to(p.logits.dtype)


@draw.register
def _(p: D.Categorical, noise: Noise) -> Tensor:
    u = noise.uniform(*_cells(p)).to(p.logits)
    cdf = p.probs.double().cumsum(-1)
    return torch.searchsorted(cdf / cdf[..., -1:], u.double()[..., None], right=True)[..., 0].clamp(max=cdf.shape[-1] - 1)


@draw.register
def _(p: D.TransformedDistribution, noise: Noise) -> Tensor:
    z = draw(p.base_dist, noise)
    for transform in p.transforms:
        z = transform(z)
    return z


def _cells(p: D.Distribution) -> tuple[int, ...]:
    return tuple(p.batch_shape[1:]) + tuple(p.event_shape)


def gaussian_product(mean_p: Tensor, std_p: Tensor, mean_d: Tensor, std_d: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of N ∝ N(μ_p, σ_p²)·N(μ_d, σ_d²): precisions add and weigh the means.

    Source: Sønderby et al. (2016), arXiv:1602.02282, equations 17 to 19.
    """
    weight = 1 / (1 + (std_d / std_p).square())  # the share of d: σ_p² / (σ_p² + σ_d²), never an infinite precision
    return mean_p + weight * (mean_d - mean_p), std_d * weight.sqrt()


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
