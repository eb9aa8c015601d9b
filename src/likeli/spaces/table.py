"""Rows of named columns of several types, and their head: reals, whole numbers and categories, any of them possibly missing.

A row is (columns,) float64: categories as codes 0 … K−1, NaN for a missing cell.  log p(x) of a row is a density in its real
columns and a mass in the others; a missing cell contributes nothing, which integrates it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import pad

from likeli.config import Configurable
from likeli.errors import InputError, nearest, require
from likeli.random import Noise
from likeli.spaces.arrays import as_tensor, pandas_column
from likeli.spaces.base import MAX_COUNT, Space, within_bin
from likeli.spaces.head import CategoricalCells, Cells, Observation
from likeli.spaces.pixels import NARROWEST_BINS, component_places, draw_logistic, log_bin_mass
from likeli.spaces.real import draw_gaussian_mixture, gaussian_mixture_log_prob, gaussian_parts

INITIAL_WIDTH = 0.5  # of reals and whole numbers at the start, in standard deviations of the column
HARMONICS = 128  # with which the mean of a floor is exact to 1e−5 at the narrowest scale
MISSING_TEXT = frozenset({"", "NA", "N/A", "n/a", "nan", "NaN", "NAN", "?", "null", "NULL", "None", "<NA>"})


class Column(Configurable):
    """One column of a table.

    Arguments:
        name: as in the file's header.
        type: `real` (a density), `integer` or `categorical` (a mass).
        mean, scale: standardisation u = (x − mean)/scale of a real or integer column.
        categories: the texts that the codes 0 … K−1 stand for.
        missing: whether the network gets an indicator of a missing cell.
    """

    def __init__(
        self,
        name: str,
        type: Literal["real", "integer", "categorical"] = "real",
        mean: float = 0.0,
        scale: float = 1.0,
        categories: tuple[str, ...] = (),
        missing: bool = False,
    ) -> None:
        self.name, self.type, self.mean, self.scale, self.missing = name, type, mean, scale, missing
        self.categories = tuple(categories)
        require(type in ("real", "integer", "categorical"), "type", "real, integer or categorical", type)
        require(scale > 0, "scale", "a positive number", scale)
        require((type == "categorical") == bool(self.categories), f"column {name}", "categories if categorical", categories)
        require(len(set(self.categories)) == len(self.categories), f"column {name}", "distinct categories", categories)

    @property
    def width(self) -> int:
        """Numbers that a network sees of this column."""
        return max(len(self.categories), 1) + self.missing


class Table(Space):
    """Rows of typed columns.

    Arguments:
        columns: at least one, with distinct names.
    """

    rank = 4

    @classmethod
    def recognise(cls, x: Tensor) -> str | None:
        """Whole numbers in rows, some below 0."""
        told = "whole numbers were taken as integer columns (a mass); kind='real' takes them as reals"
        return told if not x.is_floating_point() and x.ndim == 2 else None

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns = tuple(columns)
        require(len(self.columns) >= 1, "columns", "at least one column", "none")
        super().__init__((len(self.columns),), tuple(c.name for c in self.columns))
        self.widths = tuple(c.width for c in self.columns)
        require(len(set(self.names)) == len(self.names), "columns", "distinct names", ", ".join(self.names))
        self._mean = torch.tensor([c.mean for c in self.columns], dtype=torch.float64)
        self._scale = torch.tensor([c.scale for c in self.columns], dtype=torch.float64)
        self._discrete = torch.tensor([c.type != "real" for c in self.columns])
        self.measure = "mass" if self._discrete.all() else "mixed" if self._discrete.any() else "density"
        self.unit = self._scale if self.measure == "density" else None
        self._top = torch.tensor([len(c.categories) - 1 if c.categories else MAX_COUNT for c in self.columns])

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (sum(c.width for c in self.columns),)

    @property
    def obstacle(self) -> str:
        """Names the first categorical column, which no density can see."""
        name = next((c.name for c in self.columns if c.type == "categorical"), None)
        return "" if name is None else f"column {name} is categorical and has no continuous form"

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
        whole, top = self._discrete.to(x.device), self._top.to(x.device)
        self._refuse(x, whole & (x != x.round()) & ~x.isnan(), what, "whole numbers")
        low = torch.where(top == MAX_COUNT, -MAX_COUNT, 0)
        outside = whole & ((x < low) | (x > top))
        if outside.any():
            k = int(top[torch.nonzero(outside)[0, 1]])
            self._refuse(x, outside, what, f"codes from 0 to {k}" if k < MAX_COUNT else "whole numbers below 2**53")
        return x

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, columns) → (B, features): standardised numbers and one-hot categories (0 where missing), missing indicators."""
        gone = x.isnan()
        u = torch.where(gone, 0, (x.double() - self._mean.to(x.device)) / self._scale.to(x.device))
        parts = []
        for i, column in enumerate(self.columns):
            if column.type == "categorical":
                codes = torch.where(gone[:, i], 0, x[:, i]).long()
                parts.append(F.one_hot(codes, len(column.categories)) * ~gone[:, i, None])
            else:
                parts.append(u[:, i, None])
            if column.missing:
                parts.append(gone[:, i, None])
        return torch.cat([p.to(dtype) for p in parts], 1)

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """u = (x + n − mean)/scale with n ~ U[0, 1) in integer columns and 0 in real ones."""
        if self.obstacle:
            return super().continuous(x, noise, dtype)
        x, mean, scale = x.double(), self._mean.to(x.device), self._scale.to(x.device)
        rounding = torch.finfo(dtype).eps * (x - mean).abs() + 4 * torch.finfo(torch.float64).eps * (x.abs() + mean.abs())
        n = torch.where(self._discrete.to(x.device), within_bin(noise.uniform(*self.shape), rounding), 0)
        log_scale = torch.where(x.isnan(), 0, scale.log())
        return ((x + n - mean) / scale).to(dtype), -log_scale.sum(1).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        """Standardised numbers and codes (B, columns), or features as `to_model` gives them → float64 values of the types."""
        u = u if u.shape[1] == len(self.columns) else self._from_features(u)
        x = u.double() * self._scale.to(u.device) + self._mean.to(u.device)
        x = torch.where(self._discrete.to(u.device), x.floor(), x)
        low = torch.where(self._top == MAX_COUNT, -MAX_COUNT, 0).to(u.device)
        return torch.where(self._discrete.to(u.device), x.clamp(low, self._top.to(u.device)), x)

    def _from_features(self, u: Tensor) -> Tensor:
        """(B, features) → (B, columns): the largest of a one-hot's numbers; missing indicators are dropped.

        `to_model` puts a whole number at the low edge of its bin, so half a bin is added for `from_model` to round it.
        """
        blocks = u.split([c.width for c in self.columns], 1)
        pairs = zip(blocks, self.columns)
        cells = [b[:, : len(c.categories)].argmax(1).to(u) if c.categories else b[:, 0] for b, c in pairs]
        return torch.stack(cells, 1) + torch.where(self._discrete, 0.5 / self._scale, 0).to(u)

    def encode(self, values: Mapping[str, Any], what: str = "x") -> Tensor:
        """Named columns as rows of codes and numbers, (B, columns) float64; columns are matched by name, others are left out.

        Raises:
            InputError: a column is absent, a category unknown, or the columns differ in length.
        """
        for name in self.names:
            if name not in values:
                raise InputError(f"{what}: expected a column {name}, got {', '.join(values)[:80]}{nearest(name, values)}")
        cells = [encode_column(values[c.name], c.categories, f"{what}, column {c.name}") for c in self.columns]
        lengths = {len(c) for c in cells}
        require(len(lengths) == 1, what, "columns of one length", f"lengths {sorted(lengths)}")
        return torch.from_numpy(np.stack(cells, 1))

    def frame(self, x: Tensor) -> Any:
        import pandas

        return pandas.DataFrame(self.decode(x))

    def decode(self, x: Tensor) -> dict[str, list[Any]]:
        """Rows (B, columns) as named columns: text for categories, whole numbers as int, None for a missing cell."""
        columns = zip(self.columns, x.double().T.tolist())
        return {c.name: [None if v != v else _decoded(v, c) for v in values] for c, values in columns}


