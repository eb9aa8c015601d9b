"""Two sets of rows of any kind as one matrix of numbers, by a map that does not know which row is of which set.

A test whose p-value comes from permuting the sets' labels is exact for every statistic of such features, however they were
found in the pooled rows.  So scales, ranks and principal components are those of both sets together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from likeli.data import load_columns
from likeli.errors import require
from likeli.random import seeded
from likeli.spaces import Pixels, Space, Table, Tokens
from likeli.spaces.arrays import as_tensor
from likeli.spaces.base import counted

MOST, KEPT = 128, 64  # columns that are compared as they are, and components in place of more
PAIRS = 64  # neighbouring symbols that are counted
PLACES = 64  # columns up to which symbols are also told apart by their place


@dataclass(frozen=True)
class Features:
    """Rows of both sets, those of the first set first.

    Arguments:
        rows: (n + m, D) float64, finite; no column is constant.
        names: of the columns.
        n: rows of the first set.
        map: what was done to a row, in words.
        notes: what was left out.
    """

    rows: np.ndarray
    names: tuple[str, ...]
    n: int
    map: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ComparedColumns:
    """What rows are compared by: u (N, D) float64 with NaN where a cell is missing, their names, the map in words."""

    u: Tensor
    names: Sequence[str]
    map: str


def pooled_features(x: Any, y: Any, space: Space | None = None) -> tuple[Features, Tensor, Tensor]:
    """Features of two sets, and the two sets as tensors in the user's units.

    Arguments:
        x, y: (n, *shape) and (m, *shape); arrays, or data frames with the same columns.  NaN is a missing cell.
        space: what a row is; None for plain numbers, and for frames, whose columns are then typed from both sets together.

    Raises:
        InputError: widths that differ, infinite cells, sets in which nothing varies.
    """
    if space is None and hasattr(x, "columns") and hasattr(y, "columns"):
        import pandas

        own, given = (", ".join(sorted(map(str, v.columns))) for v in (x, y))
        require(own == given, "y", f"the columns {own}", given)
        frame = pandas.concat([x, y[list(x.columns)]], ignore_index=True)
        data, described = load_columns(frame.loc[:, frame.nunique(dropna=False) > 1])
        identify = ", ".join(row.name for row in described if row.type == "text")
        if identify:
            warnings.warn(f"x, y: left out, since their texts identify rows: {identify}", UserWarning, stacklevel=3)
        space, a, b = data.space, data.x[: len(x)], data.x[len(x) :]
    elif space is None:
        a, b = as_tensor(x, "x"), as_tensor(y, "y")
    else:
        a, b = space.check(x, what="x", missing=True), space.check(y, what="y", missing=True)
    require(a.ndim >= 1 and len(a) > 0, "x", "rows", f"shape {tuple(a.shape)}")
    require(a.shape[1:] == b.shape[1:], "y", f"rows of shape {tuple(a.shape[1:])}", tuple(b.shape[1:]))
    for name, rows in (("x", a), ("y", b)):
        require(not rows.isinf().any(), name, "finite cells", "infinite ones")
    both = torch.cat([a.cpu(), b.cpu().to(a.dtype) if space is not None else b.cpu()])
    columns = of_numbers(both) if space is None else columns_to_compare(space, both)
    return _finished(columns, len(a)), a, b


def of_numbers(x: Tensor, names: Sequence[str] = ()) -> ComparedColumns:
    """Each cell in standard deviations of its column."""
    flat = x.double().reshape(len(x), -1)
    middle = flat.nanmean(0)
    spread = (flat - middle).square().nanmean(0).sqrt()
    named = names if len(names) == flat.shape[1] else [f"x{i}" for i in range(flat.shape[1])]
    return ComparedColumns((flat - middle) / spread.where(spread > 0, 1), named, "cells in pooled standard deviations")


@singledispatch
def columns_to_compare(space: Space, x: Tensor) -> ComparedColumns:
    """What rows x (N, *shape) of a space are compared by; a kind of data may register its own.

    Reals, counts and whatever else has a number a cell: model units (the logarithm of a count), standardised.
    """
    return of_numbers(space.to_model(x, torch.float64), space.names)


@columns_to_compare.register
def _(space: Pixels, x: Tensor) -> ComparedColumns:
    u = space.to_model(x, torch.float64).flatten(1)
    scale = (u - u.mean(0)).square().mean().sqrt()
    names = [f"pixel {i}" for i in range(u.shape[1])]
    return ComparedColumns((u - u.mean(0)) / scale.clamp(min=1e-12), names, "grey levels on one scale")


@columns_to_compare.register
def _(space: Table, x: Tensor) -> ComparedColumns:
    parts, names = [], list[str]()
    for column, v in zip(space.columns, x.double().T):
        gone = v.isnan()
        if column.categories:
            parts.append(F.one_hot(v.nan_to_num(0).long(), len(column.categories)).double() * ~gone[:, None])
            names += [f"{column.name} = {c}" for c in column.categories]
        else:
            parts.append(normal_scores(v)[:, None])
            names.append(column.name)
        if column.categories and gone.any():
            parts.append(gone.double()[:, None])
            names.append(f"{column.name} is missing")
    return ComparedColumns(
        torch.cat(parts, 1), names, "numbers as normal scores of their pooled ranks, categories as indicators"
    )


@columns_to_compare.register
def _(space: Tokens, x: Tensor) -> ComparedColumns:
    x, seen = x.long(), counted(x.long(), space.end)
    one = F.one_hot(x, space.vocab).double() * seen[..., None]
    parts, names = [one.sum(1)], [f"count of {s}" for s in range(space.vocab)]
    if space.length > 1:
        pair = (x[:, :-1] * space.vocab + x[:, 1:]).where(seen[:, 1:], -1)
        values, counts = pair[pair >= 0].unique(return_counts=True)
        for value in values[counts.argsort(descending=True, stable=True)[:PAIRS]].tolist():
            parts.append((pair == value).double().sum(1, keepdim=True))
            names.append(f"count of {value // space.vocab},{value % space.vocab}")
    said = f"counts of symbols and of the {PAIRS} commonest pairs of neighbours"
    if space.length * space.vocab <= PLACES:
        parts.append(one.flatten(1))
        names += [f"{s} at place {i}" for i in range(space.length) for s in range(space.vocab)]
        said += ", symbols by place"
    if space.end is not None:
        parts.append(seen.double().sum(1, keepdim=True))
        names.append("length")
    u = of_numbers(torch.cat(parts, 1))
    return ComparedColumns(u.u, names, f"{said}, standardised")


def normal_scores(v: Tensor) -> Tensor:
    """Φ⁻¹((rank − ½)/n) of the values (n,), ties at their mean rank; NaN stays."""
    there = ~v.isnan()
    rank = torch.from_numpy(stats.rankdata(v[there].numpy()))
    out = torch.full(v.shape, torch.nan, dtype=torch.float64)
    out[there] = torch.special.ndtri((rank - 0.5) / max(len(rank), 1))
    return out


def principal_directions(centred: Tensor, rank: int) -> Tensor:
    """About the first `rank` right singular vectors of (N, D), (D, rank), by 8 steps of subspace iteration.

    However far these have come, the order of rows has no say in them.

    Source: Halko, Martinsson & Tropp (2011), SIAM Review 53.
    """
    with seeded(0, "components"):
        basis = torch.randn(centred.shape[1], min(rank + 16, centred.shape[1]), dtype=centred.dtype)
    for _ in range(8):
        basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
    turn = torch.linalg.eigh((centred @ basis).T @ (centred @ basis))[1]
    return basis @ turn.flip(1)[:, :rank]


def _finished(columns: ComparedColumns, n: int) -> Features:
    """Medians and an indicator for missing cells, no constant column, components in place of more than 128 columns."""
    u, names, said, notes = columns.u, list(columns.names), columns.map, []
    gone = u.isnan()
    if gone.any():
        holed = gone.any(0).nonzero().flatten().tolist()
        middle = u.nanmedian(0).values.nan_to_num(0)
        u = torch.cat([u.where(~gone, middle), gone[:, holed].double()], 1)
        names += [f"{names[i]} is missing" for i in holed]
        said += ", missing cells as the median with an indicator"
    varies = (u != u[:1]).any(0)
    require(bool(varies.any()), "x, y", "a column that varies", "rows that are all alike")
    if not varies.all():
        still = [name for name, keep in zip(names, varies.tolist()) if not keep]
        more = f" and {len(still) - 5} more" * (len(still) > 5)
        notes.append(f"constant in both sets, left out: {', '.join(still[:5])}{more}")
        u, names = u[:, varies], [name for name, keep in zip(names, varies.tolist()) if keep]
    if u.shape[1] > MOST:
        centred = u - u.mean(0)
        basis = principal_directions(centred, rank := min(KEPT, len(u) - 1))
        score = centred @ basis
        rest = (centred - score @ basis.T).square().sum(1, keepdim=True).sqrt()
        said += f", then {rank} pooled principal components of {u.shape[1]} columns and the length of what they leave"
        u, names = torch.cat([score, rest - rest.mean()], 1), [*(f"component {i + 1}" for i in range(rank)), "rest"]
    return Features(u.numpy(), tuple(names), n, said, tuple(notes))
