"""Data whose law is known at every noise level, for the identities of diffusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from likeli.contract import Elbo
from likeli.diffusion.bound import level_kl, noise_error, terminal_kl
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.sampler import State
from likeli.diffusion.schedule import Schedule
from likeli.models.vdm import VDM
from likeli.spaces import Real

F64 = torch.float64
SPREAD = 1.7  # of the Gaussian data; with γ from −6 to 6 the figures that the notes give


def line(schedule: Schedule, spread: float = SPREAD, cells: int = 1) -> MixtureDenoiser:
    """The denoiser of independent cells x_i ~ N(0, s²)."""
    moments = torch.zeros(1, cells, dtype=F64), torch.full((1, cells), spread**2, dtype=F64)
    return MixtureDenoiser(schedule, torch.ones(1, dtype=F64), *moments)


def plane(schedule: Schedule) -> MixtureDenoiser:
    """The denoiser of three Gaussians in the plane, none of them along the axes."""
    means = torch.tensor([[-1.0, 0.5], [1.2, 0.3], [0.0, -1.5]], dtype=F64)
    roots = torch.tensor([[[0.5, 0.0], [0.2, 0.3]], [[0.3, 0.0], [0.0, 0.6]], [[0.7, 0.0], [-0.4, 0.3]]], dtype=F64)
    return MixtureDenoiser(schedule, torch.tensor([0.5, 0.2, 0.3], dtype=F64), means, roots @ roots.mT)


def two_modes(schedule: Schedule) -> MixtureDenoiser:
    """The denoiser of two Gaussians on the line."""
    moments = torch.tensor([0.4, 0.6]), torch.tensor([[-1.0], [0.8]]), torch.tensor([[0.1], [0.2]])
    return MixtureDenoiser(schedule, *(m.double() for m in moments))


def draws(denoiser: MixtureDenoiser, n: int) -> Tensor:
    """n rows of the data themselves."""
    k = torch.multinomial(denoiser.weights, n, replacement=True)
    white = denoiser.variances[k].sqrt() * torch.randn(n, denoiser.means.shape[1], dtype=F64)
    return denoiser.means[k] + torch.einsum("bij,bj->bi", denoiser.axes[k], white)


def chain(steps: int | None, spread: float = SPREAD, ends: tuple[float, float] = (-6.0, 6.0)) -> VDM:
    """A VDM of one cell over `steps` levels of even γ with the best denoiser of N(0, s²)."""
    model = VDM(Real((1,)), DenoiserBackbone(hidden=(4,)), noise="log_linear", gamma=ends, steps=steps).double()
    model.denoiser = line(model.schedule, spread)
    return model


def hermite(spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Nine rows (x, ε) with weights that integrate quadratics in both exactly, x ~ N(0, s²) and ε ~ N(0, 1)."""
    node = torch.tensor([-math.sqrt(3), 0, math.sqrt(3)], dtype=F64)
    weight = torch.tensor([1, 4, 1], dtype=F64) / 6
    x, eps = (v.reshape(-1, 1) for v in torch.meshgrid(node * spread, node, indexing="ij"))
    return x, eps, torch.outer(weight, weight).flatten()


def mean_bound(model: VDM, spread: float = SPREAD) -> Elbo:
    """The model's own terms, averaged exactly over x and ε: every entry has one row."""
    x, eps, weight = hermite(spread)
    points, gaps, denoise = model.schedule.levels(model.depth), model.depth - 1, model.denoise()
    u, noise = x.repeat(gaps, 1), eps.repeat(gaps, 1)
    s, t = (points.of(torch.arange(i, gaps + i).repeat_interleave(9)) for i in (0, 1))
    diffusion = level_kl(denoise, noise_error(denoise, u, noise, t), s, t).reshape(gaps, 9) @ weight
    first = model.schedule.at(0.0)
    clean = model.observation(State(first, first.alpha * x + first.sigma * eps))
    prior, reconstruction = ((v * weight).sum()[None] for v in (terminal_kl(model.schedule, x), clean.log_prob(x)))
    return Elbo(reconstruction, torch.cat([diffusion, prior])[None])


def levels_in_closed_form(model: GaussianDiffusion, x: Tensor, eps: Sequence[Tensor]) -> Elbo:
    """The bound over all levels by `level_kl`, at z_t = α_t u + σ_t ε with one ε a level, the top level first."""
    u, points, denoise, eps = model.infer(x), model.schedule.levels(model.depth), model.denoise(), list(eps)[::-1]
    kls = []
    for i in range(1, model.depth):
        s, t = points.of(i - 1), points.of(i)
        kls.append(level_kl(denoise, noise_error(denoise, u, eps[i], t), s, t))
    first = points.of(0)
    place = first.like(u)
    p = model.observation(State(first, place.alpha * u + place.sigma * eps[0]))
    return Elbo(p.log_prob(x), torch.stack([*kls, terminal_kl(model.schedule, u)], 1))


def information(spread: float, first: float, last: float) -> float:
    """½ log (1 + s² SNR₀)/(1 + s² SNR₁), nats: what a Gaussian's z_0 knows of x and z_1 does not; γ = −log SNR."""
    return 0.5 * (math.log1p(spread**2 * math.exp(-first)) - math.log1p(spread**2 * math.exp(-last)))
