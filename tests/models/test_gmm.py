"""Gaussian mixtures against scikit-learn, closed forms, quadrature, and data that break naive EM."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.mixture import GaussianMixture

from likeli.errors import InputError, Unsupported
from likeli.gaussian import em as passes
from likeli.gaussian.covariance import COVARIANCES
from likeli.gaussian.missing import group_rows
from likeli.models.gmm import GMM, select_components
from likeli.models.ppca import PPCA
from likeli.spaces import Pixels, Real, Tokens

KINDS = ["full", "tied", "diag", "spherical"]


def mixture_draw(n=400, d=3, k=3, seed=0):
    rng = np.random.default_rng(seed)
    centres, mix = 3 * rng.normal(size=(k, d)), rng.normal(size=(k, d, d)) / 2
    labels = rng.integers(k, size=n)
    return centres[labels] + np.einsum("nij,nj->ni", mix[labels], rng.normal(size=(n, d)))


def run(model, x, **options):
    return list(model.em(torch.as_tensor(x), **options))


def start_of(kind, x, k, seed=0):
    """Parameters for both sides to begin from."""
    d, rng = x.shape[1], np.random.default_rng(seed)
    v = x.var(0).mean()
    square = {"full": np.stack([v * np.eye(d)] * k), "tied": v * np.eye(d)}
    covariances = square | {"diag": np.full((k, d), v), "spherical": np.full(k, v)}
    return np.full(k, 1 / k), x[rng.choice(len(x), k, replace=False)], covariances[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_scikit_learn_at_equal_parameters(kind):
    x = mixture_draw()
    theirs = GaussianMixture(3, covariance_type=kind, random_state=0).fit(x)
    ours = GMM.from_parameters(Real((3,)), theirs.weights_, theirs.means_, theirs.covariances_, kind)
    assert np.abs(ours.log_likelihood(x).value.numpy() - theirs.score_samples(x)).max() < 1e-8
    assert np.abs(ours.responsibilities(x).numpy() - theirs.predict_proba(x)).max() < 1e-8
    assert ours.bic(x) == pytest.approx(theirs.bic(x), abs=1e-8 * len(x))
    assert ours.aic(x) == pytest.approx(theirs.aic(x), abs=1e-8 * len(x))


@pytest.mark.parametrize("kind", KINDS)
def test_em_takes_the_same_path_as_scikit_learn(kind):
    """From one start, without their added regularisation, five iterations end at the same parameters."""
    x = mixture_draw(d=4)
    weights, means, covariances = start_of(kind, x, 3)
    precisions = np.linalg.inv(covariances) if covariances.ndim > 1 and kind != "diag" else 1 / covariances
    start = {"weights_init": weights, "means_init": means, "precisions_init": precisions}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = GaussianMixture(3, covariance_type=kind, reg_covar=0, tol=0, max_iter=5, **start).fit(x)
    ours = GMM.from_parameters(Real((4,)), weights, means, covariances, kind)
    ours.tol, ours.max_iter = 0.0, 5
    trace = run(ours, x, start=False)
    assert trace[-1] == pytest.approx(theirs.lower_bound_, abs=1e-9)
    assert np.abs(ours.means.numpy() - theirs.means_).max() < 1e-9
    assert np.abs(ours.log_likelihood(x).value.numpy() - theirs.score_samples(x)).max() < 1e-8


def test_equals_scikit_learn_on_digits_as_reals():
    """A fit of ours and its log-likelihood by scikit-learn's formula: constant pixels and all, to 1e-6 nats."""
    x = load_digits().data
    ours = GMM(Real((64,)), 5, "diag", max_iter=20, regularization=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(ours, x)
    theirs = GaussianMixture(5, covariance_type="diag")
    theirs.weights_, theirs.means_ = ours.weights.numpy(), ours.means.numpy()
    theirs.covariances_ = ours.factor.numpy() ** 2
    theirs.precisions_cholesky_ = 1 / ours.factor.numpy()
    assert np.abs(theirs.score_samples(x) - ours.log_likelihood(x).value.numpy()).max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_log_likelihood_never_falls(kind, missing):
    rng = np.random.default_rng(3)
    for trial in range(4):
        x = rng.standard_t(2, size=(60, 3)) if trial % 2 else mixture_draw(80, 3, 2, trial)
        x[rng.random(x.shape) < missing] = np.nan
        model = GMM(Real((3,)), 4, kind, tol=0.0, max_iter=40)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the floor may hold: it must not break the ascent either
            trace = run(model, x, seed=trial)
        assert len(trace) >= 2
        assert np.diff(trace).min() > -1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_after_the_e_step_is_the_log_likelihood(kind):
    """E_q log p(x, k) + H(q) with q the responsibilities equals log p(x), row by row."""
    x = mixture_draw()
    model = GMM(Real((3,)), 3, kind, max_iter=5)
    run(model, x)
    r = model.responsibilities(x)
    joint = torch.cat([j.T for _, j in passes.log_joint(torch.from_numpy(x), model.mixture, COVARIANCES[kind])])
    bound = (r * (joint - r.clamp(min=1e-300).log())).sum(1)
    assert (bound - model.log_likelihood(x).value).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_the_three_passes_agree(kind):
    """Features, whitened residuals and masked conditioning give one set of moments, to what `risk` says of the first."""
    x = torch.from_numpy(mixture_draw(200, 4))
    x = (x - x.mean(0)) / x.std(0)
    model = GMM(Real((4,)), 3, kind, max_iter=4)
    run(model, x)
    p, algebra = model.mixture, COVARIANCES[kind]
    groups = group_rows(torch.ones_like(x, dtype=torch.bool), 3)
    found = [passes.fast(x, p, algebra), passes.careful(x, p, algebra), passes.masked(x, p, algebra, groups)]
    after = [passes.maximise(m, p, algebra, 1e-6)[0] for m in found]
    assert passes.risk(p, algebra, x.abs().amax(0).square()) < passes.SAFE
    for other in (1, 2):
        assert abs(found[0].log_likelihood - found[other].log_likelihood) < 1e-10 * len(x)
        for a, b in zip(after[0], after[other]):
            assert (a - b).abs().max() < 1e-11


def test_one_component_is_the_full_gaussian_and_ppca():
    x = mixture_draw(200, 4)
    truth = stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(x)
    gmm, ppca = GMM(Real((4,)), 1), PPCA(Real((4,)), 3)
    run(gmm, x)
    ppca.fit_closed_form(torch.from_numpy(x))
    assert np.abs(gmm.log_likelihood(x).value.numpy() - truth).max() < 1e-8
    assert np.abs(ppca.log_likelihood(x).value.numpy() - truth).max() < 1e-8


@pytest.mark.parametrize(("kind", "count"), [("full", 6), ("tied", 6), ("diag", 3), ("spherical", 1)])
def test_free_parameters(kind, count):
    """A Gaussian in three dimensions has 3 + 6 = 9 free numbers, not 12."""
    assert GMM(Real((3,)), 1, kind).free_parameters == 3 + count
    k = 4
    assert GMM(Real((3,)), k, kind).free_parameters == k - 1 + 3 * k + (count if kind == "tied" else k * count)


def test_log_p_is_in_the_users_units():
    x = mixture_draw(200, 2)
    raw, scaled = GMM(Real((2,)), 2), GMM(Real((2,), (1.0, -3.0), (0.5, 20.0)), 2)
    run(raw, x), run(scaled, x)
    assert (raw.log_likelihood(x).value - scaled.log_likelihood(x).value).abs().max() < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_one(kind):
    model = GMM(Real((2,), (0.5, 0.0), (2.0, 1.0)) if kind != "spherical" else Real((2,)), 3, kind)
    rng = np.random.default_rng(0)
    run(model, rng.normal(size=(300, 2)) + 4 * rng.integers(0, 3, size=(300, 1)))
    axis = torch.linspace(-14, 22, 181, dtype=torch.float64)
    total = model.log_likelihood(torch.cartesian_prod(axis, axis)).value.exp().sum() * (axis[1] - axis[0]) ** 2
    # standard deviations of at least 0.6 = 3 h make the trapezoid rule exact to 2 exp(−2π²·9); the box ends beyond 9 of them
    assert model.joint.factor.diagonal(dim1=1, dim2=2).min() > 0.3
    assert total.item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_mixtures_law(kind):
    """Mean and covariance within 4.5 standard errors (14 numbers: false alarm below 1e-4), component counts by chi-square."""
    model = GMM(Real((3,)), 3, kind)
    x = mixture_draw()
    run(model, x)
    s = model.sample(8000, seed=1)
    w, m, tril = model.joint
    mean = w @ m
    second = torch.einsum("k,kij->ij", w, tril @ tril.mT + m[:, :, None] * m[:, None])
    off = s - mean
    assert ((s.mean(0) - mean) / (s.std(0) / math.sqrt(len(s)))).abs().max() < 4.5
    products = off[:, :, None] * off[:, None]
    error = products.std(0) / math.sqrt(len(s))
    assert ((products.mean(0) - (second - mean[:, None] * mean)) / error).abs().max() < 4.5
    inside = model.responsibilities(x).mean(0).numpy()
    counts = model.responsibilities(s).sum(0).numpy()
    assert stats.chisquare(counts, counts.sum() * w.numpy()).pvalue > 1e-4
    assert inside == pytest.approx(w.numpy(), abs=0.05)


def test_sample_is_a_function_of_seed_and_index():
    model = GMM(Real((3,)), 3)
    run(model, mixture_draw())
    assert torch.equal(model.sample(70, seed=2)[:5], model.sample(5, seed=2))


def closed_form_conditional(mean, covariance, x):
    """Gaussian conditioning by the book, one row."""
    m, o = np.isnan(x), ~np.isnan(x)
    gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
    return mean[m] + gain @ (x[o] - mean[o]), covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]


