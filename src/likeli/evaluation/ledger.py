"""Where the nats of log p(x) go: a family's number as a sum of parts that have names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from likeli.contract import GenerativeModel, evaluating
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.levels import noise_levels
from likeli.latent.chain import LatentVariableModel
from likeli.models.density import DensityModel
from likeli.random import Ambient, seeded

ROWS, LEVELS = 256, 6


@dataclass(frozen=True)
class Item:
    """One part: its name, its mean over the rows in nats, added to the sum, and the standard error of that mean."""

    name: str
    nats: float
    stderr: float


@dataclass(frozen=True)
class Ledger:
    """Parts that sum to a number.

    Arguments:
        items: the parts.
        total: the last line, which they sum to up to rounding.
        rows: how many were looked at.
    """

    items: tuple[Item, ...]
    total: Item
    rows: int


def ledger(model: GenerativeModel, x: Tensor, y: Tensor | None = None, *, draws: int = 4, seed: int = 0) -> Ledger | None:
    """The parts of the number of a model with latents, a diffusion or a density; None for other families.

        latents     E_q log p(x|z₁) − Σ_l KL_l, one draw of z at a time
        diffusion   E log p(x|z₀) − Σ_ranges ∫ ½ E‖ε − ε̂‖² dγ − KL(q(z₁|x) ‖ p(z₁))
        density     log p_u(u(x)) + log|∂u/∂x|

    Arguments:
        model: fitted.
        x: (N, *shape) in the user's units; the first 256 rows are looked at.
        y: (N, *condition.shape), for a conditional model.
        draws: of the noise for each row.
        seed: of the draws.
    """
    y = model.check_condition(None if model.condition is None else y, len(x))
    x = model.space.check(x, missing=model.takes_missing)[:ROWS].to(model.device)
    y = None if y is None else y[:ROWS]
    if isinstance(model, GaussianDiffusion):
        return _of_levels(model, x, y, draws, seed)
    with evaluating(model), torch.no_grad(), seeded(seed, "ledger"):
        if isinstance(model, LatentVariableModel):
            bounds = [model.elbo(x, y) for _ in range(draws)]
            kls = torch.stack([b.kl for b in bounds]).double().mean(0)
            levels = range(1, kls.shape[1] + 1)
            names = [f"− KL(q ‖ p) of level {i}" for i in levels] if len(levels) > 1 else ["− KL(q(z|x) ‖ p(z))"]
            parts = {"reconstruction E log p(x|z)": _mean([b.reconstruction for b in bounds])} | dict(zip(names, -kls.T))
            return _sum(parts, "bound, one draw of z", _mean([b.value for b in bounds]))
        if isinstance(model, DensityModel):
            drawn = [model.space.continuous(x, Ambient(x), model.dtype) for _ in range(draws)]
            density, units = _mean([model.log_density(u, y) for u, _ in drawn]), _mean([log_det for _, log_det in drawn])
            what = "log p(x)" if model.space.measure == "density" else "bound, one draw of the dequantisation"
            parts = {"log density of the standardised cells": density, "change of units log|∂u/∂x|": units}
            return _sum(parts, what, density + units)
    return None


def _mean(draws: list[Tensor]) -> Tensor:
    return torch.stack([d.double() for d in draws]).mean(0)


def _item(name: str, nats: Tensor) -> Item:
    return Item(name, nats.mean().item(), (nats.std() / math.sqrt(len(nats))).item() if len(nats) > 1 else math.nan)


def _sum(parts: Mapping[str, Tensor], name: str, total: Tensor) -> Ledger:
    return Ledger(tuple(_item(*part) for part in parts.items()), _item(name, total), len(total))


def _of_levels(model: GaussianDiffusion, x: Tensor, y: Tensor | None, draws: int, seed: int) -> Ledger:
    found = noise_levels(model, x, y, levels=LEVELS, draws=draws, seed=seed)
    items = [Item("reconstruction E log p(x|z₀)", found.reconstruction, math.nan)]
    for level in found.levels:
        items.append(Item(f"− levels of log SNR {level.first:.1f} to {level.last:.1f}", -level.nats, level.stderr))
    items.append(Item("− mismatch of the end with the prior", -found.prior, math.nan))
    return Ledger(tuple(items), Item("bound", found.bound, found.stderr), found.examples)
