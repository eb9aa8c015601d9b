"""The levels of a latent variable model as one joint code: what q and p say of it, example by example and on the average.

    q̄(z) = (1/n) Σ_j q(z|x_j),   the aggregate posterior: where the codes of the data lie
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributions as D

from likeli.latent.chain import Hierarchy, LatentVariableModel, map_context
from likeli.models.markov_hvae import MarkovHVAE
from likeli.probability.draw import draw
from likeli.probability.information import kl
from likeli.random import Ambient

BLOCK = 2**14  # rows that pass through the networks together


class Level(NamedTuple):
    """One level at one draw of z.

    Arguments:
        q, p: of n rows.
        z: the draw from q.
        kl: (n,) their divergence, in closed form where there is one.
        nested: whether p conditions on nothing that was drawn after z, so that a closed form means something.
    """

    q: D.Distribution
    p: D.Distribution
    z: Tensor
    kl: Tensor
    nested: bool


class Aggregate(ABC):
    """A model at n examples.

    Arguments:
        model: with continuous latent levels.
        x: (n, *shape) in the user's units.
        y: (n, *condition.shape), for a conditional model.
    """

    def __init__(self, model: Any, x: Tensor, y: Tensor | None) -> None:
        self.model, self.x, self.y = model, x, y
        self.context = model.infer(x, y)

    @abstractmethod
    def visit(self) -> list[Level]:
        """Every level at z ~ q(z|x_i), one draw an example; level 1 first."""

    @abstractmethod
    def fresh(self) -> tuple[list[Tensor], Tensor]:
        """n draws of z ~ p(z), one tensor a level, level 1 first, and log p(z), (n,)."""

    @abstractmethod
    def log_q(self, z: list[Tensor], context: Any, y: Tensor | None) -> Tensor:
        """log q(z|x), (rows,), where context and y hold those of x, row by row."""

    def table(self, z: list[Tensor]) -> Tensor:
        """log q(z_i|x_j), (rows of z, n), a block of codes at a time, each under every example."""
        n, parts = len(self.x), []
        codes = max(1, BLOCK // n)
        for block in zip(*(level.split(codes) for level in z)):
            k = len(block[0])
            context = map_context(self.context, functools.partial(_tiled, k))
            y = None if self.y is None else _tiled(k, self.y)
            log_q = self.log_q([level.repeat_interleave(n, 0) for level in block], context, y)
            parts.append(log_q.double().unflatten(0, (k, n)))
        return torch.cat(parts)


class TopDown(Aggregate):
    """q(z|x) = ∏ q(z_t|z_{>t}, x)."""

    model: Hierarchy

    def visit(self) -> list[Level]:
        noise, levels = Ambient(self.x), []
        state = self.model.root(noise)
        for level in range(self.model.depth, 0, -1):
            p = self.model.prior(level, state, self.y)
            q = self.model.posterior(level, state, self.context, p)
            z = draw(q, noise)
            levels.append(Level(q, p, z, kl(q, p, z), True))
            state = self.model.descend(level, state, z)
        return levels[::-1]

    def fresh(self) -> tuple[list[Tensor], Tensor]:
        noise, codes = Ambient(self.x), []
        state, log_p = self.model.root(noise), torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        for level in range(self.model.depth, 0, -1):
            p = self.model.prior(level, state, self.y)
            codes.append(draw(p, noise))
            log_p = log_p + p.log_prob(codes[-1])
            state = self.model.descend(level, state, codes[-1])
        return codes[::-1], log_p

    def log_q(self, z: list[Tensor], context: Any, y: Tensor | None) -> Tensor:
        state, log_q = self.model.root(Ambient(z[0])), torch.zeros((), device=self.x.device)
        for level in range(self.model.depth, 0, -1):
            q = self.model.posterior(level, state, context, self.model.prior(level, state, y))
            log_q = log_q + q.log_prob(z[level - 1])
            state = self.model.descend(level, state, z[level - 1]) if level > 1 else state
        return log_q


class BottomUp(Aggregate):
    """q(z|x) = q(z_1|x) ∏ q(z_t|z_{t−1}); a level's divergence is the log-ratio at its draw, which may be negative."""

    model: MarkovHVAE

    def visit(self) -> list[Level]:
        noise, q = Ambient(self.x), [self.context]
        z = [draw(q[0], noise)]
        for level in range(2, self.model.depth + 1):
            q.append(self.model.recognise(level, z[-1], self.y))
            z.append(draw(q[-1], noise))
        p = [self._prior(level, z[level:]) for level in range(1, self.model.depth + 1)]
        return [Level(b, a, c, b.log_prob(c) - a.log_prob(c), False) for a, b, c in zip(p, q, z)]

    def fresh(self) -> tuple[list[Tensor], Tensor]:
        noise, codes = Ambient(self.x), list[Tensor]()
        log_p = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        for level in range(self.model.depth, 0, -1):
            p = self._prior(level, codes)
            codes.insert(0, draw(p, noise))
            log_p = log_p + p.log_prob(codes[0])
        return codes, log_p

    def log_q(self, z: list[Tensor], context: Any, y: Tensor | None) -> Tensor:
        log_q = context.log_prob(z[0])
        for level in range(2, self.model.depth + 1):
            log_q = log_q + self.model.recognise(level, z[level - 2], y).log_prob(z[level - 1])
        return log_q

    def _prior(self, level: int, above: list[Tensor]) -> D.Distribution:
        return self.model.prior(level, above[0] if above else None, self.y, len(self.x))


def _tiled(k: int, rows: Tensor) -> Tensor:
    return torch.cat([rows] * k)


def aggregate(model: LatentVariableModel, x: Tensor, y: Tensor | None) -> Aggregate | None:
    """The model at these examples, whichever way its q runs; None for a family of another kind."""
    if isinstance(model, Hierarchy):
        return TopDown(model, x, y)
    return BottomUp(model, x, y) if isinstance(model, MarkovHVAE) else None
