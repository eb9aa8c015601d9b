"""What a run reports while it goes and when it is over."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from likeli import checkpoint
from likeli.errors import OK, OUTPUT_WARNING, LikeliError

Row = dict[str, Any]


@dataclass
class History:
    """How a training run went.

    Arguments:
        rows: one per logged step: step, epoch, loss (mean since the row before), seconds, and what the strategy adds.
        best: step and validation loss of the weights that were kept; None without a validation split.
        stopped_because: `steps`, `minutes`, `patience`, `tolerance` (EM converged), `iterations` (EM did not) or `closed form`.
        seconds: training time, earlier legs of a resumed run included.
        steps: optimisation steps taken.
        notes: what a reader of the numbers should know.
        warnings: outputs that could not be written; `exit_code` is then 3.
    """

    rows: list[Row] = field(default_factory=list)
    best: Row | None = None
    stopped_because: str = ""
    seconds: float = 0.0
    steps: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 3 when an output could not be written."""
        return OUTPUT_WARNING if self.warnings else OK


class Journal:
    """The rows of a run: kept, appended to its folder, shown on a bar.  A full disk or a closed terminal never stops training.

    Arguments:
        folder: the run's folder, or None.
        dimensions: D, to show bits/dim = loss / (D ln 2); None when the loss is not in nats.
    """

    def __init__(self, folder: Path | None, dimensions: int | None = None) -> None:
        self.folder, self.dimensions = folder, dimensions
        self.rows: list[Row] = []
        self.latest: dict[str, float] = {}
        self.written = 0
        self.troubles: dict[str, str] = {}
        self.bar: _Bar | None = None

    def resume(self, rows: int) -> None:
        """Take over the first `rows` rows of the folder and drop what an interrupted leg wrote after them."""
        if self.folder is not None:
            checkpoint.truncate_history(self.folder, rows)
            self.rows = checkpoint.read_history(self.folder)
            self.written = len(self.rows)

    def show(self, progress: bool | Literal["always"], title: str, total: float, done: float) -> None:
        """Start the bar: `True` shows it on a terminal only.  total and done are steps, or seconds."""
        if progress == "always" or (progress and sys.stderr is not None and sys.stderr.isatty()):
            self.bar = _Bar(total=total, initial=done, desc=title, leave=False, bar_format=_FORMAT, file=sys.stderr)

    def advance(self, done: float) -> None:
        """Move the bar to `done`."""
        if self.bar is not None:
            try:
                self.bar.update(min(done, self.bar.total) - self.bar.n)
            except OSError:
                self.bar = None

    def write(self, row: Row) -> None:
        """One row more."""
        self.rows.append(row)
        self._save_rows()
        self.latest |= {k: row[k] for k in ("loss", "valid") if k in row}
        if self.bar is not None:
            self.bar.set_postfix_str(self.words(), refresh=False)

    def _save_rows(self) -> None:
        try:
            while self.folder is not None and self.written < len(self.rows):  # rows that failed before are tried again
                checkpoint.append_history(self.folder, self.rows[self.written])
                self.written += 1
        except (OSError, LikeliError) as error:
            self.warn("history", f"history.jsonl: {error}")

    def words(self) -> str:
        """The latest numbers, for the bar."""
        unit = 1 / (self.dimensions * math.log(2)) if self.dimensions else 1.0
        shown = [f"{k} {v * unit:.3f}" for k, v in self.latest.items()]
        return ", ".join(shown) + (" bits/dim" if self.dimensions else "")

    def warn(self, output: str, message: str) -> None:
        """Note, once for each output, that it could not be written."""
        self.troubles.setdefault(output, message)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            try:
                self.bar.close()
            except OSError:
                self.bar = None


_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class _Bar(tqdm):
    monitor_interval = 0  # no watching thread: it would outlive the run, and a fork of it hangs
