"""The estimators against closed forms, scikit-learn's own, and what scikit-learn asks of all."""

import io
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import likeli
from likeli.errors import InputError, Unsupported
from likeli.estimator import Classifier, Density, Embedding, Imputer, Outlier
from likeli.estimator.parameters import estimable, family_of, options_of
from likeli.training.batches import resampled

MEAN, COV = np.array([1.0, -2.0, 300.0]), np.array([[1.0, 0.6, 0.0], [0.6, 2.0, 5.0], [0.0, 5.0, 100.0]])
TINY = {"hidden": 8, "steps": 20, "random_state": 0}


def gaussian(n, seed=0):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COV, n)


def clusters(n, seed=0):
    """Three round clusters, well apart: log p = log Σ_k N(c_k, I)/3."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    return centres[rng.integers(3, size=n)] + rng.normal(size=(n, 2))


# --- density ------------------------------------------------------------------------------------------------------------


def test_one_component_is_the_normal_of_largest_likelihood():
    x = gaussian(500)
    density = Density("gmm", components=1, tol=0.0, max_iter=5).fit(x)
    truth = stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True))
    assert np.allclose(density.score_samples(x), truth.logpdf(x), atol=1e-8)  # both in float64
    assert density.knows_ == "exact"
    assert np.isclose(density.score(x), truth.logpdf(x).mean())
    theirs = GaussianMixture(1, reg_covar=0.0).fit(x)
    assert np.isclose(density.bic(x), theirs.bic(x))
    assert np.isclose(density.aic(x), theirs.aic(x))


def test_draws_are_those_of_the_density():
    density = Density("gmm", components=1, random_state=3).fit(gaussian(4000))
    drawn = density.sample(4000)
    assert np.array_equal(drawn, density.sample(4000))
    assert not np.array_equal(drawn, density.sample(4000, random_state=4))
    z = (drawn.mean(0) - MEAN) / np.sqrt(np.diag(COV) * 2 / 4000)  # of two means; |z| < 4 fails once in 5,000
    assert np.abs(z).max() < 4


@pytest.mark.parametrize("family", ["gmm", "vae", "flow", "independent"])
def test_a_rows_number_is_a_function_of_the_row(family):
    x = gaussian(70)
    tiny = {"random_state": 0} if family in ("gmm", "independent") else TINY
    density = Density(family, **tiny).fit(x)
    whole, order = density.score_samples(x), np.random.default_rng(0).permutation(70)
    exact = family in ("vae", "flow")  # networks see full blocks; closed forms round by the number of rows
    same = np.array_equal if exact else lambda a, b: np.allclose(a, b, rtol=1e-10)
    assert same(density.score_samples(x[order]), whole[order])
    assert same(density.score_samples(x[11:12]), whole[11:12])


def test_reals_stay_reals_and_tables_are_asked_for():
    whole = np.random.default_rng(0).integers(0, 9, (200, 2))
    assert Density("independent").fit(whole).model_.space.measure == "density"
    assert Density("independent", kind="table").fit(whole).model_.space.measure == "mass"
    assert Density("gmm", components=1, kind="auto").fit(whole).model_.space.kind() == likeli.load_data(whole).space.kind()


def mixed(n=300, seed=0):
    rng = np.random.default_rng(seed)
    job = pd.Categorical(rng.choice(["clerk", "baker"], n, p=[0.7, 0.3]), categories=["clerk", "baker"])
    return pd.DataFrame({"age": rng.integers(18, 80, n), "job": job, "pay": rng.gamma(2.0, 9.0, n), "tax": rng.random(n) < 0.5})


def test_a_frame_comes_back_as_it_was():
    frame = mixed()
    density = Density("independent", random_state=0).fit(frame)
    drawn = density.sample(400)
    assert list(drawn.columns) == list(frame.columns)
    assert list(drawn.dtypes) == list(frame.dtypes)
    assert set(drawn["job"]) == {"clerk", "baker"}
    share = (drawn["job"] == "clerk").mean()
    assert abs(share - (frame["job"] == "clerk").mean()) < 4 * np.sqrt(0.25 / 400)
    assert np.isfinite(density.score_samples(drawn)).all()
    plain = pd.DataFrame(gaussian(100).astype(np.float32), columns=list("abc"))
    assert list(Density("ppca").fit(plain).sample(3).columns) == ["a", "b", "c"]


def test_a_sparse_matrix_is_read_like_a_dense_one():
    x = np.random.default_rng(0).normal(size=(80, 3)) * (np.random.default_rng(1).random((80, 3)) < 0.5)
    a = Density("ppca", random_state=0).fit(sparse.csr_matrix(x)).score_samples(sparse.csr_matrix(x))
    assert np.allclose(a, Density("ppca", random_state=0).fit(x).score_samples(x), atol=1e-10)


def test_missing_cells_are_integrated_out():
    density = Density("gmm", components=1).fit(gaussian(500))
    row = gaussian(1, seed=5)
    hole = row.copy()
    hole[0, 1] = np.nan
    _, mean, cov = density.model_.moments()
    keep = [0, 2]
    truth = stats.multivariate_normal(mean[0].numpy()[keep], cov[0].numpy()[np.ix_(keep, keep)])
    assert np.isclose(density.score_samples(hole)[0], truth.logpdf(row[0, keep]))


# --- weights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, options", [("gmm", {"components": 1}), ("ppca", {}), ("independent", {})])
def test_a_whole_weight_is_so_many_rows(family, options):
    x = gaussian(40)
    weight = np.random.default_rng(1).integers(0, 4, 40)
    a = Density(family, random_state=0, **options).fit(x, sample_weight=weight).score_samples(x)
    b = Density(family, random_state=0, **options).fit(np.repeat(x, weight, 0)).score_samples(x)
    assert np.allclose(a, b, atol=1e-8)


def test_independent_symbols_count_their_rows():
    x = np.random.default_rng(0).integers(0, 2, (50, 3))
    weight = np.random.default_rng(1).integers(1, 5, 50)
    a = Density("independent", kind="binary").fit(x, sample_weight=weight).score_samples(x)
    assert np.allclose(a, Density("independent", kind="binary").fit(np.repeat(x, weight, 0)).score_samples(x), atol=1e-12)


def test_batches_hold_each_row_as_often_as_it_weighs():
    rng = np.random.default_rng(0)
    weight, order = torch.from_numpy(rng.gamma(1.0, size=30)), torch.from_numpy(rng.permutation(30))
    weight[3] = 0
    expected = 30 * weight / weight.sum()
    counts = torch.stack([torch.bincount(resampled(weight, order, (k + 0.5) / 1000), minlength=30) for k in range(1000)])
    assert ((counts >= expected.floor()) & (counts <= expected.ceil())).all()  # systematic: never further than one off
    assert (counts.double().mean(0) - expected).abs().max() <= 1e-3 + 1e-9  # the midpoint rule is off by a step at most
    assert torch.equal(resampled(torch.full((30,), 0.7), order, 0.3), order)


def test_weights_reach_a_family_trained_in_batches():
    x = np.concatenate([gaussian(200) * 0 + np.random.default_rng(0).normal(-1, 0.3, (200, 3)),
                        np.random.default_rng(1).normal(1, 0.3, (200, 3))])  # fmt: skip
    weight = np.repeat([3.0, 1.0], 200)
    density = Density("flow", transforms=1, hidden=16, steps=150, batch=64, random_state=0).fit(x, sample_weight=weight)
    share = (density.sample(1000)[:, 0] < 0).mean()
    assert abs(share - 0.75) < 0.1  # without weights it is 0.5; s.e. of the draws 0.014, the rest is the fit's


# --- outliers -----------------------------------------------------------------------------------------------------------


def test_contamination_is_a_share_of_the_training_rows():
    x = gaussian(400)
    for share in (0.05, 0.3):
        found = Outlier("gmm", components=2, contamination=share, random_state=0).fit(x)
        assert (found.predict(x) == -1).sum() == round(share * 400)
        assert np.array_equal(found.predict(x) == -1, found.decision_function(x) < 0)


def test_the_rate_of_false_alarms_is_the_one_stated():
    found = Outlier("gmm", components=5, rate=0.1, calibration=0.25, random_state=0).fit(gaussian(1200))
    new = gaussian(20_000, seed=9)
    alarms = (found.predict(new) == -1).mean()
    low, high = stats.beta(30, 271).interval(0.9999)  # k = ⌊0.1 · 301⌋ of n = 300; fails once in 10,000
    assert low - 0.01 < alarms < high + 0.01  # the share of 20,000 rows is known to ± 0.01 at four s.e.
    assert found.false_alarms_ == pytest.approx(stats.beta(30, 271).interval(0.95))
    p = found.p_values(new)
    assert np.array_equal(p <= 0.1 + 1e-12, found.predict(new) == -1)
    far = MEAN + 30 * np.sqrt(np.diag(COV))
    assert found.p_values(far[None])[0] == pytest.approx(1 / 301)


def test_the_default_is_wide_and_leaves_far_columns_as_they_are(recwarn):
    x = np.random.default_rng(0).standard_t(1.5, size=(300, 2))
    found = Outlier(random_state=0).fit(x)
    assert (found.model_.components, found.model_.regularization) == (24, 0.5)  # a tenth of 300 less the calibration rows
    assert not found.model_.space.stretch
    assert not recwarn.list
    assert found.get_params()["components"] == 60
    assert Outlier(components=3, random_state=0).fit(x).model_.components == 3


def test_too_few_rows_for_the_rate_are_told():
    with pytest.warns(UserWarning, match="rate: 0.2 in place of 0.05, since 4 rows set the threshold"):
        found = Outlier("gmm", components=1).fit(gaussian(20))
    assert found.rate_ == pytest.approx(0.2)


def test_a_family_without_log_p_scores_by_its_reconstruction():
    x = gaussian(200)
    found = Outlier("ae", latent_dim=2, steps=200, random_state=0).fit(x)
    far = found.score_samples(MEAN[None] + np.array([[8.0, -10.0, 60.0]]))
    assert far[0] < np.quantile(found.score_samples(x), 0.01)
    with pytest.raises(Unsupported, match="ae has no log p"):
        Density("ae", latent_dim=2, **TINY).fit(x).score_samples(x)


# --- classes, codes, gaps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_diagonal_normals_are_naive_bayes(weighted):
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    weight = np.random.default_rng(0).uniform(0.5, 2, len(x)) if weighted else None
    ours = Classifier("gmm", components=1, covariance="diag", random_state=0).fit(x, names, sample_weight=weight)
    theirs = GaussianNB(var_smoothing=0.0).fit(x, names, sample_weight=weight)
    assert list(ours.classes_) == list(theirs.classes_)
    assert np.allclose(ours.predict_log_proba(x), theirs.predict_log_proba(x), atol=1e-6)
    assert np.array_equal(ours.predict(x), theirs.predict(x))
    assert ours.score(x, names) == theirs.score(x, names)
    even = Classifier("gmm", components=1, covariance="diag", priors=[1 / 3] * 3).fit(x, names)
    assert np.allclose(even.priors_, 1 / 3)


def test_one_conditional_model_classifies_too():
    x = clusters(300)
    names = np.array(["left", "right", "up"])
    y = names[(x[:, 0] > 4) + 2 * (x[:, 1] > 4)]
    found = Classifier("vae", hidden=32, steps=200, batch=64, random_state=0).fit(x, y)
    assert len(found.models_) == 1
    new = clusters(300, seed=1)
    assert found.score(new, names[(new[:, 0] > 4) + 2 * (new[:, 1] > 4)]) > 0.97
    assert np.allclose(found.predict_proba(x).sum(1), 1)


def test_an_embedding_is_the_familys_code_and_goes_back():
    x = gaussian(200)
    found = Embedding("ppca", latent_dim=2).fit(x)
    z = found.transform(x)
    assert np.allclose(z, found.model_.encode(torch.from_numpy(x)).numpy())
    assert np.allclose(found.inverse_transform(z), found.model_.decode(torch.from_numpy(z)).numpy())
    assert list(found.get_feature_names_out()) == ["embedding0", "embedding1"]
    assert list(found.set_output(transform="pandas").transform(x).columns) == ["embedding0", "embedding1"]
    flow = Embedding("flow", transforms=1, **TINY).fit(x)
    assert np.allclose(flow.inverse_transform(flow.transform(x)), x, rtol=1e-3, atol=1e-2)  # float32 and an inverted spline


def test_the_mean_that_is_filled_in_is_the_conditional_one():
    x = gaussian(500)
    holes = np.random.default_rng(0).random(x.shape) < 0.3
    holes[holes.all(1)] = False
    found = Imputer("gmm", components=1).fit(x)
    filled = found.transform(np.where(holes, np.nan, x))
    assert np.array_equal(filled[~holes], x[~holes])
    _, mean, cov = (t.numpy() for t in found.model_.moments())
    for row, hole, out in zip(x[:40], holes[:40], filled[:40]):
        seen = ~hole
        gain = cov[0][np.ix_(hole, seen)] @ np.linalg.inv(cov[0][np.ix_(seen, seen)])
        assert np.allclose(out[hole], mean[0][hole] + gain @ (row[seen] - mean[0][seen]), rtol=1e-9)


@pytest.mark.parametrize("family, options", [("vae", TINY), ("independent", {}), ("gmm", {"components": 2, "kind": "table"})])
def test_what_a_row_is_filled_with_is_a_function_of_the_row(family, options):
    x = gaussian(30).round()
    x[::3, 1] = np.nan
    found = Imputer(family, draws=9, **{"random_state": 0, **options}).fit(x)
    assert Imputer(family, sample_posterior=True, **{"random_state": 0, **options}).fit(x).transform(x).shape == x.shape
    filled, order = found.transform(x), np.random.default_rng(0).permutation(30)
    assert not np.isnan(filled).any()
    assert np.allclose(found.transform(x[order]), filled[order], rtol=1e-12)  # a mean of equal draws, however it is summed
    assert np.allclose(found.transform(x[3:4]), filled[3:4], rtol=1e-12)


def test_draws_spread_as_the_conditional_does():
    x = np.tile(MEAN, (2000, 1))
    x[:, 1] = np.nan
    drawn = Imputer("gmm", components=1, sample_posterior=True, random_state=0).fit(gaussian(2000)).transform(x)[:, 1]
    variance = 1 / np.linalg.inv(COV)[1, 1]  # of a cell given the others; equal rows are drawn apart
    assert np.isclose(drawn.var(), variance, rtol=0.16)  # s.e. 3.2 % of 2,000 draws, and as much of the fit; four of √2


def test_a_frame_with_gaps_comes_back_as_a_frame():
    frame = mixed()
    frame.loc[::5, "job"] = None
    filled = Imputer("independent", random_state=0).fit(frame).transform(frame)
    assert list(filled.dtypes) == list(frame.dtypes)
    assert (filled["job"][::5] == "clerk").mean() > 0.9  # six in ten rows, of 99 draws the most frequent but once in forty
    assert filled["age"].equals(frame["age"])


def test_a_diffusion_fills_and_scores_rows_with_gaps_where_it_can():
    """A table's gaps are left out of its unit vectors; rows of reals must be whole to be fitted or scored, not to be filled."""
    x, gaps = gaussian(40), mixed()
    holed = x.copy()
    holed[:1, 1], gaps.loc[:1, "job"] = np.nan, None
    few = {"draws": 2, "random_state": 0, **TINY}
    filled = Imputer("flow_matching", **few).fit(x).transform(holed[:2])
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[1], x[1])
    assert not Imputer("flow_matching", **few).fit(gaps).transform(gaps[:3])["job"].isna().any()
    assert np.isfinite(Density("vdm", **TINY).fit(gaps).score_samples(gaps[:3])).all()
    with pytest.raises(ValueError, match="NaN"):
        Density("vdm", **TINY).fit(x).score_samples(holed)
    with pytest.raises(InputError, match="missing"):
        Imputer("flow_matching", **few).fit(holed)


