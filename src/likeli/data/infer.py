"""What the values of an array are, and the space that fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeli.config import lookup, registered
from likeli.data.scales import FAR, column_faults, column_warnings, standardisation, stretching
from likeli.errors import InputError, require
from likeli.spaces import Binary, Calendar, Column, Counts, Dtype, Labels, Pixels, Real, Space, Table, Tokens
from likeli.spaces.arrays import as_tensor
from likeli.spaces.marginal import Limit, Marginal
from likeli.spaces.table import Type, texts_of

KINDS = ("real", "pixels", "binary", "tokens", "counts", "table")
MAX_CLASSES = 10_000
TOO_LARGE = 1e150  # beyond, squares leave float64, and float32 is left long before


@dataclass(frozen=True)
class Kind:
    """What a column of a table is.

    Arguments:
        type: of the column.
        categories: the texts that its codes stand for; none for a column of numbers.
        calendar: of dates.
        limits: of its marginal.
        dtype: of the data frame that it was.
    """

    type: Type
    categories: tuple[str, ...] = ()
    calendar: Calendar | None = None
    limits: tuple[Limit, Limit] = (None, None)
    dtype: Dtype | None = None


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
        InputError: a scalar, no columns, too many axes.
    """
    shape = tuple(x.shape)
    require(x.ndim != 1, what, "shape (rows, columns)", f"shape {shape}; write x[:, None] for one column")
    axes = "shape (rows, columns), (rows, height, width) or (rows, channels, height, width)"
    require(2 <= x.ndim <= 4, what, axes, f"shape {shape}")
    require(0 not in shape[1:], what, "at least one column", f"shape {shape}")


def infer_kind(x: Tensor) -> tuple[str, str]:
    """(kind, a note that says why where it may surprise): the first kind that recognises the values, a plugin's too."""
    for cls in sorted(registered(Space).values(), key=lambda cls: cls.rank):  # type: ignore[type-abstract]
        told = cls.recognise(x) if cls.rank else None
        if told is not None:
            return cls.kind(), told
    raise AssertionError("reals take what is left")


def fit_space(
    x: Tensor, train: Tensor, kind: str | None, what: str, names: tuple[str, ...] = (), lines: Sequence[int] | None = None
) -> Fitted:
    """The space of values x (N, *shape), its mean and scale from the rows `train`.

    Arguments:
        kind: one of `KINDS`, `real:linear` (no column stretched), `pixels:LEVELS` or `tokens:VOCAB`; inferred when None.
        what: how the values are named in messages.
        names: column names.
        lines: the line of the file of each row.

    Raises:
        InputError: values outside the kind, infinite, or all constant.
    """
    kind, note = infer_kind(x) if kind is None else (kind, "")
    name, _, number = kind.partition(":")
    others = registered(Space).keys() - set(KINDS) - {"labels", "unit_vectors"}  # type: ignore[type-abstract]  # a plugin's
    require(name in KINDS or name in others, "kind", f"one of {', '.join([*KINDS, *sorted(others)])}", kind)
    sized = name in ("pixels", "tokens") and number.isdecimal() and 1 <= int(number) <= 2**31
    sized = sized or not number or kind == "real:linear"
    require(sized, "kind", "a kind, real:linear, pixels:LEVELS or tokens:VOCAB", kind)
    if name == "real":
        fitted = _real(x, train, what, names, lines, number == "linear")
    elif name == "table":
        require(x.ndim == 2, what, "shape (rows, columns) for a table", f"shape {tuple(x.shape)}")
        x = x.double()
        whole = ((x == x.round()) | x.isnan()).all(0).tolist()
        fitted = fit_table(x, train, _named(names, x.shape[1]), [Kind("integer" if w else "real") for w in whole], what, lines)
    elif name in others:
        space = lookup(name, Space)(tuple(x.shape[1:]))  # type: ignore[type-abstract]
        fitted = Fitted(space.check(x, what=what), space, name)
    else:
        fitted = _discrete(x, name, int(number) if number else None, what, names)
    refuse_constant(fitted.x, what, fitted.space.names)
    fitted.warnings = [f"{what}: {note}"] * bool(note) + fitted.warnings
    return fitted


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


