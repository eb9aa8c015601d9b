"""The flow's density, inverse and Jacobian against quadrature, autograd and its own samples."""

import math

import pytest
import torch

from likeli.contract import Knows
from likeli.errors import InputError, Unsupported
from likeli.models.flow import Flow, Histogram
from likeli.random import Streams, seeded
from likeli.spaces import Counts, Labels, Pixels, Real, Tokens


def random_flow(space, *, scale=0.2, **kwargs):
    """A float64 flow with random weights: at its start it is the identity, which proves nothing."""
    with seeded(1, "flow"):
        flow = Flow(space, **({"transforms": 3, "hidden": (8,)} | kwargs)).double().eval()
        for p in flow.parameters():
            p.data += scale * torch.randn_like(p)
    return flow


def points(n, d, *, wide=4.0):
    with seeded(2, "points"):
        return wide * torch.randn(n, d, dtype=torch.float64)


def jacobians(flow, u):
    return torch.func.vmap(torch.func.jacrev(lambda v: flow(v[None])[0][0]))(u)


@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_the_inverse_undoes_the_flow_on_both_sides_of_the_splines_box(d):
    """To 1e-6, times the condition of the map where random weights make it worse than 1e6: δu ≈ J⁻¹ δz, |δz| ≈ 1e-13·|z|."""
    flow, u = random_flow(Real((d,)), scale=0.3), points(100, d)
    z, _ = flow(u)
    assert (u.abs() > 5).any()
    condition = torch.linalg.inv(jacobians(flow, u)).norm(dim=(1, 2)) * (1 + z.norm(dim=1))
    error = (flow.inverse(z) - u).norm(dim=1)
    assert (error <= (1e-13 * condition).clamp(min=1e-6)).all()
    assert error.median() < 1e-9


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_log_det_is_autograds_also_where_the_map_reverses_orientation(d):
    flow, u = random_flow(Real((d,)), scale=0.2), points(12, d)
    jacobian = jacobians(flow, u)
    sign, log_abs = torch.linalg.slogdet(jacobian)  # its error is about ε times the condition number
    rounding = 20 * torch.finfo(torch.float64).eps * torch.linalg.cond(jacobian)
    assert ((flow(u)[1] - log_abs).abs() < 1e-12 + rounding).all()
    if d == 2:  # its one swap has determinant −1: log det without the absolute value would be NaN
        assert (sign == -1).all()


def test_mass_is_one_in_one_dimension():
    flow = random_flow(Real((1,), mean=3.0, scale=2.0), transforms=2)
    x = torch.linspace(-77, 83, 40_001, dtype=torch.float64)[:, None]
    p = flow.log_likelihood(x).value.exp()
    assert abs(torch.trapezoid(p, x[:, 0]).item() - 1) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("condition", [None, Labels(3)])
