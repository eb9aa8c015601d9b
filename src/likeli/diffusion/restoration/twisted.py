"""Twisted sequential Monte Carlo: particles that look ahead at y through x̂, weighted so that what they miss is made good."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.restoration.matching import DENSE, Belief, belief, whitened
from likeli.diffusion.restoration.posterior_sampler import Answer, PosteriorSampler, points_of
from likeli.diffusion.restoration.reading import Reading
from likeli.diffusion.schedule import Point, bridge, terminal
from likeli.diffusion.times import Grid
from likeli.errors import Unsupported, require
from likeli.probability.draw import draw
from likeli.random import Noise

SMALLEST = 1e-12  # relative: of a variance of readings, where y has no noise
WHOLE = 16  # cells up to which Cov[x|z] is had whole, by a product with the Jacobian for each


class Look(NamedTuple):
    """What one evaluation says at z: x given z, and x given z and y, as Gaussians; log of their p(y|z).

    Arguments:
        x, given: x̂ without and with y, (B, D) float64.
        log_y: (B,) log p̃(y|z).
        cov, given_cov: Cov[x|z] without and with y, (B, D, D); None where the transition knows no more than its own variance.
    """

    x: Tensor
    given: Tensor
    log_y: Tensor
    cov: Tensor | None
    given_cov: Tensor | None


class TwistedSMC(PosteriorSampler):
    """K particles for each row, with targets p(z_t) p̃(y|z_t), p̃(y|z) = N(y; A x̂, σ² I + A C Aᵀ), and proposals given y too.

    A step weighs by p̃(y|z_s) p(z_s|z_t) / (p̃(y|z_t) r(z_s|z_t, y)); particles are drawn again where their effective number
    falls below half, and at the end by the last weights.  As K grows the draws are those of the chain
    p(z_s|z_t) = N(a z_t + b x̂, std² I + b² C) given y, whose own error falls with the steps.  Beyond `WHOLE` cells the chain
    is p(z_s|z_t) = N(a z_t + b x̂, std² I), and beyond `DENSE` readings p̃ has V = σ²/(α² + σ²) in place of C.

    Arguments:
        steps, grid: of the run.
        particles: K; as many as draws are asked for, if they are more.

    Raises:
        Unsupported: more readings than `DENSE` whose A Aᵀ is not diagonal.

    Source: Wu et al. (2023), arXiv:2306.17775; C as in Rozet et al. (2024), arXiv:2405.13712.
    """

    answer: ClassVar[Answer] = "asymptotically exact"
    shares = True

    def __init__(self, steps: int = 64, grid: Grid = "log_snr", particles: int = 256) -> None:
        super().__init__(steps, grid)
        require(particles >= 2, "particles", "at least 2", particles)
        self.particles = particles

    def run(self, denoise: Denoise, reading: Reading, noise: Noise, like: Tensor) -> Tensor:
        """All rows are the particles of one reading."""
        points = points_of(denoise, self.steps, self.grid, like)
        z = draw(terminal(denoise.schedule, like), noise)
        look = looked(belief(denoise, z, points[0]), reading)
        log_w = look.log_y
        for t, s in pairwise(points):
            if effective(log_w) < 0.5 * len(z):
                chosen = systematic(log_w, noise, len(z))
                look = Look(*(None if v is None else v[chosen] for v in look))
                z, log_w = z[chosen], torch.zeros_like(log_w)
            z, gain = stepped(z, look, t, s, noise)
            after = looked(belief(denoise, z, s), reading)
            log_w, look = log_w + gain + after.log_y - look.log_y, after
        return (z / points[-1].like(z).alpha)[systematic(log_w, noise, len(z))]


def stepped(z: Tensor, look: Look, t: Point, s: Point, noise: Noise) -> tuple[Tensor, Tensor]:
    """z_s ~ r(z_s|z_t, y) and log p(z_s|z_t) − log r(z_s|z_t, y)."""
    a, b, std = (v.item() for v in bridge(s, t))
    flat = z.flatten(1).double()
    e, shift = noise.normal(flat.shape[1]).double(), b * (look.given - look.x)
    if look.cov is None or look.given_cov is None:
        kick, log_det = std * e, torch.zeros_like(look.log_y)
        gap = (kick + shift) / std
    else:
        own = std**2 * torch.eye(flat.shape[1]).to(flat)
        narrow, wide = (torch.linalg.cholesky(own + b**2 * c) for c in (look.given_cov, look.cov))
        kick = (narrow @ e[..., None])[..., 0]
        gap = torch.linalg.solve_triangular(wide, (kick + shift)[..., None], upper=False)[..., 0]
        log_det = (narrow.diagonal(dim1=1, dim2=2).log() - wide.diagonal(dim1=1, dim2=2).log()).sum(1)
    gain = 0.5 * (e.square() - gap.square()).sum(1) + log_det
    return (a * flat + b * look.given + kick).to(z).reshape(z.shape), gain


def looked(b: Belief, reading: Reading) -> Look:
    """Gaussian x given z, and given y too."""
    x = b.prediction.x
    cells, r = x[0].numel(), reading.residual(x)
    if cells > WHOLE:
        weights, log_y = _far(b, reading, r)
        return Look(x.flatten(1).double(), (x + b.times(reading.adjoint(weights))).flatten(1).double(), log_y, None, None)
    columns = [b.times(unit.expand_as(x)).flatten(1) for unit in torch.eye(cells).to(x).reshape(cells, 1, *x.shape[1:])]
    cov = torch.stack(columns, 2).double()
    values, axes = torch.linalg.eigh((cov + cov.mT) / 2)
    cov = (axes * values.clamp(min=0)[:, None]) @ axes.mT

    def read(v: Tensor) -> Tensor:
        """A of every column of v (B, D, k) → (B, M, k)."""
        return torch.stack([reading.A(c.reshape(x.shape)).flatten(1) for c in v.unbind(2)], 2)

    seen = reading.operator.seen().to(x.device).flatten(1).expand(len(x), -1)
    rows = torch.where(seen[..., None], read(cov), 0)  # A C
    spread = torch.where(seen[:, :, None] & seen[:, None], read(rows.mT), 0)  # A C Aᵀ
    least = reading.sigma**2 + SMALLEST * spread.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
    root = torch.linalg.cholesky((spread + spread.mT) / 2 + torch.where(seen, least, 1).diag_embed())
    half = torch.linalg.solve_triangular(root, torch.cat([rows, r.flatten(1).double()[..., None]], 2), upper=False)
    gain, e = half[..., :-1], half[..., -1]
    log_y = -0.5 * (e.square().sum(1) + seen.sum(1) * math.log(2 * math.pi)) - root.diagonal(dim1=1, dim2=2).log().sum(1)
    flat = x.flatten(1).double()
    return Look(flat, flat + (gain.mT @ e[..., None])[..., 0], log_y, cov, cov - gain.mT @ gain)


def _far(b: Belief, reading: Reading, r: Tensor) -> tuple[Tensor, Tensor]:
    """(σ² I + A V Aᵀ)⁻¹ (y − A x̂) and log p̃(y|z) where Cov[x|z] is too large to be had."""
    if r[0].numel() <= DENSE:
        weights, log_y = whitened(b, reading, 1)
        assert log_y is not None
        return weights, log_y
    if reading.gram is None:
        raise Unsupported(f"twisted_smc: more than {DENSE} readings that overlap have no p(y|z) to weigh by; use mmps")
    p = b.prediction
    spread = (p.sigma.square() / (p.alpha.square() + p.sigma.square())).mean().item()
    total = spread * reading.gram.double() + reading.sigma**2
    seen = reading.operator.seen().to(r.device) & (total > 0)
    total = torch.where(seen, total, 1)
    terms = torch.where(seen, r.double().square() / total + total.log() + math.log(2 * math.pi), 0)
    return (r.double() / total).to(r), -0.5 * terms.flatten(1).sum(1)


def effective(log_w: Tensor) -> float:
    """1/Σ w² of weights made to sum to one."""
    return (1 / log_w.softmax(0).square().sum()).item()


def systematic(log_w: Tensor, noise: Noise, n: int) -> Tensor:
    """n indices, each drawn as often as its weight says up to less than one, from one uniform number.

    Source: Kitagawa (1996), Journal of Computational and Graphical Statistics 5.
    """
    u = noise.uniform()[0].double()
    places = (torch.arange(n).to(u) + u) / n
    shares = log_w.double().softmax(0).cumsum(0)
    return torch.searchsorted(shares / shares[-1], places).clamp(max=len(log_w) - 1)
