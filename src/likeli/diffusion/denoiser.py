"""From what a network gives to what a sampler or a bound asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from likeli.diffusion.schedule import Point, Schedule
from likeli.errors import InputError, Unsupported, require
from likeli.nn.potential import Potential

Predict = Literal["eps", "x", "score", "v", "flow", "edm"]


@dataclass(frozen=True)
class Prediction:
    """One belief about z = α x + σ ε, in every reading.

    Arguments:
        z: (B, ...) what was observed.
        alpha, sigma: what z was made with, broadcastable to z.
        x, eps: x̂ ≈ E[x|z] and ε̂ = (z − α x̂)/σ; both are kept, since either is lost in float32 at one end of the schedule.
    """

    z: Tensor
    alpha: Tensor
    sigma: Tensor
    x: Tensor
    eps: Tensor

    @property
    def score(self) -> Tensor:
        """∇ log p(z) ≈ −ε̂/σ."""
        return -self.eps / self.sigma

    @property
    def v(self) -> Tensor:
        """α ε̂ − σ x̂."""
        return self.alpha * self.eps - self.sigma * self.x

    @property
    def flow(self) -> Tensor:
        """ε̂ − x̂, the velocity of the straight schedule."""
        return self.eps - self.x

    @classmethod
    def of_x(cls, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From x̂."""
        return cls(z, alpha, sigma, x, (z - alpha * x) / sigma)

    @classmethod
    def of_eps(cls, eps: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From ε̂."""
        return cls(z, alpha, sigma, (z - sigma * eps) / alpha, eps)

    @classmethod
    def of_score(cls, score: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From the score s: ε̂ = −σ s."""
        return cls.of_eps(-sigma * score, z, alpha, sigma)

    @classmethod
    def of_v(cls, v: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From v: x̂ = (α z − σ v)/(α² + σ²), ε̂ = (σ z + α v)/(α² + σ²).

        Source: Salimans & Ho (2022), arXiv:2202.00512, for α² + σ² = 1.
        """
        norm = alpha * alpha + sigma * sigma
        return cls(z, alpha, sigma, (alpha * z - sigma * v) / norm, (sigma * z + alpha * v) / norm)

    @classmethod
    def of_flow(cls, u: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From u = ε − x: x̂ = (z − σ u)/(α + σ), ε̂ = (z + α u)/(α + σ)."""
        return cls(z, alpha, sigma, (z - sigma * u) / (alpha + sigma), (z + alpha * u) / (alpha + sigma))

    @classmethod
    def of_edm(cls, f: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, data: float = 0.5) -> Prediction:
        """From EDM's F: x̂ = c_skip z/α + c_out F with σ̃ = σ/α, c_skip = s²/(σ̃² + s²), c_out = σ̃ s/√(σ̃² + s²).

        Source: Karras et al. (2022), arXiv:2206.00364, table 1, s = σ_data.
        """
        norm = sigma * sigma + (alpha * data) ** 2
        x = (alpha * data * data * z + sigma * data * norm.sqrt() * f) / norm
        eps = (sigma * z - alpha * data * norm.sqrt() * f) / norm
        return cls(z, alpha, sigma, x, eps)


@dataclass(frozen=True)
class Denoise:
    """What samplers, guidance and restoration work on: (z, point) → Prediction, the condition already bound.

    Arguments:
        schedule: of `function`.
        function: z (B, ...) at one point, or at one a row → the prediction.
        log_ratio: log of p(z_s|z_t)'s variance over q's, at (s, t); an ancestral sampler follows it.
        errs_at_small_noise: whether ε̂ errs there about as the denoiser of N(0, I) does, whose error is known in closed form.
    """

    schedule: Schedule
    function: Callable[[Tensor, Point], Prediction]
    log_ratio: Callable[[Point, Point], Tensor] = lambda s, t: torch.zeros_like(t.t)
    errs_at_small_noise: bool = False

    def __call__(self, z: Tensor, at: Point) -> Prediction:
        return self.function(z, at)


def clipped(denoise: Denoise, least: Tensor, largest: Tensor) -> Denoise:
    """The same belief with x̂ held between two bounds, and ε̂ = (z − α x̂)/σ to fit.

    Not the chain that a bound was computed for: samples drawn with it are another model's.

    Arguments:
        least, largest: broadcastable to x̂, in model units.

    Source: as `clip_denoised` in the code of Ho et al. (2020), arXiv:2006.11239.
    """

    def function(z: Tensor, at: Point) -> Prediction:
        p = denoise(z, at)
        x = torch.minimum(torch.maximum(p.x, least.to(p.x)), largest.to(p.x))
        return replace(p, x=x, eps=torch.where(x == p.x, p.eps, (z - p.alpha * x) / p.sigma))

    return replace(denoise, function=function, errs_at_small_noise=False)


def of_seen(denoise: Denoise, u: Tensor, eps: Tensor) -> tuple[Denoise, Tensor, Tensor]:
    """The same with x, ε, x̂ and ε̂ of 0 in cells of u (B, ...) that are missing: the chain is that of the others alone."""
    gone = u.isnan()

    def function(z: Tensor, at: Point) -> Prediction:
        return without(denoise(z, at), gone)

    seen = replace(denoise, function=function, errs_at_small_noise=False)
    return seen, u.masked_fill(gone, 0), eps.masked_fill(gone, 0)


def without(p: Prediction, gone: Tensor) -> Prediction:
    """A prediction with x̂ and ε̂ of 0 in some cells."""
    return replace(p, x=p.x.masked_fill(gone, 0), eps=p.eps.masked_fill(gone, 0))


class Conditional(nn.Module, ABC):
    """Anything that turns (z, point, y) into a Prediction.

    `divides_by_alpha` says whether x̂ is had from ε̂, so that the network's error in it grows as σ/α towards the noise; `snaps`
    whether x̂ jumps from symbol to symbol where the noise is about their distance.

    Arguments:
        schedule: t → (α, σ).
        takes_null: whether y may be missing, so that the prediction is that of p(x).
    """

    errs_at_small_noise: ClassVar[bool] = False
    divides_by_alpha: bool = False
    snaps: ClassVar[bool] = False

    def __init__(self, schedule: Schedule, takes_null: bool = False) -> None:
        super().__init__()
        self.schedule, self.takes_null = schedule, takes_null

    @abstractmethod
    def forward(self, z: Tensor, at: Point, y: Tensor | None = None) -> Prediction:
        """z (B, ...), a point (one, or one a row) and the condition → the prediction."""

    def given(self, y: Tensor | None) -> Denoise:
        """With the condition bound."""
        return Denoise(self.schedule, lambda z, at: self(z, at, y), errs_at_small_noise=self.errs_at_small_noise)


class Denoiser(Conditional):
    """A network read as one of ε, x, score, v, flow velocity or EDM's F.

    The network sees z/√(s² α² + σ²), s the spread of the data, so of about unit scale under any schedule, and γ, so that a
    trained one may be run on another schedule.

    Arguments:
        net: (z (B, ...), γ (B,), y) → a tensor of z's shape.
        schedule: t → (α, σ).
        predict: what the network's output stands for.  A score is given as σ·score, whose scale does not run away.
        data: standard deviation of the data in model units.
        takes_null: whether the network was trained without y at times.

    Raises:
        InputError: an unknown reading; in use, a network whose output is not of z's shape.
    """

    errs_at_small_noise = True

    def __init__(
        self, net: nn.Module, schedule: Schedule, predict: Predict = "eps", data: float = 1.0, takes_null: bool = False
    ) -> None:
        super().__init__(schedule, takes_null)
        require(predict in get_args(Predict), "predict", f"one of {', '.join(get_args(Predict))}", predict)
        require(data > 0, "data", "a positive number", data)
        self.net, self.predict, self.data, self.divides_by_alpha = net, predict, data, predict in ("eps", "score")

    def forward(self, z: Tensor, at: Point, y: Tensor | None = None) -> Prediction:
        gamma, at = level_of(at, z), at.like(z)
        out = self.net(z / torch.hypot(self.data * at.alpha, at.sigma), gamma, y)
        if out.shape != z.shape:
            raise InputError(f"net: expected an output of z's shape {tuple(z.shape)}, got {tuple(out.shape)}")
        return self._read(out, z, at)

    def _read(self, out: Tensor, z: Tensor, at: Point) -> Prediction:
        if self.predict == "edm":
            return Prediction.of_edm(out, z, at.alpha, at.sigma, self.data)
        if self.predict == "score":
            out = out / at.sigma
        return getattr(Prediction, f"of_{self.predict}")(out, z, at.alpha, at.sigma)

    def energy(self, z: Tensor, at: Point, y: Tensor | None = None) -> Tensor:
        """E with score = −∇E at one noise level, up to a constant, (B, ...) → (B,).

        ε̂ = a z + b ∇Φ(cz) gives E = (½ a ‖z‖² + b Φ(cz)/c)/σ.

        Raises:
            Unsupported: the network is not the gradient of a number.
        """
        if not isinstance(self.net, Potential):
            raise Unsupported("energy: the score is that of no energy; fit with --model.backbone.energy true")
        gamma, at = level_of(at, z), at.like(z)
        scale, one = torch.hypot(self.data * at.alpha, at.sigma), torch.ones_like(z)
        own, slope = self._read(0 * one, one, at).eps, self._read(one, 0 * one, at).eps
        quadratic = (own * z.square() / at.sigma).flatten(1).sum(1) / 2
        return quadratic + self.net.potential(z / scale, gamma, y) * (slope * scale / at.sigma * one).flatten(1)[:, 0]


def rows(value: Tensor, z: Tensor) -> Tensor:
    """One number, or one a row, as (B,) in z's type."""
    return value.to(z).expand(len(z))


def level_of(at: Point, z: Tensor) -> Tensor:
    """γ as a network is told it, (B,): where each cell has its own, their mean, which says t as well."""
    cells = tuple(range(at.t.ndim, at.gamma.ndim))
    return rows(at.gamma.mean(cells) if cells else at.gamma, z)
