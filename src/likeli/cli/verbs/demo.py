"""six families and two yardsticks on handwritten digits, ranked, with a report

likeli demo                     about three minutes on two cores; runs/demo/report.html and samples.png at the end

Fits gmm, ppca, vae, vdm, flow and autoregressive on scikit-learn's 8x8 digits, and beside them two yardsticks that any good
model must beat: independent pixels and a mixture of categoricals.  Ranks them by held-out log p(x), says what kind of number
each one is and how well each one samples, and writes every run, a page that opens offline, and a picture of samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from likeli.cli.contest import Contest, Job, caveats, exit_code, ranked, ranks
from likeli.cli.objects import load_plugins, read_data
from likeli.cli.options import Parser
from likeli.cli.output import emit, log, new_file
from likeli.cli.pages import SHOWN, contender, write_page
from likeli.cli.plan import Plan
from likeli.cli.quality import judge_samples, paragraph, quality_table
from likeli.cli.verbs.compare import ranking
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from likeli.data import Data
    from likeli.show.report import Contender

NEURAL = {"vdm": 1.5, "autoregressive": 0.9, "vae": 0.9, "flow": 0.75}  # minutes
YARDSTICKS = ("categorical_mixture", "independent")
OPTIONS = {
    "gmm": ("--model.components=20", "--model.regularization=0.1"),  # best of 12 on the validation split
    "ppca": ("--model.latent_dim=30",),
}
EVALUATE = {"vae": ("--likelihood.samples=500",)}


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("--out", default="runs/demo", metavar="FOLDER", help="where everything goes [runs/demo]")
    parser.share("--overwrite", help="replace an earlier demo there")
    parser.share("--seed", help="of everything [0]")
    parser.share("--jobs", default=2)
    parser.add_argument("--minutes", type=float, metavar="M", help="for each neural family, in place of the demo's own budgets")


def run(args: argparse.Namespace) -> int:
    """Fit, rank, report."""
    folder = Path(args.out)
    if folder.is_dir() and any(folder.iterdir()) and not args.overwrite:
        raise InputError(f"out: expected a new or empty folder, got {folder}; --overwrite replaces an earlier demo")
    require(args.minutes is None or args.minutes > 0, "minutes", "a number above 0", args.minutes)
    require(1 <= args.jobs <= 16, "jobs", "a number from 1 to 16", args.jobs)
    load_plugins(args.plugin)
    data = read_data(Plan("digits", seed=args.seed))
    jobs = [_job(args, family) for family in (*NEURAL, *YARDSTICKS, "gmm", "ppca")]
    contest = Contest(jobs, args.jobs, say=_say)
    rows = ranked(contest.rows())
    contest.raise_if_nothing_is_done(rows)
    places = ranks(jobs, rows)
    if contest.stopped is not None:
        emit(args, {"out": str(folder), "rows": rows, "ranks": places}, ranking(rows, places))
        return exit_code(contest, rows)
    notes, (x, y) = caveats(rows, places), data.split("test")
    runs = {r["model"]: str(folder / r["model"]) for r in rows if "error" not in r}
    judged = judge_samples(runs, data, _say, seed=args.seed)
    scores = {r["model"]: r for r in judged}
    roles = dict.fromkeys(NEURAL, "neural") | dict.fromkeys(YARDSTICKS, "yardstick")
    about = {n: {"rank": places.get(n), "role": roles.get(n, ""), "judged": scores.get(n)} for n in (r["model"] for r in rows)}
    entries = [contender(folder / r["model"], r, x, y, seed=args.seed, **about[r["model"]]) for r in rows]
    _write(folder, entries, notes, data, jobs)
    from likeli.show.report import verdict

    told = [*verdict(entries), *notes]
    lines = [ranking(rows, places), *told, *paragraph(quality_table(rows, judged))]
    lines.append(f"open {folder / 'report.html'} in a browser")
    emit(args, {"out": str(folder), "rows": rows, "ranks": places, "notes": told, "samples": judged}, "\n".join(lines))
    return exit_code(contest, rows)


def _say(line: str) -> None:
    log(f"likeli: {line}")


def _job(args: argparse.Namespace, family: str) -> Job:
    words = ["digits", "--model", family, f"--seed={args.seed}"]
    if family in NEURAL:
        words.append(f"--minutes={args.minutes or NEURAL[family]}")
    if args.overwrite:
        words.append("--overwrite")
    return Job(family, (*words, *OPTIONS.get(family, ())), str(Path(args.out) / family), EVALUATE.get(family, ()))


def _write(folder: Path, entries: Sequence[Contender], notes: Sequence[str], data: Data, jobs: Sequence[Job]) -> None:
    """report.html and samples.png."""
    from likeli.show.pictures import grid, on_paper, strip

    commands = [
        f"likeli demo --out {folder} --overwrite",
        *(f"likeli fit {' '.join(job.fit)} --out {job.folder}" for job in jobs),
        *(f"likeli evaluate {' '.join((job.folder, *job.evaluate))}" for job in jobs),
    ]
    write_page(folder / "report.html", "likeli: generative models on handwritten digits", data, entries, notes, commands)
    pictures = {"held-out data": grid(data.split("test")[0][:SHOWN], data.space, columns=8, zoom=4)}
    drawn = {e.row["model"]: e.samples for e in entries}
    pictures |= {name: on_paper(x) for name, x in drawn.items() if x is not None and not isinstance(x, str)}
    with new_file(str(folder / "samples.png"), overwrite=True) as path:
        strip(pictures).save(path, optimize=True)
