"""Restricted Boltzmann machines against every state of them, counted or integrated."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neural_network import BernoulliRBM

import likeli
from likeli.contract import Knows
from likeli.energy.annealing import bennett, bracket
from likeli.errors import Diverged, InputError, Unsupported
from likeli.evaluation.likelihood import shared_ranks
from likeli.models.rbm import states_of
from likeli.random import Ambient, seeded
from likeli.spaces import Binary, Pixels, Real, Tokens

F64 = torch.float64


def machine(space, hidden, *, seed=0, scale=1.0):
    """Weights far from their start, in double precision."""
    with seeded(seed, "machine"):
        model = likeli.RBM(space, hidden).double()
        with torch.no_grad():
            for t in (*model.parameters(), model.level, model.log_scale):
                t.copy_(scale * torch.randn_like(t))
            model.mean.uniform_()
            if not model.bits:
                model.log_scale.mul_(0.3)
                model.s.mul_(0.3)
        return model.eval()


def states(n):
    return torch.cat(list(states_of(n, torch.empty(0))))


def joint(model, v, h):
    """−E(v, h) of every pair, written down as in the docstring."""
    a = model.level + model.b
    if model.bits:
        own, field = v @ a, v - model.mean
    else:
        sigma = (model.log_scale + model.s).exp()
        own, field = -0.5 * ((v - a) / sigma).square().sum(1), (v - model.mean) / sigma**2
    return own[:, None] + (h @ model.c)[None] + field @ model.W @ (h - 0.5).T


def test_energy_conditionals_and_log_z_of_bits_are_those_of_the_table():
    model, v, h = machine(Binary((5,)), 4), states(5), states(4)
    with torch.no_grad():
        table = joint(model, v, h)
        assert torch.allclose(model.log_f(v), table.logsumexp(1), atol=1e-12)
        assert torch.allclose(model.log_mass(h), table.logsumexp(0), atol=1e-12)
        p_h = table.softmax(1) @ h
        assert torch.allclose(model.excitation(v).sigmoid(), p_h, atol=1e-12)
        log_z = table.logsumexp((0, 1)).item()
    assert model.normalise().value == pytest.approx(log_z, abs=1e-12)
    found = model.log_likelihood(v.long())
    assert found.knows is Knows.EXACT
    assert found.value.exp().sum().item() == pytest.approx(1, abs=1e-12)
    more = machine(Binary((5,)), 25)  # counted over the bits, since they are fewer
    assert more.normalise().exact
    assert more.log_likelihood(v.long()).value.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_a_gaussian_machine_integrates_to_one():
    model = machine(Real((2,), mean=(1.0, -2.0), scale=(2.0, 0.5)), 3, scale=0.7)
    t = torch.linspace(-14, 14, 281, dtype=F64)
    u = torch.cartesian_prod(t, t)
    with torch.no_grad():
        assert torch.allclose(model.log_f(u), joint(model, u, states(3)).logsumexp(1), atol=1e-11)
    model.normalise()
    x = model.space.from_model(u)
    p = model.log_likelihood(x).value.exp().reshape(281, 281)
    area = (t[1] - t[0]).item() ** 2 * 2.0 * 0.5
    assert p.sum().item() * area == pytest.approx(1, abs=1e-6)  # the rectangle rule on a smooth density that is 0 at the edge


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("bits", [True, False])
def test_a_sweep_leaves_its_distribution_as_it_is(beta, bits):
    """Bits: the transition matrix times p_β is p_β.  Reals: moments over exact draws, before and after, at 4.5 s.e."""
    if bits:
        model, v, h = machine(Binary((4,)), 3), states(4), states(3)
        with torch.no_grad():
            p = model.log_f(v, beta).softmax(0)
            q = model.excitation(v, beta).sigmoid()
            to_h = torch.where(h.bool()[None], q[:, None], 1 - q[:, None]).prod(2)
            a, W = model.level + beta * model.b, beta * model.W
            on = (a + (h - 0.5) @ W.T).sigmoid()
            back = torch.where(v.bool()[None], on[:, None], 1 - on[:, None]).prod(2)
            assert torch.allclose(p @ to_h @ back, p, atol=1e-12)
            flow = p[:, None] * (to_h @ back)
            assert torch.allclose(flow, flow.T, atol=1e-12)  # reversible
            with seeded(1, "sweep"):
                start = torch.multinomial(p, 40_000, replacement=True)
                u = model.move(v[start], beta, Ambient(v[start]))
        counts = ((u.long() * torch.tensor([1, 2, 4, 8])).sum(1)).bincount(minlength=16).double()
        assert stats.chisquare(counts, 40_000 * p).pvalue > 1e-4
        return
    model, h, n = machine(Real((2,)), 3, scale=0.7), states(3), 40_000
    with seeded(2, "sweep"), torch.no_grad():
        a, W, c, precision = model._at(beta)
        k = (h - 0.5) @ W.T
        mass = h @ c + (precision * (k * (a - model.mean) + k.square() / 2)).sum(1)
        chosen = torch.multinomial(mass.softmax(0), n, replacement=True)
        u = (a + k)[chosen] + precision.rsqrt() * torch.randn(n, 2, dtype=F64)
        moved = model.move(u, beta, Ambient(u))
    for f in (lambda z: z, torch.square, lambda z: z.prod(1, keepdim=True)):
        gap = f(moved) - f(u)
        assert (gap.mean(0).abs() < 4.5 * gap.std(0) / math.sqrt(n)).all()


def test_log_z_lies_between_the_ends_as_often_as_it_should():
    """50 runs on machines of 20 hidden units: 45 inside are expected, 38 is 3.3 s.d. below; and Bennett's z-scores."""
    inside, scores = 0, []
    for seed in range(50):
        model = machine(Binary((12,)), 20, seed=seed % 4, scale=0.5)
        exact = model.count().item()
        with seeded(seed, "anneal"), torch.no_grad():
            found = model.annealed(torch.linspace(0, 1, 41, dtype=F64), 50, 20)
        inside += found.low <= exact <= found.high
        scores.append((found.value - exact) / found.stderr)
    assert inside >= 38
    assert abs(np.mean(scores)) < 0.64  # 4.5 s.e.
    assert 0.6 < np.std(scores) < 1.5


