"""Rows on conditions: draws from p(x | x in a region), exactly where the family can.

Mixtures and independent columns are reweighted and truncated.  A family that draws given cells holds the columns that are at
one value.  What is left is rejection, which is exact too and says how many draws it took; where that finds too few, missing
cells are filled given the values that are held, which is importance resampling unless the family fills exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from likeli.contract import GenerativeModel, Knows, evaluating
from likeli.errors import InputError, Unsupported, check_options, require, require_draws
from likeli.evaluation.imputation import fills, impute
from likeli.gaussian.truncated import restricted_gaussian
from likeli.models.autoregressive import Autoregressive
from likeli.models.discrete_diffusion import DiscreteDiffusion
from likeli.models.linear_gaussian import LinearGaussian
from likeli.random import BLOCK, Noise, Streams, derive
from likeli.spaces import Space, like_training
from likeli.spaces.base import confined
from likeli.spaces.region import Region, Restricted, read_region, typed_columns

How = Literal["exact", "rejection", "importance", "approximate"]
TRIES = 200_000
HOPELESS = 20_000  # draws without a single hit, after which filling is tried where that can be done


@runtime_checkable
class Restricts(Protocol):
    """A family that draws rows of a region, or of a wider one, without rejection."""

    def restrict(self, region: Region) -> Restricted | None:
        """How; None where it cannot in this space."""
        ...


@dataclass(frozen=True)
class RowsWhere:
    """Rows that fulfil conditions.

    Arguments:
        x: (n, *shape) in the user's units.
        y: (n, *condition.shape) of a conditional model, else None.
        how: exact, by rejection (exact, at the cost of draws), by importance resampling (not exact), or approximate, as the
            family fills cells given others.
        drawn: rows that were drawn for them.
        held: the columns that were drawn first, at their values.
        log_p: log P(conditions); an estimate where rows were rejected, None where it is not known.
        stderr: of `log_p`; 0 where nothing was rejected.
        ess: (n,) effective sizes of the importance samples behind each row; None elsewhere.
        space: what a row is.
    """

    x: Tensor
    y: Tensor | None
    how: How
    drawn: int
    held: tuple[str, ...]
    log_p: float | None
    stderr: float
    ess: Tensor | None
    space: Space = field(repr=False)

    @property
    def acceptance(self) -> float:
        """The share of the draws that were kept."""
        return len(self.x) / self.drawn

    @property
    def note(self) -> str:
        """How the rows were drawn, in words."""
        kept = f"{len(self.x):,} of {self.drawn:,} draws kept ({self.acceptance:.2g})"
        if self.ess is not None:
            size = f"effective sample size {self.ess.min():.1f} to {self.ess.max():.1f}"
            return f"not exact: by importance resampling, {size}" + f", {kept}" * (self.drawn > len(self.x))
        error = f" ± {math.exp(self.log_p) * self.stderr:.1g}" if self.log_p is not None and self.stderr else ""
        chance = "" if self.log_p is None else f", probability {math.exp(self.log_p):.3g}{error}"
        first = f" with {', '.join(self.held)} drawn first, at the values asked for" if self.held else ""
        if self.how == "approximate":
            return "not exact: the others as the family fills them" + first + f", {kept}" * (self.drawn > len(self.x))
        return ("exact" if self.how == "exact" else f"exact by rejection, {kept}") + first + chance

    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        return self.space.frame(self.x)


Candidates = Callable[[Noise, list[int]], tuple[Tensor, Tensor | None]]


def sample_where(
    model: GenerativeModel, n: int, where: Any, y: Any = None, *, seed: int = 0, tries: int = TRIES, samples: int = 200,
    **options: Any,
) -> RowsWhere:  # fmt: skip
    """n rows from p(x | conditions); of one seed, more rows begin with the fewer.

    Arguments:
        model: of a table, or of rows of reals.
        n: how many.
        where: `"education=Masters,age>=40"`: a name, one of = != < <= > >=, a value or several with | between them; names and
            values with commas in quotes.  Or a mapping: `{"education": ["Masters", "Doctorate"], "age": (40, None)}`.
        y: one row, for a conditional model; drawn as often as in training if not given.
        seed: of all draws.
        tries: draws at most.
        samples: codes to choose from where filling is by importance resampling.
        options: of the family's sampler.

    Raises:
        InputError: conditions that do not fit or contradict each other, or that too few of the draws fulfil.
        Unsupported: a value of a density, which has no probability, and a family that cannot condition on it.
    """
    require(isinstance(n, int) and not isinstance(n, bool) and n >= 1, "n", "a whole number of at least 1", n)
    require(isinstance(tries, int) and not isinstance(tries, bool) and tries >= n, "tries", f"a whole number from {n}", tries)
    require_draws("samples", samples, 2)
    check_options(model.draw, options, "sample_where")
    region = read_region(where, model.space)
    label = model.check_condition(y, 1) if y is not None or model.condition is None else None
    restricted = restrict(model, region)
    held = [] if restricted is not None else holdable(model, region)
    able = fills(model) and bool(region.points)
    narrow = [name for i, name in massless(region).items() if i not in held and restricted is None]
    if narrow and not able:
        told = f"{narrow[0]} at one value has no probability under a density, and {model.kind()} cannot condition on it"
        raise Unsupported(f"where: {told}; give a range, or use gmm, ppca or autoregressive")
    row = region.held(held).to(model.device)

    def candidates(noise: Noise, rows: list[int]) -> tuple[Tensor, Tensor | None]:
        if restricted is not None:
            return restricted.draw(noise), None
        labels = _labels(model, label, len(rows), seed, rows[0])
        given = {"given": row.expand(len(rows), *model.space.shape)} if held else {}
        return confined(model.space, model.draw(noise, labels, **given, **options), **given), labels

    log_p = restricted.log_p if restricted is not None else math.nan if held else 0.0
    require(log_p != -math.inf, "where", "rows that have a probability", f"{region.text}, which have none")
    most = min(tries, HOPELESS) if able and not held else tries
    x, labels, drawn = ([], [], 0) if narrow else _kept(model, region, candidates, n, seed, (most, tries))
    if sum(map(len, x)) < n and able:
        return _filled(model, region, n, label, seed, tries, samples)
    rows = torch.cat(x) if x else torch.empty(0)
    _require_enough(len(rows), n, drawn, region, model)
    share, names = n / drawn, [c.name for c in typed_columns(model.space)]
    found = None if math.isnan(log_p) else log_p + math.log(share)
    how: How = "rejection" if drawn > n or (restricted is None and not held) else "exact"
    how = "approximate" if held and model.knows is not Knows.EXACT else how
    error = math.sqrt((1 - share) / n)
    of = torch.cat(labels) if labels else None
    return RowsWhere(rows, of, how, drawn, tuple(names[i] for i in held), found, error, None, model.space)


def restrict(model: GenerativeModel, region: Region) -> Restricted | None:
    """How a family draws rows of a region without rejection, or with less of it; None where it cannot."""
    if isinstance(model, LinearGaussian):
        return restricted_gaussian(model.joint, region)
    return model.restrict(region) if isinstance(model, Restricts) else None


def holdable(model: GenerativeModel, region: Region) -> list[int]:
    """The columns at one value that the family can draw first and hold: all, or of a natural order those at its beginning."""
    points = list(region.points)
    if isinstance(model, DiscreteDiffusion):
        return points if model.kernel.masks else []
    if not isinstance(model, Autoregressive) or "given" not in signature(model.draw).parameters:
        return []
    first = next((i for i in range(model.space.dimensions) if i not in points), model.space.dimensions)
    return points if model.follows == "any" else list(range(first))


def massless(region: Region) -> dict[int, str]:
    """The columns that are held at a value of a density, by their names."""
    columns = typed_columns(region.space)
    table = region.space.coding is not None
    atoms = {i: columns[i].marginal.atoms if table else {} for i in region.points}
    return {i: columns[i].name for i, v in region.points.items() if columns[i].type == "real" and v not in atoms[i]}


def _labels(model: GenerativeModel, label: Tensor | None, n: int, seed: int, first: int) -> Tensor | None:
    """The condition of n rows: one for all, or drawn as often as in training."""
    if model.condition is None:
        return None
    y = like_training(model.condition, n, seed=seed, first=first) if label is None else label
    return model.check_condition(y, n)


def _kept(
    model: GenerativeModel, region: Region, candidates: Candidates, n: int, seed: int, tries: tuple[int, int]
) -> tuple[list[Tensor], list[Tensor], int]:
    """(rows of the region, their labels, how many were drawn up to the last): n of them, or fewer after so many tries.

    Arguments:
        tries: without a single hit, and at most.
    """
    x, y, have, first = list[Tensor](), list[Tensor](), 0, 0
    with evaluating(model), torch.no_grad():
        while first < tries[1] and (have or first < tries[0]):
            rows = list(range(first, first + BLOCK))
            drawn, labels = candidates(Streams(seed, rows, model.dtype, model.device), rows)
            at = torch.nonzero(region.contains(drawn))[: n - have, 0]
            x, have = [*x, drawn[at]], have + len(at)
            y += [] if labels is None else [labels[at]]
            if have == n:
                return x, y, first + int(at[-1]) + 1
            first += BLOCK
    return x, y, first


def _filled(
    model: GenerativeModel, region: Region, n: int, label: Tensor | None, seed: int, tries: int, samples: int
) -> RowsWhere:
    """Rows with the columns at one value given and the others filled, of which those of the region are kept."""
    x, y, ess, have, drawn, size = list[Tensor](), list[Tensor](), list[Tensor](), 0, 0, min(max(n, 16), 256)
    row, answer = region.held().to(model.device), "exact"
    while have < n and drawn < tries:
        labels = _labels(model, label, size, seed, drawn)
        rows = row.expand(size, *model.space.shape)
        filled = impute(model, rows, 1, labels, samples=samples, seed=derive(seed, "where", drawn))
        at = torch.nonzero(region.contains(filled.draws[0]))[: n - have, 0]
        x.append(filled.draws[0][at])
        y += [] if labels is None else [labels[at]]
        answer = filled.answer
        ess += [] if filled.diagnostics is None else [filled.diagnostics.ess[at]]
        have, drawn = have + len(at), drawn + (size if have + len(at) < n else int(at[-1]) + 1)
    _require_enough(have, n, drawn, region, model)
    how: How = "importance" if ess else "approximate" if answer != "exact" else "rejection" if drawn > n else "exact"
    of = torch.cat(y) if y else None
    names = tuple(typed_columns(model.space)[i].name for i in region.points)
    return RowsWhere(torch.cat(x), of, how, drawn, names, None, 0.0, torch.cat(ess) if ess else None, model.space)


def _require_enough(have: int, n: int, drawn: int, region: Region, model: GenerativeModel) -> None:
    if have >= n:
        return
    few = f"{have:,} of {drawn:,}" if have else f"none of {drawn:,}"
    bound = f", so their probability is below {3 / max(drawn, 1):.1g} (95 %)" if not have else f", {have / drawn:.1g}"
    more = "widen them, or raise tries" if not have else f"ask for {have:,} rows, or raise tries"
    raise InputError(f"where: {few} draws of {model.kind()} fulfil {region.text}{bound}: expected {n:,} rows; {more}")
