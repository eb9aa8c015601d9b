"""The numbers that one model has of log p(x), beside each other, each with its kind.

One network of a masked diffusion has a bound in continuous time, one of T levels, and a chain rule for every order; a model of
windows of a text has a number for windows that do not overlap and others for windows that do.  None of them is "the" log p(x).
"""

from __future__ import annotations

import inspect
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from likeli.contract import GenerativeModel, LogLikelihood, joined, known_cells
from likeli.diffusion.levels import checked
from likeli.errors import InputError, Unsupported, require
from likeli.evaluation.likelihood import Evaluation, bits_per, evaluate, paired, score, summarise
from likeli.models.discrete_diffusion import DiscreteDiffusion
from likeli.random import permutation


def readings_of(model: DiscreteDiffusion, seed: int = 0, steps: int = 16) -> dict[str, dict[str, Any]]:
    """What one network's log p(x) can mean, as options of `log_likelihood`; chain rules with [MASK] alone.

    Arguments:
        model: whose network it is.
        seed: of the order that is drawn.
        steps: T of the bound of T levels, where the model has none of its own.
    """
    found: dict[str, dict[str, Any]] = {}
    if not model.survival.by_cell:
        found = {"bound, T = ∞": {}} if model.levels is None else {}
        found[f"bound, T = {model.levels or steps}"] = {"steps": model.levels or steps}
    if model.kernel.masks:
        drawn = tuple(permutation(model.space.dimensions, seed, "order").tolist())
        orders = [("left to right", "left_to_right"), ("in a drawn order", drawn), ("by confidence", "confidence")]
        found |= {f"chain rule, {name}": {"method": "chain_rule", "order": order} for name, order in orders}
    return found


def every_number(
    model: GenerativeModel, x: Any, y: Any = None, *, seed: int = 0, steps: int = 16, **options: Any
) -> dict[str, Evaluation]:
    """Every number that the model has of the same rows, by what it is.

    Arguments:
        model: a family with several.
        x, y: rows, see `evaluate`.
        seed: of all draws, of an order too.
        steps: T of a bound of T levels, where the model has none of its own.
        options: of `evaluate` and of the family's `log_likelihood`.

    Raises:
        InputError: x, y or a number does not fit.
        Unsupported: a family with one number only.
    """
    if not isinstance(model, DiscreteDiffusion):
        raise Unsupported(f"{model.kind()} does not have several numbers of log p(x); discrete_diffusion does")
    ways = readings_of(model, seed, steps)
    return {name: evaluate(model, x, y, seed=seed, **options | own) for name, own in ways.items()}


def check_conditionals(model: GenerativeModel) -> None:
    """Refuses a family whose `log_likelihood` cannot hold some cells fixed.

    Raises:
        Unsupported: such a family.
    """
    if "fixed" not in inspect.signature(model.measure_likelihood).parameters:
        able = "autoregressive and discrete_diffusion do"
        raise Unsupported(f"{model.kind()} does not know log p of the rest of a row given a part of it; {able}")


def log_conditional(model: GenerativeModel, x: Any, given: Any, y: Any = None, **options: Any) -> LogLikelihood:
    """What a model knows of log p(the free cells | the given ones): as `log_likelihood`, with some cells of each row fixed.

    Arguments:
        model: autoregressive, along an order in which what is given comes first, or discrete_diffusion.
        x: (B, *shape) in the user's units.
        given: (B, *shape) or one row for all, as of `sample`: what a cell has in x, or -1 (NaN in a table) where free.
        y: the condition.
        options: what `log_likelihood` takes.

    Raises:
        InputError: what is given is not in x.
        Unsupported: a family, or an order, that does not know it.
    """
    check_conditionals(model)
    x = model.space.check(x).to(model.device)
    held, y = known_cells(model, given, len(x)), model.check_condition(y, len(x))
    known = ~held.isnan() & (held != (torch.nan if model.space.blank is None else model.space.blank))
    wrong = known & (held != x)
    if wrong.any():
        raise InputError(f"given: expected what x has, or free cells, got another value at {model.space.locate(x, wrong)}")
    patterns, of = known.flatten(1).unique(dim=0, return_inverse=True)
    parts, rows = [], []
    for i, pattern in enumerate(patterns):
        rows.append(torch.nonzero(of == i)[:, 0])
        fixed = tuple(torch.nonzero(pattern)[:, 0].tolist())
        parts.append(model.log_likelihood(x[rows[-1]], None if y is None else y[rows[-1]], fixed=fixed, **options))
    back = torch.cat(rows).argsort()
    whole = joined(parts, len(x))
    return replace(whole, value=whole.value[back], stderr=None if whole.stderr is None else whole.stderr[back])


