"""Rows for a model that exists: coded as its space and condition say, nothing fitted and nothing split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from likeli.data.annotated import Annotated, find_annotated
from likeli.data.builtin.sources import Raw
from likeli.data.dataset import refuse_missing
from likeli.data.frame import Frame
from likeli.data.in_files import FiledPictures, FiledTable, bytes_of, find_files
from likeli.data.infer import encode_labels
from likeli.data.load import is_texts, read_source
from likeli.data.picture_stream import parts_of_pictures
from likeli.data.readers.npy import memory_limit
from likeli.data.readers.text import rows_of_text
from likeli.data.table_stream import with_labels
from likeli.errors import require
from likeli.spaces import Labels, Space, Table, Tokens
from likeli.spaces.arrays import MAX_DENSE_CELLS


def load_rows(
    source: Any,
    space: Space,
    *,
    labels: Any = None,
    condition: Space | None = None,
    missing: bool = True,
    who: str = "this model",
) -> tuple[Tensor, Tensor | None]:
    """Rows for a model that exists: (x, y) as its space and condition code them, nothing split and no space fitted.

    Columns are matched by name and categories by their text; one row is enough.

    Arguments:
        source: as for `load_data`.
        space, condition: the model's.
        labels: what y is; read only when there is a condition.
        missing: whether the model takes missing cells.
        who: the model's name, for messages.

    Raises:
        InputError: rows that do not fit the space.
    """
    if space.alphabet is not None and isinstance(source, (str, Path)) and str(source).endswith(".txt"):
        return rows_of_text(source, cast(Tokens, space)), None
    if is_texts(source):
        return space.check(source), None
    source = find_annotated(source, kind=space.kind()) or source
    files = None if isinstance(source, Annotated) else find_files(source, labels)
    if isinstance(source, Annotated):
        cells = len(source) * space.dimensions
        require(cells <= MAX_DENSE_CELLS, source.name, f"at most {MAX_DENSE_CELLS} cells at once", f"{cells}")
    if files is not None:
        fits, many = bytes_of(files) <= memory_limit(), f"{len(files):,} rows"
        require(fits, str(source), "rows that fit into memory together; `score` takes them part by part", many)
    if isinstance(source, Annotated) or files is not None:
        known: dict[str, Any] = {"labels": labels, "condition": condition, "missing": missing, "who": who}
        parts = list(load_parts(files or source, space, **known))
        y = [y for _, _, y in parts if y is not None]
        return torch.cat([x for _, x, _ in parts]), torch.cat(y) if y else None
    raw, _ = read_source(source, labels if condition is not None else None, 0, {})
    return coded(raw, space, condition, missing=missing, who=who)


def load_parts(
    source: Any,
    space: Space,
    *,
    labels: Any = None,
    condition: Space | None = None,
    missing: bool = True,
    who: str = "this model",
) -> Iterator[tuple[Frame | None, Tensor, Tensor | None]]:
    """(columns as they were read, x, y) of rows that stay in files or sparse, some at a time; else of all, and no columns.

    Arguments:
        source: as there, or what `find_files` has found.
        space, labels, condition, missing, who: as there.
    """
    known: dict[str, Any] = {"missing": missing, "who": who}
    found = find_annotated(source, kind=space.kind())
    if found is not None:
        for raw in found.parts(space, labels if condition is not None else None):
            yield None, *coded(raw, space, condition, **known)
        return
    files = source if isinstance(source, (FiledTable, FiledPictures)) else find_files(source, labels)
    if files is None:
        yield None, *load_rows(source, space, labels=labels, condition=condition, **known)
    elif isinstance(files, FiledPictures):
        for pictures, y, what in parts_of_pictures(files, space):
            yield None, *coded(Raw(what, pictures, y), space, condition, **known)
    else:
        for block in files.blocks:
            for part in files.read(block):
                frame, y, _ = with_labels(part.rows(), labels if condition is not None else None, block.what)
                yield part, *coded(Raw(block.what, frame, y), space, condition, **known)


def coded(
    raw: Raw, space: Space, condition: Space | None, *, missing: bool, who: str
) -> tuple[Tensor, Tensor | None]:
    """(x, y) of rows as they were read; see `load_rows`."""
    x = _as_coded(raw.values, space, raw.name) if isinstance(raw.values, Frame) else raw.values
    if isinstance(x, Tensor) and x.ndim == 3 and len(space.shape) == 3 and space.shape[0] == 3:
        x = x[:, None].expand(-1, 3, -1, -1)  # pictures that happen to be grey, for a model of colours
    x = space.check(x, what=raw.name, missing=True)
    if not missing:
        refuse_missing(x, space, raw.name, who, raw.lines)
    if condition is None or raw.y is None:
        return x, None
    what = f"{raw.name}: labels"
    y = encode_labels(raw.y, condition, what) if isinstance(condition, Labels) else raw.y
    return x, condition.check(y, what=what, missing=True)


def _as_coded(frame: Frame, space: Space, what: str) -> Any:
    """Columns as `space.check` takes them, matched by name where the space has names."""
    columns = frame.by_name()
    if isinstance(space, Table):
        return columns
    if space.names and set(space.names) <= set(frame.names):
        frame = Frame(list(space.names), [columns[name] for name in space.names], [], frame.lines)
    x = frame.matrix(what)
    return x.reshape(len(x), *space.shape) if len(space.shape) > 1 and x.shape[1] == space.dimensions else x
