"""fill the missing cells of a file by what a run says of them, given the cells that are there

likeli impute runs/x holes.csv --out filled.csv                  averages of the draws, and the most frequent category
likeli impute runs/x holes.csv --fill draws --draws 5 --out five.csv   five filled tables under each other, numbered by `draw`
likeli impute runs/x holes.csv --out full.csv --cells cells.csv   also a line for each cell: value, low, high, share
likeli impute runs/x holes.csv --fill median --out mid.csv       medians, nearer to most values of a skewed column than averages
likeli impute runs/x shards/ --out all.parquet                   a folder of .parquet files, part by part
likeli impute runs/vdm holes.npy --fill draws --draws 6 --out six.npy   images: NaN, or -1, in a hole; six of each

It is said whether the draws are exact, asymptotically exact or approximate, and where they may be off (docs/latent.md; of a
diffusion, docs/restoration.md).  Cells that are there, and columns that the run does not know, such as its labels, are written
as they are; a column of whole numbers stays one, its averages rounded (--cells has them in full).  A blank, NA, ? or null is
a missing cell.  A command that was ended goes on after its last whole part when it is given again (docs/scale.md).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.kept_parts import TABLES, Rows, command_of, in_small_parts, write_by_parts
from likeli.cli.objects import open_run, parse_label, parts_for, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import check_new, emit, new_file, warn
from likeli.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.checkpoint import Checkpoint
    from likeli.data.frame import Frame
    from likeli.evaluation.imputation import Imputation


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    parser.add_argument("data", metavar="DATA", help="rows like those that the run was fitted on, some cells missing")
    parser.add_argument("--out", metavar="FILE", required=True, help="the filled rows: .csv or .parquet, .npy of arrays")
    parser.share("--overwrite")
    parser.add_argument(
        "--fill", choices=["mean", "median", "draws"], default="mean", help="averages, medians, or a table for each draw [mean]"
    )
    parser.add_argument("-n", "--draws", dest="n", type=int, default=99, metavar="N", help="draws of each cell [99]")
    ways = "mmps, twisted_smc (exact in the limit, slow), replacement, repaint, pi_gdm, dps"
    parser.add_argument("--method", metavar="NAME", help=f"of a diffusion: {ways} [mmps]")
    parser.add_argument("--cells", metavar="FILE", help="also write a line for each missing cell: .csv or .parquet")
    parser.add_argument("--level", type=float, default=0.9, metavar="P", help="chance of the intervals in --cells [0.9]")
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="codes to choose from where that is how [200]")
    parser.share("--label", "--batch", "--seed", "--processes")


def run(args: argparse.Namespace) -> None:
    """Draw, and write."""
    require(args.n >= 1, "n", "at least 1", args.n)
    require(0 < args.level < 1, "level", "a number between 0 and 1", args.level)
    enough = args.cells is None or (args.n + 1) * (1 - args.level) >= 2 - 1e-9
    require(enough, "n", f"at least {2 / (1 - args.level) - 1:.0f} with --cells and --level {args.level:g}", args.n)
    array = Path(args.out).suffix.lower() == ".npy"
    fits = not array or (Path(args.data).suffix.lower() == ".npy" and args.cells is None)
    require(fits, "out", "a name that ends in .csv, but of a .npy without --cells", args.out)
    for path, name, suffixes in ((args.out, "out", [*TABLES, ".npy"]), (args.cells, "cells", TABLES)):
        check_new(path, overwrite=args.overwrite, suffixes=suffixes, argument=name)
    saved = open_run(args)
    how = {"samples": args.samples, "seed": args.seed, "batch": args.batch, "method": args.method}
    found = _of_array(args, saved, how) if array else _of_tables(args, saved, how)
    warn([f"draws may be off: {found['note']}"] if found["note"] else [])
    about = {"draws": args.n, **found, "method": found["method"] or None, "out": args.out, "cells": args.cells}
    by = f", {found['answer']}" + f" ({found['method']})" * bool(found["method"])
    told = f"{found['filled_cells']} cells of {found['rows']} rows filled, by {args.n} draws each{by}, in {args.out}"
    emit(args, about, told)


def _of_array(args: argparse.Namespace, saved: Checkpoint, how: dict[str, Any]) -> dict[str, Any]:
    """The averages (rows, ...) or all draws (draws, rows, ...) of an array's holes, written as one; what is said of them."""
    from likeli import processes
    from likeli.data import write_npy
    from likeli.data.readers.npy import read_npy
    from likeli.evaluation.imputation import impute

    found = impute(saved.model, read_npy(args.data), args.n, parse_label(args.label, saved.model), **how)
    if processes.is_first():
        with new_file(args.out, overwrite=args.overwrite) as path:
            write_npy(path, (found.draws if args.fill == "draws" else getattr(found, args.fill)).cpu().numpy())
    return _told(found)


