"""log p(x) of every row of a file

likeli score runs/x rows.csv --out scores.csv
likeli score runs/x shards/ --out all.csv             a folder of .parquet files (or of many images), part by part
likeli score runs/cells cells.h5ad --out scored.h5ad  all that was in it, and likeli_nats, likeli_stderr in obs

The result has one line a row: row, nats, stderr (Monte Carlo error of that row; empty where there is none), knows (what kind of
number it is) and measure (density or mass); for symbols also bits_per_symbol and, where they spell text,
bits_per_byte of UTF-8.  Exit code 0 means that every row was scored.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import call_options, open_run, parts_for, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import check_rows_out, emit, emit_rows, is_h5ad, new_file
from likeli.cli.verbs.evaluate import add_likelihood_arguments
from likeli.errors import require
from likeli.progress import Gauge

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.checkpoint import Checkpoint
    from likeli.contract import GenerativeModel


def add_arguments(parser: Parser) -> None:
    """Declare the options of everything that says something of each row."""
    parser.share("run_folder")
    parser.add_argument("data", metavar="DATA", help="rows like those that the run was fitted on")
    parser.add_argument("--out", metavar="FILE.csv", help="where to write [standard output]; a .h5ad of the rows is kept whole")
    parser.share("--overwrite", "--label", "--processes")
    add_likelihood_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Score, batch by batch, and write."""
    from likeli import processes

    check_rows_out(args)
    saved = open_run(args)
    options = call_options(saved.model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    options |= {"batch": args.batch, "seed": args.seed}
    streamed = parts_for(saved, args.data, args.label)
    if streamed is not None:
        return score_parts(args, saved, *streamed, options)
    x, y = rows_for(saved, args.data, label=args.label)
    gauge = Gauge(not args.json, f"scoring with {saved.model.kind()}", len(x), unit="rows")
    columns = row_scores(saved.model, x, y, 0, gauge, options)
    gauge.close()
    if processes.is_first():
        kind = {"knows": columns["knows"][0], "measure": columns["measure"][0], "rows": len(x)}
        emit_rows(args, kind, columns, f"{len(x)} rows ({kind['knows']}, nats, {kind['measure']})", "")
    return None


def row_scores(
    model: GenerativeModel, x: Tensor, y: Tensor | None, first: int, gauge: Gauge, options: dict[str, Any]
) -> dict[str, list[Any]]:
    """What is written of each row, by name; the first of them has the number `first`."""
    from likeli.contract import Knows
    from likeli.evaluation.likelihood import score
    from likeli.spaces import extents

    columns: dict[str, list[Any]] = {"row": list(range(first, first + len(x)))}
    columns |= {name: [] for name in ("nats", "stderr", "knows", "measure")}
    for part in score(model, x, y, **options):
        n = len(part.value)
        columns["nats"] += part.value.tolist()
        columns["stderr"] += [None] * n if part.stderr is None else part.stderr.tolist()
        columns["knows"] += [part.knows.value] * n
        columns["measure"] += [part.measure] * n
        gauge.advance(first + len(columns["nats"]))
    if columns["knows"][0] != Knows.UNNORMALIZED.value:
        for name, amount in extents(model.space, x).items():
            columns[f"bits_per_{name}"] = [-nats / (math.log(2) * n) for nats, n in zip(columns["nats"], amount.tolist())]
    return columns


def score_parts(
    args: argparse.Namespace, saved: Checkpoint, rows: int, parts: Iterator[tuple[Any, Tensor, Tensor | None]], options: Any
) -> None:
    """Score rows that stay in files, and write those of each part before the next is read."""
    from likeli import processes
    from likeli.data import write_csv

    require(args.out is not None, "out", f"--out FILE.csv for the {rows:,} rows, which are not all in memory", "nothing")
    gauge, first, kind = Gauge(not args.json, f"scoring with {saved.model.kind()}", rows, unit="rows"), 0, dict[str, Any]()
    if is_h5ad(args.out):
        scored = [row_scores(saved.model, x, y, 0, gauge, options) for _, x, y in parts]
        gauge.close()
        columns = {name: [v for part in scored for v in part[name]] for name in scored[0]}
        kind = {"knows": columns["knows"][0], "measure": columns["measure"][0], "rows": rows}
        if processes.is_first():
            emit_rows(args, kind, columns, f"{rows} rows ({kind['knows']}, nats, {kind['measure']})", "")
        return
    with new_file(args.out, overwrite=args.overwrite) if processes.is_first() else nullcontext() as path:
        for _, x, y in parts:
            columns = row_scores(saved.model, x, y, first, gauge, options)
            if path is not None:
                write_csv(path, columns, append=first > 0)
            kind, first = {"knows": columns["knows"][0], "measure": columns["measure"][0], "rows": rows}, first + len(x)
    gauge.close()
    if processes.is_first():
        emit(args, kind | {"out": args.out}, f"{rows} rows ({kind['knows']}, nats, {kind['measure']}) in {args.out}")
