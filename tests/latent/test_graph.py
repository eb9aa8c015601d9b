"""Every family prints the factors that its bound uses, and the tracer that says so is not blind."""

import pytest
import torch

from families import FAMILIES
from likeli import checkpoint
from likeli.config import parameters_of
from likeli.latent.chain import Graph, LatentVariableModel, factorisation
from likeli.models.hvae import HVAE, LadderBackbone
from likeli.models.vae import VAE, CoderBackbone
from likeli.spaces import Labels, Real, Tokens
from likeli.theory.factors import Traced, _mark, mistakes

SMALL = {"steps": 3, "timesteps": 3}
LATENT = [name for name, cls in FAMILIES.items() if issubclass(cls, LatentVariableModel)]


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("family", LATENT)
def test_printed_factors_are_those_of_the_bound(family, conditional):
    cls = FAMILIES[family]
    known = parameters_of(cls)
    options = {name: value for name, value in SMALL.items() if name in known}
    if conditional and "condition" in known:
        options["condition"] = Labels(2)
    space = Tokens(3, 2) if family == "discrete_diffusion" else Real((3,))
    assert mistakes(cls(space, **options)) == 0


def test_a_false_declaration_is_found():
    vae = VAE(Real((3,)), 2, CoderBackbone((8,)), condition=Labels(2))
    vae.graph = Graph(reads_y=frozenset({"top", "posterior", "observation"}))
    assert mistakes(vae) == 1
    vae.graph = Graph(reads_y=frozenset({"posterior"}))
    assert mistakes(vae) == 1


def test_names_travel_through_functions_and_not_through_shapes():
    a, b = _mark(torch.zeros(2, 3), "a"), _mark(torch.zeros(2, 3), "b")
    total = torch.cat([a, torch.relu(b)], 1).sum(1)
    assert isinstance(total, Traced)
    assert total.sources == {"a", "b"}
    assert torch.zeros_like(a).sources == frozenset()
    assert (torch.nn.Linear(3, 2)(a) + 1).sources == {"a"}


def test_the_formula_is_written_out_and_long_ones_are_cut():
    plain = VAE(Real((3,)), 2, CoderBackbone((8,)), condition=Labels(2))
    assert factorisation(plain) == "p(x, z|y) = p(z) p(x|z, y); q(z|x, y) = q(z|x, y)"
    chain = HVAE(Real((3,)), (2, 2), LadderBackbone(8), markov=True)
    assert factorisation(chain) == "p(x, z) = p(z_2) p(z_1|z_2) p(x|z_1); q(z|x) = q(z_2|x) q(z_1|z_2, x)"
    deep = HVAE(Real((3,)), (2,) * 9, backbone=LadderBackbone(8))
    p, q = factorisation(deep).split("; ")
    assert p == "p(x, z) = p(z_9) … p(z_1|z_2, …, z_9) p(x|z_1, …, z_9)"
    assert q == "q(z|x) = q(z_9|x) … q(z_2|z_3, …, z_9, x) q(z_1|z_2, …, z_9, x)"


def test_the_card_prints_it(tmp_path):
    checkpoint.save(VAE(Real((3,)), 2, CoderBackbone((8,))), tmp_path / "vae")
    card = next((tmp_path / "vae").rglob("README.md")).read_text()
    assert "| factors | p(x, z) = p(z) p(x\\|z); q(z\\|x) = q(z\\|x) |" in card
