"""choose the size of a mixture or of PPCA by BIC or AIC

likeli select ring.csv --model gmm --sizes 1,2,4,8,16
likeli select digits --model ppca --sizes 4,8,16,32 --criterion aic --out runs/ppca

Each size is fitted on the training split and scored there; less is better.  With --out the best one is fitted once more and
saved as a run.  Sizes are gmm's components or ppca's latent_dim; other options of the family are --model.NAME VALUE.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from likeli.cli.catalogue import catalogue
from likeli.cli.objects import load_plugins, read_data
from likeli.cli.output import emit, table
from likeli.cli.plan import Plan, make_plan
from likeli.cli.verbs.fit import add_plan_arguments, make_model, train
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from likeli.data import Data

SIZE = {"gmm": "components", "ppca": "latent_dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_plan_arguments(parser)
    parser.add_argument("--model", metavar="FAMILY", default="gmm", choices=list(SIZE), help="gmm or ppca [gmm]")
    parser.add_argument("--sizes", metavar="A,B,…", required=True, help="numbers of components, or of latent dimensions")
    parser.add_argument("--criterion", choices=["bic", "aic"], default="bic", help="what decides [bic]")
    parser.add_argument("--out", metavar="FOLDER", help="save the best as a run")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.set_defaults(config=None, resume=False)


def run(args: argparse.Namespace) -> None:
    """Fit every size, rank, save the best."""
    known = catalogue(tuple(args.plugin))
    plan, sizes = make_plan(args, known), _sizes(args.sizes)
    require(plan.data is not None, "data", "a source, such as digits", "nothing")
    require(SIZE[args.model] not in (plan.model or {}), SIZE[args.model], "--sizes in its place", "both")
    load_plugins(args.plugin)
    data = read_data(plan)
    rows = [_row(_of_size(plan, args.model, size), args, data, size) for size in sizes]
    best = min(rows, key=lambda row: row[args.criterion])
    if args.out:
        chosen = _of_size(plan, args.model, best["size"])
        train(chosen, args.out, args, make_model(chosen, args, data), data)
    header = [SIZE[args.model], "parameters", "mean log p", "bic", "aic", ""]
    cells = [
        [r["size"], r["parameters"], f"{r['nats']:.4f}", f"{r['bic']:.1f}", f"{r['aic']:.1f}", "best" if r is best else ""]
        for r in rows
    ]
    found = {"criterion": args.criterion, "best": best["size"], "rows": rows, "run": args.out}
    saved = f"\nsaved in {args.out}; next: likeli evaluate {args.out}" if args.out else ""
    emit(args, found, table(header, cells) + saved)


def _of_size(plan: Plan, family: str, size: int) -> Plan:
    return replace(plan, model={**(plan.model or {}), SIZE[family]: size})


def _row(plan: Plan, args: argparse.Namespace, data: Data, size: int) -> dict[str, Any]:
    import likeli
    from likeli.models.linear_gaussian import LinearGaussian

    model = make_model(plan, args, data)
    assert isinstance(model, LinearGaussian)
    likeli.fit(model, data, steps=plan.steps, minutes=plan.minutes, seed=plan.seed, progress=False)
    x, _ = data.split("train")
    nats = model.log_likelihood(x).mean()[0]
    return {"size": size, "parameters": model.free_parameters, "nats": nats, "bic": model.bic(x), "aic": model.aic(x)}


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"sizes: expected whole numbers separated by commas, got {text[:80]!r}") from None
    require(len(set(sizes)) == len(sizes), "sizes", "every size once", sizes)
    return sizes
