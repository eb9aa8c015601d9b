"""make a diffusion run quick: a student that samples in a few steps

likeli distil runs/vdm --steps 4 --out runs/fast              four evaluations a sample in place of dozens
likeli distil runs/vdm --steps 1 --updates 5000 --out runs/one

The student learns where the teacher's probability flow leads, on the data that the teacher was fitted to.  It has no log p(x)
of its own; the teacher is saved with it.  At the end both are held against test rows at equal and at more evaluations.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from likeli.cli.objects import keep_freed_memory, open_run, stored_data
from likeli.cli.options import Parser, train_settings
from likeli.cli.output import aligned, emit
from likeli.errors import require

UPDATES = 1500


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", help="the run folder of a diffusion model, the teacher")
    parser.add_argument("--steps", type=int, default=4, metavar="K", help="evaluations of the student for one sample [4]")
    parser.add_argument("--substeps", type=int, default=6, metavar="M", help="of the teacher in each of them [6]")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--updates", type=int, metavar="N", help=f"training steps [{UPDATES}]")
    budget.add_argument("--minutes", type=float, metavar="M", help="training time in place of them")
    parser.add_argument("--data", metavar="DATA", help="where the rows that the run was fitted on are, if not where it says")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the student's run folder")
    parser.share("--overwrite", "--seed", "--quiet")
    parser.epilog = "Settings of the trainer are given as --train.NAME VALUE, see likeli fit --help."


def run(args: argparse.Namespace) -> None:
    """Distil, save, compare."""
    from likeli.checkpoint.folder import require_empty
    from likeli.evaluation.two_sample import quality_per_step
    from likeli.models.distilled import Distilled
    from likeli.training import fit

    require(1 <= args.steps <= 64, "steps", "a whole number from 1 to 64", args.steps)
    require(2 <= args.substeps <= 64, "substeps", "a whole number from 2 to 64", args.substeps)
    require(args.updates is None or args.updates >= 1, "updates", "a whole number of at least 1", args.updates)
    settings = train_settings(args.dotted["train"], {})
    if not args.overwrite:
        require_empty(Path(args.out), "; --overwrite replaces it")
    saved = open_run(args)
    data = stored_data(saved.info, args.data)
    student = Distilled.of(saved.model, args.steps, args.substeps)
    keep_freed_memory()
    fit(
        student,
        data,
        steps=None if args.minutes else args.updates or UPDATES,
        minutes=args.minutes,
        seed=args.seed,
        out=args.out,
        overwrite=args.overwrite,
        progress=not args.quiet and not args.json,
        **settings,
    )
    x, y = data.split("test")
    rows = quality_per_step(student, x[:2000], None if y is None or student.condition is None else y[:2000], seed=args.seed)
    header = ["samples of", "evaluations", "AUC against test rows", "±", "sliced W2", "±"]
    cells = [[r.name, r.evaluations, *(f"{v:.3f}" for v in (r.auc, r.auc_stderr, r.distance, r.distance_stderr))] for r in rows]
    notes = "0.5 is an AUC of samples that cannot be told from test rows; the floor is test rows against test rows."
    text = "\n".join([aligned(header, cells), notes, f"saved in {args.out}; next: likeli sample {args.out} --out grid.png"])
    emit(args, {"run": args.out, "steps": student.steps, "quality": [vars(r) for r in rows]}, text)
