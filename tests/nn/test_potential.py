"""Networks as gradients: of the number that they say, with the derivatives that training needs, in every denoiser."""

import pytest
import torch
from torch import nn

import likeli
from likeli.diffusion.denoiser import Denoiser
from likeli.diffusion.networks import DenoiserBackbone, make_denoiser
from likeli.diffusion.schedule import LogLinear
from likeli.errors import Unsupported
from likeli.nn.mlp import DenoisingMLP
from likeli.nn.potential import Potential
from likeli.nn.transformer import Transformer
from likeli.nn.unet import UNet
from likeli.random import seeded
from likeli.spaces import Binary, Pixels, Real

NETWORKS = {
    "mlp": lambda: DenoisingMLP((4, 4), (16, 16)),
    "unet": lambda: UNet((4, 4), (8, 16), blocks=1, attention=4),
    "transformer": lambda: Transformer((4, 4), (32, 32)),
}


def stirred(net):
    with seeded(0, "stirred"):
        for p in net.parameters():
            nn.init.normal_(p, std=0.1)
    return net.double().eval()


def difference(f, step=1e-5):
    """Central difference of order 4 at 0: its error is of order step⁴, rounding of order 1e-16/step."""
    at = [f(k * step) for k in (-2, -1, 1, 2)]
    return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_gradient_and_has_the_right_derivative_in_its_weights(name):
    """Directional derivatives of Φ in z, and of ⟨∇Φ, v⟩ in all weights, against central differences in float64."""
    net = Potential(stirred(NETWORKS[name]()))
    z, v = torch.randn(2, 2, 4, 4, dtype=torch.float64).unbind(0)
    gamma = torch.tensor([0.3, -2.0], dtype=torch.float64)
    with torch.no_grad():
        slope = (net(z, gamma) * v).sum().item()
        assert slope == pytest.approx(difference(lambda h: net.potential(z + h * v, gamma).sum().item()), rel=1e-7)
    weights = list(net.parameters())
    directions = [torch.randn_like(w) for w in weights]
    grads = torch.autograd.grad((net(z, gamma) * v).sum(), weights)
    start = [w.detach().clone() for w in weights]

    def moved(h):
        with torch.no_grad():
            for w, s, d in zip(weights, start, directions):
                w.copy_(s + h * d)
            return (net(z, gamma) * v).sum().item()

    found = sum((g * d).sum().item() for g, d in zip(grads, directions))
    assert found == pytest.approx(difference(moved), rel=1e-6)


def test_nothing_is_kept_where_no_gradient_is_asked_for():
    net, z = Potential(NETWORKS["mlp"]()), torch.randn(3, 4, 4)
    with torch.no_grad():
        assert not net(z, torch.zeros(3)).requires_grad
    assert net(z, torch.zeros(3)).requires_grad and not z.requires_grad


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("edm", "flow_matching", "score_sde")]


@pytest.mark.parametrize("family", ["ddpm", "vdm", *OTHERS])
def test_every_diffusion_family_takes_it(family, tmp_path):
    """Trained, saved and loaded, sampled, and its flow's density measured, which differentiates the score once more."""
    with seeded(1, family):
        model = likeli.families()[family](Real((2,)), backbone=DenoiserBackbone(hidden=(8, 8), energy=True))
    x = torch.randn(64, 2)
    before = [p.clone() for p in model.parameters()]
    likeli.fit(model, x, steps=3, progress=False)
    assert any(bool((p != q).any()) for p, q in zip(model.parameters(), before))
    likeli.save(model, tmp_path / "run")
    again = likeli.load(tmp_path / "run")
    assert torch.equal(again.sample(4, steps=3), model.sample(4, steps=3))
    z, at = torch.randn(5, 2), again.schedule.at(0.5)
    assert again.denoiser.energy(z, at).shape == (5,)
    assert bool(again.log_likelihood(x[:4], method="ode").value.isfinite().all())


def test_auto_predicts_v_and_probabilities_are_refused():
    backbone = DenoiserBackbone(hidden=(8, 8), energy=True)
    assert make_denoiser(Binary((4,)), LogLinear(), "auto", backbone, None).predict == "v"
    with pytest.raises(Unsupported, match="energy: a gradient is no probability"):
        make_denoiser(Binary((4,)), LogLinear(), "categorical", backbone, None)
    free = Denoiser(DenoisingMLP((2,), (8,)), LogLinear())
    with pytest.raises(Unsupported, match="the score is that of no energy"):
        free.energy(torch.randn(3, 2), free.schedule.at(0.5))


def test_a_picture_network_by_an_energy_trains_with_dropout_and_labels():
    space = Pixels((8, 8), levels=16)
    with seeded(2, "picture"):
        model = likeli.DDPM(space, DenoiserBackbone(hidden=(8, 8), energy=True), predict="eps", condition=likeli.Labels(3))
    loss = model.loss(torch.randint(16, (4, 8, 8)), torch.tensor([0, 1, 2, 0]))
    loss.mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.denoiser.parameters())
