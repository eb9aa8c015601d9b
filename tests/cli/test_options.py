"""Dotted options and the config file: what they mean, and every way to get them wrong."""

from typing import Any, Literal

import pytest
import yaml

from likeli.cli.catalogue import Argument, Catalogue, catalogue
from likeli.cli.options import MAX_BYTES, model_spec, read_config, read_value, split_dotted, train_settings
from likeli.errors import InputError

SOURCE = '''
class Configurable: ...
class GenerativeModel(Configurable):
    @abstractmethod
    def loss(self): ...
class Schedule(Configurable):
    @abstractmethod
    def forward(self): ...
class Cosine(Schedule):
    """A cosine.

    Arguments:
        shift: where.
    """
    def __init__(self, shift: float = 0.0): ...
    def forward(self): ...
class Line(Schedule):
    def forward(self): ...
class Toy(GenerativeModel):
    """A toy.

    Arguments:
        size: how large.
        schedule: how the noise grows.
    """
    strategy = "sgd"
    def __init__(self, space, size: int = 3, schedule: Schedule | None = None, name: str = "x"): ...
    def loss(self): ...
'''
KNOWN = {"data": str, "steps": int, "model": str | dict, "anything": Any}


@pytest.fixture
def toys(tmp_path):
    path = tmp_path / "toys.py"
    path.write_text(SOURCE)
    return Catalogue([path])


@pytest.fixture
def config(tmp_path):
    def read(text, known=KNOWN):
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config(str(path), known)

    return read


def test_dotted_options_leave_the_rest_alone():
    rest, found = split_dotted(["fit", "--model.size", "4", "digits", "--train.lr=1e-3", "--model.shift", "-2", "--seed=3"])
    assert rest == ["fit", "digits", "--seed=3"]
    assert found["model"] == [("size", "4"), ("shift", "-2")]
    assert found["train"] == [("lr", "1e-3")]


def test_a_dotted_option_needs_a_value():
    with pytest.raises(InputError, match=r"--model.size: expected a value"):
        split_dotted(["fit", "--model.size"])


@pytest.mark.parametrize(
    "text, annotation, value",
    [
        ("3", "int", 3),
        ("1e-3", "float", 1e-3),
        (".5", "float", 0.5),
        ("3", "float", 3.0),
        ("none", "int | None", None),
        ("null", "float | None", None),
        ("none", "Literal['cosine', 'none']", "none"),
        ("none", "Schedule | None", None),
        ("cosine", "Schedule | None", "cosine"),
        ("32", "Literal['32', 'bf16-mixed']", "32"),
        ("3", "str", "3"),
        ("", "str", ""),
        ("True", "bool", True),
        ("64,64", "tuple[int, ...]", (64, 64)),
        ("[64, 64]", "tuple[int, ...]", (64, 64)),
        ("64", "tuple[int, ...]", (64,)),
        ("()", "tuple[int, ...]", ()),
        ("4", "int | tuple[int, ...]", 4),
        ("4,4", "int | tuple[int, ...]", (4, 4)),
        ("0.9,0.99", "tuple[float, float]", (0.9, 0.99)),
        ("1_000", "int", 1000),
        ('{"class": "ddim", "eta": 0.5}', "Sampler | str", {"class": "ddim", "eta": 0.5}),
    ],
)
def test_text_becomes_a_value_of_its_type(text, annotation, value):
    hint = Argument("x", annotation, None, True, False, "").hint
    found = read_value(text, hint, "x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text, hint, message",
    [
        ("abc", int, "x: expected an integer, got abc"),
        ("2.5", int, "x: expected an integer, got 2.5"),
        ("010x", int, "x: expected an integer, got 010x"),
        ("true", int, "x: expected an integer, got True"),
        ("yes", bool, "x: expected true or false, got yes"),
        ("nan", float, "x: expected a finite number, got nan"),
        ("9" * 5000, int, "x: expected an integer, got inf"),
        ("16", Literal["32", "bf16-mixed"], "x: expected one of 32, bf16-mixed, got 16"),
        ("8,x", tuple[int, ...], "x: expected an integer, got x"),
        ("1", tuple[int, int], "x: expected 2 values, got [1]"),
        ("none", int, "x: expected an integer, got None"),
        ("[" * 500, list[int], "x: expected"),
    ],
)
def test_text_of_another_type_is_one_line(text, hint, message):
    with pytest.raises(InputError) as caught:
        read_value(text, hint, "x")
    assert str(caught.value).startswith(message)


