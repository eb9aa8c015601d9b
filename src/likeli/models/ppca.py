"""Probabilistic PCA: a linear latent model whose maximum likelihood, log p(x) and posterior are closed forms.

    z ~ N(0, I_L),  u | z ~ N(W z + b, σ² I)   ⇒   u ~ N(b, C),  C = W Wᵀ + σ² I
    z | u ~ N(M⁻¹ Wᵀ (u − b), σ² M⁻¹),  M = Wᵀ W + σ² I

Source: Tipping & Bishop (1999), probabilistic principal component analysis.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from likeli import processes
from likeli.errors import require
from likeli.gaussian.covariance import gram, leading, leading_of_rows, shared_gram
from likeli.gaussian.em import iterate
from likeli.gaussian.missing import column_moments, units
from likeli.models.linear_gaussian import LatentGaussian, block_rows, frozen
from likeli.random import Ambient, derive, seeded
from likeli.spaces import Space


class PPCA(LatentGaussian):
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
        super().__init__(space, latent_dim)
        require(solver in ("closed_form", "em"), "solver", "closed_form or em", solver)
        require(tol >= 0, "tol", "0 or more", tol)
        require(max_iter >= 1, "max_iter", "at least 1", max_iter)
        require(0 < regularization < 1, "regularization", "a number between 0 and 1", regularization)
        self.solver, self.tol, self.max_iter = solver, tol, max_iter
        self.regularization = regularization
        if solver == "em":
            self.strategy = "em"  # type: ignore[misc]
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
    def noise(self) -> Tensor:
        """σ² in every cell, (D,)."""
        return self.variance.expand(len(self.b))

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

    def fit_closed_form(
        self, x: Tensor, y: Tensor | None = None, *, seed: int = 0, sample_weight: Any = None
    ) -> None:
        """The maximum-likelihood W, b and σ²: W = U (Λ − σ² I)^½ with σ² the mean of the eigenvalues left out.

        With missing cells, or `solver="em"`, this runs EM to its end.

        Arguments:
            x: (n, *shape) in the user's units, NaN where a cell is missing.
            seed: for the dequantisation noise and EM's start.
            sample_weight: (n,), how often each row counts: a whole number stands for so many equal rows, 0 for none.
        """
        if self.solver == "em" or (x.is_floating_point() and bool(x.sum().isnan())):
            for _ in self.em(x, seed=seed, sample_weight=sample_weight):
                pass
            return
        x, weight = self.counted(x, sample_weight)
        b, second = self._moments(x, weight, seed)
        self._set(b, *(self._from_rows(x, weight, b, seed) if second is None else self._from_covariance(second)))

    def em(self, x: Tensor, *, seed: int = 0, start: bool = True, sample_weight: Any = None) -> Iterator[float]:
        """Run EM in place, one iteration a step; ends when the gain is below `tol` or after `max_iter` iterations.

        Each step gives the mean log-likelihood in nats (user's units) of the parameters before its M-step; it never falls.
        Without missing cells the latent z is what EM fills in; with them it is the missing cells, and the M-step is closed.

        Arguments:
            x: (n, *shape) in the user's units, NaN where a cell is missing.
            start: begin anew; False goes on from the present parameters.
            sample_weight: (n,), how often each row counts.
        """
        x, weight = self.counted(x, sample_weight)
        u, log_det = self.training_rows(x, seed, weight)
        step = self._missing_step(u, weight) if u.isnan().any() else self._latent_step(u, weight)
        if start:
            self._begin(u, weight, seed)
        yield from iterate(lambda: (step() + log_det,) * 2, self.progress, self.tol, self.max_iter)

    def _set(self, b: Tensor, values: Tensor, vectors: Tensor, rest: Tensor, typical: Tensor) -> None:
        """Parameters from the leading eigenvalues and eigenvectors, the mean of the other eigenvalues, and of all.

        A vector's sign is free; its largest entry is made positive, so that equal rows in any order give equal codes.
        """
        floor = self._floor(typical)
        self._report_floor(bool(rest < floor))
        variance = torch.maximum(rest, floor)
        self.b.copy_(b)
        self.variance.copy_(variance)
        sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        self.W.copy_(sign * vectors * (values - variance).clamp(min=0).sqrt())

    def _moments(self, x: Tensor, weight: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """Mean and, unless the rows are fewer than the cells, covariance, in one pass over blocks that stay in cache."""
        d, n = len(self.b), len(x) if weight is None else weight.sum()
        first, second, origin = self.b.new_zeros(d), self.b.new_zeros(d, d) if len(x) >= d else None, None
        roots = None if weight is None else weight.sqrt()[:, None].split(block_rows(d))
        for i, u in enumerate(self._blocks(x, seed)):
            origin = u.mean(0) if origin is None else origin
            if i % processes.count() != processes.rank():  # another's, for whom the same was drawn
                continue
            diff = u - origin
            if roots is not None:
                diff = diff * roots[i]
            first += diff.sum(0) if roots is None else roots[i][:, 0] @ diff
            if second is not None:
                second += gram(diff)
        assert origin is not None
        first, *rest = processes.total(first, *[second] * (second is not None))
        delta, second = first / n, next(iter(rest), None)
        return origin + delta, None if second is None else second / n - delta[:, None] * delta

    def _blocks(self, x: Tensor, seed: int) -> Iterator[Tensor]:
        with seeded(seed, "dequantise"):
            for block in x.to(self.device).split(block_rows(len(self.b))):
                yield self.space.continuous(block, Ambient(block), self.dtype)[0].reshape(len(block), -1)

    def _from_covariance(self, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`_set`'s eigenvalues and eigenvectors."""
        return self._split(*leading(covariance, self.W.shape[1]))

    def _from_rows(self, x: Tensor, weight: Tensor | None, b: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same from fewer rows than cells."""
        diff = torch.cat(list(self._blocks(x, seed))) - b
        share = 1 / len(diff) if weight is None else (weight / weight.sum())[:, None]
        return self._split(*leading_of_rows(diff * share**0.5, self.W.shape[1]))

    def _split(self, values: Tensor, vectors: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (d, size), found = self.W.shape, len(values)
        top, basis = values.new_zeros(size), vectors.new_zeros(d, size)
        top[:found], basis[:, :found] = values.clamp(min=0), vectors
        return top, basis, rest / (d - size), (top.sum() + rest) / d

    def _begin(self, u: Tensor, weight: Tensor | None, seed: int) -> None:
        """Columns' means; random loadings for complete rows, the eigenvectors of what is there for rows with missing cells."""
        b, variances = column_moments(u, weight)
        typical = variances.mean()
        generator = torch.Generator().manual_seed(derive(seed, "ppca"))
        self.progress.zero_()
        self.b.copy_(b)
        if u.isnan().any():
            share = torch.full_like(u[:, 0], 1 / len(u)) if weight is None else weight / weight.sum()
            self._set(b, *self._from_covariance(shared_gram((u - b).nan_to_num(0) * share.sqrt()[:, None])))
            return
        self.variance.copy_(typical if typical > 0 else torch.ones_like(typical))
        self.W.copy_(torch.randn(self.W.shape, dtype=torch.float64, generator=generator) * self.variance.cpu().sqrt())

    def _missing_step(self, u: Tensor, weight: Tensor | None) -> Callable[[], float]:
        """An iteration that fills in the missing cells, and the mean log-likelihood before it."""
        expected = self.filling(u, weight)

        def step() -> float:
            b, covariance, log_likelihood = expected()
            self._set(b, *self._from_covariance(covariance))
            return log_likelihood

        return step

    def _latent_step(self, u: Tensor, weight: Tensor | None) -> Callable[[], float]:
        """An iteration that fills in z, and the mean log-likelihood before it; the data enter through S = cov(u) alone."""
        n, d = u.shape
        share = torch.full_like(u[:, 0], 1 / n) if weight is None else weight / weight.sum()
        diff = (u - share @ u) * share.sqrt()[:, None]
        mine = diff[processes.share(n)]
        S = processes.total(mine.T @ mine)[0] if n >= d else None
        variances = diff.square().sum(0)
        total = variances.sum()
        floor = self._floor(total / d)

        def times(v: Tensor) -> Tensor:
            return diff.T @ (diff @ v) if S is None else S @ v

        def step() -> float:
            before = self.expected_log_density(times, variances)
            eye = torch.eye(self.W.shape[1]).to(u)
            SW, M = times(self.W), self.W.T @ self.W + self.variance * eye
            W = SW @ torch.linalg.inv(self.variance * eye + torch.linalg.solve(M, self.W.T @ SW))
            variance = (total - (SW @ torch.linalg.inv(M) * W).sum()) / d
            self._report_floor(bool(variance < floor))
            self.W.copy_(W)
            self.variance.copy_(torch.maximum(variance, floor))
            return before

        return step

    def _floor(self, typical: Tensor) -> Tensor:
        """The least σ², from the mean variance of a cell."""
        return self.regularization * torch.where(typical > 0, typical, 1)

    def _report_floor(self, holds: bool) -> None:
        first = not self.floored
        self.floored.fill_(holds)
        if first and holds:
            warnings.warn(f"ppca: {self.notes[0]}", UserWarning, stacklevel=4)
