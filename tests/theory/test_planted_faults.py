"""A check that cannot fail is worth nothing: a fault is planted where each of these looks, and each must see it."""

import dataclasses
import functools
import math

import numpy
import pytest
import torch

from likeli.contract import Elbo
from likeli.diffusion import guidance
from likeli.discrete import corruption, elbo, orders, survival
from likeli.energy import annealing
from likeli.evaluation import collapse, cross_fitted, panel, two_sample
from likeli.evaluation import rows as anomaly
from likeli.gaussian import missing as conditional
from likeli.latent import chain as hierarchy
from likeli.latent import codes as latent
from likeli.latent import estimators
from likeli.models import autoencoder, autoregressive, ebm, flow, gmm, hvae, independent, markov_hvae, ppca, rbm, vae
from likeli.models import discrete_diffusion as symbols
from likeli.nn.causal import CausalBlock
from likeli.nn.masked import MADE
from likeli.nn.pixel_cnn import GatedPixelCNN
from likeli.nn.recurrence import RowLSTM
from likeli.probability import information, mcmc
from likeli.probability.importance import Diagnostics
from likeli.theory import check as verify
from likeli.theory import discrete, energy, linear, two_samples, uses, variational
from likeli.theory import guidance as guided
from likeli.theory import hierarchy as levels
from likeli.theory import truth as order
from likeli.theory import uses as codes
from likeli.theory import uses as strokes

FAULTS = {}


def fault(check):
    """Register a plant: a function of pytest's monkeypatch that spoils something `check` looks at."""

    def register(plant):
        FAULTS[f"{check}: {plant.__name__}"] = (check, plant)
        return plant

    return register


def raised(monkeypatch, owner, name, by):
    """`owner.name` with `by` added to its result."""
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, functools.wraps(original)(lambda *a, **k: original(*a, **k) + by))


@fault("gaussian-kl-quadrature")
def kl_without_its_half(m):
    original = information.gaussian_kl
    m.setattr(information, "gaussian_kl", lambda *a: 2 * original(*a))


@fault("machine-sums-to-one")
@fault("gaussian-machine-integrates-to-one")
def hidden_states_that_weigh_more(m):
    raised(m, rbm.RBM, "log_mass", 1e-3)


@fault("gibbs-is-reversible")
def cells_without_their_own_bias(m):
    original = rbm.RBM.location
    m.setattr(rbm.RBM, "location", lambda self, h, beta=1.0: original(self, h, beta) - beta * self.b)


@fault("annealing-brackets-log-z")
def ends_that_are_too_sure(m):
    m.setattr(annealing, "ONE_SIDED", 0.1)


@fault("annealed-weights-are-unbiased")
def base_of_another_mass(m):
    original = rbm.RBM.log_z0
    m.setattr(rbm.RBM, "log_z0", property(lambda self: original.fget(self) + 0.5))


@fault("positive-minus-negative-phase")
def energy_with_a_term_too_much(m):
    original = rbm.RBM.log_f
    m.setattr(rbm.RBM, "log_f", lambda self, u, beta=1.0: original(self, u, beta) + 0.1 * beta * u.flatten(1) @ self.b)


@fault("mass-of-a-network")
def works_with_a_base_that_is_off(m):
    m.setattr(ebm.EBM, "log_z0", property(lambda self: torch.full((), 0.3)))


@fault("hamiltonian-chains-have-its-moments")
def moves_that_refuse_nothing(m):
    def langevin(log_prob, z, epsilon, leapfrogs, noise):
        _, score = mcmc.with_score(log_prob, z)
        return z + 0.5 * score + noise.normal(2).to(z), torch.ones(len(z))

    m.setattr(ebm, "hmc_step", langevin)


@fault("score-of-an-energy-is-a-gradient")
def score_that_turns(m):
    original = energy.score_of
    m.setattr(energy, "score_of", lambda f, u: (original(f, u)[0] + 1e-3 * u.flip(1) * torch.tensor([-1.0, 1.0]), u))


@fault("free-score-is-no-gradient")
def circle_that_is_a_point(m):
    m.setattr(energy, "MLP", lambda *a: torch.nn.Identity())


@fault("denoising-is-explicit-matching-and-a-constant")
def denoising_towards_twice_the_noise(m):
    original = energy.denoising
    m.setattr(energy, "denoising", lambda f, u, sigma, noise: original(f, u, 1.1 * sigma, noise))


