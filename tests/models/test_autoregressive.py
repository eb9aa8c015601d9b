"""Autoregressive models against enumeration, gradients and each other."""

import itertools
import math
import signal
import warnings
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from scipy import stats

import likeli
from families import examples
from likeli.cli.objects import call_options
from likeli.errors import InputError, Interrupted, Unsupported
from likeli.evaluation.imputation import impute
from likeli.models.autoregressive import Autoregressive, CausalBackbone, last
from likeli.nn.causal import CausalTransformer
from likeli.nn.recurrence import CausalLSTM, RowLSTM
from likeli.probability.draw import draw_symbols, tempered
from likeli.random import Streams, seeded
from likeli.spaces import Binary, Column, Counts, Labels, MixtureDensity, Pixels, Real, Table, Tokens
from likeli.training import fit

SMALL = {"made": (24, 24), "transformer": (16, 16), "conv": (8, 8), "rows": (8, 8), "lstm": (8, 8)}
CATEGORIES = Table(tuple(Column(n, "categorical", categories=tuple("abcd"[:k])) for n, k in (("p", 2), ("q", 3), ("r", 4))))
MIXED = Table((Column("a", scale=3.0), Column("b", "integer"), Column("c", "categorical", categories=("x", "y", "z"))))
CASES = [("made", "natural"), ("made", "any"), ("transformer", "natural"), ("transformer", "any")]
NATURAL = [("conv", "natural"), ("rows", "natural"), ("lstm", "natural")]
every_case = pytest.mark.parametrize("network, order", CASES)


def made(space, network="transformer", order="natural", seed=0, **options):
    """A small model in double precision whose weights are far from their start."""
    with seeded(seed):
        model = Autoregressive(space, CausalBackbone(network, SMALL[network]), order, **options).double()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.3 * torch.randn_like(p)
    return model.eval()


def states(*sizes):
    return torch.cartesian_prod(*[torch.arange(k) for k in sizes])


def mean_total(model, x):
    return model.log_likelihood(x).value.exp().sum().item()


@pytest.mark.parametrize("network, order", CASES + NATURAL)
@pytest.mark.parametrize("ensemble", [1, 3])
def test_masses_of_all_binary_vectors_sum_to_one(network, order, ensemble):
    if order == "natural" and ensemble > 1:
        with pytest.raises(InputError, match="ensemble: expected 1 unless order is any, got 3"):
            made(Binary((3, 4)), network, order, ensemble=ensemble)
        return
    model = made(Binary((3, 4)), network, order, ensemble=ensemble)
    assert mean_total(model, states(*[2] * 12).reshape(-1, 3, 4)) == pytest.approx(1, abs=1e-6)


@every_case
@pytest.mark.parametrize(
    "space, x",
    [
        (Tokens(4, 3), states(3, 3, 3, 3)),
        (Pixels((2, 2), 4), states(4, 4, 4, 4).reshape(-1, 2, 2)),
        (CATEGORIES, states(2, 3, 4)),
    ],
    ids=["tokens", "pixels", "table"],
)
def test_masses_of_tiny_vocabularies_sum_to_one(network, order, space, x):
    assert mean_total(made(space, network, order), x) == pytest.approx(1, abs=1e-6)


def test_masses_of_rows_that_are_remembered_sum_to_one():
    for space in (Tokens(4, 3), Pixels((2, 2), 3)):
        rows = states(3, 3, 3, 3).reshape(-1, *space.shape)
        assert mean_total(made(space, "lstm"), rows) == pytest.approx(1, abs=1e-6)
    for other in (Real((4,)), CATEGORIES, Counts((4,))):
        with pytest.raises(InputError, match="network: expected transformer or made for what is no row of symbols, got lstm"):
            made(other, "lstm")
    for order, network in (("natural", CausalLSTM), ("any", CausalTransformer)):
        assert isinstance(Autoregressive(Tokens(4, 3, "abc"), CausalBackbone(hidden=(8,)), order).net, network)
    with pytest.raises(InputError, match="order: expected natural with network lstm"):
        made(Tokens(4, 3), "lstm", "any")


