"""Which class a row is of, by Bayes' rule from a model of each class.

    p(y|x) = p(y) p(x|y) / Σ_y' p(y') p(x|y')
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likeli.analysis.likelihood import score
from likeli.core import GenerativeModel, Knows
from likeli.errors import InputError, Unsupported, require
from likeli.space import Labels


@dataclass(frozen=True)
class Classes:
    """p(y|x) of each row.

    Arguments:
        log_posterior: (B, K) in nats.
        exact: whether every log p(x|y) was exact; bounds and estimates leave p(y|x) approximate, to either side.
    """

    log_posterior: Tensor
    exact: bool

    @property
    def best(self) -> Tensor:
        """The most probable class, (B,)."""
        return self.log_posterior.argmax(1)


def classify(
    model: GenerativeModel | Sequence[GenerativeModel],
    x: Any,
    *,
    prior: Sequence[float] | Tensor | None = None,
    batch: int = 256,
    seed: int = 0,
    **options: Any,
) -> Classes:
    """p(y|x) from a conditional model of x, or from one model for each class.

    Arguments:
        model: conditional on labels, or a sequence of K unconditional models.
        x: (B, *shape) in the user's units.
        prior: (K,) p(y), summing to one; uniform if not given.
        batch: rows at a time.
        seed: of Monte Carlo draws, the same ones for every class.
        options: what the family's `log_likelihood` takes, such as `samples`.

    Raises:
        InputError: a prior or rows that do not fit, or a model that is conditional on no label.
        Unsupported: a family whose number is not log p(x), a bound or an estimate of it.
    """
    one = isinstance(model, GenerativeModel)
    models = [model] if isinstance(model, GenerativeModel) else list(model)
    require(len(models) > 0, "model", "at least one model", "none")
    silent = [m.kind() for m in models if m.knows in (Knows.NOTHING, Knows.UNNORMALIZED)]
    if silent:
        raise Unsupported(f"{silent[0]} has no normalised log p(x), so classes cannot be weighed against each other")
    condition = models[0].condition
    if one and not isinstance(condition, Labels):
        raise InputError(f"model: expected one that is conditional on labels, or one a class, got {models[0].kind()}")
    x = models[0].space.check(x, missing=models[0].takes_missing)
    count = condition.classes if one and isinstance(condition, Labels) else len(models)
    columns = []
    for k in range(count):
        y = torch.full((len(x),), k) if one else None
        parts = list(score(models[0 if one else k], x, y, batch=batch, seed=seed, **options))
        columns.append((torch.cat([p.value.double() for p in parts]), parts[0].knows is Knows.EXACT))
    joint = torch.stack([values for values, _ in columns], 1) + _log_prior(prior, count).to(columns[0][0].device)
    return Classes(joint.log_softmax(1), all(exact for _, exact in columns))


def _log_prior(prior: Sequence[float] | Tensor | None, count: int) -> Tensor:
    if prior is None:
        return torch.full((count,), -math.log(count), dtype=torch.float64)
    p = torch.as_tensor(prior, dtype=torch.float64)
    fits = tuple(p.shape) == (count,) and bool((p >= 0).all()) and abs(p.sum().item() - 1) < 1e-6
    require(fits, "prior", f"{count} probabilities that sum to 1", p.tolist())
    return p.log()
