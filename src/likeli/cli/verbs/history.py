"""print the losses of a run, step by step

likeli history runs/x
likeli history runs/x --json     numbers with a fraction are exact hexadecimal text, as Python's float.hex writes them
"""

from __future__ import annotations

import argparse

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
    cells = [[f"{v:.6g}" if isinstance(v := row.get(n, "-"), float) else v for n in names] for row in rows]
    emit(args, {"run": args.run_folder, "rows": exact}, aligned(names, cells) if rows else "no history")