def strided(model: GenerativeModel, x: Tensor, stride: int, *, seed: int = 0, batch: int = 256, **options: Any) -> Evaluation:
    """log p of a text whose windows overlap: all of the first window, then of each next one the last `stride` symbols.

        log p(text) = log p(x₁ … x_C) + Σ_k log p(x_{C+(k−1)N+1} … x_{C+kN} | the C − N symbols before them)

    A product of conditionals, so a law of the whole text, and another one than that of windows that do not overlap: a symbol
    sees at least C − N others instead of none at the start of a window.  The kind is that of the conditionals.

    Arguments:
        model: of windows of C symbols, which holds symbols fixed in `log_likelihood`.
        x: (windows, C), windows of one text in its order that do not overlap.
        stride: N, a divisor of C.
        seed, batch, options: see `evaluate`.

    Raises:
        InputError: rows that are no windows of a text, a stride that does not divide C.
        Unsupported: a family that knows nothing of the rest of a row given a part of it.
    """
    space = model.space
    text = space.alphabet is not None and space.end is None and len(space.shape) == 1
    require(text, "stride", "a run on windows of a text, in their order", f"one on {space.kind()}")
    check_conditionals(model)
    cells = space.dimensions
    require(1 <= stride <= cells and cells % stride == 0, "stride", f"a divisor of the context, {cells}", stride)
    x, began = space.check(x), time.perf_counter()
    windows = x.flatten().unfold(0, cells, stride)
    parts = list(score(model, windows[:1], batch=batch, seed=seed, **options))
    if len(windows) > 1:
        parts += score(model, windows[1:], batch=batch, seed=seed, **options, fixed=tuple(range(cells - stride)))
    whole = joined(parts, len(windows))
    counted = torch.full_like(windows, True, dtype=torch.bool)
    counted[1:, : cells - stride] = False
    rates = {}
    for name, each in space.amounts.items():
        rates[f"bits_per_{name}"] = bits_per(whole.value, (torch.tensor(each)[windows] * counted).sum(1))
    bits, error = rates["bits_per_symbol"]
    scale = cells * math.log(2)
    found = summarise(model, whole, seconds=time.perf_counter() - began, seed=seed, options=options)
    about = f"windows overlap: each symbol but the first {cells} is read given at least {cells - stride} before it"
    return replace(
        found,
        nats=-bits * scale,
        stderr=error * scale,
        bits_per_dim=bits,
        dimensions=cells,
        rates=rates,
        by_row=None,
        notes=[*found.notes, about],
    )


@dataclass(frozen=True)
class BoundAndFlow:
    """Two evaluations of one denoiser on the same rows.  They are of two models: the chain's p(x), and the flow's.

    Arguments:
        bound: of the reverse chain.
        flow: of the probability-flow ODE.
        gap: mean over rows of flow − bound, nats.
        stderr: of `gap` over rows; the rows are compared one by one, so that their own spread is not in it.
        doubt: nats that the flow may be short by, other than by chance: the ODE's tolerance, and what drawing integers as reals
            is known to cost.
    """

    bound: Evaluation
    flow: Evaluation
    gap: float
    stderr: float
    doubt: float

    @property
    def ordered(self) -> bool | None:
        """Whether the bound lies below the flow's value, within four standard errors and the doubt; None if not known."""
        allowed = 4 * self.stderr + self.doubt
        return None if math.isnan(allowed) else self.gap > -allowed

    @property
    def order(self) -> str:
        """Where the bound lies: `below` or `above` the flow, or `cannot tell`: within two standard errors and the doubt."""
        allowed = 2 * self.stderr + self.doubt
        return "cannot tell" if not abs(self.gap) > allowed else "below" if self.gap > 0 else "above"

    def row(self) -> dict[str, Any]:
        """Everything as JSON values."""
        pair = {name: e.row() | {"errors": e.errors} for name, e in (("bound", self.bound), ("flow", self.flow))}
        return pair | {"gap": self.gap, "gap_stderr": self.stderr, "doubt": self.doubt} | {
            "ordered": self.ordered,
            "order": self.order,
        }


def bound_and_flow(
    model: GenerativeModel,
    x: Any,
    y: Any = None,
    *,
    batch: int = 256,
    seed: int = 0,
    samples: int = 64,
    draws: int = 2,
    probes: int | None = None,
    rtol: float = 1e-3,
) -> BoundAndFlow:
    """Held-out log p(x) by the bound and by the flow, with what may be wrong with each.

    Arguments:
        model: a Gaussian diffusion.
        x: (N, *shape) in the user's units.
        y: the condition.
        batch: rows at a time.
        seed: of all draws.
        samples: noises of the bound for each row.
        draws: of the dequantisation, for each row of integers; from two on their cost is known.
        probes: of the flow's divergence; exact up to 32 cells and 16 random ones beyond, if not given.
        rtol: relative and absolute tolerance of the ODE.

    Raises:
        Unsupported: another family.
        InputError: x, y or a number does not fit.
    """
    model, x, y = checked(model, x, y)
    found, joint = [], []
    for options in ({"samples": samples}, {"method": "ode", "samples": draws, "probes": probes, "rtol": rtol}):
        started = time.perf_counter()
        whole = joined(list(score(model, x, y, batch=batch, seed=seed, **options)), len(x))
        found.append(summarise(model, whole, seconds=time.perf_counter() - started, seed=seed, options=options))
        joint.append(whole)
    bound, flow = joint
    gap, stderr = paired(flow, bound)
    doubt = found[1].errors["ode_tolerance"] + found[1].errors.get("dequantisation", 0.0)
    return BoundAndFlow(found[0], found[1], gap, stderr, doubt)
