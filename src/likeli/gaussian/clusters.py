"""Starting points for mixtures: k-means++ with a few Lloyd steps, several starts at once, the best by inertia."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from likeli.random import derive

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
