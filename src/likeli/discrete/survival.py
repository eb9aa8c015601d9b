"""Schedules of symbols: α_t, what survives of the data at time t, falling from 1 at t = 0 to 0 at t = 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from likeli.config import Configurable
from likeli.errors import require


class Survival(Configurable, nn.Module, ABC):
    """t ↦ α_t; made from its options, `on(cells, steps)` gives the one of some cells and levels.

    Attributes:
        by_cell: whether each cell has an α of its own.
        learned: whether the bound's gradient moves it.
    """

    by_cell: bool = False
    learned: bool = False

    def on(self, cells: int, steps: int | None) -> Survival:
        """The schedule of so many cells and of T levels, None for infinitely many."""
        return self

    @abstractmethod
    def forward(self, t: Tensor) -> Tensor:
        """t (B,) in [0, 1] float64 → α_t, (B,), or (B, D) by cell; float64."""

    def baseline(self, level: Tensor, value: Tensor) -> Tensor:
        """What takes variance out of a learned schedule's gradient, (B,)."""
        return torch.zeros_like(value)

    def fall(self, t: Tensor) -> Tensor:
        """−dα/dt, (B,)."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self(t).sum(), t)
        return -slope


class LogLinearSurvival(Survival):
    """α_t = 1 − t, so that −log (1 − α) is the logarithm of a line."""

    def forward(self, t: Tensor) -> Tensor:
        return 1 - t.double()


class CosineSurvival(Survival):
    """α_t = 1 − sin(π t/2): most symbols are lost early, so that undoing begins with few at a time.

    Source: Chang et al. (2022), arXiv:2202.04200, whose share of masks this is, in reversed time.
    """

    def forward(self, t: Tensor) -> Tensor:
        return 1 - (math.pi / 2 * t.double()).sin()


class LearnedSurvival(Survival):
    """α at the T levels, learned by the bound of T levels: α_{k/T} = 1 − (e^{θ_1} + … + e^{θ_k})/Σ e^θ, even at the start.

    In continuous time the bound does not depend on one schedule for all cells, so there is nothing to learn.
    """

    learned = True
    usual: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.shares: nn.Parameter | None = None

    def on(self, cells: int, steps: int | None) -> Survival:
        require(steps is not None, "steps", "a number of levels, as a schedule is learned by the bound of finitely many", steps)
        other = LearnedSurvival()
        other.shares = nn.Parameter(torch.zeros(int(steps or 0)))
        other.register_buffer("usual", torch.zeros(int(steps or 0), dtype=torch.float64))
        return other

    def forward(self, t: Tensor) -> Tensor:
        assert self.shares is not None
        levels = len(self.shares)
        share = 0.999 * (10 * self.shares.double()).softmax(0) + 0.001 / levels  # no level without a share
        lost = torch.nn.functional.pad(share.cumsum(0), (1, 0))
        place = t.double() * levels
        k = place.long().clamp(max=levels - 1)
        alpha = 1 - torch.lerp(lost[k], lost[k + 1], place - k)
        return torch.where(t >= 1, torch.zeros_like(alpha), alpha.clamp(0, 1))

    @torch.no_grad()
    def baseline(self, level: Tensor, value: Tensor) -> Tensor:
        """The usual KL of each level (B,) before `value` (B,) was seen, which is then taken in."""
        before = self.usual[level]
        for k in level.unique():
            self.usual[k].lerp_(value[level == k].double().mean(), 0.05)
        return before


class OrderedMasks(Survival):
    """One cell is masked at each of D levels, the last one first: undone, cells are drawn one by one from first to last.

    α of a cell falls from 1 to 0 at its own level, so that with [MASK] the model is autoregressive: its bound is tight, and
    is the chain rule along the order.

    Arguments:
        order: of the cells, the first one drawn first; as they stand if empty.
    """

    by_cell = True

    def __init__(self, order: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.order = order

    def on(self, cells: int, steps: int | None) -> Survival:
        require(steps in (None, cells), "steps", f"nothing, or {cells}, as one cell is masked at each level", steps)
        fits = not self.order or sorted(self.order) == list(range(cells))
        require(fits, "order", f"each cell from 0 to {cells - 1} once", self.order)
        other = OrderedMasks(self.order)
        order = torch.tensor(self.order or tuple(range(cells)))
        other.register_buffer("rank", order.argsort(), persistent=False)
        return other

    def forward(self, t: Tensor) -> Tensor:
        cells = len(self.rank)
        level = (t.double() * cells).round()[:, None]  # so many cells are masked, the last in the order
        return (self.rank < cells - level).double()
