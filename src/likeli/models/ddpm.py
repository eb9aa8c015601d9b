"""Denoising diffusion over T steps, trained on a simple loss that is not a bound; the bound can always be evaluated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from likeli.config import Configurable
from likeli.diffusion.bound import low_discrepancy
from likeli.diffusion.categorical import CategoricalDenoiser, gaussian_cells
from likeli.diffusion.denoiser import Denoise
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.losses import Weight, weighted_noise_error
from likeli.diffusion.networks import DenoiserBackbone, make_denoiser
from likeli.diffusion.sampler import State
from likeli.diffusion.schedule import Betas, Point, Schedule
from likeli.diffusion.times import Proposal
from likeli.errors import require
from likeli.latent.chain import Graph
from likeli.spaces import Space, symbol_cells


class NoiseObjective(Configurable):
    """w(t) ‖ε − ε̂‖², and where it is looked at.

    Arguments:
        weight: of a level: simple, min_snr, truncated_snr or v; or `bound`, for −ELBO.
        times: how t is drawn in training: even, or importance, by the loss seen at each t with weights that keep its mean.

    Source: as for `weighted_noise_error`; Nichol & Dhariwal (2021), arXiv:2102.09672, for importance.
    """

    def __init__(
        self, weight: Weight | Literal["bound"] = "simple", times: Literal["even", "importance"] = "even"
    ) -> None:
        require(weight in (*get_args(Weight), "bound"), "weight", f"one of {', '.join(get_args(Weight))}, bound", weight)
        require(times in ("even", "importance"), "times", "even or importance", times)
        self.weight, self.times = weight, times


class DDPM(GaussianDiffusion):
    """E_t w(t) ‖ε − ε̂(z_t)‖² over the levels t = 1 … T: simple (w = 1), min-SNR, truncated SNR, or the bound itself.

    Arguments:
        space: reals, grey levels, symbols or a table.
        backbone: the denoiser's network; chosen from the space if not given.
        steps: T.
        noise: any schedule, of which the levels stand evenly in t; `Betas` from 0.1/T to 20/T if not given, which is 1e-4 to
            0.02 for T = 1000.
        predict: what the network gives; of a table always the probabilities of its symbols.
        objective: what training minimises; the plain noise error if not given.
        variance: p's at each step: q's own (small), that of z_t given z_s (large), or one learned for each level.
        condition: what y is, if anything.

    Source: Ho et al. (2020), arXiv:2006.11239; Bao et al. (2022), arXiv:2201.06503, for the best variance of a level.
    """

    calls: ClassVar[str] = "steps + 1"  # x is drawn around x̂(z_1)
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "ema": 0.995, "weight_decay": 0.01, "clip": 5.0}
    graph = Graph(markov=True, reads_y=frozenset({"prior", "observation"}))

    def __init__(
        self,
        space: Space,
        backbone: DenoiserBackbone | None = None,
        steps: int = 1000,
        noise: Schedule | None = None,
        predict: Literal["auto", "categorical", "eps", "x", "score", "v"] = "eps",
        objective: NoiseObjective | None = None,
        variance: Literal["small", "large", "learned"] = "small",
        condition: Space | None = None,
    ) -> None:
        super().__init__(space, condition, noise, levels=steps, continuous=False)
        require(steps >= 2, "steps", "at least 2", steps)
        backbone = (backbone or DenoiserBackbone()).suited(self.latent_space, condition)
        self.backbone, self.steps, self.predict, self.objective, self.variance = backbone, steps, predict, objective, variance
        self.proposal = Proposal() if objective is not None and objective.times == "importance" else None
        schedule = noise or Betas(steps, "linear", *(min(v / steps, 0.999) for v in (0.1, 20.0)))
        self.denoiser = make_denoiser(self.latent_space, schedule, predict, backbone, condition)
        self.log_ratios = nn.Parameter(torch.zeros(steps)) if variance == "learned" else None

    @classmethod
    def _of_earlier(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        steps, weight = arguments.get("steps", 1000), arguments.get("objective")
        if isinstance(weight, str):
            arguments["objective"] = {"class": "noise_objective", "weight": weight}
        curve, *betas = (arguments.pop(name, None) for name in ("curve", "beta_min", "beta_max"))
        if betas != [None, None] or curve not in (None, "linear"):
            first, last = (v / steps if b is None else b for v, b in zip((0.1, 20.0), betas))
            arguments["noise"] = {
                "class": "betas", "steps": steps, "curve": curve or "linear", "beta_min": first, "beta_max": min(last, 0.999),
            }  # fmt: skip
        return arguments

    @property
    def loss_in_nats(self) -> bool:
        return self.objective is not None and self.objective.weight == "bound"

    def denoise(self, y: Tensor | None = None) -> Denoise:
        return replace(super().denoise(y), log_ratio=self._log_ratio)

    def _log_ratio(self, s: Point, t: Point) -> Tensor:
        """log of p's variance over q's."""
        if self.variance == "large":
            return 2 * (t.sigma.log() - s.sigma.log())
        if self.log_ratios is None:
            return torch.zeros_like(t.t)
        return self.log_ratios.to(t.t)[(t.t * (self.steps - 1)).round().long()]

    def observation(self, state: State, y: Tensor | None = None) -> Distribution:
        """p(x|z_1) around x̂(z_1), or with the network's own probabilities of each symbol."""
        at, z = state.at, state.z.to(self.dtype)
        if isinstance(self.denoiser, CategoricalDenoiser):
            return symbol_cells(self.space, self.denoiser.log_pmf(z, at, y))
        place = at.like(z)
        return gaussian_cells(self.latent_space, self.denoiser(z, at, y).x, place.sigma / place.alpha)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The weighted noise error, which is not a bound, unless the objective is the bound: then −ELBO in nats."""
        t = low_discrepancy(len(x), x.device)
        if self.loss_in_nats:
            return -self.bound(x, t, y).value
        where, weight = self._place(t)
        u, level = self.latent_space.to_model(x, self.dtype), (where * self.steps).floor() / (self.steps - 1)
        error = weighted_noise_error(self.denoiser, u, level, y, self.objective.weight if self.objective else "simple")
        self._learn(where, error)
        loss = error if self.log_ratios is None else error + self._variance_loss(error, level)
        return weight.to(loss) * loss

    def _variance_loss(self, error: Tensor, level: Tensor) -> Tensor:
        """The bound's dependence on the learned variances alone, the network's error taken as given."""
        above = level > 0
        t = self.schedule.at(level.clamp(min=1 / (self.steps - 1)))
        s = self.schedule.at(t.t - 1 / (self.steps - 1))
        r, cells = self._log_ratio(s, t), self.space.dimensions
        kl = torch.exp(-r) * (torch.expm1(t.gamma - s.gamma) * error.detach() / cells + 1) + r
        return torch.where(above, 0.5 * kl, 0.0).to(error)
