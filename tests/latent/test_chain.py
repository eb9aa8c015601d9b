"""The chain: its bound against a VAE written out by hand, its weights against the exact evidence, its running average."""

import math
import weakref

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from likeli.contract import Knows
from likeli.errors import InputError
from likeli.models.vae import VAE
from likeli.probability.importance import log_mean_exp
from likeli.random import Replay, seeded
from likeli.spaces import Gaussian
from likeli.spaces.base import Binary, Real

W = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.double)  # orthogonal columns
MEAN = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.double)
SIGMA = 0.7


def linear_vae(offset=0.0):
    """p(x) = N(b, WWᵀ + σ²I) with the exact posterior as q; `offset` moves q's mean away from it."""
    vae = VAE(Real((4,)), latent_dim=2, hidden=(), head=Gaussian("fixed", width=SIGMA)).double()
    vae.head.log_width.fill_(math.log(SIGMA))
    m = W.T @ W + SIGMA**2 * torch.eye(2).double()
    to_mean = m.inverse() @ W.T
    with torch.no_grad():
        vae.decoder[0].weight.copy_(W)
        vae.decoder[0].bias.copy_(MEAN)
        vae.encoder[0].weight.copy_(torch.cat([to_mean, torch.zeros(2, 4)]))
        log_std = 0.5 * (SIGMA**2 * m.inverse()).diagonal().log()
        vae.encoder[0].bias.copy_(torch.cat([offset - to_mean @ MEAN, log_std]))
    return vae


def evidence(x):
    """log N(x; b, WWᵀ + σ²I)."""
    covariance = W @ W.T + SIGMA**2 * torch.eye(4).double()
    return torch.distributions.MultivariateNormal(MEAN, covariance).log_prob(x)


def rows(n, seed=0):
    with seeded(seed, "rows"):
        return MEAN + torch.randn(n, 2).double() @ W.T + SIGMA * torch.randn(n, 4).double()


# --- the bound ---------------------------------------------------------------------------------------------------------


def test_a_chain_of_one_level_is_the_vae_written_out_by_hand():
    vae = VAE(Binary((12,)), latent_dim=3, hidden=(8,)).double()
    x = torch.rand(20, 12, generator=torch.Generator().manual_seed(0)).round()
    with seeded(5):
        loss = vae.loss(x)
    with seeded(5):
        bound = vae.elbo(x)
    with seeded(5):
        eps = torch.randn(20, 3)
    inside, outside = vae.encoder[0], vae.encoder[2]
    h = F.linear(F.silu(F.linear(x.double() - 0.5, inside.weight, inside.bias)), outside.weight, outside.bias)
    mean, log_std = h[:, :3], h[:, 3:]
    z = mean + log_std.exp() * eps
    inside, outside = vae.decoder[0], vae.decoder[2]
    logits = F.linear(F.silu(F.linear(z, inside.weight, inside.bias)), outside.weight, outside.bias)
    reconstruction = F.logsigmoid((2 * x.double() - 1) * logits).sum(1)
    kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std)).sum(1)
    assert torch.equal(loss, -bound.value)
    assert torch.allclose(bound.reconstruction, reconstruction, rtol=1e-13)
    assert torch.allclose(bound.kl[:, 0], kl, rtol=1e-13, atol=1e-15)  # another order of the same sum
    assert torch.allclose(loss, kl - reconstruction, rtol=1e-14)


def test_bound_is_tight_for_the_exact_posterior_and_loses_the_divergence_for_another():
    x = rows(2000)
    noise = [math.sqrt(2) * s * e.expand(2000, 2) for e in torch.eye(2).double() for s in (1, -1)]  # exact to second order
    exact = torch.stack([linear_vae().elbo(x, noise=Replay([e])).value for e in noise]).mean(0)
    assert torch.allclose(exact, evidence(x), atol=1e-10)
    moved = torch.stack([linear_vae(0.2).elbo(x, noise=Replay([e])).value for e in noise]).mean(0)
    m = W.T @ W + SIGMA**2 * torch.eye(2).double()
    divergence = 0.5 * 0.2**2 * m.sum() / SIGMA**2
    assert torch.allclose(evidence(x) - moved, divergence.expand(2000), atol=1e-10)


