"""The bound of a Gaussian diffusion: chain = closed form, its limit, and what it must never exceed."""

import math
import warnings

import pytest
import torch
from torch import nn

from likeli.config import build, describe
from likeli.contract import Knows
from likeli.diffusion.bound import level_kl, low_discrepancy, noise_error, reference_error, reference_integral, terminal_kl
from likeli.diffusion.denoiser import Conditional, Denoiser, Prediction
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.learned import Monotone
from likeli.diffusion.networks import DenoiserBackbone
from likeli.diffusion.sampler import State
from likeli.diffusion.schedule import Betas, Cosine, LogLinear, Point, Schedule
from likeli.errors import InputError, Unsupported
from likeli.models.vdm import VDM
from likeli.random import Replay, seeded
from likeli.spaces import Binary, Counts, Labels, Pixels, Real, Tokens
from likeli.theory.diffusion_truths import levels_in_closed_form

F64 = torch.float64


class Given(GaussianDiffusion):
    """A chain of `steps` transitions around a given denoiser."""

    def __init__(self, space, denoiser, steps):
        super().__init__(space, levels=steps + 1)
        self.denoiser, self.steps = denoiser, steps

    def loss(self, x, y=None):
        return -self.bound(x, low_discrepancy(len(x)), y).value


def gaussian(steps, spread_of_data=1.7, ends=(-6.0, 6.0), schedule=LogLinear):
    """The chain with the optimal denoiser of N(0, s²)."""
    moments = torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), torch.full((1, 1), spread_of_data**2, dtype=F64)
    return Given(Real((1,)), MixtureDenoiser(schedule(*ends), *moments), steps).double()


def hermite(spread_of_data):
    """Nine rows (x, ε) and weights that integrate quadratics in both exactly, x ~ N(0, s²), ε ~ N(0, 1)."""
    node, weight = torch.tensor([-(3**0.5), 0, 3**0.5], dtype=F64), torch.tensor([1, 4, 1], dtype=F64) / 6
    x, eps = (v.reshape(-1, 1) for v in torch.meshgrid(node * spread_of_data, node, indexing="ij"))
    return x, eps, torch.outer(weight, weight).flatten()


def expected_elbo(model, spread_of_data):
    """E_x ELBO of a linear-Gaussian chain, by exact quadrature of the model's own terms."""
    x, eps, weight = hermite(spread_of_data)
    points, rows, denoise = model.schedule.levels(model.depth), model.depth - 1, model.denoise()
    wide = [v.repeat(rows, 1) for v in (x, eps)]
    s, t = (points.of(torch.arange(i, rows + i).repeat_interleave(9)) for i in (0, 1))
    diffusion = (level_kl(denoise, noise_error(denoise, *wide, t), s, t).reshape(rows, 9) * weight).sum()
    return ((rest_of(model, x, eps) * weight).sum() - diffusion).item()


def rest_of(model, x, eps):
    """log p(x|z_0) − KL(q(z_1|x) ‖ p(z_1)) of rows in model units at given noise, (B,)."""
    first = model.schedule.at(0.0)
    at = first.like(x)
    return model.observation(State(first, at.alpha * x + at.sigma * eps)).log_prob(x) - terminal_kl(model.schedule, x)


@pytest.mark.parametrize("steps, want", [(10, -4.667), (100, -2.139), (1000, -1.968), (10_000, -1.952)])
def test_the_bound_of_gaussian_data_rises_to_log_p(steps, want):
    """x ~ N(0, 1.7²), γ from −6 to 6: E log p = −1.9496."""
    assert expected_elbo(gaussian(steps), 1.7) == pytest.approx(want, abs=5e-4)


def test_the_gap_falls_as_one_over_steps():
    """Right-hand sums of ½ e^−γ mmse: gap·T → c with c = ½·12·(∫ − ½) for ∫ the limit of the diffusion term, up to O(1/T)."""
    limit = 0.5 * math.log((1 + 2.89 * math.exp(6)) / (1 + 2.89 * math.exp(-6)))
    c = 6 * limit - 6 * 0.5 * (2.89 * math.exp(6) / (1 + 2.89 * math.exp(6)) - 2.89 * math.exp(-6) / (1 + 2.89 * math.exp(-6)))
    far = expected_elbo(gaussian(200_000), 1.7)
    gaps = [(far - expected_elbo(gaussian(t), 1.7)) * t for t in (200, 2000)]
    assert 18 < c < 19
    assert gaps[0] == pytest.approx(c, rel=0.02)
    assert gaps[1] == pytest.approx(c, rel=0.02)


