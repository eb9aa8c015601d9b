"""Rows of a kind: for some columns the values that are allowed, each a union of intervals, and how a column's cells meet them.

    education=Masters,age>=40        age>=40,age<50        city="Paris, France"|Rome        "hours, a week"!=40

A condition is a name, one of = != < <= > >=, and a value or several with | between them; commas stand between conditions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from likeli.errors import InputError, nearest, one_line, require
from likeli.random import Noise
from likeli.spaces.base import Space
from likeli.spaces.marginal import Marginals
from likeli.spaces.real import Real
from likeli.spaces.table import Column, Table

Interval = tuple[float, float]  # both ends in it
QUOTED = r'"((?:[^"]|"")*)"|\'((?:[^\']|\'\')*)\''
NAME = re.compile(rf"\s*(?:{QUOTED}|([^<>=!,\"']*[^<>=!,\"'\s]))\s*(>=|<=|!=|==|=|<|>)\s*")
VALUE = re.compile(rf"(?:{QUOTED}|((?:[^,|\"'][^,|]*)?))\s*(?:([|,])\s*|$)")
EVERYTHING: tuple[Interval, ...] = ((-math.inf, math.inf),)


@dataclass(frozen=True)
class Region:
    """A product of sets, one for each column.

    Arguments:
        space: what a row is.
        allowed: by the column's place, its intervals in ascending order, disjoint, in the units of `space`.
        text: as it was asked for.
    """

    space: Space
    allowed: Mapping[int, tuple[Interval, ...]]
    text: str

    def contains(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B,) whether all conditions hold; a missing cell holds to none."""
        inside = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for i, intervals in self.allowed.items():
            v = x.reshape(len(x), -1)[:, i].double()
            inside &= torch.stack([(v >= a) & (v <= b) for a, b in intervals]).any(0)
        return inside

    @property
    def points(self) -> dict[int, float]:
        """The columns that are held at one value."""
        return {i: known[0][0] for i, known in self.allowed.items() if len(known) == 1 and known[0][0] == known[0][1]}

    def held(self, columns: Sequence[int] | None = None) -> Tensor:
        """One row (1, cells) float64 with the points in it, or those of some columns, and NaN elsewhere."""
        row = torch.full((1, self.space.dimensions), math.nan, dtype=torch.float64)
        for i, value in self.points.items():
            if columns is None or i in columns:
                row[0, i] = value
        return row.reshape(1, *self.space.shape)


@dataclass(frozen=True)
class Restricted:
    """How a family draws rows of a region, or of a wider one that holds it.

    Arguments:
        draw: noise → (noise.rows, *shape) in the user's units.
        log_p: of the rows that it draws among all; NaN where a density is conditioned on a value.
    """

    draw: Callable[[Noise], Tensor]
    log_p: float


@singledispatch
def typed_columns(space: Space) -> tuple[Column, ...]:
    """The columns that conditions can name; none where cells have no names."""
    return ()


@typed_columns.register
def _(space: Table) -> tuple[Column, ...]:
    return space.columns


@typed_columns.register
def _(space: Real) -> tuple[Column, ...]:
    names = space.names or tuple(f"x{i}" for i in range(space.dimensions))
    return tuple(Column(name) for name in names) if len(space.shape) == 1 else ()


def read_region(where: Any, space: Space) -> Region:
    """The region that a text, or a mapping of name to a value, to a set of values or to a range (low, high), describes.

    Raises:
        InputError: no such column or value, an order of what has none, conditions that leave no value of a column.
    """
    columns = typed_columns(space)
    require(len(columns) > 0, "where", "a table, or rows of named reals", f"{space.kind()} data")
    conditions = _parsed(where) if isinstance(where, str) else _of_mapping(where)
    text = where if isinstance(where, str) else ", ".join(f"{name}{sign}{_joined(v)}" for name, sign, v in conditions)
    require(len(conditions) > 0, "where", "conditions such as age>=40,job=clerk", repr(text))
    names, allowed, said = [c.name for c in columns], dict[int, tuple[Interval, ...]](), dict[int, list[str]]()
    for name, sign, values in conditions:
        if name not in names:
            raise InputError(f"where: no column {one_line(name, 80)!r}{nearest(name, names)}")
        i = names.index(name)
        told = f"{name}{sign}{_joined(values)}"
        kept = _meet(allowed.get(i, EVERYTHING), _set(columns[i], sign, values))
        said.setdefault(i, []).append(told)
        if not kept:
            raise InputError(f"where: expected conditions that can hold together, got {one_line(' and '.join(said[i]), 200)}")
        allowed[i] = kept
    for i in allowed:
        low, high = _support(space, columns[i])
        kept = _meet(allowed[i], ((low, high),))
        if not kept:
            ends, told = " to ".join(str(v) for v in columns[i].decode([low, high])), one_line(" and ".join(said[i]), 200)
            raise InputError(f"where: {told}: expected values of {ends}, which samples keep to, got none of them")
        allowed[i] = kept
    return Region(space, allowed, text)


