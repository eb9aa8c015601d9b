"""Diffusion by the design choices of Karras et al.: α = 1, a preconditioned network, noise drawn where learning happens."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor
from torch.special import ndtri

from likeli.diffusion.bound import low_discrepancy
from likeli.diffusion.categorical import clean_gamma
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.losses import noisy
from likeli.diffusion.networks import DenoiserBackbone, make_denoiser
from likeli.diffusion.schedule import Karras, Schedule
from likeli.errors import require
from likeli.spaces import Space


class EDM(GaussianDiffusion):
    """E (σ² + s²)/(σ s)² ‖x̂(x + σ ε) − x‖² with log σ ~ N(P_mean, P_std²) and x̂ = c_skip z + c_out F(c_in z).

    The loss is not a bound.  A grid even in t is the paper's grid of σ; Heun's method is the default sampler.

    Arguments:
        space: reals, grey levels, symbols or a table.
        backbone: the denoiser's network; chosen from the space if not given.
        noise: any schedule; Karras' own if not given, with σ from 0.002 for reals, and for grey levels and symbols from where
            they are still told apart, to 80.
        sigma_data: s, the data's spread in model units; 1 for reals and 0.5 for grey levels and symbols if not given.
        p_mean, p_std: of log σ in training.
        condition: what y is, if anything.

    Source: Karras et al. (2022), arXiv:2206.00364, table 1.
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "ema": 0.995, "weight_decay": 0.01, "clip": 5.0}

    def __init__(
        self,
        space: Space,
        backbone: DenoiserBackbone | None = None,
        noise: Schedule | None = None,
        sigma_data: float | None = None,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space, condition, noise, levels=19)
        self.default_sampler = "heun"
        require(p_std > 0, "p_std", "a positive number", p_std)
        backbone = (backbone or DenoiserBackbone()).suited(self.latent_space, condition)
        self.backbone, self.sigma_data, self.p_mean, self.p_std = backbone, sigma_data, p_mean, p_std
        self.data = sigma_data if sigma_data is not None else 0.5 if self.latent_space.symbols else 1.0
        least = math.exp(clean_gamma(self.latent_space) / 2) if self.latent_space.symbols else 0.002
        self.denoiser = make_denoiser(self.latent_space, noise or Karras(least), "edm", backbone, condition, data=self.data)

    @classmethod
    def _of_earlier(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        old = {name: arguments.pop(name) for name in ("sigma_min", "sigma_max", "rho") if name in arguments}
        usual = {"sigma_min": None, "sigma_max": 80.0, "rho": 7.0}
        if any(value != usual[name] for name, value in old.items()):
            arguments["noise"] = {"class": "karras"} | {k: v for k, v in old.items() if v is not None}
        return arguments

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(σ² + s²)/s² ‖ε − ε̂‖², which is the weighted error of x̂ and of F alike; not a bound."""
        u, quantile = self.latent_space.to_model(x, self.dtype), low_discrepancy(len(x), x.device).clamp(1e-6, 1 - 1e-6)
        log_sigma = self.p_mean + self.p_std * ndtri(quantile)
        prediction, eps, at = noisy(self.denoiser, u, self.schedule.time_of(2 * log_sigma), y)
        weight = 1 + (at.sigma / self.data) ** 2
        return (weight * (eps - prediction.eps).square()).flatten(1).sum(1)
