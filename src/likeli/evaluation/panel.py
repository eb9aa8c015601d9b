"""Whether two sets of rows come from one distribution: a fixed panel of tests, each blind to something, with Holm over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from likeli.errors import require
from likeli.evaluation.cross_fitted import REFITS, boosting_area, logistic_statistic, neighbour_statistics
from likeli.evaluation.features import pooled_features
from likeli.evaluation.permutations import (
    kernel_statistics,
    kernel_weights,
    kernels_for,
    kolmogorov_smirnov,
    label_weights,
    loudest,
    mean_statistics,
    nearest_rows,
    permutation_p,
)
from likeli.evaluation.two_sample import FEWEST
from likeli.spaces import Space
from likeli.spaces.arrays import as_tensor

MEMBERS = 5
UNEQUAL = 4.0  # times as many rows in one set as in the other, from which a warning is given
WARNED = 1e-3  # p-value of memorisation from which a warning is given
BLIND = {
    "mean": "everything that leaves means alone: scale, correlation, shape",
    "marginals": "how columns depend on each other",
    "energy": "differences at a scale far below that of the whole",
    "mmd": "differences finer than its narrowest kernel, and few columns among many",
    "classifier": "what neither neighbours, moments of order two nor small trees learn from so few rows",
}


@dataclass(frozen=True)
class Member:
    """One test of the panel.

    Arguments:
        name: mean, marginals, energy, mmd or classifier.
        statistic: T², the largest Kolmogorov–Smirnov distance, the energy distance, the squared MMD of the kernel that spoke
            loudest, or the largest held-out area under the curve of the classifiers.
        p: of this test alone.
        adjusted: by Holm for the panel; below the level, the test fires.
        fired: whether it does.
        where: what spoke loudest: a column, a kernel, a classifier.
        blind: what it does not see.
    """

    name: str
    statistic: float
    p: float
    adjusted: float
    fired: bool
    where: str
    blind: str


@dataclass(frozen=True)
class TwoSampleTest:
    """What the panel makes of two sets.

    Arguments:
        n, m: rows of each.
        columns: that were compared.
        map: how rows became columns.
        level: chance of any member firing if the two distributions are equal, at most.
        permutations: of the labels; no p is below 1/(1 + permutations).
        p: the smallest adjusted p-value, the panel's own.
        differ: whether a member fired.
        members: the tests.
        kernels: of `mmd`, with their bandwidths.
        warnings: what makes the p-values mean less than they say.
    """

    n: int
    m: int
    columns: int
    map: str
    level: float
    permutations: int
    p: float
    differ: bool
    members: tuple[Member, ...]
    kernels: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        fired = ", ".join(m.name for m in self.members if m.fired)
        verdict = f"the sets differ ({fired})" if self.differ else "no difference found, which is no proof that there is none"
        lines = [f"p = {self.p:.3g} at n = {self.n}, m = {self.m}: {verdict}"]
        for m in self.members:
            mark = "*" if m.fired else " "
            lines.append(f"{mark} {m.name:<10} p = {m.p:<7.3g} Holm {m.adjusted:<7.3g} {m.statistic:<9.4g} {m.where}")
        blind = [f"  {m.name:<10} blind to {m.blind}" for m in self.members if not m.fired]
        told = [f"compared: {self.columns} columns, {self.map}", *(f"warning: {w}" for w in self.warnings)]
        return "\n".join([*lines, *blind, *told])


def two_sample_test(
    x: Any,
    y: Any,
    *,
    space: Space | None = None,
    train: Any = None,
    level: float = 0.05,
    permutations: int = 499,
    seed: int = 0,
) -> TwoSampleTest:
    """Whether x and y are draws of one distribution, by five tests with Holm's correction.

    `mean`: Hotelling's T² and the largest |t|; `marginals`: Kolmogorov–Smirnov column by column; `energy`: the energy
    distance; `mmd`: Laplace and Gauss kernels at 10 bandwidths; `classifier`: neighbours, logistic regression of second order
    and boosted trees, each row judged by one that was not trained on it.  Several statistics in one member are aggregated by
    the largest surprise in their own permutation nulls, among kernels the narrow ones weighing more.  p-values are those of
    permuted labels; of boosting alone, which is trained again on 10 permutations, of Student's t.

    Arguments:
        x, y: (n, *shape) and (m, *shape), independent rows, at least 20 each; arrays, or data frames with the same columns.
        space: what a row is; None for plain numbers and for frames, whose columns are typed from both sets together.
        train: rows that y's model was fitted to, if x was not among them: whether y copies them is then looked at, and warned
            of.
        level: chance of a false alarm of the whole panel, at most.
        permutations: of the labels.
        seed: of the permutations, the folds and the order of equal rows.

    Raises:
        InputError: fewer than 20 rows, shapes that differ, infinite cells, nothing that varies, or too few permutations for
            the level.

    Source: Schrab et al. (2023), arXiv:2110.15073; Biggs, Schrab & Gretton (2023), arXiv:2306.08777; Holm (1979), Scand. J.
        Stat. 6.
    """
    require(0 < level < 1, "level", "a number between 0 and 1", level)
    least = max(math.ceil(2 * MEMBERS / level) - 1, REFITS)  # so that every member can fire alone
    require(permutations >= least, "permutations", f"at least {least} for level {level:g}", permutations)
    found, a, b = pooled_features(x, y, space)
    for name, given in (("x", a), ("y", b)):
        require(len(given) >= FEWEST, name, f"at least {FEWEST} rows", len(given))
    rng = np.random.default_rng([seed, 0x7E57])
    order = rng.permutation(len(found.rows))  # nothing that depends on the order of rows may tell the sets apart
    rows, labels = found.rows[order], order < found.n
    w = label_weights(labels, permutations, seed)
    raw = [_mean(rows, w), _marginals(rows, w, found.names), *_kernels(rows, w), _classifier(rows, w, seed)]
    adjusted = holm([p for _, p, _ in raw])
    members = tuple(
        Member(name, statistic, p, q, q <= level, where, BLIND[name])
        for (statistic, p, where), q, name in zip(raw, adjusted, BLIND, strict=True)
    )
    kernels = tuple(f"{k.name} {k.bandwidth:.4g}" for k in kernels_for(rows) if k.bandwidth)
    smallest = min(adjusted)
    warned = (*found.notes, *cautions(a, b), *(() if train is None else _memorised(a, b, train, space)))
    return TwoSampleTest(
        n=len(a), m=len(b), columns=rows.shape[1], map=found.map, level=level, permutations=permutations, p=smallest,
        differ=smallest <= level, members=members, kernels=kernels, warnings=warned,
    )  # fmt: skip


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: the i-th smallest of K times K − i + 1, made monotone, at most 1."""
    out, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        worst = max(worst, min(1.0, p[i] * (len(p) - rank)))
        out[i] = worst
    return out


