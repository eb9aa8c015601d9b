"""One table of checks for every registered family: a new one is tested by existing."""

import copy
import functools
import inspect
import json

import pytest
import torch
from torch import nn

from families import FAMILIES, examples, quick, takes
from likeli.config import build, describe, parameters_of
from likeli.contract import Coded, GenerativeModel, Knows, LogLikelihood
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.errors import InputError, Unsupported
from likeli.random import seeded
from likeli.spaces import Binary, Column, Counts, Labels, Pixels, Real, Table, Tokens

SPACES = {
    "real": Real((3,), mean=(1.0, -2.0, 0.0), scale=(1.0, 5.0, 0.1)),
    "pixels": Pixels((4, 4), levels=5),
    "binary": Binary((6,)),
    "tokens": Tokens(4, 3),
    "counts": Counts((3,)),
    "table": Table((Column("a", scale=3.0), Column("b", "integer"), Column("c", "categorical", categories=("x", "y", "z")))),
}
ROWS = 24


@functools.cache
def made(family, name, conditional=False):
    """The family with its defaults on a space, nudged off its starting point; the refusal where it takes no such space."""
    cls, space = FAMILIES[family], SPACES[name]
    x, y = examples(space), examples(Labels(3)) if conditional else None
    with seeded(0, family, name):
        try:
            model = cls(space, condition=Labels(3)) if conditional else cls(space)
        except (Unsupported, InputError) as refusal:
            return refusal
        if model.strategy == "closed_form":
            model.fit_closed_form(x, y)
        elif model.strategy in ("em", "boosting"):
            for _ in zip(range(3), model.em(x) if model.strategy == "em" else model.boost(x)):
                pass
        else:
            with torch.no_grad():
                for p in model.parameters():
                    p += 0.01 * torch.randn_like(p)
    return model


CASES = [(f, s) for f in FAMILIES for s in SPACES if takes(f, SPACES[s])]
CONDITIONAL = [(f, s) for f, s in CASES if "condition" in parameters_of(FAMILIES[f])]
every_case = pytest.mark.parametrize("family, name", CASES, ids=lambda v: v)
every_conditional = pytest.mark.parametrize("family, name", CONDITIONAL, ids=lambda v: v)


def can_sample(model):
    try:
        model.sample(1, None if model.condition is None else 0, **quick(model.draw))
    except Unsupported as refusal:
        assert len(str(refusal)) > 20  # it gives a reason
        return False
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_some_space_by_default_and_refuses_others_in_one_line(family):
    assert any(takes(family, space) for space in SPACES.values())
    for name, space in SPACES.items():
        if not takes(family, space):
            refusal = made(family, name)
            assert isinstance(refusal, (Unsupported, InputError))
            assert "\n" not in str(refusal)
            assert len(str(refusal)) > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_what_it_is(family):
    cls = FAMILIES[family]
    assert isinstance(cls.knows, Knows)
    assert cls.strategy in ("closed_form", "em", "boosting", "sgd", "adversarial", "contrastive")
    assert next(iter(parameters_of(cls))) == "space"
    assert inspect.getdoc(cls)
    assert all(p.default is not inspect.Parameter.empty for k, p in parameters_of(cls).items() if k != "space")


@every_case
def test_loss_is_one_finite_number_a_row_with_finite_gradients(family, name):
    model = copy.deepcopy(made(family, name)).train()
    with seeded(1):
        loss = model.loss(examples(model.space, ROWS))
    assert loss.shape == (ROWS,)
    assert loss.dtype == model.dtype
    assert loss.isfinite().all()
    if model.strategy == "sgd":
        loss.mean().backward()
        for parameter, p in model.named_parameters():
            if p.requires_grad:
                assert p.grad is not None, f"{parameter} gets no gradient"
                assert p.grad.isfinite().all(), parameter


@every_case
def test_loss_does_not_depend_on_the_mode_apart_from_dropout(family, name):
    model = copy.deepcopy(made(family, name))
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    losses = []
    for training in (True, False):
        with seeded(1):
            losses.append(model.train(training).loss(examples(model.space, ROWS)))
    assert torch.equal(*losses)


# an energy's chains are tuned for a second before their first draw
DRAWN = [pytest.param(f, s, marks=[pytest.mark.slow] * (f == "ebm" and s != "real"), id=f"{f}-{s}") for f, s in CASES]


@pytest.mark.parametrize("family, name", DRAWN)
def test_samples_are_rows_of_one_endless_table(family, name):
    model = made(family, name)
    if not can_sample(model):
        return
    state, options = torch.get_rng_state(), quick(model.draw)
    table = model.sample(16, seed=3, **options)
    model.space.check(table)
    assert torch.equal(model.sample(8, seed=3, **options), table[:8])
    assert torch.equal(model.sample(4, seed=3, first=9, **options), table[9:13])
    assert not torch.equal(model.sample(16, seed=4, **options), table)
    assert torch.equal(torch.get_rng_state(), state)


@every_case
def test_log_likelihood_is_what_the_family_says_it_knows(family, name):
    model, x, state = made(family, name), examples(made(family, name).space, ROWS), torch.get_rng_state()
    if model.knows is Knows.NOTHING:
        with pytest.raises(Unsupported, match=r".{20}"):
            model.log_likelihood(x)
        return
    modes = [m.training for m in model.modules()]
    few = quick(model.measure_likelihood)
    result = model.log_likelihood(x, **few)
    check_result(result, model)
    again = model.log_likelihood(x, **few)
    assert torch.equal(again.value, result.value)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert not result.value.requires_grad


