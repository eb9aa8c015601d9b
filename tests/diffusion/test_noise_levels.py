"""Noise levels: they sum to the bound, spreads are the posterior's, schedules move the variance and not the mean."""

import dataclasses
import math

import pytest
import torch

from likeli.contract import Knows
from likeli.diffusion.levels import denoised, noise_levels
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.schedule_variance import beta_linear, schedule_variance
from likeli.diffusion.times import Proposal
from likeli.errors import InputError, Unsupported
from likeli.evaluation.likelihood import evaluate
from likeli.evaluation.one_model import bound_and_flow
from likeli.models.ddpm import DDPM, NoiseObjective
from likeli.models.edm import EDM
from likeli.models.flow_matching import FlowMatching
from likeli.models.ppca import PPCA
from likeli.models.score_sde import ScoreSDE
from likeli.models.vdm import VDM
from likeli.random import seeded
from likeli.spaces import Pixels, Real, Tokens
from likeli.theory.diffusion_truths import F64, SPREAD, chain, draws, information, plane


def gaussian_rows(n):
    with seeded(0, "rows"):
        return SPREAD * torch.randn(n, 1, dtype=F64)


def trained_on_nothing(space, **options):
    with seeded(3, "network"):
        model = VDM(space, backbone=DenoiserBackbone(hidden=(16, 16)), noise="log_linear", **options).double()
        for p in model.denoiser.net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.mark.parametrize("steps", [None, 48])
def test_each_level_holds_its_share_of_the_information(steps):
    """Best denoiser of N(0, s²): ½ log of (1 + s² SNR) from end to end, or the sum over the chain's levels; 4.5 s.e. each."""
    model = chain(steps)
    found = noise_levels(model, gaussian_rows(4000), levels=8)
    gamma = model.schedule.levels(model.depth if steps else 2).gamma
    mmse = SPREAD**2 / (SPREAD**2 + gamma[1:].exp())
    kl = 0.5 * gamma.diff().expm1() * mmse
    for level in found.levels:
        inside = (gamma[1:] <= -level.last + 1e-9) & (gamma[1:] > -level.first + 1e-9)
        want = kl[inside].sum().item() if steps else information(SPREAD, -level.first, -level.last)
        assert abs(level.nats - want) < 4.5 * level.stderr
    assert found.levels[0].first == 6 and found.levels[-1].last == -6
    assert found.bound == pytest.approx(found.reconstruction - found.prior - sum(v.nats for v in found.levels), abs=1e-9)
    assert 0 < found.levels[-1].error < found.levels[0].error < 1.1


@pytest.mark.parametrize("space", [Pixels((2, 3), 5), Tokens(3, 4), Real((4,), mean=1.0, scale=3.0)])
@pytest.mark.parametrize("steps", [7, pytest.param(None, marks=pytest.mark.slow)])
def test_the_levels_sum_to_the_bound(space, steps):
    """Against the model's own bound: difference of the means of a row's draws within 4.5 of its errors."""
    model = trained_on_nothing(space, steps=steps)
    with seeded(0, "x"):
        x = space.from_model(torch.randn(60, *space.model_shape, dtype=F64))
    one, two = noise_levels(model, x, levels=5, draws=16), noise_levels(model, x, levels=3, draws=16, seed=1)
    bound = model.log_likelihood(x, samples=128)
    error = bound.stderr.square().sum().sqrt().item() / 60
    assert abs(one.bound - bound.value.mean().item()) < 4.5 * math.hypot(error, error)  # 5·16 strata err less than 128 draws
    assert abs(one.bound - two.bound) < 4.5 * math.hypot(error, error)
    again = noise_levels(model, x, levels=5, draws=16)
    assert again == one
    assert again.row()["levels"][0]["bits_per_dim"] == pytest.approx(one.levels[0].nats / space.dimensions / math.log(2))


