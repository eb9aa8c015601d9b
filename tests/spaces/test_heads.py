"""Every head sums to one in the user's units, agrees with an independent law, and draws what it scores."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as D

from likeli.config import build, describe, registered
from likeli.errors import InputError, Unsupported
from likeli.random import Replay, Streams, seeded
from likeli.spaces import (
    Bernoulli,
    Binary,
    Categorical,
    Column,
    Counts,
    DiscretisedLogistic,
    Gaussian,
    Labels,
    Mixed,
    NegativeBinomial,
    Observation,
    Pixels,
    Poisson,
    Real,
    StudentT,
    Table,
    Tokens,
    ZeroInflatedNegativeBinomial,
)

ROWS = 6
CELL = Real((1,), mean=3.0, scale=2.5)
TABLE = Table(
    (
        Column("a", mean=10.0, scale=4.0),
        Column("n", "integer", mean=50.0, scale=20.0),
        Column("c", "categorical", categories=("x", "y", "z")),
        Column("b", mean=-1.0, scale=0.01, missing=True),
        Column("d", "categorical", categories=("p", "q", "r", "s", "t", "u", "v", "w")),
    )
)
MASS = {
    "bernoulli": (Bernoulli(), Binary((2, 3))),
    "categorical": (Categorical(), Pixels((2, 3), levels=5)),
    "symbols": (Categorical(), Tokens(4, 7)),
    "logistic": (DiscretisedLogistic(components=1), Pixels((2, 3), levels=17)),
    "logistics": (DiscretisedLogistic(components=3), Pixels((2, 3), levels=256)),
}
COUNTS = {"poisson": Poisson(), "negative_binomial": NegativeBinomial(2.0), "zero_inflated": ZeroInflatedNegativeBinomial(0.7)}
REALS = {
    "gaussian": Gaussian("cells"),
    "decoded": Gaussian("decoder"),
    "fixed": Gaussian("fixed", width=0.3),
    "student": StudentT("learned", df=3.0),
}


def decoded(head, spread=1.5, dtype=torch.double, rows=ROWS, seed=0):
    """p(x|z) at random decoder outputs."""
    with seeded(seed, "decoded"):
        return head(spread * torch.randn(rows, head.channels, *head.space.shape, dtype=dtype))


# --- masses sum to one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
@pytest.mark.parametrize("spread", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("name", MASS)
def test_masses_of_all_symbols_sum_to_one_however_extreme_the_decoder(name, spread, dtype):
    head, space = MASS[name]
    p = decoded(head.on(space), spread, dtype)
    log_pmf = p.log_pmf()
    assert not log_pmf.isnan().any()
    symbols = log_pmf.shape[-1]
    tolerance = 4 * symbols * torch.finfo(dtype).eps  # one rounding a symbol
    assert (log_pmf.logsumexp(-1).abs() <= tolerance).all()


@pytest.mark.parametrize("name", MASS)
def test_log_prob_picks_its_cells_out_of_the_pmf(name):
    head, space = MASS[name]
    p = decoded(head.on(space))
    x = p.draw(Streams(0, range(ROWS)))
    space.check(x)
    picked = p.log_pmf().gather(-1, x[..., None])[..., 0].flatten(1).sum(1)
    assert torch.allclose(p.log_prob(x), picked, rtol=1e-13)
    assert torch.allclose(p.log_prob(x.to(torch.uint8)), picked, rtol=1e-13)  # the type that `space.check` gives


@pytest.mark.parametrize("name", MASS)
def test_mean_is_the_sum_over_the_pmf(name):
    head, space = MASS[name]
    p = decoded(head.on(space))
    expected = (p.log_pmf().exp() * torch.arange(p.log_pmf().shape[-1])).sum(-1)
    assert torch.allclose(p.mean, expected, rtol=1e-12)


def test_discretised_logistic_is_the_difference_of_two_sigmoids():
    space = Pixels((1,), levels=17)
    head = DiscretisedLogistic(components=2).on(space)
    out = torch.tensor([[[0.3], [-0.2], [0.5], [-1.0], [0.4], [-0.4]]], dtype=torch.double)
    location = np.array([0.3 - 0.5, -0.2 + 0.5])
    scale, weight = 0.25 * np.exp([0.5, -1.0]), np.exp([0.4, -0.4]) / np.exp([0.4, -0.4]).sum()
    edges = np.concatenate([[-np.inf], np.arange(1, 17) * 2 / 17 - 1, [np.inf]])
    cdf = stats.logistic.cdf(edges[:, None], location, scale) @ weight
    assert np.allclose(head(out).log_pmf()[0, 0].exp(), np.diff(cdf), atol=1e-14)


def test_discretised_logistic_keeps_its_digits_in_single_precision_far_from_its_location():
    head = DiscretisedLogistic(components=1).on(Pixels((1,), levels=256))
    out = torch.tensor([[[0.9], [-4.0]]])  # scale .0046: the mass of level 0 is e^−400
    x = torch.tensor([[3]])
    single = head(out).log_prob(x)
    double = head(out.double()).log_prob(x)
    assert double < -300
    assert torch.allclose(single.double(), double, rtol=1e-5)


@pytest.mark.parametrize("name", MASS)
def test_gradients_of_masses_are_right_at_both_edges(name):
    head, space = MASS[name]
    head = head.on(space)
    out = torch.randn(2, head.channels, *space.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    last = head(out).log_pmf().shape[-1] - 1
    x = torch.stack([torch.zeros(space.shape), torch.full(space.shape, float(last))])
    assert torch.autograd.gradcheck(lambda o: head(o).log_prob(x), out.requires_grad_())


# --- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_count_masses_sum_to_one(name):
    p = decoded(COUNTS[name].on(Counts((3,))), spread=1.0)
    assert torch.allclose(p.log_pmf(2000).exp().sum(-1), torch.ones(ROWS, 3).double(), atol=1e-9)


def test_counts_agree_with_scipy_in_single_precision_also_for_large_counts():
    x = np.array([[0.0, 3.0, 120_000.0]])
    out = torch.tensor([[[0.2, 1.0, 11.7]]])
    mean = np.exp(out[0, 0].double().numpy())
    ours = Poisson().on(Counts((3,)))(out).log_prob(torch.from_numpy(x))
    assert np.allclose(ours, stats.poisson.logpmf(x, mean).sum(1), rtol=1e-6)
    head = NegativeBinomial(2.5).on(Counts((3,)))
    ours = head(out).log_prob(torch.from_numpy(x)).detach()
    assert np.allclose(ours, stats.nbinom.logpmf(x, 2.5, 2.5 / (2.5 + mean)).sum(1), rtol=1e-6)


def test_zero_inflation_mixes_a_point_mass_at_zero():
    head = ZeroInflatedNegativeBinomial(1.5).on(Counts((1,)))
    out = torch.tensor([[[1.0], [0.3]]], dtype=torch.double)
    zero = 1 / (1 + math.exp(-0.3))
    inner = stats.nbinom.pmf(np.arange(50), 1.5, 1.5 / (1.5 + math.e))
    expected = (1 - zero) * inner + zero * (np.arange(50) == 0)
    assert np.allclose(head(out).log_pmf(50)[0, 0].exp().detach(), expected, atol=1e-9)  # r is stored in single precision
    assert head(out).mean.item() == pytest.approx((1 - zero) * math.e, rel=1e-6)


# --- densities integrate to one in the user's units --------------------------------------------------------------------


@pytest.mark.parametrize("name", REALS)
def test_densities_integrate_to_one_per_user_unit(name):
    head = REALS[name].on(CELL)
    for parameter in head.parameters():
        parameter.data += 0.3
    e = torch.linspace(-1, 1, 200_001, dtype=torch.double)[1:-1]
    x = CELL.from_model(30 * e / (1 - e.square()))  # the whole line
    jacobian = 30 * 2.5 * (1 + e.square()) / (1 - e.square()).square()
    with seeded(3):
        p = head(torch.randn(1, head.channels, 1, dtype=torch.double).expand(len(x), -1, -1))
    mass = torch.trapezoid(p.log_prob(x[:, None]).exp() * jacobian, e)
    assert mass.item() == pytest.approx(1, abs=1e-7)


def test_gaussian_and_student_agree_with_scipy_in_the_users_units():
    space = Real((2,), mean=(1e6, -3.0), scale=(10.0, 0.01))
    x = torch.tensor([[1e6 + 7.0, -3.002]], dtype=torch.double)
    out = torch.tensor([[[0.4, -0.1]]], dtype=torch.double)
    location, width = np.array([1e6 + 4, -3.001]), np.array([5.0, 0.005])
    gaussian = Gaussian("fixed", width=0.5).on(space)(out)
    assert gaussian.log_prob(x).item() == pytest.approx(stats.norm.logpdf(x, location, width).sum(), rel=1e-6)
    student = StudentT("fixed", width=0.5, df=3.0).on(space)(out)
    assert student.log_prob(x).item() == pytest.approx(stats.t.logpdf(x, 3, location, width).sum(), rel=1e-6)
    assert np.allclose(gaussian.mean, location, rtol=1e-12)
    single = Gaussian("fixed", width=0.5).on(space)(out.float()).log_prob(x)
    assert single.item() == pytest.approx(gaussian.log_prob(x).item(), abs=1e-5)  # user units of 1e6 cost no digits


def test_a_missing_cell_contributes_nothing_and_no_gradient():
    space = Real((3,), scale=(1.0, 2.0, 3.0))
    head = Gaussian("decoder").on(space)
    out = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.tensor([[0.3, math.nan, -0.4]])
    kept = Gaussian("decoder").on(Real((2,), scale=(1.0, 3.0)))(out[:, :, [0, 2]])
    log_prob = head(out).log_prob(x)
    assert torch.equal(log_prob, kept.log_prob(x[:, [0, 2]]))
    log_prob.sum().backward()
    assert (out.grad[:, :, 1] == 0).all()
    assert out.grad.isfinite().all()


# --- tables ------------------------------------------------------------------------------------------------------------


def test_each_column_of_a_table_sums_to_one_with_the_others_missing():
    """Whole numbers and codes by summing, reals exactly cell by cell (they are uniform inside), tails by their closed form."""
    head = Mixed().on(TABLE)
    out = torch.randn(1, head.channels, 5, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    for i, column in enumerate(TABLE.columns):
        law, whole = column.marginal, column.type != "real"
        span = law.high[-1] - law.low[0] + whole
        grid = torch.tensor(law.low, dtype=torch.double) if not whole else torch.arange(law.low[0], law.high[-1] + 1).double()
        step = torch.ones_like(grid) if whole else torch.tensor(law.high, dtype=torch.double) - grid
        grid = grid if whole else grid + step / 2
        x = torch.full((len(grid) + 2, 5), math.nan, dtype=torch.double)
        x[:, i] = torch.cat([grid, torch.tensor([law.low[0] - 1, law.high[-1] + 1]).double()])
        if law.escape == 0:
            x = x[:-2]
        p = head(out.expand(len(x), -1, -1)).log_prob(x).exp()
        total = (p[: len(grid)] * step).sum()
        if law.escape:
            # of one tail: ∫₀^∞ δ/(s(1 + y/s)²) dy = δ = p(1)(s + 1)²/s of reals, Σ_y≥1 p(y) = δ = p(1)(s + 1) of whole numbers
            total = total + (p[-2:] * ((span + 1) * (1 if whole else (span + 1) / span))).sum()
        assert total.item() == pytest.approx(1, abs=1e-9), column.name


def test_the_mean_of_a_whole_number_is_the_sum_over_the_line():
    head = Mixed().on(TABLE)
    out = torch.randn(4, head.channels, 5, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    law = TABLE.columns[1].marginal
    grid = torch.arange(law.low[0], law.high[-1] + 1).double()
    x = torch.full((len(grid), 5), math.nan, dtype=torch.double)
    x[:, 1] = grid
    for row in out:
        p = head(row.expand(len(grid), -1, -1)).log_prob(x).exp()
        # the tails, which the mean leaves out as their own mean does not exist, hold at most the escape's share
        expected, width = (p @ grid / p.sum()).item(), (grid[-1] - grid[0]).item()
        assert head(row[None]).mean[0, 1].item() == pytest.approx(expected, abs=5 * law.escape * width)


@pytest.mark.parametrize("columns", [(0, 3), (1,), (2, 4)])
def test_tables_of_one_type_of_column_work(columns):
    space = Table(tuple(TABLE.columns[i] for i in columns))
    p = decoded(Mixed().on(space), dtype=torch.float32)
    x = p.draw(Streams(0, range(ROWS)))
    space.check(x)
    assert p.log_prob(x).isfinite().all()
    assert p.mean.shape == x.shape


# --- draws follow the law ----------------------------------------------------------------------------------------------

DRAWS = 4000


def p_value(cdf_below, cdf_at):
    """Of a randomised probability-integral transform being uniform."""
    v = torch.rand(len(cdf_at), generator=torch.Generator().manual_seed(9), dtype=torch.double)
    return stats.kstest((cdf_below + v * (cdf_at - cdf_below)).numpy(), "uniform").pvalue


@pytest.mark.parametrize("name", [*MASS, *COUNTS])
def test_draws_of_masses_follow_their_pmf(name):
    """A seed fails by chance with probability 1e-4 a head."""
    head, space = MASS[name] if name in MASS else (COUNTS[name], Counts((1,)))
    head = head.on(space)
    out = 0.8 * torch.randn(1, head.channels, *space.shape, dtype=torch.double, generator=torch.Generator().manual_seed(4))
    p = head(out.expand(DRAWS, *out.shape[1:]))
    x = p.draw(Streams(1, range(DRAWS)))
    space.check(x)
    first = x.flatten(1)[:, 0]
    pmf = head(out).log_pmf().exp().detach().flatten(1, -2)[0, 0]
    cdf = torch.cat([pmf.new_zeros(1), pmf.cumsum(0)])
    assert p_value(cdf[first], cdf[first + 1]) > 1e-4


@pytest.mark.parametrize("name", REALS)
def test_draws_of_densities_follow_their_law(name):
    """A seed fails by chance with probability 1e-4 a head."""
    head = REALS[name].on(CELL)
    p = head(torch.full((DRAWS, head.channels, 1), 0.4, dtype=torch.double))
    x = p.draw(Streams(1, range(DRAWS)))
    width = 2.5 * p.log_width.exp().detach().reshape(-1)[0].item()
    law = stats.t(3, 4, width) if name == "student" else stats.norm(4, width)
    assert stats.kstest(x[:, 0].detach().numpy(), law.cdf).pvalue > 1e-4


def test_draws_of_a_table_follow_their_columns():
    """A seed fails by chance with probability 4e-4."""
    head = Mixed().on(TABLE)
    out = torch.randn(1, head.channels, 5, dtype=torch.double, generator=torch.Generator().manual_seed(5))
    p = head(out.expand(DRAWS, -1, -1))
    x = p.draw(Streams(2, range(DRAWS)))
    TABLE.check(x)
    assert (x[:, 0].mean() - p.mean[0, 0]).abs() < 4 * x[:, 0].std() / DRAWS**0.5
    law = TABLE.columns[0].marginal
    cells = head(out).symbols.log_pmf().exp()[0, 0, : len(law.mass)]
    seen = torch.histogram(x[:, 0], torch.tensor([*law.low, law.high[-1]], dtype=torch.double)).hist
    assert stats.chisquare(seen.numpy(), (DRAWS * cells / cells.sum()).numpy()).pvalue > 1e-4
    assert (x[:, 1].mean() - p.mean[0, 1]).abs() < 4 * x[:, 1].std() / DRAWS**0.5
    for column, size in ((2, 3), (4, 8)):
        grid = torch.full((size, 5), math.nan, dtype=torch.double)
        grid[:, column] = torch.arange(size)
        expected = DRAWS * head(out.expand(size, -1, -1)).log_prob(grid).exp()
        assert stats.chisquare(torch.bincount(x[:, column].long(), minlength=size), expected).pvalue > 1e-4


def test_noise_at_its_ends_draws_finite_values():
    for head, space in [*MASS.values(), *((h, Counts((1,))) for h in COUNTS.values()), (StudentT(), CELL)]:
        p = decoded(head.on(space), rows=2)
        for end in (0.0, 1 - 2.0**-24):
            noise = Replay([torch.full((2, *space.shape), end)] * 3)
            x = p.draw(noise)
            assert x.isfinite().all()
            space.check(x)


# --- choice and configuration ------------------------------------------------------------------------------------------


def test_the_space_chooses_its_head():
    expected = {
        "bernoulli": Binary((3,)),
        "categorical": Tokens(3, 5),
        "discretised_logistic": Pixels((3,), levels=17),
        "gaussian": Real((3,)),
        "negative_binomial": Counts((3,)),
        "mixed": TABLE,
    }
    for kind, space in expected.items():
        assert space.head().kind() == kind
    assert Pixels((3,), levels=4).head().kind() == "categorical"
    with pytest.raises(Unsupported, match="labels"):
        Labels(3).head()


@pytest.mark.parametrize("kind", registered(Observation))
def test_heads_are_their_options_and_refuse_other_spaces_in_one_line(kind):
    head = registered(Observation)[kind]()
    assert describe(build(describe(head), Observation)) == describe(head)
    wrong = Real((2,)) if Real not in head.spaces else Tokens(2, 3)
    with pytest.raises(InputError, match=f"head: expected one for {wrong.kind()} data, got {kind}"):
        head.on(wrong)


def test_one_head_serves_two_spaces_without_sharing():
    head = Gaussian("cells")
    a, b = head.on(Real((2,))), head.on(Real((3,)))
    assert a.log_width.shape == (2,)
    assert b.log_width.shape == (3,)
    assert not list(head.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: DiscretisedLogistic(0),
        lambda: StudentT(df=1.0),
        lambda: Gaussian(width=0.0).on(CELL),
        lambda: Gaussian(scale="other").on(CELL),
        lambda: NegativeBinomial(0.0).on(Counts((2,))),
        lambda: Bernoulli().on(Pixels((2,), levels=3)),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(InputError, match=r"expected .*, got"):
        make()


def test_the_gaussian_head_agrees_with_torch():
    head = Gaussian("decoder").on(Real((4,)))
    out = torch.randn(3, 2, 4, dtype=torch.double)
    x = torch.randn(3, 4, dtype=torch.double)
    truth = D.Normal(out[:, 0], 0.5 * out[:, 1].exp()).log_prob(x).sum(1)
    assert torch.allclose(head(out).log_prob(x), truth, atol=1e-6)  # log ½ is stored in single precision
