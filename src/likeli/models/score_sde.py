"""Score-based models in continuous time, by denoising score matching along a stochastic differential equation."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from likeli.diffusion.bound import low_discrepancy
from likeli.diffusion.categorical import clean_gamma
from likeli.diffusion.denoiser import of_seen
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.losses import denoising_score_matching
from likeli.diffusion.networks import DenoiserBackbone, make_denoiser
from likeli.diffusion.schedule import LinearBeta, Schedule, SubVP, VarianceExploding, process_time
from likeli.diffusion.times import Proposal
from likeli.errors import require
from likeli.spaces import Space


class ScoreSDE(GaussianDiffusion):
    """½ E_t λ(t) ‖s(z_t) − ∇log q(z_t|x)‖² for dz = f z dt + g dw.

    λ = σ² weighs all noise levels alike and is not a bound; λ = g² is the bound up to terms without parameters.  log p is
    asked for as the bound, or by the probability flow with `method="ode"`.

    Arguments:
        space: reals, grey levels, symbols or a table.
        backbone: the denoiser's network; chosen from the space if not given.
        noise: vp, ve or subvp, from where discrete cells are still told apart; or any schedule.
        weight: `noise` for λ = σ², `likelihood` for λ = g².
        times: how t is drawn in training: even, or importance, by the loss seen at each t with weights that keep its mean.
        condition: what y is, if anything.

    Source: Song et al. (2020), arXiv:2011.13456; Song et al. (2021), arXiv:2101.09258, for λ = g².
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "ema": 0.995, "weight_decay": 0.01, "clip": 5.0}

    def __init__(
        self,
        space: Space,
        backbone: DenoiserBackbone | None = None,
        noise: Literal["vp", "ve", "subvp"] | Schedule = "vp",
        weight: Literal["noise", "likelihood"] = "noise",
        times: Literal["even", "importance"] = "even",
        condition: Space | None = None,
    ) -> None:
        super().__init__(space, condition, noise)
        backbone = (backbone or DenoiserBackbone()).suited(self.latent_space, condition)
        self.backbone, self.weight, self.times = backbone, weight, times
        self.proposal = Proposal() if times == "importance" else None
        schedule = _process(noise, self.latent_space) if isinstance(noise, str) else noise
        self.denoiser = make_denoiser(self.latent_space, schedule, "score", backbone, condition)

    @classmethod
    def _of_earlier(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"noise" if name == "process" else name: value for name, value in arguments.items()}

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """½ λ(t) ‖s − ∇log q‖² at one time a row; no bound for λ = σ², the bound's diffusion term for λ = g²."""
        u, t = self.latent_space.to_model(x, self.dtype), low_discrepancy(len(x), x.device)
        if self.weight == "likelihood":
            given = self.denoise(y), u, torch.randn_like(u)
            return self._diffusion(*(of_seen(*given) if self.takes_missing else given), *self._place(t))
        where, weight = self._place(t)
        loss = 0.5 * denoising_score_matching(self.denoiser, u, where, y)
        self._learn(where, loss)
        return weight.to(loss) * loss


def _process(name: str, space: Space) -> Schedule:
    """The process, from where discrete cells are still told apart; reals begin as near to the data as is usual."""
    require(name in ("vp", "ve", "subvp"), "noise", "vp, ve, subvp or a schedule", name)
    ratio = math.exp(clean_gamma(space) / 2)
    if name == "ve":
        return VarianceExploding(ratio) if space.symbols else VarianceExploding()
    if name == "subvp":
        return SubVP(first=process_time(2 * math.asinh(ratio / 2))) if space.symbols else SubVP()
    return LinearBeta(first=process_time(math.log1p(ratio**2))) if space.symbols else LinearBeta()
