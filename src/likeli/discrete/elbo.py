"""The bound of a diffusion of symbols: of T levels, or of infinitely many, over the cells that are free.

    −log p(x) ≤ KL(q(z_1|x) ‖ π) + Σ_{k=1}^{T} E KL(q(z_{(k−1)/T}|z_{k/T}, x) ‖ p),     k = 1 is −log p(x|z_{1/T})
    T → ∞:      KL(q(z_1|x) ‖ π) + ∫₀¹ (−α'/α) E[jump cost] dt

Near t = 0 few cells have changed and those that have cost like 1/(1 − α): plain draws of t would need a floor, which drops
a part of the integral.  Instead a share of the draws has one cell, uniformly chosen, changed for certain, and a weight keeps
every average as it was.  With [MASK] all draws do: with n of D cells masked the weight is D (1 − α)/n, the loss then D times
a mean of −log g(x), and its average over t the any-order autoregressive log p to the last bit.

A cell that is not free stands as it is at all times; it is seen, never predicted and never counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from likeli.discrete.corruption import Corruption, log_one_hot
from likeli.discrete.survival import Survival
from likeli.random import Noise

Guess = Callable[[Tensor, Tensor], Tensor]  # z (B, D), α (B,) or (B, D) → log g(x|z without a cell's own), (B, D, states)
FORCED = 0.5  # share of the draws with a cell changed for certain, where unchanged cells cost too
EDGE = 1e-12  # t is kept so far inside (0, 1), where the integrand has its limit's value


@dataclass(frozen=True)
class Reverse:
    """What undoes a corruption.

    Arguments:
        corruption: of the cells.
        survival: t ↦ α_t.
        guess: what the network makes of z.
    """

    corruption: Corruption
    survival: Survival
    guess: Guess


def corrupted(
    corruption: Corruption, x: Tensor, alpha: Tensor, free: Tensor, noise: Noise, forced: float
) -> tuple[Tensor, Tensor]:
    """z (B, D), and weights w (B,) with E[w f(z)] = E_q f(z) for every f that is 0 where nothing changed, or any if forced < 1.

    Arguments:
        corruption: of the cells.
        x: (B, D).
        alpha: what survives, below 1.
        free: (B, D), cells that may change.
        noise: for B rows.
        forced: share of draws with one cell changed for certain.

    The density of forced draws over that of plain ones is mean_i [z_i ≠ x_i]/q(z_i ≠ x_i|x_i) over the free cells.
    """
    z, u, count = corruption.draw(x, alpha, noise), noise.uniform(2).double(), free.sum(1)
    if forced:
        nth = (u[:, 0] * count).long().minimum(count - 1) + 1
        chosen = free & (free.cumsum(1) == nth[:, None]) & (u[:, 1:] < forced)
        z = torch.where(chosen, corruption.moved(x, alpha, noise), z)
    z = torch.where(free, z, x)
    changed = (free & (z != x)).double() / corruption.leaving(x, alpha).clamp(min=1e-300)
    weight = 1 / (forced * changed.sum(1) / count.clamp(min=1) + 1 - forced).clamp(min=1e-300)
    return z, torch.where(count > 0, weight, 1.0)


def forgetting_kl(reverse: Reverse, x: Tensor, free: Tensor) -> Tensor:
    """KL(q(z_1|x) ‖ π), (B,): what is not forgotten of x, 0 where α_1 = 0."""
    corruption, end = reverse.corruption, torch.ones(len(x), dtype=torch.float64, device=x.device)
    log_q = corruption(log_one_hot(x, corruption.states, torch.float64), reverse.survival(end))
    return ((log_q.exp() * (log_q - corruption.log_pi.to(log_q))).sum(-1) * free).sum(1)


def jump_integral(reverse: Reverse, x: Tensor, t: Tensor, free: Tensor, noise: Noise) -> Tensor:
    """One draw of ∫₀¹ (−α'/α) E[jump cost] dt, (B,) nats, at t (B,) uniform on [0, 1)."""
    t = t.double().clamp(EDGE, 1 - EDGE)
    alpha, corruption = reverse.survival(t), reverse.corruption
    z, weight = corrupted(corruption, x, alpha, free, noise, 1.0 if corruption.masks else FORCED)
    log_g = reverse.guess(z, alpha)
    cost = (corruption.jump_cost(x, log_g, z, alpha) * free).sum(1)
    return (weight * reverse.survival.fall(t) / alpha).to(cost) * cost


def level_sum(reverse: Reverse, x: Tensor, t: Tensor, free: Tensor, noise: Noise, steps: int) -> Tensor:
    """One draw of Σ_k E KL_k over T = `steps` levels, (B,) nats, at the level that t (B,), uniform on [0, 1), falls into.

    A learned schedule's gradient is E[∇KL + (KL − b) ∇ log q(z|x)], b what the level usually costs.
    """
    k = (t.double() * steps).long().clamp(max=steps - 1)
    corruption, survival = reverse.corruption, reverse.survival
    alpha_s, alpha_t = survival(k / steps), survival((k + 1) / steps)
    everywhere = survival.learned or not corruption.masks  # whether what is averaged counts where nothing changed
    forced = 0.0 if survival.by_cell else FORCED if everywhere else 1.0
    with torch.no_grad():
        z, weight = corrupted(corruption, x, alpha_t, free, noise, forced)
    kl = (corruption.level_kl(x, reverse.guess(z, alpha_t.detach()), z, alpha_s, alpha_t) * free).sum(1)
    if survival.learned and torch.is_grad_enabled():
        log_q = corruption(log_one_hot(x, corruption.states, torch.float64), alpha_t).gather(2, z[..., None])[..., 0]
        excess = kl.detach() - survival.baseline(k, kl.detach()).to(kl)
        score = (log_q * free).sum(1).to(kl)
        kl = kl + excess * (score - score.detach())
    return steps * weight.to(kl) * kl
