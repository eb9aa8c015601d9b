"""What the path of γ(t) between two ends does to the estimate of the bound: not its mean, but its variance.

    ½ ∫ E‖ε − ε̂‖² dγ = E_t ½ γ'(t) ‖ε − ε̂(z_{γ(t)})‖²      for every rising γ(t) with the same ends
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from likeli.contract import GenerativeModel, evaluating
from likeli.diffusion.bound import integral
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.learned import Monotone
from likeli.diffusion.levels import checked
from likeli.diffusion.schedule import Cosine, LinearBeta, LogLinear, Schedule, process_time
from likeli.diffusion.times import Proposal
from likeli.errors import Unsupported, require
from likeli.random import seeded

PILOT = 512  # noises that the importance row is fitted to, before the measurement


@dataclass(frozen=True)
class ScheduleVariance:
    """One way to choose γ.

    Arguments:
        schedule: `learned` (the model's own), `log_linear`, `cosine`, `beta_linear`, or `importance` (fitted to the errors).
        nats: mean of the diffusion term: the same for all, within `stderr`.
        stderr: of `nats` over noises, the rows given.
        variance: of one draw for one row, nats²; averaged over rows.
        bits_variance: the same in (bits/dim)².
    """

    schedule: str
    nats: float
    stderr: float
    variance: float
    bits_variance: float


def schedule_variance(
    model: GenerativeModel, x: Any, y: Any = None, *, draws: int = 64, control: bool = False, seed: int = 0
) -> list[ScheduleVariance]:
    """The variance of a one-sample estimate of the bound under several schedules with the model's own end points.

    Arguments:
        model: a Gaussian diffusion with a bound in continuous time.
        x: (N, *shape) in the user's units.
        y: the condition.
        draws: times and noises for each row and schedule.
        control: whether to measure against the error of the denoiser of N(0, I), as training does on reals.
        seed: of the draws.

    Raises:
        Unsupported: another family, or a bound over T steps, whose value does depend on the schedule.
        InputError: x outside the space, fewer than two draws.

    Source: Kingma et al. (2021), arXiv:2107.00630, table 4.
    """
    model, x, y = checked(model, x, y)
    require(draws >= 2, "draws", "at least 2", draws)
    if not model.continuous:
        raise Unsupported(f"the bound of {model.kind()} over T steps depends on its schedule; a continuous one does not")
    table = []
    with evaluating(model), torch.no_grad():
        for name, path in _paths(model, x, y, seed).items():
            with seeded(seed, "schedule variance"):
                table.append(_measure(model, x, y, name, path, draws, control))
    return table


def beta_linear(first: float, last: float) -> LinearBeta:
    """Linear β(t) with the usual ratio of 200 from end to end, between two given γ.

    α² = exp(−B), so that B = softplus(γ); with β₁ = 200 β₀ all of it is 100.5 β₀.
    """
    start, end = (softplus(torch.tensor(v, dtype=torch.float64)).item() for v in (first, last))
    beta = end / 100.5
    return LinearBeta(beta, 200 * beta, process_time(start, beta, 200 * beta))


def _paths(model: GaussianDiffusion, x: Tensor, y: Tensor | None, seed: int) -> dict[str, Schedule | Proposal]:
    first, last = (g.item() for g in model.schedule.gamma_ends())
    known: dict[str, Schedule | Proposal] = {"learned": model.schedule} if isinstance(model.schedule, Monotone) else {}
    known |= {"log_linear": LogLinear(first, last), "cosine": Cosine(first, last), "beta_linear": beta_linear(first, last)}
    proposal, even = Proposal(), LogLinear(first, last)
    with seeded(seed, "pilot"):
        for k in range(math.ceil(PILOT / len(x))):
            u = model.infer(x, y)
            where = (torch.rand(len(u), dtype=torch.float64) + k) % 1
            proposal.learn(where, _draw(model, u, y, even.rate(where), control=False))
    return known | {"importance": proposal}


def _measure(
    model: GaussianDiffusion, x: Tensor, y: Tensor | None, name: str, path: Schedule | Proposal, draws: int, control: bool
) -> ScheduleVariance:
    u, (first, last), values = model.infer(x, y), model.schedule.gamma_ends(), []
    for _ in range(draws):
        t = torch.rand(len(u), dtype=torch.float64)
        if isinstance(path, Proposal):
            where, weight = path.place(t)
            gamma, rate = first + (last - first) * where, (last - first) * weight
        else:
            gamma, rate = path.rate(t)
        values.append(_draw(model, u, y, (gamma, rate), control).double())
    rows = torch.stack(values)
    variance, stderr = rows.var(0).mean().item(), (rows.var(0).mean() / rows.numel()).sqrt().item()
    unit = (model.space.dimensions * math.log(2)) ** 2
    return ScheduleVariance(name, rows.mean().item(), stderr, variance, variance / unit)


def _draw(
    model: GaussianDiffusion, u: Tensor, y: Tensor | None, place: tuple[Tensor, Tensor], control: bool
) -> Tensor:
    """One draw of the diffusion term at given γ, (B,), weighted by dγ/dt."""
    gamma, rate = place
    at, eps = model.schedule.at(model.schedule.time_of(gamma)), torch.randn_like(u)
    denoise = model.denoise(y)
    return integral(denoise if control else replace(denoise, errs_at_small_noise=False), u, eps, at, rate)[0]
