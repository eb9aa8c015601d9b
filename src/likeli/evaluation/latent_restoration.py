"""Missing cells of a latent-variable model by Markov chains over its latents: pseudo-Gibbs and Metropolis within Gibbs."""

from __future__ import annotations

import torch
from torch import Tensor

from likeli.contract import evaluating
from likeli.latent.chain import LatentVariableModel, draw_latents, given_latents, log_densities
from likeli.probability.draw import draw
from likeli.random import Ambient, seeded

BURN = 0.1  # of the steps, at the start: pseudo-Gibbs, which always moves


def gibbs(
    model: LatentVariableModel, x: Tensor, seen: Tensor, y: Tensor | None, n: int, steps: int, *, metropolis: bool, seed: int
) -> tuple[Tensor, float]:
    """The ends of n chains a row, (n, B, *shape), and the share of proposals taken.

    A step draws z' ~ q(z|x) and x_h ~ p(x_h|z).  Pseudo-Gibbs takes every z'; Metropolis within Gibbs takes it with chance
    min(1, p(x, z') q(z|x) / (p(x, z) q(z'|x))), which leaves p(x_h, z|x_o) as it is, whatever q.

    Arguments:
        x: (B, *shape) in the user's units; hidden cells may hold anything.
        seen: (B, *shape).
        steps: of a chain; the first tenth is pseudo-Gibbs in either case.

    Source: Rezende et al. (2014), arXiv:1401.4082, appendix F; Mattei & Frellsen (2018), arXiv:1802.04826, algorithm 1.
    """
    known, hidden = x.repeat(n, *[1] * (x.ndim - 1)), ~seen.repeat(n, *[1] * (x.ndim - 1))
    given = None if y is None else y.repeat(n, *[1] * (y.ndim - 1))
    taken, burn = [], max(1, int(BURN * steps))
    with evaluating(model), torch.no_grad(), seeded(seed, "gibbs"):
        start = model.draw(Ambient(known), given).to(known.dtype)
        full = torch.where(hidden, start, known)
        context = model.infer(full, given)
        z = draw_latents(model, full, given, context, Ambient(full))
        for step in range(steps):
            proposed = draw_latents(model, full, given, context, Ambient(full))
            if metropolis and step >= burn:
                new, old = (log_densities(model, full, given, context, latents) for latents in (proposed, z))
                accepted = Ambient(full).uniform().log() < (new[0] - new[1]) - (old[0] - old[1])
                z = [torch.where(accepted.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(proposed, z)]
                taken.append(accepted.double().mean().item())
            else:
                z = proposed
            *_, last = model.walk(Ambient(full), given, choose=given_latents(z))
            full = torch.where(hidden, draw(model.observation(last.state, given), Ambient(full)).to(known.dtype), known)
            context = model.infer(full, given)
    return full.reshape(n, *x.shape), sum(taken) / len(taken) if taken else 1.0
