"""Independent cells: the yardstick that every model with structure has to beat.

    p(x) = Π_i p_i(x_i)
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as D

from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.errors import Unsupported, require
from likeli.gaussian.missing import column_moments
from likeli.models.symbols import after_end, as_symbols, places, smoothed, symbols_of, uniform_log_pmf
from likeli.probability.draw import draw
from likeli.random import Ambient, Noise
from likeli.spaces import Space, Table, counted

SMALLEST = 1e-9  # a constant column's standard deviation, in model units


class Independent(GenerativeModel):
    """Cell by cell in closed form: smoothed frequencies of symbols, normals for reals, normals' bins for a table's integers.

    Arguments:
        space: pixels, binary cells, tokens, reals or a table.
        smoothing: α added to every count of a symbol; ½ is Krichevsky and Trofimov's choice, 1 Laplace's.

    Raises:
        Unsupported: counts, which have neither finitely many symbols nor a density.

    Source: Krichevsky & Trofimov (1981), the performance of universal encoding.
    """

    knows: ClassVar[Knows] = Knows.EXACT
    strategy: ClassVar[str] = "closed_form"
    score_block: ClassVar[int | None] = None
    takes_missing: ClassVar[bool] = True

    def __init__(self, space: Space, smoothing: float = 0.5) -> None:
        super().__init__(space)
        require(smoothing > 0, "smoothing", "a positive number", smoothing)
        self.smoothing = smoothing
        self.cells = describe_cells(space)

    def fit_closed_form(self, x: Tensor, y: Tensor | None = None, *, seed: int = 0) -> None:
        """Smoothed frequencies (count + α) / (n + α·symbols), means and standard deviations; missing cells are left out."""
        self.cells.fit(x.to(self.device), self.smoothing)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) in nats, of the observed cells."""
        return -self.cells.log_prob(x)

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        """The exact value."""
        return LogLikelihood(self.cells.log_prob(x), Knows.EXACT, self.space.measure, dimensions=self.space.dimensions)

    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """Every cell by itself."""
        return self.cells.draw(noise)

    def next_log_pmf(self, x: Tensor, i: int) -> Tensor:
        """log P(x_i = s), (B, symbols): what a coder needs; of x it is only looked for its end.

        Raises:
            Unsupported: the cells are not symbols.
        """
        if not isinstance(self.cells, Symbols):
            raise Unsupported(f"a pmf for each symbol: {self.space.kind()} data have none; pixels, binary cells and tokens do")
        return after_end(self.cells.log_pmf[i].expand(len(x), -1), x.flatten(1)[:, :i], self.space.end)


class Symbols(nn.Module):
    """One pmf a cell, log_pmf (cells, symbols)."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space, self.symbols = space, symbols_of(space, "independent")
        self.log_pmf = nn.Parameter(uniform_log_pmf(1, space.dimensions, self.symbols)[0], requires_grad=False)

    def fit(self, x: Tensor, smoothing: float) -> None:
        """Smoothed frequencies."""
        size = self.log_pmf.numel()
        places_seen = (places(block, self.symbols, self.space.end).flatten() for block in x.flatten(1).split(4096))
        counts = sum(torch.bincount(at, minlength=size + 1)[:size] for at in places_seen)
        self.log_pmf.copy_(smoothed(counts.view_as(self.log_pmf).double(), smoothing))

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B,)."""
        cell = torch.arange(len(self.log_pmf), device=x.device)
        rows = x.flatten(1).long()
        return self.log_pmf[cell, rows].where(counted(rows, self.space.end), 0).sum(1)

    def draw(self, noise: Noise) -> Tensor:
        """(rows, *shape)."""
        pmf = D.Categorical(logits=self.log_pmf.expand(noise.rows, -1, -1), validate_args=False)
        return as_symbols(draw(pmf, noise), self.space)


class Normals(nn.Module):
    """One normal a cell, in model units."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.mean = nn.Parameter(torch.zeros(space.dimensions, dtype=torch.float64), requires_grad=False)
        self.std = nn.Parameter(torch.ones(space.dimensions, dtype=torch.float64), requires_grad=False)

    def _units(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u, log_det = self.space.continuous(x, Ambient(x), torch.float64)
        return u.reshape(len(x), -1), log_det

    def fit(self, x: Tensor, smoothing: float) -> None:
        """Means and standard deviations of the observed cells."""
        mean, std = moments_of(self._units(x)[0])
        self.mean.copy_(mean)
        self.std.copy_(std)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B,)."""
        u, log_det = self._units(x)
        return log_normal((u - self.mean) / self.std, self.std).nan_to_num(0).sum(1) + log_det

    def draw(self, noise: Noise) -> Tensor:
        """(rows, *shape)."""
        u = self.mean + self.std * noise.normal(len(self.mean)).to(self.mean)
        return self.space.from_model(u.reshape(-1, *self.space.shape))


