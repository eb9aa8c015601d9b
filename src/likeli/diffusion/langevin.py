"""Samplers with noise of their own: the right second moment, the reverse-time SDE, predictor-corrector, annealed Langevin."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.probability_flow import with_divergence
from likeli.diffusion.sampler import Ancestral, Sampler
from likeli.diffusion.schedule import Point, bridge
from likeli.errors import require
from likeli.probability.mcmc import langevin_step
from likeli.random import Noise


class AnalyticDPM(Sampler):
    """z_s ~ N(a z_t + b x̂, std² + b² v) with v = tr Var[x|z_t]/D: the second moment of q(z_s|z_t), where x is not known.

    `ancestral` has that of q(z_s|z_t, x), as if x̂ were x, and so loses variance in few steps.  Var[x|z] = (σ²/α) ∂x̂/∂z, whose
    trace one random sign vector gives without bias from one gradient a step: no data are needed, and no row looks at another.
    v is held between 0 and c², what Var[x|z] is at most on average.  Exact on N(0, v I) with v up to c².

    Arguments:
        spread: c, the standard deviation of the data in model units.

    Source: Bao et al. (2022), arXiv:2201.06503, theorems 1 and 2, here with v of each row.
    """

    def __init__(self, spread: float = 1.0) -> None:
        require(spread > 0, "spread", "a positive number", spread)
        self.spread = spread

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        a, b, std = bridge(s, t)
        signs = (noise.uniform(*z.shape[1:]) < 0.5).to(z) * 2 - 1
        directions = (signs * t.sigma.to(z) / t.alpha.to(z).sqrt())[None]
        x, spreads = with_divergence(lambda z: denoise(z, t).x, z, directions)
        hidden = (spreads.reshape(-1, *[1] * (z.ndim - 1)) / z[0].numel()).clamp(0, self.spread**2)
        variance = std.square().to(z) + b.square().to(z) * hidden
        return a.to(z) * z + b.to(z) * x + variance.sqrt() * noise.normal(*z.shape[1:]).to(z), None


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
