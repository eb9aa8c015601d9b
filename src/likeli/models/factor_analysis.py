"""Factor analysis: a linear latent model in which every cell has a noise of its own.

    z ~ N(0, I_L),  u | z ~ N(W z + b, diag ψ)   ⇒   u ~ N(b, C),  C = W Wᵀ + diag ψ

PPCA asks which directions have much variance, this asks what cells have in common: log p does not depend on the cells'
units, and a noisy cell is no factor.

Sources: Rubin & Thayer (1982), EM algorithms for ML factor analysis; Liu & Rubin (1998), maximum likelihood estimation of
factor analysis using ECME; Barber (2012), Bayesian reasoning and machine learning, section 21.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from likeli.errors import require
from likeli.gaussian.covariance import leading, leading_of_rows, shared_gram
from likeli.gaussian.em import iterate
from likeli.gaussian.missing import column_moments, units
from likeli.models.linear_gaussian import LatentGaussian, frozen
from likeli.spaces import Space

SWEEPS = 10  # of W and ψ in one iteration: they are cheap beside an E-step, and slow where a noise is near 0
Spectrum = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class FactorAnalysis(LatentGaussian):
    """A Gaussian whose cells depend on each other through L factors, each cell with a noise of its own.

    Arguments:
        space: what one example is; integers are dequantised, and their number is then a lower bound.
        latent_dim: L, less than the number of cells; min(16, cells − 1) if not given.
        tol: EM ends when the mean log-likelihood gains less than this many nats; 0 runs `max_iter` iterations.
        max_iter: EM iterations at most.
        regularization: no cell's noise falls below this share of its variance (the likelihood alone often wants none).
    """

    strategy: ClassVar[str] = "em"

    def __init__(
        self,
        space: Space,
        latent_dim: int | None = None,
        tol: float = 1e-7,
        max_iter: int = 1000,
        regularization: float = 1e-6,
    ) -> None:
        super().__init__(space, latent_dim)
        require(tol >= 0, "tol", "0 or more", tol)
        require(max_iter >= 1, "max_iter", "at least 1", max_iter)
        require(0 < regularization < 1, "regularization", "a number between 0 and 1", regularization)
        self.tol, self.max_iter, self.regularization = tol, max_iter, regularization
        self.variances = frozen(torch.ones(space.dimensions, dtype=torch.float64))
        self.register_buffer("floored", torch.zeros((), dtype=torch.int64))  # cells whose noise the floor holds
        self.register_buffer("progress", torch.zeros(2, dtype=torch.float64))  # of EM

    @classmethod
    def from_parameters(cls, space: Space, W: Any, mean: Any, variances: Any) -> FactorAnalysis:
        """x = W z + mean + √ψ ε with the given parameters, in the user's units.

        Arguments:
            W: (D, L), cells row-major.
            mean: (*shape).
            variances: ψ, (D,).

        Raises:
            InputError: shapes that do not fit, a variance that is not positive.
        """
        W, mean, variances = (torch.as_tensor(a, dtype=torch.float64) for a in (W, mean, variances))
        d, scale = space.dimensions, units(space)
        require(W.ndim == 2 and len(W) == d, "W", f"shape ({d}, L)", tuple(W.shape))
        positive = tuple(variances.shape) == (d,) and bool((variances > 0).all())
        require(positive, "variances", f"{d} positive numbers", variances.tolist())
        model = cls(space, W.shape[1])
        model.W.copy_(W / scale[:, None])
        model.b.copy_(space.to_model(space.check(mean[None], what="mean"), torch.float64).flatten())
        model.variances.copy_(variances / scale.square())
        return model

    @property
    def noise(self) -> Tensor:
        """ψ, (D,)."""
        return self.variances

    @property
    def notes(self) -> list[str]:
        """What the fit has to say: in how many cells the floor holds."""
        held = f"noise of {int(self.floored)} of {len(self.b)} cells is held at regularization={self.regularization:g}"
        return [f"variance floor: the {held} of their variance"] if self.floored else []

    @property
    def free_parameters(self) -> int:
        """D means, D·L − L(L−1)/2 loadings up to rotation and D noises, or a full covariance's where that is fewer."""
        d, size = self.W.shape
        return d + min(d * size - size * (size - 1) // 2 + d, d * (d + 1) // 2)

    def em(self, x: Tensor, *, seed: int = 0, start: bool = True, sample_weight: Any = None) -> Iterator[float]:
        """Run EM in place, one iteration a step; ends when the gain is below `tol` or after `max_iter` iterations.

        Given ψ, the best W is a closed form of the covariance S of the cells whitened by it; given W, EM's step for ψ is
        diag(S − W Wᵀ).  Missing cells are filled in first, with S their expected covariance.  Each step gives the mean
        log-likelihood in nats (user's units) of the parameters before it; it never falls.

        Arguments:
            x: (n, *shape) in the user's units, NaN where a cell is missing.
            seed: for the dequantisation noise; the start draws nothing.
            start: begin anew; False goes on from the present parameters.
            sample_weight: (n,), how often each row counts: a whole number stands for so many equal rows, 0 for none.
        """
        x, weight = self.counted(x, sample_weight)
        u, log_det = self.training_rows(x, seed, weight)
        b, variances = column_moments(u, weight)
        typical = variances[variances > 0].mean() if bool((variances > 0).any()) else torch.ones_like(variances[0])
        floor = self.regularization * torch.where(variances > 0, variances, typical)
        if start:
            self.progress.zero_()
            self.floored.zero_()
            self.b.copy_(b)
            self.variances.copy_(torch.maximum(variances, floor))
            self.W.zero_()
        step = self._missing_step(u, weight, floor) if u.isnan().any() else self._complete_step(u, weight, floor)
        yield from iterate(lambda: (step() + log_det,) * 2, self.progress, self.tol, self.max_iter)

    def _missing_step(self, u: Tensor, weight: Tensor | None, floor: Tensor) -> Callable[[], float]:
        """An iteration that fills in the missing cells, and the mean log-likelihood before it."""
        expected, size = self.filling(u, weight), self.W.shape[1]

        def step() -> float:
            b, covariance, log_likelihood = expected()
            self.b.copy_(b)
            self._improve(lambda root: leading(covariance / root / root[:, None], size), covariance.diagonal(), floor)
            return log_likelihood

        return step

    def _complete_step(self, u: Tensor, weight: Tensor | None, floor: Tensor) -> Callable[[], float]:
        """An iteration on complete rows, and the mean log-likelihood before it; they enter through S = cov(u) alone."""
        share = torch.full_like(u[:, 0], 1 / len(u)) if weight is None else weight / weight.sum()
        diff = (u - share @ u) * share.sqrt()[:, None]
        S, size = shared_gram(diff) if len(u) >= u.shape[1] else None, self.W.shape[1]
        variances = diff.square().sum(0)

        def spectrum(root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return leading_of_rows(diff / root, size) if S is None else leading(S / root / root[:, None], size)

        def step() -> float:
            before = self.expected_log_density(lambda v: diff.T @ (diff @ v) if S is None else S @ v, variances)
            self._improve(spectrum, variances, floor)
            return before

        return step

    def _improve(self, spectrum: Spectrum, variances: Tensor, floor: Tensor) -> None:
        """W ← √ψ U (Λ − I)^½ with U, Λ the leading spectrum of S whitened by ψ, then ψ ← diag(S − W Wᵀ) above the floor."""
        for _ in range(SWEEPS):
            root = self.variances.sqrt()
            values, vectors, _ = spectrum(root)
            self.W.zero_()
            self.W[:, : len(values)] = root[:, None] * vectors * (values - 1).clamp(min=0).sqrt()
            noise = variances - self.W.square().sum(1)
            self.variances.copy_(torch.maximum(noise, floor))
        first = not self.floored
        self.floored.fill_(int((noise < floor).sum()))
        if first and self.floored:
            warnings.warn(f"factor_analysis: {self.notes[0]}", UserWarning, stacklevel=5)
