"""choose the size of a mixture, of PPCA or of factor analysis by BIC or AIC

likeli select ring.csv --model gmm --sizes 1,2,4,8,16
likeli select digits --model ppca --sizes 4,8,16,32 --criterion aic --out runs/ppca

Each size is fitted on the training split and scored there; less is better.  With --out the best one is fitted once more and
saved as a run.  Sizes are gmm's components or the others' latent_dim; other options of the family are --model.NAME VALUE.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from likeli.cli.catalogue import catalogue
from likeli.cli.objects import load_plugins, make_model, read_data
from likeli.cli.options import Parser
from likeli.cli.output import aligned, emit
from likeli.cli.plan import make_plan
from likeli.cli.verbs.fit import add_plan_arguments, train
from likeli.errors import require

SIZE = {"gmm": "components", "ppca": "latent_dim", "factor_analysis": "latent_dim"}


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_plan_arguments(parser)
    parser.add_argument("--model", metavar="FAMILY", default="gmm", choices=list(SIZE), help="or ppca, factor_analysis [gmm]")
    sizes = "numbers of components, or of latent dimensions"
    parser.add_argument("--sizes", type=list[int], required=True, metavar="A,B,…", help=sizes)
    parser.add_argument("--criterion", choices=["bic", "aic"], default="bic", help="what decides [bic]")
    parser.add_argument("--out", metavar="FOLDER", help="save the best as a run")
    parser.share("--overwrite", help="replace the run in --out")
    parser.set_defaults(config=None, resume=False)


def run(args: argparse.Namespace) -> None:
    """Fit every size, rank, save the best."""
    import likeli
    from likeli.models.linear_gaussian import LinearGaussian

    known = catalogue(tuple(args.plugin))
    plan, size = make_plan(args, known), SIZE[args.model]
    require(len(set(args.sizes)) == len(args.sizes), "sizes", "every size once", args.sizes)
    require(plan.data is not None, "data", "a source, such as digits", "nothing")
    require(size not in (plan.model or {}), size, "--sizes in its place", "both")
    load_plugins(args.plugin)
    data = read_data(plan)
    x, _ = data.split("train")
    plans = {n: replace(plan, model={**(plan.model or {}), size: n}) for n in args.sizes}
    rows = []
    for n, one in plans.items():
        model = make_model(one, data, known)
        assert isinstance(model, LinearGaussian)
        likeli.fit(model, data, steps=plan.steps, minutes=plan.minutes, seed=plan.seed, progress=False)
        nats = model.log_likelihood(x).mean()[0]
        rows.append({"size": n, "parameters": model.free_parameters, "nats": nats, "bic": model.bic(x), "aic": model.aic(x)})
    best = min(rows, key=lambda row: row[args.criterion])
    if args.out:
        chosen = plans[best["size"]]
        train(chosen, args.out, args, make_model(chosen, data, known), data)
    cells = [
        [r["size"], r["parameters"], f"{r['nats']:.4f}", f"{r['bic']:.1f}", f"{r['aic']:.1f}", "best" if r is best else ""]
        for r in rows
    ]
    found = {"criterion": args.criterion, "best": best["size"], "rows": rows, "run": args.out}
    saved = f"\nsaved in {args.out}; next: likeli evaluate {args.out}" if args.out else ""
    emit(args, found, aligned([size, "parameters", "mean log p", "bic", "aic", ""], cells) + saved)
