"""How much of some data a model explains: mean log p(x) with its standard error, its kind, and why it may be off."""

from __future__ import annotations

import csv
import inspect
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from likeli import processes
from likeli.contract import GenerativeModel, Knows, LogLikelihood, Measure, joined
from likeli.data.dataset import Data
from likeli.data.stream import Rows, chosen_rows, picked_rows, rows_joined, whole_batches, with_head
from likeli.errors import Diverged, require
from likeli.evaluation.collapse import SHUFFLED, reading_of_y
from likeli.models.density import DensityModel
from likeli.progress import Gauge, Shown
from likeli.random import BLOCK, derive, permutation
from likeli.spaces import extents

MISMATCH_ALARM = 0.01  # nats of mismatch between where a diffusion ends and where its sampler starts

MEANING = {
    Knows.EXACT: "exact: log p(x) itself, up to floating-point error",
    Knows.LOWER_BOUND: "lower bound: log p(x) is at least this, so the model may be better than its number",
    Knows.ESTIMATE: "estimate: may lie on either side of log p(x); see its errors",
    Knows.UNNORMALIZED: "unnormalised: log p(x) plus an unknown constant; only differences mean anything",
    Knows.NOTHING: "nothing: the family has no log p(x)",
}
ERRORS = {
    "terminal_mismatch": "KL between where the noising process ends and the prior that sampling starts from",
    "ode_tolerance": "error of the numerical ODE solution",
    "probe_noise": "noise of the random probes of the divergence",
    "log_z": "standard error of log Z, the same for every row, so that no number of rows makes it smaller",
    "log_z_width": "distance of the two ends between which log Z lies (90 %)",
    "dequantisation": "at least this much of the bound is lost to drawing integers as reals",
}
ROW = ("model", "knows", "measure", "nats", "stderr", "bits_per_dim", "bits_per_symbol", "bits_per_byte",
       "examples", "seconds", "parameters", "seed", "notes")  # fmt: skip
RATES = ("bits_per_symbol", "bits_per_byte")


@dataclass(frozen=True)
class Evaluation:
    """The mean of log p(x) over examples.

    Arguments:
        model: the family's name.
        knows: what the number is of log p(x).
        measure: density, mass or mixed.
        nats: mean over examples, in the user's units.
        stderr: standard error of that mean over examples; Monte Carlo noise of the examples is part of it.
        bits_per_dim: −nats / (D log 2); None where the value has no unit.
        examples: how many.
        seconds: time taken by the evaluation.
        parameters: numbers that the model has learned.
        seed: of the Monte Carlo draws.
        notes: why the number may be off, in words.
        errors: other sources of error in nats, by name: the largest over batches.
        dimensions: cells of one example.
        by_row: log p of every row that was looked at.
        index: which rows of the data those are, (examples,); all of them in their order unless fewer were asked for.
        rates: bits per symbol, and per byte of UTF-8 where symbols spell text: (mean, standard error) by name.
    """

    model: str
    knows: Knows
    measure: Measure
    nats: float
    stderr: float
    bits_per_dim: float | None
    examples: int
    seconds: float
    parameters: int
    seed: int
    notes: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    dimensions: int = 1
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    by_row: LogLikelihood | None = field(default=None, repr=False, compare=False)
    index: Tensor | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """The number with its error and its kind, and under it a line for each note."""
        sign = {Knows.EXACT: "=", Knows.LOWER_BOUND: "≥"}.get(self.knows, "≈")
        bits = "" if self.bits_per_dim is None else f", {self.bits_per_dim:.3f} ± {self.bits_stderr:.3f} bits/dim"
        rows = f"{self.examples} example{'s' * (self.examples != 1)}"
        head = f"{self.model}: log p(x) {sign} {self.nats:.2f} ± {self.stderr:.2f} nats{bits}; {rows}, {self.measure}"
        return "\n".join([head, *(f"  {note}" for note in self.notes)])

    @property
    def values(self) -> Tensor:
        """log p of each row, (examples,), nats; `index` says which rows."""
        require(self.by_row is not None, "values", "an evaluation of rows", "one without them")
        assert self.by_row is not None
        return self.by_row.value

    @property
    def bits_stderr(self) -> float | None:
        """The standard error of `bits_per_dim`."""
        return None if self.bits_per_dim is None else self.stderr / (self.dimensions * math.log(2))

    def row(self) -> dict[str, Any]:
        """The evaluation as JSON values, under the names that every table of likeli uses."""
        own = {name: getattr(self, name) for name in ROW if name not in RATES}
        rates = {name: self.rates[name][0] if name in self.rates else None for name in RATES}
        return {name: (own | rates)[name] for name in ROW} | {"knows": self.knows.value}


