"""Whether a latent variable model uses its latents, and whether its prior covers the codes that the data have.

With q̄(z) the average of q(z|x) over the data,

    E KL(q(z|x) ‖ p(z)) = I_q(x; z) + KL(q̄(z) ‖ p(z))

A collapsed latent carries no information (both terms 0); a prior hole is the second term: the model samples codes that no
example has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch import distributions as D

from likeli.core import evaluating
from likeli.distributions import draw
from likeli.errors import Unsupported, require
from likeli.information import gaussian_kl
from likeli.models.gaussian_diffusion import GaussianDiffusion
from likeli.models.hierarchy import Hierarchy
from likeli.random import Ambient, seeded

ACTIVE_VARIANCE = 0.01  # Burda et al. (2015): a latent is active if the variance of its posterior mean is above this
COLLAPSED_KL = 0.01  # nats
HOLE_MISMATCH = 0.1  # nats of KL(q̄ ‖ p)
HOLE_SHARE = 0.1  # ten times the share of prior draws that a perfect prior has below the 1 % quantile
EDGE = 0.01


@dataclass(frozen=True)
class Collapse:
    """What the latents of a model carry, in nats a row.

    Arguments:
        kl_by_level: E KL(q ‖ p) of each level, level 1 first.
        kl_by_latent: of each latent of a one-level model with diagonal Gaussian q and p; empty otherwise.
        active: latents of a one-level model whose posterior mean varies over the data; None for deeper ones.
        latents: of them in all.
        information: I_q(x; z), at most log n; None for deeper models.
        mismatch: KL(q̄ ‖ p) = KL − information; None for deeper models.
        hole: share of prior draws where q̄/p is lower than at 99 % of the data's codes; 0.01 if q̄ = p; None for deeper models.
        rows: n, how many examples q̄ averages over.
        alarms: what is wrong and what to do, one line each.
    """

    kl_by_level: list[float]
    kl_by_latent: list[float]
    active: int | None
    latents: int
    information: float | None
    mismatch: float | None
    hole: float | None
    rows: int
    alarms: list[str] = field(default_factory=list)


def diagnose_latents(
    model: Hierarchy, x: Tensor, y: Tensor | None = None, *, draws: int = 2, rows: int = 2000, seed: int = 0
) -> Collapse:
    """Per-latent KL, active units, mutual information, mismatch of aggregate posterior and prior, prior hole.

    Arguments:
        model: any model with continuous latent levels.
        x: (B, *shape) in the user's units.
        y: (B, *condition.shape), for a conditional model; the aggregate posterior is then compared with the prior all the same.
        draws: of z for each row.
        rows: at most so many examples are used; the cost of the information is their square.
        seed: of the draws.

    Raises:
        Unsupported: a diffusion model, whose q is fixed.

    Source: Hoffman & Johnson (2016), "ELBO surgery"; Burda et al. (2015), arXiv:1509.00519.
    """
    if isinstance(model, GaussianDiffusion):
        raise Unsupported(f"{model.kind()} has a fixed q, which cannot collapse; its ledger says what each level costs")
    require(draws >= 1, "draws", "at least 1", draws)
    require(rows >= 2, "rows", "at least 2", rows)
    x = model.space.check(x, missing=model.takes_missing).to(model.device)[:rows]
    y = model.check_condition(y, len(x)) if y is None else model.check_condition(torch.as_tensor(y)[:rows], len(x))
    with evaluating(model), torch.no_grad(), seeded(seed, "latents"):
        levels = torch.stack([model.elbo(x, y).kl for _ in range(draws)]).mean((0, 1)).tolist()
        if model.depth > 1:
            found = Collapse(levels, [], None, model.depth, None, None, None, len(x))
        else:
            found = _one_level(model, x, y, draws, levels)
    found.alarms.extend(_alarms(found))
    return found


def _one_level(model: Hierarchy, x: Tensor, y: Tensor | None, draws: int, levels: list[float]) -> Collapse:
    state = model.root(Ambient(x))
    p = model.prior(1, state, y)
    q = model.posterior(1, state, model.infer(x, y), p)
    z = torch.stack([draw(q, Ambient(x)) for _ in range(draws)]).flatten(0, 1)
    own = torch.stack([q.log_prob(part) for part in z.split(len(x))]).flatten()
    aggregate, prior = _log_aggregate(q, z), _log_prior(model, z, x, y)
    information = (own - aggregate).mean().item()
    mismatch = (aggregate - prior).mean().item()
    fresh = draw(p, Ambient(x))
    edge = (aggregate - prior).quantile(EDGE)
    hole = ((_log_aggregate(q, fresh) - _log_prior(model, fresh, x, y)) < edge).double().mean().item()
    active = int((q.mean.var(0) > ACTIVE_VARIANCE).sum())
    return Collapse(levels, _kl_by_latent(q, p), active, q.mean.shape[1], information, mismatch, hole, len(x))


def _log_aggregate(q: D.Distribution, z: Tensor) -> Tensor:
    """log (1/n) Σ_i q(z|x_i) at each z."""
    parts = [q.log_prob(row.expand(q.batch_shape + row.shape)).logsumexp(0) for row in z]
    return torch.stack(parts) - math.log(q.batch_shape[0])


def _log_prior(model: Hierarchy, z: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    p = model.prior(1, model.root(Ambient(x)), y)
    return torch.cat([p.log_prob(part) for part in z.split(len(x))])


def _kl_by_latent(q: D.Distribution, p: D.Distribution) -> list[float]:
    if not all(isinstance(d, D.Independent) and isinstance(d.base_dist, D.Normal) for d in (q, p)):
        return []
    a, b = q.base_dist, p.base_dist  # type: ignore[attr-defined]
    return gaussian_kl(a.loc, a.scale, b.loc, b.scale).mean(0).tolist()


def _alarms(found: Collapse) -> list[str]:
    alarms = []
    dead = [t for t, kl in enumerate(found.kl_by_level, 1) if kl < COLLAPSED_KL]
    if dead:
        names = ", ".join(map(str, dead))
        alarms.append(
            f"posterior collapse: level {names} carries less than {COLLAPSED_KL:g} nats, so x does not depend on it; "
            "try kl_warmup, free_nats, a weaker decoder, or fewer levels"
        )
    elif found.active is not None and found.active < found.latents:
        alarms.append(
            f"{found.latents - found.active} of {found.latents} latents are not used; harmless if the bound is good: a smaller "
            "latent_dim costs nothing, kl_warmup or free_nats may wake them"
        )
    if found.mismatch is not None and found.mismatch > HOLE_MISMATCH:
        alarms.append(
            f"prior mismatch: the codes of the data differ from the prior by {found.mismatch:.2f} nats, so samples come "
            "from codes that no example has; try prior_family mixture, vamp or flow"
        )
    if found.hole is not None and found.hole > HOLE_SHARE:
        alarms.append(
            f"prior hole: {found.hole:.0%} of prior draws lie where the data's codes hardly ever do; try a learned prior_family"
        )
    if found.information is not None and found.information > math.log(found.rows) - 1:
        alarms.append(
            f"the mutual information {found.information:.2f} is near its ceiling log n = {math.log(found.rows):.2f} nats, "
            "so it may be larger, and the mismatch smaller, than stated; use more rows"
        )
    return alarms
