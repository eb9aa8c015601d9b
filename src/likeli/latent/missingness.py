"""Missing cells of a latent-variable model: draws of them, and p(s|x), s_j = 1 where cell j is missing, of why they are.

Of cells missing at random, p(s|x) = p(s|x_o), it cancels from p(x_m|x_o, s) and needs no model.  Of a cell that hides itself it
does not, and the observed ones are then a biased sample:

    p(s|x) = ∏_j P_j^{s_j} (1 − P_j)^{1 − s_j},   P_j = sigmoid(a_j u_j − b_j),   u the row on the model's scale.

What x_m is can be told from x_o and s only by the form of p(x), of p(s|x), and the sign of a: nothing in the data checks them.

Draws of x_m given x_o come from weighted codes z ~ q.  An encoder that sees holes may be far off, so q learns from draws:

    q₀(z) = q(z|x_o),   q_{t+1}(z) = (1/M) [q(z|x_o) + Σ_{m<M} q(z|x_o, x_m^{(m)})],   x_m^{(m)} of the draws of round t,

the last would be p(z|x_o) itself if the encoder were right about whole rows and the draws about the holes.

Source: Ipsen, Mattei & Frellsen (2021), arXiv:2006.12871; Cappé, Guillin, Marin & Robert (2004), Journal of Computational and
Graphical Statistics 13(4), for proposals that learn from draws; Owen & Zhou (2000) for the weights of a mixture.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.latent.chain import LatentVariableModel, draw_latents, given_latents, log_densities, log_posterior
from likeli.probability.draw import draw
from likeli.random import Ambient

Missingness = Literal["at_random", "self", "high", "low"]

PROPOSALS = 8  # M at most: the first round has one
ROUNDS = 3
CANDIDATES = 16  # of a hidden cell, for each code
ENOUGH = 0.2  # of the codes are effective: no further round


class SelfMasking(nn.Module):
    """P(cell j is missing | x) = sigmoid(a_j u_j − b_j), each cell by itself.

    Arguments:
        shape: of a row.
        kind: `self`, where a may have either sign; `high`, a > 0: the greater the likelier missing; `low`, a < 0.
    """

    def __init__(self, shape: tuple[int, ...], kind: Missingness) -> None:
        super().__init__()
        self.sign = {"self": 0, "high": 1, "low": -1}[kind]
        self.steepness, self.offset = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))

    @property
    def slope(self) -> Tensor:
        """a, of the row's shape."""
        return self.sign * F.softplus(self.steepness) if self.sign else self.steepness

    def forward(self, u: Tensor, missing: Tensor) -> Tensor:
        """log p(s|x), (B, *shape) whole rows on the model's scale and which of their cells are missing → (B,)."""
        return self.cells(u, missing).flatten(1).sum(1)

    def cells(self, u: Tensor, missing: Tensor) -> Tensor:
        """log p(s_j|x_j) of each cell, (…, *shape)."""
        logits = self.slope * u - self.offset
        return -F.softplus(torch.where(missing, -logits, logits))


@runtime_checkable
class Hides(Protocol):
    """A family that may model why cells are missing."""

    mask_model: SelfMasking | None


def filled_by_codes(model: LatentVariableModel, x: Tensor, y: Tensor | None, n: int, samples: int) -> tuple[Tensor, Tensor]:
    """n draws (n, B, *shape) of rows with holes, and the log weights (K, B) of the codes that they are drawn from.

    K is `samples`, rounded up to a multiple of M.  A row that has weights enough stays as it is, whatever further rounds the
    others take.
    """
    groups, hard = math.ceil(samples / PROPOSALS), torch.ones(len(x), dtype=torch.bool, device=x.device)
    proposed = Weighed(model, x, y, [x], groups * PROPOSALS)
    drawn, log_w = x.expand(n, *x.shape).clone(), proposed.log_w.clone()
    for left in reversed(range(ROUNDS)):
        done = hard & (proposed.effective >= ENOUGH * groups * PROPOSALS) if left else hard
        if done.any():
            drawn[:, done], log_w[:, done] = proposed.chosen(n)[:, done], proposed.log_w[:, done]
        hard = hard & ~done
        if not hard.any():
            break
        proposed = Weighed(model, x, y, [x, *proposed.chosen(PROPOSALS - 1)], groups)
    return drawn, log_w