def evaluate(
    model: GenerativeModel,
    x: Any,
    y: Any = None,
    *,
    batch: int = 256,
    seed: int = 0,
    rows: int | None = None,
    minutes: float | None = None,
    progress: Shown = True,
    **options: Any,
) -> Evaluation:
    """Mean log p(x) over the rows of x, batch by batch.

        mean = (1/N) Σ log p(xᵢ),   s.e. = sd(log p(xᵢ)) / √N

    Arguments:
        model: any family with a log p(x).
        x: (N, *shape) in the user's units, a data frame, or a `Data`, of which the test rows are taken.
        y: (N, *condition.shape), for a conditional model; others leave it aside, and say so.
        batch: rows at a time; no number depends on it.
        seed: of the Monte Carlo draws, and of which rows are looked at if not all are.
        rows: at most so many, drawn without replacement; all if not given.
        minutes: look at rows in drawn order and stop after the batch in which so many have passed.
        progress: see `fit`.
        options: what the family's `log_likelihood` takes, such as `samples`.

    Raises:
        InputError: x, y or a number does not fit.
        Unsupported: the family has no log p(x).
    """
    if isinstance(x, Data):
        require(y is None, "y", "nothing, since the data bring their own", y)
        x.check_vocabulary(model.space)
        x, y = x.split("test")
    aside = y is not None and model.condition is None
    x = model.space.check(x, missing=model.takes_missing)
    y = model.check_condition(None if aside else y, len(x))
    found = evaluate_parts(
        model, [(x, y)], len(x), batch=batch, seed=seed, rows=rows, minutes=minutes, progress=progress, **options
    )
    found.notes.extend(["labels were left aside: the model is not conditional, so this is log p(x), not log p(x|y)"] * aside)
    return found


