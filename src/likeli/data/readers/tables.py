"""Tables in files: strict comma-separated values, and parquet through pandas.

A cell is missing when it is blank, NA, nan, ? or null.  A file is read in blocks of rows, so that a column of numbers never
exists as text as a whole; every error names the line of the file and the column.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from likeli.data.readers.frames import Cells, Frame, distinct, from_pandas
from likeli.data.readers.npy import memory_limit, open_regular, read_text
from likeli.data.readers.text import decode
from likeli.errors import InputError, LikeliError, MissingExtra, require
from likeli.spaces import Space, Table, Tokens
from likeli.spaces.table import MISSING_TEXT

MAX_COLUMNS, BLOCK_ROWS = 50_000, 4096
WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def read_csv(path: str | Path) -> Frame:
    """A .csv (commas) or .tsv (tabs) file with a header line; a first line of numbers only is taken as a row.

    Raises:
        InputError: ragged, not UTF-8, semicolons, decimal commas, infinite numbers, texts among numbers; with line and column.
    """
    text = read_text(path)
    delimiter = "\t" if str(path).lower().endswith(".tsv") else ","
    rows = _rows(text, delimiter, str(path))
    line, header = next(rows, (0, []))
    require(bool(header), str(path), "a header line", "no lines")
    _check_delimiter(header, delimiter, str(path))
    require(len(header) <= MAX_COLUMNS, str(path), f"at most {MAX_COLUMNS:,} columns", f"{len(header):,}")
    headless = all(_number(cell) is not None for cell in header)
    names = distinct([f"column{i + 1}" if headless else cell.strip() for i, cell in enumerate(header)])
    columns, lines = _columns(rows, [(line, header)] if headless else [], names, str(path))
    require(len(lines) > 0, str(path), "rows of data", "a header only")
    return _frame(names, columns, lines, str(path), _header_warnings(header, headless, str(path)))


def _rows(text: str, delimiter: str, what: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row that is not blank."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{what}: line {line}: {str(error)[:100]}; check its quotes and long cells") from error
        if row:
            yield line, row
        line = reader.line_num + 1


def _check_delimiter(header: list[str], delimiter: str, what: str) -> None:
    other = next((d for d in (";", "\t", ",") if d != delimiter and len(header) == 1 and header[0].count(d)), None)
    name = {";": "semicolons", "\t": "tabs", ",": "commas"}
    hint = "name it .tsv" if other == "\t" else "save it with commas, and with decimal points"
    require(other is None, what, f"fields separated by {name[delimiter]}", f"{name.get(other or '', '')}; {hint}")


def _header_warnings(header: list[str], headless: bool, what: str) -> list[str]:
    names = [h.strip() for h in header]
    twice = sorted({n for n in names if n and names.count(n) > 1}) if len(set(names)) < len(names) else []
    if headless:
        return [f"{what}: the first line holds numbers only, so it was taken as a row; columns are column1, column2, …"]
    blank = [f"{what}: column {i + 1} has no name; if it is an index, drop it" for i, n in enumerate(names) if not n][:1]
    return blank + [f"{what}: duplicate header {', '.join(twice[:5])}; the later ones were numbered"] * bool(twice)


class _Column:
    """Blocks of one column: numbers while all cells are numbers or missing, with their texts beside them where not."""

    def __init__(self) -> None:
        self.blocks: list[Cells] = []
        self.whole = True
        self.text = False

    def add(self, cells: Sequence[str]) -> None:
        numbers = _numbers(cells)
        if numbers is None:
            self.text = True
            self.blocks.append([None if (c := cell.strip()) in MISSING_TEXT else c for cell in cells])
        else:
            self.whole = self.whole and all(WHOLE.fullmatch(c) or c.strip() in MISSING_TEXT for c in cells)
            self.blocks.append(numbers)


def _numbers(cells: Sequence[str]) -> np.ndarray | None:
    try:
        numbers = list(map(float, cells))
    except ValueError:
        numbers = list(takewhile(lambda v: v is not None, map(_number, cells)))
        if len(numbers) < len(cells):
            return None
    return None if "_" in "".join(cells) else np.array(numbers)  # float() would read 1_000


def _number(cell: str) -> float | None:
    """The cell's number, NaN where it is missing, None where it is text."""
    text = cell.strip()
    if text in MISSING_TEXT:
        return math.nan
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _columns(
    rows: Iterator[tuple[int, list[str]]], first: list[tuple[int, list[str]]], names: list[str], what: str
) -> tuple[list[_Column], list[int]]:
    columns, lines = [_Column() for _ in names], list[int]()
    block: list[list[str]] = [row for _, row in first]
    lines += [line for line, _ in first]
    for line, row in rows:
        if len(row) != len(names):
            raise InputError(f"{what}: line {line} has {len(row)} field{'s' * (len(row) != 1)}, expected {len(names)}")
        block.append(row)
        lines.append(line)
        if len(block) == BLOCK_ROWS:
            _add(columns, block)
            block = []
    _add(columns, block)
    return columns, lines


