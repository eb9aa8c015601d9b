"""Tables in files and in memory: named columns of numbers and texts, before it is known what they are.

A cell is missing when it is blank, NA, nan, ? or null.  pandas reads a .csv; where it is laxer than a table should be (quotes,
rows that may be short) a strict pass follows, so that every error names the line of the file and the column.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import io
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from likeli.data.columns import as_written
from likeli.data.frame import Cells, Frame
from likeli.data.readers.npy import memory_limit, open_regular, read_utf8
from likeli.errors import InputError, LikeliError, MissingExtra, require
from likeli.spaces import Dtype
from likeli.spaces.arrays import pandas_column
from likeli.spaces.dates import as_moments
from likeli.spaces.table import MISSING_TEXT, texts_of

MAX_COLUMNS = 50_000
WHOLE = re.compile(r"[+-]?[0-9]+")
CODE = re.compile(r"0[0-9]+")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


def from_pandas(frame: Any, what: str) -> Frame:
    """A pandas DataFrame; text, category and bool columns become texts, columns of dates or times datetime64.

    Raises:
        InputError: a column of complex numbers or other objects, a date outside the calendar.
    """
    columns, whole, zones = list[Cells](), list[bool](), dict[str, str]()
    dtypes = dict[str, Dtype]()
    names, odd_names = _distinct([str(c) for c in frame.columns], what)
    for i, name in enumerate(names):
        series = frame.iloc[:, i]
        kind = getattr(series.dtype, "kind", "O")
        dtypes[name] = _dtype_of(series, kind)
        if str(series.dtype) == "category" or kind == "b":
            columns.append(texts_of(series.astype(object)))
        elif kind == "M" or (kind == "O" and isinstance(next(iter(series.dropna()), None), datetime.date)):
            moments, zones[name] = as_moments(series, f"{what}, column {name}")
            columns.append(moments)
        elif kind == "O":
            odd = next((v for v in series.dropna() if not isinstance(v, (str, bool, int))), None)
            require(odd is None, f"{what}, column {name}", "numbers, dates or texts", type(odd).__name__)
            columns.append(texts_of(series))
        else:
            columns.append(pandas_column(series, f"{what}, column {name}").astype(np.float64))
        whole.append(kind in "iu")
    return Frame(names, columns, whole, None, odd_names, zones, dtypes=dtypes)


def _dtype_of(series: Any, kind: str) -> Dtype:
    """What `Table.frame` needs to give a column back as it was."""
    dtype = series.dtype
    if str(dtype) == "category":
        listed = dtype.categories
        return Dtype("category", tuple(str(t) for t in texts_of(listed.astype(object))), str(listed.dtype), bool(dtype.ordered))
    first = next(iter(series.dropna()), None) if kind == "O" else None
    dates = isinstance(first, datetime.date) and not isinstance(first, datetime.datetime)
    return Dtype("date" if dates else str(dtype))


def _distinct(given: list[str], what: str) -> tuple[list[str], list[str]]:
    """(the names, a repeated one with `.2`, `.3` … and an empty one with its position; what was odd of them)."""
    seen, names = Counter[str](), list[str]()
    for i, name in enumerate(given):
        name = name or f"column{i + 1}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    if len(set(names)) < len(names):
        names = [f"{name}#{i + 1}" for i, name in enumerate(given)]
    twice = ", ".join(sorted(n for n, count in Counter(given).items() if n and count > 1)[:5])
    odd = [f"{what}: column {given.index('') + 1} has no name; if it is an index, drop it"] if "" in given else []
    return names, odd + [f"{what}: duplicate header {twice}; the later ones were numbered"] * bool(twice)


def read_csv(path: str | Path) -> Frame:
    """A .csv (commas) or .tsv (tabs) file with a header line; a first line of numbers only is taken as a row.

    Raises:
        InputError: ragged, not UTF-8, semicolons, decimal commas, infinite numbers, texts among numbers; with line and column.
    """
    what, delimiter = str(path), "\t" if str(path).lower().endswith(".tsv") else ","
    with open_regular(path) as opened:
        plain = all(chunk.isascii() and not any(c in chunk for c in b'\0\r"') for chunk in _chunks(opened))
        content = b"" if plain else read_utf8(path).replace(codecs.BOM_UTF8, b"")  # some stand between files put together
        file = opened if plain else io.BytesIO(content)
        file.seek(0)
        header, *first = list(islice((row for _, row in _records(file, 1, delimiter, what) if row), 2)) or [[]]
        require(bool(header), what, "a header line", "no lines")
        _check_delimiter(header, first[0] if first else [], delimiter, what)
        file.seek(0)
        next(row for _, row in _records(file, 1, delimiter, what) if row)
        require(len(header) <= MAX_COLUMNS, what, f"at most {MAX_COLUMNS:,} columns", f"{len(header):,}")
        names, notes = _distinct([cell.strip() for cell in header], what)
        start = file.tell()
        if all(_number(cell.strip()) is not None for cell in header):
            names, start = [f"column{i + 1}" for i in range(len(header))], 0
            notes = [f"{what}: the first line holds numbers only, so it was taken as a row; columns are column1, column2, …"]
        lines, series = _body(file, content, start, delimiter, len(names), what)
    typed = [_typed(column, name, lines, what, notes) for name, column in zip(names, series)]
    return Frame(names, [c for c, _ in typed], [w for _, w in typed], lines, notes)


def _chunks(file: IO[bytes], start: int = 0) -> Iterator[bytes]:
    file.seek(start)
    return iter(lambda: file.read(2**16), b"")


def _records(file: Iterable[bytes], line: int, delimiter: str, what: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row from line `line` on; a blank one has no fields."""
    before, reader = line, csv.reader((text.decode() for text in file), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield line, row
            line = before + reader.line_num
    except csv.Error as error:
        raise InputError(f"{what}: line {line}: {str(error)[:100]}; check its quotes and long cells") from error


def _check_delimiter(header: list[str], first: list[str], delimiter: str, what: str) -> None:
    """Refuse one column whose header, and for spaces and bars the first row too, would fall apart at another delimiter."""
    alone = len(header) == 1 and len(first) <= 1
    other = next((d for d in (";", "\t", ",") if d != delimiter and len(header) == 1 and header[0].count(d)), None)
    if other is None and alone and first:
        parts = {d: (header[0].strip().split(d), first[0].strip().split(d)) for d in ("|", " ")}
        numbers = {d for d, (_, row) in parts.items() if all(_number(v) is not None for v in row)}
        other = next((d for d, (a, b) in parts.items() if len(a) == len(b) > 1 and d in numbers), None)
    name = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars (|)", " ": "spaces"}
    hint = "name it .tsv" if other == "\t" else "save it with commas, and with decimal points"
    require(other is None, what, f"fields separated by {name[delimiter]}", f"{name.get(other or '', '')}; {hint}")


def _body(
    file: IO[bytes], content: bytes, start: int, delimiter: str, width: int, what: str
) -> tuple[Sequence[int], list[Any]]:
    """The line of each row below the header, which ends at byte `start`, and the columns as pandas took them.

    pandas refuses a row that is longer than those before it and fills up a shorter one.  Without quotes, then, all rows are
    sound if the first one is and there are as many delimiters as cells want, which no gap in the last column says sooner.

    Arguments:
        file: at the path `what`, or its content as `read_utf8` mends it.
        content: the same, empty for a file that needs no mending: pandas takes its path, and several threads if it likes.
    """
    import pandas

    def parse(**options: Any) -> Any:
        file.seek(start)
        straight = not content and line <= 2
        source, header = os.path.abspath(what) if straight else file, 0 if straight and line == 2 else None
        if tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1):
            options["float_precision"] = "round_trip"  # the default since then
        form = dict(sep=delimiter, header=header, names=range(width), index_col=False, skip_blank_lines=False)
        with warnings.catch_warnings(action="ignore"):  # of columns whose blocks differ in type, which are read again below
            return pandas.read_csv(source, na_values=list(MISSING_TEXT), keep_default_na=False, **form, **options)

    file.seek(0)
    line, first, comma, sound = file.read(start).count(b"\n") + 1, file.readline(), delimiter.encode(), False
    kept: Any = slice(None)
    if first and first.count(comma) == width - 1 and b'"' not in content:
        with suppress(pandas.errors.ParserError):
            frame = parse()
            lines: Sequence[int] = range(line, line + len(frame))
            last = frame[width - 1]
            gap = last.hasnans or (last.dtype.kind == "O" and (last == "").any())  # the latter beside a huge whole number
            commas = sum(chunk.count(comma) for chunk in _chunks(file, start)) if gap else 0
            sound = not gap or (width > 1 and commas == len(frame) * (width - 1))
    if not sound:
        file.seek(start)
        lines, kept = _strict(file, line, delimiter, width, what)
        frame = parse()
    zeros = _has_leading_zero(_chunks(file, start))  # a code such as 02134 is no number
    again = [i for i in range(width) if not _is_certain(frame[i]) or (zeros and frame[i].dtype.kind in "iu")]
    texts = parse(usecols=again, dtype=str) if again else frame
    return lines, [(texts if i in texts else frame)[i][kept] for i in range(width)]


