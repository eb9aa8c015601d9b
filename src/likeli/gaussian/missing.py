"""Gaussians seen through missing cells: log p of the observed cells, and the exact conditional of the others.

    x_m | x_o ~ N(μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o),  Σ_mm − Σ_mo Σ_oo⁻¹ Σ_om)

Rows are grouped by their pattern of missing cells.  Where fewer than half of the cells are missing it is their block of the
precision Λ = Σ⁻¹ that is factored, (m/D)³ of the work, and nothing of Σ_oo is:

    Var[x_m|x_o] = Λ_mm⁻¹,   E[x_m|x_o] = μ_m − Λ_mm⁻¹ Λ_mo (x_o − μ_o),   log|Σ_oo| = log|Σ| + log|Λ_mm|

Blocks are padded with the identity, so that patterns of any size share one batch of linear algebra.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from likeli import processes
from likeli.errors import Unsupported
from likeli.random import Streams
from likeli.spaces import Space

ELEMENTS = 2**18  # numbers in one batch's largest tensor: about a core's share of cache
ROWS = 512
COARSEST = 1e-8  # relative error of a precision up to which it is used
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
        covariance: (P, K, m, m) of x given x_o among `cells`, zero in observed rows and columns; None if not asked for.
        cells: (P, m) the numbers of the cells that the covariance is of, all missing ones among them.
    """

    log_prob: Tensor
    shift: Tensor
    covariance: Tensor | None
    cells: Tensor

    def places(self) -> Tensor:
        """(P, m, m) where the covariance stands in a flat (D·D,) one."""
        return self.cells[:, :, None] * self.shift.shape[-1] + self.cells[:, None, :]


class Precision(NamedTuple):
    """Σ⁻¹ (K, D, D) and log|Σ| (K,)."""

    matrix: Tensor
    log_det: Tensor


def precision(covariance: Tensor) -> Precision | None:
    """Of K covariances, or None where one is so near to singular that it would be lost to rounding."""
    variances, axes = torch.linalg.eigh(covariance)
    if not bool((torch.finfo(variances.dtype).eps * variances[:, -1] <= COARSEST * variances[:, 0]).all()):
        return None
    return Precision((axes / variances[:, None]) @ axes.mT, variances.log().sum(1))


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
    gaps = (~mask).sum(1)
    pieces.sort(key=lambda piece: (-len(piece[1]), gaps[piece[0]]))  # like blocks beside each other
    return [_batch(mask, batch, observed.device) for batch in _batches(pieces, gaps, components, mask.shape[1])]


def _batches(pieces: list[Piece], gaps: np.ndarray, components: int, d: int) -> Iterator[list[Piece]]:
    start = 0
    while start < len(pieces):
        longest, stop, block = len(pieces[start][1]), start, 0
        while stop < len(pieces) and 2 * len(pieces[stop][1]) >= longest:  # so that padding at most doubles the work
            missing = int(gaps[pieces[stop][0]])
            block = max(block, missing if 2 * missing <= d else d)
            if stop > start and (stop + 1 - start) * components * (longest * d + block**2) > ELEMENTS:
                break
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


def condition(
    x: Tensor, observed: Tensor, mean: Tensor, covariance: Tensor, inverse: Precision | None = None, *, spread: bool = True
) -> Conditioned:
    """Condition K Gaussians on the observed cells of a group of rows.

    Arguments:
        x: (P, R, D); missing cells may hold anything, NaN too.
        observed: (P, D) bool.
        mean: (K, D).
        covariance: (K, D, D), positive definite.
        inverse: of it, where that is known well; only blocks of missing cells are then factored, if they are the smaller ones.
        spread: whether the conditional covariances are wanted.
    """
    diff = torch.where(observed[:, None, None], x[:, None] - mean[:, None], 0)
    missing = int((~observed).sum(1).max())
    if inverse is not None and 2 * missing <= observed.shape[1]:
        return _through_precision(diff, observed, missing, inverse, spread)
    o = observed.to(mean.dtype)[:, None]  # (P, 1, D)
    cells = torch.arange(observed.shape[1], device=observed.device).expand_as(observed)
    tril = torch.linalg.cholesky(covariance * (o[..., None] * o[..., None, :]) + (1 - o).diag_embed())
    half = torch.linalg.solve_triangular(tril, diff.mT, upper=False)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_prob = -0.5 * (half.square().sum(-2) + o.sum(-1)[..., None] * math.log(2 * math.pi)) - log_det[..., None]
    gap = 1 - o[..., None]  # (P, 1, D, 1)
    known = torch.linalg.solve_triangular(tril, o[..., None] * covariance, upper=False)
    shift = torch.where(observed[:, None, None], diff, (known.mT @ half).mT)
    if not spread:
        return Conditioned(log_prob, shift, None, cells)
    return Conditioned(log_prob, shift, (covariance - known.mT @ known) * gap * gap.mT, cells)


