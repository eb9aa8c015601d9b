"""No family's own way to sample is worse than Euler's method at as many evaluations, on densities whose denoiser is known."""

import math

import pytest
import torch

from likeli import DDPM, EDM, VDM, FlowMatching, Real, ScoreSDE
from likeli.diffusion.exact import MixtureDenoiser

F64 = torch.float64


def mixture(schedule, seed):
    """Five Gaussians in the plane, drawn."""
    g = torch.Generator().manual_seed(seed)
    means, weights = torch.randn(5, 2, dtype=F64, generator=g), 0.2 + torch.rand(5, dtype=F64, generator=g)
    roots = 0.25 * torch.randn(5, 2, 2, dtype=F64, generator=g) + 0.15 * torch.eye(2, dtype=F64)
    return MixtureDenoiser(schedule, weights / weights.sum(), means, roots @ roots.mT)


@pytest.mark.parametrize("evaluations", [5, 10, 20, 50])
@pytest.mark.parametrize("family", [DDPM, EDM, VDM, FlowMatching, ScoreSDE])
def test_the_default_is_no_worse_than_euler(family, evaluations):
    """|E log p(sample) − E log p(x)| over four mixtures: at most two standard errors (and 0.02 nats) above Euler's."""
    model, gaps, errors = family(Real((2,))).double(), {"own": 0.0, "euler": 0.0}, 0.0
    for seed in range(4):
        model.denoiser = mixture(model.schedule, seed)
        clean = model.schedule.at(0.0)
        truth = model.denoiser.log_density(model.sample(1500, steps=300, sampler="ddim", seed=9), clean)
        for name in gaps:
            heun = name == "own" and model.default_sampler == "heun" and evaluations // 2 >= model.depth - 1
            steps = evaluations // 2 if heun else evaluations  # two evaluations a step
            drawn = model.sample(1500, steps=steps, sampler=None if name == "own" else "euler", seed=1)
            found = model.denoiser.log_density(drawn, clean)
            gaps[name] += abs((found.mean() - truth.mean()).item()) / 4
            errors += (found.var() + truth.var()).item() / 1500 / 16
    assert gaps["own"] <= gaps["euler"] + 2 * math.sqrt(errors) + 0.02
