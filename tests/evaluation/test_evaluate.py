"""The mean log p, its error and its notes, against a model whose log p is known row by row."""

import math

import pytest
import torch

from likeli.config import _CLASSES
from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.errors import Diverged, InputError, Unsupported
from likeli.evaluation.likelihood import MISMATCH_ALARM, ROW, count_parameters, evaluate, score
from likeli.models.flow import Flow
from likeli.random import Ambient
from likeli.spaces import Pixels, Real


class FakeLikelihood(GenerativeModel):
    """log p(x) = −x₀, noisy with a given spread; counts its calls."""

    knows = Knows.ESTIMATE
    strategy = "sgd"

    def __init__(self, space: Real, spread: float = 0.0):
        super().__init__(space)
        self.spread, self.weight = spread, torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("mean", torch.zeros(7))
        self.batches, self.kinds, self.errors, self.offset = [], [Knows.ESTIMATE], {}, 0.0

    def loss(self, x, y=None):
        return x[:, 0]

    def draw(self, noise, y=None):
        return noise.normal(*self.space.shape)

    def measure_likelihood(self, x, y=None, *, samples: int = 1):
        self.batches.append(len(x))
        offset = self.offset(x[:, 0]) if callable(self.offset) else self.offset
        value = offset - x[:, 0] + self.spread * Ambient(x).normal() / math.sqrt(samples)
        kind = self.kinds[(len(self.batches) - 1) % len(self.kinds)]
        stderr = torch.full_like(value, self.spread) if self.spread else None
        return LogLikelihood(value, kind, "density", stderr, dict(self.errors), self.space.dimensions)


_CLASSES.pop("fake_likelihood")  # a test double is no family


@pytest.fixture
def x():
    return torch.arange(100, dtype=torch.float32)[:, None].expand(100, 2).contiguous()


def test_mean_error_and_bits(x):
    found = evaluate(FakeLikelihood(Real((2,))), x, batch=32)
    assert found.nats == pytest.approx(-49.5, rel=1e-12)
    assert found.stderr == pytest.approx(x[:, 0].double().std().item() / 10, rel=1e-12)
    assert found.bits_per_dim == pytest.approx(49.5 / (2 * math.log(2)), rel=1e-12)
    assert found.bits_stderr == pytest.approx(found.stderr / (2 * math.log(2)), rel=1e-12)
    assert found.examples == 100
    assert found.parameters == 3


def test_memory_does_not_grow_with_the_rows(x):
    model = FakeLikelihood(Real((2,)))
    evaluate(model, x, batch=32)
    assert model.batches == [64, 64]


def test_a_row_has_exactly_the_agreed_keys(x):
    found = evaluate(FakeLikelihood(Real((2,))), x)
    assert tuple(found.row()) == ROW
    assert found.row()["knows"] == "estimate"


def test_draws_are_a_function_of_the_seed_and_of_what_is_in_a_row(x):
    model = FakeLikelihood(Real((2,)), spread=1.0)
    before = torch.get_rng_state()
    first, again, other = (evaluate(model, x, batch=50, seed=s).nats for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other
    values = torch.cat([part.value for part in score(model, x, batch=50)])
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([part.value for part in score(model, x[order][:70], batch=10)]), values[order][:70])
    noise = values + x[:, 0]
    assert abs(noise.mean()) < 0.4 and 0.7 < noise.std() < 1.3  # 4 s.e.
    assert len(noise.unique()) == 100


def test_the_standard_error_covers_monte_carlo_noise():
    """Noise of spread 3: s.e. of the mean 3/√2000 over different rows, and 3 over equal ones, which share it."""
    model = FakeLikelihood(Real((2,)), spread=3.0)
    different = evaluate(model, torch.arange(2000.0)[:, None].expand(-1, 2) * 1e-6)
    assert different.stderr == pytest.approx(3 / math.sqrt(2000), rel=0.1)
    assert abs(different.nats) < 5 * different.stderr
    equal = evaluate(model, torch.zeros(2000, 2))
    assert equal.stderr == pytest.approx(3, rel=1e-3)
    assert abs(equal.nats) < 5 * equal.stderr
    assert any("s.e. per example" in n for n in equal.notes)


def test_the_weakest_kind_of_any_batch_is_the_kind(x):
    model = FakeLikelihood(Real((2,)))
    model.kinds = [Knows.EXACT, Knows.LOWER_BOUND]
    assert evaluate(model, x, batch=50).knows is Knows.LOWER_BOUND
    model.kinds = [Knows.UNNORMALIZED]
    found = evaluate(model, x)
    assert found.bits_per_dim is None
    assert found.bits_stderr is None


def test_every_error_becomes_a_note(x):
    model = FakeLikelihood(Real((2,)))
    model.errors = {"terminal_mismatch": 2 * MISMATCH_ALARM, "something_else": 0.5}
    notes = evaluate(model, x).notes
    assert any("alarm" in n and "0.02 nats" in n for n in notes)
    assert any("something else: 0.5 nats" in n for n in notes)
    assert any(n.startswith("estimate:") for n in notes)


def test_impossible_rows_few_rows_and_nan_are_said():
    model = FakeLikelihood(Real((2,)))
    rows = torch.arange(3.0)[:, None].expand(-1, 2)
    assert any("only 3 examples" in n for n in evaluate(model, rows).notes)
    model.offset = lambda x: torch.where(x == 1, -math.inf, 0.0)
    found = evaluate(model, rows)
    assert found.nats == -math.inf
    assert any("log p = -inf): 1" in n for n in found.notes)
    model.offset = lambda x: torch.where(x == 1, math.nan, 0.0)
    with pytest.raises(Diverged, match="not a number on 1 of 3 rows, the first of them row 1"):
        evaluate(model, rows)


def test_one_row_has_no_standard_error():
    assert math.isnan(evaluate(FakeLikelihood(Real((2,))), torch.zeros(1, 2)).stderr)


def test_a_dequantised_density_says_that_it_is_a_bound():
    found = evaluate(Flow(Pixels((2, 2), 5)), torch.randint(0, 5, (40, 2, 2)), samples=4)
    assert found.knows is Knows.LOWER_BOUND
    assert found.measure == "mass"
    assert any(n.startswith("lower bound") for n in found.notes)


def test_parameters_of_families_without_gradients_are_their_buffers():
    model = FakeLikelihood(Real((2,)))
    assert count_parameters(model) == 3
    del model.weight
    assert count_parameters(model) == 7


@pytest.mark.parametrize("batch", [0, -1])
def test_bad_input_is_refused(x, batch):
    with pytest.raises(InputError, match="batch"):
        evaluate(FakeLikelihood(Real((2,))), x, batch=batch)
    with pytest.raises(InputError, match="shape"):
        evaluate(FakeLikelihood(Real((3,))), x)
    with pytest.raises(InputError, match="row 3"):
        evaluate(FakeLikelihood(Real((2,))), torch.where(torch.arange(100)[:, None] == 3, torch.nan, x))


def test_a_family_without_log_p_says_why():
    from likeli.models.autoencoder import AE

    with pytest.raises(Unsupported):
        evaluate(AE(Real((2,))), torch.zeros(4, 2))
