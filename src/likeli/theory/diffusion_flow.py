"""log p by the probability flow, its divergence and its errors, and what a wrong score costs."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from likeli.diffusion.denoiser import Conditional, Prediction
from likeli.diffusion.exact import score_gap
from likeli.diffusion.probability_flow import flow, log_density, solve, velocity, with_divergence
from likeli.diffusion.schedule import LogLinear, Point, Schedule, Straight
from likeli.probability.information import gaussian_kl
from likeli.random import Ambient
from likeli.theory.check import identity
from likeli.theory.diffusion_truths import F64, SPREAD, draws, hermite, line, plane

POINTS = 50


def _log_p(schedule: Schedule, prior: Any = None, **options: Any) -> tuple[Tensor, Any, Any]:
    """(error of log p, what was found, the truth) at points of the plane's mixture; p_1 is the true one if not given."""
    truth = plane(schedule)
    z = draws(truth, POINTS)
    end = schedule.at(1.0)
    found = log_density(truth.given(None), z, prior or (lambda v: truth.log_density(v, end)), **options)
    return found.log_p - truth.log_density(z, schedule.at(0.0)), found, truth


@identity(
    "R85", "I25",
    title="flow's log p of a mixture = its exact log p, at rtol 10⁻⁷ with the true p_1: largest error, nats",
    tolerance=1e-6,
)
def flow_density_is_exact() -> float:
    return _log_p(LogLinear(-6, 6), rtol=1e-7, atol=1e-7)[0].abs().max().item()


@identity(
    "R85", "I25",
    title="a looser tolerance errs more, within 20 of what the solver says of itself: failures",
    tolerance=0,
)
def flow_error_follows_the_tolerance() -> float:
    errors, failures = [], 0
    for tolerance in (1e-3, 1e-5, 1e-7):
        error, found, _ = _log_p(LogLinear(-6, 6), rtol=tolerance, atol=tolerance)
        errors.append(error.abs().max().item())
        failures += bool(errors[-1] > 20 * found.ode_error.max().item() + 1e-9)
    return failures + (errors[0] < errors[1]) + (errors[1] < errors[2])


