"""How much signal and how much noise there is at time t: z_t = α_t x + σ_t ε, with t = 0 the data and t = 1 the noise.

Everything else follows from (α, σ): the log noise-to-signal ratio γ = log σ²/α², the forward process

    dz = f z dt + g dw,   f = d log α / dt,   g² = dσ²/dt − 2 f σ² = σ² dγ/dt

and the Gaussian transitions.  Schedules compute in the type of t: give float64 times, since differences of γ between the
neighbours of a fine grid are lost in float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from likeli.config import Configurable
from likeli.errors import InputError, require
from likeli.probability.draw import diagonal_gaussian


class Point(NamedTuple):
    """One place on a schedule, or one for each row; α, σ and γ may have a value for each cell."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    gamma: Tensor

    def like(self, z: Tensor) -> Point:
        """Ready to multiply z (B, ...), in z's type: one place a row becomes (B, 1, ...), cells without rows (1, ...)."""
        return Point(*(self._beside(v.to(z), z.ndim) for v in self))

    def of(self, i: int | Tensor) -> Point:
        """One of several places, or several of them: every number taken at i."""
        return Point(*(v[i] for v in self))

    def _beside(self, v: Tensor, ndim: int) -> Tensor:
        if v.ndim > self.t.ndim:  # a value for each cell
            return v if self.t.ndim else v[None]
        return v.reshape(-1, *[1] * (ndim - 1)) if v.ndim else v


