"""A number that a model prints may be weak, but never better than the truth.

Every family of the registry is trained for a moment on a small problem whose states can be enumerated or integrated.
"""

import functools
import inspect
import math

import pytest
import torch
from scipy import stats

from families import FAMILIES, examples, takes, trained
from likeli.contract import Knows
from likeli.random import seeded
from likeli.spaces import Binary, Pixels, Real, Tokens

TINY = {"binary": Binary((3,)), "pixels": Pixels((2,), levels=4), "tokens": Tokens(2, 3)}
FLAT = {"line": Real((1,), mean=2.0, scale=3.0), "plane": Real((2,), mean=(1.0, -1.0), scale=(2.0, 0.5))}
SPACES = TINY | FLAT
ROWS = 2000


@functools.cache
def fitted(family, name):
    with seeded(0, "honesty", family, name):
        model = FAMILIES[family](SPACES[name])
    return trained(model, rows(name), steps=25)


def rows(name, n=ROWS, seed=0):
    return examples(SPACES[name], n, seed)


def cases(*, spaces, knows, jumps=True):
    """Each family on each space it takes; all but its first discrete space, and the line, are left to the slow run.

    So are the diffusions whose bound is that of `vdm` with other weights, which stands for them.

    Without `jumps`, no densities of intervals, whose edges no grid resolves; theirs is summed over the intervals elsewhere.
    """
    found = []
    for family in [f for f in FAMILIES if FAMILIES[f].knows in knows and (jumps or FAMILIES[f].strategy != "boosting")]:
        taken = [s for s in spaces if takes(family, SPACES[s])]
        quick = {"line", next((s for s in taken if s in TINY), "line")}
        quick |= {"plane"} if FAMILIES[family].knows is Knows.EXACT else set()
        quick = set() if family in ("ddpm", "edm", "flow_matching", "score_sde") else quick
        found += [pytest.param(family, s, marks=[] if s in quick else pytest.mark.slow, id=f"{family}-{s}") for s in taken]
    return pytest.mark.parametrize("family, name", found)


def states(space):
    """Every element of a tiny space."""
    symbols = getattr(space, "vocab", None) or space.levels
    return torch.cartesian_prod(*[torch.arange(symbols)] * space.dimensions).reshape(-1, *space.shape)


def averaged(model, x, repeats=4):
    """The mean over seeds of log p, which for a bound is the bound itself, and its standard error."""
    values = torch.stack([model.log_likelihood(x, seed=s).value.double() for s in range(repeats)])
    return values.mean(0), values.std(0) / math.sqrt(repeats)


@cases(spaces=TINY, knows={Knows.EXACT, Knows.LOWER_BOUND})
def test_masses_sum_to_one_and_bounds_to_less(family, name):
    model, x = fitted(family, name), states(SPACES[name])
    result = model.log_likelihood(x)
    if result.knows is Knows.EXACT:
        assert abs(result.value.double().exp().sum().item() - 1) < 1e-4
        return
    mean, stderr = averaged(model, x)
    total, noise = mean.exp().sum(), (mean.exp() * stderr).square().sum().sqrt()
    assert total < 1 + 4 * noise + 1e-4
    assert total > 0


def stretched(points, reach, centre, scale):
    """x = centre + scale·sinh(t) for |t| up to `reach`, fine in the middle, and dx/dt."""
    t = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return t, centre + scale * t.sinh(), scale * t.cosh()


@cases(spaces=FLAT, knows={Knows.EXACT}, jumps=False)
def test_exact_densities_integrate_to_one(family, name):
    model, space = fitted(family, name), SPACES[name]
    points, reach = (2001, 6.0) if name == "line" else (161, 4.4)  # to 200 and to 40 scales
    axes = [stretched(points, reach, m, s) for m, s in zip(space._mean.flatten().expand(2), space.unit.flatten().expand(2))]
    axes = axes[: space.dimensions]
    grid = torch.cartesian_prod(*[x for _, x, _ in axes]).reshape(-1, space.dimensions)
    p = model.double().log_likelihood(grid).value.exp().reshape([points] * space.dimensions)
    model.float()
    fine, coarse = integral(p, axes, 1), integral(p, axes, 2)
    assert abs(fine - 1) < 1e-4 + 2 * abs(fine - coarse)  # at worst of first order, where densities have kinks


