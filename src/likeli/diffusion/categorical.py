"""A denoiser that knows the data are discrete."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from likeli.diffusion.decoding import evidence, symbols
from likeli.diffusion.denoiser import Conditional, Prediction, level_of
from likeli.diffusion.expectation import GAIN, expected_level
from likeli.diffusion.schedule import Point, Schedule
from likeli.space import Pixels, Space, Tokens


class CategoricalDenoiser(Conditional):
    """x̂ = Σ_k c_k P(k|z) with P(x_i = k|z) ∝ exp(4 net_ik(z)) · N(z_i; α c_k, σ²).

    What a cell's own noisy value says of it is exact; the network adds what the other cells say.  At small noise x̂ snaps to the
    right symbol with no network at all, and with an empty network the model is already that of independent uniform cells.

    Arguments:
        net: (z, γ, y) → logits/4: (B, K, *shape) for grey levels, (B, length, vocab) for symbols.
        schedule: t → (α, σ).
        space: grey levels or symbols.

    Source: the softmax over symbols is that of Dieleman et al. (2022), arXiv:2211.15089; the other factor is Bayes' rule.
    """

    def __init__(self, net: nn.Module, schedule: Schedule, space: Pixels | Tokens) -> None:
        super().__init__(schedule)
        self.net, self.space = net, space

    def logits(self, z: Tensor, at: Point, y: Tensor | None = None) -> Tensor:
        """What the network adds to the cells' own evidence, over 4: (B, K, *shape)."""
        gamma, at = level_of(at, z), at.like(z)
        logits = self.net(z / torch.hypot(at.alpha, at.sigma).to(z), gamma, y)
        return logits.movedim(-1, 1) if isinstance(self.space, Tokens) else logits

    def log_pmf(self, z: Tensor, at: Point, y: Tensor | None = None) -> Tensor:
        """log P(x_i = k|z), cell by cell: (B, K, *shape)."""
        logits, at = GAIN * self.logits(z, at, y), at.like(z)
        return (logits + evidence(self.space, z, at.alpha, at.sigma)).log_softmax(1)

    def forward(self, z: Tensor, at: Point, y: Tensor | None = None) -> Prediction:
        if isinstance(self.space, Tokens):
            x, at = self.log_pmf(z, at, y).exp().movedim(1, -1), at.like(z)
        else:
            logits, at = self.logits(z, at, y), at.like(z)
            x = expected_level(logits, z, at.alpha, at.sigma, symbols(self.space, z))
        return Prediction.of_x(x, z, at.alpha, at.sigma)


def discrete_symbols(space: Space) -> int:
    """Symbols of one cell, 0 when the cells are not discrete."""
    return space.levels if isinstance(space, Pixels) else space.vocab if isinstance(space, Tokens) else 0
