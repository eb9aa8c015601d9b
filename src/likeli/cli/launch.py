"""`--processes N`: the command N times on this machine, as torchrun would start it, watched until all have ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import pairwise
from typing import Any

from likeli import __version__
from likeli.cli.output import log
from likeli.errors import FAILED, require

GRACE = 20.0  # seconds for the others to end by themselves when one has failed; then as many after SIGTERM, if none was killed
PER_CORE = 4  # processes at most: each holds torch and all rows in memory
LAUNCHER = "LIKELI_LAUNCHER"  # what a started process finds the launcher's pid under


def is_one_of_several() -> bool:
    """Whether a launcher started this process as one of several; says so without torch."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def one_of_several(command: str) -> Iterator[None]:
    """Inside the block this process is one of those that its launcher has started, and only the first is heard.

    Raises:
        InputError: they cannot meet, or are of another version or another command.
    """
    if not is_one_of_several():
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else every process advises against a choice that is meant
    import torch

    from likeli import processes

    with processes.joined_by_launcher():
        processes.agree({"likeli": __version__, "torch": torch.__version__, "command": command})
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            heard = processes.is_first()
            with redirect_stdout(sys.stdout if heard else nowhere), redirect_stderr(sys.stderr if heard else nowhere):
                yield


def check_processes(command: str, wanted: int | None, shares: bool) -> None:
    """Refuse a number of processes that cannot be.

    Arguments:
        command: the verb.
        wanted: `--processes`.
        shares: whether the verb can share its rows at all.
    """
    most = PER_CORE * (os.cpu_count() or 1)
    require(wanted is None or 1 <= wanted <= most, "processes", f"a whole number from 1 to {most}, {PER_CORE} a core", wanted)
    started = os.environ.get("WORLD_SIZE") if is_one_of_several() else None
    told = f"{started} that a launcher has started"
    require(started is None or wanted is None, "processes", f"no such option beside the {told}", wanted)
    require(started is None or shares, command, "one process, since it does not share its rows", told)


def launch(argv: Sequence[str], n: int) -> int:
    """Run `likeli ARGV` as n processes; returns the first exit code that is not 0.

    Signals go to all of them.  When one fails the others get time to end by themselves; none is left when this returns.
    """
    words = [w for before, w in pairwise(["", *argv]) if before != "--processes" and not w.startswith("--processes")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = os.environ.get("MASTER_PORT") or str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {LAUNCHER: str(os.getpid())}
    usual = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // n))}
    own: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True}  # a terminal's Ctrl-C comes through us, once
    started: list[subprocess.Popen[bytes]] = []
    with _forwarded(started):
        for i in range(n):
            env = usual | dict(os.environ) | shared | {"RANK": str(i), "LOCAL_RANK": str(i)}
            started.append(subprocess.Popen([sys.executable, "-m", "likeli", *words], env=env, **own))
        ended_by_us = _watch(started)
    codes = [process.returncode for process in started]
    for i, code in enumerate(codes):
        if code < 0 and i not in ended_by_us:
            log(f"likeli: process {i} of {n} was ended by {signal.Signals(-code).name}; a run that was saved can be resumed")
            return FAILED
    return next((code if code > 0 else FAILED for code in codes if code), 0)


@contextmanager
def _forwarded(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM go on to the processes."""

    def forward(number: int, _: object) -> None:
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(started: Sequence[subprocess.Popen[bytes]]) -> set[int]:
    """Wait until all have ended; which of them we had to end."""
    failed_at, ended = 0.0, set[int]()
    while running := [i for i, process in enumerate(started) if process.poll() is None]:
        if not failed_at and any(process.returncode for process in started):
            failed_at = time.monotonic()
        over = time.monotonic() - failed_at if failed_at else 0.0
        if over > GRACE:
            ended.update(running)
            killed = any((process.returncode or 0) < 0 for process in started)  # they wait for it, and have nothing to save
            for i in running:
                (started[i].kill if killed or over > 2 * GRACE else started[i].terminate)()
        time.sleep(0.02 if over < GRACE else 1.0)
    return ended
