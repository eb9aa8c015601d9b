"""Sample metrics against closed forms and brute force, their standard errors against repeats, and what each sees."""

import numpy as np
import pytest
import torch
from scipy import linalg

from likeli.errors import InputError
from likeli.evaluation.sample_metrics import (
    ball_coverage,
    ball_density,
    covered,
    frechet_distance,
    jackknifed,
    kernel_distance,
    network_features,
    sample_metrics,
)


def normal(n, d, seed, mean=0.0, std=1.0):
    return mean + std * np.random.default_rng(seed).normal(size=(n, d))


def test_frechet_is_the_matrix_root_and_the_closed_form():
    a, b = normal(60, 4, 0) @ np.triu(np.ones((4, 4))), normal(70, 4, 1, 0.3)
    first, second = np.cov(a.T), np.cov(b.T)
    delta = a.mean(0) - b.mean(0)
    truth = delta @ delta + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, 3 * a) == pytest.approx(4 * np.trace(first) + 4 * a.mean(0) @ a.mean(0), rel=1e-8)
    wide = normal(20, 50, 2)  # fewer rows than columns: the root is of a singular matrix
    assert frechet_distance(wide, wide) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_brute_force_and_unbiased():
    a, b = normal(30, 3, 0), normal(40, 3, 1)

    def k(u, v):
        return (u @ v.T / 3 + 1) ** 3

    own = [(k(v, v).sum() - np.trace(k(v, v))) / (len(v) * (len(v) - 1)) for v in (a, b)]
    assert kernel_distance(a, b) == pytest.approx(sum(own) - 2 * k(a, b).mean(), rel=1e-10)
    repeats = [kernel_distance(normal(30, 3, 2 * s), normal(40, 3, 2 * s + 1)) for s in range(300)]
    assert abs(np.mean(repeats)) < 4 * np.std(repeats) / 300**0.5


def test_balls_are_brute_force():
    a, b = normal(50, 2, 0), normal(40, 2, 1, 0.5)
    r = np.linalg.norm(a[:, None] - a, axis=2)
    radius = np.sort(r, 1)[:, 3]  # the third nearest: a row itself comes first
    inside = np.linalg.norm(b[:, None] - a, axis=2) <= radius
    assert covered(b, a, 3) == inside.any(1).mean()
    assert ball_density(a, b, 3) == pytest.approx(inside.sum(1).mean() / 3)
    assert ball_coverage(a, b, 3) == inside.any(0).mean()


def test_density_and_coverage_of_equal_distributions_are_known():
    """E density = 1, E coverage = 1 − ∏_{i<k} (m' − i)… → 1 − 2^−k for n = m: 200 repeats, four standard errors."""
    pairs = [(normal(200, 2, 2 * s), normal(200, 2, 2 * s + 1)) for s in range(200)]
    both = [(ball_density(a, b), ball_coverage(a, b)) for a, b in pairs]
    error = np.std(both, 0) / 200**0.5
    assert abs(np.mean(both, 0)[0] - 1) < 4 * error[0] + 0.01
    assert abs(np.mean(both, 0)[1] - (1 - 2**-5)) < 4 * error[1] + 0.005


@pytest.mark.parametrize("metric", [kernel_distance, lambda a, b: covered(b, a)])
def test_the_standard_error_is_the_spread_over_repeats(metric):
    """Shifted sets, 60 repeats: their spread is known to 9 %, the mean of jackknife errors from ten groups to some 5 %."""
    found = [jackknifed(metric, normal(200, 2, 2 * s), normal(200, 2, 2 * s + 1, 1.0)) for s in range(60)]
    values, errors = np.transpose(found)
    assert 0.65 < errors.mean() / values.std(ddof=1) < 1.6


def test_what_each_number_sees():
    """Collapse to a tenth of the spread keeps precision and loses recall; noise loses precision; the data are at the floor."""
    x, train = normal(300, 3, 0), normal(600, 3, 1)
    drawn = [normal(300, 3, 2), normal(300, 3, 3, std=0.1), normal(300, 3, 4, std=5.0)]
    same, narrow, wide = ({m.name: m for m in sample_metrics(x, s, train)} for s in drawn)
    for m in same.values():
        assert abs(m.value - m.floor) < 4 * np.hypot(m.stderr, m.floor_stderr) + 1e-12, m
        assert (m.n, m.m) == (300, 300)
    assert narrow["precision"].value > 0.95 and narrow["recall"].value < 0.5 and narrow["coverage"].value < 0.5
    assert wide["precision"].value < 0.5 and wide["recall"].value > 0.8 and wide["density"].value < 0.5
    for name in ("Fréchet distance", "kernel distance", "sliced Wasserstein"):
        assert wide[name].value - wide[name].floor > 4 * wide[name].stderr
    assert "lower is better" in str(wide["kernel distance"])


@pytest.mark.parametrize("labelled", [False, True])
def test_features_of_a_network_trained_here(labelled):
    """Its hidden layer tells classes that lie apart, and the metrics take it."""
    y = np.random.default_rng(0).integers(0, 2, 400)
    rows = normal(400, 4, 1) + 3 * y[:, None]
    features = network_features(rows, y if labelled else None)
    assert features(rows).shape == (400, 32)
    assert np.array_equal(features(rows), network_features(rows, y if labelled else None)(rows))
    fresh, far = rows[:200] + normal(200, 4, 2, 0, 0.1), normal(200, 4, 3)
    distances = [sample_metrics(rows[200:], s, rows[:200], features=features)[0] for s in (fresh, far)]
    assert distances[1].value > distances[0].value + 4 * distances[1].stderr


@pytest.mark.parametrize("x,samples,features,what", [
    (normal(39, 2, 0), normal(50, 2, 0), None, "x: expected at least 40 rows"),
    (normal(50, 2, 0), normal(50, 3, 0), None, "expected rows of shape"),
    (normal(50, 2, 0), normal(50, 2, 0), lambda rows: rows[:3], "features: expected finite numbers"),
    (normal(50, 2, 0), normal(50, 2, 0), lambda rows: rows * np.nan, "features: expected finite numbers"),
])  # fmt: skip
def test_bad_input_is_one_line(x, samples, features, what):
    with pytest.raises(InputError, match=what):
        sample_metrics(torch.from_numpy(x), samples, normal(60, 2, 1), features=features)
