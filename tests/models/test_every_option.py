"""Every option of every family is fitted once: each choice of a name, each switch, each nested object with its own."""

import inspect
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch

import likeli
from families import STOCHASTIC, assert_parts_are_the_whole
from likeli.config import Configurable, parameters_of, registered
from likeli.errors import InputError, Unsupported
from likeli.models import families
from likeli.random import seeded
from likeli.spaces import Observation, Pixels, Space

G = torch.Generator().manual_seed(0)
IMAGES = torch.randint(4, (64, 8, 8), generator=G)
TEACHERS = {"distilled"}  # made from a trained model


def choices(cls):
    """(option, value) of the class that is not its default: other names, the other way of a switch, nested choices."""
    hints = get_type_hints(cls.__init__)
    for name, parameter in parameters_of(cls).items():
        hint = hints.get(name)
        options = [hint, *get_args(hint)] if get_origin(hint) is not Literal else [hint]
        for option in options:
            if get_origin(option) is Literal:
                yield from ((name, value) for value in get_args(option) if value != parameter.default)
            elif option is bool:
                yield name, not parameter.default
            elif isinstance(option, type) and issubclass(option, Configurable) and not issubclass(option, (Space, Observation)):
                ours = {c for c in registered(Configurable).values() if c.__module__.startswith("likeli.")}
                for kind in sorted(ours, key=lambda c: c.__qualname__):  # the same cases in every process
                    yield from nested(name, kind) if issubclass(kind, option) else ()


def nested(name, kind):
    try:
        yield name, kind()
    except (TypeError, InputError):  # it needs arguments of its own
        return
    for option, value in choices(kind):
        if not isinstance(value, Configurable):
            try:
                yield name, kind(**{option: value})
            except InputError:  # options that exclude each other
                continue


def told(value):
    if not isinstance(value, Configurable):
        return str(value)
    options = ((name, getattr(value, name, p.default), p.default) for name, p in parameters_of(type(value)).items())
    given = [f"{name}={v}" for name, v, usual in options if v != usual]
    return f"{value.kind()}({','.join(given)})"


CASES = [
    pytest.param(family, option, value, id=f"{family}-{option}-{told(value)}"[:90])
    for family, cls in sorted(families().items())
    if family not in TEACHERS
    for option, value in choices(cls)
]


@pytest.mark.slow
@pytest.mark.parametrize("family, option, value", CASES)
def test_every_choice_of_every_option_fits_a_small_image(family, option, value):
    try:
        model = families()[family](Pixels((8, 8), 4), **{option: value})
    except (InputError, Unsupported) as error:  # options that exclude each other, or are not for images: said in one line
        assert "\n" not in str(error)
        return
    history = likeli.fit(model, IMAGES, steps=2, batch=16, progress=False)
    assert history.steps >= 1
    few = {"steps": 3} if "steps" in inspect.signature(model.draw).parameters else {}
    assert model.space.check(model.sample(2, **few)).shape == (2, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize("family, option, value", CASES)
def test_a_part_of_a_batch_has_the_noise_of_its_rows_with_every_option(family, option, value):
    try:
        with seeded(0):
            model = families()[family](Pixels((8, 8), 4), **{option: value})
    except (InputError, Unsupported):
        return  # options that exclude each other, or are not for images
    if model.strategy not in STOCHASTIC or getattr(value, "free_nats", 0):
        return  # no loss row by row, or a threshold that is the batch's (tests/training/test_processes.py)
    if hasattr(model, "start"):
        with seeded(0):
            model.start(IMAGES)
    assert_parts_are_the_whole(model, IMAGES[:10])
