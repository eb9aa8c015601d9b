"""Samplers with noise of their own: the reverse-time SDE, predictor-corrector, Langevin dynamics and its exact form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.sampler import Ancestral, Sampler
from likeli.diffusion.schedule import Point
from likeli.errors import require
from likeli.random import Noise


class EulerMaruyama(Sampler):
    """z_s = z_t − [f z − ½ (1 + η²) g² score] (t − s) + η g √(t − s) ξ: the reverse-time SDE, of weak order 1.

    Arguments:
        eta: η; 1 is the time reversal of the forward process, 0 the probability-flow ODE, every η has the same marginals.

    Source: Anderson (1982); Song et al. (2020), arXiv:2011.13456, eq. 6.
    """

    def __init__(self, eta: float = 1.0) -> None:
        require(eta >= 0, "eta", "a number of at least 0", eta)
        self.eta = eta

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        h, g2 = t.t - s.t, denoise.schedule.diffusion(t.t)
        drift = denoise.schedule.drift(t.t) * z - 0.5 * (1 + self.eta**2) * g2 * denoise(z, t).score
        return z - h * drift + self.eta * (g2 * h).sqrt() * noise.normal(*z.shape[1:]).to(z), None


class PredictorCorrector(Sampler):
    """An ancestral step, then Langevin steps z += ½δ score + √δ ξ at the new noise level, with δ = r σ_s².

    Arguments:
        corrections: Langevin steps at each level, one evaluation each.
        rate: r; the smaller, the less the Langevin steps err and the less they do.

    Source: Song et al. (2020), arXiv:2011.13456, algorithm 1, with a step size that does not depend on the other rows.
    """

    def __init__(self, corrections: int = 1, rate: float = 0.1) -> None:
        require(corrections >= 1, "corrections", "at least 1", corrections)
        require(0 < rate < 2, "rate", "a number between 0 and 2", rate)
        self.corrections, self.rate = corrections, rate

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        z, _ = Ancestral().step(denoise, z, t, s, noise, None)
        for _ in range(self.corrections):
            z = langevin_step(z, denoise(z, s).score, self.rate * s.sigma**2, noise)
        return z, None


class AnnealedLangevin(Sampler):
    """Langevin steps alone at each noise level in turn, from where the last level left z.

    Arguments:
        steps: Langevin steps at each level, one evaluation each.
        rate: δ/σ².

    Source: Song & Ermon (2019), arXiv:1907.05600, algorithm 1.
    """

    def __init__(self, steps: int = 10, rate: float = 0.1) -> None:
        require(steps >= 1, "steps", "at least 1", steps)
        require(0 < rate < 2, "rate", "a number between 0 and 2", rate)
        self.steps, self.rate = steps, rate

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        for _ in range(self.steps):
            z = langevin_step(z, denoise(z, s).score, self.rate * s.sigma**2, noise)
        return z, None


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
    log_prob: Callable[[Tensor], Tensor], z: Tensor, delta: float, noise: Noise
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
    log_p, score = _with_score(log_prob, z)
    while True:
        new = langevin_step(z, score, delta, noise)
        new_log_p, new_score = _with_score(log_prob, new)
        forth, back = _squared(new - z - delta / 2 * score), _squared(z - new - delta / 2 * new_score)
        log_ratio = new_log_p - log_p + (forth - back) / (2 * delta)
        accepted = noise.uniform().to(z).log() < log_ratio
        row = accepted.reshape(-1, *[1] * (z.ndim - 1))
        z, score, log_p = torch.where(row, new, z), torch.where(row, new_score, score), log_p.where(~accepted, new_log_p)
        yield z, accepted


def _with_score(log_prob: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_p = log_prob(z)
        return log_p.detach(), torch.autograd.grad(log_p.sum(), z)[0]


def _squared(v: Tensor) -> Tensor:
    return v.square().flatten(1).sum(1)
