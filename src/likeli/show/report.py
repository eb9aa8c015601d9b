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

from likeli.evaluation.likelihood import MEANING
from likeli.show.pictures import curves, png

CURVE = 20  # rows of history that make a curve
LINES = {"training batches": "loss", "validation rows": "valid"}


@dataclass(frozen=True)
class Contender:
    """One family in a report.

    Arguments:
        row: its row of the table (see `Evaluation.row`), with `error` if it has no number.
        rows: its training history.
        samples: a picture of its samples; None if it has none.
        role: `yardstick` or `neural`, or nothing.
        in_nats: whether its history can be drawn in bits/dim.
    """

    row: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    samples: Image.Image | None = None
    role: str = ""
    in_nats: bool = True

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


@dataclass(frozen=True)
class Figure:
    """A picture, what it shows for whoever does not see it (`alt`), and its caption."""

    image: Image.Image
    alt: str
    caption: str

    def source(self) -> str:
        """The picture itself as an address."""
        return f"data:image/png;base64,{base64.b64encode(png(self.image)).decode('ascii')}"


@dataclass(frozen=True)
class Report:
    """What goes into a comparison's page.

    Arguments:
        title: heading.
        data: facts on the data, by name.
        dimensions: cells of one example, for bits/dim.
        entries: ranked.
        notes: what a reader of the ranking must know.
        real: a picture of held-out examples.
        commands: how to do it again.
    """

    title: str
    data: Mapping[str, Any]
    dimensions: int
    entries: Sequence[Contender]
    notes: Sequence[str] = ()
    real: Image.Image | None = None
    commands: Sequence[str] = ()

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
        )

    def samples(self) -> list[Figure]:
        """Held-out examples, and every family's samples."""
        figures = [] if self.real is None else [Figure(self.real, "grid of held-out examples", "held-out data")]
        drawn = {e.row["model"]: e.samples for e in self.entries if e.samples is not None}
        return figures + [Figure(x, f"grid of samples drawn from {name}", f"{name}: samples") for name, x in drawn.items()]

    def learning(self) -> list[Figure]:
        """Bits/dim over the seconds of training, for whoever has enough of a history."""
        figures, unit = [], 1 / (self.dimensions * math.log(2))
        for entry in self.entries:
            series = {}
            for name, key in LINES.items():
                points = [(r["seconds"], r[key] * unit) for r in entry.rows if isinstance(r.get(key), float) and "seconds" in r]
                if points:
                    series[name] = ([t for t, _ in points], [v for _, v in points])
            if not entry.in_nats or len(entry.rows) < CURVE or not series:
                continue
            model, seconds = entry.row["model"], max(times[-1] for times, _ in series.values())
            ways = [f"{name} from {bits[0]:.2f} to {bits[-1]:.2f}" for name, (_, bits) in series.items()]
            ends = [f"{name} end at {bits[-1]:.3f}" for name, (_, bits) in series.items()]
            alt = f"curves of {model}, bits/dim over {seconds:.0f} seconds: {', '.join(ways)}"
            caption = f"{model}: bits/dim over seconds of training, less is better; {', '.join(ends)}."
            figures.append(Figure(curves(series, title=model, x="seconds", y="bits/dim"), alt, caption))
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