def _strict(file: Iterable[bytes], line: int, delimiter: str, width: int, what: str) -> tuple[list[int], list[bool]]:
    """The line of each row that is not blank, and which rows are not.

    Raises:
        InputError: a row of another width, faulty quotes, blank rows only; the line is named.
    """
    lines, kept = list[int](), list[bool]()
    for at, row in _records(file, line, delimiter, what):
        if row and len(row) != width:
            raise InputError(f"{what}: line {at} has {len(row)} field{'s' * (len(row) != 1)}, expected {width}")
        kept.append(bool(row))
        lines += [at] * bool(row)
    require(len(lines) > 0, what, "rows of data", "a header only")
    return lines, kept


def _has_leading_zero(chunks: Iterable[bytes]) -> bool:
    """Whether a cell may begin with 0 and another digit, in chunks of a file that follow a line's end.

    Whatever stands before a cell (a comma, a tab, a quote, a line's end) has a code below 45, that of the minus.
    """
    before = b"\n"
    for chunk in chunks:
        a = np.frombuffer(before + chunk, np.uint8)
        if ((a[:-2] < 45) & (a[1:-1] == 48) & (a[2:] - 48 < 10)).any():  # bytes wrap around
            return True
        before = (before + chunk)[-2:]
    return False


def _is_certain(column: Any) -> bool:
    """Whether what pandas took a column for needs no look at its texts: whole numbers, fractions or texts."""
    if column.dtype.kind == "f":
        numbers = column.to_numpy()
        return bool((np.floor(numbers) < numbers).any())  # else 1.0 may have been written as 1 beside a gap
    return column.dtype.kind in "iu" or column.dtype == "str"


