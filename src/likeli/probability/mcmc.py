"""Markov chains whose limit is a density known up to a constant: Langevin, with and without rejection, and Hamiltonian.

Chains are rows: states (B, ...) move at the same time, each with its own noise.  `effective_draws` says how many independent
draws their states are worth, and by how much they disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from likeli.errors import require
from likeli.random import Noise

LogProb = Callable[[Tensor], Tensor]


def langevin_step(z: Tensor, score: Tensor, delta: Tensor | float, noise: Noise) -> Tensor:
    """z + ½ δ ∇log p(z) + √δ ξ."""
    return z + 0.5 * delta * score + delta**0.5 * noise.normal(*z.shape[1:]).to(z)


def langevin(score: Callable[[Tensor], Tensor], z: Tensor, delta: float, noise: Noise) -> Iterator[Tensor]:
    """The unadjusted Langevin chain, for ever; its limit is biased: N(0, 1/k) comes out with variance (1/k)/(1 − δk/4).

    Arguments:
        score: ∇log p, (B, ...) → (B, ...).
        z: where to start.
        delta: step size δ.
        noise: where random numbers come from.
    """
    require(delta > 0, "delta", "a positive number", delta)
    while True:
        z = langevin_step(z, score(z), delta, noise)
        yield z


def mala(
    log_prob: LogProb, z: Tensor, delta: float, noise: Noise
) -> Iterator[tuple[Tensor, Tensor]]:
    """The Langevin chain with Metropolis' accept-or-reject, for ever, as (z, accepted (B,)); its limit is exactly p.

    Arguments:
        log_prob: log p up to a constant, (B, ...) → (B,), differentiable.
        z: where to start.
        delta: step size δ.
        noise: where random numbers come from.

    Source: Roberts & Tweedie (1996), Bernoulli 2(4).
    """
    require(delta > 0, "delta", "a positive number", delta)
    log_p, score = with_score(log_prob, z)
    while True:
        new = langevin_step(z, score, delta, noise)
        new_log_p, new_score = with_score(log_prob, new)
        forth, back = _squared(new - z - delta / 2 * score), _squared(z - new - delta / 2 * new_score)
        log_ratio = new_log_p - log_p + (forth - back) / (2 * delta)
        accepted = noise.uniform().to(z).log() < log_ratio
        row = accepted.reshape(-1, *[1] * (z.ndim - 1))
        z, score, log_p = torch.where(row, new, z), torch.where(row, new_score, score), log_p.where(~accepted, new_log_p)
        yield z, accepted


def with_score(log_prob: LogProb, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z) (B,) and ∇log p(z), without a graph."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_p = log_prob(z)
        return log_p.detach(), torch.autograd.grad(log_p.sum(), z)[0]


def _squared(v: Tensor) -> Tensor:
    return v.square().flatten(1).sum(1)


def hmc_step(log_prob: LogProb, z: Tensor, epsilon: float, leapfrogs: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """One Hamiltonian move with Metropolis' accept-or-reject: the new states and which rows were accepted, (B,).

    A momentum p ~ N(0, I) is drawn, the leapfrog integrator goes `leapfrogs` steps of ε along H = −log p(z) + ½‖p‖², and the
    end is accepted with probability min(1, exp(H_start − H_end)).  With one step it is MALA with δ = ε².

    Source: Duane et al. (1987); Neal (2011), arXiv:1206.1901.
    """
    p = noise.normal(*z.shape[1:]).to(z)
    log_p, score = with_score(log_prob, z)
    start = log_p - 0.5 * _squared(p)
    new = z
    p = p + 0.5 * epsilon * score
    for i in range(leapfrogs):
        new = new + epsilon * p
        end, score = with_score(log_prob, new)
        p = p + (epsilon if i < leapfrogs - 1 else 0.5 * epsilon) * score
    accepted = noise.uniform().to(z).log() < end - 0.5 * _squared(p) - start  # NaN is refused
    return torch.where(accepted.reshape(-1, *[1] * (z.ndim - 1)), new, z), accepted


def hmc(log_prob: LogProb, z: Tensor, epsilon: float, leapfrogs: int, noise: Noise) -> Iterator[tuple[Tensor, Tensor]]:
    """The Hamiltonian chain, for ever, as (z, accepted (B,)); its limit is exactly p.

    Arguments:
        log_prob: log p up to a constant, (B, ...) → (B,), differentiable.
        z: where to start.
        epsilon: step size ε.
        leapfrogs: steps of one move.
        noise: where random numbers come from.
    """
    require(epsilon > 0, "epsilon", "a positive number", epsilon)
    require(leapfrogs >= 1, "leapfrogs", "at least 1", leapfrogs)
    while True:
        z, accepted = hmc_step(log_prob, z, epsilon, leapfrogs, noise)
        yield z, accepted


def flip_step(log_prob: LogProb, z: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """One flip of a bit, chosen by the gradient, with accept-or-reject: the new bits and which rows were accepted.

    Bit i is proposed with probability ∝ exp(d_i/2), d_i = (1 − 2z_i) ∂log p/∂z_i, the change expected to first order.

    Source: Grathwohl et al. (2021), arXiv:2102.04509.
    """
    log_p, score = with_score(log_prob, z)
    forth = ((1 - 2 * z) * score / 2).flatten(1).log_softmax(1)
    cdf = forth.exp().cumsum(1)
    i = (cdf < noise.uniform(1).to(z) * cdf[:, -1:]).sum(1, keepdim=True).clamp(max=forth.shape[1] - 1)
    flat = z.flatten(1)
    new = flat.scatter(1, i, 1 - flat.gather(1, i)).reshape(z.shape)
    new_log_p, new_score = with_score(log_prob, new)
    back = ((1 - 2 * new) * new_score / 2).flatten(1).log_softmax(1)
    ratio = new_log_p - log_p + (back.gather(1, i) - forth.gather(1, i))[:, 0]
    accepted = noise.uniform().to(z).log() < ratio
    return torch.where(accepted.reshape(-1, *[1] * (z.ndim - 1)), new, z), accepted


@dataclass(frozen=True)
class EffectiveDraws:
    """What the states of some chains are worth, by their slowest cell.

    Arguments:
        draws: independent draws that would know the mean as well.
        of: states.
        r_hat: by how much the spread of all chains together exceeds that of each; well above 1 they have not met.
        cell: the slowest.
    """

    draws: float
    of: int
    r_hat: float
    cell: int


def effective_draws(states: Tensor) -> EffectiveDraws:
    """n·m/τ of m chains of n states, τ = 1 + 2 Σ_t ρ_t with the autocorrelations summed while neighbouring pairs are positive.

        ρ_t = 1 − (W − mean of the chains' autocovariance at t)/V,   V = (n − 1)/n W + B,   R̂ = √(V/W)

    with W the chains' mean variance and B the variance of their means; each chain is cut into halves first.

    Arguments:
        states: (n, m, ...), n ≥ 8 states of each of m chains.

    Source: Geyer (1992), Statistical Science 7; Gelman et al. (2013), Bayesian Data Analysis, 11.5.
    """
    require(len(states) >= 8, "states", "at least 8 of each chain", len(states))
    x = states.detach().double().flatten(2)
    n = len(x) // 2
    x = torch.cat([x[:n], x[n : 2 * n]], 1)  # (n, 2m, cells)
    centred = x - x.mean(0)
    power = torch.fft.rfft(centred, 2 * n, dim=0).abs().square()
    covariance = torch.fft.irfft(power, 2 * n, dim=0)[:n] / n
    W = (covariance[0] * n / (n - 1)).mean(0)
    V = (n - 1) / n * W + x.mean(0).var(0)
    rho = 1 - (W - covariance.mean(1)) / V
    rho[0] = 1.0
    pairs = rho[: n // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).cumprod(0).bool()
    tau = (2 * torch.where(positive, pairs.cummin(0).values, 0).sum(0) - 1).clamp(min=1 / math.log10(x[:, :, 0].numel()))
    total = x.shape[0] * x.shape[1]
    worth = (total / tau).nan_to_num(0.0)
    cell = int(worth.argmin())
    return EffectiveDraws(worth[cell].item(), total, (V / W).sqrt()[cell].item(), cell)
