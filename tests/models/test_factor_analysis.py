"""Factor analysis against scikit-learn, scipy, its own posterior, EM's promise, and rows that are repeated or weighed."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_wine
from sklearn.decomposition import FactorAnalysis as TheirFactorAnalysis

import likeli
from likeli.errors import InputError
from likeli.models.factor_analysis import FactorAnalysis
from likeli.models.gmm import GMM
from likeli.models.ppca import PPCA
from likeli.spaces import Real


def factor_draw(n=400, d=6, size=2, seed=0):
    """Rows of a factor model with noises from 0.2 to 2.7."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(d, size)) * 1.5
    return rng.normal(size=(n, size)) @ W.T + rng.normal(size=(n, d)) * np.linspace(0.2, 2.7, d) + rng.normal(size=d)


def holed(x, share=0.25, seed=1):
    x = x.copy()
    x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    return x


def fitted(x, size, cls=FactorAnalysis, weight=None, **options):
    model = cls(Real(x.shape[1:]), size, **options)
    for _ in model.em(torch.as_tensor(x), sample_weight=weight):
        pass
    return model


@pytest.mark.parametrize("size", [1, 2])
def test_equals_scikit_learn(size):
    x = factor_draw()
    model = fitted(x, size, tol=1e-13)
    theirs = TheirFactorAnalysis(size, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(x)
    assert np.abs(model.log_likelihood(x).value.numpy() - theirs.score_samples(x)).max() < 1e-4
    assert np.abs(model.variances.numpy() / theirs.noise_variance_ - 1).max() < 1e-4
    covariance = (model.W @ model.W.T).numpy() + np.diag(model.variances)
    assert np.abs(covariance - theirs.get_covariance()).max() < 1e-4 * np.abs(covariance).max()


def test_it_beats_ppca_where_noise_differs_and_does_not_depend_on_units():
    """13 chemical measures of wine; the log-likelihood shifts by the Jacobian −Σ log s alone when columns are scaled by s."""
    x = load_wine().data
    scale = np.geomspace(1e-3, 1e3, 13)
    plain, scaled = fitted(x, 3), fitted(x * scale, 3)
    value = plain.log_likelihood(x).value.mean().item()
    assert scaled.log_likelihood(x * scale).value.mean().item() == pytest.approx(value - np.log(scale).sum(), abs=1e-8)
    assert value > fitted(x, 3, PPCA).log_likelihood(x).value.mean().item() + 5


@pytest.mark.parametrize("x", [factor_draw(), holed(factor_draw()), factor_draw(8, 20)], ids=["whole", "holes", "wide"])
def test_the_log_likelihood_never_falls_and_is_what_em_says(x):
    model, trace = FactorAnalysis(Real(x.shape[1:]), 2, tol=0.0, max_iter=40), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in model.em(torch.from_numpy(x)):
            trace.append(value)
            after = model.log_likelihood(x).value.mean().item()
        assert np.diff(trace).min() > -1e-9
        model.max_iter = 41
        assert next(model.em(torch.from_numpy(x), start=False)) == pytest.approx(after, abs=1e-9)


def test_log_p_is_the_gaussian_with_covariance_wwt_plus_noise_in_the_users_units():
    rng = np.random.default_rng(0)
    W, mean, noise = rng.normal(size=(5, 2)), rng.normal(size=5) * 10, np.geomspace(1e-3, 10, 5)
    space = Real((5,), 1.0, (1.0, 2.0, 0.5, 3.0, 1.0))
    model = FactorAnalysis.from_parameters(space, W, mean, noise)
    truth = stats.multivariate_normal(mean, W @ W.T + np.diag(noise))
    x = torch.from_numpy(truth.rvs(50, random_state=0))
    assert np.abs(model.log_likelihood(x).value.numpy() - truth.logpdf(x)).max() < 1e-9
    holes = x.clone()
    holes[:, 1::3] = torch.nan
    seen = stats.multivariate_normal(mean[[0, 2, 3]], truth.cov[np.ix_([0, 2, 3], [0, 2, 3])]).logpdf(x[:, [0, 2, 3]])
    assert np.abs(model.log_likelihood(holes).value.numpy() - seen).max() < 1e-9
    torch.testing.assert_close(model.moments()[2][0], torch.from_numpy(truth.cov), rtol=1e-10, atol=1e-10)
    z = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    cells = model.observation(z).base_dist.log_prob(x)[:, [0, 2, 3]].sum(1)
    for rows, given in ((x, model.observation(z).log_prob(x)), (holes, cells)):
        assert (given + prior - model.posterior(rows).log_prob(z) - model.log_likelihood(rows).value).abs().max() < 1e-9


def test_a_fit_through_holes_recovers_the_noises():
    """4,000 rows with a quarter of the cells gone: noises within 10 % (their standard errors are about 3 %)."""
    model = fitted(holed(factor_draw(4000, seed=4)), 2)
    assert np.abs(model.variances.sqrt().numpy() / np.linspace(0.2, 2.7, 6) - 1).max() < 0.1


def test_what_cannot_be_a_noise_is_held_and_said():
    x = factor_draw(200, 4)
    x[:, 3] = x[:, 0]
    with pytest.warns(UserWarning, match="variance floor: the noise of [12] of 4 cells"):
        model = fitted(x, 2)
    assert model.log_likelihood(x).value.isfinite().all() and model.notes


@pytest.mark.parametrize("make", [
    lambda: PPCA(Real((6,)), 2),
    lambda: PPCA(Real((6,)), 2, solver="em"),
    lambda: FactorAnalysis(Real((6,)), 2),
    lambda: GMM(Real((6,)), 1),
    lambda: GMM(Real((6,)), 1, covariance="tied"),
], ids=["ppca", "ppca by em", "factor_analysis", "gmm", "gmm tied"])  # fmt: skip
@pytest.mark.parametrize("rows", [factor_draw(60), holed(factor_draw(60)), factor_draw(4)], ids=["whole", "holes", "few"])
@pytest.mark.filterwarnings("ignore:.*floor")
def test_an_integer_weight_is_a_repeated_row_through_fit(make, rows):
    times = np.random.default_rng(5).integers(0, 4, len(rows))
    times[:2] = 2
    weighed, repeated = make(), make()
    x = torch.from_numpy(rows)
    again = x.repeat_interleave(torch.from_numpy(times), 0)
    history = likeli.fit(weighed, x, sample_weight=times, steps=30), likeli.fit(repeated, again, steps=30)
    for ours, theirs in zip(weighed.moments(), repeated.moments()):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    losses = [[row["loss"] for row in h.rows] for h in history]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_weights_of_data_are_those_of_its_training_rows_and_belong_to_the_run(tmp_path):
    data = likeli.load_data(factor_draw(80))
    weight = np.arange(80.0)
    model, direct = (PPCA(data.space, 2) for _ in range(2))
    likeli.fit(model, data, sample_weight=weight, out=tmp_path / "run")
    direct.fit_closed_form(data.split("train")[0], sample_weight=weight[data.train])
    torch.testing.assert_close(model.W @ model.W.T, direct.W @ direct.W.T)
    with pytest.raises(InputError):
        likeli.fit(PPCA(data.space, 2), data, sample_weight=weight + 1, out=tmp_path / "run", resume=True, steps=5)


def test_refusals():
    x = torch.from_numpy(factor_draw(20))
    for weight in (np.ones(19), -np.ones(20), np.zeros(20), np.full(20, np.nan), "heavy"):
        with pytest.raises(InputError, match="sample_weight"):
            likeli.fit(PPCA(Real((6,)), 2), x, sample_weight=weight)
    with pytest.raises(InputError, match="categorical_mixture takes no weights"):
        likeli.fit(likeli.CategoricalMixture(likeli.Binary((6,)), 2), torch.ones(20, 6), sample_weight=np.ones(20), steps=1)
    with pytest.raises(InputError, match="latent_dim: expected a whole number below 3"):
        FactorAnalysis(Real((3,)), 3)
    with pytest.raises(InputError, match="variances: expected 3 positive"):
        FactorAnalysis.from_parameters(Real((3,)), torch.ones(3, 1), torch.zeros(3), [1.0, 0.0, 1.0])
    assert FactorAnalysis(Real((10,)), 2).free_parameters == 10 + 20 - 1 + 10
    assert FactorAnalysis(Real((3,)), 2).free_parameters == 9
