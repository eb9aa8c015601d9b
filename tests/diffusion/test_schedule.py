"""Schedules: ends, composition, posterior, stability against 50-digit arithmetic."""

import itertools

import mpmath
import pytest
import torch

from likeli.config import build, describe, registered
from likeli.diffusion.bound import low_discrepancy
from likeli.diffusion.learned import Monotone, MonotoneByCell
from likeli.diffusion.schedule import (
    Betas,
    Cosine,
    Karras,
    LinearBeta,
    LogLinear,
    Schedule,
    Sigmoid,
    Straight,
    SubVP,
    VarianceExploding,
    VariancePreserving,
    bridge,
    kernel,
)
from likeli.diffusion.times import check_times, even_log_snr, grid_of, karras, uniform
from likeli.errors import InputError, Unsupported
from likeli.random import seeded

SCHEDULES = [c() for c in registered(Schedule).values() if c.__module__.startswith("likeli.")]
IDS = [s.kind() for s in SCHEDULES]
T = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_log_snr_falls_and_everything_is_finite(schedule):
    alpha, sigma = schedule(T)
    assert bool((schedule.gamma(T).diff() > 0).all())
    assert bool((alpha > 0).all()) and bool((sigma > 0).all())
    torch.testing.assert_close(schedule.gamma(T), 2 * (sigma.log() - alpha.log()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_derivatives_agree_with_differences_and_with_each_other(schedule):
    t, h = torch.linspace(0.03, 0.97, 16, dtype=torch.float64), 1e-6
    difference = (schedule.gamma(t + h) - schedule.gamma(t - h)) / (2 * h)
    torch.testing.assert_close(schedule.rate(t)[1], difference, rtol=1e-6, atol=1e-6)
    (alpha, sigma), (d_alpha, d_sigma) = schedule(t), schedule.velocity(t)
    torch.testing.assert_close(schedule.drift(t), d_alpha / alpha, rtol=1e-10, atol=1e-10)
    g2 = 2 * sigma * d_sigma - 2 * schedule.drift(t) * sigma**2
    torch.testing.assert_close(schedule.diffusion(t), g2, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_steps_compose_to_the_marginal(schedule):
    """q(z_t|z_s) after q(z_s|x) is q(z_t|x), over every neighbouring pair of a grid at once and chained."""
    points = [schedule.at(t) for t in uniform(20).flip(0)]
    mean, variance = points[0].alpha, points[0].sigma ** 2
    for s, t in itertools.pairwise(points):
        a, std = kernel(s, t)
        mean, variance = a * mean, a**2 * variance + std**2
    torch.testing.assert_close(mean, points[-1].alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, points[-1].sigma ** 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_posterior_is_bayes_rule(schedule):
    """q(z_s|z_t, x) ∝ q(z_t|z_s) q(z_s|x): precisions add, and so do precision-weighted means."""
    for low, high in ((0.1, 0.2), (0.5, 0.5001), (0.0, 1.0)):
        s, t = schedule.at(low), schedule.at(high)
        a, b, std = bridge(s, t)
        gain, noise = kernel(s, t)
        precision = gain**2 / noise**2 + 1 / s.sigma**2
        torch.testing.assert_close(std**-2, precision, rtol=1e-9, atol=0)
        torch.testing.assert_close(a, gain / noise**2 / precision, rtol=1e-9, atol=0)
        torch.testing.assert_close(b, s.alpha / s.sigma**2 / precision, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if isinstance(s, VariancePreserving)], ids=lambda s: s.kind())
def test_variance_is_preserved(schedule):
    alpha, sigma = schedule(T)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-12, atol=0)


def test_ddpm_coefficients_are_those_of_the_paper():
    """Ho et al., eq. 7, with variances (not roots) and √α_t (not √ᾱ_t): the misprints give .5986 for .8992 here."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar, i = (1 - betas).cumprod(0), 499
    schedule = Betas(1000)
    s, t = schedule.at((i - 1) / 999), schedule.at(i / 999)
    torch.testing.assert_close(t.alpha**2, bar[i], rtol=1e-10, atol=0)
    a, b, std = bridge(s, t)
    torch.testing.assert_close(a, (1 - betas[i]).sqrt() * (1 - bar[i - 1]) / (1 - bar[i]), rtol=1e-9, atol=0)
    torch.testing.assert_close(b, bar[i - 1].sqrt() * betas[i] / (1 - bar[i]), rtol=1e-9, atol=0)
    torch.testing.assert_close(std**2, betas[i] * (1 - bar[i - 1]) / (1 - bar[i]), rtol=1e-9, atol=0)


def test_known_ends():
    assert Betas(100).at(1.0).alpha.item() ** 2 == pytest.approx(0.364, abs=5e-4)
    assert LogLinear(-6, 6).gamma(torch.tensor([0.0, 1.0])).tolist() == [-6, 6]
    for schedule in (Cosine(-9, 7), Sigmoid(-9, 7), Monotone(-9, 7)):
        ends = schedule.gamma(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        assert ends == pytest.approx([-9, 7], abs=1e-6)
    assert VarianceExploding(0.01, 50).at(0.5).sigma.item() == pytest.approx((0.01 * 50) ** 0.5)
    grid = Karras().at(uniform(18)).sigma  # the published 18-step grid
    assert grid[0].item() == pytest.approx(80) and grid[-1].item() == pytest.approx(0.002)
    rho = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 19, dtype=torch.float64) ** 7
    torch.testing.assert_close(grid, rho, rtol=1e-12, atol=0)
    half = LinearBeta(first=1e-12).at(0.5)
    assert half.alpha.item() == pytest.approx(torch.tensor(-0.25 * 0.5**2 * 19.9 - 0.5 * 0.5 * 0.1).exp().item())
    assert SubVP().at(0.5).sigma.item() == pytest.approx(1 - SubVP().at(0.5).alpha.item() ** 2)
    alpha, sigma = Straight()(T)
    torch.testing.assert_close(alpha + sigma, torch.ones_like(T))


@pytest.mark.parametrize("steps", [10, 100, 1000, 10_000])
def test_a_float32_step_is_right_at_any_fineness(steps):
    """Against 50 digits, log SNR from 20 to −20: point and posterior step after rounding to float32, to a few of its eps."""
    schedule = LogLinear(-20, 20)
    mpmath.mp.dps = 50
    for i in sorted({1, steps // 7 + 1, steps // 2, steps}):
        g = [mpmath.mpf(-20) + mpmath.mpf(40) * j / steps for j in (i - 1, i)]
        alpha = [mpmath.sqrt(1 / (1 + mpmath.exp(v))) for v in g]
        sigma = [mpmath.sqrt(1 / (1 + mpmath.exp(-v))) for v in g]
        c = 1 - mpmath.exp(g[0] - g[1])
        want = [*alpha, *sigma, alpha[1] / alpha[0] * (sigma[0] / sigma[1]) ** 2, alpha[0] * c, sigma[0] * mpmath.sqrt(c)]
        s, t = schedule.at((i - 1) / steps), schedule.at(i / steps)
        got = [v.float().item() for v in (s.alpha, t.alpha, s.sigma, t.sigma, *bridge(s, t))]
        assert got == pytest.approx([float(v) for v in want], rel=1e-6)


def test_extreme_log_snr_stays_finite_in_float32():
    t = torch.linspace(0, 1, 7)
    schedule = LogLinear(-30, 30)
    for value in (*schedule(t), schedule.gamma(t), schedule.rate(t)[1], schedule.drift(t), schedule.diffusion(t)):
        assert bool(value.isfinite().all())


def test_the_learned_schedule_finds_the_least_variance():
    """J = ∫ (m' e)² dt is least where m' e is constant; with e = exp(−3m): J = (∫₀¹ e dm)², everywhere else more."""
    with seeded(0, "learned"):
        schedule = Monotone(0.0, 1.0, width=16)
        optimiser = torch.optim.Adam(schedule.parameters(), 0.03)
        def error(t):
            return (-3 * schedule.shape(t)[0]).exp()
        t = torch.linspace(0, 1, 2001, dtype=torch.float64)
        def objective():
            return (schedule.shape(t)[1] * error(t)).square().mean().item()
        least, before = ((1 - torch.tensor(-3.0).exp().item()) / 3) ** 2, objective()
        for _ in range(600):
            optimiser.zero_grad()
            times = low_discrepancy(256)
            schedule.variance_loss(times, error(times)).sum().backward()
            optimiser.step()
    assert before > 1.5 * least
    assert objective() == pytest.approx(least, rel=0.01)
    assert objective() > least - 1e-4


def test_the_variance_gradient_is_the_derivative_of_the_objective():
    """The part-integrated gradient equals autograd's through γ itself, e being a known function of m: float64 quadrature."""
    schedule = Monotone(0.0, 1.0, width=4).double()
    with torch.no_grad():
        schedule.weight.add_(torch.tensor([2.0, 1.0, 0.0, 3.0]))
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    m, slope, _ = schedule.shape(t)
    e = 1 / (0.3 + m)
    (slope * e).square().mean().log().backward()
    direct = [p.grad.clone() for p in (schedule.slope, schedule.offset, schedule.weight)]
    schedule.zero_grad()
    schedule.variance_loss(t, e.detach()).mean().backward()
    for p, want in zip((schedule.slope, schedule.offset, schedule.weight), direct):
        torch.testing.assert_close(p.grad, want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_configuration_round_trip_and_inverse(schedule):
    again = build(describe(schedule), Schedule)
    torch.testing.assert_close(again.gamma(T), schedule.gamma(T), rtol=0, atol=0)
    if isinstance(schedule, MonotoneByCell):
        with pytest.raises(Unsupported, match="even in time"):
            schedule.time_of(schedule.gamma(T))
        return
    torch.testing.assert_close(schedule.time_of(schedule.gamma(T)), T, rtol=0, atol=1e-9)


def test_grids():
    schedule = Cosine()
    assert torch.equal(grid_of("log_snr", schedule, 7), even_log_snr(schedule, 7))
    snr = schedule.gamma(even_log_snr(schedule, 7)).diff()
    torch.testing.assert_close(snr, snr[:1].expand(7), rtol=1e-9, atol=1e-9)
    root = (schedule.gamma(karras(schedule, 7)) / 14).exp().diff()
    torch.testing.assert_close(root, root[:1].expand(7), rtol=1e-9, atol=1e-9)
    with seeded(1, "spread"):
        t = low_discrepancy(8).sort()[0]
    torch.testing.assert_close(t.diff(), torch.full((7,), 1 / 8, dtype=torch.float64))


@pytest.mark.parametrize(
    "call",
    [
        lambda: uniform(0),
        lambda: check_times(torch.tensor([1.0, 1.2])),
        lambda: check_times(torch.tensor([0.3, 0.5])),
        lambda: check_times(torch.tensor([0.3])),
        lambda: check_times(torch.tensor([0.3, float("nan")])),
        lambda: LogLinear(3, 2),
        lambda: Betas(1),
        lambda: LinearBeta(0.0),
        lambda: VarianceExploding(2.0, 1.0),
        lambda: Straight(0.7),
        lambda: grid_of("even", LogLinear(), 3),
        lambda: Sigmoid(start=1, end=0),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
