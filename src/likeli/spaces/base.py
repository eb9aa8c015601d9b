"""What one example is, and how the user's values become model tensors and back.

A space travels with its model (plain JSON in config.json), so that every number is in the user's own units.  Discrete spaces
carry a mass; a continuous density sees them dequantised, and E_n log p(x + n) ≤ log P(x) makes that a lower bound.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.config import Configurable
from likeli.errors import InputError, Unsupported, require
from likeli.random import Noise
from likeli.spaces.arrays import as_tensor

Number = float | tuple[float, ...]
MAX_COUNT = 2**53  # the largest whole number below which float64 has them all


class Space(Configurable, ABC):
    """The set one example is drawn from; `shape` is the shape of one example in the user's units."""

    shape: tuple[int, ...]
    names: tuple[str, ...] = ()

    @property
    @abstractmethod
    def measure(self) -> Literal["density", "mass", "mixed"]:
        """Whether p(x) is a density, a probability mass, or a density of some cells and a mass of others."""

    @property
    def dimensions(self) -> int:
        """Cells of one example."""
        return math.prod(self.shape)

    @property
    def model_shape(self) -> tuple[int, ...]:
        """Shape of one example as `to_model` gives it."""
        return self.shape

    def check(self, x: Any, *, what: str = "x", missing: bool = False) -> Tensor:
        """x as a tensor (B, *shape) of values inside the space; anything array-like is taken.

        Arguments:
            x: the user's values.
            what: the argument's name, for messages.
            missing: whether NaN stands for a missing cell or is an error.

        Raises:
            InputError: wrong shape, type or value; row and column are named.
        """
        x = as_tensor(x, what)
        if x.ndim == len(self.shape) and tuple(x.shape) == self.shape and x.ndim:
            raise InputError(f"{what}: expected a batch of {self.describe_shape()}, got one example {tuple(x.shape)}")
        got = f"shape {tuple(x.shape)}"
        require(x.ndim == 1 + len(self.shape) and tuple(x.shape[1:]) == self.shape, what, self.describe_shape(), got)
        require(len(x) > 0, what, "at least one row", "0 rows")
        return self._check_values(x, what, missing)

    def describe_shape(self) -> str:
        """The expected shape in words."""
        return f"shape ({', '.join(['rows', *map(str, self.shape)])})"

    @abstractmethod
    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor: ...

    @abstractmethod
    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) in the user's units → (B, *model_shape), about centred and of unit scale; deterministic."""

    @property
    def obstacle(self) -> str:
        """Why `continuous` is unsupported; empty when it is not."""
        return f"{self.kind()} data have no continuous form"

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """What a density sees: u (B, *shape) and log|∂u/∂x| (B,); discrete cells get uniform noise from `noise`.

        A missing cell (NaN) stays NaN and adds nothing to the log-Jacobian.

        Raises:
            Unsupported: the space has no continuous form.
        """
        raise Unsupported(f"{self.obstacle}; use a family with a discrete observation, such as vae")

    @abstractmethod
    def from_model(self, u: Tensor) -> Tensor:
        """The inverse of `continuous` (noise dropped): (B, *shape) → user's units, valid values."""

    def locate(self, x: Tensor, bad: Tensor) -> str:
        """`row 17, column 2` of the first true cell of `bad` (B, *shape)."""
        row, *cell = torch.nonzero(bad)[0].tolist()
        if not cell:
            return f"row {row}"
        column = self.names[cell[0]] if self.names and len(cell) == 1 else ", ".join(map(str, cell))
        return f"row {row}, column {column}"

    def _refuse(self, x: Tensor, bad: Tensor, what: str, expected: str) -> None:
        if bad.any():
            value = x[bad].flatten()[0].item()
            raise InputError(f"{what}: expected {expected}, got {value:g} at {self.locate(x, bad)}")

    def _refuse_outside(self, x: Tensor, low: int, high: int, what: str, expected: str) -> None:
        if x.numel() and (int(x.amin()) < low or int(x.amax()) > high):  # in Python: 256 does not fit a uint8 tensor
            wide = x.long()
            self._refuse(wide, (wide < low) | (wide > high), what, expected)


