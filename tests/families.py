"""Every registered family, and rows that fit a space; shared by the suites that run over the registry."""

import copy
import importlib
import inspect
import pkgutil
import typing

import torch

import likeli.models
from likeli.config import _grouped, coerce, registered
from likeli.contract import GenerativeModel
from likeli.errors import InputError, Unsupported
from likeli.random import Ambient, BatchPart, seeded
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


def quick(method):
    """Few steps and draws, for a method of a family that offers the choice."""
    offered = inspect.signature(method).parameters
    return {name: few for name, few in {"steps": 5, "samples": 2}.items() if name in offered}


def trained(model, x, *, steps, seed=0):
    """`model` fitted to x for a short while, as a user would: at the family's own rate, at which nothing diverges."""
    fit(model, x, steps=steps, seed=seed)
    return model.eval()


STOCHASTIC = ("sgd", "contrastive", "adversarial")  # strategies that see a batch a step


def per_row(model, x):
    """What training averages over rows, with the noise of a step."""
    if model.strategy == "sgd":
        return model.loss(x)
    if model.strategy == "contrastive":
        return model.log_f(model.states(x, Ambient(x))[0])
    u = model.real(x)
    v = model.fake(u, None)
    return torch.stack([model.discriminator_loss(u, v, None), model.generator_loss(u, v, None)], 1)


def assert_parts_are_the_whole(model, x):
    """The rows of a batch have the same losses in two uneven parts, each with its part of the batch's noise, as in one."""
    model = model.double().train()
    x = x.double() if x.is_floating_point() else x
    found = []
    for first, after in ((0, len(x)), (0, 3), (3, len(x))):
        own = copy.deepcopy(model)  # some count their steps
        with seeded(1), BatchPart(first, after - first, len(x)):
            found.append(per_row(own, x[first:after]).detach())
    torch.testing.assert_close(torch.cat(found[1:]), found[0], rtol=1e-9, atol=1e-9)
