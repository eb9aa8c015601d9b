"""What synthetic rows of a table are worth, each figure beside what training rows score in their place.

Training rows are the oracle: nobody's rows can be more like held-out rows than other real rows are.  That holds for likeness
and use; of what is remembered they are the worst case, since every one of them is a training row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor

from likeli.contract import GenerativeModel, Knows
from likeli.errors import require
from likeli.evaluation.cross_fitted import cross_fitted_area
from likeli.evaluation.features import pooled_features
from likeli.evaluation.likelihood import score
from likeli.evaluation.panel import memorisation
from likeli.evaluation.permutations import nearest_rows
from likeli.evaluation.side_by_side import score_samples
from likeli.evaluation.two_sample import roc_area
from likeli.random import permutation
from likeli.spaces import Space
from likeli.spaces.base import Coding

MOST = 2000  # rows of a set that a classifier, neighbours or an area see
GROUPS = 8  # of a column's cells, between which pairs of columns are compared
RESAMPLES = 40  # of the rows, behind a standard error
KINDS: dict[str, Callable[[list[float]], Any]] = {"mean": np.mean, "largest": np.max}
LIKELY = 500  # training rows whose log p is asked for
FEWEST = 40  # held-out rows


@dataclass(frozen=True)
class Worth:
    """One figure of synthetic rows.

    Arguments:
        part: the question that it answers.
        name: what it is, and which way is good.
        value, stderr, n: of the synthetic rows; n rows are behind it.
        oracle, oracle_stderr: of training rows in their place, NaN where there is no such thing.
    """

    part: str
    name: str
    value: float
    stderr: float
    n: int
    oracle: float = math.nan
    oracle_stderr: float = math.nan


def judge_rows(
    model: GenerativeModel, train: Tensor, held: Tensor, drawn: Tensor, *, target: int | None = None, seed: int = 0
) -> list[Worth]:
    """Likeness, pairs, a classifier both ways, use, what is remembered, log p.

    Arguments:
        model: that drew the rows.
        train, held: what it was fitted to, and rows that it was not; NaN where a cell is missing.
        drawn: synthetic rows, with such gaps as the real ones have.
        target: the column that is foretold from the others; the last one of names if not given, else the last.
        seed: of the choice of rows.

    Raises:
        InputError: fewer than 40 rows of a set.
    """
    space = model.space
    for name, rows in {"held": held, "train": train, "drawn": drawn}.items():
        require(len(rows) >= FEWEST, name, f"at least {FEWEST} rows", len(rows))
    n = min(MOST, len(held), len(drawn), len(train))
    sets = {"held": held, "train": train, "drawn": drawn}
    h, t, s = (rows[permutation(len(rows), seed, name)[:n]].double().cpu() for name, rows in sets.items())
    found = list[Worth]()
    if space.coding is not None and len(space.shape) == 1:
        found += [*likeness(space.coding, h, t, s, seed), *together(space.coding, h, t, s, seed)]
    found += told_apart(space, h, t, s, seed)
    found += use(space, train.double().cpu(), held.double().cpu(), drawn.double().cpu(), target, seed)
    found += remembered(model, h, t, s, seed)
    return found


def likeness(coding: Coding, held: Tensor, train: Tensor, drawn: Tensor, seed: int) -> list[Worth]:
    """½ Σ_k |share_k − share'_k| over each column's cells, the mean and the largest over columns."""
    codes = [coding.symbols(x).numpy() for x in (held, train, drawn)]

    def shares(x: np.ndarray) -> list[np.ndarray]:
        return [np.bincount(c[c >= 0], minlength=k) / max((c >= 0).sum(), 1) for c, k in zip(x.T, coding.sizes)]

    def distance(a: np.ndarray, b: np.ndarray, how: Callable[[list[float]], Any]) -> float:
        return float(how([0.5 * np.abs(u - v).sum() for u, v in zip(shares(a), shares(b))]))

    name = "distance of a column's shares of values, {} over columns (0 at best)"
    return [_compared("columns", name.format(k), codes, partial(distance, how=how), seed) for k, how in KINDS.items()]


def together(coding: Coding, held: Tensor, train: Tensor, drawn: Tensor, seed: int) -> list[Worth]:
    """|V − V'|, V Cramér's association of two columns in at most 8 groups of equal share, mean and largest over pairs."""
    sets = grouped(coding, held, train, drawn)
    pairs = list(combinations(range(sets[0].shape[1]), 2))
    if not pairs:
        return []

    def gap(a: np.ndarray, b: np.ndarray, how: Callable[[list[float]], Any]) -> float:
        return float(how([abs(cramer_v(a[:, i], a[:, j]) - cramer_v(b[:, i], b[:, j])) for i, j in pairs]))

    name = "difference of two columns' association (Cramér's V), {} over pairs (0 at best)"
    return [_compared("pairs", name.format(k), sets, partial(gap, how=how), seed) for k, how in KINDS.items()]


def associations(coding: Coding, held: Tensor, drawn: Tensor, names: Sequence[str]) -> list[tuple[str, float, float]]:
    """Each pair of columns, those that differ most first: names, V of held-out rows, V of synthetic ones."""
    sets, found = grouped(coding, held.double().cpu(), drawn.double().cpu()), []
    for i, j in combinations(range(len(names)), 2):
        a, b = (cramer_v(x[:, i], x[:, j]) for x in sets)
        found.append((f"{names[i]} and {names[j]}", a, b))
    return sorted(found, key=lambda pair: -abs(pair[1] - pair[2]))


def grouped(coding: Coding, *sets: Tensor) -> list[np.ndarray]:
    """Each set's cells in at most 8 groups a column, in their order and of about equal share in the first set, and the gaps."""
    codes = [coding.symbols(x).numpy() for x in sets]
    groups = []
    for c, cells in zip(codes[0].T, coding.sizes):
        share = np.bincount(c[c >= 0], minlength=cells) / max((c >= 0).sum(), 1)
        place = ((share.cumsum() - share / 2) * GROUPS).astype(int).clip(max=GROUPS - 1)
        groups.append(np.unique(place, return_inverse=True)[1] if cells > GROUPS else np.arange(cells))
    return [np.stack([np.where(c >= 0, g[c.clip(min=0)], len(g)) for c, g in zip(x.T, groups)], 1) for x in codes]