def _mean(rows: np.ndarray, w: np.ndarray) -> tuple[float, float, str]:
    squared, t, ridge = mean_statistics(rows, w)
    together, which = loudest(np.stack([squared, t.max(0)]))
    return float(squared[0]), permutation_p(together), ("T²", "largest |t|")[which] + ", with a ridge" * ridge


def _marginals(rows: np.ndarray, w: np.ndarray, names: Sequence[str]) -> tuple[float, float, str]:
    distance = kolmogorov_smirnov(rows, w)
    together, which = loudest(distance)
    return float(distance[which, 0]), permutation_p(together), names[which]


def _kernels(rows: np.ndarray, w: np.ndarray) -> list[tuple[float, float, str]]:
    kernels = kernels_for(rows)
    statistic = kernel_statistics(rows, w, kernels)
    together, which = loudest(statistic[1:], kernel_weights(kernels[1:]))
    chosen = kernels[1 + which]
    energy = (float(statistic[0, 0]), permutation_p(statistic[0]), "")
    where = f"{chosen.name}, bandwidth {chosen.bandwidth:.3g}"
    return [energy, (float(statistic[1 + which, 0]), permutation_p(together), where)]


def _classifier(rows: np.ndarray, w: np.ndarray, seed: int) -> tuple[float, float, str]:
    votes, counts = neighbour_statistics(rows, w)
    refitted = np.stack([*votes, logistic_statistic(rows, w)])
    names = [*(f"{k} nearest neighbours" for k in counts), "logistic"]
    together, which = loudest(refitted)
    areas, p_boosting = boosting_area(rows, w, seed)
    p_boosting, p_refitted = max(p_boosting, 1 / w.shape[1]), permutation_p(together)  # Student's t is not known so far out
    if p_boosting < p_refitted:
        return float(areas[0]), min(1.0, 2 * p_boosting), "boosting"
    return float(refitted[which, 0]), min(1.0, 2 * p_refitted), names[which]


