"""Ctrl-C and SIGTERM as a flag that the training loop looks at between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from likeli.errors import Interrupted

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

    def __bool__(self) -> bool:
        return self.received is not None

    def interrupted(self, where: str) -> Interrupted:
        """The error that reports the signal, with the shell's exit code for it."""
        number = self.received or signal.SIGINT
        error = Interrupted(f"stopped by {number.name} {where}")
        error.exit_code = 128 + number
        return error
