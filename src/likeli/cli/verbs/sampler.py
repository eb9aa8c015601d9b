"""which sampler a diffusion run should take for few evaluations of its network

likeli sampler runs/vdm                     every deterministic sampler on every grid at 5, 10, 20 and 50 evaluations
likeli sampler runs/vdm --evaluations 8,16 --samplers adams,multistep --grids log_snr,optimal
likeli sampler runs/vdm --dry-run           measure and print, and leave the run as it is

The error is how far a sample ends from where the probability flow itself ends from the same noise: root mean square over the
cells, in model units, mean over starts with its standard error.  Every second start chooses a method and the others report it,
and it must beat the model's own by two standard errors of the difference.  What is recommended is stored with the run, and
`likeli sample RUN --steps N` takes it unless a sampler or a grid is named.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from likeli.cli.objects import open_run, parse_label, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import aligned, emit, log, with_error
from likeli.errors import require

if TYPE_CHECKING:
    from likeli.diffusion.flow_error import FlowError, FlowErrors


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", help="the run folder of a diffusion model")
    counts = [5, 10, 20, 50]
    parser.add_argument("--evaluations", type=list[int], default=counts, metavar="N,M", help="of the network [5,10,20,50]")
    parser.add_argument("--samplers", type=list[str], metavar="A,B", help="deterministic ones [all]")
    parser.add_argument("--grids", type=list[str], metavar="A,B", help="of time, log_snr, karras, optimal [all]")
    parser.add_argument("--starts", type=int, default=64, metavar="N", help="rows of noise [64]")
    parser.add_argument("--label", metavar="Y", help="for a run with labels: draw under this one [those of the test rows]")
    parser.share("--data", "--seed")
    parser.add_argument("--dry-run", action="store_true", help="store nothing")


def run(args: argparse.Namespace) -> None:
    """Measure, print, store."""
    from likeli import checkpoint
    from likeli.diffusion.flow_error import GRIDS, flow_errors, stored

    require(args.seed >= 0, "seed", "a whole number from 0", args.seed)
    saved = open_run(args)
    conditional = saved.model.condition is not None
    y = parse_label(args.label, saved.model)
    if conditional and y is None:
        y = rows_for(saved, args.data)[1]
    is_run = saved.path != Path(args.run_folder)
    require(is_run or args.dry_run, str(args.run_folder), "a run folder to store in, or --dry-run", "a single model's folder")
    with nullcontext() if args.dry_run else checkpoint.lock(args.run_folder):
        log(f"likeli: {args.starts} starts, samplers against the probability flow; minutes for a large network")
        found = flow_errors(
            saved.model,
            y,
            evaluations=args.evaluations,
            samplers=args.samplers,
            grids=args.grids or GRIDS,
            starts=args.starts,
            seed=args.seed,
        )
        if not args.dry_run:
            checkpoint.annotate(args.run_folder, {"samplers": stored(found)})
    emit(args, found.row() | {"stored": not args.dry_run}, _text(found, args))


def _text(found: FlowErrors, args: argparse.Namespace) -> str:
    table: defaultdict[tuple[str, str], dict[int, FlowError]] = defaultdict(dict)
    for row in found.rows:
        mine = found.own.get(row.evaluations) is row
        table["its own" if mine else row.name, "" if mine else row.grid][row.evaluations] = row
    numbers = sorted(found.best)
    cells = [[*way, *(_number(of.get(n)) for n in numbers)] for way, of in table.items()]
    lines = [aligned(["sampler", "grid", *(f"{n} evaluations" for n in numbers)], cells), ""]
    for n, best in found.best.items():
        own = found.own.get(n)
        beside = "" if own is None else f"; its own, {own.name} on {own.grid}: {_number(own)}"
        same = own is best
        text = f"{best.name} on {best.grid}, {best.steps} steps: {_number(best)}" + ("" if same else beside)
        lines.append(f"{n} evaluations: {'its own, ' * same}{text}")
    lines.append(f"distance to the flow (solved to {found.tolerance:g}) over √D, {found.starts // 2} starts that report")
    taken = f"stored: likeli sample {args.run_folder} --steps N --out FILE takes what is recommended"
    lines.append("nothing stored" if args.dry_run else taken)
    return "\n".join(lines)


def _number(found: FlowError | None) -> str:
    return "-" if found is None else with_error(found.error, found.stderr, 4)
