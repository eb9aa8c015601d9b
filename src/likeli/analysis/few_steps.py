"""How good samples are for what they cost: a few-step student beside its teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likeli.analysis.two_sample import c2st
from likeli.errors import require
from likeli.models.distilled import Distilled
from likeli.random import seeded

DIRECTIONS, SPLITS = 128, 8
TEACHER = (1, 2, 5)  # evaluations of the teacher's rows, in multiples of the student's


@dataclass(frozen=True)
class Quality:
    """One way of sampling, held against rows that nothing was trained on.

    Arguments:
        name: what drew the samples.
        evaluations: of the network, for one sample.
        auc, auc_stderr: a classifier's held-out area under the curve, ½ if it cannot tell them from the held-out rows.
        distance, distance_stderr: sliced Wasserstein-2 distance in model units; that of equal laws is above zero, see `floor`.
    """

    name: str
    evaluations: int
    auc: float
    auc_stderr: float
    distance: float
    distance_stderr: float


def quality_per_step(student: Distilled, x: Tensor, y: Tensor | None = None, *, seed: int = 0) -> list[Quality]:
    """The student, its teacher by `adams` on the `optimal` grid at 1, 2 and 5 times the evaluations, and the floor.

    The floor is one half of the held-out rows against the other, what perfect samples of half the number would score.

    Arguments:
        student: a distilled model.
        x: held-out rows, at least 80; as many samples are drawn.
        y: their conditions, for a conditional model.
        seed: of the samples.
    """
    require(len(x) >= 80, "x", "at least 80 held-out rows", len(x))
    rows = [("student", student.steps, student.sample(len(x), y, seed=seed))]
    for evaluations in (k * student.steps for k in TEACHER):
        options: dict[str, Any] = {"steps": evaluations, "sampler": "adams", "grid": "optimal"}
        rows.append(("teacher", evaluations, student.teacher.sample(len(x), y, seed=seed, **options)))
    found = [compared(name, evaluations, samples, x, student, seed) for name, evaluations, samples in rows]
    with seeded(seed, "floor"):
        halves = x[torch.randperm(len(x))].chunk(2)
    return [*found, compared("floor", 0, halves[0], halves[1], student, seed)]


def compared(name: str, evaluations: int, samples: Tensor, x: Tensor, student: Distilled, seed: int) -> Quality:
    """Samples against held-out rows."""
    a, b = (student.space.to_model(v, torch.float64).flatten(1).cpu() for v in (samples, x))
    parts = [sliced_wasserstein(*both, seed) for both in zip(a.chunk(SPLITS), b.chunk(SPLITS)) if len(both[0]) == len(both[1])]
    spread = torch.tensor(parts).std().item() / math.sqrt(len(parts)) if len(parts) > 1 else math.nan
    return Quality(name, evaluations, *c2st(samples.flatten(1), x.flatten(1), seed), sliced_wasserstein(a, b, seed), spread)


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """√ of the mean over 128 random directions of the squared W₂ of the projections, from their quantiles.

    Arguments:
        a, b: (n, D) and (m, D).
        seed: of the directions.

    Source: Bonneel et al. (2015), J. Math. Imaging Vis. 51.
    """
    with seeded(seed, "directions"):
        way = torch.nn.functional.normalize(torch.randn(DIRECTIONS, a.shape[1], dtype=a.dtype), dim=1)
    count = max(len(a), len(b))
    at = (torch.arange(count, dtype=a.dtype) + 0.5) / count
    ordered = [torch.quantile(v @ way.T, at, dim=0) for v in (a, b)]
    return (ordered[0] - ordered[1]).square().mean().sqrt().item()
