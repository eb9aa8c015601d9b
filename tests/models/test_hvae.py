"""Hierarchies of Gaussian levels against flat Gaussians, quadrature and each other."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import distributions as D

from families import flat
from likeli.data import load_data
from likeli.errors import InputError
from likeli.latent.chain import log_weight
from likeli.models.hvae import HVAE, LadderBackbone
from likeli.models.independent import Independent
from likeli.models.markov_hvae import MarkovHVAE
from likeli.nn.ladder import grow, pyramid, shrink
from likeli.probability.draw import gaussian_product
from likeli.random import Replay, seeded
from likeli.spaces import Binary, Gaussian, Labels, Pixels, Real
from likeli.training import fit


def double(model):
    return model.double().requires_grad_(False)


def perturb(model, seed=1, scale=0.3):
    """Move every parameter off its initial zeros, so that no path is silent."""
    with seeded(seed):
        for p in model.parameters():
            p.data.add_(scale * torch.randn_like(p))
    return model


def test_gaussian_product_adds_precisions():
    """R54, I16: relative 1e-12 against 1/σ² = 1/σ_p² + 1/σ_d²."""
    with seeded(0):
        mp, md = torch.randn(2, 100, dtype=torch.float64)
        sp, sd = torch.rand(2, 100, dtype=torch.float64) + 0.05
    mean, std = gaussian_product(mp, sp, md, sd)
    precision = 1 / sp**2 + 1 / sd**2
    assert torch.allclose(std, precision.rsqrt(), rtol=1e-12)
    assert torch.allclose(mean, (mp / sp**2 + md / sd**2) / precision, rtol=1e-12, atol=1e-14)


def test_gaussian_product_survives_extremes():
    """A flat evidence leaves the prior, an infinitely sharp one is followed; float32 stays finite."""
    one, far = torch.ones(1), torch.full((1,), 1e18)
    mean, std = gaussian_product(one, one, 0 * one, far)
    assert mean.item() == 1 and std.item() == 1
    mean, std = gaussian_product(one, one, 3 * one, 1e-18 * one)
    assert mean.item() == 3 and 0 < std.item() < 1e-17


def near_the_prior(model):
    """Weaken the evidence of every level, so that p/q has light tails and a few thousand weights tell their mean."""
    for level in model.levels:
        head = level.evidence[-1]
        head.weight.data.mul_(0.1)
        head.bias.data.zero_()
    return model


def linear_chain(**options):
    """A chain of linear maps whose scales do not depend on z, so that p(x) is one Gaussian."""
    with seeded(0):
        model = flat(HVAE, Real((2,)), (1, 1), width=4, blocks=0, inference="ladder", head=Gaussian(), **options)
    for level in model.levels:
        level.evidence[-1].weight.data[:1] *= 4  # away from the symmetric point at which no level is used
        level.prior.weight.data[1:] = 0
        level.prior.weight.register_hook(lambda g: torch.cat([g[:1], 0 * g[1:]]))
    return model.double()


@pytest.mark.parametrize("markov", [pytest.param(True, marks=pytest.mark.slow), False])
def test_linear_ladder_reaches_the_exact_log_likelihood(markov):
    """R51, R54: with linear maps the model is one flat Gaussian and the ladder's q can be its exact posterior, so the bound at
    the optimum is the maximum likelihood of a full 2-D Gaussian.  The expectation over q is taken on a Gauss–Hermite grid.
    """
    with seeded(3):
        x = torch.randn(30, 2, dtype=torch.float64) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]], dtype=torch.float64)
    x = x - x.mean(0)
    model = linear_chain(markov=markov)
    # log p(x|z) is quadratic in z and each KL quadratic in the z above it, so 3 nodes a level integrate exactly
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = torch.tensor(np.outer(weights, weights).ravel() / weights.sum() ** 2).repeat_interleave(30) / 30
    upper, lower = (torch.tensor(n.ravel()).repeat_interleave(30)[:, None] for n in np.meshgrid(nodes, nodes, indexing="ij"))

    def bound():
        return (weights * model.elbo(x.repeat(9, 1), noise=Replay([upper, lower])).value).sum()

    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=400, tolerance_grad=1e-10, tolerance_change=1e-14,
                                  history_size=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = -bound()
        loss.backward()
        return loss

    optimiser.step(closure)
    covariance = x.T @ x / len(x)
    best = D.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance).log_prob(x).mean().item()
    assert bound().item() <= best + 1e-9
    assert best - bound().item() < 1e-4


def test_ledger_sums_to_the_bound_and_each_kl_is_nonnegative():
    """R53: the per-level table sums to the ELBO exactly; every closed-form KL is ≥ 0."""
    model = perturb(HVAE(Binary((6,)), (3, 2, 2), LadderBackbone(16)))
    with seeded(0):
        x = torch.randint(0, 2, (32, 6))
        elbo = model.elbo(x)
    assert elbo.kl.shape == (32, 3) and (elbo.kl >= 0).all()
    assert torch.equal(elbo.value, elbo.reconstruction - elbo.kl.sum(1))


@pytest.mark.parametrize("options", [dict(), dict(inference="ladder"), dict(inference="residual"), dict(markov=True)])
def test_importance_weights_recover_the_enumerated_truth(options):
    """R51, R107: over all 2³ binary vectors the mean weights sum to one within 4 s.e., and the ELBO stays below log of them."""
    with seeded(0, "weights"):
        model = flat(HVAE, Binary((3,)), (2, 1), width=8, **options)
        model = near_the_prior(perturb(model, scale=0.1)).requires_grad_(False)
    x = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    with seeded(5):
        log_w = log_weight(model, x.repeat(4000, 1)).reshape(4000, 8).double()
        elbo = model.elbo(x.repeat(4000, 1)).value.reshape(4000, 8).double()
    p, stderr = log_w.exp().mean(0), log_w.exp().std(0) / 4000**0.5
    assert abs(p.sum().item() - 1) < 4 * stderr.norm().item()
    assert (elbo.mean(0) <= p.log() + 4 * elbo.std(0) / 4000**0.5 + 4 * stderr / p).all()


@pytest.mark.parametrize("inference", ["direct", "ladder", "residual"])
def test_a_pyramid_of_grids_is_a_distribution(inference):
    """R51: 2×2 cells under a dense level; over all 2⁴ images the mean weights sum to one within 4 s.e. (false alarm 6e-5), and
    one row's bound does not depend on the others'."""
    options = {"network": "conv", "patch": 1, "halvings": (0, 1), "width": (4, 6), "inference": inference}
    with seeded(0, "weights"):
        model = flat(HVAE, Binary((2, 2)), (1, 2), **options)
        model = near_the_prior(perturb(model, scale=0.1)).requires_grad_(False)
    assert model.levels[0].prior(torch.zeros(1, 4, 2, 2)).shape == (1, 2, 2, 2)
    assert model.levels[1].prior(torch.zeros(1, 6)).shape == (1, 4)
    x = torch.tensor([[i >> k & 1 for k in range(4)] for i in range(16)]).reshape(16, 2, 2)
    with seeded(5):
        log_w = log_weight(model, x.repeat(3000, 1, 1)).reshape(3000, 16).double()
    p, stderr = log_w.exp().mean(0), log_w.exp().std(0) / 3000**0.5
    assert abs(p.sum().item() - 1) < 4 * stderr.norm().item()
    noise = [torch.randn(16, 2), torch.randn(16, 1, 2, 2)]
    together = model.elbo(x, noise=Replay(noise))
    alone = model.elbo(x[3:4], noise=Replay([n[3:4] for n in noise]))
    assert torch.allclose(together.value[3:4], alone.value, atol=1e-5)
    assert (together.kl >= 0).all() and together.kl.shape == (16, 2)


@pytest.mark.parametrize("cells", [(7, 7), (8, 6), (5, 3), (1, 9), (2, 2)])
def test_grids_shrink_and_grow_to_each_other(cells):
    """Each halving rounds up, so that `grow` undoes the shape of `shrink` whatever the sides."""
    grids = pyramid(cells, (3, 4, 5, 6), (0, 1, 2, 5), 0.0)
    assert grids[-1].cells == ()
    for fine, coarse in itertools.combinations(grids, 2):
        h = torch.zeros(2, fine.width, *fine.cells)
        down = shrink(fine, coarse)(h)
        assert down.shape == (2, coarse.width, *coarse.cells)
        assert grow(coarse, fine)(down).shape == h.shape


def test_markov_level_sees_only_the_one_above():
    """R52: with markov=True, p(z_1|z_2) is the same whatever z_3 was."""
    for markov in (True, False):
        model = perturb(HVAE(Binary((6,)), (2, 2, 2), LadderBackbone(8), markov=markov))
        z2, tops = torch.ones(4, 2), torch.randn(2, 4, 2)
        heads = []
        for top in tops:
            state = model.descend(3, model.root(Replay([top])), top)
            heads.append(model.prior(1, model.descend(2, state, z2)).base_dist.loc)
        assert torch.equal(*heads) == markov


def test_bottom_up_bound_equals_its_log_weights_in_expectation_and_stays_below():
    """Note 000: the log-ratio ELBO and E log w are one number (4 s.e., false alarm 6e-5), below log E w."""
    model = perturb(MarkovHVAE(Binary((3,)), latent_dims=(2, 1), hidden=(8,)))
    x = torch.tensor([[0, 1, 1], [1, 0, 0]])
    with seeded(0):
        a = model.elbo(x.repeat(3000, 1)).value.detach().reshape(3000, 2)
        b = log_weight(model, x.repeat(3000, 1)).detach().reshape(3000, 2)
        w = log_weight(model, x.repeat(3000, 1)).detach().reshape(3000, 2).double().exp()
    stderr = (a.var(0) / 3000 + b.var(0) / 3000).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 4 * stderr).all()
    assert (a.mean(0) <= w.mean(0).log() + 4 * (stderr + w.std(0) / w.mean(0) / 3000**0.5)).all()


def test_bottom_up_with_one_level_is_a_vae_chain():
    """R52: T=1 bottom-up and the top-down chain's arithmetic agree: reconstruction − KL(q‖N(0, I)) at the same noise."""
    model = perturb(MarkovHVAE(Binary((4,)), latent_dims=(3,), hidden=(8,))).double()
    x = torch.randint(0, 2, (5, 4), generator=torch.Generator().manual_seed(0))
    eps = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q = model.infer(x)
    z = q.mean + q.stddev * eps
    by_hand = model.observation(z).log_prob(x) - D.kl_divergence(q.base_dist, D.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(model.elbo(x, noise=Replay([eps])).value, by_hand, rtol=1e-12)


def test_kl_recursion_over_groups():
    """R55, I16: E_q(z2)[KL(q(z1|z2)‖p(z1|z2))] + KL(q(z2)‖p(z2)) equals the joint KL by 2-D quadrature to 1e-6."""
    model = perturb(HVAE(Binary((3,)), (1, 1), LadderBackbone(8)), scale=0.2).double()
    x = torch.tensor([[1, 0, 1]])
    context = model.infer(x)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    n, w = torch.tensor(nodes), torch.tensor(weights / math.sqrt(2 * math.pi))
    zeros = torch.zeros(60, 1, dtype=torch.float64)
    rows = Replay([zeros])
    wide = [e.expand(60, -1) for e in context]
    p2 = model.prior(2, model.root(rows))
    q2 = model.posterior(2, model.root(rows), wide, p2)
    z2 = q2.mean + q2.stddev * n[:, None]
    state = model.descend(2, model.root(rows), z2)
    p1 = model.prior(1, state)
    q1 = model.posterior(1, state, wide, p1)
    z1 = q1.mean + q1.stddev * n[None, :]  # (z2 node, z1 node): q1's mean is (60, 1)
    log_ratio = (q2.log_prob(z2) - p2.log_prob(z2))[:, None] + q1.base_dist.log_prob(z1) - p1.base_dist.log_prob(z1)
    joint = (w[:, None] * w[None, :] * log_ratio).sum().item()
    upper, lower = (D.kl_divergence(q.base_dist, p.base_dist)[:, 0] for q, p in ((q2, p2), (q1, p1)))
    nested = upper[0] + (w * lower).sum()
    assert abs(joint - nested.item()) < 1e-6


@pytest.mark.slow
def test_convolutional_ladder_trains_at_depth_twelve():
    """R51: twelve levels start as the identity, get finite gradients everywhere, and the loss falls."""
    with seeded(0):
        model = HVAE(Pixels((8, 8), 17), latent_dims=(1,) * 12, backbone=LadderBackbone(16, network="conv", patch=2))
    x = torch.randint(0, 17, (64, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x = x // 6 * 6  # something to learn: three of the seventeen levels
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    with seeded(1):
        for _ in range(25):
            optimiser.zero_grad()
            loss = model.loss(x).mean()
            loss.backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 20


@pytest.mark.slow
@pytest.mark.parametrize("depth", [10, 20, 30])
def test_deep_pyramids_train_without_blowing_up(depth):
    """R51: on 8×8 digits every loss and gradient is finite, at most 5 % of the steps are skipped for gradients ten times the
    usual, and the bound ends above what independent pixels reach, so that the levels are in use."""
    data = load_data("digits")
    halvings = tuple(min(2, 3 * i // depth) for i in range(depth))
    options = {"network": "conv", "patch": 2, "halvings": halvings, "kl_warmup": 150}
    with seeded(0):
        model = flat(HVAE, data.space, (2,) * depth, width=24, **options)
    history = fit(model, data, steps=300, lr=2e-3, batch=64, skip=10.0, log_every=1, progress=False)
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["gradient"]) for row in history.rows)
    skipped = [int(note.split()[0]) for note in history.notes if "skipped" in note]
    assert sum(skipped) <= 0.05 * 300
    yardstick = Independent(data.space)
    yardstick.fit_closed_form(data.split("train")[0])
    x, _ = data.split("valid")
    assert -history.best["valid"] > yardstick.log_likelihood(x).value.mean()


def test_condition_changes_the_model():
    model = perturb(HVAE(Binary((4,)), (2, 2), LadderBackbone(8), condition=Labels(3)))
    x = torch.randint(0, 2, (6, 4), generator=torch.Generator().manual_seed(0))
    a, b = (model.log_likelihood(x, torch.full((6,), k)).value for k in (0, 2))
    assert not torch.allclose(a, b, atol=1e-3)
    with pytest.raises(InputError, match="y: expected"):
        model.sample(2)


def test_sampling_from_any_level_with_the_rest_fixed():
    """R51: a fixed top level leaves the levels below random; with all levels fixed E[x|z] is one point."""
    model = perturb(HVAE(Binary((6,)), (2, 2), LadderBackbone(8)))
    code = model.codes(torch.randint(0, 2, (1, 6), generator=torch.Generator().manual_seed(0)))
    assert model.sample(20, mean=True, fixed={2: code[2]}).unique(dim=0).shape[0] == 20
    everything = model.sample(20, mean=True, fixed=code)
    state = model.descend(1, model.descend(2, model.root(Replay([code[2]])), code[2]), code[1])
    assert torch.allclose(everything, model.observation(state).mean.expand(20, 6), atol=1e-6)
    with pytest.raises(InputError, match="fixed"):
        model.sample(1, fixed={3: code[2]})


def test_sampling_the_bottom_up_chain_with_a_level_fixed():
    """R51: fixing z_1 leaves one E[x|z_1] whatever is above; fixing z_2 alone leaves z_1 random."""
    model = perturb(MarkovHVAE(Binary((6,)), latent_dims=(2, 3), hidden=(8,)))
    code = model.codes(torch.randint(0, 2, (1, 6), generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(model.sample(20, mean=True, fixed={1: code[1]}), model.observation(code[1]).mean.expand(20, 6))
    assert model.sample(20, mean=True, fixed={2: code[2]}).unique(dim=0).shape[0] == 20
    for bad in ({0: code[1]}, {1: code[2]}):
        with pytest.raises(InputError, match="fixed: expected"):
            model.sample(1, fixed=bad)


BAD = [
    (dict(latent_dims=()), "latent_dims: expected at least one level"),
    (dict(latent_dims=(0,)), "latent_dims"),
    (dict(width=0), "width: expected at least 1"),
    (dict(width=(8, 0, 8)), "width: expected at least 1"),
    (dict(width=(8, 8)), "width: expected one number, or one for each of 3 levels"),
    (dict(blocks=-1), "blocks"),
    (dict(dropout=1.0), "dropout"),
    (dict(kl_warmup=-1), "kl_warmup"),
    (dict(halvings=(0, 1, 1)), "halvings: expected none with an mlp"),
    (dict(halvings=(0, 1), network="conv"), "halvings: expected none, or one for each of 3 levels"),
    (dict(halvings=(0, 2, 1), network="conv"), "halvings: expected whole numbers that do not fall"),
    (dict(halvings=(-1, 0, 0), network="conv"), "halvings: expected whole numbers"),
    (dict(patch=3, network="conv"), "patch: expected a divisor of 8 and 8"),
    (dict(patch=0, network="conv"), "patch: expected a divisor of 8 and 8"),
    (dict(head=Gaussian()), "head: expected one for pixels data"),
]


@pytest.mark.parametrize("bad, words", BAD)
def test_bad_arguments_are_named(bad, words):
    with pytest.raises(InputError) as caught:
        flat(HVAE, Pixels((8, 8), 4), **bad)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_a_convolutional_ladder_is_for_images():
    with pytest.raises(InputError, match="network: expected mlp"):
        HVAE(Real((5,)), backbone=LadderBackbone(network="conv"))


def test_codes_of_a_wrong_shape_or_level_are_named():
    model = HVAE(Pixels((8, 8), 4), (2, 3), LadderBackbone(8, network="conv", patch=4, halvings=(0, 1)))
    assert model.sample(2, fixed={1: torch.zeros(1, 2, 2, 2), 2: torch.zeros(3)}).shape == (2, 8, 8)
    for level, code in {1: torch.zeros(1, 3, 2, 2), 2: torch.zeros(5, 3)}.items():
        with pytest.raises(InputError, match=f"fixed: expected a code of shape .* at level {level}, got"):
            model.sample(2, fixed={level: code})
    with pytest.raises(InputError, match="fixed: expected numbers that are finite at level 2"):
        model.sample(2, fixed={2: torch.full((1, 3), math.nan)})


@pytest.mark.parametrize("inference", ["ladder", *(pytest.param(n, marks=pytest.mark.slow) for n in ("direct", "residual"))])
def test_every_level_starts_at_its_prior_and_a_short_fit_of_any_seed_gains(inference):
    """A fresh ladder's KL is below 0.15 nats a level of 16 latents; 25 steps of the product's own training diverge nowhere."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (256, 3), generator=generator)
    x[:, 1] = x[:, 0]
    for seed in range(4):
        with seeded(seed, "ladder"):
            model = HVAE(Binary((3,)), inference=inference)
        with torch.no_grad(), seeded(seed, "start"):
            start = model.elbo(x)
        assert start.kl.mean(0).max() < 0.15
        fit(model, x, steps=25, seed=seed)
        with torch.no_grad(), seeded(seed, "end"):
            assert model.elbo(x).value.mean() > start.value.mean()
