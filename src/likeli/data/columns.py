"""Rows as named columns, and columns as a .csv that a spreadsheet will not run."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor

from likeli.errors import MissingExtra
from likeli.spaces import Space, Table, Tokens

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def columns_of(x: Tensor, space: Space) -> dict[str, list[Any]]:
    """Rows (B, *shape) as named columns for a file: a table's categories as text, a text's characters joined."""
    if isinstance(space, Table):
        return space.decode(x)
    if isinstance(space, Tokens):
        return {"text" if space.alphabet else "tokens": space.decode(x)}
    flat = x.reshape(len(x), -1).T.tolist()
    names = space.names if len(space.names) == len(flat) else [f"x{i}" for i in range(len(flat))]
    return dict(zip(names, flat))


def write_parquet(path: str | Path, frame: Any) -> None:
    """A pandas DataFrame as a .parquet file, through pyarrow.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "data", "writing .parquet files")
    frame.to_parquet(path, engine="pyarrow", index=False)


def write_csv(path: str | Path, columns: dict[str, Iterable[Any]], *, append: bool = False) -> None:
    """Columns of one length as a .csv that a spreadsheet will not run: a text that could be a formula gets an apostrophe.

    Floats are written so that they read back to the same bits, missing cells (None, NaN) as nothing.

    Arguments:
        append: whether the rows come after those of a file that is there, which has the header.
    """
    with Path(path).open("a" if append else "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not append:
            writer.writerow([_written(name) for name in columns])
        writer.writerows(zip(*map(_cells, columns.values()), strict=True))


def _cells(column: Iterable[Any]) -> list[Any]:
    """A column as the writer takes it: numbers as they are, each text looked at once."""
    values = list(column)
    kinds = set(map(type, values))
    if kinds <= {int, float, bool, NoneType}:  # None is written as nothing
        return ["" if v != v else v for v in values] if float in kinds else values
    if kinds <= {str, NoneType}:
        texts = {v: _written(v) for v in set(values)}
        return [texts[v] for v in values]
    return [_written(v) for v in values]


def _written(value: Any) -> Any:
    if value is None or value != value:
        return ""
    return harmless(value).replace("\r", "\n") if isinstance(value, str) else value  # the writer leaves \r unquoted


def as_written(text: str) -> str:
    """A text without the apostrophe that `harmless` put before it."""
    return text[1:] if text.startswith("'") and harmless(text[1:]) == text else text


def harmless(text: str) -> str:
    """The text, with an apostrophe before a first character that makes a spreadsheet compute; plain numbers are left alone."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
