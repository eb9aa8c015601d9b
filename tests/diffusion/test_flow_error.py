"""The error of a sampler against the probability flow: a closed form, counted evaluations, an earned choice."""

import math

import pytest
import torch

import likeli
from likeli.config import registered
from likeli.diffusion import DDIM, Adams, Euler, Heun, Sampler
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.flow_error import evaluations_of, flow_errors, recommended, steps_within, stored
from likeli.errors import InputError
from likeli.random import Streams


def gaussian(variance):
    """A score SDE in the plane whose denoiser is that of N(0, variance I)."""
    model = likeli.ScoreSDE(likeli.Real((2,))).double()
    one = torch.ones(1, 1, dtype=torch.float64)
    model.denoiser = MixtureDenoiser(model.schedule, one[0], 0 * one.expand(1, 2), variance * one.expand(1, 2))
    return model


def test_the_error_of_one_step_on_a_gaussian():
    """The flow of N(0, c²) scales z by the ratio of its standard deviations, and one step of DDIM is linear too."""
    c2, starts = 0.3, 64
    model = gaussian(c2)
    found = flow_errors(model, samplers=[DDIM()], grids=["time"], evaluations=[2], starts=starts, seed=4, rtol=1e-8)
    first, last = model.schedule.at(1.0), model.schedule.at(0.0)
    middle = model.schedule.at(0.5)

    def deviation(at):
        return math.sqrt(c2 * at.alpha**2 + at.sigma**2)

    def step(t, s):
        x, eps = c2 * t.alpha / deviation(t) ** 2, t.sigma / deviation(t) ** 2
        return (s.alpha * x + s.sigma * eps).item()

    scale = step(first, middle) * step(middle, last) - deviation(last) / deviation(first)
    z = model.schedule.prior_std() * Streams(4, range(starts), torch.float64).normal(2)
    truth = (abs(scale) / last.alpha * z.norm(dim=1) / math.sqrt(2))[1::2]
    row = next(r for r in found.rows if r.name == "ddim")
    assert row.error == pytest.approx(truth.mean().item(), rel=1e-6)
    assert row.stderr == pytest.approx((truth.std() / math.sqrt(32)).item(), rel=1e-6)


def test_evaluations_are_counted():
    assert [evaluations_of(s, 7) for s in (Euler(), Adams(), Heun(), DDIM())] == [7, 7, 14, 7]
    assert [steps_within(s, 5) for s in (Euler(), Heun())] == [5, 2]
    deterministic = {k for k, c in registered(Sampler).items() if c().deterministic}
    rows = flow_errors(gaussian(0.3), evaluations=[6], starts=8).rows
    assert {type(r.sampler).kind() for r in rows} == deterministic
    assert all(evaluations_of(r.sampler, r.steps) <= 6 < evaluations_of(r.sampler, r.steps + 1) for r in rows)


def test_a_recommendation_beats_the_models_own_or_is_it():
    """Where the model's own is the better of two it stays; where another ends nearer by far it goes."""
    model = gaussian(0.3)
    worse = flow_errors(model, samplers=[Euler()], grids=["time"], evaluations=[10])
    assert worse.best[10] is worse.own[10]
    model.denoiser.divides_by_alpha = True  # its own way is then that of a network of ε
    better = flow_errors(model, samplers=[Adams()], grids=["optimal"], evaluations=[10])
    assert better.own[10].name == "deis"
    assert better.best[10].name == "adams"
    assert better.best[10].error + 2 * better.best[10].stderr < better.own[10].error


def test_what_is_stored_comes_back():
    found = flow_errors(gaussian(0.3), evaluations=[6, 12], starts=8)
    kept = stored(found)
    again = recommended(kept, 6)
    assert again.row() == found.best[6].row()
    assert recommended(kept, 7).steps == steps_within(again.sampler, 7)
    assert recommended(kept, 40) is None
    for wrong in ([], {}, {"a": {}}, {"6": {"sampler": 3}}, {"6": kept["6"] | {"sampler": {"class": "vdm"}}}):
        with pytest.raises(InputError):
            recommended(wrong, 6)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"samplers": ["ancestral"]}, "samplers: expected deterministic ones"),
        ({"grids": ["even"]}, "grids: expected some of time"),
        ({"evaluations": [1]}, "evaluations: expected whole numbers of at least 2"),
        ({"starts": 3}, "starts: expected at least 8"),
        ({"rtol": 0.0}, "rtol: expected a positive number"),
        ({"y": torch.zeros(4)}, "y: expected nothing"),
    ],
)
def test_bad_input(options, said):
    with pytest.raises(InputError, match=said):
        flow_errors(gaussian(0.3), **options)
    with pytest.raises(InputError, match="model: expected a diffusion model"):
        flow_errors(likeli.GMM(likeli.Real((2,))))
