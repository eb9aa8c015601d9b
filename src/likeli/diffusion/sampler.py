"""Samplers: from noise at t = 1 to data at t = 0, one pure step at a time.

A sampler needs only something that denoises (`Denoise`), a falling grid of times and a source of noise; it keeps nothing
between calls but the `memory` that it is handed back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from likeli.config import Configurable, lookup
from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.schedule import Point, bridge
from likeli.diffusion.times import check_times
from likeli.errors import Diverged, require
from likeli.random import Ambient, Noise


class State(NamedTuple):
    """Where a run or a chain stands: a point of the schedule, and z there."""

    at: Point
    z: Tensor


class Sampler(Configurable, ABC):
    """One way to go from z_t to z_s, s < t.

    A deterministic one draws no noise, and may be run from the data to the noise as well (`invert`).
    """

    deterministic: bool = False

    def tuned(self, steps: int) -> Sampler:
        """This sampler with everything settled that depends on how many steps a run takes."""
        return self

    @abstractmethod
    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        """z_s and what the next step should remember.

        Arguments:
            denoise: (z, point) → Prediction.
            z: (B, ...) at t.
            t, s: from and to; s is nearer to the data.
            noise: where random numbers come from.
            memory: what the last step returned; None at the first.
        """


class Ancestral(Sampler):
    """z_s ~ q(z_s|z_t, x = x̂(z_t)), with the model's own variance where it has one: the generative chain itself.

    Source: Ho et al. (2020), arXiv:2006.11239, algorithm 2 with σ² = β̃.
    """

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        a, b, std = bridge(s, t)
        std = std * (denoise.log_ratio(s, t) / 2).exp()
        return a * z + b * denoise(z, t).x + std * noise.normal(*z.shape[1:]).to(z), None


class DDIM(Sampler):
    """z_s = α_s x̂ + σ_s √(1 − η² c) ε̂ + η σ_s √c ξ, with c = −expm1(γ_s − γ_t).

    η = 1 has the ancestral sampler's distribution at every step, η = 0 is Euler's method in σ/α on the probability-flow ODE.

    Arguments:
        eta: η in [0, 1].

    Source: Song et al. (2020), arXiv:2010.02502, eq. 12.
    """

    def __init__(self, eta: float = 0.0) -> None:
        require(0 <= eta <= 1, "eta", "a number from 0 to 1", eta)
        self.eta, self.deterministic = eta, eta == 0

    def step(self, denoise: Denoise, z: Tensor, t: Point, s: Point, noise: Noise, memory: Any) -> tuple[Tensor, Any]:
        alpha, sigma, share = s.alpha.item(), s.sigma.item(), -self.eta**2 * math.expm1(s.gamma.item() - t.gamma.item())
        p = denoise(z, t)
        out = (alpha * p.x).add_(p.eps, alpha=sigma * math.sqrt(1 - share))
        if self.eta:
            out.add_(noise.normal(*z.shape[1:]).to(z), alpha=sigma * math.sqrt(share))
        return out, None


def trajectory(
    denoise: Denoise, z: Tensor, times: Tensor, noise: Noise, sampler: Sampler | str = "ancestral"
) -> Iterator[State]:
    """Every state of a run, as (point, z) from times[0] to times[-1]; each is computed when it is asked for.

    Arguments:
        denoise: (z, point) → Prediction.
        z: (B, ...) at times[0].
        times: falling, in [0, 1].
        noise: where random numbers come from; `Replay` serves given ones.
        sampler: a sampler, or the name of one.

    Raises:
        InputError: a grid that does not fall, an unknown sampler (before the first step).
        Diverged: z is not finite; the step is named.
    """
    sampler = as_sampler(sampler)
    return _run(denoise, z, _places(denoise, z, check_times(times)), noise, sampler)


def invert(
    denoise: Denoise, z: Tensor, times: Tensor, sampler: Sampler | str = "multistep"
) -> Iterator[State]:
    """The noise that a deterministic sampler would make z from: every state from times[0] up to times[-1].

    Arguments:
        denoise: (z, point) → Prediction.
        z: (B, ...) at times[0], next to the data.
        times: rising, in [0, 1].
        sampler: a deterministic sampler, or the name of one.

    Raises:
        InputError: a grid that does not rise, a sampler that draws noise.
    """
    sampler = as_sampler(sampler)
    require(sampler.deterministic, "sampler", "a deterministic one, since noise cannot be undone", sampler.kind())
    return _run(denoise, z, _places(denoise, z, check_times(torch.as_tensor(times).flip(0)).flip(0)), Ambient(z), sampler)


def _places(denoise: Denoise, z: Tensor, times: Tensor) -> list[Point]:
    """Every point of a run, on the CPU, since samplers read them as plain numbers."""
    columns = (v.detach().cpu().unbind() for v in denoise.schedule.at(times.to(z.device)))
    return [Point(*at) for at in zip(*columns)]


def _run(
    denoise: Denoise, z: Tensor, points: list[Point], noise: Noise, sampler: Sampler
) -> Iterator[State]:
    memory, sampler = None, sampler.tuned(len(points) - 1)
    yield State(points[0], z)
    for i, (t, s) in enumerate(pairwise(points)):
        z, memory = sampler.step(denoise, z, t, s, noise, memory)
        if not math.isfinite(z.sum().item()):
            raise Diverged(f"sampling: not finite at step {i + 1} of {len(points) - 1} (t = {t.t:.4g}, log SNR {-t.gamma:.3g})")
        yield State(s, z)


def as_sampler(sampler: Sampler | str) -> Sampler:
    """A sampler, or the one of that name with its default arguments.

    Raises:
        InputError: unknown name.
    """
    return sampler if isinstance(sampler, Sampler) else lookup(sampler, Sampler)()  # type: ignore[type-abstract]
