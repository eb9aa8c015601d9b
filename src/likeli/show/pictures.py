"""Pictures of samples and of learning: grids of images, scatter plots, curves; as SVG these are dark where the reader's screen
is: text and axes take the colour of the page's text."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from likeli.errors import Unsupported, require
from likeli.spaces import Space

MAX_PIXELS = 100_000_000
PAPER = (255, 255, 255)
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


def picture(x: Tensor, space: Space) -> Image.Image:
    """Examples as one picture: images as a grid, rows of two numbers as points.

    Arguments:
        x: (B, *shape) in the user's units.
        space: what one example is.

    Raises:
        Unsupported: nothing that can be shown in a plane.
    """
    if is_image(space):
        return grid(x, space)
    if space.shape == (2,):
        return scatter({"samples": x})
    what = f"{space.kind()} data of shape {space.shape}"
    raise Unsupported(f"a picture of {what}: it takes images or two columns; write .npy or .csv instead")


def is_image(space: Space) -> bool:
    """Whether an example is an image, (H, W) or (C, H, W) with 1 or 3 channels."""
    shape = space.shape
    shades = space.symbols > 0 or space.measure == "density"
    return shades and (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)))


def grid(
    x: Tensor, space: Space, *, columns: int | None = None, zoom: int | None = None, gap: int = 2, clear: bool = False
) -> Image.Image:
    """Images side by side, row by row.

    Arguments:
        x: (B, H, W) or (B, C, H, W) in the user's units.
        space: gives the grey levels; real images are stretched from their least to their greatest value.
        columns: images in a row; about as many as there are rows if not given.
        zoom: screen pixels per image pixel; by default small images are enlarged to about 48.
        gap: screen pixels between images.
        clear: whether the gaps are transparent, to lie on a page of any colour; else white.
    """
    n, (height, width) = len(x), x.shape[-2:]
    zoom = zoom or max(1, round(48 / max(height, width)))
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = -(-n // columns)
    step_y, step_x = height * zoom + gap, width * zoom + gap
    require(rows * step_y * columns * step_x <= MAX_PIXELS, "n", f"a picture of at most {MAX_PIXELS} pixels; use .npy", n)
    sheet = np.full((rows * step_y + gap, columns * step_x + gap, 4), (*PAPER, 0), dtype=np.uint8)
    for i, tile in enumerate(_bytes(x, space).repeat(zoom, 1).repeat(zoom, 2)):
        top, left = gap + i // columns * step_y, gap + i % columns * step_x
        sheet[top : top + height * zoom, left : left + width * zoom, :3] = tile
        sheet[top : top + height * zoom, left : left + width * zoom, 3] = 255
    return Image.fromarray(sheet if clear else sheet[..., :3].copy())


def on_paper(image: Image.Image) -> Image.Image:
    """A picture with transparent places laid on white."""
    sheet = Image.new("RGB", image.size, PAPER)
    sheet.paste(image, (0, 0), image if image.mode == "RGBA" else None)
    return sheet


def _bytes(x: Tensor, space: Space) -> np.ndarray:
    """(B, H, W, 3) of 0 … 255."""
    values = x.detach().cpu().double().numpy()
    low, high = (0.0, space.symbols - 1.0) if space.symbols else (float(values.min()), float(values.max()))
    values = np.clip((values - low) / max(high - low, 1e-300), 0, 1) * 255
    values = values[:, None] if values.ndim == 3 else values
    return np.broadcast_to(values, (len(values), 3, *values.shape[2:])).transpose(0, 2, 3, 1).round().astype(np.uint8)


def scatter(sets: Mapping[str, Tensor]) -> Image.Image:
    """Sets of points (B, 2) in the plane, at most 5000 of each."""
    figure, axes = _figure(5.0, 5.0)
    draw_points(axes, sets, most=5000)
    return _rendered(figure)


def draw_points(axes: Any, sets: Mapping[str, Tensor], *, most: int) -> None:
    """Sets of points (B, 2), at most `most` of each, on matplotlib's axes."""
    for name, points in sets.items():
        xy = points[:most].detach().cpu().double().numpy()
        axes.scatter(xy[:, 0], xy[:, 1], s=4, alpha=0.5, linewidths=0, label=name)
    axes.set_aspect("equal", adjustable="datalim")
    if len(sets) > 1:
        axes.legend()


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, x: str, y: str) -> Image.Image:
    """Lines of (x, y) by name; the values of the first tenth may leave the frame."""
    figure, axes = _figure(4.2, 2.8)
    draw_curves(axes, series, title=title, x=x, y=y)
    return _rendered(figure)


def draw_curves(
    axes: Any,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x: str,
    y: str,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """The lines of `curves` on matplotlib's axes, and single points by name (`marks`)."""
    settled: list[float] = []
    for name, (horizontal, vertical) in series.items():
        axes.plot(horizontal, vertical, label=name, linewidth=1.2)
        settled += [v for v in vertical[len(vertical) // 10 :] if math.isfinite(v)]
    if settled:
        low, high = min(settled), max(settled)
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    for name, place in (marks or {}).items():
        axes.plot(*place, "o", color="none", markeredgecolor="#e03131", markersize=9, label=name)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend()


def strip(pictures: Mapping[str, Image.Image], *, columns: int = 4, gap: int = 12) -> Image.Image:
    """Pictures of one size on one sheet, each under its name."""
    font = ImageFont.load_default(size=16)
    width = max(p.width for p in pictures.values()) + gap
    height = max(p.height for p in pictures.values()) + gap + 22
    columns = min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * width + gap, -(-len(pictures) // columns) * height + gap), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (name, image) in enumerate(pictures.items()):
        left, top = gap + i % columns * width, gap + i // columns * height
        pen.text((left, top), name, fill=(0, 0, 0), font=font)
        sheet.paste(image, (left, top + 22))
    return sheet


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def animation(
    frames: Sequence[Tensor], space: Space, *, captions: Sequence[str] = (), milliseconds: int = 80, hold: int = 2000
) -> bytes:
    """Grids of images one after the other as an animated WebP file that runs for ever.

    Arguments:
        frames: each (B, *shape) in the user's units.
        space: what one example is.
        captions: what stands above each.
        milliseconds: that each frame stays.
        hold: that the last one stays.
    """
    pictures, file = [grid(frame, space) for frame in frames], io.BytesIO()
    if captions:
        font = ImageFont.load_default(size=16)
        width = max([pictures[0].width, *(math.ceil(font.getlength(text)) + 8 for text in captions)])
        sheets = [Image.new("RGB", (width, p.height + 22), PAPER) for p in pictures]
        for sheet, image, text in zip(sheets, pictures, captions, strict=True):
            ImageDraw.Draw(sheet).text((4, 2), text, fill=(0, 0, 0), font=font)
            sheet.paste(image, (0, 22))
        pictures = sheets
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    pictures[0].save(
        file, format="WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=70, method=2
    )
    return file.getvalue()


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


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _rendered(figure: Any) -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