@pytest.mark.parametrize("space", [Pixels((2, 2), 4), Pixels((1, 2, 2), 4)], ids=["plane", "channel"])
def test_masses_of_tiny_images_sum_to_one(space):
    assert mean_total(made(space, "conv"), states(4, 4, 4, 4).reshape(-1, *space.shape)) == pytest.approx(1, abs=1e-6)
    assert mean_total(made(space, "rows"), states(4, 4, 4, 4).reshape(-1, *space.shape)) == pytest.approx(1, abs=1e-6)
    for network, other in itertools.product(("conv", "rows"), (Tokens(4, 3), Pixels((3, 2, 2), 4), Real((4, 4)))):
        if network == "conv" or not isinstance(other, Pixels):
            with pytest.raises(InputError, match="network: expected transformer or made"):
                made(other, network)
    for network in ("conv", "rows"):
        with pytest.raises(InputError, match=f"order: expected natural with network {network}"):
            made(space, network, "any")
    nets = [type(Autoregressive(space, CausalBackbone(hidden=(8,)), order).net) for order in ("natural", "any")]
    assert nets == [RowLSTM, CausalTransformer]  # memories of rows follow one order alone


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 3, 2)])
def test_masses_of_tiny_pictures_of_several_planes_sum_to_one(shape):
    """Every plane is read after the ones before, in which rows beside the present one are seen."""
    cells = states(*[2] * 12).reshape(-1, *shape)
    assert mean_total(made(Binary(shape), "rows"), cells) == pytest.approx(1, abs=1e-6)
    assert isinstance(Autoregressive(Pixels(shape, 4)).net, RowLSTM)


@pytest.mark.parametrize("network", ["made", "transformer", "lstm"])
def test_rows_that_end_are_one_vocabulary(network):
    """Σ over what stands before the first end; what stands after it changes nothing."""
    space = Tokens(4, 3, ends=True)
    x = space.check(states(3, 3, 3, 3)).unique(dim=0)
    model = made(space, network)
    assert mean_total(model, x) == pytest.approx(1, abs=1e-6)
    assert model.log_likelihood([[0, 2, 0, 1]]).value == model.log_likelihood([[0, 2, 2, 2]]).value
    total = torch.stack([model.next_log_pmf(x, i).gather(1, x[:, i, None])[:, 0] for i in range(4)]).sum(0)
    assert torch.allclose(total, model.log_likelihood(x).value, atol=1e-12)
    with pytest.raises(InputError, match="order: expected natural where rows end"):
        made(space, network, "any")


@pytest.mark.parametrize("network", ["made", "transformer"])
@pytest.mark.parametrize("space", [Real((2,), mean=(1.0, -2.0), scale=(2.0, 0.5)), Counts((2,)), MIXED], ids=lambda s: s.kind())
def test_a_factor_of_numbers_is_normalised(network, space):
    """The last cell's conditional integrates, or sums, to one, whatever stands before it."""
    model = made(space, network, "natural")
    x = examples(space, 3).to(torch.float64 if space.blank is None else torch.long)
    if space.kind() == "real":
        grid = torch.linspace(-40, 40, 20001, dtype=torch.float64)
        rows = torch.stack([x[0, 0].expand(len(grid)), grid], 1)
        first = model.head(model.net(rows[:1], torch.zeros(1, 0), torch.arange(2))).cell_log_prob(rows[:1])[0, 0]
        values = model.log_prob(rows, None, torch.arange(2)) - first
        assert torch.trapezoid(values.exp(), grid).item() == pytest.approx(1, abs=1e-6)
        return
    top = 3 if isinstance(space, Table) else 20_000
    rows = x[:1].repeat(top, 1)
    rows[:, -1] = torch.arange(top)
    cells = model.head(model.net(rows, torch.zeros(top, 0), torch.arange(space.dimensions))).cell_log_prob(rows)
    assert cells[:, -1].exp().sum().item() == pytest.approx(1, abs=1e-4 if isinstance(space, Counts) else 1e-9)


