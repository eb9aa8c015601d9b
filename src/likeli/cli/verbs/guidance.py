"""what guidance buys and costs: samples as asked against variety, over its scale

likeli guidance runs/guided --steps 20                          a line for each scale, and the held-out rows as the ceiling
likeli guidance runs/guided --scales 1,2,3 --out curve.png      and the samples of each scale, and the curve, as a picture

`asked` is the share of samples that a classifier of clean rows puts into the class asked for, `precision` the share of samples
near held-out rows, `recall` that of held-out rows near samples.  G = 0 is the unconditional model, G = 1 the plain conditional
one; samples of any other G are of no posterior.
"""

from __future__ import annotations

import argparse
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import call_options, open_run, parse_condition, stored_data
from likeli.cli.options import Parser
from likeli.cli.output import aligned, check_new, emit, log, new_file, with_error
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from likeli.checkpoint import Checkpoint
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


def add_guidance_arguments(parser: Parser) -> None:
    """Declare them."""
    group = parser.add_argument_group(
        "for conditional diffusion models",
        "guidance: x' = x0 + G (xy - x0), with xy the denoiser's belief given y and x0 its belief without y.  G = 0 is the "
        "unconditional model, G = 1 the plain conditional one; any other G samples no posterior, and the result says so.",
    )
    group.add_argument("--guidance", type=float, metavar="G", help="how far a sample is pushed towards its condition [1]")
    group.add_argument("--against", metavar="RUN", help="x0 of a weaker run given the same y, in place of no y")
    kept = "xy from the gradient of a classifier of noised training rows; FOLDER keeps it, or has it from an earlier call"
    group.add_argument("--classifier", nargs="?", const="", metavar="FOLDER", help=kept)
    group.add_argument("--interval", type=tuple[float, float], metavar="A,B", help="guide where sigma/alpha is from A to B")
    group.add_argument("--rescale", type=float, default=0.0, metavar="P", help="bring the spread back to xy's, 0 to 1 [0]")
    group.add_argument("--parallel", type=float, default=1.0, metavar="P", help="share of the push along xy that is kept [1]")
    group.add_argument("--radius", type=float, metavar="R", help="largest length of xy - x0, in model units")


def guidance_option(args: argparse.Namespace, saved: Checkpoint) -> dict[str, Any]:
    """`guidance` as a sampler takes it; nothing where none is asked for.

    Raises:
        InputError: options without --guidance, a family that is not guided, a weaker run of other data.
    """
    from likeli.checkpoint import read
    from likeli.diffusion.guidance import Guidance, Guided, check_null

    model, asked = saved.model, {"interval": args.interval, "radius": args.radius}
    variants = asked | {"rescale": args.rescale, "parallel": args.parallel}
    if args.guidance is None:
        usual = {"interval": None, "radius": None, "rescale": 0.0, "parallel": 1.0}
        alone = [name for name, value in variants.items() if value != usual[name]]
        alone += [name for name, given in (("against", args.against), ("classifier", args.classifier)) if given is not None]
        require(not alone, alone[0] if alone else "", "--guidance G beside it", "nothing")
        return {}
    if "guidance" not in signature(model.draw).parameters:
        raise InputError(f"guidance: expected a run of a diffusion model, got one of {model.kind()}")
    guidance = Guidance(args.guidance, **variants)
    if args.against is not None:
        weaker = read(args.against).model
        fits = isinstance(weaker, Guided) and weaker.space.shape == model.space.shape
        require(fits, "against", f"a Gaussian diffusion of {model.space.describe_shape()}", weaker.kind())
        assert isinstance(weaker, Guided)
        guidance = Guidance(args.guidance, weaker=weaker, **variants)
    elif args.classifier is not None:
        guidance = Guidance(args.guidance, classifier=_classifier(args, saved), **variants)
    elif args.guidance != 1:
        check_null(model)
    return {"guidance": guidance}


def _classifier(args: argparse.Namespace, saved: Checkpoint) -> Any:
    """The folder's classifier, or one of the run's noised training rows; with the label bound for an unconditional run."""
    from likeli.diffusion.gaussian import GaussianDiffusion
    from likeli.diffusion.noisy_classifier import fit_noisy_classifier, load_classifier, save_classifier

    model = saved.model
    if not isinstance(model, GaussianDiffusion):
        raise InputError(f"classifier: expected a run of a Gaussian diffusion model, got one of {model.kind()}")
    if args.classifier and Path(args.classifier).exists():
        found = load_classifier(args.classifier, model)
    else:
        data = stored_data(saved.info)
        known = model.condition or data.condition
        require(known is not None and data.y is not None, "classifier", "a run whose data have labels", data.name)
        x, y = data.split("train")
        assert y is not None
        found = fit_noisy_classifier(model, x, y, known, seed=args.seed)
        if args.classifier:
            save_classifier(found, args.classifier)
            log(f"likeli: the classifier is kept in {args.classifier}")
    if model.condition is not None:
        return found
    one = parse_condition(args.label, found.condition)
    require(one is not None, "label", f"--label with {found.condition.describe_shape()}", "nothing")
    return lambda z, at, y: found(z, at, one)