# --- scikit-learn's habits ----------------------------------------------------------------------------------------------


def test_options_are_parameters():
    density = Density("gmm", components=3, lr=0.1)
    assert density.get_params(deep=False) == {
        "family": "gmm", "kind": None, "steps": None, "minutes": None, "random_state": None, "components": 3, "lr": 0.1,
    }  # fmt: skip
    assert density.get_params()["covariance"] == "full"
    assert repr(density) == "Density(components=3, lr=0.1)"
    same = clone(density).set_params(components=4, covariance="diag")
    assert (same.get_params()["components"], density.get_params()["components"]) == (4, 3)
    with pytest.raises(InputError, match="component: unknown option of an estimator of family gmm; did you mean components"):
        density.set_params(kind="real", component=3)
    assert density.kind is None  # nothing was set
    with pytest.raises(InputError, match="components: unknown option of an estimator of family flow"):
        density.set_params(family="flow")


def test_every_family_lists_its_options_without_a_clash():
    named = set(Density()._get_param_names())
    for name in estimable():
        known = options_of(family_of(name), named)
        assert not named & known.keys(), name
        assert Density(name).get_params().keys() == named | known.keys()
    assert "model__steps" in options_of(family_of("vdm"), named)  # T, not the budget
    assert "score__samples" in options_of(family_of("vae"), named)
    density = Density("vdm", model__steps=7, steps=2, hidden=8, batch=16, score__samples=1).fit(clusters(40))
    assert (density.model_.steps, density.history_.steps) == (7, 2)


