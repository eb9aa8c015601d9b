"""The classifier two-sample test against normal theory: the area, its error and its p-value mean what they say."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from likeli.errors import InputError
from likeli.evaluation.two_sample import _judge, c2st, classifier_test
from likeli.random import seeded


def normal(n, d=2, seed=0, mean=0.0, std=1.0):
    with seeded(seed, "two sample"):
        return mean + std * torch.randn(n, d, dtype=torch.float64)


def test_logistic_area_of_shifted_gaussians_is_the_closed_form():
    """The best score of N(0, 1) against N(δ, 1) has area Φ(δ/√2), which a linear classifier of one cell attains exactly."""
    a, b = normal(4000, 1, 1), normal(3000, 1, 2, mean=0.8)
    auc, stderr = c2st(a, b, classifier="logistic")
    assert abs(auc - stats.norm.cdf(0.8 / math.sqrt(2))) < 4 * stderr  # false alarm 6e-5
    assert 0.2 < stderr / (1 / math.sqrt(12 * 1500) * math.sqrt(1500 / 2000 + 1)) < 1.5  # below the null's, of the same order


def test_area_is_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 60) / 5, rng.integers(1, 6, 80) / 5
    truth = roc_auc_score(np.repeat([0, 1], [60, 80]), np.concatenate([a, b]))
    assert abs(_judge(a, b).auc - truth) < 1e-12


def test_standard_error_is_the_spread_over_repeats():
    """Scores N(0,1) and N(1,1): the standard error averages to the spread of 400 areas, whose own error is 1/√800 = 3.5 %."""
    rng = np.random.default_rng(0)
    runs = [_judge(rng.normal(size=60), rng.normal(1.0, 1.0, 90)) for _ in range(400)]
    spread = np.std([r.auc for r in runs])
    assert abs(np.mean([r.stderr for r in runs]) / spread - 1) < 4 * 0.035


def test_p_values_are_uniform_for_equal_distributions():
    """120 runs of the logistic test; Kolmogorov–Smirnov at false alarm 1e-3."""
    p = [classifier_test(normal(60, 2, s), normal(80, 2, 10_000 + s), s, classifier="logistic").p_value for s in range(120)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_boosting_sees_what_means_do_not_show():
    """σ 1 against 3 with equal means: the best accuracy is ½ + ½ TV, which no classifier exceeds."""
    a, b = normal(2000, 1, 3), normal(2000, 1, 4, std=3.0)
    edge = math.sqrt(2 * math.log(3) / (1 - 1 / 9))
    total_variation = 2 * (stats.norm.cdf(edge) - stats.norm.cdf(edge / 3))
    best = 0.5 + 0.5 * total_variation
    found = classifier_test(a, b)
    assert found.p_value < 1e-6
    assert best - 0.05 < found.accuracy < best + 4 * found.accuracy_stderr
    blind = classifier_test(a, b, classifier="logistic")
    assert abs(blind.auc - 0.5) < 4 * blind.stderr  # P(b > a) = ½ for every linear score of a symmetric pair


def test_sets_wholly_apart_are_certain_only_as_far_as_rows_go():
    found = classifier_test(normal(100), normal(100, mean=50.0))
    assert found.auc == found.accuracy == 1
    assert found.stderr == 1 / 52
    assert found.accuracy_stderr > 0


def test_same_seed_same_answer_and_no_trace_on_the_global_state():
    a, b = normal(50), normal(60, seed=1)
    before = torch.get_rng_state()
    assert classifier_test(a, b, 3) == classifier_test(a, b, 3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("a,b,classifier,what", [
    (normal(19), normal(50), "boosting", "a: expected at least 20"),
    (normal(50), normal(50, 3), "boosting", "b: expected rows of shape"),
    (normal(50), normal(50).fill_(math.inf), "boosting", "b: expected finite"),
    (normal(50).fill_(math.nan), normal(50), "logistic", "a: expected no missing"),
    (normal(50), normal(50), "forest", "classifier"),
])
def test_bad_input_is_one_line(a, b, classifier, what):
    with pytest.raises(InputError, match=what):
        classifier_test(a, b, classifier=classifier)
