"""How a signal ends a command: in one line, with the shell's code for it, and soon, whatever the command is doing.

The handler raises in the main thread, so that outputs that are half written are removed.  A library may swallow that while it
is being imported, and no handler runs inside a long call; so a second thread, woken by the system itself, ends the process
when the time is up.  Where training has put its own handlers, which save first, it stays out of the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from likeli.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 1.4  # seconds from a signal to the end
unfinished: set[Path] = set()  # outputs that are being written


def stopped_by(number: int, where: str = "") -> Interrupted:
    """The error that reports a signal, with the shell's exit code for it."""
    error = Interrupted(f"stopped by {signal.Signals(number).name}{where}")
    error.exit_code = 128 + number
    return error


def leave(number: int, argv: Sequence[str] = ()) -> None:
    """Say what stopped the process, remove what is half written, and be gone."""
    told, code = f"stopped by {signal.Signals(number).name}", 128 + number
    for path in list(unfinished):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        os.write(2, f"likeli: {told}\n".encode())
    with contextlib.suppress(OSError):
        if "--json" in argv:
            os.write(1, f"{json.dumps({'error': told, 'exit_code': code, 'type': 'Interrupted'})}\n".encode())
    os._exit(code)


@contextlib.contextmanager
def ended_by_signals(argv: Sequence[str]) -> Iterator[list[int]]:
    """Inside the block SIGINT and SIGTERM raise `Interrupted`, and end the process if the block has not ended `GRACE` later.

    Signals that are ignored stay so.  Outside the main thread, where Python allows no handler, nothing is installed.

    Yields:
        The signals that have come.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise stopped_by(number)

    before: dict[int, Any] = {s: h for s in SIGNALS if (h := signal.getsignal(s)) is not signal.SIG_IGN}
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    for number in before:
        signal.signal(number, stop)
    waker = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(told, stop, over, argv), daemon=True).start()
    try:
        yield came
    finally:
        over.set()
        signal.set_wakeup_fd(waker)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(tell)


def _watch(told: int, stop: Callable[..., None], over: threading.Event, argv: Sequence[str]) -> None:
    while number := os.read(told, 1):
        if signal.getsignal(number[0]) is stop and not over.wait(GRACE):
            leave(number[0], argv)
    os.close(told)
