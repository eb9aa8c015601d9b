"""What a head is, and what it gives: a distribution of an example given z; the head of any symbols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F

from likeli.config import Configurable, describe, parameters_of
from likeli.errors import require
from likeli.probability.draw import at_least_single
from likeli.random import Noise
from likeli.spaces.base import Coding, Space, counted


class Emission(D.Distribution, ABC):
    """p(x|z) of one example; the batch is (B,), the event `space.shape`.

    Arguments:
        out: (B, channels, *shape), what the decoder gave.
    """

    arg_constraints: ClassVar[dict[str, D.constraints.Constraint]] = {}

    def __init__(self, out: Tensor) -> None:
        super().__init__(out.shape[:1], out.shape[2:], validate_args=False)
        self.out = out

    @abstractmethod
    def draw(self, noise: Noise) -> Tensor:
        """One x for each row, (B, *shape) in the user's units."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[x|z], (B, *shape) in the user's units; fractional for whole numbers."""


class Cells(Emission):
    """p(x|z) = ∏ p(x_i|z) over the cells of one example."""

    @abstractmethod
    def cell_log_prob(self, x: Tensor) -> Tensor:
        """(B, *shape) in the user's units → nats of each cell, (B, *shape)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Σ_i log p(x_i|z), (B,)."""
        return self.cell_log_prob(x).reshape(len(x), -1).sum(1)


class MassCells(Cells):
    """Cells that take finitely many values 0 … symbols−1."""

    @abstractmethod
    def log_pmf(self) -> Tensor:
        """log P(x_i = k | z) of every cell and symbol, (B, *shape, symbols): what a coder needs."""


class Observation(Configurable, nn.Module, ABC):
    """A head: the numbers that a decoder gives, read as a distribution of x.

    Made from its options alone; `on(space)` gives the head of one space, with its own parameters if it has some.

    Attributes of a kind:
        spaces: what it describes.
        cellwise: whether the cells are independent given z, so that some are drawn, or scored, without the others.
    """

    spaces: ClassVar[tuple[type[Space], ...]]
    cellwise: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.space: Space | None = None

    @property
    @abstractmethod
    def channels(self) -> int:
        """Numbers for each cell that a decoder must give."""

    @abstractmethod
    def read(self, out: Tensor) -> Emission:
        """`forward` for numbers of at least single precision."""

    def forward(self, out: Tensor) -> Emission:
        """(B, channels, *space.shape) → p(x|z), in nats of the user's units."""
        return self.read(at_least_single(out))

    def bind(self) -> None:
        """Make what depends on the space; families of heads with parameters of their own write this one."""

    def on(self, space: Space) -> Observation:
        """A new head of the same options for `space`.

        Raises:
            InputError: such a space has no such head.
        """
        kinds = " or ".join(s.kind() for s in self.spaces)
        require(isinstance(space, self.spaces), "head", f"one for {space.kind()} data", f"{self.kind()}, which is for {kinds}")
        head = type(self)(**{k: getattr(self, k) for k in parameters_of(type(self))})
        head.space = space
        head.bind()
        return head

    def extra_repr(self) -> str:
        """The options."""
        return ", ".join(f"{k}={v}" for k, v in describe(self).items() if k != "class")


class Categorical(Observation):
    """One of the space's symbols: P(x = k) = softmax(l)_k, one logit a symbol; for tokens, or pixels of few levels."""

    spaces = (Space,)

    @property
    def channels(self) -> int:
        return self.space.symbols

    def bind(self) -> None:
        fits = self.space.symbols > 0 and self.space.shape != ()
        require(fits, "head", f"one for {self.space.kind()} data", "categorical, which is for cells of finitely many symbols")

    def read(self, out: Tensor) -> CategoricalCells:
        return CategoricalCells(out, self.space.end)


class CategoricalCells(MassCells):
    """Independent symbols with logits `out` (B, symbols, *shape); what stands after `end` is of probability one."""

    def __init__(self, out: Tensor, end: int | None = None) -> None:
        super().__init__(out)
        self.end = end

    def cell_log_prob(self, x: Tensor) -> Tensor:
        log_p = -F.cross_entropy(self.out, x.long(), reduction="none")
        return log_p if self.end is None else log_p.where(counted(x, self.end), 0)

    @property
    def mean(self) -> Tensor:
        symbols = torch.arange(self.out.shape[1], device=self.out.device).to(self.out)
        return self.log_pmf().exp() @ symbols

    def log_pmf(self) -> Tensor:
        return self.out.log_softmax(1).movedim(1, -1)

    def draw(self, noise: Noise) -> Tensor:
        cdf = self.log_pmf().double().exp().cumsum(-1)
        u = noise.uniform(*self.event_shape).to(cdf)[..., None] * cdf[..., -1:]
        return torch.searchsorted(cdf, u, right=True)[..., 0].clamp(max=cdf.shape[-1] - 1)


class CodedCells(Cells):
    """Independent symbols of a coding: log p(x_i|z) = log P(its symbol|z) + log p(x_i | its symbol), 0 where x_i is missing.

    Arguments:
        logits: (B, most symbols, cells), −∞ where a cell has fewer.
        coding: what the symbols are.
    """

    def __init__(self, logits: Tensor, coding: Coding) -> None:
        super().__init__(logits)
        self.coding, self.symbols = coding, CategoricalCells(logits)

    def cell_log_prob(self, x: Tensor) -> Tensor:
        codes = self.coding.symbols(x)
        log_p = self.symbols.cell_log_prob(codes.clamp(min=0)) + self.coding.log_within(x).to(self.out.dtype)
        return log_p.masked_fill(codes < 0, 0)

    @property
    def mean(self) -> Tensor:
        """E[x|z] of numbers, and the most probable code of categories, (B, cells)."""
        numbers = torch.einsum("bck,ck->bc", self.symbols.log_pmf().double().exp(), self.coding.middles.to(self.out.device))
        return torch.where(self.coding.nominal.to(self.out.device), self.out.argmax(1).double(), numbers)

    def draw(self, noise: Noise) -> Tensor:
        return self.coding.values(self.symbols.draw(noise), noise)


def symbol_cells(space: Space, logits: Tensor) -> CategoricalCells | CodedCells:
    """Cells of the space's symbols with logits (B, symbols, *shape)."""
    return CategoricalCells(logits, space.end) if space.coding is None else CodedCells(logits, space.coding)


def open_uniform(noise: Noise, *shape: int) -> Tensor:
    """Uniform on (0, 1) without its ends, where quantile functions are infinite; in double precision."""
    return noise.uniform(*shape).double().clamp(2.0**-26, 1 - 2.0**-26)
