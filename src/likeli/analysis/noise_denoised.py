"""What a denoiser makes of given rows at a row of noise levels: x̂(t) = E[x|z_t], and how unsure of it it is.

A network that gives x̂ at every z gives the spread too, by the second form of Tweedie's formula:

    Cov[x|z] = (σ²/α²) (I + σ² ∇² log p_t(z)) = (σ²/α) ∂x̂/∂z
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from likeli.analysis.noise_levels import checked
from likeli.core import GenerativeModel, evaluating
from likeli.diffusion.categorical import CategoricalDenoiser
from likeli.diffusion.decoding import symbols
from likeli.diffusion.denoiser import Conditional
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.schedule import Point
from likeli.errors import require
from likeli.random import seeded
from likeli.space import Pixels


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
        if not isinstance(denoiser.space, Pixels):
            return (pmf * (1 - pmf)).flatten(1).sum(1) / z[0].numel(), None
        values = symbols(denoiser.space, z).reshape(-1, *[1] * (z.ndim - 1))
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