def check_result(result: LogLikelihood, model):
    assert result.value.shape == (ROWS,)
    assert result.value.is_floating_point()
    assert result.value.isfinite().all()
    assert result.measure == model.space.measure
    assert result.dimensions == model.space.dimensions
    assert all(isinstance(v, float) for v in result.errors.values())
    allowed = {
        Knows.EXACT: {Knows.EXACT, Knows.LOWER_BOUND},  # a density of integers is a bound of their mass
        Knows.LOWER_BOUND: {Knows.LOWER_BOUND, Knows.EXACT},  # one with an exact posterior is tight
        Knows.ESTIMATE: {Knows.ESTIMATE, Knows.LOWER_BOUND},
        Knows.UNNORMALIZED: {Knows.UNNORMALIZED},
    }
    assert result.knows in allowed[model.knows]
    if result.knows is Knows.EXACT:
        assert result.stderr is None
    if result.stderr is not None:
        assert result.stderr.shape == (ROWS,)
        assert (result.stderr >= 0).all()
    if result.knows is Knows.UNNORMALIZED:
        with pytest.raises(Unsupported):
            result.bits_per_dim()
    else:
        assert torch.allclose(result.bits_per_dim() * model.space.dimensions * -torch.tensor(2.0).log(), result.value)
        assert result.measure != "mass" or result.knows is Knows.ESTIMATE or (result.value <= 1e-4).all()


@every_case
def test_description_and_weights_rebuild_the_model(family, name):
    model, x = made(family, name), examples(made(family, name).space, ROWS)
    spec = json.loads(json.dumps(describe(model), allow_nan=False))
    with seeded(99):
        twin = build(spec, GenerativeModel)
    assert describe(twin) == describe(model)
    twin.load_state_dict(model.state_dict())
    for one, other in ((model, twin),):
        with seeded(5):
            a = one.eval().loss(x)
        with seeded(5):
            b = other.eval().loss(x)
        assert torch.equal(a, b)


@every_case
def test_float64_is_followed(family, name):
    model = copy.deepcopy(made(family, name)).double()
    with seeded(1):
        assert model.loss(examples(model.space, ROWS)).dtype == torch.float64
    if model.knows is not Knows.NOTHING:
        few = quick(model.measure_likelihood)
        assert model.log_likelihood(examples(model.space, ROWS), **few).value.dtype == torch.float64


@every_case
def test_what_does_not_fit_is_refused(family, name):
    model, x = made(family, name), examples(made(family, name).space, ROWS)
    with pytest.raises(InputError, match="n: expected"):
        model.sample(0)
    with pytest.raises(InputError, match="y: expected nothing"):
        model.sample(2, torch.tensor([0, 1]))
    if model.knows is Knows.NOTHING:
        return
    with pytest.raises(InputError, match="x: expected"):
        model.log_likelihood(torch.cat([x, x], 1))
    with pytest.raises(InputError, match="y: expected nothing"):
        model.log_likelihood(x, torch.zeros(len(x), dtype=torch.long))


@every_case
def test_missing_cells_are_understood_or_refused_with_their_place(family, name):
    model = made(family, name)
    if not isinstance(model.space, Real) or model.knows is Knows.NOTHING:
        return
    x = examples(model.space, ROWS).clone()
    x[17, 2] = torch.nan
    if model.takes_missing:
        assert model.log_likelihood(x).value.isfinite().all()
    else:
        with pytest.raises(InputError, match="row 17, column 2"):
            model.log_likelihood(x)


def solved(family, name):
    """Whether a code takes two solutions of an equation on a space whose like another case has."""
    return issubclass(FAMILIES[family], GaussianDiffusion) and (name != "real" or family == "score_sde")


CODED = [pytest.param(f, s, marks=[pytest.mark.slow] * solved(f, s)) for f, s in CASES if issubclass(FAMILIES[f], Coded)]


@pytest.mark.parametrize("family, name", CODED)
def test_codecs_are_deterministic_and_keep_the_shape(family, name):
    model, x = made(family, name), examples(made(family, name).space, 4)
    model.eval()
    with torch.no_grad():
        z = model.encode(x)
        assert len(z) == 4
        assert torch.equal(z, model.encode(x))
        decoded = model.decode(z)
    assert decoded.shape == x.shape
    assert decoded.isfinite().all()


@every_conditional
def test_conditional_models_use_y_and_refuse_to_go_without(family, name):
    model = made(family, name, conditional=True)
    if not isinstance(model, GenerativeModel):
        assert isinstance(model, (Unsupported, InputError))
        return
    x, y = examples(model.space, ROWS), examples(Labels(3), ROWS)
    with seeded(1):
        loss = model.loss(x, y)
    assert loss.shape == (ROWS,)
    assert loss.isfinite().all()
    with seeded(1):
        assert not torch.equal(loss, model.loss(x, (y + 1) % 3))
    with pytest.raises(InputError, match="y: expected"):
        model.sample(2)
    with pytest.raises(InputError, match="labels from 0 to 2"):
        model.sample(2, torch.tensor([0, 3]))
    if model.knows is not Knows.NOTHING:
        with pytest.raises(InputError, match="y: expected"):
            model.log_likelihood(x)
        check_result(model.log_likelihood(x, y, **quick(model.measure_likelihood)), model)
    if can_sample(model):
        table = model.sample(6, torch.tensor([0, 1, 2, 0, 1, 2]), seed=1, **quick(model.draw))
        model.space.check(table)
        assert torch.equal(model.sample(2, torch.tensor([2, 0]), seed=1, first=2, **quick(model.draw)), table[2:4])
