"""Samplers of symbols: from what is forgotten to data, cell by cell, beside cells that stand as they are given.

Each yields every state z (B, D).  A sampler says what its draws are of, where that is not the chain that the bound is of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from likeli.config import Configurable
from likeli.discrete.elbo import Reverse
from likeli.errors import require
from likeli.probability.draw import draw_symbols
from likeli.random import Noise


class SymbolSampler(Configurable, ABC):
    """One way from z_1 to data.

    Attributes:
        needs_masks: whether it works on [MASK] alone.
        law: what it draws from, in words, where it is not the chain that the bound is of.
    """

    needs_masks: bool = True
    law: str = ""

    @abstractmethod
    def run(self, reverse: Reverse, z: Tensor, free: Tensor, noise: Noise, steps: int | None) -> Iterator[Tensor]:
        """Every state, the last one without [MASK].

        Arguments:
            reverse: corruption, schedule and network.
            z: (B, D) at t = 1.
            free: (B, D), cells to draw; the others never change.
            noise: for B rows.
            steps: T; None for as many as are natural to the sampler.
        """


class AncestralSymbols(SymbolSampler):
    """z_s ~ p(z_s|z_t) through T levels, the chain itself, with a network call at each; for every corruption."""

    needs_masks = False

    def run(self, reverse: Reverse, z: Tensor, free: Tensor, noise: Noise, steps: int | None) -> Iterator[Tensor]:
        alphas = levels_of(reverse, z, steps or z.shape[1])
        for alpha_s, alpha_t in zip(alphas[-2::-1], alphas[:0:-1]):
            log_p = reverse.corruption.bridge(reverse.guess(z, alpha_t), z, alpha_s, alpha_t)
            z = torch.where(free, draw_symbols(log_p, noise), z)
            yield z


class CachedUnmasking(SymbolSampler):
    """The same chain with [MASK], or that of infinitely many levels: levels where nothing changes are passed over.

    When a cell is unmasked does not depend on what is drawn, so that all times are drawn first: a cell is masked at t where its
    U ~ U[0, 1) is below 1 − α_t.  Each row goes through its own times; a network call serves all rows, and there are at most as
    many calls as cells or as levels.

    Source: Zheng et al. (2024), arXiv:2409.02908, the first-hitting sampler, here for T levels as well.
    """

    def run(self, reverse: Reverse, z: Tensor, free: Tensor, noise: Noise, steps: int | None) -> Iterator[Tensor]:
        u = noise.uniform(z.shape[1]).double()
        if steps is None and not reverse.survival.by_cell:
            event = u  # the share of masks at which a cell is unmasked
            alphas = 1 - u
        else:
            levels = torch.stack(levels_of(reverse, z, steps or z.shape[1])[1:]).reshape(steps or z.shape[1], len(z), -1)
            level = (1 - levels <= u).sum(0)
            event = level.double()
            alphas = levels.expand(-1, -1, z.shape[1]).gather(0, level[None])[0]
        waiting = free.clone()
        while waiting.any():
            last = event.masked_fill(~waiting, -1).amax(1, keepdim=True)
            now = waiting & (event == last)
            at = now.int().argmax(1, keepdim=True)
            drawn = draw_symbols(reverse.guess(z, alphas.gather(1, at)[:, 0]), noise)
            z, waiting = torch.where(now, drawn, z), waiting & ~now
            yield z


class ConfidenceUnmasking(SymbolSampler):
    """At each step the masked cells of which the network is surest are drawn; with one a step, the chain rule in that order.

    Source: Chang et al. (2022), arXiv:2202.04200.
    """

    law = "cells are drawn in the order of the network's confidence"

    def run(self, reverse: Reverse, z: Tensor, free: Tensor, noise: Noise, steps: int | None) -> Iterator[Tensor]:
        waiting, left = free.clone(), steps or z.shape[1]
        while waiting.any():
            log_g = reverse.guess(z, share_known(waiting))
            count = (waiting.sum(1, keepdim=True) / max(left, 1)).ceil()
            now = waiting & (confidence_rank(log_g, waiting) < count)
            z, waiting, left = torch.where(now, draw_symbols(log_g, noise), z), waiting & ~now, left - 1
            yield z


class Remasking(SymbolSampler):
    """Cells that have been drawn are masked again with probability σ = η · min(1, (1 − α_s)/α_t), so that mistakes are mended.

    A masked cell is drawn with probability (α_s − (1 − σ) α_t)/(1 − α_t): under the true p(x|z) the law of each z_t is kept.

    Arguments:
        eta: η in [0, 1]; 0 is the ancestral chain.

    Source: Wang et al. (2025), arXiv:2503.00307, ReMDM with the rescaled schedule.
    """

    law = "cells are masked again on the way"

    def __init__(self, eta: float = 0.1) -> None:
        require(0 <= eta <= 1, "eta", "a number from 0 to 1", eta)
        self.eta = eta

    def run(self, reverse: Reverse, z: Tensor, free: Tensor, noise: Noise, steps: int | None) -> Iterator[Tensor]:
        alphas, mask = levels_of(reverse, z, steps or z.shape[1]), reverse.corruption.states - 1
        for s, t in zip(alphas[-2::-1], alphas[:0:-1]):
            s, t = s.reshape(len(z), -1), t.reshape(len(z), -1)
            sigma = self.eta * ((1 - s) / t.clamp(min=1e-300)).clamp(max=1)
            unmask = (s - (1 - sigma) * t) / (1 - t).clamp(min=1e-300)
            drawn = draw_symbols(reverse.guess(z, t), noise)
            u = noise.uniform(z.shape[1]).double()
            masked = z == mask
            changed = torch.where(masked, torch.where(u < unmask, drawn, z), torch.where(u < sigma, mask, z))
            z = torch.where(free, changed, z)
            yield z


class BlockUnmasking(SymbolSampler):
    """Blocks of cells from left to right, each by the cached chain while all that stands after it is masked.

    Arguments:
        block: cells of a block.

    Source: Arriola et al. (2025), arXiv:2503.09573, for blocks; there the network is trained for them as well.
    """

    law = "blocks are drawn from left to right"

    def __init__(self, block: int = 16) -> None:
        require(block >= 1, "block", "at least 1", block)
        self.block = block

    def run(self, reverse: Reverse, z: Tensor, free: Tensor, noise: Noise, steps: int | None) -> Iterator[Tensor]:
        cells, place = z.shape[1], torch.arange(z.shape[1], device=z.device)
        for start in range(0, cells, self.block):
            inside = free & (place >= start) & (place < start + self.block)
            own = None if steps is None else max(1, round(steps * self.block / cells))
            for state in CachedUnmasking().run(reverse, z, inside, noise, own):
                z = state
                yield z


SAMPLERS: dict[str, Callable[[], SymbolSampler]] = {
    "ancestral": AncestralSymbols, "cached": CachedUnmasking, "confidence": ConfidenceUnmasking,
    "remasking": Remasking, "blocks": BlockUnmasking,
}  # fmt: skip
SamplerName = Literal["ancestral", "cached", "confidence", "remasking", "blocks"]


def symbol_sampler(sampler: SamplerName | SymbolSampler | None, masks: bool) -> SymbolSampler:
    """A sampler, the one of that name, or that of a corruption's own chain.

    Arguments:
        sampler: which.
        masks: whether the corruption has a [MASK].

    Raises:
        InputError: no such sampler, or one that works on [MASK] alone where there is none.
    """
    usual = "cached" if masks else "ancestral"
    name = usual if sampler is None else sampler
    require(isinstance(name, SymbolSampler) or name in SAMPLERS, "sampler", f"one of {', '.join(SAMPLERS)}", name)
    chosen = name if isinstance(name, SymbolSampler) else SAMPLERS[name]()
    require(masks or not chosen.needs_masks, "sampler", "ancestral, as there is no [MASK]", chosen.kind())
    return chosen


def levels_of(reverse: Reverse, z: Tensor, steps: int) -> list[Tensor]:
    """α at the T + 1 levels from t = 0 to 1, each (B,), or (B, D) by cell."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=z.device)
    return [a.expand(len(z), *a.shape) for a in reverse.survival(t)]


def share_known(waiting: Tensor) -> Tensor:
    """The share of cells that are not masked, (B, D) → (B,): the α at which so many are to be expected."""
    return 1 - waiting.double().mean(1)


def confidence_rank(log_g: Tensor, waiting: Tensor) -> Tensor:
    """Each waiting cell's place in the order of its largest probability, 0 for the surest; others last: (B, D)."""
    sure = log_g.amax(-1).masked_fill(~waiting, -torch.inf)
    return sure.argsort(dim=1, descending=True, stable=True).argsort(1)
