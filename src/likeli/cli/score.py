"""log p(x) of every row of a file

likeli score runs/x rows.csv --out scores.csv

The result has one line a row: row, nats, stderr (Monte Carlo error of that row; empty where there is none), knows (what kind of
number it is) and measure (density or mass).  Exit code 0 means that every row was scored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from likeli.cli.building import call_options, load_plugins, read_rows
from likeli.cli.evaluate import add_likelihood_arguments
from likeli.cli.output import check_new, emit, new_file, write_csv

if TYPE_CHECKING:
    from likeli.core import LogLikelihood

COLUMNS = ("row", "nats", "stderr", "knows", "measure")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    parser.add_argument("data", metavar="DATA", help="rows like those that the run was fitted on")
    parser.add_argument("--out", metavar="FILE.csv", help="where to write; standard output if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    add_likelihood_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Score, batch by batch, and write."""
    import likeli
    from likeli.analysis.likelihood import score

    if args.out:
        check_new(args.out, overwrite=args.overwrite)
    load_plugins(args.plugin)
    model = likeli.load(args.run_folder)
    options = call_options(model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    x, y = read_rows(args.data, model)
    parts = list(score(model, x, y, batch=args.batch, seed=args.seed, **options))
    kind = {"knows": parts[0].knows.value, "measure": parts[0].measure}
    if args.out:
        with new_file(args.out, overwrite=args.overwrite) as file:
            write_csv(file, COLUMNS, lines(parts))
        text = f"{len(x)} rows ({kind['knows']}, nats, {kind['measure']}) in {args.out}"
        emit(args, kind | {"rows": len(x), "out": args.out}, text)
    elif args.json:
        emit(args, kind | {"rows": [dict(zip(COLUMNS, line)) for line in lines(parts)]}, "")
    else:
        write_csv(sys.stdout, COLUMNS, lines(parts))


def lines(parts: Iterable[LogLikelihood]) -> Iterator[tuple[int, float, float | None, str, str]]:
    """One line a row, in the order of COLUMNS."""
    row = 0
    for part in parts:
        errors = [None] * len(part.value) if part.stderr is None else part.stderr.tolist()
        for value, error in zip(part.value.tolist(), errors):
            yield row, value, error, part.knows.value, part.measure
            row += 1
