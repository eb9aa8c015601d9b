"""log p(x) of every row of a file

likeli score runs/x rows.csv --out scores.csv

The result has one line a row: row, nats, stderr (Monte Carlo error of that row; empty where there is none), knows (what kind of
number it is) and measure (density or mass); for symbols also bits_per_symbol and, where they spell text,
bits_per_byte of UTF-8.  Exit code 0 means that every row was scored.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from likeli.cli.objects import call_options, open_run, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import check_new, emit_rows
from likeli.cli.verbs.evaluate import add_likelihood_arguments
from likeli.progress import Gauge


def add_arguments(parser: Parser) -> None:
    """Declare the options of everything that says something of each row."""
    parser.share("run_folder")
    parser.add_argument("data", metavar="DATA", help="rows like those that the run was fitted on")
    parser.add_argument("--out", metavar="FILE.csv", help="where to write; a table on standard output if not given")
    parser.share("--overwrite", "--label", "--processes")
    add_likelihood_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Score, batch by batch, and write."""
    from likeli import processes
    from likeli.contract import Knows
    from likeli.evaluation.likelihood import score
    from likeli.spaces import extents

    check_new(args.out, overwrite=args.overwrite)
    saved = open_run(args)
    options = call_options(saved.model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    x, y = rows_for(saved, args.data, label=args.label)
    columns: dict[str, list[Any]] = {"row": list(range(len(x))), "nats": [], "stderr": [], "knows": [], "measure": []}
    gauge = Gauge(not args.json, f"scoring with {saved.model.kind()}", len(x), unit="rows")
    for part in score(saved.model, x, y, batch=args.batch, seed=args.seed, **options):
        n = len(part.value)
        columns["nats"] += part.value.tolist()
        columns["stderr"] += [None] * n if part.stderr is None else part.stderr.tolist()
        columns["knows"] += [part.knows.value] * n
        columns["measure"] += [part.measure] * n
        gauge.advance(len(columns["nats"]))
    gauge.close()
    if not processes.is_first():
        return
    if columns["knows"][0] != Knows.UNNORMALIZED.value:
        for name, amount in extents(saved.model.space, x).items():
            columns[f"bits_per_{name}"] = [-nats / (math.log(2) * n) for nats, n in zip(columns["nats"], amount.tolist())]
    kind = {"knows": columns["knows"][0], "measure": columns["measure"][0], "rows": len(x)}
    emit_rows(args, kind, columns, f"{len(x)} rows ({kind['knows']}, nats, {kind['measure']})", "")
