"""rank several families on one data set

likeli compare digits --models gmm,ppca,vae,vdm,flow --minutes 1
likeli compare digits --models vae,vdm --minutes 5 --model.vae.latent 32 --likelihood.vae.samples 500 --out runs/contest

Each family is fitted on the training split and evaluated on the test split, by a process of one thread.  The rows say what
kind of number they hold; a family that failed or was interrupted is a row that says why.  `seconds` is what the fit took.  The
budget holds for each family; those that are fitted in closed form or by EM stop when they are done.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from likeli.cli.catalogue import Catalogue, catalogue
from likeli.cli.contest import Contest, Job, Row, caveats, exit_code, ranked
from likeli.cli.objects import load_plugins, read_data
from likeli.cli.options import Pairs, model_spec, train_settings
from likeli.cli.output import emit, log, table
from likeli.cli.plan import Plan
from likeli.cli.verbs.evaluate import HEADER, cells
from likeli.cli.verbs.fit import add_plan_arguments
from likeli.errors import InputError, nearest, require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_plan_arguments(parser)
    parser.add_argument("--models", metavar="A,B,…", help="the families; see likeli list")
    parser.add_argument("--out", metavar="FOLDER", help="keep the runs there; they are thrown away if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace the runs in --out")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="families fitted at the same time [1]")


def run(args: argparse.Namespace) -> int:
    """Fit, evaluate, rank."""
    known = catalogue(tuple(args.plugin))
    require(args.data is not None, "data", "a source, such as digits", "nothing")
    require(bool(args.models), "models", f"some of {', '.join(known.models)}, with commas between", "nothing")
    require(1 <= args.jobs <= 256, "jobs", "a number from 1 to 256", args.jobs)
    require(args.steps is None or args.minutes is None, "steps, minutes", "one of the two", "both")
    families = [name.strip() for name in args.models.split(",") if name.strip()]
    options = {f: own_options(known, families, f, args.dotted) for f in families}
    load_plugins(args.plugin)
    data = read_data(Plan(args.data, None, args.kind, args.labels, seed=args.seed or 0))
    with folder_of(args.out) as folder:
        jobs = [job(args, f, options[f], str(Path(folder) / f)) for f in families]
        say = (lambda line: None) if args.quiet else (lambda line: log(f"likeli: {line}"))
        contest = Contest(jobs, args.jobs, say, keep=args.out is not None)
        rows = ranked(contest.rows())
    notes = caveats(rows)
    emit(args, {"data": data.name, "rows": rows, "notes": notes}, "\n".join([ranking(rows), *notes]))
    return exit_code(contest, rows)


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


def job(args: argparse.Namespace, family: str, options: dict[str, Pairs], folder: str) -> Job:
    """One family's job."""
    return Job(family, fit_arguments(args, family, options["model"]), folder, dotted("likelihood", options))


def fit_arguments(args: argparse.Namespace, family: str, model: Pairs) -> tuple[str, ...]:
    """The arguments of `likeli fit` for one family."""
    plain = {"--kind": args.kind, "--steps": args.steps, "--minutes": args.minutes, "--seed": args.seed}
    words = [args.data, "--model", family]
    for name, value in plain.items():
        words += [] if value is None else [f"{name}={value}"]
    if args.labels is not None:
        words.append("--labels" if args.labels is True else f"--labels={args.labels}")
    words += ["--overwrite"] if args.overwrite else []
    words += [f"--plugin={p}" for p in args.plugin]
    return (*words, *dotted("model", {"model": model}), *dotted("train", args.dotted))


def dotted(section: str, options: dict[str, Pairs]) -> tuple[str, ...]:
    """Options as words of a command line."""
    return tuple(f"--{section}.{name}={value}" for name, value in options[section])


def folder_of(out: str | None) -> AbstractContextManager[str]:
    """`out`, or a folder that is removed after the block."""
    return tempfile.TemporaryDirectory(prefix="likeli-") if out is None else nullcontext(out)


def ranking(rows: list[Row]) -> str:
    """The table for people."""
    header = ["", *HEADER[:-2], "fit s", HEADER[-1]]
    return table(header, [[str(i) if r["nats"] is not None else "-", *cells(r)] for i, r in enumerate(rows, 1)])
