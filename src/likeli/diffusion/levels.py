"""Where a diffusion model's nats go: the bound's diffusion term, noise level by noise level.

    −log p(x) ≤ prior − reconstruction + Σ_i ½ ∫_{γ_i}^{γ_{i+1}} E‖ε − ε̂(z_γ)‖² dγ
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from likeli.contract import GenerativeModel, evaluating
from likeli.diffusion.bound import excess_error, integral_of, level_kl, noise_error, terminal_kl
from likeli.diffusion.categorical import CategoricalDenoiser
from likeli.diffusion.denoiser import Conditional, Denoise
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.learned import MonotoneByCell
from likeli.diffusion.sampler import State
from likeli.diffusion.schedule import Point
from likeli.errors import Unsupported, require, require_draws
from likeli.random import seeded


class LevelShare(NamedTuple):
    """One stretch of the noise levels.

    Arguments:
        t: time at its middle.
        log_snr: log α²/σ² there.
        first, last: log SNR at its two ends.
        error: mean of (ε − ε̂)² over its cells and levels; 1 for a denoiser that knows nothing, 0 for a perfect guess.
        nats: its share of the bound, per example.
        stderr: of `nats` over examples.
        bits_per_dim: the same in bits for each cell of x.
    """

    t: float
    log_snr: float
    first: float
    last: float
    error: float
    nats: float
    stderr: float
    bits_per_dim: float


@dataclass(frozen=True)
class NoiseLevels:
    """The bound as a ledger over noise levels, nats per example in the user's units.

    Arguments:
        model: the family.
        levels: from the data to the noise.
        prior: KL(q(z_1|x) ‖ p(z_1)).
        reconstruction: log p(x|z_0).
        bound: reconstruction − prior − Σ nats of the levels.
        stderr: of `bound` over examples.
        examples, draws: rows of x, and noises for each row and level.
        continuous: whether the bound is that of infinitely many levels.
    """

    model: str
    levels: tuple[LevelShare, ...]
    prior: float
    reconstruction: float
    bound: float
    stderr: float
    examples: int
    draws: int
    continuous: bool

    def row(self) -> dict[str, Any]:
        """Everything as JSON values."""
        names = ("model", "prior", "reconstruction", "bound", "stderr", "examples", "draws", "continuous")
        return {n: getattr(self, n) for n in names} | {"levels": [level._asdict() for level in self.levels]}


def noise_levels(
    model: GenerativeModel, x: Any, y: Any = None, *, levels: int = 16, draws: int = 4, batch: int = 256, seed: int = 0
) -> NoiseLevels:
    """The bound's diffusion term at every noise level, evenly spaced in log SNR (in steps, for a chain of T steps).

    Arguments:
        model: a Gaussian diffusion.
        x: (N, *shape) in the user's units.
        y: the condition.
        levels: stretches to tell apart.
        draws: noises for each row and stretch; their places are evenly spread over it.
        batch: rows at a time.
        seed: of the noises.

    Raises:
        Unsupported: another family.
        InputError: x outside the space, a number below 1.
    """
    model, x, y = checked(model, x, y)
    require(levels >= 1, "levels", "at least 1", levels)
    require_draws("draws", draws)
    stretches = _stretches(model, levels)
    parts = []
    with evaluating(model), torch.no_grad():
        for i, start in enumerate(range(0, len(x), batch)):
            with seeded(seed, "noise levels", i):
                rows = slice(start, start + batch)
                parts.append(_batch(model, x[rows], None if y is None else y[rows], stretches, draws))
    prior, reconstruction, nats, errors = (torch.cat(p) for p in zip(*parts))
    bound = reconstruction - prior - nats.sum(1)
    bits = model.space.dimensions * math.log(2)
    table = tuple(
        LevelShare(*stretch.place(model), error.mean().item(), share.mean().item(), _stderr(share), share.mean().item() / bits)
        for stretch, share, error in zip(stretches, nats.T, errors.T)
    )
    return NoiseLevels(
        model.kind(), table, prior.mean().item(), reconstruction.mean().item(), bound.mean().item(), _stderr(bound),
        len(x), draws, model.continuous,
    )  # fmt: skip


def checked(model: GenerativeModel, x: Any, y: Any) -> tuple[GaussianDiffusion, Tensor, Tensor | None]:
    """The arguments of everything that looks at noise levels.

    Raises:
        Unsupported: not a Gaussian diffusion, or one whose cells have levels of their own.
        InputError: x or y does not fit.
    """
    if not isinstance(model, GaussianDiffusion):
        raise Unsupported(f"{model.kind()} has no noise levels; vdm, ddpm, score_sde, edm and flow_matching have")
    if isinstance(model.schedule, MonotoneByCell):
        raise Unsupported("noise levels: each cell of this schedule has its own at every t")
    x = model.space.check(x, missing=True).to(model.device)
    gaps = int(x.isnan().flatten(1).any(1).sum()) if x.is_floating_point() else 0
    require(not gaps, "x", "rows without gaps, since a missing cell has no noise level", f"{gaps} of {len(x)} rows with them")
    return model, x, model.check_condition(y, len(x))


class _Stretch(NamedTuple):
    """Noise levels from `first` to `last`: γ in continuous time, numbers of levels of a chain else."""

    first: Tensor
    last: Tensor

    def draw(self, model: GaussianDiffusion, where: Tensor) -> tuple[Point | None, Point]:
        """The points at `where` in [0, 1) of the way, and the points below them in a chain."""
        if model.continuous:
            return None, model.schedule.at(model.schedule.time_of(self.first + (self.last - self.first) * where))
        points, below = model.schedule.levels(model.depth), (self.first + (self.last - self.first) * where).floor().long()
        return points.of(below), points.of(below + 1)

    def place(self, model: GaussianDiffusion) -> tuple[float, float, float, float]:
        """t and log SNR at the middle, log SNR at the ends."""
        if model.continuous:
            ends = [g.item() for g in self]
        else:
            ends = [model.schedule.levels(model.depth).gamma[int(i)].item() for i in self]
        middle = sum(ends) / 2
        return model.schedule.time_of(torch.tensor(middle)).item(), -middle, -ends[0], -ends[1]


def _stretches(model: GaussianDiffusion, levels: int) -> list[_Stretch]:
    if model.continuous:
        first, last = model.schedule.gamma_ends()
        edges = first + (last - first) * torch.linspace(0, 1, levels + 1, dtype=torch.float64)
    else:
        edges = torch.linspace(0, model.depth - 1, min(levels, model.depth - 1) + 1, dtype=torch.float64).round()
    return [_Stretch(a, b) for a, b in pairwise(edges)]


def _batch(
    model: GaussianDiffusion, x: Tensor, y: Tensor | None, stretches: list[_Stretch], draws: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    u, first, nats, errors = model.infer(x, y), model.schedule.at(0.0), [], []
    clean, denoise = first.like(u), model.denoise(y)
    given = [model.observation(State(first, clean.alpha * u + clean.sigma * torch.randn_like(u)), y) for _ in range(draws)]
    reconstruction = torch.stack([p.log_prob(x) for p in given]).mean(0)
    for stretch in stretches:
        found = [_one(model, denoise, u, stretch, (torch.rand(len(u), dtype=torch.float64) + k) / draws) for k in range(draws)]
        share, error = (torch.stack(v).mean(0) for v in zip(*found))
        nats.append(share)
        errors.append(error)
    rows = terminal_kl(model.schedule, u), reconstruction, torch.stack(nats, 1), torch.stack(errors, 1)
    return tuple(v.double() for v in rows)  # type: ignore[return-value]


def _one(
    model: GaussianDiffusion, denoise: Denoise, u: Tensor, stretch: _Stretch, where: Tensor
) -> tuple[Tensor, Tensor]:
    below, at = stretch.draw(model, where)
    eps = torch.randn_like(u)
    error, length = noise_error(denoise, u, eps, at), stretch.last - stretch.first
    if below is None:
        share = integral_of(denoise, excess_error(denoise, error, u, eps, at), u, at, length, *stretch)
    else:
        share = length.item() * level_kl(denoise, error, below, at)
    return share, error.flatten(1).mean(1)


def _stderr(v: Tensor) -> float:
    return (v.std() / math.sqrt(len(v))).item() if len(v) > 1 else math.nan


@dataclass(frozen=True)
class Denoised:
    """x̂ and its spread; everything in model units, in which the data have about unit size.

    Arguments:
        t: (T,) times, 0 the data.
        log_snr: (T,) log α²/σ² there.
        z: (T, B, *model_shape) what was denoised, one draw of q(z_t|x).
        mean: (T, B, *model_shape) x̂(z_t); `space.from_model` takes it to the user's units.
        spread: (T, B) root of the posterior variance that the model itself implies, averaged over cells.
        probe_error: (T, B) standard error of `spread`² from random probes; None when there were none.
        error: (T, B) root mean square over cells of x̂ − x: on average over data what `spread` says, if the model is right.
        how: where `spread` comes from: `exact` (a mixture's closed form), `symbols` (the probabilities of each cell's symbols),
            `tweedie` (derivative of the network).
    """

    t: Tensor
    log_snr: Tensor
    z: Tensor
    mean: Tensor
    spread: Tensor
    probe_error: Tensor | None
    error: Tensor
    how: Literal["exact", "symbols", "tweedie"]


def denoised(
    model: GenerativeModel,
    x: Any,
    y: Any = None,
    *,
    times: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    probes: int | None = None,
    seed: int = 0,
) -> Denoised:
    """x̂(t) and the posterior's spread for the rows of x at every time.

    Arguments:
        model: a Gaussian diffusion.
        x: (B, *shape) in the user's units.
        y: the condition.
        times: in [0, 1].
        probes: random signs for a network's derivative; every cell in turn up to 32 cells and 16 probes beyond, if not given.
        seed: of the noise that x is seen through, and of the probes.

    Raises:
        Unsupported: another family.
        InputError: x outside the space, no time or one outside [0, 1], fewer than two probes.
    """
    model, x, y = checked(model, x, y)
    require(len(times) > 0, "times", "one or more", times)
    require(all(0 <= t <= 1 for t in times), "times", "values in [0, 1]", [t for t in times if not 0 <= t <= 1])
    require(probes is None or probes >= 2, "probes", "at least 2", probes)
    points = model.schedule.at(torch.tensor(times, dtype=torch.float64, device=model.device))
    found = []
    with evaluating(model), torch.no_grad(), seeded(seed, "denoised"):
        u = model.infer(x, y)
        noises = [torch.randn_like(u) for _ in times]  # before any probe, so that z does not depend on their number
        for at, eps in zip((Point(*v) for v in zip(*points)), noises):
            place = at.like(u)
            z = place.alpha * u + place.sigma * eps
            mean = model.denoiser(z, at, y).x
            variance, noise = _variance(model.denoiser, z, at, y, probes)
            found.append((z, mean, variance.clamp(min=0).sqrt(), noise, (mean - u).square().flatten(1).mean(1).sqrt()))
    z, mean, spread, error = (torch.stack(v) for v in zip(*((*row[:3], row[4]) for row in found)))
    probed = [row[3] for row in found if row[3] is not None]
    noise = torch.stack(probed) if probed else None
    how: Any = {MixtureDenoiser: "exact", CategoricalDenoiser: "symbols"}.get(type(model.denoiser), "tweedie")
    return Denoised(points.t, -points.gamma.detach(), z, mean, spread, noise, error, how)


def _variance(
    denoiser: Conditional, z: Tensor, at: Point, y: Tensor | None, probes: int | None
) -> tuple[Tensor, Tensor | None]:
    """Mean over cells of Var[x|z], (B,), and its standard error over probes."""
    if isinstance(denoiser, MixtureDenoiser):
        return denoiser.variance(z, at).mean(1), None
    if isinstance(denoiser, CategoricalDenoiser):
        pmf = denoiser.log_pmf(z, at, y).exp()
        codes = denoiser.space.codebook(z)
        if codes is None:
            return (pmf * (1 - pmf)).flatten(1).sum(1) / z[0].numel(), None
        values = codes.reshape(-1, *[1] * (z.ndim - 1))
        mean = (pmf * values).sum(1, keepdim=True)
        return (pmf * (values - mean).square()).sum(1).flatten(1).mean(1), None
    scale, cells = (at.sigma.square() / at.alpha).to(z), z[0].numel()
    if probes is None and cells <= 32:
        axes = torch.eye(cells, dtype=z.dtype, device=z.device).reshape(cells, 1, *z.shape[1:]).expand(cells, *z.shape)
        return scale * _pulled(denoiser, z, at, y, axes).sum(1) / cells, None
    signs = torch.stack([torch.randint(0, 2, z.shape, device=z.device).to(z) * 2 - 1 for _ in range(probes or 16)])
    parts = scale * _pulled(denoiser, z, at, y, signs) / cells
    return parts.mean(1), parts.std(1) / parts.shape[1] ** 0.5


def _pulled(denoiser: Conditional, z: Tensor, at: Point, y: Tensor | None, directions: Tensor) -> Tensor:
    """vᵀ (∂x̂/∂z) v for every direction v, (B, K)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        x = denoiser(z, at, y).x
        pulled = [(torch.autograd.grad(x, z, v, retain_graph=True)[0] * v).flatten(1).sum(1) for v in directions]
    return torch.stack(pulled, 1)