def _typed(column: Any, name: str, lines: Sequence[int], what: str, notes: list[str]) -> tuple[Cells, bool]:
    """(numbers, whether all were written as whole ones) or (texts, False); what may surprise goes into `notes`.

    Raises:
        InputError: an infinite number, a cell that is too long, texts among numbers; the line is named.
    """
    import pandas

    if column.dtype.kind in "iuf":
        numbers, whole = column.to_numpy(np.float64), column.dtype.kind != "f"
    else:
        codes, found = pandas.factorize(column)  # −1 is a missing cell; the texts stand in the order of their first row
        texts = [None if (text := as_written(cell.strip())) in MISSING_TEXT else text for cell in found]
        values = [math.nan if text is None else _number(text) for text in texts]
        coded = any(text is not None and CODE.fullmatch(text) for text in texts)
        if coded:
            return np.array([*texts, None], object)[codes].tolist(), False
        if None in values:
            _refuse_errors(codes, texts, values, lambda row: f"{what}: line {lines[row]}", name)
            return np.array([*texts, None], object)[codes].tolist(), False
        numbers, whole = np.array([*values, math.nan])[codes], all(text is None or WHOLE.fullmatch(text) for text in texts)
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        where, value = f"{what}: line {lines[infinite[0]]}, column {name}", numbers[infinite[0]]
        raise InputError(f"{where} is {value:g} or overflows; expected a finite number")
    return numbers, whole


def _refuse_errors(
    codes: np.ndarray, texts: list[str | None], values: list[float | None], line: Callable[[int], str], name: str
) -> None:
    """Refuse a text that is too long, and texts where most cells are numbers or all are decimal commas."""
    limit = csv.field_size_limit()
    long = next((k for k, text in enumerate(texts) if text and len(text) > limit), None)
    if long is not None:
        where = line(int((codes == long).argmax()))
        raise InputError(f"{where}: field larger than field limit ({limit}); check its quotes and long cells")
    odd = np.array([v is None for v in values])
    counts = np.bincount(codes[codes >= 0], minlength=len(texts)) * [text is not None for text in texts]
    strange = [str(text) for text, value in zip(texts, values) if value is None]
    if all(map(DECIMAL_COMMA.fullmatch, strange)) or counts[odd].sum() < counts.sum() / 2:
        hint = "; write numbers with a decimal point and no thousands separator" if "," in strange[0] else ""
        where = f"{line(int((codes == odd.argmax()).argmax()))}, column {name}"
        raise InputError(f"{where}: expected a number, got {strange[0][:40]!r}{hint}")


def _number(text: str) -> float | None:
    """The number that a stripped text stands for, NaN for a missing cell, None for a text."""
    if text in MISSING_TEXT:
        return math.nan
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


@contextmanager
def open_parquet(path: str | Path, *, whole: bool = True) -> Iterator[Any]:
    """The pyarrow ParquetFile of a .parquet file, which reads a part of a row group at a time.

    Arguments:
        whole: whether all of it is to be read at once, so that it has to fit into memory.

    Raises:
        MissingExtra: pyarrow is not installed.
        InputError: damaged, also inside the block, or not a file.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("pyarrow", "data", "reading .parquet files") from error
    try:
        with open_regular(path, whole=whole) as file:
            found = ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
            columns = found.metadata.num_columns
            require(columns <= MAX_COLUMNS, str(path), f"at most {MAX_COLUMNS:,} columns", f"{columns:,}")
            yield found
    except LikeliError:
        raise
    except Exception as error:  # hostile bytes meet two libraries in many ways
        raise InputError(f"{path}: cannot be read as parquet: {' '.join(str(error).split())[:150]}") from error


def read_parquet(path: str | Path) -> Frame:
    """A .parquet file, through pyarrow.

    Raises:
        MissingExtra: pyarrow is not installed.
        InputError: damaged, or it would unpack to more than fits.
    """
    import pandas

    with open_parquet(path) as found, open_regular(path) as file:
        cells = found.metadata.num_rows * found.metadata.num_columns
        hint = f"{cells:,} cells; files of a folder are read block by block"
        require(cells * 8 <= memory_limit(), str(path), "a table that fits into memory", hint)
        return from_pandas(pandas.read_parquet(file), str(path))
