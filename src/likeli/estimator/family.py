"""What all estimators share: parameters, rows in, a fitted model, and the object's own pickle without code in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor

from likeli.checkpoint.packed import Packed
from likeli.contract import GenerativeModel, Knows
from likeli.data.dataset import Data
from likeli.data.load import load_data
from likeli.errors import InputError, Unsupported, require
from likeli.estimator.parameters import check_names, estimable, family_of, options_of, sorted_options
from likeli.estimator.rows_in import Reader
from likeli.evaluation.likelihood import score
from likeli.random import derive, seeded
from likeli.spaces.frames import filled_frame
from likeli.training.fit import fit
from likeli.training.strategies import STRATEGIES

COPIES, MOST_COPIES = 10, 1_000_000  # of a row in the mean, and of all rows, where their weights are found a space


class FamilyEstimator(BaseEstimator, ABC):
    """An estimator whose constructor names a family and takes the family's options as plain keywords.

    The constructor keeps what it is given, as it is; `fit` checks it.  `get_params(deep=False)` are the parameters that were
    named or given, `get_params()` all that the family has.
    """

    model_: GenerativeModel
    _plain: ClassVar[str] = "real"  # the kind of numbers if nothing is said
    _holed: ClassVar[bool] = False  # whether rows may have gaps that the family's density does not take
    _presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # options of a family in place of its own defaults

    def __init__(
        self, family: str = "gmm", *, kind: str | None = None, steps: int | None = None, minutes: float | None = None,
        random_state: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        self.family, self.kind, self.steps, self.minutes, self.random_state = family, kind, steps, minutes, random_state
        self._options = options

    @abstractmethod
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> FamilyEstimator:
        """Fit to the rows of X, each of which counts as often as its weight says."""

    # --- parameters -----------------------------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; `deep` adds the family's options that were not given, at their defaults."""
        named = {name: getattr(self, name) for name in self._get_param_names()}
        known = isinstance(self.family, str) and self.family in estimable()
        rest = options_of(family_of(self.family), set(named)) if deep and known else {}
        preset = self._presets.get(self.family, {}) if rest else {}
        return rest | preset | named | self._options

    def set_params(self, **params: Any) -> FamilyEstimator:
        """Set parameters by name, all of them or, where one is unknown, none.

        Raises:
            InputError: the family has no such option.
        """
        named = set(self._get_param_names())
        options = self._options | {k: v for k, v in params.items() if k not in named}
        check_names(params.get("family", self.family), options, named)
        for name in named & params.keys():
            setattr(self, name, params[name])
        self._options = options
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        known = isinstance(self.family, str) and self.family in estimable()
        tags.input_tags.allow_nan = known and family_of(self.family).takes_missing
        return tags

    # --- fitting --------------------------------------------------------------------------------------------------------

    def _load(self, X: Any, labels: Any = None, held_out: float = 0.0, weight: np.ndarray | None = None) -> Data:
        """X as `Data`, checked, its space found on the rows that are fitted, as often as they count.

        Arguments:
            labels: (rows,), classes from 0.
            held_out: the share of the rows that are in no way fitted, and become the test rows.
            weight: (rows,), above 0.
        """
        cls = family_of(self.family)
        given = {**self._presets.get(self.family, {}), **self._options}
        self._chosen = sorted_options(self.family, given, set(self._get_param_names()))
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._reader = Reader(self.kind, self._holed or cls.takes_missing, plain=self._plain)
        source, kind = self._reader.first(self, X)
        valid = self._chosen.validation if STRATEGIES[cls.strategy].stochastic else 0.0
        valid *= 1 - held_out
        parts = (1 - valid - held_out, valid, held_out)
        data = load_data(source, kind=kind, labels=labels, seed=self.seed_, fractions=parts)
        if weight is None:
            return data
        rows = data.train.repeat_interleave(copies_of(torch.from_numpy(weight)[data.train]))
        space = load_data(_safe_indexing(source, rows.numpy()), kind=kind, seed=self.seed_, fractions=(1, 0, 0)).space
        return replace(data, space=space)

    def _fitted(self, data: Data, sample_weight: Any = None, **given: Any) -> GenerativeModel:
        """A model of the family, fitted to the training rows of `data`."""
        try:
            with seeded(self.seed_, "constructed"):
                model = family_of(self.family)(data.space, **self._chosen.model, **given)
        except InputError as error:
            raise InputError(f"{error}; X has {self.n_features_in_} feature(s)") from error
        self._reader.missing |= model.takes_missing  # of some families, in tables only
        history = fit(
            model, data, steps=self.steps, minutes=self.minutes, seed=self.seed_, progress=False,
            **({} if sample_weight is None else {"sample_weight": sample_weight}), **self._chosen.training,
        )  # fmt: skip
        self.history_ = history
        self.n_iter_ = max(history.steps, 1)
        self.knows_ = model.knows_here.value
        return model

    # --- rows -----------------------------------------------------------------------------------------------------------

    def _rows(self, X: Any) -> Tensor:
        """X as rows of the fitted model's space."""
        check_is_fitted(self)
        return self._reader.again(self, X, self._space)

    def _row_parts(self, X: Any) -> Iterator[Tensor]:
        """As `_rows`, some at a time where X is sparse."""
        check_is_fitted(self)
        return self._reader.parts(self, X, self._space)

    @property
    def _space(self) -> Any:
        return self.model_.space

    def _log_p(self, X: Any) -> np.ndarray:
        """What the model knows of log p of each row, in nats of the user's units; a function of the row alone."""
        rows = self._row_parts(X)
        if self.model_.knows is Knows.NOTHING:
            raise Unsupported(f"{self.family} has no log p(x); Outlier takes its error of reconstruction, Embedding its code")
        parts = [part for x in rows for part in score(self.model_, x, seed=self.seed_, **self._chosen.scoring)]
        return torch.cat([part.value.double() for part in parts]).cpu().numpy()

    def _drawn(self, n: Any, y: Any, random_state: Any) -> Any:
        """n draws in the form of the rows that the model was fitted to."""
        require(isinstance(n, (int, np.integer)) and n >= 1, "n_samples", "a whole number of at least 1", n)
        state = check_random_state(self.random_state if random_state is None else random_state)
        x = self.model_.sample(int(n), y, seed=derive(int(state.randint(2**31 - 1)), "drawn")).cpu()
        return self._as_given(x)

    def _as_given(self, x: Tensor) -> Any:
        """Rows as an array, or as a data frame with the columns, types and categories of the one that was fitted."""
        like = self._reader.like
        if like is None:
            return x.double().numpy().reshape(len(x), -1) if self.kind is None else x.numpy()
        if not self._reader.typed:
            out = self._space.frame(x).set_axis(like.columns, axis=1)
            return out.astype({c: d for c, d in like.dtypes.items() if getattr(d, "kind", "O") == "f"})
        n = len(x)
        cells = {c: like[c].reindex(range(n), **_filler(d)) for c, d in like.dtypes.items()}
        out = filled_frame(type(like)(cells), self._space, x, torch.ones_like(x, dtype=torch.bool))
        kinds = {c: getattr(d, "kind", "O") for c, d in like.dtypes.items()}
        return out.astype({c: like.dtypes[c] for c, k in kinds.items() if k == "b" or (k in "iu" and not (out[c] % 1).any())})

    # --- the user's own pickle ------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: _packed(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _unpacked(value) for name, value in state.items()})