def test_mass_is_one_in_two_dimensions(condition):
    flow = random_flow(Real((2,)), scale=0.1, condition=condition)
    axis = torch.linspace(-15, 15, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    y = None if condition is None else torch.tensor(2)
    p = flow.log_likelihood(grid, y).value.exp().reshape(801, 801)
    assert abs(torch.trapezoid(torch.trapezoid(p, axis), axis).item() - 1) < 1e-4


def test_the_condition_matters():
    flow = random_flow(Real((2,)), condition=Labels(3))
    x = points(5, 2)
    values = torch.stack([flow.log_likelihood(x, torch.tensor(k)).value for k in range(3)])
    assert values.std(0).min() > 1e-3


def test_samples_follow_the_density():
    """f(x) of the flow's own samples must be N(0, I): Kolmogorov–Smirnov at a false-alarm rate of 1e-3."""
    flow = random_flow(Real((2,), mean=1.0, scale=3.0))
    x = flow.sample(4000, seed=5)
    z = flow.encode(x).flatten().sort().values
    edges = torch.arange(1, len(z) + 1, dtype=torch.float64) / len(z)
    distance = (torch.special.ndtr(z) - edges).abs().max().item() + 1 / len(z)
    assert distance < math.sqrt(-0.5 * math.log(1e-3 / 2) / len(z))


def test_codec_round_trips_in_the_users_units():
    flow = random_flow(Real((3,), mean=(1.0, 2.0, 3.0), scale=(1.0, 10.0, 0.1)))
    x = flow.space.from_model(points(50, 3))
    assert (flow.decode(flow.encode(x)) - x).abs().max() < 1e-6
    pixels, images = random_flow(Pixels((2, 2), 17), scale=0.1), torch.arange(64).reshape(16, 2, 2) % 17
    assert torch.equal(pixels.decode(pixels.encode(images)), images)


def test_histogram_is_a_bijection_of_the_line_with_the_stated_slope():
    layer = Histogram(3, 7).double()
    with seeded(3):
        layer.logits.data = 0.2 * torch.randn(3, 7, dtype=torch.float64)
    u = torch.linspace(-1.4, 1.4, 401, dtype=torch.float64)[:, None].repeat(1, 3)
    z, _ = layer(u)
    assert (z.diff(dim=0) > 0).all()
    assert (layer.inverse(z) - u).abs().max() < 1e-9
    v = u[5::10].clone().requires_grad_()
    slopes = torch.autograd.grad(layer(v)[0].sum(), v)[0]
    assert (layer(v)[1] - slopes.log().sum(1)).abs().max() < 1e-9


def test_untrained_on_pixels_it_is_the_uniform_mass_up_to_the_histograms_tails():
    flow = Flow(Pixels((4, 4), 17)).double()
    x = torch.arange(32).reshape(2, 4, 4) % 17
    result = flow.log_likelihood(x)
    assert result.knows is Knows.LOWER_BOUND
    assert result.measure == "mass"
    assert (result.value + 16 * math.log(17) + 16 * 2e-5).abs().max() < 1e-6  # −log(1 − 2·EDGE) a cell


@pytest.mark.slow
def test_pixel_bound_never_exceeds_the_mass_of_its_own_density():
    """One cell: ∫ of the density over each bin is the exact mass; the bound must lie below and rise to it with K."""
    flow = random_flow(Pixels((1,), 5), scale=0.3)
    x = torch.arange(5)[:, None]
    centres = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    u = ((x + centres) * flow.space.spacing - 1).reshape(-1, 1)
    mass = flow.log_density(u).exp().reshape(5, 2000).mean(1) * flow.space.spacing
    one, many = (torch.stack([flow.log_likelihood(x, samples=k, seed=i).value for i in range(500)]) for k in (1, 64))
    for cell in range(5):
        for bound in (one, many):
            value = bound[:, cell]
            assert value.mean() - 4 * value.std() / math.sqrt(500) <= mass[cell].log()
    gaps = [mass.log() - bound.mean(0) for bound in (one, many)]
    assert gaps[1].mean() < gaps[0].mean() / 8  # to leading order the gap is var(w)/(2·K·mean(w)²)


def test_given_noise_decides_the_draw_and_the_global_generator_is_untouched():
    flow, before = random_flow(Pixels((3, 3), 17), scale=0.1), torch.get_rng_state()
    noise = [Streams(7, range(4), torch.float64) for _ in range(2)]
    assert torch.equal(flow.draw(noise[0]), flow.draw(noise[1]))
    assert torch.equal(before, torch.get_rng_state())


def test_training_beats_the_independent_gaussian_on_a_banana():
    with seeded(4):
        z = torch.randn(512, 2)
        x = torch.stack([z[:, 0], 0.5 * z[:, 1] + z[:, 0].square()], 1)
        truth = -0.5 * z.square().sum(1) - math.log(2 * math.pi) - math.log(0.5)
        flow = Flow(Real((2,), mean=(0.0, 1.0), scale=(1.0, 1.5)), transforms=3, hidden=(16,), dropout=0.0)
        optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
        for _ in range(120):
            optimiser.zero_grad()
            flow.loss(x).mean().backward()
            optimiser.step()
    value = flow.log_likelihood(x).value
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert value.mean() > gaussian.log_prob(x).mean() + 0.4
    assert value.mean() < truth.mean() + 0.1


@pytest.mark.parametrize(
    "kwargs", [{"transforms": 0}, {"hidden": (0,)}, {"bins": 1}, {"dropout": 1.0}, {"dropout": -0.1}], ids=str
)
def test_bad_numbers_are_one_line_errors(kwargs):
    with pytest.raises(InputError, match=next(iter(kwargs))):
        Flow(Real((2,)), **kwargs)


@pytest.mark.parametrize("space", [Tokens(4, 3), Labels(3)], ids=["tokens", "labels"])
def test_spaces_without_a_continuous_form_are_refused_by_name(space):
    with pytest.raises(Unsupported, match=space.kind()):
        Flow(space)


def test_counts_are_dequantised():
    flow = random_flow(Counts((2,)), scale=0.1)
    x = torch.tensor([[0, 3], [10, 1]])
    assert flow.log_likelihood(x).measure == "mass"
    assert flow.sample(8).min() >= 0
