"""The state of one training run: everything that a strategy needs and that a checkpoint holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from likeli import processes
from likeli.contract import GenerativeModel, evaluating
from likeli.random import BatchPart, derive
from likeli.training.batches import Examples
from likeli.training.history import Row
from likeli.training.settings import Budget, TrainSettings, learning_rate
from likeli.training.sharding import ShardedLoss, cut_like, part_of, put_together


class Part(Protocol):
    """A piece of a strategy's state that a checkpoint must hold: an optimiser, an average."""

    def tensors(self) -> dict[str, Tensor]:
        """The state."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a state back."""
        ...


P = TypeVar("P", bound=Part)


@dataclass
class Progress:
    """What a resumed run has to know besides its step and tensors, as plain values.

    Arguments:
        row: of the last step.
        window: sum and number of the losses since the last row that was logged.
        pending: whether the last step still has to be validated and logged.
        reason: why the run is over; None while it is not.
        best: step and validation loss of the best weights so far.
        waiting: validations since then.
        usual_gradient, skipped: running norm of the gradient, and how many steps were skipped for theirs.
        log_likelihood: of EM's last iteration.
        valid_rows: rows of one validation, once it is known how many the budget allows.
        first: loss of a batch of validation rows before the first step.
    """

    row: Row = field(default_factory=dict)
    window: tuple[float, int] = (0.0, 0)
    pending: bool = False
    reason: str | None = None
    best: Row | None = None
    waiting: int = 0
    usual_gradient: float | None = None
    skipped: int = 0
    log_likelihood: float | None = None
    valid_rows: int | None = None
    first: float | None = None


class Clock:
    """Seconds of training, earlier legs of a resumed run included."""

    began, before = 0.0, 0.0

    def start(self) -> None:
        """Count on."""
        self.began = self.began or time.perf_counter()

    def stop(self, seconds: float | None = None) -> None:
        """Stand still, at `seconds` if given."""
        self.began, self.before = 0.0, self.seconds if seconds is None else seconds

    @property
    def seconds(self) -> float:
        """What has been counted."""
        return self.before + (time.perf_counter() - self.began if self.began else 0.0)


