"""What a sampler of p(x|y) from a denoiser is: what it claims, what it takes, and the run from noise to draws.

The simplest of them stand here too: those that put what is known in its place, which need a reading without noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from likeli.config import Configurable
from likeli.diffusion.denoiser import Denoise, Prediction
from likeli.diffusion.restoration.reading import Reading
from likeli.diffusion.sampler import Ancestral, Sampler, trajectory
from likeli.diffusion.schedule import Point, kernel, terminal
from likeli.diffusion.times import Grid, grid_of
from likeli.errors import Unsupported, require
from likeli.probability.draw import draw
from likeli.random import BLOCK, Noise, Streams

Answer = Literal["exact", "asymptotically exact", "approximate"]


class PosteriorSampler(Configurable, ABC):
    """Draws of u ~ p(u|y) in model units, for y = A u + σ ξ and p(u) that of a denoiser.

    Arguments:
        steps: of a run.
        grid: how they are spaced.

    Attributes of a kind:
        answer: what its draws are of p(x|y), for an exact denoiser.
        takes: of which readings: `noiseless` (σ = 0), `noisy` (σ > 0) or `both`.
        shares, particles: whether the draws of one row are made together, at least so many, so that they are not independent.
    """

    answer: ClassVar[Answer] = "approximate"
    takes: ClassVar[Literal["noiseless", "noisy", "both"]] = "both"
    shares: ClassVar[bool] = False
    particles: int = 1

    def __init__(self, steps: int = 64, grid: Grid = "log_snr") -> None:
        require(steps >= 1, "steps", "a whole number of at least 1", steps)
        self.steps, self.grid = steps, grid

    def refuse(self, sigma: float) -> None:
        """Raise where y has noise and the method knows of none, or none where it needs some.

        Raises:
            Unsupported: names the methods that take such a reading.
        """
        if self.takes == "noiseless" and sigma > 0:
            raise Unsupported(f"{self.kind()} holds y as exact, and sigma is {sigma:g}: use mmps, pi_gdm, dps or twisted_smc")
        if self.takes == "noisy" and sigma == 0:
            raise Unsupported(f"{self.kind()} weighs by p(y|x), which needs sigma > 0: use mmps, or replacement")

    @abstractmethod
    def run(self, denoise: Denoise, reading: Reading, noise: Noise, like: Tensor) -> Tensor:
        """A draw for each row of the reading, (B, *shape) of `like`, in model units, before it is made to fit y exactly."""


def points_of(denoise: Denoise, steps: int, grid: Grid, like: Tensor) -> list[Point]:
    """Every place of a run, from noise to data, on the CPU, since samplers read them as plain numbers."""
    times = grid_of(grid, denoise.schedule, steps, like[0].numel())
    columns = (v.detach().cpu().unbind() for v in denoise.schedule.at(times.to(like.device)))
    return [Point(*at) for at in zip(*columns)]


def walked(denoise: Denoise, sampler: Sampler, steps: int, grid: Grid, noise: Noise, like: Tensor) -> Tensor:
    """u at the clean end of a run from noise: z/α there, whose own noise σ/α is the schedule's least.

    Arguments:
        denoise: that of the posterior.
        sampler, steps, grid: of the run.
        like: (B, *shape) of what is drawn.
    """
    z = draw(terminal(denoise.schedule, like), noise)
    (last,) = deque(trajectory(denoise, z, grid_of(grid, denoise.schedule, steps, like[0].numel()), noise, sampler), maxlen=1)
    return last.z / last.at.like(last.z).alpha


def posterior_draws(
    bind: Callable[[Tensor], Denoise],
    reading: Reading,
    how: PosteriorSampler,
    n: int,
    seed: int,
    like: Tensor,
    block: int = BLOCK,
    numbers: Sequence[int] | None = None,
) -> Tensor:
    """n draws for each row of the reading, (n, B, *shape) float64 in model units; draw i of row b follows (seed, b, i) alone.

    Where a method's particles are drawn together, it is the set of a row that does.

    Arguments:
        bind: rows of the reading → the denoiser with their conditions.
        how: the method.
        like: (B, *shape), of the model's type and device.
        block: draws at a time, to keep within memory; it changes nothing but rounding.
        numbers: b of each row; its place if not given.
    """
    how.refuse(reading.sigma)
    rows, count = len(like), max(n, how.particles) if how.shares else n
    b = range(rows) if numbers is None else numbers
    which, parts = torch.arange(rows).repeat_interleave(count), []
    for chosen in torch.arange(rows * count).split(count if how.shares else block):
        noise = Streams(seed, [b[j // count] << 32 | j % count for j in chosen.tolist()], like.dtype, like.device)
        its = which[chosen]
        found = how.run(bind(its), reading.at(its), noise, like[its.to(like.device)]).double()
        if how.shares:  # in the order of their ancestors, so that these are a fair share of them
            found = found[torch.arange(n) * count // n]
        parts.append(reading.at(its[: len(found)]).projected(found) if reading.sigma == 0 else found)
    return torch.cat(parts).reshape(rows, n, *like.shape[1:]).transpose(0, 1)


def moved(p: Prediction, shift: Tensor, ends: tuple[float, float] | None = None) -> Prediction:
    """The belief with x̂ shifted, but not out of the data's range, and ε̂ to fit: α x̂ + σ ε̂ = z still."""
    x = p.x + shift if ends is None else (p.x + shift).clamp(*ends)
    shift = shift if ends is None else x - p.x
    return replace(p, x=x, eps=p.eps - p.alpha / p.sigma * shift)


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
