"""Every family in the registry: what is saved is what is loaded, and no argument of a stranger's config breaks the reader."""

import functools
import json
import time
import warnings
from pathlib import Path

import pytest
import torch
from test_hostile import argument, mutations, peak_memory, reset_peak, resident, sign
from tiny_models import fill, raw, same

from families import FAMILIES, examples, quick, takes
from likeli import checkpoint as ck
from likeli.config import Configurable, build, describe, parameters_of
from likeli.errors import CheckpointError, Unsupported
from likeli.random import seeded
from likeli.spaces import Binary, Counts, Labels, Pixels, Real, Tokens
from torture import times

SPACES = {
    "real": Real((3,), mean=(1.0, -2.0, 1 / 3), scale=(1.0, 5.0, 0.1)),
    "pixels": Pixels((4, 4), levels=5),
    "binary": Binary((6,)),
    "tokens": Tokens(4, 3),
    "counts": Counts((3,)),
}
CASES = [(f, s, False) for f in FAMILIES for s in SPACES if takes(f, SPACES[s])]
CASES += [(f, s, True) for f, s, _ in CASES if "condition" in parameters_of(FAMILIES[f])]


def made(family, space, conditional=False):
    """The family with its defaults, its weights moved off their start, or fitted where it is fitted at once."""
    cls, x = FAMILIES[family], examples(space)
    with seeded(0, "made"):
        model = cls(space, condition=Labels(3)) if conditional else cls(space)
        if model.strategy == "closed_form":
            model.fit_closed_form(x)
        elif model.strategy == "em":
            next(iter(model.em(x)))
        else:
            with torch.no_grad():
                for p in model.parameters():
                    p += 0.01 * torch.randn_like(p)
    return model.eval()


def answers(model):
    """Every number that a user would see, as bytes."""
    x, y = examples(model.space, 5, seed=1), None if model.condition is None else torch.arange(5) % 3
    few, out = quick(model.measure_likelihood), []
    with seeded(0, "answers"), torch.no_grad():
        out.append(model.loss(x, y))
        drawn = functools.partial(model.sample, 3, None if y is None else y[:3], **quick(model.draw))
        for act in (lambda: model.log_likelihood(x, y, **few).value, drawn):
            try:
                out.append(act())
            except Unsupported:
                continue
    return [raw(t) for t in out]


# an energy's chains are tuned for a second before their first draw
AGAIN = [pytest.param(*c, marks=[pytest.mark.slow] * (c[0] == "ebm" and c[1] in ("pixels", "counts"))) for c in CASES]


@pytest.mark.parametrize("family, space, conditional", AGAIN)
def test_family_comes_back_to_the_bit(tmp_path, family, space, conditional):
    model = made(family, SPACES[space], conditional)
    ck.save(model, tmp_path / "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = ck.load(tmp_path / "x")
    assert describe(loaded) == describe(model)
    assert same(loaded.state_dict(), model.state_dict())
    assert same(dict(loaded.named_buffers()), dict(model.named_buffers()))
    assert answers(loaded) == answers(model)
    check_what_it_says(tmp_path / "x", known(model))


def known(model):
    """What the model's own number says that it is."""
    try:
        y = None if model.condition is None else 0
        return model.log_likelihood(examples(model.space, 2), y, **quick(model.measure_likelihood)).knows.value
    except Unsupported:
        return model.knows.value


def check_what_it_says(run, knows):
    """The card and `inspect` call the number what the model calls it."""
    facts = ck.inspect(run)
    assert facts["knows"] == knows
    assert f"| its number | {knows}: " in Path(facts["generation"], "README.md").read_text()


@pytest.mark.parametrize("family, space, conditional", [c for c in CASES if c[1] in ("real", "tokens") and not c[2]])
def test_family_in_double_precision_comes_back_to_the_bit(tmp_path, family, space, conditional):
    model = made(family, SPACES[space]).double()
    ck.save_pretrained(model, tmp_path / "x")
    assert same(ck.load(tmp_path / "x").state_dict(), model.state_dict())


BAD = (10**9, -1, None, "evil", [10**9]), (0, 2**62, True, 1e300, "NaN", [-1], [[0]], {"class": "real"}, [10**5] * 50)


def first_space(family):
    return next(space for name, space in SPACES.items() if takes(family, space))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("values", [BAD[0], pytest.param(BAD[1], marks=pytest.mark.slow)], ids=["few", "more"])
def test_no_argument_breaks_the_reader(tmp_path, family, values):
    """A forged config either is refused in one line, in little time and memory, or builds a model of the same weights."""
    model = made(family, first_space(family))
    ck.save_pretrained(model, tmp_path / "x")
    folder, text = tmp_path / "x", (tmp_path / "x/config.json").read_text()
    for name in parameters_of(FAMILIES[family]):
        for value in values:
            config = json.loads(text)
            config["model"][name] = value
            (folder / "config.json").write_text(json.dumps(config))
            sign(folder)
            reset_peak()
            idle, start = resident(), time.process_time()
            try:
                assert same(ck.load(folder).state_dict(), model.state_dict())
            except CheckpointError as error:
                assert str(error).isprintable(), (name, value)
                assert len(str(error)) < 600, (name, value)
            assert time.process_time() - start < 2, (name, value)
            assert peak_memory() - idle < 300 << 20, (name, value)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_mutated_bytes_of_a_family_never_load_changed(tmp_path, family, record_property):
    model, n = made(family, first_space(family)), times(100, 20_000)
    ck.save_pretrained(model, tmp_path / "x")
    refused = mutations(tmp_path / "x", model, n, forged=False, state={})
    record_property("figure", f"{family}: {n} mutated folders, {refused} refused, none loaded changed")
    assert refused > n // 2


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_a_family_are_strict(tmp_path, family):
    model = made(family, first_space(family))
    folder = ck.save(model, tmp_path / "x")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-9] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="sha256"):
        ck.load(tmp_path / "x")
    other = made(family, first_space(family))
    other = other if other.strategy == "boosting" else fill(other, 3)  # whose tensors have to fit each other
    with ck.lock(tmp_path / "x"):
        ck.save(other, tmp_path / "x")
    assert same(ck.load(tmp_path / "x").state_dict(), other.state_dict())


@pytest.mark.parametrize("family, unnamed, space, then, now", [
    ("autoregressive", None, Tokens(4, 3, "abc"), "transformer", "lstm"),
    ("discrete_diffusion", "auto", Tokens(4, 3, "abc"), "transformer", "lstm"),
    ("autoregressive", None, Pixels((1, 4, 4), 3), "conv", "rows"),
])  # fmt: skip
@pytest.mark.parametrize("whole", [True, False])
def test_runs_of_a_time_without_named_networks_are_read_by_those_of_then(tmp_path, family, unnamed, space, then, now, whole):
    """Their config names no network, or has no backbone at all; what is saved today has a name."""
    kind = {"autoregressive": "causal_backbone", "discrete_diffusion": "symbol_backbone"}[family]
    old = FAMILIES[family](space, backbone=build({"class": kind, "network": then}, Configurable)).eval()
    ck.save(old, tmp_path / "x")
    backbone = {"class": kind, "network": unnamed} if whole else None
    argument("backbone", backbone)(next((tmp_path / "x").rglob("config.json")).parent)
    assert same(ck.read(tmp_path / "x").model.state_dict(), old.state_dict())
    ck.save(FAMILIES[family](space), tmp_path / "y")
    assert json.loads(next((tmp_path / "y").rglob("config.json")).read_text())["model"]["backbone"]["network"] == now