def _add(columns: list[_Column], block: list[list[str]]) -> None:
    for column, cells in zip(columns, zip(*block)):
        column.add(cells)


def _frame(names: list[str], columns: list[_Column], lines: list[int], what: str, warnings: list[str]) -> Frame:
    cells: list[Cells] = []
    for name, column in zip(names, columns):
        if column.text:
            cells.append(_as_text(column, name, lines, what))
            continue
        numbers: np.ndarray = np.concatenate(column.blocks)
        bad = np.flatnonzero(np.isinf(numbers))
        if len(bad):
            raise InputError(
                f"{what}: line {lines[bad[0]]}, column {name} is {numbers[bad[0]]:g} or overflows; expected a finite number"
            )
        cells.append(numbers)
    return Frame(names, cells, [c.whole and not c.text for c in columns], lines, warnings)


def _as_text(column: _Column, name: str, lines: list[int], what: str) -> list[str | None]:
    """All cells as text; refused when most of them are numbers, since then the rest are errors."""
    out: list[str | None] = []
    numeric, strange = 0, -1
    for block in column.blocks:
        if isinstance(block, np.ndarray):
            numeric += int((~np.isnan(block)).sum())
            out += [None if v != v else str(int(v)) if v.is_integer() else repr(v) for v in block.tolist()]
            continue
        for cell in block:
            text = cell is not None and _number(cell) is None
            numeric += cell is not None and not text
            strange = len(out) if text and strange < 0 else strange
            out.append(cell)
    present = sum(v is not None for v in out)
    commas = all(v is None or DECIMAL_COMMA.fullmatch(v) or _number(v) is not None for v in out)
    if commas or numeric > present / 2:
        hint = "; write numbers with a decimal point and no thousands separator" if "," in (out[strange] or "") else ""
        cell = repr((out[strange] or "")[:40])
        raise InputError(f"{what}: line {lines[strange]}, column {name}: expected a number, got {cell}{hint}")
    return out


def read_parquet(path: str | Path) -> Frame:
    """A .parquet file, through pandas and pyarrow.

    Raises:
        MissingExtra: they are not installed.
        InputError: damaged, or it would unpack to more than fits.
    """
    try:
        import pandas
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("pandas and pyarrow", "data", "reading .parquet files") from error
    try:
        with open_regular(path) as file:
            info = ParquetFile(file).metadata
            cells = info.num_rows * info.num_columns
            require(info.num_columns <= MAX_COLUMNS, str(path), f"at most {MAX_COLUMNS:,} columns", f"{info.num_columns:,}")
            require(cells * 8 <= memory_limit(), str(path), "a table that fits into memory", f"{cells:,} cells")
            file.seek(0)
            return from_pandas(pandas.read_parquet(file), str(path))
    except LikeliError:
        raise
    except Exception as error:  # hostile bytes meet two libraries in many ways
        raise InputError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())[:150]}") from error


def columns_of(x: Tensor, space: Space) -> dict[str, list[Any]]:
    """Rows (B, *shape) as named columns for a file: a table's categories as text, a text's characters joined."""
    if isinstance(space, Table):
        return space.decode(x)
    if isinstance(space, Tokens):
        return {"text" if space.alphabet else "tokens": decode(x, space)}
    flat = x.reshape(len(x), -1).T.tolist()
    names = space.names if len(space.names) == len(flat) else [f"x{i}" for i in range(len(flat))]
    return dict(zip(names, flat))


def write_csv(path: str | Path, columns: dict[str, Iterable[Any]]) -> None:
    """Columns of one length as a .csv that a spreadsheet will not run: a text that could be a formula gets an apostrophe.

    Floats are written so that they read back to the same bits, missing cells (None, NaN) as nothing.
    """
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_written(name) for name in columns])
        writer.writerows([_written(v) for v in row] for row in zip(*columns.values(), strict=True))


def _written(value: Any) -> Any:
    if value is None or value != value:
        return ""
    return harmless(value).replace("\r", "\n") if isinstance(value, str) else value  # the writer leaves \r unquoted


def harmless(text: str) -> str:
    """The text, with an apostrophe before a first character that makes a spreadsheet compute; plain numbers are left alone."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) and _number(text) is None else text