class Real(Space):
    """Real vectors or images: u = (x − mean) / scale, so log p(x) = log p(u) − Σ log scale.

    Arguments:
        shape: one example.
        mean, scale: standardisation, one number or one per cell (row-major).
        names: column names, for messages and files.
    """

    def __init__(
        self, shape: tuple[int, ...], mean: Number = 0.0, scale: Number = 1.0, names: tuple[str, ...] = ()
    ) -> None:
        self.shape, self.mean, self.scale, self.names = _shape(shape), mean, scale, tuple(names)
        self._mean, self._scale = _cells(mean, self.shape, "mean"), _cells(scale, self.shape, "scale")
        require(bool((self._scale > 0).all()), "scale", "positive numbers", scale)
        require(len(self.names) in (0, self.shape[0] if self.shape else 1), "names", "one per column", names)

        u_max = float(torch.finfo(torch.float32).max)
        self._low, self._high = self._mean - self._scale * u_max, self._mean + self._scale * u_max
        coarse = float((self._mean.abs() / self._scale).max()) > 1e3  # float32 in user units would lose the data's digits
        self._coarse = coarse or not 1e-30 < float(self._scale.min()) <= float(self._scale.max()) < 1e30

    @property
    def measure(self) -> Literal["density"]:
        return "density"

    obstacle = ""

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        x = x if x.is_floating_point() else x.double()
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        self._refuse(x, x.isinf(), what, "finite numbers")
        if not missing:
            self._refuse(x, x.isnan(), what, "finite numbers (this family cannot take missing cells)")
        far = (x > self._high.to(x.device)) | (x < self._low.to(x.device))
        self._refuse(x, far, what, "numbers that fit float32 once standardised")
        return x

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return ((x.double() - self._mean.to(x.device)) / self._scale.to(x.device)).to(dtype)

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        u = self.to_model(x, dtype)
        return u, _log_det(self._scale.to(x.device).log(), u).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        x = u.double() * self._scale.to(u.device) + self._mean.to(u.device)
        return x if self._coarse else x.to(u.dtype)

    def gradient(self, g: Tensor) -> Tensor:
        """∂/∂x = (∂u/∂x) ∂/∂u: a gradient in model units, (B, *shape), per user unit."""
        return (g / self._scale.to(g.device)).to(g.dtype)


class Pixels(Space):
    """Images of integers 0 … levels−1: the bin of x is [x, x+1)·2/levels − 1, its centre is what a network sees.

    Arguments:
        shape: (H, W) or (C, H, W), or any shape.
        levels: number of grey levels.
    """

    def __init__(self, shape: tuple[int, ...], levels: int = 256) -> None:
        self.shape, self.levels = _shape(shape), levels
        require(levels >= 2, "levels", "at least 2", levels)

    @property
    def measure(self) -> Literal["mass"]:
        return "mass"

    obstacle = ""

    @property
    def bin_width(self) -> float:
        """Width of one level's bin in model units."""
        return 2 / self.levels

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        expected = f"whole numbers from 0 to {self.levels - 1}"
        x = _whole(self, x, what, expected)
        self._refuse_outside(x, 0, self.levels - 1, what, expected)
        return x.to(torch.uint8) if self.levels <= 256 else x

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return x.to(dtype) * self.bin_width + (self.bin_width / 2 - 1)

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        edge = 2 * torch.finfo(dtype).eps * self.levels  # rounding must not carry a draw into the next bin
        n = noise.uniform(*self.shape).to(dtype).clamp(min(edge, 0.5), max(1 - edge, 0.5))
        u = (x.to(dtype) + n).mul_(self.bin_width).sub_(1)
        return u, u.new_full((len(x),), self.dimensions * math.log(self.bin_width))

    def from_model(self, u: Tensor) -> Tensor:
        return ((u + 1) / self.bin_width).floor().clamp(0, self.levels - 1).long()