@fault("levels-sum-to-the-bound")
def bound_that_adds_the_kl(m):
    m.setattr(Elbo, "value", property(lambda self: self.reconstruction + self.kl.sum(1)))


@fault("chain-is-the-textbook")
def z_drawn_with_the_variance(m):
    original = hierarchy.draw
    m.setattr(hierarchy, "draw", lambda q, noise: q.mean + (original(q, noise) - q.mean) * q.base_dist.scale)


@fault("elbo-three-ways")
def posterior_a_little_too_wide(m):
    original = ppca.PPCA.posterior

    def wide(self, x):
        q = original(self, x)
        return torch.distributions.MultivariateNormal(q.loc, scale_tril=1.001 * q.scale_tril)

    m.setattr(ppca.PPCA, "posterior", wide)


@fault("exact-posterior-has-no-variance")
def weights_without_the_prior(m):
    def no_prior(model, x):
        q = model.q(model.infer(x))
        z = q.rsample()
        return model.observation(z).log_prob(x) - q.log_prob(z)

    m.setattr(variational, "log_weight", no_prior)


@fault("naive-monte-carlo")
def sum_in_place_of_the_mean(m):
    original = estimators.log_mean_exp
    m.setattr(estimators, "log_mean_exp", lambda w: (original(w)[0] + math.log(5000), original(w)[1]))


@fault("naive-monte-carlo-warns")
def diagnostics_that_trust_everything(m):
    m.setattr(Diagnostics, "trusted", property(lambda self: torch.ones_like(self.ess, dtype=torch.bool)))


@fault("bounds-rise")
def sum_of_weights_in_place_of_the_mean(m):
    original = variational.importance_bound

    def high(*a, k, **options):
        found = original(*a, k=k, **options)
        return type(found)(found.value + math.log(k), found.knows, found.measure, found.stderr)

    m.setattr(variational, "importance_bound", high)


@fault("gmm-marginal")
def mixture_without_its_weights(m):
    original = gmm.GMM._log_joint
    m.setattr(gmm.GMM, "_log_joint", lambda self, u: original(self, u) - self.weights.log())


@fault("em-is-monotone")
def em_that_slips(m):
    original = gmm.GMM.em
    m.setattr(gmm.GMM, "em", lambda self, x, **k: (v - 0.01 * (i == 7) for i, v in enumerate(original(self, x, **k))))


@fault("ppca-fills-holes")
def holes_filled_with_the_mean(m):
    original = conditional.condition

    def mean_fill(*a, **k):
        found = original(*a, **k)
        return found._replace(shift=torch.zeros_like(found.shift))

    m.setattr(conditional, "condition", mean_fill)


@fault("imputed-intervals-cover")
def intervals_too_narrow(m):
    original = gmm.GMM.sample_conditional

    def narrow(self, x, n=1, *, seed=0):
        draws = original(self, x, n, seed=seed)
        return draws.mean(0) + 0.8 * (draws - draws.mean(0))

    m.setattr(gmm.GMM, "sample_conditional", narrow)


@fault("false-alarms-are-as-stated")
def threshold_from_the_rows_that_were_fitted(m):
    m.setattr(anomaly.Detector, "_allowed", property(lambda self: math.floor(1.5 * self.rate * (len(self.reference) + 1))))


@fault("strange-rows-are-found")
def score_that_ignores_half_of_the_row(m):
    original = anomaly.strangeness
    m.setattr(anomaly, "strangeness", lambda model, x, *rest: original(model, torch.stack([x[:, 0], x[:, 0]], 1), *rest))


@fault("bayes-is-qda")
def bounds_called_exact(m):
    original = linear.classify
    m.setattr(linear, "classify", lambda *a, **k: dataclasses.replace(original(*a, **k), exact=True))


@fault("quick-families-keep-their-order")
def density_without_its_constant(m):
    raised(m, ppca.PPCA, "log_density", 0.5 * math.log(2 * math.pi))


@fault("every-symbol-counted")
def frequencies_that_are_not_normalised(m):
    raised(m, independent.Symbols, "log_prob", 0.01)


@fault("printed-factors-are-used")
def levels_that_forget_what_is_above(m):
    original = hvae.HVAE.descend
    m.setattr(hvae.HVAE, "descend", lambda self, level, state, z: original(self, level, torch.zeros_like(state), z))


@fault("printed-factors-are-used")
def decoder_that_drops_y(m):
    original = vae.VAE.observation
    m.setattr(vae.VAE, "observation", lambda self, state, y=None: original(self, state, None))