class Columns(nn.Module):
    """A table's columns: log_pmf (columns, most categories) of categories; mean and std of numbers in the user's units."""

    def __init__(self, space: Table) -> None:
        super().__init__()
        self.space, n = space, len(space.columns)
        most = max([len(c.categories) for c in space.columns] + [1])
        self.log_pmf = nn.Parameter(torch.zeros(n, most, dtype=torch.float64), requires_grad=False)
        for row, column in zip(self.log_pmf, space.columns):
            row[: len(column.categories)] = -math.log(len(column.categories) or 1)
        self.mean = nn.Parameter(torch.tensor([c.mean for c in space.columns], dtype=torch.float64), requires_grad=False)
        self.std = nn.Parameter(torch.tensor([c.scale for c in space.columns], dtype=torch.float64), requires_grad=False)

    def fit(self, x: Tensor, smoothing: float) -> None:
        """Smoothed frequencies, means and standard deviations of what is observed, column by column."""
        for i, column in enumerate(self.space.columns):
            seen = x[:, i][~x[:, i].isnan()].double()
            if column.categories:
                counts = torch.bincount(seen.long(), minlength=len(column.categories)).double()
                self.log_pmf[i, : len(counts)] = smoothed(counts, smoothing)
            elif len(seen):
                mean, std = moments_of((seen[:, None] - column.mean) / column.scale)
                self.mean[i], self.std[i] = column.mean + column.scale * mean[0], column.scale * std[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, columns) → (B,)."""
        return torch.stack([self._column(x[:, i].double(), i) for i in range(x.shape[1])], 1).sum(1)

    def _column(self, x: Tensor, i: int) -> Tensor:
        column, (mean, std), seen = self.space.columns[i], (self.mean[i], self.std[i]), ~x.isnan()
        if column.categories:
            log_p = self.log_pmf[i][x.nan_to_num(0).long()]
        elif column.type == "integer":
            log_p = log_interval((x - 0.5 - mean) / std, (x + 0.5 - mean) / std)
        else:
            log_p = log_normal((x - mean) / std, std)
        return torch.where(seen, log_p, 0)

    def draw(self, noise: Noise) -> Tensor:
        """(rows, columns)."""
        numbers = self.mean + self.std * noise.normal(len(self.mean)).to(self.mean)
        codes = draw(D.Categorical(logits=self._logits().expand(noise.rows, -1, -1), validate_args=False), noise)
        whole, coded = (torch.tensor([c.type == t for c in self.space.columns]) for t in ("integer", "categorical"))
        numbers = torch.where(whole.to(numbers.device), (numbers + 0.5).floor(), numbers)
        return torch.where(coded.to(numbers.device), codes.to(numbers), numbers)

    def _logits(self) -> Tensor:
        sizes = torch.tensor([max(len(c.categories), 1) for c in self.space.columns], device=self.log_pmf.device)
        beyond = torch.arange(self.log_pmf.shape[1], device=sizes.device) >= sizes[:, None]
        return self.log_pmf.masked_fill(beyond, -math.inf)


def describe_cells(space: Space) -> Symbols | Normals | Columns:
    """The cells of a space, each with its own distribution."""
    if isinstance(space, Table):
        return Columns(space)
    return Normals(space) if space.measure == "density" else Symbols(space)


def moments_of(u: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column's observed cells; (0, 1) where there is none."""
    mean, variance = column_moments(u)
    return mean.nan_to_num(0), variance.sqrt().nan_to_num(1).clamp(min=SMALLEST)


def log_normal(t: Tensor, std: Tensor) -> Tensor:
    """log of the normal density at t standard deviations from the mean."""
    return -0.5 * (t.square() + math.log(2 * math.pi)) - std.log()


def log_interval(a: Tensor, b: Tensor) -> Tensor:
    """log (Φ(b) − Φ(a)) for a < b, from the tail in which neither term is near one."""
    flip = a > 0
    low, high = torch.where(flip, -b, a), torch.where(flip, -a, b)
    top = torch.special.log_ndtr(high)
    return top + torch.log(-torch.expm1(torch.special.log_ndtr(low) - top))


