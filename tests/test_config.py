"""An object's constructor is its configuration: described as JSON, built back, and nothing else can be named."""

import json
from typing import Any, Literal

import pytest

from likeli.config import MAX_DEPTH, Configurable, build, coerce, describe, lookup, registered, snake_case
from likeli.errors import InputError
from likeli.spaces import Pixels, Real, Space


class ConfigShape(Configurable):
    """A base for the cases below."""


class ConfigCircle(ConfigShape):
    def __init__(self, radius: float = 1.0, name: str | None = None) -> None:
        self.radius, self.name = radius, name


class ConfigGroup(ConfigShape):
    def __init__(
        self,
        members: tuple[ConfigShape, ...],
        mode: Literal["all", "any"] = "all",
        weights: list[float] | None = None,
        table: dict[str, int] | None = None,
        pair: tuple[int, bool] = (1, True),
        limit: int | str = 3,
    ) -> None:
        self.members, self.mode, self.weights = members, mode, weights
        self.table, self.pair, self.limit = table, pair, limit


def group():
    members = (ConfigCircle(2.0), ConfigGroup((ConfigCircle(name="x"),)))
    return ConfigGroup(members, "any", [1.0, 2.0], {"a": 1}, (2, False), "many")


def test_names_are_snake_case():
    names = {"VDM": "vdm", "ScoreSDE": "score_sde", "GMMPrior": "gmm_prior", "TwoWords": "two_words"}
    assert {n: snake_case(n) for n in names} == names


def test_describe_and_build_are_inverse_through_json():
    spec = json.loads(json.dumps(describe(group())))
    assert describe(build(spec, ConfigShape)) == describe(group())
    assert build(spec, ConfigShape).pair == (2, False)


def test_spaces_describe_themselves():
    space = Real((2,), mean=(1.0, 2.0), scale=0.5, names=("a", "b"))
    twin = build(describe(space), Space)
    assert (twin.shape, twin.mean, twin.scale, twin.names) == (space.shape, space.mean, space.scale, space.names)


CIRCLE = {"class": "config_circle"}


@pytest.mark.parametrize(
    "spec, message",
    [
        ([], "an object with a 'class'"),
        ({}, "a registered name"),
        ({"class": 3}, "a registered name"),
        ({"class": "os.system"}, "expected one of"),
        ({"class": "config_circl"}, "did you mean config_circle"),
        ({"class": "pixels", "shape": [2], "levels": 4}, "expected one of"),  # registered, but no ConfigShape
        (CIRCLE | {"radus": 1.0}, "config_shape.radus: unknown argument of config_circle; did you mean radius"),
        (CIRCLE | {"radius": "1"}, "radius: expected a finite number"),
        (CIRCLE | {"radius": True}, "radius: expected a finite number"),
        (CIRCLE | {"radius": float("nan")}, "radius: expected a finite number"),
        (CIRCLE | {"radius": 10**400}, "radius: expected a finite number"),
        (CIRCLE | {"name": 3}, "name: expected text"),
        ({"class": "config_group"}, "config_shape.members: expected a value, got nothing"),
        ({"class": "config_group", "members": "ab"}, "a list"),
        ({"class": "config_group", "members": [CIRCLE | {"radius": []}]}, "config_shape.members.radius"),
        ({"class": "config_group", "members": [], "mode": "some"}, "one of all, any"),
        ({"class": "config_group", "members": [], "pair": [1]}, "2 values"),
        ({"class": "config_group", "members": [], "pair": [1, 0]}, "true or false"),
        ({"class": "config_group", "members": [], "table": {"a": 1.5}}, "an integer"),
        ({"class": "config_group", "members": [], "limit": 2**70}, "expected int or str"),
    ],
)
def test_bad_specifications_are_one_line_that_names_the_place(spec, message):
    with pytest.raises(InputError) as caught:
        build(spec, ConfigShape)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_nesting_is_bounded():
    spec: Any = CIRCLE
    for _ in range(MAX_DEPTH + 2):
        spec = {"class": "config_group", "members": [spec]}
    with pytest.raises(InputError, match="at most"):
        build(spec, ConfigShape)


def test_only_concrete_registered_classes_have_names():
    assert "space" not in registered(Space)
    assert lookup("pixels", Space) is Pixels
    with pytest.raises(InputError, match="space: expected one of"):
        lookup("__import__('os')", Space)


def test_two_classes_of_one_name_are_an_error():
    with pytest.raises(TypeError, match="already registered"):
        type("Pixels", (ConfigShape,), {"__module__": "elsewhere"})


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="radius"):
        held = ConfigCircle()
        held.radius = object()
        describe(held)
    for value in (object(), float("inf"), float("nan"), "3"):
        with pytest.raises(InputError, match="radius: expected a finite number"):
            ConfigCircle(radius=value)


def test_integers_become_floats_where_floats_are_asked_for():
    assert isinstance(coerce(1, float, "x"), float)
    assert coerce(None, int | None, "x") is None
    assert coerce([1, 2], tuple[float, ...], "x") == (1.0, 2.0)
