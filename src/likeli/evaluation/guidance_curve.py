"""What guidance buys and what it costs: fidelity to the condition against variety, over γ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from likeli.contract import GenerativeModel
from likeli.diffusion.guidance import Guidance, as_guidance
from likeli.errors import require
from likeli.evaluation.sample_metrics import covered

FEWEST = 20  # rows of each set


@dataclass(frozen=True)
class GuidedSamples:
    """Samples at one γ, asked for the labels of held-out rows.

    Arguments:
        scale: γ; None for the held-out rows themselves.
        asked: share of the rows that the judge puts into the class that was asked for.
        asked_stderr: of that share.
        fidelity: mean p(y|x) by the judge.
        precision, recall: share of samples near held-out rows, and of held-out rows near samples; NaN for the rows themselves.
        entropy: of the judge's classes over all samples, nats: which classes come at all.
        samples: (n, *shape).
    """

    scale: float | None
    asked: float
    asked_stderr: float
    fidelity: float
    precision: float
    recall: float
    entropy: float
    samples: Tensor

    def row(self) -> dict[str, Any]:
        """All but the samples."""
        return {k: v for k, v in vars(self).items() if k != "samples"}


def guidance_curve(
    model: GenerativeModel,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    scales: Sequence[float] = (0.0, 1.0, 2.0, 4.0),
    *,
    guidance: Guidance | None = None,
    seed: int = 0,
    **options: Any,
) -> list[GuidedSamples]:
    """One entry for the held-out rows, then one for each γ, all of one noise.

    The judge is a perceptron that sees clean training rows and no sample; what it says of held-out rows is the ceiling.

    Arguments:
        model: conditional on one of finitely many classes.
        train, held_out: (x, y) each; samples are asked for held_out's labels.
        scales: γ, rising.
        guidance: what else guidance does.
        seed: of judge and samples.
        options: what `sample` takes: steps, sampler, …

    Raises:
        InputError: no classes, fewer than 20 rows, a γ that is not finite.

    Source: Ho & Salimans (2022), arXiv:2207.12598, figure 4; Kynkäänniemi et al. (2019), arXiv:1904.06991, for precision.
    """
    known = model.condition
    classes = known is not None and known.symbols > 0 and not known.shape
    require(classes, "model", "one that is conditional on classes", model.kind())
    require(len(scales) > 0, "scales", "one or more numbers γ", "none")
    ways = [replace(guidance or Guidance(), scale=as_guidance(g).scale) for g in scales]
    for name, (x, _) in (("train", train), ("held_out", held_out)):
        require(len(x) >= FEWEST, name, f"at least {FEWEST} rows", len(x))
    x, y = held_out
    judge = MLPClassifier((128,), early_stopping=True, random_state=seed).fit(_flat(model, train[0]), train[1].numpy())
    found = [_judged(model, judge, None, x, y, x)]
    for how in ways:
        drawn = model.sample(len(y), y, seed=seed, guidance=how, **options)
        found.append(_judged(model, judge, how.scale, drawn, y, x))
    return found


def _judged(model: GenerativeModel, judge: Any, scale: float | None, drawn: Tensor, y: Tensor, x: Tensor) -> GuidedSamples:
    p = np.zeros((len(drawn), model.condition.symbols if model.condition else 0))
    p[:, judge.classes_] = judge.predict_proba(_flat(model, drawn))
    asked = (p.argmax(1) == y.numpy()).mean()
    share = p.mean(0)
    both = (math.nan, math.nan)
    if scale is not None:
        a, b = _flat(model, drawn), _flat(model, x)
        both = covered(a, b), covered(b, a)
    return GuidedSamples(
        scale, float(asked), math.sqrt(asked * (1 - asked) / len(y)), float(p[np.arange(len(y)), y.numpy()].mean()), *both,
        float(-(share * np.log(np.maximum(share, 1e-300))).sum()), drawn,
    )  # fmt: skip


def _flat(model: GenerativeModel, x: Tensor) -> np.ndarray:
    return model.space.to_model(model.space.check(x), torch.float64).flatten(1).numpy()
