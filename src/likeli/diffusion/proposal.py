"""Times drawn where the loss is large, with weights that keep its mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from likeli.errors import require


class Proposal(nn.Module):
    """A histogram on [0, 1), its density ∝ √E f² in each bin with a part that is even: the least variance of f/density.

    What it has seen is part of a model's state, so that training resumes with the same proposal.

    Arguments:
        bins: of equal width.
        least: the even part; f/density is then at most 1/least times f.
        memory: how much of a bin's mean square survives an update; a bin's first values count alike.

    Raises:
        InputError: an argument out of range.

    Source: Nichol & Dhariwal (2021), arXiv:2102.09672, section 3.3.
    """

    squares: Tensor
    updates: Tensor

    def __init__(self, bins: int = 64, least: float = 0.1, memory: float = 0.98) -> None:
        super().__init__()
        require(bins >= 1, "bins", "at least 1", bins)
        require(0 < least <= 1, "least", "above 0 and at most 1", least)
        require(0 <= memory < 1, "memory", "from 0 to below 1", memory)
        self.bins, self.least, self.memory = bins, least, memory
        self.register_buffer("squares", torch.ones(bins, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros(bins, dtype=torch.float64))

    def density(self) -> Tensor:
        """(bins,) with mean 1; even until every bin has been seen."""
        if bool((self.updates == 0).any()):
            return torch.ones_like(self.squares)
        root = self.squares.sqrt()
        mean = root.mean()
        return torch.where(mean > 0, self.least + (1 - self.least) * root / mean.clamp(min=1e-300), 1.0)

    def place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where t, uniform on [0, 1), falls in the density, and 1/density there: (B,) and (B,) in float64."""
        density = self.density()
        share = density / self.bins
        above = share.cumsum(0)
        bin_ = torch.searchsorted(above, t.double() * above[-1], right=True).clamp(max=self.bins - 1)
        inside = (t.double() * above[-1] - (above - share)[bin_]) / share[bin_]
        return (bin_ + inside.clamp(0, 1 - 1e-12)) / self.bins, 1 / density[bin_]

    @torch.no_grad()
    def learn(self, where: Tensor, value: Tensor) -> None:
        """Take in f = `value` (B,) at `where` (B,), f without the weight; what is not finite is left out."""
        fine = value.isfinite()
        bin_, value = (where[fine] * self.bins).long().clamp(0, self.bins - 1), value[fine].double()
        hits = torch.zeros_like(self.squares).index_add_(0, bin_, torch.ones_like(value))
        mean = torch.zeros_like(self.squares).index_add_(0, bin_, value.square()) / hits.clamp(min=1)
        pace = torch.where(hits > 0, (1 / (self.updates + 1)).clamp(min=1 - self.memory), 0.0)
        self.squares.lerp_(mean, pace)
        self.updates.add_((hits > 0).to(self.updates))
