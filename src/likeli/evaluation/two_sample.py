"""Whether two sets of rows come from one distribution, by how well a classifier tells them apart on rows it has not seen.

    AUC = P(score of a row of b > score of a row of a),   ½ if the two distributions are equal
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from likeli.data import columns_of
from likeli.errors import require
from likeli.models.distilled import Distilled
from likeli.random import seeded
from likeli.spaces import Space, Tokens

Classifier = Literal["boosting", "logistic"]
FEWEST = 20  # rows of each set: half of them train the classifier
MOST = 40  # columns of a table whose marginals are shown
ALARM = 4.0  # standard errors of a difference; 1 false alarm in 16,000


@dataclass(frozen=True)
class ClassifierTest:
    """What a classifier makes of two sets, on held-out rows.

    Arguments:
        auc: area under the ROC curve, ½ when it cannot tell.
        stderr: of the area, over the held-out rows; the luck of the training half is not in it.
        accuracy: share of held-out rows put into the right set, each set weighing one half.
        accuracy_stderr: of that share.
        p_value: chance of an area this large or larger if the two distributions are equal.
        held_out: rows of each set that judged.
    """

    auc: float
    stderr: float
    accuracy: float
    accuracy_stderr: float
    p_value: float
    held_out: tuple[int, int]


def c2st(a: Tensor, b: Tensor, seed: int = 0, *, classifier: Classifier = "boosting") -> tuple[float, float]:
    """Held-out area under the ROC curve of telling a from b, and its standard error.

    Arguments:
        a, b, seed, classifier: as for `classifier_test`.
    """
    result = classifier_test(a, b, seed, classifier=classifier)
    return result.auc, result.stderr


def classifier_test(a: Tensor, b: Tensor, seed: int = 0, *, classifier: Classifier = "boosting") -> ClassifierTest:
    """Train a classifier on one half of each set, judge it on the other.

    The p-value is that of the Mann–Whitney statistic of the held-out scores: given the classifier they are exchangeable
    if the distributions are equal, whatever the classifier has learned.

    Arguments:
        a, b: (n, *shape) and (m, *shape), independent rows; NaN is a missing cell, which only boosting takes.
        seed: of the halves.
        classifier: boosting (gradient-boosted trees), or logistic (a linear one, for many cells and few rows).

    Raises:
        InputError: fewer than 20 rows, shapes that differ, or infinite cells.

    Source: Lopez-Paz & Oquab (2017), arXiv:1610.06545.
    """
    require(classifier in ("boosting", "logistic"), "classifier", "boosting or logistic", classifier)
    require(a.shape[1:] == b.shape[1:], "b", f"rows of shape {tuple(a.shape[1:])}", tuple(b.shape[1:]))
    sets = [_flat(a, "a", classifier), _flat(b, "b", classifier)]
    rng = np.random.default_rng([seed, 0xC257])
    halves = [np.array_split(rng.permutation(len(s)), 2) for s in sets]
    train = [s[h[0]] for s, h in zip(sets, halves)]
    judge = [s[h[1]] for s, h in zip(sets, halves)]
    model = _fit(np.concatenate(train), np.repeat([0, 1], [len(t) for t in train]), classifier, seed)
    scores = [model(rows) for rows in judge]
    return _judge(*scores)


def _flat(x: Tensor, name: str, classifier: str) -> np.ndarray:
    require(len(x) >= FEWEST, name, f"at least {FEWEST} rows", len(x))
    rows = x.detach().cpu().double().reshape(len(x), -1).numpy()
    require(not np.isinf(rows).any(), name, "finite cells", "infinite ones")
    require(classifier == "boosting" or not np.isnan(rows).any(), name, "no missing cells, or the boosting classifier", "NaN")
    return rows


def _fit(x: np.ndarray, label: np.ndarray, classifier: Classifier, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Rows → chance of being of set b, from a classifier for which both sets weigh the same."""
    if classifier == "logistic":
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    else:
        model = balanced_trees(seed)
    model.fit(x, label)
    return lambda rows: model.predict_proba(rows)[:, 1]


class QuantileBins(TransformerMixin, BaseEstimator):
    """Columns → the number of the interval between quantiles of its column that a cell lies in; NaN stays.

    The trees would put cells into such bins themselves, but look for each quantile of weighted rows by itself, which takes far
    longer than all that they do afterwards.
    """

    bins = 255

    def fit(self, rows: np.ndarray, labels: np.ndarray | None = None) -> QuantileBins:
        """Find the quantiles, or midpoints between values where these are few."""
        inner, self.cuts_ = np.linspace(0, 1, self.bins + 1)[1:-1], list[np.ndarray]()
        for column in rows.T:
            seen = column[~np.isnan(column)]
            values = np.unique(seen)
            many = len(values) > self.bins
            quantiles = np.quantile(seen, inner, method="averaged_inverted_cdf") if many else (values[1:] + values[:-1]) / 2
            self.cuts_.append(np.unique(quantiles))
        return self

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """(N, D) → (N, D)."""
        places = np.stack([np.searchsorted(cuts, column) for cuts, column in zip(self.cuts_, rows.T)], 1)
        return np.where(np.isnan(rows), np.nan, places)


def balanced_trees(seed: int, **options: Any) -> Pipeline:
    """Boosted trees for which both sets weigh the same."""
    trees = HistGradientBoostingClassifier(class_weight="balanced", early_stopping=False, random_state=seed, **options)
    return make_pipeline(QuantileBins(), trees)


