"""Classes, on which models are conditional."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.errors import InputError, nearest, require
from likeli.spaces.arrays import as_tensor
from likeli.spaces.base import Space


class Labels(Space):
    """One of K classes; as a condition also a mixture, a row of K weights that sum to one.

    Arguments:
        classes: K.
        names: the classes' names.
    """

    measure = "mass"

    def __init__(self, classes: int, names: tuple[str, ...] = ()) -> None:
        super().__init__((), names)
        self.classes = self.symbols = classes
        require(classes >= 1, "classes", "at least 1", classes)
        require(len(self.names) in (0, classes), "names", f"{classes} names", names)

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
        return self._whole(x, self.classes - 1, what, f"labels from 0 to {self.classes - 1}").long()

    def locate(self, x: Tensor, bad: Tensor) -> str:
        return f"row {int(torch.nonzero(bad)[0])}"

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return x.to(dtype) if x.ndim == 2 else F.one_hot(x.long(), self.classes).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        return u.argmax(-1)
