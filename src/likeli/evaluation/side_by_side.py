"""Sample quality of several models on one scale, to stand beside log p: neither says the other.

0.01 p + 0.99 noise has a log p within log 100 = 4.61 nats of p's, however many cells there are, and samples that are noise;
rows learned by heart make perfect samples and no log p at all (Theis, van den Oord & Bethge, 2016, arXiv:1511.01844).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from likeli.contract import GenerativeModel
from likeli.errors import require
from likeli.evaluation.cross_fitted import cross_fitted_area
from likeli.evaluation.features import pooled_features
from likeli.evaluation.sample_metrics import FEWEST_ROWS, SampleMetric, frechet_distance, jackknifed
from likeli.random import BLOCK, permutation
from likeli.spaces import Space

AREA, FRECHET = "classifier area", "Fréchet distance"


@dataclass(frozen=True)
class SampleScores:
    """What samples of several models are worth, by model.

    Arguments:
        scores: of each model the area and the Fréchet distance, with their floors.
        map: how rows became the features of both.
    """

    scores: dict[str, tuple[SampleMetric, SampleMetric]]
    map: str


def draw_within(model: GenerativeModel, n: int, seconds: float, seed: int = 0) -> Tensor:
    """The first rows of `model.sample(n, seed=seed)`, as many blocks as begin within so many seconds, one at least."""
    parts, start = list[Tensor](), time.monotonic()
    for first in range(0, n, BLOCK):
        if parts and time.monotonic() - start > seconds:
            break
        parts.append(model.sample(min(BLOCK, n - first), seed=seed, first=first).cpu())
    return torch.cat(parts)


def score_samples(x: Tensor, train: Tensor, drawn: Mapping[str, Tensor], space: Space, seed: int = 0) -> SampleScores:
    """A classifier's area and the Fréchet distance of each model's samples, and of as many training rows, against x.

    All are compared by the same features, found in all rows together, so that models can be compared with each other.  The
    area is that of boosted trees, each row judged by trees that did not see it: ½ if they cannot tell samples from rows.

    Arguments:
        x: held-out rows, at least 40.
        train: rows of the same distribution; as many as samples serve as the floor.
        drawn: samples by model, at least 40 each.
        space: what a row is.
        seed: of the choice of rows and of the folds.

    Raises:
        InputError: too few rows, or samples with infinite cells.

    Source: Lopez-Paz & Oquab (2017), arXiv:1610.06545; Heusel et al. (2017), arXiv:1706.08500.
    """
    for name, rows in {"x": x, "train": train, **drawn}.items():
        require(len(rows) >= FEWEST_ROWS, name, f"at least {FEWEST_ROWS} rows", len(rows))
    both, _, _ = pooled_features(torch.cat([x, train]), torch.cat(list(drawn.values())), space)
    held, learned, *samples = np.split(both.rows, np.cumsum([len(x), len(train), *map(len, drawn.values())])[:-1])
    held, learned = (v[permutation(len(v), seed, name).numpy()] for v, name in ((held, "held"), (learned, "floor")))
    floors: dict[int, list[tuple[float, float]]] = {}

    def measured(rows: np.ndarray) -> list[tuple[float, float]]:
        return [cross_fitted_area(held, rows, seed), jackknifed(frechet_distance, held, rows)]

    scores = {}
    for name, own in zip(drawn, samples):
        floor = floors[len(own)] = floors.get(len(own)) or measured(learned[: len(own)])
        area, distance = (
            SampleMetric(kind, *value, *least, "lower", len(held), len(own))
            for kind, value, least in zip((AREA, FRECHET), measured(own), floor)
        )
        scores[name] = (area, distance)
    return SampleScores(scores, both.map)
