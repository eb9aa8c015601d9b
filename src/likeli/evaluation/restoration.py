"""Restoration: draws of x ~ p(x|y) for a linear reading y = A x + σ ξ, by every family that can, with what they are worth."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor

from likeli.config import registered
from likeli.contract import GenerativeModel, Knows, evaluating
from likeli.diffusion.denoiser import Denoise, Prediction
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.restoration import (
    MMPS,
    Mask,
    Operator,
    PosteriorSampler,
    Reading,
    TwistedSMC,
    affine,
    posterior_draws,
    take_reading,
)
from likeli.diffusion.restoration.twisted import WHOLE
from likeli.diffusion.schedule import Point
from likeli.errors import InputError, Unsupported, nearest, require
from likeli.evaluation.imputation import central_interval, impute, trained
from likeli.gaussian.linear_reading import draw_given_reading
from likeli.latent.chain import LatentVariableModel, draw_latents, given_latents, log_densities
from likeli.models.linear_gaussian import LinearGaussian
from likeli.probability.draw import draw
from likeli.random import Ambient, derive, seeded
from likeli.spaces import Cells, Emission, Space

CHAIN_STEPS = 200  # of a Markov chain over latents
BURN = 0.1  # of them, at the start: pseudo-Gibbs, which always moves
_SAMPLERS = tuple(registered(PosteriorSampler))  # type: ignore[type-abstract]
STUCK = 0.01  # share of proposals taken below which a chain is not believed
ALARM = 0.01  # chance that a misfit of the right σ is called wrong


class Misfit(NamedTuple):
    """‖y − A x‖²/(n σ²) over the draws, and where it lies with chance 99 % if the model and σ are right.

    Arguments:
        value: the mean over rows and draws.
        low, high: the expected range.
    """

    value: float
    low: float
    high: float

    @property
    def fits(self) -> bool:
        """Whether the value is in its range."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class Restoration:
    """Draws of x given y, and what they are.

    Arguments:
        draws: (n, B, *shape) in the user's units; real numbers, except for a mask of whole numbers, whose cells are such.
        y: (B, *out), what was read.
        operator, sigma: A and σ.
        method: by name.
        answer: `exact`, `asymptotically exact` or `approximate`.
        space: what a row is.
        moments: E[x|y] and its standard deviations (B, *shape), where they have a closed form.
        cost: evaluations of the network and products with its Jacobian, for each draw; of a chain, its steps.
        note: what to know of the draws besides; empty for nothing.
    """

    draws: Tensor
    y: Tensor
    operator: Operator
    sigma: float
    method: str
    answer: str
    space: Space
    moments: tuple[Tensor, Tensor] | None = None
    cost: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def mean(self) -> Tensor:
        """E[x|y], (B, *shape): in closed form where there is one, else the average of the draws."""
        return self.draws.double().mean(0) if self.moments is None else self.moments[0]

    @property
    def std(self) -> Tensor:
        """The standard deviation of each cell given y, (B, *shape)."""
        if self.moments is not None:
            return self.moments[1]
        require(len(self.draws) >= 2, "n", "at least 2 draws for a spread", len(self.draws))
        return self.draws.double().std(0)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Ends (B, *shape) that hold a cell with chance ≥ level, if the draws are of p(x|y): order statistics of them.

        Raises:
            InputError: fewer draws than 2/(1 − level) − 1.
        """
        return central_interval(self.draws, level)

    def coverage(self, truth: Any, level: float = 0.9) -> float:
        """The share of cells of the true x, hidden or read, that the intervals hold."""
        x = self.space.check(truth, what="truth").to(self.draws.device).double()
        low, high = self.interval(level)
        free = high > low  # a cell that is known has no interval
        return ((x >= low) & (x <= high))[free].double().mean().item()

    def misfit(self) -> Misfit:
        """‖y − A x‖²/(n σ²), whose expectation is 1 if y is of the model and σ is right: x and the true x then share one law.

        Its range is that of χ²/n, which the average over draws keeps within.  A σ given too large or too small moves it where
        the model says more of A x than y does; where it says less, every draw fits y as well as σ says.

        Raises:
            InputError: σ = 0, so that nothing but rounding is left.
        """
        require(self.sigma > 0, "sigma", "a reading with noise for a misfit; else see `residual`", self.sigma)
        seen = self.operator.seen().expand(self.y.shape)
        left = torch.stack([self._left(x) for x in self.draws.double()])
        count = int(seen.sum())
        value = left.square().sum().item() / (len(self.draws) * count * self.sigma**2)
        low, high = (stats.chi2.ppf(p, count) / count for p in (ALARM / 2, 1 - ALARM / 2))
        return Misfit(value, float(low), float(high))

    def residual(self) -> float:
        """The largest |y − A x| of any draw, in the reading's units."""
        return max(self._left(x).abs().max().item() for x in self.draws.double())

    def _left(self, x: Tensor) -> Tensor:
        gap = self.y - self.operator.A(x.cpu())
        return torch.where(self.operator.seen().expand(gap.shape), gap, 0)


