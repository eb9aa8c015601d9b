"""which rows of a file are unlike the data of a run, at a stated rate of false alarms

likeli anomaly runs/x rows.csv --rate 0.01 --out strange.csv
likeli anomaly runs/x rows.csv --html strange.html              one page: threshold, flagged rows, the odd column of each

Each row's p-value is the rank of its score among the run's test rows, which it was not fitted to, so on the average at most
this share of ordinary rows is flagged, whatever the model is worth.  The score is -log p(x), or for autoencoders the error of
reconstruction.  The result has one line a row: row, score, p_value, flagged; for families that score missing cells without a
network (others with --columns) also column, the strangest given the row's other cells, and column_p, how rare that is; and
trained, whether the run was fitted on an equal row, where its data are still there.  Exit code 0 whatever is found.
"""

from __future__ import annotations

import argparse
from contextlib import suppress

from likeli.cli.objects import call_options, open_run, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import check_new, check_rows_out, emit_rows, new_file
from likeli.cli.pages import anomaly_sheet
from likeli.cli.verbs import score
from likeli.errors import InputError


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    score.add_arguments(parser)
    parser.add_argument("--rate", type=float, default=0.05, metavar="A", help="share of ordinary rows to be flagged [0.05]")
    parser.add_argument("--columns", action="store_true", help="say which column of a row is odd, whatever that takes")
    parser.add_argument("--html", metavar="FILE.html", help="also write a page that opens offline")
    parser.add_argument("--reference", metavar="DATA", help="ordinary rows in place of the run's own test split")


def run(args: argparse.Namespace) -> None:
    """Rank every row among the reference, and write."""
    from likeli import processes
    from likeli.data import columns_of
    from likeli.evaluation.rows import anomaly

    check_rows_out(args)
    check_new(args.html, overwrite=args.overwrite, suffixes=[".html"], argument="html")
    saved = open_run(args)
    options = call_options(saved.model.measure_likelihood, args.dotted["likelihood"], "likelihood")
    known, labels = rows_for(saved, args.reference, label=args.label if args.reference else None)
    x, y = rows_for(saved, args.data, label=args.label)
    trained = None
    with suppress(InputError):  # the data may have gone, or have been given in memory
        trained, _ = rows_for(saved, None, "train")
    options |= {"rate": args.rate, "batch": args.batch, "seed": args.seed}
    detector = anomaly(saved.model, known, labels, columns=args.columns or None, trained=trained, **options)
    found = detector(x, y)
    if not processes.is_first():
        return
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
    text = (
        f"{about['flagged_rows']} of {len(x)} rows flagged; of ordinary rows {low:.2%} to {high:.2%} are (95 %), "
        f"by {len(detector.reference)} reference rows; score: {detector.unit}"
    )
    if args.html:
        cells = columns_of(x, saved.model.space) if len(saved.model.space.shape) == 1 else {}
        written = [dict(zip(cells, row)) for row in zip(*cells.values())] or [{}] * len(x)
        again = f"likeli anomaly {args.run_folder} {args.data} --rate {args.rate:g} --html {args.html}"
        page = anomaly_sheet(f"Strange rows of {args.data}", detector, found, written, again)
        with new_file(args.html, overwrite=args.overwrite) as path:
            path.write_text(page.html(), encoding="utf-8")
        text += f"; open {args.html} in a browser"
    emit_rows(args, about, {"row": list(range(len(x)))} | found.columns, f"{text}; rows", f"\n{text}")
