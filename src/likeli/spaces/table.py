"""Rows of named columns of several types, and their head: reals, whole numbers and categories, any of them possibly missing.

A row is (columns,) float64: categories as codes 0 … K−1, NaN for a missing cell.  log p(x) of a row is a mass in its whole
numbers, categories and the exact values that many rows of a real column share, and a density in all else; a missing cell
contributes nothing, which integrates it out.  Networks and continuous densities see a number on the scale of its column's
own distribution, u = Φ⁻¹(F̂(x)), so that neither spikes nor heavy tails nor units reach them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.config import Configurable
from likeli.errors import InputError, nearest, require
from likeli.random import Noise
from likeli.spaces.arrays import as_tensor, pandas_column
from likeli.spaces.base import MAX_COUNT, Space, within_bin
from likeli.spaces.dates import Calendar
from likeli.spaces.head import CodedCells, Observation
from likeli.spaces.marginal import Marginal, Marginals, UnitVectors

Type = Literal["real", "integer", "date", "categorical", "ordinal", "boolean"]
NAMED = ("categorical", "ordinal", "boolean")  # types of categories
WORDS = ("False", "True")  # as Python writes them
WHOLE_DTYPES = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
MISSING_TEXT = frozenset({"", "NA", "N/A", "n/a", "nan", "NaN", "NAN", "?", "null", "NULL", "None", "<NA>"})


class Column(Configurable):
    """One column of a table.

    Arguments:
        name: as in the file's header.
        type: `real` (a density), or of a mass `integer`, `date` (whole numbers of its calendar's unit), `categorical`,
            `ordinal` (categories from the least to the most, a number to a network) or `boolean` (False, then True).
        mean, scale: of the normal that gives a column of numbers its `marginal` where there is none.
        categories: the texts that the codes 0 … K−1 stand for.
        missing: whether the network gets an indicator of a missing cell.
        marginal: the column's distribution by itself, as `Marginal.found` finds it in training rows.
        calendar: of a date; in days if none is given.
    """

    def __init__(
        self,
        name: str,
        type: Type = "real",
        mean: float = 0.0,
        scale: float = 1.0,
        categories: tuple[str, ...] = (),
        missing: bool = False,
        marginal: Marginal | None = None,
        calendar: Calendar | None = None,
    ) -> None:
        self.name, self.type, self.mean, self.scale, self.missing = name, type, mean, scale, missing
        self.categories, self.calendar = tuple(categories), calendar or (Calendar() if type == "date" else None)
        require(type == "date" or calendar is None, f"column {name}", "a calendar only of dates", type)
        require(scale > 0, "scale", "a positive number", scale)
        named = type in NAMED
        require(named == bool(self.categories), f"column {name}", f"categories if {' or '.join(NAMED)}", categories)
        require(type != "boolean" or len(self.categories) == 2, f"column {name}", "two categories if boolean", categories)
        require(len(set(self.categories)) == len(self.categories), f"column {name}", "distinct categories", categories)
        self.marginal = marginal or self._unseen()
        symbols = len(self.marginal.mass)
        fits = not categories or self.marginal.low == self.marginal.high == tuple(range(len(categories)))
        require(fits, f"column {name}, marginal", f"the codes of {len(categories)} categories", f"{symbols} cells")

    def _unseen(self) -> Marginal:
        if self.categories:
            return Marginal.even(len(self.categories))
        return Marginal.normal(self.mean, self.scale, self.type != "real")

    @property
    def width(self) -> int:
        """Numbers that a network sees of this column."""
        return (len(self.categories) if self.unordered else 1) + self.missing

    @property
    def unordered(self) -> bool:
        """Whether its codes are no scale, so that a network sees one number for each."""
        return self.type in ("categorical", "boolean")

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value of the type, within the bounds."""
        if self.categories:
            return 0, len(self.categories) - 1
        usual = (-math.inf, math.inf) if self.type == "real" else (-MAX_COUNT, MAX_COUNT)
        low, high = (self.calendar.low, self.calendar.high) if self.calendar else usual
        least, most = self.marginal.bounds
        return max(low, least), min(high, most)

    @property
    def allowed(self) -> str:
        """The values that are possible, in words, for a message."""
        if self.categories:
            return f"codes from 0 to {len(self.categories) - 1}"
        (low, high), bound = self.range, [math.isfinite(v) for v in self.marginal.bounds]
        if self.calendar and not any(bound):
            return f"{self.calendar.range} in {self.calendar}"
        if not any(bound):
            return "numbers" if self.type == "real" else "whole numbers below 2**53"
        ends = self.decode([v if ok else math.nan for v, ok in zip((low, high), bound)])
        first, last = (f"{word} {v}" if v is not None else "" for word, v in zip(("at least", "at most"), ends))
        return f"values of {' and '.join(filter(None, (first, last)))}, its bounds"

    def encode(self, values: Any, what: str) -> np.ndarray:
        """Values as a user has them as float64: numbers, codes of texts, units of dates; missing ones NaN."""
        return encode_column(values, self.categories, what) if self.calendar is None else self.calendar.encode(values, what)

    def decode(self, x: Sequence[float]) -> list[Any]:
        """The inverse of `encode`: text for categories and dates, whole numbers as int, None for a missing cell."""
        if self.calendar:
            return self.calendar.texts(np.asarray(x, np.float64))
        if self.categories:
            words: tuple[Any, ...] = (False, True) if self.categories == WORDS and self.type == "boolean" else self.categories
            return [None if v != v else words[int(v)] for v in x]
        number = float if self.type == "real" else int
        return [None if v != v else number(v) for v in x]


class Dtype(Configurable):
    """The type that a column had in the data frame that it was read from.

    Arguments:
        name: as pandas calls it, such as `int64`, `category` or `datetime64[ns, UTC]`; `date` for Python's dates.
        categories: all of a category's, in their order, whether rows have them or not.
        of: the type of a category's values.
        ordered: whether a category is.
    """

    def __init__(self, name: str, categories: tuple[str, ...] = (), of: str = "object", ordered: bool = False) -> None:
        self.name, self.categories, self.of, self.ordered = name, tuple(categories), of, ordered

    def series(self, values: Any) -> Any:
        """A column as `Table.decode` gives it, or a pandas Series of dates, as a Series of this type.

        Whole numbers with gaps become nullable ones, and where a value is not in a category's list all stay texts.
        """
        import pandas

        if hasattr(values, "dt"):
            return values.dt.date if self.name == "date" else values.astype(self.name)
        column = pandas.Series(values, dtype=object)
        if self.name == "category":
            kind = pandas.CategoricalDtype(pandas.Series(list(self.categories), dtype=object).astype(self.of), self.ordered)
            known = dict(zip(self.categories, kind.categories))
            texts = texts_of(values)
            return pandas.Series([known.get(t) for t in texts], dtype=kind) if {*texts} <= {*known, None} else column
        gaps = bool(column.isna().any())
        if gaps and self.name in ("bool", *WHOLE_DTYPES):
            return column.astype("boolean" if self.name == "bool" else "Int64")
        return column.astype(self.name)


class Table(Space):
    """Rows of typed columns.

    Arguments:
        columns: at least one, with distinct names.
        dtypes: of the data frame that they were read from, which `frame` gives back; none for another source.
    """

    rank = 4
    obstacle = ""

    @classmethod
    def recognise(cls, x: Tensor) -> str | None:
        """Whole numbers in rows."""
        told = "whole numbers were taken as integer columns (a mass); kind='real' or 'counts' takes them otherwise"
        return told if not x.is_floating_point() and x.ndim == 2 else None

    def __init__(self, columns: tuple[Column, ...], dtypes: tuple[Dtype, ...] = ()) -> None:
        self.columns, self.dtypes = tuple(columns), tuple(dtypes)
        require(len(self.columns) >= 1, "columns", "at least one column", "none")
        require(len(self.dtypes) in (0, len(columns)), "dtypes", f"none, or {len(columns)}", len(self.dtypes))
        super().__init__((len(self.columns),), tuple(c.name for c in self.columns))
        require(len(set(self.names)) == len(self.names), "columns", "distinct names", ", ".join(self.names))
        self.discrete = torch.tensor([c.type != "real" for c in self.columns])
        self.categorical = torch.tensor([bool(c.categories) for c in self.columns])
        self.widths = tuple(c.width for c in self.columns)
        self.coding = self.marginals = Marginals([c.marginal for c in self.columns], self.discrete, self.categorical)
        atoms = self.discrete.any() or any(c.marginal.atoms for c in self.columns)
        self.measure = "mass" if self.discrete.all() else "mixed" if atoms else "density"
        self.vectors = UnitVectors(self)
        self.calendars = {i: c.calendar for i, c in enumerate(self.columns) if c.calendar}
        self._low, self._top = torch.tensor([c.range for c in self.columns], dtype=torch.float64).T

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (sum(c.width for c in self.columns),)

    def head(self) -> Observation:
        return Mixed().on(self)

    def check(self, x: Any, *, what: str = "x", missing: bool = False) -> Tensor:
        """Also takes a data frame or a mapping of column name to values, with categories as text; see `encode`."""
        x = self._by_name(x, what)
        frame = {str(name): x[name] for name in x.columns} if hasattr(x, "columns") and hasattr(x, "iloc") else x
        return super().check(self.encode(frame, what) if isinstance(frame, Mapping) else x, what=what, missing=missing)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        x = x.double()
        self._refuse(x, x.isinf(), what, "finite numbers")
        if not missing:
            self._refuse(x, x.isnan(), what, "a value in every cell (this family cannot take missing cells)")
        whole, low, top = (t.to(x.device) for t in (self.discrete, self._low, self._top))
        self._refuse(x, whole & (x != x.round()) & ~x.isnan(), what, "whole numbers")
        outside = (x < low) | (x > top)
        if outside.any():
            self._refuse(x, outside, what, self.columns[int(torch.nonzero(outside)[0, 1])].allowed)
        return x

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, columns) → (B, features): numbers on their scales, one-hot categories (0 where missing), indicators."""
        gone = x.isnan()
        u = self.marginals.scale(x.double(), x.new_full((), 0.5).double())[0].masked_fill(gone, 0)
        parts = []
        for i, column in enumerate(self.columns):
            if column.unordered:
                codes = torch.where(gone[:, i], 0, x[:, i]).long()
                parts.append(F.one_hot(codes, len(column.categories)) * ~gone[:, i, None])
            else:
                parts.append(u[:, i, None])
            if column.missing:
                parts.append(gone[:, i, None])
        return torch.cat([p.to(dtype) for p in parts], 1)

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """u = Φ⁻¹(F̂(x + n)), n ~ U[0, 1), column by column: a whole number, a category or an atom is an interval of its mass.

        Under N(0, I) the bound is that of independent columns, exactly.
        """
        mass = self.marginals.mass.to(x.device).T.gather(0, self.marginals.symbols(x).clamp(min=0))
        bins = (mass * self.marginals.log_within(x).exp()).clamp(min=torch.finfo(dtype).tiny)
        rounding = torch.finfo(dtype).eps / 2 + 64 * torch.finfo(torch.float64).eps  # of F̂: |dF/du · u| < ¼, and Φ's own
        n = within_bin(noise.uniform(*self.shape), rounding / bins)
        u, log_slope = self.marginals.scale(x.double(), n)
        return u.to(dtype), log_slope.sum(1).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        """Numbers on their columns' scales (B, columns), or features as `to_model` gives them → float64 values of the types."""
        if u.shape[1] == len(self.columns):
            return self._valid(self.marginals.unscale(u))
        blocks = u.split(self.widths, 1)
        x = self.marginals.unscale(torch.stack([b[:, 0] for b in blocks], 1))
        for i, column in enumerate(self.columns):
            if column.unordered:
                x[:, i] = blocks[i][:, : len(column.categories)].argmax(1)
        return self._valid(x)

    def _valid(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self._low.to(x.device)), self._top.to(x.device))

    def encode(self, values: Mapping[str, Any], what: str = "x") -> Tensor:
        """Named columns as rows of codes and numbers, (B, columns) float64; columns are matched by name, others are left out.

        Raises:
            InputError: a column is absent, a category unknown, or the columns differ in length.
        """
        for name in self.names:
            if name not in values:
                raise InputError(f"{what}: expected a column {name}, got {', '.join(values)[:80]}{nearest(name, values)}")
        cells = [c.encode(values[c.name], f"{what}, column {c.name}") for c in self.columns]
        lengths = {len(c) for c in cells}
        require(len(lengths) == 1, what, "columns of one length", f"lengths {sorted(lengths)}")
        return torch.from_numpy(np.stack(cells, 1))

    def frame(self, x: Tensor) -> Any:
        import pandas

        dates = {self.names[i]: calendar.series(x[:, i].double().cpu().numpy()) for i, calendar in self.calendars.items()}
        columns = self.decode(x)
        for name, dtype in zip(self.names, self.dtypes):
            dated = dtype.name == "date" or dtype.name.startswith("datetime")
            columns[name] = dtype.series(dates.pop(name) if dated and name in dates else columns[name])
            dates.pop(name, None)  # texts of dates stay texts
        return pandas.DataFrame(columns | dates)

    def decode(self, x: Tensor) -> dict[str, list[Any]]:
        """Rows (B, columns) as named columns: text for categories and dates, whole numbers as int, None for a missing cell."""
        return {c.name: c.decode(values) for c, values in zip(self.columns, x.double().T.tolist())}


