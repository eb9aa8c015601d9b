"""Posterior samplers on exact denoisers, against posteriors in closed form."""

import math

import pytest
import torch

import likeli
from likeli.diffusion import DDIM, Multistep
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.restoration import (
    DPS,
    MMPS,
    Blur,
    Linear,
    Mask,
    PiGDM,
    Repaint,
    Replacement,
    TwistedSMC,
    posterior_draws,
    take_reading,
)
from likeli.diffusion.restoration.matching import belief
from likeli.diffusion.restoration.posterior_sampler import with_known
from likeli.diffusion.restoration.twisted import systematic
from likeli.diffusion.schedule import LogLinear
from likeli.gaussian.linear_reading import draw_given_reading, given_reading
from likeli.random import Replay

F64 = torch.float64
NOISY = (MMPS(16, sampler=Multistep()), PiGDM(16), DPS(16), TwistedSMC(16, particles=64))
NOISELESS = (Replacement(16), Repaint(16, resamples=3), MMPS(16, sampler=Multistep()), TwistedSMC(16))
SEEN = torch.tensor([1, 0, 1, 0, 1])


def gaussian(cells=5):
    """A correlated Gaussian's weights, means, covariances."""
    turn = torch.linalg.qr(torch.randn(cells, cells, dtype=F64, generator=torch.Generator().manual_seed(1)))[0]
    covariance = (turn * torch.linspace(0.05, 1.9, cells, dtype=F64)) @ turn.T
    return torch.ones(1, dtype=F64), torch.full((1, cells), 0.3, dtype=F64), covariance[None]


def denoiser(law):
    return MixtureDenoiser(LogLinear(-13.3, 10.0), *law)


def reading_of(operator, y, sigma, cells=5):
    return take_reading(operator, operator.readings(y), sigma, torch.ones(cells, dtype=F64), torch.zeros(cells, dtype=F64))


def truth(law, matrix, y, sigma):
    weights, means, covariances = law
    return given_reading(y, matrix, sigma, weights, means, torch.linalg.cholesky(covariances))


def draws(how, law, reading, n, rows=1, seed=0, block=4096, dtype=F64):
    like = torch.zeros(rows, law[1].shape[1], dtype=dtype)
    with torch.no_grad():
        return posterior_draws(lambda rows: denoiser(law).given(None), reading, how, n, seed, like, block)


