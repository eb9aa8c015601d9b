"""p(s|x), s_j = 1 where cell j is missing: why cells are missing, where that hangs on what they would have held.

Of cells missing at random, p(s|x) = p(s|x_o), it cancels from p(x_m|x_o, s) and needs no model.  Of a cell that hides itself it
does not, and the observed ones are then a biased sample:

    p(s|x) = ∏_j P_j^{s_j} (1 − P_j)^{1 − s_j},   P_j = sigmoid(a_j u_j − b_j),   u the row on the model's scale.

What x_m is can be told from x_o and s only by the form of p(x), of p(s|x), and the sign of a: nothing in the data checks them.

Source: Ipsen, Mattei & Frellsen (2021), arXiv:2006.12871.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Missingness = Literal["at_random", "self", "high", "low"]


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
        logits = self.slope * u - self.offset
        return -F.softplus(torch.where(missing, -logits, logits)).flatten(1).sum(1)
