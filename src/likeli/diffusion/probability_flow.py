"""The probability-flow ODE as a continuous normalising flow: codes, and log p with its sources of error kept apart.

    dz/dt = α'(t) x̂(z) + σ'(t) ε̂(z),    log p_0(z_0) = log p_1(z_1) + ∫₀¹ ∇·(dz/dt) dt

It is solved for v = z/ρ, ρ = √(α² + σ²), in the angle tan φ = σ/α, where no rate of the schedule is left and all is bounded:

    dv/dφ = cos φ ε̂ − sin φ x̂,    log p_0(z_0) = log p_1(z_1) + D log ρ_1/ρ_0 + ∫ ∇·(dv/dφ) dφ

Every row has steps of its own, so its number does not depend on its neighbours.

Source: Song et al. (2020), arXiv:2011.13456, section 4.3; Chen et al. (2018), arXiv:1806.07366; Salimans & Ho (2022),
arXiv:2202.00512, for the angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.schedule import Point
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

GROWN = 5.0  # an early step's error grows along the way, and moves the divergence of all later ones: measured on mixtures

Field = Callable[[Tensor, Tensor], Tensor]  # (B,) times, one a row, and y (B, N) → (B, N)


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
    field: Field,
    y: Tensor,
    start: float,
    end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int | None = None,
    apart: int = 0,
) -> Solution:
    """dy/dt = field(t, y) from `start` to `end` by Dormand & Prince's 5(4) pair, each row by steps of its own.

    Arguments:
        field: (t (B,), y (B, N)) → (B, N).
        y: (B, N) at the start.
        start, end: times, in either order.
        rtol, atol: a row's step is taken when its root-mean-square error is below atol + rtol·|y|.
        steps: this many even steps in place of adapted ones.
        apart: this many numbers at the end of a row have a root mean square of their own, so that the others do not dilute it.

    Raises:
        InputError: a tolerance or step count out of range.
        Diverged: the field is not finite, or the steps become too small.
    """
    require(rtol > 0 and atol > 0, "rtol, atol", "positive numbers", (rtol, atol))
    require(steps is None or steps >= 1, "steps", "at least 1", steps)
    t, span = torch.full_like(y[:, 0], start, dtype=torch.float64), end - start
    h, slope, total, evaluations = torch.full_like(t, span / (steps or 50)), field(t, y), torch.zeros_like(y), 1
    while bool((left := (end - t) / span > 1e-14).any()):
        h = torch.where((h / span).abs() > (end - t) / span, end - t, h)  # a row that has arrived stays: its step is 0
        new, error, last = _step(field, t, y, h, slope)
        evaluations += 6
        scale = atol + rtol * torch.maximum(y.abs(), new.abs())
        parts = (error / scale).square().split([y.shape[1] - apart, apart] if apart else y.shape[1], 1)
        ratio = torch.stack([p.mean(1) for p in parts]).amax(0).sqrt() if steps is None else torch.zeros_like(t)
        stuck = left & (~ratio.isfinite() | ((h / span).abs() < 1e-12))
        if bool(stuck.any()):
            raise Diverged(f"ode: not finite or too stiff at t = {t[stuck][0].item():.4g}")
        taken = left & (ratio <= 1)
        t, y, slope = torch.where(taken, t + h, t), _where(taken, new, y), _where(taken, last, slope)
        total = _where(taken, total + error.abs(), total)
        if steps is None:
            h = h * (0.9 * ratio.clamp(min=1e-8) ** -0.2).clamp(0.2, 5.0)
    return Solution(y, total, evaluations)


def _where(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(rows[:, None], a, b)


def _step(field: Field, t: Tensor, y: Tensor, h: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    slopes, point, wide = [slope], y, h[:, None].to(y)
    for c, row in zip(_C, _A):
        point = y + torch.stack([wide * a * k for a, k in zip(row, slopes) if a]).sum(0)
        slopes.append(field(t + c * h, point))
    return point, torch.stack([wide * e * k for e, k in zip(_E, slopes) if e]).sum(0), slopes[-1]


def velocity(denoise: Denoise, z: Tensor, t: Tensor | float) -> Tensor:
    """dz/dt = α' x̂ + σ' ε̂ at (z, t), t one time or one a row."""
    at = denoise.schedule.at(torch.as_tensor(t, dtype=torch.float64).clamp(0, 1))
    d_alpha, d_sigma = (at._replace(gamma=v).like(z).gamma for v in denoise.schedule.velocity(at.t))
    p = denoise(z, at)
    return d_alpha * p.x + d_sigma * p.eps


@dataclass(frozen=True)
class _Course:
    """The flow's own variable and its clock: v along φ, or z along t where each cell has a schedule of its own."""

    denoise: Denoise
    first: Point
    last: Point

    @classmethod
    def of(cls, denoise: Denoise, start: float, end: float) -> _Course:
        """From time `start` to time `end`."""
        return cls(denoise, denoise.schedule.at(start), denoise.schedule.at(end))

    @property
    def by_cell(self) -> bool:
        return self.first.alpha.ndim > 0

    def ends(self) -> tuple[float, float, float, float]:
        """The clock at both ends, and ρ there."""
        if self.by_cell:
            return self.first.t.item(), self.last.t.item(), 1.0, 1.0
        phi = (math.atan2(p.sigma.item(), p.alpha.item()) for p in (self.first, self.last))
        rho = (math.hypot(p.sigma.item(), p.alpha.item()) for p in (self.first, self.last))
        return (*phi, *rho)  # type: ignore[return-value]

    def slope(self, clock: Tensor, v: Tensor) -> Tensor:
        """dv/dφ of v (B, ...) at φ (B,)."""
        if self.by_cell:
            return velocity(self.denoise, v, clock)
        at = self.denoise.schedule.at(self.denoise.schedule.time_of(2 * clock.tan().log()))
        rho = torch.hypot(at.alpha, at.sigma)
        turned = at._replace(alpha=clock.cos(), sigma=clock.sin(), gamma=rho).like(v)
        p = self.denoise(turned.gamma * v, at)
        return turned.alpha * p.eps - turned.sigma * p.x


