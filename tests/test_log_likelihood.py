"""The contract's own machinery, on a model whose truth is known."""

import math

import pytest
import torch
from torch import nn

from likeli.contract import Elbo, GenerativeModel, Knows, LogLikelihood, evaluating
from likeli.errors import InputError, LikeliError, MissingExtra, Unsupported, require
from likeli.random import BLOCK, seeded
from likeli.spaces import Binary, Counts, Labels, Real, Tokens
from likeli.spaces.base import held_cells


class CoreStandardNormal(GenerativeModel):
    """N(y, I), to test the base class; its draws pass a matrix product, whose bits depend on the batch."""

    knows = Knows.EXACT
    strategy = "sgd"

    def __init__(self, space, condition=None):
        super().__init__(space)
        self.condition = condition
        self.mix = nn.Linear(3, 3)

    def loss(self, x, y=None):
        return -self.measure_likelihood(x, y).value

    def draw(self, noise, y=None):
        shift = 0 if y is None else 10.0 * y[:, None]
        return self.mix(noise.normal(3)) + shift

    def measure_likelihood(self, x, y=None):
        value = -0.5 * (x.square() + math.log(2 * math.pi)).sum(1) + 0 * torch.randn(())
        return LogLikelihood(value, Knows.EXACT, "density", dimensions=3)


def model(**kwargs):
    with seeded(0):
        return CoreStandardNormal(Real((3,)), **kwargs)


@pytest.mark.parametrize("first, n", [(0, 1), (0, BLOCK + 5), (BLOCK - 1, 2), (BLOCK, BLOCK), (3, 2 * BLOCK)])
def test_any_window_of_samples_is_the_same_bits(first, n):
    whole = model().sample(3 * BLOCK, seed=5)
    assert torch.equal(model().sample(n, seed=5, first=first), whole[first : first + n])


def test_a_conditions_row_stays_with_its_sample():
    m, y = model(condition=Labels(3)), torch.arange(100) % 3
    whole = m.sample(100, y, seed=1)
    assert torch.equal(m.sample(10, y[60:70], seed=1, first=60), whole[60:70])
    assert torch.equal(m.sample(4, 2, seed=1), m.sample(4, [2, 2, 2, 2], seed=1))
    assert (whole.mean(1) / 10).round().long().tolist() == y.tolist()


