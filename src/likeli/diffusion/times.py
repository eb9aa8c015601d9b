"""Where on a schedule to stand: random times for training, grids for sampling."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from likeli.diffusion.schedule import Schedule
from likeli.errors import InputError, require

Grid = Literal["time", "log_snr", "karras", "optimal"]

# For Adams' method, fitted on random mixtures of 2 to 768 dimensions; see docs/sampling.md
CENTRE, TO_DATA, TO_NOISE = (-0.4, 0.24), (2.1, 0.1), (1.72, 0.05)  # each a + b log D


def uniform(steps: int) -> Tensor:
    """steps + 1 times from 1 down to 0, evenly spaced in t."""
    require(isinstance(steps, int) and steps >= 1, "steps", "a whole number of at least 1", steps)
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def even_log_snr(schedule: Schedule, steps: int) -> Tensor:
    """steps + 1 times from 1 down to 0, evenly spaced in log SNR."""
    return _pinned(schedule.time_of(torch.lerp(*_ends(schedule), 1 - uniform(steps))))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """steps + 1 times from 1 down to 0, evenly spaced in (σ/α)^(1/ρ).

    Source: Karras et al. (2022), arXiv:2206.00364, eq. 5.
    """
    require(rho > 0, "rho", "a positive number", rho)
    ends = (_ends(schedule) / (2 * rho)).exp()
    return _pinned(schedule.time_of(2 * rho * torch.lerp(*ends, 1 - uniform(steps)).log()))


def optimal(schedule: Schedule, steps: int, cells: int = 1, spread: float = 1.0) -> Tensor:
    """steps + 1 times from 1 down to 0, whose density in l = log σ/α falls as 1/cosh² away from a centre.

    The centre lies at log c − 0.4 + 0.24 log D; the width is 2.1 + 0.1 log D on the side of the data and 1.72 + 0.05 log D on
    that of the noise, since in more dimensions data are spread over more scales.  It needs no look at the model.

    Arguments:
        schedule: t → (α, σ).
        steps: how many.
        cells: D, numbers in one example.
        spread: c, the standard deviation of the data in model units.

    Source: grids from a solver's own error, as in Xue et al. (2024), arXiv:2402.17376, and Sabour et al. (2024),
        arXiv:2404.14507, here for mixtures of Gaussians and in closed form.
    """
    require(cells >= 1, "cells", "at least 1", cells)
    require(spread > 0, "spread", "a positive number", spread)
    centre, data, noise = (a + b * math.log(cells) for a, b in (CENTRE, TO_DATA, TO_NOISE))
    centre += math.log(spread)
    ends = _ends(schedule) / 2 - centre
    squeezed = torch.where(ends < 0, data * (ends / data).tanh(), noise * (ends / noise).tanh())
    even = torch.lerp(*squeezed, 1 - uniform(steps).to(ends.device))
    way = torch.where(even < 0, data * (even / data).atanh(), noise * (even / noise).atanh())
    return _pinned(schedule.time_of(2 * (centre + way)))


def grid_of(
    grid: Grid | tuple[float, ...], schedule: Schedule, steps: int | None = None, cells: int = 1
) -> Tensor:
    """steps + 1 times from 1 down to 0: even in `time` or in `log_snr`, or spaced as `karras` or `optimal` say.

    Arguments:
        grid: one of those names; or the times themselves, with no `steps`.
        schedule: t → (α, σ).
        steps: how many.
        cells: numbers in one example.

    Raises:
        InputError: an unknown name; a name without `steps`, or times with it.
    """
    if not isinstance(grid, str):
        require(steps is None, "steps", "nothing beside the times of a grid", steps)
        return check_times(torch.tensor(grid, dtype=torch.float64))
    require(grid in get_args(Grid), "grid", f"one of {', '.join(get_args(Grid))}", grid)
    if steps is None:
        raise InputError(f"steps: expected a number of them with grid {grid}, got none")
    if grid == "optimal":
        return optimal(schedule, steps, cells)
    return uniform(steps) if grid == "time" else even_log_snr(schedule, steps) if grid == "log_snr" else karras(schedule, steps)


def check_times(times: Tensor) -> Tensor:
    """A sampler's grid, as float64.

    Raises:
        InputError: fewer than two times, one outside [0, 1], or not falling strictly.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    require(times.ndim == 1 and len(times) >= 2, "times", "at least two times", tuple(times.shape))
    inside = bool(((times >= 0) & (times <= 1)).all())
    require(inside, "times", "values in [0, 1]", [round(v, 6) for v in times.tolist() if not 0 <= v <= 1])
    require(bool((times.diff() < 0).all()), "times", "strictly falling values", [round(v, 6) for v in times.tolist()])
    return times