@pytest.mark.parametrize("network, order, space", [
    *((n, o, s) for n, o in CASES for s in (Tokens(5, 3), Pixels((2, 3), 4), MIXED)),
    ("conv", "natural", Pixels((3, 5), 4)),
    ("lstm", "natural", Tokens(5, 3)),
])  # fmt: skip
def test_gradients_flow_from_earlier_cells_alone_and_from_all_of_them(network, order, space):
    model, cells = made(space, network, order), space.dimensions
    path = torch.arange(cells) if order == "natural" else torch.tensor([2, 0, 1, 4, 3, 5])[:cells].argsort().argsort()
    x, seen = examples(space, 1).flatten(1).double(), []

    def catch(module, inputs, output):
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    by_order = isinstance(model.net, (CausalTransformer, CausalLSTM)) and space.symbols > 0
    with (model.net.values if by_order else model.net.features).register_forward_hook(catch):
        out = model.net(x, torch.zeros(1, 0, dtype=torch.float64), path)[0]
    rank = path.argsort()
    found = torch.zeros(cells, cells, dtype=torch.bool)
    for i in range(cells):
        (gradient,) = torch.autograd.grad(out[:, i].sum(), seen[0], retain_graph=True, allow_unused=True)
        reached = torch.zeros(seen[0].shape[1]) if gradient is None else gradient[0].abs().sum(1)
        found[i, path[: len(reached)] if by_order else torch.arange(cells)] = reached > 0
    assert torch.equal(found, rank < rank[:, None])


@pytest.mark.parametrize("network, order, space", [
    *((n, o, s) for n, o in CASES for s in (Tokens(9, 5), Pixels((3, 3), 4), MIXED, Counts((4,)))),
    ("conv", "natural", Pixels((3, 5), 4)),
    *(("rows", "natural", s) for s in (Pixels((4, 3), 4), Pixels((3, 4, 2), 4))),
    *(("lstm", "natural", s) for s in (Tokens(9, 5), Pixels((3, 3), 4))),
])  # fmt: skip
def test_cell_by_cell_gives_the_numbers_of_one_pass(network, order, space):
    """To rounding: 1e−12 of numbers of order one, in double precision."""
    model, cells = made(space, network, order, condition=Labels(3)), space.dimensions
    x, c = examples(space, 6).flatten(1), torch.randn(6, 3, dtype=torch.float64)
    orders = torch.stack([torch.randperm(cells) if order == "any" else torch.arange(cells) for _ in x])
    whole, filled = model.net(x, c, orders), torch.zeros_like(x)
    rows, steps = torch.arange(len(x)), model.net.unroll(filled, c, orders)
    for cell, out in zip(orders.unbind(1), steps):
        assert torch.allclose(out, whole[rows, :, cell], atol=1e-12, rtol=0)
        filled[rows, cell] = x[rows, cell]


@pytest.mark.parametrize("network", ["made", "transformer"])
def test_leaving_missing_cells_out_is_summing_over_them(network):
    model = made(CATEGORIES, network, "any", ensemble=2)
    every = states(2, 3, 4).double()
    for missing in ([0], [1], [2], [0, 2], [0, 1]):
        x = every.clone()
        x[:, missing] = math.nan
        orders = [last(o.expand(len(x), -1), x.isnan()) for o in model.orders]
        joint = torch.stack([model.log_prob(every, None, o) for o in orders]).logsumexp(0) - math.log(2)
        marginal = model.log_likelihood(x).value
        kept = [i for i in range(3) if i not in missing]
        for row, value in zip(x, marginal):
            same = (every[:, kept] == row[kept]).all(1)
            assert value == pytest.approx(joint[same].logsumexp(0).item(), abs=1e-9)


def test_a_natural_order_refuses_missing_cells_by_their_place():
    with pytest.raises(InputError, match=r"x: expected a value in every cell .* at row 0, column b"):
        made(MIXED, order="natural").log_likelihood([[1.0, math.nan, 0.0]])