class Schedule(Configurable, nn.Module, ABC):
    """t → (α_t, σ_t), with log SNR = −γ falling from t = 0 to t = 1."""

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t) of t in [0, 1], any shape, in t's type."""

    def gamma(self, t: Tensor) -> Tensor:
        """log σ_t²/α_t² = −log SNR."""
        alpha, sigma = self(t)
        return 2 * (sigma.log() - alpha.log())

    def at(self, t: Tensor | float) -> Point:
        """The point at t, computed in float64.

        Raises:
            InputError: t outside [0, 1] (looked at on the CPU alone, where looking costs nothing).
        """
        t = torch.as_tensor(t, dtype=torch.float64)
        if t.device.type == "cpu" and not bool(((t >= 0) & (t <= 1)).all()):
            raise InputError(f"t: expected times in [0, 1], got {t[~((t >= 0) & (t <= 1))].flatten()[:8].tolist()}")
        alpha, sigma = self(t)
        return Point(t, alpha, sigma, self.gamma(t))

    def levels(self, n: int) -> Point:
        """n places evenly in t from 0 to 1: the levels of a chain."""
        return self.at(torch.linspace(0, 1, n, dtype=torch.float64))

    def gamma_ends(self) -> tuple[Tensor, Tensor]:
        """γ at t = 0 and at t = 1."""
        first, last = self.at(0.0), self.at(1.0)
        return first.gamma, last.gamma

    def rate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """γ and dγ/dt at t."""
        return self._slope(self.gamma, t)

    def drift(self, t: Tensor) -> Tensor:
        """f(t) = d log α / dt."""
        return self._slope(lambda t: self(t)[0].log(), t)[1]

    def diffusion(self, t: Tensor) -> Tensor:
        """g²(t) = dσ²/dt − 2 f σ² = σ² dγ/dt."""
        return self(t)[1].square() * self.rate(t)[1]

    def velocity(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(dα/dt, dσ/dt)."""
        return self._slope(lambda t: self(t)[0], t)[1], self._slope(lambda t: self(t)[1], t)[1]

    def _slope(self, function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        with torch.enable_grad():  # reverse mode: a tenth of the time of forward mode for the few numbers there are
            t = t.detach().requires_grad_()
            value = function(t)
            slope = torch.autograd.grad(value.sum(), t, create_graph=trained)[0]
        return (value, slope) if trained else (value.detach(), slope)

    def prior_std(self) -> Tensor:
        """√(α² + σ²) at t = 1: the spread there of data of unit variance, which the generative process starts from."""
        end = self.at(1.0)
        return torch.hypot(end.alpha, end.sigma)

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: Any, zero_terminal_snr: bool = False) -> Schedule:
        """The chain of a trained model from its table ᾱ_1 … ᾱ_T, falling: see `Tabulated`, which has more ways."""
        from likeli.diffusion.tabulated import Tabulated

        return Tabulated.from_alphas_cumprod(alphas_cumprod, zero_terminal_snr)

    def time_of(self, gamma: Tensor) -> Tensor:
        """The inverse of `gamma`, by bisection in float64; values beyond the ends give the ends."""
        gamma = torch.as_tensor(gamma, dtype=torch.float64)
        low, high = torch.zeros_like(gamma), torch.ones_like(gamma)
        with torch.no_grad():
            for _ in range(48):
                middle = (low + high) / 2
                below = self.gamma(middle) < gamma
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


class VariancePreserving(Schedule):
    """α² + σ² = 1: α² = sigmoid(−γ), σ² = sigmoid(γ), accurate to the last digits for any γ; a leaf gives γ(t).

    Source: Kingma et al. (2021), arXiv:2107.00630.
    """

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor: ...

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        gamma = self.gamma(t)
        return (-softplus(gamma) / 2).exp(), (-softplus(-gamma) / 2).exp()


class LogLinear(VariancePreserving):
    """γ(t) = γ₀ + (γ₁ − γ₀) t.

    Arguments:
        gamma_min, gamma_max: γ at t = 0 and t = 1.
    """

    def __init__(self, gamma_min: float = -13.3, gamma_max: float = 5.0) -> None:
        super().__init__()
        self.gamma_min, self.gamma_max = check_ends(gamma_min, gamma_max)

    def gamma(self, t: Tensor) -> Tensor:
        return self.gamma_min + (self.gamma_max - self.gamma_min) * t


class Cosine(VariancePreserving):
    """α = cos(πτ/2), σ = sin(πτ/2), with τ running over the part of [0, 1] between the two given γ.

    Arguments:
        gamma_min, gamma_max: γ at t = 0 and t = 1.

    Source: Nichol & Dhariwal (2021), arXiv:2102.09672; truncated as in Kingma & Gao (2023), arXiv:2303.00848.
    """

    def __init__(self, gamma_min: float = -13.3, gamma_max: float = 10.0) -> None:
        super().__init__()
        self.gamma_min, self.gamma_max = check_ends(gamma_min, gamma_max)

    def gamma(self, t: Tensor) -> Tensor:
        first, last = (math.atan(math.exp(g / 2)) for g in (self.gamma_min, self.gamma_max))
        return 2 * (first + (last - first) * t).tan().log()


class Sigmoid(VariancePreserving):
    """α² falls from its first to its last value along a logistic curve.

    Arguments:
        gamma_min, gamma_max: γ at t = 0 and t = 1.
        start, end: the part of the logistic curve that is used.
        tau: its temperature.

    Source: Jabri et al. (2022), arXiv:2212.11972.
    """

    def __init__(
        self, gamma_min: float = -13.3, gamma_max: float = 10.0, start: float = -3.0, end: float = 3.0, tau: float = 1.0
    ) -> None:
        super().__init__()
        self.gamma_min, self.gamma_max = check_ends(gamma_min, gamma_max)
        require(end > start, "end", "more than start", end)
        require(tau > 0, "tau", "a positive number", tau)
        require(max(abs(start), abs(end)) <= 80 * tau, "tau", "start and end within 80 times it, in float32", tau)
        self.start, self.end, self.tau = start, end, tau

    def gamma(self, t: Tensor) -> Tensor:
        first, last, way = self.start / self.tau, self.end / self.tau, (self.end - self.start) / self.tau
        # sigmoid b − sigmoid a = sinh((b − a)/2) / (2 cosh(a/2) cosh(b/2)), so that no small share is lost in a difference
        gone = (way * t / 2).sinh() / math.cosh(first / 2)
        left = (way * (1 - t) / 2).sinh() / math.cosh(last / 2)
        signal_0, signal_1 = _logistic(-self.gamma_min), _logistic(-self.gamma_max)
        noise_0, noise_1 = _logistic(self.gamma_min), _logistic(self.gamma_max)
        return (noise_0 * left + noise_1 * gone).log() - (signal_0 * left + signal_1 * gone).log()


class LinearBeta(VariancePreserving):
    """dz = −½β z dt + √β dw with β(t) = β₀ + (β₁ − β₀) t: α² = exp(−B), σ² = −expm1(−B), B = ∫β.

    Arguments:
        beta_min, beta_max: β₀ and β₁; equal for a constant rate.
        first: the process time that t = 0 stands for, above 0 so that γ is finite.

    Source: Song et al. (2020), arXiv:2011.13456, appendix B.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, first: float = 1e-5) -> None:
        super().__init__()
        self.beta_min, self.beta_max, self.first = _check_betas(beta_min, beta_max, first)

    def gamma(self, t: Tensor) -> Tensor:
        return _integral(self, t).expm1().log()