def test_the_spread_is_the_posterior_s():
    """Exact denoiser of a mixture: mean spread² = mean error² at every t, within 4.5 s.e. of the errors'."""
    model = VDM(Real((2,)), backbone=DenoiserBackbone(hidden=(4,)), noise="log_linear", gamma=(-8.0, 8.0)).double()
    model.denoiser = plane(model.schedule)
    with seeded(0, "spread"):
        x = draws(model.denoiser, 4000)
    found = denoised(model, x, times=(0.1, 0.4, 0.6, 0.9))
    assert found.how == "exact" and found.probe_error is None
    gap = found.error.square() - found.spread.square()
    assert bool((gap.mean(1).abs() < 4.5 * gap.std(1) / 4000**0.5).all())


def test_tweedie_s_spread_of_a_network_is_that_of_the_closed_form():
    """The exact denoiser dressed as a network: σ²/α ∂x̂/∂z by autograd is Var[x|z]; probes agree within their error."""
    model = VDM(Real((2,)), backbone=DenoiserBackbone(hidden=(4,)), noise="log_linear", gamma=(-8.0, 8.0)).double()
    truth = plane(model.schedule)
    x = draws(truth, 300)
    model.denoiser = truth
    exact = denoised(model, x, times=(0.2, 0.5, 0.8))

    class Dressed(type(truth).__mro__[1]):
        def forward(self, z, at, y=None):
            return truth(z, at)

    model.denoiser = Dressed(model.schedule)
    model.kept = truth  # a model computes in the type of its own tensors
    one, two = denoised(model, x, times=(0.2, 0.5, 0.8)), denoised(model, x, times=(0.2, 0.5, 0.8), probes=64)
    assert one.how == "tweedie"
    torch.testing.assert_close(one.spread, exact.spread, rtol=1e-6, atol=1e-9)
    gap = two.spread.square() - exact.spread.square()
    assert abs(gap.mean().item()) < 4.5 * two.probe_error.square().sum().sqrt().item() / gap.numel() + 1e-6


def test_symbols_have_the_spread_of_their_own_probabilities():
    """Uniform independent cells, no noise left at t = 1: variance of the levels; at t = 0 none."""
    model = VDM(Pixels((3, 2), 5), backbone=DenoiserBackbone(hidden=(8,)), noise="log_linear", gamma=(None, 30.0)).double()
    with torch.no_grad():
        for p in model.denoiser.net.parameters():
            p.zero_()
    x = torch.randint(0, 5, (10, 3, 2))
    found = denoised(model, x, times=(0.0, 1.0))
    values = torch.arange(5, dtype=F64) * 0.4
    assert found.how == "symbols"
    assert found.spread[1].mean().item() == pytest.approx(values.var(correction=0).sqrt().item(), rel=1e-4)
    assert found.spread[0].max().item() < 0.05
    tokens = VDM(Tokens(3, 4), backbone=DenoiserBackbone(hidden=(8,)), noise="log_linear", gamma=(None, 30.0)).double()
    with torch.no_grad():
        for p in tokens.denoiser.net.parameters():
            p.zero_()
    found = denoised(tokens, torch.randint(0, 4, (10, 3)), times=(1.0,))
    assert found.spread.square().mean().item() == pytest.approx(3 / 16, rel=1e-3)  # of a one-hot coordinate: ¼ · ¾


def test_schedules_with_equal_ends_differ_in_variance_alone():
    """Means within 4.5 s.e. of each other; log-linear below β-linear by far (1-D Gaussian: its integrand is flat in γ)."""
    table = {r.schedule: r for r in schedule_variance(chain(None), gaussian_rows(1000), draws=24)}
    assert set(table) == {"log_linear", "cosine", "beta_linear", "importance"}
    for one in table.values():
        for two in table.values():
            assert abs(one.nats - two.nats) < 4.5 * math.hypot(one.stderr, two.stderr)
    assert table["importance"].variance < table["log_linear"].variance < table["cosine"].variance
    assert table["cosine"].variance < table["beta_linear"].variance
    assert table["cosine"].bits_variance == pytest.approx(table["cosine"].variance / math.log(2) ** 2)


def test_beta_linear_has_the_ends_that_were_asked_for():
    for first, last in ((-13.3, 5.0), (-6.0, 8.0), (-20.0, 12.0)):
        schedule = beta_linear(first, last)
        ends = schedule.gamma(torch.tensor([0.0, 1.0], dtype=F64)).tolist()
        assert ends == pytest.approx([first, last], abs=1e-6)
        assert schedule.beta_max == pytest.approx(200 * schedule.beta_min)


