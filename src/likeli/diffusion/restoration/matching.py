"""Samplers that ask what y says of z through x̂(z): p(y|z) ≈ N(y; A x̂(z), σ² I + A V Aᵀ), V ≈ Cov[x|z].

By Bayes' rule ∇ log p(z|y) = ∇ log p(z) + ∇ log p(y|z); with ∂x̂/∂z = (α/σ_z²) Cov[x|z] in place of the derivative of V too,

    E[x|z, y] ≈ x̂ + C Aᵀ (σ² I + A V Aᵀ)⁻¹ (y − A x̂),   C = (σ_z²/α) ∂x̂/∂z

which is exact where x given z is Gaussian and V = C.  They differ in V.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from likeli.diffusion.denoiser import Denoise, Prediction
from likeli.diffusion.restoration.posterior_sampler import PosteriorSampler, moved, points_of, walked
from likeli.diffusion.restoration.reading import Reading, conjugate_gradients
from likeli.diffusion.sampler import DDIM, Ancestral, Sampler
from likeli.diffusion.schedule import Point, terminal
from likeli.diffusion.times import Grid
from likeli.errors import Diverged, require
from likeli.probability.draw import draw
from likeli.random import Noise

UNHEARD = 1e-6  # chance of a residual so large under a belief that is right
DENSE = 8  # readings up to which A C Aᵀ is had whole, by a product with the Jacobian for each


class Belief(NamedTuple):
    """x̂ at z, and the product of C = (σ²/α) (∂x̂/∂z)ᵀ with a vector: Cov[x|z] of an exact denoiser."""

    prediction: Prediction
    times: Callable[[Tensor], Tensor]


def belief(denoise: Denoise, z: Tensor, at: Point) -> Belief:
    """The denoiser's mean and covariance of x given z, the latter as a product by reverse-mode differentiation.

    Arguments:
        z: (B, ...) at the point.
    """
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        p = denoise(leaf, at)
    place = at.like(z)

    def times(v: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(p.x, leaf, v.to(p.x), retain_graph=True)
        return place.sigma.square() / place.alpha * pulled

    return Belief(Prediction(z, place.alpha, place.sigma, p.x.detach(), p.eps.detach()), times)


class MMPS(PosteriorSampler):
    """Moment matching: V = C = (σ²/α) ∂x̂/∂z, the covariance of an exact denoiser; exact draws of a Gaussian up to the steps.

    A C Aᵀ is had whole for up to `DENSE` readings and inverted; else conjugate gradients take `iterations` products with it.

    Arguments:
        steps, grid: of the run.
        sampler: how z goes down; `DDIM(1.0)` if not given, whose noise forgives a network its errors; a deterministic one of
            high order, such as `Multistep()`, for a denoiser that is exact.
        iterations: of conjugate gradients.
        reach: largest σ/α at which C is asked for; beyond, where z tells little of x and a network's own error in C is
            multiplied by σ²/α, it is r² I with r² = σ²/(α² + σ²).
        ridge: share of r² that is added to A C Aᵀ, whose smallest values a network gets wrong; 0.03 and a reach of 5 keep a
            trained one in hand (`guarded`), no ridge and any reach are right for one that is exact.

    Source: Rozet et al. (2024), arXiv:2405.13712.
    """

    def __init__(
        self,
        steps: int = 64,
        grid: Grid = "log_snr",
        sampler: Sampler | None = None,
        iterations: int = 3,
        reach: float = math.inf,
        ridge: float = 0.0,
    ) -> None:
        super().__init__(steps, grid)
        require(iterations >= 1, "iterations", "at least 1", iterations)
        require(reach > 0, "reach", "a positive number", reach)
        require(0 <= ridge <= 1, "ridge", "a share from 0 to 1", ridge)
        self.sampler, self.iterations, self.reach, self.ridge = sampler, iterations, reach, ridge

    @classmethod
    def guarded(cls, steps: int = 64) -> MMPS:
        """For a trained network on cells without a range, whose draws may run away else."""
        return cls(steps, reach=5.0, ridge=0.03)

    def posterior(self, denoise: Denoise, reading: Reading) -> Denoise:
        """The denoiser of p(x|y)."""

        def function(z: Tensor, at: Point) -> Prediction:
            if at.gamma.min().item() > 2 * math.log(self.reach):
                p = denoise(z, at)
                weights, spread = whitened_evenly(p, reading)
                return moved(p, spread * reading.adjoint(weights), reading.ends)
            b = belief(denoise, z, at)
            weights = whitened(b, reading, self.iterations, self.ridge)[0]
            return moved(b.prediction, b.times(reading.adjoint(weights)), reading.ends)

        return replace(denoise, function=function, errs_at_small_noise=False)

    def run(self, denoise: Denoise, reading: Reading, noise: Noise, like: Tensor) -> Tensor:
        return walked(self.posterior(denoise, reading), self.sampler or DDIM(1.0), self.steps, self.grid, noise, like)


class PiGDM(PosteriorSampler):
    """Pseudo-inverse guidance: V = r² I with r² = σ²/(α² + σ²), the variance of x ~ N(0, I) given z.

    Arguments:
        steps, grid: of the run.
        sampler: how z goes down, as in `MMPS`.

    Source: Song et al. (2023), Pseudoinverse-guided diffusion models for inverse problems, ICLR.
    """

    def __init__(self, steps: int = 64, grid: Grid = "log_snr", sampler: Sampler | None = None) -> None:
        super().__init__(steps, grid)
        self.sampler = sampler

    def posterior(self, denoise: Denoise, reading: Reading) -> Denoise:
        """The denoiser of what it takes for p(x|y)."""

        def function(z: Tensor, at: Point) -> Prediction:
            b = belief(denoise, z, at)
            p = b.prediction
            weights, _ = whitened_evenly(p, reading)
            return moved(p, b.times(reading.adjoint(weights)), reading.ends)

        return replace(denoise, function=function, errs_at_small_noise=False)

    def run(self, denoise: Denoise, reading: Reading, noise: Noise, like: Tensor) -> Tensor:
        return walked(self.posterior(denoise, reading), self.sampler or DDIM(1.0), self.steps, self.grid, noise, like)


class DPS(PosteriorSampler):
    """An ancestral step, and z_s ← z_s − ζ ∇_z ‖y − A x̂(z_t)‖, the norm and its gradient of each row by itself.

    σ enters nowhere: ζ decides how near y the draws come, so that their spread is not that of p(x|y).

    Arguments:
        steps, grid: of the run.
        zeta: ζ.

    Source: Chung et al. (2022), arXiv:2209.14687, algorithm 1 with ζ over the row's norm.
    """

    def __init__(self, steps: int = 64, grid: Grid = "log_snr", zeta: float = 0.3) -> None:
        super().__init__(steps, grid)
        require(zeta > 0, "zeta", "a positive number", zeta)
        self.zeta = zeta

    def run(self, denoise: Denoise, reading: Reading, noise: Noise, like: Tensor) -> Tensor:
        points, way = points_of(denoise, self.steps, self.grid, like), Ancestral()
        z = draw(terminal(denoise.schedule, like), noise)
        for t, s in pairwise(points):
            b = belief(denoise, z, t)
            p, r = b.prediction, reading.residual(b.prediction.x)
            norm = r.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, *[1] * (z.ndim - 1))
            uphill = -(p.alpha / p.sigma.square()) * b.times(reading.adjoint(r)) / norm
            z, _ = way.step(replace(denoise, function=_known(p)), z, t, s, noise, None)
            z = z - self.zeta * uphill
        return z / points[-1].like(z).alpha


def _known(p: Prediction) -> Callable[[Tensor, Point], Prediction]:
    return lambda z, at: p


def whitened_evenly(p: Prediction, reading: Reading) -> tuple[Tensor, float]:
    """(σ² I + r² A Aᵀ)⁻¹ (y − A x̂), (B, *out), and r² = σ_z²/(α² + σ_z²), which needs no product with the Jacobian."""
    spread = (p.sigma.square() / (p.alpha.square() + p.sigma.square())).mean().item()
    return reading.solve(reading.residual(p.x), reading.sigma**2 / spread) / spread, spread


def whitened(b: Belief, reading: Reading, iterations: int, ridge: float = 0.0) -> tuple[Tensor, Tensor | None]:
    """w = (σ² I + A C Aᵀ)⁻¹ r with r = y − A x̂, (B, *out), and log N(y; A x̂, σ² I + A C Aᵀ), (B,), where it is had whole.

    Arguments:
        ridge: times σ_z²/(α² + σ_z²), added to σ².  rᵀ w is a χ² of as many degrees as there are readings where the belief is
            right; with a ridge, w is shortened where it is larger than that is with chance `UNHEARD`.
    """
    r = reading.residual(b.prediction.x)
    seen = reading.operator.seen().to(r.device)
    cells = seen.any(0).flatten().nonzero()[:, 0]
    extra = reading.sigma**2
    if ridge:
        p = b.prediction
        extra += ridge * (p.sigma.square() / (p.alpha.square() + p.sigma.square())).mean().item()
    if len(cells) > DENSE:

        def apply(v: Tensor) -> Tensor:
            return torch.where(seen, reading.A(b.times(reading.adjoint(v))), 0) + extra * v

        found, log_p = conjugate_gradients(apply, r, iterations, 1e-6), None
    else:
        found, log_p = _whole(b, reading, r, cells, extra)
    if ridge:
        bound = torch.from_numpy(chi2.isf(UNHEARD, seen.flatten(1).sum(1).clamp(min=1).cpu().numpy())).to(r)
        square = (r * found).flatten(1).sum(1).clamp(min=1e-30)
        found = found * (bound / square).sqrt().clamp(max=1).reshape(-1, *[1] * (r.ndim - 1))
    return found, log_p


def _whole(b: Belief, reading: Reading, r: Tensor, cells: Tensor, extra: float) -> tuple[Tensor, Tensor]:
    """The same by the eigenvectors of A C Aᵀ among few cells."""
    seen = reading.operator.seen().to(r.device)
    gram = torch.stack([reading.A(b.times(reading.adjoint(_one(r, i)))).flatten(1)[:, cells] for i in cells.tolist()], 2)
    there = seen.flatten(1)[:, cells].expand(len(r), -1)
    gram = torch.where(there[:, :, None] & there[:, None], (gram + gram.mT) / 2, 0)
    if not bool(gram.isfinite().all()):
        raise Diverged("restoration: the network's Jacobian is not finite; its draws have left what it was trained on")
    values, axes = torch.linalg.eigh(gram.double())
    least = extra + 1e-12 * values.amax(1, keepdim=True).clamp(min=1e-300)
    none = values < math.sqrt(torch.finfo(r.dtype).eps) * values.amax(1, keepdim=True)  # rounding, or a network's own error
    values = values.clamp(min=0) + least
    turned = (axes.mT @ r.flatten(1)[:, cells, None].double())[..., 0]
    hidden = (~there).sum(1)
    log_p = -0.5 * (turned.square() / values + values.log() + math.log(2 * math.pi)).sum(1)
    log_p = log_p + 0.5 * hidden * (least[:, 0].log() + math.log(2 * math.pi))  # cells that were not read count nothing
    solved = torch.zeros_like(r).flatten(1)
    solved[:, cells] = (axes @ (turned / values).masked_fill(none, 0)[..., None])[..., 0].to(r)
    return solved.reshape(r.shape), log_p


def _one(r: Tensor, i: int) -> Tensor:
    unit = torch.zeros_like(r).flatten(1)
    unit[:, i] = 1
    return unit.reshape(r.shape)
