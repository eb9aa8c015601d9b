"""Named columns of one length, whoever read them, and the space that fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.data.infer import Fitted, fit_space, fit_table, guesses, place, refuse_constant
from likeli.errors import InputError, nearest, require
from likeli.spaces import Calendar
from likeli.spaces.dates import are_dates, as_moments
from likeli.spaces.table import encode_column, texts_of

Cells = np.ndarray | list[str | None]
MAX_CATEGORIES = 1000


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
    """

    names: list[str]
    columns: list[Cells]
    whole: list[bool]
    lines: Sequence[int] | None = None
    warnings: list[str] = field(default_factory=list)
    zones: dict[str, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

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

    def as_categories(self, names: Sequence[str], what: str) -> None:
        """Turn columns of numbers or dates into texts, so that they become categories.

        Raises:
            InputError: there is no such column.
        """
        for name in names:
            if name not in self.names:
                raise InputError(f"{what}: no column {name!r} to take as categories{nearest(name, self.names)}")
            i = self.names.index(name)
            if not isinstance(self.columns[i], list):
                column = self.columns[i]
                self.columns[i] = self._dates_as_texts(name, column) if _dated(column) else texts_of(column.tolist())
                self.whole[i] = False
            self.named.add(name)

    def find_dates(self, what: str) -> dict[str, Calendar]:
        """The calendars of the columns of dates, by name; texts of which most are dates become dates.

        Raises:
            InputError: a text among dates, a date that is not in the calendar, or a time zone in some rows only.
        """
        for i, name in enumerate(self.names):
            column = self.columns[i]
            if isinstance(column, list) and name not in self.named and are_dates(column):
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


def _dated(column: Cells) -> bool:
    return isinstance(column, np.ndarray) and column.dtype.kind == "M"


def fit_frame(frame: Frame, train: Tensor, kind: str | None, what: str) -> Fitted:
    """The space of a frame: reals when every column is real, a table when some are whole numbers or texts.

    Raises:
        InputError: texts under a kind of numbers; too many categories.
    """
    require(len(frame.names) > 0, what, "at least one column", "none")
    calendars = frame.find_dates(what) if kind in (None, "table") else {}
    if kind in (None, "table"):
        frame.warnings += guesses(frame.names, frame.columns, frame.whole, what)
    texts = any(isinstance(c, list) for c in frame.columns)
    if kind not in (None, "table") or not (texts or calendars or any(frame.whole)):
        fitted = fit_space(frame.matrix(what), train, kind or "real", what, tuple(frame.names), frame.lines)
    else:
        named = [(column, f"{what}, column {name}") for name, column in zip(frame.names, frame.columns)]
        known = [_categories(column, where) if isinstance(column, list) else () for column, where in named]
        cells = [encode_column(column, k, where) if k else column for k, (column, where) in zip(known, named)]
        cells = [calendars[n].units(cell) if n in calendars else cell for n, cell in zip(frame.names, cells)]
        x = torch.from_numpy(np.stack(cells, 1))
        fitted = fit_table(x, train, frame.names, frame.whole, known, what, frame.lines, calendars)
        refuse_constant(fitted.x, what, fitted.space.names)
    fitted.warnings = frame.warnings + fitted.warnings
    return fitted


def _categories(column: list[str | None], what: str) -> tuple[str, ...]:
    known = sorted({v for v in column if v is not None})
    require(len(known) > 0, what, "at least one value", "missing cells only; drop the column")
    require(len(known) <= MAX_CATEGORIES, what, f"at most {MAX_CATEGORIES} categories", f"{len(known)}; drop the column")
    return tuple(known)
