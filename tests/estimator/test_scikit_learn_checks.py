"""scikit-learn's own checks of every estimator, by family; what cannot pass is named, with why."""

import warnings

import pytest
from sklearn.utils.estimator_checks import check_estimator

from likeli.estimator import Classifier, Density, Embedding, Imputer, Outlier

WEIGHTS = ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data")
UNEVEN = dict.fromkeys(WEIGHTS, "calibration rows are drawn among rows, and repeated rows are more of them")
COUNTS = dict.fromkeys(WEIGHTS, "the threshold flags a share of the rows, however often they count")
LONELY = dict.fromkeys(WEIGHTS, "a class of one row is refused, however often that row counts")
BATCHES = dict.fromkeys(WEIGHTS, "weighted rows make other batches than repeated rows: equal in the mean only")
ROUNDED = {"check_methods_sample_order_invariance": "float32 rounds by a row's place in its block, at 1e-7"}
HOW = ("pandas_series", "not_an_array", "list", "shape", "not_overwritten")
REFUSED = dict.fromkeys([*WEIGHTS, *(f"check_sample_weights_{how}" for how in HOW)], "takes no weights, and says so")
TINY = {"hidden": 8, "steps": 5, "batch": 32}

QUICK = [  # one of each kind but the classifier
    (Density("gmm", components=2), {}),
    (Embedding("ppca", latent_dim=1), {}),
    (Imputer("gmm", components=2), {}),
    (Outlier("gmm", components=2), UNEVEN),
]
SLOW = [
    (Classifier("gmm", components=1), LONELY),
    (Density("independent"), {}),
    (Density("ppca", latent_dim=1), {}),
    (Density("factor_analysis", latent_dim=1), {}),
    (Density("vae", latent_dim=2, **TINY), {}),
    (Density("flow", transforms=1, **TINY), {}),
    (Density("autoregressive", **TINY), {}),
    (Density("ebm", **TINY), {}),
    (Density("flow_matching", **TINY), ROUNDED),
    (Density("boosted_trees", rounds=5), {}),
    (Imputer("boosted_trees", rounds=5, draws=5), {}),
    (Outlier("boosted_trees", rounds=5), UNEVEN),
    (Density("categorical_mixture", kind="table", components=2), REFUSED),
    (Outlier("gmm", components=2, contamination=0.1), COUNTS),
    (Outlier("flow", transforms=1, **TINY), UNEVEN),
    (Outlier("ae", latent_dim=2, **TINY), UNEVEN),
    (Embedding("vae", latent_dim=2, **TINY), BATCHES),
    (Embedding("ae", latent_dim=2, **TINY), BATCHES),
    (Embedding("flow", transforms=1, **TINY), BATCHES),
    (Embedding("factor_analysis", latent_dim=1), {}),
    (Imputer("ppca", latent_dim=1), {}),
    (Imputer("independent", draws=5), {}),
    (Imputer("vae", latent_dim=2, draws=5, **TINY), {}),
    (Classifier("gmm", covariance="diag", components=1), LONELY),
    (Classifier("ppca", latent_dim=1), LONELY),
]


def named(case):
    return f"{type(case[0]).__name__}-{case[0].family}" if isinstance(case, tuple) else None


def checked(estimator, expected):
    """Counts of passed, expected and skipped checks; every other failure is raised with its name."""
    with warnings.catch_warnings(action="ignore"):
        results = check_estimator(estimator, expected_failed_checks=expected, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed, failed
    return {status: sum(r["status"] == status for r in results) for status in ("passed", "xfail", "skipped")}


@pytest.mark.parametrize("case", QUICK, ids=map(named, QUICK))
def test_quick_families(case):
    counts = checked(*case)
    print(named(case), counts)
    least = 45 if isinstance(case[0], (Density, Embedding)) else 40
    assert counts["passed"] >= least  # GaussianMixture has 40 of them, KernelDensity 47


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=map(named, SLOW))
def test_families_that_take_longer(case):
    counts = checked(*case)
    print(named(case), counts)
    assert counts["passed"] >= 40
