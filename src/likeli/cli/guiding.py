"""Options of a guided sample: how far, where, and away from what."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import parse_condition, stored_data
from likeli.cli.options import Parser
from likeli.errors import InputError, require

if TYPE_CHECKING:

    from likeli.checkpoint import Checkpoint


def add_guidance_arguments(parser: Parser) -> None:
    """Declare them."""
    group = parser.add_argument_group(
        "for conditional diffusion models",
        "guidance: x' = x0 + G (xy - x0), with xy the denoiser's belief given y and x0 its belief without y.  G = 0 is the "
        "unconditional model, G = 1 the plain conditional one; any other G samples no posterior, and the result says so.",
    )
    group.add_argument("--guidance", type=float, metavar="G", help="how far a sample is pushed towards its condition [1]")
    group.add_argument("--against", metavar="RUN", help="x0 of a weaker run given the same y, in place of no y")
    group.add_argument("--classifier", action="store_true", help="xy from the gradient of a classifier of noised training rows")
    group.add_argument("--interval", type=tuple[float, float], metavar="A,B", help="guide where sigma/alpha is from A to B")
    group.add_argument("--rescale", type=float, default=0.0, metavar="P", help="bring the spread back to xy's, 0 to 1 [0]")
    group.add_argument("--parallel", type=float, default=1.0, metavar="P", help="share of the push along xy that is kept [1]")
    group.add_argument("--radius", type=float, metavar="R", help="largest length of xy - x0, in model units")


def guidance_option(args: argparse.Namespace, saved: Checkpoint) -> dict[str, Any]:
    """`guidance` as a sampler takes it; nothing where none is asked for.

    Raises:
        InputError: options without --guidance, a family that is not guided, a weaker run of other data.
    """
    from inspect import signature

    from likeli.checkpoint import read
    from likeli.diffusion.guidance import Guidance, Guided, check_null

    model, asked = saved.model, {"interval": args.interval, "radius": args.radius}
    variants = asked | {"rescale": args.rescale, "parallel": args.parallel}
    if args.guidance is None:
        usual = {"interval": None, "radius": None, "rescale": 0.0, "parallel": 1.0}
        alone = [name for name, value in variants.items() if value != usual[name]]
        alone += [name for name, given in (("against", args.against), ("classifier", args.classifier)) if given]
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
    elif args.classifier:
        guidance = Guidance(args.guidance, classifier=_classifier(args, saved), **variants)
    elif args.guidance != 1:
        check_null(model)
    return {"guidance": guidance}


def _classifier(args: argparse.Namespace, saved: Checkpoint) -> Any:
    """A classifier of noised rows of the run's own training split; of an unconditional run with its label bound."""
    from likeli.diffusion.gaussian import GaussianDiffusion
    from likeli.diffusion.noisy_classifier import fit_noisy_classifier

    model, data = saved.model, stored_data(saved.info)
    if not isinstance(model, GaussianDiffusion):
        raise InputError(f"classifier: expected a run of a Gaussian diffusion model, got one of {model.kind()}")
    known = model.condition or data.condition
    require(known is not None and data.y is not None, "classifier", "a run whose data have labels", data.name)
    assert known is not None
    x, y = data.split("train")
    found = fit_noisy_classifier(model, x, y, known, seed=args.seed)
    if model.condition is not None:
        return found
    one = parse_condition(args.label, known)
    require(one is not None, "label", f"--label with {known.describe_shape()}", "nothing")
    return lambda z, at, y: found(z, at, one)