def _ends(schedule: Schedule) -> Tensor:
    """γ at t = 1 and at t = 0."""
    gamma = schedule.gamma(torch.tensor([1.0, 0.0], dtype=torch.float64)).detach()
    require(bool(gamma.isfinite().all()), "schedule", "a finite log SNR at both ends for such a grid", (-gamma).tolist())
    return gamma


def _pinned(times: Tensor) -> Tensor:
    times[0], times[-1] = 1, 0
    return times


class Proposal(nn.Module):
    """A histogram on [0, 1), its density ∝ √E f² in each bin with a part that is even: the least variance of f/density.

    What it has seen is part of a model's state, so that training resumes with the same proposal.

    Arguments:
        bins: of equal width.
        least: the even part; f/density is then at most 1/least times f.
        memory: how much of a bin's mean square survives an update; a bin's first values count alike.

    Raises:
        InputError: an argument out of range.

    Source: Nichol & Dhariwal (2021), arXiv:2102.09672, section 3.3.
    """

    squares: Tensor
    updates: Tensor

    def __init__(self, bins: int = 64, least: float = 0.1, memory: float = 0.98) -> None:
        super().__init__()
        require(bins >= 1, "bins", "at least 1", bins)
        require(0 < least <= 1, "least", "above 0 and at most 1", least)
        require(0 <= memory < 1, "memory", "from 0 to below 1", memory)
        self.bins, self.least, self.memory = bins, least, memory
        self.register_buffer("squares", torch.ones(bins, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros(bins, dtype=torch.float64))

    def density(self) -> Tensor:
        """(bins,) with mean 1; even until every bin has been seen."""
        if bool((self.updates == 0).any()):
            return torch.ones_like(self.squares)
        root = self.squares.sqrt()
        mean = root.mean()
        return torch.where(mean > 0, self.least + (1 - self.least) * root / mean.clamp(min=1e-300), 1.0)

    def place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where t, uniform on [0, 1), falls in the density, and 1/density there: (B,) and (B,) in float64."""
        density = self.density()
        share = density / self.bins
        above = share.cumsum(0)
        bin_ = torch.searchsorted(above, t.double() * above[-1], right=True).clamp(max=self.bins - 1)
        inside = (t.double() * above[-1] - (above - share)[bin_]) / share[bin_]
        return (bin_ + inside.clamp(0, 1 - 1e-12)) / self.bins, 1 / density[bin_]

    @torch.no_grad()
    def learn(self, where: Tensor, value: Tensor) -> None:
        """Take in f = `value` (B,) at `where` (B,), f without the weight; what is not finite is left out."""
        fine = value.isfinite()
        bin_, value = (where[fine] * self.bins).long().clamp(0, self.bins - 1), value[fine].double()
        hits = torch.zeros_like(self.squares).index_add_(0, bin_, torch.ones_like(value))
        mean = torch.zeros_like(self.squares).index_add_(0, bin_, value.square()) / hits.clamp(min=1)
        pace = torch.where(hits > 0, (1 / (self.updates + 1)).clamp(min=1 - self.memory), 0.0)
        self.squares.lerp_(mean, pace)
        self.updates.add_((hits > 0).to(self.updates))
