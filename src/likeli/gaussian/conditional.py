"""p(missing cells | observed cells) of a Gaussian mixture: its moments, and exact draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from likeli.errors import Unsupported
from likeli.gaussian.missing import condition, group_rows
from likeli.random import Streams
from likeli.space import Real, Space
from likeli.table import Table


@dataclass(frozen=True)
class Conditional:
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


def conditional(x: Tensor, weights: Tensor, means: Tensor, tril: Tensor) -> Conditional:
    """The conditional of each row's NaN cells.

    Arguments:
        x: (B, D), NaN where missing.
        weights, means, tril: (K,), (K, D) and (K, D, D) with Σ_k = tril tril ᵀ.
    """
    (b, d), k = x.shape, len(weights)
    covariances = tril @ tril.mT
    out = Conditional(x.new_empty(b, k), x.new_empty(b, k, d), x.new_empty(b, d), x.new_empty(b, d, d))
    for group in group_rows(~x.isnan(), k):
        given = condition(x[group.rows], group.observed, means, covariances)
        assert given.covariance is not None
        w = (weights.log()[:, None] + given.log_prob).softmax(1)  # (P, K, R)
        component = torch.where(group.observed[:, None, None], x[group.rows][:, None], means[:, None] + given.shift)
        mean = (w[..., None] * component).sum(1)
        off = component - mean[:, None]
        within = torch.einsum("pkr,pkij->prij", w, given.covariance)
        between = torch.einsum("pkr,pkri,pkrj->prij", w, off, off)
        rows = group.rows[group.real]
        out.weights[rows], out.means[rows] = w.mT[group.real], component.transpose(1, 2)[group.real]
        out.mean[rows], out.covariance[rows] = mean[group.real], (within + between)[group.real]
    return out


def draw_conditional(x: Tensor, weights: Tensor, means: Tensor, tril: Tensor, n: int, seed: int) -> Tensor:
    """n exact draws of each row's NaN cells, (n, B, D); draw i is a function of (seed, i) alone.

    With z ~ N(μ_k, Σ_k) the corrected z + Σ_·o Σ_oo⁻¹ (x_o − z_o) has the conditional law given x_o, and k is drawn from its
    probability given x_o.

    Source: Journel & Huijbregts (1978), Mining Geostatistics: conditioning by kriging (Matheron's rule).
    """
    groups, observed = group_rows(~x.isnan(), len(weights)), ~x.isnan()
    covariances = tril @ tril.mT
    cdf = log_joint_observed(x, weights, means, tril).softmax(1).cumsum(1)
    draws = []
    for i in range(n):
        noise = Streams(seed, [i], x.dtype, x.device)
        u, eps = noise.uniform(len(x))[0], noise.normal(*x.shape)[0]
        k = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True)[:, 0].clamp(max=len(weights) - 1)
        z = means[k] + (tril[k] @ eps[..., None])[..., 0]
        gap, shift = torch.where(observed, x - z, 0), torch.zeros_like(x)
        for group in groups:
            moved = condition(gap[group.rows], group.observed, torch.zeros_like(means), covariances, spread=False).shift
            chosen = k[group.rows][:, None, :, None].expand(-1, 1, -1, x.shape[1])
            shift[group.rows[group.real]] = moved.gather(1, chosen)[:, 0][group.real]
        draws.append(torch.where(observed, x, z + shift))
    return torch.stack(draws)


def log_joint_observed(x: Tensor, weights: Tensor, means: Tensor, tril: Tensor) -> Tensor:
    """log w_k + log N(x_o | m_k, Σ_k) of the observed cells, (B, K)."""
    out, covariances = x.new_empty(len(x), len(weights)), tril @ tril.mT
    for group in group_rows(~x.isnan(), len(weights)):
        given = condition(x[group.rows], group.observed, means, covariances, spread=False)
        out[group.rows[group.real]] = (weights.log()[:, None] + given.log_prob).mT[group.real]
    return out


def units(space: Space) -> Tensor:
    """The scale of each cell, (D,) float64, with which model units become the user's: x = u·scale + mean.

    Raises:
        Unsupported: the cells are not all real.
    """
    if isinstance(space, Real):
        return torch.as_tensor(space.scale, dtype=torch.float64).expand(space.dimensions)
    if isinstance(space, Table) and space.measure == "density":
        return torch.tensor([column.scale for column in space.columns], dtype=torch.float64)
    raise Unsupported(f"moments in the units of {space.kind()} data: only real cells have them; draw samples instead")