def _decoded(value: float, column: Column) -> Any:
    if column.type == "categorical":
        return column.categories[int(value)]
    return int(value) if column.type == "integer" else value


def encode_column(values: Any, categories: Sequence[str], what: str) -> np.ndarray:
    """One column as float64: numbers as they are, texts as codes into `categories`, missing ones NaN.

    Raises:
        InputError: a text that is not among the categories (its row is named), or a text where numbers are expected.
    """
    if not categories:
        if hasattr(values, "to_numpy"):
            return pandas_column(values, what).astype(np.float64)
        return as_tensor([np.nan if v is None else v for v in values], what).double().numpy()
    codes = {text: float(i) for i, text in enumerate(categories)}
    out = np.full(len(values), np.nan)
    for row, text in enumerate(texts_of(values)):
        if text is not None:
            if text not in codes:
                raise InputError(f"{what}, row {row}: unknown category {text[:40]!r}{nearest(text, codes)}")
            out[row] = codes[text]
    return out


def texts_of(values: Iterable[Any]) -> list[str | None]:
    """Each value as stripped text; None where it is missing (None, NaN, NA or one of the usual marks)."""
    return [None if v is None or v != v or (text := _text(v)) in MISSING_TEXT else text for v in _plain(values)]


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _plain(values: Any) -> Iterable[Any]:
    return values.astype(object).where(values.notna(), None) if hasattr(values, "notna") else values  # pd.NA has no truth


