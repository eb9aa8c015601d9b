"""What the values of an array are, and the space that fits them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.errors import InputError, require
from likeli.spaces import Binary, Column, Counts, Labels, Pixels, Real, Space, Table, Tokens
from likeli.spaces.arrays import as_tensor
from likeli.spaces.table import texts_of

KINDS = ("real", "pixels", "binary", "tokens", "counts", "table")
TOO_LARGE = 1e150  # beyond, squares leave float64, and float32 is left long before


@dataclass
class Fitted:
    """Values, their space, and what to tell the user."""

    x: Tensor
    space: Space
    kind: str
    warnings: list[str] = field(default_factory=list)


def check_shape(x: Tensor, what: str) -> None:
    """Refuse what cannot be a batch of examples.

    Raises:
        InputError: a scalar, one row, no columns, too many axes.
    """
    shape = tuple(x.shape)
    require(x.ndim != 1, what, "shape (rows, columns)", f"shape {shape}; write x[:, None] for one column")
    axes = "shape (rows, columns), (rows, height, width) or (rows, channels, height, width)"
    require(2 <= x.ndim <= 4, what, axes, f"shape {shape}")
    require(len(x) != 0, what, "at least 2 rows", "0 rows; need at least 2")
    require(len(x) != 1, what, "at least 2 rows", "1 row; need at least 2")
    require(x[0].numel() > 0, what, "at least one column", f"shape {shape}")


def infer_kind(x: Tensor) -> tuple[str, str]:
    """(kind, a note that says why where it may surprise)."""
    if x.dtype == torch.bool:
        return "binary", ""
    if not x.is_floating_point():
        if bool(((x == 0) | (x == 1)).all()):
            return "binary", ""
        if x.ndim > 2:
            return ("pixels", "") if bool((x >= 0).all()) else ("real", "negative whole numbers were taken as real values")
        if bool((x < 0).any()):
            return "table", "whole numbers were taken as integer columns (a mass); kind='real' takes them as reals"
        return "counts", "whole numbers were taken as counts; kind='real', 'pixels', 'tokens' or 'table' takes them otherwise"
    if bool(((x == 0) | (x == 1)).all()):
        return "binary", "all values are 0 or 1, so they were taken as binary; kind='real' takes them as reals"
    return "real", _looks_like_pixels(x)


def _looks_like_pixels(x: Tensor) -> str:
    if x.ndim < 3 or not bool(((x >= 0) & (x <= 1)).all()):
        return ""
    grey = x.double() * 255
    if bool(((grey - grey.round()).abs() < 1e-4).all()):
        return "the values are multiples of 1/255: give (255 * x).round() as uint8 for an honest mass of pixels"
    return ""


def fit_space(x: Tensor, train: Tensor, kind: str | None, what: str, names: tuple[str, ...] = ()) -> Fitted:
    """The space of values x (N, *shape), its mean and scale from the rows `train`.

    Arguments:
        kind: one of `KINDS`, `pixels:LEVELS` or `tokens:VOCAB`; inferred when None.
        what: how the values are named in messages.
        names: column names.

    Raises:
        InputError: values outside the kind, infinite, or all constant.
    """
    notes = []
    if kind is None:
        kind, note = infer_kind(x)
        notes += [f"{what}: {note}"] * bool(note)
    name, _, number = kind.partition(":")
    size = _size(kind, name, number)
    if name == "real":
        fitted = _real(x, train, what, names)
    elif name == "table":
        fitted = _table(x, train, what, names)
    else:
        fitted = _discrete(x, name, size, what, names)
    refuse_constant(fitted.x, what, fitted.space.names)
    fitted.warnings = notes + fitted.warnings
    return fitted


def _size(kind: str, name: str, number: str) -> int | None:
    require(name in KINDS, "kind", f"one of {', '.join(KINDS)}", kind)
    sized = not number or (name in ("pixels", "tokens") and number.isdecimal() and 1 <= int(number) <= 2**31)
    require(sized, "kind", "a kind, pixels:LEVELS or tokens:VOCAB", kind)
    return int(number) if number else None


def _discrete(x: Tensor, kind: str, size: int | None, what: str, names: tuple[str, ...]) -> Fitted:
    shape, notes = tuple(x.shape[1:]), []
    space: Space
    if kind == "pixels":
        if x.ndim == 4 and shape[-1] in (1, 3) and shape[0] not in (1, 3):
            x, shape = x.permute(0, 3, 1, 2).contiguous(), (shape[-1], *shape[:-1])
            notes.append(f"{what}: channels were moved to the front, so one example is {shape}")
        space = Pixels(shape, size or 256)
    elif kind == "binary":
        space = Binary(shape)
    elif kind == "counts":
        space = Counts(shape, names)
    else:
        require(x.ndim == 2, what, "shape (rows, length) for tokens", f"shape {tuple(x.shape)}")
        space = Tokens(shape[0], size or max(int(x.max()), 0) + 1)
    return Fitted(space.check(x, what=what), space, kind, notes)


def _real(x: Tensor, train: Tensor, what: str, names: tuple[str, ...]) -> Fitted:
    x = _refuse_extreme(x, what, names)
    seen = x[train].double()
    columns = seen if x.ndim == 2 else seen.reshape(-1, 1)
    mean, scale, _ = moments(columns)
    one = x.ndim > 2
    space = Real(
        tuple(x.shape[1:]),
        mean[0].item() if one else tuple(mean.tolist()),
        scale[0].item() if one else tuple(scale.tolist()),
        names,
    )
    warnings = [] if one else column_warnings(columns, scale, _named(names, x.shape[1]), what)
    return Fitted(x, space, "real", warnings)


def _table(x: Tensor, train: Tensor, what: str, names: tuple[str, ...]) -> Fitted:
    require(x.ndim == 2, what, "shape (rows, columns) for a table", f"shape {tuple(x.shape)}")
    x, labels = x.double(), _named(names, x.shape[1])
    whole = ((x == x.round()) | x.isnan()).all(0).tolist()
    space = fit_table(x, train, labels, ["integer" if w else "real" for w in whole], [()] * len(labels), what)
    return Fitted(space.check(x, what=what, missing=True), space, "table", table_warnings(x, train, space, what))


def fit_table(
    x: Tensor, train: Tensor, names: list[str], types: list[str], categories: list[tuple[str, ...]], what: str
) -> Table:
    """The table whose columns have these types, standardised on the rows `train` of x (N, columns)."""
    x = _refuse_extreme(x, what, tuple(names))
    seen = x[train]
    whole = torch.tensor([t == "integer" for t in types])
    mean, scale, _ = moments(seen)
    mean, scale = torch.where(whole, mean + 0.5, mean), torch.where(whole, (scale.square() + 1 / 12).sqrt(), scale)
    missing = seen.isnan().any(0).tolist()
    columns = []
    for i, (name, type_) in enumerate(zip(names, types)):
        if type_ == "categorical":
            columns.append(Column(name, "categorical", categories=categories[i], missing=missing[i]))
        else:
            columns.append(Column(name, type_, mean[i].item(), scale[i].item(), missing=missing[i]))
    return Table(tuple(columns))


def table_warnings(x: Tensor, train: Tensor, space: Table, what: str) -> list[str]:
    """`column_warnings` of a table's training rows."""
    seen = x[train]
    real = torch.tensor([c.type == "real" for c in space.columns])
    scale = torch.where(real, moments(seen)[1], 1.0)
    return column_warnings(seen, scale, list(space.names), what)


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and whether constant of each column of x (n, d) float64, missing cells left out; a constant has scale 1.

    The mean is taken from the smallest value up and deviations are divided by the largest before they are squared, so that
    neither a large offset nor a tiny or huge scale costs digits.
    """
    seen = ~x.isnan()
    count = seen.sum(0).clamp(min=1)
    low = torch.where(seen, x, torch.inf).amin(0).nan_to_num(posinf=0.0)
    mean = low + torch.where(seen, x - low, 0).sum(0) / count
    deviation = torch.where(seen, x - mean, 0)
    largest = deviation.abs().amax(0)
    constant = (torch.where(seen, x, -torch.inf).amax(0) <= low) | (largest == 0)
    unit = torch.where(constant, 1.0, largest)
    scale = unit * ((deviation / unit).square().sum(0) / count).sqrt()
    return torch.where(constant, low, mean), torch.where(constant | (scale == 0), 1.0, scale), constant


def column_warnings(x: Tensor, scale: Tensor, names: list[str], what: str) -> list[str]:
    """What is odd about the training rows x (n, d): constant, empty, tiny or huge columns, missing cells, few rows."""
    n, d = x.shape
    constant = moments(x)[2]
    gone = x.isnan().sum(0)
    odd = ((scale < 1e-12) | (scale > 1e12)) & ~constant
    tiny = ((x.abs() < 1e-300) & (x != 0)).any(0)
    found = [
        _about(what, constant, names, "constant in the training rows"),
        _about(what, odd, names, "of a scale far from 1; it is standardised in float64, but rescaling is safer"),
        _about(what, tiny, names, "holding numbers below 1e-300, which lose digits"),
        _about(what, gone > 0, names, f"missing in some rows ({int(gone.sum())} cells), kept as missing"),
    ]
    if n <= d:
        found.append(f"{what}: {n} training rows for {d} columns; a full covariance will need regularisation")
    return [w for w in found if w]


def _about(what: str, which: Tensor, names: list[str], text: str) -> str:
    hit = [names[i] for i in torch.nonzero(which)[:, 0].tolist()]
    if not hit:
        return ""
    listed = ", ".join(hit[:5]) + (f" and {len(hit) - 5} more" if len(hit) > 5 else "")
    return f"{what}: column{'s' * (len(hit) > 1)} {listed}: {text}"


def _named(names: tuple[str, ...], d: int) -> list[str]:
    return list(names) or [f"x{i}" for i in range(d)]


def _refuse_extreme(x: Tensor, what: str, names: tuple[str, ...]) -> Tensor:
    space = Real(tuple(x.shape[1:]), scale=1e300, names=names)
    x = space.check(x, what=what, missing=True)
    large = x.abs() > TOO_LARGE
    if large.any():
        raise InputError(f"{what}: {space.locate(x, large)}: {too_large(x[large][0].item())}")
    return x


def too_large(value: float) -> str:
    """What is wrong with a number beyond `TOO_LARGE`."""
    if math.isinf(value):
        return f"expected finite numbers, got {value:g}"
    return f"{value:g} does not fit float32, nor its square float64; rescale the column"


def refuse_constant(x: Tensor, what: str, names: tuple[str, ...]) -> None:
    """Refuse data without variance, or a column of missing cells only."""
    value = x.reshape(len(x), -1)
    gone = value.isnan() if value.is_floating_point() else torch.zeros_like(value, dtype=torch.bool)
    empty = gone.all(0)
    if empty.any():
        require(not empty.all(), what, "at least one value", "missing cells only")
        column = _named(names, value.shape[1])[int(torch.nonzero(empty)[0])]
        raise InputError(f"{what}: column {column}: expected at least one value, got missing cells only; drop the column")
    first = value.gather(0, (~gone).int().argmax(0, keepdim=True))
    require(bool(((value != first) & ~gone).any()), what, "rows that differ", "all columns constant: no variance to model")


MAX_CLASSES = 10_000


def fit_labels(y: Any, rows: int, train: Tensor, what: str, lines: list[int] | None = None) -> tuple[Tensor, Space, list[str]]:
    """(y, its space, warnings): one class a row, as whole numbers from 0 or as names, or a real vector a row.

    Raises:
        InputError: another length than x, missing, negative, fractional or huge labels.
    """
    if isinstance(y, list) and any(isinstance(v, str) for v in y):
        return _text_labels(y, rows, what, lines)
    if getattr(getattr(y, "dtype", None), "kind", "") in ("O", "U", "T"):
        return _text_labels(texts_of(y), rows, what, lines)
    labels = as_tensor(y, what)
    if labels.ndim == 2 and labels.is_floating_point() and len(labels) == rows:
        labels = Real((labels.shape[1],)).check(labels, what=what)
        mean, scale, _ = moments(labels[train].double())
        return labels, Real((labels.shape[1],), tuple(mean.tolist()), tuple(scale.tolist())), []
    require(labels.ndim == 1, what, "one label a row (or a row of real numbers)", f"shape {tuple(labels.shape)}")
    require(len(labels) == rows, what, f"{rows} labels, one a row", len(labels))
    return _numbered(labels, what, lines)


def _text_labels(y: list[str | None], rows: int, what: str, lines: list[int] | None) -> tuple[Tensor, Space, list[str]]:
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
