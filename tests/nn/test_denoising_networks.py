"""Denoising networks: what they may see, where it goes, and that they follow noise level and condition."""

import pytest
import torch
from torch import nn

from likeli.diffusion.networks import make_denoiser
from likeli.diffusion.schedule import LogLinear
from likeli.errors import InputError
from likeli.nn.denoising_mlp import DenoisingMLP
from likeli.nn.transformer import Transformer
from likeli.nn.unet import UNet
from likeli.random import seeded
from likeli.space import Labels, Pixels, Real, Tokens


def stirred(net):
    """Every parameter off its starting point, so that nothing hides behind a zero."""
    with seeded(0, "stirred"):
        for p in net.parameters():
            nn.init.normal_(p, std=0.1)
    return net.eval()


NETWORKS = {
    "mlp": lambda **o: DenoisingMLP((6, 10), (16, 16), waves=(1.0, 3.0), **o),
    "unet": lambda **o: UNet((6, 10), (8, 16, 16), blocks=1, waves=(3.0,), **o),
    "transformer": lambda **o: Transformer((6, 10), (32, 32), **o),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_output_can_see_every_input_and_the_level_and_the_label(name):
    """Gradients of one output cell reach every input cell, γ and y: nothing is lost in padding, halving or patching."""
    net = stirred(NETWORKS[name](outputs=3, condition=Labels(4)))
    z, gamma = torch.randn(2, 6, 10, requires_grad=True), torch.tensor([0.3, -2.0], requires_grad=True)
    out = net(z, gamma, torch.tensor([0, 3]))
    assert out.shape == (2, 3, 6, 10)
    for cell in ((0, 0), (5, 9), (2, 4)):
        grad_z, grad_gamma = torch.autograd.grad(out[(0, 1, *cell)], (z, gamma), retain_graph=True)
        assert bool((grad_z[0] != 0).all()) and bool((grad_z[1] == 0).all())
        assert grad_gamma[0] != 0 and grad_gamma[1] == 0
    assert not torch.allclose(net(z, gamma, torch.tensor([0, 3])), net(z, gamma, torch.tensor([1, 2])))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_right(name):
    """Directional derivative in all parameters and in z against central differences, float64."""
    net = stirred(NETWORKS[name]()).double()
    z, gamma = torch.randn(2, 6, 10, dtype=torch.float64, requires_grad=True), torch.tensor([0.3, -2.0], dtype=torch.float64)
    targets = [z, *net.parameters()]
    with seeded(1, "direction"):
        directions = [torch.randn_like(t) for t in targets]
        weight = torch.randn(2, 6, 10, dtype=torch.float64)
    (net(z, gamma) * weight).sum().backward()
    slope = sum((t.grad * d).sum().item() for t, d in zip(targets, directions))
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for t, d in zip(targets, directions):
                t.add_(step * d)
            values.append((net(z, gamma) * weight).sum().item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_colours_and_one_output_keep_the_shape_and_the_start_is_zero(name):
    net = {"unet": UNet, "transformer": Transformer}[name]((3, 9, 7), (32, 32))
    z = torch.randn(2, 3, 9, 7)
    assert torch.equal(net(z, torch.zeros(2)), torch.zeros_like(z))
    assert stirred(net)(z, torch.zeros(2)).shape == z.shape


def test_patches_return_to_their_place():
    """Without blocks, a changed cell changes only the outputs of its own 2 × 2 patch."""
    net = stirred(Transformer((6, 8), (32,), patch=2))
    net.blocks = nn.ModuleList()
    z, gamma = torch.randn(1, 6, 8), torch.zeros(1)
    other = z.clone()
    other[0, 3, 5] += 1
    changed = (net(z, gamma) - net(other, gamma))[0] != 0
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(changed, expected)


def test_networks_are_refused_where_they_do_not_fit():
    for space, options in (
        (Real((3,)), {"network": "unet"}),
        (Tokens(4, 3), {"network": "transformer"}),
        (Pixels((8, 8), 17), {"network": "transformer", "hidden": (48, 48)}),
        (Pixels((8, 8), 17), {"hidden": (0,)}),
    ):
        with pytest.raises(InputError):
            make_denoiser(space, LogLinear(), **options)