def _through_precision(diff: Tensor, observed: Tensor, missing: int, inverse: Precision, spread: bool) -> Conditioned:
    """The same from blocks of `missing` cells and d = x_o − μ_o (P, K, R, D), zero elsewhere; Λ d is had for all rows at once.

    log p(x_o) = −½ [dᵀ Λ d − |L⁻¹ (Λ d)_m|² + |o| log 2π + log|Σ| + log|Λ_mm|] with L Lᵀ = Λ_mm.
    """
    p, k, r, d = diff.shape
    cells = observed.to(torch.int8).argsort(dim=1, stable=True)[:, :missing]  # the missing ones first
    gap = ~observed.gather(1, cells)  # (P, m)
    pulled = (diff.transpose(0, 1).reshape(k, p * r, d) @ inverse.matrix).reshape(k, p, r, d).transpose(0, 1)
    at = cells[:, None, None].expand(p, k, r, missing)
    there = pulled.gather(3, at) * gap[:, None, None]
    both = gap[:, None, :, None] & gap[:, None, None, :]  # (P, 1, m, m)
    block = inverse.matrix[:, cells[:, :, None], cells[:, None, :]].transpose(0, 1)
    tril = torch.linalg.cholesky(torch.where(both, block, torch.eye(missing).to(block)))
    half = torch.linalg.solve_triangular(tril, there.mT, upper=False)
    square = (pulled * diff).sum(-1) - half.square().sum(-2)
    log_det = inverse.log_det[:, None] + 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None]
    count = observed.sum(1)[:, None, None].to(diff)
    log_prob = -0.5 * (square + count * math.log(2 * math.pi) + log_det)
    solved = torch.linalg.solve_triangular(tril.mT, half, upper=True).mT
    shift = diff.scatter(3, at, torch.where(gap[:, None, None], -solved, diff.gather(3, at)))
    return Conditioned(log_prob, shift, torch.cholesky_inverse(tril) * both if spread else None, cells)


def conditioned(
    x: Tensor, groups: list[Group] | None, means: Tensor, covariances: Tensor, *, spread: bool = True
) -> Iterator[tuple[Group, Conditioned]]:
    """`condition` for every group of the rows of x (B, D), NaN where missing."""
    inverse = precision(covariances)
    for group in group_rows(~x.isnan(), len(means)) if groups is None else groups:
        yield group, condition(x[group.rows], group.observed, means, covariances, inverse, spread=spread)


