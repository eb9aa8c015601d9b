"""Full, tied, diagonal and spherical covariances."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from likeli.gaussian.covariance import Covariance, Mixture, constant

Kind = Literal["full", "tied", "diag", "spherical"]


class Full(Covariance):
    """One covariance matrix a component."""

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k, d, d)

    def count(self, k: int, d: int) -> int:
        return k * d * (d + 1) // 2

    def standard(self, k: int, d: int) -> Tensor:
        return torch.eye(d, dtype=torch.float64).repeat(k, 1, 1)

    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        return factor

    def scaled(self, factor: Tensor, scale: Tensor) -> Tensor:
        return scale[:, None] * factor

    def inverse(self, factor: Tensor) -> Tensor:
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)

    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        return diff @ inverse.mT

    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        return (factor[k] @ eps[..., None])[..., 0]

    def log_det(self, factor: Tensor, d: int) -> Tensor:
        return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def precision(self, inverse: Tensor, d: int) -> Tensor:
        return inverse.square().sum(-2).reshape(-1, d)

    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        return (diff * r[..., None]).mT @ diff

    def outer(self, n: Tensor, delta: Tensor) -> Tensor:
        return n[:, None, None] * delta[:, :, None] * delta[:, None, :]

    def reduce(self, second: Tensor) -> Tensor:
        return second

    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        return factorise(scatter / n[:, None, None], floor)

    def width(self, d: int) -> int:
        return d * (d + 1) // 2 + d + 1

    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        d, b, start = len(xt), xt.shape[1], 0
        out = out[:, :b]
        for i in range(d):
            torch.mul(xt[i], xt[i:], out=out[start : start + d - i])
            start += d - i
        out[start:-1], out[-1] = xt, 1
        return out

    def natural(self, p: Mixture) -> Tensor:
        inverse, d = self.inverse(p.factor), p.means.shape[1]
        precision = inverse.mT @ inverse
        linear = (precision @ p.means[..., None])[..., 0]
        i, j = torch.triu_indices(d, d, device=precision.device)
        quadratic = -precision[:, i, j] * torch.where(i == j, 0.5, 1.0)
        offset = constant(p, self.log_det(p.factor, d)) - 0.5 * (linear * p.means).sum(1)
        return torch.cat([quadratic, linear, offset[:, None]], 1)

    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        i, j = torch.triu_indices(d, d, device=moments.device)
        second = moments.new_empty(len(moments), d, d)
        second[:, i, j] = second[:, j, i] = moments[:, : len(i)]
        return second


class Tied(Covariance):
    """One covariance matrix for all components."""

    shared = True

    def __init__(self) -> None:
        self.full = Full()

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return (d, d)

    def count(self, k: int, d: int) -> int:
        return d * (d + 1) // 2

    def standard(self, k: int, d: int) -> Tensor:
        return torch.eye(d, dtype=torch.float64)

    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        return factor.expand(k, d, d)

    def scaled(self, factor: Tensor, scale: Tensor) -> Tensor:
        return scale[:, None] * factor

    def inverse(self, factor: Tensor) -> Tensor:
        return self.full.inverse(factor)

    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        return diff @ inverse.mT

    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        return eps @ factor.T

    def log_det(self, factor: Tensor, d: int) -> Tensor:
        return self.full.log_det(factor, d)

    def precision(self, inverse: Tensor, d: int) -> Tensor:
        return self.full.precision(inverse, d)

    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        return (diff * r[..., None]).flatten(0, 1).T @ diff.flatten(0, 1)

    def outer(self, n: Tensor, delta: Tensor) -> Tensor:
        return (n[:, None] * delta).T @ delta

    def reduce(self, second: Tensor) -> Tensor:
        return second.sum(0)

    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        factor, floored = factorise(scatter[None] / n.sum(), floor)
        return factor[0], floored

    def width(self, d: int) -> int:
        return d + 1

    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        out = out[:, : xt.shape[1]]
        out[:-1], out[-1] = xt, 1
        return out

    def natural(self, p: Mixture) -> Tensor:
        linear = torch.cholesky_solve(p.means.T, p.factor).T
        offset = constant(p, self.log_det(p.factor, p.means.shape[1])) - 0.5 * (linear * p.means).sum(1)
        return torch.cat([linear, offset[:, None]], 1)

    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        return total


class Diag(Covariance):
    """Independent cells, one variance each."""

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k, d)

    def count(self, k: int, d: int) -> int:
        return k * d

    def standard(self, k: int, d: int) -> Tensor:
        return torch.ones(k, d, dtype=torch.float64)

    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        return factor.diag_embed()

    def scaled(self, factor: Tensor, scale: Tensor) -> Tensor:
        return scale * factor

    def inverse(self, factor: Tensor) -> Tensor:
        return 1 / factor

    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        return diff * inverse[:, None]

    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        return factor[k] * eps

    def log_det(self, factor: Tensor, d: int) -> Tensor:
        return factor.log().sum(1)

    def precision(self, inverse: Tensor, d: int) -> Tensor:
        return inverse.square()

    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        return (r[:, None] @ diff.square())[:, 0]

    def outer(self, n: Tensor, delta: Tensor) -> Tensor:
        return n[:, None] * delta.square()

    def reduce(self, second: Tensor) -> Tensor:
        return second.diagonal(dim1=-2, dim2=-1)

    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        variance = scatter / n[:, None]
        return variance.clamp(min=floor).sqrt(), int((variance < floor).any(1).sum())

    def width(self, d: int) -> int:
        return 2 * d + 1

    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        out, d = out[:, : xt.shape[1]], len(xt)
        torch.mul(xt, xt, out=out[:d])
        out[d:-1], out[-1] = xt, 1
        return out

    def natural(self, p: Mixture) -> Tensor:
        precision = p.factor.square().reciprocal()
        offset = constant(p, self.log_det(p.factor, p.means.shape[1])) - 0.5 * (precision * p.means.square()).sum(1)
        return torch.cat([-0.5 * precision, precision * p.means, offset[:, None]], 1)

    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        return moments[:, :d]


class Spherical(Covariance):
    """One variance a component."""

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k,)

    def count(self, k: int, d: int) -> int:
        return k

    def standard(self, k: int, d: int) -> Tensor:
        return torch.ones(k, dtype=torch.float64)

    def dense(self, factor: Tensor, k: int, d: int) -> Tensor:
        return factor[:, None].expand(k, d).diag_embed()

    def scaled(self, factor: Tensor, scale: Tensor) -> Tensor:
        return scale[0] * factor

    def inverse(self, factor: Tensor) -> Tensor:
        return 1 / factor

    def whiten(self, inverse: Tensor, diff: Tensor) -> Tensor:
        return diff * inverse[:, None, None]

    def colour(self, factor: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        return factor[k, None] * eps

    def log_det(self, factor: Tensor, d: int) -> Tensor:
        return d * factor.log()

    def precision(self, inverse: Tensor, d: int) -> Tensor:
        return inverse.square()[:, None].expand(-1, d)

    def second(self, r: Tensor, diff: Tensor) -> Tensor:
        return (r * diff.square().sum(-1)).sum(1)

    def outer(self, n: Tensor, delta: Tensor) -> Tensor:
        return n * delta.square().sum(1)

    def reduce(self, second: Tensor) -> Tensor:
        return second.diagonal(dim1=-2, dim2=-1).sum(-1)

    def estimate(self, scatter: Tensor, n: Tensor, d: int, floor: float) -> tuple[Tensor, int]:
        variance = scatter / (n * d)
        return variance.clamp(min=floor).sqrt(), int((variance < floor).sum())

    def width(self, d: int) -> int:
        return d + 2

    def features(self, xt: Tensor, out: Tensor) -> Tensor:
        out = out[:, : xt.shape[1]]
        torch.linalg.vecdot(xt, xt, dim=0, out=out[0])
        out[1:-1], out[-1] = xt, 1
        return out

    def natural(self, p: Mixture) -> Tensor:
        precision = p.factor.square().reciprocal()
        offset = constant(p, self.log_det(p.factor, p.means.shape[1])) - 0.5 * precision * p.means.square().sum(1)
        return torch.cat([-0.5 * precision[:, None], precision[:, None] * p.means, offset[:, None]], 1)

    def unpack(self, moments: Tensor, total: Tensor, d: int) -> Tensor:
        return moments[:, 0]


COVARIANCES: dict[Kind, Covariance] = {"full": Full(), "tied": Tied(), "diag": Diag(), "spherical": Spherical()}


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
