"""log p(x) of every row of a file

likeli score runs/x rows.csv --out scores.csv
likeli score runs/x shards/ --out all.parquet         a folder of .parquet files (or of many images), part by part
likeli score runs/cells cells.h5ad --out scored.h5ad  all that was in it, and likeli_nats, likeli_stderr in obs

The result has one line a row: row, nats, stderr (Monte Carlo error of that row; empty where there is none), knows (what kind of
number it is) and measure (density or mass); for symbols also bits_per_symbol and, where they spell text,
bits_per_byte of UTF-8.  Exit code 0 means that every row was scored.  A command that was ended goes on after its last whole
part when it is given again (docs/scale.md).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from likeli.cli.kept_parts import Rows, command_of, in_small_parts, write_by_parts
from likeli.cli.objects import call_options, open_run, parts_for, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import check_rows_out, emit, emit_rows, is_h5ad
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
    out = ".csv or .parquet to write [standard output]; a .h5ad of the rows is kept whole"
    parser.add_argument("--out", metavar="FILE", help=out)
    parser.share("--overwrite", "--label", "--processes")
    add_likelihood_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Score part by part, and write."""
    from likeli import processes

    check_rows_out(args)
    saved = open_run(args)
    options = call_options(saved.model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    options |= {"batch": args.batch, "seed": args.seed}
    in_files = parts_for(saved, args.data, args.label)
    held: tuple[Tensor | None, ...] = ()
    if in_files is None:
        held = x, y = rows_for(saved, args.data, label=args.label)
        in_files = len(x), iter([(None, x, y)])
    rows, parts = in_files
    many = f"--out FILE.csv for the {rows:,} rows, which are not all in memory"
    require(args.out is not None or bool(held), "out", many, "nothing")
    gauge = Gauge(not args.json, f"scoring with {saved.model.kind()}", rows, unit="rows")
    little = in_small_parts((None, x, y) for _, x, y in parts)
    columns = dict[str, list[Any]]()
    if args.out is None or is_h5ad(args.out):
        for _, x, y in little:
            found = row_scores(saved.model, x, y, len(columns.get("row", ())), gauge, options)
            columns = {name: columns.get(name, []) + values for name, values in found.items()}
        kind = {"knows": columns["knows"][0], "measure": columns["measure"][0], "rows": rows}
    else:
        kind = score_parts(args, saved, little, gauge, options, held) | {"rows": rows}
    gauge.close()
    if not processes.is_first():
        return
    done = f"{rows} rows ({kind['knows']}, nats, {kind['measure']})"
    if columns:
        emit_rows(args, kind, columns, done, "")
    else:
        emit(args, kind | {"out": args.out}, f"{done} in {args.out}")


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
    args: argparse.Namespace, saved: Checkpoint, parts: Iterable[Rows], gauge: Gauge, options: dict[str, Any],
    held: Sequence[Tensor | None],
) -> dict[str, Any]:  # fmt: skip
    """Score rows and write those of each part before the next is read; what kind of number it is.

    Arguments:
        held: rows that are in memory.
    """
    import pandas

    def work(part: Rows, first: int) -> tuple[dict[str, Any], list[Any]]:
        columns = row_scores(saved.model, part[1], part[2], first, gauge, options)
        told = {"rows": len(part[1]), "knows": columns["knows"][0], "measure": columns["measure"][0]}
        return told, [pandas.DataFrame(columns, dtype=object)]

    return write_by_parts(args, [args.out], command_of(args, saved, *held), parts, work)[-1]
