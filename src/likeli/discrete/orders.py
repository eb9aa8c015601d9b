"""The chain rule: log p(x) of the model that draws one cell after the other, exact for each order.

    log p_order(x) = Σ_i log g(x_i | cells that came before i)

The order may depend on what has been drawn, never on what has not, so that Σ_x p_order(x) = 1.  A network whose guesses fit
together gives one number for every order; how far the orders lie apart says how far they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from likeli.discrete.elbo import Guess
from likeli.discrete.samplers import confidence_rank, share_known

Order = Literal["left_to_right", "confidence"]


def chain_rule(guess: Guess, x: Tensor, free: Tensor, mask: int, order: Order | Sequence[int] = "left_to_right") -> Tensor:
    """Σ log g over the free cells, (B,) nats; as many network calls as the row with the most free cells has.

    Arguments:
        guess: z, α → log g.
        x: (B, D).
        free: (B, D), cells that are masked at first.
        mask: the state [MASK].
        order: of drawing: from left to right, by the network's confidence, or the cells' numbers.
    """
    z, waiting = torch.where(free, mask, x), free.clone()
    place = torch.arange(x.shape[1], device=x.device)
    if not isinstance(order, str):
        place = torch.tensor(order, device=x.device).argsort()
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    while waiting.any():
        log_g = guess(z, share_known(waiting))
        rank = confidence_rank(log_g, waiting) if order == "confidence" else place.expand_as(z)
        first = rank.masked_fill(~waiting, x.shape[1]).argmin(1, keepdim=True)
        now = torch.zeros_like(waiting).scatter_(1, first, waiting.gather(1, first))
        found = log_g.gather(2, x[..., None])[..., 0].double()
        total = total + torch.where(now, found, 0).sum(1)
        z, waiting = torch.where(now, x, z), waiting & ~now
    return total
