"""What y is: classes by number or name, or real vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.arrays import as_tensor
from likeli.data.kinds import moments
from likeli.errors import InputError, require
from likeli.space import Labels, Real, Space
from likeli.table import texts_of

MAX_CLASSES = 10_000


def fit_labels(y: Any, rows: int, train: Tensor, what: str, lines: list[int] | None = None) -> tuple[Tensor, Space, list[str]]:
    """(y, its space, warnings): one class a row, as whole numbers from 0 or as names, or a real vector a row.

    Raises:
        InputError: another length than x, missing, negative, fractional or huge labels.
    """
    if isinstance(y, list) and any(isinstance(v, str) for v in y):
        return _named(y, rows, what, lines)
    if getattr(getattr(y, "dtype", None), "kind", "") in ("O", "U", "T"):
        return _named(texts_of(y), rows, what, lines)
    labels = as_tensor(y, what)
    if labels.ndim == 2 and labels.is_floating_point() and len(labels) == rows:
        labels = Real((labels.shape[1],)).check(labels, what=what)
        mean, scale, _ = moments(labels[train].double())
        return labels, Real((labels.shape[1],), tuple(mean.tolist()), tuple(scale.tolist())), []
    require(labels.ndim == 1, what, "one label a row (or a row of real numbers)", f"shape {tuple(labels.shape)}")
    require(len(labels) == rows, what, f"{rows} labels, one a row", len(labels))
    return _numbered(labels, what, lines)


def _named(y: list[str | None], rows: int, what: str, lines: list[int] | None) -> tuple[Tensor, Space, list[str]]:
    require(len(y) == rows, what, f"{rows} labels, one a row", len(y))
    gone = next((i for i, v in enumerate(y) if v is None), None)
    require(gone is None, what, "a label in every row", f"none at {_place(gone or 0, lines)}")
    names = tuple(sorted({str(v) for v in y}))
    require(len(names) <= MAX_CLASSES, what, f"at most {MAX_CLASSES:,} classes", f"{len(names):,}")
    codes = {name: i for i, name in enumerate(names)}
    return torch.tensor([codes[str(v)] for v in y]), Labels(len(names), names), _one_class(len(names), what)


def _numbered(labels: Tensor, what: str, lines: list[int] | None) -> tuple[Tensor, Space, list[str]]:
    values = labels.double() if labels.is_floating_point() else labels.long()
    bad = ~(values == values.round()) | (values < 0) | (values >= MAX_CLASSES) if labels.is_floating_point() else values < 0
    bad = bad | (values >= MAX_CLASSES)
    if bad.any():
        row = int(torch.nonzero(bad)[0])
        value = "none" if values[row].item() != values[row].item() else f"{values[row].item():g}"
        expected = f"whole numbers from 0 to below {MAX_CLASSES:,}"
        raise InputError(f"{what}: expected {expected}, got {value} at {_place(row, lines)}")
    y = values.long()
    classes = int(y.max()) + 1
    return y, Labels(classes), _one_class(len(y.unique()), what)


def relabel(cells: np.ndarray) -> Any:
    """Labels of a table's column of numbers: as they are when they are 0 … K−1, else by name."""
    present = np.unique(cells[~np.isnan(cells)])
    whole = bool((present == np.round(present)).all())
    if not whole or np.isnan(cells).any() or (present < 0).any() or np.array_equal(present, np.arange(len(present))):
        return cells
    return [str(int(v)) for v in cells]


def encode_labels(y: Any, space: Labels, what: str) -> Any:
    """Names as the codes of a model's classes; numbers as they are.

    Raises:
        InputError: a name that the model does not know; its row is named.
    """
    if space.names and isinstance(y, np.ndarray) and y.dtype.kind == "f":
        y = [f"{v:.0f}" for v in y]
    if not (isinstance(y, list) and any(isinstance(v, str) for v in y)):
        return y
    codes = {name: i for i, name in enumerate(space.names)}
    for row, name in enumerate(y):
        if name not in codes:
            raise InputError(f"{what}: row {row}: expected one of {', '.join(space.names)[:100]}, got {str(name)[:40]!r}")
    return [codes[name] for name in y]


def _one_class(classes: int, what: str) -> list[str]:
    return [f"{what}: all rows have one label, so there is nothing to condition on"] * (classes == 1)


def _place(row: int, lines: list[int] | None) -> str:
    return f"row {row}" if lines is None else f"line {lines[row]}"
