"""what guidance buys and costs: samples as asked against variety, over its scale

likeli guidance runs/guided --steps 20                          a line for each scale, and the held-out rows as the ceiling
likeli guidance runs/guided --scales 1,2,3 --out curve.png      and the samples of each scale, and the curve, as a picture

`asked` is the share of samples that a classifier of clean rows puts into the class asked for, `precision` the share of samples
near held-out rows, `recall` that of held-out rows near samples.  G = 0 is the unconditional model, G = 1 the plain conditional
one; samples of any other G are of no posterior.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from likeli.cli.objects import call_options, open_run, stored_data
from likeli.cli.options import Parser
from likeli.cli.output import aligned, check_new, emit, new_file, with_error
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from likeli.contract import GenerativeModel
    from likeli.evaluation.guidance_curve import GuidedSamples
    from likeli.spaces import Space


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    parser.add_argument("--scales", type=list[float], metavar="G,G", default=[0.0, 1.0, 2.0, 4.0], help="scales [0,1,2,4]")
    parser.add_argument("-n", type=int, default=360, help="samples of each scale, asked for held-out rows' labels [360]")
    parser.add_argument("--steps", type=int, metavar="N", help="evaluations of the network for a sample")
    parser.add_argument("--out", metavar="FILE.png", help="write samples of each scale and the curve as a picture")
    parser.share("--overwrite", "--seed")
    parser.epilog = "What a family's sampler takes is given as --sample.NAME VALUE."


def run(args: argparse.Namespace) -> None:
    """Sample, judge, print."""
    from inspect import signature

    from likeli.diffusion.guidance import as_guidance, check_null
    from likeli.evaluation.guidance_curve import guidance_curve

    require(args.n >= 20, "n", "at least 20", args.n)
    check_new(args.out, overwrite=args.overwrite, suffixes=[".png"])
    saved = open_run(args)
    model = saved.model
    if "guidance" not in signature(model.draw).parameters:
        raise InputError(f"guidance: expected a run of a diffusion model, got one of {model.kind()}")
    if any(as_guidance(g).scale != 1 for g in args.scales):
        check_null(model)
    steps = [] if args.steps is None else [("steps", str(args.steps))]
    options = call_options(model.draw, [*steps, *args.dotted["sample"]], "sample")
    data = stored_data(saved.info)
    (x, y), train = data.split("test"), data.split("train")
    require(y is not None, "labels", "a run on data with labels", data.name)
    assert y is not None
    assert train[1] is not None
    (x, y), train = (_labelled(model, *part) for part in ((x, y), train))
    found = guidance_curve(
        model, train, (x[: args.n], y[: args.n]), args.scales, seed=args.seed, **options
    )
    if args.out:
        with new_file(args.out, overwrite=args.overwrite) as path:
            picture_of(found, model.space).save(path, format="PNG")
    emit(args, {"scales": [v.row() for v in found]}, _text(found))


def _labelled(model: GenerativeModel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that have a label."""
    from likeli.spaces.labels import unlabelled

    seen = slice(None) if model.condition is None else ~unlabelled(model.condition, y)
    return x[seen], y[seen]


def _text(found: list[GuidedSamples]) -> str:
    rows = [
        ["held-out" if v.scale is None else f"G = {v.scale:g}", with_error(v.asked, v.asked_stderr, 3), f"{v.fidelity:.3f}"]
        + (["", ""] if v.scale is None else [f"{v.precision:.3f}", f"{v.recall:.3f}"]) + [f"{v.entropy:.3f}"]
        for v in found
    ]  # fmt: skip
    below = f"{len(found[0].samples)} rows each; G = 1 is the plain conditional model, other G but 0 are not posteriors"
    return aligned(["", "asked", "p(y|x)", "precision", "recall", "entropy"], rows) + f"\n{below}"


def picture_of(found: list[GuidedSamples], space: Space) -> Image.Image:
    """The first samples at each scale, where they can be drawn, and asked and recall over the scale."""
    from likeli.show.pictures import curves, grid, is_image, strip

    guided = [v for v in found if v.scale is not None]
    scales = [v.scale or 0.0 for v in guided]
    series = {"asked": (scales, [v.asked for v in guided]), "recall": (scales, [v.recall for v in guided])}
    curve = curves(series, title="guidance", x="scale", y="share")
    if not is_image(space):
        return curve
    sheets = {"held-out" if v.scale is None else f"G = {v.scale:g}": grid(v.samples[:32], space, columns=8) for v in found}
    return strip({**sheets, "": curve}, columns=len(sheets) // 2 + 1)
