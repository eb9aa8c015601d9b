"""rank several families on one data set

likeli compare table.csv --minutes 1
likeli compare digits --models gmm,ppca,vae,vdm,flow --minutes 1
likeli compare digits --models vae,flow --minutes 5 --model.vae.latent_dim 32 --likelihood.vae.samples 500 --out runs/contest

Without --models every family takes part that can be fitted on the data and says something of log p(x), or at least samples;
why the others cannot stands below the table.  A second table has both axes: log p(x), and how samples compare with held-out
rows.  With --out the runs stay, log p of every test row beside them, and report.html, a page with ranks,
curves, samples and tests.

Each family is fitted on the training split and evaluated on the test split, by a process of one thread.  The rows say what
kind of number they hold; a family that failed or was interrupted is a row that says why.  `seconds` is what the fit took.  The
budget holds for each family; those that are fitted in closed form or by EM stop when they are done.  Families share a rank
where their mean difference from its first, row by row, is within two standard errors.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from likeli.cli.catalogue import Catalogue, catalogue
from likeli.cli.contest import Contest, Job, Row, caveats, empty_row, exit_code, ranked, ranks
from likeli.cli.objects import load_plugins, read_data, reasons_against
from likeli.cli.options import Pairs, Parser, model_spec, train_settings
from likeli.cli.output import aligned, emit, log
from likeli.cli.plan import TEXT, Plan
from likeli.cli.quality import DRAWS, judge_samples, paragraph, quality_table
from likeli.cli.verbs.evaluate import HEADER, cells
from likeli.cli.verbs.fit import add_plan_arguments
from likeli.errors import InputError, nearest, require

if TYPE_CHECKING:
    from likeli.data import Data


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_plan_arguments(parser)
    parser.add_argument("--models", type=list[str], metavar="A,B,…", help="the families; all that take the data if not given")
    parser.add_argument("--samples", type=int, default=DRAWS, metavar="N", help=f"of each family; 0 for none [{DRAWS}]")
    parser.add_argument("--out", metavar="FOLDER", help="keep the runs there, with a report; they are thrown away if not given")
    parser.share("--overwrite", help="replace the runs in --out")
    parser.share("--jobs", default=1)


def run(args: argparse.Namespace) -> int:
    """Fit, evaluate, rank."""
    known = catalogue(tuple(args.plugin))
    require(args.data is not None, "data", "a source, such as digits", "nothing")
    require(args.models is None or bool(args.models), "models", f"some of {', '.join(known.models)}", "nothing")
    require(1 <= args.jobs <= 256, "jobs", "a number from 1 to 256", args.jobs)
    require(args.samples == 0 or 40 <= args.samples <= 100_000, "samples", "0, or 40 to 100,000", args.samples)
    require(args.steps is None or args.minutes is None, "steps, minutes", "one of the two", "both")
    asked = list(known.models) if args.models is None else args.models
    options = {f: own_options(known, asked, f, args.dotted) for f in asked}
    load_plugins(args.plugin)
    reading = {name: getattr(args, name) for name in ("kind", "labels", "categorical", "types", "size", "layer", *TEXT)}
    plan = Plan(args.data, **reading, seed=args.seed or 0)
    data = read_data(plan)
    refused = {} if args.models is not None else without_part(plan, data, known)
    options = {f: own for f, own in options.items() if f not in refused}
    require(bool(options), "data", "rows that some family takes", f"{data.name}, which none does")
    with nullcontext(args.out) if args.out is not None else tempfile.TemporaryDirectory(prefix="likeli-") as folder:
        jobs = [
            Job(f, fit_arguments(args, f, own), str(Path(folder) / f), dotted("likelihood", own)) for f, own in options.items()
        ]
        say = (lambda line: None) if args.quiet else (lambda line: log(f"likeli: {line}"))
        contest = Contest(jobs, args.jobs, say, keep=args.out is not None)
        ended = ranked(contest.rows())
        contest.raise_if_nothing_is_done(ended)
        rows = ended + [empty_row(f) | {"knows": "-", "notes": [why]} for f, why in refused.items()]
        runs = {r["model"]: str(Path(folder) / r["model"]) for r in ended if "error" not in r}
        judging = args.samples and contest.stopped is None
        judged = judge_samples(runs, data, say, draws=args.samples, seed=args.seed or 0) if judging else []
        places = ranks(jobs, rows)
        notes = caveats(rows, places)
        kept = args.out is not None and contest.stopped is None
        page = _page(args, data, jobs, rows[: len(jobs)], places, notes, judged) if kept else None
    found = {"data": data.name, "rows": rows, "ranks": places, "notes": notes, "samples": judged}
    found |= {} if page is None else {"report": page}
    ranking_of = [r for r in rows if r["model"] not in refused]
    lines = [ranking(ranking_of, places), *notes, *absences(rows), *paragraph(quality_table(rows, judged))]
    emit(args, found, "\n".join(lines + ([] if page is None else [f"open {page} in a browser"])))
    return exit_code(contest, rows)


def without_part(plan: Plan, data: Data, known: Catalogue) -> dict[str, str]:
    """The families that a ranking on the data leaves out, and why."""
    nothing = [n for n, c in known.models.items() if str(known.attribute(c, "knows")).endswith("NOTHING")]
    silent = [n for n in nothing if not known.attribute(known.models[n], "calls")]
    against = {name: why for name, why in reasons_against(plan, data, known).items() if why}
    return against | dict.fromkeys(silent, "says nothing of log p(x) and cannot sample, so it has no place in a ranking")


def absences(rows: Sequence[Row]) -> list[str]:
    """Why families have no number, a line for each reason."""
    families: dict[str, list[str]] = {}
    for row in rows:
        if row["nats"] is None:
            reason = "; ".join(n.removeprefix(f"{row['model']} ") for n in row["notes"])
            families.setdefault(reason, []).append(row["model"])
    return [f"{', '.join(names)}: {reason}" for reason, names in families.items()]


def _page(
    args: argparse.Namespace,
    data: Data,
    jobs: Sequence[Job],
    rows: list[Row],
    places: Mapping[str, int],
    notes: list[str],
    judged: Sequence[Row],
) -> str:
    """report.html beside the runs; gives its path."""
    from likeli.cli.pages import contender, write_page

    x, y = data.split("test")
    folders, seed = {job.family: job.folder for job in jobs}, args.seed or 0
    scores = {r["model"]: r for r in judged}
    entries = [
        contender(folders[r["model"]], r, x, y, seed=seed, rank=places.get(r["model"]), judged=scores.get(r["model"]))
        for r in rows
    ]
    commands = [f"likeli fit {' '.join(job.fit)} --out {job.folder}" for job in jobs]
    commands += [f"likeli evaluate {' '.join((job.folder, *job.evaluate))}" for job in jobs]
    path = Path(args.out) / "report.html"
    write_page(path, f"likeli: {len(rows)} models of {data.name}", data, entries, notes, commands)
    return str(path)


def own_options(known: Catalogue, families: list[str], family: str, given: dict[str, Pairs]) -> dict[str, Pairs]:
    """The dotted options that name `family` first, checked.

    Raises:
        InputError: an unknown family or option.
    """
    known.family(family)
    train_settings(given["train"], {})
    own: dict[str, Pairs] = {}
    for section in ("model", "likelihood"):
        for key, _ in given[section]:
            if key.partition(".")[0] not in families:
                hint = f"one of {', '.join(families)}{nearest(key, families)}"
                raise InputError(f"{section}.{key}: expected {section}.FAMILY.OPTION with {hint}")
        own[section] = [(k.removeprefix(f"{family}."), v) for k, v in given[section] if k.startswith(f"{family}.")]
    model_spec(known, family, own["model"], {})
    return own


def fit_arguments(args: argparse.Namespace, family: str, own: dict[str, Pairs]) -> tuple[str, ...]:
    """The arguments of `likeli fit` for one family."""
    plain = ("kind", "categorical", "types", "size", "layer", "steps", "minutes", "seed", *TEXT)
    given = {name: getattr(args, name) for name in plain if name != "cut"}
    words = [args.data, "--model", family, *(f"--{name}={value}" for name, value in given.items() if value is not None)]
    words += ["--cut"] if args.cut else []
    if args.labels is not None:
        words.append("--labels" if args.labels is True else f"--labels={args.labels}")
    words += ["--overwrite"] if args.overwrite else []
    words += [f"--plugin={p}" for p in args.plugin]
    return (*words, *dotted("model", own), *dotted("train", args.dotted))


def dotted(section: str, options: dict[str, Pairs]) -> tuple[str, ...]:
    """Options as words of a command line."""
    return tuple(f"--{section}.{name}={value}" for name, value in options[section])


def ranking(rows: list[Row], places: Mapping[str, int]) -> str:
    """The table for people."""
    header = ["", *HEADER[:-2], "fit s", HEADER[-1]]
    return aligned(header, [[str(places.get(r["model"], "-")), *cells(r)] for r in rows])
