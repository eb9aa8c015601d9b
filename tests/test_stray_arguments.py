"""What is no seed, no index and no option is told by the name of the public call."""

import threading

import pytest
import torch

import likeli
from likeli.errors import InputError
from likeli.spaces import Real


@pytest.fixture
def model():
    return likeli.VAE(Real((2,)), backbone=likeli.CoderBackbone((4,)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"seed": 1.5}, "seed: expected a whole number, got 1.5"),
        ({"seed": "x"}, "seed: expected a whole number, got x"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"first": -1}, "first: expected a whole number of at least 0, got -1"),
        ({"first": 1.5}, "first: expected a whole number"),
        ({"men": 1}, r"VAE.sample: no option 'men'; did you mean mean\?; it has"),
    ],
)
def test_of_a_sample(model, words, said):
    with pytest.raises(InputError, match=said):
        model.sample(2, **words)


def test_of_a_number(model):
    with pytest.raises(InputError, match=r"VAE.log_likelihood: no option 'sample'; did you mean samples\?; it has"):
        model.log_likelihood(torch.zeros(2, 2), sample=3)
    with pytest.raises(InputError, match="seed: expected a whole number"):
        model.log_likelihood(torch.zeros(2, 2), seed=0.5)


def test_two_threads_do_not_fit_one_model(model):
    x, said = torch.randn(100, 2), []
    inside = threading.Event()
    honest = type(model).loss

    def fit():
        try:
            likeli.fit(model, x, steps=300, progress=False)
            said.append("fitted")
        except InputError as error:
            said.append(str(error))

    first = threading.Thread(target=fit)
    try:
        type(model).loss = lambda self, x, y=None: (inside.set(), honest(self, x, y))[1]
        first.start()
        assert inside.wait(60)
        fit()
    finally:
        first.join()
        type(model).loss = honest
    assert sorted(said) == ["fitted", "model: expected one that no other thread is fitting, got a vae that one is"]
    likeli.fit(model, x, steps=1, progress=False)  # and free again