def rows_with_holes(x, n=12, seed=5):
    rng = np.random.default_rng(seed)
    holes = x[:n].copy()
    holes[rng.random(holes.shape) < 0.4] = np.nan
    holes[0], holes[1] = np.nan, x[1]
    return holes


@pytest.mark.parametrize("kind", KINDS)
def test_conditionals_and_marginals_are_those_of_each_gaussian(kind):
    x = mixture_draw(300, 4)
    space = Real((4,), 1.0, 2.0)
    model = GMM(space, 3, kind)
    run(model, x)
    weights, means, tril = (t.numpy() for t in model.joint)
    means, tril = 2 * means + 1, 2 * tril
    holes = rows_with_holes(x)
    given, log_p = model.conditional(holes), model.log_likelihood(holes).value
    for i, row in enumerate(holes):
        o, m = ~np.isnan(row), np.isnan(row)
        log_w = [
            math.log(w) + (stats.multivariate_normal(mu[o], (t @ t.T)[np.ix_(o, o)]).logpdf(row[o]) if o.any() else 0.0)
            for w, mu, t in zip(weights, means, tril)
        ]
        assert log_p[i].item() == pytest.approx(np.logaddexp.reduce(log_w), abs=1e-9)
        w = np.exp(log_w - np.logaddexp.reduce(log_w))
        parts = [closed_form_conditional(mu, t @ t.T, row) for mu, t in zip(means, tril)]
        mean = sum(a * b[0] for a, b in zip(w, parts))
        cov = sum(a * (c + np.outer(b - mean, b - mean)) for a, (b, c) in zip(w, parts))
        assert np.abs(given.weights[i].numpy() - w).max() < 1e-9
        assert np.abs(given.mean[i].numpy()[m] - mean).max(initial=0) < 1e-9
        assert np.abs(given.covariance[i].numpy()[np.ix_(m, m)] - cov).max(initial=0) < 1e-9
        assert np.abs(given.mean[i].numpy()[o] - row[o]).max(initial=0) < 1e-12
        assert np.abs(given.covariance[i].numpy()[o]).max(initial=0) < 1e-12


