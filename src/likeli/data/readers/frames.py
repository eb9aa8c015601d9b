"""Columns of numbers and texts, before it is known what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.data.infer import TOO_LARGE, Fitted, fit_space, fit_table, refuse_constant, table_warnings, too_large
from likeli.errors import InputError, nearest, require
from likeli.spaces import Table
from likeli.spaces.arrays import pandas_column
from likeli.spaces.table import texts_of

MAX_CATEGORIES = 1000
Cells = np.ndarray | list[str | None]


@dataclass
class Frame:
    """Named columns of one length.

    Arguments:
        names: distinct.
        columns: float64 with NaN for missing, or texts with None for missing.
        whole: whether a column of numbers was written as whole numbers.
        lines: the line of the file of each row.
        warnings: what was odd.
    """

    names: list[str]
    columns: list[Cells]
    whole: list[bool]
    lines: list[int] | None = None
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def place(self, row: int) -> str:
        """`line 62` of a file or `row 60` of a frame."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"

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
        return self.columns.pop(i)

    def matrix(self, what: str) -> Tensor:
        """All columns as numbers, (rows, columns) float64.

        Raises:
            InputError: a column of texts; its first text is named.
        """
        for name, column in zip(self.names, self.columns):
            if not isinstance(column, np.ndarray):
                row = next((i for i, v in enumerate(column) if v is not None), 0)
                raise InputError(f"{what}: {self.place(row)}, column {name}: expected a number, got {str(column[row])[:40]!r}")
        return torch.from_numpy(np.stack(self.columns, 1)) if self.columns else torch.empty(len(self), 0)


def from_pandas(frame: Any, what: str) -> Frame:
    """A pandas DataFrame; text, category and bool columns become texts.

    Raises:
        InputError: a column of dates, complex numbers or other objects.
    """
    names, columns, whole = distinct([str(c) for c in frame.columns]), list[Cells](), list[bool]()
    for i, name in enumerate(names):
        series = frame.iloc[:, i]
        kind = getattr(series.dtype, "kind", "O")
        if kind == "O":
            odd = next((v for v in series.dropna() if not isinstance(v, (str, bool, int))), None)
            require(odd is None, f"{what}, column {name}", "numbers or texts", type(odd).__name__)
            columns.append(texts_of(series))
        else:
            columns.append(pandas_column(series, f"{what}, column {name}").astype(np.float64))
        whole.append(kind in "iub")
    warnings = [] if names == [str(c) for c in frame.columns] else [_repeated(what, [str(c) for c in frame.columns])]
    return Frame(names, columns, whole, None, warnings)


def distinct(names: list[str]) -> list[str]:
    """The names, a repeated one with `.2`, `.3` … and an empty one with its position."""
    seen: dict[str, int] = {}
    out = []
    for i, name in enumerate(names):
        name = name or f"column{i + 1}"
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return out if len(set(out)) == len(out) else [f"{n}#{i + 1}" for i, n in enumerate(names)]


def _repeated(what: str, names: list[str]) -> str:
    twice = sorted({n for n in names if names.count(n) > 1})
    return f"{what}: duplicate column names ({', '.join(twice[:5])}) were numbered" if twice else f"{what}: unnamed columns"


def refuse_extreme(frame: Frame, what: str) -> None:
    """Name the first number that is infinite or too large, by its line.

    Raises:
        InputError: there is one.
    """
    for name, column in zip(frame.names, frame.columns):
        bad = np.flatnonzero(np.abs(column) > TOO_LARGE) if isinstance(column, np.ndarray) else np.empty(0, int)
        if len(bad):
            raise InputError(f"{what}: {frame.place(bad[0])}, column {name}: {too_large(column[bad[0]])}")


def fit_frame(frame: Frame, train: Tensor, kind: str | None, what: str) -> Fitted:
    """The space of a frame: reals when every column is real, a table when some are whole numbers or texts.

    Raises:
        InputError: texts under a kind of numbers; too many categories.
    """
    require(len(frame.names) > 0, what, "at least one column", "none")
    refuse_extreme(frame, what)
    texts = any(not isinstance(c, np.ndarray) for c in frame.columns)
    if kind not in (None, "table") or not (texts or any(frame.whole)):
        fitted = fit_space(frame.matrix(what), train, kind or "real", what, tuple(frame.names))
    else:
        fitted = _fit_table(frame, train, what)
    fitted.warnings = frame.warnings + fitted.warnings
    return fitted


def _fit_table(frame: Frame, train: Tensor, what: str) -> Fitted:
    types, categories, cells = [], [], []
    for i, (name, column) in enumerate(zip(frame.names, frame.columns)):
        if isinstance(column, np.ndarray):
            types.append("integer" if frame.whole[i] else "real")
            categories.append(tuple[str, ...]())
            cells.append(column)
        else:
            known = categories_of(column, f"{what}, column {name}")
            codes = {text: float(k) for k, text in enumerate(known)}
            types.append("categorical")
            categories.append(known)
            cells.append(np.array([np.nan if v is None else codes[v] for v in column]))
    x = torch.from_numpy(np.stack(cells, 1))
    space = fit_table(x, train, frame.names, types, categories, what)
    x = space.check(x, what=what, missing=True)
    refuse_constant(x, what, space.names)
    return Fitted(x, space, "table", table_warnings(x, train, space, what))


def categories_of(column: list[str | None], what: str) -> tuple[str, ...]:
    """The distinct texts, sorted.

    Raises:
        InputError: none, or so many that the column is no category.
    """
    known = sorted({v for v in column if v is not None})
    require(len(known) > 0, what, "at least one value", "missing cells only; drop the column")
    require(len(known) <= MAX_CATEGORIES, what, f"at most {MAX_CATEGORIES} categories", f"{len(known)}; drop the column")
    return tuple(known)


def encode_frame(frame: Frame, space: Table, what: str) -> Tensor:
    """The rows of a frame as `space` codes them, columns matched by name.

    Raises:
        InputError: a column is absent, or a category unknown to the space.
    """
    return space.encode(dict(zip(frame.names, frame.columns)), what)
