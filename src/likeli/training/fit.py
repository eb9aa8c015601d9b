"""`fit`: train any model on any data, so that a kill at any instant costs nothing but time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch

from likeli import checkpoint, processes
from likeli.config import describe
from likeli.contract import ByEM, GenerativeModel
from likeli.errors import require
from likeli.progress import Shown
from likeli.random import seeded
from likeli.spaces.labels import with_shares
from likeli.training.batches import Examples, fingerprint, gather
from likeli.training.engine import pick_device
from likeli.training.history import History, Journal
from likeli.training.run import Run
from likeli.training.session import Session, StopSignal
from likeli.training.settings import Budget, TrainSettings, default_steps, resolve
from likeli.training.sharding import require_shardable, split_over_processes
from likeli.training.strategies import STRATEGIES

EM_ITERATIONS = 1000  # a bound for families that have none of their own


def fit(
    model: GenerativeModel,
    data: Any,
    y: Any = None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Shown = True,
    **settings: Any,
) -> History:
    """Fit `model` in place and leave it with the best weights, in evaluation mode: dropout is off in whatever follows.

    With `out`, a run folder is kept there from which `resume=True` goes on: on a CPU with the same number of threads the
    weights and every logged loss are, to the bit, those of a run that was never stopped.  (With `minutes` the schedule follows
    the clock, so no two runs are alike.)

    Arguments:
        model: what to fit, by its own `strategy`.
        data: a `Data` (its training rows are fitted, its validation rows pick the best weights), or an array of training rows
            (N, *space.shape) in the user's units; an array has no validation rows.
        y: (N, *condition.shape), for an array and a conditional model.
        steps, minutes: the budget, one of the two; by default a number of steps that grows with the rows, and for EM until the
            tolerance.
        seed: data order and noise are a function of it.
        out: folder of the run.
        resume: go on with the run in `out`; a finished run is returned as it is.
        overwrite: replace the run in `out`.
        progress: on stderr, a bar on a terminal and a line every 30 seconds elsewhere; `"always"` is a bar anywhere.
            What came of it is one line: `print(history)`.
        settings: see `TrainSettings`; a family's `train_defaults` come before its defaults, and on
            text its `text_defaults` before those.  And `sample_weight`, (N,) for all
            rows of the array or the `Data`: how often each row counts, for families trained in batches, gmm, ppca and
            factor_analysis.

    Raises:
        InputError: bad data or option, before any work; `out` exists, cannot be written, or holds another run.
        Diverged: a loss or gradient was not finite; the last good checkpoint is kept.
        Interrupted: SIGINT or SIGTERM, after the step was finished and saved.
    """
    sample_weight = settings.pop("sample_weight", None)
    usual = model.train_defaults | (model.text_defaults if model.space.alphabet is not None else {})
    chosen, budget = resolve(settings, usual), Budget(steps, minutes)
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    require(whole and 0 <= seed < 2**63, "seed", "a whole number from 0 to below 2**63", seed)
    require(not resume or out is not None, "out", "the folder to resume from", out)
    require(model.strategy in STRATEGIES, "model", f"a strategy of {', '.join(STRATEGIES)}", model.strategy)
    device = pick_device(chosen.device, model)
    if chosen.shard:
        require_shardable(model)
    train, valid = gather(model, data, y, sample_weight)
    if model.condition is not None and train.y is not None:
        model.condition = with_shares(model.condition, train.y)
    origin = data.describe() if hasattr(data, "describe") and hasattr(data, "train") else {"name": "array"}
    budget = _default(budget, model, len(train), chosen)
    stochastic = STRATEGIES[model.strategy].stochastic
    shared = min(chosen.batch, len(train)) if stochastic else len(train)
    most = f"at most {shared}, the rows of {'a batch' if stochastic else 'the data'}"
    require(processes.count() <= shared, "processes", most, processes.count())
    by_rows = model.strategy != "boosting"
    grows = f"1 for {model.kind()}, which grows column by column"
    require(by_rows or processes.count() == 1, "processes", grows, processes.count())
    if processes.count() > 1:
        processes.agree(_asked(model, train, valid, chosen, budget, seed))
    with _alone(model), StopSignal() as stop, _folder(out, overwrite, resume) as (folder, resumes):
        valid = valid.to(device) if valid is not None else None
        split = chosen.shard and processes.count() > 1
        mine, its_loss = split_over_processes(model, device) if split else (model.to(device), None)
        run = Run(mine, train.to(device), valid, chosen, budget, seed, stop.anywhere, stochastic)
        run.split = (its_loss, model) if its_loss is not None else None
        journal = Journal(folder if processes.is_first() else None, model.space.dimensions if model.loss_in_nats else None)
        origin = checkpoint.sealed(origin) if folder is not None and origin.get("source") is not None else origin
        session = Session(run, stop, journal, folder, {"data": origin} | _record(run, folder))
        try:
            with seeded(seed, "fit"):
                return session.go(resumes, progress)
        finally:
            model.eval()


_fitting: WeakSet[GenerativeModel] = WeakSet()
_lock = threading.Lock()


@contextmanager
def _alone(model: GenerativeModel) -> Iterator[None]:
    """The model is one thread's inside the block: two that step the same weights would ruin both's."""
    with _lock:
        require(model not in _fitting, "model", "one that no other thread is fitting", f"a {model.kind()} that one is")
        _fitting.add(model)
    try:
        yield
    finally:
        _fitting.discard(model)


def _default(budget: Budget, model: GenerativeModel, rows: int, settings: TrainSettings) -> Budget:
    if budget.steps or budget.minutes:
        return budget
    if model.strategy == "boosting":
        return Budget(steps=model.space.dimensions)  # a column a step
    bound = max(EM_ITERATIONS, model.max_iter if isinstance(model, ByEM) else 0)
    return Budget(steps=default_steps(rows, settings.batch) if STRATEGIES[model.strategy].stochastic else bound)


@contextmanager
def _folder(out: str | Path | None, overwrite: bool, resume: bool) -> Iterator[tuple[Path | None, bool]]:
    """The run's folder, locked, and whether there is something in it to resume from."""
    if out is None:
        yield None, False
        return
    first = processes.is_first()
    resumes = checkpoint.prepare_folder(out, overwrite, resume) if first else False
    with checkpoint.lock(out) if first else nullcontext():
        resumes = processes.first_says(resumes) == 1
        seen = [there for there, _ in processes.exchanged(Path(out).is_dir(), {})]
        told = f"{out}, which process {seen.index(False)} does not see" if False in seen else ""
        processes.require_together(not told, "out", "a folder that all processes share", told)
        yield Path(out), resumes


def _asked(
    model: GenerativeModel, train: Examples, valid: Examples | None, settings: TrainSettings, budget: Budget, seed: int
) -> dict[str, Any]:
    """What must be the same in all processes that share a run."""
    weights = Examples(torch.cat([t.detach().double().flatten().cpu() for t in model.state_dict().values()]))
    asked = {"seed": seed, "rows of the data (sha256)": fingerprint(train, valid)[:16], "model": describe(model)}
    asked |= {"steps": budget.steps, "minutes": budget.minutes} | settings.plain()
    return json.loads(json.dumps(asked | {"first weights (sha256)": fingerprint(weights)[:16]}))


def _record(run: Run, folder: Path | None) -> dict[str, Any]:
    """What the checkpoint says of the training, and what a resume must find again."""
    sha = fingerprint(run.train, run.valid) if folder is not None else ""
    how = {"strategy": run.model.strategy, "seed": run.seed, "steps": run.budget.steps, "minutes": run.budget.minutes}
    return {"training": how | run.settings.plain() | {"data_sha256": sha}}
