"""A data frame whose missing cells are filled: everything else of it stays as it was, types and categories too."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from likeli.spaces.base import Space
from likeli.spaces.dates import Calendar
from likeli.spaces.table import texts_of


def filled_frame(given: Any, space: Space, x: Tensor, missing: Tensor) -> Any:
    """A copy of a data frame with the cells `missing` of rows x put in.

    Index, order, columns that the space does not know, and types stay.  A column of whole numbers becomes real only where what
    is put in is not whole; a category is written as the frame writes it, a date as a date or as text.

    Arguments:
        given: the data frame, one line for each row of x.
        space: what a row is.
        x: (B, columns) in the user's units; NaN leaves a cell as it is.
        missing: (B, columns), which cells to fill.
    """
    out, gone = given.copy(), (missing & ~x.isnan()).cpu().numpy()
    nominal = np.zeros(x.shape[1], bool) if space.categorical is None else space.categorical.numpy()
    texts = space.frame(x) if (nominal & gone.any(0)).any() else None
    named = [str(name) for name in given.columns]
    for j, name in enumerate(space.names or named):
        rows, at = np.flatnonzero(gone[:, j]), named.index(name)
        if not len(rows):
            continue
        column = given.iloc[:, at]
        if nominal[j] and texts is not None:
            column = _with_texts(column, rows, [str(t) for t in texts_of(texts.iloc[rows, j])])
        elif j in space.calendars:
            column = _with_dates(column, rows, space.calendars[j], x[:, j].double().cpu().numpy()[rows])
        else:
            column = _with_numbers(column, rows, x[:, j].double().cpu().numpy()[rows])
        out = out.drop(columns=given.columns[at])
        out.insert(at, given.columns[at], column)
    return out


def _with_numbers(column: Any, rows: np.ndarray, values: np.ndarray) -> Any:
    whole = getattr(column.dtype, "kind", "O") in "iu"
    if whole and (values != values.round()).any():
        column, whole = column.astype("Float64"), False
    column = column.copy()
    column.iloc[rows] = values.astype(np.int64) if whole else values
    return column


def _with_dates(column: Any, rows: np.ndarray, calendar: Calendar, values: np.ndarray) -> Any:
    column, dated = column.copy(), getattr(column.dtype, "kind", "O") == "M"
    column.iloc[rows] = calendar.series(values).astype(column.dtype) if dated else calendar.texts(values)
    return column


def _with_texts(column: Any, rows: np.ndarray, texts: list[str]) -> Any:
    """A column in which categories, as the space calls them, are written as the column's other cells write them."""
    seen = column.cat.categories if hasattr(column, "cat") else column.dropna().unique()
    written = {text: value for text, value in zip(texts_of(seen), seen) if text is not None}
    if getattr(column.dtype, "kind", "O") == "b":
        written |= {"True": True, "False": False}
    new = [text for text in dict.fromkeys(texts) if text not in written]
    column = column.cat.add_categories(new) if hasattr(column, "cat") and new else column.copy()
    for text in dict.fromkeys(texts):
        column.iloc[rows[[t == text for t in texts]]] = written.get(text, text)
    return column