def _filler(dtype: Any) -> dict[str, int]:
    kind = getattr(dtype, "kind", "O")  # of types that hold no gap
    return {"fill_value": False} if kind == "b" else {"fill_value": 0} if kind in "iu" else {}


def _packed(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(v, GenerativeModel) for v in value):
        return [Packed.of(v) for v in value]
    return Packed.of(value) if isinstance(value, GenerativeModel) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(v, Packed) for v in value):
        return [v.model() for v in value]
    return value.model() if isinstance(value, Packed) else value


def counted_rows(sample_weight: Any, X: Any, y: Any = None) -> tuple[Any, Any, np.ndarray | None]:
    """(X, y, weight) without the rows of weight 0; weight is None where none was given.

    Raises:
        ValueError: weights that are no numbers of at least 0, one for each row, or all 0.
    """
    if sample_weight is None:
        return X, y, None
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    rows = np.flatnonzero(weight)
    require(len(rows) > 0, "sample_weight", "a number above 0", "none")
    if len(rows) == len(weight):
        return X, y, weight
    return _safe_indexing(X, rows), None if y is None else _safe_indexing(y, rows), weight[rows]


def copies_of(weight: Tensor) -> Tensor:
    """Whole numbers of copies, (n,), that stand for weights: these themselves where they are whole and few, else in proportion.

    They decide in which units a column is seen and which of its values are frequent, not what is fitted.
    """
    if bool((weight == weight.round()).all()) and weight.sum() <= MOST_COPIES:
        return weight.long()
    return (weight * (COPIES * len(weight) / weight.sum())).round().clamp(min=1).long()
