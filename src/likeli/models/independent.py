"""Independent cells: the yardstick that every model with structure has to beat.

    p(x) = Π_i p_i(x_i)
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F

from likeli import processes
from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.errors import Unsupported, require
from likeli.gaussian.covariance import Mixture
from likeli.gaussian.missing import column_moments
from likeli.gaussian.truncated import restricted_gaussian
from likeli.models.symbols import after_end, places, present, smoothed
from likeli.probability.draw import draw
from likeli.random import Ambient, Noise
from likeli.spaces import Counts, Space, coding_of
from likeli.spaces.arrays import row_weights
from likeli.spaces.counts import NegativeBinomialCells
from likeli.spaces.region import Region, Restricted, pieces_of

DISPERSIONS = (-10.0, 12.0)  # log r of the most dispersed counts, and of such as are Poisson's
SMALLEST = 1e-9  # a constant column's standard deviation, in model units


class Independent(GenerativeModel):
    """Cell by cell in closed form: smoothed frequencies of symbols, histograms of a table's columns, normals for reals.

    Counts are negative-binomial, each cell of its own mean and dispersion.

    Arguments:
        space: pixels, binary cells, tokens, counts, reals or a table.
        smoothing: α added to every count of a symbol, and to each mean of counts as α/(n + α); ½ is Krichevsky and Trofimov's
            choice, 1 Laplace's.

    Source: Krichevsky & Trofimov (1981), the performance of universal encoding.
    """

    knows: ClassVar[Knows] = Knows.EXACT
    strategy: ClassVar[str] = "closed_form"
    kinds: ClassVar[tuple[str, ...]] = ("real", "binary", "pixels", "tokens", "counts", "table")
    calls: ClassVar[str] = "0"
    score_block: ClassVar[int | None] = None
    takes_missing: bool = True
    takes_weights: ClassVar[bool] = True

    def __init__(self, space: Space, smoothing: float = 0.5) -> None:
        super().__init__(space)
        require(smoothing > 0, "smoothing", "a positive number", smoothing)
        self.smoothing = smoothing
        self.cells = describe_cells(space)

    def fit_closed_form(
        self, x: Tensor, y: Tensor | None = None, *, seed: int = 0, sample_weight: Any = None
    ) -> None:
        """Smoothed frequencies (count + α) / (n + α·symbols), means and standard deviations; missing cells are left out."""
        weight = None if sample_weight is None else row_weights(sample_weight, len(x)).to(self.device)
        self.cells.fit(x.to(self.device), self.smoothing, weight)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) in nats, of the observed cells."""
        return -self.cells.log_prob(x)

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        """The exact value."""
        return LogLikelihood(self.cells.log_prob(x), Knows.EXACT, self.space.measure, dimensions=self.space.dimensions)

    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """Every cell by itself."""
        return self.cells.draw(noise)

    def fill(self, x: Tensor, y: Tensor | None, n: int, *, samples: int, seed: int) -> tuple[Tensor, None]:
        """n draws of missing cells, whatever the observed ones are."""
        noise = Ambient(x)
        return torch.stack([torch.where(x.isnan(), self.cells.draw(noise).to(x.dtype), x) for _ in range(n)]), None

    def restrict(self, region: Region) -> Restricted | None:
        """Rows of a region, every cell on what is allowed of it; None where cells are counts."""
        return self.cells.restrict(region)

    def next_log_pmf(self, x: Tensor, i: int) -> Tensor:
        """log P(x_i = s), (B, symbols): what a coder needs; of x it is only looked for its end.

        Raises:
            Unsupported: the cells are not symbols.
        """
        if not (isinstance(self.cells, Symbols) and self.space.symbols):
            raise Unsupported(f"a pmf for each symbol: {self.space.kind()} data have none; pixels, binary cells and tokens do")
        return after_end(self.cells.log_pmf[i].expand(len(x), -1), x.flatten(1)[:, :i], self.space.end)


