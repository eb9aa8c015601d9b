"""what is wrong with a run, and what to do: its numbers, sampler, latents, training and data, one check each

likeli doctor runs/x                    what fails, with what was seen and a remedy; one line if nothing does
likeli doctor runs/x --all              every check, also those that pass or do not apply
likeli doctor runs/x --json             all of them: value, condition, evidence, remedy, chance of a false alarm
likeli doctor runs/vae --latents        what its latents carry, level by level, and whether its prior covers them
likeli doctor runs/vae --latents --rows 2000    more examples: the information can be followed up to log n nats

Mass other than 1, a sampler that leaves its density, collapse, prior holes, terminal mismatch, importance weights, schedules,
copied rows, a young average, a loss that is no bound, y unread, no training, constant scores, company, dropout, constant,
repeated, leaking and tied rows, numbers that are none.  Rows are of the test split of the data that the run was fitted to.
Exit code 1 if a check fails, 0 if none does; --latents is 0 whatever is found.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from likeli.cli.objects import open_run, rows_for, stored_data
from likeli.cli.options import Parser
from likeli.cli.output import aligned, emit, with_error
from likeli.errors import FAILED, OK

if TYPE_CHECKING:
    from likeli.checkpoint import Checkpoint
    from likeli.evaluation.collapse import Collapse, ReadingY

SHOWN = 8  # latents of a level that the table names; --json has all


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", "--data", "--split", "--label")
    parser.add_argument("--rows", type=int, metavar="N", help="held-out examples at most [256; --latents 1000, deep 300]")
    parser.add_argument("--all", action="store_true", help="print every check")
    parser.add_argument("--latents", action="store_true", help="what the latents carry, in place of the checks")
    parser.share("--seed")


def run(args: argparse.Namespace) -> int:
    """Examine and print."""
    saved = open_run(args)
    if args.latents:
        _latents(saved, args)
        return OK
    from likeli.checkpoint import read_history
    from likeli.evaluation.doctor import ROWS, doctor

    given = args.data is not None or args.label is not None or args.split != "test"
    data, y = rows_for(saved, args.data, args.split, label=args.label) if given else (stored_data(saved.info), None)
    told = {"history": read_history(args.run_folder), "info": saved.info, "state": saved.state}
    found = doctor(saved.model, data, y, rows=ROWS if args.rows is None else args.rows, seed=args.seed, **told)
    shown = found.findings if args.all else [f for f in found.findings if f.status in ("fails", "unknown")]
    emit(args, found.row(), "\n".join([*map(str, shown), found.summary()]))
    return FAILED if found.failures else OK


def _latents(saved: Checkpoint, args: argparse.Namespace) -> None:
    """Diagnose the latents and print."""
    from likeli.evaluation.collapse import SHUFFLED, diagnose_latents, reading_of_y

    x, y = rows_for(saved, args.data, args.split, label=args.label)
    found = diagnose_latents(saved.model, x, y, rows=args.rows, seed=args.seed)
    few = slice(SHUFFLED)
    reading = None if y is None or len(x) < 2 else reading_of_y(saved.model, x[few], y[few], seed=args.seed)
    emit(args, vars(found) | ({} if reading is None else {"reading_of_y": vars(reading)}), _text(found, reading))


def _text(found: Collapse, reading: ReadingY | None) -> str:
    levels = []
    for t in reversed(range(len(found.latents))):
        nats = found.kl_by_latent[t]
        largest = sorted(range(len(nats)), key=lambda i: -nats[i])[:SHOWN]
        names = ", ".join(f"{i}: {nats[i]:.2f}" for i in largest) + (", …" if len(nats) > SHOWN else "")
        told = f"AUC {found.told_apart[t]:.2f}" if found.told_apart else "-"
        levels.append([t + 1, f"{found.kl_by_level[t]:.3f}", f"{found.active[t]} of {found.latents[t]}", told, names or "-"])
    beside = []
    if reading is not None:
        beside = [f"log p(x|y) ≥             {reading.own:.3f} nats; {reading.shuffled:.3f} for another's y", str(reading)]
    return "\n".join([
        aligned(["level", "nats", "latents in use", "codes told from prior", "largest latents, nats"], levels),
        "",
        f"information I(x; z)      {_nats(found.information)}",
        f"prior mismatch KL(q̄‖p)   {_nats(found.mismatch, found.mismatch_stderr)}",
        f"  at least (95 %)        {_nats(found.mismatch_at_least)}",
        f"prior draws in holes     {'not known' if found.hole is None else f'{found.hole:.1%}'} (1 % if there are none)",
        *beside,
        f"{found.rows} examples",
        *([f"alarm: {text}" for text in found.alarms] or ["no alarm"]),
    ])  # fmt: skip


def _nats(value: float | None, stderr: float | None = None) -> str:
    return "not known" if value is None else f"{with_error(value, stderr, 3)} nats"