@fault("kl-recursion")
def product_of_groups_without_the_outer_kl(m):
    m.setattr(levels, "gaussian_kl", lambda *a: information.gaussian_kl(*a) * (a[0].ndim > 0))


@fault("product-of-gaussians")
def standard_deviations_that_add(m):
    def product(m0, s0, m1, s1):
        std = 1 / (1 / s0 + 1 / s1)
        return std * (m0 / s0 + m1 / s1), std

    m.setattr(levels, "gaussian_product", product)


@fault("linear-hierarchy-is-one-gaussian")
def top_prior_forgotten(m):
    original = markov_hvae.MarkovHVAE._gaussian

    def weaker(self, network, inputs, y):
        return original(self, network, 0.99 * inputs if network in list(self.up)[1:] else inputs, y)

    m.setattr(markov_hvae.MarkovHVAE, "_gaussian", weaker)


@fault("ratio-and-closed-bounds-agree")
def kl_the_wrong_way_round(m):
    m.setattr(hierarchy, "kl", lambda q, p, z: information.kl(p, q, z))


@fault("denoiser-is-the-score")
def score_over_sigma(m):
    original = autoencoder.DAE.score
    m.setattr(autoencoder.DAE, "score", lambda self, x: original(self, x) * self.noise_std)


@fault("trained-denoiser-is-the-score")
def corruption_left_out_of_the_loss(m):
    m.setattr(autoencoder.DAE, "loss", lambda self, x, y=None: self.reconstruction_error(x))


@fault("denoising-contracts")
def corruption_too_weak(m):
    original = torch.randn_like
    m.setattr(autoencoder.torch, "randn_like", lambda t: 0.9 * original(t))


@fault("contraction-is-the-jacobian")
def penalty_of_the_norm_itself(m):
    original = autoencoder.CAE.jacobian_norm
    m.setattr(autoencoder.CAE, "jacobian_norm", lambda self, x: original(self, x).sqrt())


@fault("latent-information")
def information_of_too_narrow_codes(m):
    original = codes.diagnose_latents
    m.setattr(codes, "diagnose_latents", lambda vae, x, **k: original(vae, 0.5 * x, **k))


@fault("two-heaps-are-a-mismatch")
def alarm_that_never_rings(m):
    m.setattr(collapse, "HOLE_MISMATCH", math.inf)


@fault("traversal-moves-a-factor")
def untrained_decoder(m):
    _untrained(m)


@fault("style-is-kept")
def untrained_style(m):
    _untrained(m)


@fault("kind-is-what-was-asked")
def untrained_kind(m):
    _untrained(m)


@fault("arithmetic-flips-an-attribute")
def untrained_arithmetic(m):
    _untrained(m)


def _untrained(m):
    m.setattr(strokes, "fit", lambda *a, **k: None)
    strokes._trained.cache_clear()


@fault("likelihood-is-not-sample-quality")
def classifier_that_cannot_tell(m):
    m.setattr(uses, "c2st", lambda a, b: two_sample.c2st(a, a.clone()))


@fault("interpolation-ends")
def path_that_stops_short(m):
    original = latent.interpolate
    m.setattr(codes, "interpolate", lambda a, b, steps, path: original(a, a + 0.99 * (b - a), steps, path))


@fault("conditional-vae-is-exact")
def encoder_that_does_not_see_y(m):
    original = vae.VAE.infer
    m.setattr(vae.VAE, "infer", lambda self, x, y=None: original(self, x, None))


@fault("learned-prior-marginal")
def draws_from_another_prior(m):
    original = vae.VAE.prior
    drawn = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(10, 1).double(), 2.0), 1)
    m.setattr(vae.VAE, "prior", lambda self, level, state, *y: drawn if len(state) == 10 else original(self, level, state, *y))


@fault("means-are-not-draws")
def means_with_noise(m):
    original = vae.VAE.sample
    m.setattr(vae.VAE, "sample", lambda self, n, *, mean=False: original(self, n, mean=False))


@fault("held-out-bounds-keep-their-order")
def estimate_without_the_gaussians_constant(m):
    original = order.importance

    def high(*a, **k):
        found = original(*a, **k)
        found.likelihood.value.add_(2 * math.log(2 * math.pi))
        return found

    m.setattr(order, "importance", high)


@fault("gaussian-maximum-likelihood")
def unbiased_covariance(m):
    original = gmm.maximise

    def unbiased(*a):
        better, floored = original(*a)
        return better._replace(factor=better.factor * math.sqrt(500 / 499)), floored

    m.setattr(gmm, "maximise", unbiased)


