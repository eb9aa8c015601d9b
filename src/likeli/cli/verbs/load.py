"""say what some data are: kind, rows, split, and of a table the type of every column

likeli load table.csv                             what it is taken for, and what may surprise
likeli load table.csv --columns                   every column: type, gaps, range or categories, shared values, and why
likeli load table.csv --columns --out types.yaml  the types as a file to edit; fit, compare and load take it as --types
likeli load table.csv --columns --types b=drop      left out; more is said in a file, see docs/data.md

Types are real, integer, ordinal, categorical, boolean, date; a text identifies its row and is left out by the word drop.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from likeli.cli.objects import load_plugins, read_data
from likeli.cli.options import Parser
from likeli.cli.output import aligned, check_new, emit, new_file, warn
from likeli.cli.plan import Plan
from likeli.errors import require

if TYPE_CHECKING:
    from likeli.data.column_table import ColumnRow

WIDEST = 48  # of the values of a column
SHOWN, LEAST = 2, 0.005  # shared values of a column, and the share of the rows from which they are listed


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("data", metavar="DATA", help="as for likeli fit")
    parser.add_argument("--columns", action="store_true", help="the columns of a table")
    parser.share("--types")
    parser.add_argument("--kind", help="what the cells are, if not what they look like")
    parser.add_argument("--out", metavar="FILE.yaml", help="with --columns: the types as a file to edit, or .json")
    parser.share("--overwrite", "--seed")


def run(args: argparse.Namespace) -> None:
    """Read and describe."""
    require(args.seed >= 0, "seed", "a whole number from 0", args.seed)
    require(args.out is None or args.columns, "out", "--columns beside it", "nothing")
    check_new(args.out, overwrite=args.overwrite, suffixes=[".yaml", ".yml", ".json"])
    load_plugins(args.plugin)
    if not args.columns:
        data = read_data(Plan(args.data, kind=args.kind, types=args.types, seed=args.seed))
        emit(args, data.describe() | {"warnings": data.warnings}, f"{data}\n{data.space}")
        return
    from likeli.data import load_columns
    from likeli.data.column_types import written

    data, rows = load_columns(args.data, args.types, kind=args.kind, seed=args.seed)
    warn(data.warnings)
    if args.out is not None:
        said = {row.name: row.said for row in rows}
        remarks = {row.name: row.reason if row.said.categories else f"{row.reason}; {row.values}" for row in rows}
        plain = json.dumps({name: s.plain() for name, s in said.items()}, ensure_ascii=False, indent=1) + "\n"
        with new_file(args.out, overwrite=args.overwrite) as path:
            path.write_text(plain if path.suffix.lower() == ".json" else written(said, remarks), encoding="utf-8")
    found = [{k: v for k, v in asdict(row).items() if k != "said"} | {"said": row.said.plain()} for row in rows]
    done = f"\n\ntypes in {args.out}; edit it, then: likeli fit {args.data} --types {args.out}" if args.out else ""
    emit(args, {"data": data.name, "rows": len(data), "columns": found, "out": args.out}, f"{data}\n\n{listed(rows)}{done}")


def listed(rows: Sequence[ColumnRow]) -> str:
    """The columns as an aligned table."""
    header = ["column", "type", "missing", "values", "atoms", "why"]
    return aligned(header, [[r.name, r.type, r.missing or "-", _cut(r), _atoms(r.atoms), r.reason or "-"] for r in rows])


def _cut(row: ColumnRow) -> str:
    known = row.said.categories
    return row.values if len(row.values) <= WIDEST else f"{row.values[: WIDEST - 1]}…" + f" ({len(known)})" * bool(known)


def _atoms(atoms: dict[str, float]) -> str:
    first = ", ".join(f"{value} ({mass:.1%})" for value, mass in list(atoms.items())[:SHOWN] if mass >= LEAST)
    if not first:
        return f"{len(atoms)} of few rows" if atoms else "-"
    return (first or "-") + f" and {len(atoms) - SHOWN} more" * (len(atoms) > SHOWN)
