"""The Markovian hierarchical VAE inferred from the bottom up, as a stack of VAEs.

    p(x, z) = p(z_T) ∏_{t≥2} p(z_{t−1}|z_t) p(x|z_1),    q(z|x) = q(z_1|x) ∏_{t≥2} q(z_t|z_{t−1})

    ELBO = E_q[log p(x|z_1)] − Σ_{t<T} E_q[log q(z_t|z_{t−1}) − log p(z_t|z_{t+1})] − E_q KL(q(z_T|z_{T−1}) ‖ p(z_T)),   z_0 = x

The middle terms are log-ratios, not KLs, since q and p condition on opposite neighbours: one draw of them may be negative, and
their mean need not be positive either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from likeli.contract import Elbo
from likeli.errors import require
from likeli.latent.chain import Factor, LatentVariableModel, check_fixed, given_code
from likeli.nn.embedding import Condition
from likeli.nn.ladder import gaussian_parameters
from likeli.nn.mlp import MLP
from likeli.probability.draw import diagonal_gaussian, draw
from likeli.probability.information import kl
from likeli.random import Ambient, Noise
from likeli.spaces import Observation, observe
from likeli.spaces.base import Space


class MarkovHVAE(LatentVariableModel):
    """A chain of Gaussian levels, each seeing only its neighbour.

    Arguments:
        space: what one example is.
        latent_dims: latent features of each level, level 1 (next to the data) first.
        hidden: widths of every network's hidden layers.
        dropout: probability of zeroing a hidden feature in training.
        head: p(x|z_1); chosen from the space if not given.
        condition: what y is, for p(x|y).

    Source: Luo (2022), arXiv:2208.11970, section "Hierarchical Variational Autoencoders".
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "ema": 0.999}

    def __init__(
        self,
        space: Space,
        latent_dims: tuple[int, ...] = (16, 8),
        hidden: tuple[int, ...] = (256,),
        dropout: float = 0.0,
        head: Observation | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.latent_dims, self.hidden, self.dropout, self.condition = tuple(latent_dims), tuple(hidden), dropout, condition
        require(len(self.latent_dims) >= 1, "latent_dims", "at least one level", latent_dims)
        require(all(d >= 1 for d in self.latent_dims), "latent_dims", "at least 1 a level", latent_dims)
        require(0 <= dropout < 1, "dropout", "a probability below 1", dropout)
        self.head = observe(space, head)
        self.embed = Condition(condition)
        widths = (math.prod(space.model_shape), *self.latent_dims)
        self.up = nn.ModuleList(self._map(a, 2 * b) for a, b in itertools.pairwise(widths))
        self.down = nn.ModuleList(self._map(b, 2 * a) for a, b in itertools.pairwise(self.latent_dims))
        self.out = self._map(widths[1], self.head.channels * space.dimensions)

    @property
    def depth(self) -> int:
        """Number of latent levels."""
        return len(self.latent_dims)

    def factors(self) -> tuple[list[Factor], list[Factor]]:
        """p(z_T) … p(x|z_1) from the top, q(z_1|x) … from the bottom."""
        y = () if self.condition is None else ("y",)
        names = ["z"] if self.depth == 1 else [f"z_{level}" for level in range(1, self.depth + 1)]
        up = [("x" if t == 0 else names[t - 1]) for t in range(self.depth)]
        p = [(z, (above, *y)) for z, above in zip(["x", *names], names)]
        return [(names[-1], ()), *p[::-1]], [(z, (below, *y)) for z, below in zip(names, up)]

    def infer(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z_1|x)."""
        return self._gaussian(self.up[0], self.space.to_model(x, self.dtype).flatten(1), y)

    def recognise(self, level: int, z: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z_level | z_{level−1}), level from 2."""
        return self._gaussian(self.up[level - 1], z, y)

    def prior(self, level: int, above: Tensor | None, y: Tensor | None = None, rows: int = 1) -> Distribution:
        """p(z_level | z_{level+1}); at the top N(0, I) for `rows` rows."""
        if above is None:
            zeros = self.out[0].weight.new_zeros(rows, self.latent_dims[-1])
            return diagonal_gaussian(zeros, torch.ones_like(zeros))
        return self._gaussian(self.down[level - 1], above, y)

    def observation(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z_1)."""
        out = self.out(torch.cat([z, self.embed(y, z)], 1))
        return self.head(out.reshape(len(z), self.head.channels, *self.space.shape))

    def elbo(self, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None) -> Elbo:
        """One draw of the bound; `kl` holds the log-ratios of levels 1 … T−1 and the KL of level T."""
        z, q = self._infer_levels(x, y, context, noise)
        terms = []
        for level, (z_t, q_t) in enumerate(zip(z[:-1], q[:-1]), 1):
            terms.append(q_t.log_prob(z_t) - self.prior(level, z[level], y).log_prob(z_t))
        terms.append(kl(q[-1], self.prior(self.depth, None, y, len(x)), z[-1]))
        return Elbo(self.observation(z[0], y).log_prob(x), torch.stack(terms, 1))

    def log_weight(self, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None) -> Tensor:
        """log p(x, z) − log q(z|x) at one draw, (B,)."""
        z, q = self._infer_levels(x, y, context, noise)
        above = [*z[1:], None]
        log_p = sum(self.prior(t, a, y, len(x)).log_prob(z_t) for t, (z_t, a) in enumerate(zip(z, above), 1))
        log_q = sum(q_t.log_prob(z_t) for z_t, q_t in zip(z, q))
        return self.observation(z[0], y).log_prob(x) + log_p - log_q

    def codes(self, x: Tensor, y: Tensor | None = None) -> dict[int, Tensor]:
        """The mean of q at each level given the means below it: a deterministic code, level → (B, latent)."""
        codes = {1: self.infer(x, y).mean}
        for level in range(2, self.depth + 1):
            codes[level] = self.recognise(level, codes[level - 1], y).mean
        return codes

    def draw(
        self, noise: Noise, y: Tensor | None = None, *, mean: bool = False, fixed: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """x ~ p(x|z_1), z from the top level down.

        Arguments:
            mean: return E[x|z_1] in place of a draw; smoother, but not a sample of the model.
            fixed: level → (1, latent), one code for all samples at these levels (see `codes`); the other levels are drawn.
        """
        kept, z = {} if fixed is None else fixed, None
        check_fixed(kept, self.depth)
        for level in range(self.depth, 0, -1):
            prior = self.prior(level, z, y, noise.rows)
            z = given_code(kept[level], level, noise.rows, prior) if level in kept else draw(prior, noise)
        assert z is not None
        p = self.observation(z, y)
        return p.mean if mean else draw(p, noise)

    def _infer_levels(
        self, x: Tensor, y: Tensor | None, context: Distribution | None, noise: Noise | None
    ) -> tuple[list[Tensor], list[Distribution]]:
        noise = noise or Ambient(x)
        q = [self.infer(x, y) if context is None else context]
        z = [draw(q[0], noise)]
        for level in range(2, self.depth + 1):
            q.append(self.recognise(level, z[-1], y))
            z.append(draw(q[-1], noise))
        return z, q

    def _map(self, inputs: int, outputs: int) -> MLP:
        return MLP(inputs + self.embed.width, outputs, self.hidden, dropout=self.dropout)

    def _gaussian(self, network: nn.Module, inputs: Tensor, y: Tensor | None) -> Distribution:
        return diagonal_gaussian(*gaussian_parameters(network(torch.cat([inputs, self.embed(y, inputs)], 1))))
