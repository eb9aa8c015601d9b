"""Mixtures of Gaussians on a region: values without mass conditioned on, then columns truncated.

    P(k | S) ∝ w_k P_k(u_S ∈ S),   u_S truncated,   u = z + Σ_·S Σ_SS⁻¹ (u_S − z_S) with z ~ N(m_k, Σ_k)

where the columns S do not correlate within a component; of those that do only the one of least probability is truncated, and
whoever draws looks whether the others hold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch import distributions as D

from likeli.gaussian.covariance import Mixture
from likeli.probability.draw import draw
from likeli.random import Noise
from likeli.spaces import Space
from likeli.spaces.base import confined
from likeli.spaces.marginal import Marginals
from likeli.spaces.region import Region, Restricted


def restricted_gaussian(p: Mixture, region: Region) -> Restricted | None:
    """How rows of a region, or of a wider one, are drawn from a mixture p of a space's model units; None of other spaces.

    Arguments:
        p: weights (K,), means (K, D), lower triangles (K, D, D).
    """
    space = region.space
    if not (isinstance(space.coding, Marginals) or (space.measure == "density" and space.coding is None)):
        return None
    sets = {i: u_intervals(space, i, known) for i, known in region.allowed.items()}
    fixed = {i: ends[0, 0] for i, ends in sets.items() if len(ends) == 1 and ends[0, 0] == ends[0, 1]}
    p, rest = given_values(p, fixed)
    sets = {i: ends[ends[:, 1] > ends[:, 0]] for i, ends in sets.items() if i not in fixed}
    sets = {rest.index(i): ends for i, ends in sets.items() if len(ends)}
    weights, means, tril = p
    covariance = tril @ tril.mT
    log_mass = {i: log_masses(means[:, i], covariance[:, i, i].sqrt(), ends) for i, ends in sets.items()}  # each (K, J)
    of_column = {i: (weights.log() + mass.logsumexp(1)).logsumexp(0).item() for i, mass in log_mass.items()}
    chosen = sorted(sets)
    among = covariance[:, chosen][:, :, chosen]
    if not bool((among == among.diagonal(dim1=1, dim2=2).diag_embed()).all()):
        chosen = [min(of_column, key=of_column.__getitem__)]
    log_joint = weights.log() + sum((log_mass[i].logsumexp(1) for i in chosen), torch.zeros_like(weights))

    def draw_rows(noise: Noise) -> Tensor:
        k = draw(D.Categorical(logits=log_joint.expand(noise.rows, -1), validate_args=False), noise)
        z = means[k] + (tril[k] @ noise.normal(len(rest)).to(tril)[..., None])[..., 0] if rest else means[k]
        for i in chosen:
            j = draw(D.Categorical(logits=log_mass[i][k], validate_args=False), noise)
            t = noise.uniform().to(z).double().clamp(2.0**-26, 1 - 2.0**-26)
            at = truncated(means[k, i], covariance[k, i, i].sqrt(), sets[i][j], t)
            z = z + covariance[k, :, i] / covariance[k, i, i][:, None] * (at - z[:, i])[:, None]
        u = z.new_empty(noise.rows, space.dimensions)
        u[:, rest] = z
        for i, value in fixed.items():
            u[:, i] = value
        x = confined(space, space.from_model(u.reshape(-1, *space.shape)))
        held = region.held(list(fixed)).to(x)
        return torch.where(held.isnan(), x, held)

    return Restricted(draw_rows, math.nan if fixed else log_joint.logsumexp(0).item())


def u_intervals(space: Space, i: int, known: tuple[tuple[float, float], ...]) -> Tensor:
    """A column's intervals on the scale that a density sees, (J, 2); the tail beyond an end that samples keep to is theirs."""
    ends = torch.tensor(known, dtype=torch.float64)
    rows = torch.zeros(2 * len(ends), space.dimensions, dtype=torch.float64)
    finite = ends.clamp(-torch.finfo(torch.float64).max, torch.finfo(torch.float64).max).flatten()
    rows[:, i] = finite.nan_to_num()
    law = space.coding
    if isinstance(law, Marginals):
        side = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(len(ends))[:, None]
        u = law.scale(rows, side)[0][:, i].reshape(-1, 2)
        first, last = (ends[:, 0] <= law.start[i]) & law.kept[0, i], (ends[:, 1] >= law.end[i]) & law.kept[1, i]
        u = torch.stack([torch.where(first, -torch.inf, u[:, 0]), torch.where(last, torch.inf, u[:, 1])], 1)
    else:
        u = space.to_model(rows, torch.float64)[:, i].reshape(-1, 2)
    return torch.where(ends.isinf(), ends, u)


def given_values(p: Mixture, fixed: dict[int, Tensor]) -> tuple[Mixture, list[int]]:
    """The mixture of the other columns, whose places come with it, given that some have the values `fixed`."""
    weights, means, tril = p
    rest = [i for i in range(means.shape[1]) if i not in fixed]
    if not fixed:
        return p, rest
    at, value = list(fixed), torch.stack(list(fixed.values())).to(means)
    covariance = tril @ tril.mT
    among = torch.linalg.cholesky(covariance[:, at][:, :, at])
    off = (value - means[:, at])[..., None]
    half = torch.linalg.solve_triangular(among, off, upper=False)
    log_p = -0.5 * half.square().sum((1, 2)) - among.diagonal(dim1=1, dim2=2).log().sum(1)
    pull = torch.linalg.solve_triangular(among, covariance[:, at][:, :, rest], upper=False)
    left = covariance[:, rest][:, :, rest] - pull.mT @ pull
    jitter = torch.finfo(left.dtype).eps * len(at) * covariance[:, rest, rest]
    means = means[:, rest] + (pull.mT @ half)[..., 0]
    tril = torch.linalg.cholesky(left + jitter.diag_embed()) if rest else left
    return Mixture((weights.log() + log_p).softmax(0), means, tril), rest


def log_masses(mean: Tensor, std: Tensor, ends: Tensor) -> Tensor:
    """log P(u ∈ [a, b]), u ~ N(mean, std²), for means (K,) and intervals (J, 2): (K, J), to full precision in both tails."""
    a, b = ((ends[:, side] - mean[:, None]) / std[:, None] for side in (0, 1))
    flip = a > 0  # the upper tail by the lower one of −u
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    return log_b + torch.log1p(-(log_a - log_b).exp().nan_to_num(0).clamp(max=1))


def truncated(mean: Tensor, std: Tensor, ends: Tensor, t: Tensor) -> Tensor:
    """The quantile t of N(mean, std²) on intervals, all (B,) and (B, 2)."""
    a, b = ((ends[:, side] - mean) / std for side in (0, 1))
    flip = a > 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    p, q = torch.special.ndtr(a), torch.special.ndtr(b)
    v = torch.special.ndtri(p + torch.where(flip, 1 - t, t) * (q - p))
    v = torch.where(flip, -v, v)
    return torch.maximum(torch.minimum(mean + std * v, ends[:, 1]), ends[:, 0])