def test_a_grid_finds_the_number_of_clusters():
    grid = {"components": [1, 2, 3], "covariance": ["spherical"]}
    found = GridSearchCV(Density("gmm", random_state=0), grid, cv=3).fit(clusters(300))
    assert found.best_params_["components"] == 3
    families = GridSearchCV(Density(random_state=0), {"family": ["ppca", "independent"]}, cv=2).fit(gaussian(200))
    assert families.best_params_ == {"family": "ppca"}


def test_a_pipeline_ends_or_begins_with_one():
    x, y = load_iris(return_X_y=True)
    scaled = make_pipeline(StandardScaler(), Density("ppca", latent_dim=2)).fit(x)
    assert scaled.score(x) == pytest.approx(Density("ppca", latent_dim=2).fit(x).score(x) + np.log(x.std(0)).sum(), abs=1e-6)
    embedded = make_pipeline(Embedding("ppca", latent_dim=3), LogisticRegression(max_iter=500))
    assert cross_val_score(embedded, x, y, cv=3).mean() > 0.9
    filled = make_pipeline(Imputer("gmm", components=2), Classifier("gmm", components=1))
    assert cross_val_score(filled, np.where(np.random.default_rng(0).random(x.shape) < 0.1, np.nan, x), y).mean() > 0.9


