"""The two densities of a chain at latents that somebody else chose, and what can be done to a context of any kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from likeli.distributions import diagonal_gaussian, draw
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


def map_context(context: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """`context` with `f` applied to each tensor in it; a Gaussian is its mean and its logarithmic scales."""
    if isinstance(context, Tensor):
        return f(context)
    if isinstance(context, D.Independent) and isinstance(context.base_dist, D.Normal):
        return diagonal_gaussian(f(context.base_dist.loc), f(context.base_dist.scale.log()).exp())
    if isinstance(context, D.MultivariateNormal):
        lower = context._unbroadcasted_scale_tril
        factor = f(lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).log()))
        scale = factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).exp())
        return D.MultivariateNormal(f(context.loc), scale_tril=scale)
    if dataclasses.is_dataclass(context) and not isinstance(context, type):
        names = [k.name for k in dataclasses.fields(context)]
        return dataclasses.replace(context, **{name: map_context(getattr(context, name), f) for name in names})
    if isinstance(context, dict):
        return {k: map_context(v, f) for k, v in context.items()}
    if isinstance(context, tuple) and hasattr(context, "_fields"):
        return type(context)(*[map_context(v, f) for v in context])
    if isinstance(context, (list, tuple)):
        return type(context)(map_context(v, f) for v in context)
    return context
