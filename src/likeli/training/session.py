"""One run from its first step, or its last checkpoint, to its end: what goes on around the steps."""

from __future__ import annotations

import math
import signal
import threading
import time
import typing
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from likeli import checkpoint, processes
from likeli.checkpoint.build import check_state
from likeli.config import describe
from likeli.contract import ByEM, GenerativeModel, evaluating
from likeli.errors import Diverged, InputError, Interrupted, LikeliError
from likeli.progress import Shown
from likeli.training.engine import speed_of_bf16
from likeli.training.history import VALIDATION_LOSS, History, Journal
from likeli.training.run import EMA, Progress, Run, agreed_seconds, gathered, loss_of
from likeli.training.settings import TrainSettings, validation_interval
from likeli.training.strategies import STRATEGIES, Strategy

FEWEST_STEPS = 10  # below, a budget of minutes has hardly begun to train


@dataclass
class Session:
    """A run with its folder, its journal and the signals."""

    run: Run
    stop: StopSignal
    journal: Journal
    folder: Path | None
    info: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    last_save: float = 0.0
    seconds_before: float = 0.0  # the last step

    def __post_init__(self) -> None:
        self.strategy: Strategy = STRATEGIES[self.run.model.strategy]

    def go(self, resume: bool, progress: Shown) -> History:
        """From the start, or the last checkpoint, to the end."""
        run = self.run
        finished = self.load() if resume else ""
        if finished:
            self.notes.append(f"{self.folder}: this run had already finished after {run.step} steps; nothing was done")
            return self.history(finished)
        together = True
        try:
            self.drive(progress)
        except Diverged as error:
            raise Diverged(f"{error}{self._mark_diverged(error)}") from error
        except Interrupted:
            raise
        except BaseException:
            together = run.split is None  # another process may have gone, with its part of the weights
            raise
        finally:
            self.journal.close()
            if together:
                run.settle()
        return self.history(run.progress.reason or "")

    def drive(self, progress: Shown) -> None:
        """Step, validate, log, save, until something says stop."""
        run, budget = self.run, self.run.budget
        decay = run.settings.ema if self.strategy.stochastic else 0.0
        run.average = run.keep("ema", EMA(dict(run.model.named_parameters()), decay))
        steps, self.seconds_before = self.strategy.steps(run), run.clock.seconds
        if self.folder is not None:
            checkpoint.check_savable(run.split[1] if run.split else run.model, self.info)
        if run.step == 0 and self.strategy.stochastic:  # the others may still refuse the rows, and are quick to start again
            run.progress.first = _glance(run) if self.strategy.criterion == VALIDATION_LOSS else None
            self.save()
        if self.strategy.stochastic and run.settings.precision == "bf16-mixed" and run.split is None:
            self._note_speed()
        if run.step:
            run.clock.start()  # else after the first step, which sets things up that none after it has to
        total, unit = (60 * budget.minutes, "seconds") if budget.minutes else (budget.steps or 1, "steps")
        self.journal.show(progress, run.model.kind(), total, self.done(), unit)
        if run.progress.pending:
            self.after_step()
        while run.progress.pending or not run.progress.reason:
            if self.stop.anywhere():
                self.save()
                where = f"at step {run.step}"
                raise self.stop.interrupted(f"{where}; saved in {self.folder}" if self.folder else where)
            run.reseed("step", run.step)
            row = next(steps, None)
            if row is None:
                self.ended()
            else:
                self.take(row)
                run.clock.start()
            if run.progress.pending:
                self.after_step()
            self.journal.advance(self.done())
            due = time.monotonic() - self.last_save >= run.settings.checkpoint_every
            due = due if run.split is None else bool(processes.first_says(due))  # all put their parts together
            if due and not run.progress.reason:
                self.save_if_possible()
        run.clock.stop()
        self.save(run.progress.reason)
        if self.stop.anywhere():
            raise self.stop.interrupted(f"after the last step, {run.step}; the run is finished")

    def _note_speed(self) -> None:
        """Say how much bfloat16 wins on this machine, or loses: some processors have no fast way to multiply it."""
        run = self.run
        ratio = speed_of_bf16(run.model, *next(run.train.chunks(run.settings.batch)), run.settings)
        told = f"precision bf16-mixed: a gradient at {ratio:.2f} times the speed of float32, measured at the start"
        self.notes.append(told)
        if ratio < 1:
            warnings.warn(f"{told}; precision 32 is quicker here", stacklevel=2)

    def done(self) -> float:
        """Seconds or steps, as the budget counts."""
        return self.run.clock.seconds if self.run.budget.minutes else self.run.step

    def take(self, row: dict[str, Any]) -> None:
        """Note a step that was taken."""
        run, progress = self.run, self.run.progress
        run.step += 1
        seconds = agreed_seconds(run)
        ahead = 0.0 if self.strategy.stochastic else seconds - self.seconds_before  # a pass over all rows is not broken off
        self.seconds_before = seconds
        progress.reason = row.pop("stop", None) or run.budget.spent(run.step, seconds + ahead)
        total, count = progress.window
        progress.window, progress.row, progress.pending = (total + row["loss"], count + 1), row, True

    def ended(self) -> None:
        """Note that EM's family has no more iterations to make; its last row is written again if it can now be validated."""
        run = self.run
        last = isinstance(run.model, ByEM) and run.step == run.model.max_iter
        run.progress.reason, run.progress.pending = "iterations" if last else "tolerance", run.valid is not None

    def after_step(self) -> None:
        """Validate and log if it is time; a signal during validation leaves the step pending."""
        run, progress = self.run, self.run.progress
        valid, due = {}, self.time_to_validate()
        if due:
            value = self.strategy.validate(run)
            if value is None:
                return
            self.judge(value)
            valid = {"valid": value}
        every = run.settings.log_every or (10 if self.strategy.stochastic else 1)
        if due or progress.reason or run.step == 1 or run.step % every == 0:
            total, count = progress.window if progress.window[1] else (progress.row["loss"], 1)
            progress.window = (0.0, 0)
            loss = {"loss": total / count, "seconds": round(run.clock.seconds, 3)}
            self.journal.write({"step": run.step} | progress.row | loss | valid)
        progress.pending = False

    def time_to_validate(self) -> bool:
        """At the end, and every so often before for strategies that overfit."""
        run, settings = self.run, self.run.settings
        if run.valid is None:
            return False
        rows = max(len(run.valid), settings.valid_rows)
        usual = validation_interval(len(run.train), rows, settings.batch) if self.strategy.stochastic else 0
        every = settings.validate_every or (max(usual, self.strategy.seldom) if usual else 0)
        return bool(run.progress.reason) or (every > 0 and run.step % every == 0)

    def judge(self, value: float) -> None:
        """Keep the weights if they are the best so far; run out of patience if they have not been for long."""
        run, progress, patience = self.run, self.run.progress, self.run.settings.patience
        if not math.isfinite(value):
            self.notes.append(f"step {run.step}: the {self.strategy.criterion} is {value}")
        if value < (progress.best["valid"] if progress.best else math.inf):
            progress.best, progress.waiting = {"step": run.step, "valid": value}, 0
            run.keep_best()
            return
        progress.waiting += 1
        if patience is not None and progress.waiting >= patience and not progress.reason:
            progress.reason = "patience"

    # --- the folder ----------------------------------------------------------------------------------------------------

    def save(self, finished: str | None = None) -> None:
        """Write a checkpoint: the weights to use, and unless the run is finished all that a resume needs."""
        run = self.run
        if self.folder is None or not (processes.is_first() or run.split):
            return
        self.journal.flush()
        metrics: dict[str, Any] = {"step": run.step, "seconds": run.clock.seconds}
        state = metrics | {"memory": asdict(run.progress), "rows": self.journal.written, "finished": finished}
        other = {} if self.strategy.criterion == VALIDATION_LOSS else {"criterion": self.strategy.criterion}
        metrics = metrics | {"best": run.progress.best} | other
        tensors = {} if finished else run.tensors()
        with run.finest():
            info, model = self.info | {"metrics": metrics}, gathered(run)
            if processes.is_first():
                checkpoint.save(model, self.folder, info=info, state=state, state_tensors=tensors)
        self.last_save = time.monotonic()

    def save_if_possible(self) -> None:
        """A checkpoint on the way; a full disk is a warning, since the last one still stands."""
        try:
            self.save()
        except (OSError, LikeliError) as error:
            self.journal.warn("checkpoint", f"a checkpoint at step {self.run.step} was not written: {error}")
            self.last_save = time.monotonic()

    def _mark_diverged(self, error: Diverged) -> str:
        """Have the run say, whenever it is used, that its training broke down; returns where its last good weights are."""
        if self.folder is None or not processes.is_first():
            return ""
        with suppress(OSError, LikeliError):  # none was saved yet, or the disk is full: the error itself is what to tell
            step = checkpoint.read(self.folder).step
            checkpoint.annotate(self.folder, {"diverged": f"{error}; the weights are those of step {step}"})
            return f"; the weights of step {step} are in {self.folder}"
        return ""

    def load(self) -> str:
        """Take the folder's last checkpoint over; returns why that run finished, if it did.

        Raises:
            InputError: the run was started with another model, other data or other settings.
        """
        run, saved = self.run, checkpoint.read(self.folder)
        ours, theirs = self.info["training"], saved.info.get("training", {})
        longer = _longer(ours, theirs)
        _same({"model": _asked_for(run.model), **ours}, {"model": _asked_for(saved.model), **theirs})
        check_state(saved.state, saved.step, typing.get_type_hints(Progress), saved.path / "train_state.json")
        run.restore(saved.model.state_dict(), saved.state, saved.state_tensors)
        processes.agree({"step": run.step})
        self.journal.resume(saved.state["rows"])
        finished = saved.state["finished"] or ""
        if finished in ("steps", "minutes") and longer:
            self.notes.append(f"went on after {run.step} steps from the weights that were kept, with fresh moments of Adam")
            run.progress.reason, finished = None, ""
        return finished

    def history(self, reason: str) -> History:
        """The report."""
        run = self.run
        self.notes += run.model.notes
        if run.progress.skipped:
            self.notes.append(f"{run.progress.skipped} of {run.step} steps were skipped, their gradients too large")
        self.notes += self._doubts(reason)
        if run.model.strategy == "em" and reason in ("steps", "minutes", "iterations"):
            self.notes.append(f"EM stopped after {run.step} iterations, before its gain fell below the tolerance")
        warnings = list(self.journal.troubles.values())
        unit = self.journal.dimensions
        told = (self.notes, warnings, unit, self.strategy.criterion)
        return History(self.journal.rows, run.progress.best, reason, run.clock.seconds, run.step, *told)

    def _doubts(self, reason: str) -> list[str]:
        """Why what was kept may be hardly trained at all."""
        run, progress, found = self.run, self.run.progress, list[str]()
        if not self.strategy.stochastic:
            return found
        if reason == "minutes" and run.step < FEWEST_STEPS:
            each = run.clock.seconds / max(run.step, 1)
            needs = "a smaller model, a smaller batch or a longer budget is needed"
            found.append(f"the budget ended after {run.step} steps of {each:.3g} s: {needs}")
        if self.strategy.criterion != VALIDATION_LOSS:
            return [*found, self._chosen()]
        if progress.best is not None and progress.first is not None:
            with run.finest():
                last = _glance(run)
            if last is not None and not last <= progress.first:
                worse = f"the loss of validation rows, {last:.4g}, is worse than the untrained model's {progress.first:.4g}"
                found.append(f"{worse}: train longer, or with a smaller --train.lr")
        return found

    def _chosen(self) -> str:
        """By what, and from how many, the weights were chosen where that is not the loss."""
        best, of = self.run.progress.best, self.strategy.criterion
        looks = [row for row in self.journal.rows if "valid" in row]
        if best is None or not looks:
            return f"the last step was kept: there were no validation rows, and only the {of} tells which step is good"
        epoch = next((row["epoch"] for row in looks if row["step"] == best["step"]), "?")
        last = f"{looks[-1]['valid']:.3g} at step {looks[-1]['step']}, the last"
        return f"step {best['step']} (epoch {epoch}) of {len(looks)} looked at was kept: {of} {best['valid']:.3g}, {last}"


