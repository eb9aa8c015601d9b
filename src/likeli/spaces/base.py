"""What one example is, and how the user's values become model tensors and back.

A space travels with its model (plain JSON in config.json), so that every number is in the user's own units.  Discrete spaces
carry a mass; a continuous density sees them dequantised, and E_n log p(x + n) ≤ log P(x) makes that a lower bound.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from likeli.config import Configurable
from likeli.errors import InputError, Unsupported, nearest, require
from likeli.random import Noise
from likeli.spaces.alphabet import Alphabet
from likeli.spaces.arrays import as_tensor
from likeli.spaces.dates import Calendar

if TYPE_CHECKING:
    from likeli.spaces.head import Observation

Measure = Literal["density", "mass", "mixed"]
MAX_COUNT = 2**53  # the largest whole number below which float64 has them all


class Coding(ABC):
    """Every cell of a row as one of finitely many symbols: log p(x) = log P(symbols) + Σ_i log p(x_i | its symbol).

    Attributes:
        sizes: symbols of each cell, (cells,).
        middles: the number in the middle of each symbol, (cells, most symbols) float64, of which an expectation is made.
        nominal: cells whose symbols are names, (cells,): in place of an expectation they have a most probable symbol.
    """

    sizes: tuple[int, ...]
    middles: Tensor
    nominal: Tensor

    @abstractmethod
    def symbols(self, x: Tensor) -> Tensor:
        """(B, *shape) in the user's units → (B, cells) int64 from 0, −1 where a cell is missing or after its row's end."""

    @abstractmethod
    def log_within(self, x: Tensor) -> Tensor:
        """log p(x_i | its symbol), (B, cells) float64: 0 where the symbol says all, or the cell is missing."""

    @abstractmethod
    def values(self, symbols: Tensor, noise: Noise) -> Tensor:
        """Values (B, *shape) in the user's units; where a symbol is an interval, a place in it is drawn."""

    def confined(self, x: Tensor) -> Tensor:
        """Draws (B, *shape) with those that no sample is to have moved to where they may be."""
        return x


class ValueCoding(Coding):
    """Symbols that are the values 0 … `space.symbols` − 1 themselves."""

    def __init__(self, space: Space) -> None:
        self.space, self.sizes = space, (space.symbols,) * space.dimensions
        self.middles = torch.arange(space.symbols, dtype=torch.float64).expand(space.dimensions, -1)
        self.nominal = torch.zeros(space.dimensions, dtype=torch.bool)

    def symbols(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(x), -1).long()
        return rows if self.space.end is None else rows.masked_fill(~counted(rows, self.space.end), -1)

    def log_within(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), len(self.sizes), dtype=torch.float64, device=x.device)

    def values(self, symbols: Tensor, noise: Noise) -> Tensor:
        return self.space.check(symbols.reshape(-1, *self.space.shape))


