"""Energies of networks against quadrature, enumeration and densities whose score is known."""

import math
import os
import signal

import pytest
import torch

import likeli
from likeli.contract import Knows
from likeli.energy import score_matching
from likeli.errors import InputError, Unsupported
from likeli.probability.mcmc import effective_draws
from likeli.random import Ambient, seeded
from likeli.spaces import Binary, Real, Tokens
from likeli.training.session import Session

F64 = torch.float64


def wild(space, scale=1.2, **options):
    """A network far from its start."""
    with seeded(0, "wild"):
        model = likeli.EBM(space, hidden=(16,), **options).double()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(scale * torch.randn_like(p))
    return model.eval()


@pytest.fixture(scope="module")
def ring():
    return likeli.load_data("ring8")


def test_mass_of_a_plane_lies_between_the_ends():
    """Quadrature on a grid whose spacing resolves the base; four seeds, of which one may miss (5 %, by the binomial law)."""
    model, t = wild(Real((2,))), torch.linspace(-9, 9, 361, dtype=F64)
    with torch.no_grad():
        mass = model.log_f(torch.cartesian_prod(t, t)).logsumexp(0).item() + 2 * math.log((t[1] - t[0]).item())
    found = [model.normalise(chains=100, temperatures=60, seed=seed) for seed in range(4)]
    assert sum(f.low <= mass <= f.high for f in found) >= 3
    assert all(abs(f.value - mass) < 4.5 * f.stderr for f in found)
    assert model.knows_here is Knows.ESTIMATE
    x = torch.zeros(1, 2, dtype=F64)
    assert model.log_likelihood(x).value.item() == pytest.approx(model.log_f(x).item() - found[-1].value, abs=1e-9)


def test_mass_of_bits_lies_between_the_ends():
    model = wild(Binary((8,)))
    every = torch.cartesian_prod(*[torch.arange(2, dtype=F64)] * 8)
    with torch.no_grad():
        mass = model.log_f(every).logsumexp(0).item()
        assert model.log_q(every).logsumexp(0).item() == pytest.approx(0, abs=1e-12)
    found = model.normalise(chains=200, temperatures=40)
    assert abs(found.value - mass) < 4.5 * found.stderr
    assert found.low - 0.1 < mass < found.high + 0.1


def test_explored_states_have_the_moments_of_the_quadrature():
    model, t = wild(Real((2,)), 0.7), torch.linspace(-9, 9, 361, dtype=F64)
    u = torch.cartesian_prod(t, t)
    with torch.no_grad():
        p = model.log_f(u).softmax(0)
    states, rate = model.explore(chains=100, steps=150, burn=60)
    worth = effective_draws(states)
    assert worth.r_hat < 1.05
    assert 0.6 < rate < 1
    mean = p @ u
    spread = (p @ (u - mean).square()).sqrt()
    assert ((states.mean((0, 1)) - mean).abs() < 4.5 * spread / math.sqrt(worth.draws)).all()


def gaussian(k):
    """log f of N(0, diag(1/k))."""
    return lambda u: -0.5 * (u.square() * k).sum(1)


def mixed(u):
    """Cells that depend on each other, so that signs matter."""
    return -0.25 * u.sum(1).square() - u.square().sum(1).square() / 8


def test_score_matching_objectives_are_their_closed_forms():
    """On N(0, 1/k): implicit is ½‖ku‖² − Σk a row, sliced the same, denoising ½σ²‖ψ − ψ_σ‖² plus a constant."""
    k, n = torch.tensor([0.5, 2.0, 4.0], dtype=F64), 50_000
    with seeded(0, "closed"):
        u = torch.randn(n, 3, dtype=F64)
        exact = 0.5 * (k * u).square().sum(1) - k.sum()
        assert torch.allclose(score_matching.implicit(gaussian(k), u[:20]), exact[:20], atol=1e-12)
        assert torch.allclose(score_matching.sliced(gaussian(k), u, Ambient(u)), exact, atol=1e-12)  # H is diagonal, v² = 1
        one = score_matching.sliced(mixed, u[:1].expand(40_000, 3), Ambient(u[:40_000]))
        truth = score_matching.implicit(mixed, u[:1])
        assert abs(one.mean() - truth.item()) < 4.5 * one.std() / 200
        a, b = torch.ones(3, dtype=F64), k
        losses = [score_matching.denoising(gaussian(c), u, 0.3, Ambient(u)) for c in (a, b)]
    v = 1 + 0.3**2  # of u + σξ; its score is −z/v, so the objectives differ by ½σ² v Σ[(c − 1/v)²]
    expected = [0.5 * 0.09 * v * (c - 1 / v).square().sum() for c in (a, b)]
    gap = (losses[0] - losses[1]).mean() - (expected[0] - expected[1])
    assert abs(gap) < 4.5 * ((losses[0].var() + losses[1].var()) / n).sqrt()


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("sliced", "implicit", "noise_contrastive")]


@pytest.mark.parametrize("objective", ["denoising", *SLOWER])
def test_every_objective_beats_one_normal_on_the_ring(ring, objective):
    """Against the base itself, which is what is not learned: half a nat by an estimate whose error is below a tenth of it."""
    with seeded(0, objective):
        model = likeli.EBM(ring.space, (64, 64), objective=objective)
    likeli.fit(model, ring, steps=400, lr=3e-3, progress=False)
    found = model.normalise(chains=50, temperatures=100)
    base = likeli.Independent(ring.space)
    likeli.fit(base, ring, progress=False)
    x = ring.split("test")[0]
    assert found.stderr < 0.1
    assert likeli.evaluate(model, x).nats > likeli.evaluate(base, x).nats + 0.5


