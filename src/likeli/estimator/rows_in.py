"""What comes as X, checked in scikit-learn's manner and handed on as the rows of a space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sklearn.utils.validation import _check_feature_names, _check_n_features, validate_data
from torch import Tensor

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
        kind: what the values are, as `load_data` takes it; None for reals, and for a table where a data frame has texts,
            categories or truth values; `auto` for what `load_data` finds by itself.
        missing: whether the family takes missing cells.
        like: no rows of the data frame that was fitted, for its columns and types; None for an array.
        typed: whether its columns were read by their types.
        plain: the kind that numbers have if nothing is said.
    """

    kind: str | None
    missing: bool
    like: Any = None
    typed: bool = False
    plain: str = "real"

    def first(self, estimator: Any, X: Any) -> tuple[Any, str | None]:
        """(what `load_data` takes, the kind): X to fit, whose number and names of columns the estimator remembers.

        Raises:
            ValueError: anything but a matrix of at least two rows, in scikit-learn's words.
        """
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
        if self.typed:
            require(_is_frame(X), "X", "a data frame, as in fit", type(X).__name__)
            self._check_columns(estimator, X, reset=False)
            return load_rows(X, space, missing=self.missing, who=estimator.family)[0]
        x = as_tensor(self._checked(estimator, X, reset=False), "X")
        if not self.missing:
            refuse_missing(x, space, "X", estimator.family)
        return space.check(x, what="X", missing=self.missing)

    def _checked(self, estimator: Any, X: Any, **options: Any) -> Any:
        options |= {"accept_sparse": ["csr", "csc", "coo"], "allow_nd": self.kind is not None}
        return validate_data(estimator, X, ensure_all_finite="allow-nan" if self.missing else True, **options)

    @staticmethod
    def _check_columns(estimator: Any, X: Any, *, reset: bool) -> None:
        _check_feature_names(estimator, X, reset=reset)
        _check_n_features(estimator, X, reset=reset)


def _is_frame(X: Any) -> bool:
    return hasattr(X, "iloc") and hasattr(X, "columns")
