"""Whole numbers 0, 1, 2, … and their heads; terms that cancel are computed in double precision.

Two heads draw the total of a row first: how much was counted of a cell, and what it is made of, by themselves.

How deep a cell was sequenced says nothing of the cell, but of every gene's count: heads of independent counts leave it to the
code to hold it.  Here each row has a size of its own, which is integrated out in closed form,

    s ~ Γ(R, R/Λ),  x_i | s, z ~ Poisson(s·π_i(z))   ⇔   ℓ ~ NB(mean Λ, variance Λ + Λ²/R),  x | ℓ, z ~ Multinomial(ℓ, π(z))

with π = softmax of the decoder's numbers, ℓ = Σ_i x_i, and Λ and R learned, the same for every row, so that the code has no use
for the size.  Given the total, rates are ℓ·π: those of a model whose library size is the observed total.  But the product
P(x|z) = P(ℓ)·P(x|ℓ, z) is of the whole row and sums to 1 over all rows; nothing is conditioned on what is to be predicted, so
that log p(x) compares with that of any other family, and a draw needs no total from elsewhere.  (∏_i NB(x_i; mean ℓ·π_i) with ℓ
the row's own total is no such thing: over the rows of total ℓ it sums to less than 1, since independent counts miss it.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.errors import require
from likeli.random import Noise
from likeli.spaces.base import MAX_COUNT, Space, within_bin
from likeli.spaces.head import Cells, Emission, Observation, open_uniform

LARGEST = 25.0  # log of a mean
WIDE = 64  # columns, beyond which a distribution of each by itself is too much
PACE = 10  # of log Λ, which has far to go: Adam moves a number by about its rate a step
SMALL = 1e-8  # a gamma variable below it has the cdf g^α/Γ(α + 1) to double precision


class Counts(Space):
    """Whole numbers 0, 1, 2, …; a network sees log(1 + x).

    Arguments:
        shape: one example.
        names: column names.
    """

    measure = "mass"
    obstacle = ""
    rank = 3
    blank = -1

    @classmethod
    def recognise(cls, x: Tensor) -> str | None:
        """Whole numbers from 0 in rows, if half of them are 0 or there are many columns.

        Elsewhere a negative binomial, whose variance is above its mean, is wider than columns that are known by themselves.
        """
        whole = not x.is_floating_point() and x.ndim == 2 and bool((x >= 0).all())
        told = "whole numbers were taken as counts; kind='real', 'pixels', 'tokens' or 'table' takes them otherwise"
        return told if whole and (x.shape[1] > WIDE or int((x == 0).sum()) * 2 >= x.numel()) else None

    def __init__(self, shape: tuple[int, ...], names: tuple[str, ...] = ()) -> None:
        super().__init__(shape, names)

    def head(self) -> Observation:
        return NegativeBinomial().on(self)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        return self._whole(x, MAX_COUNT, what, "whole numbers from 0").long()

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return x.to(dtype).log1p()

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        size = 1 + x.double()
        n = within_bin(noise.uniform(*self.shape), 2 * torch.finfo(dtype).eps * size * size.log().clamp(min=1))
        u = (x.double() + n).log1p()
        return u.to(dtype), -u.flatten(1).sum(1).to(dtype)  # du/dx = 1/(1 + x + n) = exp(−u)

    def from_model(self, u: Tensor) -> Tensor:
        return u.double().expm1().floor().clamp(0, MAX_COUNT).long()


class CountCells(Cells):
    """Independent counts; `out` is (B, channels, *shape), its first channel the log of the mean."""

    def __init__(self, out: Tensor) -> None:
        super().__init__(out)
        self.log_mean = out[:, 0].double().clamp(-LARGEST, LARGEST)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp().to(self.out)

    def log_prob(self, x: Tensor) -> Tensor:
        """Σ_i log P(x_i|z), (B,)."""
        return super().log_prob(x.double()).to(self.out.dtype)

    def log_pmf(self, symbols: int = 256) -> Tensor:
        """log P(x_i = k | z) for k below `symbols`, (B, *shape, symbols); what is left of the mass lies above."""
        k = torch.arange(symbols, device=self.out.device, dtype=torch.double)
        shape = (len(self.out), *self.event_shape)
        return torch.stack([self.cell_log_prob(k[i].expand(shape)) for i in range(symbols)], -1)


class PoissonCells(CountCells):
    """Independent Poisson counts."""

    def cell_log_prob(self, x: Tensor) -> Tensor:
        return x * self.log_mean - self.log_mean.exp() - (x + 1).lgamma()

    def draw(self, noise: Noise) -> Tensor:
        from scipy import stats  # half a second, which only draws of counts have to spend

        return as_counts(stats.poisson.ppf(quantiles(noise, self), self.log_mean.exp().detach().cpu()), self)


class NegativeBinomialCells(CountCells):
    """Independent negative-binomial counts of mean μ and variance μ + μ²/r.

    Arguments:
        out: (B, channels, *shape).
        log_dispersion: log r, (*shape) or what broadcasts to it.
    """

    def __init__(self, out: Tensor, log_dispersion: Tensor) -> None:
        super().__init__(out)
        self.log_r = log_dispersion.double().clamp(-LARGEST, LARGEST)

    def cell_log_prob(self, x: Tensor) -> Tensor:
        r, odds = self.log_r.exp(), self.log_mean - self.log_r
        ways = (x + r).lgamma() - r.lgamma() - (x + 1).lgamma()
        return ways + r * F.logsigmoid(-odds) + x * F.logsigmoid(odds)

    def draw(self, noise: Noise) -> Tensor:
        return as_counts(self.quantile(quantiles(noise, self)), self)

    def quantile(self, u: Tensor) -> Tensor:
        """The smallest count whose cdf reaches u."""
        r, p = self.log_r.exp().detach().cpu(), (self.log_r - self.log_mean).sigmoid().detach().cpu()
        from scipy import stats

        return torch.as_tensor(stats.nbinom.ppf(u, r, p))


class ZeroInflatedCells(CountCells):
    """Independent counts that are 0 with probability π = σ(g) and negative-binomial otherwise; g is the second channel.

    Arguments:
        out: (B, 2, *shape).
        log_dispersion: log r of the negative binomial.
    """

    def __init__(self, out: Tensor, log_dispersion: Tensor) -> None:
        super().__init__(out)
        self.counts, self.gate = NegativeBinomialCells(out, log_dispersion), out[:, 1].double()

    def cell_log_prob(self, x: Tensor) -> Tensor:
        count = F.logsigmoid(-self.gate) + self.counts.cell_log_prob(x)
        return torch.where(x == 0, torch.logaddexp(F.logsigmoid(self.gate), count), count)

    @property
    def mean(self) -> Tensor:
        return (-self.gate).sigmoid().to(self.out) * self.counts.mean

    def draw(self, noise: Noise) -> Tensor:
        u, zero = quantiles(noise, self), self.gate.detach().sigmoid().cpu()
        rest = ((u - zero) / (1 - zero)).clamp(1e-12, 1 - 1e-12)
        return as_counts(torch.where(u < zero, 0.0, self.counts.quantile(rest)), self)


def quantiles(noise: Noise, p: Cells) -> Tensor:
    """One quantile for each cell, on the CPU, where scipy inverts the cdf."""
    return open_uniform(noise, *p.event_shape).cpu()


def as_counts(values: object, p: CountCells) -> Tensor:
    """Whole numbers on the device of p."""
    return torch.as_tensor(values).clamp(min=0).long().to(p.out.device)


class Poisson(Observation):
    """Counts of mean and variance λ = eˡ, l from the decoder."""

    spaces = (Counts,)

    @property
    def channels(self) -> int:
        return 1

    def read(self, out: Tensor) -> PoissonCells:
        return PoissonCells(out)


class DispersedCounts(Observation):
    """Counts with one learned dispersion for each cell; subclasses store `dispersion`, where it starts."""

    spaces = (Counts,)
    dispersion: float

    def bind(self) -> None:
        require(self.dispersion > 0, "dispersion", "a positive number", self.dispersion)
        self.log_dispersion = nn.Parameter(torch.full(self.space.shape, math.log(self.dispersion)))


class NegativeBinomial(DispersedCounts):
    """Overdispersed counts: mean μ = eˡ from the decoder, variance μ + μ²/r, r learned for each cell.

        P(x) = Γ(x + r) / (Γ(r) x!) · (r/(r + μ))ʳ (μ/(r + μ))ˣ

    Arguments:
        dispersion: r at the start.
    """

    def __init__(self, dispersion: float = 1.0) -> None:
        super().__init__()
        self.dispersion = dispersion

    @property
    def channels(self) -> int:
        return 1

    def read(self, out: Tensor) -> NegativeBinomialCells:
        return NegativeBinomialCells(out, self.log_dispersion)


class ZeroInflatedNegativeBinomial(DispersedCounts):
    """Negative-binomial counts with extra zeros: P(x) = π·[x = 0] + (1 − π)·NB(x), π from the decoder.

    Arguments:
        dispersion: r at the start.

    Source: Lopez et al. (2018), Nature Methods 15, 1053.
    """

    def __init__(self, dispersion: float = 1.0) -> None:
        super().__init__()
        self.dispersion = dispersion

    @property
    def channels(self) -> int:
        return 2

    def read(self, out: Tensor) -> ZeroInflatedCells:
        return ZeroInflatedCells(out, self.log_dispersion)


class Composition(Emission):
    """ℓ ~ NB(Λ, R), then ℓ counts with shares π, which are fixed, or Dirichlet(c·π) and integrated out.

        log P(x|z) = log NB(ℓ; Λ, R) + log ℓ! − Σ_i log x_i! + Σ_i x_i log π_i,
        or in place of the last sum  log Γ(c) − log Γ(ℓ + c) + Σ_i [log Γ(x_i + c·π_i) − log Γ(c·π_i)]

    Arguments:
        out: (B, 1, *shape), logits of π.
        log_size, log_dispersion: log Λ and log R of the total, scalars.
        log_concentration: log c, a scalar; None for fixed shares.
    """

    def __init__(self, out: Tensor, log_size: Tensor, log_dispersion: Tensor, log_concentration: Tensor | None = None) -> None:
        super().__init__(out)
        self.log_share = out[:, 0].double().flatten(1).clamp(-LARGEST, LARGEST).log_softmax(1)
        self.log_size = log_size.double().clamp(-LARGEST, LARGEST)
        self.log_r = log_dispersion.double().clamp(-LARGEST, LARGEST)
        self.log_c = None if log_concentration is None else log_concentration.double().clamp(-LARGEST, LARGEST)

    @property
    def mean(self) -> Tensor:
        """E[x|z] = Λ·π, (B, *shape)."""
        return (self.log_share + self.log_size).exp().to(self.out).reshape(-1, *self.event_shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log P(x|z), (B, *shape) → (B,)."""
        x = x.flatten(1).double()
        return (self.total_log_prob(x.sum(1)) + self.log_prob_given_total(x)).to(self.out.dtype)

    def total_log_prob(self, total: Tensor) -> Tensor:
        """log P(ℓ), (B,) → (B,)."""
        r, odds = self.log_r.exp(), self.log_size - self.log_r
        ways = (total + r).lgamma() - r.lgamma() - (total + 1).lgamma()
        return ways + r * F.logsigmoid(-odds) + total * F.logsigmoid(odds)

    def log_prob_given_total(self, x: Tensor) -> Tensor:
        """log P(x | ℓ = Σ_i x_i, z), (B, cells) → (B,)."""
        total = x.sum(1)
        ways = (total + 1).lgamma() - (x + 1).lgamma().sum(1)
        if self.log_c is None:
            return ways + (x * self.log_share).sum(1)
        c, alpha = self.log_c.exp(), (self.log_c + self.log_share).exp()
        return ways + c.lgamma() - (total + c).lgamma() + ((x + alpha).lgamma() - alpha.lgamma()).sum(1)

    @torch.no_grad()
    def draw(self, noise: Noise) -> Tensor:
        from scipy import stats

        share = self.log_share.exp().cpu()
        if self.log_c is not None:
            alpha = (self.log_c + self.log_share).exp().cpu()
            share = log_gamma_quantile(open_uniform(noise, share.shape[1]).cpu(), alpha).softmax(1)
        size = torch.as_tensor(stats.gamma.ppf(open_uniform(noise).cpu(), self.log_r.exp().item())) / self.log_r.exp().cpu()
        rate = (size * self.log_size.exp().cpu())[:, None] * share
        x = torch.as_tensor(stats.poisson.ppf(open_uniform(noise, share.shape[1]).cpu(), rate))
        return x.clamp(min=0).long().reshape(-1, *self.event_shape).to(self.out.device)


