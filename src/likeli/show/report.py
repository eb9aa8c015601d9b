"""One HTML file that explains itself: it opens offline, refers to nothing outside, and escapes whatever came from the data.

What stands on the page is in `templates/report.html`; here are its numbers, pictures and words.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from likeli.evaluation.ledger import Ledger
from likeli.evaluation.likelihood import MEANING
from likeli.evaluation.two_sample import ClassifierTest
from likeli.show.pictures import curves_svg, png

CURVE = 20  # rows of history that make a curve
LINES = {"training batches": "loss", "validation rows": "valid"}


@dataclass(frozen=True)
class Contender:
    """One family in a report.

    Arguments:
        row: its row of the table (see `Evaluation.row`), with `error` if it has no number.
        rows: its training history.
        samples: what it draws: an image, or SVG; None if there is no picture of it.
        role: `yardstick` or `neural`, or nothing.
        in_nats: whether its history can be drawn in bits/dim.
        rank: shared by those that the rows cannot tell apart; None without a number.
        kept: `step` and `valid` of the weights that were kept, if validation chose them.
        criterion: what `valid` is, where it is not a loss.
        steps: that it was trained for.
        ledger: the parts of its number.
        told_apart: a classifier's attempt to tell its samples from held-out rows.
        alarms: what else the tests found.
        drawn: the samples themselves, (n, *shape).
        texts: a few of them, where they are text.
        quality: how well samples compare with held-out rows, a classifier's area and the Fréchet distance, as words.
    """

    row: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    samples: Image.Image | str | None = None
    role: str = ""
    in_nats: bool = True
    rank: int | None = None
    kept: Mapping[str, Any] | None = None
    steps: int | None = None
    ledger: Ledger | None = None
    told_apart: ClassifierTest | None = None
    alarms: Sequence[str] = ()
    drawn: Tensor | None = None
    texts: Sequence[str] = ()
    criterion: str = ""
    quality: tuple[str, str] | None = None

    def curve(self, lines: Mapping[str, str], unit: float, what: str) -> list[Figure]:
        """Columns of its history over seconds, if it has any of them.

        Arguments:
            lines: name and column of each.
            unit: what numbers are multiplied by.
            what: they then are.
        """
        series = {}
        for name, key in lines.items():
            points = [(r["seconds"], r[key] * unit) for r in self.rows if isinstance(r.get(key), float) and "seconds" in r]
            if points:
                series[name] = ([t for t, _ in points], [v for _, v in points])
        if not series:
            return []
        model, seconds = self.row["model"], max(times[-1] for times, _ in series.values())
        ways = [f"{name} from {values[0]:.2f} to {values[-1]:.2f}" for name, (_, values) in series.items()]
        ends = [f"{name} end at {values[-1]:.3f}" for name, (_, values) in series.items()]
        marks, told = {}, ""
        when = [r["seconds"] for r in self.rows if self.kept and r.get("step") == self.kept["step"] and "seconds" in r]
        if self.kept and when:
            marks = {"kept": (when[-1], self.kept["valid"] * unit)}
            told = f"; the weights of step {self.kept['step']} were kept"
        alt = f"curves of {model}, {what} over {seconds:.0f} seconds: {', '.join(ways)}{told}"
        caption = f"{model}: {what} over seconds of training, less is better; {', '.join(ends)}{told}. {self.words()}."
        y = "bits/dim of the loss" if what == "bits/dim" else what
        return [Figure(curves_svg(series, title=model, x="seconds of training", y=y, marks=marks), alt, caption)]

    def cells(self) -> list[str]:
        """Its numbers as the table shows them."""
        row = self.row
        nats, bits, stderr = row["nats"], row["bits_per_dim"], row["stderr"] or math.nan
        return [
            row["knows"] or "–",
            row["measure"] or "–",
            "–" if bits is None else f"{bits:.3f} ± {stderr * abs(bits / nats):.3f}",
            "–" if nats is None else f"{nats:.2f} ± {stderr:.2f}",
            "–" if row["seconds"] is None else f"{row['seconds']:.1f}",
            "–" if row["parameters"] is None else f"{row['parameters']:,}",
        ]

    def words(self) -> str:
        """Bits/dim (nats, where cells have no common unit), steps and seed, for a caption."""
        bits, nats = self.row["bits_per_dim"], self.row["nats"]
        number = f"{bits:.3f} bits/dim" if bits is not None else "no number" if nats is None else f"{nats:.2f} nats"
        steps = "" if self.steps is None else f"{self.steps} step{'s' * (self.steps != 1)}"
        seed = "" if self.row["seed"] is None else f"seed {self.row['seed']}"
        return ", ".join(filter(None, (number, steps, seed)))


@dataclass(frozen=True)
class Figure:
    """A picture (an image, or SVG), what it shows for whoever does not see it (`alt`), and its caption."""

    image: Image.Image | str
    alt: str
    caption: str

    def source(self) -> str:
        """The picture itself as an address."""
        kind, data = ("svg+xml", self.image.encode()) if isinstance(self.image, str) else ("png", png(self.image))
        return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


@dataclass(frozen=True)
class Report:
    """What goes into a page on one family or several.

    Arguments:
        title: heading.
        data: facts on the data, by name.
        dimensions: cells of one example, for bits/dim.
        entries: ranked.
        notes: what a reader of the ranking must know.
        real: a picture of held-out examples.
        commands: how to do it again.
        columns: of a table, what each looks like in the data and in samples (see `marginals`).
    """

    title: str
    data: Mapping[str, Any]
    dimensions: int
    entries: Sequence[Contender]
    notes: Sequence[str] = ()
    real: Image.Image | str | None = None
    commands: Sequence[str] = ()
    columns: Sequence[Sequence[str]] = ()

    def html(self) -> str:
        """The page."""
        templates = FileSystemLoader(Path(__file__).parent / "templates")
        page = Environment(loader=templates, autoescape=True, undefined=StrictUndefined).get_template("report.html")
        kinds = {e.row["knows"] for e in self.entries}
        return page.render(
            **vars(self),
            verdict=verdict(self.entries),
            meanings=[text for kind, text in MEANING.items() if kind.value in kinds],
            samples=self.samples(),
            learning=self.learning(),
            shared=len({e.rank for e in self.entries if e.rank}) < sum(e.rank is not None for e in self.entries),
            bits=1 / (self.dimensions * math.log(2)),
        )

    def samples(self) -> list[Figure]:
        """Held-out examples, and every family's samples."""
        figures = [] if self.real is None else [Figure(self.real, "picture of held-out examples", "held-out data")]
        drawn = {e.row["model"]: e for e in self.entries if e.samples is not None}
        return figures + [
            Figure(e.samples, f"picture of samples drawn from {name}", f"{name}: samples; {e.words()}")
            for name, e in drawn.items()
            if e.samples is not None
        ]

    def learning(self) -> list[Figure]:
        """Bits/dim over the seconds of training, or what chose the weights, for whoever has enough of a history."""
        figures, unit = [], 1 / (self.dimensions * math.log(2))
        for entry in self.entries:
            if entry.criterion:
                figures += entry.curve({"samples": "valid"}, 1.0, entry.criterion)
            elif entry.in_nats and len(entry.rows) >= CURVE:
                figures += entry.curve(LINES, unit, "bits/dim")
        return figures


def verdict(entries: Sequence[Contender]) -> list[str]:
    """Whether the neural families beat the yardsticks, in words: also when they do not."""
    bits = {e.row["model"]: e.row["bits_per_dim"] for e in entries if e.row["bits_per_dim"] is not None}
    neural, yardsticks = ([e.row["model"] for e in entries if e.role == role] for role in ("neural", "yardstick"))
    bars = {name: bits[name] for name in yardsticks if name in bits}
    if not bars or not neural:
        return []
    hardest = min(bars, key=lambda name: bars[name])
    words = " and ".join(f"{name} ({value:.3f})" for name, value in bars.items())
    lines = [f"The yardstick {name} has no number." for name in yardsticks if name not in bars]
    for name in neural:
        if name not in bits:
            lines.append(f"{name} has no number, so it beats no yardstick.")
        elif bits[name] < bars[hardest]:
            lines.append(f"{name} ({bits[name]:.3f} bits/dim) beats the yardsticks {words}.")
        else:
            lines.append(f"{name} ({bits[name]:.3f} bits/dim) does not beat {hardest} ({bars[hardest]:.3f}).")
    return lines
