"""Diffusion by the design choices of Karras et al.: α = 1, a preconditioned network, noise drawn where learning happens."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor
from torch.special import ndtri

from likeli.diffusion.categorical import clean_gamma
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.losses import noisy
from likeli.diffusion.networks import Network, make_denoiser
from likeli.diffusion.schedule import Karras
from likeli.diffusion.times import spread
from likeli.errors import require
from likeli.spaces.base import Real, Space


class EDM(GaussianDiffusion):
    """E (σ² + s²)/(σ s)² ‖x̂(x + σ ε) − x‖² with log σ ~ N(P_mean, P_std²) and x̂ = c_skip z + c_out F(c_in z).

    The loss is not a bound.  A grid even in t is the paper's grid of σ; Heun's method is the default sampler.

    Arguments:
        space: reals, grey levels or symbols.
        hidden: an mlp's equal block widths, or a U-Net's channels at each resolution; chosen from the space if not given.
        network: mlp, unet or transformer; auto takes a U-Net for images of at least 8 × 8 cells.
        sigma_min, sigma_max, rho: of the grid; sigma_min is 0.002 for reals, and for grey levels and symbols where they are
            still told apart, if not given.
        sigma_data: s, the data's spread in model units; 1 for reals and 0.5 for grey levels and symbols if not given.
        p_mean, p_std: of log σ in training.
        dropout: probability of zeroing a hidden feature in training.
        condition: what y is, if anything.

    Source: Karras et al. (2022), arXiv:2206.00364, table 1.
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "ema": 0.995, "weight_decay": 0.01, "clip": 5.0}

    def __init__(
        self,
        space: Space,
        hidden: tuple[int, ...] | None = None,
        network: Network = "auto",
        sigma_min: float | None = None,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        sigma_data: float | None = None,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        dropout: float = 0.1,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space, condition, levels=19)
        self.default_sampler = "heun"
        require(p_std > 0, "p_std", "a positive number", p_std)
        self.hidden, self.network, self.dropout = hidden, network, dropout
        self.sigma_min, self.sigma_max, self.rho, self.sigma_data = sigma_min, sigma_max, rho, sigma_data
        self.p_mean, self.p_std = p_mean, p_std
        options: dict[str, Any] = {"network": network, "hidden": hidden, "dropout": dropout, "condition": condition}
        self.data = sigma_data if sigma_data is not None else 1.0 if isinstance(space, Real) else 0.5
        least = 0.002 if isinstance(space, Real) else math.exp(clean_gamma(space) / 2)
        schedule = Karras(least if sigma_min is None else sigma_min, sigma_max, rho)
        self.denoiser = make_denoiser(space, schedule, "edm", data=self.data, fine=True, **options)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(σ² + s²)/s² ‖ε − ε̂‖², which is the weighted error of x̂ and of F alike; not a bound."""
        u, quantile = self.infer(x, y), spread(len(x), x.device).clamp(1e-6, 1 - 1e-6)
        log_sigma = self.p_mean + self.p_std * ndtri(quantile)
        prediction, eps, at = noisy(self.denoiser, u, self.schedule.time_of(2 * log_sigma), y)
        weight = 1 + (at.sigma / self.data) ** 2
        return (weight * (eps - prediction.eps).square()).flatten(1).sum(1)