def test_moment_matching_is_bayes_rule_for_a_gaussian():
    """E[x|z, y] by Kalman's formula with both z = αx + σε and y as readings, whole, by conjugate gradients, without noise."""
    law, y = gaussian(), torch.tensor([[1.0, math.nan, -0.5, math.nan, 0.2]], dtype=F64)
    z = torch.randn(3, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    for sigma in (0.5, 0.05, 0.0):
        reading = reading_of(Mask(SEEN, (5,)), y, sigma).at(torch.zeros(3, dtype=torch.long))
        for t in (0.1, 0.5, 0.9):
            denoise = denoiser(law).given(None)
            at = denoise.schedule.at(t)
            pick, eye = torch.eye(5, dtype=F64)[SEEN.bool()], torch.eye(5, dtype=F64)
            rows = torch.cat([at.alpha / at.sigma * eye, pick / max(sigma, 1e-5)])
            read_off = torch.cat([z / at.sigma, (y[:, SEEN.bool()] / max(sigma, 1e-5)).expand(3, -1)], 1)
            precision = torch.linalg.inv(law[2][0]) + rows.T @ rows
            mean = torch.linalg.solve(precision, (read_off @ rows + torch.linalg.inv(law[2][0]) @ law[1][0]).T).T
            p = MMPS().posterior(denoise, reading)(z, at)
            tolerance = 1e-9 if sigma else 1e-4  # without noise the truth here is that of σ = 1e-5, and ill-conditioned
            assert (p.x - mean).abs().max() < tolerance
            assert (at.alpha * p.x + at.sigma * p.eps - z).abs().max() < 1e-9


def test_conjugate_gradients_end_where_the_whole_matrix_does(monkeypatch):
    law, y = gaussian(), torch.tensor([[1.0, 0, -0.5, 0, 0.2]], dtype=F64)
    reading = reading_of(Mask(SEEN, (5,)), y, 0.3).at(torch.zeros(4, dtype=torch.long))
    denoise, z = denoiser(law).given(None), torch.randn(4, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    at = denoise.schedule.at(0.4)
    whole = MMPS().posterior(denoise, reading)(z, at).x
    monkeypatch.setattr("likeli.diffusion.restoration.matching.DENSE", 0)
    by_steps = [(MMPS(iterations=k).posterior(denoise, reading)(z, at).x - whole).abs().max().item() for k in (1, 2, 3)]
    assert by_steps[0] > by_steps[1] > by_steps[2]
    assert by_steps[2] < 1e-6  # three readings: the third direction is the last


def test_the_jacobian_is_the_covariance():
    law, denoise = gaussian(), denoiser(gaussian())
    at, z = denoise.schedule.at(0.5), torch.randn(2, 5, dtype=F64)
    exact = torch.linalg.inv(torch.linalg.inv(law[2][0]) + (at.alpha / at.sigma) ** 2 * torch.eye(5, dtype=F64))
    b = belief(denoise.given(None), z, at)
    columns = torch.stack([b.times(e.expand(2, 5)) for e in torch.eye(5, dtype=F64)], 2)
    assert torch.allclose(columns, exact.expand(2, 5, 5), atol=1e-10)


@pytest.mark.parametrize("sigma", [0.5, 0.05])
@pytest.mark.parametrize("how", [MMPS(sampler=Multistep()), TwistedSMC()])
def test_moments_of_a_gaussian_given_three_cells(how, sigma):
    """A mean within 4.5 standard errors and a variance within 4.5 of its own: fewer than one false alarm in 5000."""
    n, law = 1000, gaussian()
    y = torch.tensor([[1.0, 0, -0.5, 0, 0.2]], dtype=F64)
    found = draws(how, law, reading_of(Mask(SEEN, (5,)), y, sigma), n)[:, 0]
    exact = truth(law, torch.eye(5, dtype=F64)[SEEN.bool()], y[:, SEEN.bool()], sigma)
    std = exact.variance[0].sqrt()
    assert ((found.mean(0) - exact.mean[0]) / std * math.sqrt(n)).abs().max() < 4.5
    assert ((found.var(0) / std**2 - 1) / math.sqrt(2 / n)).abs().max() < 4.5


def test_twisting_finds_the_shares_of_modes():
    """Four modes of which a reading of their sum leaves three, in known shares; a χ² of effective draws."""
    means = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], dtype=F64)
    law = (torch.tensor([0.2, 0.3, 0.4, 0.1], dtype=F64), means, torch.full((4, 2), 0.02, dtype=F64).diag_embed())
    matrix, y = torch.tensor([[1.0, 1.0]], dtype=F64), torch.tensor([[0.1]], dtype=F64)
    exact = truth(law, matrix, y, 0.1)
    found = draws(TwistedSMC(particles=2000), law, reading_of(Linear((2,), matrix), y, 0.1, 2), 2000)[:, 0]
    share = torch.cdist(found, means).argmin(1).bincount(minlength=4) / 2000
    spread = (exact.weights[0] * (1 - exact.weights[0]) / 300).sqrt()  # resampling leaves some hundred independent ancestors
    assert exact.weights[0].sort().values[1] > 0.15
    assert ((share - exact.weights[0]).abs() <= 4 * spread + 1e-3).all()


@pytest.mark.parametrize("how", NOISELESS, ids=lambda how: how.kind())
def test_without_noise_the_known_cells_are_kept_and_the_others_vary(how):
    law, y = gaussian(), torch.tensor([[1.0, 0, -0.5, 0, 0.2]], dtype=F64)
    found = draws(how, law, reading_of(Mask(SEEN, (5,)), y, 0.0), 50)[:, 0]
    assert (found - y)[:, SEEN.bool()].abs().max() < 1e-12
    assert found[:, ~SEEN.bool()].std(0).min() > 0.05


def test_replacement_falls_short_and_going_back_helps():
    """Mean of the hidden cells in posterior standard deviations, 400 draws: replacement is off, RePaint less, MMPS not."""
    law, y = gaussian(), torch.tensor([[1.5, 0, -1.5, 0, 0.9]], dtype=F64)
    exact = truth(law, torch.eye(5, dtype=F64)[SEEN.bool()], y[:, SEEN.bool()], 0.0)
    hidden, off = ~SEEN.bool(), []
    for how in (Replacement(32), Repaint(32, resamples=8), MMPS(32, sampler=Multistep())):
        found = draws(how, law, reading_of(Mask(SEEN, (5,)), y, 0.0), 400)[:, 0]
        gap = (found.mean(0) - exact.mean[0]) / exact.variance[0].clamp(min=1e-12).sqrt()
        off.append(gap[hidden].abs().max().item())
    assert off[0] > 2 * off[1] > 0
    assert off[2] < 4.5 / math.sqrt(400)


