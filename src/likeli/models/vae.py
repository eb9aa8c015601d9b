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

from likeli.contract import Coded
from likeli.errors import require
from likeli.latent.chain import Hierarchy
from likeli.latent.posterior import KLWeight, PosteriorFamily, make_posterior
from likeli.latent.prior import PriorFamily, make_prior
from likeli.nn.conv import ConvDecoder, ConvEncoder
from likeli.nn.embedding import Condition
from likeli.nn.mlp import ACTIVATIONS, MLP
from likeli.probability.draw import at_least_single, draw
from likeli.probability.information import gaussian_kl
from likeli.random import Ambient, Noise, Streams
from likeli.spaces import Observation, observe
from likeli.spaces.base import Pixels, Space


class VAE(Hierarchy, Coded):
    """A variational autoencoder: z ~ p(z), x ~ p(x|z), and an encoder that guesses z from x.

    Arguments:
        space: what one example is.
        latent_dim: length of z.
        hidden: widths of the encoder's hidden layers, or channels of its stages; the decoder mirrors them.
        dropout: probability of zeroing a hidden feature in training; None for 0.1 on images of several levels and 0 elsewhere.
        activation: silu, relu, gelu, tanh or softplus (mlp only).
        network: mlp, or conv for images.
        head: p(x|z); chosen from the space if not given.
        prior_family: p(z): normal, or learned: mixture (of Gaussians), vamp (of posteriors at learned inputs), flow.
        posterior_family: q(z|x): diagonal, full covariance, or flow (inverse autoregressive).
        components: of a mixture or vamp prior.
        beta: weight of the KL in the loss; other than 1 the loss is not a bound.
        free_nats: of KL that each latent dimension may spend without penalty; above 0 the loss is not a bound.
        kl_warmup: training steps over which the weight of the KL rises from 0 to beta; until then the loss is not a bound.
        train_samples: K of the importance-weighted bound that the loss maximises; 1 for the ELBO.
        gradient: `standard`, or `dreg` for the doubly reparameterised gradient of the encoder (K of at least 2).
        condition: what y is, for p(x|y).

    Raises:
        InputError: a number outside its range, or options that exclude each other.

    Source: Kingma & Welling (2013), arXiv:1312.6114; Sohn et al. (2015) for y; Burda et al. (2015), arXiv:1509.00519 for K;
    Tucker et al. (2018), arXiv:1810.04152 for dreg; Kingma et al. (2016), arXiv:1606.04934 for free nats.
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 4e-3, "ema": 0.998, "weight_decay": 1e-2}
    takes_missing: ClassVar[bool] = True
    reads_y: ClassVar[frozenset[str]] = frozenset({"posterior", "observation"})

    def __init__(
        self,
        space: Space,
        latent_dim: int = 16,
        hidden: tuple[int, ...] = (256, 256),
        dropout: float | None = None,
        activation: str = "silu",
        network: Literal["mlp", "conv"] = "mlp",
        head: Observation | None = None,
        prior_family: PriorFamily = "normal",
        posterior_family: PosteriorFamily = "diagonal",
        components: int = 50,
        beta: float = 1.0,
        free_nats: float = 0.0,
        kl_warmup: int = 0,
        train_samples: int = 1,
        gradient: Literal["standard", "dreg"] = "standard",
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.latent_dim, self.hidden, self.dropout = latent_dim, tuple(hidden), dropout
        self.activation, self.network, self.components = activation, network, components
        self.prior_family, self.posterior_family, self.condition = prior_family, posterior_family, condition
        self.beta, self.free_nats, self.kl_warmup = beta, free_nats, kl_warmup
        self.train_samples, self.gradient = train_samples, gradient
        self._check()
        self.head = observe(space, head)
        self.embed = Condition(condition)
        self.q = make_posterior(posterior_family, latent_dim)
        self.encoder, self.decoder = self._networks()
        features = space.shape if network == "conv" else (math.prod(space.model_shape),)
        self.p = make_prior(prior_family, latent_dim, components, features, self._posterior_of_features)
        self.kl_weight = KLWeight(beta, kl_warmup)
        if condition is None:
            self._start_informative()
        elif network == "mlp":
            self._start_reading()

    def _check(self) -> None:
        require(self.latent_dim >= 1, "latent_dim", "at least 1", self.latent_dim)
        require(all(h >= 1 for h in self.hidden), "hidden", "widths of at least 1", self.hidden)
        require(self.network == "mlp" or len(self.hidden) >= 1, "hidden", "at least one stage", self.hidden)
        require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "a probability below 1", self.dropout)
        require(self.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}", self.activation)
        require(self.network in ("mlp", "conv"), "network", "mlp or conv", self.network)
        require(self.components >= 1, "components", "at least 1", self.components)
        require(self.beta >= 0, "beta", "a number of at least 0", self.beta)
        require(self.free_nats >= 0, "free_nats", "a number of at least 0", self.free_nats)
        require(self.kl_warmup >= 0, "kl_warmup", "a number of steps", self.kl_warmup)
        require(self.train_samples >= 1, "train_samples", "at least 1", self.train_samples)
        families = f"{self.prior_family} prior, {self.posterior_family} posterior"
        gaussian = self.prior_family == "normal" and self.posterior_family == "diagonal"
        require(self.free_nats == 0 or gaussian, "free_nats", "0 unless p is normal and q diagonal", families)
        vamp = self.prior_family == "vamp"
        require(not vamp or self.posterior_family == "diagonal", "posterior_family", "diagonal with a vamp prior", families)
        require(not vamp or self.condition is None, "prior_family", "one that needs no y", "vamp in a conditional model")
        plain = self.beta == 1 and self.free_nats == 0
        require(self.train_samples == 1 or plain, "train_samples", "1 with beta or free nats", self.train_samples)
        dreg = self.gradient == "dreg"
        require(not dreg or self.train_samples >= 2, "train_samples", "at least 2 for dreg", self.train_samples)
        require(not dreg or self.posterior_family != "flow", "gradient", "standard with a flow posterior", "dreg")

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        given, space, mirror = self.embed.width, self.space, self.hidden[::-1]
        rate = self.dropout if self.dropout is not None else self._default_dropout()
        if self.network == "conv":
            encoder: nn.Module = ConvEncoder(space.shape, given, self.q.inputs, self.hidden, rate)
            return encoder, ConvDecoder(self.latent_dim + given, space.shape, self.head.channels, mirror, rate)
        width = math.prod(space.model_shape)
        encoder = MLP(width + given, self.q.inputs, self.hidden, self.activation, rate)
        outputs = self.head.channels * space.dimensions
        return encoder, MLP(self.latent_dim + given, outputs, mirror, self.activation, rate)

    @torch.no_grad()
    def _start_informative(self) -> None:
        """Codes that already tell examples apart, so that fewer dimensions are given up before the decoder can read them."""
        last, d = self.encoder.out if self.network == "conv" else self.encoder[-1], self.latent_dim
        last.weight[:d] *= 4
        last.bias[d : 2 * d] -= 1

    @torch.no_grad()
    def _start_reading(self) -> None:
        """A decoder that reads y at once: codes that told examples apart before it does would tell y too."""
        first = cast(nn.Linear, cast(nn.Sequential, self.decoder)[0])
        first.weight[:, self.latent_dim :] *= 4

    def _default_dropout(self) -> float:
        return 0.1 if isinstance(self.space, Pixels) and self.space.levels > 2 else 0.0

    # --- the chain, at depth 1 -----------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        return 1

    def infer(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The numbers of q(z|x), (B, …); a missing cell enters as 0, the mean."""
        u = self.space.to_model(x, self.dtype)
        return self._encode_features(u.nan_to_num(0.0) if x.is_floating_point() else u, y)

    def _encode_features(self, u: Tensor, y: Tensor | None) -> Tensor:
        c = self.embed(y, u)
        if self.network == "conv":
            return at_least_single(self.encoder(u, c))
        return at_least_single(self.encoder(torch.cat([u.flatten(1), c], 1) if self.embed.width else u.flatten(1)))

    def _posterior_of_features(self, u: Tensor) -> Distribution:
        return self.q(self._encode_features(u, None))

    def root(self, noise: Noise) -> Tensor:
        return torch.zeros(noise.rows, 0, dtype=self.dtype, device=self.device)

    def prior(self, level: int, state: Tensor, y: Tensor | None = None) -> Distribution:
        return self.p(len(state), state)

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
        reasons = []
        if self.beta != 1:
            reasons.append(f"the KL is weighted by {self.beta:g}")
        if self.free_nats:
            reasons.append(f"{self.free_nats:g} nats a latent dimension are free")
        if self.kl_warmup:
            reasons.append(f"the weight of the KL rises over the first {self.kl_warmup} steps")
        return [f"the training loss is not a bound: {'; '.join(reasons)}; the reported log-likelihood is"] if reasons else []

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−ELBO at one draw, in nats, unless an option says otherwise:

            Σ_j w·max(λ, KL_j) − log p(x|z),   w = β·min(1, step/kl_warmup),   max of the batch's mean,
            −log (1/K) Σ_k [p(x|z_k)·(p(z_k)/q(z_k|x))ʷ] for K draws.

        Training mode counts the steps of a warm-up; out of it w = β.
        """
        weight = self.kl_weight()
        if self.train_samples > 1:
            return self._importance_weighted(x, y, weight)
        if self.free_nats:
            return self._with_free_nats(x, y, weight)
        bound = self.elbo(x, y)
        return -bound.value if weight == 1 else weight * bound.kl.sum(1) - bound.reconstruction

    def _with_free_nats(self, x: Tensor, y: Tensor | None, weight: float) -> Tensor:
        (step,) = self.walk(Ambient(x), y, context=self.infer(x, y))
        q, p = (law.base_dist for law in (step.q, step.p))
        cells = gaussian_kl(q.loc, q.scale, p.loc, p.scale)
        cells = torch.where(cells.mean(0) > self.free_nats, cells, self.free_nats)
        return weight * cells.sum(1) - self.observation(step.state, y).log_prob(x)

    def _importance_weighted(self, x: Tensor, y: Tensor | None, weight: float) -> Tensor:
        k = self.train_samples
        context = self.infer(x, y).repeat_interleave(k, 0)
        x, y = x.repeat_interleave(k, 0), y if y is None else y.repeat_interleave(k, 0)
        (step,) = self.walk(Ambient(x), y, context=context)
        z, scored = step.z, self.q(context.detach()) if self.gradient == "dreg" else step.q
        log_w = self.observation(z, y).log_prob(x) + weight * (step.p.log_prob(z) - scored.log_prob(z))
        log_w = log_w.unflatten(0, (-1, k))
        bound = log_w.logsumexp(1) - math.log(k)
        if self.gradient == "standard":
            return -bound
        w = log_w.detach().softmax(1)
        if z.requires_grad:
            z.register_hook(lambda g: g * w.reshape(-1, 1))  # the encoder sees w², the decoder w
        surrogate = (w * log_w).sum(1)
        return (surrogate - bound).detach() - surrogate
