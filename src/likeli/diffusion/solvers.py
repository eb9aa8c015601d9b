"""Deterministic samplers: the probability-flow ODE  dz/dt = f z − ½ g² ∇log p_t = α'(t) x̂ + σ'(t) ε̂.

In half log SNR λ = log α/σ it is linear apart from x̂, with the solution

    z_s = (σ_s/σ_t) z_t + α_s ∫ e^{λ − λ_s} x̂(λ) dλ

so that a method only has to say how x̂ runs between λ_t and λ_s.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.sampler import Sampler
from likeli.diffusion.schedule import Point
from likeli.errors import require
from likeli.random import Noise

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_PLACES = (_NODES + 1) / 2
_POWERS = _PLACES[:, None] ** np.arange(5)


class Euler(Sampler):
    """z_s = z_t + (s − t) (α' x̂ + σ' ε̂): order 1, one evaluation a step; exact for a straight path and a fixed x̂."""

    deterministic = True

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        h, (d_alpha, d_sigma) = (s.t - t.t).item(), denoise.schedule.velocity(t.t)
        p = denoise(z, t)
        return z.add(p.x, alpha=h * d_alpha.item()).add_(p.eps, alpha=h * d_sigma.item()), None


class Heun(Sampler):
    """The trapezium rule for d(z/α) = ε̂ d(σ/α): order 2, two evaluations a step.

    Source: Karras et al. (2022), arXiv:2206.00364, algorithm 1, for any α.
    """

    deterministic = True

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        keep = (s.alpha / t.alpha).item()
        way, slope = s.sigma.item() - keep * t.sigma.item(), denoise(z, t).eps
        if s.sigma == 0:  # ε̂ has no meaning there, and x̂ is what the line leads to
            return (keep * z).add_(slope, alpha=way), None
        ahead = denoise((keep * z).add_(slope, alpha=way), s).eps
        return (keep * z).add_(slope + ahead, alpha=way / 2), None


class DPMSolver(Sampler):
    """DPM-Solver++(2M): x̂ run on in λ from the last two, z_s = (σ_s/σ_t) z_t − α_s (e^{−h} − 1) [x̂_t + (x̂_t − x̂_r)/(2r)].

    Order 2, one evaluation a step.  Source: Lu et al. (2022), arXiv:2211.01095, algorithm 2.
    """

    deterministic = True

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        gamma, x = t.gamma.item(), denoise(z, t).x
        h, ahead = (gamma - s.gamma.item()) / 2, x
        if memory is not None and math.isfinite(h) and math.isfinite(memory[0]):
            before, x_before = memory
            ahead = x.lerp(x_before, h / (gamma - before))  # 1/(2r) with r = (λ_t − λ_before)/h
        out = ((s.sigma / t.sigma).item() * z).add_(ahead, alpha=-s.alpha.item() * math.expm1(-h))
        return out, (gamma, x)


class Known(NamedTuple):
    """Where the trajectory was and what x̂ was there, the newest first."""

    z: Tensor
    at: Point
    nodes: tuple[tuple[float, Tensor], ...]


class Multistep(Sampler):
    """An exponential predictor-corrector: x̂ is the polynomial in λ through its last values, integrated exactly.

    The corrector goes back over the last step once x̂ at its end is known, which costs no further evaluation and starts the
    method at full order; every step takes one.

    Arguments:
        order: points of the predictor, 1 to 4.
        correct: whether to correct; without it the first steps are of low order, and the whole run of order 2 at most.

    Source: Lu et al. (2022), arXiv:2211.01095 (data prediction); Zhao et al. (2023), arXiv:2302.04867 (the corrector).
    """

    deterministic = True

    def __init__(self, order: int = 3, correct: bool = True) -> None:
        require(1 <= order <= 4, "order", "a whole number from 1 to 4", order)
        self.order, self.correct = order, correct

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        known: Known | None = memory
        nodes = ((half_log_snr(t), denoise(z, t).x), *(known.nodes if known else ()))
        if known is not None and self.correct:
            z = integrate(known.z, known.at, t, nodes)
        nodes = nodes[: self.order]
        return integrate(z, t, s, nodes), Known(z, t, nodes)


def half_log_snr(at: Point) -> float:
    """λ = log α/σ."""
    return -at.gamma.item() / 2


def integrate(z: Tensor, t: Point, s: Point, nodes: Sequence[tuple[float, Tensor]], rate: float = 1.0) -> Tensor:
    """z_s = (σ_s/σ_t) e^{−(c−1)h} z_t + α_s c ∫ e^{c(λ − λ_s)} x̂(λ) dλ with x̂ the polynomial in λ through `nodes`.

    To σ = 0 or from α = 0 the step in λ is without end and x̂ is its newest value.

    Arguments:
        z: (B, ...) at t.
        t, s: from and to.
        nodes: (λ, x̂) at distinct λ, the newest first.
        rate: c, 1 for the probability flow.
    """
    first, last = half_log_snr(t), half_log_snr(s)
    if math.isfinite(first) and math.isfinite(last):
        nodes = [node for node in nodes if math.isfinite(node[0])]
        weights = exponential_weights(tuple(rate * place for place, _ in nodes), rate * first, rate * last)
        keep = (s.sigma / t.sigma).item() * math.exp((1 - rate) * (last - first))
    else:
        nodes, weights, keep = nodes[:1], [1.0], (s.sigma / t.sigma).item() if rate == 1 else 0.0
    out, alpha = keep * z, s.alpha.item()
    for weight, (_, x) in zip(weights, nodes):
        out.add_(x, alpha=alpha * weight)
    return out


@lru_cache(4096)
def exponential_weights(places: tuple[float, ...], first: float, last: float) -> list[float]:
    """∫ e^{λ − last} ℓ_i(λ) dλ from `first` to `last`, with ℓ_i Lagrange's polynomials on `places`."""
    h = last - first
    moments = (h / 2 * _WEIGHTS * np.exp(h * (_PLACES - 1))) @ _POWERS[:, : len(places)]  # of v^j, v from 0 to 1
    powers = ((np.array(places) - first) / h)[None] ** np.arange(len(places))[:, None]
    weights: list[float] = np.linalg.solve(powers, moments).tolist()
    return weights


