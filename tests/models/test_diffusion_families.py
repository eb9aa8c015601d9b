"""DDPM, score SDE, EDM and flow matching: one denoiser, honest bounds whatever the training loss."""

import functools
import math
import warnings

import pytest
import torch

from likeli.contract import Knows
from likeli.diffusion.categorical import CategoricalDenoiser
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.schedule import Betas
from likeli.latent.chain import LatentVariableModel
from likeli.models.ddpm import DDPM, NoiseObjective
from likeli.models.edm import EDM
from likeli.models.flow_matching import FlowMatching
from likeli.models.score_sde import ScoreSDE
from likeli.models.vdm import VDM
from likeli.random import Replay, seeded
from likeli.spaces import Pixels, Real, caption_space
from likeli.theory.diffusion_truths import levels_in_closed_form

F64 = torch.float64
FAMILIES = {
    "vdm": VDM,
    "ddpm": DDPM,
    "ddpm learned variance": functools.partial(DDPM, variance="learned", steps=100),
    "ddpm min_snr": functools.partial(DDPM, objective=NoiseObjective("min_snr"), predict="v"),
    "vp": ScoreSDE,
    "ve": functools.partial(ScoreSDE, noise="ve"),
    "subvp": functools.partial(ScoreSDE, noise="subvp", weight="likelihood"),
    "edm": EDM,
    "flow_matching": FlowMatching,
    "flow_matching logit_normal": functools.partial(FlowMatching, times="logit_normal"),
    "flow_matching shift": functools.partial(FlowMatching, shift=3.0),
}


def two_modes(n):
    """x ~ ½ N(−1, 0.1) + ½ N(1, 0.1), of about unit variance, and E log p by quadrature."""
    x = (2.0 * (torch.rand(n, 1) < 0.5) - 1) + 0.1**0.5 * torch.randn(n, 1)
    grid = torch.linspace(-4, 4, 8001, dtype=F64)
    density = sum(0.5 * torch.exp(-((grid - m) ** 2) / 0.2) / math.sqrt(0.2 * math.pi) for m in (-1, 1))
    return x, torch.trapezoid(density * density.clamp(min=1e-300).log(), grid).item()


