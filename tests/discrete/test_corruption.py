"""Kernels of symbols against matrix exponentials, matrix products and Bayes' rule by tables."""

import pytest
import torch

from likeli.discrete.corruption import Absorbing, DiscretisedGaussian, UniformCorruption, log_of, log_one_hot, matrices
from likeli.discrete.survival import CosineSurvival, LearnedSurvival, LogLinearSurvival, OrderedMasks
from likeli.errors import InputError
from likeli.probability.draw import draw_symbols, tempered, uniform_48
from likeli.random import Streams, seeded

KERNELS = {"absorbing": Absorbing(), "uniform": UniformCorruption(), "gaussian": DiscretisedGaussian(0.2)}
every_kernel = pytest.mark.parametrize("name", KERNELS)


@every_kernel
@pytest.mark.parametrize("sizes", [(4, 4), (2, 4)])
def test_closed_form_is_the_product_of_steps_and_the_exponential_of_the_rates(name, sizes):
    kernel, alphas = KERNELS[name].on(sizes), [0.9, 0.7, 0.31, 0.0]
    valid = [*range(sizes[0]), *([kernel.states - 1] if kernel.masks else [])]
    ratios = [b / a for a, b in zip([1.0, *alphas], alphas)]
    steps = matrices(kernel, ratios)[:, valid][:, :, valid]
    product = torch.linalg.multi_dot([*steps[:3]])
    assert torch.allclose(product, matrices(kernel, [0.31])[0][valid][:, valid], atol=1e-13)
    assert torch.allclose(product @ steps[3], kernel.log_pi[0].exp()[valid].expand_as(product), atol=1e-13)
    z = torch.arange(kernel.states)[:, None].expand(-1, 2)
    columns = kernel.rates(z, torch.float64)[:, 0].T[valid][:, valid]  # R_jz, j ≠ z
    generator = columns - columns.sum(1).diag()
    assert torch.allclose(torch.matrix_exp(-generator * torch.tensor(0.31).double().log()), product, atol=1e-12)


@every_kernel
def test_a_level_is_bayes_rule_and_its_kl_that_of_tables(name):
    kernel = KERNELS[name].on((3, 3))
    with seeded(1, name):
        x, g = torch.randint(3, (50, 2)), torch.rand(50, 2, kernel.states, dtype=torch.float64)
    g = g * kernel.valid if kernel.masks else g
    g = g / g.sum(-1, keepdim=True)
    s, t = 0.8, 0.3
    a_s, a_t = torch.full((50,), s).double(), torch.full((50,), t).double()
    z = kernel.draw(x, a_t, Streams(0, range(50), torch.float64))
    if kernel.masks:  # a cell that is seen is known
        g = torch.where((z == 3)[..., None], g, torch.nn.functional.one_hot(z, 4).double())
    q_s, q_ts, q_t = matrices(kernel, [s, t / s, t])
    joint = (g @ q_s) * q_ts[:, z].movedim(0, -1)
    p = joint / joint.sum(-1, keepdim=True)
    assert torch.allclose(kernel.bridge(log_of(g), z, a_s, a_t).exp(), p, atol=1e-13)
    mixed = torch.zeros_like(p)  # the sum over x̂ of g(x̂|z) q(z_s|z_t, x̂), as the papers write it
    weight = g * q_t[:, z].movedim(0, -1)
    weight = weight / weight.sum(-1, keepdim=True)
    for k in range(kernel.states):
        q = q_s[k] * q_ts[:, z].movedim(0, -1)
        mixed += weight[..., k, None] * (q / q.sum(-1, keepdim=True)).nan_to_num(0.0)
    assert torch.allclose(mixed, p, atol=1e-13)
    q = q_s[x] * q_ts[:, z].movedim(0, -1)
    q = q / q.sum(-1, keepdim=True)
    kl = torch.where(q > 0, q * (q.clamp(min=1e-300).log() - p.clamp(min=1e-300).log()), 0).sum(-1)
    assert torch.allclose(kernel.level_kl(x, log_of(g), z, a_s, a_t), kl, atol=1e-11)
    assert torch.allclose(super(type(kernel), kernel).level_kl(x, log_of(g), z, a_s, a_t), kl, atol=1e-11)


@every_kernel
def test_the_jump_cost_is_a_level_of_no_length(name):
    kernel = KERNELS[name].on((4,))
    with seeded(2, name):
        x, g = torch.randint(4, (200, 1)), torch.rand(200, 1, kernel.states, dtype=torch.float64).add(0.1)
    g = g * kernel.valid if kernel.masks else g
    log_g, t, step = log_of(g / g.sum(-1, keepdim=True)), torch.full((200,), 0.6).double(), 1e-6
    z = kernel.draw(x, t, Streams(0, range(200), torch.float64))
    if kernel.masks:
        log_g = torch.where((z == 4)[..., None], log_g, log_one_hot(z, kernel.states, torch.float64))
    level = kernel.level_kl(x, log_g, z, t * (1 + step), t) / step
    assert torch.allclose(level, kernel.jump_cost(x, log_g, z, t), rtol=1e-4, atol=1e-4)