def roc_area(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """P(b > a) + ½ P(b = a) over all pairs of scores, and its standard error.

    Arguments:
        a, b: (n,) and (m,) scores, at least two of each.

    Source: DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44(3).
    """
    above, below = _placements(b, a), 1 - _placements(a, b)
    spread = math.sqrt(above.var(ddof=1) / len(b) + below.var(ddof=1) / len(a))
    rough = 1 / (min(len(a), len(b)) + 2)  # sets that are wholly apart show no spread, which does not make the area certain
    return float(above.mean()), max(spread, rough)


def _judge(a: np.ndarray, b: np.ndarray) -> ClassifierTest:
    auc, stderr = roc_area(a, b)
    right = [int((a < 0.5).sum()), int((b >= 0.5).sum())]
    shrunk = [(k + 1) / (len(s) + 2) for k, s in zip(right, (a, b))]
    accuracy_stderr = 0.5 * math.sqrt(sum(p * (1 - p) / len(s) for p, s in zip(shrunk, (a, b))))
    return ClassifierTest(
        auc=auc,
        stderr=stderr,
        accuracy=0.5 * (right[0] / len(a) + right[1] / len(b)),
        accuracy_stderr=accuracy_stderr,
        p_value=float(stats.mannwhitneyu(b, a, alternative="greater", method="asymptotic").pvalue),
        held_out=(len(a), len(b)),
    )


def _placements(of: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Share of `among` that lies below each of `of`, ties counting one half."""
    rank = np.sort(among)
    return (np.searchsorted(rank, of, "left") + np.searchsorted(rank, of, "right")) / (2 * len(among))


DIRECTIONS, SPLITS = 128, 8
TEACHER = (1, 2, 5)  # evaluations of the teacher's rows, in multiples of the student's


@dataclass(frozen=True)
class Quality:
    """One way of sampling, held against rows that nothing was trained on.

    Arguments:
        name: what drew the samples.
        evaluations: of the network, for one sample.
        auc, auc_stderr: a classifier's held-out area under the curve, ½ if it cannot tell them from the held-out rows.
        distance, distance_stderr: sliced Wasserstein-2 distance in model units; that of equal laws is above zero, see `floor`.
    """

    name: str
    evaluations: int
    auc: float
    auc_stderr: float
    distance: float
    distance_stderr: float


def quality_per_step(student: Distilled, x: Tensor, y: Tensor | None = None, *, seed: int = 0) -> list[Quality]:
    """The student, its teacher by `adams` on the `optimal` grid at 1, 2 and 5 times the evaluations, and the floor.

    The floor is one half of the held-out rows against the other, what perfect samples of half the number would score.

    Arguments:
        student: a distilled model.
        x: held-out rows, at least 80; as many samples are drawn.
        y: their conditions, for a conditional model.
        seed: of the samples.
    """
    require(len(x) >= 80, "x", "at least 80 held-out rows", len(x))
    rows = [("student", student.steps, student.sample(len(x), y, seed=seed))]
    for evaluations in (k * student.steps for k in TEACHER):
        options: dict[str, Any] = {"steps": evaluations, "sampler": "adams", "grid": "optimal"}
        rows.append(("teacher", evaluations, student.teacher.sample(len(x), y, seed=seed, **options)))
    found = [compared(name, evaluations, samples, x, student, seed) for name, evaluations, samples in rows]
    with seeded(seed, "floor"):
        halves = x[torch.randperm(len(x))].chunk(2)
    return [*found, compared("floor", 0, halves[0], halves[1], student, seed)]


def compared(name: str, evaluations: int, samples: Tensor, x: Tensor, student: Distilled, seed: int) -> Quality:
    """Samples against held-out rows."""
    a, b = (student.space.to_model(v, torch.float64).flatten(1).cpu() for v in (samples, x))
    parts = [sliced_wasserstein(*both, seed) for both in zip(a.chunk(SPLITS), b.chunk(SPLITS)) if len(both[0]) == len(both[1])]
    spread = torch.tensor(parts).std().item() / math.sqrt(len(parts)) if len(parts) > 1 else math.nan
    return Quality(name, evaluations, *c2st(samples.flatten(1), x.flatten(1), seed), sliced_wasserstein(a, b, seed), spread)


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """√ of the mean over 128 random directions of the squared W₂ of the projections, from their quantiles.

    Arguments:
        a, b: (n, D) and (m, D).
        seed: of the directions.

    Source: Bonneel et al. (2015), J. Math. Imaging Vis. 51.
    """
    with seeded(seed, "directions"):
        way = torch.nn.functional.normalize(torch.randn(DIRECTIONS, a.shape[1], dtype=a.dtype), dim=1)
    count = max(len(a), len(b))
    at = (torch.arange(count, dtype=a.dtype) + 0.5) / count
    ordered = [torch.quantile(v @ way.T, at, dim=0) for v in (a, b)]
    return (ordered[0] - ordered[1]).square().mean().sqrt().item()


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
    dates = {space.names[i]: (i, calendar) for i, calendar in space.calendars.items()}
    named = {k: columns_of(x, space) | {d: x[:, i].tolist() for d, (i, _) in dates.items()} for k, x in sets.items()}
    first = next(iter(named.values()))
    lines = [["column", *named]]
    for column, values in first.items():
        seen = [v for v in values if not _missing(v)]
        common = None if all(isinstance(v, (int, float)) for v in seen) else Counter(map(str, seen)).most_common(1)[0][0]
        moments = [_moments(of[column], common) for of in named.values()]
        label = column if common is None else f"{column} = {common}"
        label += f" ({dates[column][1]})" if column in dates else ""
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
