"""Guidance: a belief about z given y, pushed away from a belief that knows less of y.

    x̂ = x̂₀ + γ (x̂₁ − x̂₀),   ∇log p̃(z) = ∇log p₀(z) + γ (∇log p₁(z) − ∇log p₀(z))

x̂₁ is conditional.  x̂₀ is, in classifier-free guidance, the same network without y; in autoguidance a weaker model; in
classifier guidance x̂₀ is the network without y and ∇log p₁ = ∇log p₀ + ∇log p(y|z).  γ = 0 is x̂₀ and γ = 1 is x̂₁, to the
bit.  With any other γ the steps follow p₀ (p₁/p₀)^γ level by level, which is no noised version of any one distribution: a
sample is then not a draw of p(x|y).

Everything here makes a `Denoise` of others, so that no sampler learns of y.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from likeli.contract import GenerativeModel
from likeli.diffusion.denoiser import Conditional, Denoise, Prediction
from likeli.diffusion.schedule import Point
from likeli.errors import InputError, Unsupported, require
from likeli.nn.embedding import null_of

NoisyLikelihood = Callable[[Tensor, Point, Tensor | None], Tensor]  # z (B, ...), point, y → log p(y|z_t) (B,), differentiable
Pair = Callable[[Tensor, Point], tuple[Prediction, Prediction]]  # z, point → the reference x̂₀ and the conditional x̂₁


class Guide(Protocol):
    """Whatever has a denoiser for each y: an earlier checkpoint, a smaller run."""

    def denoise(self, y: Tensor | None = None) -> Denoise: ...


@dataclass(frozen=True, repr=False)
class Guidance:
    """How far, where and away from what a sampler's belief is pushed.

    Arguments:
        scale: γ; 0 leaves y out, 1 is the plain conditional model, more asks for surer examples of y and fewer kinds of them.
        interval: least and largest noise σ/α at which it acts; the plain conditional model elsewhere.
        rescale: φ from 0 to 1, how far x̂'s standard deviation within a row is brought back to that of x̂₁.
        parallel: η, the share that is kept of the push along x̂₁; 0 keeps what is orthogonal alone, 1 all of it.
        radius: largest ‖x̂₁ − x̂₀‖ of a row, in model units; longer ones are shortened to it.
        weaker: a model whose belief is x̂₀, given the same y (autoguidance); the network without y if not given.
        classifier: log p(y|z_t), differentiated by autograd for x̂₁; the network with y if not given.

    Raises:
        InputError: a number that is not finite or out of its range, or both a weaker model and a classifier.

    Source: Ho & Salimans (2022), arXiv:2207.12598 (there w = γ − 1); Dhariwal & Nichol (2021), arXiv:2105.05233, for the
        classifier; Kynkäänniemi et al. (2024), arXiv:2404.07724, for the interval; Lin et al. (2023), arXiv:2305.08891, for φ;
        Sadat et al. (2024), arXiv:2410.02416, for η and the radius, here without its momentum, since a denoiser keeps nothing
        between calls; Karras et al. (2024), arXiv:2406.02507, for the weaker model.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    parallel: float = 1.0
    radius: float | None = None
    weaker: Guide | None = None
    classifier: NoisyLikelihood | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.scale, (int, float)) and not isinstance(self.scale, bool) and math.isfinite(self.scale)
        require(number, "guidance", "a finite number γ", self.scale)
        ends = self.interval is None or (len(self.interval) == 2 and 0 <= self.interval[0] < self.interval[1])
        require(ends, "interval", "the least and the largest σ/α, rising, from 0", self.interval)
        for name, value in (("rescale", self.rescale), ("parallel", self.parallel)):
            require(0 <= value <= 1, name, "a number from 0 to 1", value)
        require(self.radius is None or 0 < self.radius < math.inf, "radius", "a positive number", self.radius)
        require(self.weaker is None or self.classifier is None, "weaker", "nothing beside a classifier", "both")

    def __repr__(self) -> str:
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        of = ("weaker", "classifier")
        return f"Guidance({', '.join(f'{k}={type(v).__name__ if k in of else v}' for k, v in said.items())})"

    def acts(self, at: Point) -> Tensor:
        """Whether σ/α is within the interval, one truth a place."""
        cells = tuple(range(at.t.ndim, at.gamma.ndim))
        noise = ((at.gamma.mean(cells) if cells else at.gamma) / 2).exp()
        low, high = self.interval or (0.0, math.inf)
        return (noise >= low) & (noise <= high)

    def said(self) -> str:
        """What the samples are not, in words; nothing for γ = 0 and 1."""
        if self.scale in (0, 1):
            return ""
        power = f"p(z)^{1 - self.scale:g} p(z|y)^{self.scale:g}"
        return f"not a posterior: guidance {self.scale:g} follows {power} at each noise level"


