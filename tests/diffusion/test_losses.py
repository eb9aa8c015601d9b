"""Losses that are not bounds: what they are equal to, and up to what."""

import math

import pytest
import torch
from torch import nn

from likeli.diffusion.denoiser import Denoiser
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.losses import (
    denoising_score_matching,
    flow_matching,
    implicit_score_matching,
    sliced_score_matching,
    snr_weight,
    weighted_noise_error,
)
from likeli.diffusion.schedule import LogLinear, Straight
from likeli.errors import InputError
from likeli.random import seeded

F64 = torch.float64


def network(seed, schedule, predict="score"):
    """A denoiser with a small smooth network."""
    with seeded(seed, "network"):
        net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    return Denoiser(lambda z, gamma, y: net(z), schedule, predict)


def mixture(schedule):
    """Two Gaussians in the plane."""
    return MixtureDenoiser(
        schedule,
        torch.tensor([0.4, 0.6], dtype=F64),
        torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=F64),
        torch.tensor([[0.2, 0.3], [0.1, 0.4]], dtype=F64),
    )


def data(n):
    """n draws of `mixture`."""
    pick = (torch.rand(n) < 0.6).long()
    truth = mixture(LogLinear())
    return truth.means[pick] + torch.tensor([[0.2, 0.3], [0.1, 0.4]], dtype=F64)[pick].sqrt() * torch.randn(n, 2, dtype=F64)


def test_denoising_and_implicit_score_matching_differ_from_explicit_by_a_constant():
    """For two networks, with common draws: the differences of the three losses agree within 4 standard errors."""
    schedule, n = LogLinear(-4, 4), 40_000
    at = schedule.at(0.4)
    t = torch.full((n,), 0.4, dtype=F64)
    dsm, ism, esm = [], [], []
    for seed in (1, 2):
        denoiser = network(seed, schedule)
        with seeded(0, "data"):
            u = data(n)
            with torch.no_grad():
                dsm.append(0.5 * denoising_score_matching(denoiser, u, t) / at.sigma**2)
        with seeded(0, "data"):
            z = at.alpha * data(n) + at.sigma * torch.randn(n, 2, dtype=F64)
        ism.append(implicit_score_matching(lambda z, d=denoiser: d(z, at).score, z).detach())
        esm.append(0.5 * (denoiser(z, at).score - mixture(schedule)(z, at).score).square().sum(1).detach())
    explicit = esm[0] - esm[1]
    for other in (dsm, ism):
        gap = other[0] - other[1] - explicit
        assert abs(gap.mean().item()) < 4 * gap.std().item() / n**0.5
        assert gap.std().item() / n**0.5 < 0.1


def test_slices_average_to_the_trace():
    schedule, z = LogLinear(-4, 4), torch.randn(5, 2, dtype=F64)
    denoiser, at = network(0, schedule), schedule.at(0.5)
    axes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)[:, None].expand(2, 5, 2)  # signs in both combinations

    def score(z):
        return denoiser(z, at).score

    torch.testing.assert_close(sliced_score_matching(score, z, axes), implicit_score_matching(score, z))


def test_simple_weights_recover_the_bound():
    """w_t = ½ (SNR_s − SNR_t)/SNR_t turns the simple loss at t into the KL of the step from t to s."""
    schedule = LogLinear(-6, 6)
    s, t = schedule.at(0.3), schedule.at(0.4)
    snr_s, snr_t = (-s.gamma).exp(), (-t.gamma).exp()
    weight = 0.5 * (snr_s - snr_t) / snr_t
    assert weight.item() == pytest.approx(0.5 * torch.expm1(t.gamma - s.gamma).item(), rel=1e-10)
    denoiser = network(0, schedule, "eps")
    u = torch.randn(6, 2, dtype=F64)
    with seeded(0, "noise"):
        loss = weight * weighted_noise_error(denoiser, u, torch.full((6,), 0.4, dtype=F64))
    with seeded(0, "noise"):
        z = t.alpha * u + t.sigma * torch.randn_like(u)
    x = denoiser(z, t).x
    b, std = s.alpha * -torch.expm1(s.gamma - t.gamma), s.sigma * (-torch.expm1(s.gamma - t.gamma)).sqrt()
    torch.testing.assert_close(loss, 0.5 * (b * (u - x) / std).square().sum(1), rtol=1e-10, atol=1e-10)


def test_weights():
    at = LogLinear(-6, 6).at(torch.linspace(0, 1, 9, dtype=F64))
    snr = (-at.gamma).exp()
    torch.testing.assert_close(snr_weight(at, "min_snr") * snr, snr.clamp(max=5))
    torch.testing.assert_close(snr_weight(at, "truncated_snr") * snr, snr.clamp(min=1))
    torch.testing.assert_close(snr_weight(at, "v"), 1 / at.alpha**2)
    with pytest.raises(InputError, match="weight"):
        snr_weight(at, "none")


def test_flow_matching_is_the_error_of_the_velocity():
    """On the straight schedule α' = −σ' = −(1 − 2·least): ‖(1 − 2·least)(ε − x − û)‖², and 0 for the exact mean's residual."""
    schedule = Straight()
    denoiser, u = network(0, schedule, "flow"), torch.randn(7, 2, dtype=F64)
    t = torch.linspace(0.1, 0.9, 7, dtype=F64)
    with seeded(0, "flow"):
        loss = flow_matching(denoiser, u, t)
    with seeded(0, "flow"):
        eps = torch.randn_like(u)
    at = schedule.at(t).like(u)
    out = denoiser(at.alpha * u + at.sigma * eps, schedule.at(t)).flow
    torch.testing.assert_close(loss, ((1 - 2e-3) * (eps - u - out)).square().sum(1), rtol=1e-9, atol=1e-9)


def test_the_sde_bound_holds_with_g_squared_and_is_tight_for_the_true_score():
    """KL(N(0, v) ‖ model) ≤ ½ ∫ g² E‖s − ∇log p_t‖² dt + KL(p_1 ‖ prior) for the reverse SDE with score (1 + δ)·true.

    All Gaussian: the model's variance V follows dV/dt = 2 (f + (1 + δ) g²/v_t) V − g² backwards from the prior's.
    """
    schedule, v = LogLinear(-6, 6), 0.3
    t = torch.linspace(1, 0, 100_001, dtype=F64)
    alpha, sigma = schedule(t)
    variance, f, g2 = alpha**2 * v + sigma**2, schedule.drift(t), schedule.diffusion(t)
    h = 1e-5

    def kl(a, b):
        return 0.5 * (a / b - 1 - math.log(a / b))

    for delta in (0.0, 0.1, -0.2, 0.5):
        rate = 2 * (f + (1 + delta) * g2 / variance)
        model = variance[0].item()  # the prior is p_1 itself, so that only the score errs
        for k, s in zip(rate[:-1].tolist(), g2[:-1].tolist()):
            model = model + h * (s - k * model)
        bound = 0.5 * torch.trapezoid(g2 * delta**2 / variance, -t).item()
        gap = kl(variance[-1].item(), model)
        assert gap <= bound + 1e-6
        if delta == 0:
            assert gap < 1e-6
