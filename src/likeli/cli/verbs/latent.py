"""walk about in the code of a run and draw what is met

likeli latent runs/x --grid 3,8 --out grid.png              numbers 3 and 8 of the code traversed, 9 values each
likeli latent runs/x --between 0,7 --out path.png           from the code of test row 0 to that of row 7
likeli latent runs/x --between 0,7,12,30 --out patch.png    a patch between four rows

For families with a code: vae, flow, ppca, the autoencoders.  Rows are of the test split of the data that the run was fitted to.
Everything drawn is a decoded code, E[x|z] where the decoder is a distribution: not a sample of the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from likeli.cli.objects import load_plugins, parse_label, stored_data, whole_numbers
from likeli.cli.output import check_new, emit, new_file
from likeli.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.contract import GenerativeModel
    from likeli.data import Data

RANGE = 2.5  # standard deviations of the standard normal prior on either side; 98.8 % of its mass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--grid", metavar="I,J", help="traverse one or two numbers of the code")
    kind.add_argument("--between", metavar="A,B[,C,D]", help="interpolate between two or four test rows")
    parser.add_argument("--row", type=int, default=0, metavar="R", help="test row whose code a traversal starts from [0]")
    parser.add_argument("--steps", type=int, default=9, metavar="N", help="codes along each way, from 2 to 100 [9]")
    parser.add_argument("--path", choices=["linear", "spherical"], default="linear", help="between two rows [linear]")
    parser.add_argument("--label", metavar="Y", help="for a conditional run: the y that every code is decoded with")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="the picture")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")


def run(args: argparse.Namespace) -> None:
    """Make the codes, decode them, draw."""
    from likeli import checkpoint, models
    from likeli.latent.codes import decode_codes
    from likeli.show.pictures import grid, is_image

    require(Path(args.out).suffix.lower() == ".png", "out", "a name that ends in .png", args.out)
    require(2 <= args.steps <= 100, "steps", "a whole number from 2 to 100", args.steps)
    check_new(args.out, overwrite=args.overwrite)
    load_plugins(args.plugin)
    models.families()
    saved = checkpoint.read(args.run_folder)
    require(is_image(saved.model.space), "run", "a model of images", f"one of {saved.model.space.kind()} data")
    data, y = stored_data(saved.info), parse_label(args.label, saved.model)
    codes = _traversal(args, saved.model, data, y) if args.grid else _interpolation(args, saved.model, data, y)
    columns = codes.shape[1] if codes.ndim > 2 else len(codes)
    x = decode_codes(saved.model, codes, y).flatten(0, codes.ndim - 2)
    with new_file(args.out, overwrite=args.overwrite) as path:
        grid(x, saved.model.space, columns=columns).save(path, format="PNG", optimize=True)
    emit(args, {"out": args.out, "codes": list(codes.shape)}, f"{len(x)} decoded codes in {args.out}")


def _traversal(args: argparse.Namespace, model: GenerativeModel, data: Data, y: Tensor | None) -> Tensor:
    import torch

    from likeli.latent.codes import traverse

    z = _codes(model, data, [args.row], "row", y)[0].flatten()
    return traverse(z, whole_numbers(args.grid, "grid"), torch.linspace(-RANGE, RANGE, args.steps, dtype=z.dtype))


def _interpolation(args: argparse.Namespace, model: GenerativeModel, data: Data, y: Tensor | None) -> Tensor:
    from likeli.latent.codes import bilinear, interpolate

    rows = whole_numbers(args.between, "between")
    require(len(rows) in (2, 4), "between", "two or four test rows", args.between)
    require(len(rows) == 2 or args.path == "linear", "path", "linear between four rows", args.path)
    codes = _codes(model, data, rows, "between", y)
    if len(rows) == 2:
        return interpolate(codes[0], codes[1], args.steps, args.path)
    return bilinear(codes.unflatten(0, (2, 2)), args.steps, args.steps)


def _codes(model: GenerativeModel, data: Data, rows: list[int], what: str, y: Tensor | None) -> Tensor:
    from likeli.latent.codes import embed

    x, labels = data.split("test")
    require(all(0 <= r < len(x) for r in rows), what, f"test rows from 0 to {len(x) - 1}", rows)
    if model.condition is None:
        return embed(model, x[rows])
    return embed(model, x[rows], y if labels is None else labels[rows])
