"""A run whose training broke down says so for as long as its weights are used; a number that is none is never printed."""

import warnings

import pytest
import torch

import likeli
from likeli import checkpoint
from likeli.errors import Diverged
from likeli.spaces import Real


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A run of ten steps, resumed, whose loss is not a number at step 13."""
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    model = likeli.VAE(Real((2,)), backbone=likeli.CoderBackbone((4,)))
    honest, calls = type(model).loss, []

    def loss(self, x, y=None):
        calls.extend([0] if self.training else [])
        return honest(self, x, y) + (torch.nan if len(calls) > 12 else 0.0)

    monkeypatch.setattr(type(model), "loss", loss)
    with pytest.raises(Diverged, match=r"step 13: .* is nan .* try --train.lr .*; the weights of step 0 are in") as caught:
        likeli.fit(model, x, steps=20, out=tmp_path / "run", progress=False, batch=16)
    monkeypatch.undo()
    return tmp_path / "run", x, str(caught.value)


def test_it_is_said_whenever_the_run_is_used(broken):
    folder, x, told = broken
    with pytest.warns(UserWarning, match="training diverged at step 13.*the weights are those of step 0"):
        model = likeli.load(folder)
    assert model.log_likelihood(x).value.isfinite().all()
    assert "diverged at step 13" in checkpoint.inspect(folder)["warnings"][0]
    assert str(folder) in told


def test_training_on_takes_the_words_back(broken):
    folder, x, _ = broken
    model = likeli.VAE(Real((2,)), backbone=likeli.CoderBackbone((4,)))
    with pytest.warns(UserWarning, match="training diverged"):
        likeli.fit(model, x, steps=20, out=folder, resume=True, progress=False, batch=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        likeli.load(folder)


def test_a_number_that_is_none_is_an_error_and_not_a_row_of_a_table():
    model = likeli.VAE(Real((2,)), backbone=likeli.CoderBackbone((4,)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(Diverged, match="log p is not a number on 5 of 5 rows, the first of them row 0"):
        likeli.evaluate(model, torch.zeros(5, 2))
