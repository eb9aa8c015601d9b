"""A diffusion's two likelihoods side by side: the bound of its chain, and the density of its probability flow."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from likeli.analysis.likelihood import Evaluation, score, summarise
from likeli.analysis.noise_levels import checked
from likeli.core import GenerativeModel


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

    def row(self) -> dict[str, Any]:
        """Everything as JSON values."""
        pair = {name: e.row() | {"errors": e.errors} for name, e in (("bound", self.bound), ("flow", self.flow))}
        return pair | {"gap": self.gap, "gap_stderr": self.stderr, "doubt": self.doubt, "ordered": self.ordered}


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
    found, values = [], []
    for options in ({"samples": samples}, {"method": "ode", "samples": draws, "probes": probes, "rtol": rtol}):
        started = time.perf_counter()
        parts = list(score(model, x, y, batch=batch, seed=seed, **options))
        seconds = time.perf_counter() - started
        found.append(summarise(model, parts, seconds=seconds, seed=seed, options=options))
        values.append(torch.cat([p.value.double() for p in parts]))
    gaps = values[1] - values[0]
    stderr = gaps.std().item() / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    doubt = found[1].errors["ode_tolerance"] + found[1].errors.get("dequantisation", 0.0)
    return BoundAndFlow(found[0], found[1], gaps.mean().item(), stderr, doubt)
