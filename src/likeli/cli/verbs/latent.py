"""walk about in the code of a run and draw what is met

likeli latent runs/x --grid 3,8 --out grid.png              numbers 3 and 8 of the code traversed, 9 values each
likeli latent runs/x --between 0,7 --out path.png           from the code of test row 0 to that of row 7
likeli latent runs/x --between 0,7,12,30 --out patch.png    a patch between four rows

For families with a code: vae, flow, ppca, the autoencoders.  Rows are of the test split of the data that the run was fitted to.
Everything drawn is a decoded code, E[x|z] where the decoder is a distribution: not a sample of the model.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from likeli.cli.objects import open_run, parse_label, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import check_new, emit, new_file
from likeli.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.checkpoint import Checkpoint

RANGE = 2.5  # standard deviations of the standard normal prior on either side; 98.8 % of its mass


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--grid", type=list[int], metavar="I,J", help="traverse one or two numbers of the code")
    kind.add_argument("--between", type=list[int], metavar="A,B[,C,D]", help="interpolate between two or four test rows")
    parser.add_argument("--row", type=int, default=0, metavar="R", help="test row whose code a traversal starts from [0]")
    parser.add_argument("--steps", type=int, default=9, metavar="N", help="codes along each way, from 2 to 100 [9]")
    parser.add_argument("--path", choices=["linear", "spherical"], default="linear", help="between two rows [linear]")
    parser.add_argument("--label", metavar="Y", help="for a conditional run: the y that every code is decoded with")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="the picture")
    parser.share("--overwrite")


def run(args: argparse.Namespace) -> None:
    """Make the codes, decode them, draw."""
    from likeli.latent.codes import decode_codes
    from likeli.show.pictures import grid, is_image

    require(2 <= args.steps <= 100, "steps", "a whole number from 2 to 100", args.steps)
    check_new(args.out, overwrite=args.overwrite, suffixes=[".png"])
    saved = open_run(args)
    space, y = saved.model.space, parse_label(args.label, saved.model)
    require(is_image(space), "run", "a model of images", f"one of {space.kind()} data")
    codes = _walk(args, saved, y)
    x = decode_codes(saved.model, codes, y).flatten(0, codes.ndim - 2)
    columns = codes.shape[1] if codes.ndim > 2 else len(codes)
    with new_file(args.out, overwrite=args.overwrite) as path:
        grid(x, space, columns=columns).save(path, format="PNG", optimize=True)
    emit(args, {"out": args.out, "codes": list(codes.shape)}, f"{len(x)} decoded codes in {args.out}")


def _walk(args: argparse.Namespace, saved: Checkpoint, y: Tensor | None) -> Tensor:
    """The codes to draw, (steps, code) along a way or (steps, steps, code) over a patch."""
    import torch

    from likeli.latent.codes import bilinear, embed, interpolate, traverse

    what, rows = ("row", [args.row]) if args.between is None else ("between", args.between)
    require(args.between is None or len(rows) in (2, 4), what, "two or four test rows", rows)
    require(len(rows) < 4 or args.path == "linear", "path", "linear between four rows", args.path)
    x, labels = rows_for(saved, None)
    require(all(0 <= r < len(x) for r in rows), what, f"test rows from 0 to {len(x) - 1}", rows)
    z = embed(saved.model, x[rows], y if labels is None else labels[rows])
    if args.between is None:
        start = z[0].flatten()
        return traverse(start, args.grid, torch.linspace(-RANGE, RANGE, args.steps, dtype=start.dtype))
    if len(rows) == 2:
        return interpolate(z[0], z[1], args.steps, args.path)
    return bilinear(z.unflatten(0, (2, 2)), args.steps, args.steps)
