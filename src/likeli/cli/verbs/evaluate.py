"""how much of held-out data a run explains

likeli evaluate runs/x                               on the test split that the run never saw
likeli evaluate runs/x --data other.csv --out p.csv  on all rows of other data, with the number of each row in a file
likeli evaluate runs/x --data shards/                a folder of .parquet files (or of many images), part by part
likeli evaluate runs/vae --likelihood.samples 500    a tighter bound, in more time
likeli evaluate runs/vae --minutes 5                 as many rows, drawn by the seed, as that time allows
likeli evaluate runs/vdm --method both --rows 200    a diffusion's bound beside its flow's density, with all error terms
likeli evaluate runs/masked --method all --rows 50   every number that one network has of log p(x), each with its kind
likeli evaluate runs/book --stride 64                windows of a text that overlap, beside windows that do not

Mean log p(x) in nats per example, in the units of the data, with its standard error over examples, what kind of number it is
and why it may be off.  `seconds` is what the evaluation took.  Of a family that knows nothing of log p(x) but samples, it says
why, and how near its samples are to held-out rows.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from likeli.cli.contest import empty_row
from likeli.cli.objects import call_options, check_fits, open_run, parts_for, rows_for, stored_data
from likeli.cli.options import Parser
from likeli.cli.output import aligned, check_new, emit, new_file, with_error
from likeli.errors import Unsupported, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.checkpoint import Checkpoint
    from likeli.evaluation.likelihood import Evaluation
    from likeli.evaluation.one_model import BoundAndFlow

JUDGED = 2000  # samples of a family without log p(x)
WRITTEN = 1 << 16  # rows on their way to a file
HEADER = ["model", "log p(x)", "measure", "nats", "bits/dim", "seconds", "parameters"]


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", "--data", "--split", "--label")
    parser.add_argument("--rows", type=int, metavar="N", help="at most N rows of it, drawn by the seed; all if not given")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes, with the rows looked at by then")
    parser.add_argument("--method", choices=["bound", "ode", "both", "all"], help="how a diffusion measures log p(x) [bound]")
    parser.add_argument("--stride", type=int, metavar="N", help="also by windows of a text that begin every N symbols")
    parser.add_argument("--out", metavar="FILE.csv", help="also write log p of every row that was looked at")
    parser.share("--overwrite", "--quiet", "--processes")
    add_likelihood_arguments(parser)


def add_likelihood_arguments(parser: Parser) -> None:
    """Options of everything that computes log p(x)."""
    parser.share("--batch", "--seed")
    parser.epilog = "What a family's log p(x) takes (samples, for many) is given as --likelihood.NAME VALUE."


def run(args: argparse.Namespace) -> None:
    """Evaluate and print."""
    from likeli import processes
    from likeli.contract import Knows
    from likeli.data.stream import picked_rows, rows_joined
    from likeli.evaluation.likelihood import drawn_rows, evaluate_parts
    from likeli.evaluation.one_model import bound_and_flow

    require(args.rows is None or args.rows >= 1, "rows", "at least 1", args.rows)
    both, several = args.method == "both", args.method == "all" or args.stride is not None
    one = args.minutes is None and args.out is None
    require(one or not (both or several), "method, stride", "one number with --minutes or --out", "several")
    require(not both or args.stride is None, "stride", "no --method both beside it", args.stride)
    check_new(args.out, overwrite=args.overwrite, suffixes=[".csv"])
    saved = open_run(args)
    function: Callable[..., Any] = bound_and_flow if both else saved.model.measure_likelihood
    way = [] if args.method in (None, "both", "all") else [("method", args.method)]
    options = call_options(function, [*way, *args.dotted["likelihood"]], "likelihood")
    options = {"batch": args.batch, "seed": args.seed} | options
    n, parts = _rows(args, saved)
    if both:
        order = drawn_rows(n, args.rows, args.seed).sort().values
        pair = bound_and_flow(saved.model, *picked_rows(parts, order), **options)
        emit(args, pair.row(), _pair_text(pair))
        return
    shown = not (args.quiet or args.json)
    if several:
        found_by_name = _several(args, saved.model, *rows_joined(list(parts)), options | {"progress": shown})
        rows = {name: one.row() for name, one in found_by_name.items()}
        emit(args, {"numbers": rows}, _several_text(found_by_name))
        return
    if saved.model.knows is Knows.NOTHING and args.out is None:
        chosen = drawn_rows(n, min(args.rows or JUDGED, n), args.seed)
        emit(args, *_samples_instead(args, saved, *picked_rows(parts, chosen)))
        return
    options |= {"rows": args.rows, "minutes": args.minutes, "progress": shown}
    found = evaluate_parts(saved.model, parts, n, **options)
    if args.out and processes.is_first():
        write_rows(args, found)
    rates = [f"{name.replace('_', ' ')}: {with_error(bits, error, 4)}" for name, (bits, error) in found.rates.items()]
    lines = [aligned(HEADER, [cells(found.row())]), f"{found.examples} examples", *rates, *(f"note: {n}" for n in found.notes)]
    emit(args, found.row(), "\n".join(lines))


def _rows(args: argparse.Namespace, saved: Checkpoint) -> tuple[int, Iterable[tuple[Tensor, Tensor | None]]]:
    """(how many rows there are, some of them at a time as (x, y)): of what stays in files, as they are read.

    Raises:
        LikeliError: more of them than memory holds, where it has to hold them: --minutes looks at them in no order of files.
    """
    streamed = None if args.data is None else parts_for(saved, args.data, args.label)
    if streamed is None:
        x, y = rows_for(saved, args.data, args.split, label=args.label)
        return len(x), [(x, y)]
    n, found = streamed
    whole = args.method == "all" or args.stride is not None
    if whole or args.minutes is not None or args.method == "both":
        held = n if whole else min(args.rows or n, n)
        check_fits(8 * saved.model.space.dimensions * held, f"to look at {held:,} rows in this way, beside --rows N of them,")
    return n, ((x, y) for _, x, y in found)


def _samples_instead(args: argparse.Namespace, saved: Checkpoint, x: Tensor, y: Tensor | None) -> tuple[dict[str, Any], str]:
    """Of a family without log p(x): why, and how near its samples are to these rows, which it was not fitted on.

    Raises:
        Unsupported: it cannot sample either.
    """
    from likeli.evaluation.sample_metrics import FEWEST_ROWS, sample_metrics

    began, model, train = time.perf_counter(), saved.model, stored_data(saved.info).split("train")[0]
    try:
        model.log_likelihood(x[:1], y if y is None else y[:1])
        why = ""
    except Unsupported as reason:
        why = str(reason)
    samples, enough = model.sample(len(x), y, seed=args.seed), min(len(x), len(train)) >= FEWEST_ROWS
    metrics = sample_metrics(x, samples, train, space=model.space, seed=args.seed) if enough else []
    own = {"knows": "nothing", "examples": len(x), "seconds": time.perf_counter() - began, "seed": args.seed, "notes": [why]}
    row = empty_row(model.kind()) | own | {"metrics": [asdict(m) for m in metrics]}
    told = f"how near {len(x)} samples are to as many held-out rows:"
    if not enough:
        few = f"{len(x)} held-out and {len(train)} training rows"
        told = f"its samples cannot be judged on {few}: {FEWEST_ROWS} of each are needed"
    told_apart = "a test of whether they differ at all: likeli test RUN"
    return row, "\n".join([f"nothing: {why}", told, *map(str, metrics), told_apart])


def write_rows(args: argparse.Namespace, found: Evaluation) -> None:
    """`row,nats,stderr,knows,measure` of every row in the CSV file `--out`."""
    from likeli.data import write_csv

    assert found.by_row is not None
    assert found.index is not None
    rows = found.by_row
    with new_file(args.out, overwrite=args.overwrite) as path:
        for first in range(0, found.examples, WRITTEN):
            some = slice(first, first + WRITTEN)
            value, n = rows.value[some].tolist(), len(rows.value[some])
            stderr = [None] * n if rows.stderr is None else rows.stderr[some].tolist()
            kind = {"knows": [rows.knows.value] * n, "measure": [rows.measure] * n}
            columns = {"row": found.index[some].tolist(), "nats": value, "stderr": stderr}
            write_csv(path, columns | kind, append=first > 0)


def _several(args: argparse.Namespace, model: Any, x: Any, y: Any, options: dict[str, Any]) -> dict[str, Evaluation]:
    """Evaluations by name, as `--method all` and `--stride` ask for them."""
    from likeli.evaluation.likelihood import evaluate
    from likeli.evaluation.one_model import every_number, strided

    found: dict[str, Evaluation] = {}
    if args.stride is not None:
        require(y is None, "stride", "a run without a condition", "one with labels")
        x = x if args.rows is None else x[: args.rows]  # in their order
        plain = {name: value for name, value in options.items() if name != "progress"}
        found[f"strided by {args.stride}"] = strided(model, x, args.stride, **plain)
        kept = options
    else:
        kept = options | {"rows": args.rows}
    if args.method == "all":
        return every_number(model, x, y, **kept) | found
    return {"windows that do not overlap": evaluate(model, x, y, **kept)} | found


def _several_text(found: dict[str, Evaluation]) -> str:
    """A line for each number with its kind, its unit and its standard error, and what is to say of them."""
    rows = []
    for name, one in found.items():
        rates = [with_error(*one.rates[r], 4) if r in one.rates else "-" for r in ("bits_per_symbol", "bits_per_byte")]
        rows.append([name, one.knows.value, *cells(one.row())[3:6], *rates])
    header = ["number", "it is", "nats", "bits/dim", "seconds", "bits/symbol", "bits/byte"]
    used = [i for i in range(len(header)) if any(row[i] != "-" for row in rows)]
    said = dict.fromkeys(f"note: {n}" for one in found.values() for n in one.notes)
    table = aligned([header[i] for i in used], [[row[i] for i in used] for row in rows])
    return "\n".join([table, f"{next(iter(found.values())).examples} examples", *said])


def _pair_text(found: BoundAndFlow) -> str:
    """The two numbers and what may be wrong with each, a line each, and one line for their order."""
    names = ["ode_tolerance", "probe_noise", "terminal_mismatch", "dequantisation"]
    rows = []
    for way, one in (("bound", found.bound), ("ode", found.flow)):
        errors = [f"{one.errors[n]:.2g}" if n in one.errors else "-" for n in names]
        rows.append([way, *cells(one.row())[1:6], *errors])
    gap = with_error(found.gap, None if math.isnan(found.stderr) else found.stderr, 3)
    order = f"the bound lies {found.order} it"
    if found.order == "cannot tell":
        why = "an error is not known" if found.ordered is None else "they differ by less than two standard errors and the doubt"
        order = f"cannot tell which is higher: {why}"
    return "\n".join([
        aligned(["method", *HEADER[1:6], *(n.replace("_", " ") for n in names)], rows),
        f"ode − bound: {gap} nats over {found.bound.examples} examples; {order}",
        *dict.fromkeys(f"note: {n}" for one in (found.bound, found.flow) for n in one.notes),
    ])  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """One row of a table for people."""
    nats, bits, stderr, seconds = (row[key] for key in ("nats", "bits_per_dim", "stderr", "seconds"))
    return [
        row["model"],
        row["knows"] or "-",
        row["measure"] or "-",
        "-" if nats is None else with_error(nats, stderr, 2),
        "-" if bits is None else with_error(bits, None if stderr is None else stderr * abs(bits / nats), 3),
        "-" if seconds is None else f"{seconds:.1f}",
        "-" if row["parameters"] is None else str(row["parameters"]),
    ]
