"""Annealed importance sampling: log p(x) by a path of small steps from q(z|x) to the true posterior.

    f_β(z) = q(z|x)^{1−β} p(x, z)^β,   log w = Σ_t (β_t − β_{t−1}) [log p(x, z_t) − log q(z_t|x)],   E w = p(x)

Between the temperatures z moves by Hamiltonian Monte Carlo that leaves f_β as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likeli.analysis.chain import draw_latents, log_densities
from likeli.analysis.estimators import Estimate, summarise
from likeli.core import evaluating
from likeli.errors import Unsupported, require
from likeli.models.hierarchy import Hierarchy
from likeli.random import Ambient, seeded

TARGET_ACCEPTANCE = 0.65


def annealed(
    model: Hierarchy,
    x: Tensor,
    y: Tensor | None = None,
    *,
    chains: int = 32,
    temperatures: int = 100,
    leapfrog: int = 5,
    seed: int = 0,
    batch: int = 64,
) -> Estimate:
    """log (1/K) Σ_k w_k over K annealed chains a row.

    A first pass finds a step size for every row and temperature; the second, with those sizes fixed and fresh noise, is the one
    that counts, so that E w = p(x) holds.

    Arguments:
        model: any model with continuous latent levels.
        x: (B, *shape) in the user's units.
        y: (B, *condition.shape), for a conditional model.
        chains: K.
        temperatures: steps from β = 0 to 1.
        leapfrog: gradient steps of one move.
        seed: of all draws.
        batch: rows at a time; each carries `chains` copies.

    Raises:
        Unsupported: a level of the model is discrete.

    Source: Neal (2001), arXiv:physics/9803008; Wu et al. (2016), arXiv:1611.04273.
    """
    for name, value in (("chains", chains), ("temperatures", temperatures), ("leapfrog", leapfrog), ("batch", batch)):
        require(value >= 1, name, "at least 1", value)
    require(chains >= 2, "chains", "at least 2, for a standard error", chains)
    x = model.space.check(x, missing=model.takes_missing).to(model.device)
    y = model.check_condition(y, len(x))

    def weights(start: int) -> Tensor:
        rows = x[start : start + batch].repeat_interleave(chains, 0)
        given = None if y is None else y[start : start + batch].repeat_interleave(chains, 0)
        with evaluating(model), torch.no_grad(), seeded(seed, "annealed", start):
            path = _Path(model, rows, given, model.infer(rows, given), leapfrog)
            sizes: list[Tensor] = []
            _anneal(path, temperatures, sizes, tune=True)
            return _anneal(path, temperatures, sizes, tune=False).reshape(-1, chains).T

    return summarise(model, (weights(start) for start in range(0, len(x), batch)))


@dataclass(frozen=True)
class _Path:
    model: Hierarchy
    x: Tensor
    y: Tensor | None
    context: Any
    leapfrog: int

    def start(self) -> list[Tensor]:
        """z ~ q(z|x)."""
        latents = draw_latents(self.model, self.x, self.y, self.context, Ambient(self.x))
        if not all(z.is_floating_point() for z in latents):
            raise Unsupported(f"annealing needs continuous latents, and {self.model.kind()} has discrete ones; use importance")
        return latents

    def log_ratio(self, latents: list[Tensor]) -> Tensor:
        """log p(x, z) − log q(z|x), (R,)."""
        log_p, log_q = log_densities(self.model, self.x, self.y, self.context, latents)
        return log_p - log_q

    def slope(self, latents: list[Tensor], beta: float) -> tuple[Tensor, list[Tensor]]:
        """log f_β (R,) and its gradient in z."""
        with torch.enable_grad():
            leaves = [z.detach().requires_grad_() for z in latents]
            log_p, log_q = log_densities(self.model, self.x, self.y, self.context, leaves)
            log_f = beta * log_p + (1 - beta) * log_q
            return log_f.detach(), list(torch.autograd.grad(log_f.sum(), leaves))

    def move(self, latents: list[Tensor], beta: float, size: Tensor) -> tuple[list[Tensor], Tensor]:
        """One Hamiltonian move: latents that still follow f_β, and the chance with which each row was accepted."""
        step = [size.reshape(-1, *[1] * (z.ndim - 1)) for z in latents]
        momentum = [torch.randn_like(z) for z in latents]
        log_f, gradient = self.slope(latents, beta)
        energy = log_f - _kinetic(momentum)
        moved = latents
        for _ in range(self.leapfrog):
            momentum = [v + s / 2 * g for v, s, g in zip(momentum, step, gradient)]
            moved = [z + s * v for z, s, v in zip(moved, step, momentum)]
            log_f, gradient = self.slope(moved, beta)
            momentum = [v + s / 2 * g for v, s, g in zip(momentum, step, gradient)]
        chance = (log_f - _kinetic(momentum) - energy).nan_to_num(-torch.inf).clamp(max=0).exp()
        accepted = torch.rand_like(chance) < chance
        mixed = [torch.where(accepted.reshape(-1, *[1] * (z.ndim - 1)), new, z) for new, z in zip(moved, latents)]
        return mixed, chance


def _anneal(path: _Path, temperatures: int, sizes: list[Tensor], *, tune: bool) -> Tensor:
    """Log weights (R,) of one run from β = 0 to 1; with `tune`, step sizes are found and stored on the way."""
    latents = path.start()
    log_w = path.log_ratio(latents).double() / temperatures
    size = torch.full_like(log_w, 0.2).to(latents[0].dtype)
    for t in range(1, temperatures):
        size = size if tune else sizes[t - 1]
        latents, chance = path.move(latents, t / temperatures, size)
        log_w = log_w + path.log_ratio(latents) / temperatures
        if tune:
            sizes.append(size)
            size = (size * (0.1 * (chance - TARGET_ACCEPTANCE)).exp()).clamp(1e-5, 2.0)
    return log_w


def _kinetic(momentum: list[Tensor]) -> Tensor:
    return sum((0.5 * v.square().flatten(1).sum(1) for v in momentum), torch.zeros((), device=momentum[0].device))
