"""how much of held-out data a run explains

likeli evaluate runs/x                       on the test split that the run never saw
likeli evaluate runs/x --data other.csv      on all rows of other data
likeli evaluate runs/vae --likelihood.samples 500
likeli evaluate runs/vdm --method both --rows 200     a diffusion's bound beside its flow's density, with all error terms

Mean log p(x) in nats per example, in the units of the data, with its standard error over examples, what kind of number it is
and why it may be off.  `seconds` is what the evaluation took.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import call_options, load_plugins, read_rows, stored_data
from likeli.cli.output import emit, table
from likeli.errors import require

if TYPE_CHECKING:
    from likeli.evaluation.likelihood import BoundAndFlow

HEADER = ["model", "log p(x)", "measure", "nats", "bits/dim", "seconds", "parameters"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    parser.add_argument("--data", metavar="DATA", help="other data than the run's own test split")
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"], help="part of the run's own data [test]")
    parser.add_argument("--rows", type=int, metavar="N", help="the first N rows of it; all if not given")
    parser.add_argument("--method", choices=["bound", "ode", "both"], help="how a diffusion measures log p(x) [bound]")
    add_likelihood_arguments(parser)


def add_likelihood_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of everything that computes log p(x)."""
    parser.add_argument("--batch", type=int, default=256, metavar="N", help="rows at a time [256]")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the Monte Carlo draws [0]")
    parser.epilog = "What a family's log p(x) takes (samples, for many) is given as --likelihood.NAME VALUE."


def run(args: argparse.Namespace) -> None:
    """Evaluate and print."""
    import likeli
    from likeli import checkpoint
    from likeli.evaluation.likelihood import bound_and_flow

    require(args.rows is None or args.rows >= 1, "rows", "at least 1", args.rows)
    load_plugins(args.plugin)
    saved = checkpoint.read(args.run_folder)
    model = saved.model
    function: Callable[..., Any] = bound_and_flow if args.method == "both" else model.measure_likelihood
    way = [("method", args.method)] if args.method in ("bound", "ode") else []
    options = call_options(function, [*way, *args.dotted["likelihood"]], "likelihood")
    x, y = stored_data(saved.info).split(args.split) if args.data is None else read_rows(args.data, saved)
    x, y = x[: args.rows], y[: args.rows] if y is not None and model.condition is not None else None
    if args.method == "both":
        both = bound_and_flow(model, x, y, **{"batch": args.batch, "seed": args.seed} | options)
        emit(args, both.row(), _both(both))
        return
    found = likeli.evaluate(model, x, y, batch=args.batch, seed=args.seed, **options)
    text = table(HEADER, [cells(found.row())])
    emit(args, found.row(), "\n".join([text, f"{found.examples} examples", *(f"note: {n}" for n in found.notes)]))


def _both(found: BoundAndFlow) -> str:
    """The two numbers and what may be wrong with each, a line each, and one line for their order."""
    names = ["ode_tolerance", "probe_noise", "terminal_mismatch", "dequantisation"]
    rows = []
    for way, one in (("bound", found.bound), ("ode", found.flow)):
        errors = [f"{one.errors[n]:.2g}" if n in one.errors else "-" for n in names]
        rows.append([way, *cells(one.row())[1:6], *errors])
    gap = with_error(found.gap, None if math.isnan(found.stderr) else found.stderr, 3)
    order = "above it by more than the errors allow"
    if found.ordered is None:
        order = "on a side that cannot be told, since an error is not known"
    elif found.ordered:
        order = "below it" if found.gap > 0 else "not above it by more than the errors"
    return "\n".join([
        table(["method", *HEADER[1:6], *(n.replace("_", " ") for n in names)], rows),
        f"ode − bound: {gap} nats over {found.bound.examples} examples; the bound lies {order}",
        *dict.fromkeys(f"note: {n}" for one in (found.bound, found.flow) for n in one.notes),
    ])  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """One row of a table for people."""
    nats, bits, stderr = row["nats"], row["bits_per_dim"], row["stderr"]
    return [
        row["model"],
        row["knows"] or "-",
        row["measure"] or "-",
        "-" if nats is None else with_error(nats, stderr, 2),
        "-" if bits is None else with_error(bits, None if stderr is None else stderr * abs(bits / nats), 3),
        "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
        "-" if row["parameters"] is None else str(row["parameters"]),
    ]


def with_error(value: float, stderr: float | None, digits: int) -> str:
    """`1.234 ± 0.005`."""
    return f"{value:.{digits}f}" + ("" if stderr is None else f" ± {stderr:.{digits}f}")
