"""verify a run and say what it is

likeli info runs/x       every byte is checked against the manifest; exit code 2 if anything is not as it was saved
"""

from __future__ import annotations

import argparse
from typing import Any

from likeli.cli.objects import load_plugins
from likeli.cli.output import emit, to_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, or a saved model's folder")


def run(args: argparse.Namespace) -> None:
    """Verify and print."""
    from likeli import checkpoint

    load_plugins(args.plugin)
    found = checkpoint.inspect(args.run_folder)
    shown = {name: value for name, value in found.items() if name not in ("info", "files")}
    emit(args, found, "\n".join(f"{name:<12} {_words(value)}" for name, value in shown.items()))


def _words(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)
