"""Class shares of samples by a judge who errs: Pearson's χ² in the limit, an even law of p, and what is planted found."""

import numpy as np
import pytest
from scipy import stats

from likeli.errors import InputError
from likeli.evaluation.sample_metrics import class_shares

P = np.array([0.5, 0.3, 0.2])
JUDGE = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.05, 0.05, 0.9]])  # errs to one side


def trial(rng, shares, n=2000, rows=3000, tried=600):
    """(predicted, confusion, counts) of n samples of these shares, and of data of P."""
    true = rng.choice(3, n, p=shares)
    predicted = (JUDGE[true].cumsum(1) < rng.random(n)[:, None]).sum(1)
    held = rng.multinomial(tried, P)
    return predicted, np.array([rng.multinomial(m, c) for m, c in zip(held, JUDGE)]), rng.multinomial(rows, P)


def test_a_perfect_judge_who_knows_the_shares_gives_pearsons_statistic():
    """N and m of 1e12 leave the statistic as it is to their share of 2,000, 2e-9."""
    predicted = np.random.default_rng(0).choice(3, 2000, p=P)
    found = class_shares(predicted, np.diag(1e12 * P), 1e12 * P)
    truth = stats.chisquare(np.bincount(predicted, minlength=3), 2000 * P)
    assert found.statistic == pytest.approx(truth.statistic, rel=1e-8)
    assert found.p_value == pytest.approx(truth.pvalue, rel=1e-8)
    assert found.degrees == 2
    assert np.allclose(found.corrected, np.bincount(predicted, minlength=3) / 2000)


def test_p_values_of_equal_shares_are_even_and_a_naive_test_is_fooled():
    """1,000 trials: shares below 0.01, 0.05, 0.5 within 4.5 binomial standard errors; Pearson's alone refuses nearly all."""
    rng = np.random.default_rng(1)
    trials = [trial(rng, P) for _ in range(1000)]
    p = np.array([class_shares(*t).p_value for t in trials])
    for level in (0.01, 0.05, 0.5):
        assert abs((p < level).mean() - level) < 4.5 * np.sqrt(level * (1 - level) / 1000)
    naive = [stats.chisquare(np.bincount(t[0], minlength=3), 2000 * P).pvalue for t in trials[:100]]
    assert np.mean(np.array(naive) < 0.01) > 0.9


def test_other_shares_are_found_and_corrected():
    """A class short by three tenths: found in nearly all of 100 trials, its share recovered to 4.5 standard errors."""
    rng, other = np.random.default_rng(2), np.array([0.6, 0.26, 0.14])
    found = [class_shares(*trial(rng, other)) for _ in range(100)]
    assert np.mean([f.p_value < 0.01 for f in found]) > 0.9
    corrected = np.stack([f.corrected for f in found])
    assert (np.abs(corrected.mean(0) - other) < 4.5 * corrected.std(0) / 10).all()


def test_bad_counts_are_refused_and_an_impossible_class_is_one():
    with pytest.raises(InputError, match="confusion"):
        class_shares([0, 1], np.eye(3), [1, 1])
    with pytest.raises(InputError, match="predicted: expected classes from 0 to 1, got 2"):
        class_shares([0, 2], np.eye(2), [1, 1])
    with pytest.raises(InputError, match="a class without any"):
        class_shares([0, 1], np.diag([5, 0]), [1, 1])
    assert class_shares([0, 1, 2], np.diag([5, 5, 0]), [9, 9, 0]).p_value == 0
