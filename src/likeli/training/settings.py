"""How a model is trained, checked before any work is done; nothing here imports torch."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from likeli.config import coerce
from likeli.errors import InputError, nearest, require


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Training options; a family changes their defaults with its class attribute `train_defaults`.

    Arguments:
        batch: rows of one step.  The last partial batch of an epoch is dropped; the order differs from epoch to epoch.
        optimiser: adam, or muon, which gives the wide linear layers steps along orthogonal matrices, 10 lr long, and leaves the
            others to Adam: fewer steps to the same loss for transformers and perceptrons, each a little slower.
        lr: peak learning rate of Adam.
        warmup: fraction of the run over which the rate rises linearly from zero.
        decay: what the rate does after that: fall to zero as a cosine, or stay.
        betas: decay rates of Adam's two moments.
        weight_decay: decoupled decay of matrices and filters, not of biases and gains (AdamW).
        clip: largest gradient norm; none for no clipping.
        skip: a step whose gradient norm is this many times the usual one leaves the weights alone, and is counted; none to
            take every step.
        ema: decay of the exponential moving average of the weights, which is what is evaluated and kept; 0 for none.
        precision: `32` computes in the model's own type, `bf16-mixed` runs matrix products in bfloat16 while training.
        shard: with several processes, split weights, gradients, Adam's moments and the average over them, so that each holds a
            part; see docs/scale.md.
        device: where to train: `cpu`, `cuda`, or `auto`, which is cuda where there is one.
        validate_every: steps between validations; by default an epoch, and seldom enough to cost a few per cent.
        valid_rows: rows of one validation: the split is gone through, again with fresh noise if it is smaller, until so many
            have been seen, or as many as the whole budget trains on; a budget in minutes spends 3 % of itself on one at most.
        patience: stop after this many validations without a new best; none to use the whole budget.
        checkpoint_every: seconds between checkpoints; 0 writes one after every step.
        log_every: steps between rows of the history, by default 10, or 1 for EM; a row holds the mean loss since the last one.
        tolerance: EM stops when an iteration gains fewer nats per example than this; none leaves it to the family's own rule.
    """

    batch: int = 128
    optimiser: Literal["adam", "muon"] = "adam"
    lr: float = 1e-3
    warmup: float = 0.05
    decay: Literal["cosine", "none"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None
    skip: float | None = None
    ema: float = 0.999
    precision: Literal["32", "bf16-mixed"] = "32"
    shard: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validate_every: int | None = None
    valid_rows: int = 1024
    patience: int | None = None
    checkpoint_every: float = 60.0
    log_every: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "valid_rows"):
            value = getattr(self, name)
            require(1 <= value <= 2**31, f"train.{name}", "a whole number of at least 1", value)
        for name in ("validate_every", "patience", "log_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"train.{name}", "a whole number of at least 1, or none", value)
        require(0 < self.lr <= 1e4, "train.lr", "a number above 0, at most 1e4", self.lr)
        require(0 <= self.warmup < 1, "train.warmup", "a fraction from 0 to below 1", self.warmup)
        require(all(0 <= b < 1 for b in self.betas), "train.betas", "two numbers from 0 to below 1", self.betas)
        require(0 <= self.weight_decay <= 1e4, "train.weight_decay", "a number of at least 0", self.weight_decay)
        require(self.clip is None or self.clip > 0, "train.clip", "a number above 0, or none", self.clip)
        require(self.skip is None or self.skip > 1, "train.skip", "a number above 1, or none", self.skip)
        require(0 <= self.ema < 1, "train.ema", "a number from 0 to below 1", self.ema)
        require(self.checkpoint_every >= 0, "train.checkpoint_every", "seconds of at least 0", self.checkpoint_every)
        enough = self.tolerance is None or self.tolerance >= 0
        require(enough, "train.tolerance", "a number of at least 0, or none", self.tolerance)

    def plain(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def resolve(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> TrainSettings:
    """The settings that `given` stands for, on top of a family's `defaults`.

    Raises:
        InputError: unknown name (the nearest is suggested), wrong type, value out of range.
    """
    hints = typing.get_type_hints(TrainSettings)
    known = [f.name for f in fields(TrainSettings)]
    for name in given:
        if name not in known:
            hint = nearest(name, known) or f"; expected one of {', '.join(known)}"
            raise InputError(f"train.{name[:80]}: unknown setting{hint}")
    merged = {**defaults, **given}
    return TrainSettings(**{k: coerce(v, hints[k], f"train.{k}") for k, v in merged.items()})


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps or a number of minutes, one of the two."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        require(self.steps is None or self.minutes is None, "steps, minutes", "one of the two", "both")
        if self.steps is not None:
            whole = isinstance(self.steps, int) and not isinstance(self.steps, bool)
            require(whole and 1 <= self.steps <= 10**12, "steps", "a whole number of at least 1", self.steps)
        if self.minutes is not None:
            number = isinstance(self.minutes, (int, float)) and not isinstance(self.minutes, bool)
            require(number and 0 < self.minutes <= 1e6, "minutes", "a number above 0, at most 1e6", self.minutes)

    def progress(self, step: int, seconds: float) -> float:
        """The fraction of the budget behind the middle of step `step` (counted from 0), `seconds` into the run."""
        if self.minutes is not None:
            return min(seconds / (60 * self.minutes), 1.0)
        return (step + 0.5) / self.steps if self.steps else 0.0

    def spent(self, step: int, seconds: float) -> str | None:
        """`steps` or `minutes` when that many are behind us, else None."""
        if self.minutes is not None:
            return "minutes" if seconds >= 60 * self.minutes else None
        return "steps" if self.steps is not None and step >= self.steps else None


def default_steps(rows: int, batch: int) -> int:
    """Twenty epochs, but at least 2,000 steps and at most 20,000."""
    return min(max(2000, 20 * math.ceil(rows / batch)), 20000)


def validation_interval(rows: int, valid_rows: int, batch: int) -> int:
    """Steps between validations: an epoch, or more where validating (a third of a training pass a row) would cost above 6 %."""
    return max(rows // batch, math.ceil(6 * valid_rows / batch), 1)


def learning_rate(progress: float, settings: TrainSettings) -> float:
    """lr·p/w for p < w, then lr·½(1 + cos π(p − w)/(1 − w)): linear warm-up, cosine decay to zero.

    Arguments:
        progress: p, the fraction of the budget that is behind, 0 to 1.
        settings: lr, warmup w, decay.

    Source: Loshchilov & Hutter (2016), arXiv:1608.03983, for the cosine.
    """
    w = settings.warmup
    if progress < w:
        return settings.lr * progress / w
    if settings.decay == "none":
        return settings.lr
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (progress - w) / (1 - w)))
