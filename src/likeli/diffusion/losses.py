"""Training losses of a denoiser that are not bounds, each with what it is good for; the bound itself is in the models.

The ones of a denoiser take u (B, ...), clean and in model units, and times t (B,), draw ε from torch's ambient generator and
give (B,).  A cell that is missing (NaN) has neither noise nor error, and the network sees 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from likeli.diffusion.denoiser import Conditional, Prediction, without
from likeli.diffusion.schedule import Point
from likeli.errors import require

Weight = Literal["simple", "min_snr", "truncated_snr", "v"]


def noisy(denoiser: Conditional, u: Tensor, t: Tensor, y: Tensor | None) -> tuple[Prediction, Tensor, Point]:
    """The prediction at z = α u + σ ε, ε itself, and the point in u's type."""
    point, gone = denoiser.schedule.at(t), u.isnan()
    at, eps, u = point.like(u), torch.randn_like(u).masked_fill(gone, 0), u.masked_fill(gone, 0)
    return without(denoiser(at.alpha * u + at.sigma * eps, point, y), gone), eps, at


def weighted_noise_error(
    denoiser: Conditional, u: Tensor, t: Tensor, y: Tensor | None = None, weight: Weight = "simple", limit: float = 5.0
) -> Tensor:
    """w(SNR) ‖ε − ε̂‖².

    simple is 1 (DDPM); min_snr is min(SNR, limit)/SNR, which spares the easy low-noise levels; truncated_snr is
    max(SNR, 1)/SNR, so that an error of x̂ counts at high noise too; v is (SNR + 1)/SNR, the plain error of v.

    Source: Ho et al. (2020), arXiv:2006.11239, eq. 14; Salimans & Ho (2022), arXiv:2202.00512; Hang et al. (2023),
    arXiv:2303.09556.
    """
    p, eps, at = noisy(denoiser, u, t, y)
    return snr_weight(at, weight, limit).flatten() * _squared(eps - p.eps)


def snr_weight(at: Point, weight: Weight, limit: float = 5.0) -> Tensor:
    """w(SNR) of `weighted_noise_error`."""
    snr = (-at.gamma).exp()
    weights: dict[str, Callable[[], Tensor]] = {
        "simple": lambda: torch.ones_like(snr),
        "min_snr": lambda: snr.clamp(max=limit) / snr,
        "truncated_snr": lambda: snr.clamp(min=1) / snr,
        "v": lambda: 1 + 1 / snr,
    }
    require(weight in weights, "weight", f"one of {', '.join(weights)}", weight)
    return weights[weight]()


def denoising_score_matching(denoiser: Conditional, u: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """σ² ‖s(z) − ∇log q(z|x)‖², squared and weighted; equals explicit score matching up to a constant.

    Source: Vincent (2011), Neural Computation 23(7).
    """
    p, eps, at = noisy(denoiser, u, t, y)
    return _squared(at.sigma * (p.score + eps / at.sigma))


def implicit_score_matching(score: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """tr ∇s(z) + ½ ‖s(z)‖², exactly: one backward pass a cell.  Needs no noise and no target.

    Source: Hyvärinen (2005), JMLR 6.
    """
    eye = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device).reshape(-1, 1, *z.shape[1:])
    s, parts = _pulled(score, z, eye.expand(-1, *z.shape))
    return parts.sum(0) + 0.5 * _squared(s)


def sliced_score_matching(score: Callable[[Tensor], Tensor], z: Tensor, directions: Tensor) -> Tensor:
    """vᵀ ∇s(z) v + ½ ‖s(z)‖², averaged over directions v with E vvᵀ = I: `implicit_score_matching` in expectation.

    Arguments:
        score: s, (B, ...) → (B, ...).
        z: (B, ...).
        directions: (K, B, ...), random signs for the least variance.

    Source: Song et al. (2019), arXiv:1905.07088, eq. 8 with the variance-reduced norm.
    """
    s, parts = _pulled(score, z, directions)
    return parts.mean(0) + 0.5 * _squared(s)


def flow_matching(denoiser: Conditional, u: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """‖α' x + σ' ε − v̂‖², the squared error of the flow's velocity.

    Source: Lipman et al. (2022), arXiv:2210.02747.
    """
    p, eps, _ = noisy(denoiser, u, t, y)
    d_alpha, d_sigma = (v.to(u).reshape(-1, *[1] * (u.ndim - 1)) for v in denoiser.schedule.velocity(t))
    return _squared(d_alpha * (u.nan_to_num(0) - p.x) + d_sigma * (eps - p.eps))


def _pulled(score: Callable[[Tensor], Tensor], z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        s = score(z)
        pulled = [(v * torch.autograd.grad(s, z, v, create_graph=True)[0]).flatten(1).sum(1) for v in directions]
    return s, torch.stack(pulled)


def _squared(v: Tensor) -> Tensor:
    return v.square().flatten(1).sum(1)
