"""Small pictures drawn from known factors, each with a caption: one object, or two side by side, on a floor before a wall.

The factors are independent and uniform, so that what a model's code or samples say of them can be checked against the truth:
six of a picture with one object; with two, four more for the one on the right, which are −1 where there is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from likeli.errors import InputError, require
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
BATCH = 64
EDGE = 1 / 16  # of the width, at either side, that no object reaches
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


def read_scenes(pictures: Tensor, most: int = 2) -> Tensor:
    """The codes (n, 10) whose rendering is nearest to each picture, −1 for a second object that is not there.

    Exact on rendered scenes; of a picture that is not quite one, the nearest there is, by squared error.

    Arguments:
        pictures: (n, 3, size, size), 0 … 255.
        most: objects, 1 or 2.

    Raises:
        InputError: another shape.
    """
    square = pictures.ndim == 4 and pictures.shape[1] == 3 and pictures.shape[2] == pictures.shape[3]
    require(square, "pictures", "shape (n, 3, size, size)", tuple(pictures.shape))
    size, x = pictures.shape[-1], pictures.float()
    columns = max(1, round(size * EDGE))
    edge = torch.cat([torch.arange(columns), torch.arange(size - columns, size)])
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    grounds = ground_of(pairs, size)
    nearest = torch.cdist(x[..., edge].flatten(1), grounds[..., edge].flatten(1)).argmin(1)
    objects = torch.cartesian_prod(*[torch.arange(len(v)) for v in list(FACTORS.values())[2:]])
    found = torch.full((len(x), 10), ABSENT)
    found[:, :2] = pairs[nearest]
    half = size // 2
    ways = [(CENTRE, 1.0, slice(None))]
    if most == 2:
        ways += [(place, SHRUNK, side) for place, side in zip(SIDES, (slice(0, half), slice(half, None)))]
    layers = [(objects_at(objects, place, shrink, size), side) for place, shrink, side in ways]
    for g in nearest.unique().tolist():
        rows = (nearest == g).nonzero().flatten()
        best = [_nearest_object(x[rows], grounds[g], layer, side) for layer, side in layers]
        found[rows, 2:6] = objects[best[0][1]]
        if most == 2:
            two = best[1][0] + best[2][0] < best[0][0]
            found[rows[two], 2:6], found[rows[two], 6:] = objects[best[1][1][two]], objects[best[2][1][two]]
    return found


def _nearest_object(
    x: Tensor, ground: Tensor, layer: tuple[Tensor, Tensor, Tensor], side: slice
) -> tuple[Tensor, Tensor]:
    """Squared error (n,) and index (n,) of the nearest of all objects on a ground, looking at one side of the picture."""
    kind, hidden, lit = layer
    drawn = torch.lerp(ground, lit[kind], hidden[kind]).round()[..., side].flatten(1)
    seen = x[..., side].flatten(1)
    exact = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(part, drawn, compute_mode=exact).square().min(1) for part in seen.split(BATCH)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def wanted(caption: str) -> dict[int, int]:
    """What a caption says of the codes: column → code; a second object that is not spoken of is absent.

    Raises:
        InputError: it is no caption of a scene.
    """
    values = list(FACTORS.values())
    text = " ".join(re.findall(r"\w+", caption.lower()))
    things, ground = re.split(r" (?=on a \w+ floor|before a \w+ wall)", f"{text} ", maxsplit=1)[0], {}
    for column, name in ((0, "floor"), (1, "wall")):
        said = re.search(rf"\ba (\w+) {name}\b", text)
        if said and said[1] in values[column]:
            ground[column] = values[column].index(said[1])
    two = re.match(r"two (.*)", things)
    parts = [two[1], two[1]] if two else things.split(" left of ")
    found = ground | ({6: ABSENT} if len(parts) == 1 else {})
    for i, part in enumerate(parts[:2]):
        for j, names in enumerate(values[2:]):
            fits = [k for k, name in enumerate(names) if re.search(rf"\b{name}(s|es)?\b", part)]
            if fits:
                found[2 + 4 * i + j] = max(fits, key=lambda k: len(names[k]))  # `leaning far left` is no `left`
    if 2 not in found or 3 not in found:
        raise InputError(f"caption: expected a colour and a shape, as in 'a red brick', got {caption[:80]!r}")
    return found


def true_of(pictures: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Share of what each caption says that is so (n,), and whether all of it is (n,), by `read_scenes`."""
    codes, share = read_scenes(pictures), []
    for row, caption in zip(codes.tolist(), captions):
        asked = wanted(caption)
        share.append(sum(row[c] == k if k >= 0 else row[c] < 0 for c, k in asked.items()) / len(asked))
    right = torch.tensor(share)
    return right, right == 1
