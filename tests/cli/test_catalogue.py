"""What the help says without importing anything is what the constructors say."""

import ast
import inspect
import resource
import subprocess
import sys

import pytest

import likeli
from likeli.cli import main
from likeli.cli.catalogue import FROM_DATA, catalogue, training_options
from likeli.config import parameters_of, registered
from likeli.contract import GenerativeModel
from likeli.training.settings import TrainSettings

MODELS = {name: cls for name, cls in likeli.families().items() if cls.__module__.startswith("likeli.")}


def test_the_families_are_the_registered_ones():
    assert catalogue().models == {name: cls.__name__ for name, cls in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_options_are_the_constructors(name):
    known = catalogue().arguments(MODELS[name].__name__)
    truth = {k: p for k, p in parameters_of(MODELS[name]).items() if k not in FROM_DATA}
    assert list(known) == list(truth)
    for argument, parameter in truth.items():
        assert known[argument].required == (parameter.default is inspect.Parameter.empty)
        if known[argument].literal:
            assert known[argument].default == parameter.default
        assert known[argument].help, f"{name}.{argument} has no line in the docstring's Arguments"


@pytest.mark.parametrize("name", MODELS)
def test_class_attributes_are_the_classes(name):
    cls, known = MODELS[name], catalogue()
    assert known.attribute(cls.__name__, "knows") == f"Knows.{cls.knows.name}"
    assert known.attribute(cls.__name__, "strategy") == cls.strategy
    assert ("condition" in known.constructor(cls.__name__)) == ("condition" in parameters_of(cls))
    assert known.summary(cls.__name__)


@pytest.mark.parametrize("name", MODELS)
def test_nested_choices_are_the_registered_ones(name):
    for argument in catalogue().arguments(MODELS[name].__name__).values():
        words = [n.id for n in ast.walk(ast.parse(argument.annotation)) if isinstance(n, ast.Name)]
        truth = [b for w in words for b in _bases() if b.__name__ == w and issubclass(b, likeli.config.Configurable)]
        ours = registered(truth[0]) if truth else {}  # other tests register families of their own
        expected = [name for name, c in ours.items() if c.__module__.startswith("likeli.")]
        assert list(catalogue().nested(argument.annotation)) == expected


def _bases():
    seen, stack = [], [likeli.config.Configurable]
    while stack:
        seen.append(stack.pop())
        stack += seen[-1].__subclasses__()
    return seen


def test_training_options_are_the_settings():
    settings = TrainSettings()
    assert {n: a.default for n, a in training_options().items()} == {n: getattr(settings, n) for n in training_options()}
    assert set(training_options()) == set(settings.plain())
    assert all(a.help for a in training_options().values())


@pytest.mark.parametrize("words", ["", "--help", "fit --help", "fit --model vdm --help", "list", "list vdm", "demo --help"])
def test_help_needs_no_torch(words):
    code = (
        f"import sys; from likeli.cli import main; code = main({words.split()!r});"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'PIL', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2  # of the processor: a busy machine is no fault
    assert "likeli" in done.stdout or "log p(x)" in done.stdout


def test_a_plugin_file_is_read_like_ours(tmp_path):
    half, whole = tmp_path / "half.py", tmp_path / "whole.py"
    source = 'class Mine(DensityModel):\n  """One."""\n  def __init__(self, space, k: int = 3): ...\n'
    half.write_text(source)
    assert "mine" not in catalogue((str(half),)).models  # log_density, draw_density are missing
    whole.write_text(source + "  def log_density(self): ...\n  def draw_density(self): ...\n")
    known = catalogue((str(whole),))
    assert known.arguments(known.family("mine"))["k"].default == 3


def test_the_model_of_the_catalogue_is_a_model():
    assert all(issubclass(cls, GenerativeModel) for cls in MODELS.values())


def test_a_family_without_labels_says_why(capsys):
    assert main(["list", "rbm"]) == 0
    assert "another number for each y" in " ".join(capsys.readouterr().out.split())
    assert main(["list", "vae"]) == 0
    assert "p(x) and p(x|y)" in " ".join(capsys.readouterr().out.split())
