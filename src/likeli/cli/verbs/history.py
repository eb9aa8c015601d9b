"""print the losses of a run, step by step

likeli history runs/x
likeli history runs/x --json     numbers with a fraction are exact hexadecimal text, as Python's float.hex writes them
"""

from __future__ import annotations

import argparse
from typing import Any

from likeli.cli.options import Parser
from likeli.cli.output import aligned, emit


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")


def run(args: argparse.Namespace) -> None:
    """Print the history."""
    from likeli.checkpoint import read_history

    rows = read_history(args.run_folder)
    exact = [{k: v.hex() if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = aligned(names, [[_cell(row.get(n)) for n in names] for row in rows]) if rows else "no history"
    emit(args, {"run": args.run_folder, "rows": exact}, text)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
