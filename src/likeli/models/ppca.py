"""Probabilistic PCA: a linear latent model whose maximum likelihood, log p(x) and posterior are closed forms.

    z ~ N(0, I_L),  u | z ~ N(W z + b, σ² I)   ⇒   u ~ N(b, C),  C = W Wᵀ + σ² I
    z | u ~ N(M⁻¹ Wᵀ (u − b), σ² M⁻¹),  M = Wᵀ W + σ² I

Source: Tipping & Bishop (1999), probabilistic principal component analysis.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor
from torch import distributions as D

from likeli.errors import require
from likeli.gaussian.covariance import FullCovariance, Mixture
from likeli.gaussian.em import iterate, masked
from likeli.gaussian.missing import column_moments, group_rows, log_joint_observed, units
from likeli.models.linear_gaussian import LinearGaussian, block_rows, frozen
from likeli.probability.draw import diagonal_gaussian
from likeli.random import Ambient, Noise, derive, seeded
from likeli.spaces import Space

DENSE = 256  # beyond it, and for at most an eighth of them, only the leading eigenvectors are sought
LATENT = 16


class PPCA(LinearGaussian):
    """A Gaussian with L directions of their own variance and one variance σ² for all the others.

    Arguments:
        space: what one example is; integers are dequantised, and their number is then a lower bound.
        latent_dim: L, less than the number of cells; min(16, cells − 1) if not given.
        solver: `closed_form` (eigenvectors of the covariance) or `em`; missing cells always need EM.
        tol: EM ends when the mean log-likelihood gains less than this many nats; 0 runs `max_iter` iterations.
        max_iter: EM iterations at most.
        regularization: σ² does not fall below this share of the mean variance of a cell.
    """

    strategy: ClassVar[str] = "closed_form"

    def __init__(
        self,
        space: Space,
        latent_dim: int | None = None,
        solver: Literal["closed_form", "em"] = "closed_form",
        tol: float = 1e-6,
        max_iter: int = 1000,
        regularization: float = 1e-9,
    ) -> None:
        super().__init__(space)
        d = space.dimensions
        size = min(LATENT, d - 1) if latent_dim is None else latent_dim
        require(0 <= size < d, "latent_dim", f"a whole number below {d}, the number of cells", latent_dim)
        require(solver in ("closed_form", "em"), "solver", "closed_form or em", solver)
        require(tol >= 0, "tol", "0 or more", tol)
        require(max_iter >= 1, "max_iter", "at least 1", max_iter)
        require(0 < regularization < 1, "regularization", "a number between 0 and 1", regularization)
        self.latent_dim, self.solver, self.tol, self.max_iter = latent_dim, solver, tol, max_iter
        self.regularization = regularization
        if solver == "em":
            self.strategy = "em"  # type: ignore[misc]
        self.W = frozen(torch.zeros(d, size, dtype=torch.float64))
        self.b = frozen(torch.zeros(d, dtype=torch.float64))
        self.variance = frozen(torch.ones((), dtype=torch.float64))
        self.register_buffer("floored", torch.zeros((), dtype=torch.bool))  # whether the floor holds σ²
        self.register_buffer("progress", torch.zeros(2, dtype=torch.float64))  # of EM

    @classmethod
    def from_parameters(cls, space: Space, W: Any, mean: Any, variance: float) -> PPCA:
        """x = W z + mean + σ ε with the given parameters, in the user's units.

        Arguments:
            W: (D, L), cells row-major.
            mean: (*shape).
            variance: σ².

        Raises:
            InputError: shapes that do not fit, a variance that is not positive, columns of different scales.
        """
        W, mean = (torch.as_tensor(a, dtype=torch.float64) for a in (W, mean))
        scale = units(space)
        require(W.ndim == 2 and len(W) == space.dimensions, "W", f"shape ({space.dimensions}, L)", tuple(W.shape))
        require(variance > 0, "variance", "a positive number", variance)
        require(bool((scale == scale[0]).all()), "space", "one scale for all cells, since σ² is one", space.kind())
        model = cls(space, W.shape[1])
        model.W.copy_(W / scale[:, None])
        model.b.copy_(space.to_model(space.check(mean[None], what="mean"), torch.float64).flatten())
        model.variance.fill_(variance / scale[0].item() ** 2)
        return model

    @property
    def joint(self) -> Mixture:
        """One Gaussian, weight 1."""
        tril = torch.linalg.cholesky(self.W @ self.W.T + self.variance * torch.eye(len(self.b)).to(self.W))
        return Mixture(torch.ones_like(self.variance)[None], self.b[None], tril[None])

    @property
    def notes(self) -> list[str]:
        """What the fit has to say: whether the variance floor holds."""
        share = f"regularization={self.regularization:g} of a cell's mean variance"
        return [f"variance floor: σ² is held at {share}"] if self.floored else []

    @property
    def free_parameters(self) -> int:
        """D means, D·L − L(L−1)/2 loadings up to rotation, and σ²."""
        d, size = self.W.shape
        return d + d * size - size * (size - 1) // 2 + 1

    def fit_closed_form(self, x: Tensor, y: Tensor | None = None, *, seed: int = 0) -> None:
        """The maximum-likelihood W, b and σ²: W = U (Λ − σ² I)^½ with σ² the mean of the eigenvalues left out.

        With missing cells, or `solver="em"`, this runs EM to its end.

        Arguments:
            x: (n, *shape) in the user's units, NaN where a cell is missing.
            seed: for the dequantisation noise and EM's start.
        """
        if self.solver == "em" or (x.is_floating_point() and bool(x.sum().isnan())):
            for _ in self.em(x, seed=seed):
                pass
            return
        b, second = self._moments(x, seed)
        self._set(b, *(self._from_rows(x, b, seed) if second is None else self._from_covariance(second)))

    def em(self, x: Tensor, *, seed: int = 0, start: bool = True) -> Iterator[float]:
        """Run EM in place, one iteration a step; ends when the gain is below `tol` or after `max_iter` iterations.

        Each step gives the mean log-likelihood in nats (user's units) of the parameters before its M-step; it never falls.
        Without missing cells the latent z is what EM fills in; with them it is the missing cells, and the M-step is closed.

        Arguments:
            x: (n, *shape) in the user's units, NaN where a cell is missing.
            start: begin anew; False goes on from the present parameters.
        """
        u, log_det = self.training_rows(x, seed)
        step = self._missing_step(u) if u.isnan().any() else self._latent_step(u)
        if start:
            self._begin(u, seed)
        yield from iterate(lambda: (step() + log_det,) * 2, self.progress, self.tol, self.max_iter)

    def log_density(self, u: Tensor, y: Tensor | None = None) -> Tensor:
        """log N(u | b, C) over the observed cells; inside span(W) and outside it apart, so that small σ² costs no digits."""
        u = u.reshape(len(u), -1).to(self.dtype)
        if u.isnan().any():
            return log_joint_observed(u, *self.joint)[:, 0]
        basis, values = self._spectrum()
        diff = u - self.b
        code = diff @ basis
        outside = (diff - code @ basis.T).square().sum(1) / self.variance
        d = len(self.b)
        log_det = values.log().sum() + (d - len(values)) * self.variance.log()
        return -0.5 * (outside + (code.square() / values).sum(1) + log_det + d * math.log(2 * math.pi))

    def draw_density(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """W z + b + σ ε."""
        d, size = self.W.shape
        z, eps = noise.normal(size).to(self.W), noise.normal(d).to(self.W)
        return (z @ self.W.T + self.b + self.variance.sqrt() * eps).reshape(-1, *self.space.shape)

    def posterior(self, x: Tensor) -> D.MultivariateNormal:
        """p(z | observed cells of x) = N(M⁻¹ Wᵀ (u − b), σ² M⁻¹), batch (B,)."""
        diff = self.model_units(x) - self.b
        observed = (~diff.isnan()).to(self.dtype)
        products = (self.W[:, :, None] * self.W[:, None]).flatten(1)
        size = self.W.shape[1]
        precision = (observed @ products).view(-1, size, size) / self.variance + torch.eye(size).to(self.W)  # M/σ²
        tril = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve((diff.nan_to_num(0) @ self.W / self.variance)[..., None], tril)[..., 0]
        return D.MultivariateNormal(mean, covariance_matrix=torch.cholesky_inverse(tril))

    def observation(self, z: Tensor) -> D.Independent:
        """p(x | z), one normal a cell, in the user's units.

        Raises:
            Unsupported: the cells are not all real.
        """
        std = self.variance.sqrt() * units(self.space).to(self.device)
        return diagonal_gaussian(self.decode(z), std.reshape(self.space.shape).expand(len(z), *self.space.shape))

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """E[z | x], (B, L)."""
        return self.posterior(x).mean

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """W z + b in the user's units, (B, *shape)."""
        return self.space.from_model((z @ self.W.T + self.b).reshape(-1, *self.space.shape))

    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Orthonormal basis of span(W) (D, L) and the variances of C along it (L,)."""
        basis, s, _ = torch.linalg.svd(self.W, full_matrices=False)
        return basis, s.square() + self.variance

    def _set(self, b: Tensor, values: Tensor, vectors: Tensor, rest: Tensor, typical: Tensor) -> None:
        """Parameters from the leading eigenvalues and eigenvectors, the mean of the other eigenvalues, and of all."""
        floor = self._floor(typical)
        self._report_floor(bool(rest < floor))
        variance = torch.maximum(rest, floor)
        self.b.copy_(b)
        self.variance.copy_(variance)
        self.W.copy_(vectors * (values - variance).clamp(min=0).sqrt())

    def _moments(self, x: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
        """Mean and, unless the rows are fewer than the cells, covariance, in one pass over blocks that stay in cache."""
        n, d = len(x), len(self.b)
        first, second, origin = self.b.new_zeros(d), self.b.new_zeros(d, d) if n >= d else None, None
        for u in self._blocks(x, seed):
            origin = u.mean(0) if origin is None else origin
            diff = u - origin
            first += diff.sum(0)
            if second is not None:
                second += gram(diff)
        assert origin is not None
        delta = first / n
        return origin + delta, None if second is None else second / n - delta[:, None] * delta

    def _blocks(self, x: Tensor, seed: int) -> Iterator[Tensor]:
        with seeded(seed, "dequantise"):
            for block in x.to(self.device).split(block_rows(len(self.b))):
                yield self.space.continuous(block, Ambient(block), self.dtype)[0].reshape(len(block), -1)

    def _from_covariance(self, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`_set`'s eigenvalues and eigenvectors."""
        return self._split(*leading(covariance, self.W.shape[1]))

    def _from_rows(self, x: Tensor, b: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same from fewer rows than cells, through their Gram matrix: S Xᵀv = Xᵀ(X Xᵀ/n) v."""
        diff = torch.cat(list(self._blocks(x, seed))) - b
        inner = gram(diff.T) / len(diff)
        values, left, rest = leading(inner, min(self.W.shape[1], len(inner)))
        vectors = diff.T @ left / (len(diff) * values.clamp(min=torch.finfo(diff.dtype).tiny)).sqrt()
        return self._split(values, vectors, rest)

    def _split(self, values: Tensor, vectors: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (d, size), found = self.W.shape, len(values)
        top, basis = values.new_zeros(size), vectors.new_zeros(d, size)
        top[:found], basis[:, :found] = values.clamp(min=0), vectors
        return top, basis, rest / (d - size), (top.sum() + rest) / d

    def _begin(self, u: Tensor, seed: int) -> None:
        """Columns' means; random loadings for complete rows, the eigenvectors of what is there for rows with missing cells."""
        b, variances = column_moments(u)
        typical = variances.mean()
        generator = torch.Generator().manual_seed(derive(seed, "ppca"))
        self.progress.zero_()
        self.b.copy_(b)
        if u.isnan().any():
            self._set(b, *self._from_covariance(gram((u - b).nan_to_num(0)) / len(u)))
            return
        self.variance.copy_(typical if typical > 0 else torch.ones_like(typical))
        self.W.copy_(torch.randn(self.W.shape, dtype=torch.float64, generator=generator) * self.variance.cpu().sqrt())

    def _missing_step(self, u: Tensor) -> Callable[[], float]:
        """An iteration that fills in the missing cells, and the mean log-likelihood before it."""
        groups, kind = group_rows(~u.isnan(), 1), FullCovariance()

        def step() -> float:
            found = masked(u, self.joint, kind, groups)
            delta = found.first[0] / len(u)
            scatter = found.second[0] / len(u) - delta[:, None] * delta
            self._set(self.b + delta, *self._from_covariance((scatter + scatter.T) / 2))
            return found.log_likelihood.item() / len(u)

        return step

    def _latent_step(self, u: Tensor) -> Callable[[], float]:
        """An iteration that fills in z, and the mean log-likelihood before it; the data enter through S = cov(u) alone."""
        n, d = u.shape
        diff = u - u.mean(0)
        S = diff.T @ diff / n if n >= d else None
        total = diff.square().sum() / n
        floor = self._floor(total / d)

        def times(v: Tensor) -> Tensor:
            return diff.T @ (diff @ v) / n if S is None else S @ v

        def step() -> float:
            basis, values = self._spectrum()
            along = (basis * times(basis)).sum(0)
            log_det = values.log().sum() + (d - len(values)) * self.variance.log()
            trace = (total - along.sum()) / self.variance + (along / values).sum()
            eye = torch.eye(self.W.shape[1]).to(u)
            SW, M = times(self.W), self.W.T @ self.W + self.variance * eye
            W = SW @ torch.linalg.inv(self.variance * eye + torch.linalg.solve(M, self.W.T @ SW))
            variance = (total - (SW @ torch.linalg.inv(M) * W).sum()) / d
            self._report_floor(bool(variance < floor))
            self.W.copy_(W)
            self.variance.copy_(torch.maximum(variance, floor))
            return -0.5 * (d * math.log(2 * math.pi) + log_det + trace).item()

        return step

    def _floor(self, typical: Tensor) -> Tensor:
        """The least σ², from the mean variance of a cell."""
        return self.regularization * torch.where(typical > 0, typical, 1)

    def _report_floor(self, holds: bool) -> None:
        first = not self.floored
        self.floored.fill_(holds)
        if first and holds:
            warnings.warn(f"ppca: {self.notes[0]}", UserWarning, stacklevel=4)


def gram(rows: Tensor) -> Tensor:
    """rowsᵀ rows; on a CPU through numpy, which knows that the result is symmetric and does half the work."""
    if rows.device.type != "cpu":
        return rows.T @ rows
    array = rows.numpy()
    return torch.from_numpy(array.T @ array)


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
