"""Schedules from a trained model's table, zero terminal SNR, x̂ held in bounds, Sigmoid far out, schedules without an end."""

import numpy as np
import pytest
import torch

import likeli
from likeli import DDPM, DenoiserBackbone, NoiseObjective, Pixels, Real
from likeli.config import build, describe
from likeli.diffusion import Prediction, Schedule, Tabulated, clipped, flow, grid_of, karras, solve
from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.schedule import Betas, LinearBeta, Sigmoid
from likeli.errors import InputError

F64 = torch.float64
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=F64)


def test_a_table_is_met_row_by_row():
    """α_i² = ᾱ_i at t = (i − 1)/(T − 1), by all three ways, and after a trip through config."""
    bar = (1 - BETAS).cumprod(0)
    levels = torch.linspace(0, 1, 1000, dtype=F64)
    for schedule in (Schedule.from_alphas_cumprod(bar.numpy()), Tabulated.from_betas(BETAS.tolist())):
        again = build(describe(schedule), Schedule)
        for one in (schedule, again):
            alpha, sigma = one(levels)
            torch.testing.assert_close(alpha.square(), bar, rtol=1e-10, atol=1e-14)
            torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(bar), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(schedule.gamma(levels), Betas().gamma(levels), rtol=1e-9, atol=1e-9)
    sigmas = np.geomspace(0.02, 50, 40)
    for given in (sigmas, sigmas[::-1].copy()):
        alpha, sigma = Tabulated.from_sigmas(given)(torch.linspace(0, 1, 40, dtype=F64))
        assert bool((alpha == 1).all())
        torch.testing.assert_close(sigma, torch.from_numpy(sigmas), rtol=1e-10, atol=0)


