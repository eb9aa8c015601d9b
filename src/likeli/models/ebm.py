"""Energy-based models: a network tilts a base density, E(u) = −log q(u) + g(u)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.config import describe, lookup
from likeli.contract import ByEM
from likeli.energy.annealing import LogZ
from likeli.energy.score_matching import denoising, implicit, sliced
from likeli.energy.unnormalised import Contrast, EnergyBased
from likeli.errors import require
from likeli.gaussian.missing import column_moments
from likeli.models.density import DensityModel
from likeli.nn.conv import ConvEncoder, image_shape, usual_stages
from likeli.nn.mlp import MLP
from likeli.probability.mcmc import flip_step, hmc_step
from likeli.random import Ambient, Noise, seeded
from likeli.spaces import Space

Objective = Literal["contrastive", "noise_contrastive", "denoising", "sliced", "implicit"]
PACES = 21  # temperatures at which a step size is found
FIRST = math.log(0.1)  # log of the first step size that is tried
TRIALS = 12  # moves at each of them
WANTED = 0.8  # acceptance of Hamiltonian moves; the optimum is flat, 0.65 to 0.9 (Beskos et al., 2013)
NARROWEST = 1e-2  # standard deviation of a training column, in model units


class EBM(EnergyBased):
    """p(u) = q(u) exp(−g(u))/Z with g a network and q normals, or bits, of the training rows' marginals, or a model.

    The base keeps the density from escaping: g grows no faster than linearly, −log q as a square.  It is also where the path
    starts, f_β = q exp(−βg) with log Z_0 = 0, and what noise-contrastive estimation tells the data from.

    Chains move by Hamiltonian steps, whose sizes are found at 21 temperatures so that four of five are accepted, or flip bits
    that the gradient proposes.

    Arguments:
        space: reals; pixels, counts and tables by their continuous form; or bits.
        hidden: widths of the perceptron, or channels of the convolutions; chosen with the network if not given.
        network: mlp or conv; conv for images of 64 cells or more if not given.
        objective: contrastive (divergence), noise_contrastive (a classifier of data against draws of q), or for continuous
            forms score matching, denoising, sliced or implicit; denoising, and contrastive for bits, if not given.
        contrast: of contrastive divergence; 2,000 kept states, 5 moves a step and 5 % restarts if not given.
        sigma: standard deviation of the noise of denoising, in model units: what is learned is the density of rows with it.
        leapfrogs: steps of one Hamiltonian move; with 1 it is MALA.
        noise: q: 1 for the marginals, more for a Gaussian mixture of so many components that is fitted before the first step,
            or, in Python, a density model of the same space that has been fitted, and stays as it is.

    Raises:
        InputError: a number outside its range, score matching of bits, or noise of another space.
        Unsupported: cells without a continuous form that are not bits.

    Source: LeCun et al. (2006), A tutorial on energy-based learning; Gutmann & Hyvärinen (2010), AISTATS; and those of
    `energy/score_matching.py`, `energy/unnormalised.py` and `probability/mcmc.py`.
    """

    calls: ClassVar[str] = "steps * (leapfrogs + 1)"
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "ema": 0.995, "clip": 10.0}
    mean: Tensor
    scale: Tensor
    paces: Tensor

    def __init__(
        self,
        space: Space,
        hidden: tuple[int, ...] | None = None,
        network: Literal["mlp", "conv"] | None = None,
        objective: Objective | None = None,
        contrast: Contrast | None = None,
        sigma: float = 0.1,
        leapfrogs: int = 5,
        noise: DensityModel | int = 1,
    ) -> None:
        super().__init__(space, contrast or Contrast(moves=5, buffer=2000, restart=0.05))
        self.hidden, self.network, self.objective = None if hidden is None else tuple(hidden), network, objective
        self.sigma, self.leapfrogs = sigma, leapfrogs
        require(network in (None, "mlp", "conv"), "network", "mlp or conv", network)
        require(hidden is None or (len(hidden) > 0 and min(hidden) >= 1), "hidden", "widths of at least 1", hidden)
        require(sigma > 0, "sigma", "a positive number", sigma)
        require(1 <= leapfrogs <= 1000, "leapfrogs", "a whole number from 1 to 1000", leapfrogs)
        self.__dict__["noise"] = noise  # a model stands among the parts as q
        self.target = objective or ("contrastive" if self.bits else "denoising")
        matching = self.target not in ("contrastive", "noise_contrastive")
        require(not (matching and self.bits), "objective", "contrastive or noise_contrastive for bits", objective)
        if self.bits:
            self.calls = f"steps * {2 * -(-space.dimensions // 4)}"  # type: ignore[misc]
        if self.target != "contrastive":
            self.strategy = "sgd"  # type: ignore[misc]
        picture = len(space.shape) > 1 and space.dimensions >= 64
        if network == "conv" or (network is None and picture):
            image_shape(space.shape)
            self.g: ConvEncoder | MLP = ConvEncoder(space.shape, 0, 1, self.hidden or usual_stages(space.shape), 0.0)
        else:
            self.g = MLP(space.dimensions, 1, self.hidden or (128, 128))
        last = self.g.out if isinstance(self.g, ConvEncoder) else self.g[-1]
        assert isinstance(last, nn.Linear)
        if self.target != "noise_contrastive":  # the others do not see a constant, which log Z takes up
            nn.init.zeros_(last.bias).requires_grad_(False)
        self.q = self._base_of(noise)  # after g, whose type of numbers is the model's
        self.register_buffer("mean", torch.full(space.shape, 0.5 if self.bits else 0.0))
        self.register_buffer("scale", torch.ones(space.shape))
        self.register_buffer("paces", torch.zeros(PACES))

    def _base_of(self, noise: DensityModel | int) -> DensityModel | None:
        """q as a model; None for the marginals."""
        if isinstance(noise, int):
            require(1 <= noise <= 10_000, "noise", "a whole number from 1 to 10,000, or a density model", noise)
            if noise == 1:
                return None
            noise = lookup("gmm", DensityModel)(self.space, components=noise)  # type: ignore[type-abstract, call-arg]
        require(not self.bits, "noise", "1 for bits, whose base is their marginals", noise)
        same = noise.condition is None and describe(noise.space) == describe(self.space)
        require(same, "noise", f"a density model of {self.space.describe_shape()} without a condition", noise.kind())
        return noise.requires_grad_(False)

    # --- the path -------------------------------------------------------------------------------------------------------

    def start(self, x: Tensor) -> None:
        """Frequencies of bits, or means and standard deviations, smoothed; and the mixture, if q is to be one."""
        self.paces.zero_()
        if isinstance(self.noise, int) and isinstance(self.q, ByEM):
            for _ in self.q.em(x):
                pass
        u = self.states(x, Ambient(x))[0].flatten(1).double()
        if self.bits:
            self.mean.copy_(((u.sum(0) + 0.5) / (len(u) + 1)).reshape(self.mean.shape))
            return
        mean, variance = column_moments(u)
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.scale.copy_(variance.sqrt().clamp(min=NARROWEST).reshape(self.mean.shape))

    @property
    def log_z0(self) -> Tensor:
        """The base is normalised."""
        return torch.zeros((), dtype=torch.float64)

    def log_q(self, u: Tensor) -> Tensor:
        """log q(u), (B, *shape) → (B,)."""
        if self.bits:
            return (u * self.mean.log() + (1 - u) * (1 - self.mean).log()).flatten(1).sum(1)
        if self.q is not None:
            return self.q.log_density(u).to(u)
        t = (u - self.mean) / self.scale
        return (-0.5 * (t.square() + math.log(2 * math.pi)) - self.scale.log()).flatten(1).sum(1)

    def tilt(self, u: Tensor) -> Tensor:
        """g(u), (B, *shape) → (B,)."""
        t = (2 * u - 1 if self.bits else (u - self.mean) / self.scale)
        value = self.g(t, t.new_zeros(len(t), 0)) if isinstance(self.g, ConvEncoder) else self.g(t.flatten(1))
        found: Tensor = value[:, 0]
        return found

    def log_f(self, u: Tensor, beta: float = 1.0) -> Tensor:
        """log q(u) − β g(u)."""
        return self.log_q(u) - beta * self.tilt(u) if beta else self.log_q(u)

    def base(self, noise: Noise) -> Tensor:
        """Draws of q."""
        if self.bits:
            return (noise.uniform(*self.space.shape).to(self.mean) < self.mean).to(self.mean)
        if self.q is not None:
            return self.q.draw_density(noise).to(self.mean)
        return self.mean + self.scale * noise.normal(*self.space.shape).to(self.mean)

    def move(self, u: Tensor, beta: float, noise: Noise) -> Tensor:
        """A Hamiltonian move in units of the base's scale, or one proposal of a flip for every four bits."""
        return self._tried(u, beta, noise, self._pace(beta))[0]

    def _tried(self, u: Tensor, beta: float, noise: Noise, epsilon: float) -> tuple[Tensor, Tensor]:
        """`move` with step size ε, and the share of it that was accepted, (B,)."""
        if not self.bits:
            t, accepted = hmc_step(lambda t: self._standard(t, beta), self._in_scale(u), epsilon, self.leapfrogs, noise)
            return self.mean + self.scale * t, accepted.to(u)
        rate, flips = torch.zeros_like(u.flatten(1)[:, 0]), -(-self.space.dimensions // 4)
        for _ in range(flips):
            u, accepted = flip_step(lambda z: self.log_f(z, beta), u, noise)
            rate = rate + accepted.to(u) / flips
        return u, rate

    def _pace(self, beta: float) -> float:
        """ε at β, between those that `tune` has found."""
        place = beta * (PACES - 1)
        below = min(int(place), PACES - 2)
        low, high = self.paces[below : below + 2].tolist()
        return math.exp(low + (place - below) * (high - low))

    def _tuned(self) -> None:
        if not bool(self.paces.any()):
            with seeded(0, "tune"):
                self.tune()

    def draw(self, noise: Noise, y: Tensor | None = None, *, steps: int = 200) -> Tensor:
        """The state of a chain after `steps` moves: from the base along the path for half of them, then at β = 1.

        Arguments:
            steps: moves; the more, the closer to p.
        """
        self._tuned()
        return super().draw(noise, y, steps=steps)

    @torch.no_grad()
    def tune(self, rows: int = 64) -> None:
        """Find step sizes along the path: log ε ← log ε + ½ (acceptance − 0.8), on chains that walk it once."""
        if self.bits:
            return
        noise = Ambient(self.paces, rows)
        u, pace = self.base(noise), FIRST
        longest = math.log(math.pi / 2 / self.leapfrogs)  # a quarter of the base's period: after a whole one a move is back
        for j in range(PACES):
            for _ in range(TRIALS):
                u, accepted = self._tried(u, j / (PACES - 1), noise, math.exp(pace))
                pace = min(pace + 0.5 * (accepted.mean().item() - WANTED), longest)
            self.paces[j] = pace

    def annealed(self, betas: Tensor, chains: int, mixing: int) -> LogZ:
        """log Z from both ends; the step sizes stand still on the way."""
        self._tuned()
        return super().annealed(betas, chains, mixing)

    # --- training -------------------------------------------------------------------------------------------------------

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The objective; where it is contrastive, what tells how far it has come: denoising, or for bits

            D · softplus(log f(v with bit i flipped) − log f(v)), i drawn: the pseudo-likelihood, without bias.
        """
        u = self.states(x, Ambient(x))[0]
        noise = Ambient(u)
        if self.target == "noise_contrastive":
            return F.softplus(self.tilt(u)) + F.softplus(-self.tilt(self.base(noise)))
        if self.target == "implicit":
            return implicit(self._standard, self._in_scale(u))
        if self.target == "sliced":
            return sliced(self._standard, self._in_scale(u), noise)
        if not self.bits:
            return denoising(self._standard, self._in_scale(u), self.sigma, noise)
        cells = self.space.dimensions
        i = (noise.uniform(1) * cells).long().clamp(max=cells - 1).to(u.device)
        flat = u.flatten(1)
        flipped = flat.scatter(1, i, 1 - flat.gather(1, i)).reshape(u.shape)
        return cells * F.softplus(self.log_f(flipped) - self.log_f(u))

    def _standard(self, t: Tensor, beta: float = 1.0) -> Tensor:
        """log f in units of the base's scale, in which score matching weighs cells alike."""
        return self.log_f(self.mean + self.scale * t, beta)

    def _in_scale(self, u: Tensor) -> Tensor:
        return (u - self.mean) / self.scale

    def explore(self, chains: int = 100, steps: int = 500, *, burn: int = 200, seed: int = 0) -> tuple[Tensor, float]:
        """States of chains at β = 1, (steps, chains, *shape), after `burn` moves from the base's path, and their acceptance."""
        with seeded(seed, "explore"), torch.no_grad():
            self._tuned()
            noise = Ambient(self.mean, chains)
            u, states, rates = self.base(noise), [], []
            for k in range(burn):
                u = self.move(u, min(1.0, 2 * (k + 1) / burn), noise)
            for _ in range(steps):
                u, accepted = self._tried(u, 1.0, noise, self._pace(1.0))
                states.append(u)
                rates.append(accepted.mean())
        return torch.stack(states), torch.stack(rates).mean().item()
