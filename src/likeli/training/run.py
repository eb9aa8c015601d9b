"""The state of one training run: everything that a strategy needs and that a checkpoint holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from likeli.contract import GenerativeModel, evaluating
from likeli.random import derive, permutation
from likeli.training.batches import Examples
from likeli.training.settings import Budget, TrainSettings, learning_rate


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
class Run:
    """A model being trained.

    Arguments:
        model: trained in place.
        train: the rows it is trained on.
        valid: the rows that pick the best weights; None for none.
        settings, budget, seed: see `fit`.
        stopping: whether a signal asks to stop.
        step: steps taken.
        memory: plain numbers that a strategy, or the driver, wants back after a resume.
    """

    model: GenerativeModel
    train: Examples
    valid: Examples | None
    settings: TrainSettings
    budget: Budget
    seed: int
    stopping: Callable[[], bool]
    step: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    average: EMA = field(init=False)
    _parts: dict[str, Part] = field(default_factory=dict)
    _saved: dict[str, Tensor] = field(default_factory=dict)
    _clock: tuple[float, float] = (0.0, 0.0)

    # --- what strategies use (and `average`, `memory`) ------------------------------------------------------------------

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

    def average_weights(self, decay: float) -> None:
        """Start the average of the model's weights, which is what is evaluated and kept; 0 keeps the weights themselves."""
        self.average = self.keep("ema", EMA(dict(self.model.named_parameters()), decay))

    def batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batch after batch for ever, starting at the current step; the order is a function of (seed, epoch)."""
        size, epoch, order = min(self.settings.batch, len(self.train)), -1, torch.empty(0)
        while True:
            if self.epoch != epoch:
                epoch = self.epoch
                order = permutation(len(self.train), self.seed, epoch).to(self.train.x.device)
            start = self.step % self.epoch_steps * size
            yield self.train.rows(order[start : start + size])

    @property
    def epoch_steps(self) -> int:
        """Full batches in the training rows."""
        return max(len(self.train) // self.settings.batch, 1)

    @property
    def epoch(self) -> int:
        """Epochs behind."""
        return self.step // self.epoch_steps

    def rate(self) -> float:
        """The learning rate of the current step."""
        return learning_rate(self.budget.progress(self.step, self.seconds), self.settings)

    # --- time, randomness, validation ----------------------------------------------------------------------------------

    def start_clock(self, seconds: float) -> None:
        """Count training time from `seconds`, what earlier legs took."""
        self._clock = (time.perf_counter(), seconds)

    def stop_clock(self, seconds: float) -> None:
        """Hold training time at `seconds`."""
        self._clock = (0.0, seconds)

    @property
    def seconds(self) -> float:
        """Training time, earlier legs included."""
        began, before = self._clock
        return before + time.perf_counter() - began if began else before

    def reseed(self, *keys: object) -> None:
        """Make torch's ambient random state a function of (seed, keys); `fit` has put the caller's aside."""
        seed = derive(self.seed, *keys)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device: 100 µs a step
        if self.train.x.is_cuda:
            torch.cuda.manual_seed_all(seed)

    def validate(self) -> float | None:
        """Mean loss of the validation rows under the weights to keep, with the same noise each time; None if told to stop."""
        if self.valid is None:
            raise ValueError("validate: a run without validation rows")
        total, rounds = 0.0, -(-self.settings.valid_rows // len(self.valid))
        with self.averaged(), evaluating(self.model), torch.no_grad():
            for i in range(rounds):
                for j, (x, y) in enumerate(self.valid.chunks(4 * self.settings.batch)):
                    self.reseed("valid", i, j)
                    total += self.model.loss(x, y).double().sum().item()
                    if self.stopping():
                        return None
        return total / (rounds * len(self.valid))

    # --- weights and checkpoints ---------------------------------------------------------------------------------------

    def averaged(self) -> AbstractContextManager[None]:
        """The model holds the average of its weights inside the block, if there is one."""
        return holding(self.model.state_dict(keep_vars=True), self.average.average)

    def finest(self) -> AbstractContextManager[None]:
        """The model holds the weights to use inside the block: the best, or else the average."""
        return holding(self.model.state_dict(keep_vars=True), self.best) if self.best else self.averaged()

    def keep_best(self) -> None:
        """Remember the current weights to use as the best."""
        with self.averaged():
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def settle(self) -> None:
        """Leave the weights to use in the model for good, and no gradients."""
        with self.finest():
            values = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(values)
        self.model.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """The parts' states, and the raw weights where they are not the ones to use."""
        # aliases, because `finest` swaps the memory of the tensors themselves while a checkpoint is written
        parts = {f"{name}/{k}": v.detach() for name, part in self._parts.items() for k, v in part.tensors().items()}
        out = self._saved | parts  # what no strategy has claimed yet, since it has not begun, is still needed
        if self.best or self.average.average:
            out |= {f"weights/{k}": v for k, v in self.model.state_dict().items()}
        return out

    def restore(self, weights: Mapping[str, Tensor], state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to a checkpoint.

        Arguments:
            weights: the weights to use, as saved.
            state: `step`, `memory` and `seconds` as saved.
            tensors: as `tensors` gave them.
        """
        self.step, self.memory, self._saved = state["step"], dict(state["memory"]), dict(tensors)
        self.stop_clock(state["seconds"])
        if "best" in self.memory:
            self.best = {k: v.to(self.model.device) for k, v in weights.items()}
        self.model.load_state_dict(self._claim("weights") or weights)


class EMA:
    """ā ← ā + (1 − d_n)(a − ā) with d_n = min(d, (1 + n)/(10 + n)): a young average forgets where it began.

    Arguments:
        parameters: what is averaged, by name.
        decay: d; 0 makes the average the weights themselves.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.parameters, self.decay, self.updates = dict(parameters), decay, 0
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if decay else {}
        self._pairs = list(self.average.values()), [self.parameters[name] for name in self.average]

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        if self.average:
            torch._foreach_lerp_(*self._pairs, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"updates": torch.tensor(self.updates)} | {f"average.{k}": v for k, v in self.average.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`, in place."""
        self.updates = int(tensors["updates"])
        for name, value in self.average.items():
            value.copy_(tensors[f"average.{name}"])


@contextmanager
def holding(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block `targets[name]` holds `values[name]`, without a copy; names that only `targets` has are left alone."""
    pairs = [(targets[name], value) for name, value in values.items()]
    _exchange(pairs)
    try:
        yield
    finally:
        _exchange(reversed(pairs))  # a tied tensor comes twice


def _exchange(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for target, value in pairs:
        target.data, value.data = value.data, target.data
