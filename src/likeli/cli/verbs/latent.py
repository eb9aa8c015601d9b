"""walk about in the code of a run and draw what is met

likeli latent runs/vae --grid 3,8 --out grid.png              numbers 3 and 8 of the code traversed, 9 values each
likeli latent runs/vae --between 0,7 --out path.png           from the code of test row 0 to that of row 7
likeli latent runs/vae --between 0,7,12,30 --out patch.png    a patch between four rows
likeli latent runs/vae --reconstruct 20 --out again.png       20 test rows, each beside what its code decodes to

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

PAIRS = 5  # of an example and its reconstruction side by side
RANGE = 2.5  # standard deviations of the standard normal prior on either side; 98.8 % of its mass


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    kind = parser.add_mutually_exclusive_group()
    most = "traverse one or two numbers of the code [the two that differ most from row to row]"
    kind.add_argument("--grid", type=list[int], metavar="I,J", help=most)
    kind.add_argument("--between", type=list[int], metavar="A,B[,C,D]", help="interpolate between two or four test rows")
    kind.add_argument("--reconstruct", type=int, metavar="N", help="N test rows, each beside what its code decodes to")
    parser.add_argument("--row", type=int, default=0, metavar="R", help="test row whose code a traversal starts from [0]")
    parser.add_argument("--steps", type=int, default=9, metavar="N", help="codes along each way, from 2 to 100 [9]")
    parser.add_argument("--path", choices=["linear", "spherical"], default="linear", help="between two rows [linear]")
    label = "for a conditional run: the y that every code is decoded with [that of its rows, mixed on the way between them]"
    parser.add_argument("--label", metavar="Y", help=label)
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
    if args.reconstruct is not None:
        _reconstruct(args, saved, y)
        return
    codes, y, told = _walk(args, saved, y)
    x, columns = decode_codes(saved.model, codes.flatten(0, 1), y), codes.shape[1]
    with new_file(args.out, overwrite=args.overwrite) as path:
        grid(x, space, columns=columns).save(path, format="PNG", optimize=True)
    emit(args, {"out": args.out, "codes": list(codes.shape), "walk": told}, f"{len(x)} decoded codes in {args.out}: {told}")


def _reconstruct(args: argparse.Namespace, saved: Checkpoint, y: Tensor | None) -> None:
    """Examples, each with its reconstruction to its right, and the mean squared error of a cell."""
    import torch

    from likeli.latent.codes import reconstruct
    from likeli.show.pictures import grid

    x, labels = rows_for(saved, None)
    require(1 <= args.reconstruct <= len(x), "reconstruct", f"a number of test rows from 1 to {len(x)}", args.reconstruct)
    x, labels = x[: args.reconstruct], None if labels is None else labels[: args.reconstruct]
    again = reconstruct(saved.model, x, labels if y is None else y.expand(len(x), *y.shape[1:]))
    error = (again.double() - x.double()).square().flatten(1).mean(1)
    pairs = torch.stack([x.double(), again.double()], 1).flatten(0, 1)
    with new_file(args.out, overwrite=args.overwrite) as path:
        grid(pairs, saved.model.space, columns=2 * min(PAIRS, len(x))).save(path, format="PNG", optimize=True)
    stderr = error.std().item() / len(x) ** 0.5 if len(x) > 1 else None
    told = f"mean squared error of a cell {error.mean():.4g}{'' if stderr is None else f' ± {stderr:.2g}'}"
    payload = {"out": args.out, "rows": len(x), "squared_error": error.mean().item(), "stderr": stderr}
    emit(args, payload, f"{len(x)} test rows beside their reconstructions in {args.out}: {told}")


def _walk(args: argparse.Namespace, saved: Checkpoint, y: Tensor | None) -> tuple[Tensor, Tensor | None, str]:
    """The codes to draw, (lines, columns, *code), the y of each, (lines · columns, …), and what they are in words."""
    import torch
    from torch.nn.functional import one_hot

    from likeli.latent.codes import bilinear, embed, interpolate, traverse

    what, rows = ("row", [args.row]) if args.between is None else ("between", args.between)
    require(args.between is None or len(rows) in (2, 4), what, "two or four test rows", rows)
    require(len(rows) < 4 or args.path == "linear", "path", "linear between four rows", args.path)
    x, labels = rows_for(saved, None)
    require(all(0 <= r < len(x) for r in rows), what, f"test rows from 0 to {len(x) - 1}", rows)
    given = y if y is not None or labels is None else labels[rows]
    shape = embed(saved.model, x[rows[:1]], None if given is None else given[:1]).shape[1:]
    z = embed(saved.model, x[rows], given).flatten(1)
    if given is not None and y is None:
        classes = saved.model.condition.symbols if saved.model.condition is not None else 0
        given = one_hot(given.long(), classes).to(z) if classes else given.to(z)

    def between(ends: Tensor, path: str = "linear") -> Tensor:
        if len(ends) == 4:
            return bilinear(ends.unflatten(0, (2, 2)), args.steps, args.steps)
        return interpolate(ends[0], ends[1], args.steps, path)[None]

    if args.between is not None:
        codes, told = between(z, args.path), f"between test rows {', '.join(map(str, rows))}"
        mixed = given if given is None or y is not None else between(given.reshape(len(rows), -1)).flatten(0, 1)
        return codes.unflatten(-1, shape), mixed, told
    numbers, why = args.grid, ""
    if numbers is None:
        several = embed(saved.model, x[:500], y if labels is None or y is not None else labels[:500]).flatten(1)
        numbers, why = several.var(0).topk(min(2, several.shape[1])).indices.tolist(), ", which differ most from row to row"
    codes = traverse(z[0], numbers, torch.linspace(-RANGE, RANGE, args.steps, dtype=z.dtype))
    codes = codes if codes.ndim > 2 else codes[None]
    told = f"numbers {', '.join(map(str, numbers))} of the code of row {args.row}{why}, from {-RANGE:g} to {RANGE:g}"
    return codes.unflatten(-1, shape), given, told
