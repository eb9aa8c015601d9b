"""which rows of a file are unlike the data of a run, at a stated rate of false alarms

likeli anomaly runs/x rows.csv --rate 0.01 --out strange.csv

Each row's p-value is the rank of its score among the run's test rows, which it was not fitted to, so on the average at most
this share of ordinary rows is flagged, whatever the model is worth.  The score is -log p(x), or for autoencoders the error of
reconstruction.  The result has one line a row: row, score, p_value, flagged.  Exit code 0 whatever is found.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import call_options, load_plugins, read_rows, stored_data
from likeli.cli.output import check_new, emit, new_file, table
from likeli.cli.verbs import score

if TYPE_CHECKING:
    from likeli.evaluation.rows import Anomaly


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    score.add_arguments(parser)
    parser.add_argument("--rate", type=float, default=0.05, metavar="A", help="share of ordinary rows to be flagged [0.05]")
    parser.add_argument("--reference", metavar="DATA", help="ordinary rows in place of the run's own test split")


def run(args: argparse.Namespace) -> None:
    """Rank every row among the reference, and write."""
    from likeli import checkpoint
    from likeli.data import write_csv
    from likeli.evaluation.rows import anomaly

    if args.out:
        check_new(args.out, overwrite=args.overwrite)
    load_plugins(args.plugin)
    saved = checkpoint.read(args.run_folder)
    model = saved.model
    options = call_options(model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    known, labels = stored_data(saved.info).split("test") if args.reference is None else read_rows(args.reference, saved)
    labels = labels if model.condition is not None else None
    x, y = read_rows(args.data, saved)
    detector = anomaly(model, known, labels, rate=args.rate, batch=args.batch, seed=args.seed, **options)
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
    columns = _columns(found)
    text = (
        f"{about['flagged_rows']} of {len(x)} rows flagged; of ordinary rows {low:.2%} to {high:.2%} are (95 %), "
        f"by {len(detector.reference)} reference rows; score: {detector.unit}"
    )
    if args.out:
        with new_file(args.out, overwrite=args.overwrite) as path:
            write_csv(path, columns)
        emit(args, about | {"out": args.out}, f"{text}\nin {args.out}")
        return
    emit(args, about | columns, f"{table(list(columns), zip(*columns.values()))}\n{text}")


def _columns(found: Anomaly) -> dict[str, list[Any]]:
    rows = list(range(len(found.score)))
    return {"row": rows, "score": found.score.tolist(), "p_value": found.p_value.tolist(), "flagged": found.flagged.tolist()}
