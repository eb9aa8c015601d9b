"""What comes as X, checked in scikit-learn's manner and handed on as the rows of a space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import _check_feature_names, _check_n_features, check_array, validate_data
from torch import Tensor

from likeli.data.annotated import CELLS_AT_ONCE, Annotated, find_annotated, is_anndata
from likeli.data.coded import load_rows
from likeli.data.dataset import refuse_missing
from likeli.errors import require
from likeli.spaces import Space
from likeli.spaces.arrays import as_tensor

TYPED = ("table", "auto")  # kinds that read a data frame column by column


@dataclass
class Reader:
    """How X was read when the estimator was fitted, and is read from then on.

    Arguments:
        kind: what the values are, as `load_data` takes it; None for reals, for a table where a data frame has texts, categories
            or truth values, and for counts of an AnnData, of which `counts:LAYER` takes a layer; `auto` for what `load_data`
            finds by itself.
        missing: whether the family takes missing cells.
        like: no rows of the data frame that was fitted, for its columns and types; None for an array.
        typed: whether its columns were read by their types.
        plain: the kind that numbers have if nothing is said.
        layer: of an AnnData, from which it is read.
    """

    kind: str | None
    missing: bool
    like: Any = None
    typed: bool = False
    plain: str = "real"
    layer: str | None = None

    def first(self, estimator: Any, X: Any) -> tuple[Any, str | None]:
        """(what `load_data` takes, the kind): X to fit, whose number and names of columns the estimator remembers.

        Raises:
            ValueError: anything but a matrix of at least two rows, in scikit-learn's words.
        """
        if self.kind is not None and self.kind.startswith("counts:"):
            self.kind, _, self.layer = self.kind.partition(":")
        X = self._matrix(estimator, X, reset=True)
        self.like = X.iloc[:0].reset_index(drop=True) if _is_frame(X) else None
        texts = _is_frame(X) and any(getattr(d, "kind", "O") not in "biuf" for d in X.dtypes)
        self.typed = _is_frame(X) and ((self.kind is None and texts) or self.kind in TYPED)
        kind = None if self.kind == "auto" else self.kind
        if self.typed:
            require(len(X) >= 2, "X", "at least 2 rows", f"{len(X)} row{'s' * (len(X) != 1)}")
            self._check_columns(estimator, X, reset=True)
            return X, kind or ("table" if self.kind is None else None)
        x = self._checked(estimator, X, reset=True, ensure_min_samples=2)
        named = getattr(estimator, "feature_names_in_", None)
        if named is not None and x.ndim == 2 and not hasattr(x, "toarray"):
            import pandas

            x = pandas.DataFrame(x, columns=named)
        return x, kind or (self.plain if self.kind is None else None)

    def again(self, estimator: Any, X: Any, space: Space) -> Tensor:
        """X as rows of the space, its columns those of the fit, in their order.

        Raises:
            ValueError: other columns or values that do not fit.
        """
        return torch.cat(list(self.parts(estimator, X, space)))

    def parts(self, estimator: Any, X: Any, space: Space) -> Iterator[Tensor]:
        """As `again`, some rows at a time where X is sparse."""
        X = self._matrix(estimator, X, reset=False)
        if self.typed:
            require(_is_frame(X), "X", "a data frame, as in fit", type(X).__name__)
            self._check_columns(estimator, X, reset=False)
            yield load_rows(X, space, missing=self.missing, who=estimator.family)[0]
            return
        x = self._checked(estimator, X, reset=False)
        step = max(CELLS_AT_ONCE // x.shape[1], 1) if hasattr(x, "tocsr") else len(x)
        x = x.tocsr() if hasattr(x, "tocsr") else x
        for first in range(0, x.shape[0], step):
            part = as_tensor(x[first : first + step], "X")
            if not self.missing:
                refuse_missing(part, space, "X", estimator.family)
            yield space.check(part, what="X", missing=self.missing)

    def _matrix(self, estimator: Any, X: Any, *, reset: bool) -> Any:
        """The matrix of an AnnData, its genes being the columns; anything else as it is."""
        if not is_anndata(X):
            require(self.layer is None, "X", f"an AnnData with the layer {self.layer}", type(X).__name__)
            return X
        import pandas

        found = find_annotated(X, self.layer)
        assert found is not None
        self.kind = self.kind or "counts"
        self._check_columns(estimator, pandas.DataFrame(np.empty((0, len(found.columns))), columns=found.columns), reset=reset)
        return found.counts() if self.kind == "counts" else found

    def _checked(self, estimator: Any, X: Any, **options: Any) -> Any:
        options |= {"accept_sparse": ["csr", "csc", "coo"], "ensure_all_finite": "allow-nan" if self.missing else True}
        if isinstance(X, Annotated):  # whose columns have been compared
            return check_array(X.x, **{k: v for k, v in options.items() if k != "reset"})
        return validate_data(estimator, X, allow_nd=self.kind is not None, **options)

    @staticmethod
    def _check_columns(estimator: Any, X: Any, *, reset: bool) -> None:
        _check_feature_names(estimator, X, reset=reset)
        _check_n_features(estimator, X, reset=reset)


def _is_frame(X: Any) -> bool:
    return hasattr(X, "iloc") and hasattr(X, "columns")
