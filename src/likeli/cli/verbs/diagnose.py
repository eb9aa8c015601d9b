"""say what the latents of a run carry and whether its prior covers them

likeli diagnose runs/vae               divergence by level and latent, latents in use, information, prior mismatch and holes
likeli diagnose runs/vae --rows 2000   more examples: the information can be followed up to log n nats

For VAEs and hierarchical VAEs, conditional or not: there the bound with y shuffled stands beside the bound.  Alarms come with
what to try.  Rows are of the test split of the data that the run was fitted to, in nats an example.  Exit code 0 whatever is
found.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from likeli.cli.objects import open_run, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import aligned, emit, with_error

if TYPE_CHECKING:
    from likeli.evaluation.collapse import Collapse, ReadingY

SHOWN = 8  # latents of a level that the table names; --json has all


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", "--data", "--split", "--label")
    parser.add_argument("--rows", type=int, metavar="N", help="examples at most; the cost grows as N² [1000; deep, 300]")
    parser.share("--seed")


def run(args: argparse.Namespace) -> None:
    """Diagnose and print."""
    from likeli.evaluation.collapse import SHUFFLED, diagnose_latents, reading_of_y

    saved = open_run(args)
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
