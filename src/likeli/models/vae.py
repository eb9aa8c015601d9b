"""The variational autoencoder and its conditional, importance-weighted and learned-prior forms.

    p(x, z) = p(z) p(x|z),    log p(x) ≥ E_q log p(x|z) − KL(q(z|x) ‖ p(z))

One latent level of the chain in `hierarchy`, so `elbo`, `log_likelihood` and `sample` are the chain's and always mean what they
say; only `loss` knows of the training tricks that leave the bound.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from likeli.config import Configurable
from likeli.contract import Coded
from likeli.errors import require
from likeli.latent.chain import Graph, Hierarchy
from likeli.latent.missingness import Missingness, SelfMasking
from likeli.latent.posterior import KLWeight, PosteriorFamily, make_posterior
from likeli.latent.prior import PriorFamily, make_prior
from likeli.nn.conv import ConvDecoder, ConvEncoder, usual_stages
from likeli.nn.embedding import Conditioner
from likeli.nn.mlp import ACTIVATIONS, MLP
from likeli.probability.draw import at_least_single, draw
from likeli.probability.information import gaussian_kl
from likeli.processes import mean_over_batch
from likeli.random import Ambient, Noise, Streams, repeated_rows
from likeli.spaces import Gaussian, Observation, Space

CRITIC = (64, 64)  # widths of the critic of the code


class CoderBackbone(Configurable):
    """The networks of an encoder and of the decoder that mirrors it.

    Arguments:
        hidden: widths of the encoder's hidden layers, or channels of its stages; None for two layers of 256, or as many stages
            of 32, 64 and then 128 channels as halve the image to about 4 cells a side.
        network: mlp, or conv for images.
        activation: silu, relu, gelu, tanh or softplus (mlp only).
        dropout: probability of zeroing a hidden feature in training; None for 0.1 on images of several levels and 0 elsewhere.

    Raises:
        InputError: a width below 1, an unknown name, a dropout outside [0, 1).
    """

    def __init__(
        self,
        hidden: tuple[int, ...] | None = None,
        network: Literal["mlp", "conv"] = "mlp",
        activation: str = "silu",
        dropout: float | None = None,
    ) -> None:
        self.hidden, self.network = hidden if hidden is None else tuple(hidden), network
        self.activation, self.dropout = activation, dropout
        require(all(h >= 1 for h in self.hidden or ()), "hidden", "widths of at least 1", hidden)
        require(network in ("mlp", "conv"), "network", "mlp or conv", network)
        require(network == "mlp" or self.hidden != (), "hidden", "at least one stage", hidden)
        require(activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}", activation)
        require(dropout is None or 0 <= dropout < 1, "dropout", "a probability below 1", dropout)


class LatentPrior(Configurable):
    """p(z).

    Arguments:
        prior_family: normal, or learned: mixture (of Gaussians), vamp (of posteriors at learned inputs), flow; for p(z|y)
            conditional, a Gaussian that y moves and scales, or conditional_flow.
        components: of a mixture or vamp.
    """

    def __init__(self, prior_family: PriorFamily = "normal", components: int = 50) -> None:
        require(components >= 1, "components", "at least 1", components)
        self.prior_family, self.components = prior_family, components


class VariationalObjective(Configurable):
    """What training minimises; only the default is −ELBO.

    Arguments:
        beta: weight of the KL in the loss; other than 1 the loss is not a bound.
        free_nats: of KL that each latent dimension may spend without penalty; above 0 the loss is not a bound.
        kl_warmup: training steps over which the weight of the KL rises from 0 to beta; until then the loss is not a bound.
        train_samples: K of the importance-weighted bound that the loss maximises; 1 for the ELBO.
        gradient: `standard`, or `dreg` for the doubly reparameterised gradient of the encoder (K of at least 2).
        critic: λ, weight of what the code's mean z̄ gives away of the class y to a critic c that is trained to tell it; above 0
            the loss is not a bound.
        critic_turns: steps of the critic for one of the model.
        missingness: `at_random`, or of cells that hide themselves: missing oftener the greater they would be (`high`), the
            smaller (`low`), or either (`self`); the loss is then of (x_o, s), s which cells are missing.

    Raises:
        InputError: a number outside its range, or options that exclude each other.

    Source: Burda et al. (2015), arXiv:1509.00519 for K; Tucker et al. (2018), arXiv:1810.04152 for dreg; Kingma et al. (2016),
    arXiv:1606.04934 for free nats; Ganin et al. (2016), arXiv:1505.07818 for a critic; Barber & Agakov (2003), NIPS 16, for
    what its loss says of information; Ipsen et al. (2021), arXiv:2006.12871 for cells that hide themselves.
    """

    def __init__(
        self,
        beta: float = 1.0,
        free_nats: float = 0.0,
        kl_warmup: int = 0,
        train_samples: int = 1,
        gradient: Literal["standard", "dreg"] = "standard",
        critic: float = 0.0,
        critic_turns: int = 5,
        missingness: Missingness = "at_random",
    ) -> None:
        self.missingness = missingness
        self.critic, self.critic_turns = critic, critic_turns
        self.beta, self.free_nats, self.kl_warmup = beta, free_nats, kl_warmup
        self.train_samples, self.gradient = train_samples, gradient
        require(beta >= 0, "beta", "a number of at least 0", beta)
        require(free_nats >= 0, "free_nats", "a number of at least 0", free_nats)
        require(kl_warmup >= 0, "kl_warmup", "a number of steps", kl_warmup)
        require(0 <= critic < math.inf, "critic", "a number of at least 0", critic)
        require(1 <= critic_turns <= 1000, "critic_turns", "a whole number from 1 to 1000", critic_turns)
        require(train_samples >= 1, "train_samples", "at least 1", train_samples)
        require(train_samples == 1 or (beta == 1 and not free_nats), "train_samples", "1 with beta or free nats", train_samples)
        require(gradient == "standard" or train_samples >= 2, "train_samples", "at least 2 for dreg", train_samples)
        kinds = ("at_random", "self", "high", "low")
        require(missingness in kinds, "missingness", f"one of {', '.join(kinds)}", missingness)
        require(missingness == "at_random" or not free_nats, "free_nats", "0 where cells hide themselves", free_nats)


class VAE(Hierarchy, Coded):
    """A variational autoencoder: z ~ p(z), x ~ p(x|z), and an encoder that guesses z from x.

    Arguments:
        space: what one example is.
        latent_dim: length of z.
        backbone: the networks of encoder and decoder.
        head: p(x|z); chosen from the space if not given.
        latent_prior: p(z); N(0, I) if not given.
        posterior_family: q(z|x): diagonal, full covariance, or flow (inverse autoregressive).
        objective: what training minimises; −ELBO if not given.
        condition: what y is, for p(x|y).

    Raises:
        InputError: a number outside its range, or options that exclude each other.

    Source: Kingma & Welling (2013), arXiv:1312.6114; Sohn et al. (2015) for y.
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 4e-3, "ema": 0.998, "weight_decay": 1e-2}
    takes_missing: bool = True
    graph = Graph(reads_y=frozenset({"posterior", "observation"}))
    depth = 1

    def __init__(
        self,
        space: Space,
        latent_dim: int = 16,
        backbone: CoderBackbone | None = None,
        head: Observation | None = None,
        latent_prior: LatentPrior | None = None,
        posterior_family: PosteriorFamily = "diagonal",
        objective: VariationalObjective | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.latent_dim, self.posterior_family, self.condition = latent_dim, posterior_family, condition
        self.backbone, self.latent_prior = backbone or CoderBackbone(), latent_prior or LatentPrior()
        self.objective = objective or VariationalObjective()
        self._check()
        self.head = head.on(space) if head else space.head()
        why = self.objective.missingness
        able = why == "at_random" or isinstance(self.head, Gaussian)
        require(able, "missingness", "at_random unless cells are reals (kind real) with a gaussian head", why)
        self.embed = Conditioner(condition)
        self.q = make_posterior(posterior_family, latent_dim)
        self.encoder, self.decoder = self._networks()
        features = space.shape if self.backbone.network == "conv" else (math.prod(space.model_shape),)
        family, components = self.latent_prior.prior_family, self.latent_prior.components
        self.p = make_prior(family, latent_dim, components, features, self._posterior_of_features, self.embed.width)
        if family.startswith("conditional"):
            self.graph = Graph(reads_y=frozenset({"prior", "posterior", "observation"}))
        self.critic = MLP(latent_dim, condition.symbols, CRITIC) if condition and self.objective.critic else None
        if self.critic is not None:
            self.strategy = "critic"  # type: ignore[misc]
            self.train_defaults = self.train_defaults | {"betas": (0.0, 0.99)}  # type: ignore[misc]
        self.mask_model = None if why == "at_random" else SelfMasking(space.shape, why)
        self.kl_weight = KLWeight(self.objective.beta, self.objective.kl_warmup)
        if condition is None:
            self._start_informative()
        elif self.backbone.network == "mlp":
            self._start_reading()

    def _check(self) -> None:
        prior, posterior, vamp = self.latent_prior.prior_family, self.posterior_family, self.latent_prior.prior_family == "vamp"
        families, gaussian = f"{prior} prior, {posterior} posterior", prior == "normal" and posterior == "diagonal"
        free, dreg, classes = self.objective.free_nats > 0, self.objective.gradient == "dreg", self.condition
        told = classes is not None and classes.symbols > 1 and not classes.shape
        require(told or not self.objective.critic, "critic", "0 without labels of two classes or more, which it tells", classes)
        require(self.latent_dim >= 1, "latent_dim", "at least 1", self.latent_dim)
        require(not free or gaussian, "free_nats", "0 unless p is normal and q diagonal", families)
        require(not vamp or posterior == "diagonal", "posterior_family", "diagonal with a vamp prior", families)
        require(not vamp or self.condition is None, "prior_family", "one that needs no y", "vamp in a conditional model")
        answered = self.condition is not None or not prior.startswith("conditional")
        require(answered, "prior_family", "another, as there is no y", prior)
        require(not dreg or posterior != "flow", "gradient", "standard with a flow posterior", "dreg")

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        given, space, hidden, activation = self.embed.width, self.space, self.backbone.hidden, self.backbone.activation
        if hidden is None:
            hidden = usual_stages(space.shape) if self.backbone.network == "conv" else (256, 256)
        usual = 0.1 if space.symbols > 2 and space.model_shape == space.shape else 0.0
        rate = usual if self.backbone.dropout is None else self.backbone.dropout
        if self.backbone.network == "conv":
            encoder: nn.Module = ConvEncoder(space.shape, given, self.q.inputs, hidden, rate)
            return encoder, ConvDecoder(self.latent_dim + given, space.shape, self.head.channels, hidden[::-1], rate)
        encoder = MLP(math.prod(space.model_shape) + given, self.q.inputs, hidden, activation, rate)
        outputs = self.head.channels * space.dimensions
        return encoder, MLP(self.latent_dim + given, outputs, hidden[::-1], activation, rate)

    @torch.no_grad()
    def _start_informative(self) -> None:
        """Codes that already tell examples apart, so that fewer dimensions are given up before the decoder can read them."""
        last, d = self.encoder.out if self.backbone.network == "conv" else self.encoder[-1], self.latent_dim
        last.weight[:d] *= 4
        last.bias[d : 2 * d] -= 1

    @torch.no_grad()
    def _start_reading(self) -> None:
        """A decoder that reads y at once: codes that told examples apart before it does would tell y too."""
        first = cast(nn.Linear, cast(nn.Sequential, self.decoder)[0])
        first.weight[:, self.latent_dim :] *= 4

    # --- the chain, at depth 1 -----------------------------------------------------------------------------------------

    def infer(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The numbers of q(z|x), (B, …); a missing cell enters as 0, the mean."""
        u = self.space.to_model(x, self.dtype)
        return self._encode_features(u.nan_to_num(0.0) if x.is_floating_point() else u, y)

    def _encode_features(self, u: Tensor, y: Tensor | None) -> Tensor:
        c = self.embed(y, u)
        if self.backbone.network == "conv":
            return at_least_single(self.encoder(u, c))
        return at_least_single(self.encoder(torch.cat([u.flatten(1), c], 1) if self.embed.width else u.flatten(1)))

    def _posterior_of_features(self, u: Tensor) -> Distribution:
        return self.q(self._encode_features(u, None))

    def root(self, noise: Noise) -> Tensor:
        return torch.zeros(noise.rows, 0, dtype=self.dtype, device=self.device)

    def prior(self, level: int, state: Tensor, y: Tensor | None = None) -> Distribution:
        return self.p(len(state), self.embed(y, state))

    def posterior(self, level: int, state: Tensor, context: Tensor, prior: Distribution) -> Distribution:
        return self.q(context)

    def descend(self, level: int, state: Tensor, z: Tensor) -> Tensor:
        return z

    def observation(self, state: Tensor, y: Tensor | None = None) -> Distribution:
        c = self.embed(y, state)
        out = self.decoder(torch.cat([state, c], 1) if self.embed.width else state)
        return self.head(out.reshape(len(state), self.head.channels, *self.space.shape))

    # --- codes ---------------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The mean of q(z|x), (B, latent_dim); with a flow posterior the image of its base's mean."""
        return self.q(self.infer(x, y)).mean

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x|z], (B, *shape) in the user's units; a mean of whole numbers is fractional."""
        return self.observation(z, y).mean

    def reconstruct(self, x: Tensor, y: Tensor | None = None, *, mean: bool = True, seed: int = 0) -> Tensor:
        """E[x|z] at z the code of x; or, with `mean=False`, a draw of x from p(x|z) at a draw of z from q(z|x).

        Arguments:
            seed: of the draw; row i depends on (seed, i) and on x.
        """
        if mean:
            return self.decode(self.encode(x, y), y)
        noise = Streams(seed, range(len(x)), self.dtype, self.device)
        return draw(self.observation(draw(self.q(self.infer(x, y)), noise), y), noise)

    # --- training ------------------------------------------------------------------------------------------------------

    @property
    def notes(self) -> list[str]:
        """What a reader of the training loss must know."""
        reasons, o = [], self.objective
        if o.beta != 1:
            reasons.append(f"the KL is weighted by {o.beta:g}")
        if o.free_nats:
            reasons.append(f"{o.free_nats:g} nats a latent dimension are free")
        if o.kl_warmup:
            reasons.append(f"the weight of the KL rises over the first {o.kl_warmup} steps")
        if o.missingness != "at_random":
            reasons.append("it is of which cells are missing too")
        if o.critic:
            reasons.append(f"what the code gives away of y to a critic is weighted by {o.critic:g}")
        return [f"the training loss is not a bound: {'; '.join(reasons)}; the reported log-likelihood is"] if reasons else []

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−ELBO at one draw, in nats, unless an option says otherwise:

            Σ_j w·max(λ, KL_j) − log p(x|z),   w = β·min(1, step/kl_warmup),   max of the batch's mean,
            −log (1/K) Σ_k [p(x|z_k)·(p(z_k)/q(z_k|x))ʷ] for K draws, times p(s|x_o, x_mk), x_mk ~ p(x_m|z_k), of cells that
            hide themselves,
            and with a critic λ·[H(y) + log c(y|z̄)] more, whose mean is at most λ times the information of z̄ on y.

        Training mode counts the steps of a warm-up; out of it w = β.
        """
        context = self.infer(x, y)
        loss = self._without_critic(x, y, context)
        return loss if self.critic is None else loss + self.objective.critic * self._given_away(self.q(context).mean, y)

    def _without_critic(self, x: Tensor, y: Tensor | None, context: Tensor) -> Tensor:
        weight = self.kl_weight()
        if self.objective.train_samples > 1 or self.mask_model is not None:
            return self._importance_weighted(x, y, weight, context)
        if self.objective.free_nats:
            return self._with_free_nats(x, y, weight, context)
        bound = self.elbo(x, y, context=context)
        return -bound.value if weight == 1 else weight * bound.kl.sum(1) - bound.reconstruction

    def critic_loss(self, z: Tensor, y: Tensor) -> Tensor:
        """−log c(y|z), (B, latent_dim) and (B,) → (B,): what the critic minimises, at best H(y|z), at chance H(y)."""
        assert self.critic is not None
        return nn.functional.cross_entropy(self.critic(z), y, reduction="none")

    def _given_away(self, z: Tensor, y: Tensor) -> Tensor:
        """H(y) + log c(y|z), (B, latent_dim) and (B,) → (B,), whose mean is at most the code's information of y."""
        assert self.condition is not None
        even = (1 / self.condition.symbols,) * self.condition.symbols
        share = torch.tensor(self.condition.shares or even, dtype=z.dtype, device=z.device)
        return torch.special.entr(share).sum() - self.critic_loss(z, y)

    def _with_free_nats(self, x: Tensor, y: Tensor | None, weight: float, context: Tensor) -> Tensor:
        (step,) = self.walk(Ambient(x), y, context=context)
        q, p = (law.base_dist for law in (step.q, step.p))
        cells = gaussian_kl(q.loc, q.scale, p.loc, p.scale)
        cells = torch.where(mean_over_batch(cells) > self.objective.free_nats, cells, self.objective.free_nats)
        return weight * cells.sum(1) - self.observation(step.state, y).log_prob(x)

    def _importance_weighted(self, x: Tensor, y: Tensor | None, weight: float, context: Tensor) -> Tensor:
        k = self.objective.train_samples
        context = context.repeat_interleave(k, 0)
        x, y = x.repeat_interleave(k, 0), y if y is None else y.repeat_interleave(k, 0)
        with repeated_rows(k):
            (step,) = self.walk(Ambient(x), y, context=context)
            z, p_x = step.z, self.observation(step.z, y)
            whole = x if self.mask_model is None else torch.where(x.isnan(), draw(p_x, Ambient(x)), x)
        scored = self.q(context.detach()) if self.objective.gradient == "dreg" else step.q
        log_w = p_x.log_prob(x) + weight * (step.p.log_prob(z) - scored.log_prob(z))
        if self.mask_model is not None:
            log_w = log_w + self.mask_model(self.space.to_model(whole, self.dtype), x.isnan())
        log_w = log_w.unflatten(0, (-1, k))
        bound = log_w.logsumexp(1) - math.log(k)
        if self.objective.gradient == "standard":
            return -bound
        w = log_w.detach().softmax(1)
        if z.requires_grad:
            z.register_hook(lambda g: g * w.reshape(-1, 1))  # the encoder sees w², the decoder w
        surrogate = (w * log_w).sum(1)
        return (surrogate - bound).detach() - surrogate
