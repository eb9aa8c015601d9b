"""Small pictures drawn from six known factors, each with a caption: one object on a floor before a wall.

The factors are independent and uniform, so that what a model's code or samples say of them can be checked against the truth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from likeli.random import derive

COLOURS = {
    "red": (214, 48, 40), "orange": (240, 150, 30), "yellow": (236, 220, 60),
    "green": (60, 160, 70), "blue": (50, 90, 200), "violet": (140, 70, 170),
}  # fmt: skip
SHAPES = ("egg", "brick", "triangle", "cross")
SCALES = {"small": 0.14, "medium": 0.2, "large": 0.27}  # radius, in heights of the picture
ANGLES = {"leaning far left": 40, "leaning left": 20, "upright": 0, "leaning right": -20, "leaning far right": -40}  # degrees
FACTORS = {
    "floor": tuple(COLOURS), "wall": tuple(COLOURS), "colour": tuple(COLOURS),
    "shape": SHAPES, "scale": tuple(SCALES), "orientation": tuple(ANGLES),
}  # fmt: skip
HORIZON, CENTRE, SUPERSAMPLING = 0.6, (0.5, 0.52), 3


def draw_factors(n: int, seed: int = 0) -> Tensor:
    """n rows of independent uniform factor codes, (n, 6), columns in the order of `FACTORS`."""
    generator = torch.Generator().manual_seed(derive(seed, "scenes"))
    return torch.stack([torch.randint(len(v), (n,), generator=generator) for v in FACTORS.values()], 1)


def caption(factors: Tensor) -> str:
    """One row of factor codes in words."""
    f = {name: values[int(i)] for (name, values), i in zip(FACTORS.items(), factors)}
    return f"a {f['scale']} {f['colour']} {f['shape']} {f['orientation']} on a {f['floor']} floor before a {f['wall']} wall"


def render(factors: Tensor, size: int = 32) -> Tensor:
    """Factor codes (n, 6) → pictures (n, 3, size, size) uint8; a pure function of its arguments.

    Each pixel averages 3 × 3 points; the object covers a point where its outline function is below zero.
    """
    forms, form = factors[:, 3:].unique(dim=0, return_inverse=True)  # shape, scale and orientation: at most 60
    covered, light = _object(forms, size)
    floor_light, wall_light = _ground(size)
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[:, :, None, None]
    pictures = torch.empty(len(factors), 3, size, size, dtype=torch.uint8)
    for rows in torch.arange(len(factors)).split(256):
        f, hidden = factors[rows], covered[form[rows]]
        ground = palette[f[:, 0]] * floor_light + palette[f[:, 1]] * wall_light
        pictures[rows] = torch.lerp(ground, palette[f[:, 2]] * light[form[rows]], hidden).round().clamp(0, 255).byte()
    return pictures


def _grid(size: int) -> tuple[Tensor, Tensor]:
    points = (torch.arange(size * SUPERSAMPLING) + 0.5) / (size * SUPERSAMPLING)
    v, u = torch.meshgrid(points, points, indexing="ij")
    return u, v


def _ground(size: int) -> tuple[Tensor, Tensor]:
    """Light on the floor and on the wall, (1, 1, size, size) each, 0 elsewhere; both are darkest where they meet."""
    _, v = _grid(size)
    below = (v > HORIZON).float()
    near, high = 0.65 + 0.35 * (v - HORIZON) / (1 - HORIZON), 1 - 0.25 * v
    return _pool((below * near)[None]), _pool(((1 - below) * high)[None])


def _object(forms: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cover and light of each form (shape, scale, orientation), (n, 1, size, size) each; light falls from the upper left."""
    u, v = _grid(size)
    radius = torch.tensor(list(SCALES.values()))[forms[:, 1], None, None]
    angle = torch.tensor(list(ANGLES.values()))[forms[:, 2], None, None] * (math.pi / 180)
    x, y = (u - CENTRE[0]) / radius, (v - CENTRE[1]) / radius
    p, q = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()  # in the object's own frame and radii
    outlines = [_outline(SHAPES[code], p[i], q[i]) for i, code in enumerate(forms[:, 0].tolist())]
    return _pool((torch.stack(outlines) < 0).float()), _pool(1.05 - 0.225 * (p + q + 1).clamp(0, 2))


def _pool(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x[:, None], SUPERSAMPLING)


def _outline(shape: str, p: Tensor, q: Tensor) -> Tensor:
    """Below zero inside the object; every outline is taller than wide, so that its lean can be seen."""
    if shape == "egg":
        return (p / 0.65).square() + q.square() - 1
    if shape == "brick":
        return torch.maximum(p.abs() / 0.62, q.abs() / 0.92) - 1
    if shape == "triangle":
        return torch.maximum(p.abs() / 0.8 - (q + 1) / 1.8, q - 0.8)
    bar = torch.maximum(p.abs() - 0.7, (q + 0.25).abs() - 0.26)
    return torch.minimum(torch.maximum(p.abs() - 0.26, q.abs() - 1), bar)