def as_guidance(guidance: Guidance | float | None) -> Guidance:
    """γ alone as a `Guidance`; none as γ = 1.

    Raises:
        InputError: neither a number nor a `Guidance`.
    """
    return guidance if isinstance(guidance, Guidance) else Guidance(1.0 if guidance is None else guidance)


def left_of(y: Tensor | None, guidance: Guidance | float | None) -> Tensor | None:
    """What a step without guidance may know of y: nothing at γ = 0, where no weaker model is named."""
    how = as_guidance(guidance)
    return null_of(y) if y is not None and how.scale == 0 and how.weaker is None else y


class Guided(GenerativeModel):
    """A model of a denoiser that can be guided."""

    denoiser: Conditional

    @abstractmethod
    def denoise(self, y: Tensor | None = None) -> Denoise:
        """The denoiser with y bound, in the model's own precision."""

    @property
    def takes_null(self) -> bool:
        """Whether y may be missing, whole or in part, since training hid it at times."""
        return self.denoiser.takes_null

    def qualification(self, **options: object) -> str:
        """Says so of guidance by γ other than 0 and 1."""
        guidance = options.get("guidance")
        return as_guidance(guidance).said() if isinstance(guidance, (Guidance, float, int)) else ""

    def guided(self, y: Tensor | None, guidance: Guidance | float | None) -> Denoise:
        """The denoiser given y and pushed; γ = 0 and γ = 1 are the plain ones.

        Raises:
            InputError: nothing to guide by, or a network that was never trained without y.
        """
        how, null = as_guidance(guidance), None if y is None else null_of(y)
        if how.weaker is not None:
            if how.scale in (0, 1):
                return (self if how.scale else how.weaker).denoise(y)
            return against(self.denoise(y), how.weaker.denoise(y), how)
        if how.scale == 1 and how.classifier is None:
            return self.denoise(y)
        check_null(self, how.classifier is not None)
        if how.classifier is not None:
            return classifier_guided(self.denoise(null), how.classifier, y, how)
        if how.scale == 0:
            return self.denoise(null)
        assert y is not None
        assert null is not None
        return pushed(self.denoise(y), side_by_side(self.denoise, null, y), how)


def check_null(model: GenerativeModel, by_classifier: bool = False) -> None:
    """Refuse to guide a model by its own belief without y, which it never learned.

    Raises:
        InputError: the model takes no y, or always saw y in training.
    """
    if model.condition is None:
        require(by_classifier, "guidance", "a conditional run, or a classifier", f"an unconditional {model.kind()}")
    elif not model.takes_null:
        said = "1, as this model never saw a row without its condition; fit it with backbone.condition_dropout=0.1"
        raise InputError(f"guidance: expected {said}")


def side_by_side(denoise: Callable[[Tensor], Denoise], weak: Tensor, strong: Tensor) -> Pair:
    """Both beliefs of one network in one evaluation of a batch twice as long.

    Arguments:
        denoise: y → the denoiser that knows it.
        weak, strong: (B, ...) the conditions of the reference and of the conditional belief.
    """
    both = denoise(torch.cat([weak, strong]))

    def pair(z: Tensor, at: Point) -> tuple[Prediction, Prediction]:
        twice = Point(*(torch.cat([v, v]) for v in at)) if at.t.ndim else at
        p, place = both(torch.cat([z, z]), twice), at.like(z)
        (x_0, x_1), (eps_0, eps_1) = p.x.chunk(2), p.eps.chunk(2)
        return Prediction(z, place.alpha, place.sigma, x_0, eps_0), Prediction(z, place.alpha, place.sigma, x_1, eps_1)

    return pair


def pushed(conditional: Denoise, pair: Pair, guidance: Guidance) -> Denoise:
    """The combination of a pair where guidance acts, and the conditional denoiser elsewhere, in one evaluation each."""

    def function(z: Tensor, at: Point) -> Prediction:
        acts = guidance.acts(at).to(z.device)
        if not acts.any():
            return conditional(z, at)
        weak, strong = pair(z, at)
        p = combined(weak, strong, guidance)
        if acts.all():
            return p
        here = acts.reshape(-1, *[1] * (z.ndim - 1))
        return replace(p, x=torch.where(here, p.x, strong.x), eps=torch.where(here, p.eps, strong.eps))

    return replace(conditional, function=function, errs_at_small_noise=False)


