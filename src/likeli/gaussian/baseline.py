"""A joint Gaussian of a table's columns, and what it foretells of the cell of one column given any others.

    z ~ N(μ, Σ),   P(cell of x_j ≥ c | cell in [l, h), z_S) = (Φ(t_h) − Φ(t_c)) / (Φ(t_h) − Φ(t_l)),   t = (end − E[z_j|z_S])/sd

z of a number is on its own scale or that of its normal score Φ⁻¹(F̂(x)), whichever makes columns depend on each other more
(−½ log|R| of the correlations R); a column of names has an indicator for every name but the most frequent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from likeli.errors import CheckpointError, require
from likeli.gaussian.covariance import COVARIANCES, Mixture
from likeli.gaussian.em import masked, maximise
from likeli.gaussian.missing import group_rows
from likeli.random import permutation
from likeli.spaces.marginal import Marginals

WIDEST = 160  # features, beyond which each of many patterns of seen cells takes too long to condition on
ROWS, STEPS, GAIN = 4000, 40, 1e-3  # rows that it is fitted to, iterations of EM, and nats a row that end them
FLOOR = 1e-4  # share of a feature's variance that is left of it whatever is seen
FARTHEST = 12.0  # nats that a question's answer is sure of at most
NUMBERS = 2**22  # in one batch of matrices


class JointGaussian(nn.Module):
    """The Gaussian of columns with marginals, how far each may trust it (0 to about 1), and nothing before it is `fit`.

    Arguments:
        coding: the columns.
        features: how many it was fitted to; 0 for none.
    """

    mean: Tensor | None
    covariance: Tensor
    scored: Tensor
    trust: Tensor

    def __init__(self, coding: Marginals, features: int = 0) -> None:
        super().__init__()
        found, self.of = list[tuple[int, int]](), list[int]()  # (column, name or −1) of a feature; a number's feature, or −1
        for j, size in enumerate(coding.sizes):
            often = int(coding.mass[j, :size].argmax())
            self.of.append(-1 if coding.nominal[j] else len(found))
            found += [(j, c) for c in range(size) if c != often] if coding.nominal[j] else [(j, -1)]
        self.column, self.name = torch.tensor(found, dtype=torch.int64).reshape(-1, 2).T
        self.coding = coding
        require(features in (0, len(found)), "features", f"0 or {len(found)}, as the columns have", features)
        self._hold(features)

    def _hold(self, features: int) -> None:
        """Buffers for so many features; none at all for none."""
        one = {"dtype": torch.float64}
        self.register_buffer("mean", torch.zeros(features, **one) if features else None)
        self.register_buffer("covariance", torch.eye(features, **one) if features else None)
        self.register_buffer("scored", torch.tensor(False) if features else None)  # whether z of a number is its score
        self.register_buffer("trust", torch.zeros(len(self.of), **one) if features else None)

    @property
    def known(self) -> bool:
        """Whether there is one."""
        return self.mean is not None

    def fit(self, x: Tensor, weight: Tensor, seed: int) -> None:
        """Take the scale on which columns depend on each other more; x (n, D), weight (n,).  Too wide a table is left."""
        if len(self.column) > WIDEST:
            return
        self._hold(len(self.column))
        kept, found = weight > 0, []
        for scored in (False, True):
            found.append((scored, *joint_gaussian(self.values(x[kept], scored), weight[kept], seed)))
        scored, mean, covariance = max(found, key=lambda one: dependence(one[2]))
        self.scored.fill_(scored)
        self.mean.copy_(mean)
        self.covariance.copy_(covariance)

    def values(self, x: Tensor, scored: bool | None = None) -> Tensor:
        """z (n, F) of rows (n, D), NaN where a cell is missing; no features where nothing is known."""
        if not self.known:
            return x[:, :0]
        scored = bool(self.scored) if scored is None else scored
        column, name = self.column.to(x.device), self.name.to(x.device)
        if scored:
            z = self.coding.scale(x, torch.full((), 0.5, dtype=torch.float64, device=x.device))[0]
        else:
            start, span = (t.to(x.device).flatten() for t in (self.coding.start, self.coding.span))
            z = (x - start) / span
        z, v = z[:, column], x[:, column]
        return torch.where(name >= 0, torch.where(v.isnan(), v, (v == name).double()), z)

    def ends(self, j: int) -> Tensor | None:
        """Where the cells of a column of numbers meet on the scale of z, (cells + 1,), infinite outside; None of names."""
        if not self.known or self.of[j] < 0:
            return None
        size, c = self.coding.sizes[j], self.coding
        if self.scored:
            ends = torch.special.ndtri(c.before[j, 1:size].clamp(0, 1))
        else:
            ends = ((c.high[j, : size - 1] + c.low[j, 1:size]) / 2 - c.start[j]) / c.span[j]
        infinite = torch.full((1,), torch.inf, dtype=torch.float64)
        return torch.cat([-infinite, ends, infinite]).to(self.mean.device)

    def foretell(self, z: Tensor, j: int, *, earlier: bool) -> tuple[Tensor, Tensor]:
        """E[z_j | seen cells] and its standard deviation, (B,) each; 0 and 1 where nothing is known.

        Arguments:
            z: (B, F), `values` of rows whose cells are NaN where they are not seen.
            earlier: whether only columns before j are seen.
        """
        if not self.known or self.of[j] < 0:
            return z.new_zeros(len(z)), z.new_ones(len(z))
        column = self.column.to(z.device)
        seen = ~z.isnan() & ((column < j) if earlier else (column != j))
        return foretold(z, seen, self.mean.double(), self.covariance.double(), self.of[j])

    def odds(self, column: Tensor, cuts: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """a·logit P_Gauss of questions about columns (n,), of cells low, cut and high (n, 3); 0 where nothing is known."""
        out = torch.zeros_like(mean)
        for j in column.unique().tolist() if self.known else []:
            ends, here = self.ends(j), (column == j).nonzero()[:, 0]
            if ends is not None:
                out[here] = self.trust[j].double() * log_odds(ends[cuts[here]], mean[here], spread[here])
        return out

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Also takes one where there was none; what is no covariance is refused."""
        if not self.known and len(state.get(f"{prefix}mean", ())) == len(self.column):
            self._hold(len(self.column))
        super()._load_from_state_dict(state, prefix, *args)
        sound = not self.known or int(torch.linalg.cholesky_ex(self.covariance)[1]) == 0
        require(sound, "joint Gaussian", "a positive definite covariance", "another", CheckpointError)


