"""list the families, or the options of one

likeli list            every family: log p(x), calls of the network for a sample, how it is fitted, the data it takes
likeli list vae        the options of vae, as --model.NAME
likeli list --data     what can be fitted
likeli list --on digits  which families can be fitted on it, and why others cannot
"""

from __future__ import annotations

import argparse
import re
import textwrap
from dataclasses import replace
from typing import Any

from likeli.cli.catalogue import Argument, Catalogue, catalogue, training_options
from likeli.cli.options import Parser, text_defaults, train_defaults
from likeli.cli.output import aligned, emit

WIDTH = 80
LETTERS = {"real": "r", "binary": "b", "pixels": "p", "counts": "c", "tokens": "s", "table": "t"}  # of kinds of data


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("family", nargs="?", help="a family's name")
    parser.add_argument("--on", metavar="DATA", help="say which families can be fitted on it, with their defaults")
    parser.share("--types")
    parser.add_argument("--data", action="store_true", help="list what can be fitted, in place of the families")


def run(args: argparse.Namespace) -> None:
    """Print the catalogue."""
    known = catalogue(tuple(args.plugin))
    if args.data:
        _sources(args)
    elif args.on is not None:
        _takers(args, known)
    elif args.family is None:
        rows = [family_row(known, name) for name in known.models]
        emit(args, {"families": rows}, f"{taxonomy(rows)}\n\nOptions of one: likeli list FAMILY")
    else:
        row = family_row(known, args.family)
        options = [
            {"name": a.name, "type": a.annotation, "default": a.default, "required": a.required, "help": a.help}
            | {"choices": list(known.nested(a.annotation))}
            for a in known.arguments(known.family(args.family)).values()
        ]
        why = f" ({row['no_condition']})" * bool(row["no_condition"])
        of_y = "p(x) and p(x|y)" if row["conditional"] else f"p(x) alone{why}"
        facts = f"log p(x): {kinds(row)}; fitted by {row['strategy']}; {of_y}; takes {', '.join(row['kinds'])}"
        cost = f"a sample costs {row['calls']} calls of the network" if row["calls"] else "it cannot sample"
        head = "\n".join([filled(args.family + ": " + row["summary"], 0), filled(facts, 0), cost])
        emit(args, row | {"options": options}, f"{head}\n\n{options_help(known, args.family)}")


def taxonomy(rows: list[dict[str, Any]]) -> str:
    """A line for each family and what it is below it; what the letters and stars stand for at the end."""
    table = []
    for r in rows:
        star = "*" if r["knows_on_integers"] != r["knows"] else ""
        letters = "".join(letter if kind in r["kinds"] else "-" for kind, letter in LETTERS.items())
        calls, y = r["calls"].replace(" ", "") or "-", "y" if r["conditional"] else "-"
        table.append([r["name"], r["knows"] + star, calls, r["strategy"], letters, y])
    notes = [
        "* a lower bound on integers, which are dequantised",
        "calls: of the network for one sample, by the family's own sampler; cells one after the other, steps as asked for; "
        "0 for a closed form, - for a family that cannot sample",
        "data: " + ", ".join(f"{letter} {kind}" for kind, letter in LETTERS.items()) + "; y: also p(x|y)",
    ]
    head = ["family", "log p(x)", "calls", "fitted by", "data", ""]
    text = explained(head, table, [r["summary"] for r in rows])
    return "\n".join([text, "", *(textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in notes)])


def _takers(args: argparse.Namespace, known: Catalogue) -> None:
    """Which families take DATA."""
    from likeli.cli.objects import load_plugins, read_data, reasons_against
    from likeli.cli.plan import Plan

    load_plugins(args.plugin)
    plan = Plan(args.on, types=args.types)
    data = read_data(plan)
    found = reasons_against(plan, data, known)
    rows = [{"family": name, "fits": not why, "reason": why} for name, why in found.items()]
    table = [[name, "no" if why else "yes", kinds(family_row(known, name))] for name, why in found.items()]
    text = explained(["family", "takes it", "log p(x)"], table, list(found.values()))
    emit(args, {"data": data.name, "space": str(data.space), "families": rows}, f"{data.space}\n\n{text}")


