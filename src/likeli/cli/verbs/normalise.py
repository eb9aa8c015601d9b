"""log Z of an energy-based run, so that its log p(x) becomes a number that can be compared

likeli normalise runs/rbm                             annealed importance sampling from both ends
likeli normalise runs/rbm --chains 1000 --temperatures 10000
likeli normalise runs/rbm --dry-run                   print, and leave the run as it is

Chains walk from a base whose Z is known to the model, and others from the model back, and log Z lies between what they say; how
far apart that is, the standard error and the effective sample size of the weights are printed.  A small machine's states are
counted, which is exact.  What is found is stored with the run, and `likeli evaluate RUN` then gives an estimate of log p(x).
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from likeli.cli.objects import open_run
from likeli.cli.options import Parser
from likeli.cli.output import emit, log
from likeli.errors import Unsupported, require


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", help="the run folder of an energy-based model")
    parser.add_argument("--chains", type=int, default=500, metavar="N", help="on each way [500]")
    parser.add_argument("--temperatures", type=int, default=2000, metavar="K", help="steps from the base to the model [2000]")
    parser.share("--seed")
    parser.add_argument("--dry-run", action="store_true", help="store nothing")


def run(args: argparse.Namespace) -> None:
    """Anneal, print, store."""
    from likeli import checkpoint
    from likeli.energy.unnormalised import EnergyBased

    require(args.seed >= 0, "seed", "a whole number from 0", args.seed)
    saved = open_run(args)
    model = saved.model
    if not isinstance(model, EnergyBased):
        raise Unsupported(f"log Z of a {model.kind()}: only energy-based models have one that is not known")
    is_run = saved.path != Path(args.run_folder)
    require(is_run or args.dry_run, str(args.run_folder), "a run folder to store in, or --dry-run", "a single model's folder")
    with nullcontext() if args.dry_run else checkpoint.lock(args.run_folder):
        log(f"likeli: annealing {args.chains} chains there and back over {args.temperatures} temperatures")
        found = model.normalise(chains=args.chains, temperatures=args.temperatures, seed=args.seed)
        if not args.dry_run:
            checkpoint.annotate(args.run_folder, {"log_z": asdict(found)}, model)
    doubt = [f"doubtful: {found.complaint}"] if found.complaint else []
    stored = "nothing stored" if args.dry_run else f"stored: likeli evaluate {args.run_folder} now knows log Z"
    row = asdict(found) | {"exact": found.exact, "complaint": found.complaint, "stored": not args.dry_run}
    emit(args, row, "\n".join([str(found), *doubt, stored]))