def _glance(run: Run) -> float | None:
    """Mean loss of at most a batch of validation rows, with the same noise each time: states are compared by it."""
    if run.valid is None:
        return None
    x, y = next(run.valid.chunks(run.settings.batch))
    with evaluating(run.model), torch.no_grad():
        run.reseed("valid", 0, 0)
        return loss_of(run, x, y).double().mean().item()


def _asked_for(model: GenerativeModel) -> dict[str, Any]:
    """The model as it was before the fit: without what training rows decide, the classes' shares and the trees."""
    described = describe(model)
    condition = described.get("condition")
    for of_rows in ("trees", "features"):
        described.pop(of_rows, None)
    return described | {"condition": condition and {k: v for k, v in condition.items() if k != "shares"}}


def _longer(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether the budget has grown since the run was started, in which case it is no difference for `_same`.

    The learning rate is then that of the larger budget at the step reached.

    Raises:
        InputError: it has shrunk.
    """
    for name in ("steps", "minutes"):
        now, before = ours.get(name), theirs.get(name)
        if now is not None and before is not None and now != before:
            if now < before:
                raise InputError(f"resume: expected {name} of at least {before}, as the run was started with, got {now}")
            theirs[name] = now
            return True
    return False


def _agrees(now: Any, before: Any, chosen: bool) -> bool:
    """Whether two options are equal, or the earlier one was left open and is now `chosen` by name."""
    if chosen and isinstance(now, dict) and isinstance(before, dict):
        return all(_agrees(now.get(k), before.get(k), k == "network") for k in {**now, **before})
    return now == before or (chosen and before in (None, "auto"))


def _same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Refuse to go on with a run under other conditions; how often it is saved, and whether it is split, may change."""
    older = {field.name: field.default for field in fields(TrainSettings)}  # what runs did before there was a choice
    for name in {**ours, **theirs}:
        a, b = ours.get(name), theirs.get(name, older.get(name))
        if a == b or name in ("checkpoint_every", "shard"):
            continue
        if name == "data_sha256":
            raise InputError("resume: expected the rows that the run was started with, got others")
        if name == "model" and a and b:
            others = [k for k in {**a, **b} if not _agrees(a.get(k), b.get(k), k in ("backbone", "shift"))]
            if not others:
                continue
            name = others[0]
            a, b = a.get(name), b.get(name)
        raise InputError(f"resume: expected {name} {b}, as the run was started with, got {a}")


HANDLED = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Inside `with StopSignal() as stop`, the first signal sets `stop.received`; a second one ends the process at once.

    The handlers that were there come back after the block.  Outside the main thread, where Python allows no handler, nothing is
    installed.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.received = signal.Signals(number)

    def anywhere(self) -> bool:
        """Whether one has come to any of the processes that share this run, which then all stop after the same step."""
        mine = signal.SIGTERM if processes.is_orphan() else 0
        number = int(processes.largest(torch.tensor(self.received or mine)))
        if number:
            self.received = signal.Signals(number)
        return number > 0

    def interrupted(self, where: str) -> Interrupted:
        """The error that reports the signal, with the shell's exit code for it."""
        number = self.received or signal.SIGINT
        error = Interrupted(f"stopped by {number.name} {where}")
        error.exit_code = 128 + number
        return error
