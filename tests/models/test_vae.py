"""The VAE against probabilistic PCA, quadrature and itself: bounds, priors, posteriors, conditions, objectives."""

import math

import pytest
import torch
from scipy import interpolate, stats
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from families import flat
from likeli.config import build, describe
from likeli.contract import Coded, GenerativeModel
from likeli.errors import InputError
from likeli.latent.chain import log_weight
from likeli.latent.posterior import make_posterior
from likeli.latent.prior import make_prior
from likeli.models.vae import VAE, CoderBackbone, LatentPrior, VariationalObjective
from likeli.probability.draw import draw
from likeli.random import Replay, Streams, seeded
from likeli.spaces import Bernoulli, Binary, Gaussian, Labels, Pixels, Real
from likeli.training import fit

EIGENVALUES = torch.tensor([9.0, 4.0, 1.0, 0.25, 0.25], dtype=torch.double)


def exact_normal(n, seed=0):
    """n rows whose sample mean is 0 and sample covariance (by 1/n) diagonal with the eigenvalues, to rounding."""
    with seeded(seed, "rows"):
        x = torch.randn(n, 5, dtype=torch.double)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / n), x.T, upper=False).T
    return white * EIGENVALUES.sqrt()


def quadrature_bound(vae, x):
    """The ELBO without Monte Carlo error where it is quadratic in z: noise at ±√d along each axis, equally weighted."""
    d = vae.latent_dim
    axes = math.sqrt(d) * torch.eye(d, dtype=torch.double)
    noise = torch.cat([axes, -axes]).repeat_interleave(len(x), 0)
    many, context = x.repeat(2 * d, 1), vae.infer(x).repeat(2 * d, 1)
    return vae.elbo(many, context=context, noise=Replay([noise])).value.mean()


def optimise(vae, x, iterations=400):
    """The bound at its optimum, by L-BFGS in double precision."""
    parameters = [p for p in vae.parameters() if p.requires_grad]
    lbfgs = torch.optim.LBFGS(
        parameters, max_iter=iterations, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe", history_size=50
    )

    def closure():
        lbfgs.zero_grad()
        loss = -quadrature_bound(vae, x)
        loss.backward()
        return loss

    lbfgs.step(closure)
    with torch.no_grad():
        return quadrature_bound(vae, x).item()


def ppca_maximum(size):
    """The maximal mean log-likelihood of PPCA with `size` directions, and its σ².  Tipping & Bishop (1999)."""
    kept, left = EIGENVALUES[:size], EIGENVALUES[size:]
    variance = left.mean()
    log_det = kept.log().sum() + len(left) * variance.log()
    return -0.5 * (5 * math.log(2 * math.pi) + log_det + 5).item(), variance.item()


def linear(latent_dim=2, head=None, **options):
    with seeded(1, "weights"):
        return flat(VAE, Real((5,)), latent_dim, hidden=(), head=head or Gaussian("learned"), **options).double()


# --- the linear VAE is PPCA --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_linear_vae_reaches_the_maximum_likelihood_of_ppca(posterior):
    vae, x = linear(posterior_family=posterior), exact_normal(60)
    best, variance = ppca_maximum(2)
    assert optimise(vae, x) == pytest.approx(best, abs=1e-6)
    assert vae.head.log_width.exp().square().item() == pytest.approx(variance, abs=1e-3)


@pytest.mark.parametrize("variance", [0.6, 6.0, *(pytest.param(v, marks=pytest.mark.slow) for v in (0.1, 2.5, 12.0))])
def test_dimensions_collapse_exactly_where_the_noise_exceeds_the_eigenvalue(variance):
    """With σ² fixed, PPCA's optimum keeps the directions of eigenvalue above σ²; the others' KL is zero."""
    vae, x = linear(3, Gaussian("fixed", width=math.sqrt(variance))), exact_normal(60)
    optimise(vae, x, 250)
    q = vae.posterior(1, None, vae.infer(x), None)
    kl = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(0.0, 1.0)).mean(0)
    expected = 0.5 * (EIGENVALUES[:3] / variance).log().clamp(min=0)  # mutual information of a direction and its code
    # the decoder's columns are orthogonal at the optimum, so the codes are the directions in some order
    assert torch.allclose(kl.sort().values, expected.sort().values, atol=2e-3)
    assert int((kl > 0.01).sum()) == int((EIGENVALUES[:3] > variance).sum())


