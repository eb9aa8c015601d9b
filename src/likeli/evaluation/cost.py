"""What a sample costs, in calls of the network: a fact that every family declares in the names of its options."""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

from likeli.contract import GenerativeModel
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.errors import require
from likeli.models.discrete_diffusion import DiscreteDiffusion

OPERATORS: dict[type, Callable[[int, int], int]] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def network_calls(model: GenerativeModel, **options: Any) -> int | None:
    """How often the part of the network that is used most runs for one sample; a block of rows runs it once for all.

    It is the family's `calls`: 0 for closed forms, 1 for one pass, `cells` one after the other, `steps` of a chain or solver.
    Of a chain whose idle levels are passed over it is the most.

    Arguments:
        model: any family.
        options: of `draw`; the model's own if not given.  A named sampler's evaluations a step are not in it.

    Returns:
        the number, or None for a family that cannot sample or does not say.
    """
    if not model.calls:
        return None
    defaults = {name: p.default for name, p in inspect.signature(model.draw).parameters.items()}
    known = {"cells": model.space.dimensions} | vars(model) | defaults | options
    if known.get("steps") is None:
        known["steps"] = _levels(model)
    return value_of(model.calls, known)


def _levels(model: GenerativeModel) -> int | None:
    """Steps where none are named: the levels of the chain, of symbols in continuous time as many as cells."""
    if isinstance(model, GaussianDiffusion):
        return (model.depth - 1) * (2 if model.default_sampler == "heun" else 1)
    return model.levels or model.space.dimensions if isinstance(model, DiscreteDiffusion) else None


def value_of(formula: str, known: Mapping[str, Any]) -> int:
    """A sum or product of whole numbers and names.

    Raises:
        InputError: anything else, or a name that is not known.
    """

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name) if isinstance(known.get(name), int):
                return int(known[name])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
        require(False, "calls", "whole numbers, names of options, +, - and *", formula)
        raise AssertionError

    return value(ast.parse(formula, mode="eval").body)
