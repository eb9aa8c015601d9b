"""Rows as named columns, and columns as a .csv that a spreadsheet will not run."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor

from likeli.config import build
from likeli.errors import MissingExtra
from likeli.spaces import Dtype, Space, Table, Tokens

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


def frame_of(
    x: Tensor, space: Space, labels: Mapping[str, list[Any]], about: Mapping[str, Any], *, typed: bool
) -> Any:
    """Samples as a pandas DataFrame, its columns in the order that they had in the data, labels among them.

    Arguments:
        labels: by the name of their column.
        about: what the run says of its data.
        typed: whether columns have the types that they had, or those of a text file.
    """
    import pandas

    if typed:
        rows = pandas.DataFrame(columns_of(x, space)) if isinstance(space, Tokens) else space.frame(x)
        dtype = about.get("label_dtype")
        for name, values in labels.items():
            rows[name] = values if dtype is None else build(dtype, Dtype).series(values)
        rows = rows.set_axis([str(name) for name in rows.columns], axis=1)
    else:
        rows = pandas.DataFrame(columns_of(x, space) | labels, dtype=object)
    known = {*space.names, *labels}
    order = [name for name in about.get("columns") or () if name in known]
    return rows[list(dict.fromkeys([*order, *rows.columns]))]


def write_parquet(path: str | Path, frame: Any) -> None:
    """A pandas DataFrame as a .parquet file, through pyarrow.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    need_pyarrow()
    frame.to_parquet(path, engine="pyarrow", index=False)


def need_pyarrow() -> None:
    """Refuse to write a .parquet file without it.

    Raises:
        MissingExtra: it is not installed.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "data", "writing .parquet files")


def write_part(path: Path, frame: Any, number: int) -> None:
    """A pandas DataFrame as one of the parts, the first of which has the number 0, that `join_parts` makes a table of.

    It is on the disk when this returns.

    Arguments:
        path: of a .parquet file; any other is a .csv.
    """
    if path.suffix.lower() == ".parquet":
        write_parquet(path, frame)
    else:
        path.unlink(missing_ok=True)
        write_csv(path, {name: cells_of(frame[name]) for name in frame.columns}, append=number > 0)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def join_parts(parts: Sequence[Path], path: Path) -> None:
    """One table of what `write_part` wrote, a part at a time in memory: a row group each of a .parquet file.

    A column of which parts have different types gets the narrowest that holds all: integers and reals are reals.
    """
    if path.suffix.lower() != ".parquet":
        with path.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole, 1 << 20)
        return
    import pyarrow
    from pyarrow import parquet

    schemas = [parquet.read_schema(part) for part in parts]
    kinds = pyarrow.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
    known = [(f.name, pyarrow.float64() if f.type == pyarrow.null() else f.type) for f in kinds]  # few readers know null
    schema = pyarrow.schema(known, schemas[0].metadata if all(s.metadata == schemas[0].metadata for s in schemas) else None)
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            writer.write_table(parquet.ParquetFile(part).read().cast(schema, safe=False))


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


def cells_of(column: Any) -> list[Any]:
    """A pandas column as Python values, None for what is missing; whole numbers among averages of such as they were."""
    values = column.astype(object).where(column.notna(), None).tolist()
    widened = str(column.dtype) == "Float64"
    return [int(v) if widened and v is not None and v == int(v) else v for v in values]


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
