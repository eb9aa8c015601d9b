"""Bayes' rule from class densities: against scikit-learn's QDA where exact, labelled approximate where not."""

import numpy as np
import pandas
import pytest
import torch
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

import likeli
from likeli.errors import InputError, Unsupported
from likeli.evaluation.rows import classify
from likeli.models.autoencoder import AE
from likeli.models.gmm import GMM
from likeli.models.vae import VAE, CoderBackbone
from likeli.random import derive, seeded
from likeli.spaces import Labels, Real
from likeli.theory.truth import as_vae, fitted_ppca, linear_data


@pytest.fixture(scope="module")
def two_classes():
    x = torch.cat([linear_data(100, 3, seed=1), linear_data(150, 3, seed=2) + 0.5])
    theirs = QuadraticDiscriminantAnalysis(store_covariance=True).fit(x.numpy(), np.repeat([0, 1], [100, 150]))
    ours = [GMM.from_parameters(Real((3,)), [1.0], m[None], c[None]) for m, c in zip(theirs.means_, theirs.covariance_)]
    return x, theirs, ours


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(0)
    kind = np.repeat(["cat", "dog"], [60, 140])
    frame = pandas.DataFrame({"a": rng.normal(size=200) + 2 * (kind == "dog"), "b": rng.normal(size=200), "kind": kind})
    frame.index = [f"row {i}" for i in range(200)]
    data = likeli.load_data(frame, labels="kind")
    with seeded(0):
        model = VAE(data.space, 1, CoderBackbone((8,)), condition=data.condition)
    likeli.fit(model, data, steps=20, progress=False)
    return model, frame


def test_class_gaussians_are_qda(two_classes):
    x, theirs, ours = two_classes
    found = classify(ours, x, prior=theirs.priors_)
    assert np.abs(found.log_posterior.exp().numpy() - theirs.predict_proba(x.numpy())).max() < 1e-8
    assert found.exact
    assert np.array_equal(found.best.numpy(), theirs.predict(x.numpy()))


def test_without_a_prior_classes_are_equal(two_classes):
    x, _, ours = two_classes
    halves = classify(ours, x, prior=[0.5, 0.5]).log_posterior
    assert torch.equal(classify(ours, x).log_posterior, halves)


def test_the_classes_shares_in_training_are_the_prior_and_are_named(labelled):
    """Bayes' rule by hand, from the model's own log p(x|y)."""
    model, frame = labelled
    rows, shares = frame[["b", "a"]].iloc[::7], torch.tensor(model.condition.shares, dtype=torch.float64)
    found = classify(model, rows, samples=3)
    parts = [model.log_likelihood(rows, k, samples=3, seed=derive(0, "evaluate")).value for k in (0, 1)]
    joint = torch.stack(parts, 1).double()
    assert torch.allclose(found.log_posterior, (joint + shares.log()).log_softmax(1), atol=1e-9)
    assert torch.equal(found.prior, shares)
    assert found.note.startswith("prior: the classes' shares in training: dog 0.68, cat")
    alike = classify(model, rows, prior="uniform", samples=3).log_posterior
    assert torch.allclose(alike, joint.log_softmax(1), atol=1e-9)
    assert list(found.frame.columns) == ["cat", "dog"]
    assert list(found.frame.index) == list(rows.index)
    assert np.array_equal(found.frame.to_numpy(), found.log_posterior.exp().numpy())


def test_exact_bounds_give_the_exact_posterior_but_are_labelled_approximate():
    parts = [fitted_ppca(linear_data(200, 4, seed=s), 2) for s in (1, 2)]
    x = linear_data(50, 4, seed=3)
    exact, bounds = classify(parts, x), classify([as_vae(p) for p in parts], x, samples=1)
    assert (exact.log_posterior - bounds.log_posterior).abs().max() < 1e-9
    assert exact.exact
    assert not bounds.exact


def test_a_conditional_model_is_asked_for_every_label():
    model = VAE(Real((2,)), 1, CoderBackbone((4,)), condition=Labels(3))
    found = classify(model, torch.randn(5, 2), samples=2, batch=2)
    assert found.log_posterior.shape == (5, 3)
    assert torch.allclose(found.log_posterior.exp().sum(1), torch.ones(5).double())
    assert not found.exact


@pytest.mark.parametrize("prior", [[0.5], [0.7, 0.7], [1.5, -0.5]])
def test_a_bad_prior_is_one_line(two_classes, prior):
    with pytest.raises(InputError, match="prior: expected 2 probabilities"):
        classify(two_classes[2], two_classes[0], prior=prior)


def test_models_that_cannot_weigh_classes_are_refused():
    with pytest.raises(InputError, match="conditional on labels"):
        classify(VAE(Real((2,)), 1, CoderBackbone((4,))), torch.zeros(3, 2))
    with pytest.raises(Unsupported, match="ae has no normalised"):
        classify([AE(Real((2,)))], torch.zeros(3, 2))
