"""Probabilistic PCA against scikit-learn, the closed form, its own posterior, and data of low rank."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from likeli.contract import Coded
from likeli.errors import InputError
from likeli.gaussian import covariance
from likeli.models.ppca import PPCA
from likeli.spaces import Pixels, Real


def linear_draw(n=300, d=5, size=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, size)) @ rng.normal(size=(size, d)) * 2 + 0.5 * rng.normal(size=(n, d)) + rng.normal(size=d)


def fitted(x, size, **options):
    model = PPCA(Real(x.shape[1:]), size, **options)
    model.fit_closed_form(torch.as_tensor(x))
    return model


def scikit_learn(x, size):
    """Their PCA with maximum-likelihood variances (they divide by n − 1)."""
    theirs, n = PCA(size, svd_solver="full").fit(x), len(x)
    theirs.explained_variance_ *= (n - 1) / n
    theirs.noise_variance_ *= (n - 1) / n
    return theirs


@pytest.mark.parametrize("size", [1, 2, 4])
def test_equals_scikit_learn(size):
    x = linear_draw()
    gap = fitted(x, size).log_likelihood(x).value.numpy() - scikit_learn(x, size).score_samples(x)
    assert np.abs(gap).max() < 1e-8


@pytest.mark.parametrize("size", [1, 10, 40, 60])
def test_equals_scikit_learn_on_digits_as_reals(size):
    """Constant pixels and all; at 60 of 64 the smallest variance is 1e-6 of the largest, and digits are lost on their side."""
    x = load_digits().data
    gap = fitted(x, size).log_likelihood(x).value.numpy() - scikit_learn(x, size).score_samples(x)
    assert np.abs(gap).max() < 1e-6


def test_lanczos_finds_the_same(monkeypatch):
    x = load_digits().data
    dense = fitted(x, 7).log_likelihood(x).value
    monkeypatch.setattr(covariance, "DENSE", 0)
    assert (fitted(x, 7).log_likelihood(x).value - dense).abs().max() < 1e-8


def test_fewer_rows_than_cells_is_the_closed_form():
    """σ² = (tr S − Σ λ)/(d − L) with the zero eigenvalues counted, from the d × d covariance by numpy."""
    x = linear_draw(12, 30, 3)
    model = fitted(x, 4)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    variance = values[:-4].sum() / 26
    covariance = (vectors[:, -4:] * (values[-4:] - variance)) @ vectors[:, -4:].T + variance * np.eye(30)
    truth = stats.multivariate_normal(x.mean(0), covariance).logpdf(x)
    assert model.variance.item() == pytest.approx(variance, rel=1e-10)
    assert np.abs(model.log_likelihood(x).value.numpy() - truth).max() < 1e-8


def test_it_is_the_gaussian_with_covariance_wwt_plus_noise():
    x = linear_draw()
    model = fitted(x, 2)
    covariance = (model.W @ model.W.T).numpy() + model.variance.item() * np.eye(5)
    truth = stats.multivariate_normal(model.b.numpy(), covariance).logpdf(x)
    assert np.abs(model.log_likelihood(x).value.numpy() - truth).max() < 1e-10


def test_small_noise_is_pca():
    """As σ² → 0 the posterior mean is the whitened projection on the leading directions, and span(W) is theirs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 5)) + 1e-4 * rng.normal(size=(200, 5))
    model, theirs = fitted(x, 2), scikit_learn(x, 2)
    basis = np.linalg.qr(model.W.numpy())[0]
    cosines = np.linalg.svd(basis.T @ theirs.components_.T)[1]
    assert np.abs(cosines - 1).max() < 1e-12
    whitened = theirs.transform(x) / np.sqrt(theirs.explained_variance_)
    signs = np.sign((model.encode(x).numpy() * whitened).sum(0))
    assert np.abs(model.encode(x).numpy() * signs - whitened).max() < 1e-6


def test_em_reaches_the_eigen_solution():
    x = linear_draw()
    em, direct = fitted(x, 2, solver="em", tol=0.0, max_iter=2000), fitted(x, 2)
    assert (em.log_likelihood(x).value - direct.log_likelihood(x).value).abs().max() < 1e-8
    assert em.strategy == "em"


@pytest.mark.parametrize("shape", [(300, 5), (8, 20)])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_log_likelihood_never_falls_and_is_what_em_says(shape, missing):
    x = linear_draw(*shape)
    x[np.random.default_rng(1).random(shape) < missing] = np.nan
    x = x[:, ~np.isnan(x).all(0)]
    model = PPCA(Real(x.shape[1:]), 2, solver="em", tol=0.0, max_iter=60)
    trace = []
    for value in model.em(torch.from_numpy(x)):
        trace.append(value)
        after = model.log_likelihood(x).value.mean().item()
    assert np.diff(trace).min() > -1e-9
    model.max_iter = 61
    assert next(model.em(torch.from_numpy(x), start=False)) == pytest.approx(after, abs=1e-10)