def test_replacement_walks_the_known_cells_along_their_own_noise():
    """An ancestral step leaves them a draw of q(z_s|z_t, x = y), here without its noise."""
    law, y = gaussian(), torch.tensor([[1.5, 0, -1.5, 0, 0.9]], dtype=F64)
    reading, denoise = reading_of(Mask(SEEN, (5,)), y, 0.0), denoiser(law).given(None)
    t, s, z = denoise.schedule.at(0.6), denoise.schedule.at(0.5), torch.randn(1, 5, dtype=F64)
    none = Replay([torch.zeros(1, 5, dtype=F64)])
    step = likeli.diffusion.Ancestral().step(with_known(denoise, reading), z, t, s, none, None)[0]
    a, b, _ = likeli.diffusion.schedule.bridge(s, t)
    assert torch.allclose(step[:, SEEN.bool()], (a * z + b * y)[:, SEEN.bool()], atol=1e-12)


@pytest.mark.parametrize("how", NOISY, ids=lambda how: how.kind())
def test_a_draw_is_one_whatever_is_drawn_beside_it(how):
    """At 1, 8 and 1024 draws a batch, and with other rows beside; up to the rounding of a batch's shape."""
    law = gaussian()
    y = torch.tensor([[1.0, 0, -0.5, 0, 0.2], [-9.0, 0, 9.0, 0, 3.0]], dtype=F64)
    both = reading_of(Mask(SEEN, (5,)), y, 0.2)
    n = 24 if not how.shares else how.particles
    one = draws(how, law, both.at(torch.tensor([0])), n, block=1024)
    for block in (1, 8):
        assert torch.allclose(draws(how, law, both.at(torch.tensor([0])), n, block=block), one, rtol=1e-7, atol=1e-9)
    assert torch.allclose(draws(how, law, both, n, rows=2)[:, :1], one, rtol=1e-7, atol=1e-9)


def test_the_scale_of_a_reading_does_not_matter():
    """The same reading in other units, 255 times as large, and every method."""
    law, y = gaussian(), torch.tensor([[1.0, 0, -0.5, 0, 0.2]], dtype=F64)
    operator, zero = Mask(SEEN, (5,)), torch.zeros(5, dtype=F64)
    for how in (*NOISY, Replacement()):
        sigma = 0.0 if how.takes == "noiseless" else 0.2
        ours = [
            draws(how, law, take_reading(operator, k * y, k * sigma, torch.full((5,), k, dtype=F64), zero), 20)
            for k in (1.0, 255.0)
        ]
        assert torch.allclose(*ours, rtol=1e-6, atol=1e-7), how.kind()


def test_each_method_says_what_it_takes():
    law, y = gaussian(), torch.tensor([[1.0, 0, -0.5, 0, 0.2]], dtype=F64)
    for how in (Replacement(), Repaint()):
        with pytest.raises(likeli.Unsupported, match=f"{how.kind()} holds y as exact, and sigma is 0.2: use mmps"):
            draws(how, law, reading_of(Mask(SEEN, (5,)), y, 0.2), 2)
    assert {how.kind(): how.answer for how in NOISY} == {
        "mmps": "approximate", "pi_gdm": "approximate", "dps": "approximate", "twisted_smc": "asymptotically exact",
    }  # fmt: skip
    for make in (lambda: MMPS(steps=0), lambda: MMPS(iterations=0), lambda: DPS(zeta=-1.0), lambda: TwistedSMC(particles=1)):
        with pytest.raises(likeli.InputError, match="expected"):
            make()


