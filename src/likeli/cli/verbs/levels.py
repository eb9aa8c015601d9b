"""where a diffusion run spends its nats, noise level by noise level

likeli levels runs/vdm                       SNR, error, nats, bits/dim and posterior spread at 16 levels
likeli levels runs/vdm --schedules           and the variance of the bound under other schedules of equal ends
likeli levels runs/vdm --out levels.png      the curve as a picture

The nats sum to the bound's diffusion term.  `spread` is how far x lies from the best guess at it, in model units, as the model
has it, and `miss` how far it does lie: a model that is right has them equal.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from likeli.cli.objects import open_run, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import aligned, check_new, emit, new_file, with_error
from likeli.errors import require

if TYPE_CHECKING:
    from likeli.diffusion.levels import NoiseLevels
    from likeli.diffusion.schedule_variance import ScheduleVariance

SPREAD_ROWS = 64  # rows that the posterior's spread is averaged over: a network's costs a derivative for each probe


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder", "--data", "--split", "--label")
    parser.add_argument("--rows", type=int, default=256, metavar="N", help="the first N rows of it [256]")
    parser.add_argument("--levels", type=int, default=16, metavar="N", help="noise levels to tell apart [16]")
    parser.add_argument("--draws", type=int, default=4, metavar="N", help="noises for each row and level [4]")
    parser.share("--seed")
    parser.add_argument("--schedules", action="store_true", help="compare the variance of the bound under other schedules")
    parser.add_argument("--out", metavar="FILE.png", help="write the curve of nats over log SNR")
    parser.share("--overwrite")


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    from likeli.diffusion.levels import checked, denoised, noise_levels
    from likeli.diffusion.schedule_variance import schedule_variance
    from likeli.show.pictures import curves

    require(args.rows >= 1, "rows", "at least 1", args.rows)
    check_new(args.out, overwrite=args.overwrite, suffixes=[".png"])
    saved = open_run(args)
    x, y = rows_for(saved, args.data, args.split, args.rows, args.label)
    checked(saved.model, x, y)
    found = noise_levels(saved.model, x, y, levels=args.levels, draws=args.draws, seed=args.seed)
    few, times = slice(SPREAD_ROWS), [level.t for level in found.levels]
    means = denoised(saved.model, x[few], None if y is None else y[few], times=times, seed=args.seed)
    paths = schedule_variance(saved.model, x, y, seed=args.seed) if args.schedules else None
    spread, miss = (v.square().mean(1).sqrt().tolist() for v in (means.spread, means.error))
    if args.out:
        density = [level.nats / abs(level.first - level.last) for level in found.levels]
        series = {found.model: ([level.log_snr for level in found.levels], density)}
        with new_file(args.out, overwrite=args.overwrite) as path:
            curves(series, title="where the nats go", x="log SNR", y="nats per unit of log SNR").save(path)
    payload = found.row() | {"spread": spread, "miss": miss, "spread_from": means.how}
    emit(args, payload | ({} if paths is None else {"schedules": [vars(p) for p in paths]}), _text(found, spread, miss, paths))


def _text(found: NoiseLevels, spread: list[float], miss: list[float], paths: list[ScheduleVariance] | None) -> str:
    header = ["t", "log SNR", "noise error", "nats", "bits/dim", "spread", "miss"]
    rows = [
        [
            f"{v.t:.3f}", f"{v.log_snr:.2f}", f"{v.error:.3f}", with_error(v.nats, v.stderr, 3), f"{v.bits_per_dim:.4f}",
            f"{s:.3f}", f"{m:.3f}",
        ]
        for v, s, m in zip(found.levels, spread, miss)
    ]  # fmt: skip
    kind = "in continuous time" if found.continuous else "over the chain's own levels"
    lines = [
        aligned(header, rows),
        f"diffusion {sum(v.nats for v in found.levels):.3f} + prior {found.prior:.3g} − reconstruction "
        f"{found.reconstruction:.3f}: log p(x) ≥ {with_error(found.bound, found.stderr, 3)} nats, {kind}; "
        f"{found.examples} examples, {found.draws} draws",
    ]
    if paths is not None:
        cells = [[p.schedule, with_error(p.nats, p.stderr, 3), f"{p.variance:.4g}", f"{p.bits_variance:.4g}"] for p in paths]
        lines += ["", aligned(["schedule", "diffusion term", "variance, nats²", "(bits/dim)²"], cells)]
        lines += ["one draw of t and ε for one row, no control variate; the means agree within their errors"]
    return "\n".join(lines)
