"""How far some work has come, on standard error: a bar on a terminal, a line every half minute anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Literal

from tqdm import tqdm

EVERY = 30.0  # seconds between lines; work of less time says nothing
Shown = bool | Literal["always"]


class Gauge:
    """A bar or lines that say how much is done.  A closed terminal or a full disk never stops the work.

    Arguments:
        shown: False for silence, `"always"` for a bar whatever standard error is.
        title: what is being done.
        total: of `unit`, when all is done.
        done: of it so far.
        unit: of both: steps, seconds, rows.
    """

    def __init__(self, shown: Shown, title: str, total: float, *, done: float = 0.0, unit: str = "steps") -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.title, self.total, self.unit = title, total, unit
        self.lines = bool(shown) and not terminal and shown != "always" and sys.stderr is not None
        self.began = self.told = time.monotonic()
        self.bar: _Bar | None = None
        if shown == "always" or (shown and terminal):
            self.bar = _Bar(total=total, initial=done, desc=title, leave=False, bar_format=_FORMAT, file=sys.stderr)

    def advance(self, done: float, words: Callable[[], str] = str) -> None:
        """So much is done; `words` gives what else there is to say."""
        try:
            if self.bar is not None:
                self.bar.set_postfix_str(words(), refresh=False)
                self.bar.update(min(done, self.total) - self.bar.n)
            now = time.monotonic()
            if self.lines and now - self.told >= EVERY:
                first = f" (a line every {EVERY:.0f} s)" if self.told == self.began else ""
                what = f"{min(done, self.total):.0f} of {self.total:.0f} {self.unit} after {now - self.began:.0f} s"
                print(f"likeli: {self.title}: {', '.join(filter(None, (what, words())))}{first}", file=sys.stderr, flush=True)
                self.told = now
        except (OSError, ValueError):  # a closed file is a ValueError
            self.bar, self.lines = None, False

    def close(self) -> None:
        """Take the bar away."""
        try:
            if self.bar is not None:
                self.bar.close()
        except (OSError, ValueError):
            self.bar = None


_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class _Bar(tqdm):
    monitor_interval = 0  # no watching thread: it would outlive the run, and a fork of it hangs