def test_the_proposal_is_unbiased_and_finds_the_least_variance():
    """f = e^{-6 t}: E f/p = ∫ f to quadrature error for any p; the variance falls to within 30 % of the best histogram's."""
    t = (torch.arange(64_000, dtype=F64) + 0.5) / 64_000
    proposal = Proposal(32)
    where, weight = proposal.place(t)
    torch.testing.assert_close(where, t)
    assert bool((weight == 1).all())
    with seeded(0, "proposal"):
        for _ in range(200):
            where, _ = proposal.place(torch.rand(64, dtype=F64))
            proposal.learn(where, (-6 * where).exp())
    where, weight = proposal.place(t)
    value = weight * (-6 * where).exp()
    assert value.mean().item() == pytest.approx((1 - math.exp(-6)) / 6, rel=1e-4)
    even = (-6 * t).exp().var().item()
    best = 0.1 + 0.9 * (root := (-6 * (torch.arange(32, dtype=F64) + 0.5) / 32).exp()) / root.mean()
    least = (((-12 * t).exp() / best[(t * 32).long()]).mean() - value.mean() ** 2).item()
    assert value.var().item() < 1.3 * least < even / 5
    assert proposal.density().min().item() >= 0.1
    before = proposal.squares.clone()
    proposal.learn(torch.tensor([0.1]), torch.tensor([math.nan]))
    assert torch.equal(before, proposal.squares)


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda m, x: noise_levels(PPCA(Real((1,))), x), Unsupported),
        (lambda m, x: noise_levels(m, x, levels=0), InputError),
        (lambda m, x: noise_levels(m, x, draws=0), InputError),
        (lambda m, x: noise_levels(m, x.new_full((3, 1), math.nan)), InputError),
        (lambda m, x: noise_levels(m, x, torch.zeros(3)), InputError),
        (lambda m, x: denoised(m, x, times=(0.5, 1.5)), InputError),
        (lambda m, x: denoised(m, x, times=()), InputError),
        (lambda m, x: denoised(m, x, probes=1), InputError),
        (lambda m, x: schedule_variance(m, x, draws=1), InputError),
        (lambda m, x: schedule_variance(DDPM(Real((1,)), backbone=DenoiserBackbone(hidden=(4,))), x), Unsupported),
        (lambda m, x: Proposal(0), InputError),
        (lambda m, x: Proposal(least=0.0), InputError),
    ],
)
def test_bad_input_is_one_line(call, error):
    with pytest.raises(error) as caught:
        call(chain(None), gaussian_rows(3))
    assert "\n" not in str(caught.value)


def test_rows_with_gaps_are_counted_and_no_family_is_blamed():
    x = torch.zeros(3, 1)
    x[1] = math.nan
    with pytest.raises(InputError, match=r"^x: expected rows without gaps, since .* got 1 of 3 rows with them$"):
        noise_levels(chain(None), x)


def test_bound_and_flow_on_one_line():
    """The exact denoiser of a mixture: the flow is log p within its stated errors, the bound below it; rows are paired."""
    model = VDM(Real((2,)), backbone=DenoiserBackbone(hidden=(4,)), noise="log_linear", gamma=(None, 12.0)).double()
    model.denoiser = plane(model.schedule)
    with seeded(0, "both"):
        x = draws(model.denoiser, 100)
    found = bound_and_flow(model, x, samples=32, rtol=1e-6)
    exact = model.denoiser.log_density(model.schedule.at(0.0).alpha * x, model.schedule.at(0.0)).mean().item()
    assert abs(found.flow.nats - exact) < found.flow.errors["ode_tolerance"] + 1e-2  # and the prior's mismatch, α₁ |m·z|
    assert found.ordered and found.gap == pytest.approx(found.flow.nats - found.bound.nats, abs=1e-9)
    assert found.stderr < found.bound.stderr
    assert found.flow.knows is Knows.ESTIMATE and found.bound.knows is Knows.LOWER_BOUND
    worse = dataclasses.replace(found, gap=-5 * found.stderr - found.doubt)
    assert not worse.ordered
    assert set(found.row()["flow"]["errors"]) == {"ode_tolerance", "terminal_mismatch"}


