"""The taxonomy that `likeli list` prints, held to what the families do: calls counted by hooks, spaces by building on them."""

import inspect
import json
from collections import Counter

import pytest
import torch

from families import FAMILIES, examples, takes
from likeli.cli.app import main
from likeli.contract import Knows
from likeli.diffusion.networks import DenoiserBackbone
from likeli.errors import InputError, Unsupported
from likeli.evaluation.cost import network_calls, value_of
from likeli.models.ddpm import DDPM
from likeli.models.discrete_diffusion import DiscreteDiffusion
from likeli.models.ebm import EBM
from likeli.models.rbm import RBM
from likeli.random import seeded
from likeli.spaces import Binary, Column, Counts, Pixels, Real, Table, Tokens

CELLS = {"real": Real((3,)), "binary": Binary((6,)), "tokens": Tokens(5, 3)}
SPACES = CELLS | {
    "pixels": Pixels((4, 4), 8),
    "counts": Counts((4,)),
    "table": Table((Column("a"), Column("b", "categorical", categories=("x", "y", "z")))),
}


def counted(model, **options):
    """Calls of the outermost module with parameters that runs most often while two rows are drawn."""
    calls, inside = Counter(), [0]

    def enter(name):
        def hook(module, given):
            calls[name] += not inside[0]
            inside[0] += 1

        return hook

    def leave(module, given, out):
        inside[0] -= 1

    hooks = []
    for name, module in model.named_modules():
        if module is not model and any(True for _ in module.parameters()):
            hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    with torch.no_grad():
        model.sample(2, **options)
    for hook in hooks:
        hook.remove()
    assert not inside[0]
    return max(calls.values(), default=0)


def built(family, space):
    """A small model that has seen rows, where it draws nothing before it has."""
    small = {"backbone": DenoiserBackbone(hidden=(8, 8)), "steps": 30} if issubclass(FAMILIES[family], DDPM) else {}
    with seeded(0, family):
        model = FAMILIES[family](space, **small)
        x = examples(space, 40)
        if family in ("ebm", "rbm"):
            model.start(x)
            model.tune()
        return model.eval()


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f in FAMILIES for k in CELLS if takes(f, CELLS[k])])
def test_a_sample_costs_as_many_calls_as_the_family_declares(family, kind, monkeypatch):
    model = built(family, CELLS[kind])
    sweeps = Counter()
    if isinstance(model, RBM):  # its network is two matrices, used by one method in each sweep
        own = model.excitation
        monkeypatch.setattr(model, "excitation", lambda *a: sweeps.update(["calls"]) or own(*a))
    if not model.calls:
        with pytest.raises(Unsupported):
            model.sample(1)
        assert network_calls(model) is None
        return
    chosen = [{}] if "steps" not in inspect.signature(model.draw).parameters else [{}, {"steps": 3}]
    for options in chosen:
        sweeps.clear()
        found = counted(model, **options) + sweeps["calls"]
        assert found == network_calls(model, **options) or isinstance(model, DiscreteDiffusion)
        if isinstance(model, DiscreteDiffusion):  # idle levels are passed over
            assert 1 <= found <= network_calls(model, **options)


def test_the_count_follows_the_options():
    assert counted(built("ebm", Real((2,))), steps=4) == 4 * 6
    with seeded(0):
        one = EBM(Real((2,)), (4,), leapfrogs=1)
        one.start(torch.randn(20, 2))
        one.tune()
    assert counted(one, steps=4) == network_calls(one, steps=4) == 8
    short = DDPM(Real((2,)), DenoiserBackbone(hidden=(8, 8)), steps=7)
    assert counted(short) == network_calls(short) == 7
    assert value_of("2 * (a + 1) - b", {"a": 4, "b": 3}) == 7
    for formula in ("a ** 2", "f(a)", "unknown", "1.5"):
        with pytest.raises(InputError, match="calls: expected whole numbers"):
            value_of(formula, {"a": 4})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_list_says_what_the_class_is(family, capsys):
    """knows, strategy, spaces and conditions of the printed taxonomy, against the class, and against building it."""
    assert main(["list", family, "--json"]) == 0
    row, cls = json.loads(capsys.readouterr().out), FAMILIES[family]
    assert Knows(row["knows"]) is cls.knows
    assert row["strategy"] == cls.strategy
    assert row["calls"] == cls.calls
    assert row["conditional"] == ("condition" in inspect.signature(cls.__init__).parameters)
    assert row["kinds"] == [kind for kind in cls.kinds if takes(family, SPACES[kind])]
    assert set(row["kinds"]) == {kind for kind, space in SPACES.items() if takes(family, space)}


def test_the_list_names_every_family_within_80_columns(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    lines = {line.split()[0]: line for line in text.splitlines() if line and not line.startswith(" ")}
    for family, cls in FAMILIES.items():
        assert (cls.calls.replace(" ", "") or "-") in lines[family].split()
        assert cls.strategy in lines[family].split()
