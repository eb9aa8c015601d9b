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
import sys
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import call_options, check_fits, load_plugins, parse_label, stored_data, whole_numbers
from likeli.cli.output import check_new, emit, new_file
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.contract import GenerativeModel
    from likeli.spaces.base import Space


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
    _add_steps(parser)
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
    pairs = [*step_options(args), *args.dotted["sample"]]
    model = likeli.load(args.run_folder)
    if args.animate is not None:
        check_animation(model)
    kept = _kept(args, model) if args.keep else {}
    options = call_options(model.draw, pairs, "sample") | kept
    y = parse_label(args.label, model)
    check_fits(3 * 8 * args.n * model.space.dimensions, f"{args.n} samples of {model.space.dimensions} cells")
    x, frames = sampled(model, args.n, y, args.seed, options, animate=args.animate is not None)
    with new_file(args.out, overwrite=args.overwrite) as path:
        WRITERS[suffix](path, x, model.space)
    if frames:
        write_animation(args.animate, frames, x, model, overwrite=args.overwrite)
    emit(args, {"out": args.out, "n": args.n, "seed": args.seed, "shape": list(x.shape)}, f"{args.n} samples in {args.out}")


def _kept(args: argparse.Namespace, model: GenerativeModel) -> dict[str, Any]:
    """The sampler's option that fixes some levels at the codes of a test row.

    Raises:
        InputError: not a hierarchy of codes, no such level, no such row.
    """
    import torch

    from likeli import checkpoint
    from likeli.contract import evaluating
    from likeli.latent.chain import LatentVariableModel

    fixable = "fixed" in signature(model.draw).parameters and isinstance(model, LatentVariableModel)
    require(fixable, "keep", "a run of a model with latent levels, such as hvae", model.kind())
    assert isinstance(model, LatentVariableModel)
    levels = whole_numbers(args.keep, "keep")
    require(all(1 <= i <= model.depth for i in levels), "keep", f"levels from 1 to {model.depth}", args.keep)
    x, y = stored_data(checkpoint.read(args.run_folder).info).split("test")
    require(0 <= args.row < len(x), "row", f"a test row from 0 to {len(x) - 1}", args.row)
    row = slice(args.row, args.row + 1)
    with evaluating(model), torch.no_grad():
        codes = model.codes(x[row].to(model.device), None if y is None else y[row])
    return {"fixed": {i: codes[i] for i in levels}}


def _picture(path: Path, x: Tensor, space: Space) -> None:
    from likeli.show.pictures import picture

    picture(x, space).save(path, format="PNG", optimize=True)


def _array(path: Path, x: Tensor, space: Space) -> None:
    from likeli.data import write_npy

    write_npy(path, x.cpu().numpy())


def _csv(path: Path, x: Tensor, space: Space) -> None:
    from likeli.data import columns_of, write_csv

    write_csv(path, columns_of(x, space))


def _text(path: Path, x: Tensor, space: Space) -> None:
    from likeli.data.readers.text import decode
    from likeli.spaces.base import Tokens

    if not isinstance(space, Tokens):
        raise InputError("out: expected a name that ends in .npy or .csv, since the data are not text, got .txt")
    path.write_text("".join(f"{line}\n" for line in decode(x, space)), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Tensor, Space], None]] = {".png": _picture, ".npy": _array, ".csv": _csv, ".txt": _text}


SHOWN = 64  # samples that an animation shows
FRAMES = 60  # at most, the last one not counted


def _add_steps(parser: argparse.ArgumentParser) -> None:
    """Declare the options of families that sample in steps."""
    steps = parser.add_argument_group("for diffusion models")
    steps.add_argument("--steps", type=int, metavar="N", help="evaluations of the network, or as many levels as the model has")
    steps.add_argument("--sampler", metavar="NAME", help="how to step: adams, ancestral, ddim, heun ... (see docs/sampling.md)")
    steps.add_argument("--grid", metavar="NAME", help="how the steps are spaced: time, log_snr, karras, optimal")
    steps.add_argument("--animate", metavar="FILE.webp", help="also write the way from noise to images as a moving picture")


