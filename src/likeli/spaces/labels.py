"""Classes, on which models are conditional."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.errors import InputError, nearest, require
from likeli.random import Streams, derive
from likeli.spaces.arrays import as_tensor
from likeli.spaces.base import Space


class Labels(Space):
    """One of K classes; as a condition also a mixture, a row of K weights that sum to one, and −1 where it may be missing.

    Arguments:
        classes: K.
        names: the classes' names.
        shares: of each class among the rows that a model was last fitted to; not known if empty.
    """

    measure = "mass"

    def __init__(self, classes: int, names: tuple[str, ...] = (), shares: tuple[float, ...] = ()) -> None:
        super().__init__((), names)
        self.classes, self.shares = classes, tuple(shares)
        self.symbols = classes
        require(classes >= 1, "classes", "at least 1", classes)
        require(len(self.names) in (0, classes), "names", f"{classes} names", names)
        whole = len(self.shares) in (0, classes) and all(s >= 0 for s in shares) and abs(sum(shares) - bool(shares)) < 1e-6
        require(whole, "shares", f"none, or {classes} numbers of at least 0 that sum to 1", shares)
        largest = sorted(zip(self.shares, self.names or range(classes)), key=lambda pair: -pair[0])
        more = f" and {len(largest) - 5} more" if len(largest) > 5 else ""
        self.proportion = ", ".join(f"{name} {share:.2g}" for share, name in largest[:5]) + more

    def describe_shape(self) -> str:
        return "a label for each row, or one for all"

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (self.classes,)

    def check(self, x: Any, *, what: str = "y", missing: bool = False) -> Tensor:
        x = as_tensor(self._codes(x, what), what)
        x = x[None] if x.ndim == 0 else x
        if x.ndim == 2 and x.shape[1] == self.classes and x.is_floating_point():
            simplex = bool((x >= 0).all()) and bool((x.sum(1) - 1).abs().max() < 1e-4)
            require(simplex, what, f"weights of {self.classes} classes that sum to 1", "other rows")
            return x
        require(x.ndim == 1, what, f"one label a row, or {self.classes} weights a row", f"shape {tuple(x.shape)}")
        return self._check_values(x, what, missing)

    def _codes(self, y: Any, what: str) -> Any:
        """Names of classes (one, a list, an array or a pandas column) as their numbers; anything else as it is."""
        names = [y] if isinstance(y, str) else y.tolist() if hasattr(y, "tolist") and not isinstance(y, Tensor) else y
        if not (isinstance(names, (list, tuple)) and any(isinstance(name, str) for name in names)):
            return y
        require(len(self.names) > 0, what, f"labels from 0 to {self.classes - 1}, since the classes have no names", names[0])
        codes = {name: i for i, name in enumerate(self.names)}
        for row, name in enumerate(names):
            if name not in codes:
                listed = ", ".join(self.names)[:100]
                raise InputError(f"{what}: row {row}: expected one of {listed}, got {str(name)[:40]!r}{nearest(name, codes)}")
        return [codes[name] for name in names]

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        gone = ((x == -1) | x.isnan()) & missing
        known = self._whole(x.masked_fill(gone, 0), self.classes - 1, what, f"labels from 0 to {self.classes - 1}")
        return known.long().masked_fill(gone, -1)

    def locate(self, x: Tensor, bad: Tensor) -> str:
        return f"row {int(torch.nonzero(bad)[0])}"

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return x.to(dtype) if x.ndim == 2 else F.one_hot(x.long(), self.classes).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        return u.argmax(-1)


def unlabelled(condition: Space, y: Tensor) -> Tensor:
    """Rows that have no y at all, (N,): −1 or NaN in every cell, or a caption without a word."""
    cells = y.reshape(len(y), -1)
    gone = cells.isnan() | ((cells < 0) & (not y.is_floating_point() or y.ndim == 1))
    return (gone if condition.end is None else gone | (cells == condition.end)).all(1)


def with_shares(condition: Space, y: Tensor) -> Space:
    """A condition that knows how frequent its classes are among labels y (or rows of weights); another one as it is."""
    if not isinstance(condition, Labels):
        return condition
    weight = condition.to_model(y[~unlabelled(condition, y)], torch.float64).mean(0)
    return Labels(condition.classes, condition.names, tuple((weight / weight.sum()).tolist()))


def like_training(condition: Space, n: int, *, seed: int = 0, first: int = 0) -> Tensor | None:
    """n labels drawn as often as among the rows that a model was fitted to, with a word; None where that is not known.

    Label i is a function of (seed, first + i) alone.
    """
    if not condition.shares:
        return None
    warnings.warn(f"y: none given, so labels are drawn as often as in training: {condition.proportion}", stacklevel=3)
    u = Streams(derive(seed, "labels"), range(first, first + n), torch.float64).uniform()
    cdf = torch.tensor(condition.shares, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(cdf, u * cdf[-1], right=True).clamp(max=len(cdf) - 1)
