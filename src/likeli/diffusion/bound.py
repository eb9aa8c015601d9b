"""The terms of a Gaussian diffusion's bound, as functions of a denoiser with its condition bound.

    −log p(x) ≤ KL(q(z_1|x) ‖ p(z_1)) − E log p(x|z_0) + Σ_levels KL(q(z_s|z_t, x) ‖ p(z_s|z_t))

With p's variance equal to q's a level costs ½ (e^{γ_t − γ_s} − 1) ‖ε − ε̂‖², and with infinitely many levels their sum is
½ ∫ E‖ε − ε̂‖² dγ.  Rows u (B, ...) are clean and in model units; γ may differ from cell to cell.

The estimate of that integral has a control variate: the error of the denoiser of N(0, I), known in closed form,

    ε − ε̂_ref = α (α ε − σ u)/(α² + σ²),    E_ε ‖ε − ε̂_ref‖² = α² (α² D + σ² ‖u‖²)/(α² + σ²)²
"""

from __future__ import annotations

import math

import torch
from scipy.special import gammaincinv
from torch import Tensor
from torch.nn.functional import softplus

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.schedule import Point, Schedule
from likeli.random import BATCH_PART


def terminal_kl(schedule: Schedule, u: Tensor) -> Tensor:
    """KL(q(z_1|x) ‖ p(z_1)) = ½ Σ_cells [α² u²/s² + r − 1 − log r], r = σ²/s², (B,) nats: what is not forgotten of x."""
    end, std = schedule.at(1.0), schedule.prior_std()
    r = (end.sigma / std).square()
    signal = _weighted((end.alpha / std).square(), end, u.square())
    return 0.5 * (signal + _weighted(r - 1 - r.log(), end, torch.ones_like(u)))


def low_discrepancy(n: int, device: torch.device | str = "cpu") -> Tensor:
    """n times, each uniform on [0, 1), one in every interval of length 1/n up to rotation: (u + i/n) mod 1 with one u.

    Drawn from torch's ambient generator, float64.  An average over a batch varies less than with independent times.

    Source: Kingma et al. (2021), arXiv:2107.00630, appendix I.
    """
    first = torch.rand((), dtype=torch.float64, device=device)
    part = BATCH_PART.get()  # of a batch that processes share, whose rows keep their places i
    begin, of = (part.first, part.of) if part is not None and part.rows == n else (0, n)
    return (first + torch.arange(begin, begin + n, dtype=torch.float64, device=device) / of) % 1


def on_shell(eps: Tensor, quantile: Tensor) -> Tensor:
    """ε (B, ...) ~ N(0, I) with ‖ε‖² moved to the given quantiles (B,) of χ²_D: still N(0, I) where they are uniform.

    Spread evenly over draws they take out the variance of ‖ε − ε̂‖² that is ‖ε‖²'s own, nearly all of it at small noise.
    """
    square = torch.from_numpy(2 * gammaincinv(eps[0].numel() / 2, quantile.double().cpu().numpy())).to(eps)
    scale = (square / eps.square().flatten(1).sum(1)).sqrt()
    return eps * scale.reshape(-1, *[1] * (eps.ndim - 1))


def noise_error(denoise: Denoise, u: Tensor, eps: Tensor, at: Point) -> Tensor:
    """(ε − ε̂(z))² at z = α u + σ ε, cell by cell, (B, ...)."""
    place = at.like(u)
    return (eps - denoise(place.alpha * u + place.sigma * eps, at).eps).square()


