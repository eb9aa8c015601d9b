"""Whether a sampler keeps a Gaussian's variance: closed forms, draws, and the reverse step of the right second moment."""

import math
from collections import deque
from itertools import pairwise

import pytest
import torch

from likeli.diffusion import (
    DDIM,
    AnalyticDPM,
    Ancestral,
    EulerMaruyama,
    Tabulated,
    grid_of,
    trajectory,
    uniform,
    variance_ratio,
)
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.schedule import Betas, LinearBeta, Straight, VarianceExploding, bridge
from likeli.errors import InputError
from likeli.random import Ambient, seeded

F64 = torch.float64
VP = Betas(1000, "linear", 1e-4, 0.02)


def closed_form(schedule, times, v, step):
    """Var z_0 over α_0² v + σ_0², by the recursion of a step that multiplies z and adds noise: (factor, variance)."""
    now = schedule.prior_std().item() ** 2
    for t, s in pairwise(schedule.at(time) for time in times):
        x_of_z = (t.alpha * v / (t.alpha**2 * v + t.sigma**2)).item()  # x̂ = α v z/(α² v + σ²)
        factor, noise = step(t, s, x_of_z)
        now = factor**2 * now + noise
    last = schedule.at(times[-1])
    return now / (last.alpha**2 * v + last.sigma**2).item()


def ancestral(t, s, x_of_z):
    a, b, std = (value.item() for value in bridge(s, t))
    return a + b * x_of_z, std**2


def flow(t, s, x_of_z):
    return (s.alpha * x_of_z + s.sigma * (1 - t.alpha * x_of_z) / t.sigma).item(), 0.0


def half(t, s, x_of_z):
    """DDIM with η = ½."""
    share = -0.25 * math.expm1(s.gamma.item() - t.gamma.item())
    eps = ((1 - t.alpha * x_of_z) / t.sigma).item()
    return s.alpha.item() * x_of_z + s.sigma.item() * math.sqrt(1 - share) * eps, s.sigma.item() ** 2 * share


def reverse_sde(schedule):
    def step(t, s, x_of_z):
        h, g2 = (t.t - s.t).item(), schedule.diffusion(t.t).item()
        score = -((1 - t.alpha * x_of_z) / t.sigma**2).item()
        return 1 - h * (schedule.drift(t.t).item() - g2 * score), g2 * h

    return step


@pytest.mark.parametrize("v", [1.0, 0.1])
@pytest.mark.parametrize("schedule", [VP, VarianceExploding(), LinearBeta(first=1e-3)], ids=lambda s: s.kind())
def test_the_ratio_is_that_of_the_closed_form(schedule, v):
    for sampler, step in (
        (Ancestral(), ancestral),
        (DDIM(), flow),
        (DDIM(0.5), half),
        (DDIM(1.0), ancestral),
        (EulerMaruyama(), reverse_sde(schedule)),
    ):
        for steps in (1, 16):
            times = grid_of("log_snr", schedule, steps)
            found = variance_ratio(sampler, schedule, times, v)
            assert found == pytest.approx(closed_form(schedule, times, v, step), rel=1e-9), sampler.kind()


def test_the_ratio_is_that_of_draws():
    """200,000 draws of `ancestral` in 16 steps: 4 s.e. of a variance, 4 √(2/n) = 0.013 of it (false alarms 1 in 16,000)."""
    n, times = 200_000, uniform(16)
    one = torch.ones(1, 1, dtype=F64)
    denoise = MixtureDenoiser(VP, one[0], 0 * one, one).given(None)
    with seeded(0, "draws"):
        z = VP.prior_std() * torch.randn(n, 1, dtype=F64)
        (last,) = deque(trajectory(denoise, z, times, Ambient(z)), maxlen=1)
    expected = variance_ratio("ancestral", VP, times) * (last.at.alpha**2 + last.at.sigma**2).item()
    assert last.z.var().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / n))
    assert variance_ratio("ancestral", VP, times) < 0.7  # a third of it is lost


@pytest.mark.parametrize("schedule", [VP, VarianceExploding(), Straight()], ids=lambda s: s.kind())
@pytest.mark.parametrize("v, spread", [(1.0, 1.0), (0.1, 1.0), (4.0, 2.0)])
def test_the_right_second_moment_keeps_the_variance_of_a_gaussian(schedule, v, spread):
    """In any number of steps: what is left is the start, N(0, α_1² + σ_1²), for α_1² v + σ_1², forgotten by few steps less."""
    for grid in ("time", "log_snr"):
        for steps in (16, 32, 64):
            ratio = variance_ratio(AnalyticDPM(spread), schedule, grid_of(grid, schedule, steps), v)
            assert ratio == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("steps, bias, lost", [(16, 0.04, 0.2), (64, 0.01, 0.05)])
def test_the_right_second_moment_on_a_mixture(steps, bias, lost):
    """Total variance of 20,000 draws of a mixture in the plane: within 4 s.e. (false alarms 1 in 16,000) and a bias, since no
    Gaussian step is q(z_s|z_t) there; that of `ancestral` is several times as large."""
    schedule, n = LinearBeta(first=1e-3), 20_000
    means = torch.tensor([[-1.0, 0.5], [1.2, 0.3], [0.0, -1.5]], dtype=F64)
    weights, root = torch.tensor([0.5, 0.2, 0.3], dtype=F64), torch.tensor([[0.5, 0.0], [0.3, 0.2]], dtype=F64)
    truth = MixtureDenoiser(schedule, weights, means, (root @ root.T).expand(3, 2, 2))
    mean = weights @ means
    total = (weights @ (means - mean).square()).sum() + root.square().sum()
    found = {}
    for sampler in (Ancestral(), AnalyticDPM(2.0)):
        with seeded(3, sampler.kind()):
            z = schedule.prior_std() * torch.randn(n, 2, dtype=F64)
            times = grid_of("log_snr", schedule, steps)
            (last,) = deque(trajectory(truth.given(None), z, times, Ambient(z), sampler), maxlen=1)
        square = (last.z / last.at.alpha - mean).square().sum(1)
        found[sampler.kind()] = (square.mean() / total).item()
        error = (square.std() / math.sqrt(n) / total).item()
    assert found["analytic_dpm"] == pytest.approx(1, abs=4 * error + bias)
    assert found["ancestral"] < 1 - lost


def test_a_start_without_signal():
    """Where ᾱ ends at 2e-9 for 0 nothing of x is seen, and v is all of its variance."""
    schedule = Tabulated.from_alphas_cumprod([0.99, 0.5, 0.1, 0.0])
    ratio = variance_ratio(AnalyticDPM(), schedule, schedule.levels(4).t.flip(0))
    assert ratio == pytest.approx(1, abs=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="spread"):
        AnalyticDPM(0.0)
    with pytest.raises(InputError, match="variance"):
        variance_ratio("ddim", VP, uniform(4), -1.0)