def test_bennett_on_works_that_are_known():
    """log w ~ N(m − s²/2, s²) there and N(m + s²/2, s²) back have log Z = m."""
    with seeded(0, "bennett"):
        found = [bennett(3 - 0.5 + torch.randn(200, dtype=F64), 3 + 0.5 + torch.randn(200, dtype=F64)) for _ in range(300)]
    value, error = np.array(found).T
    assert abs(value.mean() - 3) < 4.5 * value.std() / math.sqrt(300)
    assert error.mean() == pytest.approx(value.std(), rel=0.15)
    far = bracket(torch.tensor([0.0, 1.0, 9.0], dtype=F64), torch.tensor([50.0, 55.0, 60.0], dtype=F64), 0.0)
    assert "effective sample size" in far.complaint


def test_the_loss_is_the_pseudo_likelihood_and_the_score_matching_objective():
    model, v = machine(Binary((5,)), 4), states(5)
    with torch.no_grad():
        log_f = model.log_f(v)
        index = (v.long() * 2 ** torch.arange(5)).sum(1)
        expected = sum(torch.nn.functional.softplus(log_f[index ^ (1 << i)] - log_f) for i in range(5))
        assert torch.allclose(model.loss(v.long()), expected, atol=1e-11)
    model = machine(Real((3,)), 4)
    u = torch.randn(7, 3, dtype=F64)
    psi = torch.func.vmap(torch.func.grad(lambda z: model.log_f(z[None])[0]))(u)
    slope = torch.func.vmap(torch.func.jacrev(torch.func.grad(lambda z: model.log_f(z[None])[0])))(u).diagonal(dim1=1, dim2=2)
    expected = ((2 * model.log_scale).exp() * (0.5 * psi.square() + slope)).sum(1)
    assert torch.allclose(model.loss(u), expected, atol=1e-9)


def test_log_z_is_forgotten_with_its_weights_and_travels_with_them(tmp_path):
    model = likeli.RBM(Binary((6,)), 4)
    x = torch.randint(2, (20, 6))
    assert model.log_likelihood(x).knows is Knows.UNNORMALIZED
    assert likeli.evaluate(model, x).bits_per_dim is None
    assert any("log Z is not known" in note for note in model.notes)
    model.normalise()
    assert model.log_likelihood(x).knows is Knows.EXACT
    likeli.save(model, tmp_path / "run")
    assert likeli.load(tmp_path / "run").log_z == model.log_z
    with torch.no_grad():
        model.c[0] += 1e-3
    assert model.log_likelihood(x).knows is Knows.UNNORMALIZED
    with pytest.raises(Unsupported, match="no normalised"):
        likeli.classify([model, model], x)


