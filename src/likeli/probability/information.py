"""Surprise, entropy, cross-entropy and divergences, in nats.

    H(P) = E_P[−log P],   H(P, Q) = E_P[−log Q] = H(P) + KL(P‖Q),   KL(P‖Q) = E_P[log P − log Q] ≥ 0

A distribution is a table of probabilities (..., K) or a torch distribution.  Tables and Gaussians are exact; anything else is a
Monte Carlo average with its standard error.  KL is +∞ where P has mass and Q has none, 0·log 0 is 0, and nothing here returns
NaN for valid input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from likeli.errors import InputError, require
from likeli.random import seeded

Distribution = Tensor | D.Distribution
SAMPLES = 10_000


@dataclass(frozen=True)
class Nats:
    """A number of nats that knows how it may be wrong.

    Arguments:
        value: one number per distribution of the batch.
        stderr: Monte Carlo standard error; None when the value is exact.
        samples: draws behind it.
    """

    value: Tensor
    stderr: Tensor | None = None
    samples: int | None = None

    @property
    def bits(self) -> Nats:
        """The same in bits: divided by log 2."""
        return Nats(self.value / math.log(2), None if self.stderr is None else self.stderr / math.log(2), self.samples)

    def __float__(self) -> float:
        return float(self.value)


def surprise(p: Distribution, x: Tensor) -> Tensor:
    """−log p(x) in nats: how unexpected x is; surprises of independent things add.

    Arguments:
        p: a table (K,), of which x holds indices, or a torch distribution.
        x: any shape that p takes.
    """
    if isinstance(p, Tensor):
        return -table(p).log()[..., x]
    return -p.log_prob(x)


def entropy(p: Distribution, *, samples: int = SAMPLES, seed: int = 0) -> Nats:
    """H(P) = E_P[−log P]; for a Gaussian ½ log((2πe)^d det Σ).

    Arguments:
        p: table or distribution.
        samples, seed: for the Monte Carlo average where there is no closed form.
    """
    if isinstance(p, Tensor):
        p = table(p)
        return Nats(-torch.xlogy(p, p).sum(-1))
    gaussian = _gaussian(p)
    if gaussian is not None:
        d, scale = gaussian.event_shape[0], gaussian.scale_tril
        return Nats(scale.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * d * (1 + math.log(2 * math.pi)))
    return _average(p, lambda x: -p.log_prob(x), samples, seed)


def cross_entropy(p: Distribution, q: Distribution, *, samples: int = SAMPLES, seed: int = 0) -> Nats:
    """H(P, Q) = E_P[−log Q], the surprise of one who believes Q in a world that follows P; never below H(P).

    Arguments:
        p, q: both tables of one length, or both distributions of one event shape.
        samples, seed: for the Monte Carlo average where there is no closed form.
    """
    if isinstance(p, Tensor) and isinstance(q, Tensor):
        return Nats(-torch.xlogy(table(p), table(q)).sum(-1))
    p, q = _distributions(p, q)
    if _gaussian(p) is not None and _gaussian(q) is not None:
        return Nats(entropy(p).value + kl_divergence(p, q).value)
    return _average(p, lambda x: -q.log_prob(x), samples, seed)


def kl_divergence(p: Distribution, q: Distribution, *, samples: int = SAMPLES, seed: int = 0) -> Nats:
    """KL(P‖Q) = H(P, Q) − H(P): zero only for equal distributions, +∞ where P has mass and Q has none, not symmetric.

    With P the data and Q a model it is what maximum likelihood minimises; with the arguments exchanged (the reverse KL) it is
    what variational inference minimises.

    Arguments:
        p, q: both tables of one length, or both distributions of one event shape.
        samples, seed: for the Monte Carlo average where there is no closed form.

    Source: Cover & Thomas, Elements of Information Theory, chapter 2.
    """
    if isinstance(p, Tensor) and isinstance(q, Tensor):
        return Nats(_table_kl(table(p), table(q)))
    p, q = _distributions(p, q)
    closed = _closed_kl(p, q)
    if closed is not None:
        return Nats(closed)
    return _average(p, lambda x: p.log_prob(x) - q.log_prob(x), samples, seed)


def jeffreys(p: Distribution, q: Distribution, *, samples: int = SAMPLES, seed: int = 0) -> Nats:
    """KL(P‖Q) + KL(Q‖P), symmetric.

    Arguments:
        p, q, samples, seed: as for `kl_divergence`.
    """
    there = kl_divergence(p, q, samples=samples, seed=seed)
    back = kl_divergence(q, p, samples=samples, seed=seed + 1)
    return _combine((1.0, there), (1.0, back))


def jensen_shannon(p: Distribution, q: Distribution, *, samples: int = SAMPLES, seed: int = 0) -> Nats:
    """½ KL(P‖M) + ½ KL(Q‖M), M = (P + Q)/2: symmetric, from 0 to log 2, finite whatever the supports.

    Arguments:
        p, q, samples, seed: as for `kl_divergence`.
    """
    if isinstance(p, Tensor) and isinstance(q, Tensor):
        p, q = table(p), table(q)
        middle = (p + q) / 2
        return Nats((_table_kl(p, middle) + _table_kl(q, middle)) / 2)
    p, q = _distributions(p, q)

    def against_middle(a: D.Distribution, b: D.Distribution) -> Callable[[Tensor], Tensor]:
        return lambda x: math.log(2) - torch.nn.functional.softplus(b.log_prob(x) - a.log_prob(x))

    there = _average(p, against_middle(p, q), samples, seed)
    back = _average(q, against_middle(q, p), samples, seed + 1)
    return _combine((0.5, there), (0.5, back))


def gaussian_kl(mean_q: Tensor, std_q: Tensor, mean_p: Tensor, std_p: Tensor) -> Tensor:
    """KL(N(μ_q, σ_q²) ‖ N(μ_p, σ_p²)) per cell, never negative.

    With s = σ_q/σ_p − 1:  ½ (s² + 2(s − log(1 + s)) + (μ_q − μ_p)²/σ_p²).

    Source: Kingma & Welling (2013), arXiv:1312.6114, appendix B, for two general Gaussians.
    """
    value: Tensor = _GaussianKL.apply(*torch.broadcast_tensors(mean_q, std_q, mean_p, std_p))
    return value


class _GaussianKL(torch.autograd.Function):
    """`gaussian_kl` with its short derivatives: a chain's KL is on the hot path of training."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean_q: Tensor, std_q: Tensor, mean_p: Tensor, std_p: Tensor) -> Tensor:
        shift = (mean_q - mean_p) / std_p
        return torch.addcmul(_scale_excess(std_q, std_p), shift, shift) * 0.5

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        by_mean, excess, std_q, std_p = _slopes(*ctx.saved_tensors)
        fixed_mean, fixed_std = (not needed for needed in ctx.needs_input_grad[2:])
        to_mean, to_std = g * by_mean, g * excess
        to_std_p = None if fixed_std else -(to_std + to_mean * by_mean * std_p.square()) / std_p
        return to_mean, to_std / std_q, None if fixed_mean else -to_mean, to_std_p

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        by_mean, excess, std_q, std_p = _slopes(*ctx.saved_tensors)
        by_std_p = -(excess + (by_mean * std_p).square()) / std_p
        return by_mean * (tangents[0] - tangents[2]) + excess / std_q * tangents[1] + by_std_p * tangents[3]


