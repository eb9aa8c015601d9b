"""A mixture of independent categorical cells: an honest yardstick for images of integers, for tokens and for tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F

from likeli import processes
from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.errors import Unsupported, require
from likeli.gaussian.em import ROWS_PER_CLUSTER, iterate, k_means
from likeli.models.symbols import after_end, one_hot, places, present, smoothed
from likeli.probability.draw import draw
from likeli.random import Ambient, Noise, permutation
from likeli.spaces import Space, coding_of, counted
from likeli.spaces.region import Region, Restricted, pieces_of

FEW = 8  # up to so many symbols a matrix product with one-hot rows is quicker than looking symbols up
ELEMENTS = 2**22


class CategoricalMixture(GenerativeModel):
    """P(x) = Σ_k w_k Π_i p_ki(x_i), fitted by EM; latent class analysis, or a Bernoulli mixture on binary cells.

    A table's numbers are symbols too: the cells of their columns' marginals, in each of which a number is distributed as it is
    in all rows.  Missing cells are left out, which integrates them out.

    Arguments:
        space: pixels, binary cells, tokens or a table.
        components: K.
        smoothing: α rows' worth of prior counts added to every cell of every component, shared out as the cell's symbols are in
            the whole of the data (a Dirichlet(1 + α p) prior, p the cell's own smoothed frequencies).
        tol: EM ends when the mean log-likelihood with the prior gains less than this many nats; 0 runs `max_iter` iterations.
        max_iter: EM iterations at most.

    Raises:
        Unsupported: the space's cells have no finite sets of symbols.
    """

    knows: ClassVar[Knows] = Knows.EXACT
    strategy: ClassVar[str] = "em"
    kinds: ClassVar[tuple[str, ...]] = ("binary", "pixels", "tokens", "table")
    calls: ClassVar[str] = "0"
    score_block: ClassVar[int | None] = None
    takes_missing: bool = True

    def __init__(
        self, space: Space, components: int = 30, smoothing: float = 8.0, tol: float = 1e-3, max_iter: int = 200
    ) -> None:
        super().__init__(space)
        require(components >= 1, "components", "at least 1", components)
        require(smoothing > 0, "smoothing", "a positive number", smoothing)
        require(tol >= 0, "tol", "0 or more", tol)
        require(max_iter >= 1, "max_iter", "at least 1", max_iter)
        self.components, self.smoothing, self.tol, self.max_iter = components, smoothing, tol, max_iter
        self.coding = coding_of(space, self.kind())
        k, has = components, present(self.coding.sizes)
        self.log_weights = nn.Parameter(torch.full((k,), -math.log(k), dtype=torch.float64), requires_grad=False)
        self.log_pmf = nn.Parameter(smoothed(has, 0).repeat(k, 1, 1), requires_grad=False)
        self.register_buffer("has", has, persistent=False)
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
        codes, within = self.coding.symbols(x), self.coding.log_within(x).sum(1).mean().item()
        prior, rows = self._prior(codes), len(x)
        if start:
            self._begin(x, codes, prior, seed)
        codes = codes[processes.share(rows)]

        def step() -> tuple[float, float]:
            log_prior = torch.where(prior > 0, prior * self.log_pmf, 0).sum().item() / rows
            value = self._iterate(codes, prior) / rows + within
            return value, value + log_prior

        yield from iterate(step, self.progress, self.tol, self.max_iter)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) in nats."""
        joints = self.log_joint(self.coding.symbols(x))
        return -torch.cat([joint.logsumexp(1) for _, joint in joints]) - self.coding.log_within(x).sum(1)

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        """The exact value."""
        return LogLikelihood(-self.loss(x), Knows.EXACT, self.space.measure, dimensions=self.space.dimensions)

    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """A component, then every cell from its pmf."""
        k = draw(D.Categorical(logits=self.log_weights.expand(noise.rows, -1), validate_args=False), noise)
        cells = draw(D.Categorical(logits=self.log_pmf[k], validate_args=False), noise)
        return self.coding.values(cells, noise)

    def fill(self, x: Tensor, y: Tensor | None, n: int, *, samples: int, seed: int) -> tuple[Tensor, None]:
        """n exact draws of missing cells: a component given the observed symbols, then every missing symbol from its pmf."""
        noise, filled = Ambient(x), []
        posterior = torch.cat([joint.log_softmax(1) for _, joint in self.log_joint(self.coding.symbols(x))])
        for _ in range(n):
            k = draw(D.Categorical(logits=posterior, validate_args=False), noise)
            cells = draw(D.Categorical(logits=self.log_pmf[k], validate_args=False), noise)
            filled.append(torch.where(x.isnan(), self.coding.values(cells, noise), x))
        return torch.stack(filled), None

    def restrict(self, region: Region) -> Restricted | None:
        """Rows of a region: P(k) ∝ w_k Π_i P_k(allowed of x_i), and each cell from its pmf on what is allowed."""
        pieces = pieces_of(region)
        if pieces is None:
            return None
        log_pmf = self.log_pmf + pieces.log_share.to(self.device)
        log_joint = self.log_weights + log_pmf.logsumexp(2).sum(1)

        def draw_rows(noise: Noise) -> Tensor:
            k = draw(D.Categorical(logits=log_joint.expand(noise.rows, -1), validate_args=False), noise)
            return pieces.values(draw(D.Categorical(logits=log_pmf[k], validate_args=False), noise), noise)

        return Restricted(draw_rows, math.nan if pieces.density else log_joint.logsumexp(0).item())

    def next_log_pmf(self, x: Tensor, i: int) -> Tensor:
        """log P(x_i = s | cells before i), (B, symbols): what a coder needs.

        Arguments:
            x: (B, *shape); cells from i on are not looked at.
            i: cell, row-major.

        Raises:
            Unsupported: a table, whose symbols are not all values.
        """
        if not self.space.symbols:
            raise Unsupported(f"a pmf for each symbol: {self.space.kind()} data have none; pixels, binary cells and tokens do")
        rows, end = x.reshape(len(x), -1)[:, :i].long(), self.space.end
        cell = torch.arange(i, device=rows.device)
        seen = self.log_weights + self.log_pmf[:, cell, rows].where(counted(rows, end), 0).sum(-1).T  # (B, K)
        return after_end((seen.log_softmax(1)[..., None] + self.log_pmf[:, i]).logsumexp(1), rows, end)

    def responsibilities(self, x: Tensor) -> Tensor:
        """P(component | x), (B, K)."""
        x = self.space.check(x, missing=True).to(self.device)
        return torch.cat([joint.softmax(1) for _, joint in self.log_joint(self.coding.symbols(x))])

    @property
    def free_parameters(self) -> int:
        """(K − 1) + K Σ_i (symbols of cell i − 1)."""
        return self.components - 1 + self.components * (sum(self.coding.sizes) - len(self.coding.sizes))

    def log_joint(self, codes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of symbols (b, cells) and their log w_k + log p_k(x), (b, K)."""
        k, cells, symbols = self.log_pmf.shape
        table = F.pad(self.log_pmf.masked_fill(self.has == 0, 0).flatten(1).T, (0, 0, 0, 1))  # a row of zeros for the missing
        few = symbols <= FEW
        rows = max(16, ELEMENTS // (cells * max(k, symbols if few else 1)))  # so many keep their one-hot form within memory
        for block in codes.split(rows):
            log_p = one_hot(block, symbols) @ table[:-1] if few else F.embedding_bag(places(block, symbols), table, mode="sum")
            yield block, self.log_weights + log_p

    def count(self, block: Tensor, r: Tensor) -> Tensor:
        """Σ_b r_bk [x_bi = s] for r (b, any K), (K, cells, symbols)."""
        _, cells, symbols = self.log_pmf.shape
        if symbols <= FEW:
            return (r.T @ one_hot(block, symbols)).view(-1, cells, symbols)
        total = r.new_zeros(cells * symbols + 1, r.shape[1])
        total.index_add_(0, places(block, symbols).flatten(), r.repeat_interleave(cells, 0))
        return total[:-1].T.reshape(-1, cells, symbols)

    def _prior(self, codes: Tensor) -> Tensor:
        """Prior counts (1, cells, symbols): α times each cell's frequencies, with ½ added to its counts."""
        each = self.log_pmf.new_ones(len(codes), 1)
        blocks = zip(codes.split(4096), each.split(4096))
        counts = sum((self.count(block, one) for block, one in blocks), self.log_pmf.new_zeros(()))
        return self.smoothing * smoothed(counts, 0.5 * self.has).exp()

    def _iterate(self, codes: Tensor, prior: Tensor) -> float:
        """Responsibilities, then weights and pmfs in place; the log-likelihood of all rows before."""
        counts, n, total = torch.zeros_like(self.log_pmf), torch.zeros_like(self.log_weights), self.log_weights.new_zeros(())
        for block, joint in self.log_joint(codes):
            log_p = joint.logsumexp(1, keepdim=True)
            r = (joint - log_p).exp()
            total += log_p.sum()
            n += r.sum(0)
            counts += self.count(block, r)
        counts, n, total = processes.total(counts, n, total)
        self.log_weights.copy_((n / n.sum()).clamp(min=torch.finfo(n.dtype).tiny).log())
        self.log_pmf.copy_(smoothed(counts + prior, 0))
        return total.item()

    def _begin(self, x: Tensor, codes: Tensor, prior: Tensor, seed: int) -> None:
        """Smoothed pmfs of k-means clusters of a subset."""
        some = permutation(len(x), seed, "start")[: max(ROWS_PER_CLUSTER * self.components, 1000)].to(x.device)
        labels = k_means(self.space.to_model(x[some], torch.float64).flatten(1), self.components, seed=seed)
        r = one_hot(labels[:, None], self.components)
        blocks = zip(codes[some].split(1024), r.split(1024))
        counts = sum((self.count(block, part) for block, part in blocks), torch.zeros_like(self.log_pmf))
        self.log_pmf.copy_(smoothed(counts + prior, 0))
        self.log_weights.copy_(((r.sum(0) + 1) / (r.sum() + self.components)).log())
        self.progress.zero_()
