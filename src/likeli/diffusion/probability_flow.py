"""The probability-flow ODE as a continuous normalising flow: codes, and log p with its sources of error kept apart.

    dz/dt = α'(t) x̂(z) + σ'(t) ε̂(z),    log p_0(z_0) = log p_1(z_1) + ∫₀¹ ∇·(dz/dt) dt

Source: Song et al. (2020), arXiv:2011.13456, section 4.3; Chen et al. (2018), arXiv:1806.07366.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.errors import Diverged, require
from likeli.random import Noise

# Dormand & Prince (1980), the 5(4) pair: stages, the fifth-order solution (= the last stage) and its difference from the fourth
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_E = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

Field = Callable[[float, Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """Where an ODE went.

    Arguments:
        y: (B, N) at the end.
        error: (B, N) the sum of the steps' own estimates of their error, in absolute value.
        evaluations: of the field.
    """

    y: Tensor
    error: Tensor
    evaluations: int


def solve(
    field: Field, y: Tensor, start: float, end: float, *, rtol: float = 1e-5, atol: float = 1e-5, steps: int | None = None
) -> Solution:
    """dy/dt = field(t, y) from `start` to `end` by Dormand & Prince's 5(4) pair.

    Arguments:
        field: (t, (B, N)) → (B, N).
        y: (B, N) at the start.
        start, end: times, in either order.
        rtol, atol: a step is taken when the worst row's root-mean-square error is below atol + rtol·|y|.
        steps: this many even steps in place of adapted ones.

    Raises:
        InputError: a tolerance or step count out of range.
        Diverged: the field is not finite, or the steps become too small.
    """
    require(rtol > 0 and atol > 0, "rtol, atol", "positive numbers", (rtol, atol))
    require(steps is None or steps >= 1, "steps", "at least 1", steps)
    t, h = start, (end - start) / (steps or 50)
    slope, total, evaluations = field(t, y), torch.zeros_like(y), 1
    while (end - t) * h > 1e-14 * abs(end - start) * abs(h):
        h = end - t if abs(h) > abs(end - t) else h
        new, error, last = _step(field, t, y, h, slope)
        evaluations += 6
        scale = atol + rtol * torch.maximum(y.abs(), new.abs())
        ratio = (error / scale).square().mean(1).max().sqrt().item() if steps is None else 0.0
        if not math.isfinite(ratio) or abs(h) < 1e-12 * abs(end - start):
            raise Diverged(f"ode: not finite or too stiff at t = {t:.4g}")
        if ratio <= 1:
            t, y, slope, total = t + h, new, last, total + error.abs()
        if steps is None:
            h *= min(5.0, max(0.2, 0.9 * max(ratio, 1e-8) ** -0.2))
    return Solution(y, total, evaluations)


def _step(field: Field, t: float, y: Tensor, h: float, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    slopes, point = [slope], y
    for c, row in zip(_C, _A):
        point = y + torch.stack([h * a * k for a, k in zip(row, slopes) if a]).sum(0)
        slopes.append(field(t + c * h, point))
    return point, torch.stack([h * e * k for e, k in zip(_E, slopes) if e]).sum(0), slopes[-1]


def velocity(denoise: Denoise, z: Tensor, t: float) -> Tensor:
    """dz/dt = α' x̂ + σ' ε̂ at (z, t)."""
    at = denoise.schedule.at(min(max(t, 0.0), 1.0))
    d_alpha, d_sigma = (v.to(z) for v in denoise.schedule.velocity(at.t))
    p = denoise(z, at)
    return d_alpha * p.x + d_sigma * p.eps


def flow(
    denoise: Denoise, z: Tensor, start: float, end: float, *, rtol: float = 1e-5, atol: float = 1e-5, steps: int | None = None
) -> Tensor:
    """z carried along the probability flow from time `start` to time `end`; see `solve` for the options."""

    def field(t: float, y: Tensor) -> Tensor:
        return velocity(denoise, y.to(z).reshape(z.shape), t).flatten(1).to(y)

    return solve(field, z.flatten(1).double(), start, end, rtol=rtol, atol=atol, steps=steps).y.to(z).reshape(z.shape)


@dataclass(frozen=True)
class FlowDensity:
    """log p_0 along the flow.

    Arguments:
        log_p: (B,) nats in model units at t = 0.
        probe_error: (B,) standard error over the divergence's probes; None when the divergence is exact.
        ode_error: (B,) the solver's own estimate of its error in log p.
        z: (B, ...) the code at t = 1.
        evaluations: of the velocity and its divergence.
    """

    log_p: Tensor
    probe_error: Tensor | None
    ode_error: Tensor
    z: Tensor
    evaluations: int


def log_density(
    denoise: Denoise,
    z: Tensor,
    log_prior: Callable[[Tensor], Tensor],
    *,
    probes: int | None = None,
    noise: Noise | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int | None = None,
) -> FlowDensity:
    """log p_0(z) by integrating the divergence along the flow; any shape of z.

    Arguments:
        denoise: (z, point) → Prediction.
        z: (B, ...) at t = 0.
        log_prior: log p_1, (B, ...) → (B,).
        probes: Hutchinson's random signs for each row, kept along the whole path; None for the exact divergence, which costs as
            many backward passes as z has cells.
        noise: where the signs come from, needed with `probes`.
        rtol, atol, steps: see `solve`.
    """
    shape, cells = z.shape, z[0].numel()
    if probes is None:
        directions = torch.eye(cells, dtype=z.dtype, device=z.device).reshape(cells, 1, *shape[1:]).expand(cells, *shape)
    else:
        require(probes >= 1, "probes", "at least 1", probes)
        assert noise is not None
        directions = torch.stack([(noise.uniform(*shape[1:]) < 0.5).to(z) * 2 - 1 for _ in range(probes)])

    def field(t: float, y: Tensor) -> Tensor:
        v, parts = with_divergence(denoise, y[:, :cells].to(z).reshape(shape), t, directions)
        parts = parts.sum(1, keepdim=True) if probes is None else parts
        return torch.cat([v.flatten(1).to(y), parts.to(y)], 1)

    start = torch.cat([z.flatten(1), z.new_zeros(len(z), probes or 1)], 1).double()
    found = solve(field, start, 0.0, 1.0, rtol=rtol, atol=atol, steps=steps)
    end, gained = found.y[:, :cells].to(z).reshape(shape), found.y[:, cells:]
    spread = gained.std(1) / math.sqrt(probes) if probes and probes > 1 else None
    if probes == 1:
        spread = torch.full_like(gained[:, 0], math.nan)
    log_p = log_prior(end).to(gained) + gained.mean(1)
    return FlowDensity(log_p, spread, found.error[:, cells:].mean(1), end, found.evaluations)


def with_divergence(denoise: Denoise, z: Tensor, t: float, directions: Tensor) -> tuple[Tensor, Tensor]:
    """dz/dt and, for every direction v (K, B, ...), vᵀ ∂(dz/dt)/∂z v as (B, K): over the axes they sum to the divergence."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        v = velocity(denoise, z, t)
        parts = []
        for i, direction in enumerate(directions):
            pulled = torch.autograd.grad(v, z, direction, retain_graph=i + 1 < len(directions))[0]
            parts.append((pulled * direction).flatten(1).sum(1))
    return v.detach(), torch.stack(parts, 1)