def test_an_estimate_says_what_all_rows_share():
    model = machine(Binary((30,)), 25, scale=0.3).float()
    found = model.normalise(chains=20, temperatures=20)
    result = model.log_likelihood(torch.randint(2, (2000, 30)))
    assert result.knows is Knows.ESTIMATE
    assert result.errors["log_z"] == pytest.approx(found.stderr)
    assert result.mean()[1] >= found.stderr  # which no number of rows makes smaller
    noisy = likeli.LogLikelihood(result.value - 0.5 * found.stderr, Knows.ESTIMATE, "mass", None, result.errors)
    assert set(shared_ranks({"a": result, "b": noisy}).values()) == {1}
    text = str(likeli.evaluate(model, torch.randint(2, (40, 30))))
    assert "between" in text and "standard error of log Z" in text


def test_training_finds_a_density_that_can_be_counted():
    """Three pairs of equal bits: H(x) = 3 log 2; independent bits say 6 log 2.  And clusters for the Gaussian machine."""
    with seeded(0, "pairs"):
        pairs = torch.randint(2, (600, 3)).repeat_interleave(2, 1)
        clusters = torch.randint(2, (900, 2)) * 6.0 + torch.randn(900, 2)
    with seeded(0, "machine"):
        model = likeli.RBM(Binary((6,)), 8)
    likeli.fit(model, pairs, steps=500, lr=0.03, progress=False)
    model.normalise()
    assert -likeli.evaluate(model, pairs[:200]).nats < 3 * math.log(2) + 0.3
    data = likeli.load_data(clusters.numpy())
    with seeded(0, "clusters"):
        model = likeli.RBM(data.space, 6)
    likeli.fit(model, data, steps=700, lr=0.03, progress=False)
    model.normalise()
    one = likeli.Independent(data.space)
    likeli.fit(one, data, progress=False)
    gain = likeli.evaluate(model, data).nats - likeli.evaluate(one, data).nats
    assert gain > 0.8  # of 2 · 0.5 nats, which two clusters six standard deviations apart have over one normal


def test_log_z_of_a_machine_of_scikit_learn_is_the_same_energy():
    """Its free energy, parameter by parameter, with no centres."""
    x = np.random.default_rng(0).integers(0, 2, (50, 6)).astype(float)
    peer = BernoulliRBM(4, n_iter=5, random_state=0).fit(x)
    model = machine(Binary((6,)), 4)
    W = torch.from_numpy(peer.components_.T)
    with torch.no_grad():
        model.mean.zero_()
        model.W.copy_(W)
        model.c.copy_(torch.from_numpy(peer.intercept_hidden_))
        model.level.zero_()
        model.b.copy_(torch.from_numpy(peer.intercept_visible_) + 0.5 * W.sum(1))  # ours holds h − ½
        ours = model.log_f(torch.from_numpy(x))
    assert np.allclose(ours.numpy() - ours.numpy()[0], -(peer._free_energy(x) - peer._free_energy(x)[0]), atol=1e-10)


@pytest.mark.parametrize("options, message", [
    ({"hidden": 0}, "hidden: expected"),
    ({"contrast": {"moves": 0}}, "moves: expected"),
    ({"contrast": {"restart": 2.0}}, "restart: expected"),
])  # fmt: skip
def test_bad_options_are_one_line(options, message):
    with pytest.raises(InputError, match=message):
        if "contrast" in options:
            options = {"contrast": likeli.Contrast(**options["contrast"])}
        likeli.RBM(Binary((4,)), **options)


def test_impossible_requests_are_refused_in_one_line():
    model = machine(Binary((30,)), 25)
    with pytest.raises(InputError, match="temperatures: expected at least 1"):
        model.normalise(temperatures=0)
    with pytest.raises(InputError, match="chains: expected at least 2"):
        model.normalise(chains=1)
    with pytest.raises(Unsupported, match="no continuous form"):
        likeli.RBM(Tokens(4, 3))
    with torch.no_grad():
        model.c[0] = math.inf
    with pytest.raises(Diverged, match=r"not finite at β = 0\.1"):
        model.normalise(chains=4, temperatures=10)


def test_grey_levels_are_dequantised_and_never_exact():
    model = likeli.RBM(Pixels((2, 2), 5), 3)
    model.normalise()
    assert model.knows_here is Knows.LOWER_BOUND
    every = torch.cartesian_prod(*[torch.arange(5)] * 4).reshape(-1, 2, 2)
    assert model.log_likelihood(every).value.double().exp().sum().item() < 1
