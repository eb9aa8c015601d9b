"""The two densities of a chain at latents that somebody else chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from likeli.distributions import draw
from likeli.models.hierarchy import Hierarchy
from likeli.random import Ambient, Noise


def log_densities(
    model: Hierarchy, x: Tensor, y: Tensor | None, context: Any, latents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z|x), each (B,), at given latents.

    Arguments:
        model: any model with latent levels.
        x, y: as in `elbo`.
        context: what `infer(x, y)` gives, or anything that takes its place.
        latents: one tensor a level, the top level first.
    """
    state = model.root(Ambient(x))
    log_p, log_q = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
    for level, z in zip(range(model.depth, 0, -1), latents, strict=True):
        p = model.prior(level, state, y)
        log_q = log_q + model.posterior(level, state, context, p).log_prob(z)
        log_p = log_p + p.log_prob(z)
        state = model.descend(level, state, z)
    return log_p + model.observation(state, y).log_prob(x), log_q


def draw_latents(model: Hierarchy, x: Tensor, y: Tensor | None, context: Any, noise: Noise) -> list[Tensor]:
    """z ~ q(z|x), one tensor a level, the top level first; differentiable where q is reparameterised."""
    state, latents = model.root(noise), []
    for level in range(model.depth, 0, -1):
        z = draw(model.posterior(level, state, context, model.prior(level, state, y)), noise)
        latents.append(z)
        state = model.descend(level, state, z)
    return latents
