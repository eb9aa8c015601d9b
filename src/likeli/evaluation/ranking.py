"""Ranks of models by log p of the same rows: those that the rows cannot tell apart share one."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from likeli.contract import Knows, LogLikelihood
from likeli.evaluation.likelihood import paired


def shared_ranks(numbers: Mapping[str, LogLikelihood]) -> dict[str, int]:
    """1, 1, 3 …: the best mean first; a rank is shared with its first member by all whose paired difference lies within 2 s.e.

    A density and a mass are never told to be alike.

    Arguments:
        numbers: log p of the same rows, by model.
    """
    order = sorted(numbers, key=lambda name: -numbers[name].value.double().mean().item())
    found: dict[str, int] = {}
    first = ""
    for place, name in enumerate(order, 1):
        gap, error = paired(numbers[first], numbers[name]) if first else (0.0, -1.0)
        alike = bool(first) and numbers[first].measure == numbers[name].measure and gap <= 2 * error
        found[name] = found[first] if alike else place
        first = first if alike else name
    return found


def read_values(path: Path) -> LogLikelihood:
    """What `likeli evaluate --out FILE.csv` has written."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measure: Any = rows[0]["measure"]
    nats = torch.tensor([float(row["nats"] or "nan") for row in rows], dtype=torch.float64)
    stderr = torch.tensor([float(row["stderr"] or "nan") for row in rows], dtype=torch.float64)
    return LogLikelihood(nats, Knows(rows[0]["knows"]), measure, None if stderr.isnan().all() else stderr)