def _of_tables(args: argparse.Namespace, saved: Checkpoint, how: dict[str, Any]) -> dict[str, Any]:
    """Rows as they are but for their holes, and a line for each of these, written part by part; what is said of all."""
    from likeli.progress import Gauge
    from likeli.random import derive

    rows, parts, held = _rows(args, saved)
    gauge = Gauge(not args.json, f"filling by {saved.model.kind()}", rows, unit="rows")

    def work(part: Rows, first: int) -> tuple[dict[str, Any], list[Any]]:
        its_seed = derive(args.seed, "part", first) if first else args.seed
        table = part[0].set_axis(range(first, first + len(part[0])))
        told = _filled(args, saved, how | {"seed": its_seed}, table, part[2])
        gauge.advance(first + len(table))
        return told

    said = write_by_parts(args, [args.out, args.cells], command_of(args, saved, *held), in_small_parts(parts), work)
    gauge.close()
    return said[-1] | {"rows": rows, "filled_cells": sum(one["filled_cells"] for one in said), "note": _doubt(said)}


def _doubt(said: list[dict[str, Any]]) -> str:
    """What is doubtful in any of the parts, which say of how many rows they are."""
    ends = itertools.accumulate(one["rows"] for one in said)
    first, *more = [(end - one["rows"], end - 1, one["note"]) for one, end in zip(said, ends) if one["note"]] or [(0, 0, "")]
    where = f"rows {first[0]} to {first[1]}: " if len(said) > 1 and first[2] else ""
    return f"{where}{first[2]}" + f"; more such parts of the rows: {len(more)}" * bool(more)


def _rows(args: argparse.Namespace, saved: Checkpoint) -> tuple[int, Iterator[Rows], Sequence[Any]]:
    """How many rows, (all of their columns, x, y) of some at a time, and those that are in memory."""
    in_files = parts_for(saved, args.data, args.label, missing=True, tables=True)
    if in_files is not None:
        return in_files[0], ((as_table(frame), x, y) for frame, x, y in in_files[1]), ()
    x, y = rows_for(saved, args.data, label=args.label, missing=True)
    table = read_table(args.data)
    return len(x), iter([(saved.model.space.frame(x) if table is None else table, x, y)]), (x, y)


def _filled(
    args: argparse.Namespace, saved: Checkpoint, how: dict[str, Any], table: Any, y: Tensor | None
) -> tuple[dict[str, Any], list[Any]]:
    """Some rows filled: what is said of them, and in the first process the tables to write."""
    import pandas

    from likeli import processes
    from likeli.evaluation.imputation import impute

    known = [name for name in table.columns if name in saved.model.space.names] or list(table.columns)
    found = impute(saved.model, table[known], args.n, y, **how)
    if not processes.is_first():
        return _told(found), []
    point = "median" if args.fill == "median" else "mean"
    filled = [found.completed(i) for i in range(args.n)] if args.fill == "draws" else [getattr(found, point)]
    whole = [table.assign(**_as_written(part[known], table, found)) for part in filled]
    if args.fill == "draws":
        whole = [part.assign(draw=i)[["draw", *table.columns]] for i, part in enumerate(whole)]
    return _told(found), [pandas.concat(whole), *([found.cells(args.level, point)] if args.cells else [])]


def _told(found: Imputation) -> dict[str, Any]:
    """What is said of filled rows."""
    told = {"answer": found.answer, "method": found.method, "note": found.note}
    return {"rows": len(found.missing), "filled_cells": int(found.missing.sum())} | told


def _as_written(filled: Any, table: Any, found: Imputation) -> dict[str, Any]:
    """Filled columns by name; those whose values are whole numbers hold the nearest ones, written as the file wrote its own."""
    from likeli.data import columns_of

    values, columns = columns_of(found.draws[0, :1], found.space), {name: filled[name] for name in filled.columns}
    for name in [name for name, cells in values.items() if name in columns and isinstance(cells[0], int)]:
        columns[name] = columns[name].round().astype(table[name].dtype if table[name].notna().any() else "Int64")
    return columns


def read_table(path: str) -> Any:
    """A file of named columns as a pandas DataFrame with all of its columns; None for another kind of file."""
    from likeli.data.readers.tables import read_csv, read_parquet

    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        return None
    return as_table(read_parquet(path) if suffix == ".parquet" else read_csv(path))


def as_table(frame: Frame) -> Any:
    """Columns as they were read as a pandas DataFrame, whole numbers as such."""
    import pandas

    types = [object if isinstance(c, list) else "Int64" if whole else None for c, whole in zip(frame.columns, frame.whole)]
    columns = zip(frame.names, frame.columns, types)
    return pandas.DataFrame({name: pandas.Series(cells, dtype=dtype) for name, cells, dtype in columns})