class SubVP(Schedule):
    """α = exp(−B/2), σ = −expm1(−B): the variance-preserving drift with a noise that never exceeds its.

    Arguments:
        beta_min, beta_max, first: as in `LinearBeta`.

    Source: Song et al. (2020), arXiv:2011.13456, appendix B.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, first: float = 1e-3) -> None:
        super().__init__()
        self.beta_min, self.beta_max, self.first = _check_betas(beta_min, beta_max, first)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        integral = _integral(self, t)
        return (-integral / 2).exp(), -(-integral).expm1()


class VarianceExploding(Schedule):
    """α = 1, σ = σ₀ (σ₁/σ₀)^t.

    Arguments:
        sigma_min, sigma_max: σ at t = 0 and t = 1, in model units (data of about unit variance).

    Source: Song et al. (2020), arXiv:2011.13456, appendix C.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max = _check_sigmas(sigma_min, sigma_max)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 + 0 * t, (math.log(self.sigma_min) + math.log(self.sigma_max / self.sigma_min) * t).exp()


class Karras(Schedule):
    """α = 1, σ^(1/ρ) linear in t: a grid uniform in t is the grid of EDM.

    Arguments:
        sigma_min, sigma_max: σ at t = 0 and t = 1, in model units.
        rho: 7 in the paper; larger puts more of the grid at small noise.

    Source: Karras et al. (2022), arXiv:2206.00364, eq. 5.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max = _check_sigmas(sigma_min, sigma_max)
        require(rho > 0, "rho", "a positive number", rho)
        self.rho = rho

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return 1 + 0 * t, (first + (last - first) * t) ** self.rho


class Straight(Schedule):
    """α = 1 − t, σ = t, kept a little away from both ends so that γ is finite: flow matching, rectified flow.

    Arguments:
        least: the smallest σ, at t = 0.
        end: the smallest α, at t = 1; as `least` if not given.

    Source: Lipman et al. (2022), arXiv:2210.02747; Liu et al. (2022), arXiv:2209.03003.
    """

    def __init__(self, least: float = 1e-3, end: float | None = None) -> None:
        super().__init__()
        require(0 < least < 0.5, "least", "a number between 0 and 0.5", least)
        require(end is None or 0 < end < 0.5, "end", "a number between 0 and 0.5", end)
        self.least, self.end = least, end

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        way = 1 - self.least - (self.least if self.end is None else self.end)
        return 1 - self.least - way * t, self.least + way * t


class Betas(VariancePreserving):
    """The T-step chain of DDPM: ᾱ_i = Π_{j≤i} (1 − β_j) at t = (i − 1)/(T − 1), γ linear between.

    Arguments:
        steps: T.
        curve: whether β or √β runs evenly from `beta_min` to `beta_max`.
        beta_min, beta_max: β_1 and β_T.

    Source: Ho et al. (2020), arXiv:2006.11239.
    """

    gammas: Tensor

    def __init__(
        self,
        steps: int = 1000,
        curve: Literal["linear", "square_root"] = "linear",
        beta_min: float = 1e-4,
        beta_max: float = 0.02,
    ) -> None:
        super().__init__()
        require(steps >= 2, "steps", "at least 2", steps)
        require(0 < beta_min <= beta_max < 1, "beta_min", "0 < beta_min <= beta_max < 1", (beta_min, beta_max))
        self.steps, self.curve, self.beta_min, self.beta_max = steps, curve, beta_min, beta_max
        power = {"linear": 1, "square_root": 2}[curve]
        first, last = beta_min ** (1 / power), beta_max ** (1 / power)
        betas = torch.linspace(first, last, steps, dtype=torch.float64) ** power
        self.register_buffer("gammas", (-torch.log1p(-betas).cumsum(0)).expm1().log(), persistent=False)

    def gamma(self, t: Tensor) -> Tensor:
        return between(self.gammas, t)


def between(gammas: Tensor, t: Tensor) -> Tensor:
    """The broken line through (T,) values at even times from 0 to 1."""
    place = t * (len(gammas) - 1)
    left = place.detach().floor().clamp(0, len(gammas) - 2).long()
    gammas = gammas.to(t)
    return torch.lerp(gammas[left], gammas[left + 1], place - left)


def terminal(schedule: Schedule, like: Tensor) -> Distribution:
    """p(z_1) = N(0, α_1² + σ_1²): what data of unit variance arrive at."""
    return diagonal_gaussian(torch.zeros_like(like), schedule.prior_std() * torch.ones_like(like))


def kernel(s: Point, t: Point) -> tuple[Tensor, Tensor]:
    """q(z_t|z_s) = N(α_{t|s} z_s, σ²_{t|s}) for s < t: α_{t|s} = α_t/α_s, σ²_{t|s} = σ_t² (1 − e^{γ_s − γ_t})."""
    return t.alpha / s.alpha, t.sigma * (-torch.expm1(s.gamma - t.gamma)).sqrt()


def bridge(s: Point, t: Point) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, std) of q(z_s|z_t, x) = N(a z_t + b x, std²) for s < t.

    With c = −expm1(γ_s − γ_t):  a = (α_t/α_s)(σ_s²/σ_t²),  b = α_s c,  std = σ_s √c.  Nothing cancels, however close s and t.

    Source: Ho et al. (2020), arXiv:2006.11239, eq. 7; the stable form is of Kingma et al. (2021), arXiv:2107.00630, appendix A.
    """
    c = -torch.expm1(s.gamma - t.gamma)
    return (t.alpha / s.alpha) * (s.sigma / t.sigma).square(), s.alpha * c, s.sigma * c.sqrt()


