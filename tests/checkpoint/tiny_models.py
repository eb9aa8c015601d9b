"""A small model with every kind of tensor, kept out of the registry except while a checkpoint test runs."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import nn

from likeli import config
from likeli.contract import GenerativeModel, Knows
from likeli.spaces import Space


class Part(config.Configurable):
    """A nested argument."""

    def __init__(self, rate: float = 0.1, names: tuple[str, ...] = ()) -> None:
        self.rate, self.names = rate, names


class TinyFlow(GenerativeModel):
    """A network over cells, with parameters and buffers of several types."""

    knows: ClassVar[Knows] = Knows.EXACT
    strategy: ClassVar[str] = "sgd"

    def __init__(
        self,
        space: Space,
        hidden: tuple[int, ...] = (3,),
        rate: float = 0.1,
        kind_of: Literal["a", "b"] = "a",
        part: Part | None = None,
        layers: int = 0,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.hidden, self.rate, self.kind_of, self.part, self.layers = hidden, rate, kind_of, part, layers
        self.condition = condition
        widths = [space.dimensions, *hidden]
        self.net = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.deep = nn.ModuleList(nn.Linear(1, 1) for _ in range(layers))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.zeros(space.dimensions, dtype=torch.bool))
        self.register_buffer("scale", torch.ones(2, dtype=torch.float64))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("table", torch.linspace(0, 1, 4), persistent=False)

    def loss(self, x, y=None):
        return self.space.to_model(x).flatten(1).square().sum(1)

    def draw(self, noise, y=None):
        return self.space.from_model(noise.normal(*self.space.shape))


def _unregistered(*classes):
    return {c.kind(): config._CLASSES.pop(c.kind()) for c in classes}


CLASSES = _unregistered(Part, TinyFlow)


def fill(model, seed=0):
    """Every tensor of the model set to something a fresh one does not have."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in model.state_dict().values():
            if t.is_floating_point():
                t.copy_(torch.randn(t.shape, generator=generator))
            else:
                t.copy_(torch.randint(0, 2, t.shape, generator=generator))
    return model


def same(a, b):
    """Whether two collections of tensors are the same to the bit."""
    return list(a) == list(b) and all(a[k].dtype == b[k].dtype and raw(a[k]) == raw(b[k]) for k in a)


def raw(t):
    """Shape and bytes."""
    return tuple(t.shape), t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