class Symbols(nn.Module):
    """One pmf a cell, log_pmf (cells, symbols); where a symbol is an interval, the table says what is inside."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.coding = coding_of(space, "independent")
        self.register_buffer("has", present(self.coding.sizes), persistent=False)
        self.log_pmf = nn.Parameter(smoothed(self.has, 0), requires_grad=False)

    def fit(self, x: Tensor, smoothing: float, weight: Tensor | None = None) -> None:
        """Smoothed frequencies of rows that count `weight` times each, (n,); once if not given."""
        (cells, symbols), counts = self.log_pmf.shape, self.log_pmf.new_zeros(())
        for rows in torch.arange(len(x), device=x.device)[processes.share(len(x))].split(4096):
            each = None if weight is None else weight[rows].repeat_interleave(cells)
            at = places(self.coding.symbols(x[rows]), symbols).flatten()
            counts = counts + torch.bincount(at, each, minlength=cells * symbols + 1)
        (counts,) = processes.total(counts)
        self.log_pmf.copy_(smoothed(counts[:-1].view_as(self.log_pmf).double(), smoothing * self.has))

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B,)."""
        at = places(self.coding.symbols(x), self.log_pmf.shape[1])
        return F.pad(self.log_pmf.flatten(), (0, 1))[at].sum(1) + self.coding.log_within(x).sum(1)

    def draw(self, noise: Noise) -> Tensor:
        """(rows, *shape)."""
        pmf = D.Categorical(logits=self.log_pmf.expand(noise.rows, -1, -1), validate_args=False)
        return self.coding.values(draw(pmf, noise), noise)


    def restrict(self, region: Region) -> Restricted | None:
        """Every pmf on what is allowed of its cell."""
        pieces = pieces_of(region)
        if pieces is None:
            return None
        log_pmf = self.log_pmf + pieces.log_share.to(self.log_pmf.device)

        def draw_rows(noise: Noise) -> Tensor:
            pmf = D.Categorical(logits=log_pmf.expand(noise.rows, -1, -1), validate_args=False)
            return pieces.values(draw(pmf, noise), noise)

        return Restricted(draw_rows, math.nan if pieces.density else log_pmf.logsumexp(1).sum().item())


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

    def fit(self, x: Tensor, smoothing: float, weight: Tensor | None = None) -> None:
        """Means and standard deviations of the observed cells of rows that count `weight` times each, (n,)."""
        mean, std = moments_of(self._units(x)[0], weight)
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


    def restrict(self, region: Region) -> Restricted | None:
        """Every normal on what is allowed of its cell."""
        mixture = Mixture(torch.ones_like(self.mean[:1]), self.mean[None], self.std.diag()[None])
        return restricted_gaussian(mixture, region)


class NegativeBinomials(nn.Module):
    """One negative binomial a cell, of mean μ and variance μ + μ²/r."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.log_mean = nn.Parameter(torch.zeros(space.shape, dtype=torch.float64), requires_grad=False)
        self.log_dispersion = nn.Parameter(torch.zeros(space.shape, dtype=torch.float64), requires_grad=False)

    def fit(self, x: Tensor, smoothing: float, weight: Tensor | None = None) -> None:
        """The smoothed mean, and by halving the r of highest likelihood: Σ_i w_i [ψ(x_i + r) − ψ(r)] = Σ_i w_i·log(1 + μ/r)."""
        w, mine = x.new_ones(len(x), dtype=torch.float64) if weight is None else weight.double(), processes.share(len(x))
        total, blocks = w.sum(), list(zip(x[mine].split(1024), w[mine].split(1024)))
        (summed,) = processes.total(sum(torch.tensordot(v, block.double(), 1) for block, v in blocks))
        mean = (summed + smoothing) / (total + smoothing)
        low, high = (torch.full_like(mean, end) for end in DISPERSIONS)
        for _ in range(30):
            middle = (low + high) / 2
            r = middle.exp()
            (gain,) = processes.total(
                sum(torch.tensordot(v, (block.double() + r).digamma() - r.digamma(), 1) for block, v in blocks)
            )
            up = gain > total * (mean / r).log1p()
            low, high = torch.where(up, middle, low), torch.where(up, high, middle)
        self.log_mean.copy_(mean.log())
        self.log_dispersion.copy_((low + high) / 2)

    def _cells(self, rows: int) -> NegativeBinomialCells:
        return NegativeBinomialCells(self.log_mean.expand(rows, 1, *self.log_mean.shape), self.log_dispersion)

    def restrict(self, region: Region) -> None:
        """Counts have no names that a region could be of."""

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B,)."""
        return self._cells(len(x)).log_prob(x)

    def draw(self, noise: Noise) -> Tensor:
        """(rows, *shape)."""
        return self._cells(noise.rows).draw(noise)


def describe_cells(space: Space) -> Symbols | Normals | NegativeBinomials:
    """The cells of a space, each with its own distribution."""
    if isinstance(space, Counts):
        return NegativeBinomials(space)
    return Normals(space) if space.measure == "density" and space.coding is None else Symbols(space)


def moments_of(u: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column's observed cells; (0, 1) where there is none."""
    mean, variance = column_moments(u, weight)
    return mean.nan_to_num(0), variance.sqrt().nan_to_num(1).clamp(min=SMALLEST)


def log_normal(t: Tensor, std: Tensor) -> Tensor:
    """log of the normal density at t standard deviations from the mean."""
    return -0.5 * (t.square() + math.log(2 * math.pi)) - std.log()