@pytest.mark.parametrize("estimator", [
    Density("gmm", components=2), Density("vae", **TINY), Outlier("independent"), Embedding("ppca", latent_dim=1),
    Imputer("gmm", components=2), Classifier("gmm", components=1),
], ids=repr)  # fmt: skip
def test_the_users_own_pickle_and_joblib_hold_weights_and_no_code(estimator):
    x = gaussian(60)
    fitted = clone(estimator).set_params(random_state=0).fit(x, *[np.arange(60) % 2] * isinstance(estimator, Classifier))
    use = next(getattr(fitted, name) for name in ("predict_proba", "transform", "score_samples") if hasattr(fitted, name))
    file, held = io.BytesIO(), pickle.dumps(fitted)
    joblib.dump(fitted, file)
    file.seek(0)
    for copy in (pickle.loads(held), joblib.load(file)):
        assert np.array_equal(getattr(copy, use.__name__)(x), use(x))
    allowed = ("likeli.estimator.", "likeli.checkpoint.packed", "likeli.training.history", "numpy", "builtins", "copyreg")
    Strict(io.BytesIO(held), allowed).load()


class Strict(pickle.Unpickler):
    """Names only what a fitted estimator needs: no class of torch, no function that builds a tensor."""

    def __init__(self, file, allowed):
        super().__init__(file)
        self.allowed = allowed

    def find_class(self, module, name):
        assert module.startswith(self.allowed), f"{module}.{name}"
        return super().find_class(module, name)


