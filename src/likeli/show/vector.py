"""Curves and points as SVG that is dark where the reader's screen is: text and axes take the colour of the page's text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from likeli.show.pictures import draw_curves, draw_points

INK = "#010203"  # drawn in, and replaced by the colour of the text
LINES = ("#3b82f6", "#e8590c", "#2f9e44", "#ae3ec9")  # of enough contrast on white and on black
STYLE = "<style>:root{color:#222}@media (prefers-color-scheme:dark){:root{color:#ddd}}</style>"
SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.prop_cycle": None,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK),
}


def curves_svg(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x: str,
    y: str,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Lines of (x, y) by name, and single points by name (`marks`)."""
    return _svg((4.6, 3.0), lambda axes: draw_curves(axes, series, title=title, x=x, y=y, marks=marks))


def points_svg(sets: Mapping[str, Tensor]) -> str:
    """Sets of points (B, 2) in the plane, at most 1000 of each."""
    return _svg((3.4, 3.4), lambda axes: draw_points(axes, sets, most=1000))


def _svg(size: tuple[float, float], draw: Any) -> str:
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS | {"axes.prop_cycle": cycler(color=LINES)}):
        figure, file = Figure(figsize=size, layout="constrained"), io.StringIO()
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    body = text[text.index("<svg") :].replace(INK, "currentColor")
    head, end, rest = body.partition(">")
    return head + end + STYLE + rest