@pytest.mark.parametrize("network", SMALL)
def test_a_code_pays_log_p_and_sees_nothing_it_should_not(network):
    model, x = made(Pixels((2, 3), 4), network), examples(Pixels((2, 3), 4), 9)
    pmfs = [model.next_log_pmf(x, i) for i in range(6)]
    paid = sum(p.gather(1, x.flatten(1)[:, i, None])[:, 0] for i, p in enumerate(pmfs))
    assert torch.allclose(paid, model.log_likelihood(x).value, atol=1e-10)
    other = x.clone()
    other[:, 1] = 3 - other[:, 1]
    assert torch.equal(model.next_log_pmf(other, 3), pmfs[3])
    with pytest.raises(Unsupported, match="a pmf for each symbol"):
        made(MIXED, "made").next_log_pmf(torch.zeros(1, 3), 0)


def arithmetic(pmf, low, width):
    """The parts of an interval, one a symbol, in exact arithmetic: probabilities cut to 2⁻²⁴, none of them to nothing."""
    parts = [Fraction(max(round(v * 2**24), 1), 2**24) for v in pmf.exp().tolist()]
    total, edges = sum(parts), [Fraction(0)]
    for part in parts:
        edges.append(edges[-1] + part / total)
    return [(low + width * a, width * (b - a)) for a, b in pairwise(edges)]


@pytest.mark.parametrize("network", SMALL)
def test_an_arithmetic_code_is_read_back_and_within_one_per_cent_of_log_p(network):
    """Rows of 6 × 6 cells; the 2 bits that an interval's number may need besides are counted apart."""
    space = Pixels((6, 6), 4)
    model, x = made(space, network), examples(space, 2)
    for row, value in zip(x, model.log_likelihood(x).value):
        low, width = Fraction(0), Fraction(1)
        for i, symbol in enumerate(row.flatten().tolist()):
            low, width = arithmetic(model.next_log_pmf(row[None], i)[0], low, width)[symbol]
        bits = math.ceil(-math.log2(width)) + 1
        word = math.ceil(low * 2**bits)
        assert bits - 2 < 1.01 * -value.item() / math.log(2)
        at, read, low, width = Fraction(word, 2**bits), torch.zeros_like(row), Fraction(0), Fraction(1)
        for i in range(36):
            parts = arithmetic(model.next_log_pmf(read[None], i)[0], low, width)
            symbol = max(k for k, (start, _) in enumerate(parts) if start <= at)
            read.view(-1)[i], (low, width) = symbol, parts[symbol]
        assert torch.equal(read, row)


@pytest.mark.parametrize("network", SMALL)
def test_a_run_that_was_stopped_goes_on_to_the_bit(network, tmp_path, monkeypatch):
    """Dropout on, so that the noise of a step has to be that of the step."""
    x = examples(Pixels((4, 4), 4), 200)

    def new():
        with seeded(0):
            return Autoregressive(Pixels((4, 4), 4), CausalBackbone(network, (16, 16), 0.2))

    straight = new()
    options = {"steps": 12, "batch": 16, "progress": False, "checkpoint_every": 0}
    fit(straight, x, out=tmp_path / "straight", **options)
    again = likeli.load(tmp_path / "straight")
    assert torch.equal(again.log_likelihood(x).value, straight.log_likelihood(x).value)
    taken = Autoregressive.loss

    def stops(self, rows, y=None):
        stops.calls += 1
        if stops.calls == 6:
            signal.raise_signal(signal.SIGTERM)
        return taken(self, rows, y)

    stops.calls, model = 0, new()
    with monkeypatch.context() as patch:
        patch.setattr(Autoregressive, "loss", stops)
        with pytest.raises(Interrupted):
            fit(model, x, out=tmp_path / "stopped", **options)
    resumed = new()
    fit(resumed, x, out=tmp_path / "stopped", resume=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), straight.parameters()))