def _joined(values: Sequence[Any]) -> str:
    return "|".join(map(str, values))


def _support(space: Space, column: Column) -> Interval:
    """The least and the largest value that a sample can have."""
    if not isinstance(space.coding, Marginals):
        return -math.inf, math.inf
    law, (low, high) = column.marginal, column.range
    return (low if law.ends[0] == "open" else law.low[0]), (high if law.ends[1] == "open" else law.high[-1])


def _parsed(text: str) -> list[tuple[str, str, list[str]]]:
    """(name, sign, values) of each condition."""
    found, at = [], 0
    while at < len(text):
        name = NAME.match(text, at)
        shown = one_line(text[at:], 60)
        if name is None:
            hint = "with a sign of = != < <= > >=; quotes around a value or name with a comma"
            raise InputError(f"where: expected name=value, {hint}, got {shown!r}")
        values, at, more = list[str](), name.end(), "|"
        while more == "|":
            value = VALUE.match(text, at)
            if value is None:
                raise InputError(f"where: expected a value, or a comma after one in quotes, got {one_line(text[at:], 60)!r}")
            values.append(_unquoted(value, 1) if value[3] is None else value[3].strip())
            at, more = value.end(), value[4]
        require(all(values), "where", f"a value after {name[0].strip()}", "nothing")
        found.append((_unquoted(name, 1) if name[3] is None else name[3].strip(), name[4].replace("==", "="), values))
        require(more != "," or at < len(text), "where", "a condition after the last comma", "nothing")
    return found


def _unquoted(match: re.Match[str], first: int) -> str:
    return match[first].replace('""', '"') if match[first] is not None else match[first + 1].replace("''", "'")


def _of_mapping(where: Any) -> list[tuple[str, str, list[Any]]]:
    require(isinstance(where, Mapping), "where", "a text such as age>=40, or values by column name", where)
    found = list[tuple[str, str, list[Any]]]()
    for name, value in where.items():
        if isinstance(value, tuple):
            require(len(value) == 2 and value != (None, None), f"where, {name}", "a range (low, high), None where open", value)
            found += [(str(name), sign, [v]) for sign, v in zip((">=", "<="), value) if v is not None]
        else:
            several = list(value) if isinstance(value, (list, set, frozenset)) else [value]
            require(len(several) > 0, f"where, {name}", "a value", "an empty list")
            found.append((str(name), "=", several))
    return found


def _set(column: Column, sign: str, values: Sequence[Any]) -> tuple[Interval, ...]:
    """The values v of a column with v `sign` one of the values."""
    whole = column.type != "real"
    if sign not in ("=", "!="):
        require(not column.unordered, f"where, {column.name}", f"= or !=, as its type is {column.type}", sign)
        require(len(values) == 1, f"where, {column.name}", f"one value after {sign}", _joined(values))
    numbers = sorted(_number(column, value) for value in values)
    odd = [v for v in numbers if whole and v != round(v) and sign in ("=", "!=")]
    require(not odd, f"where, {column.name}", "a whole number", odd)

    def next_to(v: float, way: int) -> float:
        """The value after v, upwards (1) or downwards (−1)."""
        return math.nextafter(v, way * math.inf) if not whole else math.floor(v) + 1.0 if way > 0 else math.ceil(v) - 1.0

    if sign == "=":
        return tuple((v, v) for v in dict.fromkeys(numbers))
    if sign == "!=":
        kept = EVERYTHING
        for v in numbers:
            kept = _meet(kept, ((-math.inf, next_to(v, -1)), (next_to(v, 1), math.inf)))
        return kept
    (v,) = numbers
    below, above = next_to(v, -1) if sign == "<" else v, next_to(v, 1) if sign == ">" else v
    return ((-math.inf, below),) if "<" in sign else ((above, math.inf),)


