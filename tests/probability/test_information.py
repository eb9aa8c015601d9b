"""Surprise, entropy and divergences against enumeration, quadrature, scipy and each other."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions as D

from likeli.errors import InputError
from likeli.probability import information as info
from likeli.random import seeded


def tables(n=40, k=7, seed=0, zeros=False):
    with seeded(seed, "tables"):
        p = torch.rand(n, k, dtype=torch.float64) ** 3
        if zeros:
            p[torch.rand(n, k) < 0.3] = 0
            p[:, 0] += 0.1
    return p / p.sum(1, keepdim=True)


def gaussian(seed, d=3):
    with seeded(seed, "gaussian"):
        a = torch.randn(d, d, dtype=torch.float64)
        return D.MultivariateNormal(torch.randn(d, dtype=torch.float64), a @ a.T + 0.3 * torch.eye(d))


def diagonal(seed, d=3):
    with seeded(seed, "diagonal"):
        return D.Independent(D.Normal(torch.randn(d).double(), torch.rand(d).double() + 0.2), 1)


def mixture():
    return D.MixtureSameFamily(
        D.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)),
        D.Normal(torch.tensor([-2.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 1.0], dtype=torch.float64)),
    )


def integral(f, low=-np.inf, high=np.inf):
    return integrate.quad(f, low, high, epsabs=1e-11, limit=400)[0]


def density(p):
    return lambda x: p.log_prob(torch.tensor(x, dtype=torch.float64)).exp().item()


def test_surprises_of_independent_things_add():
    p, q = tables(1)[0], tables(1, seed=1)[0]
    joint = torch.outer(p, q).flatten()
    i, j = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    apart = info.surprise(p, i) + info.surprise(q, j)
    assert (info.surprise(joint, 7 * i + j) - apart).abs().max() < 1e-12
    assert info.surprise(D.Normal(0.0, 1.0), torch.tensor(0.0)).item() == pytest.approx(0.5 * math.log(2 * math.pi))


def test_entropy_of_tables_is_scipys_and_bits_are_nats_over_log_two():
    p = tables(zeros=True)
    assert np.allclose(info.entropy(p).value, stats.entropy(p.numpy(), axis=1), rtol=0, atol=1e-12)
    assert np.allclose(info.entropy(p).bits.value, stats.entropy(p.numpy(), axis=1, base=2), rtol=0, atol=1e-12)
    assert float(info.entropy(torch.full((8,), 1 / 8)).bits) == pytest.approx(3)


@pytest.mark.parametrize("p", [gaussian(1), diagonal(1)], ids=["full", "diagonal"])
def test_entropy_of_a_gaussian_is_half_log_det(p):
    sigma = info._gaussian(p).covariance_matrix.numpy()
    assert float(info.entropy(p)) == pytest.approx(0.5 * np.linalg.slogdet(2 * math.pi * math.e * sigma)[1], abs=1e-12)
    assert info.entropy(p).stderr is None


@pytest.mark.parametrize("zeros", [False, True])
def test_cross_entropy_is_entropy_plus_kl_and_kl_is_scipys(zeros):
    p, q = tables(zeros=zeros), tables(seed=1)
    kl = info.kl_divergence(p, q).value
    assert (info.cross_entropy(p, q).value - info.entropy(p).value - kl).abs().max() < 1e-12
    assert np.allclose(kl, stats.entropy(p.numpy(), q.numpy(), axis=1), rtol=1e-10, atol=1e-12)
    assert (kl > 0).all()


@pytest.mark.parametrize("pair", [(gaussian(1), gaussian(2)), (diagonal(1), gaussian(2)), (diagonal(1), diagonal(2))])
def test_cross_entropy_is_entropy_plus_kl_for_gaussians(pair):
    p, q = pair
    mean = info._gaussian(p).loc
    sigma = info._gaussian(p).covariance_matrix
    precision, shift = info._gaussian(q).precision_matrix, mean - info._gaussian(q).loc
    quadratic = (precision * sigma).sum() + shift @ precision @ shift
    truth = 0.5 * (quadratic + torch.logdet(2 * math.pi * info._gaussian(q).covariance_matrix))
    assert float(info.cross_entropy(p, q)) == pytest.approx(truth.item(), abs=1e-10)


def test_kl_is_zero_for_equals_infinite_outside_the_support_and_never_nan():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    q = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    assert info.kl_divergence(p, q).value.tolist() == [0.0, math.inf, math.inf]
    assert info.kl_divergence(q, p).value.tolist() == [0.0, math.inf, math.inf]
    assert info.cross_entropy(p, q).value.tolist() == [pytest.approx(math.log(2)), math.inf, math.inf]
    halves = info.jensen_shannon(p, q).value
    assert halves[0] == 0
    assert halves[2] == pytest.approx(math.log(2))
    uniform, wider = D.Uniform(torch.tensor([0.0]), torch.tensor([1.0])), D.Uniform(torch.tensor([0.0]), torch.tensor([2.0]))
    assert info.kl_divergence(wider, uniform).value.item() == math.inf
    assert info.kl_divergence(uniform, wider).value.item() == pytest.approx(math.log(2))


def test_kl_and_its_arguments_do_not_commute_but_jeffreys_and_jensen_shannon_do():
    p, q = tables(1, zeros=False)[0], tables(1, seed=1)[0]
    assert abs(float(info.kl_divergence(p, q)) - float(info.kl_divergence(q, p))) > 1e-3
    for symmetric in (info.jeffreys, info.jensen_shannon):
        assert float(symmetric(p, q)) == pytest.approx(float(symmetric(q, p)), abs=1e-14)
    assert float(info.jeffreys(p, q)) == pytest.approx(float(info.kl_divergence(p, q)) + float(info.kl_divergence(q, p)))
    assert 0 < float(info.jensen_shannon(p, q)) < math.log(2)


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8, 1e-11])
def test_closed_gaussian_kl_keeps_its_digits_between_near_equals(gap):
    """For σ_q = σ_p(1 + δ) the KL is δ + δ²/2 − log(1 + δ) = δ² − δ³/3 + …: the difference loses every digit at δ = 1e-8."""
    p_std = torch.tensor([0.7], dtype=torch.float64)
    q_std = p_std * (1 + gap)
    delta = ((q_std - p_std) / p_std).item()
    truth = delta**2 + sum((-1) ** k * delta**k / k for k in range(3, 8))  # cut at δ⁸/8, 1e-12 of the value at δ = 1e-2
    zero = torch.zeros(1, dtype=torch.float64)
    assert info.gaussian_kl(zero, q_std, zero, p_std).item() == pytest.approx(truth, rel=1e-9)
    full = [D.MultivariateNormal(zero, scale_tril=s[None]) for s in (q_std, p_std)]
    assert info.full_gaussian_kl(*full).item() == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_kls_are_never_negative(dtype):
    with seeded(3):
        mean, log_std, nudge = (torch.randn(100_000, dtype=dtype) for _ in range(3))
        near = torch.cat([10.0 ** (-10 * torch.rand(50_000)), torch.ones(50_000)]).to(dtype)
        std = (2 * log_std).exp()
        values = info.gaussian_kl(mean + near * nudge, std * (near * nudge).exp(), mean, std)
        logits = torch.randn(20_000, 5, dtype=dtype) * 3
        tilted = logits + near[:20_000, None] * torch.randn(20_000, 5, dtype=dtype)
        masses = info.kl(D.Categorical(logits=logits), D.Categorical(logits=tilted))
    for v in (values, masses, info.kl_divergence(logits.softmax(1), tilted.softmax(1)).value):
        assert v.isfinite().all()
        assert (v >= 0).all()


def test_full_gaussian_kl_agrees_with_torch_and_with_quadrature():
    p, q = gaussian(1), gaussian(2)
    assert float(info.kl_divergence(p, q)) == pytest.approx(D.kl_divergence(p, q).item(), rel=1e-10)
    one, other = D.Normal(torch.tensor(0.3).double(), 0.5), D.Normal(torch.tensor(-0.4).double(), 1.2)
    truth = integral(lambda x: density(one)(x) * (math.log(density(one)(x)) - math.log(density(other)(x))), -6, 6)
    assert float(info.kl_divergence(one, other)) == pytest.approx(truth, abs=1e-8)


def test_batches_of_gaussians_broadcast():
    with seeded(4):
        means, stds = torch.randn(5, 3), torch.rand(5, 3) + 0.5
    rows = info.kl(D.Independent(D.Normal(means, stds), 1), D.MultivariateNormal(torch.zeros(3), torch.eye(3)))
    cells = info.gaussian_kl(means, stds, torch.zeros(3), torch.ones(3)).sum(1)
    assert torch.allclose(rows, cells, atol=1e-6)


def test_gaussian_kl_has_right_derivatives_of_both_orders_and_modes():
    with seeded(0):
        means, stds = torch.randn(2, 5).double(), torch.rand(6).double() + 0.3
        arguments = [means[0], stds[:5].clone(), means[1], stds[5:].clone()]
    arguments[1][0] = arguments[3][0]  # equal scales, where the derivative vanishes
    arguments = [a.requires_grad_() for a in arguments]
    assert torch.autograd.gradcheck(info.gaussian_kl, arguments, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(info.gaussian_kl, arguments)
    per_row = torch.func.vmap(torch.func.grad(info.gaussian_kl, argnums=1))(*arguments[:3], arguments[3].expand(5))
    whole = torch.autograd.grad(info.gaussian_kl(*arguments).sum(), arguments[1])[0]
    assert torch.allclose(per_row, whole, rtol=1e-14)


def test_categorical_kl_has_finite_gradients_through_impossible_symbols():
    logits = torch.tensor([0.0, 1.0, -math.inf], requires_grad=True)
    kl = info.kl(D.Categorical(probs=torch.tensor([0.4, 0.6, 0.0])), D.Categorical(logits=logits))
    kl.backward()
    assert kl.isfinite()
    assert logits.grad[:2].isfinite().all()


def test_kl_does_not_change_under_a_bijection():
    p, q = D.Normal(torch.tensor(0.2).double(), 0.5), D.Normal(torch.tensor(-0.1).double(), 0.8)
    bend = [D.AffineTransform(0.3, 0.7), D.TanhTransform()]
    bent_p, bent_q = D.TransformedDistribution(p, bend), D.TransformedDistribution(q, bend)

    def integrand(x):
        x = torch.tensor(x, dtype=torch.float64)
        return (bent_p.log_prob(x).exp() * (bent_p.log_prob(x) - bent_q.log_prob(x))).item()

    assert integral(integrand, -0.999999, 0.999999) == pytest.approx(float(info.kl_divergence(p, q)), abs=1e-8)
    assert float(info.kl_divergence(bent_p, bent_q)) == pytest.approx(float(info.kl_divergence(p, q)), abs=1e-12)


def test_entropy_however_does():
    wide = D.TransformedDistribution(D.Normal(torch.tensor(0.0), 1.0), [D.AffineTransform(0.0, 3.0)])
    measured, truth = info.entropy(wide), float(info.entropy(D.Normal(torch.tensor(0.0), 1.0))) + math.log(3)
    assert abs(float(measured) - truth) < 4 * measured.stderr.item()


def test_monte_carlo_intervals_cover_the_truth():
    """95 % intervals of 100 seeds: at least 88 cover (binomial, false alarm 0.4 %), and the mean itself is within 4 s.e."""
    p = mixture()
    truth = integral(lambda x: -density(p)(x) * math.log(density(p)(x)), -8, 8)
    runs = [info.entropy(p, samples=500, seed=s) for s in range(100)]
    covered = sum(abs(float(r) - truth) < 1.96 * r.stderr.item() for r in runs)
    assert 88 <= covered <= 100
    assert abs(np.mean([float(r) for r in runs]) - truth) < 4 * np.mean([r.stderr.item() for r in runs]) / 10


@pytest.mark.parametrize("name", ["kl_divergence", "cross_entropy", "jensen_shannon", "jeffreys"])
def test_monte_carlo_divergences_agree_with_quadrature(name):
    p, q = mixture(), D.Normal(torch.tensor(0.0).double(), 2.0)
    f, g = density(p), density(q)

    def kl(a, b):
        return integral(lambda x: a(x) * math.log(a(x) / b(x)), -9, 9)

    def middle(x):
        return (f(x) + g(x)) / 2

    truth = {
        "kl_divergence": lambda: kl(f, g),
        "cross_entropy": lambda: integral(lambda x: -f(x) * math.log(g(x)), -9, 9),
        "jensen_shannon": lambda: (kl(f, middle) + kl(g, middle)) / 2,
        "jeffreys": lambda: kl(f, g) + kl(g, f),
    }[name]()
    measured = getattr(info, name)(p, q, samples=20_000, seed=2)
    assert abs(float(measured) - truth) < 4 * measured.stderr.item()


def test_draws_are_a_function_of_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    one, two, three = (float(info.entropy(mixture(), seed=s)) for s in (1, 1, 2))
    assert one == two != three
    assert torch.equal(before, torch.get_rng_state())


def test_maximum_likelihood_minimises_cross_entropy():
    """On a table the empirical frequencies beat every perturbation, and KL(data‖model) + H(data) is the held-in score."""
    counts = torch.tensor([5.0, 1.0, 4.0], dtype=torch.float64)
    data = counts / counts.sum()
    best = float(info.cross_entropy(data, data))
    for model in tables(200, 3, seed=8):
        assert float(info.cross_entropy(data, model)) >= best
        score = (info.surprise(model, torch.arange(3)) * counts).sum() / counts.sum()
        assert float(info.kl_divergence(data, model)) + float(info.entropy(data)) == pytest.approx(score.item(), abs=1e-12)


@pytest.mark.parametrize(
    "bad", [torch.tensor([0.5, 0.6]), torch.tensor([1.5, -0.5]), torch.tensor([math.nan, 1.0]), torch.tensor([1, 0])]
)
def test_what_is_no_table_is_refused(bad):
    with pytest.raises(InputError, match="probabilities that sum to 1"):
        info.entropy(bad)


def test_mixed_kinds_and_shapes_are_refused():
    with pytest.raises(InputError, match="one of each"):
        info.kl_divergence(torch.tensor([0.5, 0.5]), D.Normal(0.0, 1.0))
    with pytest.raises(InputError, match="event shape"):
        info.kl_divergence(gaussian(1), gaussian(1, d=2))
    with pytest.raises(InputError, match="no closed KL"):
        info.kl(mixture(), D.Normal(0.0, 1.0))
