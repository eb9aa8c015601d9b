"""The Markovian hierarchical VAE inferred from the bottom up, as a stack of VAEs.

    p(x, z) = p(z_T) ∏_{t≥2} p(z_{t−1}|z_t) p(x|z_1),    q(z|x) = q(z_1|x) ∏_{t≥2} q(z_t|z_{t−1})

    ELBO = E_q[log p(x|z_1)] − Σ_{t<T} E_q[log q(z_t|z_{t−1}) − log p(z_t|z_{t+1})] − E_q KL(q(z_T|z_{T−1}) ‖ p(z_T)),   z_0 = x

The middle terms are log-ratios, not KLs, since q and p condition on opposite neighbours: one draw of them may be negative, and
their mean need not be positive either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from likeli.errors import require
from likeli.latent.chain import Choose, Graph, LatentVariableModel, Step
from likeli.nn.embedding import Conditioner
from likeli.nn.ladder import gaussian_parameters
from likeli.nn.mlp import MLP
from likeli.probability.draw import diagonal_gaussian, draw
from likeli.random import Noise
from likeli.spaces import Observation, Space


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
    graph = Graph(markov=True, bottom_up=True, reads_y=frozenset({"prior", "posterior", "observation"}))

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
        self.depth, self.head = len(self.latent_dims), head.on(space) if head else space.head()
        self.embed = Conditioner(condition)
        widths = (math.prod(space.model_shape), *self.latent_dims)
        self.up = nn.ModuleList(self._map(a, 2 * b) for a, b in itertools.pairwise(widths))
        self.down = nn.ModuleList(self._map(b, 2 * a) for a, b in itertools.pairwise(self.latent_dims))
        self.out = self._map(widths[1], self.head.channels * space.dimensions)

    def infer(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z_1|x)."""
        return self._gaussian(self.up[0], self.space.to_model(x, self.dtype).flatten(1), y)

    def walk(
        self, noise: Noise, y: Tensor | None = None, *, context: Any = None, choose: Choose | None = None
    ) -> Iterator[Step]:
        """With a context z is drawn from the bottom up, q(z_1|x) then q(z_t|z_{t−1}); levels still come from the top down."""
        choose = choose or (lambda _, law: draw(law, noise))
        q, drawn = [], list[Tensor]()
        for level in range(1, 1 + (0 if context is None else self.depth)):
            q.append(context if level == 1 else self._gaussian(self.up[level - 1], drawn[-1], y))
            drawn.append(choose(level, q[-1]))
        zeros = self.out[0].weight.new_zeros(noise.rows, self.latent_dims[-1])
        p: Distribution = diagonal_gaussian(zeros, torch.ones_like(zeros))
        for level in range(self.depth, 0, -1):
            z = drawn[level - 1] if q else choose(level, p)
            yield Step(level, p, q[level - 1] if q else None, z, z, nested=level == self.depth)
            if level > 1:
                p = self._gaussian(self.down[level - 2], z, y)

    def observation(self, state: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z_1)."""
        out = self.out(torch.cat([state, self.embed(y, state)], 1))
        return self.head(out.reshape(len(state), self.head.channels, *self.space.shape))

    def _map(self, inputs: int, outputs: int) -> MLP:
        return MLP(inputs + self.embed.width, outputs, self.hidden, dropout=self.dropout)

    def _gaussian(self, network: nn.Module, inputs: Tensor, y: Tensor | None) -> Distribution:
        return diagonal_gaussian(*gaussian_parameters(network(torch.cat([inputs, self.embed(y, inputs)], 1))))