SCALARS = ["3", "-2", "1e-3", ".5", "true", "null", "none", "digits", "0x1f", "010", "1:30", "yes", "2001-01-01"]


@pytest.mark.parametrize("text", SCALARS)
def test_a_file_and_the_command_line_read_one_scalar_alike(text, config):
    """What YAML 1.1 makes of 0x1f, 010, 1:30, yes and dates surprises on a command line; here it is text or decimal."""
    in_file = config(f"anything: {text}")["anything"]
    assert in_file == (text if text == "none" else read_value(text, Any, "x"))
    assert type(in_file) in (int, float, bool, type(None), str)


def test_a_nested_object_is_named_and_then_configured(toys):
    spec = model_spec(toys, "toy", [("schedule", "cosine"), ("schedule.shift", "0.5")], {})
    assert spec == {"class": "toy", "schedule": {"class": "cosine", "shift": 0.5}}


def test_the_command_line_has_the_last_word(toys):
    config = {"class": "toy", "size": 5, "schedule": {"class": "cosine", "shift": 1.0}}
    assert model_spec(toys, "toy", [("schedule.shift", "2"), ("size", "7")], config) == {
        "class": "toy",
        "size": 7,
        "schedule": {"class": "cosine", "shift": 2},
    }


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([("sise", "3")], "did you mean size"),
        ([("schedule", "cosin")], "did you mean cosine"),
        ([("schedule.shift", "1")], "expected one of cosine, line, got nothing"),
        ([("schedule", "cosine"), ("schedule.shfit", "1")], "did you mean shift"),
        ([("schedule", "line"), ("schedule.shift", "1")], "line has no such option"),
        ([("size.deep", "1")], "expected one value"),
        ([("__init__", "1")], "no such option"),
        ([("space", "1")], "no such option"),
        ([("schedule", "os.system")], "expected one of cosine, line"),
        ([("_target_", "os.system")], "no such option"),
    ],
)
def test_what_is_unknown_is_refused(toys, pairs, message):
    with pytest.raises(InputError, match=message):
        model_spec(toys, "toy", pairs, {})


def test_an_unknown_family_and_an_unknown_training_option():
    with pytest.raises(InputError, match="unknown family 'vdn'; did you mean vdm"):
        model_spec(catalogue(), "vdn", [], {})
    with pytest.raises(InputError, match=r"train.lrr.*did you mean lr"):
        train_settings([("lrr", "1")], {})


def test_a_config_file_is_read(config):
    read = config("data: digits\nsteps: 5\nmodel: {class: vae, lr: 1e-3}\n")
    assert read == {"data": "digits", "steps": 5, "model": {"class": "vae", "lr": 1e-3}}
    assert config('{"data": "digits"}') == {"data": "digits"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("dta: digits", "unknown option 'dta'; did you mean data"),
        ("data: digits\ndata: other", "'data' twice"),
        ("model: {a: 1, a: 2}", "'a' twice"),
        ("data: !!python/object/apply:os.system ['true']", "line 1 column 7"),
        ("data: !mine 3", "line 1 column 7"),
        ("model: &a {b: 1}\ndata: *a", "aliases"),
        ("data: [1,", "line 1 column"),
        ('{"data": "digits"', "line 1 column 18"),
        ("- 1\n- 2", "options by name"),
        ("", "options by name, got nothing"),
        ("steps: many", "steps: expected an integer, got many"),
        ("? [1, 2]\n: 3", "line 1"),
        ("model: " + "[" * 50_000, "too deep"),
        ("model: " + "{a: " * 50_000, "too deep"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("data: a\x00b", "special characters"),
        ("# " + "x" * MAX_BYTES, "at most"),
        ("steps: 2001-01-01", "an integer, got 2001-01-01"),
    ],
)
def test_a_bad_config_file_is_one_line(config, text, message):
    with pytest.raises(InputError, match=message) as caught:
        config(text)
    assert 10 <= len(str(caught.value)) <= 600
    assert "\n" not in str(caught.value)


def test_a_missing_config_file():
    with pytest.raises(InputError, match=r"config: cannot read nowhere.yaml: No such file"):
        read_config("nowhere.yaml", KNOWN)


def test_numbers_with_an_exponent_are_numbers(config):
    for text in ("1e-3", "1E3", "-2.5e+1", "0.001", ".5", "5."):
        value = config(f"model: {{a: {text}}}")["model"]["a"]
        assert value == float(text)
        assert isinstance(value, float)
    assert config("model: {a: 12}")["model"]["a"] == 12
    assert isinstance(yaml.safe_load("1e-3"), str)  # what the loader above has over the usual one