SECOND = 15  # up to so many steps, order 2 ends nearest to the flow; measured on mixtures of 2 to 768 dimensions


class Turned(NamedTuple):
    """Where the trajectory was, in units of ρ, and the slopes known there, the newest first."""

    w: Tensor
    phi: float
    slopes: tuple[tuple[float, Tensor], ...]


class Adams(Sampler):
    """A predictor-corrector in φ: the slope is the polynomial through its last values, integrated exactly.

    The corrector (Adams-Moulton) goes back over the last step once the slope at its end is known, which costs no further
    evaluation; every step takes one, and the order is one more than the predictor's (Adams-Bashforth) for 1 and 2.

    Arguments:
        order: points of the predictor, 1 to 4; chosen by the number of steps if not given.
        correct: whether to correct; None does from 12 steps on, below which the corrector's slopes lie too far apart.
        spread: c, the standard deviation of the data in model units.

    Source: Zhang & Chen (2022), arXiv:2204.13902, and Salimans & Ho (2022), arXiv:2202.00512, for the angle;
        Zhao et al. (2023), arXiv:2302.04867, for a corrector without evaluations.
    """

    deterministic = True

    def __init__(self, order: int | None = None, correct: bool | None = True, spread: float = 1.0) -> None:
        require(order is None or 1 <= order <= 4, "order", "a whole number from 1 to 4", order)
        require(spread > 0, "spread", "a positive number", spread)
        self.order, self.correct, self.spread = order, correct, spread

    def tuned(self, steps: int) -> Sampler:
        settled = copy.copy(self)
        settled.order = self.order or (2 if steps <= SECOND else 3)
        settled.correct = steps >= 12 if self.correct is None else self.correct
        return settled

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        known: Turned | None = memory
        (phi, rho), (ahead, rho_ahead), p = self.turn(t), self.turn(s), denoise(z, t)
        slope = (math.cos(phi) * p.eps).sub_(p.x, alpha=math.sin(phi) / self.spread)
        slopes = ((phi, slope), *(known.slopes if known else ()))
        if known is not None and self.correct:
            w = along(known.w, known.phi, phi, slopes)
        else:
            w = z / rho
        slopes = slopes[: self.order or 2]
        return rho_ahead * along(w, phi, ahead, slopes), Turned(w, phi, slopes)

    def turn(self, at: Point) -> tuple[float, float]:
        """(φ, ρ)."""
        signal, sigma = self.spread * at.alpha.item(), at.sigma.item()
        return math.atan2(sigma, signal), math.hypot(signal, sigma)


def along(w: Tensor, first: float, last: float, slopes: tuple[tuple[float, Tensor], ...]) -> Tensor:
    """w at φ = `last` from w at φ = `first`, with dw/dφ the polynomial through `slopes`, (φ, slope) at distinct φ."""
    weights = adams_weights(tuple(phi for phi, _ in slopes), first, last)
    out = w.add(slopes[0][1], alpha=weights[0])
    for weight, (_, slope) in zip(weights[1:], slopes[1:]):
        out.add_(slope, alpha=weight)
    return out


@lru_cache(4096)
def adams_weights(places: tuple[float, ...], first: float, last: float) -> list[float]:
    """∫ ℓ_i(φ) dφ from `first` to `last`, with ℓ_i Lagrange's polynomials on `places`."""
    h, k = last - first, np.arange(len(places))
    powers = ((np.array(places) - first) / h)[None] ** k[:, None]
    weights: list[float] = np.linalg.solve(powers, h / (k + 1)).tolist()
    return weights
