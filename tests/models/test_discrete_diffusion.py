"""Diffusion of symbols on tiny vocabularies, where every path and every x can be enumerated."""

import itertools
import math

import pandas as pd
import pytest
import torch
from torch import nn

import likeli
from likeli.contract import Knows
from likeli.discrete import elbo as engine
from likeli.discrete.corruption import Absorbing, DiscretisedGaussian, log_odds_lost, log_one_hot
from likeli.discrete.orders import chain_rule
from likeli.errors import InputError, Unsupported
from likeli.evaluation.imputation import impute
from likeli.evaluation.one_model import log_conditional
from likeli.models import discrete_diffusion as family
from likeli.models.discrete_diffusion import DiscreteDiffusion, SymbolBackbone
from likeli.nn.bidirectional import SymbolPerceptron, SymbolTransformer
from likeli.nn.recurrence import SymbolRecurrence
from likeli.random import seeded
from likeli.spaces import Binary, Column, Marginal, Pixels, Real, Table, Tokens


class Conditionals(nn.Module):
    """Logits that are arbitrary numbers of (z, level), as no network with structure would give: one table for each."""

    def __init__(self, cells, states, symbols, levels=1, seed=0, scale=1.5):
        super().__init__()
        self.place = states ** torch.arange(cells)
        with seeded(seed, "conditionals"):
            self.register_buffer("table", scale * torch.randn(levels, states**cells, cells, symbols, dtype=torch.float64))
            self.register_buffer("slope", 0.1 * torch.randn(states**cells, cells, symbols, dtype=torch.float64))

    def forward(self, z, gamma, y=None):
        row = (z * self.place).sum(1)
        return self.table[0, row] + self.slope[row] * gamma[:, None, None]


def tiny(cells=3, symbols=3, seed=0, timed=None, **options):
    """A float64 model of Tokens(cells, symbols) whose network is a table of arbitrary conditionals."""
    model = DiscreteDiffusion(Tokens(cells, symbols), backbone=SymbolBackbone(hidden=(8,), timed=timed), **options).double()
    heard = not model.kernel.masks if timed is None else timed
    net = Conditionals(cells, model.kernel.states, symbols, seed=seed)
    net.slope *= heard
    model.net = net
    return model


def everything(cells, symbols):
    return torch.tensor(list(itertools.product(range(symbols), repeat=cells)))


def enumerated(model):
    """log p(x) of the T-level chain for every x by the sum over all paths, and KL-bound of every x by the same."""
    kernel, guess, cells = model.kernel, model.guess(), model.space.dimensions
    states, xs = everything(cells, kernel.states), everything(cells, model.space.vocab)
    steps = model.depth
    alphas = model.survival(torch.arange(steps + 1) / steps).double()
    p = kernel.log_pi.exp()[torch.arange(cells), states].prod(1)  # of z_T
    q = torch.stack([engine_law(kernel, x, alphas[-1], states) for x in xs])  # q(z_T|x)
    bound = (q * (q.clamp(min=1e-300).log() - p.clamp(min=1e-300).log())).sum(1)
    for k in range(steps, 0, -1):
        a_s, a_t = alphas[k - 1].expand(len(states)), alphas[k].expand(len(states))
        log_g = guess(states, a_t)
        ahead = step_law(kernel.bridge(log_g, states, a_s, a_t), states)  # p(z_s|z_t), (from, to)
        for i, x in enumerate(xs):
            at = log_one_hot(x.expand(len(states), -1), kernel.states, torch.float64)
            back = step_law(kernel.bridge(at, states, a_s, a_t), states)
            ratio = torch.where(back > 0, back.clamp(min=1e-300).log() - ahead.clamp(min=1e-300).log(), 0)
            bound[i] += q[i] @ (back * ratio).sum(1)
            q[i] = q[i] @ back
        p = p @ ahead
    at = (states[None] == xs[:, None]).all(2).double().argmax(1)
    return xs, p[at].log(), -bound, p


def engine_law(kernel, x, alpha, states):
    rows = kernel(log_one_hot(x[None], kernel.states, torch.float64), alpha[None]).exp()[0]
    return rows[torch.arange(len(x)), states].prod(1)


def step_law(log_p, states):
    """(from, D, states) → (from, to) over whole states."""
    cells = torch.arange(states.shape[1])
    return log_p.exp()[:, cells, states].prod(2)