def test_one_row_does_not_tell_the_order():
    """A single difference has no standard error, so nothing is said of which side the bound lies on."""
    found = bound_and_flow(chain(None), gaussian_rows(1), samples=2)
    assert math.isnan(found.stderr) and found.ordered is None and found.row()["ordered"] is None


def test_integers_say_what_dequantisation_costs():
    """Uniform cells: the flow's value is below log P; the stated cost is above 0 and no more than the whole gap (4 s.e.)."""
    model = VDM(Pixels((2, 2), 4), backbone=DenoiserBackbone(hidden=(8,)), noise="log_linear").double()
    with torch.no_grad():
        for p in model.denoiser.net.parameters():
            p.zero_()
    x = torch.randint(0, 4, (40, 2, 2), generator=torch.Generator().manual_seed(0))
    found = bound_and_flow(model, x, draws=4, rtol=1e-3)
    lost, truth = found.flow.errors["dequantisation"], -4 * math.log(4)
    slack = 4 * found.flow.stderr + found.doubt + found.flow.errors["terminal_mismatch"]
    assert 0 < lost < truth - found.flow.nats + slack
    assert found.flow.nats < truth + slack and found.bound.nats < truth + 4 * found.bound.stderr


@pytest.mark.parametrize("family", [DDPM, ScoreSDE])
def test_times_by_importance_keep_the_mean_and_learn(family):
    """A planted proposal changes no expectation: losses of even and uneven times agree within 4.5 s.e."""
    importance = {"objective": NoiseObjective("bound", "importance")}
    options = importance if family is DDPM else {"weight": "likelihood", "times": "importance"}
    with seeded(0, "importance"):
        model = family(Real((2,)), DenoiserBackbone(hidden=(16,), dropout=0.0), **options)
        for p in model.denoiser.net.parameters():
            torch.nn.init.normal_(p, std=0.2)
        x = torch.randn(8000, 2)
        with torch.no_grad():
            even = model.loss(x).double()
            model.proposal.updates.fill_(1)
            model.proposal.squares.copy_(torch.linspace(0.1, 9, 64))
            uneven = model.loss(x).double()
    error = math.hypot(even.std().item(), uneven.std().item()) / 8000**0.5
    assert abs(even.mean() - uneven.mean()).item() < 4.5 * error
    before = model.proposal.squares.clone()
    model.loss(x[:64]).mean()
    assert not torch.equal(before, model.proposal.squares)
    assert "proposal.squares" in model.state_dict()


def test_a_loss_that_is_no_bound_says_so():
    """And the bound is unchanged by what the loss was; −ELBO is said to be one."""
    for family in (DDPM, ScoreSDE, EDM, FlowMatching):
        model = family(Real((2,)), DenoiserBackbone(hidden=(8,)))
        assert not model.loss_in_nats and "not a bound" in model.notes[0]
        assert any("not a bound" in n for n in evaluate(model, torch.zeros(3, 2), samples=2).notes)
    small = DenoiserBackbone(hidden=(8,))
    for model in (VDM(Real((2,)), small), DDPM(Real((2,)), small, objective=NoiseObjective("bound"))):
        assert model.loss_in_nats and model.notes == []


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_integers_begin_where_symbols_are_told_apart(levels):
    """Every continuous family's γ(0) is 2 log(bin/8): further, each cell would pay ½ nat for every unit of γ and gain none."""
    space, want = Pixels((2, 2), levels), 2 * math.log(2 / levels / 8)
    small = DenoiserBackbone(hidden=(4,))
    models = [ScoreSDE(space, small, p) for p in ("vp", "ve", "subvp")] + [EDM(space, small), FlowMatching(space, small)]
    for model in models:
        assert model.schedule.gamma_ends()[0].item() == pytest.approx(want, abs=1e-9)
    assert ScoreSDE(Real((2,)), backbone=DenoiserBackbone(hidden=(4,))).schedule.gamma_ends()[0].item() < -13
