"""Convergence orders on exactly known scores, and marginals of the samplers that draw noise."""

import functools
import math

import pytest
import torch

from likeli.config import registered
from likeli.diffusion.denoiser import Denoise, Prediction
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.langevin import AnnealedLangevin, EulerMaruyama, PredictorCorrector
from likeli.diffusion.sampler import DDIM, Sampler, invert, trajectory
from likeli.diffusion.schedule import Cosine, Karras, LinearBeta, LogLinear, Straight
from likeli.diffusion.solvers import Adams, DPMSolver, Euler, Heun, Multistep, adams_weights
from likeli.diffusion.times import even_log_snr, optimal, uniform
from likeli.errors import InputError
from likeli.probability.mcmc import langevin, mala
from likeli.random import Ambient, seeded

F64 = torch.float64
ORDERS = [
    (Euler(), 1),
    (DDIM(), 1),
    (Heun(), 2),
    (DPMSolver(), 2),
    (Multistep(1, correct=False), 1),
    (Multistep(2, correct=False), 2),
    (Multistep(1), 2),
    (Multistep(2), 3),
    (Multistep(3), 3),
    (Adams(1, correct=False), 1),
    (Adams(2, correct=False), 2),
    (Adams(1), 2),
    (Adams(2), 3),
    (Adams(3, spread=0.5), 3),
    (Adams(4), 3),
]


def mixture(schedule):
    """Three Gaussians in the plane, none of them axis-aligned."""
    means = torch.tensor([[-1.0, 0.5], [1.2, 0.3], [0.0, -1.5]], dtype=F64)
    roots = torch.tensor([[[0.5, 0.0], [0.2, 0.3]], [[0.3, 0.0], [0.0, 0.6]], [[0.7, 0.0], [-0.4, 0.3]]], dtype=F64)
    return MixtureDenoiser(schedule, torch.tensor([0.5, 0.2, 0.3], dtype=F64), means, roots @ roots.mT).given(None)


def end(denoise, z, times, sampler):
    """The last z of a run."""
    return list(trajectory(denoise, z, times, Ambient(z), sampler))[-1][1]


def slope(errors, steps):
    """Least-squares slope of −log error on log steps."""
    x, y = torch.tensor(steps, dtype=F64).log(), -torch.tensor(errors, dtype=F64).log()
    return ((x - x.mean()) * (y - y.mean())).sum().item() / (x - x.mean()).square().sum().item()