CHAINS = [("absorbing", "log_linear"), ("absorbing", "cosine"), ("uniform", "log_linear"), ("discretised_gaussian", "cosine")]


@pytest.mark.parametrize("corruption, schedule", CHAINS)
def test_the_enumerated_log_p_is_never_below_the_bound_and_all_mass_is_on_data(corruption, schedule):
    model = tiny(2, 3, corruption=corruption, schedule=schedule, steps=4)
    xs, log_p, bound, _ = enumerated(model)
    assert (log_p - bound).min() > -1e-12
    assert (log_p - bound).max() > 1e-3  # it is a bound, and not tight
    assert abs(log_p.exp().sum().item() - 1) < 1e-10  # nothing on states with [MASK]
    x = xs.repeat(3000, 1)  # each x at times all over [0, 1)
    with seeded(1):
        for draws in (-model.loss(x), model.elbo(x).value):
            mean, error = draws.view(-1, 9).mean(0), draws.view(-1, 9).std(0) / 3000**0.5
            assert ((mean - bound).abs() < 5 * error + 1e-9).all()  # 18 looks at 5 s.e.


@pytest.mark.parametrize("corruption", ["uniform", "discretised_gaussian", "absorbing"])
def test_continuous_time_is_the_limit_of_many_levels(corruption):
    """The T-level bound lacks its limit by a/T + O(1/T²), which Richardson's step takes out."""
    few, more = (enumerated(tiny(1, 3, corruption=corruption, steps=steps))[2] for steps in (50, 100))
    mean, error = averaged(tiny(1, 3, corruption=corruption), everything(1, 3), 20000)
    assert ((mean - (2 * more - few)).abs() < 5 * error + 2e-3).all()


def averaged(model, xs, draws):
    """The mean of −loss for each x at times all over [0, 1), and its standard error, which the spread times overstate."""
    with seeded(0), torch.no_grad():
        values = -model.loss(xs.repeat(draws, 1)).view(draws, -1)
    return values.mean(0), values.std(0) / draws**0.5


def any_order(model, xs, cells):
    """The mean over all orders of the chain rule."""
    orders = list(itertools.permutations(range(cells)))
    free = torch.ones(xs.shape, dtype=torch.bool)
    return torch.stack([chain_rule(model.guess(), xs, free, model.kernel.states - 1, o) for o in orders]).mean(0)


def masked_bound(model, xs, weight=None):
    """The continuous bound with nothing random in it: the loss of every mask, by the probability that it is drawn with."""
    cells, total = xs.shape[1], torch.zeros(len(xs), dtype=torch.float64)
    for mask in everything(cells, 2).bool()[1:]:
        z, n = torch.where(mask, model.kernel.states - 1, xs), int(mask.sum())
        alpha = torch.full((len(xs),), 0.5).double()
        cost = model.kernel.surprise(xs, model.guess()(z, alpha), z).sum(1)
        share = 1 / (cells * math.comb(cells, n)) if weight is None else weight(n)
        total -= share * cells / n * cost
    return total


def test_the_continuous_masked_bound_is_the_any_order_log_p_for_arbitrary_conditionals():
    model, xs = tiny(4, 3, seed=5), everything(4, 3)
    truth = any_order(model, xs, 4)
    assert torch.allclose(masked_bound(model, xs), truth, atol=1e-10)
    mean, error = averaged(model, xs, 3000)
    assert ((mean - truth).abs() < 5 * error).all()
    result = model.log_likelihood(xs, samples=16)
    assert result.knows is Knows.LOWER_BOUND
    assert abs((result.value - truth).sum().item()) < 5 * result.stderr.square().sum().sqrt().item()


@pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
def test_the_masked_bound_in_continuous_time_does_not_depend_on_the_schedule(schedule):
    model, xs = tiny(4, 3, seed=5, schedule=schedule), everything(4, 3)
    mean, error = averaged(model, xs, 3000)
    assert ((mean - any_order(model, xs, 4)).abs() < 5 * error).all()


@pytest.mark.parametrize("order", ["left_to_right", "confidence", (2, 0, 3, 1)])
def test_the_chain_rule_sums_to_one_along_any_order(order):
    model, xs = tiny(4, 3, seed=2), everything(4, 3)
    result = model.log_likelihood(xs, method="chain_rule", order=order)
    assert result.knows is Knows.EXACT
    assert result.stderr is None
    assert abs(result.value.exp().sum().item() - 1) < 1e-12


