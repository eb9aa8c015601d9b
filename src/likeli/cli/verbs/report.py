"""write a page on a run: its number and the parts of it, curves, samples, tests

likeli report runs/x                            runs/x.html, one file that opens offline
likeli report runs/vae --rows 500 --out vae.html

The run is evaluated on the test split of its own data, as `likeli evaluate` does.  `likeli compare DATA --out FOLDER` writes
such a page on several families.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from likeli.cli.contest import empty_row
from likeli.cli.objects import call_options, open_run, rows_for, stored_data
from likeli.cli.options import Parser
from likeli.cli.output import check_new, emit
from likeli.cli.pages import contender, write_page
from likeli.cli.verbs.evaluate import add_likelihood_arguments
from likeli.errors import Unsupported, require


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    parser.add_argument("--rows", type=int, metavar="N", help="at most N test rows, drawn by the seed; all if not given")
    parser.add_argument("--data", metavar="DATA", help="where the rows that the run was fitted on are, if not where it says")
    parser.add_argument("--out", metavar="FILE.html", help="the page [RUN.html]")
    parser.share("--overwrite", "--quiet")
    add_likelihood_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate, draw, test, write."""
    import likeli

    require(args.rows is None or args.rows >= 1, "rows", "at least 1", args.rows)
    path = args.out or f"{Path(args.run_folder).resolve()}.html"
    check_new(path, overwrite=args.overwrite, suffixes=[".html"])
    saved = open_run(args)
    model, name = saved.model, saved.model.kind()
    data = stored_data(saved.info, args.data)
    x, y = rows_for(saved, args.data and f"{args.data}@test")
    about = saved.info.get("metrics", {})
    try:
        options = call_options(model.measure_likelihood, args.dotted["likelihood"], "likelihood")
        options |= {"batch": args.batch, "seed": args.seed, "rows": args.rows, "progress": not (args.quiet or args.json)}
        row = likeli.evaluate(model, x, y, **options).row()
    except Unsupported as reason:
        row = empty_row(name) | {"knows": "nothing", "notes": [str(reason)]}
    row |= {"seconds": about.get("seconds"), "parameters": row["parameters"] or sum(p.numel() for p in model.parameters())}
    entry = contender(args.run_folder, row, x, y, seed=args.seed, rank=None if row["nats"] is None else 1)
    given = [f"--likelihood.{key}={value}" for key, value in args.dotted["likelihood"]]
    words = " ".join([*given, *([f"--rows={args.rows}"] if args.rows else []), *([f"--seed={args.seed}"] if args.seed else [])])
    commands = [f"likeli evaluate {args.run_folder} {words}".rstrip(), f"likeli report {args.run_folder} {words}".rstrip()]
    write_page(path, f"likeli: {name} of {data.name}", data, [entry], [], commands)
    emit(args, row | {"out": path}, f"{name}: {entry.words()}; open {path} in a browser")
