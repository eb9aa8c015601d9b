"""Variational inference one row at a time, and what an encoder loses against it.

    log p(x) − ELBO(encoder) = [log p(x) − ELBO(q*)] + [ELBO(q*) − ELBO(encoder)]
                               approximation gap      amortisation gap

q* is the best member of the encoder's family for this x alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likeli.contract import evaluating
from likeli.errors import Unsupported, require, require_draws
from likeli.latent.chain import LatentVariableModel, draw_latents, log_densities, map_context
from likeli.latent.estimators import Estimate, importance
from likeli.random import Ambient, seeded


@dataclass(frozen=True)
class Gaps:
    """Where the bound's nats go, one number a row.

    Arguments:
        elbo: (B,) bound with the encoder.
        refined: (B,) bound with per-row parameters.
        stderr: (B,) Monte Carlo standard error of `refined − elbo`, whose draws share their noise.
        estimate: log p(x) by importance sampling with the refined q.
    """

    elbo: Tensor
    refined: Tensor
    stderr: Tensor
    estimate: Estimate

    @property
    def amortisation(self) -> Tensor:
        """(B,) ELBO(q*) − ELBO(encoder): what one encoder for all rows costs."""
        return self.refined - self.elbo

    @property
    def approximation(self) -> Tensor:
        """(B,) log p(x) − ELBO(q*) = KL(q* ‖ p(z|x)): what the family of q costs; only as good as the estimate."""
        return self.estimate.likelihood.value - self.refined


def refine(
    model: LatentVariableModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    steps: int = 300,
    lr: float = 0.05,
    draws: int = 4,
    seed: int = 0,
) -> Any:
    """Variational parameters of each row, found by gradient ascent on the ELBO from where the encoder put them.

    The result takes the place of `infer(x, y)`: `model.elbo(x, y, context=refine(model, x, y))`.  The gradient leaves out the
    score of q, whose mean is zero, so that its noise vanishes as q reaches the true posterior.

    Arguments:
        model: any model with reparameterised latent levels.
        x: (B, *shape) in the user's units.
        y: (B, *condition.shape), for a conditional model.
        steps: of Adam; the rate falls to zero as a cosine.
        lr: first rate.
        draws: of z in each step.
        seed: of all draws.

    Source: Roeder, Wu & Duvenaud (2017), arXiv:1703.09194.
    """
    require(steps >= 1, "steps", "at least 1", steps)
    require(lr > 0, "lr", "a number above 0", lr)
    require_draws("draws", draws)
    x = model.space.check(x, missing=model.takes_missing).to(model.device)
    y = model.check_condition(y, len(x))
    with evaluating(model), seeded(seed, "refine"):
        with torch.no_grad():
            start = model.infer(x, y)
        leaves: list[Tensor] = []
        context = _free(start, leaves)
        if not leaves:
            raise Unsupported(f"{model.kind()} has no variational parameters to refine")
        optimiser = torch.optim.Adam(leaves, lr=lr, betas=(0.9, 0.99))
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = -sum(_path_bound(model, x, y, context()) for _ in range(draws)) / draws
            optimiser.zero_grad()
            loss.backward(inputs=leaves)
            optimiser.step()
    return map_context(context(), Tensor.detach)


def gaps(
    model: LatentVariableModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    samples: int = 1000,
    draws: int = 100,
    steps: int = 300,
    lr: float = 0.05,
    seed: int = 0,
) -> Gaps:
    """The bound's gap, split into what q's family and what the encoder costs.

    Arguments:
        samples: K of the importance estimate.
        draws: of z for both bounds.
        model, x, y, steps, lr, seed: as for `refine`.

    Source: Cremer, Li & Duvenaud (2018), arXiv:1801.03558.
    """
    require(draws >= 2, "draws", "at least 2, for a standard error", draws)
    x = model.space.check(x, missing=model.takes_missing).to(model.device)
    y = model.check_condition(y, len(x))
    refined = refine(model, x, y, steps=steps, lr=lr, seed=seed)
    with evaluating(model), torch.no_grad():
        both = [_bounds(model, x, y, context, draws, seed) for context in (model.infer(x, y), refined)]
    stderr = (both[1] - both[0]).std(0) / math.sqrt(draws)
    estimate = importance(model, x, y, samples=samples, seed=seed, context=refined)
    return Gaps(both[0].mean(0), both[1].mean(0), stderr, estimate)


def _bounds(model: LatentVariableModel, x: Tensor, y: Tensor | None, context: Any, draws: int, seed: int) -> Tensor:
    with seeded(seed, "bounds"):
        return torch.stack([model.elbo(x, y, context=context).value for _ in range(draws)])


def _path_bound(model: LatentVariableModel, x: Tensor, y: Tensor | None, context: Any) -> Tensor:
    """Σ_rows log p(x, z) − log q(z|x), differentiable through z alone."""
    latents = draw_latents(model, x, y, context, Ambient(x))
    log_p, log_q = log_densities(model, x, y, map_context(context, Tensor.detach), latents)
    return (log_p - log_q).sum()


def _free(context: Any, leaves: list[Tensor]) -> Callable[[], Any]:
    """A function that rebuilds `context` from free parameters, which are added to `leaves`."""
    found: list[Tensor] = []
    map_context(context, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    free = [t.detach().clone().requires_grad_() if t.is_floating_point() else t for t in found]
    leaves += [t for t in free if t.requires_grad]

    def rebuild() -> Any:
        values = iter(free)
        return map_context(context, lambda _: next(values))

    return rebuild
