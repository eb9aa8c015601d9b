"""fill the missing cells of a file by what a run says of them, given the cells that are there

likeli impute runs/x holes.csv --out filled.csv                  averages of the draws, and the most frequent category
likeli impute runs/x holes.csv --fill draws --draws 5 --out five.csv   five filled tables under each other, numbered by `draw`
likeli impute runs/x holes.csv --out full.csv --cells cells.csv   also a line for each cell: average, low, high, share
likeli impute runs/x shards/ --out all.csv                       a folder of .parquet files, part by part
likeli impute runs/vdm holes.npy --fill draws --draws 6 --out six.npy   images: NaN, or -1, in a hole; six of each

It is said whether the draws are exact, asymptotically exact or approximate, and where they may be off (docs/latent.md; of a
diffusion, docs/restoration.md).  Cells that are there, and columns that the run does not know, such as its labels, are written
as they are; a column of whole numbers stays one, its averages rounded (--cells has them in full).  A blank, NA, ? or null is
a missing cell.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    parser.add_argument("--out", metavar="FILE", required=True, help="where to write the filled rows: .csv, or .npy of arrays")
    parser.share("--overwrite")
    parser.add_argument("--fill", choices=["mean", "draws"], default="mean", help="one table, or one for each draw [mean]")
    parser.add_argument("-n", "--draws", dest="n", type=int, default=99, metavar="N", help="draws of each cell [99]")
    ways = "mmps, twisted_smc (exact in the limit, slow), replacement, repaint, pi_gdm, dps"
    parser.add_argument("--method", metavar="NAME", help=f"of a diffusion: {ways} [mmps]")
    parser.add_argument("--cells", metavar="FILE.csv", help="also write a line for each missing cell")
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
    for path, name, suffixes in ((args.out, "out", [".csv", ".npy"]), (args.cells, "cells", [".csv"])):
        check_new(path, overwrite=args.overwrite, suffixes=suffixes, argument=name)
    saved = open_run(args)
    how = {"samples": args.samples, "seed": args.seed, "batch": args.batch, "method": args.method}
    streamed = parts_for(saved, args.data, args.label, missing=True, tables=True)
    if streamed is not None:
        found, note, count, rows = _of_parts(args, saved, how, streamed)
    else:
        found = _of_array(args, saved, how) if array else _of_table(args, saved, how)
        note, count, rows = found.note, int(found.missing.sum()), len(found.missing)
    warn([f"draws may be off: {note}"] if note else [])
    about = {"rows": rows, "filled_cells": count, "draws": args.n, "answer": found.answer, "method": found.method or None}
    about |= {"note": note, "out": args.out, "cells": args.cells}
    by = f", {found.answer}{f' ({found.method})' * bool(found.method)}"
    emit(args, about, f"{count} cells of {rows} rows filled, by {args.n} draws each{by}, in {args.out}")


def _of_array(args: argparse.Namespace, saved: Checkpoint, how: dict[str, Any]) -> Imputation:
    """The averages (rows, ...) or all draws (draws, rows, ...) of an array's holes, written as one."""
    from likeli import processes
    from likeli.data import write_npy
    from likeli.data.readers.npy import read_npy
    from likeli.evaluation.imputation import impute

    found = impute(saved.model, read_npy(args.data), args.n, parse_label(args.label, saved.model), **how)
    if not processes.is_first():
        return found
    with new_file(args.out, overwrite=args.overwrite) as path:
        write_npy(path, (found.mean if args.fill == "mean" else found.draws).cpu().numpy())
    return found


def _of_table(args: argparse.Namespace, saved: Checkpoint, how: dict[str, Any]) -> Imputation:
    """A file's rows as they are but for their holes, and a line for each of these, written as tables."""
    x, y = rows_for(saved, args.data, label=args.label, missing=True)
    table = read_table(args.data)
    table = saved.model.space.frame(x) if table is None else table
    with _new_tables(args) as paths:
        return _filled(args, saved, how, table, y, paths)


def _of_parts(
    args: argparse.Namespace, saved: Checkpoint, how: dict[str, Any], streamed: tuple[int, Iterator[tuple[Any, Tensor, Any]]]
) -> tuple[Imputation, str, int, int]:
    """Rows that stay in files, some at a time: (the draws of the last ones, what is doubtful in any of them, how
    many cells were filled, how many rows)."""
    from likeli.progress import Gauge
    from likeli.random import derive

    rows, parts = streamed
    gauge = Gauge(not args.json, f"filling by {saved.model.kind()}", rows, unit="rows")
    found, doubts, count, first = list[Any](), list[str](), 0, 0
    with _new_tables(args) as paths:
        for frame, x, y in parts:
            table = as_table(frame).set_axis(range(first, first + len(x)))
            its_seed = derive(args.seed, "part", first) if first else args.seed
            found = [_filled(args, saved, how | {"seed": its_seed}, table, y, paths, append=first > 0)]
            doubts += [f"rows {first} to {first + len(x) - 1}: {found[0].note}"] if found[0].note else []
            count, first = count + int(found[0].missing.sum()), first + len(x)
            gauge.advance(first)
    gauge.close()
    more = f"; more such parts of the rows: {len(doubts) - 1}" if len(doubts) > 1 else ""
    return found[0], doubts[0] + more if doubts else "", count, rows


@contextlib.contextmanager
def _new_tables(args: argparse.Namespace) -> Iterator[tuple[Path | None, Path | None]]:
    """Where to write the filled rows and the lines of cells; nowhere what was not asked for, nor in another process."""
    from likeli import processes

    with contextlib.ExitStack() as stack:
        wanted = (path if processes.is_first() else None for path in (args.out, args.cells))
        paths = [path and stack.enter_context(new_file(path, overwrite=args.overwrite)) for path in wanted]
        yield paths[0], paths[1]


def _filled(
    args: argparse.Namespace, saved: Checkpoint, how: dict[str, Any], table: Any, y: Tensor | None,
    paths: tuple[Path | None, Path | None], *, append: bool = False,
) -> Imputation:  # fmt: skip
    """Fill some rows and write them."""
    import pandas

    from likeli.data import write_csv
    from likeli.evaluation.imputation import impute

    known = [name for name in table.columns if name in saved.model.space.names] or list(table.columns)
    found = impute(saved.model, table[known], args.n, y, **how)
    if paths[0] is None:
        return found
    filled = [found.mean] if args.fill == "mean" else [found.completed(i) for i in range(args.n)]
    whole = [table.assign(**_as_written(part[known], table, found)) for part in filled]
    if args.fill == "draws":
        whole = [part.assign(draw=i)[["draw", *table.columns]] for i, part in enumerate(whole)]
    for path, frame in ((paths[0], pandas.concat(whole)), (paths[1], found.cells(args.level) if args.cells else None)):
        if path is not None and frame is not None:
            write_csv(path, {name: cells_of(frame[name]) for name in frame.columns}, append=append)
    return found


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


def cells_of(column: Any) -> list[Any]:
    """A pandas column as Python values, None for what is missing; whole numbers among averages of such as they were."""
    values = column.astype(object).where(column.notna(), None).tolist()
    widened = str(column.dtype) == "Float64"
    return [int(v) if widened and v is not None and v == int(v) else v for v in values]
