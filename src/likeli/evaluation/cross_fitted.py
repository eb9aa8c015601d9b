"""Classifiers that tell two sets apart, each row judged by one that was not trained on it.

Labels of the judged rows must not be permuted without training again: row i judges what j taught and j what i taught, so that
the scores' sum has up to twice the variance that such a permutation shows, and a nominal 5 % becomes up to 12 %.  Neighbours
and the logistic step are linear in the labels, so that every permutation is trained and judged anew at the price of a matrix
product; boosting is trained again on a few permutations, which give the scale of Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from likeli.evaluation.permutations import nearest_rows
from likeli.evaluation.two_sample import balanced_trees, roc_area

FOLDS = 5
REFITS = 10  # of boosting, on permuted labels: as many degrees of freedom
PRODUCTS = 24  # columns up to which all their products are looked at, beyond it squares alone


def neighbour_statistics(rows: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Σ_i w_i Σ_{j among the k nearest of i} w_j for k = 5 and √N, (2, B + 1), and the two k; a row judges without itself.

    Source: Schilling (1986), J. Amer. Statist. Assoc. 81; Henze (1988), Ann. Statist. 16.
    """
    counts = sorted({min(5, len(rows) - 1), math.isqrt(len(rows))})
    _, index = nearest_rows(rows, counts[-1])
    votes, out = np.zeros_like(w), []
    for k in range(counts[-1]):
        votes += w[index[:, k]]
        if k + 1 in counts:
            out.append((w * votes).sum(0, dtype=np.float64))
    return np.stack(out), counts


def second_order(rows: np.ndarray) -> np.ndarray:
    """Standardised columns, their squares and, of at most 24, their products."""
    z = (rows - rows.mean(0)) / rows.std(0)
    i, j = np.triu_indices(z.shape[1]) if z.shape[1] <= PRODUCTS else (np.arange(z.shape[1]),) * 2
    out = np.concatenate([z, z[:, i] * z[:, j]], 1)
    spread = out.std(0)
    return (out - out.mean(0))[:, spread > 1e-9] / spread[spread > 1e-9]


def logistic_statistic(rows: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Σ_i w_i f_{−i}(x_i), (B + 1,): f the first Newton step of ridge logistic regression on columns, squares and products.

    From no difference that step is least squares, β = (ZᵀZ + λI)⁻¹ Zᵀw, on four fifths of the rows; λ is the mean eigenvalue
    over 10.
    """
    z = second_order(rows)
    out = np.zeros(w.shape[1])
    for fold in np.array_split(np.arange(len(z)), FOLDS):
        train = np.delete(np.arange(len(z)), fold)
        gram = z[train].T @ z[train]
        beta = np.linalg.solve(gram + np.eye(len(gram)) * np.trace(gram) / len(gram) / 10, z[train].T @ w[train])
        out += (w[fold] * (z[fold] @ beta)).sum(0, dtype=np.float64)
    return out


def cross_fitted_area(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Area under the ROC curve of boosted trees that tell b from a, the mean of five folds, and its standard error.

    Every row is judged once, by trees that were trained on the other folds; the error is that of the judged rows, given the
    trees.

    Arguments:
        a, b: (n, D) and (m, D), at least 20 rows each.
        seed: of the folds.
    """
    rng = np.random.default_rng([seed, 0xF01D])
    parts = [np.array_split(rng.permutation(len(v)), FOLDS) for v in (a, b)]
    found = []
    for fold_a, fold_b in zip(*parts):
        train = [np.delete(v, fold, 0) for v, fold in ((a, fold_a), (b, fold_b))]
        score = boosted(np.concatenate(train), np.repeat([False, True], [len(t) for t in train]), seed)
        found.append(roc_area(score(a[fold_a]), score(b[fold_b])))
    areas, errors = np.transpose(found)
    return float(areas.mean()), float(np.sqrt((errors**2).sum()) / FOLDS)


def boosted(rows: np.ndarray, labels: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Rows → how far boosted trees believe them to be of the set whose label is true; both sets weigh the same."""
    model = balanced_trees(seed, max_iter=40, max_leaf_nodes=15)
    decide: Callable[[np.ndarray], np.ndarray] = model.fit(rows, labels).decision_function
    return decide


def boosting_area(rows: np.ndarray, w: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Mean area under the ROC curve minus ½ over the folds, of the observed labels and of 10 permutations, and p of the first.

    The areas are zero in the mean if the sets are equal, and exchangeable; T = observed / RMS of the permuted ~ t with 10
    degrees of freedom as far as they are normal.

    Arguments:
        w: (N, B + 1) with at least 10 permutations.
    """
    order = np.arange(len(rows))
    areas = []
    for labels in (w[:, : 1 + REFITS] > 0).T:
        each = []
        for fold in np.array_split(order, 3):
            train = np.delete(order, fold)
            score, own = boosted(rows[train], labels[train], seed)(rows[fold]), labels[fold]
            each.append(roc_area(score[~own], score[own])[0] - 0.5 if 0 < own.sum() < len(own) else 0.0)
        areas.append(np.mean(each))
    found = np.array(areas)
    scale = np.sqrt((found[1:] ** 2).mean())
    return found, float(stats.t.sf(found[0] / max(scale, 1e-12), REFITS))