def test_the_bound_at_the_posterior_is_the_log_likelihood():
    """E_q log p(x|z) − KL(q‖p) with q the posterior, in closed form, equals log p(x)."""
    x = torch.from_numpy(linear_draw())
    model = fitted(x, 2)
    q, (d, size) = model.posterior(x), model.W.shape
    mean, cov = q.mean, q.covariance_matrix
    error = (x - model.b - mean @ model.W.T).square().sum(1) + torch.einsum("dl,blm,dm->b", model.W, cov, model.W)
    reconstruction = -0.5 * (d * (2 * math.pi * model.variance).log() + error / model.variance)
    kl = 0.5 * (cov.diagonal(dim1=1, dim2=2).sum(1) + mean.square().sum(1) - size - torch.logdet(cov))
    assert (reconstruction - kl - model.log_likelihood(x).value).abs().max() < 1e-10


def test_the_posterior_is_bayes():
    """p(x|z) p(z) / p(z|x) is the same number, p(x), at any z; with missing cells it is p of the observed ones."""
    space = Real((5,), 1.0, (1.0, 2.0, 0.5, 3.0, 1.0))
    x = torch.from_numpy(linear_draw())
    model = PPCA(space, 2)
    model.fit_closed_form(x)
    z = torch.randn(len(x), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    ratio = model.observation(z).log_prob(x) + prior - model.posterior(x).log_prob(z)
    assert (ratio - model.log_likelihood(x).value).abs().max() < 1e-10
    holes = x.clone()
    holes[:, 1::3] = torch.nan
    cells = model.observation(z).base_dist.log_prob(x)[:, [0, 2, 3]].sum(1)
    assert (cells + prior - model.posterior(holes).log_prob(z) - model.log_likelihood(holes).value).abs().max() < 1e-10


def test_conditionals_of_missing_cells_are_gaussian_conditioning():
    x = linear_draw()
    model = fitted(x, 2)
    mean, covariance = model.b.numpy(), (model.W @ model.W.T).numpy() + model.variance.item() * np.eye(5)
    holes = x[:20].copy()
    holes[np.random.default_rng(2).random(holes.shape) < 0.4] = np.nan
    given, log_p = model.conditional(holes), model.log_likelihood(holes).value.numpy()
    for i, row in enumerate(holes):
        m, o = np.isnan(row), ~np.isnan(row)
        gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
        assert np.abs(given.mean[i].numpy()[m] - mean[m] - gain @ (row[o] - mean[o])).max(initial=0) < 1e-10
        spread = covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]
        assert np.abs(given.covariance[i].numpy()[np.ix_(m, m)] - spread).max(initial=0) < 1e-10
        assert log_p[i] == pytest.approx(stats.multivariate_normal(mean[o], covariance[np.ix_(o, o)]).logpdf(row[o]), abs=1e-9)


