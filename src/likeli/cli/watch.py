"""Sampling step by step: a bar on the terminal, and the reverse process as a moving picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.output import check_new, new_file
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.core import GenerativeModel

SHOWN = 64  # samples that an animation shows
FRAMES = 60  # at most, the last one not counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    from likeli.pictures import is_image

    if not hasattr(model, "trajectory"):
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

    from likeli.core import evaluating
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
    from likeli.pictures import animation

    with new_file(path, overwrite=overwrite) as partial:
        partial.write_bytes(animation([*frames, last[: len(frames[0])]], model.space))
