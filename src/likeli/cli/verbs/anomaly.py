"""which rows of a file are unlike the data of a run, at a stated rate of false alarms

likeli anomaly runs/x rows.csv --rate 0.01 --out strange.csv

Each row's p-value is the rank of its score among the run's test rows, which it was not fitted to, so on the average at most
this share of ordinary rows is flagged, whatever the model is worth.  The score is -log p(x), or for autoencoders the error of
reconstruction.  The result has one line a row: row, score, p_value, flagged.  Exit code 0 whatever is found.
"""

from __future__ import annotations

import argparse

from likeli.cli.objects import call_options, open_run, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import check_new, emit_rows
from likeli.cli.verbs import score


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    score.add_arguments(parser)
    parser.add_argument("--rate", type=float, default=0.05, metavar="A", help="share of ordinary rows to be flagged [0.05]")
    parser.add_argument("--reference", metavar="DATA", help="ordinary rows in place of the run's own test split")


def run(args: argparse.Namespace) -> None:
    """Rank every row among the reference, and write."""
    from likeli.evaluation.rows import anomaly

    check_new(args.out, overwrite=args.overwrite)
    saved = open_run(args)
    options = call_options(saved.model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    known, labels = rows_for(saved, args.reference, label=args.label if args.reference else None)
    x, y = rows_for(saved, args.data, label=args.label)
    detector = anomaly(saved.model, known, labels, rate=args.rate, batch=args.batch, seed=args.seed, **options)
    found = detector(x, y)
    low, high = detector.false_alarms
    about = {
        "rows": len(x),
        "flagged_rows": int(found.flagged.sum()),
        "rate": args.rate,
        "rate_from": low,
        "rate_to": high,
        "reference_rows": len(detector.reference),
        "threshold": detector.threshold,
        "unit": detector.unit,
    }
    columns = {"score": found.score, "p_value": found.p_value, "flagged": found.flagged}
    text = (
        f"{about['flagged_rows']} of {len(x)} rows flagged; of ordinary rows {low:.2%} to {high:.2%} are (95 %), "
        f"by {len(detector.reference)} reference rows; score: {detector.unit}"
    )
    rows = {"row": list(range(len(x)))} | {name: column.tolist() for name, column in columns.items()}
    emit_rows(args, about, rows, f"{text}; rows", f"\n{text}")
