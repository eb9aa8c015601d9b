"""What is in a scene: its factors read back from the picture, and whether a caption is true of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from likeli.data.builtin import scenes
from likeli.errors import InputError, require

BATCH = 64
EDGE = 1 / 16  # of the width, at either side, that no object reaches


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
    grounds = scenes.ground_of(pairs, size)
    nearest = torch.cdist(x[..., edge].flatten(1), grounds[..., edge].flatten(1)).argmin(1)
    objects = torch.cartesian_prod(*[torch.arange(len(v)) for v in list(scenes.FACTORS.values())[2:]])
    found = torch.full((len(x), 10), scenes.ABSENT)
    found[:, :2] = pairs[nearest]
    half = size // 2
    ways = [(scenes.CENTRE, 1.0, slice(None))]
    if most == 2:
        ways += [(place, scenes.SHRUNK, side) for place, side in zip(scenes.SIDES, (slice(0, half), slice(half, None)))]
    layers = [(scenes.objects_at(objects, place, shrink, size), side) for place, shrink, side in ways]
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
    values = list(scenes.FACTORS.values())
    text = " ".join(re.findall(r"\w+", caption.lower()))
    things, ground = re.split(r" (?=on a \w+ floor|before a \w+ wall)", f"{text} ", maxsplit=1)[0], {}
    for column, name in ((0, "floor"), (1, "wall")):
        said = re.search(rf"\ba (\w+) {name}\b", text)
        if said and said[1] in values[column]:
            ground[column] = values[column].index(said[1])
    two = re.match(r"two (.*)", things)
    parts = [two[1], two[1]] if two else things.split(" left of ")
    found = ground | ({6: scenes.ABSENT} if len(parts) == 1 else {})
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
