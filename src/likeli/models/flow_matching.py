"""Flow matching along straight paths from data to noise (rectified flow)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.special import ndtri

from likeli.diffusion.bound import low_discrepancy
from likeli.diffusion.categorical import clean_gamma
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.losses import flow_matching
from likeli.diffusion.networks import DenoiserBackbone, make_denoiser
from likeli.diffusion.schedule import Schedule, Straight
from likeli.diffusion.solvers import Adams
from likeli.errors import require
from likeli.spaces import Space


class FlowMatching(GaussianDiffusion):
    """E_t ‖(ε − x) − v(z_t)‖² with z_t = (1 − t) x + t ε; t = 0 is the data, as everywhere.

    The loss is not a bound; log p comes from the bound of the same denoiser or, with `method="ode"`, from the flow itself.

    Arguments:
        space: reals, grey levels, symbols or a table.
        backbone: the denoiser's network; chosen from the space if not given.
        noise: any schedule; the straight path if not given, from where discrete cells are still told apart.
        times: how t is drawn in training: uniform, or logit_normal, which favours the middle of the path.
        shift: s of t ← s t/(1 + (s − 1) t), which moves log t/(1 − t) by log s: above 1 more of training is at large noise,
            where it is settled what a large picture shows, and so what of its caption is heard; if not given 6 with captions,
            else 1.
        condition: what y is, if anything.

    Source: Lipman et al. (2022), arXiv:2210.02747; Liu et al. (2022), arXiv:2209.03003; Esser et al. (2024), arXiv:2403.03206.
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "ema": 0.995, "weight_decay": 0.01, "clip": 5.0}

    def __init__(
        self,
        space: Space,
        backbone: DenoiserBackbone | None = None,
        noise: Schedule | None = None,
        times: Literal["uniform", "logit_normal"] = "uniform",
        condition: Space | None = None,
        shift: float | None = None,
    ) -> None:
        super().__init__(space, condition, noise)
        self.default_sampler = Adams(correct=None)
        backbone = (backbone or DenoiserBackbone()).suited(self.latent_space, condition)
        captioned = condition is not None and condition.alphabet is not None
        self.backbone, self.times, self.shift = backbone, times, shift or (6.0 if captioned else 1.0)
        require(shift is None or 0 < shift < math.inf, "shift", "a positive number", shift)
        require(times in ("uniform", "logit_normal"), "times", "uniform or logit_normal", times)
        ratio = math.exp(clean_gamma(self.latent_space) / 2)
        straight = Straight(ratio / (1 + ratio), Straight().least) if self.latent_space.symbols else Straight()
        self.denoiser = make_denoiser(self.latent_space, noise or straight, "flow", backbone, condition)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The squared error of the velocity at one time a row; not a bound."""
        t = low_discrepancy(len(x), x.device)
        if self.times == "logit_normal":
            t = ndtri(t.clamp(1e-6, 1 - 1e-6)).sigmoid()
        t = self.shift * t / (1 + (self.shift - 1) * t)
        return flow_matching(self.denoiser, self.latent_space.to_model(x, self.dtype), t, y)
