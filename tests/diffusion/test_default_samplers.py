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


@pytest.mark.parametrize("evaluations", [5, 10, 20, 50])
@pytest.mark.parametrize("family", [DDPM, EDM, VDM, FlowMatching, ScoreSDE])
def test_the_default_is_no_worse_than_euler(family, evaluations):
    """|E log p(sample) − E log p(x)| over four mixtures: at most two standard errors (and 0.02 nats) above Euler's."""
    model, gaps, errors = family(Real((2,))).double(), {"own": 0.0, "euler": 0.0}, 0.0
    for seed in range(4):
        model.denoiser = mixture(model.schedule, seed)
        clean = model.schedule.at(0.0)
        truth = model.denoiser.log_density(drawn_from(model.denoiser, clean, 1500, seed=9), clean)
        for name in gaps:
            drawn = model.sample(1500, steps=evaluations, sampler=None if name == "own" else "euler", seed=1)
            found = model.denoiser.log_density(drawn, clean)
            gaps[name] += abs((found.mean() - truth.mean()).item()) / 4
            errors += (found.var() + truth.var()).item() / 1500 / 16
    assert gaps["own"] <= gaps["euler"] + 2 * math.sqrt(errors) + 0.02


FAMILIES = [
    (DDPM, {}),
    (DDPM, {"noise": Cosine()}),
    (DDPM, {"noise": VarianceExploding()}),
    (DDPM, {"predict": "v", "noise": LinearBeta()}),
    (EDM, {}),
    (VDM, {}),
    (FlowMatching, {}),
    (ScoreSDE, {}),
    (ScoreSDE, {"noise": "subvp"}),
]


@pytest.mark.parametrize("family, options", FAMILIES)
def test_a_trained_network_ends_no_further_from_its_flow_than_by_euler(family, options):
    """400 steps on a ring of eight, 64 starts, 5 to 50 evaluations: the difference at most three standard errors (false alarms
    1 in 700 a cell)."""
    data = likeli.load_data("ring8")
    with likeli.seeded(3, "weights"):
        model = family(data.space, hidden=(32, 32), **options)
    likeli.fit(model, data, steps=400, seed=3, progress=False)
    found = flow_errors(model, samplers=[Euler()], grids=["time"], starts=64, seed=11)
    for evaluations, own in found.own.items():
        euler = next(r for r in found.rows if r.evaluations == evaluations and r is not own)
        assert evaluations_of(own.sampler, own.steps) <= evaluations
        assert own.error <= euler.error + 3 * math.hypot(own.stderr, euler.stderr), (evaluations, own.name, own.grid)