def test_imputation_draws_have_the_conditional_law():
    """2,000 draws of six rows: means and variances within 4.5 standard errors (30 numbers, false alarm 2e-4)."""
    x = mixture_draw(300, 4)
    model = GMM(Real((4,)), 3)
    run(model, x)
    holes = torch.from_numpy(rows_with_holes(x, 6))
    draws, given = model.sample_conditional(holes, 2000, seed=3), model.conditional(holes)
    hole = holes.isnan()
    assert torch.equal(draws[:, ~hole], holes[~hole].expand(2000, -1))
    off = draws - given.mean
    assert (off.mean(0) / (off.std(0) / math.sqrt(2000)))[hole].abs().max() < 4.5
    variance = given.covariance.diagonal(dim1=1, dim2=2)
    error = off.square().std(0) / math.sqrt(2000)
    assert ((off.square().mean(0) - variance) / error)[hole].abs().max() < 4.5
    assert torch.equal(model.sample_conditional(holes, 3, seed=3), draws[:3])


def test_imputed_intervals_cover():
    """90 % intervals of 200 draws hold the removed cell in 90 % of 400 rows, give or take 4 standard errors (6 points)."""
    x = mixture_draw(700, 3)
    model = GMM(Real((3,)), 3)
    run(model, x)
    truth = model.sample(400, seed=9)
    holes = truth.clone()
    holes[:, 1] = torch.nan
    draws = model.sample_conditional(holes, 200, seed=1)[:, :, 1]
    low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
    assert ((truth[:, 1] > low) & (truth[:, 1] < high)).double().mean().item() == pytest.approx(0.9, abs=0.06)


