"""Samplers against closed forms on exactly known denoisers; a shape proves nothing."""

import itertools

import pytest
import torch

from likeli.diffusion.denoiser import Denoise, Denoiser, Prediction
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.sampler import DDIM, Ancestral, trajectory
from likeli.diffusion.schedule import Karras, LogLinear, SubVP, bridge
from likeli.diffusion.times import uniform
from likeli.errors import Diverged, InputError
from likeli.models.vdm import VDM
from likeli.random import Ambient, Replay, Streams, seeded
from likeli.spaces import Pixels, Real

F64 = torch.float64


def normal(schedule, variance=0.25, mean=0.7):
    """The exact denoiser of N(mean, variance) in one dimension."""
    return MixtureDenoiser(
        schedule, torch.ones(1, dtype=F64), torch.full((1, 1), mean, dtype=F64), torch.full((1, 1), variance, dtype=F64)
    ).given(None)


def last(run):
    """The final z of a trajectory."""
    return list(run)[-1][1]


def ode_end(schedule, z, times, variance=0.25, mean=0.7):
    """The probability-flow ODE keeps (z − α m)/sd(z) of a Gaussian constant."""
    t, s = schedule.at(times[0]), schedule.at(times[-1])
    sd = [(p.alpha**2 * variance + p.sigma**2).sqrt() for p in (t, s)]
    return s.alpha * mean + (z - t.alpha * mean) / sd[0] * sd[1]


@pytest.mark.parametrize("schedule", [LogLinear(-6, 6), Karras(0.01, 20.0), SubVP()], ids=lambda s: s.kind())
def test_ancestral_moments_are_exact(schedule):
    """One step from z_t is linear in (z, ξ) for Gaussian data, so its mean and variance follow in closed form: a step onto
    the posterior with x̂ in place of x keeps the marginal only as T → ∞; here the closed form of the chain itself is met."""
    denoise, times = normal(schedule), uniform(8)
    n = 20_000
    with seeded(0, "ancestral"):
        z = torch.randn(n, 1, dtype=F64)
        out = last(trajectory(denoise, z, times, Ambient(z), "ancestral"))
    mean, variance = 0.0, 1.0
    for t, s in itertools.pairwise(times):
        t, s = schedule.at(t), schedule.at(s)
        a, b, std = (v.item() for v in bridge(s, t))
        gain = (t.alpha * 0.25 / (t.alpha**2 * 0.25 + t.sigma**2)).item()
        slope, offset = a + b * gain, b * (0.7 - gain * t.alpha.item() * 0.7)
        mean, variance = slope * mean + offset, slope**2 * variance + std**2
    assert abs(out.mean().item() - mean) < 4 * (variance / n) ** 0.5
    assert abs(out.var().item() - variance) < 4 * variance * (2 / n) ** 0.5


def test_ddim_with_full_noise_is_the_ancestral_step():
    """The same noise gives the same step, to rounding."""
    denoise, z = normal(LogLinear(-6, 6)), torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    noise = [torch.sin(torch.arange(9.0, dtype=F64) * k)[:, None] for k in range(1, 6)]
    one, two = (last(trajectory(denoise, z, uniform(5), Replay(noise), s)) for s in (Ancestral(), DDIM(eta=1.0)))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_ddim_without_noise_is_euler_in_sigma_over_alpha():
    """d(z/α) = ε̂ d(σ/α), stepped by hand."""
    schedule, times = SubVP(), uniform(6)
    denoise, z = normal(schedule), torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    got, by_hand = last(trajectory(denoise, z, times, Ambient(z), DDIM())), z
    for t, s in itertools.pairwise(times):
        t, s = schedule.at(t), schedule.at(s)
        by_hand = s.alpha * (by_hand / t.alpha + (s.sigma / s.alpha - t.sigma / t.alpha) * denoise(by_hand, t).eps)
    torch.testing.assert_close(got, by_hand, rtol=1e-10, atol=1e-10)


def test_every_state_is_yielded_lazily():
    calls = []
    schedule = LogLinear(-6, 6)

    def count(z, at):
        calls.append(float(at.t))
        return Prediction.of_x(z * 0, z, at.alpha, at.sigma)

    run = trajectory(Denoise(schedule, count), torch.ones(2, 1), uniform(10), Ambient(torch.ones(2)), DDIM())
    for _ in range(3):
        next(run)
    assert calls == pytest.approx([1.0, 0.9])
    assert [float(at.t) for at, _ in run] == pytest.approx([0.1 * k for k in range(7, -1, -1)])


def test_the_chain_and_the_ancestral_sampler_are_one():
    """The default sample of a VDM is the hierarchy's own chain, noise for noise."""
    with seeded(0, "chain"):
        model = VDM(Pixels((2, 3), 5), backbone=DenoiserBackbone(hidden=(16,)), steps=7).double()
        noise = [torch.randn(4, 2, 3, dtype=F64) for _ in range(8)] + [torch.rand(4, 2, 3, dtype=F64)]
    with torch.no_grad():
        chain = super(type(model).__mro__[1], model).draw(Replay(noise))
        torch.testing.assert_close(model.eval().draw(Replay(noise)), chain)


def test_the_first_samples_do_not_depend_on_how_many_are_drawn():
    model = VDM(Pixels((2, 3), 5), backbone=DenoiserBackbone(hidden=(16,)))
    for sampler in ("ancestral", "ddim"):
        few, many = (model.sample(n, steps=3, sampler=sampler, seed=5) for n in (3, 70))
        assert torch.equal(few, many[:3])


def test_bad_requests_are_refused_before_the_first_step():
    def never(z, gamma, y):
        raise AssertionError("the network was called")

    denoise, z = Denoiser(never, LogLinear()).given(None), torch.zeros(1, 2)
    noise = Streams(0, [0])
    for times, sampler in (
        (torch.tensor([1.0]), "ddim"),
        (torch.tensor([0.2, 0.9]), "ddim"),
        (torch.tensor([1.1, 0.0]), "ddim"),
        (uniform(3), "dddim"),
    ):
        with pytest.raises(InputError):
            trajectory(denoise, z, times, noise, sampler)
    with pytest.raises(InputError, match="steps"):
        VDM(Real((2,))).sample(1, steps=0)
    with pytest.raises(InputError, match="eta"):
        DDIM(1.5)


def test_a_network_that_fails_is_named_by_its_step():
    def broken(z, gamma, y):
        return z * (float("nan") if gamma[0] < 0 else 1.0)

    z = torch.zeros(1, 2)
    with pytest.raises(Diverged, match=r"step 7 of 10 .t = 0.4, log SNR 1"):
        list(trajectory(Denoiser(broken, LogLinear(-5, 5)).given(None), z, uniform(10), Ambient(z), "ddim"))
