"""Outlier detection: rows of low log p, at a stated rate of false alarms or for a stated share of the training rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from likeli.errors import Unsupported, require
from likeli.estimator.family import FamilyEstimator, counted_rows
from likeli.evaluation.rows import Detector, strangeness

ROWS_A_COMPONENT = 10  # at least, in a mixture whose size was not given


class Outlier(OutlierMixin, FamilyEstimator):
    """Rows that are unlike those fitted, as scikit-learn's `IsolationForest` is used.

    A row's score is log p(x), or minus the squared error of reconstruction for a family without one (`ae`, `dae`, `cae`).  Two
    things are called contamination.  With `"auto"` the rows to come matter: a share `calibration` of X is not fitted, and
    the threshold is its ⌊α(n + 1)⌋-th lowest score, so that an ordinary row is flagged with chance α = `rate` at most.  A
    number is scikit-learn's own: so large a share of the rows of X are flagged, all of which are fitted.

    A `gmm` has here 60 wide components if nothing is said (of few rows, one for ten), whose variance in any direction is at
    least half of the columns': between a mixture and a kernel density.  Columns of heavy tails are not stretched, since what is
    far out is looked for (`kind="real"` stretches them).

    Arguments:
        family: its name, see `likeli list`.
        contamination: `"auto"`, or the share of the training rows to flag, above 0 and at most 0.5.
        rate: α, the chance of a false alarm, with `"auto"`.
        calibration: the share of X that sets the threshold, with `"auto"`.
        kind, steps, random_state, options: as for `Density`; `minutes` is among the options.

    After `fit`: `model_`, `offset_` (the threshold of `score_samples`), `rate_`, `false_alarms_` (where the rate lies with 95 %
    chance), `knows_`, `history_`, `n_iter_`, `seed_`.

    Source: Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World, for the threshold.
    """

    _plain: ClassVar[str] = "real:linear"
    _presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"gmm": {"components": 60, "regularization": 0.5}}
    rate_: float | None
    false_alarms_: tuple[float, float] | None

    def __init__(
        self, family: str = "gmm", *, contamination: Any = "auto", rate: float = 0.05, calibration: float = 0.2,
        kind: str | None = None, steps: int | None = None, minutes: float | None = None, random_state: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self.family, self.contamination, self.rate, self.calibration = family, contamination, rate, calibration
        self.kind, self.steps, self.minutes, self.random_state = kind, steps, minutes, random_state
        self._options = options

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Outlier:
        """Fit what is ordinary, and set the threshold.

        Arguments:
            X: (rows, columns), an array, data frame or sparse matrix, or an AnnData; most of them ordinary.
            y: not looked at.
            sample_weight: (rows,), how often each row counts in the fit; the threshold counts rows.

        Raises:
            InputError: a parameter or a value that does not fit.
            Unsupported: the family cannot take such rows, or has neither log p nor a reconstruction.
        """
        held_out = self._check_rates()
        X, _, weight = counted_rows(sample_weight, X)
        data = self._load(X, held_out=held_out, weight=weight)
        if self.family == "gmm" and "components" not in self._options:
            few = max(len(data.rows("train")) // ROWS_A_COMPONENT, 1)
            self._chosen.model["components"] = min(self._chosen.model["components"], few)
        with warnings.catch_warnings():
            if self.family == "gmm" and "regularization" not in self._options:  # the floor is there to hold
                warnings.filterwarnings("ignore", message="gmm: covariance floor")
            self.model_ = self._fitted(data, weight)
        if held_out:
            self.reference_ = np.sort(self._surprise(data.split("test")[0]))
            self._set_rate()
        else:
            self.reference_ = np.sort(self._surprise(data.x))
            self.rate_, self.false_alarms_ = None, None
            self.offset_ = float(np.percentile(-self.reference_, 100 * self.contamination))
        return self

    def _check_rates(self) -> float:
        """The share of the rows to hold out."""
        c = self.contamination
        share = isinstance(c, (int, float, np.floating)) and not isinstance(c, bool) and 0 < c <= 0.5
        require(share or (isinstance(c, str) and c == "auto"), "contamination", "'auto', or a number above 0, at most 0.5", c)
        if share:
            return 0.0
        for name, value, most in (("rate", self.rate, 0.5), ("calibration", self.calibration, 0.9)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            require(number and 0 < value <= most, name, f"a number above 0, at most {most}", value)
        return self.calibration

    def _set_rate(self) -> None:
        least = 1 / (len(self.reference_) + 1)
        self.rate_ = max(self.rate, least)
        if self.rate_ > self.rate:
            rows = f"{len(self.reference_)} rows set the threshold, and {math.ceil(1 / self.rate - 1)} can hold that rate"
            warnings.warn(f"rate: {least:.3g} in place of {self.rate:g}, since {rows}", UserWarning, stacklevel=3)
        self.false_alarms_ = self._detector.false_alarms
        self.offset_ = -self._detector.threshold

    @property
    def _detector(self) -> Detector:
        return Detector(self.model_, torch.from_numpy(self.reference_), self.rate_ or self.rate, self.knows_)

    def _surprise(self, x: Any) -> np.ndarray:
        return strangeness(self.model_, x, None, batch=256, seed=self.seed_, options=self._chosen.scoring).numpy()

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row in nats of the user's units, or minus its error of reconstruction; less is stranger."""
        return -self._surprise(self._rows(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` − `offset_`, below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for ordinary rows, −1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """(1 + #{i : s(x_i) ≥ s(x)}) / (n + 1) over the n rows that set the threshold, s = −`score_samples`.

        Of an ordinary row P(p ≤ α) ≤ α, whatever the model is worth.

        Raises:
            Unsupported: `contamination` is a number, so that no rows were held out.
        """
        check_is_fitted(self)
        if self.rate_ is None:
            raise Unsupported("p-values are of rows that the model was not fitted to; use contamination='auto'")
        n = len(self.reference_)
        return (1 + n - np.searchsorted(self.reference_, self._surprise(self._rows(X)))) / (n + 1)
