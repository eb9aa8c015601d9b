"""synthetic rows in place of a table's own, with one page that says what they are worth

likeli synthesise table.csv --rows 10000 --out s.csv            fits, draws, judges; the page is s.html
likeli synthesise table.csv --model vae --minutes 3 --out v.csv --report page.html --keep runs/v

The family is boosted_trees in the columns' order if none is named: of our families it has the highest log p on the tables that
were measured (docs/tables.md).  A tenth of the rows trains nothing and judges: columns and pairs, a classifier against held-out
and against training rows, what a model learned from synthetic rows can do, whether rows are remembered, and log p; each figure
has its n and standard error, and what training rows score in its place.  The rows written have no missing cells unless --gaps.
No figure on the page is a promise of privacy.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from likeli.cli.catalogue import catalogue
from likeli.cli.objects import load_plugins, make_model, read_data
from likeli.cli.options import Parser
from likeli.cli.output import aligned, check_new, emit, log, new_file, warn
from likeli.cli.pages import synthesis_sheet, worth_cells
from likeli.cli.plan import Plan, make_plan
from likeli.cli.verbs import fit
from likeli.errors import InputError, nearest, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.spaces import Space

FAMILY, ORDER = "boosted_trees", ("order", "natural")


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    fit.add_plan_arguments(parser)
    parser.add_argument("--model", metavar="FAMILY", help=f"see likeli list; its options are --model.NAME VALUE [{FAMILY}]")
    parser.add_argument("--rows", type=int, metavar="N", help="synthetic rows [as many as the table has]")
    parser.add_argument("--out", metavar="FILE.csv", required=True, help="where to write them")
    parser.add_argument("--report", metavar="FILE.html", help="the page [FILE.html]")
    parser.add_argument("--keep", metavar="FOLDER", help="save the fitted run there")
    parser.add_argument("--target", metavar="COLUMN", help="column to be foretold from the others [the last one of names]")
    parser.add_argument("--gaps", action="store_true", help="give rows the gaps of training rows drawn at random")
    parser.share("--overwrite")
    parser.more = fit.family_options


def run(args: argparse.Namespace) -> None:
    """Fit, draw, judge, write."""
    from likeli.checkpoint.folder import require_empty
    from likeli.data import columns_of, write_csv
    from likeli.evaluation.synthesis import judge_rows

    page = args.report or str(Path(args.out).with_suffix(".html"))
    check_new(args.out, overwrite=args.overwrite, suffixes=[".csv"])
    check_new(page, overwrite=args.overwrite, suffixes=[".html"], argument="report")
    require(args.rows is None or args.rows >= 40, "rows", "at least 40", args.rows)
    require(args.data is not None, "data", "a table, such as table.csv", "nothing")
    require(not args.labels, "labels", "nothing: a table's labels are one of its columns", args.labels)
    if args.keep and not args.overwrite:
        require_empty(Path(args.keep), "; --overwrite replaces it")
    load_plugins(args.plugin)
    plan, given = planned(args)
    data = read_data(plan)
    space = data.space
    fits = len(space.shape) == 1 and space.symbols == 0
    require(fits, "data", "a table of columns", f"{space.kind()} of shape {space.shape}")
    target = column_of(space, args.target)
    model = make_model(plan, data, catalogue(tuple(args.plugin)))
    history = fit.train(plan, args.keep, given, model, data)
    warn(history.warnings)
    n = args.rows or len(data)
    log(f"drawing {n:,} rows") if not args.quiet else None
    drawn = model.sample(n, seed=plan.seed).cpu()
    train, held = (data.split(part)[0] for part in ("train", "test"))
    holed = with_gaps(drawn, train, plan.seed)
    log("judging") if not args.quiet else None
    found = judge_rows(model, train, held, holed, target=target, seed=plan.seed)
    with new_file(args.out, overwrite=args.overwrite) as path:
        write_csv(path, columns_of(holed if args.gaps else drawn, space))
    again = f"likeli synthesise {args.data} --model {model.kind()} --rows {n} --seed {plan.seed} --out {args.out}"
    with new_file(page, overwrite=True) as path:
        path.write_text(synthesis_sheet(model, data, (train, held, holed), found, again, history).html(), encoding="utf-8")
    table = aligned(["", "synthetic", "n", "training rows"], [(w.name, *worth_cells(w)) for w in found])
    about = {"rows": n, "out": args.out, "report": page, "model": model.kind(), "seconds": history.seconds}
    emit(args, about | {"figures": [asdict(w) for w in found]}, f"{table}\n{n:,} rows in {args.out}; open {page} in a browser")


def planned(args: argparse.Namespace) -> tuple[Plan, argparse.Namespace]:
    """The plan of the fit, and the words it was made of: the family by default where none is named."""
    dotted = args.dotted
    if args.model is None and "order" not in dict(dotted["model"]):
        dotted = dotted | {"model": [*dotted["model"], ORDER]}
    own = {"model": args.model or FAMILY, "dotted": dotted, "out": args.keep, "config": None, "resume": False}
    given = argparse.Namespace(**vars(args) | own)
    return make_plan(given, catalogue(tuple(args.plugin))), given


def column_of(space: Space, name: str | None) -> int | None:
    """The place of a column.

    Raises:
        InputError: there is none of that name.
    """
    if name is None:
        return None
    if name not in space.names:
        raise InputError(f"target: expected a column of the table, got {name!r}{nearest(name, space.names)}")
    return space.names.index(name)


def with_gaps(drawn: Tensor, train: Tensor, seed: int) -> Tensor:
    """Rows with the gaps of training rows drawn at random, whatever their cells are."""
    import torch

    from likeli.random import derive

    if not (train.is_floating_point() and train.isnan().any()):
        return drawn
    chosen = torch.randint(len(train), (len(drawn),), generator=torch.Generator().manual_seed(derive(seed, "gaps")))
    return drawn.masked_fill(train[chosen].isnan(), torch.nan)