def test_draws_have_the_models_covariance_and_means_lack_the_noise():
    """Entries of a sample covariance of 20,000 rows lie within 5 standard errors (chance 3e-5 over 50 entries)."""
    vae = linear()
    vae.head.log_width.data.fill_(math.log(0.8))
    w, n = vae.decoder[0].weight.detach(), 20_000
    for mean, noise in ((False, 0.64), (True, 0.0)):
        x, truth = vae.sample(n, mean=mean, seed=1), w @ w.T + noise * torch.eye(5)
        spread = (truth.diagonal()[:, None] * truth.diagonal() + truth.square()).div(n).sqrt()
        assert ((torch.cov(x.T) - truth).abs() < 5 * spread + 1e-12).all()
        assert ((x.mean(0) - vae.decoder[0].bias.detach()).abs() < 5 * (truth.diagonal() / n).sqrt()).all()


def test_missing_cells_are_integrated_out():
    """The bound with many weights meets the Gaussian of the observed cells: 4 s.e. of a mean, and the known bias var/2."""
    vae = linear(head=Gaussian("fixed", width=1.0))
    for p in vae.encoder.parameters():
        p.data.zero_()  # q is the prior, so that no weight is extreme
    x = vae.sample(200, seed=5)
    x[:, [1, 4]] = math.nan
    w, b, seen = vae.decoder[0].weight.detach(), vae.decoder[0].bias.detach(), [0, 2, 3]
    covariance = (w @ w.T + torch.eye(5).double())[seen][:, seen]
    truth = torch.distributions.MultivariateNormal(b[seen], covariance).log_prob(x[:, seen])
    result = vae.log_likelihood(x, samples=400)
    variance = result.stderr.square().mean()
    assert abs((result.value - truth).mean()) < 4 * (variance / 200).sqrt() + variance / 2


# --- squared error, noise and β ----------------------------------------------------------------------------------------


def test_weighting_the_kl_is_rescaling_the_noise():
    """β-VAE of σ² = β · VAE of βσ², up to constants: ‖x−μ‖²/2σ² + β·KL = β(‖x−μ‖²/2βσ² + KL)."""
    beta, x = 3.0, torch.randn(20, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    narrow, wide = linear(head=Gaussian("fixed", width=0.5), beta=beta), linear(head=Gaussian("fixed", width=0.5 * beta**0.5))
    wide.load_state_dict(narrow.state_dict())
    with seeded(0):
        a = narrow.loss(x)
    with seeded(0):
        b = wide.loss(x)
    constant = [2.5 * math.log(2 * math.pi * s2) for s2 in (0.25, 0.25 * beta)]
    assert torch.allclose(a - constant[0], beta * (b - constant[1]), rtol=1e-6)  # log σ is stored in single precision


def test_the_noise_that_explains_most_is_the_mean_squared_error():
    vae, x = linear(), exact_normal(60)
    optimise(vae, x)
    d = vae.latent_dim
    axes = math.sqrt(d) * torch.eye(d, dtype=torch.double)
    q = vae.posterior(1, None, vae.infer(x), None)
    errors = [(x - vae.decode(q.mean + q.stddev * e)).square().mean() for e in (*axes, *-axes)]
    assert torch.stack(errors).mean().item() == pytest.approx(vae.head.log_width.exp().square().item(), abs=1e-6)


# --- what leaves the bound, and says so --------------------------------------------------------------------------------


def test_tricks_change_the_loss_but_never_the_bound():
    x = torch.rand(16, 6, generator=torch.Generator().manual_seed(0)).round()
    plain = VAE(Binary((6,)), 3, CoderBackbone((8,)))
    assert plain.notes == []
    for options in ({"beta": 0.5}, {"free_nats": 3.0}, {"kl_warmup": 10}):
        other = flat(VAE, Binary((6,)), 3, hidden=(8,), **options)
        other.load_state_dict(plain.state_dict())
        assert "not a bound" in other.notes[0]
        with seeded(0):
            loss, bound = other.loss(x), None
        with seeded(0):
            bound = plain.elbo(x)
        with seeded(0):
            assert torch.equal(other.elbo(x).value, bound.value)
        assert not torch.equal(loss, -bound.value)
        assert torch.equal(other.log_likelihood(x).value, plain.log_likelihood(x).value)


def test_free_nats_are_the_kl_that_costs_nothing():
    vae = VAE(Binary((6,)), 3, CoderBackbone((8,)), objective=VariationalObjective(free_nats=0.05)).double()
    vae.encoder[-1].weight.data *= 4  # some dimensions above the allowance, some below
    x = torch.rand(64, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0)).round()
    q = vae.posterior(1, None, vae.infer(x), None)
    kl = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(0.0, 1.0)).mean(0)
    with seeded(0):
        reconstruction = vae.elbo(x).reconstruction.mean()
    with seeded(0):
        loss = vae.loss(x).mean()
    assert loss.item() == pytest.approx((kl.clamp(min=0.05).sum() - reconstruction).item(), rel=1e-12)


