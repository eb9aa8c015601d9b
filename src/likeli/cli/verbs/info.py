"""verify a run and say what it is

likeli info runs/x       every byte is checked against the manifest; exit code 2 if anything is not as it was saved
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from likeli.cli.objects import load_plugins
from likeli.cli.options import Parser
from likeli.cli.output import emit

SHOWN = 8  # values of a list


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", help="a run folder, or a saved model's folder")


def run(args: argparse.Namespace) -> None:
    """Verify and print."""
    from likeli import checkpoint

    load_plugins(args.plugin)
    found = checkpoint.inspect(args.run_folder)
    shown = {name: v for name, v in found.items() if name not in ("info", "files")}
    if "data" in found["info"]:
        shown["data"] = {k: v for k, v in found["info"]["data"].items() if k not in ("space", "condition")}
    emit(args, found, "\n".join(outline(shown)))


def outline(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """One line a value; what has parts is followed by them, further in, and a thing of several columns by a line a column."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if isinstance(value, Mapping):
            parts = {k: v for k, v in value.items() if k != "class"}
            yield f"{indent}{name:<{width}}  {value.get('class', '')}".rstrip()
            yield from outline(parts, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) and "name" in v for v in value):
            yield f"{indent}{name}"
            widest = max(len(v["name"]) for v in value)
            for v in value:
                more = {k: x for k, x in v.items() if k not in ("name", "class", "type") and x not in ([], None, False)}
                rest = [f"{k} {plain(x)}" for k, x in more.items()]
                yield f"{indent}  {v['name']:<{widest}}  {v.get('type', ''):<11}  {', '.join(rest)}".rstrip()
        else:
            yield f"{indent}{name:<{width}}  {plain(value)}".rstrip()


def plain(value: Any) -> str:
    """A value in words: numbers to six digits, the first eight of a list, how many cells a column has."""
    if isinstance(value, Mapping):
        low, high = value.get("low"), value.get("high")
        return f"{len(low)} cells from {plain(low[0])} to {plain(high[-1])}" if low and high else value.get("class", "")
    if isinstance(value, list):
        return ", ".join(map(plain, value[:SHOWN])) + (f", … ({len(value)} in all)" if len(value) > SHOWN else "")
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
