"""The model that a loss stands for, against the bound written out with torch.distributions."""

import itertools
import math

import pytest
import torch
from torch import distributions as D
from torch.nn import functional as F

from likeli.errors import InputError
from likeli.probability.explain_loss import explain_loss
from likeli.random import seeded


def terms(n=7, dx=5, dz=3):
    with seeded(0):
        x, mean, z_mean = (torch.randn(n, d, dtype=torch.float64) for d in (dx, dx, dz))
        z_std = torch.rand(n, dz, dtype=torch.float64) + 0.1
    return x, mean, D.Normal(z_mean, z_std)


CASES = list(itertools.product(("squared", "half_squared"), ("sum", "mean"), ("sum", "mean")))
BAD = [dict(data_dim=0), dict(latent_dim=-1), dict(kl_weight=0.0), dict(kl_weight=math.nan), dict(batch_size=0)]


@pytest.mark.parametrize("error,reduction,kl_reduction", CASES)
def test_a_squared_error_is_a_gaussian_bound(error, reduction, kl_reduction):
    """R49, I11: scale · loss + constant equals −ELBO for every example, relative 1e-12."""
    x, mean, q = terms()
    w = 0.37
    cells = (x - mean).square() * (0.5 if error == "half_squared" else 1)
    kl = D.kl_divergence(q, D.Normal(0.0, 1.0))
    loss = getattr(cells, reduction)(1) + w * getattr(kl, kl_reduction)(1)
    model = explain_loss(error, data_dim=5, latent_dim=3, reduction=reduction, kl_reduction=kl_reduction, kl_weight=w)
    elbo = D.Normal(mean, math.sqrt(model.sigma2)).log_prob(x).sum(1) - kl.sum(1)
    assert torch.allclose(model.scale * loss + model.constant, -elbo, rtol=1e-12)


def test_averages_over_genes_and_latents():
    """σ² = w·G / (2·D) when both terms are averages."""
    model = explain_loss(data_dim=2000, latent_dim=64, kl_reduction="mean", kl_weight=1e-3)
    assert math.isclose(model.sigma2, 1e-3 * 2000 / (2 * 64), rel_tol=1e-12)


def test_terms_reduced_differently_over_the_batch():
    """An error averaged over the batch beside a summed KL multiplies σ² by the batch size: gradients agree to 1e-12."""
    x, mean, q = terms()
    mean.requires_grad_()
    q.loc.requires_grad_()
    loss = (x - mean).square().mean() + D.kl_divergence(q, D.Normal(0.0, 1.0)).sum()
    model = explain_loss(data_dim=5, latent_dim=3, batch_size=7, kl_batch_reduction="sum")
    assert math.isclose(model.sigma2, 7 * 5 / 2)
    ours = -(D.Normal(mean, math.sqrt(model.sigma2)).log_prob(x).sum() - D.kl_divergence(q, D.Normal(0.0, 1.0)).sum())
    for a, b in zip(torch.autograd.grad(loss, (mean, q.loc)), torch.autograd.grad(ours, (mean, q.loc))):
        assert torch.allclose(model.scale * a, b, rtol=1e-12)


def test_cross_entropy_is_bernoulli():
    x, mean, q = terms()
    x = (x > 0).double()
    kl = D.kl_divergence(q, D.Normal(0.0, 1.0)).sum(1)
    loss = F.binary_cross_entropy_with_logits(mean, x, reduction="none").mean(1) + 0.2 * kl
    model = explain_loss("bce", data_dim=5, latent_dim=3, kl_weight=0.2)
    assert math.isclose(model.beta, 1.0)  # 0.2 · 5 cells
    elbo = D.Bernoulli(logits=mean).log_prob(x).sum(1) - kl
    assert torch.allclose(model.scale * loss, -elbo, rtol=1e-12)


@pytest.mark.parametrize("bad", BAD)
def test_bad_sizes_are_named(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        explain_loss(**({"data_dim": 3, "latent_dim": 2} | bad))