QUICK = ("vp",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_each_family_learns_two_modes_and_its_bound_stays_below_the_truth(name):
    """400 steps of a small network: bound within a nat of E log p, not above it (4 s.e.); samples in both modes."""
    with seeded(0, name):
        x, truth = two_modes(2048)
        model = FAMILIES[name](Real((1,)), DenoiserBackbone(hidden=(64, 64), dropout=0.0))
        optimiser = torch.optim.Adam(model.parameters(), 4e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 400)
        for _ in range(400):
            optimiser.zero_grad()
            model.loss(x[torch.randint(0, 2048, (128,))]).mean().backward()
            optimiser.step()
            decay.step()
        fresh, _ = two_modes(1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.log_likelihood(fresh, samples=12)
    mean, error = found.mean()
    error = math.hypot(error, (found.stderr.square().sum().sqrt() / 1000).item())
    assert found.knows is Knows.LOWER_BOUND
    short = 5 if "logit_normal" in name else 1  # its times all but miss the clean end, on which the bound hangs
    assert truth - short < mean < truth + 4 * error
    drawn = model.sample(256, steps=40)
    assert 0.3 < (drawn > 0).double().mean().item() < 0.7
    assert 0.7 < drawn.abs().mean().item() < 1.3


@pytest.mark.parametrize(("captions", "shift", "s"), [(0, 0.5, 0.5), (0, None, 1), (1, 1.0, 1), (1, None, 6)])
def test_shifted_times_have_log_odds_moved_by_its_logarithm(captions, shift, s, monkeypatch):
    """For u uniform, log t/(1 − t) − log s is logistic; 1,024 low-discrepancy times are within 1/1,024 of it everywhere."""
    monkeypatch.setattr("likeli.models.flow_matching.flow_matching", lambda denoiser, u, t, y: t)
    condition = caption_space(["red"]) if captions else None
    model = FlowMatching(Real((1,)), DenoiserBackbone(hidden=(4,)), condition=condition, shift=shift)
    t = model.loss(torch.zeros(1024, 1)).double().sort().values
    below = (t.logit() - math.log(s)).sigmoid()
    assert (below - (torch.arange(1024) + 0.5) / 1024).abs().max() < 1 / 1024 + 1e-5


def test_learned_variances_tighten_the_bound_of_few_steps():
    """The exact denoiser of a Gaussian on 5 steps: a variance of its own for each level makes even that chain nearly exact."""
    moments = torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), torch.full((1, 1), 2.0, dtype=F64)
    bounds = {}
    x = 2**0.5 * torch.randn(4000, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    for variance in ("small", "large", "learned"):
        noise = Betas(6, beta_min=0.05, beta_max=0.9)
        model = DDPM(Real((1,)), DenoiserBackbone(hidden=(4,)), 6, noise, variance=variance).double()
        model.denoiser = MixtureDenoiser(model.schedule, *moments)
        if variance == "learned":
            optimiser = torch.optim.Adam([model.log_ratios], 0.05)
            for _ in range(150):
                optimiser.zero_grad()
                with seeded(0, "train"):
                    model.loss(x).mean().backward()
                optimiser.step()
        with torch.no_grad(), seeded(1, "bound"):
            eps = [torch.randn_like(x) for _ in range(model.depth)]
            bounds[variance] = levels_in_closed_form(model, x, eps).value.mean().item()
    assert bounds["learned"] > bounds["large"] + 0.01
    assert bounds["learned"] > bounds["small"] + 1
    truth = -0.5 * math.log(2 * math.pi * math.e * 2)
    assert bounds["learned"] < truth + 0.05


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_the_chain_follows_the_closed_form_at_any_variance(variance):
    """Levels of the chain against the closed form at the same z, and the default sampler is the chain itself."""
    with seeded(0, variance):
        backbone, betas = DenoiserBackbone(hidden=(8,), dropout=0.0), Betas(6, beta_max=0.5, beta_min=0.1 / 6)
        model = DDPM(Pixels((2, 2), 5), backbone, 6, betas, variance=variance).double()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
        x, noise = torch.randint(0, 5, (3, 2, 2)), [torch.randn(3, 2, 2, dtype=F64) for _ in range(6)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = model.elbo(x, noise=Replay(noise))
        u = model.infer(x)
        given = [(s.z - s.state.at.alpha * u) / s.state.at.sigma for s in model.walk(Replay(noise), context=u)]
        closed = levels_in_closed_form(model, x, given)
        torch.testing.assert_close(chain.kl, closed.kl, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(chain.value, closed.value, rtol=1e-8, atol=1e-8)
        draws = [*noise, torch.rand(3, 2, 2, dtype=F64)]
        chain = LatentVariableModel.draw(model, Replay(draws))
        torch.testing.assert_close(model.draw(Replay(draws)), chain)


def test_default_rates_are_forgotten_and_short_ones_raise_the_alarm():
    x = torch.randn(20, 2)
    for noise, alarm in ((None, False), (Betas(100), True)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = DDPM(Real((2,)), DenoiserBackbone(hidden=(4,)), 100, noise).log_likelihood(x, samples=2)
        assert any("terminal mismatch" in str(w.message) for w in said) is alarm
        assert (found.errors["terminal_mismatch"] > 0.01) is alarm


def test_edm_s_grid_preconditioning_and_weight():
    """18 steps of the published grid; the loss is F's plain squared error against its target."""
    model = EDM(Real((3,)), backbone=DenoiserBackbone(hidden=(8,))).double()
    sigma = model.schedule.levels(model.depth).sigma.flip(0)
    want = (80 ** (1 / 7) + torch.arange(19, dtype=F64) / 18 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma, want, rtol=1e-6, atol=0)
    x = torch.randn(50, 3, dtype=F64)
    seen = []

    class Record(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = torch.nn.Parameter(torch.ones(1, dtype=F64))  # a model computes in its parameters' type

        def forward(self, z, gamma, y):
            seen.append((z, gamma))
            return 0.3 * z

    model.denoiser.net = Record()
    with seeded(0, "edm"):
        loss = model.loss(x)
    z, gamma = seen[0]
    sigma = (gamma / 2).exp()[:, None]
    noisy = z * (sigma**2 + 1).sqrt()
    target = (x - noisy / (sigma**2 + 1)) * (sigma**2 + 1).sqrt() / sigma
    torch.testing.assert_close(loss, (0.3 * z - target).square().sum(1), rtol=1e-5, atol=1e-6)


def test_the_likelihood_weight_is_the_bound_s_diffusion_term():
    """λ = g²: the same numbers as the bound's, draw for draw."""
    model = ScoreSDE(Real((2,)), weight="likelihood", backbone=DenoiserBackbone(hidden=(8,), dropout=0.0))
    x = torch.randn(16, 2)
    with seeded(0, "weight"):
        loss = model.loss(x)
    with seeded(0, "weight"):
        t = (torch.rand((), dtype=F64) + torch.arange(16, dtype=F64) / 16) % 1
        terms = model._diffusion(model.denoise(), model.infer(x), torch.randn(16, 2), t, torch.ones_like(t))
    torch.testing.assert_close(loss, terms)


def test_a_small_image_gets_a_u_net_and_symbols_of_few_levels_their_probabilities():
    model = VDM(Pixels((8, 8), 17))
    assert isinstance(model.denoiser, CategoricalDenoiser)
    z, at = torch.randn(2, 8, 8), model.schedule.at(0.5)
    torch.testing.assert_close(model.denoiser.log_pmf(z, at).exp().sum(1), torch.ones(2, 8, 8))
    for shape in ((9, 11), (3, 10, 8)):
        assert VDM(Pixels(shape, 256)).sample(2, steps=2).shape == (2, *shape)
