"""Density estimation: log p(x) of rows and rows from p(x)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted

from likeli.contract import Knows
from likeli.errors import Unsupported
from likeli.estimator.family import FamilyEstimator, counted_rows
from likeli.models.categorical_mixture import CategoricalMixture
from likeli.models.linear_gaussian import LinearGaussian


class Density(DensityMixin, FamilyEstimator):
    """p(x) by any family, as scikit-learn's `GaussianMixture` and `KernelDensity` are used.

    Arguments:
        family: its name, see `likeli list`.
        kind: what the values are: None for reals, for a table where a data frame has texts or categories, and for counts of an
            AnnData (`counts:LAYER` takes a layer); else as in `likeli.load_data`: `real`, `table`, `counts`, `binary`,
            `pixels`, `tokens`; `auto` finds it.
        steps, minutes: the budget, at most one of the two; by default as `likeli.fit` has it.
        random_state: as in scikit-learn.
        options: the family's (`components`, `latent_dim` …), settings of training (`lr`, `batch` …), `validation` (the share of
            rows that picks the best weights of a family trained in batches), `model__NAME`, `score__NAME`.

    After `fit`: `model_`, `knows_` (what `score_samples` is of log p), `history_`, `n_iter_`, `seed_`, `n_features_in_`.
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Density:
        """Fit p(x) to the rows of X.

        Arguments:
            X: (rows, columns), an array, data frame or sparse matrix, or an AnnData.
            y: not looked at.
            sample_weight: (rows,), how often each row counts: a whole number stands for so many equal rows.

        Raises:
            InputError: a parameter or a value that does not fit, or weights for a family that takes none.
            Unsupported: the family cannot take such rows.
        """
        X, _, weight = counted_rows(sample_weight, X)
        data = self._load(X, weight=weight)
        self.model_ = self._fitted(data, weight)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row in nats of the user's units, or what `knows_` says: a bound, an estimate, or unnormalised.

        Raises:
            Unsupported: the family has none.
        """
        return self._log_p(X)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, nats a row: the larger, the better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Rows from p(x): an array, or a data frame where one was fitted, with its columns and types.

        Arguments:
            n_samples: how many.
            random_state: the estimator's own if not given, so that a whole number draws the same rows each time.
        """
        check_is_fitted(self)
        return self._drawn(n_samples, None, random_state)

    def bic(self, X: Any) -> float:
        """−2 log L + p log n over the rows of X; less is better.

        Raises:
            Unsupported: the family has no exact log p or no number p of free parameters.
        """
        total, n, p = self._counted(X)
        return p * math.log(n) - 2 * total

    def aic(self, X: Any) -> float:
        """−2 log L + 2p over the rows of X; less is better.

        Raises:
            Unsupported: as for `bic`.
        """
        total, _, p = self._counted(X)
        return 2 * p - 2 * total

    def _counted(self, X: Any) -> tuple[float, int, int]:
        check_is_fitted(self)
        fitted = self.model_
        if not isinstance(fitted, (LinearGaussian, CategoricalMixture)) or fitted.knows_here is not Knows.EXACT:
            able = "gmm, ppca, factor_analysis on reals and categorical_mixture have them"
            raise Unsupported(f"{self.family} has no exact log p and number of free parameters for a criterion; {able}")
        log_p = self.score_samples(X)
        return float(log_p.sum()), len(log_p), fitted.free_parameters
