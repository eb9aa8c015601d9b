"""draw from a run

likeli sample runs/x -n 64 --out grid.png          images as a grid, two columns as points
likeli sample runs/x -n 1000 --out samples.npy     an array (n, ...) in the units of the data
likeli sample runs/x -n 1000 --out samples.csv     one line a sample
likeli sample runs/x --label 3 --out threes.png    for a run with labels
likeli sample runs/x --steps 20 --sampler adams --grid optimal --animate way.webp --out grid.png    a diffusion model
likeli sample runs/x --keep 2,3 --out like.png     a hierarchy: levels 2 and 3 as inferred for a test row, the others drawn

Sample number i is a function of the seed and i alone: a longer set begins with the shorter one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli import watch
from likeli.cli.building import call_options, load_plugins, parse_label, stored_data, whole_numbers
from likeli.cli.memory import check_fits
from likeli.cli.output import check_new, emit, new_file
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.core import GenerativeModel
    from likeli.space import Space


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    parser.add_argument("-n", type=int, default=64, help="how many [64]")
    parser.add_argument("--out", required=True, metavar="FILE", help="what to write: .png, .npy, .csv or (text data) .txt")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the whole set [0]")
    parser.add_argument("--label", metavar="Y", help="for a run with labels: a class, its name, or numbers separated by commas")
    parser.add_argument("--keep", metavar="I,J", help="levels of a hierarchy, 1 next to the data, that keep a test row's codes")
    parser.add_argument("--row", type=int, default=0, metavar="R", help="the test row of --keep [0]")
    watch.add_arguments(parser)
    parser.epilog = "What a family's sampler takes is given as --sample.NAME VALUE."


def run(args: argparse.Namespace) -> None:
    """Sample and write."""
    import likeli

    suffix = Path(args.out).suffix.lower()
    require(suffix in WRITERS, "out", f"a name that ends in {', '.join(WRITERS)}", args.out)
    require(args.n >= 1, "n", "a whole number of at least 1", args.n)
    require(0 <= args.seed < 2**63, "seed", "a whole number from 0 to below 2**63", args.seed)
    check_new(args.out, overwrite=args.overwrite)
    load_plugins(args.plugin)
    pairs = [*watch.step_options(args), *args.dotted["sample"]]
    model = likeli.load(args.run_folder)
    if args.animate is not None:
        watch.check_animation(model)
    kept = _kept(args, model) if args.keep else {}
    options = call_options(model.draw, pairs, "sample") | kept
    y = parse_label(args.label, model)
    check_fits(3 * 8 * args.n * model.space.dimensions, f"{args.n} samples of {model.space.dimensions} cells")
    x, frames = watch.sampled(model, args.n, y, args.seed, options, animate=args.animate is not None)
    with new_file(args.out, overwrite=args.overwrite) as path:
        WRITERS[suffix](path, x, model.space)
    if frames:
        watch.write_animation(args.animate, frames, x, model, overwrite=args.overwrite)
    emit(args, {"out": args.out, "n": args.n, "seed": args.seed, "shape": list(x.shape)}, f"{args.n} samples in {args.out}")


def _kept(args: argparse.Namespace, model: GenerativeModel) -> dict[str, Any]:
    """The sampler's option that fixes some levels at the codes of a test row.

    Raises:
        InputError: not a hierarchy of codes, no such level, no such row.
    """
    import torch

    from likeli import checkpoint
    from likeli.core import evaluating
    from likeli.models.hierarchy import Hierarchy
    from likeli.models.markov_hvae import MarkovHVAE

    fixable = "fixed" in signature(model.draw).parameters and isinstance(model, (Hierarchy, MarkovHVAE))
    require(fixable, "keep", "a run of a model with latent levels, such as hvae", model.kind())
    assert isinstance(model, (Hierarchy, MarkovHVAE))
    levels = whole_numbers(args.keep, "keep")
    require(all(1 <= i <= model.depth for i in levels), "keep", f"levels from 1 to {model.depth}", args.keep)
    x, y = stored_data(checkpoint.read(args.run_folder).info).split("test")
    require(0 <= args.row < len(x), "row", f"a test row from 0 to {len(x) - 1}", args.row)
    row = slice(args.row, args.row + 1)
    with evaluating(model), torch.no_grad():
        codes = model.codes(x[row].to(model.device), None if y is None else y[row])
    return {"fixed": {i: codes[i] for i in levels}}


def _picture(path: Path, x: Tensor, space: Space) -> None:
    from likeli.pictures import picture

    picture(x, space).save(path, format="PNG", optimize=True)


def _array(path: Path, x: Tensor, space: Space) -> None:
    from likeli.data import write_npy

    write_npy(path, x.cpu().numpy())


def _csv(path: Path, x: Tensor, space: Space) -> None:
    from likeli.data import columns_of, write_csv

    write_csv(path, columns_of(x, space))


def _text(path: Path, x: Tensor, space: Space) -> None:
    from likeli.data.text import decode
    from likeli.space import Tokens

    if not isinstance(space, Tokens):
        raise InputError("out: expected a name that ends in .npy or .csv, since the data are not text, got .txt")
    path.write_text("".join(f"{line}\n" for line in decode(x, space)), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Tensor, Space], None]] = {".png": _picture, ".npy": _array, ".csv": _csv, ".txt": _text}