def followed(x, p, sizes):
    """p-value of draws among all states with masses p."""
    p = p.detach()
    place = torch.zeros(len(x), dtype=torch.long)
    for i, k in enumerate(sizes):
        place = place * k + x.flatten(1)[:, i].long()
    counts = torch.bincount(place, minlength=math.prod(sizes)).double()
    often = p * len(x) >= 5
    observed, expected = counts[often], p[often] * len(x)
    if p[~often].sum() * len(x) >= 5:
        observed = torch.cat([observed, counts[~often].sum()[None]])
        expected = torch.cat([expected, p[~often].sum()[None] * len(x)])
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


@every_case
def test_draws_follow_the_masses(network, order):
    """Fails by chance once in 10,000 seeds."""
    sizes, model = (2, 3, 4), made(CATEGORIES, network, order, ensemble=2 if order == "any" else 1)
    p = model.log_likelihood(states(*sizes)).value.exp()
    assert followed(model.sample(4000, seed=1), p, sizes) > 1e-4


@pytest.mark.parametrize("network, order, given", [
    ("made", "natural", [2, 1, -1, -1]), ("conv", "natural", [2, 1, -1, -1]), ("rows", "natural", [2, 1, -1, -1]),
    ("transformer", "natural", [2, 1, -1, -1]),
    ("made", "any", [-1, 2, -1, 0]), ("transformer", "any", [-1, 2, -1, 0]), ("transformer", "any", [-1, -1, -1, 1]),
])  # fmt: skip
def test_free_cells_follow_their_conditional(network, order, given):
    """Fails by chance once in 10,000 seeds."""
    space = {"conv": Pixels((1, 4), 3), "rows": Pixels((2, 2), 3)}.get(network, Tokens(4, 3))
    model, held = made(space, network, order), torch.tensor(given)
    x = model.sample(3000, given=held.reshape(space.shape), seed=3).flatten(1).long()
    assert torch.equal(x[:, held >= 0], held[held >= 0].expand(3000, -1))
    every = states(3, 3, 3, 3)
    path = last(torch.arange(4).expand(len(every), -1), (held < 0).expand(len(every), -1))
    fits = (every[:, held >= 0] == held[held >= 0]).all(1)
    p = model.log_prob(every.reshape(-1, *space.shape), None, path).masked_fill(~fits, -math.inf).softmax(0)
    assert followed(x, p, (3, 3, 3, 3)) > 1e-4


