"""The columns of a table, described: type, gaps, range or categories, shared values, and why the type is what it is."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from likeli.data.annotated import FILE, is_anndata
from likeli.data.column_types import ColumnType, read_types
from likeli.data.dataset import Data
from likeli.data.frame import Frame, column_kinds
from likeli.data.in_files import find_files
from likeli.data.load import load_data, read_source, sample_of_rows, say_types
from likeli.errors import InputError, require
from likeli.spaces import Column, Table


@dataclass(frozen=True)
class ColumnRow:
    """What there is to say of one column of a table.

    Arguments:
        name: of the column.
        type: one of `column_types.TYPES`.
        missing: how many rows have no value.
        values: the range or the categories, in words.
        atoms: exact values with a mass of their own among the training rows, and it.
        reason: of the type.
        said: as a file of types has it.
    """

    name: str
    type: str
    missing: int
    values: str
    atoms: dict[str, float]
    reason: str
    said: ColumnType


def describe_columns(data: Data) -> list[ColumnRow]:
    """A row for each column of a table, or of reals with names."""
    space, gone = data.space, data.x.isnan().sum(0).tolist()
    names = space.names or tuple(f"x{i}" for i in range(space.dimensions))
    columns = space.columns if isinstance(space, Table) else tuple(Column(name) for name in names)
    rows = []
    for i, column in enumerate(columns):
        seen = data.x[:, i][~data.x[:, i].isnan()].double()
        low, high = column.decode([seen.min().item(), seen.max().item()])
        numbers = f"{_short(low)} to {_short(high)}" + "".join(f", {k} {v}" for k, v in _bounds(column).items())
        atoms = column.marginal.atoms if isinstance(space, Table) and not column.categories else {}
        said = ColumnType(column.type, column.categories or None, *(_bounds(column).get(k) for k in ("low", "high")))
        most = sorted(atoms.items(), key=lambda pair: -pair[1])
        shares = {_short(column.decode([value])[0]): mass for value, mass in most}
        values = ", ".join(column.categories) if column.categories else numbers
        rows.append(ColumnRow(column.name, column.type, gone[i], values, shares, data.reasons.get(column.name, ""), said))
    return rows


def _bounds(column: Column) -> dict[str, float | str]:
    ends = zip(("low", "high"), column.marginal.ends, column.marginal.bounds)
    limits = {name: "open" if end == "open" else column.decode([bound])[0] for name, end, bound in ends if end != "observed"}
    return {} if column.categories else {k: float(v) if isinstance(v, int) else v for k, v in limits.items()}


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def load_columns(source: Any, types: Any = None, *, kind: str | None = None, seed: int = 0) -> tuple[Data, list[ColumnRow]]:
    """A table, and what each of its columns is; texts that identify rows are described and not refused.

    Arguments:
        source, types, kind, seed: as for `load_data`.

    Raises:
        InputError: as there; or data without columns.
    """
    said, files = read_types(types), find_files(source)
    annotated = is_anndata(source) or (isinstance(source, (str, os.PathLike)) and FILE.fullmatch(os.fspath(source)))
    require(not annotated, "columns", "a table", "an AnnData, all of whose columns are of one kind")
    split = 0.8, 0.1, 0.1
    raw = read_source(source, None, seed, {})[0] if files is None else sample_of_rows(files, None, said, seed, split)
    say_types(raw, said, kind, "types")
    if isinstance(raw.values, Tensor) and raw.values.ndim == 2 and raw.space is None:
        raw.values = Frame.of_matrix(raw.values)
    if not isinstance(raw.values, Frame):
        raise InputError(f"columns: expected a table, got {raw.name}, which has none")
    frame = raw.values
    names, told = list(frame.names), list(frame.warnings)
    column_kinds(frame, raw.name, texts=True)
    reasons, warned = dict(frame.reasons), frame.warnings
    texts = {}
    for name in names:
        cells = frame.columns[frame.names.index(name)]
        if isinstance(cells, list) and "different texts" in reasons[name]:
            cells = frame.pop(name, raw.name)
            gone, many = sum(v is None for v in cells), len({v for v in cells if v is not None})
            texts[name] = ColumnRow(name, "text", gone, f"{many:,} different", {}, reasons[name], ColumnType("text"))
    require(len(frame.names) > 0, raw.name, "a column that rows share values of", "texts that identify them")
    frame.warnings = told
    data = load_data(raw, kind=kind, seed=seed)
    rows = texts | {r.name: replace(r, reason=reasons.get(r.name, r.reason)) for r in describe_columns(data)}
    data.warnings[:] = dict.fromkeys(warned + data.warnings)
    return data, [rows[name] for name in names]
