"""How a model is fitted: one function a strategy, each a generator that yields a row of numbers after every step.

The driver (`Session`) seeds each step, logs the rows, validates, saves and stops.  A new way to train is one function more:
give the pieces that must survive a kill to `run.keep`, yield `{"loss": …}`, and add `"stop": why` to the last row if it is not
the budget that ends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from likeli import processes
from likeli.contract import evaluating
from likeli.energy.unnormalised import EnergyBased
from likeli.errors import Diverged, require
from likeli.latent.chain import Hierarchy
from likeli.random import Ambient
from likeli.training.engine import Descent, batch_mean, training_loss
from likeli.training.history import VALIDATION_LOSS, Row
from likeli.training.replay import ReplayBuffer
from likeli.training.run import Run, loss_of, rows_of_batch

RETUNED = 250  # steps of contrastive divergence after which its chains' step sizes are found anew
Steps = Callable[[Run], Iterator[Row]]


@dataclass(frozen=True)
class Strategy:
    """A way to train.

    Arguments:
        steps: one step of the run at each `next`, done when the row is yielded.
        stochastic: many small steps on batches, so that weights are averaged, validated on the way, and logged now and then.
        validate: the number by which weights are kept, the smaller the better; None if told to stop.
        criterion: what that number is.
        seldom: steps between two such numbers, at least, unless the settings say how many.
    """

    steps: Steps
    stochastic: bool = False
    validate: Callable[[Run], float | None] = Run.validate
    criterion: str = VALIDATION_LOSS
    seldom: int = 1


STRATEGIES: dict[str, Strategy] = {}


def strategy(name: str, **options: Any) -> Callable[[Steps], Steps]:
    """Register a function as the way to train models whose `strategy` is `name`; `options` are those of `Strategy`."""

    def register(steps: Steps) -> Steps:
        STRATEGIES[name] = Strategy(steps, **options)
        return steps

    return register


@strategy("sgd", stochastic=True)
def sgd(run: Run) -> Iterator[Row]:
    """θ ← Adam(θ, ∇ mean_b ℓ(x_b; θ)) and θ̄ ← average(θ̄, θ), batch after batch."""
    if run.step == 0 and isinstance(run.model, EnergyBased):
        run.model.start(run.train.x)
    descent = run.keep("adam", Descent(run.model.parameters(), run.settings, run.model))
    run.model.train()
    for x, y in run.batches():
        with rows_of_batch(run):
            losses = training_loss(partial(loss_of, run), x, y, run.settings)
        loss, lr = batch_mean(losses), run.rate()
        guard(run, "loss", loss.item(), x, y)
        norm = descend(run, descent, loss, lr, x, y)
        run.average.update()
        yield {"loss": loss.item(), "epoch": run.epoch, "lr": lr, "gradient": norm}


@strategy("contrastive", stochastic=True)
def contrastive(run: Run) -> Iterator[Row]:
    """θ ← Adam(θ, ∇ [mean_b E(x_b) − mean_m E(x̃_m)]), x̃ states that the model's own chains have come to."""
    model = run.model
    require(isinstance(model, EnergyBased), "model", "an energy for this strategy", model.kind())
    assert isinstance(model, EnergyBased)
    if run.step == 0:
        model.start(run.train.x)
    replay = run.keep("replay", ReplayBuffer(model, run.settings.batch))
    descent = run.keep("adam", Descent(model.parameters(), run.settings, model))
    model.train()
    for x, _ in run.batches():
        if run.step % RETUNED == 0:
            model.tune()
        with rows_of_batch(run):
            u, lr = model.states(x, Ambient(x))[0], run.rate()
        v = replay.negatives(u, lambda rows: rows_of_batch(run, rows))
        gap = batch_mean(-model.log_f(u)) - batch_mean(-model.log_f(v))
        guard(run, "energy", gap.item(), x)
        norm = descend(run, descent, gap, lr, x)
        run.average.update()
        yield {"loss": gap.item(), "epoch": run.epoch, "lr": lr, "gradient": norm}


