"""list the families, or the options of one

likeli list            every family, what it knows of log p(x), how it is fitted
likeli list vae        the options of vae, as --model.NAME
likeli list --data     what can be fitted
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import Any

from likeli.cli.catalogue import Argument, Catalogue, catalogue, training_options
from likeli.cli.options import train_defaults
from likeli.cli.output import emit, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("family", nargs="?", help="a family's name")
    parser.add_argument("--data", action="store_true", help="list what can be fitted, in place of the families")


def run(args: argparse.Namespace) -> None:
    """Print the catalogue."""
    known = catalogue(tuple(args.plugin))
    if args.data:
        _sources(args)
        return
    if args.family is None:
        rows = [describe(known, name) for name in known.models]
        header = ["family", "log p(x)", "fitted by", "what it is"]
        text = table(header, [[r["name"], kinds(r), r["strategy"], r["summary"]] for r in rows])
        emit(args, {"families": rows}, f"{text}\n\nOptions of one: likeli list FAMILY")
        return
    cls = known.family(args.family)
    row = describe(known, args.family) | {"options": [_option(known, a) for a in known.arguments(cls).values()]}
    head = f"{args.family}: {row['summary']}\nlog p(x): {kinds(row)}; fitted by {row['strategy']}"
    emit(args, row, f"{head}\n\n{options_help(known, args.family)}")


def _sources(args: argparse.Namespace) -> None:
    """What `likeli fit` takes as DATA."""
    from likeli.data import describe_sources

    rows = describe_sources()
    options = [", ".join(f"{k}={v}" for k, v in r["options"].items()) for r in rows]
    lines = [[r["name"], o, "known" if r["truth"] else "", r["about"]] for r, o in zip(rows, options)]
    emit(args, {"sources": rows}, table(["data", "options", "log p(x)", "what it is"], lines))


def describe(known: Catalogue, name: str) -> dict[str, Any]:
    """One family's row."""
    cls = known.family(name)
    knows = str(known.attribute(cls, "knows")).removeprefix("Knows.").lower().replace("_", " ")
    density = any(c.name == "DensityModel" for c in known.lineage(cls))
    return {
        "name": name,
        "knows": knows,
        "knows_on_integers": "lower bound" if density else knows,
        "strategy": known.attribute(cls, "strategy"),
        "conditional": known.takes(cls, "condition"),
        "summary": known.summary(cls),
    }


def kinds(row: dict[str, Any]) -> str:
    """What a family knows of log p(x), in words."""
    other = row["knows_on_integers"]
    return row["knows"] if other == row["knows"] else f"{row['knows']}; {other} on integers"


def options_help(known: Catalogue, name: str) -> str:
    """The options of a family, one a line."""
    lines = [_line("model", a) + _choices(known, a) for a in known.arguments(known.family(name)).values()]
    return f"options of {name}:\n" + "\n".join(lines or ["  (none)"])


def training_help(known: Catalogue, family: str | None) -> str:
    """The training options, one a line, with the defaults that `family` has for them."""
    defaults = train_defaults(known, family, {}) if family else {}
    options = [replace(a, default=defaults.get(name, a.default)) for name, a in training_options().items()]
    return "training options:\n" + "\n".join(_line("train", a) for a in options)


def _line(section: str, a: Argument) -> str:
    value = ",".join(map(str, a.default)) if isinstance(a.default, (list, tuple)) else a.default
    default = "" if a.required else f" [{'none' if value is None else value}]"
    return f"  --{section}.{a.name:<16} {readable(a.annotation)}{default}  {a.help}".rstrip()


def readable(annotation: str) -> str:
    """`Literal['a', 'b'] | None` → `a|b or none`, `tuple[int, ...]` → `int,int,…`."""
    text = annotation.replace(" | None", " or none").replace(" | ", " or ")
    text = re.sub(r"Literal\[([^\]]*)\]", lambda m: "|".join(p.strip("' ") for p in m[1].split(",")), text)
    return re.sub(r"tuple\[(\w+), (\.\.\.|\w+)\]", lambda m: f"{m[1]},{m[1]}" + (",…" if m[2] == "..." else ""), text)


def _choices(known: Catalogue, a: Argument) -> str:
    lines = []
    for name, cls in known.nested(a.annotation).items():
        own = ", ".join(f"--model.{a.name}.{k}" for k in known.arguments(cls))
        lines.append(f"\n      {name}: {own or 'no options'}")
    return "".join(lines)


def _option(known: Catalogue, a: Argument) -> dict[str, Any]:
    return {
        "name": a.name,
        "type": a.annotation,
        "default": a.default,
        "required": a.required,
        "help": a.help,
        "choices": list(known.nested(a.annotation)),
    }
