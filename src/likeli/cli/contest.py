"""Several families on one data set, each fitted and evaluated by this command line in processes of one thread.

Whatever happens to one of them, it is a row: its number, or why there is none.  The processes are forks of one that has
imported what all of them need, so that a small fit costs what it takes and not ten imports of torch.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from likeli.cli.ending import GRACE, SIGNALS, leave, stopped_by
from likeli.cli.output import log
from likeli.errors import FAILED, INTERRUPTED, OK, Interrupted

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One family to be fitted and evaluated.

    Arguments:
        family: its name.
        fit: the arguments of `likeli fit`.
        evaluate: the arguments of `likeli evaluate` after the run folder.
        folder: the run folder.
    """

    family: str
    fit: tuple[str, ...]
    folder: str
    evaluate: tuple[str, ...] = ()

    @property
    def values(self) -> str:
        """The file of log p of every held-out row, beside the folder."""
        return f"{self.folder}.csv"


@dataclass
class Contest:
    """Runs jobs, at most `parallel` at a time, until they are done or a signal comes.

    Arguments:
        jobs: in the order in which they start.
        parallel: processes at a time.
        say: told a line at each start and end.
        keep: whether the runs stay when the contest is over.
    """

    jobs: Sequence[Job]
    parallel: int
    say: Callable[[str], None]
    keep: bool = True
    stopped: int | None = None
    running: set[BaseProcess] = field(default_factory=set)
    timers: list[threading.Timer] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """One row per job, in the jobs' order."""
        with self._signals(), ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._row, self.jobs))

    def _row(self, job: Job) -> Row:
        self.say(f"{job.family}: fitting")
        fitted = self._call("fit", *job.fit, "--out", job.folder, "--json", "--quiet")
        if "error" in fitted:
            return self._failed(job, fitted["error"])
        self.say(f"{job.family}: {fitted['steps']} steps in {fitted['seconds']:.0f} s; evaluating")
        found = self._call("evaluate", job.folder, *job.evaluate, "--out", job.values, "--overwrite", "--json")
        if found.get("type") == "Unsupported":
            return empty_row(job.family) | {"knows": "nothing", "seconds": fitted["seconds"], "notes": [found["error"]]}
        if "error" in found:
            return self._failed(job, found["error"])
        self.say(f"{job.family}: done")
        return found | {"seconds": fitted["seconds"], "notes": list(dict.fromkeys(found["notes"] + fitted["notes"]))}

    def _failed(self, job: Job, reason: str) -> Row:
        reason = reason if self.keep else reason.partition("; saved in ")[0]
        self.say(f"{job.family}: {reason}")
        return empty_row(job.family) | {"notes": [f"no number: {reason}"], "error": reason}

    def _call(self, *arguments: str) -> Row:
        if self.stopped is not None:
            return {"error": "not started: interrupted", "exit_code": INTERRUPTED}
        with tempfile.TemporaryDirectory(prefix="likeli-said-") as said:
            out, err = Path(said, "out"), Path(said, "err")
            process = _forks().Process(target=_work, args=(arguments, str(out), str(err)), daemon=True)
            process.start()
            self.running.add(process)
            process.join()
            self.running.discard(process)
            texts = [file.read_text("utf-8", "replace") if file.exists() else "" for file in (out, err)]
            return _result(process.exitcode or 0, *texts)

    def interrupted(self) -> Interrupted:
        """The error that says which signal stopped it, and where what was done is kept."""
        kept = f"; what was saved is in {Path(self.jobs[0].folder).parent}" if self.keep and self.jobs else ""
        return stopped_by(self.stopped or signal.SIGINT, kept)

    def raise_if_nothing_is_done(self, rows: Sequence[Row]) -> None:
        """Raises what `interrupted` gives if a signal came before any family had a number: there is no table to print."""
        if self.stopped is not None and all("error" in row for row in rows):
            raise self.interrupted()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM are passed on to the children, which save; what has not started does not start."""
        before = {s: signal.signal(s, self._stop) for s in SIGNALS}
        try:
            yield
        finally:
            for timer in self.timers:
                timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped = number
        self._pass_on(number)
        for seconds, act in ((GRACE - 0.4, lambda: self._pass_on(signal.SIGKILL)), (GRACE, lambda: leave(number))):
            timer = threading.Timer(seconds, act)
            timer.daemon = True
            timer.start()
            self.timers.append(timer)

    def _pass_on(self, number: int) -> None:
        for process in list(self.running):
            with suppress(OSError, ValueError, AssertionError):  # it ended meanwhile
                if process.pid is not None:
                    os.kill(process.pid, number)


@functools.cache
def _forks() -> Any:
    """Where processes come from: forks of one process that has done the imports and no work."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["likeli.cli.app", "likeli.models", "likeli.training", "likeli.data", "likeli.evaluation"])
    return context