def test_a_generator_takes_the_place_of_the_seed():
    a, b = (model().sample(3, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, model().sample(3))


class CoreHolding(CoreStandardNormal):
    """Draws that keep what they are given."""

    def draw(self, noise, y=None, *, given=None):
        x = super().draw(noise, y)
        return x if given is None else torch.where(given.isnan(), x, given)


def test_known_cells_stay_with_their_sample():
    with seeded(0):
        m = CoreHolding(Real((3,)))
    given = torch.full((100, 3), math.nan)
    given[:, 1] = torch.arange(100.0)
    whole = m.sample(100, given=given, seed=1)
    assert torch.equal(whole[:, 1], given[:, 1])
    assert torch.equal(whole[:, ::2], m.sample(100, seed=1)[:, ::2])
    assert torch.equal(m.sample(10, given=given[60:70], seed=1, first=60), whole[60:70])
    assert torch.equal(m.sample(2, given=given[5], seed=1), m.sample(2, given=given[[5, 5]], seed=1))


def test_known_cells_that_do_not_fit_are_refused():
    with pytest.raises(Unsupported, match="core_standard_normal draws whole examples"):
        model().sample(2, given=torch.zeros(2, 3))
    with seeded(0):
        m = CoreHolding(Real((3,)))
    for given, message in [
        (torch.zeros(3, 3), "given: expected 2 rows or one, got 3 rows"),
        (torch.zeros(2, 4), r"given: expected shape \(rows, 3\)"),
        (torch.full((2, 3), math.inf), "given: expected finite numbers"),
    ]:
        with pytest.raises(InputError, match=message):
            m.sample(2, given=given)


@pytest.mark.parametrize("space, top", [(Tokens(3, 4), 3), (Binary((3,)), 1), (Counts((3,)), 10)])
def test_a_free_symbol_is_minus_one_or_missing(space, top):
    rows = torch.tensor([[top, math.nan, -1.0]])
    assert held_cells(space, rows).tolist() == [[top, -1, -1]]
    assert torch.equal(held_cells(space, rows[0]), held_cells(space, rows))
    with pytest.raises(InputError, match=r"given: expected .* got -2 at row 0, column 2"):
        held_cells(space, [[0, -1, -2]])


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3", None])
def test_a_count_of_samples_is_a_whole_number(n):
    with pytest.raises(InputError, match="n: expected a whole number"):
        model().sample(n)


def test_public_calls_leave_the_mode_and_the_global_generator_alone():
    m = model()
    m.train()
    m.mix.eval()
    state = torch.get_rng_state()
    m.sample(2)
    m.log_likelihood(torch.zeros(2, 3))
    assert torch.equal(state, torch.get_rng_state())
    assert m.training
    assert not m.mix.training


def test_evaluating_restores_the_mode_after_an_error():
    m = model().train()
    with pytest.raises(ZeroDivisionError), evaluating(m):
        assert not m.mix.training
        1 / 0
    assert m.mix.training


@pytest.mark.parametrize(
    "x, message",
    [
        (torch.zeros(3), "a batch of shape"),
        (torch.zeros(2, 4), r"shape \(rows, 3\)"),
        (torch.zeros(0, 3), "at least one row"),
        ([["a", "b", "c"]], "numbers"),
        (torch.zeros(2, 3, dtype=torch.complex64), "real numbers"),
        ([[0.0, 1.0, math.nan]], "row 0, column 2"),
        ([[0.0, 1.0, 2.0], [0.0, -math.inf, 2.0]], "row 1, column 1"),
    ],
)
def test_bad_rows_are_named_at_the_boundary(x, message):
    with pytest.raises(InputError, match=message):
        model().log_likelihood(x)


@pytest.mark.parametrize(
    "y, message",
    [(None, "is conditional, got nothing"), (3, "labels from 0 to 2"), ([0, 1], "2 rows"), ([[0.5, 0.6, 0.1]], "sum to 1")],
)
def test_bad_conditions_are_named_at_the_boundary(y, message):
    with pytest.raises(InputError, match=message):
        model(condition=Labels(3)).log_likelihood(torch.zeros(4, 3), y)


def test_bits_per_dimension_and_the_mean_with_its_error():
    value = torch.tensor([-1.0, -2.0, -6.0])
    result = LogLikelihood(value, Knows.EXACT, "density", dimensions=4)
    assert torch.allclose(result.bits_per_dim(), torch.tensor([1.0, 2.0, 6.0]) / (4 * math.log(2)))
    mean, stderr = result.mean()
    assert mean == -3
    assert stderr == pytest.approx(math.sqrt(7 / 3))
    assert math.isnan(LogLikelihood(value[:1], Knows.EXACT, "density").mean()[1])


@pytest.mark.parametrize("knows", [Knows.UNNORMALIZED, Knows.NOTHING])
def test_values_without_a_unit_have_no_bits(knows):
    with pytest.raises(Unsupported, match="no absolute unit"):
        LogLikelihood(torch.zeros(1), knows, "density").bits_per_dim()


def test_elbo_is_reconstruction_minus_every_level():
    elbo = Elbo(torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.25], [1.0, 0.0]]))
    assert elbo.value.tolist() == [0.25, 1.0]


def test_errors_have_one_base_and_exit_codes():
    assert issubclass(InputError, ValueError)
    assert issubclass(Unsupported, NotImplementedError)
    assert InputError.exit_code == Unsupported.exit_code == 2
    assert LikeliError.exit_code == 1
    assert "pip install 'likeli[studio]'" in str(MissingExtra("gradio", "studio", "the page"))
    with pytest.raises(InputError) as caught:
        require(False, "x", "something short", "long\n" * 1000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_what_is_printed_is_one_line():
    found = LogLikelihood(torch.tensor([-3.0, -5.0]), Knows.LOWER_BOUND, "mass", torch.tensor([0.1, 0.1]))
    assert repr(found) == "LogLikelihood(-4 ± 1 nats, mean of 2 rows; lower bound, mass)"
    one = LogLikelihood(torch.tensor([-3.0]), Knows.EXACT, "density")
    assert repr(one) == "LogLikelihood(-3 nats, mean of 1 row; exact, density)"
    assert repr(Real((2,), names=("a", "b"))) == "Real(2; a, b)"
    many = Real((90,), names=tuple(f"column_{i}" for i in range(90)))
    assert len(repr(many)) <= 120
