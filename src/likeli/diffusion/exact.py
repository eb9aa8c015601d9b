"""The denoiser of data whose law is known: a mixture of Gaussians, at any noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from likeli.diffusion.denoiser import Conditional, Prediction
from likeli.diffusion.schedule import Point, Schedule
from likeli.errors import require


class MixtureDenoiser(Conditional):
    """E[x|z], E[ε|z] and log p_t(z) in closed form for x ~ Σ_k w_k N(m_k, C_k), since z ~ Σ_k w_k N(α m_k, α² C_k + σ² I).

    Arguments:
        schedule: t → (α, σ).
        weights: (K,), made to sum to one.
        means: (K, D) in model units.
        covariances: (K, D, D), or (K, D) for diagonal ones.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    axes: Tensor

    def __init__(self, schedule: Schedule, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__(schedule)
        full = covariances if covariances.ndim == 3 else torch.diag_embed(covariances)
        require(full.shape == (*means.shape, means.shape[1]), "covariances", "(K, D, D) or (K, D)", tuple(covariances.shape))
        variances, axes = torch.linalg.eigh(full)
        require(bool((variances > -1e-9 * variances.max()).all()), "covariances", "positive ones", variances.min().item())
        for name, value in {"weights": weights / weights.sum(), "means": means, "variances": variances, "axes": axes}.items():
            self.register_buffer(name, value)

    def forward(self, z: Tensor, at: Point, y: Tensor | None = None) -> Prediction:
        """z (B, D); y is not used."""
        at = at.like(z)
        log_joint, whitened, variance = self._components(z, at)
        share = log_joint.softmax(1)[..., None]
        eps = (share * self._back(at.sigma[..., None] * whitened / variance)).sum(1)
        gain = at.alpha[..., None] * self.variances / variance
        x = (share * (self.means + self._back(gain * whitened))).sum(1)
        return Prediction(z, at.alpha, at.sigma, x, eps)

    def log_density(self, z: Tensor, at: Point) -> Tensor:
        """log p_t(z), (B, D) → (B,)."""
        return self._components(z, at.like(z))[0].logsumexp(1)

    def responsibilities(self, z: Tensor, at: Point) -> Tensor:
        """P(k|z), (B, D) → (B, K)."""
        return self._components(z, at.like(z))[0].softmax(1)

    def _components(self, z: Tensor, at: Point) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = at.alpha[..., None], at.sigma[..., None]
        whitened = torch.einsum("kij,bki->bkj", self.axes, z[:, None] - alpha * self.means)
        variance = alpha.square() * self.variances + sigma.square()
        log_cells = -0.5 * (whitened.square() / variance + variance.log() + math.log(2 * math.pi))
        return log_cells.sum(-1) + self.weights.log(), whitened, variance

    def _back(self, v: Tensor) -> Tensor:
        return torch.einsum("kij,bkj->bki", self.axes, v)