def test_fit_through_holes_recovers_the_covariance():
    """10,000 rows with 30 % of the cells gone: C within 5 % of the truth's scale (its standard error is about 2 %)."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(4, 2)) * 2
    x = rng.normal(size=(10_000, 2)) @ W.T + 0.5 * rng.normal(size=(10_000, 4))
    x[rng.random(x.shape) < 0.3] = np.nan
    model = fitted(x, 2, tol=1e-5)
    truth = W @ W.T + 0.25 * np.eye(4)
    assert np.abs((model.W @ model.W.T).numpy() + model.variance.item() * np.eye(4) - truth).max() < 0.05 * np.abs(truth).max()


def test_samples_have_its_law():
    """Means, and variances along the eigenvectors, within 4.5 standard errors (10 numbers: false alarm 7e-5)."""
    model = fitted(linear_draw(), 2)
    s = (model.sample(8000, seed=1) - model.b).numpy()
    values, vectors = np.linalg.eigh((model.W @ model.W.T).numpy() + model.variance.item() * np.eye(5))
    along = s @ vectors
    assert np.abs(along.mean(0) / np.sqrt(values / len(s))).max() < 4.5
    assert np.abs((along.var(0) / values - 1) / math.sqrt(2 / len(s))).max() < 4.5
    assert torch.equal(model.sample(70, seed=2)[:5], model.sample(5, seed=2))


def test_it_is_a_codec():
    """decode(encode(x)) shrinks the projection on span(W) by 1 − σ²/λ in each direction."""
    x = torch.from_numpy(linear_draw())
    model = fitted(x, 2)
    basis, s, _ = torch.linalg.svd(model.W, full_matrices=False)
    shrink = s.square() / (s.square() + model.variance)
    truth = model.b + ((x - model.b) @ basis * shrink) @ basis.T
    assert isinstance(model, Coded)
    assert (model.decode(model.encode(x)) - truth).abs().max() < 1e-10


def test_free_parameters():
    """With L = D − 1 it is any Gaussian: D + D(D+1)/2 numbers, 9 in three dimensions."""
    assert PPCA(Real((3,)), 2).free_parameters == 9
    assert PPCA(Real((10,)), 0).free_parameters == 11
    assert PPCA(Real((10,)), 9).free_parameters == 10 + 55


def test_bic_peaks_at_the_true_rank():
    x = linear_draw(2000, 8, 3, seed=3)
    scores = {size: fitted(x, size).bic(x) for size in range(1, 8)}
    assert min(scores, key=scores.get) == 3


def test_a_resumed_fit_is_the_same_fit():
    x = torch.from_numpy(linear_draw())
    options = {"solver": "em", "tol": 0.0, "max_iter": 9}
    whole, half, again = (PPCA(Real((5,)), 2, **options) for _ in range(3))
    trace = list(whole.em(x))
    first = list(itertools.islice(half.em(x), 4))
    again.load_state_dict(half.state_dict())
    assert first + list(again.em(x, start=False)) == trace
    assert torch.equal(again.W, whole.W)


RNG = np.random.default_rng(0)
DEGENERATE = {
    "two points": np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 3.0]]),
    "collinear": np.outer(np.linspace(-1, 1, 50), [1.0, 2.0, -1.0]),
    "fewer rows than columns": RNG.normal(size=(5, 12)),
    "constant columns": np.c_[RNG.normal(size=(50, 2)), np.full((50, 2), 7.0)],
    "offset 1e8": 1e8 + RNG.normal(size=(200, 3)),
    "scale 1e-20": 1e-20 * RNG.normal(size=(200, 3)),
    "all rows equal": np.ones((10, 3)),
    "digits, 63 of 64": load_digits().data,
}


@pytest.mark.parametrize("solver", ["closed_form", "em"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_data_stay_finite(case, solver):
    x = DEGENERATE[case]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = fitted(x, min(x.shape[1] - 1, 63), solver=solver, max_iter=50)
    assert all(t.isfinite().all() for t in (model.W, model.b, model.variance, model.log_likelihood(x).value, model.sample(3)))
    assert model.variance > 0
    assert not model.notes or any("variance floor" in str(w.message) for w in caught)


def test_the_floor_is_named():
    with pytest.warns(UserWarning, match="variance floor: σ² is held at regularization=1e-09"):
        fitted(DEGENERATE["collinear"], 2)


def test_on_pixels_it_is_a_bound():
    x = torch.from_numpy(load_digits().images[:200]).to(torch.uint8)
    model = PPCA(Pixels((8, 8), 17), 8)
    model.fit_closed_form(x)
    result = model.log_likelihood(x)
    assert (result.knows.value, result.measure) == ("lower bound", "mass")
    assert model.encode(x).shape == (200, 8)
    assert model.decode(model.encode(x)).max() <= 16


def test_refusals():
    with pytest.raises(InputError, match="latent_dim: expected a whole number below 3"):
        PPCA(Real((3,)), 3)
    with pytest.raises(InputError, match="solver"):
        PPCA(Real((3,)), 1, "magic")
    with pytest.raises(InputError, match="none in column 1"):
        PPCA(Real((2,)), 1).fit_closed_form(torch.tensor([[1.0, torch.nan], [2.0, torch.nan]]))


def test_parameters_in_the_users_units():
    """log p is that of N(mean, W Wᵀ + σ² I) in the units given, and `moments` gives those back."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(4, 2, dtype=torch.float64, generator=generator)
    mean = torch.tensor([1.0, -2.0, 30.0, 0.0], dtype=torch.float64)
    model = PPCA.from_parameters(Real((4,), mean=5.0, scale=3.0), W, mean, 0.7)
    truth = torch.distributions.MultivariateNormal(mean, W @ W.T + 0.7 * torch.eye(4, dtype=torch.float64))
    x = truth.sample((20,))
    torch.testing.assert_close(model.log_likelihood(x).value, truth.log_prob(x), rtol=1e-10, atol=1e-10)
    weights, means, covariances = model.moments()
    assert weights.tolist() == [1.0]
    torch.testing.assert_close(means[0], mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(covariances[0], truth.covariance_matrix, rtol=1e-10, atol=1e-10)
    for wrong in ({"W": W[:3]}, {"variance": 0.0}, {"space": Real((4,), scale=(1.0, 2.0, 3.0, 4.0))}):
        with pytest.raises(InputError):
            PPCA.from_parameters(**{"space": Real((4,)), "W": W, "mean": mean, "variance": 0.7} | wrong)