def cramer_v(a: np.ndarray, b: np.ndarray) -> float:
    """√(χ²/n / (min(rows, columns) − 1)) of the table of two columns of codes, 0 where one is constant."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    least = min(table.shape) - 1
    if least < 1:
        return 0.0
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / least))


def _compared(
    part: str, name: str, sets: list[np.ndarray], distance: Callable[[np.ndarray, np.ndarray], float], seed: int
) -> Worth:
    """A distance of synthetic rows from held-out ones, and of training rows, with the spread over half-samples.

    Halves of the rows, drawn without repeats, spread a distance that is linear in shares by as much as whole samples do; those
    drawn with repeats would add a distance of their own.
    """
    held, train, drawn = sets
    rng = np.random.default_rng([seed, len(name)])

    def spread(x: np.ndarray) -> float:
        halves = [[v[rng.permutation(len(v))[: len(v) // 2]] for v in (x, held)] for _ in range(RESAMPLES)]
        return float(np.std([distance(*half) for half in halves], ddof=1))

    return Worth(part, name, distance(drawn, held), spread(drawn), len(drawn), distance(train, held), spread(train))


def told_apart(space: Space, held: Tensor, train: Tensor, drawn: Tensor, seed: int) -> list[Worth]:
    """Boosted trees against held-out rows and against training rows, and the Fréchet distance; training rows are the floor."""
    area, frechet = score_samples(held, train, {"drawn": drawn}, space, seed).scores["drawn"]
    both, _, _ = pooled_features(train, drawn, space)
    other = cross_fitted_area(both.rows[: both.n], both.rows[both.n :], seed)
    floor, rest, part = (area.floor, area.floor_stderr), (frechet.floor, frechet.floor_stderr), "told apart"
    name = "area of boosted trees, synthetic rows against {} rows (½ at best)"
    return [
        Worth(part, name.format("held-out"), area.value, area.stderr, area.m, *floor),
        Worth(part, name.format("training"), *other, len(drawn), *floor),
        Worth(part, "Fréchet distance from held-out rows (0 at best)", frechet.value, frechet.stderr, frechet.m, *rest),
    ]


def use(space: Space, train: Tensor, held: Tensor, drawn: Tensor, target: int | None, seed: int) -> list[Worth]:
    """Boosted trees that learn a column on synthetic rows, or on as many training rows, judged on held-out ones."""
    nominal = torch.zeros(space.dimensions, dtype=torch.bool) if space.categorical is None else space.categorical.flatten()
    if space.dimensions < 2 or len(space.shape) != 1:
        return []
    named = nominal.nonzero()[:, 0].tolist()
    j = target if target is not None else (named[-1] if named else space.dimensions - 1)
    what = space.names[j] if space.names else f"column {j}"
    sets = [x[~x[:, j].isnan()].numpy() for x in (drawn, train, held)]
    n = min(len(sets[0]), len(sets[1]))
    judged = sets[2]
    found = [_taught(x[:n], judged, j, bool(nominal[j]), seed) for x in sets[:2]]
    if not all(found):
        return []
    return [
        Worth("use", f"{label} of {what}, learned from {n} rows", value, stderr, len(judged), *rest)
        for (label, value, stderr), (_, *rest) in zip(*found)
    ]


def _taught(rows: np.ndarray, judged: np.ndarray, j: int, nominal: bool, seed: int) -> list[tuple[str, float, float]]:
    x, y = np.delete(rows, j, 1), rows[:, j]
    z, truth = np.delete(judged, j, 1), judged[:, j]
    empty = np.isnan(x).all(0)
    x, z = np.where(empty, 0, x), np.where(empty, 0, z)
    if not nominal:
        guess = HistGradientBoostingRegressor(random_state=seed).fit(x, y).predict(z)
        off = np.abs(guess - truth) / max(float(truth.std()), 1e-300)
        return [("mean absolute error in standard deviations", float(off.mean()), float(off.std(ddof=1) / math.sqrt(len(off))))]
    if len(np.unique(y)) < 2:
        return []
    model = HistGradientBoostingClassifier(random_state=seed).fit(x, y)
    right = model.predict(z) == truth
    found = [("share foretold right", float(right.mean()), float(right.std(ddof=1) / math.sqrt(len(right))))]
    if set(np.unique(truth)) == set(model.classes_) and len(model.classes_) == 2:
        chance = model.predict_proba(z)[:, 1]
        one = truth == model.classes_[1]
        found.append(("area under the ROC curve", *roc_area(chance[~one], chance[one])))
    return found


def remembered(model: GenerativeModel, held: Tensor, train: Tensor, drawn: Tensor, seed: int) -> list[Worth]:
    """Whether synthetic rows lie at training rows, and whether what is public tells training rows from held-out ones."""
    part, n, space = "remembered", len(drawn), model.space
    p, near = memorisation(held, drawn, train, space=space)
    known = {row.tobytes() for row in train.nan_to_num(nan=torch.inf).numpy()}
    same = [float(np.mean([v.tobytes() in known for v in x.nan_to_num(nan=torch.inf).numpy()])) for x in (drawn, held)]
    both, _, _ = pooled_features(torch.cat([train, held]), drawn, space)
    rows = np.split(both.rows, [len(train), len(train) + len(held)])
    distance = [nearest_rows(x, 1, rows[2])[0][:, 0] for x in rows[:2]]
    nearer, equal = "share nearer to a training row than 99 % of held-out rows are (0.01 if none is remembered)", same[1]
    found = [
        Worth(part, nearer, near, _binomial(near, n), n, 1.0, 0.0),
        Worth(part, "p that the distances to training rows are those of held-out rows", p, math.nan, n),
        Worth(part, f"share equal to a training row (held-out rows: {equal:.4f})", same[0], _binomial(same[0], n), n, 1.0, 0.0),
    ]
    told = "membership told by {}, area (½ if it cannot be)"
    area = roc_area(-distance[1], -distance[0])
    found.append(Worth(part, told.format("the nearest synthetic row"), *area, len(train)))
    if model.knows in (Knows.EXACT, Knows.LOWER_BOUND, Knows.ESTIMATE) and model.condition is None:
        blocks = [score(model, x[:LIKELY], seed=seed) for x in (train, held)]
        value = [torch.cat([v.value.double() for v in parts]).cpu().numpy() for parts in blocks]
        area = roc_area(value[1], value[0])
        found.append(Worth(part, told.format("log p, by who has the model"), *area, len(value[0])))
        mean = [(float(v.mean()), float(v.std(ddof=1) / math.sqrt(len(v)))) for v in value]
        name = f"log p of held-out rows, nats ({model.knows_here.value}, {space.measure}; higher is better)"
        found.append(Worth("log p", name, *mean[1], len(value[1]), *mean[0]))
    return found


def _binomial(share: float, n: int) -> float:
    smoothed = (share * n + 1) / (n + 2)
    return math.sqrt(smoothed * (1 - smoothed) / n)
