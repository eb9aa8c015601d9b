"""Walks in code space against their geometry, on models whose decoder is known."""

import math

import pytest
import torch

from families import flat
from likeli.errors import InputError, Unsupported
from likeli.latent.codes import arithmetic, bilinear, decode_codes, embed, interpolate, reconstruct, traverse
from likeli.models.flow import Flow
from likeli.models.gmm import GMM
from likeli.models.ppca import PPCA
from likeli.models.vae import VAE, CoderBackbone
from likeli.random import seeded
from likeli.spaces import Labels, Pixels, Real


def rows(n=50, d=4):
    with seeded(0):
        return torch.randn(n, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64)


def ppca():
    model = PPCA(Real((4,), mean=(1.0, 2.0, 3.0, 4.0), scale=2.0), 2)
    model.fit_closed_form(rows())
    return model


def vae(**kwargs):
    with seeded(1):
        return flat(VAE, Real((4,)), 3, hidden=(8,), **kwargs)


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("make", [ppca, vae, lambda: Flow(Real((4,)))], ids=["ppca", "vae", "flow"])
def test_the_ends_of_a_path_are_the_reconstructions(make, path):
    model, x = make(), rows()[:2]
    z = embed(model, x)
    walk = decode_codes(model, interpolate(z[0], z[1], 5, path))
    assert walk.shape == (5, 4)
    assert torch.allclose(walk[[0, -1]], reconstruct(model, x), atol=1e-5)


def test_a_linear_decoder_maps_straight_lines_to_straight_lines():
    model, z = ppca(), embed(ppca(), rows()[:2])
    walk = decode_codes(model, interpolate(z[0], z[1], 7))
    assert walk.diff(n=2, dim=0).abs().max() < 1e-10


def test_a_great_circle_turns_evenly_and_its_length_changes_evenly():
    a, b = torch.tensor([3.0, 0.0, 0.0]).double(), torch.tensor([0.0, 1.0, 0.0]).double()
    walk = interpolate(a, b, 9, "spherical")
    assert torch.allclose(walk.norm(dim=1), torch.linspace(3, 1, 9).double())
    unit = walk / walk.norm(dim=1, keepdim=True)
    angles = (unit[1:] * unit[:-1]).sum(1).arccos()
    assert torch.allclose(angles, torch.full((8,), math.pi / 16).double())
    assert torch.equal(interpolate(a, a, 3, "spherical"), a.expand(3, 3))


def test_a_bilinear_grid_keeps_its_corners_and_is_the_mean_in_the_middle():
    with seeded(2):
        corners = torch.randn(2, 2, 3)
    grid = bilinear(corners, 5, 7)
    assert grid.shape == (5, 7, 3)
    for i, j in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert torch.allclose(grid[i, j], corners[i, j])
    assert torch.allclose(grid[2, 3], corners.mean((0, 1)), atol=1e-6)


def test_arithmetic_moves_an_attribute_that_is_linear_in_the_code():
    model, x = ppca(), rows()[:3]
    a, b, c = embed(model, x)
    ours = decode_codes(model, arithmetic([a, c], [b])[None])[0]
    mean = reconstruct(model, x)
    assert torch.allclose(ours, mean[0] - mean[1] + mean[2], atol=1e-10)


def test_a_traversal_changes_only_what_it_says():
    z, values = torch.arange(4.0), torch.tensor([-1.0, 0.0, 5.0])
    one, two = traverse(z, [2], values), traverse(z, [3, 0], values)
    assert torch.equal(one[:, 2], values)
    assert torch.equal(one[:, [0, 1, 3]], z[[0, 1, 3]].expand(3, 3))
    assert two.shape == (3, 3, 4)
    assert torch.equal(two[1, 2], torch.tensor([5.0, 1.0, 2.0, 0.0]))


def test_embedding_is_deterministic_and_a_draw_is_not_the_mean():
    model, x = vae(), rows().float()
    assert torch.equal(embed(model, x), embed(model, x))
    drawn = [reconstruct(model, x, mean=False, seed=s) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], reconstruct(model, x))


def test_a_condition_stays_with_its_code():
    model, x = vae(condition=Labels(2)), rows()[:6].float()
    z = embed(model, x, torch.zeros(6, dtype=torch.long))
    apart = torch.cat([decode_codes(model, z[i : i + 1], torch.tensor([i % 2])) for i in range(6)])
    assert torch.allclose(decode_codes(model, z.reshape(2, 3, 3), torch.arange(6) % 2).reshape(6, 4), apart, atol=1e-6)


def test_pixels_decode_in_the_users_units():
    with seeded(3):
        model = VAE(Pixels((2, 2), 17), 3, CoderBackbone((8,)))
    x = torch.randint(17, (5, 2, 2))
    mean = reconstruct(model, x)
    assert mean.shape == x.shape
    assert ((mean >= 0) & (mean <= 16)).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: interpolate(torch.zeros(2), torch.ones(2), 1), "steps"),
        (lambda: interpolate(torch.zeros(2), torch.ones(3), 3), "b: expected"),
        (lambda: interpolate(torch.zeros(2), torch.ones(2), 3, "spherical"), "origin"),
        (lambda: interpolate(-torch.ones(2), torch.ones(2), 3, "spherical"), "opposite"),
        (lambda: bilinear(torch.zeros(3, 2, 4), 2, 2), "corners"),
        (lambda: arithmetic([]), "plus"),
        (lambda: arithmetic([torch.zeros(2)], [torch.zeros(3)]), "one shape"),
        (lambda: traverse(torch.zeros(3), [3], torch.zeros(2)), "dims"),
        (lambda: traverse(torch.zeros(3), [1, 1], torch.zeros(2)), "dims"),
        (lambda: decode_codes(vae(), torch.zeros(2, 5)), "codes of shape"),
        (lambda: embed(vae(condition=Labels(2)), rows().float()), "conditional"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_families_without_a_code_or_a_draw_say_so():
    with pytest.raises(Unsupported, match="gmm has no code"):
        embed(GMM(Real((4,)), 2), rows())
    with pytest.raises(Unsupported, match="no draws"):
        reconstruct(Flow(Real((4,))), rows().float(), mean=False)
