"""Walking about in a code: embed, reconstruct, interpolate, add and subtract, traverse.

Codes are whatever `encode` gives, (B, *code).  Paths and grids are made of codes; `decode_codes` turns them into examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from likeli.contract import Coded, GenerativeModel, evaluating
from likeli.errors import Unsupported, require
from likeli.latent.chain import LatentVariableModel
from likeli.probability.draw import draw
from likeli.random import Streams
from likeli.spaces.arrays import as_tensor

Path = Literal["linear", "spherical"]


def embed(model: GenerativeModel, x: Any, y: Any = None) -> Tensor:
    """The code of each row, (B, *shape) → (B, *code); the same every time.

    Raises:
        Unsupported: the family has no code.
    """
    x = model.space.check(x, missing=model.takes_missing).to(model.device)
    y = model.check_condition(y, len(x))
    with evaluating(model), torch.no_grad():
        return _codec(model).encode(x, y)


def decode_codes(model: GenerativeModel, z: Any, y: Any = None) -> Tensor:
    """The example of each code, (..., *code) → (..., *shape), in the user's units; a mean of whole numbers is fractional.

    Arguments:
        model: any family with a code.
        z: codes, with any leading axes.
        y: one row for all codes or one for each, for a conditional model.

    Raises:
        InputError: codes of the wrong shape, or that are not finite.
        Unsupported: the family has no code.
    """
    code, z = _codec(model), as_tensor(z, "z")
    with evaluating(model), torch.no_grad():
        shape = _code_shape(model, y)
        lead = z.ndim - len(shape)
        fits = lead >= 0 and tuple(z.shape[lead:]) == shape
        require(fits, "z", f"codes of shape (..., {', '.join(map(str, shape))})", tuple(z.shape))
        require(bool(z.isfinite().all()), "z", "finite numbers", "others")
        rows = z.reshape(-1, *shape).to(model.device, model.dtype)
        return code.decode(rows, model.check_condition(y, len(rows))).reshape(*z.shape[:lead], *model.space.shape)


def reconstruct(model: GenerativeModel, x: Any, y: Any = None, *, mean: bool = True, seed: int = 0) -> Tensor:
    """x → code → x, (B, *shape) in the user's units.

    Arguments:
        mean: E[x|z] at the code of x; otherwise a draw of x at a draw of z, for families that have both.
        seed: of the draws.

    Raises:
        Unsupported: the family has no code, or no draw.
    """
    if mean:
        return decode_codes(model, embed(model, x, y), y)
    if not isinstance(model, LatentVariableModel):
        raise Unsupported(f"{model.kind()} has one reconstruction and no draws of it; leave mean=True")
    x = model.space.check(x, missing=model.takes_missing).to(model.device)
    y, noise = model.check_condition(y, len(x)), Streams(seed, range(len(x)), model.dtype, model.device)
    with evaluating(model), torch.no_grad():
        *_, last = model.walk(noise, y, context=model.infer(x, y))
        return draw(model.observation(last.state, y), noise)


def interpolate(a: Tensor, b: Tensor, steps: int, path: Path = "linear") -> Tensor:
    """Codes from a to b, (steps, *code), both ends included.

    Arguments:
        a, b: two codes of one shape.
        steps: at least 2.
        path: linear; or spherical: along the great circle, with the length going from one's to the other's.

    Raises:
        InputError: a spherical path between opposite codes, or from the origin.
    """
    require(steps >= 2, "steps", "at least 2", steps)
    require(a.shape == b.shape, "b", f"a code of shape {tuple(a.shape)}", tuple(b.shape))
    require(path in ("linear", "spherical"), "path", "linear or spherical", path)
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).reshape(-1, *[1] * a.ndim)
    straight = (1 - t) * a + t * b
    if path == "linear":
        return straight
    r_a, r_b = a.norm(), b.norm()
    require(bool(r_a > 0 and r_b > 0), "path", "linear, since one of the codes is the origin", path)
    angle = torch.arccos(((a / r_a) * (b / r_b)).sum().clamp(-1, 1))
    require(float(angle) < torch.pi - 1e-3, "path", "linear, since the codes are opposite", path)
    if angle < 1e-3:
        return straight
    direction = (((1 - t) * angle).sin() * a / r_a + (t * angle).sin() * b / r_b) / angle.sin()
    return ((1 - t) * r_a + t * r_b) * direction


def bilinear(corners: Tensor, rows: int, columns: int) -> Tensor:
    """A grid of codes between four, (2, 2, *code) → (rows, columns, *code); the corners are the grid's corners."""
    require(corners.shape[:2] == (2, 2), "corners", "shape (2, 2, *code)", tuple(corners.shape))
    left, right = (interpolate(corners[0, j], corners[1, j], rows) for j in (0, 1))
    return torch.stack([interpolate(a, b, columns) for a, b in zip(left, right)])


def arithmetic(plus: Sequence[Tensor], minus: Sequence[Tensor] = ()) -> Tensor:
    """Sum of some codes less the sum of others: `arithmetic([a, c], [b])` is a − b + c."""
    require(len(plus) >= 1, "plus", "at least one code", len(plus))
    shapes = {tuple(z.shape) for z in (*plus, *minus)}
    require(len(shapes) == 1, "plus", "codes of one shape", sorted(shapes))
    return torch.stack(list(plus)).sum(0) - sum((z for z in minus), torch.zeros_like(plus[0]))


def traverse(z: Tensor, dims: Sequence[int], values: Tensor) -> Tensor:
    """A flat code with one or two of its numbers replaced by every value: (len, code) or (len, len, code).

    Arguments:
        z: one code, (code,).
        dims: which one or two numbers vary; the first along the first axis.
        values: (len,) what they become.

    Raises:
        InputError: a dimension that the code has not, or more than two.
    """
    require(z.ndim == 1, "z", "one flat code", tuple(z.shape))
    distinct = len(dims) in (1, 2) and len(set(dims)) == len(dims)
    require(distinct and all(0 <= d < len(z) for d in dims), "dims", f"one or two of 0 to {len(z) - 1}", tuple(dims))
    grid = z.expand(*[len(values)] * len(dims), len(z)).clone()
    for axis, d in enumerate(dims):
        grid[..., d] = values.to(z).reshape(*[-1 if i == axis else 1 for i in range(len(dims))])
    return grid


def _codec(model: GenerativeModel) -> Coded:
    if not isinstance(model, Coded):
        raise Unsupported(f"{model.kind()} has no code; vae, flow, ppca and the autoencoders have one")
    return model


def _code_shape(model: GenerativeModel, y: Any) -> tuple[int, ...]:
    """Shape of one code, found by encoding the row at the middle of the space."""
    middle = model.space.from_model(torch.zeros(1, *model.space.model_shape, device=model.device))
    given = None if model.condition is None or y is None else model.condition.check(y, what="y")[:1]
    return tuple(_codec(model).encode(middle, model.check_condition(given, 1)).shape[1:])