def against(conditional: Denoise, reference: Denoise, guidance: Guidance) -> Denoise:
    """Guidance of one denoiser away from any other: two evaluations."""
    return pushed(conditional, lambda z, at: (reference(z, at), conditional(z, at)), guidance)


def with_likelihood(denoise: Denoise, classifier: NoisyLikelihood, y: Tensor | None = None) -> Denoise:
    """Bayes' rule on scores: ∇log p(z|y) = ∇log p(z) + ∇log p(y|z), so ε̂ − σ∇ and x̂ + σ²/α ∇.

    Arguments:
        denoise: of p(z).
        classifier: log p(y|z_t), differentiable in z.
        y: handed to it.
    """

    def function(z: Tensor, at: Point) -> Prediction:
        p = denoise(z, at)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (rise,) = torch.autograd.grad(classifier(z, at, y).sum(), z)
        return replace(p, x=p.x + p.sigma.square() / p.alpha * rise, eps=p.eps - p.sigma * rise)

    return replace(denoise, function=function, errs_at_small_noise=False)


def classifier_guided(
    denoise: Denoise, classifier: NoisyLikelihood, y: Tensor | None = None, guidance: Guidance | float = 1.0
) -> Denoise:
    """∇log p(z) + γ ∇log p(y|z), and whatever else the guidance asks for; `denoise` itself at γ = 0."""
    how = as_guidance(guidance)
    strong = with_likelihood(denoise, classifier, y)
    return denoise if how.scale == 0 else strong if how.scale == 1 else against(strong, denoise, how)


def combined(weak: Prediction, strong: Prediction, guidance: Guidance) -> Prediction:
    """x̂₁ + (γ − 1) Δ with Δ = x̂₁ − x̂₀ shortened and turned as asked, then rescaled; ε̂ to fit.

    ε̂ is combined like x̂ and not made from it, which would lose its digits where σ/α is small.
    """
    push, ratio = guidance.scale - 1, strong.alpha / strong.sigma
    delta, d_eps, extra = strong.x - weak.x, strong.eps - weak.eps, torch.zeros_like(strong.x)
    if guidance.radius is not None:
        shorter = (guidance.radius / _norm(delta).clamp(min=1e-30)).clamp(max=1)
        delta, d_eps = shorter * delta, shorter * d_eps
    if guidance.parallel < 1:
        unit = strong.x / _norm(strong.x).clamp(min=1e-30)
        along = (delta * unit).flatten(1).sum(1).reshape(-1, *[1] * (unit.ndim - 1))
        extra = -(1 - guidance.parallel) * along * unit
    x, eps = strong.x + push * (delta + extra), strong.eps + push * (d_eps - ratio * extra)
    if guidance.rescale:
        factor = 1 + guidance.rescale * (_spread(strong.x) / _spread(x).clamp(min=1e-30) - 1)
        x, eps = factor * x, eps + ratio * (1 - factor) * x
    return replace(strong, x=x, eps=eps)


def sharpened(
    law: Callable[[Tensor, Tensor], Callable[[Tensor, Tensor], Tensor]], y: Tensor | None, over: Tensor, guidance: Guidance
) -> Callable[[Tensor, Tensor], Tensor]:
    """(1 − γ) log g(·|z) + γ log g(·|z, y) of every cell, made a law again: guidance of a diffusion of symbols.

    Arguments:
        law: (y, over) → (z (B, D), α) → log g (B, D, states).
        y: the condition.
        over: (B, D) cells behind a row's end.
        guidance: of which γ alone acts on symbols.

    Raises:
        Unsupported: options that act on reals.

    Source: Schiff et al. (2024), arXiv:2412.10193, there for p(z_s|z_t), here for the network's law of the clean cell.
    """
    if guidance != Guidance(guidance.scale):
        raise Unsupported("guidance of symbols has its scale γ alone; interval, rescale and the like act on reals")
    assert y is not None
    null = null_of(y)
    if guidance.scale == 0:
        return law(null, over)
    both = law(torch.cat([null, y]), torch.cat([over, over]))

    def guess(z: Tensor, alpha: Tensor) -> Tensor:
        weak, strong = both(torch.cat([z, z]), torch.cat([alpha, alpha])).chunk(2)
        return torch.lerp(weak, strong, guidance.scale).log_softmax(-1)

    return guess


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))


def _spread(x: Tensor) -> Tensor:
    return x.flatten(1).std(1, unbiased=False).reshape(-1, *[1] * (x.ndim - 1))
