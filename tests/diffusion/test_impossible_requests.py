"""What a diffusion refuses, in one line and before any step; what is extreme but possible stays finite."""

import math

import pytest
import torch
from torch import nn

from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.schedule import Betas, LogLinear
from likeli.errors import Diverged, InputError, Unsupported
from likeli.models.ddpm import DDPM
from likeli.models.vdm import VDM
from likeli.random import Ambient, seeded
from likeli.spaces import Pixels, Real, Tokens


def tiny(space=None, **options):
    with seeded(0, "tiny"):
        return VDM(space or Real((2,)), backbone=DenoiserBackbone(hidden=(8,)), **options).eval()


class Broken(nn.Module):
    """Finite until the noise is below a level."""

    def __init__(self, below):
        super().__init__()
        self.below, self.kept = below, nn.Parameter(torch.zeros(1))

    def forward(self, z, gamma, y):
        return torch.where(gamma[:, None] < self.below, math.nan, 0.0) * z


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda m: m.sample(2, steps=0), "steps"),
        (lambda m: m.sample(2, steps=-3), "steps"),
        (lambda m: m.sample(2, steps=2.5), "steps"),
        (lambda m: m.sample(0), "n"),
        (lambda m: m.sample(2, steps=4, sampler="none"), "sampler: expected one of .*ancestral"),
        (lambda m: m.sample(2, steps=4, grid="uneven"), "grid"),
        (lambda m: m.log_likelihood(torch.zeros(1, 3)), "x"),
        (lambda m: m.log_likelihood(torch.full((1, 2), math.inf)), "x"),
        (lambda m: m.log_likelihood(torch.zeros(1, 2), samples=0), "samples"),
        (lambda m: m.log_likelihood(torch.zeros(1, 2), method="flow"), "method"),
        (lambda m: m.log_likelihood(torch.zeros(1, 2), method="ode", rtol=-1.0), "rtol"),
        (lambda m: m.log_likelihood(torch.zeros(1, 2), method="ode", probes=0), "probes"),
        (lambda m: m.schedule.at(1.5), "t: expected times in"),
        (lambda m: m.schedule.at(torch.tensor([0.5, -0.1])), "t: expected times in"),
        (lambda m: m.schedule.at(math.nan), "t: expected times in"),
    ],
)
def test_bad_input_is_one_line(call, match):
    with pytest.raises(InputError, match=match) as caught:
        call(tiny())
    assert "\n" not in str(caught.value)


def test_x_outside_the_space_is_located():
    with pytest.raises(InputError, match="0 to 4"):
        tiny(Pixels((2, 2), 5)).log_likelihood(torch.full((1, 2, 2), 5))
    with pytest.raises(InputError):
        tiny(Tokens(3, 4)).log_likelihood(torch.tensor([[0, 1, 4]]))


def test_a_network_that_breaks_names_the_step():
    model = tiny(gamma=(-10.0, 10.0), noise="log_linear")
    model.denoiser.net = Broken(0.0)
    with pytest.raises(Diverged, match=r"not finite at step 7 of 10 \(t = 0\.4, log SNR 2\)"):  # γ = −2 is seen, after −0
        model.sample(2, steps=10, sampler="multistep", grid="time")
    with pytest.raises(Diverged, match="ode: not finite"):
        model.log_likelihood(torch.zeros(1, 2), method="ode")


def test_a_network_of_another_shape_is_refused():
    model = tiny()
    model.denoiser.net = nn.Sequential()
    model.denoiser.net.forward = lambda z, gamma, y: z[:, :1]
    with pytest.raises(InputError, match="net: expected an output of z's shape"):
        model.denoiser(torch.zeros(3, 2), model.schedule.at(0.5))


@pytest.mark.parametrize("space", [Real((3,)), Pixels((2, 2), 4), Tokens(2, 3)])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "multistep", "heun", "dpm_solver", "euler_maruyama"])
def test_log_snr_of_thirty_stays_finite_in_float32(space, sampler):
    """Both ends: samples, the bound and its gradient, with a network that does something."""
    model = tiny(space, gamma=(-30.0, 30.0), noise="log_linear")
    for p in model.denoiser.net.parameters():
        nn.init.normal_(p, std=0.2)
    z = list(model.trajectory(Ambient(torch.zeros(4)), steps=20, sampler=sampler))[-1][1]
    assert bool(z.isfinite().all())
    x = model.sample(4, steps=20, sampler=sampler)
    model.loss(x).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert bool(model.log_likelihood(x, samples=8).value.isfinite().all())


def test_schedules_refuse_ends_that_overflow():
    with pytest.raises(InputError, match="gamma_min"):
        LogLinear(-61.0, 5.0)
    with pytest.raises(InputError):
        LogLinear(math.nan, 5.0)
    with pytest.raises(InputError):
        DDPM(Real((1,)), backbone=DenoiserBackbone(hidden=(4,)), noise=Betas(1000, beta_min=0.5, beta_max=0.1))


def test_a_family_without_a_trajectory_says_so():
    from likeli.diffusion.levels import noise_levels
    from likeli.models.vae import VAE

    with pytest.raises(Unsupported, match="vae has no noise levels"):
        noise_levels(VAE(Real((2,))), torch.zeros(2, 2))
