"""Linear operators: what of an example was read.  y = A x + σ ξ, all in the user's units."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.errors import InputError, require
from likeli.spaces.arrays import as_tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: Recommendation ITU-R BT.601
PROBES = 3  # random directions of a test: each alone misses a fault with probability 0
ROUNDING = 1e-4  # of a test, relative: what a user's float32 callable may lose


class Operator(ABC):
    """A linear map of one example; its constructor tests A(ax + z) = aA(x) + A(z) and ⟨A x, y⟩ = ⟨x, Aᵀ y⟩.

    A kind writes `A`, calls this constructor last, and writes `adjoint` where it knows a shorter way than autograd.

    Arguments:
        shape: of one example.
        out: of one reading.

    Attributes of a kind:
        positive: whether no entry of A is below 0, so that readings of cells in a range lie in one.
        own: whether each row has an operator of its own.

    Raises:
        InputError: A is not linear, its adjoint is not one, or it has none.
    """

    positive: bool = True
    own: bool = False

    def __init__(self, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
        self.shape, self.out = tuple(shape), tuple(out)
        _check(self.at(torch.zeros(1, dtype=torch.long)))

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B, *out), both in the user's units."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, (B, *out) → (B, *shape): the gradient of ⟨A x, y⟩ in x, which is exact since A is linear."""
        with torch.enable_grad():
            x = torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device, requires_grad=True)
            read = self.A(x)
            if not read.requires_grad:
                raise InputError("operator: expected one with an adjoint, or one that torch can differentiate, got neither")
            return torch.autograd.grad(read, x, y)[0]

    def readings(self, y: Any) -> Tensor:
        """y as (B, *out) float64.

        Raises:
            InputError: another shape, or numbers that are not finite.
        """
        y = as_tensor(y, "y").double()
        y = y[None] if tuple(y.shape) == self.out else y
        shape = f"shape {('rows', *self.out)}".replace("'", "")
        require(y.ndim == 1 + len(self.out) and tuple(y.shape[1:]) == self.out and len(y) > 0, "y", shape, tuple(y.shape))
        known = self.seen()
        require(len(known) in (1, len(y)), "mask", f"one, or one for each of {len(y)} rows", len(known))
        finite = torch.where(known, y, 0).isfinite()
        require(bool(finite.all()), "y", "finite numbers", f"{int((~finite).sum())} that are not")
        return y

    def seen(self) -> Tensor:
        """Which cells of `out` are readings at all, broadcastable to (B, *out)."""
        return torch.ones(1, *self.out, dtype=torch.bool)

    def at(self, rows: Tensor) -> Operator:
        """The operator of some of the rows; the same one where it is that of every row."""
        return self

    def __matmul__(self, first: Operator) -> Operator:
        return Composed(self, first)