def test_noise_contrastive_estimation_finds_the_constant_itself(ring):
    """The classifier's optimum has f normalised, so log Z is near 0 without having been asked for."""
    with seeded(0, "nce"):
        model = likeli.EBM(ring.space, (64, 64), objective="noise_contrastive")
    likeli.fit(model, ring, steps=500, lr=3e-3, progress=False)
    assert abs(model.normalise(chains=50, temperatures=100).value) < 0.15


@pytest.mark.parametrize("family", [likeli.RBM, likeli.EBM])
def test_a_killed_run_goes_on_with_the_states_of_its_chains(monkeypatch, tmp_path, family):
    """To the bit, with a buffer that is older than the kill, restarts and moves."""
    with seeded(0, "rows"):
        x = torch.randint(2, (60, 3)).repeat_interleave(2, 1)

    def run(**options):
        with seeded(0, "weights"):
            model = family(Binary((6,)), contrast=likeli.Contrast(moves=2, buffer=40, restart=0.2))
        history = likeli.fit(model, x, steps=6, batch=16, progress=False, log_every=1, **options)
        return model, [row["loss"] for row in history.rows]

    straight, losses = run()
    take = Session.take

    def stopping(self, row):
        take(self, row)
        if self.run.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "take", stopping)
        with pytest.raises(likeli.Interrupted):
            run(out=tmp_path / "run")
    resumed, again = run(out=tmp_path / "run", resume=True)
    assert again == losses
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), resumed.state_dict().values()))


def test_options_that_do_not_go_together_are_one_line():
    for options, message in (
        ({"sigma": 0.0}, "sigma: expected"),
        ({"leapfrogs": 0}, "leapfrogs: expected"),
        ({"hidden": ()}, "hidden: expected"),
    ):
        with pytest.raises(InputError, match=message):
            likeli.EBM(Real((2,)), **options)
    with pytest.raises(InputError, match="objective: expected"):
        likeli.EBM(Binary((4,)), objective="denoising")
    with pytest.raises(Unsupported, match="continuous form"):
        likeli.EBM(Tokens(4, 3))


@pytest.mark.slow
def test_noise_may_be_a_mixture_fitted_in_place_or_a_model_that_stays_as_it_is(ring, tmp_path):
    """q is normalised, its draws are what the data is told from, and the bracket holds the mass that quadrature finds."""
    with seeded(0, "noise"):
        model = likeli.EBM(ring.space, (16,), objective="noise_contrastive", noise=3)
    likeli.fit(model, ring, steps=60, progress=False)
    mixture = likeli.GMM(ring.space, 3)
    likeli.fit(mixture, ring, progress=False)
    t = torch.linspace(-6, 6, 401)
    u = torch.cartesian_prod(t, t)
    with torch.no_grad():
        mass = model.double().log_f(u.double()).logsumexp(0).item() + 2 * math.log((t[1] - t[0]).item())
        assert model.log_q(u.double()).exp().sum().item() * (t[1] - t[0]).item() ** 2 == pytest.approx(1, abs=1e-3)
    found = model.normalise(chains=100, temperatures=40)
    assert abs(found.value - mass) < 4.5 * found.stderr + 1e-3
    assert found.ess > 90  # the path from a mixture is short
    fixed = likeli.EBM(ring.space, (16,), objective="noise_contrastive", noise=mixture)
    before = {k: v.clone() for k, v in mixture.state_dict().items()}
    likeli.fit(fixed, ring, steps=20, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in fixed.q.state_dict().items())
    likeli.save(fixed, tmp_path / "run")
    again = likeli.load(tmp_path / "run")
    x = ring.split("test")[0][:5]
    assert torch.equal(again.log_likelihood(x).value, fixed.log_likelihood(x).value)
    assert again.log_likelihood(x).knows is Knows.UNNORMALIZED


@pytest.mark.slow
def test_noise_contrastive_estimation_against_the_truth_itself_learns_nothing():
    """q = p: the best classifier is ½ everywhere, loss 2 log 2 and log Z = 0, within its bracket's width."""
    with seeded(0, "truth"):
        means, covariances = torch.tensor([[-1.0, 0], [1.0, 0]]), 0.3 * torch.eye(2).expand(2, 2, 2)
        p = likeli.GMM.from_parameters(Real((2,)), [0.5, 0.5], means, covariances)
        model = likeli.EBM(Real((2,)), (16,), objective="noise_contrastive", noise=p)
    likeli.fit(model, p.sample(2000), steps=300, progress=False)
    x = p.sample(500, seed=9)
    with torch.no_grad(), seeded(1, "loss"):
        loss = model.loss(x)
    assert loss.mean().item() == pytest.approx(2 * math.log(2), abs=0.02)
    found = model.normalise(chains=100, temperatures=20)
    assert abs(found.value) < 0.1
    gap = (model.log_likelihood(x).value.double() - p.log_likelihood(x).value.double()).mean().item()
    assert abs(gap) < 0.03  # KL(p ‖ model) of what 2,000 rows can teach


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": 0}, "noise: expected a whole number from 1"),
        ({"noise": likeli.GMM(Real((3,)), 2)}, "noise: expected a density model of"),
        ({"space": Binary((4,)), "noise": 2}, "noise: expected 1 for bits"),
    ],
)
def test_noise_that_does_not_fit_is_one_line(options, said):
    with pytest.raises(InputError, match=said):
        likeli.EBM(**({"space": Real((2,))} | options))
