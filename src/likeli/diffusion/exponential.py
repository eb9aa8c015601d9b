"""Exponential integrators by the names under which they are known: DEIS, UniPC, and DPM-Solver++ of the reverse-time SDE.

What differs is what is taken for a polynomial in λ = log α/σ through its last values (ε̂ or x̂), and whether noise is drawn; the
integral against e^λ is exact in all of them.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.sampler import Sampler
from likeli.diffusion.schedule import Point
from likeli.diffusion.solvers import Known, exponential_weights, half_log_snr, integrate
from likeli.errors import require
from likeli.random import Noise


class DEIS(Sampler):
    """z_s = (α_s/α_t) z_t + α_s ∫ ε̂ dρ from ρ_t to ρ_s, ρ = σ/α, with ε̂ the polynomial in log ρ through its last values.

    One evaluation a step; its first steps are of low order, so that a whole run is of order 2 at most.

    Arguments:
        order: points, 1 to 4; 1 is DDIM.

    Source: Zhang & Chen (2022), arXiv:2204.13902 (the AB methods, in log ρ).
    """

    deterministic = True

    def __init__(self, order: int = 3) -> None:
        require(1 <= order <= 4, "order", "a whole number from 1 to 4", order)
        self.order = order

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        p, first, last = denoise(z, t), -half_log_snr(t), -half_log_snr(s)
        nodes = ((first, p.eps), *(memory or ()))[: self.order]
        if not (math.isfinite(first) and math.isfinite(last)):  # log ρ has no end: ε̂ and x̂ as they are now
            return (s.sigma.item() * p.eps).add_(p.x, alpha=s.alpha.item()), nodes if math.isfinite(first) else None
        weights = exponential_weights(tuple(place for place, _ in nodes), first, last)
        out = (s.alpha / t.alpha).item() * z
        for weight, (_, eps) in zip(weights, nodes):
            out.add_(eps, alpha=s.sigma.item() * weight)
        return out, nodes


class UniPC(Sampler):
    """A predictor and a corrector in λ from one evaluation a step, with B(h) in their two lowest orders.

    From order 3 on it is `multistep` to rounding, whatever B; the predictor of two points and the corrector of the first step
    put the slope's weight ½ B(h) in place of its integral, which changes nothing of the order.

    Arguments:
        order: points of the predictor, 1 to 4; few for strong guidance.
        variant: B(h) = e^{−h} − 1 (bh2) or −h (bh1).

    Source: Zhao et al. (2023), arXiv:2302.04867.
    """

    deterministic = True

    def __init__(self, order: int = 3, variant: Literal["bh1", "bh2"] = "bh2") -> None:
        require(1 <= order <= 4, "order", "a whole number from 1 to 4", order)
        require(variant in ("bh1", "bh2"), "variant", "bh1 or bh2", variant)
        self.order, self.variant = order, variant

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        known: Known | None = memory
        nodes = ((half_log_snr(t), denoise(z, t).x), *(known.nodes if known else ()))
        if known is not None:
            low = len(known.nodes) == 1
            z = self._lowest(known.z, known.at, t, nodes[::-1]) if low else integrate(known.z, known.at, t, nodes)
        nodes = nodes[: self.order]
        out = self._lowest(z, t, s, nodes) if len(nodes) == 2 else integrate(z, t, s, nodes)
        return out, Known(z, t, nodes)

    def _lowest(self, z: Tensor, t: Point, s: Point, nodes: tuple[tuple[float, Tensor], ...]) -> Tensor:
        """x̂_t, and half of −B(h) times its slope in units of the step, from x̂_t and one other."""
        (place, x), (other, x_other) = nodes
        h = half_log_snr(s) - half_log_snr(t)
        if not math.isfinite(h) or not math.isfinite(other):
            return integrate(z, t, s, nodes)
        weight = (h if self.variant == "bh1" else -math.expm1(-h)) / 2
        slope = (x_other - x).mul_(h / (other - place))
        return integrate(z, t, s, nodes[:1]).add_(slope, alpha=s.alpha.item() * weight)


class DPMSolverSDE(Sampler):
    """DPM-Solver++ of the reverse-time SDE, 2M and 3M: x̂ run on in λ, and the noise that the marginals then need.

        z_s = (σ_s/σ_t) e^{−ηh} z_t + α_s (1 + η) ∫ e^{(1+η)(λ − λ_s)} x̂(λ) dλ + σ_s √(1 − e^{−2ηh}) ξ

    Every η keeps the marginals: 0 is the probability flow, 1 the time reversal.  On Gaussian data, where it can be computed,
    the variance at the end errs by order 1 with one point and by order 2 with two or three.

    Arguments:
        order: points, 1 to 3: 2 is 2M in its form that integrates exactly, 3 is 3M.
        eta: η, at least 0.

    Source: Lu et al. (2022), arXiv:2211.01095, section 5; 3M is of common use and not in the paper.
    """

    def __init__(self, order: int = 2, eta: float = 1.0) -> None:
        require(1 <= order <= 3, "order", "a whole number from 1 to 3", order)
        require(0 <= eta <= 1e3, "eta", "a number from 0 to 1000", eta)
        self.order, self.eta, self.deterministic = order, eta, eta == 0

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        nodes = ((half_log_snr(t), denoise(z, t).x), *(memory or ()))[: self.order]
        out = integrate(z, t, s, nodes, 1 + self.eta)
        if self.eta:
            share = -math.expm1(-2 * self.eta * (half_log_snr(s) - half_log_snr(t)))
            out.add_(noise.normal(*z.shape[1:]).to(z), alpha=s.sigma.item() * math.sqrt(share))
        return out, nodes