@fault("masses-sum-to-one")
def a_factor_that_counts_twice(m):
    raised(m, autoregressive.Autoregressive, "log_prob", 2e-6)


@fault("only-earlier-cells-are-read")
def a_mask_that_lets_a_cell_see_itself(m):
    original = MADE.forward
    m.setattr(MADE, "forward", lambda self, x, c, order: original(self, x, c, order) + 1e-9 * x[:, None])


@fault("only-earlier-cells-are-read")
def convolutions_that_miss_a_column(m):
    original = GatedPixelCNN.forward

    def blind(self, x, c, order):
        return original(self, x.index_fill(1, order[:1], 0), c, order)

    m.setattr(GatedPixelCNN, "forward", blind)


@fault("only-earlier-cells-are-read")
def a_memory_that_starts_a_row_late(m):
    original = RowLSTM.forward
    m.setattr(RowLSTM, "forward", lambda self, x, c, order: original(self, x.index_fill(1, order[:1], 0), c, order))


@fault("kept-is-computed")
def a_cache_that_loses_the_first_cell(m):
    original = CausalBlock.step

    def forgetful(self, h, t, cache):
        if t:
            cache[1][:, :, 0] = 0
        return original(self, h, t, cache)

    m.setattr(CausalBlock, "step", forgetful)


@fault("holes-are-summed-out")
def holes_left_where_they_are(m):
    m.setattr(autoregressive, "last", lambda order, missing: order)


@fault("codes-pay-log-p")
def a_pmf_of_what_comes_after(m):
    original = autoregressive.Autoregressive.next_log_pmf
    m.setattr(autoregressive.Autoregressive, "next_log_pmf", lambda self, x, i: original(self, x.flip(1), i))


@fault("closed-kernels-are-products")
def rates_by_half(m):
    original = corruption.Corruption.rates
    m.setattr(corruption.Corruption, "rates", lambda self, z, dtype: original(self, z, dtype) / 2)


@fault("corruption-ends-uniform")
def a_favoured_symbol(m):
    original = corruption.UniformCorruption.stationary
    m.setattr(corruption.UniformCorruption, "stationary", lambda self: original(self) * torch.linspace(0.9, 1.1, self.states))


@fault("corruption-ends-masked")
def a_mask_that_leaks(m):
    original = corruption.Absorbing.stationary
    m.setattr(corruption.Absorbing, "stationary", lambda self: 0.99 * original(self) + 0.01 / self.states)


@fault("enumerated-log-p-is-above-the-bound")
def a_step_without_what_z_says(m):
    original = corruption.Corruption.bridge
    m.setattr(corruption.Corruption, "bridge", lambda self, g, z, s, t: original(self, g, z, s, s))


@fault("walked-bound-is-that-over-all-paths")
def likely_symbols_alone(m):
    m.setattr(symbols, "draw_symbols", lambda log_p, noise: log_p.argmax(-1))


@fault("loss-is-any-order-on-average")
def the_number_of_masks_left_out(m):
    original = elbo.corrupted

    def without(kernel, x, *rest):
        z, weight = original(kernel, x, *rest)
        return z, weight * (z != x).sum(1)

    m.setattr(elbo, "corrupted", without)


@fault("masked-bound-is-any-order")
def a_chain_that_sees_the_cell_itself(m):
    original = orders.chain_rule
    m.setattr(discrete, "chain_rule", lambda guess, x, *rest: original(lambda z, a: guess(x.flip(1), a), x, *rest))


@fault("ordered-masks-are-autoregressive")
def masks_in_the_other_order(m):
    original = survival.OrderedMasks.forward

    def backwards(self, t):
        return original(self, t).flip(1)

    m.setattr(survival.OrderedMasks, "forward", backwards)


@fault("chain-rules-sum-to-one")
def guesses_that_are_not_normalised(m):
    original = symbols.DiscreteDiffusion.guess

    def louder(self, *args):
        guess = original(self, *args)
        return lambda z, alpha: guess(z, alpha) + 0.01

    m.setattr(symbols.DiscreteDiffusion, "guess", louder)


@fault("masks-are-never-drawn")
def a_guess_of_the_mask(m):
    original = symbols.DiscreteDiffusion.guess

    def masked(self, *args):
        guess = original(self, *args)
        return lambda z, alpha: guess(z, alpha).clamp(min=-3)

    m.setattr(symbols.DiscreteDiffusion, "guess", masked)