def test_warmup_counts_training_steps_and_travels_with_the_weights():
    objective, x = VariationalObjective(2.0, kl_warmup=4), torch.ones(5, 6)
    vae = VAE(Binary((6,)), 3, CoderBackbone((8,)), objective=objective).double()
    weights = []
    for _ in range(6):
        with seeded(0):
            loss = vae.train().loss(x).detach()
        with seeded(0):
            bound = vae.elbo(x)
        weights.append(((loss + bound.reconstruction) / bound.kl[:, 0]).mean().item())
    assert weights == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0], rel=1e-4)
    other = VAE(Binary((6,)), 3, CoderBackbone((8,)), objective=VariationalObjective(2.0, kl_warmup=4))
    other.load_state_dict(vae.state_dict())
    assert other.kl_weight.steps == 6
    fresh = VAE(Binary((6,)), 3, CoderBackbone((8,)), objective=VariationalObjective(2.0, kl_warmup=4)).eval()
    with seeded(0):
        loss = fresh.loss(x)
    with seeded(0):
        bound = fresh.elbo(x)
    assert torch.allclose(loss, 2 * bound.kl[:, 0] - bound.reconstruction)  # out of training the loss is its own goal
    assert fresh.kl_weight.steps == 0


# --- importance-weighted training --------------------------------------------------------------------------------------


def iwae(gradient, k=8, **options):
    vae = linear(2, Gaussian("fixed", width=0.7), train_samples=k, gradient=gradient, **options)
    with torch.no_grad():
        w = vae.decoder[0].weight
        w.copy_(torch.linalg.qr(w)[0] * torch.tensor([2.0, 1.0]))  # orthogonal columns: the exact posterior is diagonal
        m = w.T @ w + 0.49 * torch.eye(2).double()
        to_mean = m.inverse() @ w.T
        vae.head.log_width.fill_(0.5 * math.log(0.49))
        vae.encoder[0].weight.copy_(torch.cat([to_mean, torch.zeros(2, 5)]))
        vae.encoder[0].bias.copy_(torch.cat([-to_mean @ vae.decoder[0].bias, 0.5 * (0.49 * m.inverse()).diagonal().log()]))
    return vae


def test_importance_weighted_loss_is_the_log_of_the_mean_weight():
    vae, x = linear(train_samples=5), exact_normal(20)
    with seeded(3):
        loss = vae.loss(x)
    with seeded(3):
        eps = torch.randn(100, 2, dtype=torch.double)
    context = vae.infer(x).repeat_interleave(5, 0)
    log_w = log_weight(vae, x.repeat_interleave(5, 0), context=context, noise=Replay([eps])).unflatten(0, (20, 5))
    assert torch.allclose(loss, math.log(5) - log_w.logsumexp(1), rtol=1e-13)


def test_doubly_reparameterised_gradient_vanishes_at_the_exact_posterior_where_the_standard_one_is_noise():
    x = exact_normal(50)
    norms = {}
    for gradient in ("standard", "dreg"):
        vae = iwae(gradient)
        with seeded(0):
            loss = vae.loss(x)
        norms[gradient] = torch.autograd.grad(loss.mean(), vae.encoder[0].bias)[0].norm().item()
        norms[gradient, "value"] = loss.detach()
    assert norms["dreg"] < 1e-12
    assert norms["standard"] > 1e-2
    assert torch.allclose(norms["dreg", "value"], norms["standard", "value"], rtol=1e-12)


