"""Imputation: missing cells filled from p(x_m | x_o)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from torch import Tensor

from likeli.errors import Unsupported, require
from likeli.estimator.family import FamilyEstimator, counted_rows
from likeli.evaluation.imputation import fills, impute
from likeli.models.linear_gaussian import LinearGaussian
from likeli.random import Keyed
from likeli.spaces.frames import filled_frame

EXACT_ROWS = 256  # whose conditional covariances are held at a time


class Imputer(OneToOneFeatureMixin, TransformerMixin, FamilyEstimator):
    """Missing cells filled given the others, as scikit-learn's `KNNImputer` is used; the rows to fit may have them too.

    Arguments:
        family: `gmm`, `ppca`, `factor_analysis`, `vae`, `independent`, `categorical_mixture`, `autoregressive` or
            `boosted_trees`; or a Gaussian diffusion such as `flow_matching`, whose rows to fit must be
            whole where all columns are reals.
        sample_posterior: fill with one draw of x_m given x_o, in place of its mean (a category's mean is the most frequent).
        draws: over which the mean goes where it has no closed form.
        kind, steps, minutes, random_state, options: as for `Density`.

    A data frame comes back as one where its columns have types other than numbers.  After `fit`: `model_`, `history_`, `seed_`.
    """

    _holed: ClassVar[bool] = True

    def __init__(
        self, family: str = "gmm", *, sample_posterior: bool = False, draws: int = 99, kind: str | None = None,
        steps: int | None = None, minutes: float | None = None, random_state: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        self.family, self.sample_posterior, self.draws, self.kind = family, sample_posterior, draws, kind
        self.steps, self.minutes, self.random_state, self._options = steps, minutes, random_state, options

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Imputer:
        """Fit p(x) to the observed cells of X.

        Arguments:
            X: (rows, columns), NaN where a cell is missing.
            y: not looked at.
            sample_weight: (rows,), how often each row counts.

        Raises:
            InputError: a parameter or a value that does not fit.
            Unsupported: the family cannot condition on some cells only.
        """
        require(isinstance(self.draws, int) and self.draws >= 1, "draws", "a whole number of at least 1", self.draws)
        X, _, weight = counted_rows(sample_weight, X)
        data = self._load(X, weight=weight)
        fitted = self._fitted(data, weight)
        if not fills(fitted):
            raise Unsupported(f"{self.family} cannot condition on some cells only; gmm, ppca, factor_analysis and vae can")
        self.model_ = fitted
        return self

    def transform(self, X: Any) -> Any:
        """X with its missing cells filled; a mean is a function of the row alone, a draw of its place among the rows too."""
        x = self._rows(X)
        holed = x.isnan().any(1).nonzero()[:, 0] if x.is_floating_point() else torch.empty(0, dtype=torch.long)
        out = x.double().clone()
        if len(holed):
            out[holed] = self._filled(x[holed])
        return filled_frame(X, self._space, out, x.isnan()) if self._reader.typed else out.numpy()

    def _filled(self, x: Tensor) -> Tensor:
        """Rows with their missing cells filled, (B, columns) float64."""
        normal = isinstance(self.model_, LinearGaussian)
        if self.sample_posterior:
            return impute(self.model_, x, 1, seed=self.seed_).completed(0).double().cpu()
        if normal and self._space.unit is not None:  # E[x_m | x_o] in closed form
            means = [self.model_.conditional(rows).mean.double().cpu() for rows in x.split(EXACT_ROWS)]
            return torch.where(x.isnan(), torch.cat(means), x.double())
        if not normal:
            return impute(self.model_, x, self.draws, seed=self.seed_, by_row=True).mean.double().cpu()
        keys = (Keyed(self.seed_, x, None, "impute").key[:, 0] >> 1).abs().tolist()
        filled = [impute(self.model_, row[None], self.draws, seed=key).mean for row, key in zip(x, keys)]
        return torch.cat(filled).double().cpu()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
