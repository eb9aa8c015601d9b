"""What a sampler of p(x|y) from a denoiser is: what it claims, what it takes, and the run from noise to draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from likeli.config import Configurable
from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.restoration.reading import Reading
from likeli.diffusion.sampler import Sampler, trajectory
from likeli.diffusion.schedule import Point, terminal
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
) -> Tensor:
    """n draws for each row of the reading, (n, B, *shape) float64 in model units; draw i of row b follows (seed, b, i) alone.

    Where a method's particles are drawn together, it is the set of a row that does.

    Arguments:
        bind: rows of the reading → the denoiser with their conditions.
        how: the method.
        like: (B, *shape), of the model's type and device.
        block: draws at a time, to keep within memory; it changes nothing but rounding.
    """
    how.refuse(reading.sigma)
    rows, count = len(like), max(n, how.particles) if how.shares else n
    which, parts = torch.arange(rows).repeat_interleave(count), []
    for chosen in torch.arange(rows * count).split(count if how.shares else block):
        noise = Streams(seed, [j // count << 32 | j % count for j in chosen.tolist()], like.dtype, like.device)
        its = which[chosen]
        found = how.run(bind(its), reading.at(its), noise, like[its.to(like.device)]).double()
        if how.shares:  # in the order of their ancestors, so that these are a fair share of them
            found = found[torch.arange(n) * count // n]
        parts.append(reading.at(its[: len(found)]).projected(found) if reading.sigma == 0 else found)
    return torch.cat(parts).reshape(rows, n, *like.shape[1:]).transpose(0, 1)