def _slopes(mean_q: Tensor, std_q: Tensor, mean_p: Tensor, std_p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(μ_q − μ_p)/σ_p²,  (σ_q² − σ_p²)/σ_p²,  σ_q and σ_p: what the derivatives of `gaussian_kl` are made of."""
    precision = std_p.square().reciprocal()
    return (mean_q - mean_p) * precision, (std_q - std_p) * (std_q + std_p) * precision, std_q, std_p


def _scale_excess(a: Tensor, b: Tensor) -> Tensor:
    """a²/b² − 1 − log a²/b² ≥ 0 to nearly full relative accuracy: below double precision, in double precision."""
    if a.dtype == torch.float64:
        return _excess(2 * _log_ratio(a, b))
    wide = b.double()
    s = (a.double() - wide) / wide
    return torch.addcmul(2 * (s - s.log1p()), s, s).to(a.dtype)


def full_gaussian_kl(q: D.MultivariateNormal, p: D.MultivariateNormal) -> Tensor:
    """KL(N(μ_q, Σ_q) ‖ N(μ_p, Σ_p)) as a sum of terms that are never negative.

    With Σ = LLᵀ, M = L_p⁻¹L_q (lower triangular) and r_i = 2 log M_ii:
        ½ (Σ_i (e^{r_i} − 1 − r_i) + Σ_{i>j} M_ij² + ‖L_p⁻¹(μ_q − μ_p)‖²).
    """
    d = q.event_shape[0]
    batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    l_q, l_p = (x._unbroadcasted_scale_tril.expand(*batch, d, d) for x in (q, p))
    m = torch.linalg.solve_triangular(l_p, l_q, upper=False)
    shift = torch.linalg.solve_triangular(l_p, (q.loc - p.loc).expand(*batch, d)[..., None], upper=False)
    r = 2 * _log_ratio(l_q.diagonal(dim1=-2, dim2=-1), l_p.diagonal(dim1=-2, dim2=-1))
    return 0.5 * (_excess(r).sum(-1) + m.tril(-1).square().sum((-2, -1)) + shift.square().sum((-2, -1)))


def kl(q: D.Distribution, p: D.Distribution, z: Tensor | None = None) -> Tensor:
    """KL(q‖p) in closed form, or the unbiased one-draw estimate log q(z) − log p(z), which may be negative.

    Arguments:
        q, p: distributions of one batch and event shape.
        z: a draw from q, for pairs without a closed form.

    Raises:
        InputError: no closed form and no z.
    """
    closed = _closed_kl(q, p)
    if closed is not None:
        return closed
    if z is None:
        raise InputError(f"z: expected a draw, since {type(q).__name__} to {type(p).__name__} has no closed KL, got nothing")
    return q.log_prob(z) - p.log_prob(z)


def table(p: Tensor) -> Tensor:
    """Probabilities (..., K), checked and scaled to sum to one to the last bit.

    Raises:
        InputError: negative or non-finite entries, or a sum that is not one.
    """
    total = p.sum(-1, keepdim=True) if p.ndim else p
    fine = p.ndim > 0 and p.is_floating_point() and bool(p.isfinite().all() and (p >= 0).all())
    require(fine and bool(((total - 1).abs() < 1e-3).all()), "table", "probabilities that sum to 1 on the last axis", p)
    return p / total


def _closed_kl(q: D.Distribution, p: D.Distribution) -> Tensor | None:
    if isinstance(q, D.Independent) and isinstance(p, D.Independent):
        inner = _closed_kl(q.base_dist, p.base_dist)
        n = q.reinterpreted_batch_ndims
        same = n == p.reinterpreted_batch_ndims and inner is not None
        return (inner.flatten(-n).sum(-1) if n else inner) if same else None
    if isinstance(q, D.Normal) and isinstance(p, D.Normal):
        return gaussian_kl(q.loc, q.scale, p.loc, p.scale)
    if isinstance(q, D.Categorical) and isinstance(p, D.Categorical):
        return _categorical_kl(q, p)
    full_q, full_p = _gaussian(q), _gaussian(p)
    if full_q is not None and full_p is not None:
        return full_gaussian_kl(full_q, full_p)
    try:
        return D.kl_divergence(q, p)
    except NotImplementedError:
        return None


def _gaussian(p: D.Distribution) -> D.MultivariateNormal | None:
    """p as a full Gaussian over one axis, if it is one."""
    if isinstance(p, D.MultivariateNormal):
        return p
    if isinstance(p, D.Normal) and not p.batch_shape:
        return D.MultivariateNormal(p.loc[None], scale_tril=p.scale[None, None])
    if isinstance(p, D.Independent) and isinstance(p.base_dist, D.Normal) and len(p.event_shape) == 1:
        return D.MultivariateNormal(p.base_dist.loc, scale_tril=torch.diag_embed(p.base_dist.scale))
    return None


def _distributions(p: Distribution, q: Distribution) -> tuple[D.Distribution, D.Distribution]:
    if isinstance(p, Tensor) or isinstance(q, Tensor):
        raise InputError("q: expected two tables or two distributions, got one of each")
    require(p.event_shape == q.event_shape, "q", f"event shape {tuple(p.event_shape)}", tuple(q.event_shape))
    return p, q


def _table_kl(p: Tensor, q: Tensor) -> Tensor:
    alive = p > 0
    both = alive & (q > 0)
    r = torch.where(both, _log_ratio(torch.where(both, q, 1), torch.where(both, p, 1)), torch.where(alive, -math.inf, 0))
    return _mass_kl(p, q, r)


def _categorical_kl(q: D.Categorical, p: D.Categorical) -> Tensor:
    alive = q.probs > 0
    r = torch.where(alive, p.logits, 0) - torch.where(alive, q.logits, 0)
    return _mass_kl(q.probs, p.probs, r)


def _mass_kl(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
    """Σ p(eʳ − 1 − r), r = log q/p where p > 0: each term is p log(p/q) − p + q ≥ 0, and the last two sum to zero."""
    near = r.abs() < 0.05
    terms = torch.where(near, p * _series(torch.where(near, r, 0)), (q - p - p * r).clamp(min=0))
    return torch.where(p > 0, terms, q).sum(-1)


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a/b), to full relative accuracy also where a is close to b."""
    step = (a - b) / b
    return torch.where(step.abs() < 0.5, step.clamp(-0.5, 0.5).log1p(), a.log() - b.log())


def _excess(r: Tensor) -> Tensor:
    """eʳ − 1 − r ≥ 0, from its series near r = 0, where the difference would cancel."""
    return torch.where(r.abs() < 0.05, _series(r), (r.expm1() - r).clamp(min=0))


def _series(r: Tensor) -> Tensor:
    return r * r * (0.5 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r / 5040)))))


def _average(p: D.Distribution, f: Callable[[Tensor], Tensor], samples: int, seed: int) -> Nats:
    """E_p f over `samples` draws, a function of `seed`; +∞ if f is anywhere."""
    require(samples >= 2, "samples", "at least 2", samples)
    with seeded(seed, "information"):
        values = f(p.sample((samples,)))
    infinite = values.isposinf().any(0)
    finite = torch.where(values.isfinite(), values, 0)
    mean, spread = finite.mean(0), finite.std(0) / math.sqrt(samples)
    return Nats(torch.where(infinite, math.inf, mean), torch.where(infinite, 0, spread), samples)


def _combine(*parts: tuple[float, Nats]) -> Nats:
    value = sum((w * n.value for w, n in parts), torch.zeros(()))
    noisy = [(w, n.stderr) for w, n in parts if n.stderr is not None]
    if not noisy:
        return Nats(value)
    variance = sum((w * w * s.square() for w, s in noisy), torch.zeros(()))
    return Nats(value, variance.sqrt(), parts[0][1].samples)