def test_dps_pulls_by_the_norm_of_its_own_row():
    """One step by hand; a row 100 times as far is pulled by a gradient of the same order."""
    law, far = gaussian(), torch.tensor([[1.0, 0, -0.5, 0, 0.2], [100.0, 0, -50.0, 0, 20.0]], dtype=F64)
    reading, denoise = reading_of(Mask(SEEN, (5,)), far, 0.1), denoiser(law).given(None)
    start, noise = torch.randn(2, 5, dtype=F64), torch.randn(2, 5, dtype=F64)
    end = DPS(steps=1, zeta=0.7).run(denoise, reading, Replay([start, noise]), start)
    t, s = denoise.schedule.at(1.0), denoise.schedule.at(0.0)
    z = (torch.hypot(t.alpha, t.sigma) * start).requires_grad_()
    x = denoise(z, t).x
    norm = ((far - x) * SEEN).norm(dim=1) * reading.gain**-1
    (uphill,) = torch.autograd.grad(norm.sum(), z)
    a, b, std = likeli.diffusion.schedule.bridge(s, t)
    assert torch.allclose(end * s.alpha, (a * z + b * x + std * noise - 0.7 * uphill).detach(), atol=1e-9)


def test_a_blur_is_undone_by_either_way_of_solving():
    """36 overlapping readings, so by conjugate gradients; against the closed form."""
    cells, operator = 36, Blur((6, 6), 0.6)
    turn = torch.linalg.qr(torch.randn(cells, cells, dtype=F64, generator=torch.Generator().manual_seed(1)))[0]
    covariance = (turn * torch.linspace(0.1, 2, cells, dtype=F64)) @ turn.T
    law = (torch.ones(1, dtype=F64), torch.zeros(1, cells, dtype=F64), covariance[None])
    matrix = torch.stack([operator.A(e.reshape(1, 6, 6)).flatten() for e in torch.eye(cells, dtype=F64)], 1)
    y = torch.randn(1, 6, 6, dtype=F64, generator=torch.Generator().manual_seed(2))
    exact = truth(law, matrix, y.flatten(1), 0.3)
    reading = take_reading(operator, y, 0.3, torch.ones(6, 6, dtype=F64), torch.zeros(6, 6, dtype=F64))
    denoise = denoiser(law).given(None)

    def images(z, at):
        p = denoise(z.flatten(1), at)
        return type(p)(z, p.alpha, p.sigma, p.x.reshape(z.shape), p.eps.reshape(z.shape))

    bound = type(denoise)(denoise.schedule, images)
    how = MMPS(sampler=DDIM(), steps=40, iterations=36)
    found = posterior_draws(lambda rows: bound, reading, how, 400, 0, torch.zeros(1, 6, 6, dtype=F64), 400)[:, 0].flatten(1)
    gap = (found.mean(0) - exact.mean[0]) / exact.variance[0].sqrt() * math.sqrt(400)
    assert gap.abs().max() < 4.5


def test_resampling_is_as_often_as_weights_say():
    log_w = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=F64).log()
    chosen = systematic(log_w, Replay([torch.full((4,), 0.3, dtype=F64)]), 20)
    assert chosen.bincount(minlength=4).tolist() == [10, 5, 3, 2]


def test_exact_draws_of_a_mixture_given_a_reading():
    """Weights by Bayes' rule, moments by draws; a reading that repeats itself, and one that contradicts itself."""
    means = torch.tensor([[-1.0, 1.0], [1.0, -0.5]], dtype=F64)
    tril = torch.linalg.cholesky(torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.4]]], dtype=F64))
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    matrix, y = torch.tensor([[1.0, 2.0]], dtype=F64), torch.tensor([[0.4]], dtype=F64)
    found = given_reading(y, matrix, 0.3, weights, means, tril)
    evidence = torch.distributions.Normal(means @ matrix[0], (matrix @ tril @ tril.mT @ matrix.T)[:, 0, 0].add(0.09).sqrt())
    joint = weights.log() + evidence.log_prob(y[0])
    assert torch.allclose(found.weights[0], joint.softmax(0))
    assert torch.allclose(found.log_evidence, joint.logsumexp(0))
    n = 4000
    sampled = draw_given_reading(y, matrix, 0.3, (weights, means, tril), n, 0)[0][:, 0]
    assert ((sampled.mean(0) - found.mean[0]) / (found.variance[0] / n).sqrt()).abs().max() < 4.5
    twice = torch.cat([matrix, matrix])
    again = given_reading(torch.cat([y, y], 1), twice, 0.0, weights, means, tril)
    assert torch.allclose(again.mean, given_reading(y, matrix, 0.0, weights, means, tril).mean)
    with pytest.raises(likeli.Unsupported, match="y contradicts itself, by"):
        given_reading(torch.cat([y, y + 1], 1), twice, 0.0, weights, means, tril)