def check_ends(gamma_min: float, gamma_max: float) -> tuple[float, float]:
    """Both ends of γ, refused unless −60 ≤ gamma_min < gamma_max ≤ 60."""
    require(-60 <= gamma_min < gamma_max <= 60, "gamma_min", "-60 <= gamma_min < gamma_max <= 60", (gamma_min, gamma_max))
    return gamma_min, gamma_max


def _check_betas(beta_min: float, beta_max: float, first: float) -> tuple[float, float, float]:
    require(0 < beta_min <= beta_max, "beta_min", "0 < beta_min <= beta_max", (beta_min, beta_max))
    require(0 < first < 0.5, "first", "a number between 0 and 0.5", first)
    return beta_min, beta_max, first


def _check_sigmas(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    require(0 < sigma_min < sigma_max, "sigma_min", "0 < sigma_min < sigma_max", (sigma_min, sigma_max))
    return sigma_min, sigma_max


def _integral(schedule: LinearBeta | SubVP, t: Tensor) -> Tensor:
    process = schedule.first + (1 - schedule.first) * t
    return schedule.beta_min * process + (schedule.beta_max - schedule.beta_min) * process.square() / 2


def process_time(integral: float, beta_min: float = 0.1, beta_max: float = 20.0) -> float:
    """The process time p at which ∫₀^p β = β₀ p + (β₁ − β₀) p²/2 reaches `integral`: what `first` is for a given start."""
    slope = beta_max - beta_min
    return 2 * integral / (beta_min + math.sqrt(beta_min**2 + 2 * slope * integral))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
