"""Samplers with noise of their own: the reverse-time SDE, predictor-corrector, annealed Langevin dynamics."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.sampler import Ancestral, Sampler
from likeli.diffusion.schedule import Point
from likeli.errors import require
from likeli.probability.mcmc import langevin_step
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
