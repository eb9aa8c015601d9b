"""Named columns of one length, whoever read them, and the space that fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.data.column_types import ColumnType
from likeli.data.infer import Fitted, Kind, fit_space, fit_table, place, refuse_constant
from likeli.errors import InputError, nearest, require
from likeli.spaces import Calendar, Dtype
from likeli.spaces.dates import are_dates, as_moments
from likeli.spaces.table import NAMED, WORDS, encode_column, texts_of

Cells = np.ndarray | list[str | None]
MAX_CATEGORIES = 1000
FEWEST_TEXTS = 30  # rows from which texts that mostly differ are thought to identify them
FEWEST_WHOLE = 20  # rows from which decimals that are all whole are no chance: a tenth each, where there is one digit
FEW_CODES = 20  # whole numbers, up to which they may be codes


@dataclass
class Frame:
    """Named columns of one length.

    Arguments:
        names: distinct.
        columns: float64 with NaN for missing, datetime64 with NaT (in UTC where there is a zone), or texts with None.
        whole: whether a column of numbers was written as whole numbers.
        lines: the line of the file of each row.
        warnings: what was odd.
        zones: that columns of dates are shown in, by name.
        named: columns whose values are names, whatever they look like.
        said: what the user says of columns, by name.
        dtypes: of the data frame that it was, by name.
        reasons: why a column's type is what it is, by name, once it is known.
    """

    names: list[str]
    columns: list[Cells]
    whole: list[bool]
    lines: Sequence[int] | None = None
    warnings: list[str] = field(default_factory=list)
    zones: dict[str, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    said: dict[str, ColumnType] = field(default_factory=dict)
    dtypes: dict[str, Dtype] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = list(self.names)  # as it was read, columns that are taken out too

    @classmethod
    def of_matrix(cls, x: Tensor) -> Frame:
        """The columns x0, x1, … of rows (N, columns) of numbers; whole ones are such, however they are stored."""
        columns = list(x.double().numpy().T)
        whole = [not x.is_floating_point()] * len(columns)
        return cls([f"x{i}" for i in range(len(columns))], columns, whole)

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    @classmethod
    def joined(cls, parts: Sequence[Frame]) -> Frame:
        """Frames of the same columns under each other; a column has the type of a data frame that all of them say."""
        columns = [_end_to_end(cells) for cells in zip(*(part.columns for part in parts))]
        whole = [all(known) for known in zip(*(part.whole for part in parts))]
        first = parts[0]
        dtypes = {k: v for k, v in first.dtypes.items() if all(k in p.dtypes and vars(p.dtypes[k]) == vars(v) for p in parts)}
        zones = {name: zone for part in parts for name, zone in part.zones.items() if zone or name in first.zones}
        return cls(first.names, columns, whole, None, first.warnings, zones, dtypes=dtypes)

    def rows(self, index: np.ndarray | None = None) -> Frame:
        """These rows of it, or all, as they were read."""
        index = np.arange(len(self)) if index is None else index
        columns = [[c[i] for i in index] if isinstance(c, list) else c[index] for c in self.columns]
        return Frame(
            list(self.names), columns, list(self.whole), None, list(self.warnings), dict(self.zones), dtypes=dict(self.dtypes)
        )

    def pop(self, name: str, what: str) -> Cells:
        """Take the column `name` out.

        Raises:
            InputError: there is none; the nearest is suggested.
        """
        if name not in self.names:
            listed = ", ".join(self.names[:20]) + (", …" if len(self.names) > 20 else "")
            raise InputError(f"{what}: no column {name!r}; it has {listed}{nearest(name, self.names)}")
        i = self.names.index(name)
        del self.names[i], self.whole[i]
        self.said.pop(name, None)
        column = self.columns.pop(i)
        return self._dates_as_texts(name, column) if _dated(column) else column

    def by_name(self) -> dict[str, Any]:
        """Columns as a space with names takes them: times with a zone in it."""
        columns: dict[str, Any] = dict(zip(self.names, self.columns))
        zoned = {name: zone for name, zone in self.zones.items() if zone and name in columns}
        return columns | {name: Calendar("us", zone).series(columns[name]) for name, zone in zoned.items()}

    def _dates_as_texts(self, name: str, column: Any) -> list[str | None]:
        calendar = Calendar.found(column, self.zones.get(name, ""))
        return calendar.texts(calendar.units(column))

    def say(self, types: dict[str, ColumnType], what: str) -> None:
        """Take what is said of columns: those to drop are left out, names become texts, codes that are numbers become such.

        Raises:
            InputError: there is no such column, or its values are not of the type.
        """
        for name, said in types.items():
            if name not in self.names:
                raise InputError(f"{what}: no column {name!r} to take as {said.type or 'bounded'}{nearest(name, self.names)}")
            if said.type == "drop":
                self.pop(name, what)
                continue
            i, self.said[name] = self.names.index(name), said
            column = self.columns[i]
            if said.type in (*NAMED, "text"):
                self.named.add(name)
                if not isinstance(column, list):
                    self.columns[i] = self._dates_as_texts(name, column) if _dated(column) else texts_of(column.tolist())
                    self.whole[i] = False
            elif said.type in ("real", "integer"):
                require(not _dated(column), f"{what}, column {name}", "numbers", "dates")
                self.columns[i] = numbers = self._numbers(name, column, what)
                odd = np.flatnonzero((numbers != np.round(numbers)) & ~np.isnan(numbers))
                at = f"{numbers[odd[0]]:g} at {place(int(odd[0]), self.lines)}" if len(odd) else ""
                require(not at or said.type == "real", f"{what}, column {name}", "whole numbers, as its type is integer", at)
                self.whole[i] = said.type == "integer"

    def _numbers(self, name: str, column: Any, what: str) -> np.ndarray:
        """A column as numbers, texts such as 02134 too.

        Raises:
            InputError: a text that is none; its place is named.
        """
        numbers = np.full(len(column), np.nan)
        for row, value in enumerate(column):
            try:
                numbers[row] = np.nan if value is None else float(value)
            except ValueError:
                at = f"{str(value)[:40]!r} at {place(row, self.lines)}"
                raise InputError(f"{what}, column {name}: expected numbers, got {at}") from None
        return numbers

    def find_dates(self, what: str) -> dict[str, Calendar]:
        """The calendars of the columns of dates, by name; texts of which most are dates become dates.

        Raises:
            InputError: a text among dates, a date that is not in the calendar, or a time zone in some rows only.
        """
        for i, name in enumerate(self.names):
            column, meant = self.columns[i], name in self.said and self.said[name].type == "date"
            require(not meant or isinstance(column, list) or _dated(column), f"{what}, column {name}", "dates", "numbers")
            if isinstance(column, list) and name not in self.named and (meant or are_dates(column)):
                where = f"{what}, column {name}"
                row = next((k for k, text in enumerate(column) if text is not None and not are_dates([text])), None)
                got = f"{str(column[row or 0])[:40]!r} at {place(row or 0, self.lines)}"
                require(row is None, where, "dates such as 2020-12-31, or to find the column in categorical", got)
                self.columns[i], self.zones[name] = as_moments(column, where, lambda row: place(row, self.lines))
        dated = {name: column for name, column in zip(self.names, self.columns) if _dated(column)}
        calendars = {name: Calendar.found(column, self.zones.get(name, "")) for name, column in dated.items()}
        for name, calendar in calendars.items():
            ends = (f.reduce(dated[name]).astype(f"M8[{calendar.unit}]") for f in (np.fmin, np.fmax))
            told = f"dates were taken as whole {calendar}, {' to '.join(map(str, ends))}, so log p is of a mass for each"
            self.warnings.append(f"{what}: column {name}: {told}" + "; what is finer was cut off" * (calendar.unit == "us"))
        return calendars

    def matrix(self, what: str) -> Tensor:
        """All columns as numbers, (rows, columns) float64.

        Raises:
            InputError: a column of texts; its first text is named.
        """
        for name, column in zip(self.names, self.columns):
            if isinstance(column, list) or _dated(column):
                row = next((i for i, v in enumerate(column) if v is not None and v == v), 0)
                where = f"{what}: {place(row, self.lines)}, column {name}"
                raise InputError(f"{where}: expected a number, got {str(column[row])[:40]!r}")
        return torch.from_numpy(np.stack(self.columns, 1)) if self.columns else torch.empty(len(self), 0)


def _end_to_end(cells: Sequence[Cells]) -> Cells:
    """Parts of one column under each other; one of missing dates only is a list of None."""
    if all(isinstance(part, list) for part in cells):
        return [v for part in cells for v in part]
    return np.concatenate([np.full(len(part), "NaT", "M8[us]") if isinstance(part, list) else part for part in cells])


def _dated(column: Cells) -> bool:
    return isinstance(column, np.ndarray) and column.dtype.kind == "M"


def fit_frame(frame: Frame, train: Tensor, kind: str | None, what: str) -> Fitted:
    """The space of a frame: reals when every column is real, a table when some are whole numbers or texts, or have bounds.

    Raises:
        InputError: texts under a kind of numbers; too many categories; texts that identify rows; a bound crossed.
    """
    require(len(frame.names) > 0, what, "at least one column", "none")
    if kind not in (None, "table"):
        require(not frame.said, "types", "a table, whose columns have types", f"kind={kind}")
        fitted = fit_space(frame.matrix(what), train, kind, what, tuple(frame.names), frame.lines)
    else:
        kinds = column_kinds(frame, what)
        if kind is None and all(k.type == "real" and k.limits == (None, None) for k in kinds):
            fitted = fit_space(frame.matrix(what), train, "real", what, tuple(frame.names), frame.lines)
        else:
            cells = [_cells(c, k, f"{what}, column {n}") for n, c, k in zip(frame.names, frame.columns, kinds)]
            fitted = fit_table(torch.from_numpy(np.stack(cells, 1)), train, frame.names, kinds, what, frame.lines)
            refuse_constant(fitted.x, what, fitted.space.names)
    fitted.warnings = frame.warnings + fitted.warnings
    return fitted


def column_kinds(frame: Frame, what: str, *, texts: bool = False) -> list[Kind]:
    """What each column is: as it is said, else as its values look; why goes into `frame.reasons`.

    Arguments:
        texts: whether columns of texts that identify rows stay, as categories of no name, or are refused.

    Raises:
        InputError: a column of other values than is said, or of texts that identify rows.
    """
    calendars = frame.find_dates(what)
    kinds, kind = list[Kind](), None
    for i, (name, column) in enumerate(zip(frame.names, frame.columns)):
        said, where = frame.said.get(name, ColumnType()), f"{what}, column {name}"
        if name in calendars:
            kind, why = Kind("date", calendar=calendars[name]), f"dates, whole {calendars[name]}"
        elif isinstance(column, list):
            kind, why = _of_texts(frame, name, column, said, where)
            if kind is None:
                if not texts:
                    hint = f"types={{{name!r}: 'drop'}} (--types {name}=drop) leaves it out" + _other_ways(column)
                    raise InputError(f"{where}: expected texts that rows share, got {why}, which identify rows; {hint}")
                kind = Kind("categorical")
        else:
            frame.whole[i], why = _is_whole(frame, i, what)
            kind = Kind("integer" if frame.whole[i] else "real")
        frame.reasons[name] = "as given" if said.type else why
        limits = tuple(_limit(end, kind, where) for end in said.limits)
        kinds.append(replace(kind, limits=(limits[0], limits[1]), dtype=frame.dtypes.get(name)))
    return kinds


def _limit(end: Any, kind: Kind, where: str) -> Any:
    """A bound as the number that it is in the column."""
    if end is None or end == "open":
        return end
    require(not kind.categories, where, f"no bounds, as its type is {kind.type}", end)
    if kind.calendar is not None:
        return float(kind.calendar.encode([end], f"{where}, bound")[0])
    require(isinstance(end, float), where, "a number as its bound", end)
    require(kind.type == "real" or end == round(end), where, "a whole number as its bound", end)
    return end


def _is_whole(frame: Frame, i: int, what: str) -> tuple[bool, str]:
    """Whether a column holds whole numbers only, often stored as decimals beside missing cells or others; and why."""
    column, said = frame.columns[i], frame.said.get(frame.names[i], ColumnType()).type
    if said in ("real", "integer"):
        return said == "integer", "as given"
    assert isinstance(column, np.ndarray)
    found = "whole numbers"
    if not frame.whole[i]:
        gone = np.isnan(column.sum())  # a sum is cheaper than a mask, for the many columns without a gap
        seen = column[~np.isnan(column)] if gone else column
        enough = len(seen) > (1 if gone else FEWEST_WHOLE - 1)
        if not (enough and bool((seen == np.round(seen)).all()) and np.ptp(seen) > 1):
            return False, "numbers with decimals" if len(seen) and (seen != np.round(seen)).any() else "numbers"
        found = "whole numbers beside missing cells" if gone else "whole numbers stored as decimals"
        how = "were taken as integers, which have a mass; kind='real' takes reals"
        frame.warnings.append(f"{what}: column {frame.names[i]}: {found} {how}")
    different = len(np.unique(column[~np.isnan(column)]))
    offer = f", {different} different; categorical or boolean if they are codes" if different <= FEW_CODES else ""
    return True, found + (offer or ", all different: drop it if it counts rows" * (different == len(column)))


def _of_texts(frame: Frame, name: str, column: list[str | None], said: ColumnType, where: str) -> tuple[Kind | None, str]:
    """The categories of a column of texts and why, or no kind where the texts identify rows."""
    known, dtype = set(column) - {None}, frame.dtypes.get(name)
    require(len(known) > 0, where, "at least one value", "missing cells only; drop the column")
    texts: Any = sorted(map(str, known))
    present = sum(v is not None for v in column)
    many = len(known) > MAX_CATEGORIES or (present >= FEWEST_TEXTS and 2 * len(known) > present)
    ordered = dtype is not None and dtype.ordered
    declared = "categorical" if dtype is not None and dtype.name == "category" else None
    logical = {t.lower() for t in texts} <= {"false", "true"}
    kind: Any = said.type or ("boolean" if logical and not ordered else declared)
    if kind == "text" or (kind is None and many):
        return None, f"{len(known):,} different texts in {present:,} rows"
    kind = kind or "categorical"
    if said.categories is not None:
        odd = next((i for i, v in enumerate(column) if v is not None and v not in said.categories), None)
        got = f"{str(column[odd or 0])[:40]!r} at {place(odd or 0, frame.lines)}{nearest(column[odd or 0], said.categories)}"
        require(odd is None, where, f"one of {', '.join(said.categories)[:100]}", got)
        texts = said.categories
    elif kind == "ordinal":
        numbers = all(_is_number(t) for t in texts)
        require(ordered or numbers, where, "categories from the least to the most, as its type is ordinal", "none")
        texts = [c for c in dtype.categories if c in known] if dtype and ordered else sorted(texts, key=float)
    elif kind == "boolean":
        texts = WORDS if set(texts) <= set(WORDS) else sorted(texts, key=str.lower)
        require(len(texts) == 2, where, "two values, as its type is boolean", ", ".join(texts)[:80])
    require(len(texts) <= MAX_CATEGORIES, where, f"at most {MAX_CATEGORIES} categories", f"{len(texts)}; drop the column")
    counts = "" if kind == "ordinal" else "; ordinal if its order is to count"
    how = f"an ordered category{counts}" if ordered else "False and True" if kind == "boolean" else "texts"
    return Kind(kind, tuple(texts)), how + f", {len(texts)} different" * (kind != "boolean")


def _other_ways(column: Sequence[str | None]) -> str:
    """What else can be said of texts that identify rows."""
    seen = {v for v in column if v is not None}
    ways = ["'integer' takes it without the zeros in front"] * all(v.isdecimal() for v in seen)
    return "".join(f", {way}" for way in ways + ["'categorical' takes it as it is"] * (len(seen) <= MAX_CATEGORIES))


def _cells(column: Cells, kind: Kind, where: str) -> np.ndarray:
    if kind.calendar is not None:
        return kind.calendar.units(column)
    return encode_column(column, kind.categories, where) if kind.categories else np.asarray(column)


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False