def log_gamma_quantile(u: Tensor, alpha: Tensor) -> Tensor:
    """log g with P(Γ(α, 1) < g) = u, elementwise, also where g is too small to be stored."""
    from scipy import stats

    low = (u.log() + (alpha + 1).lgamma()) / alpha
    return torch.where(low < math.log(SMALL), low, torch.as_tensor(stats.gamma.ppf(u, alpha)).clamp(min=SMALL / 2).log())


class TotalFirst(Observation):
    """A head that draws the total first, of mean Λ = cells·e^(10·size); subclasses store `size_dispersion`, where R starts."""

    spaces = (Counts,)
    cellwise = False
    size_dispersion: float

    @property
    def channels(self) -> int:
        return 1

    @property
    def log_size(self) -> Tensor:
        """log Λ, a scalar in double precision."""
        return math.log(self.space.dimensions) + PACE * self.size.double()

    def bind(self) -> None:
        require(self.size_dispersion > 0, "size_dispersion", "a positive number", self.size_dispersion)
        self.size = nn.Parameter(torch.zeros(()))
        self.log_size_dispersion = nn.Parameter(torch.tensor(math.log(self.size_dispersion)))


class Multinomial(TotalFirst):
    """Counts whose total is negative-binomial, and multinomial given it.

    Arguments:
        size_dispersion: R at the start; the total's variance is Λ + Λ²/R.

    Source: Townes et al. (2019), Genome Biology 20, 295, for multinomial counts of cells.
    """

    def __init__(self, size_dispersion: float = 3.0) -> None:
        super().__init__()
        self.size_dispersion = size_dispersion

    def read(self, out: Tensor) -> Composition:
        return Composition(out, self.log_size, self.log_size_dispersion)


class DirichletMultinomial(TotalFirst):
    """Counts whose total is negative-binomial, and whose shares vary from row to row about those that the decoder gives.

        shares ~ Dirichlet(c·π), integrated out; given ℓ the variance of x_i is ℓ π_i (1 − π_i) (ℓ + c)/(1 + c)

    Arguments:
        size_dispersion: R at the start; the total's variance is Λ + Λ²/R.
        concentration: c at the start; as many as there are cells if not given.
    """

    def __init__(self, size_dispersion: float = 3.0, concentration: float | None = None) -> None:
        super().__init__()
        self.size_dispersion, self.concentration = size_dispersion, concentration

    def bind(self) -> None:
        super().bind()
        c = self.space.dimensions if self.concentration is None else self.concentration
        require(c > 0, "concentration", "a positive number", self.concentration)
        self.log_concentration = nn.Parameter(torch.tensor(math.log(c)))

    def read(self, out: Tensor) -> Composition:
        return Composition(out, self.log_size, self.log_size_dispersion, self.log_concentration)