def _number(column: Column, value: Any) -> float:
    """A value as the column's code or number."""
    where = f"where, {column.name}"
    if column.type == "boolean":
        alike = {c.lower(): c for c in column.categories}
        value = alike.get(str(value).lower(), value)
    if column.categories:
        known = str(value)
        if known not in column.categories:
            listed = one_line(", ".join(column.categories), 100)
            near = nearest(known, column.categories)
            raise InputError(f"{where}: expected one of {listed}, got {one_line(known, 60)!r}{near}")
        return float(column.categories.index(known))
    if column.calendar is not None:
        return float(column.encode([value], where)[0])
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: expected a number, got {one_line(value, 60)!r}") from None
    require(math.isfinite(number), where, "a finite number", value)
    return number


def _meet(a: Sequence[Interval], b: Sequence[Interval]) -> tuple[Interval, ...]:
    both = ((max(p[0], q[0]), min(p[1], q[1])) for p in a for q in b)
    return tuple(sorted((low, high) for low, high in both if low <= high))


# --- cells of marginals -------------------------------------------------------------------------------------------------


class Pieces:
    """What a region leaves of the cells of columns' marginals.

    Arguments:
        region: over a space whose coding is `Marginals`.

    Attributes:
        log_share: (columns, most symbols) log P(allowed | cell); where a real column is held at values without mass, their
            densities there, up to a constant.
        density: whether a column is so held.
    """

    def __init__(self, region: Region) -> None:
        coding = region.space.coding
        assert isinstance(coding, Marginals)
        self.coding, self.density = coding, False
        self.log_share = torch.zeros_like(coding.mass)
        self.parts: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for i, intervals in region.allowed.items():
            ends = torch.tensor(intervals, dtype=torch.float64).T  # (2, J)
            size = coding.sizes[i]
            low, high = coding.low[i, :size, None], coding.high[i, :size, None]
            first, last = torch.maximum(low, ends[0]), torch.minimum(high, ends[1])  # (S, J)
            whole = bool(coding.whole[i])
            first, last = (first.ceil(), last.floor()) if whole else (first, last)
            length = torch.where(low == high, 1.0, last - first + whole) / torch.where(low == high, 1.0, high - low + whole)
            share = torch.where(last >= first, length, 0)
            if not (share > 0).any():
                share, self.density = (last >= first) / torch.where(low == high, 1.0, high - low), True
            self.parts[i] = first, last, share
            self.log_share[i, :size] = share.sum(1).log()

    def values(self, symbols: Tensor, noise: Noise) -> Tensor:
        """Values (B, columns) of cells, uniform in what is allowed of each."""
        x = self.coding.values(symbols, noise)
        t = noise.uniform(len(self.coding.sizes)).double()
        for i, (first, last, share) in self.parts.items():
            cell = symbols[:, i]
            ends = share[cell].cumsum(1)
            place = t[:, i, None] * ends[:, -1:]
            j = torch.searchsorted(ends, place, right=True).clamp(max=ends.shape[1] - 1)
            part = share[cell].gather(1, j)
            rest = ((place - ends.gather(1, j) + part) / part).clamp(0, 1)
            low, high = (v[cell].gather(1, j) for v in (first, last))
            inside = low + rest * (high - low)
            if self.coding.whole[i]:
                inside = torch.minimum(low + (rest * (high - low + 1)).floor(), high)
            x[:, i] = inside[:, 0]
        return x


def pieces_of(region: Region) -> Pieces | None:
    """What a region leaves of cells; None where the space has no such cells, or samples go beyond them."""
    coding = region.space.coding
    if not isinstance(coding, Marginals) or any(bool(coding.open[:, i].any()) for i in region.allowed):
        return None
    return Pieces(region)