def integral(p, axes, stride):
    mass = p[tuple(slice(None, None, stride) for _ in axes)]
    for t, _, slope in reversed(axes):
        mass = torch.trapezoid(mass * slope[::stride], t[::stride])
    return mass.item()


@cases(spaces=FLAT, knows={Knows.EXACT, Knows.LOWER_BOUND})
def test_no_model_beats_the_truth_on_fresh_draws(family, name):
    """E_p log q ≤ E_p log p for every q (Gibbs), so the mean difference exceeds 0 by 4 s.e. once in 30,000."""
    model, space = fitted(family, name), SPACES[name]
    x = rows(name, 500, seed=1)
    d = space.dimensions
    covariance = torch.eye(d, dtype=torch.float64) + 1  # `examples` draws u = a + b·1 with a, b standard normal
    truth = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=torch.float64), covariance)
    u, log_det = space.continuous(x, None, torch.float64)
    excess = model.log_likelihood(x).value.double() - truth.log_prob(u) - log_det
    assert excess.mean() < 4 * excess.std() / math.sqrt(len(x))


@cases(spaces=SPACES, knows={Knows.LOWER_BOUND})
def test_importance_weighting_raises_the_bound(family, name):
    model = fitted(family, name)
    if "samples" not in inspect.signature(model.measure_likelihood).parameters:
        return
    x = rows(name, 60, seed=2)
    few, many = ([model.log_likelihood(x, samples=k, seed=s).value.double().mean() for s in range(k, k + 10)] for k in (1, 8))
    gain = torch.stack(many) - torch.stack(few)
    assert gain.mean() > -4 * gain.std() / math.sqrt(len(gain))


def counted(model, space, n):
    """How often each state is drawn in n samples."""
    table, draws = states(space).flatten(1), model.sample(n, seed=11).flatten(1)
    return (draws[:, None] == table[None]).all(-1).sum(0).double()


@cases(spaces=TINY, knows={Knows.EXACT, Knows.LOWER_BOUND})
def test_samplers_follow_masses_and_outdo_bounds(family, name):
    """Exact: χ² over all states at a false-alarm rate of 1e-4 a case.  Bounds: exp(bound) of a state may not exceed how often
    it is drawn, at 4.5 s.e. of the count and 3 of the bound (16 states: 6e-5 a case)."""
    model, space = fitted(family, name), SPACES[name]
    n = 64 if "steps" in inspect.signature(model.draw).parameters else 1984  # samplers of many steps are slow
    counts, result = counted(model, space, n), model.log_likelihood(states(space))
    if result.knows is Knows.EXACT:
        p = result.value.double().exp().numpy()
        assert stats.chisquare(counts.numpy(), p / p.sum() * n).pvalue > 1e-4
    else:
        mean, stderr = averaged(model, states(space))
        never_above((mean - 3 * stderr).exp(), counts, n)


def never_above(p, counts, n):
    sampled = (counts + 1) / (n + 2)
    assert (p < sampled + 4.5 * (sampled * (1 - sampled) / n).sqrt()).all()


@cases(spaces=["line"], knows={Knows.EXACT})
def test_samplers_of_exact_densities_follow_them(family, name):
    """χ² over 20 bins of equal mass under the model, at a false-alarm rate of 1e-4 a case."""
    model = fitted(family, name)
    grid = torch.linspace(-60, 64, 20_001, dtype=torch.float64)
    p = model.double().log_likelihood(grid[:, None]).value.exp()
    model.float()
    cdf = torch.cumulative_trapezoid(p, grid)
    x = model.sample(1984, seed=11)[:, 0].double()
    position = cdf[torch.searchsorted(grid, x).sub(1).clamp(0, len(cdf) - 1)] / cdf[-1]
    counts = torch.histc(position, 20, 0, 1)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