def joint_gaussian(z: Tensor, weight: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """μ (F,) and Σ (F, F) of rows with missing cells (n, F), by EM."""
    rows = permutation(len(z), seed, "baseline")[:ROWS]
    z, weight = z[rows], weight[rows].to(z)
    seen = ~z.isnan()
    n = (weight[:, None] * seen).sum(0).clamp(min=1)
    centre = (weight[:, None] * z.nan_to_num(0)).sum(0) / n
    scale = ((weight[:, None] * torch.where(seen, z - centre, 0).square()).sum(0) / n).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    v, kind, f = (z - centre) / scale, COVARIANCES["full"], z.shape[1]
    p = Mixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, f, dtype=torch.float64), kind.standard(1, f))
    groups, before = group_rows(seen, 1), -np.inf
    for _ in range(STEPS):
        found = masked(v, p, kind, groups, weight)
        p, _ = maximise(found, p, kind, FLOOR)
        value = found.log_likelihood.item() / weight.sum().item()
        if value - before < GAIN:
            break
        before = value
    tril = kind.dense(p.factor, 1, f)[0] * scale[:, None]
    return centre + p.means[0] * scale, tril @ tril.T


def dependence(covariance: Tensor) -> float:
    """−½ log|R|, R the correlations: the nats that columns tell of each other."""
    sd = covariance.diagonal().sqrt()
    return -0.5 * torch.linalg.slogdet(covariance / sd[:, None] / sd)[1].item()


def foretold(z: Tensor, seen: Tensor, mean: Tensor, covariance: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """E[z_i | z_S] and its standard deviation, both (n,), S the features that are seen (n, F) without i."""
    seen = seen.clone()
    seen[:, i] = False
    patterns, which = np.unique(seen.cpu().numpy(), axis=0, return_inverse=True)
    shown = torch.from_numpy(patterns).to(z.device)
    slopes, left = [], []
    for some in shown.split(max(1, NUMBERS // z.shape[1] ** 2)):
        both = some[:, :, None] & some[:, None, :]
        matrix = torch.where(both, covariance, 0) + torch.diag_embed((~some).double())
        across = torch.where(some, covariance[i], 0)
        beta = torch.linalg.solve(matrix, across[..., None])[..., 0]
        slopes.append(beta)
        left.append(covariance[i, i] - (beta * across).sum(1))
    beta, spread = torch.cat(slopes), torch.cat(left).clamp(min=FLOOR * covariance[i, i].item()).sqrt()
    at = torch.from_numpy(which.reshape(-1)).to(z.device)
    return mean[i] + (torch.where(seen, z - mean, 0) * beta[at]).sum(1), spread[at]


def log_odds(ends: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """log P(second)/P(first) of a question whose cells lie between ends (n, 3), for z ~ N(mean, spread²), each (n,)."""
    t = (ends - mean[:, None]) / spread[:, None]
    return (_log_mass(t[:, 1], t[:, 2]) - _log_mass(t[:, 0], t[:, 1])).nan_to_num(0).clamp(-FARTHEST, FARTHEST)


def _log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Φ(high) − Φ(low)), from the side where both are small."""
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return log_high + torch.log1p(-(log_low - log_high).exp())