def _real(
    x: Tensor, train: Tensor, what: str, names: tuple[str, ...], lines: Sequence[int] | None, linear: bool
) -> Fitted:
    x, shape = _refuse_extreme(x, what, names, lines), tuple(x.shape[1:])
    seen = x[train].double()
    if x.ndim > 2:
        mean, scale, _ = standardisation(seen.reshape(-1, 1))
        return Fitted(x, Real(shape, mean.item(), scale.item(), names), "real")
    mean, scale, constant = standardisation(seen)
    heavy = (torch.where(seen.isnan(), 0, (seen - mean).abs() / scale).amax(0) > FAR) & ~constant & (not linear)
    found = column_warnings(seen, scale, constant, heavy, _named(names, x.shape[1]), what)
    for i in torch.nonzero(heavy)[:, 0].tolist():
        mean[i], scale[i] = stretching(seen[:, i][~seen[:, i].isnan()])
    stretch = tuple(heavy.tolist()) if heavy.any() else ()
    space = Real(shape, tuple(mean.tolist()), tuple(scale.tolist()), names, stretch)
    return Fitted(x, space, "real", found + column_faults(seen, _named(names, x.shape[1]), what))


def fit_table(
    x: Tensor, train: Tensor, names: Sequence[str], kinds: Sequence[Kind], what: str, lines: Sequence[int] | None = None
) -> Fitted:
    """The table of x (N, columns) float64, its columns of the given kinds, each known by the rows `train`.

    Raises:
        InputError: a value beyond a column's bounds; its line is named.
    """
    x = _refuse_extreme(x, what, tuple(names), lines)
    _refuse_beyond(x, names, kinds, what, lines)
    seen = x[train]
    mean, scale, constant = standardisation(seen)
    columns = []
    for i, (name, kind) in enumerate(zip(names, kinds)):
        values = seen[:, i][~seen[:, i].isnan()].numpy()
        missing = len(values) < len(seen)
        if kind.categories:
            marginal = Marginal.of_codes(values, len(kind.categories))
            columns.append(Column(name, kind.type, categories=kind.categories, missing=missing, marginal=marginal))
        else:
            known_by = Marginal.found(values, kind.type != "real", len(names), kind.limits) if len(values) else None
            columns.append(Column(name, kind.type, mean[i].item(), scale[i].item(), (), missing, known_by, kind.calendar))
    dtypes = [k.dtype for k in kinds if k.dtype is not None]
    space = Table(tuple(columns), tuple(dtypes) if len(dtypes) == len(kinds) else ())
    spread = torch.where(space.discrete, 1.0, scale)
    found = column_warnings(seen, spread, constant, torch.zeros_like(constant), names, what)
    return Fitted(space.check(x, what=what, missing=True), space, "table", found)


def _refuse_beyond(x: Tensor, names: Sequence[str], kinds: Sequence[Kind], what: str, lines: Sequence[int] | None) -> None:
    for name, kind, values in zip(names, kinds, x.T):
        low, high = (v if isinstance(v, float) else None for v in kind.limits)
        for bound, beyond, words in ((low, values < (low or 0), "at least"), (high, values > (high or 0), "at most")):
            if bound is not None and beyond.any():
                row = int(torch.nonzero(beyond)[0])
                got, end = (Column(name, kind.type, calendar=kind.calendar).decode([v])[0] for v in (values[row].item(), bound))
                raise InputError(f"{what}: {place(row, lines)}, column {name}: expected {words} {end}, its bound, got {got}")


def _named(names: tuple[str, ...], d: int) -> list[str]:
    return list(names) or [f"x{i}" for i in range(d)]


def _refuse_extreme(x: Tensor, what: str, names: tuple[str, ...], lines: Sequence[int] | None) -> Tensor:
    space = Real(tuple(x.shape[1:]), scale=1e300, names=names)
    x = space.check(x, what=what, missing=True)
    large = x.abs() > TOO_LARGE
    if large.any():
        problem = "does not fit float32, nor its square float64; rescale the column"
        raise InputError(f"{what}: {locate(space, x, large, lines)}: {x[large][0].item():g} {problem}")
    return x


def place(row: int, lines: Sequence[int] | None) -> str:
    """`row 60`, or `line 62` where it is known which line of a file the row was."""
    return f"row {row}" if lines is None else f"line {lines[row]}"


def locate(space: Space, x: Tensor, bad: Tensor, lines: Sequence[int] | None) -> str:
    """`line 62, column b` of the first true cell of `bad` (N, *shape)."""
    _, comma, column = space.locate(x, bad).partition(",")
    return place(int(torch.nonzero(bad)[0, 0]), lines) + comma + column


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


