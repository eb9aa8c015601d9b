"""Everything that is known to go wrong with a generative model without an error, looked for in one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from likeli.contract import GenerativeModel, evaluating
from likeli.data.dataset import Data
from likeli.errors import require
from likeli.evaluation import data_checks, number_checks, training_checks
from likeli.evaluation.examination import CHECKS, STATUSES, Case, Examination, some_rows
from likeli.random import seeded
from likeli.spaces.arrays import as_tensor

ROOMS = (number_checks, training_checks, data_checks)  # whose checks have registered themselves
ROWS = 256


def doctor(
    model: GenerativeModel,
    data: Any,
    y: Any = None,
    *,
    history: Any = (),
    info: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    seed: int = 0,
) -> Examination:
    """Examine a model: its log p, sampler, latents, schedules, training and data; nothing of it is changed.

    Every check has a value, what must hold, what was seen and what to do; those that need a log p, a latent, a condition, a
    history or the training rows do not apply where there are none.  What was found wrong comes first.

    Arguments:
        model: any family, fitted.
        data: a `Data`, or held-out rows alone, (N, *shape).
        y: (N, *condition.shape), for rows of a conditional model.
        history: what `fit` returned, or its rows.
        info, state: what `checkpoint.read` gives of a run.
        rows: of the held-out ones at most.
        seed: of every draw.

    Raises:
        InputError: rows that do not fit the model.
    """
    require(isinstance(rows, int) and not isinstance(rows, bool) and rows >= 2, "rows", "at least 2", rows)
    parts = data if isinstance(data, Data) else None
    if parts is not None:
        held = next(part for part in ("test", "valid", "train") if len(parts.rows(part)))
        data, y = parts.split(held)
    whole = model.space.check(data, missing=model.takes_missing)
    y = model.check_condition(None if model.condition is None or y is None else as_tensor(y, "y"), len(whole))
    x, y = some_rows(whole, y, rows, seed)
    told: Sequence[Mapping[str, Any]] = getattr(history, "rows", history)
    case = Case(model, x.to(model.device), y, parts, told, info or {}, state or {}, seed)
    with evaluating(model), torch.no_grad(), seeded(seed, "doctor"):
        findings = [check(case) for check in CHECKS]
    findings.sort(key=lambda f: STATUSES.index(f.status))
    return Examination(model.kind(), tuple(findings))
