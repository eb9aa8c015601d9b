"""The weight of the KL in a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KLWeight(nn.Module):
    """β·min(1, step/warmup): training mode counts a step at each call that has gradients; out of it the weight is β.

    Arguments:
        beta: the weight after the warm-up.
        warmup: steps over which it rises from 0.

    Source: Bowman et al. (2015), arXiv:1511.06349.
    """

    steps: Tensor

    def __init__(self, beta: float, warmup: int) -> None:
        super().__init__()
        self.beta, self.warmup = beta, warmup
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self) -> float:
        if not (self.warmup and self.training):
            return self.beta
        if torch.is_grad_enabled():
            self.steps += 1
        return self.beta * min(1.0, self.steps.item() / self.warmup)
