"""A conditional model remembers how frequent its classes were, and draws labels so where none are asked for."""

import pytest
import torch
from scipy import stats

import likeli
from likeli.errors import InputError
from likeli.random import seeded
from likeli.spaces import Labels, Real
from likeli.spaces.labels import like_training, with_shares

COUNTS = (300, 90, 10)


def conditional(condition):
    with seeded(0):
        return likeli.VAE(Real((2,)), 1, likeli.CoderBackbone((4,)), condition=condition)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    x, y = torch.randn(400, 2), torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    model, folder = conditional(Labels(3, ("often", "seldom", "rare"))), tmp_path_factory.mktemp("runs") / "x"
    likeli.fit(model, x, y, steps=3, out=folder, progress=False)
    return model, folder, (x, y)


def test_shares_are_those_of_the_training_rows_and_are_saved(fitted):
    model, folder, _ = fitted
    assert model.condition.shares == (0.75, 0.225, 0.025)
    assert likeli.load(folder).condition.shares == model.condition.shares


def test_labels_come_as_often_as_in_training(fitted):
    """χ² of 4000 labels, at false alarm 1e-3."""
    drawn = like_training(fitted[0].condition, 4000, seed=5)
    assert stats.chisquare(drawn.bincount().numpy(), [s * 4000 for s in (0.75, 0.225, 0.025)]).pvalue > 1e-3
    assert torch.equal(drawn[:9], like_training(fitted[0].condition, 9, seed=5))
    assert torch.equal(drawn[100:120], like_training(fitted[0].condition, 20, seed=5, first=100))


def test_samples_without_y_are_those_of_such_labels_and_it_is_said(fitted):
    model, condition = fitted[0], fitted[0].condition
    with pytest.warns(UserWarning, match="as often as in training: often 0.75, seldom 0.23, rare 0.025"):
        x = model.sample(40, seed=2)
    assert torch.equal(x, model.sample(40, like_training(condition, 40, seed=2), seed=2))
    with pytest.warns(UserWarning, match="y: none given"):
        assert torch.equal(x[30:], model.sample(10, seed=2, first=30))


def test_weights_of_classes_count_as_parts():
    y = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert with_shares(Labels(2), y).shares == (0.25, 0.75)


def test_a_run_whose_shares_were_not_kept_goes_on(fitted):
    """What the fit remembers is no part of what was asked for."""
    _, folder, (x, y) = fitted
    again = conditional(Labels(3, ("often", "seldom", "rare"), (0.2, 0.2, 0.6)))
    assert likeli.fit(again, x, y, steps=5, out=folder, resume=True, progress=False).steps == 5
    assert again.condition.shares == (0.75, 0.225, 0.025)


def test_an_unfitted_model_wants_y():
    with pytest.raises(InputError, match="y: expected a label for each row, or one for all, since vae is conditional"):
        conditional(Labels(3)).sample(2)


@pytest.mark.parametrize("shares", [(0.5,), (0.7, 0.7), (1.5, -0.5)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InputError, match="shares: expected none, or 2 numbers"):
        Labels(2, shares=shares)
