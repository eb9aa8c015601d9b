"""Small pictures drawn from known factors, each with a caption: one object, or two side by side, on a floor before a wall.

The factors are independent and uniform, so that what a model's code or samples say of them can be checked against the truth:
six of a picture with one object; with two, four more for the one on the right, which are −1 where there is none.
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
SIDES, SHRUNK = ((0.27, 0.52), (0.73, 0.52)), 0.72  # two objects: where, and how much smaller, so that each keeps to its half
ABSENT = -1
PLURALS = {"egg": "eggs", "brick": "bricks", "triangle": "triangles", "cross": "crosses"}
WORDS = "a two left of on floor before wall"
SPOKEN = " ".join([WORDS, *COLOURS, *SHAPES, *PLURALS.values(), *SCALES, *ANGLES])  # every word of a caption
LONGEST = 24  # words


def draw_factors(n: int, seed: int = 0) -> Tensor:
    """n rows of independent uniform factor codes, (n, 6), columns in the order of `FACTORS`."""
    generator = torch.Generator().manual_seed(derive(seed, "scenes"))
    return torch.stack([torch.randint(len(v), (n,), generator=generator) for v in FACTORS.values()], 1)


def draw_scenes(n: int, seed: int = 0) -> Tensor:
    """n rows of codes (n, 10): `FACTORS`, then colour, shape, scale and orientation of a second object, −1 in half the rows."""
    generator = torch.Generator().manual_seed(derive(seed, "more scenes"))
    second = torch.stack([torch.randint(len(v), (n,), generator=generator) for v in list(FACTORS.values())[2:]], 1)
    alone = torch.rand(n, generator=generator) < 0.5
    return torch.cat([draw_factors(n, seed), second.masked_fill(alone[:, None], ABSENT)], 1)


def held_out(factors: Tensor) -> Tensor:
    """Which rows show one of the four of 24 pairs of colour and shape that are kept for tests of composition, (n,)."""

    def kept(colour: Tensor, shape: Tensor) -> Tensor:
        return (colour + 2 * shape) % len(COLOURS) == len(COLOURS) - 1

    found = kept(factors[:, 2], factors[:, 3])
    return found if factors.shape[1] == 6 else found | (kept(factors[:, 6], factors[:, 7]) & (factors[:, 6] >= 0))


def caption(factors: Tensor) -> str:
    """One row of factor codes in words, nothing left out."""
    return caption_of(factors, (True,) * 4)


def caption_of(factors: Tensor, says: tuple[bool, bool, bool, bool]) -> str:
    """A row in words; colour and shape are always said.

    Arguments:
        factors: (6,) or (10,).
        says: whether scale, orientation, floor and wall are said too.
    """
    codes = factors.tolist()
    floor, wall = list(COLOURS)[codes[0]], list(COLOURS)[codes[1]]
    things = [_thing(codes[2:6], says[:2])]
    if len(codes) > 6 and codes[6] >= 0:
        things.append(_thing(codes[6:], says[:2]))
    alike = len(things) == 2 and things[0] == things[1]
    said = f"two {_plural(things[0])}" if alike else " left of ".join(f"a {t}" for t in things)
    return said + f" on a {floor} floor" * says[2] + f" before a {wall} wall" * says[3]


def draw_captions(factors: Tensor, seed: int = 0) -> list[str]:
    """A caption for each row that leaves out scale, orientation, floor and wall each at an even chance."""
    generator = torch.Generator().manual_seed(derive(seed, "captions"))
    says = torch.rand(len(factors), 4, generator=generator) < 0.5
    return [caption_of(f, (bool(a), bool(b), bool(c), bool(d))) for f, (a, b, c, d) in zip(factors, says.tolist())]


def _thing(codes: list[int], says: tuple[bool, ...]) -> str:
    colour, shape, scale, lean = (values[i] for values, i in zip(list(FACTORS.values())[2:], codes))
    return f"{scale} " * says[0] + f"{colour} {shape}" + f" {lean}" * says[1]


def _plural(thing: str) -> str:
    for one, many in PLURALS.items():
        thing = thing.replace(f" {one}", f" {many}")
    return thing


def render(factors: Tensor, size: int = 32) -> Tensor:
    """Factor codes (n, 6) or (n, 10) → pictures (n, 3, size, size) uint8; a pure function of its arguments.

    Each pixel averages 3 × 3 points; an object covers a point where its outline function is below zero.
    """
    pictures = torch.empty(len(factors), 3, size, size, dtype=torch.uint8)
    pair = factors.shape[1] > 6 and (factors[:, 6] >= 0)
    both = torch.as_tensor(pair).expand(len(factors))
    for rows, places, shrink in ((~both, (CENTRE,), 1.0), (both, SIDES, SHRUNK)):
        chosen = rows.nonzero().flatten()
        objects = [factors[chosen][:, 2 + 4 * i : 6 + 4 * i] for i in range(len(places))]
        drawn = [objects_at(o, place, shrink, size) for o, place in zip(objects, places)] if len(chosen) else []
        for part in torch.arange(len(chosen)).split(256):
            picture = ground_of(factors[chosen[part]], size)
            for form, hidden, lit in drawn:
                picture = torch.lerp(picture, lit[form[part]], hidden[form[part]])
            pictures[chosen[part]] = picture.round().clamp(0, 255).byte()
    return pictures


def ground_of(factors: Tensor, size: int) -> Tensor:
    """Floor and wall alone, (n, 3, size, size), not rounded."""
    floor_light, wall_light = _ground(size)
    palette = _palette()
    return palette[factors[:, 0]] * floor_light + palette[factors[:, 1]] * wall_light


def objects_at(
    objects: Tensor, place: tuple[float, float], shrink: float, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the different objects each row has (n,), and their cover (k, 1, …) and colours (k, 3, size, size).

    Arguments:
        objects: (n, 4) codes of colour, shape, scale and orientation.
        place, shrink: where, in heights of the picture, and how large.
    """
    kinds, kind = objects.unique(dim=0, return_inverse=True)
    forms, form = kinds[:, 1:].unique(dim=0, return_inverse=True)  # shape, scale and orientation: at most 60
    hidden, light = _object(forms, size, place, shrink)
    return kind, hidden[form], _palette()[kinds[:, 0]] * light[form]


def _palette() -> Tensor:
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32)[:, :, None, None]


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


def _object(forms: Tensor, size: int, place: tuple[float, float], shrink: float) -> tuple[Tensor, Tensor]:
    """Cover and light of each form (shape, scale, orientation), (n, 1, size, size) each; light falls from the upper left."""
    u, v = _grid(size)
    radius = shrink * torch.tensor(list(SCALES.values()))[forms[:, 1], None, None]
    angle = torch.tensor(list(ANGLES.values()))[forms[:, 2], None, None] * (math.pi / 180)
    x, y = (u - place[0]) / radius, (v - place[1]) / radius
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
