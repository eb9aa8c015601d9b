"""Latent-variable models and what they are asked wrongly: one clear line, naming the argument, for each kind of mistake."""

import math

import pytest
import torch

import likeli
from likeli.errors import InputError
from likeli.models.hvae import LadderBackbone
from likeli.models.vae import CoderBackbone, LatentPrior, VariationalObjective
from likeli.spaces import Bernoulli, Binary, Categorical, Counts, Gaussian, Labels, NegativeBinomial, Real

SPACE = Real((3,))
X, EMPTY = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.full((5, 3), math.nan)
THREE = Labels(3)


def conditional():
    return [
        likeli.VAE(SPACE, 2, CoderBackbone((4,)), condition=THREE),
        likeli.HVAE(SPACE, (2, 2), LadderBackbone(8), condition=THREE),
        likeli.MarkovHVAE(SPACE, (2, 2), hidden=(4,), condition=THREE),
    ]


ASKED = {
    "sample": lambda m, y: m.sample(2, y),
    "score": lambda m, y: m.log_likelihood(X, y),
    "fit": lambda m, y: likeli.fit(m, X, y, steps=1, progress=False),
    "evaluate": lambda m, y: likeli.evaluate(m, X, y),
    "diagnose": lambda m, y: likeli.diagnose_latents(m, X, y),
    "anomaly": lambda m, y: likeli.anomaly(m, X, y),
}


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("model", conditional(), ids=lambda m: m.kind())
def test_a_missing_label_is_asked_for(model, ask):
    with pytest.raises(InputError, match=f"^y: expected .*since {model.kind()} is conditional, got nothing$"):
        ASKED[ask](model, None)


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("label,got", [(3, "got 3 at row 0"), (-1, "got -1 at row 0"), (0.5, "got 0.5 at row 0")])
def test_an_unknown_label_is_named(ask, label, got):
    """To a fit −1 is no label at all."""
    said = f"labels from 0 to 2, {got}$" if (ask, label) != ("fit", -1) else "a label in every row, got none at row 0"
    with pytest.raises(InputError, match=f"^y: expected {said}"):
        ASKED[ask](conditional()[0], torch.full((2 if ask == "sample" else 20,), label))


CODES = [
    (torch.zeros(1, 5), r"z: expected codes of shape \(..., 2\), got \(1, 5\)"),
    (torch.tensor(1.0), r"z: expected codes of shape"),
    (torch.full((1, 2), math.nan), "z: expected finite numbers"),
    ([[0.0, 1.0, 2.0]], r"z: expected codes of shape \(..., 2\), got \(1, 3\)"),
]


@pytest.mark.parametrize("code,message", CODES)
def test_a_code_that_does_not_fit_is_refused(code, message):
    with pytest.raises(InputError, match=message):
        likeli.decode_codes(likeli.VAE(SPACE, 2, CoderBackbone((4,))), code)


def test_plain_lists_are_codes_too():
    model = likeli.VAE(SPACE, 2, CoderBackbone((4,)))
    assert torch.equal(likeli.decode_codes(model, [[0.5, 1.0]]), likeli.decode_codes(model, torch.tensor([[0.5, 1.0]])))


SIZES = [
    (lambda: likeli.GMM(SPACE, 0), "components"),
    (lambda: likeli.PPCA(SPACE, 3), "latent_dim"),
    (lambda: likeli.VAE(SPACE, 0), "latent_dim"),
    (lambda: likeli.VAE(SPACE, 2, latent_prior=LatentPrior("mixture", components=0)), "components"),
    (lambda: likeli.VAE(SPACE, 2, objective=VariationalObjective(train_samples=0)), "train_samples"),
    (lambda: likeli.HVAE(SPACE, ()), "latent_dims: expected at least one level"),
    (lambda: likeli.HVAE(SPACE, (2, 0)), "latent_dims: expected at least 1 a level"),
    (lambda: likeli.MarkovHVAE(SPACE, ()), "latent_dims: expected at least one level"),
    (lambda: likeli.VAE(SPACE, 2).log_likelihood(X, samples=0), "samples"),
    (lambda: likeli.select_components(SPACE, X, [0]), "components"),
    (lambda: likeli.select_components(SPACE, X, [50]), "components: expected at most 20"),
    (lambda: likeli.select_components(SPACE, X, []), "candidates"),
]


@pytest.mark.parametrize("make,message", SIZES)
def test_no_components_and_no_depth_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


HEADS = [
    (Bernoulli, SPACE, "real"),
    (Gaussian, Binary((4,)), "binary"),
    (Categorical, Counts((3,)), "counts"),
    (NegativeBinomial, SPACE, "real"),
]


@pytest.mark.parametrize("family", [likeli.VAE, likeli.HVAE, likeli.MarkovHVAE])
@pytest.mark.parametrize("head,space,data", HEADS)
def test_a_head_that_does_not_fit_the_space_is_refused(family, head, space, data):
    with pytest.raises(InputError, match=f"^head: expected one for {data} data, got {head.kind()}"):
        family(space, head=head())


MODELS = [likeli.GMM(SPACE, 2), likeli.PPCA(SPACE, 1), likeli.VAE(SPACE, 2, CoderBackbone((4,)))]


@pytest.mark.parametrize("model", MODELS, ids=type)
def test_nothing_but_missing_cells_cannot_be_fitted(model):
    with pytest.raises(InputError, match=r"^x: expected an observed cell, got none: all cells are missing$"):
        likeli.fit(model, EMPTY, progress=False)


def test_a_row_without_cells_has_probability_one():
    """Marginalising every cell leaves the empty product."""
    model = likeli.GMM.from_parameters(SPACE, [0.3, 0.7], torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3))
    assert model.log_likelihood(EMPTY).value.abs().max() < 1e-12
    assert torch.allclose(model.responsibilities(EMPTY), torch.tensor([0.3, 0.7]).double())


def test_missing_cells_are_refused_by_families_that_cannot_marginalise_them():
    holed = X.clone()
    holed[3, 1] = math.nan
    with pytest.raises(InputError, match=r"cannot take missing cells.*row 3, column 1"):
        likeli.HVAE(SPACE, (2, 2), LadderBackbone(8)).log_likelihood(holed)
