"""Every registered family, and rows that fit a space; shared by the suites that run over the registry."""

import importlib
import pkgutil
import typing

import torch

import likeli.models
from likeli.config import _grouped, coerce, registered
from likeli.contract import GenerativeModel
from likeli.errors import InputError, Unsupported
from likeli.random import seeded
from likeli.spaces import Counts, Labels, Pixels, Table, Tokens
from likeli.training import fit

for _module in pkgutil.iter_modules(likeli.models.__path__, "likeli.models."):
    importlib.import_module(_module.name)

FAMILIES = {k: c for k, c in registered(GenerativeModel).items() if c.__module__.startswith("likeli.")}


def flat(cls, *args, **options):
    """`cls(*args, …)` of options that may stand in one of its nested arguments, as a command line gives them."""
    hints = typing.get_type_hints(cls.__init__)
    grouped = _grouped(options, hints)
    return cls(*args, **{name: coerce(value, hints[name], name) for name, value in grouped.items()})


def takes(family, space):
    """Whether the family can be built on the space."""
    with seeded(0):
        try:
            return isinstance(FAMILIES[family](space), GenerativeModel)
        except (InputError, Unsupported):
            return False


def examples(space, n=70, seed=0):
    """Rows inside a space, with a little structure so that every column varies and columns depend on each other."""
    with seeded(seed, "examples", space.kind()):
        u = torch.randn(n, *space.shape) + torch.randn(n, *[1] * len(space.shape))
        if isinstance(space, Pixels):
            return (u * space.levels / 4 + space.levels / 2).long().clamp(0, space.levels - 1)
        if isinstance(space, Tokens):
            return u.mul(2).long().abs() % space.vocab
        if isinstance(space, Labels):
            return torch.arange(n) % space.classes
        if isinstance(space, Table):
            types = torch.tensor([["real", "integer", "categorical"].index(c.type) for c in space.columns])
            return torch.where(types == 0, u, torch.where(types == 1, u.mul(3).round(), u.mul(2).long().abs() % 3)).double()
        return u.exp().mul(2).long() if isinstance(space, Counts) else space.from_model(u)


def trained(model, x, *, steps, seed=0):
    """`model` fitted to x for a short while, as a user would: at the family's own rate, at which nothing diverges."""
    fit(model, x, steps=steps, seed=seed)
    return model.eval()