def restore(
    model: GenerativeModel,
    y: Any,
    operator: Operator,
    sigma: float = 0.0,
    n: int = 20,
    *,
    condition: Any = None,
    method: str | PosteriorSampler | None = None,
    seed: int = 0,
) -> Restoration:
    """n draws of x ~ p(x|y) for y = A x + σ ξ, ξ ~ N(0, I).

    gmm, ppca and factor_analysis answer exactly; diffusions by a `PosteriorSampler` (twisted_smc up to 16 cells, else mmps);
    a mask without noise also autoregressive, independent and categorical_mixture, exactly, discrete_diffusion by its network's
    guesses one cell after the other, and vae and hvae by Metropolis within Gibbs (`metropolis`), `gibbs` or `importance`.

    Arguments:
        model: whose p(x).
        y: (B, *out), or one reading; for a `Mask` an image whose hidden cells are not looked at.
        operator: A, on examples of the model's space.
        sigma: σ in the user's units, 0 for a reading without noise.
        n: draws of each row.
        condition: (B, *condition.shape) for a conditional model, or one for all.
        method: by name or as an object; the best that is known for the family if not given.
        seed: of all draws.

    Raises:
        InputError: y, operator or sigma does not fit; an unknown method.
        Unsupported: a family, or a method, that has no answer to such a reading.
    """
    require(isinstance(n, int) and not isinstance(n, bool) and n >= 1, "n", "a whole number of at least 1", n)
    finite = isinstance(sigma, (int, float)) and math.isfinite(sigma) and sigma >= 0
    require(finite, "sigma", "a number of at least 0, in the data's units", sigma)
    fits = operator.shape == model.space.shape
    require(fits, "operator", f"one on examples of shape {model.space.shape}", f"{operator.shape}")
    y = operator.readings(y)
    given = model.check_condition(condition, len(y))
    name = method.kind() if isinstance(method, PosteriorSampler) else method or _default(model, operator, sigma)
    known = ("exact", "any_order", "importance", "gibbs", "metropolis", *_SAMPLERS)
    require(name in known, "method", f"one of {', '.join(known)}{nearest(name, known)}", name)
    _check_range(model.space, operator, y, sigma)
    begun = Restoration(y, y, operator, float(sigma), name, "exact", model.space)
    with evaluating(model), torch.no_grad():
        if name in ("any_order", "importance", "gibbs", "metropolis"):
            return _holes(model, begun, given, n, seed)
        if name == "exact":
            return _exact(model, begun, n, seed)
        how = method if isinstance(method, PosteriorSampler) else trained(name, model.space)
        return _by_denoiser(model, replace(begun, answer=how.answer), given, how, n, seed)


def _check_range(space: Space, operator: Operator, y: Tensor, sigma: float) -> None:
    """Refuse a reading that no example of symbols can have given, with room for its noise."""
    if not (space.symbols and operator.positive):
        return
    most = operator.A(torch.full((1, *space.shape), space.symbols - 1.0, dtype=torch.float64))
    room = 6 * sigma + 1e-6 * space.symbols
    wrong = ((y < -room) | (y > most + room)) & operator.seen()
    if bool(wrong.any()):
        raise InputError(f"y: expected numbers from 0 to {most.max():g}, the data's range, got {y[wrong][0]:g}")


def _default(model: GenerativeModel, operator: Operator, sigma: float) -> str:
    if isinstance(model, GaussianDiffusion):
        return TwistedSMC.kind() if model.space.dimensions <= WHOLE else MMPS.kind()
    curved = model.space.unit is None and model.space.blank is None  # whose cells have no linear reading but a mask
    if isinstance(model, LinearGaussian) and not (curved and _is_hole(operator, sigma)):
        return "exact"
    if "given" in signature(model.draw).parameters:
        return "any_order"
    return "metropolis" if isinstance(model, LatentVariableModel) else "importance"


def _is_hole(operator: Operator, sigma: float) -> bool:
    return isinstance(operator, Mask) and sigma == 0