def cautions(x: Tensor, y: Tensor) -> list[str]:
    """What makes two sets less than two sets of independent rows: shared rows, repeated rows, very unequal sizes."""
    a, b = (np.ascontiguousarray(v.cpu().double().reshape(len(v), -1).numpy() + 0.0) for v in (x, y))
    keys = [[row.tobytes() for row in v] for v in (a, b)]
    known = [set(k) for k in keys]
    again = [1 - len(s) / len(k) for s, k in zip(known, keys)]
    shared = sum(k in known[0] for k in keys[1]) / len(keys[1])
    said = []
    if shared > 2 * max(again) + 0.01 or (shared > 0 and not any(again)):
        said.append(f"{shared:.1%} of the rows of y are rows of x, bit for bit: copies are no independent draws")
    for name, share, other in (("x", again[0], again[1]), ("y", again[1], again[0])):
        if share > 2 * other + 0.01:
            said.append(
                f"{share:.1%} of the rows of {name} repeat others of it: if they are no independent draws, p is too small"
            )
    holes = [float(v.isnan().double().mean()) if v.is_floating_point() else 0.0 for v in (x, y)]
    if (holes[0] == 0) != (holes[1] == 0):
        said.append(f"only {'xy'[holes[0] == 0]} has missing cells ({max(holes):.1%}), which alone tells the sets apart")
    if max(len(x), len(y)) > UNEQUAL * min(len(x), len(y)):
        said.append(f"{len(x)} rows against {len(y)}: the power is about that of twice the smaller set")
    return said


def _memorised(x: Tensor, y: Tensor, train: Any, space: Space | None) -> list[str]:
    """A word if rows of y lie nearer to the training rows than held-out rows do."""
    p, share = memorisation(x, y, train if space is None else space.check(train, what="train", missing=True), space=space)
    close = f"{share:.1%} of y are nearer to a training row than 99 % of x"
    return [f"y memorises: {close} (p = {p:.2g} that its distances are those of x)"] if p < WARNED else []


def memorisation(x: Any, y: Any, train: Any, *, space: Space | None = None) -> tuple[float, float]:
    """Whether y lies nearer to training rows than held-out rows do: p of the Mann–Whitney test, and the share of close rows.

    Given the training rows, distances to the nearest of them are independent over rows, so that p is exact up to ties.

    Arguments:
        x: held-out rows.
        y: rows drawn from a model.
        train: what the model was fitted to.
        space: what a row is; None for plain numbers.

    Returns:
        p, and the share of y nearer to a training row than 99 % of x; 1 % if there is no difference.

    Source: Meehan, Chaudhuri & Dasgupta (2020), arXiv:2004.05675.
    """
    if hasattr(x, "columns"):
        import pandas

        both = pandas.concat([x, y], ignore_index=True)
    else:
        both = torch.cat([as_tensor(x, "x"), as_tensor(y, "y")])
    found, _, _ = pooled_features(both, train, space)
    near = nearest_rows(found.rows[: found.n], 1, found.rows[found.n :])[0][:, 0]
    held, drawn = near[: len(x)], near[len(x) :]
    p = stats.mannwhitneyu(drawn, held, alternative="less", method="asymptotic").pvalue
    return float(p), float((drawn < np.quantile(held, 0.01)).mean())
