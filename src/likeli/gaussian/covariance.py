"""The four covariances of a Gaussian mixture: full, tied, diag, spherical.

A covariance is kept as a factor S with Σ = S Sᵀ: lower triangles (K, D, D) for full, one (D, D) for tied, standard deviations
(K, D) for diag and (K,) for spherical.  Each kind knows two forms of one density:

    log N(x|m, Σ) = −½ ‖S⁻¹(x − m)‖² − log|S| − D/2 log 2π        (residuals: accurate)
                  = θ(m, Σ)·φ(x),   φ full = (x_i x_j, x, 1)        (features: one matrix product for all K components)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor

from likeli import processes

Kind = Literal["full", "tied", "diag", "spherical"]
DENSE = 256  # beyond it, and for at most an eighth of them, only the leading eigenvectors are sought


class Mixture(NamedTuple):
    """weights (K,), means (K, D) and the covariances' factor."""

    weights: Tensor
    means: Tensor
    factor: Tensor


class Covariance(ABC):
    """What the kinds of covariance differ in; K components in D dimensions."""

    shared = False  # one covariance for all components

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
    def inverse(self, factor: Tensor, d: int) -> tuple[Tensor, Tensor]:
        """S⁻¹, for `whiten`, and log|S|, (K,) or ()."""

    @abstractmethod
    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        """S⁻¹(x − m) of the differences (K, b, D)."""

    @abstractmethod
    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        """S_k ε for each row: k (b,), ε (b, D)."""

    @abstractmethod
    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        """Σ_b r diff diffᵀ as this kind keeps it, from r (K, b) and diff (K, b, D)."""

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
    def natural(self, p: Mixture) -> Tensor:
        """θ with θ·φ(x) = log w + log N(x|m, Σ), (K, P); tied leaves out −½ xᵀΣ⁻¹x, which all components share."""

    @abstractmethod
    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        """Second moments about 0 from Σ r φ (K, P); `total` is Σ x xᵀ for tied."""


def constant(p: Mixture, log_det: Tensor) -> Tensor:
    """log w − log|S| − D/2 log 2π, (K,)."""
    return p.weights.log() - log_det - p.means.shape[1] / 2 * math.log(2 * math.pi)


class Triangular(Covariance):
    """Covariances whose factor is lower triangles, one or many."""

    def scaled(self, factor: Tensor, scale: Tensor) -> Tensor:
        return scale[:, None] * factor

    def inverse(self, factor: Tensor, d: int) -> tuple[Tensor, Tensor]:
        return inverse_triangle(factor)

    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        return diff @ inverse.mT


class FullCovariance(Triangular):
    """One covariance matrix a component."""

    def standard(self, k: int, d: int) -> Tensor:
        return torch.eye(d, dtype=torch.float64).repeat(k, 1, 1)

    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        return factor

    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        return (factor[k] @ eps[..., None])[..., 0]

    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        return (diff * r[..., None]).mT @ diff

    def reduce(self, second: Tensor) -> Tensor:
        return second

    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        return factorise(scatter / n[:, None, None], floor)

    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        d, b, start = len(xt), xt.shape[1], 0
        out = out[:, :b]
        for i in range(d):
            torch.mul(xt[i], xt[i:], out=out[start : start + d - i])
            start += d - i
        out[start:-1], out[-1] = xt, 1
        return out

    def natural(self, p: Mixture) -> Tensor:
        d = p.means.shape[1]
        inverse, log_det = self.inverse(p.factor, d)
        precision = inverse.mT @ inverse
        linear = (precision @ p.means[..., None])[..., 0]
        i, j = torch.triu_indices(d, d, device=precision.device)
        quadratic = -precision[:, i, j] * torch.where(i == j, 0.5, 1.0)
        offset = constant(p, log_det) - 0.5 * (linear * p.means).sum(1)
        return torch.cat([quadratic, linear, offset[:, None]], 1)

    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        i, j = torch.triu_indices(d, d, device=moments.device)
        second = moments.new_empty(len(moments), d, d)
        second[:, i, j] = second[:, j, i] = moments[:, : len(i)]
        return second


class TiedCovariance(Triangular):
    """One covariance matrix for all components."""

    shared = True

    def standard(self, k: int, d: int) -> Tensor:
        return torch.eye(d, dtype=torch.float64)

    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        return factor.expand(k, d, d)

    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        return eps @ factor.T

    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        return (diff * r[..., None]).flatten(0, 1).T @ diff.flatten(0, 1)

    def reduce(self, second: Tensor) -> Tensor:
        return second.sum(0)

    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        factor, floored = factorise(scatter[None] / n.sum(), floor)
        return factor[0], floored

    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        out = out[:, : xt.shape[1]]
        out[:-1], out[-1] = xt, 1
        return out

    def natural(self, p: Mixture) -> Tensor:
        linear = torch.cholesky_solve(p.means.T, p.factor).T
        offset = constant(p, self.inverse(p.factor, p.means.shape[1])[1]) - 0.5 * (linear * p.means).sum(1)
        return torch.cat([linear, offset[:, None]], 1)

    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        return total