def _by_denoiser(
    model: GenerativeModel, begun: Restoration, y: Tensor | None, how: PosteriorSampler, n: int, seed: int
) -> Restoration:
    """By a sampler that needs nothing but a denoiser."""
    if not isinstance(model, GaussianDiffusion):
        raise Unsupported(f"{how.kind()} needs a Gaussian diffusion, not {model.kind()}; leave method out for what it can do")
    how.refuse(begun.sigma)
    space, cost, rows = model.space, {"evaluations": 0.0, "jacobian_products": 0.0}, len(begun.y)
    unit, mean = affine(space)
    ends = None
    if space.symbols:
        low, high = ((v - mean) / unit for v in (0.0, space.symbols - 1.0))
        ends = low.min().item(), high.max().item()
    reading = take_reading(begun.operator, begun.y, begun.sigma, unit, mean, ends)

    def bind(which: Tensor) -> Denoise:
        return counting_calls(model.denoise(None if y is None else y[which]), cost, len(which) / (n * rows))

    like = torch.zeros(rows, *space.shape, dtype=model.dtype, device=model.device)
    x = posterior_draws(bind, reading, how, n, seed, like).cpu() * unit + mean
    if _is_hole(begun.operator, begun.sigma):
        whole = x.round().clamp(0, space.symbols - 1) if space.symbols else x
        x = torch.where(begun.operator.seen(), begun.y, whole)
    note = "draws of one reading share ancestors and are not independent" if how.shares else ""
    return replace(begun, draws=x, cost=cost, note=note)


def counting_calls(denoise: Denoise, cost: dict[str, float], each: float) -> Denoise:
    """The same, adding `each` to `cost` for every evaluation and every product with its Jacobian."""

    def product(gradient: Tensor) -> None:
        cost["jacobian_products"] += each

    def function(z: Tensor, at: Point) -> Prediction:
        p = denoise(z, at)
        cost["evaluations"] += each
        if p.x.requires_grad:
            p.x.register_hook(product)
        return p

    return replace(denoise, function=function)


def _exact(model: GenerativeModel, begun: Restoration, n: int, seed: int) -> Restoration:
    """A mixture of Gaussians in closed form."""
    if not isinstance(model, LinearGaussian):
        raise Unsupported(f"exact posteriors are those of gmm, ppca and factor_analysis, not of {model.kind()}")
    space, rows = model.space, (len(begun.y), *model.space.shape)
    unit, mean = affine(space)
    reading = take_reading(begun.operator, begun.y, begun.sigma, unit, mean)
    draws, centre, std = (v.unflatten(-1, space.shape) * unit for v in _by_pattern(model, reading, n, seed))
    draws, centre = draws + mean, centre + mean
    if _is_hole(begun.operator, begun.sigma):
        known = begun.operator.seen().expand(rows)
        whole = draws.round().clamp(0, space.symbols - 1) if space.symbols else draws
        draws, centre = torch.where(known, begun.y, whole), torch.where(known, begun.y, centre)
        std = std.masked_fill(known, 0)
    note = "" if space.measure == "density" else "of the density of grey levels as real numbers"
    return replace(begun, draws=draws, moments=(centre, std), note=note)