class Space(Configurable, ABC):
    """The set one example is drawn from.  A kind of data is a subclass, in one file with its heads.

    Attributes of a kind:
        measure: whether p(x) is a density, a probability mass, or a density of some cells and a mass of others.
        symbols: how many values 0, 1, … every cell can take; 0 where they are not finitely many, or not the same in each cell.
        spacing: distance of neighbouring symbols in model units, 0 for reals; None where it varies.
        categorical: which cells are names and not numbers, so that they have no average, of shape `shape`; None for none.
        calendars: of the columns of dates, by their position.
        widths: features of each cell in model units, where they differ.
        blank: the number outside the space that stands for a cell to be drawn; None where only NaN does.
        end: the symbol that ends a row, so that nothing after it counts; None where rows are of one length.
        unambiguous: whether one row alone stands for its datum; where several spell one text, P(row) is a lower bound.
        alphabet: what symbols spell, if they spell text.
        shares, proportion: of each symbol among the rows of a model's fit, in numbers and in words; empty if not known.
        amounts: how much each symbol holds, by unit, where that tells more than cells: `symbol`, `byte` of text; else empty.
        rank: its turn when values of an unknown kind are recognised, 1 first; 0 where it is not asked.
        coding: cells as symbols where these are not the values themselves; see `coding_of`.
        vectors: the space of its symbols as unit vectors, where a Gaussian diffusion sees these and not model units; else None.
        unit: ∂x/∂u where it does not depend on x, of each cell or of all, float64: one model unit in the user's; else None.

    Arguments:
        shape: of one example in the user's units.
        names: of columns, for messages and files.
    """

    measure: Measure
    symbols: int = 0
    spacing: float | None = None
    coding: Coding | None = None
    vectors: Space | None = None
    unit: Tensor | None = None
    categorical: Tensor | None = None
    calendars: Mapping[int, Calendar] = MappingProxyType({})
    widths: tuple[int, ...] | None = None
    blank: int | None = None
    end: int | None = None
    unambiguous: bool = True
    shares: tuple[float, ...] = ()
    proportion: str = ""
    amounts: Mapping[str, Sequence[int]] = MappingProxyType({})
    alphabet: Alphabet | None = None
    rank: int = 0

    def __init__(self, shape: tuple[int, ...], names: tuple[str, ...] = ()) -> None:
        self.shape, self.names = tuple(shape), tuple(names)
        whole = all(isinstance(s, int) and not isinstance(s, bool) and s >= 1 for s in self.shape)
        require(whole and len(self.shape) <= 4, "shape", "up to four whole numbers of at least 1", self.shape)
        self.dimensions = math.prod(self.shape)  # cells of one example
        require(self.dimensions <= 2**31, "shape", "at most 2**31 cells", self.shape)

    def __repr__(self) -> str:
        names = f"; {', '.join(self.names)}" if self.names else ""
        text = f"{type(self).__name__}({', '.join(map(str, self.shape)) or 'one label'}{names})"
        return text if len(text) <= 120 else text[:118] + "…)"

    @classmethod
    def recognise(cls, x: Tensor) -> str | None:
        """Whether values (N, *shape) that nothing else is known of look like this kind, which is asked in the order of `rank`.

        Returns:
            None if they do not, else what to tell where the guess may surprise; an empty text where it does not.
        """
        return None

    @property
    def model_shape(self) -> tuple[int, ...]:
        """Shape of one example as `to_model` gives it: `shape`, or (*shape, symbols) where each symbol is a unit vector."""
        return self.shape

    def codebook(self, like: Tensor) -> Tensor | None:
        """The symbols in model units, (symbols,), of the type and device of `like`; None for unit vectors, or no symbols."""
        return None

    def head(self) -> Observation:
        """p(x|z) as a decoder describes it when no other head is asked for.

        Raises:
            Unsupported: no head describes such a space.
        """
        raise Unsupported(f"no observation head describes {self.kind()}")

    def check(self, x: Any, *, what: str = "x", missing: bool = False) -> Tensor:
        """x as a tensor (B, *shape) of values inside the space; anything array-like is taken.

        Arguments:
            x: the user's values.
            what: the argument's name, for messages.
            missing: whether NaN stands for a missing cell or is an error.

        Raises:
            InputError: wrong shape, type or value; row and column are named.
        """
        x = as_tensor(self._by_name(x, what), what)
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

    def frame(self, x: Tensor) -> Any:
        """Rows (B, *shape) as a pandas DataFrame with the columns' names; a table's categories are texts again."""
        import pandas

        x = x.double() if self.measure == "density" else x  # as a file of reals is read
        flat = x.detach().cpu().reshape(len(x), -1).numpy()
        return pandas.DataFrame(flat, columns=list(self.names) if len(self.names) == flat.shape[1] else None)

    def _by_name(self, x: Any, what: str) -> Any:
        """A data frame's columns in the order of this space's names; anything else as it is.

        Raises:
            InputError: a column is missing or renamed.
        """
        if not (self.names and hasattr(x, "columns") and hasattr(x, "iloc")):
            return x
        given = [str(name) for name in x.columns]
        for name in self.names:
            if given.count(name) != 1:
                listed = ", ".join(given)[:80]
                raise InputError(f"{what}: expected one column {name}, got {listed}{nearest(name, given)}")
        extra = [name for name in given if name not in self.names]
        if extra:
            listed = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
            warnings.warn(f"{what}: left out, since the model does not know them: {listed}", UserWarning, stacklevel=4)
        return x.iloc[:, [given.index(name) for name in self.names]]

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

    def _whole(self, x: Tensor, last: int, what: str, expected: str) -> Tensor:
        """x as whole numbers from 0 to `last`, of its own integer type if it has one."""
        if x.is_floating_point():
            self._refuse(x, ~(x == x.round()) | (x.abs() > MAX_COUNT), what, expected)
        x = x.long() if x.is_floating_point() or x.dtype == torch.bool else x
        if x.numel() and (int(x.amin()) < 0 or int(x.amax()) > last):  # in Python: 256 does not fit a uint8 tensor
            wide = x.long()
            self._refuse(wide, (wide < 0) | (wide > last), what, expected)
        return x


