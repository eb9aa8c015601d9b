"""Denoising networks: what they may see, where it goes, and that they follow noise level and condition."""

import itertools
import math

import pytest
import torch
from torch import nn

from likeli.diffusion.networks import DenoiserBackbone, make_denoiser
from likeli.diffusion.schedule import LogLinear
from likeli.errors import InputError
from likeli.models.vdm import VDM
from likeli.nn.mlp import DenoisingMLP
from likeli.nn.transformer import Transformer, grid_angles, turned
from likeli.nn.unet import UNet
from likeli.random import seeded
from likeli.spaces import Labels, Pixels, Real, Tokens


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


SHAPES = {  # of a space, with the bounds of a sensible size in thousands of parameters
    "plane": (Real((2,)), 100, 800),
    "vector": (Real((64,)), 300, 1200),
    "digits": (Pixels((8, 8), 17), 100, 600),
    "mnist": (Pixels((28, 28), 256), 500, 2000),
    "colour": (Pixels((3, 32, 32), 256), 500, 2000),
    "odd": (Pixels((3, 9, 13), 5), 100, 2000),
    "faces": (Pixels((3, 64, 64), 256), 800, 4000),
    "symbols": (Tokens(5, 7), 200, 1200),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_network_of_sensible_size_for_every_shape_takes_a_step(name):
    """The size is within its bounds, every parameter of the network has had a gradient within five, and the loss is finite."""
    space, least, most = SHAPES[name]
    with seeded(0, "preset"):
        model = VDM(space)
        size = {"faces": 1, "colour": 1}.get(name, 2)
        x = torch.randint(0, 5, (size, *space.shape)) if not isinstance(space, Real) else torch.randn(size, *space.shape)
        adam, moved = torch.optim.Adam(model.parameters(), 1e-3), set()
        for _ in range(5):  # what ends in zeros passes a gradient on once it has moved
            adam.zero_grad()
            loss = model.loss(x).mean()
            loss.backward()
            adam.step()
            moved |= {n for n, p in model.denoiser.net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert torch.isfinite(loss)
    assert least <= sum(p.numel() for p in model.parameters()) / 1000 <= most
    assert moved == {n for n, _ in model.denoiser.net.named_parameters()}


def test_the_same_parameters_serve_every_time():
    """At two noise levels the gradients differ but are of the very same parameters: nothing belongs to one t."""
    model = VDM(Pixels((8, 8), 17))
    net = stirred(model.denoiser.net)
    z, seen = torch.randn(1, 8, 8), []
    for gamma in (-5.0, 4.0):
        grads = torch.autograd.grad(net(z, torch.tensor([gamma])).square().sum(), list(net.parameters()))
        seen.append(grads)
        assert all(g.abs().max() > 0 for g in grads)
    assert any(not torch.allclose(a, b) for a, b in zip(*seen))


@pytest.mark.parametrize("kind", [UNet, Transformer])
def test_double_precision_gives_what_single_precision_rounds(kind):
    """Colour, odd sides, a label: float32 agrees with float64 to its rounding, through about 40 layers."""
    net = stirred(kind((3, 9, 7), (32, 32), condition=Labels(3), dropout=0.3))
    z, gamma, y = torch.randn(2, 3, 9, 7), torch.tensor([-3.0, 2.0]), torch.tensor([0, 2])
    single = net(z, gamma, y)
    double = net.double()(z.double(), gamma.double(), y)
    assert double.dtype == torch.float64
    assert (single - double).abs().max() < 1e-4 * double.abs().max()


def test_a_small_patch_sees_more_tokens():
    """Tokens are the number of patches, rounded up on either side; the default keeps them at 64 or fewer."""
    for shape, patch, tokens in (((28, 28), 2, 196), ((28, 28), None, 49), ((9, 13), 2, 35), ((64, 64), None, 64)):
        net = Transformer(shape, (32,), patch=patch)
        assert len(net.places) == tokens
        assert net(torch.randn(1, *shape), torch.zeros(1)).shape == (1, *shape)


def test_networks_are_refused_where_they_do_not_fit():
    for space, options in (
        (Real((3,)), {"network": "unet"}),
        (Tokens(4, 3), {"network": "transformer"}),
        (Pixels((8, 8), 17), {"network": "transformer", "hidden": (48, 48)}),
        (Pixels((8, 8), 17), {"hidden": (0,)}),
    ):
        with pytest.raises(InputError):
            make_denoiser(space, LogLinear(), "auto", DenoiserBackbone(**options), None)


def test_attention_sees_how_far_apart_two_patches_are_and_not_where():
    """q·k of turned features is Re Σ q_k conj(k_k) e^{i (Δr ω_k or Δc ω_k)}, whatever the corner."""
    rows, columns, count = 4, 5, 3
    angles = grid_angles(rows, columns, count).double()
    turn = torch.stack([angles.cos(), angles.sin()])
    with seeded(0, "turn"):
        q, k = torch.randn(2, 4 * count, dtype=torch.float64)
    products = turned(q.expand(20, -1), turn) @ turned(k.expand(20, -1), turn).mT
    omega = [math.pi / 2 * 16 ** (-i / count) for i in range(count)]
    pairs = [torch.complex(*v.chunk(2)) for v in (q, k)]
    for i, j in itertools.product(range(20), repeat=2):
        (r, c), (s, d) = divmod(i, columns), divmod(j, columns)
        turns = torch.tensor([(r - s) * w for w in omega] + [(c - d) * w for w in omega], dtype=torch.float64)
        said = (pairs[0] * pairs[1].conj() * torch.polar(torch.ones_like(turns), turns)).real.sum()
        assert products[i, j].item() == pytest.approx(said.item(), abs=1e-5)  # angles are kept in float32


@pytest.mark.parametrize("width", [1, 2, 3, 6, 8, 32, 96])
def test_a_transformer_of_any_width_has_an_answer(width):
    net = Transformer((9, 10), (width,))
    assert net(torch.randn(2, 9, 10), torch.zeros(2)).shape == (2, 9, 10)