@fault("best-discriminator")
def a_divergence_without_its_half(m):
    original = two_samples.jensen_shannon
    m.setattr(two_samples, "jensen_shannon", lambda p, q: dataclasses.replace(original(p, q), value=original(p, q).value / 2))


@fault("accuracy-is-total-variation")
def an_accuracy_of_the_training_kind(m):
    original = two_sample._judge
    m.setattr(two_sample, "_judge", lambda a, b: dataclasses.replace(original(a, b), accuracy=0.95))


@fault("p-values-are-uniform")
def permutations_that_leave_the_classifier_as_it_was(m):
    """The scores' sum under labels permuted without training again, which has too little variance."""
    m.setattr(two_samples, "logistic_statistic", trained_once)


def trained_once(rows, w):
    z, total = cross_fitted.second_order(rows), 0
    for fold in range(5):
        part = slice(8 * fold, 8 * fold + 8)
        train = [i for i in range(40) if not 8 * fold <= i < 8 * fold + 8]
        gram = z[train].T @ z[train] + 4 * torch.eye(z.shape[1]).numpy()
        beta = numpy.linalg.solve(gram, z[train].T @ w[train, :1])
        total = total + (w[part] * (z[part] @ beta)).sum(0)
    return total


@fault("means-are-blind-to-scale")
def marginals_that_see_means_only(m):
    m.setattr(panel, "kolmogorov_smirnov", lambda rows, w: abs(rows.T @ w))


@fault("samplers-draw-from-their-density")
def a_flow_that_draws_too_widely(m):
    original = flow.Flow.sample
    m.setattr(flow.Flow, "sample", lambda self, *a, **k: 1.1 * original(self, *a, **k))


@fault("games-go-round")
def gradients_a_little_too_long(m):
    original = torch.autograd.grad
    m.setattr(torch.autograd, "grad", lambda *a, **k: tuple(1.001 * g for g in original(*a, **k)))


@fault("classifier-guidance-is-bayes")
@fault("free-guidance-has-an-implicit-classifier")
def a_classifier_whose_gradient_is_a_little_long(m):
    original = guidance.with_likelihood
    m.setattr(guidance, "with_likelihood", lambda d, c, y=None: original(d, lambda *a: 1.001 * c(*a), y))


@fault("guided-samples-are-of-the-class")
def a_classifier_of_the_other_class(m):
    original = guidance.with_likelihood
    m.setattr(guidance, "with_likelihood", lambda d, c, y=None: original(d, c, 1 - y))


@fault("guidance-keeps-both-ends")
def a_null_token_that_knows_a_class(m):
    m.setattr(guidance, "null_of", torch.zeros_like)


@fault("guidance-trades-recall-for-precision")
def guidance_that_does_not_push(m):
    original = guidance.combined
    m.setattr(guidance, "combined", lambda a, b, how: original(a, b, dataclasses.replace(how, scale=2 - how.scale)))


@fault("variants-of-guidance")
def rescaling_by_half(m):
    original = guided.combined
    m.setattr(guided, "combined", lambda a, b, how: original(a, b, dataclasses.replace(how, rescale=how.rescale / 2)))


@fault("factors-of-scenes-are-read-back")
def a_reader_that_takes_violet_for_blue(m):
    original = guided.read_scenes
    m.setattr(guided, "read_scenes", lambda x: original(x).clamp(max=4))


LONG = {  # checks of more than a second
    "annealing-brackets-log-z",
    "bounds-rise",
    "factors-of-scenes-are-read-back",
    "gaussian-machine-integrates-to-one",
    "guided-samples-are-of-the-class",
    "held-out-bounds-keep-their-order",
    "latent-information",
    "learned-prior-marginal",
    "loss-is-any-order-on-average",
    "mass-of-a-network",
    "masses-sum-to-one",
    "means-are-blind-to-scale",
    "naive-monte-carlo",
    "naive-monte-carlo-warns",
    "p-values-are-uniform",
    "quick-families-keep-their-order",
    "samplers-draw-from-their-density",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (FAULTS[n][0] in LONG)) for n in FAULTS])
def test_the_fault_is_seen(name, monkeypatch):
    check, plant = FAULTS[name]
    try:
        plant(monkeypatch)
        (result,) = verify.run([check])
    finally:
        monkeypatch.undo()
        strokes._trained.cache_clear()
    assert not result.passed, f"{check} passes with {plant.__name__}: error {result.error:.3g}"
    assert not result.note, f"{plant.__name__} broke the check itself: {result.note}"