def _work(arguments: Sequence[str], out: str, err: str) -> None:
    """One command of this command line, what it prints in two files; its exit code is the process's."""
    from likeli.cli.app import main

    os.setsid()  # a terminal's signals reach it through us, once
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        stream.flush()
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), stream.fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = main(list(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _result(code: int, out: str, err: str) -> Row:
    try:
        row = json.loads(out)
    except ValueError:
        last = (err.strip().splitlines() or ["no message"])[-1]
        return {"error": f"the process ended with code {code}: {last[:300]}", "exit_code": code}
    return row if code in (OK, 3) or "error" in row else row | {"error": f"exit code {code}"}


def empty_row(family: str) -> Row:
    """A row without numbers."""
    from likeli.evaluation.likelihood import ROW

    return dict.fromkeys(ROW) | {"model": family, "notes": []}


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Highest log p(x) first; then those that are off by a constant, and rows without a number last."""
    return sorted(rows, key=lambda r: (r["nats"] is None, not placed(r), -(r["nats"] or 0.0)))


def placed(row: Row) -> bool:
    """Whether a row's number can be compared with another's."""
    return row["nats"] is not None and row["knows"] != "unnormalized"


def ranks(jobs: Sequence[Job], rows: Sequence[Row]) -> dict[str, int]:
    """The place of each family that has a number; those that the held-out rows cannot tell apart share one."""
    from likeli.evaluation.likelihood import read_values, shared_ranks

    numbered = [row["model"] for row in rows if placed(row)]
    files = {job.family: Path(job.values) for job in jobs if job.family in numbered}
    if not all(file.exists() for file in files.values()):
        return {name: place for place, name in enumerate(numbered, 1)}
    return shared_ranks({name: read_values(files[name]) for name in numbered})


def caveats(rows: Sequence[Row], places: Mapping[str, int] | None = None) -> list[str]:
    """What a reader of the ranking must know."""
    kinds = {r["knows"] for r in rows if r["nats"] is not None}
    measures = {r["measure"] for r in rows if r["nats"] is not None}
    notes = []
    without = [r["model"] for r in rows if r["nats"] is not None and not placed(r)]
    if without:
        told = "off by an unknown log Z and so without a rank; keep the runs (--out), and `likeli normalise` them"
        notes.append(f"{', '.join(without)}: {told}")
    if "lower bound" in kinds:
        notes.append("a lower bound may under-state its model: the true log p(x) is at least the number shown")
    if len(kinds) > 1:
        notes.append(f"the rows are of different kinds ({', '.join(sorted(kinds))}); the column says which is which")
    if len(measures) > 1:
        notes.append("densities and masses cannot be compared with each other")
    if places and len(set(places.values())) < len(places):
        notes.append("families of one rank differ from its first by less than two standard errors, row by row")
    return notes


def exit_code(contest: Contest, rows: Sequence[Row]) -> int:
    """Interrupted, which it says, else failed if no row has a number, else ok."""
    if contest.stopped is not None:
        log(f"likeli: {contest.interrupted()}")
        return contest.interrupted().exit_code
    return OK if any("error" not in r for r in rows) else FAILED
