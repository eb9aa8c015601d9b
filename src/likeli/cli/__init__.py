"""The command line.  Importing it imports no torch, so that `--help` is quick."""

from likeli.cli.app import main

__all__ = ["main"]