def column_moments(u: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each column's observed cells, NaN where there are none.

    Arguments:
        weight: (n,), how often each row counts; once if not given.
    """
    if weight is None and processes.count() == 1:
        mean = u.nanmean(0)
        return mean, (u - mean).square().nanmean(0)
    mine = processes.share(len(u))
    u, w = u[mine], torch.ones_like(u[mine, :1]) if weight is None else weight[mine, None]
    w = w * ~u.isnan()
    n, first = processes.total(w.sum(0), (w * u.nan_to_num(0)).sum(0))
    mean = first / n
    (second,) = processes.total((w * (u - mean).square().nan_to_num(0)).sum(0))
    return mean, second / n


@dataclass(frozen=True)
class ConditionalMoments:
    """Moments of x given its observed cells; observed cells keep their value and have no variance.

    Arguments:
        weights: (B, K) probability of each component given the observed cells.
        means: (B, K, D) mean within each component, cells row-major.
        mean: (B, D) of the mixture.
        covariance: (B, D, D) of the mixture.
    """

    weights: Tensor
    means: Tensor
    mean: Tensor
    covariance: Tensor


def conditional(x: Tensor, weights: Tensor, means: Tensor, tril: Tensor) -> ConditionalMoments:
    """The conditional of each row's NaN cells.

    Arguments:
        x: (B, D), NaN where missing.
        weights, means, tril: (K,), (K, D) and (K, D, D) with Σ_k = tril tril ᵀ.
    """
    (b, d), k = x.shape, len(weights)
    covariances = tril @ tril.mT
    out = ConditionalMoments(x.new_empty(b, k), x.new_empty(b, k, d), x.new_empty(b, d), x.new_empty(b, d, d))
    for group, given in conditioned(x, None, means, covariances):
        assert given.covariance is not None
        w = (weights.log()[:, None] + given.log_prob).softmax(1)  # (P, K, R)
        component = torch.where(group.observed[:, None, None], x[group.rows][:, None], means[:, None] + given.shift)
        mean = (w[..., None] * component).sum(1)
        off = component - mean[:, None]
        within = torch.einsum("pkr,pkij->prij", w, given.covariance)
        between = torch.einsum("pkr,pkri,pkrj->prij", w, off, off)
        places = given.places()[:, None].expand(within.shape).flatten(2)
        between = between.flatten(2).scatter_add(2, places, within.flatten(2)).reshape(between.shape)
        rows = group.rows[group.real]
        out.weights[rows], out.means[rows] = w.mT[group.real], component.transpose(1, 2)[group.real]
        out.mean[rows], out.covariance[rows] = mean[group.real], between[group.real]
    return out


def draw_conditional(x: Tensor, weights: Tensor, means: Tensor, tril: Tensor, n: int, seed: int) -> Tensor:
    """n exact draws of each row's NaN cells, (n, B, D); draw i is a function of (seed, i) alone.

    With z ~ N(μ_k, Σ_k) the corrected z + Σ_·o Σ_oo⁻¹ (x_o − z_o) has the conditional law given x_o, and k is drawn from its
    probability given x_o.

    Source: Journel & Huijbregts (1978), Mining Geostatistics: conditioning by kriging (Matheron's rule).
    """
    groups, observed = group_rows(~x.isnan(), len(weights)), ~x.isnan()
    covariances, size = tril @ tril.mT, max(1, ELEMENTS // x.shape[1] ** 2)
    one = x.new_ones(len(x), 1)  # component there is: none to weigh
    cdf = one if len(weights) == 1 else log_joint_observed(x, weights, means, tril).softmax(1).cumsum(1)
    draws = []
    for i in range(n):
        noise = Streams(seed, [i], x.dtype, x.device)
        u, eps = noise.uniform(len(x))[0], noise.normal(*x.shape)[0]
        k = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True)[:, 0].clamp(max=len(weights) - 1)
        noises = [(tril[c] @ e[..., None])[..., 0] for c, e in zip(k.split(size), eps.split(size))]
        z = means[k] + torch.cat(noises)
        gap, shift = torch.where(observed, x - z, 0), torch.zeros_like(x)
        for group, given in conditioned(gap, groups, torch.zeros_like(means), covariances, spread=False):
            chosen = k[group.rows][:, None, :, None].expand(-1, 1, -1, x.shape[1])
            shift[group.rows[group.real]] = given.shift.gather(1, chosen)[:, 0][group.real]
        draws.append(torch.where(observed, x, z + shift))
    return torch.stack(draws)


def log_joint_observed(x: Tensor, weights: Tensor, means: Tensor, tril: Tensor) -> Tensor:
    """log w_k + log N(x_o | m_k, Σ_k) of the observed cells, (B, K)."""
    out, covariances = x.new_empty(len(x), len(weights)), tril @ tril.mT
    for group, given in conditioned(x, None, means, covariances, spread=False):
        out[group.rows[group.real]] = (weights.log()[:, None] + given.log_prob).mT[group.real]
    return out


def units(space: Space) -> Tensor:
    """The scale of each cell, (D,) float64, with which model units become the user's: x = u·scale + mean.

    Raises:
        Unsupported: the cells are not all real.
    """
    if space.unit is None:
        why = "the model sees them on a curved scale, or dequantised; average draws instead"
        raise Unsupported(f"moments of {space.kind()} cells in the data's units: none in closed form, since {why}")
    return space.unit.flatten().expand(space.dimensions)
