"""Fully connected networks."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "softplus": nn.Softplus}


class MLP(nn.Sequential):
    """Linear layers with an activation and dropout between them, (B, inputs) → (B, outputs).

    Arguments:
        inputs, outputs: features in and out.
        hidden: width of each hidden layer; empty for one linear map.
        activation: a key of `ACTIVATIONS`.
        dropout: probability of zeroing a hidden feature in training.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: tuple[int, ...] = (256, 256), activation: str = "silu", dropout: float = 0.0
    ) -> None:
        widths, layers = [inputs, *hidden], []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()] + ([nn.Dropout(dropout)] if dropout else [])
        super().__init__(*layers, nn.Linear(widths[-1], outputs))


class Residual(nn.Module):
    """h + W₂ σ(W₁ norm(h)), with W₂ zero at the start so that a deep stack begins as the identity.

    Arguments:
        width: features.
        dropout: probability of zeroing a hidden feature in training.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.branch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), last)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)