@identity(
    "R85", "I25", "R60",
    title="with N(0, I) for p_1 the error of log p is log N − log p_1 at the code: what is left over, nats",
    tolerance=1e-6,
)
def flow_error_splits() -> float:
    normal = D.MultivariateNormal(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    schedule = LogLinear(-6, 6)
    error, found, truth = _log_p(schedule, normal.log_prob, rtol=1e-7, atol=1e-7)
    mismatch = normal.log_prob(found.z) - truth.log_density(found.z, schedule.at(1.0))
    if not 1e-4 < mismatch.abs().max().item() < 0.1:  # a floor that no solver tolerance lowers
        return math.inf
    return (error - mismatch).abs().max().item()


@identity(
    "B1", "R85",
    title="straight schedule (flow matching): the flow's log p of a mixture = its exact one, nats",
    tolerance=1e-4,
)
def straight_flow_density_is_exact() -> float:
    return _log_p(Straight(0.01), rtol=1e-7, atol=1e-7)[0].abs().max().item()


@identity(
    "R86", "I26",
    title="divergence, one backward pass a cell = α'·tr ∂x̂ + σ'·tr ∂ε̂ with ∂x̂/∂z = (α/σ²) Cov[x|z]",
    tolerance=1e-10,
)
def divergence_is_the_trace() -> float:
    truth, worst = plane(LogLinear(-6, 6)), 0.0
    for t in (0.2, 0.6):
        at = truth.schedule.at(t)
        z = at.alpha * draws(truth, 20) + at.sigma * torch.randn(20, 2, dtype=F64)
        axes = torch.eye(2, dtype=F64)[:, None].expand(2, 20, 2)
        found = with_divergence(partial(velocity, truth.given(None), t=t), z, axes)[1].sum(1)
        d_alpha, d_sigma = truth.schedule.velocity(at.t)
        mean = at.alpha / at.sigma.square() * truth.variance(z, at).sum(1)
        trace = d_alpha * mean + d_sigma * (2 - at.alpha * mean) / at.sigma
        worst = max(worst, ((found - trace).abs() / (1 + trace.abs())).max().item())
    return worst


@identity("R86", "I26", title="random probes: mean of log p − the exact one, in standard errors", tolerance=4.5)
def probes_are_unbiased() -> float:
    return _probed()[0]


@identity(
    "R86", "I26",
    title="95 % intervals over 8 probes (t, 7 degrees) miss the exact divergence: share of misses",
    tolerance=0.12,
)
def probe_intervals_cover() -> float:
    """Few probes of a plane are not normal: 400 intervals at 5 % miss 5 ± 1 %; 12 % leaves room for that, 20 % would fail."""
    return _probed()[1]


def _probed() -> tuple[float, float]:
    truth = plane(LogLinear(-5, 5))
    z, end = draws(truth, 400), truth.schedule.at(1.0)
    found = log_density(
        truth.given(None), z, lambda v: truth.log_density(v, end), probes=8, noise=Ambient(z), rtol=1e-4, atol=1e-4
    )
    gap = found.log_p - truth.log_density(z, truth.schedule.at(0.0))
    assert found.probe_error is not None
    missed = (gap.abs() > 2.365 * found.probe_error + 1e-3).double().mean().item()
    return abs(gap.mean().item()) / gap.std().item() * 20, missed


@identity(
    "I26", "R85",
    title="a linear field as a continuous flow: log p and the end point in closed form, through the same code",
    tolerance=1e-7,
)
def linear_flow_is_closed() -> float:
    truth = line(LogLinear(-4, 4))
    z = torch.linspace(-3, 3, 13, dtype=F64)[:, None]
    first, last = truth.schedule.at(0.0), truth.schedule.at(1.0)
    spread = [(p.alpha * SPREAD).hypot(p.sigma) for p in (first, last)]
    normal = D.Independent(D.Normal(torch.zeros(1, dtype=F64), spread[1][None]), 1)
    found = log_density(truth.given(None), z, normal.log_prob, rtol=1e-9, atol=1e-9)
    scaled = z * spread[1] / spread[0]  # the flow of a Gaussian keeps z over its spread
    errors = found.z - scaled, found.log_p - normal.log_prob(scaled) - (spread[1] / spread[0]).log()
    back = flow(truth.given(None), found.z, 1.0, 0.0, rtol=1e-9, atol=1e-9) - z
    return max(e.abs().max().item() for e in (*errors, back))


@identity(
    "R83", "I27",
    title="KL(p ‖ model) ≤ ½ ∫ g² E‖Δ score‖² dt + KL(p_1 ‖ prior), Gaussian with a wrong score: excess, nats",
    tolerance=0,
)
def wrong_score_costs_at_most_the_bound() -> float:
    worst = -math.inf
    for slope, shift, prior in ((0.2, 0.0, 1.0), (-0.1, 0.3, 1.0), (0.05, -0.1, 1.2), (0.0, 0.5, 0.8)):
        kl, bound = _cost(slope, shift, prior)
        if kl < 1e-4 or kl < 0.01 * bound:  # a planted error must be seen, and the bound must not be empty
            return math.inf
        worst = max(worst, kl - bound)
    return max(worst, 0.0)


@identity("R83", "I27", title="exact score and exact prior: KL and its bound are both 0: the larger, nats", tolerance=1e-8)
def right_score_costs_nothing() -> float:
    return max(abs(v) for v in _cost(0.0, 0.0, None))


class _Wrong(Conditional):
    """ε̂ = the right one + a z + b: a score that is wrong by a line."""

    def __init__(self, right: Conditional, slope: float, shift: float) -> None:
        super().__init__(right.schedule)
        self.right, self.slope, self.shift = right, slope, shift

    def forward(self, z: Tensor, at: Point, y: Tensor | None = None) -> Prediction:
        here = at.like(z)
        return Prediction.of_eps(self.right(z, at).eps + self.slope * z + self.shift, z, here.alpha, here.sigma)


def _cost(slope: float, shift: float, prior: float | None) -> tuple[float, float]:
    """(KL(p_0 ‖ model), its bound): everything is Gaussian, so the model's law follows from two moments.

    In γ the reverse SDE is dz = [f̃ z + σ ε̂] dγ + σ dw̄ with f̃ = d log α/dγ = −σ²/2 of the variance-preserving schedule.
    """
    right = line(LogLinear(-6, 6))
    wrong, first, last = _Wrong(right, slope, shift), right.schedule.at(0.0), right.schedule.at(1.0)
    spread = [(p.alpha * SPREAD).hypot(p.sigma).item() for p in (first, last)]
    start = spread[1] if prior is None else prior

    def field(gamma: Tensor, y: Tensor) -> Tensor:
        at = right.schedule.at((gamma[0] + 6) / 12)
        ends = wrong(torch.tensor([[0.0], [1.0]], dtype=F64), at).eps[:, 0]
        drift, push = -at.sigma.square() / 2 + at.sigma * (ends[1] - ends[0]), at.sigma * ends[0]
        return torch.stack([drift * y[:, 0] + push, 2 * drift * y[:, 1] - at.sigma.square()], 1)

    y = torch.tensor([[0.0, start**2]], dtype=F64)
    mean, variance = solve(field, y, 6.0, -6.0, rtol=1e-8, atol=1e-9).y[0]
    truth = torch.zeros((), dtype=F64), torch.tensor(spread[0], dtype=F64)
    kl = gaussian_kl(*truth, mean, variance.sqrt()).item()
    x, eps, weight = hermite(SPREAD)
    gap = score_gap(wrong.given(None), right.given(None), x, eps, torch.linspace(0, 1, 401, dtype=F64))
    end = gaussian_kl(truth[0], torch.tensor(spread[1], dtype=F64), truth[0], torch.tensor(start, dtype=F64))
    return kl, (weight @ gap + end).item()
