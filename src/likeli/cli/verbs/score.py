"""log p(x) of every row of a file

likeli score runs/x rows.csv --out scores.csv

The result has one line a row: row, nats, stderr (Monte Carlo error of that row; empty where there is none), knows (what kind of
number it is) and measure (density or mass).  Exit code 0 means that every row was scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import call_options, load_plugins, read_rows
from likeli.cli.output import check_new, emit, new_file, table
from likeli.cli.verbs.evaluate import add_likelihood_arguments

if TYPE_CHECKING:
    from likeli.contract import LogLikelihood


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of everything that says something of each row."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    parser.add_argument("data", metavar="DATA", help="rows like those that the run was fitted on")
    parser.add_argument("--out", metavar="FILE.csv", help="where to write; a table on standard output if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    add_likelihood_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Score, batch by batch, and write."""
    from likeli import checkpoint
    from likeli.data import write_csv
    from likeli.evaluation.likelihood import score

    if args.out:
        check_new(args.out, overwrite=args.overwrite)
    load_plugins(args.plugin)
    saved = checkpoint.read(args.run_folder)
    model = saved.model
    options = call_options(model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    x, y = read_rows(args.data, saved)
    parts = list(score(model, x, y, batch=args.batch, seed=args.seed, **options))
    columns = as_columns(parts)
    kind = {"knows": parts[0].knows.value, "measure": parts[0].measure, "rows": len(x)}
    if args.out:
        with new_file(args.out, overwrite=args.overwrite) as path:
            write_csv(path, columns)
        emit(args, kind | {"out": args.out}, f"{len(x)} rows ({kind['knows']}, nats, {kind['measure']}) in {args.out}")
        return
    emit(args, kind | columns, table(list(columns), zip(*columns.values())))


def as_columns(parts: Sequence[LogLikelihood]) -> dict[str, list[Any]]:
    """row, nats, stderr, knows, measure: one entry a row of the data."""
    nats = [v for p in parts for v in p.value.tolist()]
    errors = [e for p in parts for e in ([None] * len(p.value) if p.stderr is None else p.stderr.tolist())]
    knows = [p.knows.value for p in parts for _ in p.value]
    measure = [p.measure for p in parts for _ in p.value]
    return {"row": list(range(len(nats))), "nats": nats, "stderr": errors, "knows": knows, "measure": measure}
