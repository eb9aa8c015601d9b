"""Statistics of two sets of rows under permutations of their labels, all from one matrix of weights.

    w_i = 1 for a row of the first set, −n/m for one of the second;   its columns are the observed labels and B permutations

A statistic is (B + 1,) numbers, the observed first; p = (1 + #{permuted ≥ observed}) / (1 + B), which is exact at every n, m
if the rows are exchangeable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

BLOCK = 1024  # rows and columns of a kernel matrix that exist at one time
BANDWIDTHS = 10
SAMPLED = 1000  # rows from whose distances bandwidths are taken


def label_weights(labels: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """(N, B + 1) float32; labels (N,) bool, true in the first set."""
    rng = np.random.default_rng([seed, 0x9E24])
    drawn = rng.permuted(np.broadcast_to(labels, (permutations, len(labels))), axis=1)
    first = np.concatenate([labels[None], drawn]).T
    return np.where(first, 1.0, -labels.sum() / (~labels).sum()).astype(np.float32)


def permutation_p(statistic: np.ndarray) -> float:
    """(1 + #{permuted ≥ observed}) / (1 + B)."""
    slack = 1e-9 * abs(statistic[0])  # equal arrangements must not differ by rounding
    return float(np.mean(statistic >= statistic[0] - slack))


def null_surprise(statistics: np.ndarray) -> np.ndarray:
    """−log p of each of several statistics (K, B + 1) in its own null, so that their largest is a fair aggregate.

    The null of each is the Pearson III law (a shifted gamma) of the mean, variance and skewness of its B + 1 values.  The fit
    need not be good for the aggregate's own permutation p-value to be exact: it treats all arrangements alike.
    """
    centred = statistics - statistics.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).mean(1, keepdims=True))
    z = centred / np.where(spread > 0, spread, 1)
    shape = 4 / np.clip((z**3).mean(1, keepdims=True), 0.05, 4) ** 2
    at = np.maximum(shape + np.sqrt(shape) * z, 1e-12)
    p = special.gammaincc(shape, at)
    far = (shape - 1) * np.log(at) - at - special.gammaln(shape)  # Γ(k, x)/Γ(k) → x^(k−1) e^−x / Γ(k)
    return -np.where(p > 1e-290, np.log(np.maximum(p, 1e-300)), far)


