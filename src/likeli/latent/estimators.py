"""Estimates of log p(x) for models with latent levels, each with what it takes to doubt it (annealing has its own file).

    naive          log (1/K) Σ_k p(x|z_k),                z_k ~ p(z)
    importance     log (1/K) Σ_k p(x, z_k) / q(z_k|x),    z_k ~ q(z|x)

By Jensen's inequality the mean of each lies below log p(x), and it rises to log p(x) with K.  Where the weights' effective
sample size or tail says that K is too small, the number is still a stochastic lower bound and is labelled as nothing more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likeli.contract import GenerativeModel, Knows, LogLikelihood, evaluating, row_noise
from likeli.errors import Unsupported, require, require_draws
from likeli.latent.chain import LatentVariableModel, draw_latents, log_densities, log_weight
from likeli.probability.importance import Diagnostics, diagnose, log_mean_exp
from likeli.random import Ambient

BATCH = 256
Prepare = Callable[[Tensor, Tensor | None], Callable[[], Tensor]]  # (x, y) → one log weight a row at each call


@dataclass(frozen=True)
class Estimate:
    """log p(x) from K weights a row.

    Arguments:
        likelihood: the values; `knows` is ESTIMATE only if every row's weights can be trusted, else LOWER_BOUND.
        diagnostics: effective sample size, largest weight and Pareto k̂, by row.
        samples: K.
        note: the complaint behind a LOWER_BOUND; empty otherwise.
    """

    likelihood: LogLikelihood
    diagnostics: Diagnostics
    samples: int
    note: str = ""


def prior_monte_carlo(
    model: LatentVariableModel, x: Tensor, y: Tensor | None = None, *, samples: int = 1000, seed: int = 0, batch: int = BATCH
) -> Estimate:
    """log (1/K) Σ_k p(x|z_k), z_k ~ p(z): honest, and hopeless where few z explain x (its ESS then says so).

    Arguments:
        model: any model with latent levels.
        x: (B, *shape) in the user's units.
        y: (B, *condition.shape), for a conditional model.
        samples: K.
        seed: of all draws.
        batch: rows at a time; memory holds K numbers for each of them.
    """

    def prepare(x: Tensor, y: Tensor | None) -> Callable[[], Tensor]:
        def weigh() -> Tensor:
            *_, last = model.walk(Ambient(x), y)
            return model.observation(last.state, y).log_prob(x)

        return weigh

    return _estimate(model, x, y, prepare, samples, seed, batch)


def importance(
    model: LatentVariableModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    batch: int = BATCH,
    context: Any = None,
) -> Estimate:
    """log (1/K) Σ_k p(x, z_k)/q(z_k|x), z_k ~ q(z|x): with the exact posterior every weight is p(x).

    Arguments:
        context: takes the place of `infer(x, y)` (see `refinement`); all rows are then one batch.
        model, x, y, samples, seed, batch: as for `prior_monte_carlo`.

    Source: Burda et al. (2015), arXiv:1509.00519.
    """

    batch = batch if context is None else len(x)
    return _estimate(model, x, y, _with_encoder(model, context), samples, seed, batch)


def importance_bound(
    model: LatentVariableModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    k: int = 16,
    repeats: int = 8,
    seed: int = 0,
    batch: int = BATCH,
) -> LogLikelihood:
    """L_K = E log (1/K) Σ_k p(x, z_k)/q(z_k|x) ≤ L_{K+1} ≤ log p(x), averaged over repeats; L_1 is the ELBO.

    Arguments:
        k: weights inside the logarithm.
        repeats: independent values of the bound, for its mean and standard error.
        model, x, y, seed, batch: as for `prior_monte_carlo`.
    """
    require(k >= 1, "k", "at least 1", k)
    require(repeats >= 2, "repeats", "at least 2, for a standard error", repeats)
    values = [
        log_mean_exp(log_w.unflatten(0, (k, repeats)))[0]
        for log_w in _weights(model, x, y, _with_encoder(model), k * repeats, seed, batch)
    ]
    bounds = torch.cat(values, 1)
    return _labelled(model, bounds.mean(0), bounds.std(0) / math.sqrt(repeats), Knows.LOWER_BOUND)


def _with_encoder(model: LatentVariableModel, context: Any = None) -> Prepare:
    def prepare(x: Tensor, y: Tensor | None) -> Callable[[], Tensor]:
        q = model.infer(x, y) if context is None else context
        return lambda: log_weight(model, x, y, context=q)

    return prepare


def _estimate(
    model: LatentVariableModel, x: Tensor, y: Tensor | None, prepare: Prepare, samples: int, seed: int, batch: int
) -> Estimate:
    require_draws("samples", samples, 2)  # for a standard error
    return estimate_of(model, _weights(model, x, y, prepare, samples, seed, batch))


def estimate_of(model: GenerativeModel, batches: Iterable[Tensor]) -> Estimate:
    """Log weights (K, b) of one batch of rows after another as an `Estimate`; no batch is kept."""
    values, errors, doubts, samples = [], [], [], 0
    for log_w in batches:
        value, stderr = log_mean_exp(log_w)
        samples = len(log_w)
        values.append(value)
        errors.append(stderr)
        doubts.append(diagnose(log_w))
    fields = (torch.cat([getattr(d, f.name) for d in doubts]) for f in dataclasses.fields(Diagnostics))
    diagnostics = Diagnostics(*fields)
    note = diagnostics.complaint()
    knows = Knows.LOWER_BOUND if note else Knows.ESTIMATE
    return Estimate(_labelled(model, torch.cat(values), torch.cat(errors), knows), diagnostics, samples, note)


def _labelled(model: GenerativeModel, value: Tensor, stderr: Tensor, knows: Knows) -> LogLikelihood:
    return LogLikelihood(value, knows, model.space.measure, stderr, dimensions=model.space.dimensions)


def _weights(
    model: LatentVariableModel, x: Tensor, y: Tensor | None, prepare: Prepare, samples: int, seed: int, batch: int
) -> Iterator[Tensor]:
    """Log weights (samples, b), one batch of rows after another, one draw at a time."""
    require(batch >= 1, "batch", "at least 1", batch)
    x = model.space.check(x, missing=model.takes_missing).to(model.device)
    y = model.check_condition(y, len(x))
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        given = None if y is None else y[rows]
        with evaluating(model), torch.no_grad(), row_noise(model.space, seed, x[rows], given, "estimate"):
            weigh = prepare(x[rows], given)
            yield torch.stack([weigh() for _ in range(samples)])


TARGET_ACCEPTANCE = 0.65


def annealed(
    model: LatentVariableModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    chains: int = 32,
    temperatures: int = 100,
    leapfrog: int = 5,
    seed: int = 0,
    batch: int = 64,
) -> Estimate:
    """log (1/K) Σ_k w_k over K annealed chains a row.

    A first pass finds a step size for every row and temperature; the second, with those sizes fixed and fresh noise, is the one
    that counts, so that E w = p(x) holds.

    Arguments:
        model: any model with continuous latent levels.
        x: (B, *shape) in the user's units.
        y: (B, *condition.shape), for a conditional model.
        chains: K.
        temperatures: steps from β = 0 to 1.
        leapfrog: gradient steps of one move.
        seed: of all draws.
        batch: rows at a time; each carries `chains` copies.

    Raises:
        Unsupported: a level of the model is discrete.

    Source: Neal (2001), arXiv:physics/9803008; Wu et al. (2016), arXiv:1611.04273.
    """
    for name, value in (("chains", chains), ("temperatures", temperatures), ("leapfrog", leapfrog), ("batch", batch)):
        require(value >= 1, name, "at least 1", value)
    require(chains >= 2, "chains", "at least 2, for a standard error", chains)
    x = model.space.check(x, missing=model.takes_missing).to(model.device)
    y = model.check_condition(y, len(x))

    def weights(start: int) -> Tensor:
        rows = x[start : start + batch].repeat_interleave(chains, 0)
        given = None if y is None else y[start : start + batch].repeat_interleave(chains, 0)
        with evaluating(model), torch.no_grad(), row_noise(model.space, seed, rows, given, "annealed", copies=chains):
            path = _Path(model, rows, given, model.infer(rows, given), leapfrog)
            sizes: list[Tensor] = []
            _anneal(path, temperatures, sizes, tune=True)
            return _anneal(path, temperatures, sizes, tune=False).reshape(-1, chains).T

    return estimate_of(model, (weights(start) for start in range(0, len(x), batch)))


@dataclass(frozen=True)
class _Path:
    model: LatentVariableModel
    x: Tensor
    y: Tensor | None
    context: Any
    leapfrog: int

    def start(self) -> list[Tensor]:
        """z ~ q(z|x)."""
        latents = draw_latents(self.model, self.x, self.y, self.context, Ambient(self.x))
        if not all(z.is_floating_point() for z in latents):
            raise Unsupported(f"annealing needs continuous latents, and {self.model.kind()} has discrete ones; use importance")
        return latents

    def log_ratio(self, latents: list[Tensor]) -> Tensor:
        """log p(x, z) − log q(z|x), (R,)."""
        log_p, log_q = log_densities(self.model, self.x, self.y, self.context, latents)
        return log_p - log_q

    def slope(self, latents: list[Tensor], beta: float) -> tuple[Tensor, list[Tensor]]:
        """log f_β (R,) and its gradient in z."""
        with torch.enable_grad():
            leaves = [z.detach().requires_grad_() for z in latents]
            log_p, log_q = log_densities(self.model, self.x, self.y, self.context, leaves)
            log_f = beta * log_p + (1 - beta) * log_q
            return log_f.detach(), list(torch.autograd.grad(log_f.sum(), leaves))

    def move(self, latents: list[Tensor], beta: float, size: Tensor) -> tuple[list[Tensor], Tensor]:
        """One Hamiltonian move: latents that still follow f_β, and the chance with which each row was accepted."""
        step = [size.reshape(-1, *[1] * (z.ndim - 1)) for z in latents]
        noise = Ambient(self.x)
        momentum = [noise.normal(*z.shape[1:]).to(z) for z in latents]
        log_f, gradient = self.slope(latents, beta)
        energy = log_f - _kinetic(momentum)
        moved = latents
        for _ in range(self.leapfrog):
            momentum = [v + s / 2 * g for v, s, g in zip(momentum, step, gradient)]
            moved = [z + s * v for z, s, v in zip(moved, step, momentum)]
            log_f, gradient = self.slope(moved, beta)
            momentum = [v + s / 2 * g for v, s, g in zip(momentum, step, gradient)]
        chance = (log_f - _kinetic(momentum) - energy).nan_to_num(-torch.inf).clamp(max=0).exp()
        accepted = noise.uniform().to(chance) < chance
        mixed = [torch.where(accepted.reshape(-1, *[1] * (z.ndim - 1)), new, z) for new, z in zip(moved, latents)]
        return mixed, chance


def _anneal(path: _Path, temperatures: int, sizes: list[Tensor], *, tune: bool) -> Tensor:
    """Log weights (R,) of one run from β = 0 to 1; with `tune`, step sizes are found and stored on the way."""
    latents = path.start()
    log_w = path.log_ratio(latents).double() / temperatures
    size = torch.full_like(log_w, 0.2).to(latents[0].dtype)
    for t in range(1, temperatures):
        size = size if tune else sizes[t - 1]
        latents, chance = path.move(latents, t / temperatures, size)
        log_w = log_w + path.log_ratio(latents) / temperatures
        if tune:
            sizes.append(size)
            size = (size * (0.1 * (chance - TARGET_ACCEPTANCE)).exp()).clamp(1e-5, 2.0)
    return log_w


def _kinetic(momentum: list[Tensor]) -> Tensor:
    return sum((0.5 * v.square().flatten(1).sum(1) for v in momentum), torch.zeros((), device=momentum[0].device))