def test_a_model_with_the_table_is_the_model_with_the_formula():
    """DDPM's bound and samples agree to rounding of float64, and the run comes back from its folder."""
    space, x = Real((3,)), torch.randn(40, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    with likeli.seeded(0):
        a = DDPM(space, DenoiserBackbone(hidden=(8,)), steps=1000).double()
    b = DDPM(space, DenoiserBackbone(hidden=(8,)), steps=1000, noise=Tabulated.from_betas(BETAS)).double()
    b.load_state_dict(a.state_dict())
    torch.testing.assert_close(a.log_likelihood(x).value, b.log_likelihood(x).value, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(a.sample(4, steps=10), b.sample(4, steps=10), rtol=1e-7, atol=1e-7)


def test_zero_terminal_snr_is_the_papers_shift(tmp_path):
    """√ᾱ shifted by its last and stretched to keep its first; the last holds at most 2e-9 of signal, so all stays finite."""
    root = (1 - BETAS).cumprod(0).sqrt()
    truth = (root - root[-1]) * root[0] / (root[0] - root[-1])
    schedule = Tabulated.from_betas(BETAS, zero_terminal_snr=True)
    alpha, sigma = schedule(torch.linspace(0, 1, 1000, dtype=F64))
    torch.testing.assert_close(alpha[:-1], truth[:-1], rtol=1e-7, atol=1e-10)
    assert 0 < alpha[-1] < 5e-5 and alpha[-1] < alpha[-2] and sigma[-1] == pytest.approx(1)
    zero = Schedule.from_alphas_cumprod(truth.square())
    torch.testing.assert_close(zero.table, schedule.table, rtol=1e-8, atol=1e-8)

    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    model = DDPM(Real((2,)), DenoiserBackbone(hidden=(16,)), 1000, schedule, "v", NoiseObjective("v"))
    likeli.fit(model, x, steps=20, out=tmp_path / "run")
    number = likeli.load(tmp_path / "run").log_likelihood(x[:16], samples=4)
    assert number.value.isfinite().all() and number.errors["terminal_mismatch"] < 1e-6
    for sampler in ("ancestral", "ddim", "adams", "uni_pc", "deis", "dpm_solver_sde", "multistep"):
        assert model.sample(4, steps=12, sampler=sampler).isfinite().all()


@pytest.mark.parametrize("given, words", [
    (lambda: Schedule.from_alphas_cumprod([0.9, 0.95, 0.5]), "alphas_cumprod: expected falling numbers, got .0.9, 0.95. at s"),
    (lambda: Schedule.from_alphas_cumprod([1.0, 0.5]), "alphas_cumprod: expected numbers below 1"),
    (lambda: Schedule.from_alphas_cumprod([0.9]), "at least two"),
    (lambda: Schedule.from_alphas_cumprod([0.9, float("nan")]), "alphas_cumprod"),
    (lambda: Schedule.from_alphas_cumprod("scaled_linear"), "alphas_cumprod"),
    (lambda: Tabulated.from_betas([0.1, 0.0, 0.2]), "betas: expected numbers above 0 and below 1"),
    (lambda: Tabulated.from_betas([0.1, 1.2]), "betas"),
    (lambda: Tabulated.from_sigmas([10.0, 1.0, 0.0]), "sigmas: expected positive numbers, a final 0 left out"),
    (lambda: Tabulated.from_sigmas([1.0, 3.0, 2.0]), "sigmas: expected numbers that rise or fall"),
    (lambda: Tabulated((0.0, 100.0)), "gammas: expected numbers within 60"),
])  # fmt: skip
def test_tables_that_are_none_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        given()


def test_clipping_holds_the_belief_and_keeps_z():
    schedule, one = LinearBeta(first=1e-2), torch.ones(1, 1, dtype=F64)
    denoise = MixtureDenoiser(schedule, one[0], 0 * one, 4 * one).given(None)
    z, at = torch.linspace(-3, 3, 11, dtype=F64)[:, None], schedule.at(0.3)
    held, free = clipped(denoise, -one, one)(z, at), denoise(z, at)
    torch.testing.assert_close(held.x, free.x.clamp(-1, 1))
    torch.testing.assert_close(held.alpha * held.x + held.sigma * held.eps, z)
    inside = free.x.abs() < 1
    assert torch.equal(held.eps[inside], free.eps[inside]) and bool(inside.any()) and not bool(inside.all())


def test_a_clipped_sample_stays_inside_and_says_what_it_takes():
    model = DDPM(Real((2,), scale=3.0), DenoiserBackbone(hidden=(8,)), 50)
    model.denoiser = MixtureDenoiser(model.schedule, torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2))
    wide, held = (model.sample(200, steps=20, clip=clip, mean=True) for clip in (None, (-1.5, 1.5)))
    assert wide.abs().max() > 4 and held.abs().max() == 1.5
    pixels = DDPM(Pixels((2, 2), 16), DenoiserBackbone(hidden=(8,)), 20)
    assert pixels.sample(3, steps=4, clip=(0, 15)).max() <= 15
    for clip in ((1.0, 0.0), (0, 99)):
        with pytest.raises(InputError, match="clip"):
            pixels.sample(3, steps=4, clip=clip)


@pytest.mark.parametrize("end", [30.0, 37.0, 60.0])
def test_sigmoid_holds_to_its_ends(end):
    """γ from −end to end, rising, finite with its slope; between, against 80 digits."""
    from mpmath import mp

    schedule, t = Sigmoid(-end, end), torch.linspace(0, 1, 101, dtype=F64)
    gamma, rate = schedule.rate(t)
    assert gamma[0].item() == pytest.approx(-end, rel=1e-12) and gamma[-1].item() == pytest.approx(end, rel=1e-12)
    assert bool((gamma.diff() > 0).all()) and bool(rate.isfinite().all())
    mp.dps = 80

    def logistic(v):
        return 1 / (1 + mp.exp(-mp.mpf(v)))

    for i in (1, 30, 50, 99):
        gone = (logistic(-3 + 6 * mp.mpf(t[i].item())) - logistic(-3)) / (logistic(3) - logistic(-3))
        noise = logistic(-end) + (logistic(end) - logistic(-end)) * gone
        signal = logistic(end) + (logistic(-end) - logistic(end)) * gone
        assert gamma[i].item() == pytest.approx(float(mp.log(noise / signal)), rel=1e-11)


class Endless(Schedule):
    """α = 1 − t, σ = t."""

    def forward(self, t):
        return 1 - t, t


def test_a_schedule_without_ends_is_refused_by_models_and_grids():
    with pytest.raises(InputError, match="noise: expected a schedule of finite log SNR at both ends"):
        DDPM(Real((2,)), noise=Endless())
    with pytest.raises(InputError, match="finite log SNR"):
        karras(Endless(), 5)


def test_the_room_offers_the_solver_and_the_grids():
    """dy/dt = −y from 0 to 2, two rows; and the flow of N(0, 1), which does not move under α² + σ² = 1."""
    found = solve(lambda t, y: -y, torch.tensor([[1.0], [3.0]], dtype=F64), 0.0, 2.0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.y[:, 0], torch.tensor([1.0, 3.0], dtype=F64) * np.exp(-2), rtol=1e-7, atol=1e-9)
    schedule = LinearBeta(first=1e-2)
    still = Denoise(schedule, lambda z, at: Prediction(z, *(a := at.like(z))[1:3], a.alpha * z, a.sigma * z))
    z = torch.randn(5, 2, dtype=F64)
    torch.testing.assert_close(flow(still, z, 1.0, 0.0), z, rtol=1e-6, atol=1e-6)
    assert grid_of("karras", schedule, 5)[0] == 1