def evaluate_parts(
    model: GenerativeModel,
    parts: Iterable[Rows],
    n: int,
    *,
    batch: int = 256,
    seed: int = 0,
    rows: int | None = None,
    minutes: float | None = None,
    progress: Shown = True,
    **options: Any,
) -> Evaluation:
    """`evaluate` of n checked rows of which some are in memory at a time: the same numbers.

    Arguments:
        parts: (x, y) of successive rows, y None for a model that is not conditional.
        n: how many they are together.
        rows, minutes: as there; with minutes all of the drawn rows are held at once.

    Raises:
        InputError: a number does not fit.
        Unsupported: the family has no log p(x).
    """
    require(batch >= 1, "batch", "at least 1", batch)
    require(rows is None or rows >= 1, "rows", "at least 1", rows)
    require(minutes is None or minutes > 0, "minutes", "a number above 0", minutes)
    order = torch.arange(n) if rows is None and minutes is None else drawn_rows(n, rows, seed)
    head, unit = list[Rows](), batch_size(batch if minutes is None else BLOCK)
    parts = with_head(parts, head, SHUFFLED)
    if minutes is None:
        order = order.sort().values
        chosen = whole_batches(chosen_rows(parts, order, SHUFFLED), unit)
    else:
        chosen = iter([picked_rows(parts, order, SHUFFLED)])
    began, found, seen, amounts = time.perf_counter(), list[LogLikelihood](), 0, list[dict[str, Tensor]]()
    gauge = Gauge(progress, f"evaluating {model.kind()}", len(order), unit="rows")
    for x, y in chosen:
        before = seen
        for part in score(model, x, y, batch=unit // processes.count(), seed=seed, **options):
            found.append(part)
            seen += len(part.value)
            gauge.advance(seen)
            if minutes is not None and processes.first_says(time.perf_counter() - began >= 60 * minutes):
                break
        amounts.append({} if options.get("fixed") else extents(model.space, x[: seen - before]))  # given cells do not count
    gauge.close()
    order, back = order[:seen].sort()
    whole = _picked(joined(found, seen), back)
    summary = summarise(model, whole, seconds=time.perf_counter() - began, seed=seed, options=options)
    rates = rates_of(whole, {name: torch.cat([part[name] for part in amounts])[back] for name in amounts[0]})
    summary = replace(summary, index=order, rates=rates)
    if seen < n:
        summary.notes.append(f"{seen} of {n} rows were looked at, drawn by the seed")
    x, y = rows_joined(head)
    if y is not None and n > 1 and summary.knows not in (Knows.UNNORMALIZED, Knows.NOTHING):
        summary.notes.append(str(reading_of_y(model, x, y, seed=seed, **options)))
    return summary


def drawn_rows(n: int, rows: int | None, seed: int) -> Tensor:
    """Indices of `rows` of n rows (all if None), in drawn order: those of fewer rows begin those of more."""
    return permutation(n, seed, "rows")[:rows]


def _picked(whole: LogLikelihood, index: Tensor) -> LogLikelihood:
    stderr = None if whole.stderr is None else whole.stderr[index]
    row_errors = {name: errors[index] for name, errors in whole.row_errors.items()}
    return replace(whole, value=whole.value[index], stderr=stderr, row_errors=row_errors)


def paired(a: LogLikelihood, b: LogLikelihood) -> tuple[float, float]:
    """Mean over rows of a − b in nats, and its standard error.

    The rows are compared one by one, so that their own spread is not in it.

    Arguments:
        a, b: log p of the same rows by two models; their Monte Carlo noise is independent.
    """
    noise = sum((e.stderr.double().nan_to_num(0).square() for e in (a, b) if e.stderr is not None), torch.zeros(len(a.value)))
    shared = {"log_z": math.hypot(a.errors.get("log_z", 0.0), b.errors.get("log_z", 0.0))}
    return LogLikelihood(a.value.double() - b.value.double(), a.knows, a.measure, noise.sqrt(), shared).mean()


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


def summarise(
    model: GenerativeModel, whole: LogLikelihood, *, seconds: float, seed: int, options: Mapping[str, Any]
) -> Evaluation:
    """The evaluation of what `score` has given.

    Arguments:
        model, seed, options: what `score` was given.
        whole: all rows.
        seconds: that it took.
    """
    lost = whole.value.isnan()
    if lost.any():
        where = f"{int(lost.sum())} of {len(lost)} rows, the first of them row {int(lost.nonzero()[0])}"
        told = "training diverged, or these rows are far beyond its data"
        raise Diverged(f"{model.kind()}: log p is not a number on {where}: {told}")
    nats, stderr = whole.mean()
    unit = whole.knows not in (Knows.UNNORMALIZED, Knows.NOTHING)
    bits = -nats / (whole.dimensions * math.log(2)) if unit else None
    return Evaluation(
        model=model.kind(),
        knows=whole.knows,
        measure=whole.measure,
        nats=nats,
        stderr=stderr,
        bits_per_dim=bits,
        examples=len(whole.value),
        seconds=seconds,
        parameters=count_parameters(model),
        seed=seed,
        notes=_about(model, whole, options) + _notes(whole),
        errors=whole.errors,
        dimensions=whole.dimensions,
        by_row=whole,
    )


def rates_of(whole: LogLikelihood, amounts: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Bits per symbol, and per byte of text, of rows whose log p and `extents` are known: (mean, standard error) by name."""
    unit = whole.knows not in (Knows.UNNORMALIZED, Knows.NOTHING)
    return {f"bits_per_{name}": bits_per(whole.value, amount) for name, amount in amounts.items() if unit}


def bits_per(value: Tensor, amount: Tensor) -> tuple[float, float]:
    """−Σ log₂ p(xᵢ) / Σ aᵢ and its standard error over rows, that of a ratio of means.

    Arguments:
        value: (N,) nats.
        amount: (N,) what row i holds.
    """
    bits, amount = -value.double().cpu() / math.log(2), amount.double().cpu()
    rate = bits.sum() / amount.sum()
    error = (bits - rate * amount).square().sum().sqrt() / amount.sum()
    n = len(bits)
    return rate.item(), error.item() * math.sqrt(n / (n - 1)) if n > 1 else math.nan


def score(
    model: GenerativeModel, x: Tensor, y: Tensor | None = None, *, batch: int = 256, seed: int = 0, **options: Any
) -> Iterator[LogLikelihood]:
    """log p of each row of x, in batches that bound the memory and that processes share; no number depends on either."""
    batch = batch_size(batch)
    for start in range(0, len(x), batch):
        some, given = x[start : start + batch], None if y is None else y[start : start + batch]
        mine = processes.share(len(some), BLOCK)
        some, given, its_seed = some[mine], None if given is None else given[mine], derive(seed, "evaluate")
        found = [model.log_likelihood(some, given, seed=its_seed, **options)] if len(some) else []
        yield from found if processes.count() == 1 else everyones(found)


def batch_size(batch: int) -> int:
    """Rows that all processes score together: whole blocks of each, so that no block is padded but the last."""
    return -(-batch // BLOCK) * BLOCK * processes.count()


def everyones(mine: list[LogLikelihood]) -> Iterator[LogLikelihood]:
    """What every process has found of its rows, none or one part, in the rows' order."""
    plain = [[one.knows.value, one.measure, one.errors, one.dimensions] for one in mine]
    held = [{"": one.value, "±": one.stderr, **one.row_errors} for one in mine]
    tensors = {name: of for one in held for name, of in one.items() if of is not None}
    for about, found in processes.exchanged(plain, tensors):
        for knows, measure, errors, dimensions in about:
            yield LogLikelihood(found.pop(""), Knows(knows), measure, found.pop("±", None), errors, dimensions, found)


def count_parameters(model: GenerativeModel) -> int:
    """Numbers learned from data: parameters, and for families fitted without gradients their floating-point buffers."""
    learned: list[Tensor] = [*model.parameters()] or [b for b in model.buffers() if b.is_floating_point()]
    return sum(p.numel() for p in learned)


def _about(model: GenerativeModel, result: LogLikelihood, options: Mapping[str, Any]) -> list[str]:
    notes = [] if result.knows is Knows.EXACT else [MEANING[result.knows]]
    if not model.space.unambiguous:
        notes.append("log p of the symbols that a text is split into, a lower bound on log p of the text: others spell it too")
    if isinstance(model, DensityModel) and result.measure != "density":
        notes.append("the family is a density, so integers were dequantised: the gap to log P(x) is part of the bound")
    if result.stderr is not None and bool(result.stderr.isfinite().any()):
        parameter = inspect.signature(model.measure_likelihood).parameters.get("samples")
        draws = options.get("samples", parameter.default if parameter else None)
        spread = result.stderr[result.stderr.isfinite()].mean()
        notes.append(f"random draws{f' ({draws} per example)' if draws else ''}: {spread:.2g} nats s.e. per example")
    return notes + model.notes


def _notes(result: LogLikelihood) -> list[str]:
    notes = []
    for name, nats in result.errors.items():
        alarm = " (alarm: above 0.01)" if name == "terminal_mismatch" and nats > MISMATCH_ALARM else ""
        size = "not known" if math.isnan(nats) else f"{nats:.3g} nats{alarm}"
        notes.append(f"{ERRORS.get(name, name.replace('_', ' '))}: {size}")
    value = result.value
    if value.isneginf().any():
        notes.append(f"examples that are impossible under the model (log p = -inf): {int(value.isneginf().sum())}")
    if len(value) < 30:
        notes.append(f"only {len(value)} examples: the standard error itself is rough")
    return notes