def _by_pattern(model: LinearGaussian, reading: Reading, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws (n, B, D), means and standard deviations (B, D) in model units, rows of one pattern of seen readings together."""
    operator, prior = reading.operator, tuple(v.double().cpu() for v in model.joint)
    cells = math.prod(operator.shape)
    eye = torch.eye(cells, dtype=torch.float64).reshape(-1, *operator.shape)
    patterns, which = operator.seen().flatten(1).expand(len(reading.y), -1).unique(dim=0, return_inverse=True)
    draws, (centre, std) = torch.empty(n, len(which), cells).double(), torch.empty(2, len(which), cells).double()
    for p, pattern in enumerate(patterns):
        rows = (which == p).nonzero()[:, 0]
        matrix = reading.at(rows[:1]).A(eye).flatten(1)[:, pattern].mT
        y = reading.y[rows].flatten(1)[:, pattern]
        drawn, found = draw_given_reading(y, matrix, reading.sigma, prior, n, derive(seed, "pattern", int(rows[0])))
        draws[:, rows], centre[rows], std[rows] = drawn, found.mean, found.variance.clamp(min=0).sqrt()
    return draws, centre, std


def _holes(model: GenerativeModel, begun: Restoration, condition: Tensor | None, n: int, seed: int) -> Restoration:
    """Hidden cells given the others, by families that know no other reading."""
    name, operator = begun.method, begun.operator
    if not _is_hole(operator, begun.sigma):
        able = "gmm, ppca, factor_analysis and diffusions answer any linear reading"
        raise Unsupported(f"{model.kind()} by {name} answers a mask with sigma 0 alone; {able}")
    seen, space = operator.seen().expand(begun.y.shape), model.space
    if name == "any_order":
        blank = torch.nan if space.blank is None else float(space.blank)
        held = torch.where(seen, begun.y, blank)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            drawn = [model.sample(n, _one(condition, b), given=held[b], seed=derive(seed, "row", b)) for b in range(len(held))]
        answer = "approximate" if model.knows is not Knows.EXACT else "asymptotically exact" if told else "exact"
        return replace(begun, draws=torch.stack(drawn, 1).cpu(), answer=answer, note="; ".join({str(w.message) for w in told}))
    if name == "importance":
        if space.blank is not None:
            raise Unsupported(f"{model.kind()} of {space.kind()} draws no hidden cells; autoregressive, vae and diffusions do")
        filled = impute(model, torch.where(seen, begun.y, torch.nan), n, condition, seed=seed)
        answer = "exact" if filled.diagnostics is None else "asymptotically exact"
        return replace(begun, draws=filled.draws.cpu(), answer=answer, note=filled.note)
    if not isinstance(model, LatentVariableModel) or isinstance(model, GaussianDiffusion):
        raise Unsupported(f"{name} walks over latents, which {model.kind()} has not; leave method out for what it can do")
    x = space.check(torch.where(seen, begun.y, 0), what="y").to(model.device)
    correct = name == "metropolis"
    ends, taken = gibbs(model, x, seen.to(model.device), condition, n, CHAIN_STEPS, metropolis=correct, seed=seed)
    note = f"only {taken:.1%} of proposals were taken: the chains have hardly moved" if taken < STUCK else ""
    answer = "asymptotically exact" if correct else "approximate"
    return replace(begun, draws=ends.cpu(), answer=answer, cost={"chain_steps": CHAIN_STEPS}, note=note)


def _one(condition: Tensor | None, b: int) -> Tensor | None:
    return None if condition is None else condition[b : b + 1]


def gibbs(
    model: LatentVariableModel, x: Tensor, seen: Tensor, y: Tensor | None, n: int, steps: int, *, metropolis: bool, seed: int
) -> tuple[Tensor, float]:
    """The ends of n chains a row, (n, B, *shape), and the share of proposals taken.

    A step draws z' ~ q(z|x) and x_h ~ p(x_h|z).  Pseudo-Gibbs takes every z'; Metropolis within Gibbs takes it with chance
    min(1, p(x, z') q(z|x) / (p(x, z) q(z'|x))), which leaves p(x_h, z|x_o) as it is, whatever q.

    Arguments:
        x: (B, *shape) in the user's units; hidden cells may hold anything.
        seen: (B, *shape).
        steps: of a chain; the first tenth is pseudo-Gibbs in either case.

    Source: Rezende et al. (2014), arXiv:1401.4082, appendix F; Mattei & Frellsen (2018), arXiv:1802.04826, algorithm 1.
    """
    known, hidden = x.repeat(n, *[1] * (x.ndim - 1)), ~seen.repeat(n, *[1] * (x.ndim - 1))
    given = None if y is None else y.repeat(n, *[1] * (y.ndim - 1))
    taken, burn = [], max(1, int(BURN * steps))
    with evaluating(model), torch.no_grad(), seeded(seed, "gibbs"):
        start = model.draw(Ambient(known), given).to(known.dtype)
        full = torch.where(hidden, start, known)
        context = model.infer(full, given)
        z = draw_latents(model, full, given, context, Ambient(full))
        for step in range(steps):
            proposed = draw_latents(model, full, given, context, Ambient(full))
            if metropolis and step >= burn:
                new, old = (log_densities(model, full, given, context, latents) for latents in (proposed, z))
                accepted = Ambient(full).uniform().log() < (new[0] - new[1]) - (old[0] - old[1])
                z = [torch.where(accepted.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(proposed, z)]
                taken.append(accepted.double().mean().item())
            else:
                z = proposed
            *_, last = model.walk(Ambient(full), given, choose=given_latents(z))
            p = model.observation(last.state, given)
            if isinstance(p, Emission) and not isinstance(p, Cells):
                raise Unsupported("hidden cells are drawn from p(x_i|z), but cells of this head share their total")
            full = torch.where(hidden, draw(p, Ambient(full)).to(known.dtype), known)
            context = model.infer(full, given)
    return full.reshape(n, *x.shape), sum(taken) / len(taken) if taken else 1.0