def step_options(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The options as `--sample.NAME VALUE` would give them.

    Raises:
        InputError: no such sampler or grid, no steps, an animation that cannot be written.
    """
    from likeli.config import lookup
    from likeli.diffusion import Sampler
    from likeli.diffusion.times import Grid

    if args.steps is not None:
        require(args.steps >= 1, "steps", "a whole number of at least 1", args.steps)
    if args.sampler is not None:
        lookup(args.sampler, Sampler)  # type: ignore[type-abstract]
    if args.grid is not None:
        names = Grid.__args__  # type: ignore[attr-defined]
        require(args.grid in names, "grid", f"one of {', '.join(names)}", args.grid)
        require(args.steps is not None, "steps", f"a number of them with grid {args.grid}", "nothing")
    if args.animate is not None:
        require(Path(args.animate).suffix.lower() == ".webp", "animate", "a name that ends in .webp", args.animate)
        check_new(args.animate, overwrite=args.overwrite)
    return [(k, str(v)) for k in ("steps", "sampler", "grid") if (v := getattr(args, k)) is not None]


def check_animation(model: GenerativeModel) -> None:
    """Refuse what has no way from noise to images to show.

    Raises:
        InputError: another family, or data that are not images.
    """
    from likeli.contract import Stepwise
    from likeli.show.pictures import is_image

    if not isinstance(model, Stepwise):
        raise InputError(f"animate: expected a run of a diffusion model, since {model.kind()} samples in one go")
    shape = model.space.describe_shape()
    require(is_image(model.space), "animate", "a run on images", shape)


def sampled(
    model: GenerativeModel, n: int, y: Tensor | None, seed: int, options: Mapping[str, Any], *, animate: bool
) -> tuple[Tensor, list[Tensor]]:
    """`model.sample`, to the bit, with a bar on a terminal, and the states to animate.

    Arguments:
        model: any family.
        n, y, seed, options: as for `model.sample`.
        animate: keep states of the first samples, in the units of the data.
    """
    import torch
    from tqdm import tqdm

    from likeli.random import BLOCK

    bar = tqdm(total=n, unit="sample", disable=not sys.stderr.isatty(), leave=False)
    parts, frames = [], []
    with bar:
        for first in range(0, n, BLOCK):
            count = min(BLOCK, n - first)
            rows = y if y is None or len(y) == 1 else y[first : first + count]
            parts.append(model.sample(count, rows, seed=seed, first=first, **options))
            bar.update(count)
        if animate:
            frames = states(model, min(n, SHOWN), y, seed, options)
    return torch.cat(parts), frames


def states(model: Any, n: int, y: Tensor | None, seed: int, options: Mapping[str, Any]) -> list[Tensor]:
    """Up to 60 states of the first n samples' reverse process, each (n, *shape), scaled to the spread of the data."""
    import torch

    from likeli.contract import evaluating
    from likeli.random import BLOCK, Streams

    kept = []
    with evaluating(model), torch.no_grad():
        noise = Streams(seed, range(BLOCK), model.dtype, model.device)
        y = model.check_condition(y, n)
        y = None if y is None else y[torch.arange(BLOCK).clamp(max=n - 1)]
        for at, z in model.trajectory(noise, y, **{k: v for k, v in options.items() if k != "mean"}):
            kept.append(model.space.from_model(z[:n] / torch.hypot(at.alpha, at.sigma).to(z)).cpu())
    pick = torch.linspace(0, len(kept) - 1, min(len(kept), FRAMES)).round().long().unique()
    return [kept[i] for i in pick.tolist()]


def write_animation(path: str, frames: list[Tensor], last: Tensor, model: GenerativeModel, *, overwrite: bool) -> None:
    """The states and, held at the end, the samples themselves, as an animated WebP."""
    from likeli.show.pictures import animation

    with new_file(path, overwrite=overwrite) as partial:
        partial.write_bytes(animation([*frames, last[: len(frames[0])]], model.space))
