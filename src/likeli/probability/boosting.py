"""Newton boosting of one yes-or-no question from any first guess, by the trees of scikit-learn's histogram gradient boosting.

    f_t = f_{t−1} + rate · tree_t,   tree_t = argmin Σ ½ h (tree + g/h)² + ½ λ leaf²,   g = w (σ(f) − y),   h = w σ(f) σ(−f)

Source: Chen & Guestrin (2016), arXiv:1603.02754; Ke et al. (2017), LightGBM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import expit

NODE = np.dtype(
    [("feature", "i4"), ("threshold", "f8"), ("left", "u1"), ("right", "u1"), ("hidden_left", "?"), ("value", "f8")]
)
DISTANT = torch.finfo(torch.float64).max  # in place of an infinite threshold
HIDDEN, SMOOTH = 255, 1.0  # the bin of a cell that is not seen; λ
SEEN_BINS = 200_000  # rows at most from which bins are cut


@dataclass(frozen=True)
class Binned:
    """Features in at most 255 bins each, once for all questions that are asked of the same rows.

    Arguments:
        codes, held: (n, varying) and (m, varying) uint8, of rows to learn from and of rows that say when to stop.
        mapper: scikit-learn's, which cut the bins.
        gaps: (varying,), where a cell is not seen in some row.
        feature: (varying,), the number of each feature that is not alike in all rows.
    """

    codes: np.ndarray
    held: np.ndarray
    mapper: Any
    gaps: np.ndarray
    feature: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, held: np.ndarray, seed: int) -> Binned:
        """Bins of x (n, features), NaN where a cell is not seen."""
        from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper

        feature = np.flatnonzero(((x != x[:1]) & ~(np.isnan(x) & np.isnan(x[:1]))).any(0))
        x, held = x[:, feature], held[:, feature]
        gaps, mapper = np.isnan(x).any(0), _BinMapper(HIDDEN + 1, SEEN_BINS, random_state=seed, n_threads=1)
        if not len(feature) or not len(held):
            none = np.zeros((0, 0), np.uint8)
            return cls(none, none, mapper, gaps, feature[:0])
        mapper.fit(x)
        return cls(mapper.transform(x), mapper.transform(held), mapper, gaps, feature)


@dataclass(frozen=True)
class Asked:
    """One question: which rows it is asked of, their answers, weights and first guesses of log P(yes)/P(no)."""

    rows: np.ndarray
    yes: np.ndarray
    weight: np.ndarray
    guess: np.ndarray

    def guessed(self, trust: float, offset: float) -> Asked:
        """With a·guess + b in place of the guess."""
        return replace(self, guess=trust * self.guess + offset)

    def loss(self, f: np.ndarray) -> float:
        """Σ w (log(1 + eᶠ) − f·yes)."""
        return float(self.weight @ (np.logaddexp(0, f) - f * self.yes))


def grown_trees(
    binned: Binned, train: Asked, held: Asked, rounds: int, leaves: int, rate: float, patience: int
) -> list[np.ndarray]:  # fmt: skip
    """The trees that held-out rows are best foretold by, each as `NODE`; none after `patience` of them without a gain."""
    from sklearn.ensemble._hist_gradient_boosting.grower import TreeGrower

    if not len(binned.feature):
        return []
    codes, codes_held = np.asfortranarray(binned.codes[train.rows]), binned.held[held.rows]
    f, f_held, trees = train.guess.copy(), held.guess.copy(), list[np.ndarray]()
    best, kept = held.loss(f_held), 0
    while len(trees) < rounds and len(trees) - kept < patience:
        p = expit(f)
        slope, curve = ((train.weight * v).astype(np.float32) for v in (p - train.yes, p * (1 - p)))
        grower = TreeGrower(
            codes, slope, curve, max_leaf_nodes=leaves, n_bins=HIDDEN + 1, has_missing_values=binned.gaps,
            n_bins_non_missing=binned.mapper.n_bins_non_missing_, l2_regularization=SMOOTH, shrinkage=rate, n_threads=1,
        )  # fmt: skip
        grower.grow()
        if len(grower.finalized_leaves) < 2:
            break
        for leaf in grower.finalized_leaves:
            f[grower.splitter.partition[leaf.partition_start : leaf.partition_stop]] += leaf.value
        tree = grower.make_predictor(binned.mapper.bin_thresholds_)
        f_held += tree.predict_binned(codes_held, HIDDEN, 1)
        trees.append(_plain(tree.nodes, binned.feature))
        if (loss := held.loss(f_held)) < best:
            best, kept = loss, len(trees)
    return trees[:kept]


def _plain(known: np.ndarray, feature: np.ndarray) -> np.ndarray:
    nodes = np.zeros(len(known), NODE)
    nodes["feature"] = np.where(known["is_leaf"], -1, feature[known["feature_idx"]])
    nodes["threshold"] = known["num_threshold"].clip(-DISTANT, DISTANT)
    nodes["left"], nodes["right"], nodes["hidden_left"] = known["left"], known["right"], known["missing_go_to_left"]
    nodes["value"] = known["value"]
    return nodes


def best_offset(odds: np.ndarray, yes: np.ndarray, weight: np.ndarray) -> float:
    """c that makes odds + c foretell the answers best, with ½c² for a prior, by Newton's method."""
    c = 0.0
    for _ in range(8):
        p = expit(odds + c)
        c -= float((weight @ (p - yes) + c) / (weight @ (p * (1 - p)) + 1))
    return c


@dataclass(frozen=True)
class Seen:
    """What the questions of one column are learned from.

    Arguments:
        x: (n, features), NaN where a cell is missing or hidden.
        rank: (n,), of the column's cell.
        weight: (n,), how often a row counts.
        mean, spread: (n,), what is expected of the column before any tree.
    """

    x: np.ndarray
    rank: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    def asked(self, cut: tuple[int, int, int], odds: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Asked:
        """A question (low, cut, high): rows of a rank in [low, high), whether it is at least the cut, and their `odds`."""
        low, middle, high = cut
        rows = np.flatnonzero((self.rank >= low) & (self.rank < high))
        return Asked(rows, self.rank[rows] >= middle, self.weight[rows], odds(self.mean[rows], self.spread[rows]))