def _sources(args: argparse.Namespace) -> None:
    """What `likeli fit` takes as DATA."""
    from likeli.data import describe_sources

    rows = describe_sources()
    options = [", ".join(f"{k}={v}" for k, v in r["options"].items()) for r in rows]
    lines = [[r["name"], o, "known" if r["truth"] else ""] for r, o in zip(rows, options)]
    emit(args, {"sources": rows}, explained(["data", "options", "log p(x)"], lines, [r["about"] for r in rows]))


def explained(header: list[str], table: list[list[str]], about: list[str]) -> str:
    """An aligned table of 80 columns with what each line is about below it, further in."""
    head, rule, *lines = aligned(header, table).split("\n")
    return "\n".join([head, rule, *(f"{line}\n{filled(words, 4)}" if words else line for line, words in zip(lines, about))])


def filled(words: str, indent: int) -> str:
    """Words on lines of at most 80 characters, `indent` spaces in."""
    space = " " * indent
    return textwrap.fill(words, WIDTH, initial_indent=space, subsequent_indent=space, break_long_words=False)


def family_row(known: Catalogue, name: str) -> dict[str, Any]:
    """What there is to say of one family."""
    cls = known.family(name)
    knows = str(known.attribute(cls, "knows")).removeprefix("Knows.").lower().replace("_", " ")
    density = any(c.name == "DensityModel" for c in known.lineage(cls))
    return {
        "name": name,
        "knows": knows,
        "knows_on_integers": "lower bound" if density else knows,
        "strategy": known.attribute(cls, "strategy"),
        "calls": known.attribute(cls, "calls"),
        "kinds": list(known.attribute(cls, "kinds")),
        "conditional": "condition" in known.constructor(cls),
        "no_condition": known.attribute(cls, "no_condition"),
        "summary": known.summary(cls),
    }


def kinds(row: dict[str, Any]) -> str:
    """What a family knows of log p(x), in words."""
    other = row["knows_on_integers"]
    return row["knows"] if other == row["knows"] else f"{row['knows']}; {other} on integers"


def options_help(known: Catalogue, name: str) -> str:
    """The options of a family, one a line, each followed by the objects that it can be."""
    lines = [f"options of {name}:"]
    for a in known.arguments(known.family(name)).values():
        only = known.single(a.annotation)
        if only is not None:
            lines += [filled(a.help, 2), *(_line(f"model.{a.name}", inner) for inner in known.arguments(only[1]).values())]
            continue
        lines.append(_line("model", a))
        for choice, cls in known.nested(a.annotation).items():
            own = ", ".join(f"--model.{a.name}.{k}" for k in known.arguments(cls))
            lines.append(filled(f"{choice}: {own or 'no options'}", 6))
    return "\n".join(lines if len(lines) > 1 else [*lines, "  (none)"])


def training_help(known: Catalogue, family: str | None) -> str:
    """The training options, one a line, with the defaults that `family` has for them."""
    defaults = train_defaults(known, family, {}) if family else {}
    options = [replace(a, default=defaults.get(name, a.default)) for name, a in training_options().items()]
    on_text = " ".join(f"--train.{k} {v:g}" for k, v in text_defaults(known, family).items()) if family else ""
    ending = [f"  on text, if not given: {on_text}"] if on_text else []
    return "\n".join(["training options:", *(_line("train", a) for a in options), *ending])


def _line(section: str, a: Argument) -> str:
    """One option: its type, `a|b or none` or `int,int,…`, its default and its help."""
    value = ",".join(map(str, a.default)) if isinstance(a.default, (list, tuple)) else a.default
    default = "" if a.required else f" [{'none' if value is None else value}]"
    kind = a.annotation.replace(" | None", " or none").replace(" | ", " or ")
    kind = re.sub(r"Literal\[([^\]]*)\]", lambda m: "|".join(p.strip("' ") for p in m[1].split(",")), kind)
    kind = re.sub(r"tuple\[([\w ]+), (\.\.\.|[\w ]+)\]", lambda m: f"{m[1]},{m[1]}" + (",…" if m[2] == "..." else ""), kind)
    line = f"  --{section}.{a.name} {kind}"
    line = line if len(line) <= WIDTH else f"  --{section}.{a.name}\n     {kind}"
    line += default if len(line + default) <= WIDTH else f"\n     {default}"
    return f"{line}\n{filled(a.help, 6)}".rstrip()
