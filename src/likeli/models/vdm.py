"""The variational diffusion model: a hierarchy of infinitely many (or T) levels, trained on its own bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from likeli.diffusion.bound import integral, low_discrepancy
from likeli.diffusion.categorical import clean_gamma
from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.gaussian import CHAIN, GaussianDiffusion
from likeli.diffusion.guidance import Guidance
from likeli.diffusion.learned import Monotone, MonotoneByCell
from likeli.diffusion.networks import DenoiserBackbone, make_denoiser
from likeli.diffusion.sampler import Sampler, State, as_sampler
from likeli.diffusion.schedule import Cosine, LogLinear, Schedule
from likeli.diffusion.times import Grid
from likeli.errors import require
from likeli.random import Noise
from likeli.spaces import Space

BY_CELL = ("ancestral", "euler_maruyama")  # samplers whose step takes a noise level for each cell
LARGEST_GAMMA = 32.0  # σ = e^{−16} = 1.1e-7


class VDM(GaussianDiffusion):
    """Trained on −log p(x) ≤ KL(q(z_1|x)‖p(z_1)) − log p(x|z_0) + ½ E_t γ'(t) ‖ε − ε̂(z_t)‖², in nats.

    Arguments:
        space: reals, grey levels, symbols or a table.
        backbone: the denoiser's network; chosen from the space if not given.
        predict: what the network gives; auto gives each cell's probabilities up to 2¹⁸ symbols in all, else v; of a table
            always those.
        noise: how γ rises from the data to the noise; `learned` shapes it for the least variance of the loss, `learned_by_cell`
            gives each cell of reals or grey levels a path of its own, which can raise the bound; it is sampled by the ancestral
            chain or by euler_maruyama, evenly in time; or any schedule.
        gamma: γ = −log SNR at the two ends of a named path; chosen from the space where not given.
        learn_ends: whether a learned schedule also moves its ends, to raise the bound.
        steps: T for the bound over T steps; None for continuous time.
        condition: what y is, if anything.

    Source: Kingma et al. (2021), arXiv:2107.00630.
    """

    loss_in_nats = True
    levels_by_cell: ClassVar[bool] = True
    train_defaults: ClassVar[dict[str, Any]] = {
        "lr": 5e-3,
        "ema": 0.995,
        "weight_decay": 0.01,
        "clip": 5.0,
        "betas": (0.9, 0.99),
    }

    def __init__(
        self,
        space: Space,
        backbone: DenoiserBackbone | None = None,
        predict: Literal["auto", "categorical", "eps", "x", "score", "v"] = "auto",
        noise: Literal["learned", "learned_by_cell", "log_linear", "cosine"] | Schedule = "learned",
        gamma: tuple[float | None, float | None] = (None, None),
        learn_ends: bool = False,
        steps: int | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space, condition, noise, levels=(steps or CHAIN) + 1, continuous=steps is None)
        require(steps is None or steps >= 1, "steps", "at least 1, or nothing for continuous time", steps)
        named = isinstance(noise, str)
        require(not learn_ends or noise == "learned", "learn_ends", "false, since the schedule is not learned", learn_ends)
        sizes = [abs(g) for g in gamma if g is not None]
        finer = f"ends of at most {LARGEST_GAMMA} in size, since noise beyond is finer than float32's digits"
        require(all(g <= LARGEST_GAMMA for g in sizes), "gamma", finer, gamma)
        require(named or gamma == (None, None), "gamma", "nothing, since the schedule has its own ends", gamma)
        backbone = (backbone or DenoiserBackbone()).suited(self.latent_space, condition)
        self.backbone, self.predict, self.gamma, self.learn_ends, self.steps = backbone, predict, gamma, learn_ends, steps
        schedule = self._path(noise) if isinstance(noise, str) else noise
        if isinstance(schedule, MonotoneByCell):
            require(predict != "categorical", "predict", "eps, x, score or v, as symbols' probabilities need one path", predict)
            predict = "v" if predict == "auto" else predict
        self.denoiser = make_denoiser(self.latent_space, schedule, predict, backbone, condition, dropout=0.0)

    @classmethod
    def _of_earlier(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        ends = [arguments.pop(name, None) for name in ("gamma_min", "gamma_max")]
        return arguments | ({"gamma": ends} if ends != [None, None] else {})

    def _path(self, noise: str) -> Schedule:
        first, last = self.gamma
        first = clean_gamma(self.latent_space) if first is None else first
        # the terminal mismatch is about ½ D e^{−γ₁} nats
        last = math.log(200 * math.prod(self.latent_space.model_shape)) if last is None else last
        if noise == "learned_by_cell":
            scalar = self.latent_space.model_shape == self.space.shape
            require(scalar, "noise", "learned or log_linear, as symbols share a path", noise)
            return MonotoneByCell(first, last, tuple(self.latent_space.model_shape))
        if noise == "learned":
            return Monotone(first, last, self.learn_ends, free=self.steps is not None)
        known = {"log_linear": LogLinear, "cosine": Cosine}
        require(noise in known, "noise", "learned, learned_by_cell, log_linear, cosine, or a schedule", noise)
        return known[noise](first, last)

    def _diffusion(self, denoise: Denoise, u: Tensor, eps: Tensor, where: Tensor, weight: Tensor) -> Tensor:
        """In continuous time along the schedule itself: ½ γ'(t) ‖ε − ε̂‖²."""
        if not self.continuous:
            return super()._diffusion(denoise, u, eps, where, weight)
        rate = self.schedule.rate(where)[1]
        weight = weight.reshape(-1, *[1] * (rate.ndim - 1))
        estimate, excess = integral(denoise, u, eps, self.schedule.at(where), rate * weight)
        if torch.is_grad_enabled() and isinstance(self.schedule, Monotone):
            return estimate + self.schedule.variance_loss(where, excess)
        return estimate

    def _gamma(self, where: Tensor) -> Tensor:
        return self.schedule.gamma(where)

    def trajectory(
        self,
        noise: Noise,
        y: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: Sampler | str | None = None,
        grid: Grid | tuple[float, ...] | None = None,
        clip: tuple[float, float] | None = None,
        guidance: Guidance | float | None = None,
    ) -> Iterator[State]:
        if isinstance(self.schedule, MonotoneByCell):
            name = as_sampler(sampler or self.default_sampler).kind()
            require(name in BY_CELL, "sampler", f"{' or '.join(BY_CELL)}, as each cell has its own noise level", name)
            require(isinstance(grid, tuple) or grid in (None, "time"), "grid", "time, as each cell has its own log SNR", grid)
        return super().trajectory(noise, y, steps=steps, sampler=sampler, grid=grid, clip=clip, guidance=guidance)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−ELBO in nats, at one time a row, the times of a batch evenly spread."""
        return -self.bound(x, low_discrepancy(len(x), x.device), y).value
