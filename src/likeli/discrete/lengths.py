"""Rows of unequal length: how long a row is comes first, by a law of its own; what is behind its end is never predicted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from likeli.random import Noise

PACE = 10.0  # logits range over several units while an optimiser moves weights by its rate


class Lengths(nn.Module):
    """P(L), L = 0 … D symbols before the end of a row of at most D cells; D where no end was seen.

    Arguments:
        cells: D.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.logits = nn.Parameter(torch.zeros(cells + 1))

    def log_pmf(self, after: Tensor) -> Tensor:
        """log P(L | L ≥ after), (B,) → (B, D + 1)."""
        short = torch.arange(self.cells + 1, device=after.device) < after[:, None]
        return (PACE * self.logits).expand(len(after), -1).masked_fill(short, -torch.inf).log_softmax(1)

    def log_prob(self, length: Tensor, fixed: tuple[int, ...] = ()) -> Tensor:
        """log P(L), (B,); given some cells of the row, of L beyond the last of them, and 0 where the end is among them."""
        known = torch.zeros(self.cells + 1, dtype=torch.bool, device=length.device)
        known[list(fixed)] = True
        place = torch.arange(self.cells + 1, device=length.device)
        after = ((place + 1) * (known & (place < length[:, None]))).amax(1)
        return torch.where(known[length], 0, self.log_pmf(after).gather(1, length[:, None])[:, 0])

    def draw(self, noise: Noise, held: Tensor, end: int) -> Tensor:
        """L of each row (B,), beyond its known symbols `held` (B, D), -1 for none, or where one of them is the end."""
        is_end = held == end
        first = torch.where(is_end.any(1), is_end.int().argmax(1), self.cells + 1)
        place = torch.arange(self.cells, device=held.device)
        after = ((place + 1) * ((held >= 0) & (place < first[:, None]))).amax(1)
        cdf = self.log_pmf(after).double().exp().cumsum(1)
        drawn = torch.searchsorted(cdf, noise.uniform(1).to(cdf) * cdf[:, -1:], right=True)[:, 0].clamp(max=self.cells)
        return torch.where(is_end.any(1), first, torch.maximum(drawn, after))


def length_of(x: Tensor, end: int | None) -> Tensor:
    """Symbols before the first end of rows (B, D), (B,); D where there is none."""
    is_end = torch.zeros_like(x, dtype=torch.bool) if end is None else x == end
    return torch.where(is_end.any(1), is_end.int().argmax(1), x.shape[1])


def behind(length: Tensor, cells: int) -> Tensor:
    """Which cells stand at or after the end, (B,) → (B, D)."""
    return torch.arange(cells, device=length.device) >= length[:, None]
