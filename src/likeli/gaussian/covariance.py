"""The four covariances of a Gaussian mixture: full, tied, diag, spherical.

A covariance is kept as a factor S with Σ = S Sᵀ: lower triangles (K, D, D) for full, one (D, D) for tied, standard deviations
(K, D) for diag and (K,) for spherical.  Each kind knows two forms of one density:

    log N(x|m, Σ) = −½ ‖S⁻¹(x − m)‖² − log|S| − D/2 log 2π        (residuals: accurate)
                  = θ(m, Σ)·φ(x),   φ full = (x_i x_j, x, 1)        (features: one matrix product for all K components)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor


class Mixture(NamedTuple):
    """weights (K,), means (K, D) and the covariances' factor."""

    weights: Tensor
    means: Tensor
    factor: Tensor


class Covariance(ABC):
    """What the kinds of covariance differ in; K components in D dimensions."""

    shared = False  # one covariance for all components

    @abstractmethod
    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Shape of the factor."""

    @abstractmethod
    def count(self, k: int, d: int) -> int:
        """Free parameters of the covariances."""

    @abstractmethod
    def standard(self, k: int, d: int) -> Tensor:
        """The factor of the identity."""

    @abstractmethod
    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        """The factor as lower triangles (K, D, D)."""

    @abstractmethod
    def scaled(self, factor: Tensor, scale: Tensor) -> Tensor:
        """The factor after x → scale·x, scale (D,); spherical covariances need equal scales."""

    @abstractmethod
    def inverse(self, factor: Tensor) -> Tensor:
        """S⁻¹, for `whiten`."""

    @abstractmethod
    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        """S⁻¹(x − m) of the differences (K, b, D)."""

    @abstractmethod
    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        """S_k ε for each row: k (b,), ε (b, D)."""

    @abstractmethod
    def log_det(self, factor: Tensor, d: int) -> Tensor:
        """log|S|, (K,) or ()."""

    @abstractmethod
    def precision(self, inverse: Tensor, d: int) -> Tensor:
        """The diagonal of Σ⁻¹, (K or 1, D)."""

    @abstractmethod
    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        """Σ_b r diff diffᵀ as this kind keeps it, from r (K, b) and diff (K, b, D)."""

    @abstractmethod
    def outer(self, n: Tensor, delta: Tensor) -> Tensor:
        """n δ δᵀ as this kind keeps it, from n (K,) and δ (K, D)."""

    @abstractmethod
    def reduce(self, second: Tensor) -> Tensor:
        """Full second moments (K, D, D) as this kind keeps them."""

    @abstractmethod
    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        """The factor of scatter / n with no variance below `floor`, and in how many covariances the floor holds.

        The floor is the exact maximiser of the expected log-likelihood subject to Σ ⪰ floor·I, so that EM stays monotone.
        """

    @abstractmethod
    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        """φ of the rows of xt (D, b), written to `out` (P, ≥ b) and returned as (P, b)."""

    @abstractmethod
    def width(self, d: int) -> int:
        """P, the number of features."""

    @abstractmethod
    def natural(self, p: Mixture) -> Tensor:
        """θ with θ·φ(x) = log w + log N(x|m, Σ), (K, P); tied leaves out −½ xᵀΣ⁻¹x, which all components share."""

    @abstractmethod
    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        """Second moments about 0 from Σ r φ (K, P); `total` is Σ x xᵀ for tied."""


def constant(p: Mixture, log_det: Tensor) -> Tensor:
    """log w − log|S| − D/2 log 2π, (K,)."""
    return p.weights.log() - log_det - p.means.shape[1] / 2 * math.log(2 * math.pi)