def mean_statistics(rows: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Hotelling's T² and |t| of each column, (B + 1,) and (D, B + 1), and whether T² needed a ridge.

    T² with the covariance within the sets is a monotone function of q = δᵀ S⁺ δ with S the scatter of all rows, which no
    permutation
    changes: T² = (N − 2) c q / (1 − c q), c = nm/N.  Where D > N/4 directions get a ridge of the mean eigenvalue.

    Source: Hotelling (1931), Ann. Math. Statist. 2; Schott (2005), Matrix analysis for statistics.
    """
    total = len(rows)
    n = int((w[:, 0] > 0).sum())
    c = n * (total - n) / total
    centred = rows - rows.mean(0)
    left, s, _ = np.linalg.svd(centred, full_matrices=False)
    keep = s > 1e-10 * s[0]
    ridge = keep.sum() > total / 4
    left = left[:, keep] * (np.sqrt(s[keep] ** 2 / (s[keep] ** 2 + (s[keep] ** 2).mean())) if ridge else 1.0)
    q = c * (((w.T @ left) / n) ** 2).sum(1, dtype=np.float64)
    squared = (total - 2) * q / np.maximum(1 - q, 1e-12)
    length = np.sqrt((centred**2).sum(0))
    r = c * (((w.T @ (centred / length)) / n) ** 2).astype(np.float64)
    return squared, np.sqrt((total - 2) * r / np.maximum(1 - r, 1e-12)).T, bool(ridge)


def kolmogorov_smirnov(rows: np.ndarray, w: np.ndarray) -> np.ndarray:
    """sup |F̂ₓ − F̂_y| of every column, (D, B + 1)."""
    n = (w[:, 0] > 0).sum()
    out = np.empty((rows.shape[1], w.shape[1]))
    for d, column in enumerate(rows.T):
        order = np.argsort(column, kind="stable")
        last = np.append(np.flatnonzero(np.diff(column[order])), len(order) - 1)  # of equal values
        out[d] = np.abs(np.cumsum(w[order], axis=0)[last]).max(0) / n
    return out


@dataclass(frozen=True)
class Kernel:
    """A function of distance.

    Arguments:
        name: energy, laplace or gauss.
        bandwidth: h of exp(−r/h) and exp(−r²/2h²); 0 for the energy distance, −r.
    """

    name: str
    bandwidth: float = 0.0

    def __call__(self, r: Tensor) -> Tensor:
        if self.name == "energy":
            return -r
        scaled = r / self.bandwidth
        return scaled.neg_().exp_() if self.name == "laplace" else scaled.square_().mul_(-0.5).exp_()


def kernels_for(rows: np.ndarray) -> list[Kernel]:
    """The energy distance, and Laplace and Gauss kernels at 10 bandwidths each.

    From half the 5 % quantile of pooled distances to twice their 95 % quantile, in equal ratios (Schrab et al. 2023, who choose
    equal steps).
    """
    sample = torch.from_numpy(rows[:SAMPLED])
    r = torch.pdist(sample)
    r = r[r > 0]
    low, high = np.quantile(r.numpy(), [0.05, 0.95])
    bandwidths = np.geomspace(low / 2, 2 * high, BANDWIDTHS).tolist()
    return [Kernel("energy"), *(Kernel(name, h) for name in ("laplace", "gauss") for h in bandwidths)]


def distance_blocks(z: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """‖z_i − z_j‖ of blocks on and above the diagonal."""
    parts = [slice(i, min(i + BLOCK, len(z))) for i in range(0, len(z), BLOCK)]
    for k, rows in enumerate(parts):
        for columns in parts[k:]:
            r = torch.cdist(z[rows], z[columns])
            if rows == columns:
                r.fill_diagonal_(0)
            yield rows, columns, r


def kernel_statistics(rows: np.ndarray, w: np.ndarray, kernels: list[Kernel]) -> np.ndarray:
    """wᵀKw/n² of each kernel, (K, B + 1): the squared MMD, and for −r the energy distance 2E‖x−y‖ − E‖x−x'‖ − E‖y−y'‖.

    Both with the pairs of a row with itself.  One block of one kernel matrix is in memory at a time.

    Source: Gretton et al. (2012), JMLR 13; Székely & Rizzo (2013), J. Stat. Plan. Inference 143.
    """
    z, weights = torch.from_numpy(rows).float(), torch.from_numpy(w)
    out = np.zeros((len(kernels), w.shape[1]))
    for i, j, r in distance_blocks(z):
        for k, kernel in enumerate(kernels):
            part = (weights[i] * (kernel(r) @ weights[j])).sum(0, dtype=torch.float64)
            out[k] += (1 if i == j else 2) * part.numpy()
    return out / float((w[:, 0] > 0).sum()) ** 2


def nearest_rows(rows: np.ndarray, k: int, others: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices, (N, k) each, of the k nearest of the rows themselves without a row's own, or of `others`."""
    z = torch.from_numpy(rows).float()
    among = z if others is None else torch.from_numpy(others).float()
    parts = []
    for start in range(0, len(z), BLOCK):
        r = torch.cdist(z[start : start + BLOCK], among)
        if others is None:
            r[torch.arange(len(r)), torch.arange(start, start + len(r))] = math.inf
        parts.append(r.topk(k, largest=False))
    return torch.cat([p.values for p in parts]).numpy(), torch.cat([p.indices for p in parts]).numpy()


def loudest(statistics: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """max_k (−log p_k + log w_k) of several statistics (K, B + 1) under each arrangement, and which one is largest as observed.

    Arguments:
        statistics: the observed value first.
        weights: w, (K,), equal if not given.  Whatever they are, the aggregate's own permutation p-value is exact.

    Source: Schrab et al. (2023), arXiv:2110.15073, section 5.3, for the weights.
    """
    each = null_surprise(statistics)
    if weights is not None:
        each = each + np.log(weights)[:, None]
    return each.max(0), int(each[:, 0].argmax())


def kernel_weights(kernels: list[Kernel]) -> np.ndarray:
    """1/k for the k-th narrowest kernel of each name: of what wide ones see, the mean and the energy distance see the most."""
    seen: dict[str, int] = {}
    out = []
    for kernel in kernels:  # of each name the narrowest first
        seen[kernel.name] = seen.get(kernel.name, 0) + 1
        out.append(1 / seen[kernel.name])
    return np.array(out)