@pytest.mark.parametrize("steps, excess", [(1000, 0.0502), (10_000, 0.0050)])
def test_the_diffusion_term_falls_to_its_limit(steps, excess):
    """s = ½, γ from −13.3 to 5: 5.95601463 in the limit, which is the I-MMSE integral ½ ∫ mmse dSNR in closed form."""
    model = gaussian(steps, 0.5, (-13.3, 5.0))
    limit = 0.5 * math.log((1 + 0.25 * math.exp(13.3)) / (1 + 0.25 * math.exp(-5)))
    assert limit == pytest.approx(5.95601463, abs=1e-8)
    x, eps, weight = hermite(0.5)
    elbo = expected_elbo(model, 0.5)
    rest = (rest_of(model, x, eps) * weight).sum().item()
    assert rest - elbo - limit == pytest.approx(excess, abs=5e-5)


@pytest.mark.parametrize("schedule", [LogLinear, Cosine, Monotone])
def test_the_continuous_bound_is_the_i_mmse_integral_whatever_the_path(schedule):
    """½ ∫ γ'(t) E‖ε − ε̂‖² dt depends on the ends of γ alone: every schedule gives the closed form, by the midpoint rule."""
    model, (x, eps, weight) = gaussian(2, 1.7, (-6.0, 6.0), schedule), hermite(1.7)
    if schedule is Monotone:
        with torch.no_grad():
            model.schedule.weight.add_(torch.linspace(-3, 3, 32))
    t = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    at = model.schedule.at(t.repeat_interleave(9))
    error = (noise_error(model.denoise(), x.repeat(4000, 1), eps.repeat(4000, 1), at).reshape(4000, 9) * weight).sum(1)
    integral = (0.5 * model.schedule.rate(t)[1] * error).mean().item()
    closed = 0.5 * math.log((1 + 2.89 * math.exp(6)) / (1 + 2.89 * math.exp(-6)))
    assert integral == pytest.approx(closed, abs=1e-4)


def random_model(space=None, steps=12, **options):
    """A VDM in float64 whose network does something."""
    with seeded(3, "random model"):
        model = VDM(space or Pixels((2, 3), 5), DenoiserBackbone(hidden=(16, 16)), steps=steps, **options).double()
        for p in model.denoiser.net.parameters():
            nn.init.normal_(p, std=0.3)
    return model


SPACES = [Pixels((2, 3), 5), Tokens(3, 4), Real((4,), mean=1.0, scale=(2.0, 1.0, 0.5, 3.0))]


