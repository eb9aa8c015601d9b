"""The variational diffusion model: a hierarchy of infinitely many (or T) levels, trained on its own bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from likeli.diffusion.bound import integral
from likeli.diffusion.categorical import clean_gamma
from likeli.diffusion.gaussian import CHAIN, GaussianDiffusion
from likeli.diffusion.learned import Monotone, MonotoneByCell
from likeli.diffusion.networks import Network, make_denoiser
from likeli.diffusion.sampler import Sampler, State, as_sampler
from likeli.diffusion.schedule import Cosine, LogLinear, Schedule
from likeli.diffusion.times import Grid, spread
from likeli.errors import require
from likeli.random import Noise
from likeli.spaces.base import Space, Tokens

BY_CELL = ("ancestral", "euler_maruyama")  # samplers whose step takes a noise level for each cell


class VDM(GaussianDiffusion):
    """Trained on −log p(x) ≤ KL(q(z_1|x)‖p(z_1)) − log p(x|z_0) + ½ E_t γ'(t) ‖ε − ε̂(z_t)‖², in nats.

    Arguments:
        space: reals, grey levels or symbols.
        hidden: an mlp's equal block widths, or a U-Net's channels at each resolution; chosen from the space if not given.
        network: mlp, unet or transformer; auto takes a U-Net for images of at least 8 × 8 cells.
        predict: what the network gives; auto gives each cell's probabilities up to 2¹⁸ symbols in all, else v.
        noise: how γ rises from the data to the noise; `learned` shapes it for the least variance of the loss, `learned_by_cell`
            gives each cell of reals or grey levels a path of its own, which can raise the bound; it is sampled by the ancestral
            chain or by euler_maruyama, evenly in time.
        gamma_min, gamma_max: γ = −log SNR at the two ends; chosen from the space if not given.
        learn_ends: whether a learned schedule also moves its ends, to raise the bound.
        steps: T for the bound over T steps; None for continuous time.
        dropout: probability of zeroing a hidden feature in training.
        condition: what y is, if anything.

    Source: Kingma et al. (2021), arXiv:2107.00630.
    """

    loss_in_nats = True
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
        hidden: tuple[int, ...] | None = None,
        network: Network = "auto",
        predict: Literal["auto", "categorical", "eps", "x", "score", "v"] = "auto",
        noise: Literal["learned", "learned_by_cell", "log_linear", "cosine"] = "learned",
        gamma_min: float | None = None,
        gamma_max: float | None = None,
        learn_ends: bool = False,
        steps: int | None = None,
        dropout: float = 0.0,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space, condition, (steps or CHAIN) + 1, continuous=steps is None)
        require(steps is None or steps >= 1, "steps", "at least 1, or nothing for continuous time", steps)
        require(not learn_ends or noise == "learned", "learn_ends", "false, since the schedule is not learned", learn_ends)
        self.hidden, self.network, self.predict, self.noise, self.dropout = hidden, network, predict, noise, dropout
        self.gamma_min, self.gamma_max, self.learn_ends, self.steps = gamma_min, gamma_max, learn_ends, steps
        options: dict[str, Any] = {"network": network, "hidden": hidden, "dropout": dropout, "condition": condition}
        if noise == "learned_by_cell":
            require(predict != "categorical", "predict", "eps, x, score or v, as symbols' probabilities need one path", predict)
            predict = "v" if predict == "auto" else predict
        self.denoiser = make_denoiser(space, self._schedule(), predict, fine=True, **options)

    def _schedule(self) -> Schedule:
        cells = math.prod(self.space.model_shape)
        first = clean_gamma(self.space) if self.gamma_min is None else self.gamma_min
        # the terminal mismatch is about ½ D e^{−γ₁} nats
        last = math.log(200 * cells) if self.gamma_max is None else self.gamma_max
        if self.noise == "learned_by_cell":
            require(not isinstance(self.space, Tokens), "noise", "learned or log_linear, as symbols share a path", self.noise)
            return MonotoneByCell(first, last, tuple(self.space.model_shape))
        if self.noise == "learned":
            return Monotone(first, last, self.learn_ends, free=self.steps is not None)
        return {"log_linear": LogLinear, "cosine": Cosine}[self.noise](first, last)

    def _diffusion(self, u: Tensor, eps: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """In continuous time along the schedule itself: ½ γ'(t) ‖ε − ε̂‖²."""
        if not self.continuous:
            return super()._diffusion(u, eps, t, y)
        estimate, excess = integral(self.denoise(y), u, eps, self.schedule.at(t), self.schedule.rate(t)[1])
        if torch.is_grad_enabled() and isinstance(self.schedule, Monotone):
            return estimate + self.schedule.variance_loss(t, excess)
        return estimate

    def trajectory(
        self,
        noise: Noise,
        y: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: Sampler | str | None = None,
        grid: Grid | tuple[float, ...] = "time",
    ) -> Iterator[State]:
        if isinstance(self.schedule, MonotoneByCell):
            name = as_sampler(sampler or self.default_sampler).kind()
            require(name in BY_CELL, "sampler", f"{' or '.join(BY_CELL)}, as each cell has its own noise level", name)
            require(isinstance(grid, tuple) or grid == "time", "grid", "time, as each cell has its own log SNR", grid)
        return super().trajectory(noise, y, steps=steps, sampler=sampler, grid=grid)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−ELBO in nats, at one time a row, the times of a batch evenly spread."""
        return -self.bound(x, spread(len(x), x.device), y).value
