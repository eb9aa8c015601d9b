"""How near samples are to held-out rows, in numbers: each with a standard error, and beside it what training rows score.

No number of this kind is zero for perfect samples: they are biased by the number of rows.  The floor, training rows against
the same held-out rows, says what equal distributions give at this size.  Nothing is downloaded: features are the columns that
the two-sample tests compare, the user's own, or the hidden layer of a small network trained here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from likeli.errors import require
from likeli.evaluation.features import pooled_features
from likeli.evaluation.permutations import BLOCK, nearest_rows
from likeli.evaluation.two_sample import sliced_wasserstein
from likeli.random import permutation
from likeli.spaces import Space

GROUPS = 10  # of rows left out in turn
FEWEST_ROWS = 40
NEIGHBOURS = 5
Extractor = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SampleMetric:
    """One number about samples.

    Arguments:
        name: what it is.
        value: of samples against held-out rows.
        stderr: of it, by leaving out a tenth of both sets in turn.
        floor: the same number of training rows, as many as samples, against the held-out rows.
        floor_stderr: of that.
        best: whether higher or lower is better.
        n, m: held-out rows, and samples.
    """

    name: str
    value: float
    stderr: float
    floor: float
    floor_stderr: float
    best: str
    n: int
    m: int

    def __str__(self) -> str:
        own, floor = f"{self.value:.4g} ± {self.stderr:.2g}", f"{self.floor:.4g} ± {self.floor_stderr:.2g}"
        return f"{self.name:<20} {own:<22} training rows {floor:<22} {self.best} is better"


def sample_metrics(
    x: Any, samples: Any, train: Any, *, space: Space | None = None, features: Extractor | None = None, seed: int = 0
) -> list[SampleMetric]:
    """Fréchet and kernel distance, precision, recall, density, coverage and sliced Wasserstein distance.

    Arguments:
        x: held-out rows (n, *shape), at least 40.
        samples: of a model, (m, *shape).
        train: rows of the same distribution as x, none of them in it; as many as samples are taken, or all if there are fewer.
        space: what a row is; None for plain numbers.
        features: rows (B, D) of compared columns → features (B, F), such as `network_features` trains; the columns themselves
            if None.
        seed: of the choice of rows and of directions.

    Raises:
        InputError: too few rows, shapes that differ, or features that are not finite numbers, a row each.
    """
    for name, rows in (("x", x), ("samples", samples), ("train", train)):
        require(len(rows) >= FEWEST_ROWS, name, f"at least {FEWEST_ROWS} rows", len(rows))
    both, known, _ = pooled_features(torch.cat([torch.as_tensor(x), torch.as_tensor(train)]), samples, space)
    rows = both.rows if features is None else np.asarray(features(both.rows), np.float64)
    good = rows.ndim == 2 and len(rows) == len(both.rows) and bool(np.isfinite(rows).all())
    require(good, "features", f"finite numbers of shape ({len(both.rows)}, F)", f"shape {rows.shape}")
    held, learned, drawn = rows[: len(x)], rows[len(x) : len(known)], rows[len(known) :]
    learned = learned[permutation(len(learned), seed, "floor")[: len(drawn)].numpy()]
    held, learned, drawn = (part[permutation(len(part), seed, "groups").numpy()] for part in (held, learned, drawn))
    found = []
    for name, (metric, best) in METRICS.items():
        (value, error), (floor, floor_error) = (jackknifed(metric, held, part) for part in (drawn, learned))
        found.append(SampleMetric(name, value, error, floor, floor_error, best, len(held), len(drawn)))
    return found


def jackknifed(metric: Callable[[np.ndarray, np.ndarray], float], a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The metric, and √((G − 1)/G Σ_g (θ_g − θ̄)²) over G = 10 tenths of both sets left out in turn.

    Source: Shao & Wu (1989), Ann. Statist. 17.
    """
    groups = [[np.delete(v, part, 0) for part in np.array_split(np.arange(len(v)), GROUPS)] for v in (a, b)]
    without = np.array([metric(u, v) for u, v in zip(*groups)])
    return metric(a, b), float(np.sqrt((GROUPS - 1) * ((without - without.mean()) ** 2).mean()))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of features (n, D), (m, D): squared W₂ of the two normal laws.

    Source: Dowson & Landau (1982); Heusel et al. (2017), arXiv:1706.08500.
    """
    delta = a.mean(0) - b.mean(0)
    first, second = (np.atleast_2d(np.cov(v.T)) for v in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0))
    mixed = np.linalg.eigvalsh(root.T @ second @ root)  # those of Σ_a Σ_b
    return float(delta @ delta + np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(mixed, 0)).sum())


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD of the kernel (xᵀy/D + 1)³; of all rows, not of subsets of them.

    Source: Bińkowski et al. (2018), arXiv:1801.01401.
    """

    def total(u: np.ndarray, v: np.ndarray) -> float:
        return sum(float(((u[i : i + BLOCK] @ v.T / u.shape[1] + 1) ** 3).sum()) for i in range(0, len(u), BLOCK))

    own = [
        (total(v, v) - float((((v * v).sum(1) / v.shape[1] + 1) ** 3).sum())) / (len(v) * (len(v) - 1)) for v in (a, b)
    ]  # without pairs of a row with itself
    return own[0] + own[1] - 2 * total(a, b) / (len(a) * len(b))


