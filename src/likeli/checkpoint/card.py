"""The model card: what the numbers of a saved model are, for a reader who has only its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from likeli import __version__
from likeli.config import describe
from likeli.contract import GenerativeModel, Knows
from likeli.errors import one_line

MEANING = {
    Knows.EXACT: "log p(x) itself",
    Knows.LOWER_BOUND: "a lower bound: log p(x) is at least this in expectation",
    Knows.ESTIMATE: "an estimate of log p(x), with a standard error",
    Knows.UNNORMALIZED: "log p(x) up to an unknown constant; it has no unit and cannot be compared between models",
    Knows.NOTHING: "no log p(x) at all",
}


def card(model: GenerativeModel, step: int, info: Mapping[str, Any]) -> str:
    """The text of README.md.

    Arguments:
        model: what is saved.
        step: training step of the weights.
        info: data, training settings, metrics, as given to `save`.
    """
    sections = [
        "---\nlibrary_name: likeli\ntags:\n- generative-model\n- density-estimation\n---",
        f"# {model.kind()}",
        _safe((type(model).__doc__ or "").split("\n\n")[0]),
        _table(_facts(model, step)),
        "## Arguments",
        _table(_rows({k: v for k, v in describe(model).items() if k not in ("class", "space")})),
        *[part for title, key in _PARTS for part in _part(title, info.get(key))],
        "## Use",
        '```python\nimport likeli\n\nmodel = likeli.load("this folder")\nmodel.sample(8)\nmodel.log_likelihood(x)\n```',
        f"Written by likeli {__version__}.  manifest.json has every file's size and sha256, which `likeli.load` checks.",
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


_PARTS = (("Data", "data"), ("Training", "training"), ("Sampling in few steps", "samplers"), ("Metrics", "metrics"))


def _facts(model: GenerativeModel, step: int) -> dict[str, str]:
    space, knows = model.space, model.knows_here
    return {
        "its number": f"{knows.value}: {MEANING[knows]}" + ("" if knows is model.knows else _WHY),
        "measure": f"{space.measure}, in nats of the data's own units",
        "space": f"{space.kind()}, one example has shape {space.shape}",
        "conditional": "no" if model.condition is None else f"on {model.condition.kind()} of shape {model.condition.shape}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "step": str(step),
    } | model.facts


_WHY = ", since these data are not real numbers and the density sees them dequantised"


def _part(title: str, value: Any) -> list[str]:
    if not value:
        return []
    return [f"## {title}", _table(_rows(value)) if isinstance(value, Mapping) else _safe(value)]


def _rows(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in values.items():
        rows |= _rows(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + str(key): value}
    return rows


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {_safe(k)} | {_safe(v)} |" for k, v in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _safe(value: Any) -> str:
    """One line in which nothing is markup, since names come from other people's files."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", one_line(value, 300))