@functools.cache
def start_and_truth(schedule):
    """Noise of 16 rows, and where the mixture's flow takes it."""
    z = schedule.prior_std() * torch.randn(16, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    return z, end(mixture(schedule), z, even_log_snr(schedule, 600), Multistep(4))


@pytest.mark.parametrize("schedule", [LogLinear(-5, 5), Karras(0.05, 10.0), LinearBeta(first=1e-2)], ids=lambda s: s.kind())
@pytest.mark.parametrize("sampler, order", ORDERS, ids=lambda v: v.kind() if isinstance(v, Sampler) else str(v))
def test_order_on_a_mixture(sampler, order, schedule):
    """Slope of log error on log steps over 32 to 128 even steps in log SNR, within 0.35 of the order or better."""
    denoise, (z, truth) = mixture(schedule), start_and_truth(schedule)
    steps = [32, 64, 128]
    errors = [(end(denoise, z, even_log_snr(schedule, n), sampler) - truth).norm().item() for n in steps]
    assert slope(errors, steps) > order - 0.35
    assert errors[-1] < 0.2


@pytest.mark.parametrize("sampler, order", ORDERS, ids=lambda v: v.kind() if isinstance(v, Sampler) else str(v))
def test_order_on_a_gaussian_against_the_closed_form(sampler, order):
    """The flow keeps (z − α m)/√(α² v + σ²) of N(m, v) constant; slope over 50 to 200 steps within 0.35 of the order."""
    schedule = Cosine(-6, 6)
    one = torch.ones(1, 1, dtype=F64)
    denoise = MixtureDenoiser(schedule, one[0], 0.7 * one, 0.25 * one).given(None)
    z = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    t, s = schedule.at(1.0), schedule.at(0.0)
    scale = ((s.alpha**2 * 0.25 + s.sigma**2) / (t.alpha**2 * 0.25 + t.sigma**2)).sqrt()
    truth = s.alpha * 0.7 + (z - t.alpha * 0.7) * scale
    steps = [50, 100, 200]
    errors = [(end(denoise, z, uniform(n), sampler) - truth).abs().max().item() for n in steps]
    assert slope(errors, steps) > order - 0.35
    assert errors[-1] < 0.02


def test_the_corrector_pays():
    """At 10 evaluations on a mixture the default is at least five times nearer the truth than DDIM, and nearer than 2M."""
    schedule = LogLinear(-5, 5)
    denoise = mixture(schedule)
    z = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    truth = end(denoise, z, uniform(600), Multistep(4))
    ddim, twice, ours = ((end(denoise, z, uniform(10), s) - truth).norm().item() for s in (DDIM(), DPMSolver(), Multistep()))
    assert ours < ddim / 5
    assert ours < twice


def test_weights_integrate_polynomials_exactly():
    """On n places, ∫ φ^k for k < n to rounding, forwards and backwards."""
    for places in ((0.3,), (0.3, 0.5), (0.3, 0.5, 1.1), (0.2, 0.3, 0.5, 1.1)):
        for first, last in ((0.3, 0.25), (0.3, 0.9)):
            weights = adams_weights(places, first, last)
            for k in range(len(places)):
                exact = (last ** (k + 1) - first ** (k + 1)) / (k + 1)
                assert sum(w * p**k for w, p in zip(weights, places)) == pytest.approx(exact, rel=1e-11, abs=1e-13)


def test_data_of_the_assumed_spread_need_one_step():
    """The flow of N(0, c²) does not turn: any grid is exact."""
    schedule, one = Cosine(-6, 6), torch.ones(1, 1, dtype=F64)
    denoise = MixtureDenoiser(schedule, one[0], 0 * one, 0.49 * one).given(None)
    z, t, s = torch.linspace(-2, 2, 9, dtype=F64)[:, None], schedule.at(1.0), schedule.at(0.0)
    truth = z * ((s.alpha**2 * 0.49 + s.sigma**2) / (t.alpha**2 * 0.49 + t.sigma**2)).sqrt()
    torch.testing.assert_close(end(denoise, z, uniform(1), Adams(spread=0.7)), truth, rtol=1e-12, atol=1e-12)


def test_the_optimal_grid_pays():
    """Ten evaluations of three Gaussians: five times nearer the truth than the same method on an even grid in log SNR."""
    schedule = Karras(0.01, 100.0)
    denoise = mixture(schedule)
    z = schedule.prior_std() * torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    truth = end(denoise, z, even_log_snr(schedule, 600), Multistep(4))
    grids = even_log_snr(schedule, 10), optimal(schedule, 10, 2)
    even, ours = ((end(denoise, z, times, Adams()) - truth).norm().item() for times in grids)
    assert ours < even / 5


@pytest.mark.parametrize("schedule", [LogLinear(), Karras(), Straight(), Cosine()], ids=lambda s: s.kind())
def test_the_optimal_grid_is_dense_where_it_says(schedule):
    """Falling from 1 to 0, with even steps of its own coordinate."""
    times, scale = optimal(schedule, 12, 64, 0.5), math.log(64)
    centre, data, noise = math.log(0.5) - 0.4 + 0.24 * scale, 2.1 + 0.1 * scale, 1.72 + 0.05 * scale
    assert times[0] == 1 and times[-1] == 0
    assert bool((times.diff() < 0).all())
    way = schedule.gamma(times) / 2 - centre
    place = torch.where(way < 0, data * (way / data).tanh(), noise * (way / noise).tanh())
    torch.testing.assert_close(place.diff(), place.diff().mean().expand(12), rtol=1e-6, atol=1e-9)


def test_evaluations_per_step():
    """One for all but Heun's two, the correcting multistep included."""
    for sampler, per_step in ((Euler(), 1), (DDIM(), 1), (Heun(), 2), (DPMSolver(), 1), (Multistep(3), 1), (Adams(), 1)):
        calls, schedule = [], LogLinear(-5, 5)

        def count(z, at, calls=calls):
            calls.append(at)
            return Prediction.of_x(0.5 * z, z, at.alpha, at.sigma)

        end(Denoise(schedule, count), torch.zeros(1, 2), uniform(7), sampler)
        assert len(calls) == 7 * per_step


def test_a_straight_path_to_a_point_needs_one_step():
    """With x̂ = c for all z the flow is a straight line: Euler on the straight schedule, and every other solver, are exact."""
    schedule, c, z = Straight(), 0.3, torch.randn(5, 2, dtype=F64)
    denoise = Denoise(schedule, lambda z, at: Prediction.of_x(torch.full_like(z, c), z, at.alpha, at.sigma))
    t, s = schedule.at(1.0), schedule.at(0.0)
    truth = s.alpha * c + s.sigma * (z - t.alpha * c) / t.sigma
    for sampler in (Euler(), DDIM(), Heun(), DPMSolver(), Multistep()):
        torch.testing.assert_close(end(denoise, z, uniform(1), sampler), truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sampler", [DDIM(), Euler(), Heun(), Multistep(), Adams()], ids=lambda s: s.kind())
def test_inversion_returns_the_noise(sampler):
    """There and back along the flow: the round trip errs by twice the one-way error or so, and less with more steps."""
    schedule = LogLinear(-5, 5)
    denoise = mixture(schedule)
    z = torch.randn(16, 2, dtype=F64, generator=torch.Generator().manual_seed(2))
    errors = []
    for n in (50, 200):
        x = end(denoise, z, uniform(n), sampler)
        back = list(invert(denoise, x, uniform(n).flip(0), sampler))[-1][1]
        errors.append((back - z).norm().item())
    assert errors[1] < errors[0] / 2.5
    assert errors[1] < 0.2


def test_inversion_refuses_noise():
    with pytest.raises(InputError, match="deterministic"):
        invert(mixture(LogLinear()), torch.zeros(1, 2), uniform(4).flip(0), "ancestral")
    with pytest.raises(InputError, match="times"):
        invert(mixture(LogLinear()), torch.zeros(1, 2), uniform(4), "ddim")


def test_euler_maruyama_keeps_the_marginals_to_first_order():
    """Gaussian data: mean and variance follow a linear recursion exactly; its bias against the truth halves with the step."""
    schedule = LinearBeta(first=1e-2)
    one = torch.ones(1, 1, dtype=F64)
    denoise = MixtureDenoiser(schedule, one[0], 0.7 * one, 0.25 * one).given(None)
    bias = []
    for steps in (100, 200):
        ends = [1.0, 0.0]
        variance = 1.0
        for t, s in zip(uniform(steps)[:-1], uniform(steps)[1:], strict=True):
            z = torch.tensor(ends, dtype=F64)[:, None]
            zs, _ = EulerMaruyama().step(denoise, z, schedule.at(t), schedule.at(s), _Zero(), None)
            gain = (zs[0] - zs[1]).item() / (ends[0] - ends[1])
            variance = gain**2 * variance + ((t - s) * schedule.diffusion(t)).item()
        last = schedule.at(0.0)
        bias.append(abs(variance - (last.alpha**2 * 0.25 + last.sigma**2).item()))
    assert bias[1] < 0.6 * bias[0]
    assert bias[1] < 0.03


class _Zero:
    """Noise that is none."""

    rows = 2

    def normal(self, *shape):
        return torch.zeros(2, *shape, dtype=F64)

    uniform = normal


@pytest.mark.parametrize("sampler", [EulerMaruyama(), PredictorCorrector(), AnnealedLangevin(5, 0.3)], ids=lambda s: s.kind())
def test_noisy_samplers_reach_the_mixture(sampler):
    """2000 samples, 100 levels: shares of the three components and overall mean and variance within 4 s.e. plus 0.03 bias."""
    schedule, n = LogLinear(-5, 5), 2000
    denoise = mixture(schedule)
    with seeded(0, sampler.kind()):
        z = torch.randn(n, 2, dtype=F64)
        x = end(denoise, z, even_log_snr(schedule, 100), sampler)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
    means = torch.tensor([[-1.0, 0.5], [1.2, 0.3], [0.0, -1.5]], dtype=F64)
    roots = torch.tensor([[[0.5, 0.0], [0.2, 0.3]], [[0.3, 0.0], [0.0, 0.6]], [[0.7, 0.0], [-0.4, 0.3]]], dtype=F64)
    mean = weights @ means
    covariance = torch.einsum("k,kij->ij", weights, roots @ roots.mT) + (means - mean).T @ (weights[:, None] * (means - mean))
    assert (x.mean(0) - mean).abs().max().item() < 4 * (covariance.diag().max().item() / n) ** 0.5 + 0.03
    assert (x.T.cov() - covariance).abs().max().item() < 4 * covariance.max().item() * (2 / n) ** 0.5 + 0.05


def test_langevin_is_biased_by_its_step_as_computed_and_mala_is_not():
    """N(0, 1/k): the unadjusted chain's variance is (1/k)/(1 − δk/4), MALA's 1/k; 5000 chains of 300 steps, 4 s.e."""
    k, delta, n = 2.0, 0.6, 5000
    with seeded(0, "langevin"):
        z = torch.randn(n, 1, dtype=F64)
        biased = z / k**0.5
        for _, biased in zip(range(200), langevin(lambda z: -k * z, biased, delta, Ambient(z))):
            pass
        right, accepted = z / k**0.5, None
        for _, (right, accepted) in zip(range(200), mala(lambda z: -k * z.square().sum(1) / 2, 3 + right, delta, Ambient(z))):
            pass
    error = 4 * math.sqrt(2 / n)
    assert biased.var().item() == pytest.approx(1 / k / (1 - delta * k / 4), rel=error)
    assert right.var().item() == pytest.approx(1 / k, rel=error)
    assert 0.5 < accepted.double().mean().item() < 1


def test_every_sampler_gives_finite_samples_at_any_step_count_in_float32():
    """From 1 step to 30, on schedules to log SNR ±20."""
    for schedule in (LogLinear(-20, 20), Karras(0.002, 80.0), Straight()):
        means, variances = torch.tensor([[0.5, 0.5], [-1.0, 0.0]]), 0.2 * torch.ones(2, 2)
        denoise = MixtureDenoiser(schedule, torch.ones(2), means, variances).given(None)
        for cls in [c for c in registered(Sampler).values() if c.__module__.startswith("likeli.")]:
            for steps in (1, 2, 7, 30):
                with seeded(0, "finite"):
                    z = schedule.prior_std().float() * torch.randn(4, 2)
                    out = end(denoise, z, uniform(steps), cls())
                assert out.dtype is torch.float32
                assert bool(out.isfinite().all())
