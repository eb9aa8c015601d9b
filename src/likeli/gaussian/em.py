"""One pass of expectation-maximisation for Gaussian mixtures: responsibilities and their moments.

Three ways to the same moments.  `fast` writes log w + log N as θ·φ(x), so that the E-step and the M-step are one matrix product
each over all components, half the arithmetic of whitening; its error grows with x²/σ², so `risk` bounds it beforehand.
`careful` whitens differences and has no such limit.  `masked` takes missing cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from likeli import processes
from likeli.gaussian.covariance import Covariance, Mixture, constant
from likeli.gaussian.missing import Group, conditioned
from likeli.random import derive

SAFE = 1e-10  # nats a row by which the fast pass may be off
COLLAPSED = 1e-6  # beyond this the fast pass's own moments are too coarse for the covariances it found
FEATURES = 2**19  # numbers in one block of features: 4 MiB, about a core's share of cache
ROWS, RESIDUALS = 1024, 2**16
WIDEST = 128  # dimensions beyond which the features of full covariances no longer fit in cache


class EmProgress(NamedTuple):
    """What a resumed EM has to know: iterations done, the objective at the last, whether its gain fell below the tolerance."""

    iterations: float = 0.0
    objective: float = 0.0
    ended: float = 0.0


def iterate(step: Callable[[], tuple[float, float]], stored: Tensor, tol: float, max_iter: int) -> Iterator[float]:
    """Iterations until one gains less than `tol` (0: never) or `max_iter` are done; yields the log-likelihood before each.

    Arguments:
        step: one E-step and M-step → the log-likelihood and the objective before it.
        stored: a `EmProgress`, kept up to date in place; it may lack the last entry.
    """
    past = EmProgress(*stored.tolist())
    while past.iterations < max_iter and not past.ended:
        value, objective = step()
        gain = objective - past.objective if past.iterations else math.inf
        past = EmProgress(past.iterations + 1, objective, tol > 0 and gain < tol)
        stored.copy_(torch.tensor(past[: len(stored)], dtype=stored.dtype))
        yield value


class Moments(NamedTuple):
    """Σ over rows of r (K,), r δ (K, D), r δδᵀ (as the covariance keeps it) and log p, with δ = x − reference (K or 1, D)."""

    n: Tensor
    first: Tensor
    second: Tensor
    log_likelihood: Tensor
    reference: Tensor


def moments(
    x: Tensor, p: Mixture, kind: Covariance, floor: float, groups: list[Group] | None, weight: Tensor | None = None
) -> Moments:
    """The expected moments of all rows under `p`, by the cheapest way that is accurate.

    Arguments:
        x: (n, D), about centred and of unit scale; NaN where missing; the share of rows that this process has.
        groups: rows by pattern of missing cells, if any is missing.
        weight: (n,), how often each row counts; once if not given.
    """
    if groups is not None:
        return over_processes(masked(x, p, kind, groups, weight))
    largest = processes.largest(x.abs().amax(0).square())
    if x.shape[1] > WIDEST or risk(p, kind, largest) > SAFE:
        return over_processes(careful(x, p, kind, weight))
    found = over_processes(fast(x, p, kind, weight))
    after, _ = maximise(found, p, kind, floor)
    return found if risk(after, kind, largest) < COLLAPSED else over_processes(careful(x, p, kind, weight))


def over_processes(mine: Moments) -> Moments:
    """The moments of all rows from those of each process's."""
    n, first, second, log_likelihood = processes.total(*mine[:-1])
    return Moments(n, first, second, log_likelihood, mine.reference)


def risk(p: Mixture, kind: Covariance, largest: Tensor) -> float:
    """About how many nats θ·φ(x) may lose to rounding: ε max_k Σ_j (Σ_k⁻¹)_jj max x_j²."""
    inverse, _ = kind.inverse(p.factor, len(largest))
    columns = kind.whiten(inverse, torch.eye(len(largest)).to(largest)[None])  # S⁻¹ e_j
    return torch.finfo(largest.dtype).eps * (torch.linalg.vecdot(columns, columns) @ largest).max().item()


