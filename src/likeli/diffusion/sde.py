"""The stochastic differential equation of a schedule, dz = f z dt + g dw, and what a wrong score costs on the way back.

    KL(p_0 ‖ model) ≤ ½ ∫ g² E‖s − s*‖² dt + KL(p_1 ‖ prior) = ½ ∫ E‖ε̂ − ε̂*‖² dγ + KL(p_1 ‖ prior)

since g² dt = σ² dγ.  Other weights than g² give no bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.schedule import Point, Schedule
from likeli.diffusion.times import check_times
from likeli.random import Noise


def noising(schedule: Schedule, z: Tensor, times: Tensor, noise: Noise) -> Iterator[tuple[Point, Tensor]]:
    """z_t = z_s + f z_s (t − s) + g √(t − s) ξ by Euler and Maruyama, every state: weak order 1.

    The exact transition is `likeli.diffusion.schedule.kernel`; this is for seeing that the two agree.

    Arguments:
        schedule: whose f and g.
        z: (B, ...) at times[0].
        times: rising, in [0, 1].
        noise: where ξ comes from.
    """
    points = schedule.at(_rising(times))
    yield Point(*(v[0] for v in points)), z
    for s, t in pairwise(Point(*v) for v in zip(*points)):
        h = t.t - s.t
        kick = (schedule.diffusion(s.t) * h).sqrt() * noise.normal(*z.shape[1:]).to(z)
        z = z + h * schedule.drift(s.t) * z + kick
        yield t, z


def noising_moments(schedule: Schedule, times: Tensor, variance: float = 0.0) -> tuple[float, float]:
    """The factor on the mean and the variance of one cell that `noising` ends with, by its own recursion, without noise.

    Arguments:
        schedule, times: as in `noising`.
        variance: at times[0].
    """
    times = _rising(times)
    steps = times.diff()
    grow = (1 + steps * schedule.drift(times[:-1])).tolist()
    for factor, gained in zip(grow, (steps * schedule.diffusion(times[:-1])).tolist()):
        variance = factor**2 * variance + gained
    return torch.tensor(grow, dtype=torch.float64).prod().item(), variance


def score_gap(denoise: Denoise, truth: Denoise, u: Tensor, eps: Tensor, times: Tensor) -> Tensor:
    """½ ∫ ‖ε̂ − ε̂*‖² dγ for each row, (B,) nats, by the trapezium rule; its mean over data bounds KL(p ‖ model).

    Arguments:
        denoise, truth: of the model, and of the data: one schedule.
        u: (B, ...) rows of data in model units.
        eps: (B, ...) the noise that carries each row along the whole path.
        times: rising, in [0, 1].

    Source: Song et al. (2021), arXiv:2101.09258, theorem 1.
    """
    points = denoise.schedule.at(_rising(times))
    errors = []
    for t in (Point(*v) for v in zip(*points)):
        place = t.like(u)
        z = place.alpha * u + place.sigma * eps
        errors.append((denoise(z, t).eps - truth(z, t).eps).square().flatten(1).sum(1))
    return 0.5 * torch.trapezoid(torch.stack(errors, 1), points.gamma.to(u), dim=1)


def _rising(times: Tensor) -> Tensor:
    return check_times(torch.as_tensor(times).flip(0)).flip(0)
