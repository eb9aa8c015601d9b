"""A normalising flow of neural spline couplings: an invertible network with an exact density, both ways in one pass."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zuko.transforms import MonotonicRQSTransform

from likeli.contract import Coded
from likeli.errors import require
from likeli.models.density import DensityModel
from likeli.nn.embedding import Conditioner
from likeli.nn.mlp import MLP
from likeli.random import Noise, permutation
from likeli.spaces import Space

EDGE = 1e-5  # the mass of a histogram's tails, so that the Gaussian scale stays finite at the ends of [−1, 1]


class Flow(DensityModel, Coded):
    """z = f(u), f = f_T ∘ … ∘ f_1 invertible, z ~ N(0, I).

        log p_u(u) = log N(f(u); 0, I) + Σ_t log |det ∂f_t/∂u|

    A coupling keeps one half of the cells and sends each cell of the other through a monotone rational-quadratic spline and an
    affine map, whose parameters a network reads off the kept half; halves swap and cells shuffle in between.  On pixels, a
    learned histogram per cell is the first layer, so that an untrained coupling stack is the model of independent pixels.

    Arguments:
        space: what one example is; it must have a continuous form.
        transforms: number of couplings, T.
        hidden: widths of each coupling's network.
        bins: bins of each spline; None for 5 on pixels and 12 elsewhere.
        dropout: probability of zeroing a hidden feature in training; None for 0.1 on pixels and 0 elsewhere.
        condition: what y is, for p(x|y); None for p(x).

    Raises:
        InputError: a number outside its range.
        Unsupported: the space has no continuous form.

    Source: Durkan et al. (2019), arXiv:1906.04032; Dinh et al. (2016), arXiv:1605.08803.
    """

    strategy: ClassVar[str] = "sgd"
    calls: ClassVar[str] = "1"
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 6e-3, "ema": 0.995, "weight_decay": 1e-4, "clip": 20.0}

    def __init__(
        self,
        space: Space,
        transforms: int = 6,
        hidden: tuple[int, ...] = (64, 64),
        bins: int | None = None,
        dropout: float | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        require(transforms >= 1, "transforms", "at least 1", transforms)
        require(all(h >= 1 for h in hidden), "hidden", "widths of at least 1", hidden)
        require(bins is None or 2 <= bins <= 500, "bins", "2 to 500", bins)
        require(dropout is None or 0 <= dropout < 1, "dropout", "a number in [0, 1)", dropout)
        self.transforms, self.hidden, self.bins, self.dropout = transforms, tuple(hidden), bins, dropout
        self.condition = condition
        self.features = Conditioner(condition)
        cells, width = space.dimensions, self.features.width
        self.marginals = Histogram(cells, min(space.symbols, 64)) if space.symbols else None
        rate = (0.1 if self.marginals else 0.0) if dropout is None else dropout
        knots = (5 if self.marginals else 12) if bins is None else bins
        self.couplings = nn.ModuleList(Coupling(cells, width, self.hidden, knots, rate) for _ in range(transforms))
        self.register_buffer("orders", torch.stack([_order(cells, t) for t in range(transforms)]), persistent=False)

    def forward(self, u: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f: u (B, *shape) → z (B, D) and log |det ∂z/∂u| (B,)."""
        z, log_det, c = u.flatten(1), u.new_zeros(len(u)), self.features(y, u)
        if self.marginals is not None:
            z, log_det = self.marginals(z)
        for coupling, order in zip(self.couplings, self.orders):
            z, ladj = coupling(z[:, order], c)
            log_det = log_det + ladj
        return z, log_det

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """f⁻¹: z (B, D) → u (B, *shape)."""
        c = self.features(y, z)
        for coupling, order in zip(reversed(self.couplings), self.orders.flip(0)):
            z = coupling.inverse(z, c)[:, order.argsort()]
        if self.marginals is not None:
            z = self.marginals.inverse(z)
        return z.reshape(len(z), *self.space.shape)

    def log_density(self, u: Tensor, y: Tensor | None = None) -> Tensor:
        """log N(f(u); 0, I) + log |det ∂f/∂u|, nats of the model's units."""
        z, log_det = self(u, y)
        return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi)) + log_det

    def draw_density(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """u = f⁻¹(z), z ~ N(0, I)."""
        return self.inverse(noise.normal(self.space.dimensions).to(self.dtype), y)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """z = f(u(x)), (B, *shape) → (B, D); on integers the centre of the bin is encoded."""
        return self(self.space.to_model(x, self.dtype), y)[0]

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """x = u⁻¹(f⁻¹(z)), (B, D) → (B, *shape) in the user's units."""
        return self.space.from_model(self.inverse(z, y))


class Coupling(nn.Module):
    """v = (a, exp(s(a))·spline(b; a) + t(a)) for the halves u = (a, b); the identity at the start.

    Arguments:
        cells: length of u.
        width: features of the condition.
        hidden, dropout: the network's.
        bins: bins of the spline, which acts on [−5, 5] and is the identity outside.
    """

    def __init__(self, cells: int, width: int, hidden: tuple[int, ...], bins: int, dropout: float) -> None:
        super().__init__()
        self.kept, self.sizes = cells // 2, [bins, bins, bins - 1, 1, 1]
        self.net = MLP(max(self.kept + width, 1), (cells - self.kept) * sum(self.sizes), hidden, dropout=dropout)
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def maps(self, a: Tensor, c: Tensor) -> tuple[MonotonicRQSTransform, Tensor, Tensor]:
        """The spline, log scale and shift that act on b."""
        inputs = torch.cat([a, c], 1)
        phi = self.net(inputs if inputs.shape[1] else inputs.new_zeros(len(a), 1))
        widths, heights, slopes, log_scale, shift = phi.unflatten(1, (-1, sum(self.sizes))).split(self.sizes, -1)
        return MonotonicRQSTransform(widths, heights, slopes), 3 * (log_scale[..., 0] / 3).tanh(), shift[..., 0]

    def forward(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        a, b = u[:, : self.kept], u[:, self.kept :]
        spline, log_scale, shift = self.maps(a, c)
        b, ladj = spline.call_and_ladj(b)
        return torch.cat([a, b * log_scale.exp() + shift], 1), (ladj + log_scale).sum(1)

    def inverse(self, v: Tensor, c: Tensor) -> Tensor:
        """u with forward(u) = v."""
        a, b = v[:, : self.kept], v[:, self.kept :]
        spline, log_scale, shift = self.maps(a, c)
        return torch.cat([a, spline.inv((b - shift) * (-log_scale).exp())], 1)


class Histogram(nn.Module):
    """Φ⁻¹(F(u)) cell by cell, F the piecewise linear distribution function of a histogram on [−1, 1], Φ the normal one.

    Outside [−1, 1] it goes on with slope one, so that it maps the line onto the line.

    Arguments:
        cells: number of cells.
        bins: bars of equal width per cell.
    """

    def __init__(self, cells: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.logits = nn.Parameter(torch.zeros(cells, bins))

    def heights(self) -> tuple[Tensor, Tensor]:
        """Mass of each bar (cells, bins), and the mass below it."""
        p = (10 * self.logits).softmax(1)  # the factor lets a bar fill at the couplings' learning rate
        p = 0.99 * p + 0.01 / self.bins
        return p, F.pad(p.cumsum(1)[:, :-1], (1, 0))

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        p, below = self.heights()
        position = (u.clamp(-1, 1) + 1) * (self.bins / 2)
        bar = position.long().clamp(max=self.bins - 1)
        mass = _at(p, bar)
        signed = (1 - 2 * EDGE) * (2 * (_at(below, bar) + mass * (position - bar)) - 1).clamp(-1, 1)
        z = math.sqrt(2) * torch.erfinv(signed)
        inside = u.abs() <= 1
        slope = mass.log() + math.log(self.bins / 2 * (1 - 2 * EDGE) * math.sqrt(2 * math.pi)) + 0.5 * z.square()
        return z + (u - u.clamp(-1, 1)), torch.where(inside, slope, 0).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """u with forward(u) = z."""
        p, below = self.heights()
        limit = math.sqrt(2) * torch.erfinv(torch.tensor(1 - 2 * EDGE, dtype=z.dtype, device=z.device))
        inner = z.clamp(-limit, limit)
        F_u = ((torch.erf(inner / math.sqrt(2)) / (1 - 2 * EDGE) + 1) / 2).clamp(0, 1)
        bar = torch.searchsorted(below.contiguous(), F_u.T.contiguous(), right=True).T.sub(1).clamp(0, self.bins - 1)
        within = ((F_u - _at(below, bar)) / _at(p, bar)).clamp(0, 1)
        return (bar + within) * (2 / self.bins) - 1 + (z - inner)


def _at(table: Tensor, index: Tensor) -> Tensor:
    """table[cell, index[row, cell]], (cells, bins) and (B, cells) → (B, cells)."""
    return table.gather(1, index.T).T


def _order(cells: int, step: int) -> Tensor:
    """A fixed shuffle before even steps; before odd ones the halves swap, so that every pair of steps moves every cell."""
    return permutation(cells, 0, "flow", step) if step % 2 == 0 else torch.arange(cells).roll(-(cells // 2))
