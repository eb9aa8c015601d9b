"""the probability of each class for every row of a file, by Bayes' rule from a run with labels

likeli classify runs/labelled digits.npy --out classes.csv
likeli classify runs/labelled digits.npy --prior uniform

p(y|x) is in proportion to p(x|y) p(y).  p(y) are the classes' shares among the rows that the run was fitted on, unless --prior
says otherwise.  The result has one line a row: row, class (the most probable), and a column p_CLASS for each class.  Bounds and
estimates of log p(x|y) leave the probabilities approximate, which is said.
"""

from __future__ import annotations

import argparse
from typing import Any

from likeli.cli.objects import call_options, of_layer, open_run
from likeli.cli.options import Parser, read_value
from likeli.cli.output import check_rows_out, emit_rows
from likeli.cli.verbs.evaluate import add_likelihood_arguments


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    parser.add_argument("data", metavar="DATA", help="rows like those that the run was fitted on")
    parser.add_argument("--out", metavar="FILE.csv", help="where to write; a table on standard output if not given")
    parser.share("--overwrite")
    parser.add_argument("--prior", metavar="P,Q,…", help="p(y): uniform, or a probability for each class [shares in training]")
    add_likelihood_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Weigh the classes, and write."""
    from likeli.data import load_rows
    from likeli.evaluation.rows import classify

    check_rows_out(args)
    prior: Any = args.prior if args.prior in (None, "uniform") else read_value(args.prior, list[float], "prior")
    saved = open_run(args)
    model = saved.model
    options = call_options(model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    x, _ = load_rows(of_layer(saved, args.data), model.space, who=model.kind(), missing=model.takes_missing)
    found = classify(model, x, prior=prior, batch=args.batch, seed=args.seed, **options)
    names = found.frame.columns
    columns = {"row": list(range(len(x))), "class": [names[k] for k in found.best.tolist()]}
    columns |= {f"p_{name}": found.frame[name].tolist() for name in names}
    kind = "exact" if found.exact else "approximate, since log p(x|y) is not exact"
    about = {"rows": len(x), "exact": found.exact, "prior": found.prior.tolist(), "note": found.note}
    text = f"p(class|x) of {len(x)} rows ({kind}); {found.note}"
    emit_rows(args, about, columns, text, f"\n{text}")
