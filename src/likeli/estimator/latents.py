"""Embedding: the code of a row, and the row of a code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from likeli.contract import Coded, evaluating
from likeli.errors import Unsupported, require
from likeli.estimator.family import FamilyEstimator, counted_rows
from likeli.random import BLOCK


class Embedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FamilyEstimator):
    """z(x) by any family with a code, as scikit-learn's `PCA` is used.

    Arguments:
        family: `vae`, `ae`, `ppca`, `factor_analysis`, `flow`, `hvae` …: see the notes of `likeli list`.
        kind, steps, minutes, random_state, options: as for `Density`; `latent_dim` is most families' number of columns.

    After `fit`: `model_`, `history_`, `n_iter_`, `seed_`.
    """

    def __init__(
        self, family: str = "vae", *, kind: str | None = None, steps: int | None = None, minutes: float | None = None,
        random_state: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(family, kind=kind, steps=steps, minutes=minutes, random_state=random_state, **options)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Embedding:
        """Fit the family to the rows of X.

        Arguments:
            X: (rows, columns), an array, data frame or sparse matrix, or an AnnData.
            y: not looked at.
            sample_weight: (rows,), how often each row counts.

        Raises:
            InputError: a parameter or a value that does not fit.
            Unsupported: the family has no code.
        """
        X, _, weight = counted_rows(sample_weight, X)
        data = self._load(X, weight=weight)
        self.model_ = self._fitted(data, weight)
        if not isinstance(self.model_, Coded):
            raise Unsupported(f"{self.family} has no code; vae, ae, ppca, factor_analysis and flow have one")
        self._code = tuple(self._blocks(self.model_.encode, data.x[:1]).shape[1:])
        self._n_features_out = int(np.prod(self._code))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The code of each row, deterministic, (rows, columns of the code)."""
        codes = [self._blocks(self._coder.encode, x) for x in self._row_parts(X)]
        return torch.cat(codes).double().flatten(1).numpy()

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The row of each code in the user's units, as the family decodes it; a mean may be fractional."""
        check_is_fitted(self)
        z = check_array(X)
        require(z.shape[1] == self._n_features_out, "X", f"codes of {self._n_features_out} columns", f"{z.shape[1]}")
        codes = torch.from_numpy(z).to(self.model_.dtype).reshape(len(z), *self._code)
        return self._blocks(self._coder.decode, codes).double().flatten(1).numpy()

    @property
    def _coder(self) -> Any:
        check_is_fitted(self)
        return self.model_

    def _blocks(self, map_rows: Any, x: Tensor) -> Tensor:
        """A network's rows in full blocks, the last of which repeats its last row, so that none depends on the others."""
        parts = []
        with evaluating(self.model_), torch.no_grad():
            for start in range(0, len(x), BLOCK):
                rows = torch.arange(start, start + BLOCK).clamp(max=len(x) - 1)
                parts.append(map_rows(x[rows].to(self.model_.device)).cpu())
        return torch.cat(parts)[: len(x)]