def flow(
    denoise: Denoise, z: Tensor, start: float, end: float, *, rtol: float = 1e-5, atol: float = 1e-5, steps: int | None = None
) -> Tensor:
    """z carried along the probability flow from time `start` to time `end`; see `solve` for the options."""
    course = _Course.of(denoise, start, end)
    first, last, rho_first, rho_last = course.ends()

    def field(clock: Tensor, y: Tensor) -> Tensor:
        return course.slope(clock, y.to(z).reshape(z.shape)).flatten(1).to(y)

    found = solve(field, z.flatten(1).double() / rho_first, first, last, rtol=rtol, atol=atol, steps=steps)
    return (rho_last * found.y).to(z).reshape(z.shape)


@dataclass(frozen=True)
class FlowDensity:
    """log p_0 along the flow.

    Arguments:
        log_p: (B,) nats in model units at t = 0.
        probe_error: (B,) standard error over the divergence's probes; None when the divergence is exact.
        ode_error: (B,) what the solver's steps say of the error in log p; 99 % of rows err by less at tolerances up to 1e-5.
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

    course = _Course.of(denoise, 0.0, 1.0)
    first, last, rho_first, rho_last = course.ends()

    def field(clock: Tensor, y: Tensor) -> Tensor:
        v, parts = with_divergence(lambda v: course.slope(clock, v), y[:, :cells].to(z).reshape(shape), directions)
        parts = parts.sum(1, keepdim=True) if probes is None else parts
        return torch.cat([v.flatten(1).to(y), parts.to(y)], 1)

    start = torch.cat([z.flatten(1).double() / rho_first, z.new_zeros(len(z), probes or 1, dtype=torch.float64)], 1)
    found = solve(field, start, first, last, rtol=rtol, atol=atol, steps=steps, apart=probes or 1)
    end, gained = (rho_last * found.y[:, :cells]).to(z).reshape(shape), found.y[:, cells:]
    spread = gained.std(1) / math.sqrt(probes) if probes and probes > 1 else None
    if probes == 1:
        spread = torch.full_like(gained[:, 0], math.nan)
    log_p = log_prior(end).to(gained) + gained.mean(1) + cells * math.log(rho_last / rho_first)
    moved = (rho_last * found.error[:, :cells]).reshape(shape).to(end)
    error = GROWN * (found.error[:, cells:].mean(1) + moves(log_prior, end, moved).to(gained))
    return FlowDensity(log_p, spread, error, end, found.evaluations)


def moves(log_p: Callable[[Tensor], Tensor], z: Tensor, error: Tensor) -> Tensor:
    """√Σ_i (∂log p/∂z_i · error_i)²: what independent errors of z move log p by, (B,)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_p(z).sum(), z)
    return (slope * error).flatten(1).norm(dim=1)


def with_divergence(field: Callable[[Tensor], Tensor], z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """field(z) and, for every direction v (K, B, ...), vᵀ ∂field/∂z v as (B, K): over the axes they sum to the divergence."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        v = field(z)
        parts = []
        for i, direction in enumerate(directions):
            pulled = torch.autograd.grad(v, z, direction, retain_graph=i + 1 < len(directions))[0]
            parts.append((pulled * direction).flatten(1).sum(1))
    return v.detach(), torch.stack(parts, 1)