def test_ordered_masks_are_the_autoregressive_model():
    model, xs = tiny(4, 3, seed=2, schedule="ordered"), everything(4, 3)
    assert model.knows_here is Knows.EXACT
    truth = torch.zeros(81, dtype=torch.float64)
    for i in range(4):
        z = torch.where(torch.arange(4) < i, xs, 3)
        log_g = model.net(z, torch.zeros(81)).log_softmax(-1)[:, i]
        truth += log_g.gather(1, xs[:, i, None])[:, 0]
    assert torch.allclose(model.log_likelihood(xs).value, truth, atol=1e-12)
    with seeded(0):
        assert torch.allclose(model.elbo(xs).value, truth, atol=1e-10)  # nothing is random
        losses = torch.stack([model.loss(xs) for _ in range(400)])
    assert ((losses.mean(0) + truth).abs() < 5 * losses.std(0) / 20 + 1e-9).all()
    assert abs(truth.exp().sum().item() - 1) < 1e-12


def test_a_learned_schedule_follows_the_gradient_of_the_enumerated_bound():
    model = tiny(2, 3, schedule="learned", steps=3)
    with torch.no_grad():
        model.survival.shares.copy_(torch.tensor([0.03, -0.02, 0.05]))
    xs = everything(2, 3)

    def negative(shares):
        with torch.no_grad():
            model.survival.shares.copy_(shares)
            return -enumerated(model)[2].mean().item()

    start, step = model.survival.shares.detach().clone(), 1e-4
    slopes = torch.tensor([(negative(start + step * e) - negative(start - step * e)) / (2 * step) for e in torch.eye(3)])
    with torch.no_grad():
        model.survival.shares.copy_(start)
    model.train()
    grads = []
    with seeded(0):
        for _ in range(600):
            model.zero_grad()
            model.loss(xs.repeat(50, 1)).mean().backward()
            grads.append(model.survival.shares.grad.clone())
    grads = torch.stack(grads)
    assert slopes.abs().max() > 0.05
    assert ((grads.mean(0) - slopes).abs() < 5 * grads.std(0) / 600**0.5).all()