def held_cells(space: Space, given: Any, what: str = "given") -> Tensor:
    """Rows (n, *shape), or one row, whose known cells a draw holds on to; a free cell is NaN, or `blank` of whole numbers.

    Raises:
        InputError: another shape, or a known value outside the space.
    """
    if space.blank is None:
        one = isinstance(given, Tensor) and tuple(given.shape) == space.shape
        return space.check(given[None] if one else given, what=what, missing=True)
    x = as_tensor(given, what)
    x = x[None] if tuple(x.shape) == space.shape else x
    free = x.isnan() | (x == space.blank)
    return space.check(x.masked_fill(free, 0), what=what).long().masked_fill(free, space.blank)


def counted(x: Tensor, end: int | None) -> Tensor:
    """Which symbols of rows (..., length) are part of them: up to and with the first `end`; all of them where there is none.

    A row stands for all that continue it after its end, so that P(row) = ∏ P(x_i | x_<i) over the symbols that count.
    """
    if end is None:
        return torch.ones_like(x, dtype=torch.bool)
    over = x == end
    return over.cumsum(-1) - over.long() == 0


def ended(x: Tensor, end: int | None) -> Tensor:
    """Rows (..., length) with `end` in every place after the first one."""
    return x if end is None else torch.where(counted(x, end), x, end)


def extents(space: Space, x: Tensor) -> dict[str, Tensor]:
    """How much rows (B, length) hold, (B,) whole numbers by the units of `space.amounts`; what stands after an end counts 0."""
    seen = counted(x, space.end)
    return {name: (torch.tensor(each, device=x.device)[x.long()] * seen).sum(1) for name, each in space.amounts.items()}


def coding_of(space: Space, who: str) -> Coding:
    """The space's cells as symbols, for `who` needs them.

    Raises:
        Unsupported: the cells have no finite sets of symbols.
    """
    if space.coding is None and not (space.symbols and space.shape):
        needs = "cells of finitely many symbols (pixels, binary, tokens, a table)"
        raise Unsupported(f"{who} needs {needs}, not {space.kind()}; use gmm")
    return space.coding or ValueCoding(space)


def confined(space: Space, x: Tensor, given: Tensor | None = None) -> Tensor:
    """Draws (B, *shape) within what samples keep to, the cells that are `given` as they are."""
    if space.coding is None:
        return x
    inside = space.coding.confined(x)
    return inside if given is None or inside is x else torch.where(given.isnan(), inside, x)


def within_bin(n: Tensor, rounding: Tensor) -> Tensor:
    """n ~ U[0, 1) kept `rounding` away from both ends, so that the sum x + n still floors to x after it was rounded.

    Noise that is kept from the ends is no longer uniform, and a bound is an average over uniform noise: where a bin is finer
    than the type's digits the noise is not kept far, and a code at the very end of its bin may come back as its neighbour.

    Arguments:
        n: (B, *shape).
        rounding: the rounding error of x + n in the model's floating-point type, in bins; at most 2⁻¹⁰ is kept away.
    """
    edge = rounding.clamp(max=2**-10)
    return torch.minimum(torch.maximum(n.double(), edge), 1 - edge)
