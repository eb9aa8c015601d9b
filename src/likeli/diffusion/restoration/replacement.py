"""Samplers that put what is known in its place at every step; they need a reading without noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor

from likeli.diffusion.denoiser import Denoise, Prediction
from likeli.diffusion.restoration.matching import moved
from likeli.diffusion.restoration.posterior_sampler import PosteriorSampler, points_of, walked
from likeli.diffusion.restoration.reading import Reading
from likeli.diffusion.sampler import Ancestral
from likeli.diffusion.schedule import Point, kernel, terminal
from likeli.diffusion.times import Grid
from likeli.errors import require
from likeli.probability.draw import draw
from likeli.random import Noise


def with_known(denoise: Denoise, reading: Reading) -> Denoise:
    """The denoiser with x̂ + Aᵀ (A Aᵀ)⁻¹ (y − A x̂) in place of x̂.

    Under ancestral steps the known part of z is then a draw of q(z_s|z_t, x = y): noised y, as the method has it.  What is
    hidden learns of y only through the network's next look at z.
    """

    def function(z: Tensor, at: Point) -> Prediction:
        p = denoise(z, at)
        return moved(p, reading.projected(p.x) - p.x, reading.ends)

    return replace(denoise, function=function, errs_at_small_noise=False)


class Replacement(PosteriorSampler):
    """Ancestral steps with the known part of x̂ replaced by y; cheap, and short of p(x|y) even for an exact denoiser.

    Arguments:
        steps, grid: of the run.

    Source: Song et al. (2020), arXiv:2011.13456, appendix I.2; for any A as in Wang et al. (2022), arXiv:2212.00490.
    """

    takes: ClassVar[Literal["noiseless", "noisy", "both"]] = "noiseless"

    def run(self, denoise: Denoise, reading: Reading, noise: Noise, like: Tensor) -> Tensor:
        return walked(with_known(denoise, reading), Ancestral(), self.steps, self.grid, noise, like)


class Repaint(PosteriorSampler):
    """Replacement that goes back: `jump` steps down, noised again to where they began, `resamples` times over.

    Arguments:
        steps, grid: of the run; it makes steps × resamples evaluations.
        jump: steps that are gone back at a time.
        resamples: how often each stretch is walked.

    Source: Lugmayr et al. (2022), arXiv:2201.09865, algorithm 1.
    """

    takes: ClassVar[Literal["noiseless", "noisy", "both"]] = "noiseless"

    def __init__(self, steps: int = 64, grid: Grid = "log_snr", jump: int = 1, resamples: int = 10) -> None:
        super().__init__(steps, grid)
        require(jump >= 1, "jump", "at least 1", jump)
        require(resamples >= 1, "resamples", "at least 1", resamples)
        self.jump, self.resamples = jump, resamples

    def run(self, denoise: Denoise, reading: Reading, noise: Noise, like: Tensor) -> Tensor:
        points, way, posterior = points_of(denoise, self.steps, self.grid, like), Ancestral(), with_known(denoise, reading)
        z = draw(terminal(denoise.schedule, like), noise)
        for start in range(0, self.steps, self.jump):
            stretch = points[start : start + self.jump + 1]
            for again in range(self.resamples):
                for t, s in pairwise(stretch):
                    z, _ = way.step(posterior, z, t, s, noise, None)
                if again < self.resamples - 1:
                    keep, std = (v.item() for v in kernel(stretch[-1], stretch[0]))
                    z = keep * z + std * noise.normal(*z.shape[1:]).to(z)
        return z / points[-1].like(z).alpha
