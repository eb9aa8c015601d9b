"""Classification by Bayes' rule: p(y|x) ∝ p(x|y) p(y)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from likeli.config import parameters_of
from likeli.contract import Knows
from likeli.data.dataset import Data
from likeli.errors import Unsupported, require
from likeli.estimator.family import FamilyEstimator, counted_rows
from likeli.estimator.parameters import family_of
from likeli.evaluation.rows import classify


class Classifier(ClassifierMixin, FamilyEstimator):
    """p(y|x) from p(x|y), as scikit-learn's `GaussianNB` and `QuadraticDiscriminantAnalysis` are used.

    Arguments:
        family: with log p(x), a bound or an estimate of it.
        per_class: fit one model to the rows of each class, in place of one that is conditional on the class; if not given, for
            families that take no condition.
        priors: (classes,) p(y), summing to one, in the order of `classes_`; if not given, the classes' shares of the rows.
        kind, steps, minutes, random_state, options: as for `Density`.

    After `fit`: `classes_`, `priors_`, `models_` (one, or one a class), `knows_`, `n_iter_`, `seed_`.
    """

    def __init__(
        self, family: str = "gmm", *, per_class: bool | None = None, priors: Any = None, kind: str | None = None,
        steps: int | None = None, minutes: float | None = None, random_state: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        self.family, self.per_class, self.priors, self.kind = family, per_class, priors, kind
        self.steps, self.minutes, self.random_state, self._options = steps, minutes, random_state, options

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Classifier:
        """Fit p(x|y) and p(y).

        Arguments:
            X: (rows, columns), an array, data frame or sparse matrix, or an AnnData.
            y: (rows,), the class of each row.
            sample_weight: (rows,), how often each row counts, in p(y) too.

        Raises:
            InputError: a parameter or a value that does not fit, fewer than two classes, a class of one row.
            Unsupported: the family has no normalised log p(x), or takes no condition where one is asked.
        """
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        check_classification_targets(y)
        X, y, weight = counted_rows(sample_weight, X, y)
        self.classes_, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        able = "condition" in parameters_of(family_of(self.family))
        alone = not able if self.per_class is None else self.per_class
        if not alone and not able:
            raise Unsupported(f"per_class=False: {self.family} is not conditional; one model a class is")
        data = self._load(X, labels=codes, weight=weight)
        require(len(self.classes_) > 1, "y", "at least two classes", f"one class, {self.classes_[0]!r}")
        together = "per_class=False, or fewer cells, for counts that stay sparse"
        require(not alone or data.stream is None, "per_class", together, "one model a class")
        self.priors_ = self._shares(codes, weight)
        self.models_ = [self._of_class(data, codes, k, weight) for k in range(len(self.classes_))] if alone else [
            self._fitted(data, weight, condition=data.condition)
        ]  # fmt: skip
        if self.models_[0].knows_here in (Knows.NOTHING, Knows.UNNORMALIZED):
            raise Unsupported(f"{self.family} has no normalised log p(x), so classes cannot be weighed against each other")
        return self

    def _shares(self, codes: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        if self.priors is None:
            count = np.bincount(codes, weight, minlength=len(self.classes_))
            return count / count.sum()
        p = np.asarray(self.priors, dtype=np.float64)
        fits = p.shape == self.classes_.shape and bool((p >= 0).all()) and abs(p.sum() - 1) < 1e-6
        require(fits, "priors", f"{len(self.classes_)} probabilities that sum to 1", self.priors)
        return p

    def _of_class(self, data: Data, codes: np.ndarray, k: int, weight: np.ndarray | None) -> Any:
        """A model of the rows of one class, on the space of all rows, whose units make the classes' log p comparable."""
        mine = torch.from_numpy(codes == k)
        require(int(mine.sum()) > 1, "y", "at least two rows of each class", f"1 row of class {self.classes_[k]!r}")
        parts = {part: data.rows(part)[mine[data.rows(part)]] for part in ("train", "valid")}
        if len(parts["train"]) < 2:
            parts = {"train": torch.cat(list(parts.values())), "valid": parts["valid"][:0]}
        return self._fitted(replace(data, y=None, condition=None, test=data.test[:0], **parts), weight)

    @property
    def _space(self) -> Any:
        return self.models_[0].space

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log p(y|x), (rows, classes); approximate where `knows_` is not exact."""
        check_is_fitted(self)
        x = self._rows(X)
        known = self.models_ if len(self.models_) > 1 else self.models_[0]
        found = classify(known, x, prior=torch.from_numpy(self.priors_), seed=self.seed_, **self._chosen.scoring)
        return found.log_posterior.cpu().numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(y|x) = p(x|y) p(y) / Σ_k p(x|k) p(k), (rows, classes)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row."""
        best = self.predict_log_proba(X).argmax(1)
        return self.classes_[best]
