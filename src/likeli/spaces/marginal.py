"""The distribution of one column by itself: exact values with their own mass, intervals between them, and two tails.

A column's values are cut into cells in ascending order.  A cell is one exact value (an atom) or an interval in which the
distribution is uniform, and the outermost cells lead on into tails P(beyond by y) ∝ 1/(1 + y/span), so that no value is
impossible.  The cell of x is a symbol, which is all that a discrete family needs; F̂, the distribution function, gives the
monotone scale u = Φ⁻¹(F̂(x)) that a continuous one sees, on which each atom is an interval of its own mass.

An end that is a bound has no tail: whatever a family makes of the column, p is 0 beyond it and normalised without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.config import Configurable
from likeli.errors import require
from likeli.random import Noise
from likeli.spaces.base import Coding, Space

FEWEST_ROWS = 8  # that an exact value must have to be an atom
SHARE = 0.01  # of the rows, that an exact value of a real column must have besides
EXCESS = 5.0  # how many times the mean number of rows of a distinct value make a spike, where there are many whole numbers
ATOMS, INTERVALS = 128, 64  # at most, in one column
UNSEEN = 0.1  # rows' worth of mass that every cell has beforehand, seen or not
TO_BOUND = 0.5  # rows' worth of mass between the outermost value and a bound beyond it, as a tail has
End = Literal["observed", "open", "bound"]
Limit = float | Literal["open"] | None


class Marginal(Configurable):
    """Cells of one column in ascending order.

    Arguments:
        low, high: the ends of each cell, both inside it; equal in an atom.
        mass: the share of rows of each, adding up to 1.
        escape: the share beyond the two ends, half at each, taken from the outermost cells; none beyond a bound.
        ends: what lies beyond the first and the last cell: a tail of p that no sample enters (observed), one that samples enter
            too (open), or nothing (bound).
    """

    def __init__(
        self, low: tuple[float, ...], high: tuple[float, ...], mass: tuple[float, ...], escape: float,
        ends: tuple[End, End] = ("observed", "observed"),
    ) -> None:  # fmt: skip
        self.low, self.high, self.mass, self.escape, self.ends = tuple(low), tuple(high), tuple(mass), escape, tuple(ends)
        require(1 <= len(low) == len(high) == len(mass), "low, high, mass", "as many as each other", len(mass))
        ordered = all(a <= b for a, b in zip(low, high)) and all(b <= a for b, a in zip(high, low[1:]))
        require(ordered, "low, high", "cells in ascending order that do not overlap", "others")
        require(all(m > 0 for m in mass), "mass", "positive numbers", min(mass))
        require(abs(math.fsum(mass) - 1) < 1e-6, "mass", "a sum of 1", math.fsum(mass))
        require(0 <= escape < min(mass[0], mass[-1]), "escape", "less than each outermost cell", escape)

    @property
    def atoms(self) -> dict[float, float]:
        """The exact values and their masses."""
        return {a: m for a, b, m in zip(self.low, self.high, self.mass) if a == b}

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that is possible, ±∞ where there is no bound."""
        first, last = (end == "bound" for end in self.ends)
        return self.low[0] if first else -math.inf, self.high[-1] if last else math.inf

    @classmethod
    def normal(cls, mean: float, scale: float, whole: bool, cells: int = 32) -> Marginal:
        """Quantile cells of N(mean, scale²): what a column has of which no rows were seen."""
        law, escape = NormalDist(mean, scale), 1e-3
        ends = [law.inv_cdf(p) for p in np.linspace(escape / 2, 1 - escape / 2, cells + 1)]
        if whole:
            ends = sorted({math.floor(e) for e in ends} | {math.floor(mean) + 1})
        mass = np.diff([law.cdf(e) for e in ends])
        mass /= mass.sum()
        low, high = tuple(map(float, ends[:-1])), tuple(float(e - whole) for e in ends[1:])
        return cls(low, high, tuple(mass.tolist()), min(escape, mass.min().item() / 2))

    @classmethod
    def even(cls, symbols: int) -> Marginal:
        """Codes 0 … symbols − 1 of equal mass."""
        codes = tuple(map(float, range(symbols)))
        return cls(codes, codes, (1 / symbols,) * symbols, 0.0)

    @classmethod
    def of_codes(cls, x: np.ndarray, symbols: int) -> Marginal:
        """The frequencies of codes 0 … symbols − 1."""
        mass = np.bincount(x.astype(np.int64), minlength=symbols) + UNSEEN
        codes = tuple(map(float, range(symbols)))
        return cls(codes, codes, tuple((mass / mass.sum()).tolist()), 0.0)

    @classmethod
    def found(cls, x: np.ndarray, whole: bool, columns: int = 1, limits: tuple[Limit, Limit] = (None, None)) -> Marginal:
        """The cells of observed values x (n,) float64.

        An atom is a value that at least 8 rows share: a whole number where there are few distinct ones or where it has five
        times the rows of the usual one, and a real number that 1 % of the rows share.  The other values are cut at their
        quantiles into 2n^⅓ cells, and both ends again at halves of halves, where heavy tails are.

        Arguments:
            whole: whether the column holds whole numbers only.
            columns: of the table; many columns get fewer cells each.
            limits: a bound at each end, none of them inside the values; `open` where samples may go beyond the values.
        """
        least_value, most_value = (np.array([] if isinstance(v, (str, type(None))) else [v], np.float64) for v in limits)
        most_atoms, most_cells = (ATOMS, INTERVALS) if columns <= 64 else (ATOMS // 4, INTERVALS // 3)
        values, counts = np.unique(x, return_counts=True)
        n, few = len(x), len(values) <= most_atoms
        least = max(FEWEST_ROWS, (0 if few else EXCESS * n / len(values)) if whole else SHARE * n)
        spike = counts >= min(least, n) if len(values) > 1 else np.ones(1, bool)
        if spike.sum() > most_atoms:
            spike &= counts > np.sort(counts[spike])[-most_atoms - 1]
        atoms, rest = values[spike], np.repeat(values[~spike], counts[~spike])
        ends = quantile_ends(rest, most_cells)
        if whole:
            ends = np.concatenate([np.ceil(ends), least_value, most_value + 1])
            cuts = np.unique(np.concatenate([ends, atoms, atoms + 1, values[:1], values[-1:] + 1]))
            low, high = cuts[:-1], cuts[1:] - 1
        else:
            cuts = np.unique(np.concatenate([ends, atoms, values[:1], values[-1:], least_value, most_value]))
            low, high = np.sort(np.concatenate([cuts[:-1], atoms])), np.sort(np.concatenate([cuts[1:], atoms]))
        seen = np.bincount(cell_of(x, low, high), minlength=len(low))
        mass = seen + UNSEEN
        mass[[0, -1]] = np.maximum(mass[[0, -1]], np.where([len(least_value), len(most_value)], TO_BOUND, 0))
        kinds: list[End] = ["open" if v == "open" else "observed" if v is None else "bound" for v in limits]
        escape = 0.0 if kinds == ["bound"] * 2 else float(min(1.0, mass[0], mass[-1]) / (mass.sum() + 1))
        share = tuple((mass / mass.sum()).tolist())
        return cls(tuple(low.tolist()), tuple(high.tolist()), share, escape, (kinds[0], kinds[1]))


def quantile_ends(x: np.ndarray, most: int) -> np.ndarray:
    """Ends of about 2n^⅓ intervals of equal share, at most `most`, whose outermost are halved while 8 rows are left."""
    if not len(x):
        return x
    n = len(x)
    shares = np.linspace(0, 1, min(most, math.ceil(2 * n ** (1 / 3))) + 1)
    halves = 0.5 ** np.arange(1, max(2, math.log2(n / FEWEST_ROWS)))
    return np.quantile(x, np.unique(np.concatenate([shares, halves, 1 - halves])), method="inverted_cdf")


def cell_of(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The cell of each value: the first whose upper end is not below it, or the atom after that."""
    k = np.searchsorted(high, x).clip(max=len(high) - 1)
    after = np.minimum(k + 1, len(high) - 1)
    return np.where((low[after] == x) & (high[after] == x), after, k)


class Marginals(Coding):
    """Several columns' marginals as padded tensors: symbols of values, and the scale u = Φ⁻¹(F̂(x)).

    Arguments:
        columns: a marginal for each column.
        whole: (columns,), whether a column's values are whole numbers (or codes).
        nominal: (columns,), whether they are codes; none if not given.
    """

    def __init__(self, columns: Sequence[Marginal], whole: Tensor, nominal: Tensor | None = None) -> None:
        self.nominal = torch.zeros_like(whole) if nominal is None else nominal
        self.whole, self.sizes = whole, tuple(len(c.mass) for c in columns)
        pad = torch.full((len(columns), max(self.sizes)), torch.inf, dtype=torch.float64)
        self.low, self.high, mass = pad.clone(), pad.clone(), torch.zeros_like(pad)
        for i, c in enumerate(columns):
            for row, values in ((self.low[i], c.low), (self.high[i], c.high), (mass[i], c.mass)):
                row[: len(values)] = torch.tensor(values, dtype=torch.float64)
        self.last = torch.tensor(self.sizes)[:, None] - 1
        self.mass, self.start = mass / mass.sum(1, keepdim=True), self.low[:, :1]
        self.end = self.high.gather(1, self.last)
        self.span = (self.end - self.start + whole[:, None]).clamp(min=torch.finfo(torch.float64).tiny)
        self.span = torch.where(self.end > self.start, self.span, 1.0)

        self.middles = ((self.low + self.high) / 2).nan_to_num(posinf=0)
        half = torch.tensor([c.escape / 2 for c in columns], dtype=torch.float64)
        kinds = [[c.ends[i] for c in columns] for i in (0, 1)]
        which = ("bound", "open", "observed")
        bound, self.open, self.kept = (torch.tensor([[e == word for e in k] for k in kinds]) for word in which)
        self.below, self.above = (half * ~bound)[:, :, None]  # the mass beyond each end, (columns, 1)
        self.inner = self.mass.clone()  # of a cell without its tail
        self.inner[:, :1] -= self.below
        self.inner.scatter_add_(1, self.last, -self.above)
        self.before = self.inner.cumsum(1) - self.inner + self.below  # F̂ at a cell's lower end
        self.after = self.inner.flip(1).cumsum(1).flip(1) - self.inner + self.above  # 1 − F̂ at its upper end
        self.size = torch.where(self.low == self.high, 1.0, self.high - self.low + whole[:, None].double()).nan_to_num(1.0)

    def symbols(self, x: Tensor) -> Tensor:
        """(B, columns) → the cell of each value (B, columns) int64, −1 where it is missing."""
        high, low, last = self.high.to(x.device), self.low.to(x.device), self.last.to(x.device)
        v = x.double().nan_to_num(0).T.contiguous()
        k = torch.minimum(torch.searchsorted(high, v), last)
        after = torch.minimum(k + 1, last)
        k = torch.where((low.gather(1, after) == v) & (high.gather(1, after) == v), after, k)
        return k.T.masked_fill(x.isnan(), -1)

    def log_within(self, x: Tensor) -> Tensor:
        """log p(x | its cell), (B, columns): a density where the column is real and the cell an interval; 0 where missing."""
        x, symbols = x.double(), self.symbols(x)
        at = [t.to(x.device).T.gather(0, symbols.clamp(min=0)) for t in (self.low, self.high, self.mass, self.inner, self.size)]
        low, high, mass, inner, size = at
        lower, upper, span, whole = (t.to(x.device).flatten() for t in (self.below, self.above, self.span, self.whole))
        y, tail = torch.maximum(x - high, low - x), torch.where(x > high, upper, lower)
        far = tail.log() - span.log() - (1 + (y - whole.double()).clamp(min=0) / span).log() - (1 + y.clamp(min=0) / span).log()
        return torch.where(y > 0, far - mass.log(), inner.log() - mass.log() - size.log()).masked_fill(symbols < 0, 0)

    def scale(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """u = Φ⁻¹(F̂(x + n)) and log|∂u/∂(x + n)|, both (B, columns) float64, NaN and 0 where x is missing.

        Arguments:
            x: values.
            n: in [0, 1): the place inside a whole number's bin, or inside the interval that a real atom takes.
        """
        k = self.symbols(x)
        parts = (self.low, self.high, self.inner, self.size, self.before, self.after)
        low, high, inner, size, before, after = (t.to(x.device).T.gather(0, k.clamp(min=0)) for t in parts)
        lower, upper, span, whole = (t.to(x.device).flatten() for t in (self.below, self.above, self.span, self.whole))
        t = torch.where(whole | (low == high), (x - low + n) / size, (x - low) / size)
        below, above = low - x, x - high
        tail = torch.where(above > 0, upper, lower)
        distance = torch.where(above > 0, above - torch.where(whole, 1 - n, 0), below - torch.where(whole, n, 0)).clamp(min=0)
        outer = (tail / (1 + distance / span)).clamp(min=torch.finfo(tail.dtype).tiny)
        f = torch.where(below > 0, outer, before + inner * t)
        s = torch.where(above > 0, outer, after + inner * (1 - t))
        f, s = torch.where(above > 0, 1 - s, f), torch.where(below > 0, 1 - f, s)
        u = torch.where(f <= s, torch.special.ndtri(f), -torch.special.ndtri(s))
        beyond = outer.log() - span.log() - (distance / span).log1p()
        slope = torch.where((below > 0) | (above > 0), beyond, inner.log() - size.log())
        log_slope = slope + 0.5 * u.square() + 0.5 * math.log(2 * math.pi)
        return u.masked_fill(k < 0, torch.nan), log_slope.masked_fill(k < 0, 0)

    def unscale(self, u: Tensor) -> Tensor:
        """The inverse of `scale`, (B, columns) float64: the value in whose bin, interval or tail u lies."""
        f, s = torch.special.ndtr(u.double()), torch.special.ndtr(-u.double())
        lower, upper, span, whole = (t.to(u.device).flatten() for t in (self.below, self.above, self.span, self.whole))
        ends = (self.before + self.inner)[:, :-1].contiguous().to(u.device)
        k = torch.minimum(torch.searchsorted(ends, f.T.contiguous(), right=True), self.last.to(u.device)).T
        parts = (self.low, self.high, self.inner, self.size, self.before, self.after)
        low, high, inner, size, before, after = (t.to(u.device).T.gather(0, k) for t in parts)
        t = torch.where(f <= s, (f - before) / inner, 1 - (s - after) / inner).clamp(0, 1)
        inside = torch.where(whole, torch.minimum(low + (t * size).floor(), high), low + t * (high - low))
        tail = torch.where(f < s, lower, upper)
        beyond = span * (tail / torch.minimum(f, s).clamp(min=torch.finfo(f.dtype).tiny) - 1)
        beyond = torch.where(whole, beyond.floor() + 1, beyond)
        x = torch.where((f < lower) & (f < s), self.start.to(u.device).flatten() - beyond, inside)
        return torch.where((s < upper) & (s < f), self.end.to(u.device).flatten() + beyond, x)

    def values(self, symbols: Tensor, noise: Noise) -> Tensor:
        """Values (B, columns) of cells, uniform inside each; none beyond what was observed, except at open ends."""
        n = noise.uniform(len(self.sizes)).double()
        return self.placed(symbols, n) if not self.open.any() else self._with_tails(symbols, n)

    def placed(self, symbols: Tensor, t: Tensor) -> Tensor:
        """The values (B, columns) at the shares t ∈ [0, 1] of the ways through cells (B, columns)."""
        low, high, size = (v.to(t.device).T.gather(0, symbols) for v in (self.low, self.high, self.size))
        return torch.where(self.whole.to(t.device), torch.minimum(low + (t * size).floor(), high), low + t * (high - low))

    def _with_tails(self, symbols: Tensor, n: Tensor) -> Tensor:
        """`values` where a share of the outermost cells, that of their open tails, is drawn beyond them."""
        mass, tiny = self.mass.to(n.device).T.gather(0, symbols), torch.finfo(n.dtype).tiny
        outermost = symbols == 0, symbols == self.last.to(n.device).flatten()
        tails = zip(outermost, (self.below, self.above), self.open.to(n.device))
        lower, upper = (torch.where(at & is_open, tail.to(n.device).flatten() / mass, 0) for at, tail, is_open in tails)
        x = self.placed(symbols, ((n - lower) / (1 - lower - upper)).clamp(0, 1))
        span, whole = self.span.to(n.device).flatten(), self.whole.to(n.device)
        ends = ((n, lower, self.start, -1), (1 - n, upper, self.end, 1))
        for left, share, end, sign in ends:
            y = span * (share / left.clamp(min=tiny) - 1)
            y = torch.where(whole, y.floor() + 1, y)
            x = torch.where(left < share, end.to(n.device).flatten() + sign * y, x)
        return x

    def confined(self, x: Tensor) -> Tensor:
        """Draws (B, columns) with those beyond an observed end put into the outermost cell, as evenly as the tail was drawn.

        A tail's value at the distance y is at the share 1/(1 + y/span) of its own law, which becomes the place in the cell; the
        law of the draws changes by at most the tails' masses, less than one row in n for a column.
        """
        x, span, whole = x.double(), self.span.to(x.device).flatten(), self.whole.to(x.device)
        cells = torch.zeros_like(x, dtype=torch.long), self.last.to(x.device).flatten().expand_as(x)
        distances = self.start.to(x.device).flatten() - x, x - self.end.to(x.device).flatten()
        for y, cell, kept in zip(distances, cells, self.kept.to(x.device)):
            t = 1 / (1 + (y - 0.5 * whole).clamp(min=0) / span)
            x = torch.where((y > 0) & kept, self.placed(cell, t), x)
        return x


class UnitVectors(Space):
    """The symbols of a row, a unit vector of K_i numbers for a cell of K_i symbols: two of them are √2 apart in every cell.

    A category, an atom and an interval between atoms are one symbol each, so that spikes are as far from their neighbours as
    names are; the density within an interval needs no diffusion.  A missing cell is NaN in all of its numbers.

    Arguments:
        of: rows whose cells are coded by marginals.
    """

    spacing = math.sqrt(2)

    def __init__(self, of: Space) -> None:
        super().__init__(of.shape, of.names)
        assert isinstance(of.coding, Marginals)
        self.of, self.coding, self.measure, self.categorical = of, of.coding, of.measure, of.categorical
        self.sizes, self.symbols = self.coding.sizes, max(self.coding.sizes)
        sizes, k = torch.tensor(self.sizes), torch.arange(self.symbols)[:, None]
        self.first = sizes.cumsum(0) - sizes  # of each cell's numbers in a row
        self.places = torch.where(k < sizes, self.first + k, sum(self.sizes))  # of each symbol's number, (K, cells)
        self.log_prior = torch.cat([m[:size] for m, size in zip(self.coding.mass.log(), self.sizes)])

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (sum(self.sizes),)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        return self.of._check_values(x, what, missing)

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        codes = self.coding.symbols(x)
        gone = (codes < 0).repeat_interleave(torch.tensor(self.sizes, device=x.device), 1)
        u = torch.zeros(len(x), sum(self.sizes), dtype=dtype, device=x.device)
        return u.scatter_(1, codes.clamp(min=0) + self.first.to(x.device), 1.0).masked_fill(gone, torch.nan)

    def from_model(self, u: Tensor) -> Tensor:
        """The middle of the nearest symbol, or the code of a name."""
        nearest = self.by_symbol(u).argmax(1)
        return self.coding.placed(nearest, torch.full(nearest.shape, 0.5, dtype=torch.float64, device=u.device))

    def near(self, u: Tensor, noise: Noise) -> Tensor:
        """The nearest symbols as values, of which a place in an interval is drawn."""
        return self.coding.values(self.by_symbol(u).argmax(1), noise)

    def by_symbol(self, u: Tensor) -> Tensor:
        """The numbers of unit vectors (B, *model_shape) as (B, symbols, *shape), −∞ where a cell has fewer."""
        padded = F.pad(u, (0, 1), value=-torch.inf)
        return padded[:, self.places.to(u.device).flatten()].reshape(len(u), *self.places.shape)

    def by_cell(self, logits: Tensor) -> Tensor:
        """The softmax over each cell's symbols, (B, *model_shape) → (B, *model_shape)."""
        return torch.cat([part.softmax(1) for part in logits.split(self.sizes, 1)], 1)
