"""One HTML file that explains itself: it opens offline, refers to nothing outside, and escapes whatever came from the data."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from PIL import Image

from likeli.evaluation.likelihood import MEANING
from likeli.show.pictures import curves, png

CURVE = 20  # rows of history that make a curve

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #8885; text-align: right }
th:nth-child(-n+4), td:nth-child(-n+4) { text-align: left }
td { white-space: nowrap } td.bad { white-space: normal }
figure { display: inline-block; margin: 0 1rem 1.5rem 0; vertical-align: top }
figcaption { font-size: .9rem; max-width: 26rem }
img { max-width: 100%; background: white }
pre { font-size: .9rem; overflow-x: auto }
.bad { color: #c33 }
li { margin: .2rem 0 }
"""


@dataclass(frozen=True)
class Entry:
    """One family in a report.

    Arguments:
        row: its row of the table (see `Evaluation.row`), with `error` if it has no number.
        rows: its training history.
        samples: a picture of its samples; None if it has none.
        role: `yardstick` or `neural`, or nothing.
    """

    row: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    samples: Image.Image | None = None
    role: str = ""
    in_nats: bool = True


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
    entries: Sequence[Entry]
    notes: Sequence[str] = ()
    real: Image.Image | None = None
    commands: Sequence[str] = field(default_factory=tuple)

    def html(self) -> str:
        """The page."""
        return page(
            self.title,
            [
                f"<p>{_facts(self.data)}</p>",
                "<h2>How much of the held-out data does each family explain?</h2>",
                _table(self.entries),
                _list([*verdict(self.entries), *self.notes]),
                "<h2>What the numbers are</h2>",
                _meanings(self.entries),
                "<h2>Samples</h2>",
                _figures(self.real, self.entries),
                "<h2>Learning curves</h2>",
                self._curves(),
                "<h2>Why a number may be off</h2>",
                *(f"<h3>{escape(e.row['model'])}</h3>{_list(e.row['notes'] or ['nothing to add'])}" for e in self.entries),
                "<h2>Do it again</h2>",
                f"<pre>{escape(chr(10).join(self.commands))}</pre>",
            ],
        )

    def _curves(self) -> str:
        unit = 1 / (self.dimensions * math.log(2))
        trained = [e for e in self.entries if e.in_nats and len(e.rows) >= CURVE]
        figures = []
        for entry in trained:
            names = {"training batches": "loss", "validation rows": "valid"}
            series = {name: _series(entry.rows, key, unit) for name, key in names.items()}
            shown = {name: line for name, line in series.items() if line[0]}
            figures.append(_figure(curves(shown, title=entry.row["model"], x="seconds", y="bits/dim"), ""))
        return "".join(figures) + "<p>Families fitted in closed form or in a few iterations of EM have no curve.</p>"


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document; `body` is trusted, `title` is not."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def verdict(entries: Sequence[Entry]) -> list[str]:
    """Whether the neural families beat the yardsticks, in words: also when they do not."""
    bits = {e.row["model"]: e.row["bits_per_dim"] for e in entries if e.row["bits_per_dim"] is not None}
    bars = {e.row["model"]: bits[e.row["model"]] for e in entries if e.role == "yardstick" and e.row["model"] in bits}
    neural = [e.row["model"] for e in entries if e.role == "neural"]
    if not bars or not neural:
        return []
    hardest = min(bars, key=lambda name: bars[name])
    words = " and ".join(f"{name} ({value:.3f})" for name, value in bars.items())
    gone = [e.row["model"] for e in entries if e.role == "yardstick" and e.row["model"] not in bars]
    lines = [f"The yardstick {name} has no number." for name in gone]
    for name in neural:
        if name not in bits:
            lines.append(f"{name} has no number, so it beats no yardstick.")
        elif bits[name] < bars[hardest]:
            lines.append(f"{name} ({bits[name]:.3f} bits/dim) beats the yardsticks {words}.")
        else:
            lines.append(f"{name} ({bits[name]:.3f} bits/dim) does not beat {hardest} ({bars[hardest]:.3f}).")
    return lines


def _series(rows: Sequence[Mapping[str, Any]], key: str, unit: float) -> tuple[list[float], list[float]]:
    points = [(r["seconds"], r[key] * unit) for r in rows if isinstance(r.get(key), float) and "seconds" in r]
    return [t for t, _ in points], [v for _, v in points]


def _facts(facts: Mapping[str, Any]) -> str:
    return "; ".join(f"{escape(str(k))}: <b>{escape(str(v))}</b>" for k, v in facts.items())


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(entries: Sequence[Entry]) -> str:
    heads = ["", "family", "log p(x) is", "measure", "bits/dim", "nats", "fit s", "parameters"]
    lines = ["<tr>" + "".join(f"<th>{h}</th>" for h in heads) + "</tr>"]
    for rank, entry in enumerate(entries, 1):
        row = entry.row
        name = escape(row["model"]) + (f" <small>({entry.role})</small>" if entry.role else "")
        if "error" in row:
            lines.append(f'<tr><td>–</td><td>{name}</td><td colspan="6" class="bad">{escape(row["error"])}</td></tr>')
            continue
        cells = [str(rank), name, row["knows"] or "–", row["measure"] or "–", *_numbers(row)]
        lines.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _numbers(row: Mapping[str, Any]) -> list[str]:
    nats, bits, stderr = row["nats"], row["bits_per_dim"], row["stderr"] or math.nan
    return [
        "–" if bits is None else f"{bits:.3f} ± {stderr * abs(bits / nats):.3f}",
        "–" if nats is None else f"{nats:.2f} ± {stderr:.2f}",
        f"{row['seconds']:.1f}" if row["seconds"] is not None else "–",
        f"{row['parameters']:,}" if row["parameters"] is not None else "–",
    ]


def _meanings(entries: Sequence[Entry]) -> str:
    kinds = {e.row["knows"] for e in entries}
    lines = [text for kind, text in MEANING.items() if kind.value in kinds]
    unit = (
        "log p(x) is in nats per example, in the units of the data as given: higher is better. bits/dim is −log₂ p(x) over "
        "the number of cells: lower is better. ± is the standard error over the held-out examples. A mass is a probability and "
        "never above 1; a density can be; the two cannot be compared."
    )
    return f"<p>{unit}</p>" + _list(lines)


def _figures(real: Image.Image | None, entries: Sequence[Entry]) -> str:
    figures = [_figure(real, "held-out data")] if real is not None else []
    figures += [_figure(e.samples, f"{e.row['model']}: samples") for e in entries if e.samples is not None]
    return "".join(figures)


def _figure(image: Image.Image, caption: str) -> str:
    words, source = escape(caption), f"data:image/png;base64,{base64.b64encode(png(image)).decode('ascii')}"
    return f'<figure><img alt="{words}" src="{source}"><figcaption>{words}</figcaption></figure>\n'