@every_kernel
def test_small_changes_have_full_accuracy(name):
    kernel, x = KERNELS[name].on((5,)), torch.tensor([[2]])
    leaving = [kernel.leaving(x, torch.tensor([1 - u], dtype=torch.float64)).item() / u for u in (1e-3, 1e-6, 1e-9)]
    rate = leaving[-1]
    assert all(abs(r / rate - 1) < 2 * rate * u + 1e-6 for r, u in zip(leaving, (1e-3, 1e-6, 1e-9)))


def test_draws_follow_the_kernel():
    """20,000 draws a kernel: counts within 5 standard errors, a false alarm in 3 of a million looks."""
    for kernel in (k.on((3,)) for k in KERNELS.values()):
        x, a = torch.ones(20000, 1, dtype=torch.long), torch.full((20000,), 0.4).double()
        p = matrices(kernel, [0.4])[0, 1]
        z = kernel.draw(x, a, Streams(3, range(20000), torch.float64))
        moved = kernel.moved(x, a, Streams(4, range(20000), torch.float64))
        for drawn, law in ((z, p), (moved, p.index_fill(0, torch.tensor(1), 0) / (1 - p[1]))):
            share = torch.bincount(drawn[:, 0], minlength=kernel.states) / 20000
            assert ((share - law).abs() <= 5 * (law * (1 - law) / 20000).sqrt() + 1e-12).all()


def test_rare_symbols_are_drawn_where_float32_gumbel_noise_loses_them():
    """One symbol of mass 1 − 1e−4 and 50,000 that share the rest: in a million draws the rest appears 100 ± 40 times."""
    rare, draws = 50_000, 1_000_000
    p = torch.cat([torch.tensor([1 - 1e-4], dtype=torch.float64), torch.full((rare,), 1e-4 / rare, dtype=torch.float64)])
    cdf = p.cumsum(0)
    noise = Streams(0, [0], torch.float32)
    u = uniform_48(noise, draws)[0]
    found = torch.searchsorted(cdf, u * cdf[-1], right=True)  # what draw_symbols does, without a million copies of p
    small = draw_symbols(p.log().expand(2000, 1, -1)[:20], Streams(0, range(20)))
    assert (small == 0).float().mean() > 0.9
    assert 60 <= (found > 0).sum() <= 140
    assert found[found > 0].unique().numel() > 55  # single ones of mass 2e−9 too, below the 6e−8 that float32 resolves
    with seeded(0):  # argmax(log p + Gumbel) in float32; the largest of n uniform numbers is a draw to the power 1/n
        top = (torch.rand(draws, dtype=torch.float64) ** (1 / rare) * 2**24).floor().clamp(min=1) / 2**24
        best = p[1].log().float() - (-top.float().log()).log()
        first = p[0].log().float() - (-torch.rand(draws).log()).log()
    assert (best > first).sum() < 60
    with seeded(0):  # the same in float64 is right
        top = torch.rand(draws, dtype=torch.float64) ** (1 / rare)
        exact = p[1].log() - (-top.log()).log() > p[0].log() - (-torch.rand(draws, dtype=torch.float64).log()).log()
    assert 60 <= exact.sum() <= 140


def test_temperature_and_cut_tails_are_those_of_a_table():
    log_p = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert torch.allclose(tempered(log_p, 0.5).exp(), torch.tensor([0.25, 0.09, 0.0225, 0.0025]).double() / 0.365, atol=1e-7)
    kept = tempered(log_p, 1.0, 0.75).exp()
    assert torch.equal(kept > 0, torch.tensor([True, True, False, False]))
    with pytest.raises(InputError, match="temperature: expected a positive number"):
        tempered(log_p, -1.0)
    with pytest.raises(InputError, match="top_p: expected above 0"):
        tempered(log_p, 1.0, 0.0)


def test_schedules_fall_from_one_to_nought():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for schedule in (LogLinearSurvival(), CosineSurvival(), LearnedSurvival().on(3, 10)):
        alpha = schedule(t)
        assert alpha[0] == 1
        assert alpha[-1] == 0
        assert (alpha.diff() < 0).all()
        inner = t[1:-1] + 0.03
        slope = (schedule(inner + 1e-6) - schedule(inner - 1e-6)) / 2e-6
        assert torch.allclose(schedule.fall(inner), -slope, atol=1e-6)
    ordered = OrderedMasks((2, 0, 1)).on(3, None)
    assert ordered(torch.tensor([0, 1, 2, 3]) / 3).tolist() == [[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="steps: expected a number of levels"):
        LearnedSurvival().on(3, None)
    with pytest.raises(InputError, match="order: expected each cell from 0 to 2 once"):
        OrderedMasks((0, 0, 1)).on(3, None)
    with pytest.raises(InputError, match="width: expected a positive number"):
        DiscretisedGaussian(0.0)