def covered(of: np.ndarray, by: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Share of rows of `of` inside the ball of some row of `by`, whose radius is the distance to its k-th nearest.

    Precision is samples covered by held-out rows, recall the reverse.

    Source: Kynkäänniemi et al. (2019), arXiv:1904.06991.
    """
    return float((_balls(of, by, k) > 0).mean())


def ball_density(real: np.ndarray, drawn: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Mean number of balls of real rows that a sample lies in, over k; 1 in the mean for equal distributions.

    Source: Naeem et al. (2020), arXiv:2002.09797.
    """
    return float(_balls(drawn, real, k).mean() / k)


def ball_coverage(real: np.ndarray, drawn: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Share of real rows whose ball holds a sample; 1 − 2^−k, about, for equal distributions of equal numbers.

    Source: Naeem et al. (2020), arXiv:2002.09797.
    """
    radius = nearest_rows(real, k)[0][:, -1]
    return float((nearest_rows(real, 1, drawn)[0][:, 0] <= radius).mean())


def _balls(of: np.ndarray, by: np.ndarray, k: int) -> np.ndarray:
    """In how many balls of `by` each row of `of` lies."""
    radius = torch.from_numpy(nearest_rows(by, k)[0][:, -1])
    z, centre = torch.from_numpy(of).float(), torch.from_numpy(by).float()
    parts = [(torch.cdist(z[i : i + BLOCK], centre) <= radius).sum(1) for i in range(0, len(z), BLOCK)]
    return torch.cat(parts).numpy()


METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], float], str]] = {
    "Fréchet distance": (frechet_distance, "lower"),
    "kernel distance": (kernel_distance, "lower"),
    "precision": (lambda real, drawn: covered(drawn, real), "higher"),
    "recall": (lambda real, drawn: covered(real, drawn), "higher"),
    "density": (ball_density, "higher"),
    "coverage": (ball_coverage, "higher"),
    "sliced Wasserstein": (lambda a, b: sliced_wasserstein(torch.from_numpy(a), torch.from_numpy(b)), "lower"),
}


def network_features(rows: np.ndarray, labels: Any = None, *, seed: int = 0) -> Extractor:
    """A small perceptron trained here, as a map from compared columns (B, D) to what its hidden layer says, (B, 32).

    With labels it tells classes apart; without, its 32 numbers reconstruct the row.

    Arguments:
        rows: (n, D) that the metrics are not computed on, such as training rows as `pooled_features` gives them.
        labels: (n,), a class each.
        seed: of its weights and batches.
    """
    options: dict[str, Any] = {"random_state": seed, "max_iter": 60, "early_stopping": len(rows) >= 200}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 60 passes are the budget
        if labels is None:
            model = MLPRegressor(hidden_layer_sizes=(64, 32, 64), **options).fit(rows, rows)
        else:
            model = MLPClassifier(hidden_layer_sizes=(64, 32), **options).fit(rows, np.asarray(labels))

    def hidden(given: np.ndarray) -> np.ndarray:
        for weight, bias in zip(model.coefs_[:2], model.intercepts_[:2]):
            given = np.maximum(given @ weight + bias, 0)
        return given

    return hidden


@dataclass(frozen=True)
class ClassShares:
    """Whether classes are as frequent among samples as among data, as a judge who errs sees them.

    Arguments:
        found: (K,) share of samples that the judge puts into each class.
        expected: (K,) what the judge would find among samples of the data's shares.
        corrected: (K,) the samples' shares as they are most likely to be, the judge's errors taken out; not held to be ≥ 0.
        statistic, degrees: dᵀ V⁻¹ d of d = found − expected, a χ² if the shares are equal.
        p_value: the chance of a statistic as large.
    """

    found: np.ndarray
    expected: np.ndarray
    corrected: np.ndarray
    statistic: float
    degrees: int
    p_value: float


def class_shares(predicted: Any, confusion: Any, counts: Any) -> ClassShares:
    """A χ² test of the classes of samples, with the judge's confusion in it and the error of everything that was counted.

    With p the data's shares and C_kj the chance that class k is called j, q = Cᵀp is expected of n samples, and

        V = (diag q − qqᵀ)/n + Cᵀ(diag p − ppᵀ)C/N + Σ_k p_k² (diag C_k − C_k C_kᵀ)/m_k

    of n samples, N rows of data and m_k judged rows of class k.  A judge without errors who knows p gives Pearson's χ².

    Arguments:
        predicted: (n,) classes 0 … K−1 that the judge gives to samples.
        confusion: (K, K) numbers of held-out rows by their class and the class that the judge gives them.
        counts: (K,) rows of the data by their class.

    Raises:
        InputError: shapes that differ, classes beyond K, or a class that the judge was not tried on.
    """
    table, rows, given = np.asarray(confusion, np.float64), np.asarray(counts, np.float64), np.asarray(predicted).astype(int)
    k = len(rows)
    require(k >= 2 and table.shape == (k, k), "confusion", f"a table ({k}, {k}), a row for each class", table.shape)
    require(given.ndim == 1 and len(given) >= 1, "predicted", "one class a sample", given.shape)
    require(given.min() >= 0 and given.max() < k, "predicted", f"classes from 0 to {k - 1}", int(given.max()))
    require(rows.min() >= 0 and rows.sum() > 0, "counts", "numbers of rows", rows.min())
    tried = table.sum(1)
    require(bool((tried[rows > 0] > 0).all()), "confusion", "held-out rows of every class of the data", "a class without any")
    n, total = len(given), rows.sum()
    p, c = rows / total, table / np.maximum(tried, 1)[:, None]
    q, found = c.T @ p, np.bincount(given, minlength=k) / n
    of_shares = c.T @ (np.diag(p) - np.outer(p, p)) @ c / total
    of_judge = sum(p[j] ** 2 * (np.diag(c[j]) - np.outer(c[j], c[j])) / max(tried[j], 1) for j in range(k))
    spread = (np.diag(q) - np.outer(q, q)) / n + of_shares + of_judge
    values, axes = np.linalg.eigh(spread)
    kept = values > 1e-9 * values[-1]
    gap = axes.T @ (found - q)
    impossible = bool((found[q == 0] > 0).any())  # a class that the judge never gives to data
    statistic = np.inf if impossible else float((gap[kept] ** 2 / values[kept]).sum())
    degrees = int(kept.sum())
    corrected = np.linalg.lstsq(c.T, found, rcond=None)[0]
    return ClassShares(found, q, corrected, statistic, degrees, float(chi2.sf(statistic, degrees)))
