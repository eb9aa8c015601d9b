"""Hierarchical VAEs: many latent levels, inferred and generated in one top-down pass.

    p(x, z) = p(z_T) ∏ p(z_t | z_{>t}) p(x | z),    q(z | x) = q(z_T | x) ∏ q(z_t | z_{>t}, x)

A ladder makes q by adding evidence to the prior, q(z_t | z_{>t}, x) ∝ p(z_t | z_{>t}) · d_t(z_t, x): precisions add.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from likeli.distributions import diagonal_gaussian, gaussian_product
from likeli.errors import require
from likeli.models.hierarchy import Hierarchy
from likeli.nn.embedding import Condition
from likeli.nn.kl_weight import KLWeight
from likeli.nn.ladder import Grid, Level, Network, gaussian_parameters
from likeli.observation import Observation, observe
from likeli.random import Noise
from likeli.space import Space


class HVAE(Hierarchy):
    """A residual ladder of Gaussian levels.

    Arguments:
        space: what one example is.
        latent_dims: latent features of each level, level 1 (next to the data) first; with `network="conv"`, of each cell.
        width: features of the state that runs down the ladder.
        blocks: residual blocks a level, up and down; 0 makes every map linear.
        network: mlp, or conv for images.
        patch: side of the square of pixels that becomes one cell of a convolutional ladder.
        inference: `ladder` multiplies the prior by evidence read from x alone; `direct` reads z_{>t} and x.
        kl_warmup: training steps over which the weight of the KL in the loss rises from 0 to 1; until then it is not a bound.
        markov: let each level see only the one above it, p(z_t | z_{t+1}).
        dropout: probability of zeroing a hidden feature in training.
        head: p(x|z); chosen from the space if not given.
        condition: what y is, for p(x|y).

    Source: Sønderby et al. (2016), arXiv:1602.02282; Child (2020), arXiv:2011.10650; Vahdat & Kautz (2020), arXiv:2007.03898.
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "ema": 0.999}

    def __init__(
        self,
        space: Space,
        latent_dims: tuple[int, ...] = (16, 16, 16),
        width: int = 256,
        blocks: int = 1,
        network: Network = "mlp",
        patch: int = 4,
        inference: Literal["ladder", "direct"] = "ladder",
        kl_warmup: int = 0,
        markov: bool = False,
        dropout: float = 0.0,
        head: Observation | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.latent_dims, self.width, self.blocks, self.network = tuple(latent_dims), width, blocks, network
        self.patch, self.inference, self.markov, self.dropout = patch, inference, markov, dropout
        self.condition = condition
        require(len(self.latent_dims) >= 1, "latent_dims", "at least one level", latent_dims)
        require(all(d >= 1 for d in self.latent_dims), "latent_dims", "at least 1 a level", latent_dims)
        require(width >= 1, "width", "at least 1", width)
        require(blocks >= 0, "blocks", "at least 0", blocks)
        require(0 <= dropout < 1, "dropout", "a probability below 1", dropout)
        self.head = observe(space, head)
        self.kl_warmup = kl_warmup
        require(kl_warmup >= 0, "kl_warmup", "a number of steps", kl_warmup)
        self.kl_weight = KLWeight(1.0, kl_warmup)
        self.embed = Condition(condition)
        self.grid = grid = Grid(network, space.model_shape, width, patch, dropout)
        self.root_state = nn.Parameter(torch.zeros(width, *grid.cells))
        self.stem, self.stem_condition = grid.linear(grid.inputs, width), self._reads_y()
        self.up = nn.ModuleList(grid.blocks(blocks) for _ in self.latent_dims)
        evidence = width if inference == "ladder" else 2 * width
        self.levels = nn.ModuleList(Level(grid, d, blocks, self.depth, evidence, self.embed.width) for d in self.latent_dims)
        outputs = self.head.channels * space.dimensions // math.prod(grid.cells)
        self.out, self.out_condition = grid.linear(width, outputs), self._reads_y()

    @property
    def depth(self) -> int:
        return len(self.latent_dims)

    def infer(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """The bottom-up pass: one feature map a level, level 1 first."""
        e = self._with(self.stem(self.grid.fold(self.space.to_model(x, self.dtype))), y, self.stem_condition)
        features = []
        for blocks in self.up:
            e = blocks(e)
            features.append(e)
        return features

    def root(self, noise: Noise) -> Tensor:
        return self.root_state.expand(noise.rows, *self.root_state.shape)

    def prior(self, level: int, state: Tensor, y: Tensor | None = None) -> Distribution:
        part = self._level(level)
        return diagonal_gaussian(*gaussian_parameters(part.prior(self._with(state, y, part.condition))))

    def posterior(self, level: int, state: Tensor, context: list[Tensor], prior: Distribution) -> Distribution:
        part, e = self._level(level), context[level - 1]
        if self.inference == "direct":
            return diagonal_gaussian(*gaussian_parameters(part.evidence(torch.cat([state, e], 1))))
        p: Any = prior
        return diagonal_gaussian(
            *gaussian_product(p.base_dist.loc, p.base_dist.scale, *gaussian_parameters(part.evidence(e)))
        )

    def descend(self, level: int, state: Tensor, z: Tensor) -> Tensor:
        part = self._level(level)
        h = part.inject(z)
        return part.blocks(h if self.markov else state + h)

    def observation(self, state: Tensor, y: Tensor | None = None) -> Distribution:
        out = self.out(self._with(state, y, self.out_condition))
        return self.head(self.grid.unfold(out, self.head.channels, self.space.shape))

    @property
    def notes(self) -> list[str]:
        """What a reader of the training loss must know."""
        rising = f"the training loss is not a bound for the first {self.kl_warmup} steps; the reported log-likelihood is"
        return [rising] if self.kl_warmup else []

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−ELBO at one draw, in nats; during the warm-up its KL is weighted."""
        weight, bound = self.kl_weight(), self.elbo(x, y)
        return -bound.value if weight == 1 else weight * bound.kl.sum(1) - bound.reconstruction

    def _level(self, level: int) -> Level:
        part = self.levels[level - 1]
        assert isinstance(part, Level)
        return part

    def _reads_y(self) -> nn.Linear | None:
        return nn.Linear(self.embed.width, self.width, bias=False) if self.embed.width else None

    def _with(self, h: Tensor, y: Tensor | None, reader: nn.Module | None) -> Tensor:
        return h if reader is None else h + self.grid.spread(reader(self.embed(y, h)))