class Mixed(Observation):
    """Reals are Gaussian or mixtures of them, whole numbers mixtures of logistics cut into unit bins, categories categorical.

    Arguments:
        components: logistics in the mixture of a whole number.
        real_components: Gaussians in the mixture of a real.
    """

    spaces = (Table,)
    real: Tensor
    integer: Tensor
    categorical: Tensor

    def __init__(self, components: int = 2, real_components: int = 1) -> None:
        super().__init__()
        self.components, self.real_components = components, real_components
        require(components >= 1, "components", "at least 1", components)
        require(real_components >= 1, "real_components", "at least 1", real_components)

    @property
    def channels(self) -> int:
        several = self.real_components > 1
        return max(2, 3 * self.components, 3 * self.real_components * several, *(len(c.categories) for c in self.space.columns))

    def bind(self) -> None:
        columns = self.space.columns
        for kind in ("real", "integer", "categorical"):
            self.register_buffer(kind, torch.tensor([i for i, c in enumerate(columns) if c.type == kind]).long(), False)
        self.register_buffer("centre", torch.tensor([c.mean for c in columns], dtype=torch.double), False)
        self.register_buffer("unit", torch.tensor([c.scale for c in columns], dtype=torch.double), False)
        sizes = torch.tensor([len(columns[i].categories) for i in self.categorical])
        self.register_buffer("absent", torch.arange(self.channels)[:, None] >= sizes, False)

    def read(self, out: Tensor) -> MixedCells:
        return MixedCells(out, self)


class MixedCells(Cells):
    """Columns of several types, independent given z.

    Arguments:
        out: (B, channels, columns); a column reads as many channels as its type needs.
        head: gives the columns' types and units.
    """

    def __init__(self, out: Tensor, head: Mixed) -> None:
        super().__init__(out)
        self.head = head
        few = head.real_components
        reals = out[:, : 3 * few, head.real] if few > 1 else pad(out[:, :2, head.real], (0, 0, 0, 1))
        self.reals = gaussian_parts(reals.unflatten(1, (3, few)))
        parts = out[:, : 3 * head.components, head.integer].unflatten(1, (3, head.components)).unbind(1)
        self.places, self.log_weight = parts[0] + component_places(head.components, parts[0]), parts[2].log_softmax(1)
        log_unit = head.unit[head.integer].log().to(out.dtype)
        self.log_bins = (parts[1] + math.log(INITIAL_WIDTH) + log_unit).clamp(min=NARROWEST_BINS)
        self.symbols = CategoricalCells(out[:, :, head.categorical].masked_fill(head.absent, -torch.inf))

    def cell_log_prob(self, x: Tensor) -> Tensor:
        head, missing = self.head, x.isnan()
        x = x.double().masked_fill(missing, 0)
        u = ((x - head.centre) / head.unit).to(self.out.dtype)
        parts = [self._real(u[:, head.real]), self._integer(u[:, head.integer])]
        parts.append(self.symbols.cell_log_prob(x[:, head.categorical]))
        return self._assemble(parts).masked_fill(missing, 0)

    def _real(self, u: Tensor) -> Tensor:
        return gaussian_mixture_log_prob(u, *self.reals) - self.head.unit[self.head.real].log().to(u.dtype)

    def _integer(self, u: Tensor) -> Tensor:
        unit = self.head.unit[self.head.integer].to(u.dtype)
        inverse = (-self.log_bins).exp()
        return (log_bin_mass((u[:, None] - self.places) * (inverse * unit), inverse) + self.log_weight).logsumexp(1)

    def _assemble(self, parts: list[Tensor]) -> Tensor:
        order = torch.cat([self.head.real, self.head.integer, self.head.categorical])
        return torch.cat(parts, 1)[:, order.argsort()]

    def _draw_normal(self, noise: Noise) -> Tensor:
        location, log_width, _ = self.reals
        return location[:, 0] + log_width[:, 0].exp() * noise.normal(location.shape[2]).to(location)

    @property
    def mean(self) -> Tensor:
        """E[x|z] of numbers, and the most probable code of categories, (B, columns)."""
        head = self.head
        location, _, log_weight = self.reals
        real = (log_weight.exp() * location).sum(1).double() * head.unit[head.real] + head.centre[head.real]
        middle = self.places.double() * head.unit[head.integer] + head.centre[head.integer]
        whole = (self.log_weight.double().exp() * mean_floor(middle, self.log_bins.double().exp())).sum(1)
        return self._assemble([real, whole, self.symbols.out.argmax(1).double()])

    def draw(self, noise: Noise) -> Tensor:
        head = self.head
        u = draw_gaussian_mixture(noise, *self.reals) if head.real_components > 1 else self._draw_normal(noise)
        real = u.double() * head.unit[head.real] + head.centre[head.real]
        middle = self.places.double() * head.unit[head.integer] + head.centre[head.integer]
        whole = draw_logistic(noise, middle, self.log_bins.double().exp(), self.log_weight).floor()
        return self._assemble([real, whole, self.symbols.draw(noise).double()])


def mean_floor(location: Tensor, scale: Tensor) -> Tensor:
    """E⌊V⌋ of a logistic V: E V − ½ + Σ_n E sin(2πnV)/(πn), by the Fourier series of the fractional part."""
    n = torch.arange(1, HARMONICS + 1, device=location.device, dtype=location.dtype)
    t = 2 * math.pi * n
    decay = math.pi * scale[..., None] * t
    characteristic = torch.where(decay < 700, decay / decay.clamp(max=700).sinh(), 0)
    return location - 0.5 + (characteristic * (t * (location[..., None] % 1)).sin() / (math.pi * n)).sum(-1)