def descend(
    run: Run, descent: Descent, loss: Tensor, lr: float, x: Tensor, y: Tensor | None = None, term: str = "gradient"
) -> float:
    """θ ← Adam(θ, ∇ loss), and the norm of the gradient n; a step of n above `skip` times the usual n̄ is left out.

        n̄ ← n̄ + (min(n, skip · n̄) − n̄)/50

    Source: Child (2020), arXiv:2011.10650, with a limit that is fixed beforehand.
    """
    progress, skip = run.progress, run.settings.skip
    usual = progress.usual_gradient
    limit = math.inf if skip is None or usual is None else skip * usual
    norm = descent.step(loss, lr, limit)
    guard(run, term, norm, x, y)
    if skip is not None:
        usual = norm if usual is None else usual
        progress.usual_gradient = usual + (min(norm, limit) - usual) / 50
        progress.skipped += norm > limit
    return norm


@strategy("em")
def em(run: Run) -> Iterator[Row]:
    """Expectation maximisation until the family's own rule ends it, or an iteration gains less than the tolerance."""
    for value in run.model.em(run.train.x, seed=run.seed, start=run.step == 0, **_weights(run)):
        guard(run, "log-likelihood", value, run.train.x)
        before = run.progress.log_likelihood
        gain = math.inf if before is None else value - before
        run.progress.log_likelihood = value
        small = run.settings.tolerance is not None and gain < run.settings.tolerance
        yield {"loss": -value} | ({"stop": "tolerance"} if small else {})


@strategy("closed_form")
def closed_form(run: Run) -> Iterator[Row]:
    """The maximum-likelihood parameters at once."""
    run.model.fit_closed_form(run.train.x, run.train.y, seed=run.seed, **_weights(run))
    with evaluating(run.model), torch.no_grad():
        mine = run.train.part(processes.share(len(run.train)))
        losses = torch.cat([run.model.loss(x, y).double() for x, y in mine.chunks(4 * run.settings.batch)])
        weight = torch.ones_like(losses) if mine.weight is None else mine.weight.to(losses)
        summed, of = processes.total(losses.sum() if mine.weight is None else weight @ losses, weight.sum())
        loss = (summed / of).item()
    guard(run, "loss", loss, run.train.x)
    yield {"loss": loss, "stop": "closed form"}


@strategy("boosting")
def boosting(run: Run) -> Iterator[Row]:
    """One column's trees a step, stopped early by validation rows; of a budget in minutes each column gets its share."""
    model, minutes, valid = run.model, run.budget.minutes, None if run.valid is None else run.valid.x

    def allowance(left: int) -> float:
        return (60 * minutes - run.clock.seconds) / (left + 1) if minutes else math.inf

    grown = model.boost(run.train.x, valid, seed=run.seed, start=run.step, allowance=allowance, **_weights(run))
    for row in grown:
        guard(run, "loss", row["loss"], run.train.x)
        yield row | ({"stop": "all columns"} if run.step + 1 == model.space.dimensions else {})


def _weights(run: Run) -> dict[str, Tensor]:
    return {} if run.train.weight is None else {"sample_weight": run.train.weight}


# --- divergence --------------------------------------------------------------------------------------------------------


def guard(run: Run, term: str, value: float, x: Tensor, y: Tensor | None = None) -> None:
    """Raise `Diverged`, naming the step, the term and the batch's range, unless `value` is finite."""
    if not math.isfinite(value):
        term = _culprit(run, x, y) if term == "loss" else term
        told = f"training diverged at step {run.step + 1}: {term} is {value} on a batch of {_range(x)}"
        by_steps = run.model.strategy in ("sgd", "contrastive", "adversarial", "critic")
        advice = f"try --train.lr {run.settings.lr / 3:.2g} or --train.clip 1" if by_steps else ""
        raise Diverged(f"{told}; {advice}" if advice else told)


def _range(x: Tensor) -> str:
    finite = x[x.isfinite()] if x.is_floating_point() else x
    words = f"{len(x)} rows, from {finite.min().item():g} to {finite.max().item():g}" if finite.numel() else f"{len(x)} rows"
    bad = x.numel() - finite.numel()
    return words + (f", with {bad} cells that are not finite" if bad else "")


def _culprit(run: Run, x: Tensor, y: Tensor | None) -> str:
    """The term of the loss that is not finite, where the loss is a chain's bound with its terms apart."""
    if run.split is not None or not isinstance(run.model, Hierarchy) or type(run.model).loss is not Hierarchy.loss:
        return "loss"
    run.reseed("step", run.step)
    with torch.no_grad():
        bound = run.model.elbo(x, y)
    if not bound.reconstruction.isfinite().all():
        return "loss (reconstruction)"
    levels = [f"loss (kl of level {i})" for i, kl in enumerate(bound.kl.unbind(1), 1) if not kl.isfinite().all()]
    return levels[0] if levels else "loss"