def test_both_gradients_have_the_same_mean_for_every_parameter():
    """500 repetitions of 4 rows; each entry of the difference of means lies within 5 s.e. (chance 3e-5 over 50 entries)."""
    x, repeats = exact_normal(60)[:4], 500
    found = {}
    for gradient in ("standard", "dreg"):
        vae = iwae(gradient, k=3)
        vae.encoder[0].bias.data += torch.tensor([0.3, -0.2, 0.2, 0.1])
        draws = []
        for seed in range(repeats):
            with seeded(seed, gradient):
                draws.append(torch.autograd.grad(vae.loss(x).mean(), (vae.encoder[0].bias, vae.decoder[0].bias)))
        found[gradient] = [torch.stack(g) for g in zip(*draws)]
    for a, b in zip(found["standard"], found["dreg"]):
        error = ((a.var(0) + b.var(0)) / repeats).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()
    assert found["dreg"][0].var(0).sum() < found["standard"][0].var(0).sum()


# --- priors and posteriors ---------------------------------------------------------------------------------------------


def plane(half=9.0, n=361):
    """A grid over a square of the plane and the area of a cell."""
    axis = torch.linspace(-half, half, n, dtype=torch.double)
    return torch.cartesian_prod(axis, axis), (2 * half / (n - 1)) ** 2


def some_prior(family):
    posterior = make_posterior("diagonal", 2)
    with seeded(2, family):
        encoder = torch.nn.Linear(4, 4).double()
        prior = make_prior(family, 2, 3, (4,), lambda u: posterior(encoder(u)), given=2).double()
        for p in prior.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return prior


@pytest.mark.parametrize("family", ["normal", "mixture", "vamp", "flow", "conditional", "conditional_flow"])
def test_priors_integrate_to_one_and_draw_what_they_score(family):
    """A wrong marginal is found by a KS test at level 1e-4 against the density's own integral; of p(z|y) one y is taken."""
    prior, (grid, area) = some_prior(family), plane()
    y = torch.tensor([[1.0, -0.5]], dtype=torch.double)
    with torch.no_grad():
        density = prior(len(grid), y.expand_as(grid)).log_prob(grid).exp().reshape(361, 361)
        own = family not in ("normal", "conditional")  # torch draws the others
        z = prior(4000, y.expand(4000, 2)).draw(Streams(0, range(4000), torch.double)) if own else None
    assert density.sum().item() * area == pytest.approx(1, abs=2e-3)  # tails of an affine flow reach beyond the square
    if z is not None:
        axis = grid.reshape(361, 361, 2)[:, 0, 0]
        edges, below = axis + (axis[1] - axis[0]) / 2, density.sum(1).cumsum(0) * area
        cdf = interpolate.interp1d(edges.tolist(), below.tolist(), fill_value="extrapolate")
        assert stats.kstest(z[:, 0].numpy(), cdf).pvalue > 1e-4


def test_the_mixture_prior_is_torchs_mixture_also_where_components_are_narrow():
    prior = some_prior("mixture").float()
    prior.log_stds.data -= 4.0
    z = prior.means.detach().repeat(40, 1) + 0.02 * torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    parts = torch.distributions.Normal(prior.means.double(), prior.log_stds.double().exp())
    mixing = torch.distributions.Categorical(logits=prior.logits.double())
    truth = torch.distributions.MixtureSameFamily(mixing, torch.distributions.Independent(parts, 1)).log_prob(z.double())
    assert torch.allclose(prior(120, z).log_prob(z).double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["diagonal", "full", "flow"])
def test_posteriors_integrate_to_one_and_remember_their_own_density(family):
    with seeded(4, family):
        make = make_posterior(family, 2).double()
        for p in make.parameters():
            p.data += 0.1 * torch.randn_like(p)
        h = 0.3 * torch.randn(1, make.inputs, dtype=torch.double)
    grid, area = plane()
    with torch.no_grad():
        density = make(h.expand(len(grid), -1)).log_prob(grid).exp()
        assert density.sum().item() * area == pytest.approx(1, abs=2e-3)
        q = make(h.expand(50, -1))
        z = draw(q, Streams(1, range(50), torch.double))
        assert torch.allclose(q.log_prob(z), make(h.expand(50, -1)).log_prob(z.clone()), atol=1e-10)