def test_holes_in_a_natural_order_come_by_importance_resampling_which_says_so():
    """With 128 particles its bias is of order 1/128: the total variation stays below 4 standard errors + 1/64."""
    model, held = made(Tokens(4, 3), "transformer"), torch.tensor([0, -1, -1, 2])
    with pytest.warns(UserWarning, match="importance resampling of 128 particles, not exact"):
        x = model.sample(640, given=held, seed=3, particles=128)
    assert torch.equal(x[:, [0, 3]], torch.tensor([0, 2]).expand(640, -1))
    every = states(3, 3, 3, 3)
    fits = (every[:, 0] == 0) & (every[:, 3] == 2)
    p = model.log_likelihood(every).value.detach().masked_fill(~fits, -math.inf).softmax(0)
    counts = torch.bincount((x * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81).double()
    assert 0.5 * (counts / 640 - p).abs().sum() < 4 * 0.5 * (p / 640).sqrt().sum() + 1 / 64
    mixed = made(MIXED, order="natural")
    with pytest.raises(Unsupported, match="needs order any"):
        mixed.sample(1, given=torch.tensor([[math.nan, 1.0, math.nan]]))


def test_imputations_keep_what_is_known_and_follow_the_conditional():
    """Fails by chance once in 10,000 seeds."""
    model, x = made(CATEGORIES, order="any"), torch.tensor([[1.0, math.nan, 2.0], [math.nan, 2.0, math.nan]]).double()
    found = impute(model, x, 1000, seed=4)
    assert found.note == ""
    assert (found.draws[:, 0, [0, 2]] == x[0, [0, 2]]).all()
    assert (found.draws[:, 1, 1] == 2).all()
    every = torch.tensor([[1.0, k, 2.0] for k in range(3)]).double()
    p = model.log_prob(every, None, torch.tensor([0, 2, 1])).softmax(0)
    assert followed(found.draws[:, :1, 1], p, (3,)) > 1e-4


def test_a_tables_holes_are_filled_beside_what_is_known():
    given = torch.tensor([[math.nan, 2.0, math.nan]], dtype=torch.float64)
    x = made(MIXED, order="any").sample(50, given=given)
    assert (x[:, 1] == 2).all()
    assert len(x[:, 0].unique()) == 50


def test_temperature_and_top_p_are_what_they_say_and_are_said_not_to_be_the_model():
    log_pmf = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    assert torch.allclose(tempered(log_pmf, 0.5, 1).exp(), torch.tensor([[0.25, 0.09, 0.0225, 0.0025]]).double() / 0.365)
    assert torch.allclose(tempered(log_pmf, 1, 0.8).softmax(1), torch.tensor([[0.625, 0.375, 0, 0]]).double())
    assert torch.allclose(tempered(log_pmf, 1, 0.81).softmax(1), torch.tensor([[0.5, 0.3, 0.15, 0]]).double() / 0.95)
    assert torch.allclose(tempered(log_pmf, 1, 1), log_pmf)
    model = made(Tokens(3, 4))
    with pytest.warns(UserWarning, match="not draws from the model"):
        model.sample(2, temperature=0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(2)
    for name, value in {"temperature": -1.0, "top_p": 0.0, "particles": 0}.items():
        with pytest.raises(InputError, match=name):
            model.sample(1, **{name: value})
    with pytest.raises(Unsupported, match="only for cells of finitely many symbols"):
        made(MIXED).sample(1, temperature=0.5)


def test_rows_are_no_option_of_a_command():
    options = [("temperature", "0.5"), ("particles", "8")]
    assert call_options(Autoregressive.draw, options, "sample") == {"temperature": 0.5, "particles": 8}
    with pytest.raises(InputError, match=r"sample.given: no such option; it has temperature, top_p, particles"):
        call_options(Autoregressive.draw, [("given", "3")], "sample")


def test_a_symbol_of_mass_one_in_a_billion_is_drawn_as_often_as_it_should():
    """Two uniform numbers that differ by less than 24 bits can tell are different symbols."""
    log_pmf = torch.tensor([[1 - 3e-9, 1e-9, 1e-9, 1e-9]], dtype=torch.float64).log().expand(4, -1)
    top = 1 - 2.0**-24

    class Given:
        rows = 4

        def uniform(self, *shape):
            return torch.tensor([[top, 0.9], [top, 0.96], [top, 0.97], [top, 0.999]], dtype=torch.float64).reshape(4, *shape)

    assert draw_symbols(log_pmf[:, None], Given()).flatten().tolist() == [0, 1, 2, 3]


def test_a_mixture_of_gaussians_has_the_moments_and_draws_of_one():
    """Fails by chance once in 10,000 seeds."""
    head, space = MixtureDensity(3), Real((2,), scale=2.0)
    p = head.on(space)(torch.randn(1, head.on(space).channels, space.dimensions, dtype=torch.float64).expand(4000, -1, -1))
    x = p.draw(Streams(0, range(4000), torch.float64))[:, 0]
    grid = torch.full((80001, space.dimensions), math.nan, dtype=torch.float64)
    grid[:, 0] = torch.linspace(-300, 300, 80001)
    q = type(p)(p.out[:1].expand(80001, -1, -1), p.space, 3)
    density = q.cell_log_prob(grid)[:, 0].exp()
    cdf = torch.cumulative_trapezoid(density, grid[:, 0])
    assert cdf[-1].item() == pytest.approx(1, abs=1e-6)
    assert torch.trapezoid(density * grid[:, 0], grid[:, 0]).item() == pytest.approx(p.mean[0, 0].item(), abs=1e-6)
    at = torch.searchsorted(grid[1:, 0].contiguous(), x.double().contiguous()).clamp(max=79999)
    assert stats.kstest(cdf[at].numpy(), "uniform").pvalue > 1e-4
