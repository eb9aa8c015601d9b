"""Gaussians seen through missing cells: log p of the observed cells, and the exact conditional of the others.

    x_m | x_o ~ N(μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o),  Σ_mm − Σ_mo Σ_oo⁻¹ Σ_om)

Rows are grouped by their pattern of missing cells; Σ_oo is kept in D dimensions with the identity in place of the missing
block, so that patterns of any size share one batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ELEMENTS = 2**18  # numbers in one batch's largest tensor: about a core's share of cache
ROWS = 512
Piece = tuple[int, np.ndarray]  # a row with the pattern, and the rows that share it


class Group(NamedTuple):
    """P patterns of equally many rows; short ones are padded.

    Arguments:
        observed: (P, D) bool.
        rows: (P, R) row numbers.
        real: (P, R) bool, False for padding.
    """

    observed: Tensor
    rows: Tensor
    real: Tensor


class Conditioned(NamedTuple):
    """What the observed cells of a group say, for each of K Gaussians.

    Arguments:
        log_prob: (P, K, R) log p(x_o).
        shift: (P, K, R, D) E[x|x_o] − μ.
        covariance: (P, K, D, D) of x given x_o, zero in observed rows and columns; None if not asked for.
    """

    log_prob: Tensor
    shift: Tensor
    covariance: Tensor | None


def group_rows(observed: Tensor, components: int) -> list[Group]:
    """Rows grouped by pattern, patterns of like counts batched together.

    Arguments:
        observed: (n, D) bool.
        components: K, to keep a batch within memory.
    """
    mask = observed.cpu().numpy()
    _, first, inverse = np.unique(np.packbits(mask, axis=1), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    runs = np.split(order, np.cumsum(np.bincount(inverse.ravel()))[:-1])
    pieces = [(int(p), run[i : i + ROWS]) for p, run in zip(first, runs) for i in range(0, len(run), ROWS)]
    pieces.sort(key=lambda piece: -len(piece[1]))
    return [_batch(mask, batch, observed.device) for batch in _batches(pieces, components, mask.shape[1])]


def _batches(pieces: list[Piece], components: int, d: int) -> Iterator[list[Piece]]:
    start = 0
    while start < len(pieces):
        longest = len(pieces[start][1])
        take = max(1, ELEMENTS // (components * d * (d + longest)))
        stop = start + 1  # a batch holds runs of at least half its longest, so that padding at most doubles the work
        while stop < min(len(pieces), start + take) and 2 * len(pieces[stop][1]) >= longest:
            stop += 1
        yield pieces[start:stop]
        start = stop


def _batch(mask: np.ndarray, batch: list[Piece], device: torch.device) -> Group:
    rows = np.zeros((len(batch), len(batch[0][1])), dtype=np.int64)
    real = np.zeros(rows.shape, dtype=bool)
    for i, (_, run) in enumerate(batch):
        rows[i], real[i, : len(run)] = run[0], True  # padding repeats a row of the same pattern, so that it is no NaN
        rows[i, : len(run)] = run
    observed = mask[[p for p, _ in batch]]
    return Group(*(torch.from_numpy(a).to(device) for a in (observed, rows, real)))


def condition(x: Tensor, observed: Tensor, mean: Tensor, covariance: Tensor, *, spread: bool = True) -> Conditioned:
    """Condition K Gaussians on the observed cells of a group of rows.

    Arguments:
        x: (P, R, D); missing cells may hold anything, NaN too.
        observed: (P, D) bool.
        mean: (K, D).
        covariance: (K, D, D), positive definite.
        spread: whether the conditional covariances are wanted.
    """
    o = observed.to(mean.dtype)[:, None]  # (P, 1, D)
    tril = torch.linalg.cholesky(covariance * (o[..., None] * o[..., None, :]) + (1 - o).diag_embed())
    diff = torch.where(observed[:, None, None], x[:, None] - mean[:, None], 0)
    half = torch.linalg.solve_triangular(tril, diff.mT, upper=False)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_prob = -0.5 * (half.square().sum(-2) + o.sum(-1)[..., None] * math.log(2 * math.pi)) - log_det[..., None]
    missing = 1 - o[..., None]  # (P, 1, D, 1)
    known = torch.linalg.solve_triangular(tril, o[..., None] * covariance, upper=False)
    shift = torch.where(observed[:, None, None], diff, (known.mT @ half).mT)
    if not spread:
        return Conditioned(log_prob, shift, None)
    return Conditioned(log_prob, shift, (covariance - known.mT @ known) * missing * missing.mT)