@pytest.mark.parametrize(
    "space, noise", [*((s, "learned") for s in SPACES), *((s, "learned_by_cell") for s in (SPACES[0], SPACES[2]))]
)
def test_the_chain_equals_the_closed_form(space, noise):
    """Level by level at the same z: KL(q‖p) of the chain is ½ (e^{γ_t − γ_s} − 1) ‖ε − ε̂‖², and so the sums."""
    model = random_model(space, noise=noise)
    if noise == "learned_by_cell":
        with torch.no_grad():
            model.schedule.weight.add_(3 * torch.randn_like(model.schedule.weight))
    with seeded(0, "chain"):
        x = space.from_model(torch.randn(5, *space.model_shape, dtype=F64))
        noise = [torch.randn(5, *space.model_shape, dtype=F64) for _ in range(model.depth)]
    with torch.no_grad():
        chain = model.elbo(x, noise=Replay(noise))
        u, given = model.infer(x), []
        for step in model.walk(Replay(noise), context=u):
            at = step.state.at.like(u)
            given.append((step.z - at.alpha * u) / at.sigma)
        closed = levels_in_closed_form(model, x, given)
    torch.testing.assert_close(chain.kl, closed.kl, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(chain.reconstruction, closed.reconstruction, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(chain.value, closed.value, rtol=1e-8, atol=1e-8)


def test_one_random_level_has_the_expectation_of_the_whole_chain():
    """Difference of two Monte Carlo means within 4 standard errors (false alarm 6e-5)."""
    model, n = random_model(), 40_000
    x = torch.arange(6).reshape(1, 2, 3) % 5
    with torch.no_grad(), seeded(0, "one level"):
        chain = model.elbo(x.expand(n // 10, 2, 3)).value
        one = -model.loss(x.expand(n, 2, 3))
    error = math.hypot(chain.std() / (n // 10) ** 0.5, one.std() / n**0.5)
    assert abs(chain.mean() - one.mean()).item() < 4 * error
    assert error < 0.02 * chain.mean().abs().item()


def test_continuous_time_is_the_limit_of_many_steps():
    """With common ends; the T-step term at T = 4000 differs by O(1/T) and Monte Carlo (4 standard errors)."""
    x = torch.arange(6).reshape(1, 2, 3) % 5
    values = []
    for steps in (None, 4000):
        model = random_model(steps=steps, noise="log_linear")
        with torch.no_grad(), seeded(1, "limit"):
            values.append(torch.stack([-model.loss(x.expand(8000, 2, 3)) for _ in range(2)]).flatten())
    difference = (values[0].mean() - values[1].mean()).abs().item()
    error = math.hypot(*(v.std().item() / len(v) ** 0.5 for v in values))
    assert difference < 4 * error + 0.01 * values[0].mean().abs().item()


def test_the_four_weighted_losses_are_one():
    """ε, score, x and v errors under weights 1, σ², SNR and SNR/(1 + SNR), for any predictor."""
    schedule = LogLinear(-6, 6)
    with seeded(0, "weights"):
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        x, eps = torch.randn(2, 7, 3, dtype=F64)
    t = torch.linspace(0.05, 0.95, 7, dtype=F64)
    at = schedule.at(t).like(x)
    with torch.no_grad():
        p = Denoiser(lambda z, gamma, y: net(z), schedule, "v")(at.alpha * x + at.sigma * eps, schedule.at(t))
    truth = {"x": x, "eps": eps, "score": -eps / at.sigma, "v": at.alpha * eps - at.sigma * x}
    snr = at.alpha**2 / at.sigma**2
    weight = {"x": snr, "eps": 1, "score": at.sigma**2, "v": snr / (1 + snr)}
    losses = [(weight[k] * (truth[k] - getattr(p, k)) ** 2).sum().item() for k in truth]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-10)


@pytest.mark.parametrize("space", [Real((2,)), Pixels((2, 2), 300)])
def test_the_bound_never_exceeds_the_truth(space):
    """A trained-by-nobody model's bound on x ~ N(0, I) (or uniform cells) stays below E log p by more than its error."""
    model = VDM(space, backbone=DenoiserBackbone(hidden=(32, 32)), noise="log_linear")
    with seeded(0, "truth"):
        x = torch.randn(400, 2) if isinstance(space, Real) else torch.randint(0, 300, (400, 2, 2))
    found = model.log_likelihood(x, samples=8)
    truth = -math.log(2 * math.pi * math.e) if isinstance(space, Real) else -4 * math.log(300)
    mean, error = found.mean()
    assert found.knows is Knows.LOWER_BOUND and found.measure == space.measure
    assert mean < truth + 4 * error


def test_the_bound_of_the_exact_denoiser_is_tight_on_a_mixture():
    """T → ∞ with E[ε|z] in place of the network: the bound reaches log p; 4 standard errors plus O(e^γ₀)."""
    moments = torch.tensor([0.3, 0.7]), torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), torch.tensor([[0.1, 0.2], [0.3, 0.05]])
    model = VDM(Real((2,)), noise="log_linear", gamma=(None, 12.0)).double()
    model.denoiser = MixtureDenoiser(model.schedule, *(m.double() for m in moments))
    with seeded(5, "mixture"):
        k = (torch.rand(300) < 0.7).long()
        x = moments[1][k].double() + moments[2][k].double().sqrt() * torch.randn(300, 2, dtype=F64)
    far = Point(*(torch.tensor(v, dtype=F64) for v in (0.0, 1.0, 0.0, -math.inf)))
    exact = model.denoiser.log_density(x, far._replace(sigma=torch.tensor(1e-9, dtype=F64)))
    found = model.log_likelihood(x, samples=64)
    gap = (exact - found.value).mean().item()
    assert abs(gap) < 4 * (found.stderr.square().sum().sqrt() / 300).item() + 1e-3


def test_gradients_of_the_bound_are_right():
    model = random_model(Pixels((2, 2), 3))
    x, net = torch.tensor([[[0, 2], [1, 1]]]), model.denoiser.net.enter.weight

    def loss(weight):
        with seeded(0, "gradient"):
            given = {"denoiser.net.enter.weight": weight}
            return -torch.func.functional_call(_Bound(model), {f"model.{k}": v for k, v in given.items()}, (x,))

    assert torch.autograd.gradcheck(loss, net.detach().clone().requires_grad_(), eps=1e-6, atol=1e-5)


class _Bound(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.bound(x, torch.full((len(x),), 0.4, dtype=F64)).value.sum()


def test_learned_ends_move_and_the_pinned_shape_is_trained():
    model = VDM(Pixels((2, 2), 3), backbone=DenoiserBackbone(hidden=(16,)), learn_ends=True)
    model.loss(torch.randint(0, 3, (64, 2, 2))).mean().backward()
    assert bool((model.schedule.ends.grad != 0).all())
    assert bool((model.schedule.weight.grad != 0).any())


def test_a_schedule_that_ends_early_raises_the_alarm():
    """DDPM's default rates with 100 steps leave ᾱ = 0.364; with 1000 steps all is forgotten and nothing is said."""
    x = torch.randn(50, 2)
    for steps, alarm in ((100, True), (1000, False)):
        schedule = Betas(steps)
        model = Given(Real((2,)), Denoiser(lambda z, gamma, y: torch.zeros_like(z), schedule), 10)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = model.log_likelihood(x, samples=2)
        assert any("terminal mismatch" in str(w.message) for w in said) is alarm
        assert (found.errors["terminal_mismatch"] > 0.01) is alarm


@pytest.mark.parametrize("space", [Pixels((3, 2), 5), Binary((4,)), Tokens(3, 4)])
def test_the_reconstruction_is_a_mass_and_sharp_at_the_clean_end(space):
    """Σ_k P(k|z_0) = 1, and at γ₀ the right symbol loses less than 0.001 nats a cell (four σ from the next boundary)."""
    model = VDM(space, backbone=DenoiserBackbone(hidden=(8,)))
    with seeded(0, "sharp"):
        symbols = space.vocab if isinstance(space, Tokens) else space.levels
        x = torch.randint(0, symbols, (2000, *space.shape))
        u = model.infer(x)
        first = model.schedule.at(0.0)
        at = first.like(u)
        lost = -model.observation(State(first, at.alpha * u + at.sigma * torch.randn_like(u))).log_prob(x)
        p = model.observation(State(first, u))
    torch.testing.assert_close(p.log_pmf().exp().sum(-1), torch.ones(2000, *space.shape))
    assert 0 <= lost.mean().item() / space.dimensions < 1e-3


def test_real_units_carry_their_jacobian():
    """log p in units of x is log p in model units minus Σ log scale."""
    space, plain = Real((2,), mean=(5.0, -1.0), scale=(10.0, 0.5)), Real((2,))
    models = []
    for s in (space, plain):
        with seeded(0, "units"):
            models.append(VDM(s, backbone=DenoiserBackbone(hidden=(8,))).double())
    u = torch.randn(20, 2, dtype=F64)
    bounds, t = [], torch.linspace(0, 0.95, 20, dtype=F64)
    for model, x in zip(models, (space.from_model(u), u)):
        with seeded(0, "bound"):
            bounds.append(model.bound(x, t).value)
    shift = bounds[1] - bounds[0]
    torch.testing.assert_close(shift, torch.full((20,), math.log(5.0), dtype=F64), rtol=1e-8, atol=1e-8)


def test_refusals():
    with pytest.raises(Unsupported, match="vae"):
        VDM(Counts((3,)))
    for bad in ({"hidden": ()}, {"dropout": 1.0}, {"hidden": (4, 0)}):
        with pytest.raises(InputError):
            DenoiserBackbone(**bad)
    for bad in ({"steps": 0}, {"backbone": DenoiserBackbone(hidden=(4, 8))}, {"gamma": (9.0, 3.0)}, {"noise": "cosinus"}):
        with pytest.raises(InputError):
            VDM(Real((2,)), **bad)
    with pytest.raises(InputError, match="learn_ends"):
        VDM(Real((2,)), noise="cosine", learn_ends=True)
    with pytest.raises(InputError, match="predict"):
        VDM(Real((2,)), predict="categorical")


def test_it_learns_a_conditional_mean():
    """x ~ N(2y − 1, 0.3²): after 150 steps samples of each class are within 0.15 of their mean, y matters to log p(x|y)."""
    with seeded(0, "conditional"):
        y = torch.arange(512) % 2
        x = (2 * y[:, None] - 1) + 0.3 * torch.randn(512, 1)
        model = VDM(Real((1,)), backbone=DenoiserBackbone(hidden=(32, 32), dropout=0.0), condition=Labels(2))
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(150):
            optimiser.zero_grad()
            model.loss(x, y).mean().backward()
            optimiser.step()
    for label in (0, 1):
        mean = model.sample(256, torch.tensor([label]), steps=30).mean().item()
        assert mean == pytest.approx(2 * label - 1, abs=0.15)
    right, wrong = (model.log_likelihood(x[:64], label).mean()[0] for label in (y[:64], 1 - y[:64]))
    assert right > wrong + 2


def test_the_control_variate_has_the_stated_mean_and_removes_most_of_the_variance():
    """Quadrature over ε at each γ against the closed form, its integral, and the spread of the estimate with and without."""
    schedule = LogLinear(-8, 6)
    node, weight = torch.tensor([-(3**0.5), 0, 3**0.5], dtype=F64), torch.tensor([1, 4, 1], dtype=F64) / 6
    u = torch.full((3, 1), 0.8, dtype=F64)
    t = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    mean = torch.stack([(reference_error(u, node[:, None], schedule.at(v)).flatten() * weight).sum() for v in t[::10]])
    p = (-schedule.gamma(t[::10])).sigmoid()
    torch.testing.assert_close(mean, p**2 + p * (1 - p) * 0.64)
    ends = schedule.gamma(torch.tensor([0.0, 1.0], dtype=F64))
    p = (-schedule.gamma(t)).sigmoid()
    assert reference_integral(u[:1], *ends).item() == pytest.approx(14 * (p**2 + p * (1 - p) * 0.64).mean().item(), rel=1e-5)
    model = VDM(Real((2,)), backbone=DenoiserBackbone(hidden=(16,)), noise="log_linear", gamma=(-8, 6)).double()
    nn.init.normal_(model.denoiser.net.leave.weight, std=0.03)
    x = torch.randn(20_000, 2, dtype=F64)
    with torch.no_grad(), seeded(0, "control"):
        even = torch.rand(20_000, dtype=F64), torch.ones(20_000, dtype=F64)
        with_it = model._diffusion(model.denoise(), x, torch.randn_like(x), *even)
        eps, t = torch.randn_like(x), torch.rand(20_000, dtype=F64)
        without = 7 * noise_error(model.denoise(), x, eps, model.schedule.at(t)).sum(1)
    error = math.hypot(with_it.std() / 20_000**0.5, without.std() / 20_000**0.5)
    assert abs(with_it.mean() - without.mean()).item() < 4 * error
    assert with_it.var() < without.var() / 5


class Correlated(Conditional):
    """The best denoiser of x ~ N(0, C) seen through its own noise in every cell."""

    def __init__(self, schedule, covariance):
        super().__init__(schedule)
        self.register_buffer("covariance", covariance)

    def forward(self, z, at, y=None):
        at = at.like(z)
        alpha, sigma = (v.expand(z.shape) for v in (at.alpha, at.sigma))
        seen = alpha[:, :, None] * self.covariance * alpha[:, None] + torch.diag_embed(sigma**2)
        x = torch.einsum("ij,bj,bj->bi", self.covariance, alpha, torch.linalg.solve(seen, z))
        return Prediction.of_x(x, z, at.alpha, at.sigma)


def by_cell(seed, **options):
    with seeded(seed, "by cell"):
        small = DenoiserBackbone(hidden=(4,))
        model = VDM(Real((2,)), small, noise="learned_by_cell", gamma=(-6.0, 6.0), **options).double()
        with torch.no_grad():
            model.schedule.weight.add_(4 * torch.randn_like(model.schedule.weight))
    return model


def test_a_path_for_each_cell_is_pinned_and_differentiated():
    schedule, t, h = by_cell(0).schedule, torch.linspace(0.02, 0.98, 9, dtype=F64), 1e-6
    gamma = schedule.gamma(torch.linspace(0, 1, 101, dtype=F64))
    assert gamma.shape == (101, 2) and bool((gamma.diff(dim=0) > 0).all())
    torch.testing.assert_close(gamma[[0, -1]], torch.tensor([[-6.0], [6.0]], dtype=F64).expand(2, 2), rtol=0, atol=1e-9)
    assert (gamma[50, 0] - gamma[50, 1]).abs().item() > 0.3
    slope = (schedule.gamma(t + h) - schedule.gamma(t - h)) / (2 * h)
    torch.testing.assert_close(schedule.rate(t)[1], slope, rtol=1e-6, atol=1e-6)
    for part, rate in enumerate(schedule.velocity(t)):
        torch.testing.assert_close(rate, (schedule(t + h)[part] - schedule(t - h)[part]) / (2 * h), rtol=1e-6, atol=1e-8)
    log_alpha = (schedule(t + h)[0].log() - schedule(t - h)[0].log()) / (2 * h)
    torch.testing.assert_close(schedule.drift(t), log_alpha, rtol=1e-6, atol=1e-8)
    again = build(describe(schedule), Schedule)
    assert again.gamma(t).shape == (9, 2)


def test_the_best_denoiser_loses_the_same_information_on_every_path():
    """x ~ N(0, C) with correlated cells, two paths by cell: the diffusion term is ½ log det ratios for both, 4.5 s.e."""
    covariance = torch.tensor([[1.5, 1.2], [1.2, 1.4]], dtype=F64)
    eye = torch.eye(2, dtype=F64)
    known = 0.5 * (torch.logdet(eye + math.exp(6) * covariance) - torch.logdet(eye + math.exp(-6) * covariance)).item()
    for seed in (0, 1):
        model = by_cell(seed)
        model.denoiser = Correlated(model.schedule, covariance)
        with torch.no_grad(), seeded(seed, "draws"):
            x = torch.randn(20_000, 2, dtype=F64) @ torch.linalg.cholesky(covariance).mT
            even = torch.rand(20_000, dtype=F64), torch.ones(20_000, dtype=F64)
            terms = model._diffusion(model.denoise(), x, torch.randn_like(x), *even)
        assert abs(terms.mean().item() - known) < 4.5 * terms.std().item() / 20_000**0.5
        assert terms.std().item() / 20_000**0.5 < 0.02 * known


def test_the_path_by_cell_is_trained_by_the_bound_and_refuses_what_it_cannot():
    model = by_cell(0)
    nn.init.normal_(model.denoiser.net.leave.weight, std=0.3)
    model.loss(torch.randn(64, 2, dtype=F64)).mean().backward()
    assert bool((model.schedule.weight.grad != 0).any())
    for bad in ({"sampler": "multistep"}, {"grid": "log_snr"}):
        with pytest.raises(InputError, match="each cell has its own"):
            model.sample(2, steps=4, **bad)
    assert model.sample(3, steps=4, sampler="euler_maruyama").shape == (3, 2)
    with pytest.raises(InputError, match="noise"):
        VDM(Tokens(3, 4), noise="learned_by_cell")
    with pytest.raises(InputError, match="predict"):
        VDM(Pixels((2, 2), 4), noise="learned_by_cell", predict="categorical")
