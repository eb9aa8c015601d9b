"""What each column of a table looks like in several sets of rows: where samples miss the data, column by column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from likeli.data import columns_of
from likeli.spaces import Space, Tokens

MOST = 40  # columns of a table that are shown
ALARM = 4.0  # standard errors of a difference; 1 false alarm in 16,000


def marginals(sets: Mapping[str, Tensor], space: Space) -> list[list[str]]:
    """A table of words: a column of the data in each line, and in each set its mean and standard deviation.

    Of categories, and of whatever is text, the share of the value that the first set has most.  A star marks what differs from
    the first set by more than four standard errors.  Empty where rows are no table of at most 40 columns.

    Arguments:
        sets: rows (B, D) by name, the data first.
        space: what a row is.
    """
    if len(space.shape) != 1 or space.dimensions > MOST or isinstance(space, Tokens):
        return []
    named = {name: columns_of(x, space) for name, x in sets.items()}
    first = next(iter(named.values()))
    lines = [["column", *named]]
    for column, values in first.items():
        seen = [v for v in values if not _missing(v)]
        common = None if all(isinstance(v, (int, float)) for v in seen) else Counter(map(str, seen)).most_common(1)[0][0]
        moments = [_moments(of[column], common) for of in named.values()]
        label = column if common is None else f"{column} = {common}"
        lines.append([label, *(_words(m, moments[0], share=common is not None) for m in moments)])
    return lines


def _missing(value: Any) -> bool:
    return value is None or value != value


def _moments(values: list[Any], common: str | None) -> tuple[float, float, int]:
    """Mean, standard deviation and number of the cells that are there; of a category, of whether they are `common`."""
    numbers = [float(v) if common is None else float(str(v) == common) for v in values if not _missing(v)]
    n = len(numbers)
    mean = sum(numbers) / n if n else math.nan
    spread = math.sqrt(sum((v - mean) ** 2 for v in numbers) / (n - 1)) if n > 1 else math.nan
    return mean, spread, n


def _words(own: tuple[float, float, int], data: tuple[float, float, int], *, share: bool) -> str:
    (mean, spread, n), (other, wide, m) = own, data
    error = math.sqrt(spread**2 / max(n, 1) + wide**2 / max(m, 1)) if n > 1 and m > 1 else math.nan
    star = " *" if abs(mean - other) > ALARM * error else ""
    return (f"{100 * mean:.1f} %" if share else f"{mean:.4g} ({spread:.3g})") + star
