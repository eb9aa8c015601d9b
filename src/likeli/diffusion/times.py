"""Where on a schedule to stand: random times for training, grids for sampling."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from likeli.diffusion.schedule import Schedule
from likeli.errors import require

Grid = Literal["time", "log_snr", "karras"]


def spread(n: int, device: torch.device | str = "cpu") -> Tensor:
    """n times, each uniform on [0, 1), one in every interval of length 1/n up to rotation: (u + i/n) mod 1 with one u.

    Drawn from torch's ambient generator, float64.  An average over a batch varies less than with independent times.

    Source: Kingma et al. (2021), arXiv:2107.00630, appendix I.
    """
    first = torch.rand((), dtype=torch.float64, device=device)
    return (first + torch.arange(n, dtype=torch.float64, device=device) / n) % 1


def uniform(steps: int) -> Tensor:
    """steps + 1 times from 1 down to 0, evenly spaced in t."""
    require(isinstance(steps, int) and steps >= 1, "steps", "a whole number of at least 1", steps)
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def even_log_snr(schedule: Schedule, steps: int) -> Tensor:
    """steps + 1 times from 1 down to 0, evenly spaced in log SNR."""
    ends = schedule.gamma(torch.tensor([1.0, 0.0], dtype=torch.float64))
    return _pinned(schedule.time_of(torch.lerp(*ends.detach(), 1 - uniform(steps))))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """steps + 1 times from 1 down to 0, evenly spaced in (σ/α)^(1/ρ).

    Source: Karras et al. (2022), arXiv:2206.00364, eq. 5.
    """
    require(rho > 0, "rho", "a positive number", rho)
    ends = (schedule.gamma(torch.tensor([1.0, 0.0], dtype=torch.float64)).detach() / (2 * rho)).exp()
    return _pinned(schedule.time_of(2 * rho * torch.lerp(*ends, 1 - uniform(steps)).log()))


def grid_of(name: Grid, schedule: Schedule, steps: int) -> Tensor:
    """steps + 1 times from 1 down to 0, evenly spaced in `time`, in `log_snr`, or as `karras` spaces them."""
    require(name in get_args(Grid), "grid", f"one of {', '.join(get_args(Grid))}", name)
    if name == "time":
        return uniform(steps)
    return even_log_snr(schedule, steps) if name == "log_snr" else karras(schedule, steps)


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


def _pinned(times: Tensor) -> Tensor:
    times[0], times[-1] = 1, 0
    return times