@dataclass
class Run:
    """A model being trained.

    Arguments:
        model: trained in place.
        train: the rows it is trained on.
        valid: the rows that pick the best weights; None for none.
        settings, budget, seed: see `fit`.
        stopping: whether a signal asks to stop.
        stochastic: whether a step sees a batch; else it sees all rows.
        step: steps taken.
        progress: what the driver and the strategies want back after a resume.
        split: the model's loss and the model that it is a copy of, where its weights are split over processes.
    """

    model: GenerativeModel
    train: Examples
    valid: Examples | None
    settings: TrainSettings
    budget: Budget
    seed: int
    stopping: Callable[[], bool]
    stochastic: bool = True
    step: int = 0
    progress: Progress = field(default_factory=Progress)
    clock: Clock = field(default_factory=Clock)
    best: dict[str, Tensor] = field(default_factory=dict)
    split: tuple[ShardedLoss, GenerativeModel] | None = None
    average: EMA = field(init=False)
    _parts: dict[str, Part] = field(default_factory=dict)
    _saved: dict[str, Tensor] = field(default_factory=dict)

    # --- what strategies use (and `average`, `progress`) ----------------------------------------------------------------

    def keep(self, name: str, part: P) -> P:
        """Make `part` a piece of the run's checkpoints, and give it its state back if the run is being resumed."""
        self._parts[name] = part
        saved = self._claim(name)
        if saved:
            part.restore(saved)
        return part

    def _claim(self, name: str) -> dict[str, Tensor]:
        mine = [k for k in self._saved if k.startswith(f"{name}/")]
        return {k.removeprefix(f"{name}/"): self._saved.pop(k) for k in mine}

    def batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batch after batch for ever, starting at the current step; the order is a function of (seed, epoch).

        Where processes share a batch, each gets its rows of it: see `rows_of_batch`.
        """
        size, epoch = min(self.settings.batch, len(self.train)), -1
        while True:
            if self.epoch != epoch:
                epoch = self.epoch
                rows = self.train.shuffled(self.seed, epoch)
            start, mine = self.step % self._epoch_steps * size, processes.share(size)
            yield rows(slice(start + mine.start, start + mine.stop))

    @property
    def epoch(self) -> int:
        """Epochs of full batches behind."""
        return self.step // self._epoch_steps

    @property
    def _epoch_steps(self) -> int:
        return max(len(self.train) // self.settings.batch, 1)

    def rate(self) -> float:
        """The learning rate of the current step."""
        return learning_rate(self.budget.progress(self.step, agreed_seconds(self)), self.settings)

    # --- randomness, validation ----------------------------------------------------------------------------------------

    def reseed(self, *keys: object) -> None:
        """Make torch's ambient random state a function of (seed, keys); `fit` has put the caller's aside."""
        seed = derive(self.seed, *keys)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device: 100 µs a step
        if self.train.x.is_cuda:
            torch.cuda.manual_seed_all(seed)

    def validate(self) -> float | None:
        """Mean loss of validation rows under the weights to keep, the same rows and noise each time; None if told to stop.

        Rows are gone through, all of them again with fresh noise if they are few, until `valid_rows` have been seen, or as many
        as the budget trains on; the first validation of a budget in minutes ends after 3 % of it and sets the number for all.
        """
        if self.valid is None:
            raise ValueError("validate: a run without validation rows")
        budget, wanted, total, seen = self.budget, self.settings.valid_rows, 0.0, 0
        if budget.steps is not None and self.stochastic:
            wanted = min(wanted, budget.steps * self.settings.batch)
        passes = -(-wanted // len(self.valid))
        wanted = self.progress.valid_rows or (passes * len(self.valid) if passes > 1 else wanted)
        longest = 1.8 * budget.minutes if budget.minutes and not self.progress.valid_rows else math.inf
        began, chunks = time.perf_counter(), list(self.valid.chunks(min(4 * self.settings.batch, wanted)))
        with self.averaged(), evaluating(self.model), torch.no_grad():
            for i in count():
                x, y = chunks[i % len(chunks)]
                x, y = x[: wanted - seen], None if y is None else y[: wanted - seen]
                self.reseed("valid", i // len(chunks), i % len(chunks))
                total, seen = total + self._sum_of_losses(x, y), seen + len(x)
                if self.stopping():
                    return None
                if seen >= wanted or processes.first_says(time.perf_counter() - began > longest):
                    break
        self.progress.valid_rows = seen
        return total / seen

    def _sum_of_losses(self, x: Tensor, y: Tensor | None) -> float:
        """Σ ℓ over rows, of which each process works on its share."""
        mine = processes.share(len(x))
        few = mine.start == mine.stop
        if few and self.split is not None:  # the others need this process's part of the weights
            loss_of(self, x[:1], None if y is None else y[:1])
        with rows_of_batch(self, len(x)):
            losses = x.new_zeros(0, dtype=torch.float64) if few else loss_of(self, x[mine], None if y is None else y[mine])
        return processes.total(losses.double().sum())[0].item()

    # --- weights and checkpoints ---------------------------------------------------------------------------------------

    def averaged(self) -> AbstractContextManager[None]:
        """The model holds the average of its weights inside the block, if there is one."""
        return holding(self._parts_of_weights(), self.average.average, self.split is not None)

    def finest(self) -> AbstractContextManager[None]:
        """The model holds the weights to use inside the block: the best, or else the average."""
        return holding(self._parts_of_weights(), self.best, self.split is not None) if self.best else self.averaged()

    def _parts_of_weights(self) -> dict[str, Tensor]:
        """What this process holds of the model's parameters and buffers."""
        return {k: part_of(v) for k, v in self.model.state_dict(keep_vars=True).items()}

    def keep_best(self) -> None:
        """Remember the current weights to use as the best."""
        with self.averaged():
            self.best = {k: v.detach().clone() for k, v in self._parts_of_weights().items()}

    def settle(self) -> None:
        """Leave the weights to use in the model for good, and no gradients."""
        with self.finest():
            if self.split is not None:
                gathered(self, everywhere=True)
                return
            values = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(values)
        self.model.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """The parts' states, and the raw weights where they are not the ones to use."""
        # aliases, because `finest` swaps the memory of the tensors themselves while a checkpoint is written
        parts = {f"{name}/{k}": v.detach() for name, part in self._parts.items() for k, v in part.tensors().items()}
        out = self._saved | parts  # what no strategy has claimed yet, since it has not begun, is still needed
        if self.best or self.average.average:
            out |= {f"weights/{k}": put_together(part_of(v), v).detach() for k, v in self.model.state_dict().items()}
        return out

    def restore(self, weights: Mapping[str, Tensor], state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to a checkpoint.

        Arguments:
            weights: the weights to use, as saved.
            state: `step`, `memory` and `seconds` as saved.
            tensors: as `tensors` gave them.
        """
        self.step, self.progress, self._saved = state["step"], Progress(**state["memory"]), dict(tensors)
        self.clock.stop(state["seconds"])
        like = self.model.state_dict()
        if self.progress.best:
            whole = weights if self.split is None else {k: cut_like(v, like[k]) for k, v in weights.items()}
            self.best = {k: v.to(self.model.device, copy=self.split is not None) for k, v in whole.items()}
        raw = self._claim("weights") or weights
        if self.split is None:
            self.model.load_state_dict(raw)
            return
        for name, value in like.items():
            part_of(value).copy_(cut_like(raw[name], value))


def loss_of(run: Run, x: Tensor, y: Tensor | None) -> Tensor:
    """The model's loss of these rows, (B,); where its weights are split all processes have to ask."""
    return run.model.loss(x, y) if run.split is None else run.split[0](x, y)


@torch.no_grad()
def gathered(run: Run, everywhere: bool = False) -> GenerativeModel:
    """The model as it stands, its weights put together where they are split: in the first process, or everywhere."""
    if run.split is None:
        return run.model
    whole, parts = run.split[1], run.model.state_dict()
    for name, value in whole.state_dict().items():
        found = put_together(part_of(parts[name]), parts[name], everywhere)
        if everywhere or processes.is_first():
            value.copy_(found)
    return whole


def rows_of_batch(run: Run, size: int | None = None) -> AbstractContextManager[Any]:
    """Inside the block random numbers of a batch's rows are theirs, whichever process has them.

    Arguments:
        size: rows of the whole batch; those of a training step if not given.
    """
    size = min(run.settings.batch, len(run.train)) if size is None else size
    mine = processes.share(size)
    return nullcontext() if processes.count() == 1 else BatchPart(mine.start, mine.stop - mine.start, size)


def agreed_seconds(run: Run) -> float:
    """Seconds of training; by the first process's clock where the schedule follows it."""
    return processes.first_says(run.clock.seconds) if run.budget.minutes else run.clock.seconds


class EMA:
    """ā ← ā + (1 − d_n)(a − ā) with d_n = min(d, (1 + n)/(10 + n)): a young average forgets where it began.

    Arguments:
        parameters: what is averaged, by name.
        decay: d; 0 makes the average the weights themselves.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.parameters, self.decay, self.updates = dict(parameters), decay, 0
        self.average = {name: part_of(p).detach().clone() for name, p in self.parameters.items()} if decay else {}
        self._pairs = list(self.average.values()), [part_of(self.parameters[name]) for name in self.average]

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        if self.average:
            torch._foreach_lerp_(*self._pairs, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        average = {f"average.{k}": put_together(v, self.parameters[k]) for k, v in self.average.items()}
        return {"updates": torch.tensor(self.updates)} | average

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`, in place."""
        self.updates = int(tensors["updates"])
        for name, value in self.average.items():
            value.copy_(cut_like(tensors[f"average.{name}"], self.parameters[name]))


@contextmanager
def holding(targets: Mapping[str, Tensor], values: Mapping[str, Tensor], in_place: bool = False) -> Iterator[None]:
    """Inside the block `targets[name]` holds `values[name]`; names that only `targets` has are left alone.

    Arguments:
        in_place: whether the numbers change places, where others know their memory; else the memory does, without a copy.
    """
    pairs, exchange = [(targets[name], value) for name, value in values.items()], _exchange_numbers if in_place else _exchange
    exchange(pairs)
    try:
        yield
    finally:
        exchange(reversed(pairs))  # a tied tensor comes twice


def _exchange(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for target, value in pairs:
        target.data, value.data = value.data, target.data


@torch.no_grad()
def _exchange_numbers(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for target, value in pairs:
        before = target.clone()
        target.copy_(value)
        value.copy_(before)
