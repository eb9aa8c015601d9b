"""The probability flow: Dormand–Prince's order, log p against exact mixtures, each error where it is claimed."""

import math
import time

import pytest
import torch
from scipy.integrate import solve_ivp

from likeli.contract import Knows
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.probability_flow import flow, log_density, solve
from likeli.diffusion.schedule import Cosine, Karras, LogLinear, Straight, VarianceExploding
from likeli.errors import Diverged, InputError
from likeli.models.vdm import VDM
from likeli.random import Ambient, seeded
from likeli.spaces import Pixels, Real

F64 = torch.float64


def mixture(schedule, dtype=F64):
    """Three Gaussians in the plane."""
    means = torch.tensor([[-1.0, 0.5], [1.2, 0.3], [0.0, -1.5]], dtype=dtype)
    roots = torch.tensor([[[0.5, 0.0], [0.2, 0.3]], [[0.3, 0.0], [0.0, 0.6]], [[0.7, 0.0], [-0.4, 0.3]]], dtype=dtype)
    return MixtureDenoiser(schedule, torch.tensor([0.5, 0.2, 0.3], dtype=dtype), means, roots @ roots.mT)


def points(n, seed=0):
    """n points from about where the mixture is."""
    return 1.2 * torch.randn(n, 2, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_the_solver_is_of_order_five_and_agrees_with_scipy():
    def field(t, y):
        return torch.stack([y[:, 1], t.sin() - y[:, 0] * y[:, 1]], 1)

    y = torch.tensor([[0.3, -0.5]], dtype=F64)
    truth = solve_ivp(lambda t, y: [y[1], math.sin(t) - y[0] * y[1]], (0, 3), y[0].numpy(), rtol=1e-12, atol=1e-12).y[:, -1]
    errors = [(solve(field, y, 0.0, 3.0, steps=n).y[0] - torch.tensor(truth)).norm().item() for n in (10, 20, 40)]
    assert math.log2(errors[0] / errors[2]) / 2 > 4.7
    found = solve(field, y, 0.0, 3.0, rtol=1e-9, atol=1e-9)
    assert (found.y[0] - torch.tensor(truth)).norm().item() < 1e-7
    back = solve(field, found.y, 3.0, 0.0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back.y, y, rtol=0, atol=1e-6)


SCHEDULES = [LogLinear(-8, 8), Cosine(-8, 8), Karras(0.02, 50.0), Straight(0.01)]
SIMILAR = [*(pytest.param(s, marks=pytest.mark.slow) for s in SCHEDULES[:3]), SCHEDULES[3]]


@pytest.mark.parametrize("schedule", SIMILAR, ids=lambda s: s.kind())
def test_log_p_is_that_of_the_mixture(schedule):
    """With the true p_1 as the prior only the solver errs; its own estimate covers the error and the tolerance steers it."""
    denoiser, z = mixture(schedule), points(50)
    exact = denoiser.log_density(z, schedule.at(0.0))
    worst = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        found = log_density(
            denoiser.given(None), z, lambda z: denoiser.log_density(z, schedule.at(1.0)), rtol=tolerance, atol=tolerance
        )
        worst.append((found.log_p - exact).abs().max().item())
    assert worst[2] < 2e-5
    assert worst[2] < worst[0]
    assert found.probe_error is None


@pytest.mark.parametrize("tolerance", [1e-5, pytest.param(1e-6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("schedule", [LogLinear(-6, 8), VarianceExploding(), Straight()], ids=lambda s: s.kind())
def test_a_rows_stated_error_of_the_solver_holds(schedule, tolerance):
    """1,000 rows: at most 1 % are off by more than is stated for them; the sum of the steps' own estimates left out 30 %."""
    denoiser, z = mixture(schedule), points(1000)
    found = log_density(
        denoiser.given(None), z, lambda z: denoiser.log_density(z, schedule.at(1.0)), rtol=tolerance, atol=tolerance
    )
    gap = (found.log_p - denoiser.log_density(z, schedule.at(0.0))).abs()
    assert (gap > found.ode_error).double().mean() <= 0.01
    assert found.ode_error.median() < 300 * tolerance  # nor is it hidden behind a wide claim


def test_the_prior_mismatch_is_what_is_left_when_the_solver_is_right():
    """With N(0, I) for p_1 the error on γ₁ = 3 is the mismatch: far above the solver's, and gone with the true p_1."""
    schedule = LogLinear(-6, 3)
    denoiser, z = mixture(schedule), points(100)
    exact = denoiser.log_density(z, schedule.at(0.0))
    normal = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    found = log_density(denoiser.given(None), z, normal.log_prob, rtol=1e-7, atol=1e-7)
    true_end = denoiser.log_density(found.z, schedule.at(1.0))
    mismatch = (normal.log_prob(found.z) - true_end).abs().max().item()
    assert mismatch > 1e-2
    torch.testing.assert_close(found.log_p - normal.log_prob(found.z) + true_end, exact, rtol=0, atol=1e-5)


def test_a_thousand_points_to_four_decimals_in_three_seconds():
    """Error under 1e-4 nats, CPU time under 3 s."""
    schedule = LogLinear(-6, 8)
    denoiser, z = mixture(schedule), points(1000)
    started = time.process_time()
    found = log_density(denoiser.given(None), z, lambda z: denoiser.log_density(z, schedule.at(1.0)), rtol=1e-6, atol=1e-6)
    assert time.process_time() - started < 3
    assert (found.log_p - denoiser.log_density(z, schedule.at(0.0))).abs().max().item() < 1e-4


def test_random_probes_are_unbiased_and_their_error_is_stated():
    """The mean gap to the exact divergence is zero within 4 s.e.; 95 % intervals (t with 7 d.f.) cover above 90 %."""
    schedule = LogLinear(-5, 5)
    denoiser, z = mixture(schedule), points(400)

    def prior(z):
        return denoiser.log_density(z, schedule.at(1.0))

    exact = denoiser.log_density(z, schedule.at(0.0))
    with seeded(0, "probes"):
        found = log_density(denoiser.given(None), z, prior, probes=8, noise=Ambient(z), rtol=1e-6, atol=1e-6)
    gap = found.log_p - exact
    assert abs(gap.mean().item()) < 4 * gap.std().item() / 20
    covered = (gap.abs() < 2.365 * found.probe_error + 1e-4).double().mean().item()
    assert covered > 0.9


def test_any_shape():
    """An image's log p is its flat vector's."""
    with seeded(0, "shape"):
        model = VDM(Real((2, 3)), backbone=DenoiserBackbone(hidden=(16,)), noise="log_linear").double()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
        flat = VDM(Real((6,)), backbone=DenoiserBackbone(hidden=(16,)), noise="log_linear").double()
        flat.load_state_dict(model.state_dict())
    x = torch.randn(4, 2, 3, dtype=F64)
    one, two = (m.log_likelihood(v, method="ode", rtol=1e-2) for m, v in ((model, x), (flat, x.flatten(1))))
    torch.testing.assert_close(one.value, two.value, rtol=1e-9, atol=1e-9)
    assert one.knows is Knows.ESTIMATE and set(one.errors) == {"ode_tolerance", "terminal_mismatch"}


def test_codes_come_back():
    model = VDM(Real((3,), mean=2.0, scale=5.0), backbone=DenoiserBackbone(hidden=(16,))).double()
    x = 2 + 5 * torch.randn(6, 3, dtype=F64)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=1e-3, atol=1e-2)
    denoise = mixture(LogLinear(-6, 6)).given(None)
    z = points(5)
    torch.testing.assert_close(flow(denoise, flow(denoise, z, 0.0, 1.0), 1.0, 0.0), z, rtol=1e-3, atol=1e-3)


def test_the_ode_s_value_lies_above_the_bound_and_below_the_truth_where_both_are_known():
    """The exact denoiser of a mixture: bound ≤ ode = exact, each within four of its errors."""
    model = VDM(Real((2,)), noise="log_linear", gamma=(None, 12.0)).double()
    model.denoiser = mixture(model.schedule)
    x = points(200, seed=3)
    bound, ode = model.log_likelihood(x, samples=32), model.log_likelihood(x, method="ode", rtol=1e-6)
    exact = model.denoiser.log_density(x, model.schedule.at(0.0))
    assert (ode.value - exact).abs().max().item() < 1e-2  # of a point: the prior's mismatch, about α₁ |m·z| = 0.0025·4
    assert (bound.value - ode.value).mean().item() < 4 * (bound.stderr.square().sum().sqrt() / 200).item()


def test_grey_levels_get_a_bound_on_their_mass():
    """Independent uniform cells, P = 5^−6: the flow with q(z_0|x) for dequantisation stays below it, and not by much."""
    space = Pixels((2, 3), 5)
    model = VDM(space, backbone=DenoiserBackbone(hidden=(8,)), noise="log_linear")
    x = torch.randint(0, 5, (40, 2, 3), generator=torch.Generator().manual_seed(0))
    found = model.log_likelihood(x, method="ode", samples=4, rtol=1e-4)
    truth, (mean, error) = -6 * math.log(5), found.mean()
    assert found.knows is Knows.LOWER_BOUND and found.measure == "mass"
    assert truth - 0.5 < mean < truth + 4 * error + found.errors["ode_tolerance"] + found.errors["terminal_mismatch"]


def test_failures_are_named():
    with pytest.raises(Diverged, match="ode"):
        solve(lambda t, y: y * math.inf, torch.ones(1, 1), 0.0, 1.0)
    with pytest.raises(InputError, match="rtol"):
        solve(lambda t, y: y, torch.ones(1, 1), 0.0, 1.0, rtol=0.0)
    with pytest.raises(InputError, match="method"):
        VDM(Real((1,)), backbone=DenoiserBackbone(hidden=(4,))).log_likelihood(torch.zeros(1, 1), method="guess")
