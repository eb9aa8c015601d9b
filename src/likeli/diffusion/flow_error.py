"""How far a sampler ends from where the probability flow ends, on the network at hand: which one to take for few evaluations.

From one noise z_1 a method on a grid ends at z_0, and the flow, solved to a tolerance by steps of its own, at z_0*.  The error
of a start is ‖z_0 − z_0*‖/(α_0 √D): a root mean square over cells, in model units.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from likeli.config import build, describe, registered
from likeli.contract import GenerativeModel, evaluating
from likeli.diffusion.denoiser import Denoise, Prediction
from likeli.diffusion.gaussian import GaussianDiffusion, own_way
from likeli.diffusion.probability_flow import flow
from likeli.diffusion.sampler import Sampler, as_sampler, trajectory
from likeli.diffusion.schedule import LogLinear, Point, terminal
from likeli.diffusion.times import Grid, grid_of, uniform
from likeli.errors import Diverged, InputError, require
from likeli.probability.draw import draw
from likeli.random import BLOCK, Ambient, Streams

EVALUATIONS = (5, 10, 20, 50)
GRIDS = get_args(Grid)
CLEAR = 2.0  # standard errors by which a method must beat the model's own to be recommended


@dataclass(frozen=True)
class FlowError:
    """One method on one grid at one number of evaluations.

    Arguments:
        evaluations: of the network, allowed for one sample; a method of two a step may need one fewer.
        sampler: how to step.
        grid: how the steps are spaced.
        steps: how many.
        error: mean over starts, model units; infinite where a state was not finite.
        stderr: its standard error.
    """

    evaluations: int
    sampler: Sampler
    grid: str
    steps: int
    error: float
    stderr: float

    @property
    def name(self) -> str:
        """`adams(order=2)`: the class, and those of its arguments that are not the usual ones."""
        spec, usual = describe(self.sampler), describe(type(self.sampler)())
        own = [f"{k}={v}" for k, v in spec.items() if v != usual[k]]
        return spec["class"] + (f"({', '.join(own)})" if own else "")

    def options(self) -> dict[str, Any]:
        """What `model.sample` takes."""
        return {"steps": self.steps, "sampler": self.sampler, "grid": self.grid}

    def row(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return vars(self) | {"sampler": describe(self.sampler)}


@dataclass(frozen=True)
class FlowErrors:
    """Every method on every grid by number of evaluations, and which one to take.

    Arguments:
        starts: rows of noise: every second one chooses, the others report.
        tolerance: of the flow that all are held against.
        rows: all that was measured, the model's own methods first.
        own: by evaluations, what the model takes by itself, where that draws no noise.
        best: by evaluations, what is recommended: the least error among the starts that choose, if among the others too it
            beats the model's own by two standard errors of their difference; else the model's own.
    """

    starts: int
    tolerance: float
    rows: tuple[FlowError, ...]
    own: dict[int, FlowError]
    best: dict[int, FlowError]

    def row(self) -> dict[str, Any]:
        """Everything as JSON values."""
        chosen = {name: {str(n): r.row() for n, r in of.items()} for name, of in (("own", self.own), ("best", self.best))}
        return {"starts": self.starts, "tolerance": self.tolerance, "rows": [r.row() for r in self.rows]} | chosen


def flow_errors(
    model: GenerativeModel,
    y: Any = None,
    *,
    evaluations: Sequence[int] = EVALUATIONS,
    samplers: Sequence[Sampler | str] | None = None,
    grids: Sequence[str] = GRIDS,
    starts: int = 64,
    seed: int = 0,
    rtol: float = 1e-4,
) -> FlowErrors:
    """The error against the flow by method, grid and number of evaluations, and a recommendation for each number.

    Arguments:
        model: a Gaussian diffusion with one schedule for all cells.
        y: conditions to draw under, for a conditional model; repeated or cut to `starts`.
        evaluations: of the network for one sample.
        samplers: deterministic ones; all that are registered, with their default arguments, if not given.
        grids: names of grids.
        starts: rows of noise.
        seed: of the noise.
        rtol: relative and absolute tolerance of the flow.

    Raises:
        InputError: another family, a sampler that draws noise, a number out of range.
    """
    model = _checked(model, evaluations, grids, starts, rtol)
    y = None if y is None and model.condition is None else model.check_condition(y, starts if y is None else len(y))
    y = None if y is None else y[torch.arange(starts) % len(y)]
    names = [k for k, c in registered(Sampler).items() if c().deterministic]  # type: ignore[type-abstract]
    known = [as_sampler(s) for s in (names if samplers is None else samplers)]
    for sampler in known:
        require(sampler.deterministic, "samplers", f"deterministic ones, such as {', '.join(names)}", sampler.kind())

    with evaluating(model), torch.no_grad():
        noise = Streams(seed, range(starts), model.dtype, model.device)
        zeros = torch.zeros(starts, *model.latent_space.model_shape, dtype=model.dtype, device=model.device)
        z = draw(terminal(model.schedule, zeros), noise).split(BLOCK)
        denoise = [model.denoise(rows) for rows in ([None] * len(z) if y is None else y.split(BLOCK))]
        ends = [flow(d, rows, 1.0, 0.0, rtol=rtol, atol=rtol) for d, rows in zip(denoise, z)]

        def errors(sampler: Sampler, grid: str, steps: int) -> Tensor:
            times = grid_of(grid, model.schedule, steps, zeros[0].numel())
            return torch.cat([_missed(*of, times, sampler) for of in zip(denoise, z, ends)])

        rows: list[FlowError] = []
        own, best = {}, {}
        for n in sorted(set(evaluations)):
            mine = _own_within(model, n)
            candidates = [] if mine is None else [mine]
            candidates += [(s, g, k) for s in known if (k := steps_within(s, n)) for g in grids]
            by_start = [errors(*c) for c in candidates]
            found = [FlowError(n, *c, *_mean(e[1::2])) for c, e in zip(candidates, by_start)]
            winner = min(range(len(found)), key=lambda i: by_start[i][::2].mean().item())
            if mine is not None:
                own[n] = found[0]
                gap, error = _mean((by_start[0] - by_start[winner])[1::2])
                winner = winner if gap > CLEAR * error or not math.isfinite(found[0].error) else 0
            best[n] = found[winner]
            rows += found
    return FlowErrors(starts, rtol, tuple(rows), own, best)


def stored(found: FlowErrors) -> dict[str, Any]:
    """What a run keeps of a measurement, as plain values: the recommendation for each number of evaluations."""
    return {str(n): best.row() for n, best in found.best.items() if math.isfinite(best.error)}


def recommended(kept: Any, evaluations: int) -> FlowError | None:
    """The recommendation that was measured nearest, for so many evaluations; None where none is within a factor of two.

    Arguments:
        kept: what `stored` gave, from a file.
        evaluations: of the network.

    Raises:
        InputError: it is not of that form, or names a sampler that is not registered.
    """
    try:
        near = min(kept.items(), key=lambda of: abs(math.log(int(of[0]) / evaluations)))
        n, spec = int(near[0]), near[1]
        grid, error, stderr = str(spec["grid"]), float(spec["error"]), float(spec["stderr"])
        sampler = build(spec["sampler"], Sampler, where="samplers")  # type: ignore[type-abstract]
    except (AttributeError, TypeError, ValueError, KeyError) as fault:
        if isinstance(fault, InputError):
            raise
        raise InputError(f"samplers: expected what likeli sampler stores, got {str(kept)[:80]!r}") from None
    if not 1 / 2 <= evaluations / n <= 2:
        return None
    return FlowError(n, sampler, grid, steps_within(sampler, evaluations), error, stderr)


def _checked(
    model: GenerativeModel, evaluations: Sequence[int], grids: Sequence[str], starts: int, rtol: float
) -> GaussianDiffusion:
    require(isinstance(model, GaussianDiffusion), "model", "a diffusion model such as vdm", model.kind())
    assert isinstance(model, GaussianDiffusion)
    require(not model.schedule.at(0.0).alpha.ndim, "model", "one schedule for all cells", "one for each cell")
    require(len(evaluations) > 0 and min(evaluations) >= 2, "evaluations", "whole numbers of at least 2", list(evaluations))
    require(len(grids) > 0 and set(grids) <= set(GRIDS), "grids", f"some of {', '.join(GRIDS)}", list(grids))
    require(starts >= 8, "starts", "at least 8", starts)
    require(rtol > 0, "rtol", "a positive number", rtol)
    return model


def _missed(denoise: Denoise, z: Tensor, end: Tensor, times: Tensor, sampler: Sampler) -> Tensor:
    """(B,) distance over α_0 √D between a run's end and the flow's."""
    try:
        (last,) = deque(trajectory(denoise, z, times, Ambient(z), sampler), maxlen=1)
    except Diverged:
        return torch.full((len(z),), math.inf, dtype=torch.float64)
    gap = (last.z - end).double().flatten(1)
    return gap.norm(dim=1).cpu() / (last.at.alpha.item() * math.sqrt(gap.shape[1]))


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean and standard error."""
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def _own_within(model: GaussianDiffusion, evaluations: int) -> tuple[Sampler, str, int] | None:
    """What `model.sample(steps=…)` does with the most steps that need no more evaluations; None where it draws noise."""
    ways = [(as_sampler(sampler), grid, k) for k in range(1, evaluations + 1) for sampler, grid in [own_way(model, k)]]
    ways = [way for way in ways if way[0].deterministic and evaluations_of(way[0], way[2]) <= evaluations]
    return ways[-1] if ways else None


def steps_within(sampler: Sampler, evaluations: int) -> int:
    """The most steps that need no more than so many evaluations."""
    return bisect_right(range(1, evaluations + 1), evaluations, key=lambda steps: evaluations_of(sampler, steps))


def evaluations_of(sampler: Sampler, steps: int) -> int:
    """How often a sampler asks the denoiser in so many steps: counted, on one number with x̂ = 0."""
    asked = 0

    def count(z: Tensor, at: Point) -> Prediction:
        nonlocal asked
        asked += 1
        return Prediction.of_x(0 * z, z, at.alpha, at.sigma)

    z = torch.ones(1, 1, dtype=torch.float64)
    deque(trajectory(Denoise(LogLinear(), count), z, uniform(steps), Ambient(z), sampler), maxlen=0)
    return asked
