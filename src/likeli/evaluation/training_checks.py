"""Whether the schedules of a model and its training are sound, and whether it learned rather than copied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from likeli.config import build, describe
from likeli.contract import GenerativeModel
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.energy.unnormalised import EnergyBased
from likeli.errors import Unsupported
from likeli.evaluation.examination import Case, Sign, health_check, losses_of, z_of
from likeli.evaluation.features import pooled_features
from likeli.evaluation.number_checks import NORMAL_TAIL, SIGMAS
from likeli.evaluation.permutations import nearest_rows
from likeli.random import seeded

PLACES = 1001  # of a noise schedule that are looked at
JUMP = 0.1  # of the whole range of log SNR in a thousandth of the time
BLUR = 0.1  # of the data's spread, noise that is left at t = 0
FROM_TRAIN = 1024  # training rows that averaged weights are judged on
FRESH = 4  # untrained models that a trained one is held against
POOL, PERMUTATIONS = 5000, 2000
COPIED = 0.5  # of the way from samples that lie as near to held-out rows as to training rows, to none that does


@health_check(
    "noise schedule",
    condition=f"log SNR falls all the way, by less than {JUMP:.0%} of its range in a thousandth of the time, from noise below "
    f"{BLUR:g} of the spread of reals, or a quarter of the distance of symbols",
    remedy="a schedule that starts with less noise (a smaller gamma_min or sigma_min), and without a step",
)
def noise_schedule(case: Case) -> Sign:
    """γ(t) = log σ²/α² on a grid of t."""
    if not isinstance(case.model, GaussianDiffusion):
        raise Unsupported(f"{case.model.kind()} has no noise schedule")
    schedule = case.model.schedule
    points = schedule.levels(PLACES)
    gamma = points.gamma.detach().double().reshape(PLACES, -1).cpu()
    if not gamma.isfinite().all():
        return Sign(None, False, f"log SNR is not finite at {int((~gamma.isfinite()).any(1).sum())} of {PLACES} times")
    steps = gamma.diff(dim=0)
    span = (gamma[-1] - gamma[0]).abs().clamp(min=1e-12)
    largest, falls = (steps.abs() / span).max().item(), bool((steps < 0).any())
    left = (gamma[0] / 2).exp().max().item()
    apart = case.model.latent_space.spacing
    least = apart / 4 if apart else BLUR
    told = f"at t = 0 noise of {left:.3g} in model units, where at most {least:.3g} is good; "
    told += f"{int((steps < 0).any(1).sum())} of {PLACES - 1} steps go back, the largest is {largest:.1%} of the range"
    return Sign(left, not falls and largest < JUMP and left <= least, told)


@health_check(
    "learning rate",
    condition="the run was finished, its best step lies after the warm-up, and at most 10 % of its steps were skipped",
    remedy="`fit --resume` to finish, a smaller --train.lr if the best weights are the first, --train.clip for skipped steps",
)
def rate_of_learning(case: Case) -> Sign:
    """Where on its schedule the run stopped, and where the weights that were kept are from."""
    how, metrics = case.training, case.info.get("metrics", {})
    rates = [row["lr"] for row in case.history if _number(row.get("lr"))]
    steps = metrics.get("step", case.history[-1].get("step", 0))
    if not rates or not steps:
        raise Unsupported("it was not trained by steps of a rate")
    planned, best = how.get("steps"), metrics.get("best")
    unfinished = bool(case.state) and not case.state.get("finished")
    memory = case.state.get("memory", {})
    skipped = memory.get("skipped", 0) / steps if isinstance(memory, Mapping) else 0.0
    kept = best["step"] if isinstance(best, Mapping) else steps
    early = steps > 20 and kept / (planned or steps) <= how.get("warmup", 0.0)
    told = f"{steps} steps{f' of {planned}' if planned else ''}, the weights kept are those of step {kept}"
    told += f"; last rate {rates[-1]:.2g} of at most {max(rates):.2g}; {skipped:.0%} of steps skipped"
    return Sign(kept / (planned or steps), not (unfinished or early or skipped > 0.1), told)


@health_check(
    "training had an effect",
    condition="held-out loss is below the best of 4 untrained models' by more than 3 s.e. and twice what these differ by",
    remedy="more steps, a larger --train.lr, and look whether gradients reach the weights (`likeli history`)",
    false_alarm=None,
)
def training_had_an_effect(case: Case) -> Sign:
    """The same rows, the same noise, fresh weights."""
    model = case.model
    if model.strategy != "sgd" or isinstance(model, EnergyBased):
        raise Unsupported(f"the loss of {model.kind()} does not rank weights, or it is fitted at once")
    losses = []
    for i in range(FRESH):
        with seeded(case.seed, "untrained", i):
            fresh = build(describe(model), GenerativeModel)  # type: ignore[type-abstract]
        losses.append(losses_of(fresh.to(model.device, model.dtype), case.x, case.y, case.seed))
    means = torch.stack([v.mean() for v in losses])
    gain, error = z_of(losses[int(means.argmin())] - losses_of(model, case.x, case.y, case.seed))
    apart = (means.max() - means.min()).item()
    told = f"the loss falls by {gain:.4g} ± {error:.2g} from the best of {FRESH} untrained models', which differ by {apart:.2g}"
    return Sign(gain, gain > max(3 * error, 2 * apart), told)


@health_check(
    "young average",
    condition="the averaged weights lose no more than 4 s.e. and 1 % on training rows to what the raw weights logged there",
    remedy="a smaller --train.ema, or more steps: the average still remembers worse weights",
    false_alarm=NORMAL_TAIL,
)
def young_average(case: Case) -> Sign:
    """Loss of the kept, averaged weights on training rows − the loss that was logged around the step that they are from."""
    how, model = case.training, case.model
    if not how.get("ema") or model.strategy != "sgd":
        raise Unsupported("no average of weights was kept")
    objective = describe(model).get("objective")
    if isinstance(objective, Mapping) and objective.get("kl_warmup"):
        raise Unsupported("the losses that were logged had another weight of the KL")
    best = case.info.get("metrics", {}).get("best")
    step = best["step"] if isinstance(best, Mapping) else case.history[-1]["step"]
    logged = [row["loss"] for row in case.history if row.get("step", 0) <= step and _number(row.get("loss"))][-3:]
    x, y = case.part("train")[:FROM_TRAIN].to(model.device), None
    if case.data is not None and model.condition is not None:
        y = model.check_condition(case.data.split("train")[1][:FROM_TRAIN], len(x))
    losses = losses_of(model, x, y, case.seed)
    seen = len(logged) * max(how.get("batch", 1), 1)
    gap = losses.mean().item() - sum(logged) / len(logged)
    error = losses.std().item() * math.sqrt(1 / len(losses) + 1 / seen) + (float(np.std(logged)) if len(logged) > 1 else 0.0)
    told = f"averaged weights {losses.mean().item():.4g}, raw ones {sum(logged) / len(logged):.4g} ± {error:.2g} at step {step}"
    return Sign(gap, gap <= SIGMAS * error + 0.01 * abs(losses.mean().item()), told)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


@health_check(
    "history",
    condition="no loss, gradient or weight is NaN or infinite, and the run did not diverge",
    remedy="a smaller --train.lr, --train.clip 1, or a look at the rows that the message names",
)
def history(case: Case) -> Sign:
    """Numbers that are none."""
    if isinstance(case.info.get("diverged"), str):
        return Sign(1.0, False, case.info["diverged"])
    bad = [row for row in case.history if any(_broken(v) for v in row.values())]
    tensors = case.model.state_dict().values()  # what is learned and saved: constants of a space may be infinite
    lost = sum(int((~t.isfinite()).sum()) for t in tensors if t.is_floating_point())
    where = f", the first at step {bad[0].get('step', '?')}" if bad else ""
    told = f"{len(bad)} of {len(case.history)} rows{where}; {lost} weights"
    return Sign(float(len(bad) + lost), not bad and not lost, told)


def _broken(value: Any) -> bool:
    """NaN or infinite, as a number or as a history writes it."""
    if isinstance(value, str):
        return value.lower().lstrip("+-") in ("nan", "inf", "infinity")
    return isinstance(value, float) and not math.isfinite(value)


@health_check(
    "memorisation",
    condition=f"samples lie nearest to training rows no more than chance explains (p ≥ 0.001, or less than {COPIED:.0%} do)",
    remedy="a smaller model, fewer steps, weight decay or dropout, more rows",
    false_alarm=1e-3,
)
def memorisation_of_rows(case: Case) -> Sign:
    """Labels training and held out of a pool of rows are exchanged: had the model learned the law alone, nothing would change.

    The value is (s − e)/(1 − e), s the share of samples whose nearest row is a training row and e the training rows' share.
    """
    train = case.part("train")
    held = case.held_out
    if min(len(train), len(held)) < 20:
        raise Unsupported("fewer than 20 training or held-out rows")
    train, samples = train[:POOL], case.samples.cpu()
    if samples.is_floating_point() and not samples.isfinite().all():
        return Sign(None, None, "samples that are not finite lie near nothing")
    found, _, _ = pooled_features(torch.cat([train, held.to(train.dtype)]), samples, case.space)
    pool, drawn = found.rows[: found.n], found.rows[found.n :]
    chosen = np.bincount(nearest_rows(drawn, 1, pool)[1][:, 0], minlength=len(pool))
    rng = np.random.default_rng([case.seed, 0xD0C])
    own, even = chosen[: len(train)].sum(), len(train) / len(pool)
    shuffled = np.array([rng.permutation(chosen)[: len(train)].sum() for _ in range(PERMUTATIONS)])
    p = float((1 + (shuffled >= own).sum()) / (1 + PERMUTATIONS))
    copied = (own / len(drawn) - even) / (1 - even)
    told = f"{own} of {len(drawn)} samples are nearest to a training row, {even:.0%} expected (p = {p:.2g})"
    return Sign(float(copied), not (p < 1e-3 and copied >= COPIED), told)