def fast(x: Tensor, p: Mixture, kind: Covariance, weight: Tensor | None = None) -> Moments:
    """Moments about 0 through features."""
    d, theta = x.shape[1], kind.natural(p)
    width = theta.shape[1]
    rows = max(32, FEATURES // width)
    buffer = x.new_empty(width, min(rows, len(x)))
    total, log_likelihood = torch.zeros_like(theta), x.new_zeros(())
    for start in range(0, len(x), rows):
        block, w = x[start : start + rows], None if weight is None else weight[start : start + rows]
        phi = kind.features(block.T.contiguous(), buffer)
        joint = theta @ phi
        log_p = joint.logsumexp(0)
        log_likelihood += log_p.sum() if w is None else w @ log_p
        r = joint.sub_(log_p).exp_()
        total.addmm_(r if w is None else r.mul_(w), phi.T)
    heavy = x if weight is None else x * weight[:, None]
    scatter = heavy.T @ x if kind.shared else x.new_zeros(())
    if kind.shared:  # −½ xᵀΣ⁻¹x was left out of θ
        log_likelihood -= 0.5 * torch.cholesky_solve(scatter, p.factor).trace()
    return Moments(total[:, -1], total[:, -1 - d : -1], kind.unpack(total, scatter, d), log_likelihood, x.new_zeros(1, d))


def careful(x: Tensor, p: Mixture, kind: Covariance, weight: Tensor | None = None) -> Moments:
    """Moments about the current means, from whitened differences."""
    k, d = p.means.shape
    n, first, log_likelihood = x.new_zeros(k), x.new_zeros(k, d), x.new_zeros(())
    second = outer(kind, n, first)
    weights = torch.ones_like(x[:, 0]) if weight is None else weight
    for (block, joint), w in zip(log_joint(x, p, kind), weights.split(ROWS)):
        log_p = joint.logsumexp(0)
        r = (joint - log_p).exp() * w
        log_likelihood += w @ log_p
        n += r.sum(1)
        for some in few_components(k, len(block), d):
            diff = block - p.means[some, None]
            first[some] += (r[some, None] @ diff)[:, 0]
            into = second if kind.shared else second[some]
            into += kind.second(r[some], diff)
    return Moments(n, first, second, log_likelihood, p.means)


def outer(kind: Covariance, n: Tensor, delta: Tensor) -> Tensor:
    """n δ δᵀ as the covariance keeps it, from n (K,) and δ (K, D)."""
    return kind.second(n[:, None], delta[:, None])


def log_joint(x: Tensor, p: Mixture, kind: Covariance) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows (b, D) and their log w_k + log N(x|m_k, Σ_k), (K, b)."""
    k, d = p.means.shape
    inverse, log_det = kind.inverse(p.factor, d)
    offset = constant(p, log_det)[:, None]
    for block in x.split(ROWS):
        squares = []
        for some in few_components(k, len(block), d):
            whitened = kind.whiten(inverse if kind.shared else inverse[some], block - p.means[some, None])
            squares.append(torch.linalg.vecdot(whitened, whitened))
        yield block, offset - 0.5 * torch.cat(squares)


def few_components(k: int, rows: int, d: int) -> list[slice]:
    """Components in groups whose residuals stay in cache."""
    size = max(1, RESIDUALS // (rows * d))
    return [slice(i, min(i + size, k)) for i in range(0, k, size)]


def masked(x: Tensor, p: Mixture, kind: Covariance, groups: list[Group], weight: Tensor | None = None) -> Moments:
    """Moments about the current means, missing cells integrated out."""
    k, d = p.means.shape
    tril = kind.dense(p.factor, k, d)
    covariance = tril @ tril.mT
    n, first, second = x.new_zeros(k), x.new_zeros(k, d), x.new_zeros(k, d, d)
    log_likelihood = x.new_zeros(())
    for group, given in conditioned(x, groups, p.means, covariance):
        joint = p.weights.log()[:, None] + given.log_prob
        log_p = joint.logsumexp(1)
        w = group.real if weight is None else group.real * weight[group.rows]
        r = (joint - log_p[:, None]).exp() * w[:, None]
        log_likelihood += (log_p * w).sum()
        n += r.sum((0, 2))
        weighted = r[..., None] * given.shift
        first += weighted.sum((0, 2))
        second += weighted.transpose(0, 1).flatten(1, 2).mT @ given.shift.transpose(0, 1).flatten(1, 2)
        within = (r.sum(2)[..., None, None] * given.covariance).transpose(0, 1).flatten(1)
        second.view(k, d * d).index_add_(1, given.places().flatten(), within)
    return Moments(n, first, kind.reduce(second), log_likelihood, p.means)


def maximise(m: Moments, p: Mixture, kind: Covariance, floor: float) -> tuple[Mixture, int]:
    """The M-step, and in how many covariances the floor holds; a component that lost all its rows keeps mean and covariance."""
    empty = m.n < 1e-12 * m.n.sum()
    n = torch.where(empty, 1, m.n)
    delta = m.first / n[:, None]
    scatter = m.second - outer(kind, m.n, delta)
    factor, floored = kind.estimate(scatter, m.n if kind.shared else n, p.means.shape[1], floor)
    if not kind.shared:
        factor = torch.where(empty.view(-1, *[1] * (factor.ndim - 1)), p.factor, factor)
    return Mixture(m.n / m.n.sum(), torch.where(empty[:, None], p.means, m.reference + delta), factor), floored


ROWS_PER_CLUSTER = 256  # the start is sought on a subset: it only has to be near


def k_means(x: Tensor, k: int, *, seed: int, starts: int = 4, steps: int = 10) -> Tensor:
    """The nearest of k centres for each row, (n,).

    Arguments:
        x: (n, D), finite.
        k: number of clusters, at most n.
        starts: independent k-means++ starts; the one of least Σ min ‖x − c‖² on the subset is taken.
        steps: Lloyd steps of each start.

    Source: Arthur & Vassilvitskii (2007), k-means++: the advantages of careful seeding.
    """
    generator = torch.Generator().manual_seed(derive(seed, "k_means"))
    subset = x[torch.randperm(len(x), generator=generator)[: max(ROWS_PER_CLUSTER * k, 1000)].to(x.device)]
    fits = [lloyd(subset, plus_plus(subset, k, generator), steps) for _ in range(starts)]
    best = min(fits, key=lambda fit: fit[1])
    return torch.cat([distances(rows, best[0]).argmin(1) for rows in x.split(4096)])


def plus_plus(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ centres, (k, D): each is the best of 2 + log k rows drawn with probability ∝ their squared distance."""
    first = torch.randint(len(x), (1,), generator=generator).to(x.device)
    chosen, nearest = [first], distances(x, x[first])[:, 0]
    for _ in range(k - 1):
        cdf = (nearest + 1e-300).cumsum(0)
        u = torch.rand(2 + int(math.log(k)), dtype=torch.float64, generator=generator).to(x)
        trial = torch.searchsorted(cdf, u * cdf[-1], right=True).clamp(max=len(x) - 1)
        left = torch.minimum(distances(x, x[trial]), nearest[:, None])
        best = left.sum(0).argmin()
        nearest = left[:, best]
        chosen.append(trial[best, None])
    return x[torch.cat(chosen)]


def lloyd(x: Tensor, centres: Tensor, steps: int) -> tuple[Tensor, float]:
    """Centres after a few Lloyd steps and their inertia; a centre that loses all its rows stays where it is."""
    for _ in range(steps):
        labels = distances(x, centres).argmin(1)
        count = torch.bincount(labels, minlength=len(centres))
        total = torch.zeros_like(centres).index_add_(0, labels, x)
        centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
    return centres, distances(x, centres).amin(1).sum().item()


def distances(x: Tensor, centres: Tensor) -> Tensor:
    """‖x − c‖², (n, k), from one matrix product."""
    return (x.square().sum(1, keepdim=True) - 2 * x @ centres.T + centres.square().sum(1)).clamp_(min=0)
