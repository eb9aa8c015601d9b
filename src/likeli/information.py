"""Surprise, entropy, cross-entropy and divergences, in nats.

    H(P) = E_P[−log P],   H(P, Q) = E_P[−log Q] = H(P) + KL(P‖Q),   KL(P‖Q) = E_P[log P − log Q] ≥ 0

KL is +∞ where P has mass and Q has none, 0·log 0 is 0, and nothing here returns NaN for valid input.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as D


def gaussian_kl(mean_q: Tensor, std_q: Tensor, mean_p: Tensor, std_p: Tensor) -> Tensor:
    """KL(N(μ_q, σ_q²) ‖ N(μ_p, σ_p²)) per cell, never negative.

    With r = log σ_q²/σ_p²:  ½ (eʳ − 1 − r + (μ_q − μ_p)²/σ_p²).  eʳ − 1 − r is taken from its series near r = 0, where the
    difference would cancel.

    Source: Kingma & Welling (2013), arXiv:1312.6114, appendix B, for two general Gaussians.
    """
    r = 2 * (std_q.log() - std_p.log())
    series = r * r * (0.5 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r / 720))))
    excess = torch.where(r.abs() < 0.05, series, (r.expm1() - r).clamp(min=0))
    return 0.5 * (excess + ((mean_q - mean_p) / std_p).square())


def kl(q: D.Distribution, p: D.Distribution, z: Tensor | None = None) -> Tensor:
    """KL(q‖p) in closed form, or the unbiased one-draw estimate log q(z) − log p(z), which may be negative.

    Arguments:
        q, p: distributions of one batch and event shape.
        z: a draw from q, for pairs without a closed form.

    Raises:
        NotImplementedError: no closed form and no z.
    """
    if isinstance(q, D.Independent) and isinstance(p, D.Independent):
        if isinstance(q.base_dist, D.Normal) and isinstance(p.base_dist, D.Normal):
            cells = gaussian_kl(q.base_dist.loc, q.base_dist.scale, p.base_dist.loc, p.base_dist.scale)
            return cells.flatten(-q.reinterpreted_batch_ndims).sum(-1) if q.reinterpreted_batch_ndims else cells
    try:
        return D.kl_divergence(q, p)
    except NotImplementedError:
        if z is None:
            raise
        return q.log_prob(z) - p.log_prob(z)
