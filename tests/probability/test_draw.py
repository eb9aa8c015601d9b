"""Draws from given noise follow the law that they are scored by."""

import math

import pytest
import torch
from scipy import stats
from torch import distributions as D

from likeli.probability.draw import diagonal_gaussian, draw, gaussian_product
from likeli.random import Replay, Streams

ROWS = 5000
LEVEL = 1e-4  # the chance that a right sampler fails one Kolmogorov-Smirnov test


def noise(seed=0, rows=ROWS):
    return Streams(seed, range(rows), torch.double)


def test_gaussian_draws_are_mean_plus_deviation_times_noise():
    eps = torch.tensor([[0.5, -2.0], [1.0, 0.0]])
    p = diagonal_gaussian(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[2.0, 0.5], [1.0, 1.0]]))
    assert torch.equal(draw(p, Replay([eps])), torch.tensor([[2.0, 1.0], [4.0, 4.0]]))
    assert p.event_shape == (2,)


def test_full_gaussian_draws_have_the_covariance():
    tril = torch.tensor([[1.0, 0.0], [0.8, 0.3]], dtype=torch.double)
    z = draw(D.MultivariateNormal(torch.zeros(ROWS, 2).double(), scale_tril=tril.expand(ROWS, 2, 2)), noise())
    white = torch.linalg.solve_triangular(tril, z.T, upper=False)
    for row in white:
        assert stats.kstest(row.numpy(), "norm").pvalue > LEVEL
    assert abs((white[0] * white[1]).mean()) < 4 / math.sqrt(ROWS)


def test_draws_are_differentiable_in_the_parameters():
    mean, log_std = torch.zeros(4, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    eps = torch.randn(4, 3)
    draw(diagonal_gaussian(mean, log_std.exp()), Replay([eps])).sum().backward()
    assert torch.equal(mean.grad, torch.ones(4, 3))
    assert torch.equal(log_std.grad, eps)


def test_reparameterised_gradient_is_the_analytic_one_and_quieter_than_the_score_function():
    """∇ E (z − a)² for z ~ N(μ, σ²) is (2(μ − a), 2σ); each mean lies within 4 standard errors."""
    mean, std, a = torch.full((ROWS,), 0.3).double(), torch.full((ROWS,), 0.8).double(), 1.5
    mean.requires_grad_(), std.requires_grad_()
    p = D.Normal(mean, std, validate_args=False)
    z = draw(p, noise(3))
    path = torch.autograd.grad((z - a).square().sum(), (mean, std))
    score = torch.autograd.grad((p.log_prob(z.detach()) * (z.detach() - a).square()).sum(), (mean, std))
    for truth, paths, scores in zip((2 * (0.3 - a), 2 * 0.8), path, score):
        for g in (paths, scores):
            assert abs(g.mean() - truth) < 4 * g.std() / math.sqrt(ROWS)
        assert paths.var() < scores.var()


def test_bernoulli_and_categorical_draws_have_their_frequencies():
    x = draw(D.Bernoulli(torch.full((ROWS,), 0.3).double(), validate_args=False), noise())
    assert stats.binomtest(int(x.sum()), ROWS, 0.3).pvalue > LEVEL
    p = torch.tensor([0.5, 0.0, 0.2, 0.3]).double()
    k = draw(D.Categorical(p.expand(ROWS, 4)), noise(1))
    counts = torch.bincount(k, minlength=4)
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3]], ROWS * p[[0, 2, 3]]).pvalue > LEVEL


def test_transformed_draws_go_through_the_transforms():
    p = D.TransformedDistribution(D.Normal(torch.zeros(ROWS).double(), 1.0), [D.transforms.ExpTransform()])
    assert stats.kstest(draw(p, noise()).numpy(), stats.lognorm(1).cdf).pvalue > LEVEL


def test_a_distribution_nobody_can_draw_from_says_so():
    with pytest.raises(TypeError, match="draw: no way to draw from Gamma"):
        draw(D.Gamma(torch.ones(3), torch.ones(3)), noise(rows=3))


def test_product_of_gaussians_adds_precisions():
    mean_p, std_p, mean_d, std_d = (torch.tensor(v).double() for v in (0.5, 2.0, -1.0, 0.5))
    mean, std = gaussian_product(mean_p, std_p, mean_d, std_d)
    z = torch.linspace(-5, 5, 11).double()
    log_ratio = D.Normal(mean_p, std_p).log_prob(z) + D.Normal(mean_d, std_d).log_prob(z) - D.Normal(mean, std).log_prob(z)
    assert torch.allclose(log_ratio, log_ratio[0].expand(11), atol=1e-12)  # equal up to a constant
