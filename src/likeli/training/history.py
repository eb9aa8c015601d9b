"""What a run reports while it goes and when it is over."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from likeli import checkpoint
from likeli.errors import OK, OUTPUT_WARNING, LikeliError
from likeli.progress import Gauge, Shown

Row = dict[str, Any]
VALIDATION_LOSS = "validation loss"
REASONS = {
    "steps": "its steps are taken",
    "minutes": "its minutes are over",
    "patience": "validation had not improved for long",
    "tolerance": "an iteration gained less than the tolerance",
    "iterations": "its iterations were used up",
    "closed form": "there is a closed form",
}


@dataclass
class History:
    """How a training run went.

    Arguments:
        rows: one per logged step: step, epoch, loss (mean since the row before), seconds, and what the strategy adds.
        best: step and validation loss (or what `criterion` names) of the weights that were kept; None without validation rows.
        stopped_because: `steps`, `minutes`, `patience`, `tolerance` (EM converged), `iterations` (EM did not) or `closed form`.
        seconds: training time, earlier legs of a resumed run included.
        steps: optimisation steps taken.
        notes: what a reader of the numbers should know.
        warnings: outputs that could not be written; `exit_code` is then 3.
        dimensions: D, cells of one example, where the losses are nats of them; None where they have no unit.
        criterion: what the numbers `valid` are, by which weights are kept.
    """

    rows: list[Row] = field(default_factory=list)
    best: Row | None = None
    stopped_because: str = ""
    seconds: float = 0.0
    steps: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dimensions: int | None = None
    criterion: str = VALIDATION_LOSS

    def __str__(self) -> str:
        """One line: how long, why it ended, and the best loss with its unit."""
        why = REASONS.get(self.stopped_because, self.stopped_because)
        line = f"{self.steps} steps in {self.seconds:.1f} s, stopped since {why}"
        name, row = (f"best {self.criterion}", self.best) if self.best else ("last loss", next(reversed(self.rows), {}))
        value = row.get("valid", row.get("loss"))
        if value is None:
            return line
        bits = f"{value:.2f} nats, {value / (self.dimensions * math.log(2)):.3f} bits/dim" if self.dimensions else ""
        return f"{line}; {name} {bits or f'{value:.4g} (no unit)'}, at step {row['step']}"

    @property
    def exit_code(self) -> int:
        """0, or 3 when an output could not be written."""
        return OUTPUT_WARNING if self.warnings else OK


class Journal:
    """The rows of a run: kept, appended to its folder, shown as they come.  No full disk or closed terminal stops training.

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
        self.gauge: Gauge | None = None

    def resume(self, rows: int) -> None:
        """Take over the first `rows` rows of the folder and drop what an interrupted leg wrote after them."""
        if self.folder is not None:
            checkpoint.truncate_history(self.folder, rows)
            self.rows = checkpoint.read_history(self.folder)
            self.written = len(self.rows)

    def show(self, progress: Shown, title: str, total: float, done: float, unit: str) -> None:
        """Start to say how far the run is; total and done are steps, or seconds."""
        self.gauge = Gauge(progress, title, total, done=done, unit=unit)

    def advance(self, done: float) -> None:
        """The run has come to `done`."""
        if self.gauge is not None:
            self.gauge.advance(done, self.words)

    def write(self, row: Row) -> None:
        """One row more."""
        self.rows.append(row)
        self.flush()
        self.latest |= {k: row[k] for k in ("loss", "valid") if k in row}

    def flush(self) -> None:
        """Append the rows that are not in the folder yet, those that failed before among them."""
        try:
            while self.folder is not None and self.written < len(self.rows):
                checkpoint.append_history(self.folder, self.rows[self.written])
                self.written += 1
            self.troubles.pop("history", None)
        except (OSError, LikeliError) as error:
            self.warn("history", f"history.jsonl: {error}")

    def words(self) -> str:
        """The latest numbers, as they stand beside the bar."""
        unit = 1 / (self.dimensions * math.log(2)) if self.dimensions else 1.0
        shown = [f"{k} {v * unit:.3f}" for k, v in self.latest.items()]
        return ", ".join(shown) + (" bits/dim" if self.dimensions else "")

    def warn(self, output: str, message: str) -> None:
        """Note, once for each output, that it could not be written."""
        self.troubles.setdefault(output, message)

    def close(self) -> None:
        """Take the bar away."""
        if self.gauge is not None:
            self.gauge.close()