def level_kl(denoise: Denoise, error: Tensor, s: Point, t: Point) -> Tensor:
    """KL(q(z_s|z_t, x) ‖ p(z_s|z_t)), (B,), of (ε − ε̂)² = `error` (B, ...) at t.

    With r = log σ_p²/σ_q²:  ½ e^{−r} (e^{γ_t − γ_s} − 1) ‖ε − ε̂‖² + ½ D (e^{−r} − 1 + r).
    """
    r = denoise.log_ratio(s, t)
    excess = 0.5 * (torch.expm1(-r) + r)
    weight = 0.5 * torch.exp(-r).reshape(r.shape + (1,) * (t.gamma.ndim - r.ndim)) * torch.expm1(t.gamma - s.gamma)
    return _weighted(weight, t, error) + (error[0].numel() * excess).to(error)


def integral(denoise: Denoise, u: Tensor, eps: Tensor, at: Point, rate: Tensor) -> tuple[Tensor, Tensor]:
    """One draw of ½ ∫ ‖ε − ε̂‖² dγ between the schedule's ends, (B,), and what was drawn: ‖ε − ε̂‖² less its control variate.

    Arguments:
        rate: 1/density that γ was drawn with, the shape of `at.gamma`: last − first if uniformly, dγ/dt along a schedule.
    """
    excess = excess_error(denoise, noise_error(denoise, u, eps, at), u, eps, at)
    return integral_of(denoise, excess, u, at, rate, *denoise.schedule.gamma_ends()), excess.flatten(1).sum(1)


def integral_of(
    denoise: Denoise, excess: Tensor, u: Tensor, at: Point, rate: Tensor, first: Tensor, last: Tensor
) -> Tensor:
    """One draw of ½ ∫ ‖ε − ε̂‖² dγ from γ = `first` to `last`, (B,), of `excess_error` (B, ...) at a γ drawn between them."""
    known = reference_integral(u, first, last) if denoise.errs_at_small_noise else 0
    return 0.5 * (_weighted(rate, at, excess) + known)


def excess_error(denoise: Denoise, error: Tensor, u: Tensor, eps: Tensor, at: Point) -> Tensor:
    """(ε − ε̂)² less that of the denoiser of N(0, I) at the same draw, (B, ...); as it is where small noise costs nothing."""
    return error - reference_error(u, eps, at) if denoise.errs_at_small_noise else error


def reference_error(u: Tensor, eps: Tensor, at: Point) -> Tensor:
    """(ε − ε̂_ref)² at z = α u + σ ε, cell by cell, (B, ...)."""
    place = at.like(u)
    scale = place.alpha / (place.alpha.square() + place.sigma.square())
    return (scale * (place.alpha * eps - place.sigma * u)).square()


def reference_integral(u: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """∫ E_ε ‖ε − ε̂_ref‖² dγ from γ = `first` to `last`, one number or one a cell, (B,)."""
    fall = (-first).sigmoid() - (-last).sigmoid()
    flat = (softplus(-first) - softplus(-last) - fall).to(u)
    return (flat + fall.to(u) * u.square()).flatten(1).sum(1)


def standard_error(draws: Tensor) -> Tensor:
    """sd/√K over the first axis, NaN for one draw."""
    return draws.std(0) / math.sqrt(len(draws)) if len(draws) > 1 else torch.full_like(draws[0], math.nan)


def spread_mean(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard error of draws (K, B) whose places are spread evenly, (B,) each; NaN for one draw.

    The error is from all draws or from neighbours.  Neither knows that the draws are spread, so that it is overstated; of the
    two, which a rare large draw may escape, the larger is taken.
    """
    if len(draws) == 1:
        return draws[0], torch.full_like(draws[0], math.nan)
    neighbours = (draws.diff(dim=0).square().mean(0) / (2 * len(draws))).sqrt()
    return draws.mean(0), torch.maximum(neighbours, standard_error(draws))


def _weighted(weight: Tensor, at: Point, cells: Tensor) -> Tensor:
    """Σ_cells w c, (B,): one weight, one a row, or one a cell (and row)."""
    if weight.ndim > at.t.ndim:
        return (at._replace(gamma=weight).like(cells).gamma * cells).flatten(1).sum(1)
    return weight.to(cells) * cells.flatten(1).sum(1)
