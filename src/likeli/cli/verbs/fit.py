"""train a family on some data and save the run

likeli fit digits --model vdm --out runs/x
likeli fit table.csv --model gmm --model.components 5
likeli fit cells.h5ad --model vae --labels batch --layer counts
likeli fit digits --model vae --minutes 2 --train.lr 3e-4 --out runs/vae
likeli fit --out runs/x --resume --steps 5000

DATA is a built-in name (digits, and toys with known log p), a file (.npy .npz .csv .parquet .h5ad .txt), a folder of images, a
folder of .parquet files (read block by block, never all in memory), or hf:NAME.  Images above 256 MiB stay in their files too,
or with FOLDER:stream=1.
Ctrl-C saves and exits; --resume goes on from there, on the same trajectory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from likeli.cli.catalogue import catalogue, training_options
from likeli.cli.objects import keep_freed_memory, load_plugins, make_model, read_data, stored_data
from likeli.cli.options import Parser
from likeli.cli.output import emit, warn
from likeli.cli.plan import Plan, make_plan
from likeli.cli.verbs.list import options_help, training_help
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from likeli.contract import GenerativeModel
    from likeli.data import Data
    from likeli.training import History


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_plan_arguments(parser)
    parser.add_argument("--model", metavar="FAMILY", help="see likeli list; its options are --model.NAME VALUE")
    parser.add_argument("--out", metavar="FOLDER", help="the run folder [runs/DATA-FAMILY]")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.share("--overwrite", help="replace the run in --out once the new one has saved")
    parser.add_argument("--config", metavar="FILE.yaml", help="options from a file; the command line has the last word")
    parser.add_argument("--print-config", action="store_true", help="print all options as such a file, and stop")
    parser.share("--processes")
    parser.more = family_options


def add_plan_arguments(parser: Parser) -> None:
    """Options of everything that trains."""
    parser.add_argument("data", nargs="?", metavar="DATA", help="what to fit")
    parser.add_argument("--kind", help="what the cells are, if not what they look like")
    labels = "fit p(x|y): y is the data's own labels, or this column"
    numbers = "columns of numbers whose values are names, such as 404,500"
    parser.add_argument("--categorical", metavar="COLUMN,…", help=numbers)
    parser.share("--types")
    parser.add_argument("--labels", nargs="?", const=True, metavar="COLUMN", help=labels)
    parser.add_argument("--size", type=int, metavar="N", help="scale and crop a folder's pictures to N x N")
    parser.add_argument("--layer", metavar="NAME", help="the matrix of a .h5ad that is fitted, in place of X")
    text = parser.add_argument_group("for text")
    text.add_argument("--context", type=int, metavar="N", help="symbols of a window, or of the longest line [64]")
    unit = "what a symbol is: char, byte, bpe; whole lines as rows: line, line-byte, line-bpe"
    text.add_argument("--unit", metavar="NAME", help=unit)
    text.add_argument("--vocab", type=int, metavar="N", help="symbols at most [all characters; 1024 of bpe]")
    text.add_argument("--unknown", metavar="C", help="what characters that the training part does not have are read as")
    text.add_argument("--cut", action="store_true", default=None, help="cut lines that are longer than --context")
    text.add_argument("--stride", type=int, metavar="N", help="symbols between the starts of training windows [--context]")
    parser.add_argument("--steps", type=int, metavar="N", help="stop after N steps")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes")
    parser.share("--seed", default=None, help="of the split, the first weights and the batches [0]")
    parser.share("--quiet")


def family_options(words: Sequence[str]) -> str:
    """What `--help` ends with: the options of the family that the words name, and of training."""

    def given(option: str) -> list[str]:
        after = [b for a, b in pairwise(words) if a == option]
        return after + [a.split("=", 1)[1] for a in words if a.startswith(f"{option}=")]

    known = catalogue(tuple(given("--plugin")))
    families = [f for f in given("--model") if f in known.models]
    if not families:
        return f"options of a family: likeli fit --model FAMILY --help\n\n{training_help(known, None)}"
    return f"{options_help(known, families[-1])}\n\n{training_help(known, families[-1])}"


def run(args: argparse.Namespace) -> int:
    """Fit, save, say how it went."""
    known = catalogue(tuple(args.plugin))
    plan = make_plan(args, known)
    if args.print_config:
        print(plan.text(known))
        return 0
    require(args.resume or plan.data is not None, "data", "a source, such as digits", "nothing")
    require(args.resume or plan.model is not None, "model", f"--model with one of {', '.join(known.models)}", "nothing")
    folder = plan.out or (f"runs/{Path(str(plan.data)).stem}-{plan.model['class']}" if plan.data and plan.model else None)
    if folder is None:
        raise InputError("out: expected the run folder to resume, got nothing")
    load_plugins(args.plugin)
    model, history = (resume if args.resume else start)(plan, folder, args)
    payload = {
        "run": folder,
        "model": model.kind(),
        "steps": history.steps,
        "seconds": history.seconds,
        "stopped_because": history.stopped_because,
        "best": history.best,
        "loss": history.rows[-1].get("loss") if history.rows else None,
        "notes": history.notes,
        "warnings": history.warnings,
    }
    warn(history.warnings)
    lines = [f"{model.kind()}: {history}", *history.notes]
    emit(args, payload, "\n".join([*lines, f"saved in {folder}; next: likeli evaluate {folder}"]))
    return history.exit_code


def start(plan: Plan, folder: str, args: argparse.Namespace) -> tuple[GenerativeModel, History]:
    """A new run."""
    from likeli.checkpoint.folder import require_empty

    require(plan.data is not None, "data", "a source, such as digits", "nothing")
    if not args.overwrite and not args.resume:
        require_empty(Path(folder), "; --overwrite replaces it, --resume continues it")
    data = read_data(plan)
    model = make_model(plan, data, catalogue(tuple(args.plugin)))
    return model, train(plan, folder, args, model, data)


def resume(plan: Plan, folder: str, args: argparse.Namespace) -> tuple[GenerativeModel, History]:
    """Go on with a run, by its own record; what is given again must agree with it."""
    from likeli import checkpoint
    from likeli.checkpoint.generation import generations

    if not (Path(folder).is_dir() and generations(Path(folder))):  # killed before its first checkpoint
        return start(plan, folder, args)
    saved = checkpoint.read(folder)
    record = saved.info.get("training", {})
    settings = {k: record[k] for k in training_options() if k in record}
    budget = {k: record.get(k) for k in ("steps", "minutes")} if plan.steps is plan.minutes is None else {}
    seed = record.get("seed", 0) if plan.seed == 0 else plan.seed
    plan = replace(plan, seed=seed, train=settings | plan.train, **budget)
    data = stored_data(saved.info) if plan.data is None else read_data(plan)
    model = saved.model if plan.model is None else make_model(plan, data, catalogue(tuple(args.plugin)))
    return model, train(plan, folder, args, model, data)


def train(plan: Plan, folder: str, args: argparse.Namespace, model: GenerativeModel, data: Data) -> History:
    """Run the trainer."""
    import likeli

    keep_freed_memory()
    return likeli.fit(
        model,
        data,
        steps=plan.steps,
        minutes=plan.minutes,
        seed=plan.seed,
        out=folder,
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.quiet and not args.json,
        **plan.train,
    )