FAULTS = {  # what a formula loses, and how far the masked bound of arbitrary conditionals then is from the truth
    "the 1/n of a mask": lambda n: 1 / (4 * math.comb(4, n)) * n,
    "even numbers of masks": lambda n: 1 / 15,
    "the last interval": lambda n: 1 / (4 * math.comb(4, n)) * (n > 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_weight_is_seen(fault):
    model, xs = tiny(4, 3, seed=5), everything(4, 3)
    assert (masked_bound(model, xs, FAULTS[fault]) - any_order(model, xs, 4)).abs().max() > 0.01


def drop_the_number_of_masks(m):
    original = engine.corrupted

    def without(corruption, x, *rest):
        z, weight = original(corruption, x, *rest)
        return z, weight * (z != x).sum(1)

    m.setattr(engine, "corrupted", without)


def drop_rate(m):
    m.setattr(Absorbing, "jump_cost", lambda self, x, log_g, z, alpha: alpha[:, None] * self.surprise(x, log_g, z))


def count_known(m):
    m.setattr(Absorbing, "surprise", lambda self, x, log_g, z: -log_g.gather(2, x[..., None])[..., 0] + (z != 3) * 0.1)


def floor_on_t(m):
    original = family.jump_integral
    m.setattr(family, "jump_integral", lambda r, x, t, *rest: original(r, x, t, *rest) * (t > 0.05))


@pytest.mark.parametrize("fault", [drop_the_number_of_masks, drop_rate, count_known, floor_on_t])
def test_a_planted_fault_moves_the_bound_away_from_the_truth(fault, monkeypatch):
    model, xs = tiny(4, 3, seed=5), everything(4, 3)
    truth = any_order(model, xs, 4)
    fault(monkeypatch)
    mean, error = averaged(model, xs, 1000)
    assert (mean - truth).sum().abs() > 8 * error.square().sum().sqrt()


def leave_out_jumps(m):
    original = DiscretisedGaussian.rates
    m.setattr(DiscretisedGaussian, "rates", lambda self, z, dtype: original(self, z, dtype) * 0.5)


def test_a_planted_fault_in_the_rates_is_seen(monkeypatch):
    more = enumerated(tiny(1, 3, corruption="discretised_gaussian", steps=100))[2]
    leave_out_jumps(monkeypatch)
    mean, error = averaged(tiny(1, 3, corruption="discretised_gaussian"), everything(1, 3), 4000)
    assert ((mean - more).abs() > 8 * error).any()


# --- given cells -----------------------------------------------------------------------------------------------------


def test_log_p_of_the_rest_given_some_cells_is_the_any_order_one_over_the_rest():
    model, xs = tiny(4, 3, seed=5), everything(4, 3)
    given = xs.clone()
    given[:, [0, 2]] = -1
    given[40:, 3] = -1
    free = given < 0
    for rows in (slice(0, 40), slice(40, 81)):
        cells = torch.nonzero(free[rows][0])[:, 0].tolist()
        known = [i for i in range(4) if i not in cells]
        orders = [(*known, *o) for o in itertools.permutations(cells)]
        part = [chain_rule(model.guess(), xs[rows], free[rows], 3, o) for o in orders]
        truth = torch.stack(part).mean(0)
        result = log_conditional(model, xs, given, samples=64)
        assert result.knows is Knows.LOWER_BOUND
        assert abs((result.value[rows] - truth).sum()) < 5 * result.stderr[rows].square().sum().sqrt()
    given = torch.where(torch.tensor([False, True, False, True]), xs, -1)
    exact = log_conditional(model, xs, given, method="chain_rule").value.exp().view(3, 3, 3, 3)
    assert torch.allclose(exact.sum((0, 2)), torch.ones(3, 3).double(), atol=1e-12)


def test_given_cells_stay_and_the_others_never_show_the_mask():
    for corruption, sampler in (("absorbing", None), ("absorbing", "remasking"), ("absorbing", "blocks"), ("uniform", None)):
        model = tiny(4, 3, corruption=corruption)
        given = torch.tensor([[1, -1, -1, 2]])
        x = model.sample(70, given=given, sampler=sampler)
        assert (x[:, [0, 3]] == torch.tensor([1, 2])).all()
        assert x.max() <= 2
        assert x[:, 1:3].float().std() > 0


@pytest.mark.parametrize("given, told", [
    (torch.tensor([[0, 3, -1, -1]]), "given: expected symbols from 0 to 2, got 3 at row 0, column 1"),
    (torch.tensor([[0, -2, -1, -1]]), "got -2"),
    (torch.zeros(2, 5), "given: expected shape"),
    (torch.zeros(3, 4), "given: expected 2 rows or one"),
])  # fmt: skip
def test_given_cells_that_do_not_fit_are_refused(given, told):
    with pytest.raises(InputError, match=told):
        tiny(4, 3).sample(2, given=given)


def test_other_families_refuse_given_cells():
    with pytest.raises(Unsupported, match="autoregressive and discrete_diffusion hold cells fixed"):
        likeli.VAE(Tokens(4, 3)).sample(2, given=torch.zeros(2, 4))


# --- rows of unequal length ------------------------------------------------------------------------------------------


def lines(corruption="absorbing", **options):
    """A float64 model of words over {a, b} of up to 3 symbols, and all 15 of them."""
    model = DiscreteDiffusion(Tokens(3, 3, ends=True), corruption, backbone=SymbolBackbone(hidden=(8,)), **options).double()
    with seeded(3), torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    words = [[*w, *[2] * (3 - n)] for n in range(4) for w in itertools.product(range(2), repeat=n)]
    return model, torch.tensor(words)


@pytest.mark.parametrize("order", ["left_to_right", "confidence"])
def test_words_of_all_lengths_have_mass_one(order):
    model, xs = lines()
    log_p = model.log_likelihood(xs, method="chain_rule", order=order).value
    assert abs(log_p.exp().sum().item() - 1) < 1e-12
    assert torch.allclose(log_p[0], model.lengths.log_pmf(torch.zeros(1))[0, 0], atol=1e-12)  # the empty word is its length
    x = model.sample(4000, sampler=None if order == "left_to_right" else "confidence")
    assert model.space.check(x).eq(x).all()
    if order == "confidence":
        count = (x[:, None] == xs).all(2).double().sum(0)
        expected = 4000 * log_p.exp()
        assert ((count - expected).square() / expected).sum() < 14 + 5 * 28**0.5


@pytest.mark.parametrize("corruption, steps", [("absorbing", None), ("absorbing", 3), ("uniform", 3)])
def test_bounds_of_words_agree_and_the_padding_is_never_counted(corruption, steps):
    model, xs = lines(corruption, steps=steps)
    mean, error = averaged(model, xs, 3000)
    if steps is None:
        orders = [(*o,) for o in itertools.permutations(range(3))]
        truth = torch.stack([model.log_likelihood(xs, method="chain_rule", order=o).value for o in orders]).mean(0)
        assert ((mean - truth).abs() < 5 * error + 1e-9).all()
    else:
        with seeded(1), torch.no_grad():
            walked = model.elbo(xs.repeat(3000, 1)).value.view(3000, -1)
        assert ((mean - walked.mean(0)).abs() < 5 * (error + walked.std(0) / 3000**0.5) + 1e-9).all()
    symbols, free, over, _ = model._parts(xs)
    assert (free.sum(1) == (xs < 2).sum(1)).all()
    assert not (free & over).any()
    assert symbols.max() < 2


def test_given_symbols_of_words_and_their_ends_are_kept():
    model, xs = lines()
    x = model.sample(70, given=torch.tensor([[-1, 1, -1]]))
    assert (x[:, 1] == 1).all()
    assert (x[:, 0] < 2).all()  # nothing ends before a symbol that stands
    x = model.sample(70, given=torch.tensor([[-1, -1, 2]]))
    assert (x[:, 2] == 2).all()
    assert (x[:, :2] < 2).all()
    given = torch.where(torch.tensor([True, False, False]), xs[1:], -1)  # the first symbol of all words that have one
    log_p = log_conditional(model, xs[1:], given, method="chain_rule").value
    for first in (0, 1):
        assert abs(log_p[xs[1:, 0] == first].exp().sum().item() - 1) < 1e-12


# --- samplers --------------------------------------------------------------------------------------------------------


def chi_square(x, log_p, symbols):
    """(χ² − df)/√(2 df) of drawn rows against a pmf over all of them."""
    cells = x.shape[1]
    count = torch.bincount((x * symbols ** torch.arange(cells - 1, -1, -1)).sum(1), minlength=symbols**cells)
    expected = log_p.exp() * len(x)
    return (((count - expected).square() / expected).sum() - len(expected) + 1) / math.sqrt(2 * len(expected) - 2)


@pytest.mark.parametrize("corruption, sampler", [
    ("absorbing", "ancestral"), ("absorbing", "cached"), ("uniform", "ancestral"), ("discretised_gaussian", "ancestral"),
])  # fmt: skip
def test_samplers_draw_from_the_enumerated_chain(corruption, sampler):
    model = tiny(2, 3, corruption=corruption, steps=4, timed=True)
    x = model.sample(4000, sampler=sampler)
    assert chi_square(x, enumerated(model)[1], 3) < 5  # 8 degrees of freedom: a false alarm in 10,000


def test_samplers_with_a_law_of_their_own_draw_from_it():
    model, xs = tiny(3, 2, seed=3), everything(3, 2)
    by_confidence = model.log_likelihood(xs, method="chain_rule", order="confidence").value
    assert chi_square(model.sample(4000, sampler="confidence"), by_confidence, 2) < 5
    from likeli.discrete.samplers import BlockUnmasking, Remasking

    one_by_one = model.log_likelihood(xs, method="chain_rule").value
    assert chi_square(model.sample(4000, sampler=BlockUnmasking(1)), one_by_one, 2) < 5
    ancestral = enumerated(tiny(3, 2, seed=3, steps=3))[1]
    assert chi_square(model.sample(4000, sampler=Remasking(0.0), steps=3), ancestral, 2) < 5
    assert chi_square(model.sample(4000, sampler=Remasking(0.9), steps=3), ancestral, 2) > 5  # these do not fit together


def test_remasking_keeps_the_law_where_the_conditionals_are_exact():
    """One cell, whose exact conditional is its marginal: the law stays the data's however often it is masked again."""
    from likeli.discrete.samplers import Remasking

    model = tiny(1, 3, seed=4)
    truth = model.log_likelihood(everything(1, 3), method="chain_rule").value
    assert chi_square(model.sample(4000, sampler=Remasking(1.0), steps=6), truth, 3) < 5


def test_the_infinite_chain_draws_from_the_any_order_mixture():
    model, xs = tiny(3, 2, seed=3), everything(3, 2)
    orders = itertools.permutations(range(3))
    free = torch.ones(8, 3, dtype=torch.bool)
    mixture = torch.stack([chain_rule(model.guess(), xs, free, 2, o) for o in orders]).logsumexp(0) - math.log(6)
    assert chi_square(model.sample(4000), mixture, 2) < 5
    assert (mixture - any_order(model, xs, 3)).min() > -1e-12  # and the bound is below its log p


def test_cached_sampling_calls_the_network_at_most_once_a_cell():
    for steps in (None, 3, 1000):
        model = tiny(4, 3)
        calls = []
        model.net.register_forward_hook(lambda *_: calls.append(1))
        model.sample(64, steps=steps)
        assert len(calls) <= min(4, steps or 4)
    calls.clear()
    model.sample(64, steps=50, sampler="ancestral")
    assert len(calls) == 50


def test_a_result_says_when_it_is_not_a_draw_of_the_model():
    model = tiny(4, 3)
    assert model.qualification() == model.qualification(steps=3, sampler="ancestral", temperature=1.0) == ""
    assert "temperature 0.5" in model.qualification(temperature=0.5)
    assert "top_p 0.9" in model.qualification(top_p=0.9)
    assert "masked again" in model.qualification(sampler="remasking")
    cold = model.sample(64, temperature=0.01, sampler="confidence")
    assert len(cold.unique(dim=0)) == 1


# --- what it is of ---------------------------------------------------------------------------------------------------


def test_spaces_of_finitely_many_symbols_are_taken_and_others_refused():
    column = Column("b", "categorical", categories=("u", "v"))
    first, only = Column("a", "categorical", categories=("x", "y", "z")), Column("k", "categorical", categories=("o",))
    table = Table((first, only, column))
    for space in (table, Binary((3, 3)), Pixels((8, 8), levels=5), Pixels((3, 8, 8), levels=4)):
        model = DiscreteDiffusion(space, backbone=SymbolBackbone(hidden=(8, 16) if space.dimensions >= 64 else (8,)))
        x = model.sample(3, steps=2)
        assert torch.equal(space.check(x), x)
        assert model.log_likelihood(x).value.shape == (3,)
    ordinal = DiscreteDiffusion(table, corruption="discretised_gaussian", backbone=SymbolBackbone(hidden=(8,)))
    assert ordinal.sample(2, steps=3).shape == (2, 3)
    with pytest.raises(Unsupported, match="finitely many symbols"):
        DiscreteDiffusion(Real((3,)))


@pytest.mark.parametrize("options, told", [
    ({"corruption": "uniform", "backbone": SymbolBackbone(timed=False)}, "timed: expected true"),
    ({"corruption": "uniform", "schedule": "ordered"}, "schedule: expected one for all cells"),
    ({"schedule": "learned"}, "steps: expected a number of levels"),
    ({"schedule": "ordered", "steps": 3}, "steps: expected nothing, or 4"),
    ({"steps": 0}, "steps: expected at least 1"),
    ({"backbone": SymbolBackbone("unet")}, "network: expected transformer, mlp or lstm"),
    ({"backbone": SymbolBackbone("lstm", hidden=(8, 16))}, "hidden: expected equal widths, one for all layers"),
    ({"corruption": "absorbin"}, "corruption"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused(options, told):
    with pytest.raises(InputError, match=told):
        DiscreteDiffusion(Tokens(4, 3), **options)


def test_text_is_read_from_both_ends_a_table_at_once_and_other_symbols_are_attended_to():
    kinds = ((Tokens(4, 3, "abc"), SymbolRecurrence), (CATEGORIES, SymbolPerceptron), (Tokens(4, 3), SymbolTransformer))
    for space, network in kinds:
        assert isinstance(DiscreteDiffusion(space, backbone=SymbolBackbone(hidden=(8,))).net, network)


def test_columns_in_no_order_are_refused_by_a_network_that_runs_over_a_row():
    with pytest.raises(InputError, match="network: expected mlp or transformer"):
        DiscreteDiffusion(CATEGORIES, backbone=SymbolBackbone("lstm"))


def test_an_lstm_learns_a_sticky_chain_up_to_the_chains_own_entropy():
    """Two states, 0.9 to stay: −log p of a row is Σ log(0.9 or 0.1) + log 2, and a bound may not be smaller on average."""
    cells, stay = 12, 0.9
    rng = torch.Generator().manual_seed(0)
    moves = torch.rand(3000, cells, generator=rng) > stay
    moves[:, 0] = torch.rand(3000, generator=rng) > 0.5
    x = moves.cumsum(1) % 2
    truth = math.log(0.5) + torch.where(moves[:, 1:], math.log(1 - stay), math.log(stay)).sum(1).double()
    with seeded(0):
        model = DiscreteDiffusion(Tokens(cells, 2), backbone=SymbolBackbone("lstm", hidden=(16,)))
    likeli.fit(model, x[1000:], steps=120, batch=64, lr=4e-2, seed=0, progress=False)
    above = truth[:1000] - model.log_likelihood(x[:1000], samples=2).value.double()
    assert -4 * above.std() / 1000**0.5 < above.mean() < 0.1 * -truth.mean()


def test_requests_that_make_no_sense_are_refused():
    model = tiny(4, 3)
    with pytest.raises(InputError, match="temperature: expected a positive number"):
        model.sample(2, temperature=-1.0)
    with pytest.raises(InputError, match="sampler: expected one of ancestral"):
        model.sample(2, sampler="adams")
    with pytest.raises(InputError, match="order: expected each cell"):
        model.log_likelihood(everything(4, 3), method="chain_rule", order=(0, 1))
    with pytest.raises(InputError, match="order: expected nothing beside method=bound"):
        model.log_likelihood(everything(4, 3), order="confidence")
    with pytest.raises(InputError, match="fixed: expected cells from 0 to 3"):
        model.log_likelihood(everything(4, 3), fixed=(4,))
    with pytest.raises(InputError, match="sampler: expected ancestral"):
        tiny(4, 3, corruption="uniform").sample(2, sampler="cached")
    with pytest.raises(Unsupported, match="corruption=absorbing has one"):
        tiny(4, 3, corruption="uniform").log_likelihood(everything(4, 3), method="chain_rule")


def test_a_cell_with_one_symbol_costs_nothing():
    model = DiscreteDiffusion(Tokens(3, 1), backbone=SymbolBackbone(hidden=(8,)))
    assert torch.equal(model.log_likelihood(torch.zeros(2, 3, dtype=torch.long)).value, torch.zeros(2))
    assert torch.equal(model.sample(2), torch.zeros(2, 3, dtype=torch.long))


def test_the_level_that_a_network_is_told_is_finite_at_both_ends():
    assert torch.allclose(log_odds_lost(torch.tensor([1.0, 0.5, 0.0]).double()), torch.tensor([-20.0, 0, 20]).double())


def test_fitted_it_beats_independent_cells_on_a_source_with_a_memory():
    with seeded(0):
        x = torch.zeros(600, 6, dtype=torch.long)
        x[:, 0] = torch.randint(3, (600,))
        for i in range(1, 6):
            x[:, i] = torch.where(torch.rand(600) < 0.9, (x[:, i - 1] + 1) % 3, torch.randint(3, (600,)))
    model = DiscreteDiffusion(Tokens(6, 3), backbone=SymbolBackbone(hidden=(32, 32)))
    likeli.fit(model, x[:500], steps=200, batch=128)
    stay = 0.9 + 0.1 / 3
    entropy = math.log(3) - 5 * (stay * math.log(stay) + (1 - stay) * math.log((1 - stay) / 2))
    nats = -model.log_likelihood(x[500:], samples=32).value.mean().item()
    assert entropy - 0.3 < nats < entropy + 0.5 < 6 * math.log(3) - 1


@pytest.mark.slow
def test_a_table_of_numbers_is_diffused_by_the_cells_of_its_columns():
    """The chain rule's mass over every row of whole numbers and categories is one with the tails; draws keep types."""
    law = Marginal((0.0, 1.0, 3.0), (0.0, 2.0, 3.0), (0.5, 0.3, 0.2), 0.01)
    space = Table((Column("n", "integer", marginal=law), Column("c", "categorical", categories=("u", "v"))))
    with seeded(0, "table"):
        model = DiscreteDiffusion(space, steps=3).double()
    rows = torch.tensor([[n, c] for n in range(-1, 5) for c in range(2)], dtype=torch.float64)
    exact = model.log_likelihood(rows, method="chain_rule").value.exp()
    inside = (rows[:, 0] >= 0) & (rows[:, 0] <= 3)
    assert (exact[inside].sum() + 5 * exact[~inside].sum()).item() == pytest.approx(1, abs=1e-9)
    bound = model.log_likelihood(rows, samples=64)
    elbo = model.elbo(rows.repeat(2000, 1)).value.reshape(2000, -1)
    error = (elbo.std(0) / 2000**0.5).square() + bound.stderr.square()
    assert ((elbo.mean(0) - bound.value).abs() < 4.5 * error.sqrt()).all()
    given = torch.tensor([[math.nan, 1.0]], dtype=torch.float64)
    drawn = space.check(model.sample(50, given=given.expand(50, -1)))
    assert (drawn[:, 1] == 1).all()
    assert set(drawn[:, 0].tolist()) <= {0.0, 1.0, 2.0, 3.0}
    part = log_conditional(model, rows[4:6], torch.tensor([[1.0, math.nan]]).double().expand(2, -1), method="chain_rule").value
    assert part.exp().sum().item() == pytest.approx(1, abs=1e-9)


CATEGORIES = Table(tuple(Column(n, "categorical", categories=tuple("abcd"[:k])) for n, k in (("p", 2), ("q", 3), ("r", 4))))


def test_missing_cells_of_a_table_are_filled_by_the_mean_over_orders_of_the_rest():
    """Five standard errors of a share of 5,000 draws."""
    with seeded(0):
        model = DiscreteDiffusion(CATEGORIES, backbone=SymbolBackbone(hidden=(16,)))
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    model = model.double().eval()
    holes = pd.DataFrame({"p": ["b", "a"], "q": [None, "c"], "r": [None, None]})
    found, n = impute(model, holes, 5_000, seed=3), 5_000
    every = torch.tensor([[1.0, q, r] for q in range(3) for r in range(4)], dtype=torch.float64)
    along = [model.log_likelihood(every, method="chain_rule", order=o, fixed=(0,)).value for o in ((0, 1, 2), (0, 2, 1))]
    law = torch.stack(along).exp().mean(0)
    assert law.sum().item() == pytest.approx(1, abs=1e-9)
    share = torch.bincount((found.draws[:, 0, 1] * 4 + found.draws[:, 0, 2]).long(), minlength=12) / n
    assert ((share - law).abs() < 5 * (law * (1 - law) / n).sqrt()).all()
    every = torch.tensor([[0.0, 2.0, r] for r in range(4)], dtype=torch.float64)
    law = model.log_likelihood(every, method="chain_rule", fixed=(0, 1)).value.exp()
    share = torch.bincount(found.draws[:, 1, 2].long(), minlength=4) / n
    assert ((share - law).abs() < 5 * (law * (1 - law) / n).sqrt()).all()
    alone = torch.cat([torch.full((3, 1), math.nan), torch.arange(3.0)[:, None], torch.full((3, 1), math.nan)], 1).double()
    for options in ({"method": "chain_rule"}, {"samples": 2}):  # p(q) of the network with all else masked, whatever the way
        assert model.log_likelihood(alone, **options).value.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    assert torch.isfinite(model.loss(alone)).all()
    with pytest.raises(Unsupported, match="missing cells have no chain"):
        model.elbo(alone)
    with pytest.raises(Unsupported, match="missing cells need a state"):
        DiscreteDiffusion(CATEGORIES, "uniform").log_likelihood(alone)
    assert found.note == ""
    assert found.mean["r"].tolist()[1] == "abcd"[int(law.argmax())]
    assert found.mean["p"].tolist() == ["b", "a"]
    whole = impute(model, holes.fillna("a"), 3)
    assert whole.completed(2).equals(holes.fillna("a"))
    assert len(whole.cells(0.5)) == 0
    with pytest.raises(Unsupported, match="a state that says what is missing"):
        impute(DiscreteDiffusion(CATEGORIES, "uniform"), holes, 2)
