"""The head of a table: each column has the law of its type, and a missing cell contributes nothing, which integrates it out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from likeli.errors import require
from likeli.random import Noise
from likeli.spaces.head import Cells, Observation
from likeli.spaces.pixels import CategoricalCells, draw_logistic, log_bin_mass, spread
from likeli.spaces.real import NARROWEST
from likeli.spaces.table import Table

INITIAL_WIDTH = 0.5  # of reals and whole numbers at the start, in standard deviations of the column
NARROWEST_BINS = -5.0  # log of a whole number's scale, in units
HARMONICS = 128  # with which the mean of a floor is exact to 1e−5 at the narrowest scale


class Mixed(Observation):
    """Reals are Gaussian, whole numbers a mixture of logistics cut into unit bins, categories categorical.

    Arguments:
        components: logistics in the mixture of a whole number.
    """

    spaces = (Table,)
    real: Tensor
    integer: Tensor
    categorical: Tensor

    def __init__(self, components: int = 2) -> None:
        super().__init__()
        self.components = components
        require(components >= 1, "components", "at least 1", components)

    @property
    def channels(self) -> int:
        return max(2, 3 * self.components, *(len(c.categories) for c in self.space.columns))

    def bind(self) -> None:
        columns = self.space.columns
        for kind in ("real", "integer", "categorical"):
            self.register_buffer(kind, torch.tensor([i for i, c in enumerate(columns) if c.type == kind]).long(), False)
        self.register_buffer("centre", torch.tensor([c.mean for c in columns], dtype=torch.double), False)
        self.register_buffer("unit", torch.tensor([c.scale for c in columns], dtype=torch.double), False)
        sizes = torch.tensor([len(columns[i].categories) for i in self.categorical])
        self.register_buffer("absent", torch.arange(self.channels)[:, None] >= sizes, False)

    def read(self, out: Tensor) -> MixedCells:
        return MixedCells(out, self)


class MixedCells(Cells):
    """Columns of several types, independent given z.

    Arguments:
        out: (B, channels, columns); a column reads as many channels as its type needs.
        head: gives the columns' types and units.
    """

    def __init__(self, out: Tensor, head: Mixed) -> None:
        super().__init__(out)
        self.head = head
        self.location, log_width = out[:, :2, head.real].unbind(1)
        self.log_width = (log_width + math.log(INITIAL_WIDTH)).clamp(min=math.log(NARROWEST))
        parts = out[:, : 3 * head.components, head.integer].unflatten(1, (3, head.components)).unbind(1)
        self.places, self.log_weight = parts[0] + spread(head.components, parts[0]), parts[2].log_softmax(1)
        log_unit = head.unit[head.integer].log().to(out.dtype)
        self.log_bins = (parts[1] + math.log(INITIAL_WIDTH) + log_unit).clamp(min=NARROWEST_BINS)
        self.symbols = CategoricalCells(out[:, :, head.categorical].masked_fill(head.absent, -torch.inf))

    def cell_log_prob(self, x: Tensor) -> Tensor:
        head, missing = self.head, x.isnan()
        x = x.double().masked_fill(missing, 0)
        u = ((x - head.centre) / head.unit).to(self.out.dtype)
        parts = [self._real(u[:, head.real]), self._integer(u[:, head.integer])]
        parts.append(self.symbols.cell_log_prob(x[:, head.categorical]))
        return self._assemble(parts).masked_fill(missing, 0)

    def _real(self, u: Tensor) -> Tensor:
        e = (u - self.location) * (-self.log_width).exp()
        log_unit = self.head.unit[self.head.real].log().to(u.dtype)
        return -0.5 * e.square() - self.log_width - 0.5 * math.log(2 * math.pi) - log_unit

    def _integer(self, u: Tensor) -> Tensor:
        unit = self.head.unit[self.head.integer].to(u.dtype)
        inverse = (-self.log_bins).exp()
        return (log_bin_mass((u[:, None] - self.places) * (inverse * unit), inverse) + self.log_weight).logsumexp(1)

    def _assemble(self, parts: list[Tensor]) -> Tensor:
        order = torch.cat([self.head.real, self.head.integer, self.head.categorical])
        return torch.cat(parts, 1)[:, order.argsort()]

    @property
    def mean(self) -> Tensor:
        """E[x|z] of numbers, and the most probable code of categories, (B, columns)."""
        head = self.head
        real = self.location.double() * head.unit[head.real] + head.centre[head.real]
        middle = self.places.double() * head.unit[head.integer] + head.centre[head.integer]
        whole = (self.log_weight.double().exp() * mean_floor(middle, self.log_bins.double().exp())).sum(1)
        return self._assemble([real, whole, self.symbols.out.argmax(1).double()])

    def draw(self, noise: Noise) -> Tensor:
        head = self.head
        e = noise.normal(len(head.real)).to(self.out)
        real = (self.location + self.log_width.exp() * e).double() * head.unit[head.real] + head.centre[head.real]
        middle = self.places.double() * head.unit[head.integer] + head.centre[head.integer]
        whole = draw_logistic(noise, middle, self.log_bins.double().exp(), self.log_weight).floor()
        return self._assemble([real, whole, self.symbols.draw(noise).double()])


def mean_floor(location: Tensor, scale: Tensor) -> Tensor:
    """E⌊V⌋ of a logistic V: E V − ½ + Σ_n E sin(2πnV)/(πn), by the Fourier series of the fractional part."""
    n = torch.arange(1, HARMONICS + 1, device=location.device, dtype=location.dtype)
    t = 2 * math.pi * n
    decay = math.pi * scale[..., None] * t
    characteristic = torch.where(decay < 700, decay / decay.clamp(max=700).sinh(), 0)
    return location - 0.5 + (characteristic * (t * (location[..., None] % 1)).sin() / (math.pi * n)).sum(-1)
