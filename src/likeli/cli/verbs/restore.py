"""draws of the whole picture from a part of it: fill holes, enlarge, colour, sharpen, by what a run says of such pictures

likeli restore runs/digits digit.png --mask mask.png --out filled  white in the mask is the hole; --invert-mask: white is known
likeli restore runs/digits small.png --task superres --factor 4 --out large
likeli restore runs/colour grey.png --task colourise --draws 4 --out coloured
likeli restore runs/digits digit.png --task deblur --width 1 --sigma 0.5 --draws 50 --out sharp
likeli restore runs/digits digit.png --task superres --simulate --out try  degrade the picture first, and see it restored

In the folder: every draw, mean.png, sd.png (white is the most uncertain), sheet.png with all beside each other, draws.npy in
the run's own units.  --sigma is the standard deviation of the reading's noise in these units, 0 for none.  It is said whether
the draws are exact, asymptotically exact or approximate, and with noise whether y fits (docs/restoration.md).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import open_run, parse_label
from likeli.cli.options import Parser
from likeli.cli.output import emit, log, new_file, warn
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.diffusion.restoration import Operator, PosteriorSampler
    from likeli.evaluation.restoration import Restoration
    from likeli.spaces import Space

TASKS = ("inpaint", "superres", "colourise", "deblur")


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    parser.add_argument("image", metavar="IMAGE", help="a picture, or a .npy array in the run's own units")
    parser.add_argument("--task", choices=TASKS, help="what was done to the picture [inpaint, with --mask]")
    parser.add_argument("--mask", metavar="FILE", help="black and white, or a .npy array of 0 and 1; white is the hole")
    parser.add_argument("--invert-mask", action="store_true", help="white is what is known")
    parser.add_argument("--factor", type=int, default=2, metavar="N", help="superres: cells that one stands for, a side [2]")
    parser.add_argument("--width", type=float, default=1.0, metavar="S", help="deblur: the blur's width in cells [1]")
    parser.add_argument("--sigma", type=float, default=0.0, metavar="S", help="of the noise, in the run's units [0]")
    parser.add_argument("--simulate", action="store_true", help="IMAGE is whole: make the reading from it")
    parser.add_argument("--draws", type=int, default=20, metavar="N", help="how many [20]")
    ways = "exact, mmps, pi_gdm, dps, repaint, replacement, twisted_smc, metropolis, gibbs, importance, any_order"
    parser.add_argument("--method", metavar="NAME", help=f"one of {ways} [the best that is known for the family]")
    parser.add_argument("--steps", type=int, metavar="N", help="of a diffusion's sampler [64]")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that exists")
    parser.add_argument("--label", metavar="Y", help="for a run with labels: what the picture is of")
    parser.share("--seed")


def run(args: argparse.Namespace) -> None:
    """Read, draw, write."""
    import torch

    from likeli.evaluation.restoration import restore

    task = check(args)
    saved = open_run(args)
    space = saved.model.space
    operator, hole = operator_of(args, task, space)
    whole = load_image(args.image, space, space.shape if args.simulate else operator.out, "image")
    y = whole
    if args.simulate:
        y = operator.A(whole)
        y = y + args.sigma * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(args.seed))
    how = method_of(args)
    if hole is not None:
        log(f"likeli: the hole is {hole:.1%} of the picture")
    label = parse_label(args.label, saved.model)
    found = restore(saved.model, y, operator, args.sigma, args.draws, condition=label, method=how, seed=args.seed)
    warn([found.note] if found.note else [])
    _write(found, y, whole if args.simulate else None, args)
    about = summary(found) | ({"hole": hole} if hole is not None else {}) | {"out": args.out}
    emit(args, about, "\n".join(f"{name.replace('_', ' '):<20} {_shown(value)}" for name, value in about.items()))


def check(args: argparse.Namespace) -> str:
    """The task, after everything has been refused that needs no run to see.

    Raises:
        InputError: what does not fit.
    """
    require(args.draws >= 1, "draws", "at least 1", args.draws)
    require(args.seed >= 0, "seed", "a whole number from 0", args.seed)
    require(math.isfinite(args.sigma) and args.sigma >= 0, "sigma", "a number of at least 0, in the run's units", args.sigma)
    task: str = args.task or "inpaint"
    fits = (args.mask is not None) == (task == "inpaint")
    require(fits, "mask", "--mask FILE to fill holes, and with no other task", f"--task {task}{'' if args.mask else ' alone'}")
    out = Path(args.out)
    require(out.parent.is_dir(), "out", "a folder in one that exists", args.out)
    require(not out.exists() or out.is_dir(), "out", "a folder", f"{args.out}, a file")
    fresh = not out.exists() or not any(out.iterdir())
    require(fresh or args.overwrite, "out", "a new folder, or --overwrite", f"{args.out}, which has files")
    return task


def operator_of(args: argparse.Namespace, task: str, space: Space) -> tuple[Operator, float | None]:
    """What was read, and the share of the hole.

    Raises:
        InputError: the run is not of pictures, or the task does not fit them.
    """
    from likeli.diffusion.restoration import Blur, Grey, Mask, Pool
    from likeli.show.pictures import is_image

    require(is_image(space), "run", "one of pictures", f"one of {space.kind()} {space.shape}")
    if task == "superres":
        return Pool(space.shape, args.factor), None
    if task == "colourise":
        return Grey(space.shape), None
    if task == "deblur":
        return Blur(space.shape, args.width), None
    hole = load_mask(args.mask, space.shape[-2:])
    seen = hole if args.invert_mask else ~hole
    mask = Mask(seen.expand(space.shape), space.shape)
    return mask, mask.hole


def load_mask(path: str, size: tuple[int, ...]) -> Tensor:
    """Where a mask is white, (H, W) bool."""
    x = _array(path, "mask")
    require(tuple(x.shape[-2:]) == tuple(size), "mask", f"{size[1]} x {size[0]} pixels as the pictures", f"{_size(x)}")
    grey = x.float().mean(0) if x.ndim == 3 else x.float()
    most = 255.0 if Path(path).suffix.lower() != ".npy" else max(float(x.max()), 1.0)
    grey = grey / most
    require(bool(((grey < 0.1) | (grey > 0.9)).all()), "mask", "black and white only", f"grey levels between, in {path}")
    return grey > 0.5


def load_image(path: str, space: Space, shape: tuple[int, ...], what: str) -> Tensor:
    """One picture as (1, *shape) float64 in the run's units.

    Raises:
        InputError: another size or channel count, transparency, or values outside the run's range.
    """
    x = _array(path, what)
    if len(shape) == 2 and x.ndim == 3 and bool((x[:1] == x[1:]).all()):
        x = x[0]
    kind = {2: "grey", 3: "colour"}
    fits = x.ndim == len(shape) and tuple(x.shape[-2:]) == tuple(shape[-2:])
    wanted = f"a {kind[len(shape)]} picture of {shape[-1]} x {shape[-2]} pixels"
    require(fits, what, wanted, f"a {kind.get(x.ndim, 'strange')} one of {_size(x)}")
    x = x.double()
    if Path(path).suffix.lower() != ".npy":
        if not space.symbols:
            raise InputError(f"{what}: expected a .npy array, since the run's cells are real numbers, got {path}")
        x = x * (space.symbols - 1) / 255
        exact = bool(((x - x.round()).abs() < 0.51 * (space.symbols - 1) / 255).all())  # but for a picture's 256 levels
        x = x.round() if exact or space.symbols == 2 else x
    return x[None]


def _array(path: str, what: str) -> Tensor:
    import torch

    from likeli.data.readers.images import read_pictures
    from likeli.data.readers.npy import read_npy

    require(Path(path).is_file(), what, "a file", path)
    if Path(path).suffix.lower() == ".npy":
        x = torch.tensor(read_npy(path))
        return x[0] if x.ndim > 2 and len(x) == 1 else x
    pictures, notes = read_pictures([Path(path)], what)
    clear = any("transparency" in note for note in notes)
    require(not clear, what, "a picture without transparency", f"{path}, which has some")
    return torch.as_tensor(pictures[0])


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]} x {x.shape[-2]}"


def method_of(args: argparse.Namespace) -> str | PosteriorSampler | None:
    """`--method`, with `--steps` if given."""
    from likeli.config import lookup
    from likeli.diffusion.restoration import PosteriorSampler

    if args.steps is None:
        return str(args.method) if args.method else None
    require(args.method is not None, "steps", "--method NAME of a diffusion beside it", "none")
    return lookup(args.method, PosteriorSampler)(steps=args.steps)  # type: ignore[type-abstract]


def summary(found: Restoration) -> dict[str, Any]:
    """What to say of the draws."""
    about: dict[str, Any] = {"method": found.method, "answer": found.answer, "draws": len(found.draws)}
    about |= {f"{name} a draw": round(value, 2) for name, value in found.cost.items()}
    if found.sigma > 0:
        fit = found.misfit()
        about |= {"misfit": round(fit.value, 4), "expected": [round(fit.low, 3), round(fit.high, 3)], "fits": fit.fits}
    else:
        about["largest_gap_to_reading"] = found.residual()
    return about | {"note": found.note}


def _shown(value: Any) -> str:
    """A value of `summary` as text."""
    if isinstance(value, list):
        return " to ".join(f"{v:g}" for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write(found: Restoration, y: Tensor, whole: Tensor | None, args: argparse.Namespace) -> None:
    """Every picture, once all are made."""
    import numpy as np
    import torch

    from likeli.show.pictures import grid, png

    space, draws = found.space, found.draws[:, 0]
    limit = space.symbols - 1.0 if space.symbols else float("inf")
    named = {f"draw-{i:03d}": x for i, x in enumerate(draws)} | {"mean": found.mean[0]}
    if len(draws) > 1:
        std = found.std[0]
        named["sd"] = std / std.max().clamp(min=1e-12) * (limit if math.isfinite(limit) else 1.0)
    one = {name: grid(x[None], space, columns=1, zoom=1, gap=0) for name, x in named.items()}
    before = ([] if whole is None else [whole[0]]) + ([y[0]] if tuple(y.shape[1:]) == space.shape else [])
    one["sheet"] = grid(torch.stack([v.double() for v in (*before, *named.values())]), space)
    folder = Path(args.out)
    folder.mkdir(exist_ok=True)
    for name, image in one.items():
        with new_file(str(folder / f"{name}.png"), overwrite=args.overwrite) as path:
            path.write_bytes(png(image))
    with new_file(str(folder / "draws.npy"), overwrite=args.overwrite) as path, path.open("wb") as file:
        np.save(file, draws.numpy(), allow_pickle=False)