def test_fitting_through_holes_beats_filling_them_with_means():
    rng = np.random.default_rng(1)
    x = mixture_draw(500, 3, 2, seed=4)
    holes = x.copy()
    holes[rng.random(x.shape) < 0.3] = np.nan
    full, filled = GMM(Real((3,)), 2, tol=1e-6), GMM(Real((3,)), 2, tol=1e-6)
    run(full, holes)
    run(filled, np.where(np.isnan(holes), np.nanmean(holes, 0), holes))
    fresh = mixture_draw(500, 3, 2, seed=4)
    assert full.log_likelihood(fresh).value.mean() > filled.log_likelihood(fresh).value.mean() + 0.1


def test_bic_finds_the_number_of_clusters():
    x = mixture_draw(600, 2, 3, seed=8)
    model, scores = select_components(Real((2,)), torch.from_numpy(x), range(1, 6), covariance="full")
    assert model.components == min(scores, key=scores.get) == 3


TWO = np.array([[0.0, 1.0], [0.632455532, 1.0]])  # variance 0.1 in the first column
DEGENERATE = {
    "two points": (TWO, 2),
    "one value": (np.repeat(TWO[:1], 5, 0) + np.array([[0, 1e-3]]) * np.arange(5)[:, None], 2),
    "collinear": (np.outer(np.linspace(-1, 1, 50), [1.0, 2.0, -1.0]), 3),
    "fewer rows than columns": (np.random.default_rng(0).normal(size=(5, 12)), 2),
    "a constant column": (np.c_[np.random.default_rng(0).normal(size=(50, 2)), np.full(50, 7.0)], 2),
    "offset 1e8": (1e8 + np.random.default_rng(0).normal(size=(200, 2)), 2),
    "scale 1e-20": (1e-20 * np.random.default_rng(0).normal(size=(200, 2)), 2),
    "duplicated rows": (np.repeat(np.random.default_rng(0).normal(size=(3, 2)), 20, 0), 3),
    "an outlier": (np.r_[np.random.default_rng(0).normal(size=(99, 2)), [[1e6, 1e6]]], 3),
    "two values a column": (np.random.default_rng(0).integers(0, 2, size=(60, 5)).astype(float), 4),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_data_stay_finite(case, kind):
    x, k = DEGENERATE[case]
    model = GMM(Real((x.shape[1],)), k, kind, max_iter=60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trace = run(model, x)
    assert np.isfinite(trace).all()
    assert np.diff(trace).min(initial=0) > -1e-9 * max(1, np.abs(trace).max())
    assert all(t.isfinite().all() for t in (*model.mixture, model.log_likelihood(x).value, model.sample(3)))
    assert not model.notes or any("covariance floor" in str(w.message) for w in caught)


def test_the_floor_is_named():
    with pytest.warns(UserWarning, match="covariance floor: regularization=1e-06 of the columns"):
        model = GMM(Real((3,)), 1)
        run(model, DEGENERATE["collinear"][0])
    assert "1 of 1 covariances" in model.notes[0]


def test_shift_and_scale_change_nothing_but_the_units():
    """A power of two is exact; at offset 1e8 the data themselves are rounded by 1.5e-8, some 1e-6 of a cluster's width."""
    x = mixture_draw(200, 2)
    models = [GMM(Real((2,)), 2), GMM(Real((2,)), 2), GMM(Real((2,)), 2)]
    rows = [x, 2.0**-60 * x, 1e8 + x]
    near, small, far = (run(m, r)[-1] for m, r in zip(models, rows))
    assert small - 2 * 60 * math.log(2) == pytest.approx(near, abs=1e-9)
    assert far == pytest.approx(near, abs=1e-5)


def test_the_covariance_of_two_float32_points():
    model = GMM(Real((2,)), 1, "diag")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(model, torch.from_numpy(TWO).float())
    assert model.factor[0, 0].item() ** 2 == pytest.approx(0.1, abs=1e-6)


def test_components_as_classes_are_quadratic_discriminants():
    """p(y|x) by Bayes from one Gaussian a class equals scikit-learn's QDA."""
    x, y = load_digits(return_X_y=True)
    x, y = x[:, 20:30] + 0.1 * np.random.default_rng(0).normal(size=(len(x), 10)), y
    theirs = QuadraticDiscriminantAnalysis(store_covariance=True).fit(x, y)
    ours = GMM.from_parameters(Real((10,)), theirs.priors_, theirs.means_, np.stack(theirs.covariance_))
    assert np.abs(ours.responsibilities(x).numpy() - theirs.predict_proba(x)).max() < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_fits_never_fall(kind):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for trial in range(250):
            n, d = rng.integers(2, 60), rng.integers(1, 5)
            x = rng.choice([1e-3, 1.0, 1e3]) * rng.standard_t(1.5, size=(n, d)).round(rng.integers(0, 4))
            k = rng.integers(1, min(n, 6) + 1)
            model = GMM(Real((int(d),)), int(k), kind, tol=0.0, max_iter=30)
            trace = np.array(run(model, x, seed=trial))
            assert np.isfinite(trace).all()
            assert np.diff(trace).min(initial=0) > -1e-9 * max(1, np.abs(trace).max()), (trial, n, d, k)


def test_a_resumed_fit_is_the_same_fit():
    x = mixture_draw()
    whole, halves = GMM(Real((3,)), 3, max_iter=9, tol=0.0), GMM(Real((3,)), 3, max_iter=9, tol=0.0)
    trace = run(whole, x)
    first = list(itertools.islice(halves.em(torch.from_numpy(x)), 4))
    again = GMM(Real((3,)), 3, max_iter=9, tol=0.0)
    again.load_state_dict(halves.state_dict())
    assert first + run(again, x, start=False) == trace
    assert all(torch.equal(a, b) for a, b in zip(whole.mixture, again.mixture))


def test_on_integers_it_is_a_bound_below_the_exact_mass():
    """One cell of four levels: the mean bound stays below log P(x), got by quadrature over the bin, and nears it with K."""
    x = torch.tensor([0, 1, 1, 2, 3, 3, 3, 0, 1, 2] * 20)[:, None]
    model = GMM(Pixels((1,), 4), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(model, x)
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 1000 * 0.5 - 1
    mass = model.log_density(u[:, None]).exp().reshape(4, 1000).mean(1) * 0.5
    truth = mass.log()[x[:, 0]].mean()
    many = model.log_likelihood(x, samples=64)
    assert many.knows.value == "lower bound"
    mean, error = many.mean()
    assert mean < truth + 4 * error
    few, lots = ([model.log_likelihood(x[:4], samples=k, seed=s).value.mean() for s in range(30)] for k in (1, 64))
    assert sum(few) < sum(lots)


def test_refusals():
    x = torch.from_numpy(mixture_draw(20, 2))
    with pytest.raises(InputError, match="components: expected at most 20"):
        run(GMM(Real((2,)), 21), x)
    with pytest.raises(InputError, match="none in column b"):
        run(GMM(Real((2,), names=("a", "b")), 2), torch.where(torch.tensor([True, False]), x, torch.nan))
    with pytest.raises(InputError, match="covariance"):
        GMM(Real((2,)), 2, "round")
    with pytest.raises(InputError, match="positive definite"):
        GMM.from_parameters(Real((2,)), [1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]])
    with pytest.raises(InputError, match="sum to 1"):
        GMM.from_parameters(Real((2,)), [0.7], [[0.0, 0.0]], np.eye(2)[None])
    with pytest.raises(Unsupported):
        GMM(Tokens(3, 4))
    for argument in ({"components": 0}, {"tol": -1.0}, {"max_iter": 0}, {"regularization": 0.0}, {"starts": 0}):
        with pytest.raises(InputError, match=next(iter(argument))):
            GMM(Real((2,)), **argument)


def test_moments_are_in_the_users_units():
    covariances = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)
    space = Real((2,), mean=(5.0, -1.0), scale=(10.0, 0.5))
    weights, means, found = GMM.from_parameters(space, [0.3, 0.7], [[0.0, 1.0], [20.0, -3.0]], covariances).moments()
    torch.testing.assert_close(weights, torch.tensor([0.3, 0.7], dtype=torch.float64))
    torch.testing.assert_close(means, torch.tensor([[0.0, 1.0], [20.0, -3.0]], dtype=torch.float64))
    torch.testing.assert_close(found, covariances)


@pytest.mark.parametrize(
    ("rows", "cells", "given", "asked"),
    [
        (142, 13, {}, {"covariance": "full", "components": 2}),
        (100_000, 13, {}, {"covariance": "full", "components": 10}),
        (1_000, 20_000, {}, {"covariance": "diag", "components": 10}),
        (142, 13, {"covariance": "diag"}, {"covariance": "diag", "components": 7}),
        (3, 2, {}, {"covariance": "diag", "components": 1}),
    ],
)
def test_options_that_suit_the_number_of_rows(rows, cells, given, asked):
    assert GMM.suited(Real((cells,)), rows, given) == asked
