"""No family's own way to sample is worse than Euler's method at as many evaluations, on known denoisers and on trained ones."""

import math

import pytest
import torch

import likeli
from likeli import DDPM, EDM, VDM, FlowMatching, Real, ScoreSDE
from likeli.diffusion import Euler
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.flow_error import evaluations_of, flow_errors
from likeli.diffusion.schedule import Cosine, LinearBeta, VarianceExploding

F64 = torch.float64


def mixture(schedule, seed):
    """Five Gaussians in the plane, drawn."""
    g = torch.Generator().manual_seed(seed)
    means, weights = torch.randn(5, 2, dtype=F64, generator=g), 0.2 + torch.rand(5, dtype=F64, generator=g)
    roots = 0.25 * torch.randn(5, 2, 2, dtype=F64, generator=g) + 0.15 * torch.eye(2, dtype=F64)
    return MixtureDenoiser(schedule, weights / weights.sum(), means, roots @ roots.mT)


def drawn_from(known, at, n, seed):
    """n rows of z = α x + σ ε with x of the mixture itself."""
    g = torch.Generator().manual_seed(seed)
    k = torch.multinomial(known.weights, n, replacement=True, generator=g)
    along = known.variances[k].sqrt() * torch.randn(n, 2, dtype=F64, generator=g)
    x = known.means[k] + torch.einsum("nij,nj->ni", known.axes[k], along)
    return at.alpha * x + at.sigma * torch.randn(n, 2, dtype=F64, generator=g)


OTHERS = (DDPM, EDM, ScoreSDE)


@pytest.mark.parametrize("evaluations", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (10, 20, 50))])
@pytest.mark.parametrize("family", [VDM, FlowMatching, *(pytest.param(f, marks=pytest.mark.slow) for f in OTHERS)])
def test_the_default_is_no_worse_than_euler(family, evaluations):
    """|E log p(sample) − E log p(x)| over four mixtures: at most two standard errors (and 0.02 nats) above Euler's."""
    model, gaps, errors = family(Real((2,))).double(), {"own": 0.0, "euler": 0.0}, 0.0
    divides = model.denoiser.divides_by_alpha
    for seed in range(4):
        model.denoiser = mixture(model.schedule, seed)
        model.denoiser.divides_by_alpha = divides
        clean = model.schedule.at(0.0)
        truth = model.denoiser.log_density(drawn_from(model.denoiser, clean, 1500, seed=9), clean)
        for name in gaps:
            drawn = model.sample(1500, steps=evaluations, sampler=None if name == "own" else "euler", seed=1)
            found = model.denoiser.log_density(drawn, clean)
            gaps[name] += abs((found.mean() - truth.mean()).item()) / 4
            errors += (found.var() + truth.var()).item() / 1500 / 16
    assert gaps["own"] <= gaps["euler"] + 2 * math.sqrt(errors) + 0.02


FAMILIES = [(family, {}) for family in (VDM, FlowMatching)]
FAMILIES += [pytest.param(family, options, marks=pytest.mark.slow) for family, options in (
    *((family, {}) for family in OTHERS),
    (DDPM, {"noise": Cosine()}),
    (DDPM, {"noise": VarianceExploding()}),
    (DDPM, {"predict": "v", "noise": LinearBeta()}),
    (ScoreSDE, {"noise": "subvp"}),
)]  # fmt: skip
EVALUATIONS = (5, 7, 8, 10, 15, 16, 20, 50)  # both sides of where a default changes


def no_worse_than_euler(model, **options):
    """The model's own way against Euler's method on the same grid at as many evaluations: two standard errors."""
    found = flow_errors(model, samplers=[Euler()], evaluations=EVALUATIONS, **options)
    for n, own in found.own.items():
        assert evaluations_of(own.sampler, own.steps) <= n
        euler = next(r for r in found.rows if r is not own and (r.evaluations, r.grid) == (n, own.grid))
        assert own.error <= euler.error + 2 * math.hypot(own.stderr, euler.stderr), (n, own.name, own.grid)
    return found


@pytest.mark.parametrize("dimensions", [2, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family, options", FAMILIES)
def test_on_an_exact_mixture_the_default_ends_no_further_from_the_flow_than_euler(family, options, dimensions):
    """Five Gaussians with spectra 1/j^1.5, 64 starts of which 32 report; seeds that chose nothing."""
    model = family(Real((dimensions,)), **options).double()
    divides, g = model.denoiser.divides_by_alpha, torch.Generator().manual_seed(7)
    means, weights = torch.randn(5, dimensions, dtype=F64, generator=g), torch.rand(5, dtype=F64, generator=g)
    axes = torch.linalg.qr(torch.randn(5, dimensions, dimensions, dtype=F64, generator=g))[0]
    spectrum = torch.arange(1, dimensions + 1, dtype=F64) ** -1.5
    covariances = axes * (0.5 * spectrum / spectrum.mean()) @ axes.mT
    model.denoiser = MixtureDenoiser(model.schedule, 0.2 + weights, 0.7 * means, covariances)
    model.denoiser.divides_by_alpha = divides
    no_worse_than_euler(model, seed=70, rtol=1e-5)


class Known(torch.nn.Module):
    """Independent cells of known probabilities."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, z, gamma, y=None):
        return self.logits.expand(len(z), *self.logits.shape)


@pytest.mark.parametrize("space, cells", [(likeli.Tokens(6, 5), (6, 5)), (likeli.Pixels((8,), 17), (17, 8))])
def test_where_symbols_are_told_apart_the_default_goes_down_to_them(space, cells):
    """Exact categories: no further than Euler, and from 16 steps on no further than on `optimal`, by two standard errors."""
    model = VDM(space).double()
    model.denoiser.net = Known(2 * torch.randn(cells, dtype=F64, generator=torch.Generator().manual_seed(7)))
    found = no_worse_than_euler(model, seed=70, rtol=1e-5)
    assert {n: own.grid for n, own in found.own.items()} == {n: "optimal" if n < 16 else "log_snr" for n in EVALUATIONS}
    wide = flow_errors(model, samplers=[found.own[20].sampler], grids=["optimal"], evaluations=[20, 50], seed=70, rtol=1e-5)
    for row in wide.rows:
        if row.grid == "optimal":
            own = found.own[row.evaluations]
            assert own.error <= row.error + 2 * math.hypot(own.stderr, row.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("family, options", FAMILIES)
def test_a_trained_network_ends_no_further_from_its_flow_than_by_euler(family, options):
    """400 steps on a ring of eight, 64 starts of which 32 report; seeds that chose nothing."""
    data = likeli.load_data("ring8")
    with likeli.seeded(3, "weights"):
        model = family(data.space, hidden=(32, 32), **options)
    likeli.fit(model, data, steps=400, seed=3, progress=False)
    no_worse_than_euler(model, starts=64, seed=11)