class Binary(Pixels):
    """Cells of 0 or 1."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape, levels=2)


class Labels(Space):
    """One of K classes; as a condition also a mixture, a row of K weights that sum to one.

    Arguments:
        classes: K.
        names: the classes' names.
    """

    shape = ()

    def __init__(self, classes: int, names: tuple[str, ...] = ()) -> None:
        self.classes, self.names = classes, tuple(names)
        require(classes >= 1, "classes", "at least 1", classes)
        require(len(self.names) in (0, classes), "names", f"{classes} names", names)

    @property
    def measure(self) -> Literal["mass"]:
        return "mass"

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (self.classes,)

    def check(self, x: Any, *, what: str = "y", missing: bool = False) -> Tensor:
        x = as_tensor(x, what)
        x = x[None] if x.ndim == 0 else x
        if x.ndim == 2 and x.shape[1] == self.classes and x.is_floating_point():
            simplex = bool((x >= 0).all()) and bool((x.sum(1) - 1).abs().max() < 1e-4)
            require(simplex, what, f"weights of {self.classes} classes that sum to 1", "other rows")
            return x
        require(x.ndim == 1, what, f"one label a row, or {self.classes} weights a row", f"shape {tuple(x.shape)}")
        return self._check_values(x, what, missing)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        expected = f"labels from 0 to {self.classes - 1}"
        x = _whole(self, x, what, expected).long()
        self._refuse_outside(x, 0, self.classes - 1, what, expected)
        return x

    def locate(self, x: Tensor, bad: Tensor) -> str:
        return f"row {int(torch.nonzero(bad)[0])}"

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return x.to(dtype) if x.ndim == 2 else F.one_hot(x.long(), self.classes).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        return u.argmax(-1)


class Tokens(Space):
    """Sequences of symbols 0 … vocab−1.

    Arguments:
        length: symbols of one example.
        vocab: number of symbols.
        alphabet: what each symbol stands for, if it stands for a character.
    """

    def __init__(self, length: int, vocab: int, alphabet: str | None = None) -> None:
        self.length, self.vocab, self.alphabet = length, vocab, alphabet
        self.shape = _shape((length,))
        require(vocab >= 1, "vocab", "at least 1", vocab)
        require(alphabet is None or len(alphabet) == vocab, "alphabet", f"{vocab} characters", alphabet)

    @property
    def measure(self) -> Literal["mass"]:
        return "mass"

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (self.length, self.vocab)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        expected = f"symbols from 0 to {self.vocab - 1}"
        x = _whole(self, x, what, expected).long()
        self._refuse_outside(x, 0, self.vocab - 1, what, expected)
        return x

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return F.one_hot(x.long(), self.vocab).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        return u.argmax(-1)


class Counts(Space):
    """Whole numbers 0, 1, 2, …; a network sees log(1 + x).

    Arguments:
        shape: one example.
        names: column names.
    """

    def __init__(self, shape: tuple[int, ...], names: tuple[str, ...] = ()) -> None:
        self.shape, self.names = _shape(shape), tuple(names)

    @property
    def measure(self) -> Literal["mass"]:
        return "mass"

    obstacle = ""

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        x = _whole(self, x, what, "whole numbers from 0").long()
        self._refuse_outside(x, 0, MAX_COUNT, what, "whole numbers from 0")
        return x

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return x.to(dtype).log1p()

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        size = 1 + x.double()
        n = within_bin(noise.uniform(*self.shape), 2 * torch.finfo(dtype).eps * size * size.log().clamp(min=1))
        u = (x.double() + n).log1p()
        return u.to(dtype), -u.flatten(1).sum(1).to(dtype)  # du/dx = 1/(1 + x + n) = exp(−u)

    def from_model(self, u: Tensor) -> Tensor:
        return u.double().expm1().floor().clamp(0, MAX_COUNT).long()


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(shape)
    whole = all(isinstance(s, int) and not isinstance(s, bool) and s >= 1 for s in shape)
    require(whole and len(shape) <= 4, "shape", "up to four whole numbers of at least 1", shape)
    require(math.prod(shape) <= 2**31, "shape", "at most 2**31 cells", shape)
    return shape


def _cells(value: Number, shape: tuple[int, ...], what: str) -> Tensor:
    cells = torch.from_numpy(np.asarray(value, dtype=np.float64))
    require(bool(cells.isfinite().all()), what, "finite numbers", value)
    require(cells.ndim == 0 or cells.numel() == math.prod(shape), what, f"1 or {math.prod(shape)} numbers", value)
    return cells if cells.ndim == 0 else cells.reshape(shape)


def _whole(space: Space, x: Tensor, what: str, expected: str) -> Tensor:
    if x.is_floating_point():
        space._refuse(x, ~(x == x.round()) | (x.abs() > MAX_COUNT), what, expected)
    return x.long() if x.is_floating_point() or x.dtype == torch.bool else x


def within_bin(n: Tensor, rounding: Tensor) -> Tensor:
    """n ~ U[0, 1) kept `rounding` away from both ends, so that the sum x + n still floors to x after it was rounded.

    Arguments:
        n: (B, *shape).
        rounding: the rounding error of x + n in the model's floating-point type, in bins; at most a quarter is kept away.
    """
    edge = rounding.clamp(max=0.25)
    return torch.minimum(torch.maximum(n.double(), edge), 1 - edge)


def _log_det(log_scale: Tensor, u: Tensor) -> Tensor:
    """−Σ log scale over the cells of u (B, *shape) that are not missing, (B,)."""
    cells = log_scale.expand(u.shape[1:])
    if not u.isnan().any():
        return -cells.sum().expand(len(u))
    return -torch.where(u.isnan(), 0, cells).flatten(1).sum(1)