def bimodal(n, seed=0):
    """x = (z, z/2) + noise with z at ±4: two clusters that a standard normal prior must stretch over."""
    with seeded(seed, "bimodal"):
        z = 4 * (torch.randint(2, (n, 1)) * 2 - 1) + 0.3 * torch.randn(n, 1)
        return torch.cat([z, z / 2], 1) + 0.3 * torch.randn(n, 2)


@pytest.mark.parametrize("family", ["mixture", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vamp", "flow"))])
def test_a_learned_prior_beats_the_normal_one_on_two_clusters(family):
    """The paired difference of the bounds on held-out rows exceeds 4 standard errors, and stays below the truth."""
    space, train, test = Real((2,), scale=4.0), bimodal(1000), bimodal(1000, 1)
    bounds = {}
    for prior in ("normal", family):
        with seeded(0, "weights"):
            vae = VAE(space, 1, CoderBackbone(()), head=Gaussian("fixed", 0.075), latent_prior=LatentPrior(prior, components=4))
        adam = torch.optim.Adam(vae.parameters(), 2e-2)
        for step in range(200):
            with seeded(step):
                loss = vae.loss(train[step % 4 * 250 :][:250]).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        bounds[prior] = vae.log_likelihood(test, samples=16).value
    gain = bounds[family] - bounds["normal"]
    assert gain.mean() > 4 * gain.std() / math.sqrt(1000)
    covariance = 0.09 * torch.tensor([[2.0, 0.5], [0.5, 1.25]])
    modes = [torch.distributions.MultivariateNormal(torch.tensor([c, c / 2]), covariance).log_prob(test) for c in (-4.0, 4.0)]
    excess = bounds[family] - (torch.logaddexp(*modes) - math.log(2))
    assert excess.mean() < 4 * excess.std() / math.sqrt(1000)


# --- conditions --------------------------------------------------------------------------------------------------------


def conditional(condition, width, **options):
    with seeded(0, "conditional"):
        vae = flat(VAE, Binary((6,)), 2, hidden=(8,), condition=condition, **options).double()
    plain = VAE(Binary((6,)), 2, CoderBackbone((8,))).double()
    return vae, plain, width


def test_a_constant_condition_is_a_bias():
    vae, plain, _ = conditional(Labels(1), 1)
    state = vae.state_dict()
    for part, width in (("encoder", 6), ("decoder", 2)):
        weight = state[f"{part}.0.weight"]
        state[f"{part}.0.weight"] = weight[:, :width]
        state[f"{part}.0.bias"] = state[f"{part}.0.bias"] + weight[:, width]
    plain.load_state_dict(state)
    x, y = torch.rand(30, 6).round(), torch.zeros(30).long()
    with seeded(0):
        a = vae.elbo(x, y).value
    with seeded(0):
        b = plain.elbo(x).value
    assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_label_is_a_mixture_of_one_class_and_mixtures_lie_between(network):
    vae = VAE(Pixels((5, 7), levels=4), 2, backbone=CoderBackbone((8,), network=network), condition=Labels(3)).double().eval()
    x, y = torch.randint(4, (10, 5, 7)), torch.arange(10) % 3
    one_hot = torch.eye(3, dtype=torch.double)[y]
    codes = torch.ones(10, 2, dtype=torch.double)
    assert torch.equal(vae.infer(x, y), vae.infer(x, one_hot))
    assert torch.equal(vae.decode(codes, y), vae.decode(codes, one_hot))
    z = torch.ones(1, 2, dtype=torch.double)
    whole = [vae.observation(z, torch.eye(3).double()[[k]]).out for k in (0, 1)]
    half = vae.observation(z, torch.tensor([[0.5, 0.5, 0.0]]).double()).out
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(half, whole[0])
    assert vae.sample(3, [[0.2, 0.3, 0.5]]).shape == (3, 5, 7)


def test_conditional_linear_gaussian_bound_is_log_p_of_x_given_y():
    vae = VAE(Real((5,)), 1, CoderBackbone(()), head=Gaussian("fixed", width=0.7), condition=Real((2,))).double()
    w = torch.tensor([[1.0], [2.0], [0.0], [0.5], [-1.0]], dtype=torch.double)
    a = torch.randn(5, 2, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    m = (w.T @ w).item() + 0.49
    vae.head.log_width.fill_(0.5 * math.log(0.49))
    with torch.no_grad():
        vae.decoder[0].weight.copy_(torch.cat([w, a], 1))
        vae.decoder[0].bias.zero_()
        vae.encoder[0].weight.copy_(torch.cat([torch.cat([w.T / m, -w.T @ a / m], 1), torch.zeros(1, 7)]))
        vae.encoder[0].bias.copy_(torch.tensor([0.0, 0.5 * math.log(0.49 / m)]))
    y = torch.randn(20, 2, dtype=torch.double)
    x = torch.randn(20, 5, dtype=torch.double)
    truth = torch.distributions.MultivariateNormal(y @ a.T, w @ w.T + 0.49 * torch.eye(5).double()).log_prob(x)
    result = vae.log_likelihood(x, y, samples=3)
    assert torch.allclose(result.value, truth, atol=1e-10)
    wrong = vae.log_likelihood(x, y.flip(0), samples=3).value
    assert (wrong - truth).abs().max() > 0.1


@pytest.mark.slow
def test_digits_drawn_for_a_label_are_that_digit():
    """At least 95 % of 1,000 draws by a support vector machine that the VAE never saw; its own errors are below 1 %."""
    digits = load_digits()
    x, y = torch.tensor(digits.images).long(), torch.tensor(digits.target)
    with seeded(0, "weights"):
        vae = VAE(Pixels((8, 8), levels=17), condition=Labels(10))
    fit(vae, x[:900], y[:900], steps=1500, progress=False)
    wanted = torch.arange(1000) % 10
    probe = SVC(gamma=0.001).fit(digits.data, digits.target)
    assert probe.score(digits.data[900:], digits.target[900:]) > 0.99
    drawn = vae.sample(1000, wanted).flatten(1).double().numpy()
    assert (probe.predict(drawn) == wanted.numpy()).mean() >= 0.95


# --- codes -------------------------------------------------------------------------------------------------------------


def test_reconstruct_is_the_decoded_code_or_a_named_draw():
    vae = VAE(Pixels((4, 4), levels=9), 3, backbone=CoderBackbone((16,)))
    assert isinstance(vae, Coded)
    x = torch.randint(9, (70, 4, 4))
    vae.eval()
    assert torch.equal(vae.reconstruct(x), vae.decode(vae.encode(x)))
    drawn = vae.reconstruct(x, mean=False, seed=1)
    vae.space.check(drawn)
    assert torch.equal(drawn, vae.reconstruct(x, mean=False, seed=1))
    assert not torch.equal(drawn, vae.reconstruct(x, mean=False, seed=2))
    average = torch.stack([vae.reconstruct(x, mean=False, seed=s).double() for s in range(200)]).mean((0, 1))
    spread = 9 / math.sqrt(12 * 200 * 70)  # at most, of a mean of 200 × 70 draws from 0 … 8
    with torch.no_grad():
        q = vae.posterior(1, None, vae.infer(x), None)
        expected = torch.stack([vae.decode(q.mean + q.stddev * torch.randn_like(q.mean)) for _ in range(200)]).mean((0, 1))
    assert ((average - expected).abs() < 6 * math.sqrt(2) * 2 * spread).all()


def test_a_convolutional_vae_learns_shapes_of_odd_size():
    """Bars of 5×7 binary pixels carry log 24 nats; a few steps must beat independent pixels by a wide margin."""
    space = Binary((5, 7))
    with seeded(0, "bars"):
        rows, columns = torch.randint(5, (512,)), torch.randint(7, (512,))
        x = torch.zeros(512, 5, 7)
        x[torch.arange(512), rows] = 1
        x[torch.arange(512), :, columns] = 1
        vae = VAE(space, 4, CoderBackbone((12,), network="conv"), head=Bernoulli())
    adam = torch.optim.Adam(vae.parameters(), 4e-3)
    for step in range(150):
        with seeded(step):
            loss = vae.loss(x[torch.randint(512, (64,))]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    p = x.mean(0).clamp(1e-3, 1 - 1e-3)
    independent = (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2)).mean()
    assert vae.log_likelihood(x, samples=16).value.mean() > independent + 3
    assert vae.log_likelihood(x, samples=16).value.mean() < -math.log(35) + 0.1  # never above minus the entropy of the bars


# --- configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"latent_dim": 0},
        {"hidden": (0,)},
        {"network": "conv", "hidden": ()},
        {"dropout": 1.0},
        {"activation": "other"},
        {"beta": -1.0},
        {"free_nats": 0.1, "prior_family": "mixture"},
        {"prior_family": "vamp", "posterior_family": "flow"},
        {"prior_family": "vamp", "condition": Labels(3)},
        {"train_samples": 0},
        {"train_samples": 4, "beta": 2.0},
        {"gradient": "dreg"},
        {"gradient": "dreg", "train_samples": 4, "posterior_family": "flow"},
        {"head": Gaussian()},
        {"kl_warmup": -1},
        {"components": 0},
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(options):
    with pytest.raises(InputError, match=r"expected .*, got .*"):
        flat(VAE, Binary((4, 4)), **options)


def test_conv_needs_images():
    with pytest.raises(InputError, match="network: expected mlp for data that are not images"):
        VAE(Binary((4,)), backbone=CoderBackbone(network="conv"))


def test_a_described_vae_is_built_again_with_its_head():
    prior, objective = LatentPrior("vamp", components=5), VariationalObjective(kl_warmup=10)
    vae = VAE(Pixels((4, 4), 9), 3, CoderBackbone((16, 8), "conv"), latent_prior=prior, objective=objective)
    again = build(describe(vae), GenerativeModel)
    assert describe(again) == describe(vae)
    assert [p.shape for p in again.parameters()] == [p.shape for p in vae.parameters()]


def test_a_conditional_prior_is_normal_at_first_and_its_kl_is_exact():
    """KL(q(z|x, y) ‖ p(z|y)) of the bound is that of two Gaussians; p(z|y) differs by y once it has learned."""
    space, y = Binary((3, 3)), torch.tensor([0, 1, 1, 0])
    model = VAE(space, 2, latent_prior=LatentPrior("conditional"), condition=Labels(2))
    state = torch.zeros(4, 0)
    start = model.prior(1, state, y).base_dist
    assert torch.equal(start.loc, torch.zeros(4, 2))
    assert torch.equal(start.scale, torch.ones(4, 2))
    with torch.no_grad():
        for p in model.p.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randint(2, (4, 3, 3))
    p, q = model.prior(1, state, y).base_dist, model.q(model.infer(x, y)).base_dist
    assert (p.loc[0] - p.loc[1]).abs().max() > 1e-3
    kl = torch.distributions.kl_divergence(q, p).sum(1)
    assert torch.allclose(model.elbo(x, y).kl[:, 0], kl, atol=1e-5)


@pytest.mark.parametrize("family", ["conditional", "conditional_flow"])
def test_a_conditional_prior_needs_a_condition(family):
    with pytest.raises(InputError, match="prior_family"):
        VAE(Binary((3, 3)), 2, latent_prior=LatentPrior(family))


def test_a_conditional_flow_hears_y_in_every_row():
    """Each row's density is that of the same code beside any others, and two labels have two."""
    model = VAE(Binary((3, 3)), 2, latent_prior=LatentPrior("conditional_flow"), condition=Labels(2))
    with torch.no_grad():
        for p in model.p.parameters():
            p.add_(0.3 * torch.randn_like(p))
        z, y = torch.randn(1, 2).expand(4, -1), torch.tensor([0, 1, 1, 0])
        found = model.prior(1, torch.zeros(4, 0), y).log_prob(z)
        one = model.prior(1, torch.zeros(1, 0), y[1:2]).log_prob(z[:1])
    assert found[0] == found[3]
    assert found[1] == found[2]
    assert abs(found[0] - found[1]) > 1e-3
    assert torch.allclose(found[1:2], one, atol=1e-6)