class Weighed:
    """Codes of rows x with holes from a mixture of encoders' q(z|filling), some of each filling's, and their weights.

    log w = log p(x_o, z) + log p(s|x_o, z) − log (1/M) Σ_m q(z|filling m), the second term where cells hide themselves.
    """

    def __init__(self, model: LatentVariableModel, x: Tensor, y: Tensor | None, fillings: list[Tensor], groups: int) -> None:
        self.model, self.x, self.y, m = model, x, y, len(fillings)
        self.codes, self.whole, weights = list[list[Tensor]](), list[Tensor](), []
        self.mask_model = model.mask_model if isinstance(model, Hides) else None
        every_x, every_y = x.repeat(m, *[1] * (x.ndim - 1)), y if y is None else y.repeat(m, *[1] * (y.ndim - 1))
        contexts, every = [model.infer(f, y) for f in fillings], model.infer(torch.cat(fillings), every_y)
        for _ in range(groups):
            codes = [draw_latents(model, x, y, c, Ambient(x)) for c in contexts]
            z = [torch.stack(level) for level in zip(*codes)]  # (M, B, *latent)
            turned = [[level.roll(s, 0).flatten(0, 1) for level in z] for s in range(m)]
            log_q = [log_posterior(model, every_y, every, t).unflatten(0, (m, -1)).roll(-s, 0) for s, t in enumerate(turned)]
            log_p = log_densities(model, every_x, every_y, every, turned[0])[0].unflatten(0, (m, -1))
            log_w = log_p.double() - torch.stack(log_q).double().logsumexp(0) + math.log(m)
            if self.mask_model is not None:
                whole, log_mask = zip(*[self._hidden(c, self.mask_model) for c in codes])
                log_w += torch.stack(log_mask)
                self.whole += whole
            self.codes += codes
            weights.append(log_w)
        self.log_w = torch.cat(weights)
        self.effective = 1 / self.log_w.softmax(0).square().sum(0)

    def chosen(self, n: int) -> Tensor:
        """n whole rows of each, (n, B, *shape), of codes drawn in proportion to their weights."""
        cdf = self.log_w.softmax(0).T.cumsum(1)
        u = Ambient(cdf).uniform(n).to(cdf.device)
        index = torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp(max=len(self.log_w) - 1).T  # (n, B)
        rows = torch.arange(len(self.x), device=self.x.device)
        if self.mask_model is not None:
            return torch.stack(self.whole)[index, rows]
        levels = [torch.stack(level) for level in zip(*self.codes)]
        return torch.stack([self._decoded([level[k, rows] for level in levels]) for k in index])

    def _decoded(self, latents: list[Tensor], copies: int = 1) -> Tensor:
        """Rows with x_m ~ p(x_m|z) in their holes, (copies, B, *shape), or (B, *shape) of one."""
        *_, last = self.model.walk(Ambient(self.x), self.y, choose=given_latents(latents))
        p = self.model.observation(last.state, self.y)
        drawn = [torch.where(self.x.isnan(), draw(p, Ambient(self.x)).to(self.x.dtype), self.x) for _ in range(copies)]
        return drawn[0] if copies == 1 else torch.stack(drawn)

    def _hidden(self, latents: list[Tensor], mask_model: SelfMasking) -> tuple[Tensor, Tensor]:
        """Rows with x_m ~ p(x_m|z, s) in their holes, (B, *shape), and log p(s|x_o, z), (B,).

        Given z the cells are independent, and p(s_j|z) is the mean of p(s_j|x_j) over x_j ~ p(x_j|z): of each cell some are
        drawn and one is kept, in proportion to it.
        """
        drawn = self._decoded(latents, CANDIDATES)
        u = self.model.space.to_model(drawn.flatten(0, 1), self.model.dtype).view_as(drawn)
        log_p = mask_model.cells(u, self.x.isnan()).double()
        cdf = log_p.softmax(0).cumsum(0)
        kept = (cdf < Ambient(self.x).uniform(*self.x.shape[1:]).to(cdf)).sum(0).clamp(max=CANDIDATES - 1)
        log_mean = log_p.logsumexp(0) - math.log(CANDIDATES)
        return drawn.gather(0, kept[None])[0], log_mean.flatten(1).sum(1)
