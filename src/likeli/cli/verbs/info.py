"""verify a run and say what it is

likeli info runs/x       every byte is checked against the manifest; exit code 2 if anything is not as it was saved
"""

from __future__ import annotations

import argparse

from likeli.cli.objects import load_plugins
from likeli.cli.options import Parser
from likeli.cli.output import emit, to_json


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", help="a run folder, or a saved model's folder")


def run(args: argparse.Namespace) -> None:
    """Verify and print."""
    from likeli import checkpoint

    load_plugins(args.plugin)
    found = checkpoint.inspect(args.run_folder)
    shown = {name: v if isinstance(v, str) else to_json(v) for name, v in found.items() if name not in ("info", "files")}
    emit(args, found, "\n".join(f"{name:<12} {words}" for name, words in shown.items()))