def fit_labels(
    y: Any, rows: int, train: Tensor, what: str, lines: Sequence[int] | None = None
) -> tuple[Tensor, Space, list[str]]:
    """(y, its space, warnings): one class a row, as whole numbers from 0 or as names, or a real vector or an image a row.

    A class may be missing (None, NaN, an empty cell): it is −1.

    Raises:
        InputError: another length than x, negative, fractional or huge labels, or none at all.
    """
    names: tuple[str, ...] = ()
    of_objects = getattr(getattr(y, "dtype", None), "kind", "") in ("O", "U", "T")
    if of_objects or (isinstance(y, list) and any(isinstance(v, str) for v in y)):
        texts = texts_of(y) if of_objects else [None if v is None or v != v else v for v in y]
        require(len(texts) == rows, what, f"{rows} labels, one a row", len(texts))
        names = tuple(sorted({str(v) for v in texts if v is not None}))
        require(len(names) > 0, what, "at least one label", "none")
        require(len(names) <= MAX_CLASSES, what, f"at most {MAX_CLASSES:,} classes", f"{len(names):,}")
        codes = {name: i for i, name in enumerate(names)}
        labels = torch.tensor([-1 if v is None else codes[str(v)] for v in texts])
    else:
        labels = as_tensor([np.nan if v is None else v for v in y] if isinstance(y, list) else y, what)
        if labels.ndim == 2 and labels.is_floating_point() and len(labels) == rows:
            labels = Real((labels.shape[1],)).check(labels, what=what, missing=True)
            mean, scale, _ = standardisation(labels[train].double())
            return labels, Real((labels.shape[1],), tuple(mean.tolist()), tuple(scale.tolist())), []
        if labels.ndim in (3, 4) and len(labels) == rows:
            found = fit_space(labels, train, None, what)
            return found.x, found.space, found.warnings
        require(labels.ndim == 1, what, "one label a row (or reals, or an image)", f"shape {tuple(labels.shape)}")
        require(len(labels) == rows, what, f"{rows} labels, one a row", len(labels))
        values = labels.double()
        gone = values.isnan()
        require(not gone.all(), what, "at least one label", "none")
        bad = ~gone & ~((values >= 0) & (values < MAX_CLASSES) & (values == values.round()))
        if bad.any():
            row = int(torch.nonzero(bad)[0])
            expected = f"whole numbers from 0 to below {MAX_CLASSES:,}"
            raise InputError(f"{what}: expected {expected}, got {values[row].item():g} at {place(row, lines)}")
        labels = values.masked_fill(gone, -1).long()
    known = labels >= 0
    told = [f"{what}: all rows have one label, so there is nothing to condition on"] * (len(labels[known].unique()) == 1)
    if not bool(known.all()):
        first, lost = place(int((~known).long().argmax()), lines), int((~known).sum())
        told.append(f"{what}: none in {lost} of {rows} rows, the first at {first}; diffusions learn p(x) from those")
    return labels, Labels(int(labels.max()) + 1, names), told


def relabel(cells: np.ndarray) -> Any:
    """Labels of a table's column of numbers: as they are when they are 0 … K−1, else by name."""
    present = np.unique(cells[~np.isnan(cells)])
    whole = bool((present == np.round(present)).all())
    if not whole or (present < 0).any() or np.array_equal(present, np.arange(len(present))):
        return cells
    return [None if v != v else str(int(v)) for v in cells]


def encode_labels(y: Any, space: Labels, what: str) -> Any:
    """Names as the codes of a model's classes, −1 where there is none; numbers as they are.

    Raises:
        InputError: a name that the model does not know; its row is named.
    """
    if space.names and isinstance(y, np.ndarray) and y.dtype.kind == "f":
        y = [None if v != v else f"{v:.0f}" for v in y]
    if not (isinstance(y, list) and any(isinstance(v, str) for v in y)):
        return y
    codes: dict[Any, int] = {name: i for i, name in enumerate(space.names)} | {None: -1}
    for row, name in enumerate(y):
        if name not in codes:
            raise InputError(f"{what}: row {row}: expected one of {', '.join(space.names)[:100]}, got {str(name)[:40]!r}")
    return [codes[name] for name in y]