# --- what a user can get wrong ------------------------------------------------------------------------------------------


BAD = [
    (lambda x: Density("gmmm").fit(x), "gmmm"),
    (lambda x: Density(7).fit(x), "family: expected one of"),
    (lambda x: Density("gmm", component=2).fit(x), "did you mean components"),
    (lambda x: Density("gmm", components=0).fit(x), "components: expected at least 1"),
    (lambda x: Density("gmm", steps=0).fit(x), "steps: expected a whole number"),
    (lambda x: Density("vae", validation=1.0).fit(x), "validation: expected a share"),
    (lambda x: Density("gmm", kind="reel").fit(x), "kind: expected one of"),
    (lambda x: Density("gmm").fit(x, sample_weight=-np.ones(len(x))), "[Nn]egative"),
    (lambda x: Density("gmm").fit(x, sample_weight=np.zeros(len(x))), "[Ss]ample.weight"),
    (lambda x: Density("gmm").fit(x, sample_weight=np.ones(3)), "sample_weight"),
    (lambda x: Density("gmm").fit(np.where(x > 0, np.inf, x)), "infinity"),
    (lambda x: Density("flow").fit(np.where(x > 300, np.nan, x)), "NaN"),
    (lambda x: Density("gmm").fit(np.full_like(x, np.nan)), "missing cells only"),
    (lambda x: Density("gmm").fit(np.ones_like(x)), "all columns constant"),
    (lambda x: Density("gmm", components=1).fit(x).sample(0), "n_samples: expected a whole number"),
    (lambda x: Outlier(contamination=0).fit(x), "contamination: expected 'auto', or a number above 0, at most 0.5"),
    (lambda x: Outlier(contamination=0.6).fit(x), "contamination: expected"),
    (lambda x: Outlier(rate=0.0).fit(x), "rate: expected a number above 0"),
    (lambda x: Outlier(calibration=1.0).fit(x), "calibration: expected"),
    (lambda x: Classifier("gmm").fit(x, np.zeros(len(x))), "y: expected at least two classes"),
    (lambda x: Classifier("gmm", priors=[0.5, 0.6]).fit(x, np.arange(len(x)) % 2), "priors: expected 2 probabilities"),
    (lambda x: Classifier("gmm", components=1).fit(x, np.arange(len(x)) == 0), "at least two rows of each class"),
    (lambda x: Embedding("ppca", latent_dim=1).fit(x).inverse_transform(x), "codes of 1 columns"),
    (lambda x: Imputer("gmm", draws=0).fit(x), "draws: expected"),
    (lambda x: Density("independent").fit(mixed()).score_samples(mixed().assign(job="judge")), "judge"),
    (lambda x: Density("independent").fit(mixed()).score_samples(mixed()[["job", "age", "pay", "tax"]]), "same order"),
    (lambda x: Density("independent").fit(mixed()).score_samples(mixed().rename(columns={"age": "years"})), "years"),
    (lambda x: Density("independent").fit(mixed()).score_samples(mixed().drop(columns="age")), "age"),
    (lambda x: Density("independent").fit(mixed()).score_samples(mixed().to_numpy()), "a data frame, as in fit"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("act, message", BAD, ids=range(len(BAD)))
def test_refusals_name_what_is_wrong(act, message):
    with pytest.raises(ValueError, match=message):
        act(gaussian(60))


@pytest.mark.parametrize("act, message", [
    (lambda x: Density("distilled").fit(x), "distilled needs a teacher"),
    (lambda x: Density("flow", **TINY).fit(x).bic(x), "no exact log p and number of free parameters"),
    (lambda x: Embedding("gmm").fit(x), "gmm has no code"),
    (lambda x: Imputer("flow", **TINY).fit(x), "flow cannot condition on some cells"),
    (lambda x: Classifier("gmm", per_class=False).fit(x, np.arange(len(x)) % 2), "gmm is not conditional"),
    (lambda x: Classifier("ae", latent_dim=1, **TINY).fit(x, np.arange(len(x)) % 2), "no normalised log p"),
    (lambda x: Outlier("gmm", contamination=0.1).fit(x).p_values(x), "use contamination='auto'"),
])  # fmt: skip
def test_what_the_mathematics_refuses(act, message):
    with pytest.raises(Unsupported, match=message):
        act(gaussian(60))


def test_nothing_is_known_before_fit():
    for act in (Density().score_samples, Outlier().predict, Outlier().p_values, Embedding().transform, Imputer().transform):
        with pytest.raises(NotFittedError):
            act(gaussian(3))
    with pytest.raises(NotFittedError):
        Density().sample()


def test_import_likeli_brings_no_scikit_learn():
    code = "import sys, likeli; likeli.errors; assert not any(m.startswith('sklearn') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
