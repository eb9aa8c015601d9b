"""Hierarchical VAEs: many latent levels, inferred and generated in one top-down pass.

    p(x, z) = p(z_T) ∏ p(z_t | z_{>t}) p(x | z),    q(z | x) = q(z_T | x) ∏ q(z_t | z_{>t}, x)

q reads z_{>t} and x; a ladder's adds evidence to the prior, q(z_t | z_{>t}, x) ∝ p(z_t | z_{>t}) · d_t(z_t, x): precisions add.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from likeli.config import Configurable
from likeli.errors import require
from likeli.latent.chain import Graph, Hierarchy
from likeli.latent.posterior import KLWeight
from likeli.nn.embedding import Conditioner
from likeli.nn.ladder import Grid, Level, Patches, gaussian_parameters, grow, pyramid, shrink
from likeli.probability.draw import diagonal_gaussian, gaussian_product
from likeli.random import Noise
from likeli.spaces import Observation, Space


class LadderBackbone(Configurable):
    """The networks of a ladder.

    Arguments:
        width: features of the state that runs down the ladder, one number or one a level; of each cell with `network="conv"`.
        blocks: residual blocks a level, up and down; 0 makes every map linear.
        network: mlp, or conv for images.
        patch: side of the square of pixels that becomes one cell of a convolutional ladder.
        halvings: times that the grid of cells is halved (rounded up) at each level, level 1 first, never fewer above; once it
            is a single cell the level is dense.  Empty for one grid at all levels.
        dropout: probability of zeroing a hidden feature in training.

    Raises:
        InputError: a number outside its range.
    """

    def __init__(
        self,
        width: int | tuple[int, ...] = 256,
        blocks: int = 1,
        network: Literal["mlp", "conv"] = "mlp",
        patch: int = 4,
        halvings: tuple[int, ...] = (),
        dropout: float = 0.0,
    ) -> None:
        self.width, self.blocks, self.network, self.patch = width, blocks, network, patch
        self.halvings, self.dropout = tuple(halvings), dropout
        require(all(w >= 1 for w in ((width,) if isinstance(width, int) else width)), "width", "at least 1", width)
        require(blocks >= 0, "blocks", "at least 0", blocks)
        require(not halvings or network == "conv", "halvings", "none with an mlp", halvings)
        rising = all(0 <= a <= b for a, b in pairwise((0, *halvings)))
        require(rising, "halvings", "whole numbers that do not fall towards the top", halvings)
        require(0 <= dropout < 1, "dropout", "a probability below 1", dropout)

    def widths(self, depth: int) -> tuple[int, ...]:
        """The width of each level.

        Raises:
            InputError: too many or too few numbers for so many levels.
        """
        widths = (self.width,) if isinstance(self.width, int) else tuple(self.width)
        widths = widths * depth if len(widths) == 1 else widths
        require(len(widths) == depth, "width", f"one number, or one for each of {depth} levels", self.width)
        require(len(self.halvings) in (0, depth), "halvings", f"none, or one for each of {depth} levels", self.halvings)
        return widths


class HVAE(Hierarchy):
    """A residual stack of Gaussian levels, dense or over a pyramid of grids.

    Arguments:
        space: what one example is.
        latent_dims: latent features of each level, level 1 (next to the data) first; with `network="conv"`, of each cell.
        backbone: the networks of the ladder.
        inference: `direct` reads z_{>t} and x; `residual` reads both and moves the prior, μ_q = μ_p + Δμ, σ_q = σ_p·Δσ;
            `ladder` multiplies the prior by evidence read from x alone.
        markov: let each level see only the one above it, p(z_t | z_{t+1}).
        kl_warmup: training steps over which the weight of the KL in the loss rises from 0 to 1; until then it is not a bound.
        head: p(x|z); chosen from the space if not given.
        condition: what y is, for p(x|y).

    Source: Sønderby et al. (2016), arXiv:1602.02282; Child (2020), arXiv:2011.10650; Vahdat & Kautz (2020), arXiv:2007.03898.
    """

    train_defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "ema": 0.999}

    def __init__(
        self,
        space: Space,
        latent_dims: tuple[int, ...] = (16, 16, 16),
        backbone: LadderBackbone | None = None,
        inference: Literal["ladder", "direct", "residual"] = "direct",
        markov: bool = False,
        kl_warmup: int = 0,
        head: Observation | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.latent_dims, self.backbone = tuple(latent_dims), backbone or LadderBackbone()
        self.inference, self.markov, self.kl_warmup, self.condition = inference, markov, kl_warmup, condition
        self.depth, self.graph = len(self.latent_dims), Graph(markov=markov)
        require(self.depth >= 1, "latent_dims", "at least one level", latent_dims)
        require(all(d >= 1 for d in self.latent_dims), "latent_dims", "at least 1 a level", latent_dims)
        require(kl_warmup >= 0, "kl_warmup", "a number of steps", kl_warmup)
        widths, blocks, dropout = self.backbone.widths(self.depth), self.backbone.blocks, self.backbone.dropout
        self.head, self.embed = head.on(space) if head else space.head(), Conditioner(condition)
        self.kl_weight = KLWeight(1.0, kl_warmup)
        self.patches = patches = Patches(self.backbone.network, space.model_shape, self.backbone.patch)
        grids = pyramid(patches.cells, widths, self.backbone.halvings or (0,) * self.depth, dropout)
        self.grids = [Grid(patches.cells, widths[0], dropout), *grids]  # the image's own grid, then level 1's
        first = self.grids[0]
        reach = 3 if blocks else 1
        self.stem, self.stem_condition = first.linear(patches.inputs, first.width, reach), self._reads_y(first.width)
        self.shrink = nn.ModuleList(shrink(a, b) for a, b in pairwise(self.grids))
        self.grow = nn.ModuleList(grow(b, a) for a, b in pairwise(self.grids))
        self.up = nn.ModuleList(g.blocks(blocks) for g in grids)
        self.root_state = nn.Parameter(torch.zeros(grids[-1].width, *grids[-1].cells))
        joint, given = inference != "ladder", self.embed.width
        self.levels = nn.ModuleList(Level(g, d, blocks, self.depth, joint, given) for g, d in zip(grids, self.latent_dims))
        outputs = self.head.channels * space.dimensions // math.prod(patches.cells)
        self.out, self.out_condition = first.linear(first.width, outputs, reach), self._reads_y(first.width)

    def infer(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """The bottom-up pass: one feature map a level, level 1 first."""
        e = self._with(self.stem(self.patches.fold(self.space.to_model(x, self.dtype))), y, self.stem_condition)
        features = []
        for reduce, blocks in zip(self.shrink, self.up):
            e = blocks(reduce(e))
            features.append(e)
        return features

    def root(self, noise: Noise) -> Tensor:
        return self.root_state.expand(noise.rows, *self.root_state.shape)

    def prior(self, level: int, state: Tensor, y: Tensor | None = None) -> Distribution:
        part = self._level(level)
        return diagonal_gaussian(*gaussian_parameters(part.prior(self._with(state, y, part.condition))))

    def posterior(self, level: int, state: Tensor, context: list[Tensor], prior: Distribution) -> Distribution:
        part, e = self._level(level), context[level - 1]
        mean, std = gaussian_parameters(part.evidence(e if self.inference == "ladder" else torch.cat([state, e], 1)))
        if self.inference == "direct":
            return diagonal_gaussian(mean, std)
        p: Any = prior
        mean_p, std_p = p.base_dist.loc, p.base_dist.scale
        if self.inference == "residual":
            return diagonal_gaussian(mean_p + mean, std_p * std)
        return diagonal_gaussian(*gaussian_product(mean_p, std_p, mean, std))

    def descend(self, level: int, state: Tensor, z: Tensor) -> Tensor:
        part = self._level(level)
        h = part.inject(z)
        return self.grow[level - 1](part.blocks(h if self.markov else state + h))

    def observation(self, state: Tensor, y: Tensor | None = None) -> Distribution:
        out = self.out(self._with(state, y, self.out_condition))
        return self.head(self.patches.unfold(out, self.head.channels, self.space.shape))

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

    def _reads_y(self, width: int) -> nn.Linear | None:
        return nn.Linear(self.embed.width, width, bias=False) if self.embed.width else None

    def _with(self, h: Tensor, y: Tensor | None, reader: nn.Module | None) -> Tensor:
        return h if reader is None else h + reader(self.embed(y, h)).reshape(len(h), -1, *(1 for _ in h.shape[2:]))