def _check(operator: Operator) -> None:
    generator = torch.Generator().manual_seed(0)

    def probe(rows: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(rows, *shape, dtype=torch.float64, generator=generator)

    for _ in range(PROBES):
        x, z = probe(2, operator.shape).split(1)
        read, cells = operator.A(torch.cat([x, z, 0 * x, 2.5 * x + z])), tuple(operator.out)
        require(tuple(read.shape) == (4, *cells), "operator", f"readings of shape {cells}", tuple(read.shape[1:]))
        scale = read.abs().max().item() + 1e-300
        gap = (read[3] - 2.5 * read[0] - read[1]).abs().max().item() + read[2].abs().max().item()
        law = "a linear map, with A(0) = 0 and A(ax + z) = aA(x) + A(z)"
        require(gap <= ROUNDING * scale, "operator", law, "one that is not")
        y = probe(2, operator.out)
        back = operator.adjoint(y)
        one, two = (read[:2].double() * y).flatten(1).sum(1), (torch.cat([x, z]) * back.double()).flatten(1).sum(1)
        size = scale * y.abs().max().item() * math.sqrt(math.prod(operator.out))
        wrong = (one - two).abs().max().item() > ROUNDING * size
        require(not wrong, "operator", "an adjoint with ⟨A x, y⟩ = ⟨x, Aᵀ y⟩", f"{one[0]:.6g} and {two[0]:.6g}")


def _copy(operator: Operator, **changed: Any) -> Operator:
    """The same with some attributes changed, not tested again."""
    other = copy.copy(operator)
    vars(other).update(changed)
    return other


class Mask(Operator):
    """A x = m ⊙ x: the cells that are seen, in their places, and 0 elsewhere; y is an image with holes of any value.

    Arguments:
        seen: (*shape), or (B, *shape) for a mask of its own for each row; true where a cell is seen.
        shape: of one example.

    Raises:
        InputError: another shape, everything seen or nothing.
    """

    def __init__(self, seen: Any, shape: tuple[int, ...]) -> None:
        known = as_tensor(seen, "mask")
        require(bool(((known == 0) | (known == 1)).all()), "mask", "true and false, or 0 and 1", "other numbers")
        rows = known if known.ndim == len(shape) + 1 else known[None]
        require(tuple(rows.shape[1:]) == tuple(shape), "mask", f"the shape of an example, {tuple(shape)}", tuple(known.shape))
        self._seen = rows.bool()
        share = self._seen.double().mean().item()
        require(0 < share < 1, "mask", "some cells seen and some hidden", "all hidden" if share == 0 else "all seen")
        self.own = len(rows) > 1
        super().__init__(shape, shape)

    @property
    def hole(self) -> float:
        """The share of cells that are hidden."""
        return 1 - self._seen.double().mean().item()

    def seen(self) -> Tensor:
        return self._seen

    def A(self, x: Tensor) -> Tensor:
        return torch.where(self._rows(x), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.where(self._rows(y), y, 0)

    def at(self, rows: Tensor) -> Operator:
        return _copy(self, _seen=self._seen[rows], own=len(rows) > 1) if self.own else self

    def _rows(self, x: Tensor) -> Tensor:
        seen = self._seen.to(x.device)
        require(len(seen) == 1 or len(x) in (1, len(seen)), "mask", f"one, or one for each of {len(x)} rows", len(seen))
        return seen


class Pool(Operator):
    """The average of each block of factor × factor cells: an image of low resolution.

    Arguments:
        shape: of one example; its last two axes are pooled, or its only one.
        factor: cells that a block is wide.
    """

    def __init__(self, shape: tuple[int, ...], factor: int) -> None:
        whole = isinstance(factor, int) and not isinstance(factor, bool) and factor >= 2
        require(whole, "factor", "a whole number of at least 2", factor)
        pooled = tuple(shape[-2:])
        require(all(s % factor == 0 for s in pooled), "factor", f"a divisor of {' and '.join(map(str, pooled))}", factor)
        self.factor, self.axes = factor, len(pooled)
        super().__init__(shape, (*shape[: -self.axes], *(s // factor for s in pooled)))

    def A(self, x: Tensor) -> Tensor:
        for axis in range(x.ndim - self.axes, x.ndim):
            x = x.unflatten(axis, (-1, self.factor)).mean(axis + 1)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for axis in range(y.ndim - self.axes, y.ndim):
            y = y.repeat_interleave(self.factor, axis) / self.factor
        return y


class Grey(Operator):
    """Luminance Σ_c w_c x_c of an image (C, H, W) → (H, W).

    Arguments:
        shape: of one example.
        weights: w of each channel; those of luminance for three of them, else equal.
    """

    def __init__(self, shape: tuple[int, ...], weights: tuple[float, ...] | None = None) -> None:
        require(len(shape) == 3 and shape[0] >= 2, "operator", "images of two channels or more (C, H, W) to make grey", shape)
        self.weights = weights or (LUMA if shape[0] == 3 else (1 / shape[0],) * shape[0])
        require(len(self.weights) == shape[0], "weights", f"{shape[0]}, one for each channel", len(self.weights))
        super().__init__(shape, shape[1:])

    def A(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,c->bhw", x, torch.tensor(self.weights, dtype=x.dtype, device=x.device))

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.einsum("bhw,c->bchw", y, torch.tensor(self.weights, dtype=y.dtype, device=y.device))


class Blur(Operator):
    """A Gaussian blur, each channel alone; beyond its edge an image is mirrored.

    Arguments:
        shape: of one example, an image (H, W) or (C, H, W).
        width: standard deviation of the kernel in cells, which is cut off at three of them.
    """

    def __init__(self, shape: tuple[int, ...], width: float) -> None:
        require(len(shape) in (2, 3), "operator", "images (H, W) or (C, H, W) to blur", shape)
        require(math.isfinite(width) and width > 0, "width", "a positive number of cells", width)
        self.width, self.reach = width, math.ceil(3 * width)
        require(self.reach < min(shape[-2:]), "width", f"below a third of the image's side {min(shape[-2:])}", width)
        self.kernel = torch.exp(-0.5 * (torch.arange(-self.reach, self.reach + 1, dtype=torch.float64) / width).square())
        super().__init__(shape, shape)

    def A(self, x: Tensor) -> Tensor:
        kernel, r = (self.kernel / self.kernel.sum()).to(x), self.reach
        flat = F.pad(x.reshape(-1, 1, *self.shape[-2:]), (r, r, r, r), mode="reflect")
        return F.conv2d(F.conv2d(flat, kernel[None, None, None]), kernel[None, None, :, None]).reshape(x.shape)


class Crop(Operator):
    """A rectangle of an image, or a run of a vector.

    Arguments:
        shape: of one example.
        top, left, height, width: of the rectangle in the last two axes.
    """

    def __init__(self, shape: tuple[int, ...], top: int, left: int, height: int, width: int) -> None:
        require(len(shape) >= 2, "operator", "images to crop", shape)
        (h, w), edges = shape[-2:], (top, left, height, width)
        inside = min(top, left) >= 0 and min(height, width) >= 1 and top + height <= h and left + width <= w
        require(inside, "crop", f"a rectangle inside {h} × {w}", edges)
        self.edges, self.pads = edges, (left, w - left - width, top, h - top - height)
        super().__init__(shape, (*shape[:-2], height, width))

    def A(self, x: Tensor) -> Tensor:
        top, left, height, width = self.edges
        return x[..., top : top + height, left : left + width]

    def adjoint(self, y: Tensor) -> Tensor:
        return F.pad(y, self.pads)


class Linear(Operator):
    """Any linear callable, or a matrix (M, cells) on the cells in row-major order.

    Arguments:
        shape: of one example.
        function: (B, *shape) → (B, *out), or a matrix.
        adjoint: (B, *out) → (B, *shape); by autograd if not given.
    """

    positive = False

    def __init__(
        self,
        shape: tuple[int, ...],
        function: Callable[[Tensor], Tensor] | Any,
        adjoint: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.back = adjoint
        if callable(function) and not isinstance(function, Tensor):
            self.function: Callable[[Tensor], Tensor] = function
        else:
            matrix = as_tensor(function, "operator").double()
            cells = math.prod(shape)
            require(matrix.ndim == 2 and matrix.shape[1] == cells, "operator", f"a matrix (M, {cells})", tuple(matrix.shape))
            self.function = lambda x: x.flatten(1) @ matrix.to(x).mT
        read = self.function(torch.zeros(1, *shape, dtype=torch.float64))
        tensor = isinstance(read, Tensor) and read.ndim >= 1
        require(tensor, "operator", "a callable that returns a tensor", type(read).__name__)
        super().__init__(shape, tuple(read.shape[1:]))

    def A(self, x: Tensor) -> Tensor:
        return self.function(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(y) if self.back is None else self.back(y)


class Composed(Operator):
    """A₂ A₁, written `second @ first`.

    Arguments:
        second, first: the shapes between them are one.
    """

    def __init__(self, second: Operator, first: Operator) -> None:
        require(second.shape == first.out, "operator", f"a second one of examples {first.out}", second.shape)
        self.second, self.first, self.positive = second, first, second.positive and first.positive
        self.own = second.own or first.own
        super().__init__(first.shape, second.out)

    def A(self, x: Tensor) -> Tensor:
        return self.second.A(self.first.A(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.first.adjoint(self.second.adjoint(y))

    def seen(self) -> Tensor:
        return self.second.seen()

    def at(self, rows: Tensor) -> Operator:
        return _copy(self, second=self.second.at(rows), first=self.first.at(rows)) if self.own else self


class Stacked(Operator):
    """Several readings of one example side by side, as one vector.

    Arguments:
        parts: operators on one shape.
    """

    def __init__(self, *parts: Operator) -> None:
        shapes = {p.shape for p in parts}
        require(len(shapes) == 1, "operator", "operators on one shape to stack", sorted(shapes))
        self.positive, self.own = all(p.positive for p in parts), any(p.own for p in parts)
        self.parts, self.sizes = parts, [math.prod(p.out) for p in parts]
        super().__init__(parts[0].shape, (sum(self.sizes),))

    def A(self, x: Tensor) -> Tensor:
        return torch.cat([p.A(x).flatten(1) for p in self.parts], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        pieces = y.split(self.sizes, 1)
        return torch.stack([p.adjoint(v.unflatten(1, p.out)) for p, v in zip(self.parts, pieces)]).sum(0)

    def seen(self) -> Tensor:
        every = [p.seen().flatten(1) for p in self.parts]
        return torch.cat([v.expand(max(map(len, every)), -1) for v in every], 1)

    def at(self, rows: Tensor) -> Operator:
        return _copy(self, parts=[p.at(rows) for p in self.parts]) if self.own else self