def test_weights_and_bound_agree_about_one_draw():
    vae, x = linear_vae(0.3), rows(50)
    noise = torch.randn(50, 2, dtype=torch.double)
    log_w, bound = vae.log_weight(x, noise=Replay([noise])), vae.elbo(x, noise=Replay([noise]))
    q, p = vae.posterior(1, None, vae.infer(x), None), vae.prior(1, vae.root(Replay([noise])))
    z = q.mean + q.stddev * noise
    assert torch.allclose(bound.value - log_w, q.log_prob(z) - p.log_prob(z) - bound.kl[:, 0], atol=1e-12)


def test_per_datapoint_parameters_take_the_encoders_place():
    vae, x = linear_vae(0.5), rows(10)
    noise = torch.randn(10, 2, dtype=torch.double)
    own = linear_vae().infer(x)
    improved = vae.elbo(x, context=own, noise=Replay([noise])).value
    assert torch.equal(improved, linear_vae().elbo(x, noise=Replay([noise])).value)


# --- importance weighting ----------------------------------------------------------------------------------------------


def test_the_exact_posterior_has_weights_without_variance():
    result = linear_vae().log_likelihood(rows(40), samples=7)
    assert result.knows is Knows.LOWER_BOUND
    assert torch.allclose(result.value, evidence(rows(40)), atol=1e-10)
    assert (result.stderr < 1e-10).all()


def test_the_bound_rises_with_the_number_of_weights_and_stays_below_the_evidence():
    """One-sided comparisons of paired means at 4 standard errors: each fails by chance with probability 3e-5."""
    vae, x = linear_vae(0.4), rows(4000)
    truth, before = evidence(x), None
    for samples in (1, 4, 16, 64):
        value = vae.log_likelihood(x, samples=samples, seed=samples).value
        gap = truth - value
        assert gap.mean() > -4 * gap.std() / math.sqrt(4000)
        if before is not None:
            rise = value - before
            assert rise.mean() > -4 * rise.std() / math.sqrt(4000)
        before = value
    m = W.T @ W + SIGMA**2 * torch.eye(2).double()
    shift = 0.4**2 * m.sum() / SIGMA**2  # squared distance of the two Gaussians: var(w) = exp(shift) − 1, bias var(w)/2K
    assert gap.mean() < shift.expm1() / (2 * 64)


def test_the_standard_error_is_the_spread_of_repetitions():
    """The ratio of two standard deviations over 200 repetitions of 30 rows stays within 10 % but for a chance below 1e-4."""
    result = linear_vae(0.2).log_likelihood(rows(30).repeat(200, 1), samples=200)
    spread = result.value.unflatten(0, (200, 30)).std(0)
    claimed = result.stderr.unflatten(0, (200, 30)).square().mean(0).sqrt()
    assert 0.9 < (spread / claimed).mean() < 1.1


@pytest.mark.parametrize("samples", [0, -1, 1.5])
def test_a_number_of_weights_below_one_is_refused(samples):
    with pytest.raises(InputError, match="samples: expected a whole number of at least 1"):
        linear_vae().log_likelihood(rows(2), samples=samples)


# --- the running average -----------------------------------------------------------------------------------------------


def test_running_average_is_the_direct_formula_in_any_order_and_at_any_scale():
    log_w = torch.randn(50, 9, dtype=torch.double, generator=torch.Generator().manual_seed(0)) * 5
    value, stderr = log_mean_exp(log_w)
    w = log_w.exp().numpy()
    assert np.allclose(value, np.log(w.mean(0)), rtol=1e-13)
    assert np.allclose(stderr, w.std(0, ddof=1) / w.mean(0) / math.sqrt(50), rtol=1e-11)
    far, _ = log_mean_exp(log_w - 1e5)
    assert torch.allclose(far, value - 1e5, rtol=1e-14)
    rising, rising_stderr = log_mean_exp(log_w.sort(0).values)
    assert torch.allclose(rising, value, rtol=1e-13)
    assert torch.allclose(rising_stderr, stderr, rtol=1e-11)


def test_running_average_of_impossible_draws_is_never_nan():
    none, some = torch.full((3,), -math.inf), torch.zeros(3)
    assert (log_mean_exp([none, none])[0] == -math.inf).all()
    assert torch.allclose(log_mean_exp([none, some])[0], torch.full((3,), -math.log(2)))
    assert torch.allclose(log_mean_exp([some, none])[0], torch.full((3,), -math.log(2)))
    assert log_mean_exp([some])[1].isnan().all()  # one draw knows nothing of its own error


def test_running_average_holds_one_draw_at_a_time():
    living = weakref.WeakSet()

    def draws():
        for _ in range(100):
            draw = torch.zeros(3)
            living.add(draw)
            yield draw
            assert len(living) <= 2

    log_mean_exp(draws())
