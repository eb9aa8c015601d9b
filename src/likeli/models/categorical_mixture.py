"""A mixture of independent categorical cells: an honest yardstick for images of integers and for tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F

from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.errors import require
from likeli.gaussian.em import ROWS_PER_CLUSTER, iterate, k_means
from likeli.models.symbols import after_end, as_symbols, one_hot, places, smoothed, symbols_of, uniform_log_pmf
from likeli.probability.draw import draw
from likeli.random import Noise, permutation
from likeli.spaces import Space, counted

FEW = 8  # up to so many symbols a matrix product with one-hot rows is quicker than looking symbols up
ELEMENTS = 2**22


class CategoricalMixture(GenerativeModel):
    """P(x) = Σ_k w_k Π_i p_ki(x_i), fitted by EM; latent class analysis, or a Bernoulli mixture on binary cells.

    Arguments:
        space: pixels, binary cells or tokens.
        components: K.
        smoothing: α rows' worth of prior counts added to every cell of every component, shared out as the cell's symbols are in
            the whole of the data (a Dirichlet(1 + α p) prior, p the cell's own smoothed frequencies).
        tol: EM ends when the mean log-likelihood with the prior gains less than this many nats; 0 runs `max_iter` iterations.
        max_iter: EM iterations at most.

    Raises:
        Unsupported: the space's cells are not of one finite set of symbols.
    """

    knows: ClassVar[Knows] = Knows.EXACT
    strategy: ClassVar[str] = "em"
    score_block: ClassVar[int | None] = None

    def __init__(
        self, space: Space, components: int = 30, smoothing: float = 8.0, tol: float = 1e-3, max_iter: int = 200
    ) -> None:
        super().__init__(space)
        require(components >= 1, "components", "at least 1", components)
        require(smoothing > 0, "smoothing", "a positive number", smoothing)
        require(tol >= 0, "tol", "0 or more", tol)
        require(max_iter >= 1, "max_iter", "at least 1", max_iter)
        self.components, self.smoothing, self.tol, self.max_iter = components, smoothing, tol, max_iter
        k, cells, symbols = components, space.dimensions, symbols_of(space, self.kind())
        self.log_weights = nn.Parameter(torch.full((k,), -math.log(k), dtype=torch.float64), requires_grad=False)
        self.log_pmf = nn.Parameter(uniform_log_pmf(k, cells, symbols), requires_grad=False)
        # EM iterations done, and the objective at the last: what a resumed fit has to know
        self.register_buffer("progress", torch.zeros(3, dtype=torch.float64))

    def em(self, x: Tensor, *, seed: int = 0, start: bool = True) -> Iterator[float]:
        """Run EM in place, one iteration a step; ends when the objective gains less than `tol` or after `max_iter` iterations.

        Each step gives the mean log-likelihood in nats of the parameters before its M-step.  With the prior's α Σ log p added
        it never falls (the log-likelihood alone may, by as much as the prior gains).

        Arguments:
            x: (n, *shape).
            seed: for the start.
            start: begin from k-means++ clusters; False goes on from the present parameters.

        Raises:
            InputError: fewer rows than components.
        """
        require(len(x) >= self.components, "components", f"at most {len(x)}, the number of rows", self.components)
        x = x.to(self.device)
        prior = self._prior(x)
        if start:
            self._begin(x, prior, seed)

        def step() -> tuple[float, float]:
            log_prior = (prior * self.log_pmf).sum().item() / len(x)
            value = self._iterate(x, prior)
            return value, value + log_prior

        yield from iterate(step, self.progress, self.tol, self.max_iter)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log P(x) in nats."""
        return -torch.cat([joint.logsumexp(1) for _, joint in self.log_joint(x)])

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        """The exact mass."""
        return LogLikelihood(-self.loss(x), Knows.EXACT, self.space.measure, dimensions=self.space.dimensions)

    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """A component, then every cell from its pmf."""
        k = draw(D.Categorical(logits=self.log_weights.expand(noise.rows, -1), validate_args=False), noise)
        cells = draw(D.Categorical(logits=self.log_pmf[k], validate_args=False), noise)
        return as_symbols(cells, self.space)

    def next_log_pmf(self, x: Tensor, i: int) -> Tensor:
        """log P(x_i = s | cells before i), (B, symbols): what a coder needs.

        Arguments:
            x: (B, *shape); cells from i on are not looked at.
            i: cell, row-major.
        """
        rows, end = x.reshape(len(x), -1)[:, :i].long(), self.space.end
        cell = torch.arange(i, device=rows.device)
        seen = self.log_weights + self.log_pmf[:, cell, rows].where(counted(rows, end), 0).sum(-1).T  # (B, K)
        return after_end((seen.log_softmax(1)[..., None] + self.log_pmf[:, i]).logsumexp(1), rows, end)

    def responsibilities(self, x: Tensor) -> Tensor:
        """P(component | x), (B, K)."""
        return torch.cat([joint.softmax(1) for _, joint in self.log_joint(self.space.check(x).to(self.device))])

    def log_joint(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of rows (b, cells) and their log w_k + log p_k(x), (b, K)."""
        k, cells, symbols = self.log_pmf.shape
        table, end = F.pad(self.log_pmf.flatten(1).T, (0, 0, 0, 1)), self.space.end
        few = symbols <= FEW
        rows = max(16, ELEMENTS // (cells * max(k, symbols if few else 1)))  # so many keep their one-hot form within memory
        for block in x.reshape(len(x), -1).split(rows):
            if few:
                log_p = one_hot(block, symbols, end) @ table[:-1]
            else:
                log_p = F.embedding_bag(places(block, symbols, end), table, mode="sum")
            yield block, self.log_weights + log_p

    def count(self, block: Tensor, r: Tensor) -> Tensor:
        """Σ_b r_bk [x_bi = s] for r (b, any K), (K, cells, symbols)."""
        _, cells, symbols = self.log_pmf.shape
        if symbols <= FEW:
            return (r.T @ one_hot(block, symbols, self.space.end)).view(-1, cells, symbols)
        total = r.new_zeros(cells * symbols + 1, r.shape[1])
        total.index_add_(0, places(block, symbols, self.space.end).flatten(), r.repeat_interleave(cells, 0))
        return total[:-1].T.reshape(-1, cells, symbols)

    def _prior(self, x: Tensor) -> Tensor:
        """Prior counts (1, cells, symbols): α times each cell's frequencies, with ½ added to its counts."""
        each = self.log_pmf.new_ones(len(x), 1)
        blocks = zip(x.flatten(1).split(4096), each.split(4096))
        counts = sum((self.count(block, one) for block, one in blocks), self.log_pmf.new_zeros(()))
        return self.smoothing * smoothed(counts, 0.5).exp()

    def _iterate(self, x: Tensor, prior: Tensor) -> float:
        """Responsibilities, then weights and pmfs in place; the mean log-likelihood before."""
        counts, n, total = torch.zeros_like(self.log_pmf), torch.zeros_like(self.log_weights), 0.0
        for block, joint in self.log_joint(x):
            log_p = joint.logsumexp(1, keepdim=True)
            r = (joint - log_p).exp()
            total += log_p.sum().item()
            n += r.sum(0)
            counts += self.count(block, r)
        self.log_weights.copy_((n / n.sum()).clamp(min=torch.finfo(n.dtype).tiny).log())
        self.log_pmf.copy_(smoothed(counts + prior, 0))
        return total / len(x)

    def _begin(self, x: Tensor, prior: Tensor, seed: int) -> None:
        """Smoothed pmfs of k-means clusters of a subset."""
        subset = x[permutation(len(x), seed, "start")[: max(ROWS_PER_CLUSTER * self.components, 1000)].to(x.device)]
        labels = k_means(self.space.to_model(subset, torch.float64).flatten(1), self.components, seed=seed)
        r = one_hot(labels[:, None], self.components)
        blocks = zip(subset.flatten(1).split(1024), r.split(1024))
        counts = sum((self.count(block, part) for block, part in blocks), torch.zeros_like(self.log_pmf))
        self.log_pmf.copy_(smoothed(counts + prior, 0))
        self.log_weights.copy_(((r.sum(0) + 1) / (r.sum() + self.components)).log())
        self.progress.zero_()