def encode_column(values: Any, categories: Sequence[str], what: str) -> np.ndarray:
    """One column as float64: numbers as they are, texts as codes into `categories`, missing ones NaN.

    Raises:
        InputError: a text that is not among the categories (its row is named), or a text where numbers are expected.
    """
    if not categories:
        if hasattr(values, "to_numpy"):
            return pandas_column(values, what).astype(np.float64)
        return as_tensor([np.nan if v is None else _as_number(v) for v in values], what).double().numpy()
    codes = {text: float(i) for i, text in enumerate(categories)}
    out = np.full(len(values), np.nan)
    for row, text in enumerate(texts_of(values)):
        if text is not None:
            if text not in codes:
                raise InputError(f"{what}, row {row}: unknown category {text[:40]!r}{nearest(text, codes)}")
            out[row] = codes[text]
    return out


def _as_number(value: Any) -> Any:
    """A text such as 02134 as the number that it spells; anything else as it is."""
    return float(value) if isinstance(value, str) and value.strip().isdecimal() else value


def texts_of(values: Iterable[Any]) -> list[str | None]:
    """Each value as stripped text; None where it is missing (None, NaN, NA or one of the usual marks)."""
    return [None if v is None or v != v or (text := _text(v)) in MISSING_TEXT else text for v in _plain(values)]


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _plain(values: Any) -> Iterable[Any]:
    return values.astype(object).where(values.notna(), None) if hasattr(values, "notna") else values  # pd.NA has no truth


class Mixed(Observation):
    """Every column categorical over the cells of its marginal: P(cell k | z) = softmax(log mass + l(z))_k.

    At l = 0 the columns are independent and as they are by themselves.
    """

    spaces = (Table,)
    log_mass: Tensor

    @property
    def channels(self) -> int:
        return max(self.space.marginals.sizes)

    def bind(self) -> None:
        self.register_buffer("log_mass", self.space.marginals.mass.log().T.contiguous(), persistent=False)

    def read(self, out: Tensor) -> CodedCells:
        return CodedCells(out + self.log_mass.to(out.dtype), self.space.marginals)
