"""p(x|y) of a mixture of Gaussians and a linear reading y = A x + σ ξ, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from likeli.errors import Unsupported
from likeli.random import Streams

RANK = 1e-10  # relative: of a variance of readings that counts as none


@dataclass(frozen=True)
class PosteriorMixture:
    """Σ_k w_k N(m_k, C_k) of x given y, with what it takes to draw from it.

    Arguments:
        weights: (B, K) of each component given y.
        means: (B, K, D).
        covariances: (K, D, D), which no y changes.
        gains: (K, D, M), C_k,prior Aᵀ (A C_k,prior Aᵀ + σ² I)⁻¹.
        log_evidence: (B,) log p(y).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    gains: Tensor
    log_evidence: Tensor

    @property
    def mean(self) -> Tensor:
        """E[x|y], (B, D)."""
        return torch.einsum("bk,bkd->bd", self.weights, self.means)

    @property
    def variance(self) -> Tensor:
        """Var[x|y] of each cell, (B, D)."""
        within = self.weights @ self.covariances.diagonal(dim1=1, dim2=2)
        off = self.means - self.mean[:, None]
        return within + torch.einsum("bk,bkd->bd", self.weights, off.square())


def given_reading(
    y: Tensor, matrix: Tensor, sigma: float, weights: Tensor, means: Tensor, tril: Tensor
) -> PosteriorMixture:
    """The posterior of x ~ Σ_k w_k N(m_k, L_k L_kᵀ) given y = A x + σ ξ.

        m = m_k + G (y − A m_k),   C = C_k − G A C_k,   G = C_k Aᵀ (A C_k Aᵀ + σ² I)⁻¹

    Readings that repeat each other without noise are taken by a pseudo-inverse.

    Arguments:
        y: (B, M).
        matrix: A, (M, D).
        weights, means, tril: (K,), (K, D), (K, D, D).

    Raises:
        Unsupported: without noise, readings that no x has.
    """
    covariances = tril @ tril.mT
    crossed = covariances @ matrix.mT  # (K, D, M)
    spread = matrix @ crossed
    values, axes = torch.linalg.eigh((spread + spread.mT) / 2 + sigma**2 * torch.eye(len(matrix)).to(y))
    kept = values > RANK * values[:, -1:]
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    gap = y[:, None] - means @ matrix.mT  # (B, K, M)
    turned = torch.einsum("kmi,bkm->bki", axes, gap)
    lost = torch.where(kept, 0, turned.abs()).amax() if not bool(kept.all()) else turned.new_zeros(())
    if lost > 1e-6 * (gap.abs().amax() + 1):
        raise Unsupported(f"y contradicts itself, by {lost:.2g}: readings of the same cells differ, which needs sigma > 0")
    gains = crossed @ (axes * inverse[:, None]) @ axes.mT
    terms = turned.square() * inverse + torch.where(kept, values, 1).log() + kept * math.log(2 * math.pi)
    log_joint = weights.log() - 0.5 * terms.sum(-1)
    shifted = means + torch.einsum("kdm,bkm->bkd", gains, gap)
    narrowed = covariances - gains @ crossed.mT
    return PosteriorMixture(log_joint.softmax(1), shifted, narrowed, gains, log_joint.logsumexp(1))


def draw_given_reading(
    y: Tensor, matrix: Tensor, sigma: float, prior: tuple[Tensor, Tensor, Tensor], n: int, seed: int
) -> tuple[Tensor, PosteriorMixture]:
    """n exact draws for each row, (n, B, D), and the posterior; draw i of row b is a function of (seed, b, i) alone.

    With z ~ N(m_k, C_k) the corrected z + G_k (y + σ ξ − A z) has the law of x given y, k drawn from its probability given y.

    Arguments:
        y, matrix, sigma: as in `given_reading`.
        prior: weights, means and lower triangles.

    Source: Journel & Huijbregts (1978), Mining Geostatistics: conditioning by kriging (Matheron's rule).
    """
    weights, means, tril = prior
    found = given_reading(y, matrix, sigma, weights, means, tril)
    cdf, drawn = found.weights.cumsum(1), []
    for b in range(len(y)):
        noise = Streams(seed, [b << 32 | i for i in range(n)], y.dtype, y.device)
        u, e, xi = noise.uniform(), noise.normal(means.shape[1]), noise.normal(len(matrix))
        k = torch.searchsorted(cdf[b], u * cdf[b, -1], right=True).clamp(max=len(weights) - 1)
        row = torch.empty(n, means.shape[1]).to(y)
        for one in k.unique().tolist():
            z = means[one] + e[k == one] @ tril[one].mT
            row[k == one] = z + (y[b] + sigma * xi[k == one] - z @ matrix.mT) @ found.gains[one].mT
        drawn.append(row)
    return torch.stack(drawn, 1), found