class DiagCovariance(Covariance):
    """Independent cells, one variance each."""

    def standard(self, k: int, d: int) -> Tensor:
        return torch.ones(k, d, dtype=torch.float64)

    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        return factor.diag_embed()

    def scaled(self, factor: Tensor, scale: Tensor) -> Tensor:
        return scale * factor

    def inverse(self, factor: Tensor, d: int) -> tuple[Tensor, Tensor]:
        return 1 / factor, factor.log().sum(1)

    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        return diff * inverse[:, None]

    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        return factor[k] * eps

    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        return (r[:, None] @ diff.square())[:, 0]

    def reduce(self, second: Tensor) -> Tensor:
        return second.diagonal(dim1=-2, dim2=-1)

    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        variance = scatter / n[:, None]
        return variance.clamp(min=floor).sqrt(), int((variance < floor).any(1).sum())

    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        out, d = out[:, : xt.shape[1]], len(xt)
        torch.mul(xt, xt, out=out[:d])
        out[d:-1], out[-1] = xt, 1
        return out

    def natural(self, p: Mixture) -> Tensor:
        precision = p.factor.square().reciprocal()
        offset = constant(p, self.inverse(p.factor, p.means.shape[1])[1]) - 0.5 * (precision * p.means.square()).sum(1)
        return torch.cat([-0.5 * precision, precision * p.means, offset[:, None]], 1)

    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        return moments[:, :d]


class SphericalCovariance(Covariance):
    """One variance a component."""

    def standard(self, k: int, d: int) -> Tensor:
        return torch.ones(k, dtype=torch.float64)

    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        return factor[:, None].expand(k, d).diag_embed()

    def scaled(self, factor: Tensor, scale: Tensor) -> Tensor:
        return scale[0] * factor

    def inverse(self, factor: Tensor, d: int) -> tuple[Tensor, Tensor]:
        return 1 / factor, d * factor.log()

    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        return diff * inverse[:, None, None]

    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        return factor[k, None] * eps

    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        return (r * diff.square().sum(-1)).sum(1)

    def reduce(self, second: Tensor) -> Tensor:
        return second.diagonal(dim1=-2, dim2=-1).sum(-1)

    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        variance = scatter / (n * d)
        return variance.clamp(min=floor).sqrt(), int((variance < floor).sum())

    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        out = out[:, : xt.shape[1]]
        torch.linalg.vecdot(xt, xt, dim=0, out=out[0])
        out[1:-1], out[-1] = xt, 1
        return out

    def natural(self, p: Mixture) -> Tensor:
        precision = p.factor.square().reciprocal()
        offset = constant(p, self.inverse(p.factor, p.means.shape[1])[1]) - 0.5 * precision * p.means.square().sum(1)
        return torch.cat([-0.5 * precision[:, None], precision[:, None] * p.means, offset[:, None]], 1)

    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        return moments[:, 0]


COVARIANCES: dict[Kind, Covariance] = {
    "full": FullCovariance(),
    "tied": TiedCovariance(),
    "diag": DiagCovariance(),
    "spherical": SphericalCovariance(),
}


def free_entries(factor: Tensor, kind: Covariance) -> int:
    """Free parameters of the covariances: the factor's entries, of a triangle those that are not 0 by construction."""
    square = kind.shared or factor.ndim == 3
    return factor.numel() * (factor.shape[-1] + 1) // (2 * factor.shape[-1]) if square else factor.numel()


def inverse_triangle(tril: Tensor) -> tuple[Tensor, Tensor]:
    """S⁻¹ and log|S| of lower triangles (…, D, D)."""
    eye = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device)
    inverse = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)
    return inverse, tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def factorise(covariance: Tensor, floor: float) -> tuple[Tensor, int]:
    """Lower triangles L with L Lᵀ = Σ, eigenvalues below `floor` raised to it, and how many matrices were touched.

    Arguments:
        covariance: (K, D, D), symmetric.
        floor: least eigenvalue, positive.
    """
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    low = torch.linalg.cholesky_ex(covariance - floor * eye).info > 0
    factor, _ = torch.linalg.cholesky_ex(covariance)
    if low.any():
        values, vectors = torch.linalg.eigh(covariance[low])
        upper = torch.linalg.qr((vectors * values.clamp(min=floor).sqrt()[:, None]).mT).R
        factor[low] = (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT
    return factor, int(low.sum())


def gram(rows: Tensor) -> Tensor:
    """rowsᵀ rows; on a CPU through numpy, which knows that the result is symmetric and does half the work."""
    if rows.device.type != "cpu":
        return rows.T @ rows
    array = rows.numpy()
    return torch.from_numpy(array.T @ array)


def shared_gram(rows: Tensor) -> Tensor:
    """`gram` of rows of which each process multiplies its share."""
    return processes.total(gram(rows[processes.share(len(rows))]))[0]


def leading(matrix: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest eigenvalues of a covariance, largest first, their eigenvectors, and the sum of the other eigenvalues.

    Source: Lehoucq, Sorensen & Yang (1998), ARPACK users' guide, for few of many.
    """
    if k > 0 and len(matrix) > max(DENSE, 8 * k):
        start = np.random.default_rng(0).normal(size=len(matrix))
        with suppress(ArpackNoConvergence):
            found = eigsh(matrix.cpu().numpy(), k, v0=start)
            values, vectors = (torch.from_numpy(a[..., ::-1].copy()).to(matrix) for a in found)
            return values, vectors, (matrix.trace() - values.sum()).clamp(min=0)
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=0)  # a difference of traces would lose the digits of small ones
    return values.flip(0)[:k], vectors.flip(1)[:, :k], values[: len(values) - k].sum()


def leading_of_rows(rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`leading` of rowsᵀ rows; of fewer rows than cells through rows rowsᵀ, and then at most as many as there are rows."""
    n, d = rows.shape
    if n >= d:
        return leading(gram(rows), k)
    values, left, rest = leading(gram(rows.T), min(k, n))
    return values, rows.T @ left / values.clamp(min=torch.finfo(rows.dtype).tiny).sqrt(), rest
