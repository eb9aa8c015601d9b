"""Gradient-boosted trees, column by column: every cell of a table or of reals given others, as a walk down binary questions.

    p(x) = Π_j p(x_j | x_<j),    P(cell of x_j | ·) = Π over the questions on its path of σ(±f(·)),   f = b + Σ_t tree_t(·)

The cells of a column (its categories, exact values and intervals) are the leaves of a binary tree whose questions halve their
mass; each question is answered by trees of scikit-learn's histogram gradient boosting, grown on the rows that come to it.  Of
a number's cells f begins at what a joint Gaussian of the columns says of them, f = b + a·logit P_Gauss + Σ_t tree_t, and its
E[x_j|·] is one more feature, so that trees need to learn only what is not linear.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.errors import CheckpointError, Unsupported, require
from likeli.gaussian.baseline import JointGaussian, log_odds
from likeli.models.symbols import completions
from likeli.probability.boosting import NODE, Binned, Seen, best_offset, grown_trees
from likeli.probability.draw import uniform_48
from likeli.random import Ambient, Noise, Replay, derive, permutation
from likeli.spaces import Space
from likeli.spaces.arrays import row_weights
from likeli.spaces.marginal import Marginal, Marginals
from likeli.spaces.questions import CELL, Questions, intervals, stored_cells, unseen

FEWEST, RARER = 20, 4  # rows that come to a question, and of its rarer answer, below which no tree is grown
COPIES, ROWS = 10, 4000  # each row is hidden in part in so many ways at most, while this makes no more rows; in two at least
SHOWN = 2048  # training rows of which a step's loss is
PAIRS, STEPS = 2**20, 2**22  # (row, tree) and (row, column, question) at a time
ORDERS = 256  # of columns, which rows share: the Gaussian is conditioned on each subset of cells once
TRUST = tuple(i / 10 for i in range(13))  # a, of which the best for validation rows is taken


class BoostedTrees(GenerativeModel):
    """p(x) = Π_j p(x_j | x_<j), each factor a walk down yes-or-no questions that boosted trees answer.

    With order `any` trees learn from rows whose other cells are hidden at random, so that they can be asked for p(x_j | any
    cells): missing cells are put last, where leaving them out is exact, and known cells of `sample(given=…)` first.  In the
    natural order, which is sharper and quicker, a missing cell is a value like others to the trees, so that the number of a
    row is log p(observed cells | which are missing).  An answer of probability q is given (1 − ε)q + εm, m its share of the
    ε⁻¹ − 2 training rows asked: no value is impossible.

    Arguments:
        space: a table, or reals.
        order: `any`, or `natural`: of the columns as they stand.
        rounds: trees of one question at most; fewer where validation rows gain nothing more.
        leaves: of one tree at most.
        rate: by which each tree's answer is shrunk.
        patience: rounds without a gain on validation rows, after which no more trees are grown.
        trees: how many were grown, which fitting finds.
        features: of the joint Gaussian, which fitting finds: none where names make too many.

    Raises:
        Unsupported: cells that are neither reals nor a table's.

    Source: Friedman (2001), Annals of Statistics 29; McCarter (2024), arXiv:2407.05593, for the walk and the hidden cells.
    """

    coding: Marginals
    left: Tensor
    right: Tensor
    knows: ClassVar[Knows] = Knows.EXACT
    strategy: ClassVar[str] = "boosting"
    kinds: ClassVar[tuple[str, ...]] = ("real", "table")
    calls: ClassVar[str] = "0"
    score_block: ClassVar[int | None] = None
    takes_missing: bool = True
    takes_weights: ClassVar[bool] = True

    def __init__(
        self,
        space: Space,
        order: Literal["natural", "any"] = "any",
        rounds: int = 300,
        leaves: int = 8,
        rate: float = 0.1,
        patience: int = 8,
        trees: int = 0,
        features: int = 0,
    ) -> None:
        super().__init__(space)
        if not isinstance(space.coding, Marginals) and space.measure != "density":
            raise Unsupported(f"boosted_trees needs a table or reals, not {space.kind()}; use categorical_mixture")
        require(order in ("natural", "any"), "order", "natural or any", order)
        require(rounds >= 1, "rounds", "at least 1", rounds)
        require(2 <= leaves <= 127, "leaves", "2 to 127", leaves)
        require(0 < rate <= 1, "rate", "a number above 0, at most 1", rate)
        require(patience >= 1, "patience", "at least 1", patience)
        require(trees >= 0, "trees", "at least 0", trees)
        self.order, self.rounds, self.leaves, self.rate, self.patience = order, rounds, leaves, rate, patience
        d, shape = space.dimensions, (trees, 2 * leaves - 1)
        if isinstance(space.coding, Marginals):
            self.coding = space.coding
        else:  # reals bring no cells of their own
            for name, values in zip(CELL, stored_cells(unseen(space))):
                self.register_buffer(name, values)
            self.coding = self._stored()
        self.questions, self.gaussian = Questions.of(self.coding), JointGaussian(self.coding, features)
        asked = len(self.questions.column)
        self.register_buffer("grown", torch.zeros(d, dtype=torch.bool))
        self.register_buffer("share", self.questions.share.clone())  # of the second answer
        self.register_buffer("base", self.questions.share.logit())
        self.register_buffer("escape", torch.ones(asked, dtype=torch.float64))
        self.register_buffer("first", torch.zeros(asked + 1, dtype=torch.int64))  # of each question's trees
        for name in NODE.names or ():
            self.register_buffer(name, torch.from_numpy(np.zeros(shape, NODE)[name].copy()))

    @property
    def trees(self) -> int:
        """How many were grown."""
        return len(self.feature)

    @property
    def features(self) -> int:
        """Of the joint Gaussian."""
        return 0 if self.gaussian.mean is None else len(self.gaussian.mean)

    # --- fitting --------------------------------------------------------------------------------------------------------

    def boost(
        self, x: Tensor, valid: Tensor | None = None, *, seed: int = 0, start: int = 0, sample_weight: Any = None,
        allowance: Callable[[int], float] = lambda left: math.inf,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """Grow one column's trees a step; a column whose turn has not come is as it is by itself.

        Arguments:
            x: (n, *shape), NaN where a cell is missing.
            valid: rows that say when to stop; a tenth of x if not given.
            seed: of that tenth and of what is hidden.
            start: columns that are grown already.
            sample_weight: (n,), how often each row counts.
            allowance: how many seconds the next of so many columns may take; its other questions get no trees.
        """
        rows = x.detach().reshape(len(x), -1).double().cpu()
        weight = torch.ones(len(rows)) if sample_weight is None else row_weights(sample_weight, len(rows))
        if self.space.coding is None and start == 0:
            self._found(rows, weight)
        if valid is None:
            order = permutation(len(rows), seed, "stopping")
            aside, rest = order[: len(rows) // 10], order[len(rows) // 10 :]
            rows, weight, known = rows[rest], weight[rest], rows[aside]
        else:
            known = valid.detach().reshape(len(valid), -1).double().cpu()
        if start == 0:
            self.gaussian.fit(rows, weight, seed)
        shown = x[permutation(len(x), seed, "shown")[:SHOWN].to(x.device)]
        cells = self.cell_log_prob(shown)
        for j in range(start, self.space.dimensions):
            until = time.perf_counter() + allowance(self.space.dimensions - j)
            train, held = (self._seen(part, w, j, seed) for part, w in ((rows, weight), (known, torch.ones(len(known)))))
            self._grow(j, train, held, derive(seed, "trees", j) % 2**32, until)
            cells[:, j] = self.cell_log_prob(shown, j)[:, j]
            yield {"loss": -cells.sum(1).mean().item(), "trees": self.trees}

    def _seen(self, rows: Tensor, weight: Tensor, j: int, seed: int) -> Seen:
        """Rows (n, D) whose cell j is seen, with columns before it; or copies, with those that random orders put there."""
        code, copies = self.coding.symbols(rows)[:, j], 1
        kept = (code >= 0) & (weight > 0)
        x, rank, each = rows[kept], self.questions.rank[j, code[kept]].numpy(), weight[kept].double().numpy()
        if self.order == "natural":
            hidden = (torch.arange(x.shape[1]) >= j).expand(x.shape)
        else:
            copies = max(2, min(COPIES, ROWS // max(len(x), 1)))
            generator = torch.Generator().manual_seed(derive(seed, "hidden", j))
            n = copies * len(x)
            turn = torch.rand(min(n, ORDERS) if self.gaussian.known else n, x.shape[1], generator=generator)
            turn = turn if len(turn) == n else turn[torch.randint(len(turn), (n,), generator=generator)]
            hidden = turn >= turn[:, j, None]
        seen = x.repeat(copies, 1).masked_fill(hidden, torch.nan)
        mean, spread = self.gaussian.foretell(self.gaussian.values(seen), j, earlier=False)
        features = torch.cat([seen, mean[:, None]], 1).numpy()
        return Seen(features, np.tile(rank, copies), np.tile(each / copies, copies), mean.numpy(), spread.numpy())

    def _grow(self, j: int, train: Seen, held: Seen, seed: int, until: float) -> None:
        """Answer the questions of column j, the first that are asked first.

        f = a (logit P_Gauss + c) + (1 − a) logit share + trees: c of each question best for training rows, a of all for `held`.
        """
        ends, grown, lost = self.gaussian.ends(j), list[np.ndarray](), np.zeros(len(TRUST))
        mine, asked, counts = (self.questions.column == j).nonzero()[:, 0], [], list[int]()
        for q in mine.tolist():
            cut = int(self.questions.low[q]), int(self.questions.cut[q]), int(self.questions.high[q])

            def odds(mean: np.ndarray, spread: np.ndarray, cut: tuple[int, int, int] = cut) -> np.ndarray:
                if ends is None:
                    return np.zeros(len(mean))
                return log_odds(ends[list(cut)].expand(len(mean), 3), torch.from_numpy(mean), torch.from_numpy(spread)).numpy()

            one, other = (seen.asked(cut, odds) for seen in (train, held))
            share = (one.weight[one.yes].sum() + float(self.questions.share[q])) / (one.weight.sum() + 1)
            c, plain = best_offset(one.guess, one.yes, one.weight), math.log(share / (1 - share))
            lost += [other.loss(a * (other.guess + c) + (1 - a) * plain) for a in TRUST]
            asked.append((q, one, other, share, c, plain))
        trust = 0.0 if ends is None else TRUST[int(lost.argmin())]
        binned = Binned.of(train.x, held.x, seed)
        for q, one, other, share, c, plain in asked:
            total, second, base = one.weight.sum(), one.weight[one.yes].sum(), trust * c + (1 - trust) * plain
            enough = min(second, total - second) >= RARER and total >= FEWEST and 0 < other.yes.sum() < len(other.yes)
            first, last = (part.guessed(trust, base) for part in (one, other))
            enough &= time.perf_counter() < until
            trees = grown_trees(binned, first, last, self.rounds, self.leaves, self.rate, self.patience) if enough else []
            self.share[q], self.base[q], self.escape[q] = share, base, 1 / (total + 2)
            grown, counts = grown + trees, [*counts, len(trees)]
        if self.gaussian.known:
            self.gaussian.trust[j] = trust
        self._append(j, grown, counts)

    def _append(self, j: int, grown: list[np.ndarray], counts: list[int]) -> None:
        """Put the column's trees after those that there are."""
        upto = torch.tensor(counts, dtype=torch.int64).cumsum(0) + self.trees
        nodes = np.zeros((len(grown), 2 * self.leaves - 1), NODE)
        nodes["feature"] = -1
        for row, tree in zip(nodes, grown):
            row[: len(tree)] = tree
        for name in NODE.names:
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, torch.from_numpy(nodes[name].copy()).to(old)]))
        self.first[1:][self.questions.column == j] = upto.to(self.first)
        self.first[int((self.questions.column <= j).sum()) :] = self.trees
        self.grown[j] = True

    def _found(self, x: Tensor, weight: Tensor) -> None:
        """Cells of reals from rows that are seen, and the questions that halve them."""
        seen = [column[~np.isnan(column)] for column in x[weight > 0].T.numpy()]
        cells = [intervals(v, u.high[-1] - u.low[0]) if len(v) else u for v, u in zip(seen, unseen(self.space))]
        for name, values in zip(CELL, stored_cells(cells)):
            getattr(self, name).copy_(values)
        self._see()
        self.share.copy_(self.questions.share)
        self.base.copy_(self.questions.share.logit())

    def _stored(self) -> Marginals:
        """The cells of reals as they are stored."""
        parts = zip(*(getattr(self, name).tolist() for name in CELL))
        cells = [Marginal(tuple(low), tuple(high), tuple(mass), escape) for low, high, mass, escape in parts]
        return Marginals(cells, torch.zeros(len(cells), dtype=torch.bool))

    def _see(self) -> None:
        """Take the cells of reals as they are stored."""
        self.coding = self.gaussian.coding = self._stored()
        self.questions = Questions.of(self.coding)

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Also takes another number of trees; what could not have been grown is refused."""
        for name in NODE.names or ():
            old, new = getattr(self, name), state.get(f"{prefix}{name}")
            setattr(self, name, old if new is None else old.new_zeros(len(new), old.shape[1]))
        super()._load_from_state_dict(state, prefix, *args)
        least = min(int(self.first[0]), int(self.first.diff().amin()), self.trees - int(self.first[-1]))
        there = (self.feature <= self.space.dimensions) & (self.left.maximum(self.right) < 2 * self.leaves - 1)
        shares = ((self.share > 0) & (self.share < 1) & (self.escape > 0) & (self.escape <= 1)).all()
        sound = least >= 0 and bool(there.all() & shares)
        require(sound, "boosted_trees", "trees of nodes that are there", "others", CheckpointError)
        if self.space.coding is None:
            self._see()

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) in nats, of the observed cells."""
        return -self.cell_log_prob(x).sum(1)

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        """The exact value along the order of the columns."""
        return LogLikelihood(-self.loss(x), Knows.EXACT, self.space.measure, dimensions=self.space.dimensions)

    def cell_log_prob(self, x: Tensor, only: int | None = None) -> Tensor:
        """log p(x_j | observed x_<j) of every cell, or of one column's, (B, *shape) → (B, D) float64; 0 where it is missing."""
        x = x.reshape(len(x), -1).double()
        codes, parts = self.coding.symbols(x), []
        paths = self.questions.path.to(x.device)
        size = max(1, STEPS // (paths.shape[0] * paths.shape[2]))
        for rows in torch.arange(len(x), device=x.device).split(size):
            path = paths[torch.arange(x.shape[1], device=x.device), codes[rows].clamp(min=0)]  # (b, D, L)
            on = (path >= 0) & (codes[rows] >= 0)[..., None]
            on[:, [j for j in range(x.shape[1]) if only not in (None, j)]] = False
            question, second = path[on] // 2, path[on] % 2
            log_p = torch.zeros(path.shape, dtype=torch.float64, device=x.device)
            row, column = on.nonzero()[:, :2].T
            z, (mean, spread) = self.gaussian.values(x[rows]), x.new_ones(2, *on.shape[:2])
            for j in range(x.shape[1]) if only is None else [only]:
                mean[:, j], spread[:, j] = self.gaussian.foretell(z, j, earlier=True)
            answers = self._log_answer(x, rows[row], question, mean[row, column], spread[row, column], earlier=True)
            log_p[on] = answers[second, torch.arange(len(second))]
            parts.append(log_p.sum(2))
        return torch.cat(parts) + self.coding.log_within(x).masked_fill(codes < 0, 0)

    def _log_answer(self, x: Tensor, row: Tensor, question: Tensor, mean: Tensor, spread: Tensor, *, earlier: bool) -> Tensor:
        """log of the probabilities of the first and the second answer, (2, asked).

        Arguments:
            x: (B, D), NaN where a cell is not seen.
            row, question: (asked,), who is asked what.
            mean, spread: (asked,), what the Gaussian foretells of the row and the question's column.
            earlier: whether only columns before the question's are seen.
        """
        asked = self.questions
        column, *cuts = (v.to(x.device)[question] for v in (asked.column, asked.low, asked.cut, asked.high))
        f = self.base[question].double() + self.gaussian.odds(column, torch.stack(cuts, 1), mean, spread)
        count = self.first[question + 1] - self.first[question]
        limit = column if earlier and self.order == "any" else None
        start, pairs = 0, count.cumsum(0)
        while start < len(row):  # blocks of whole questions
            before = int(pairs[start - 1]) if start else 0
            stop = max(start + 1, int(torch.searchsorted(pairs, before + PAIRS, right=True)))
            n = count[start:stop]
            at = torch.repeat_interleave(torch.arange(start, stop, device=x.device), n)
            place = torch.arange(len(at), device=x.device) - (pairs[start:stop] - n - before).repeat_interleave(n)
            tree = self.first[question[at]] + place
            f.index_add_(0, at, self._answers(x, row[at], tree, mean[at], None if limit is None else limit[at]).double())
            start = stop
        e, m = self.escape[question].double(), self.share[question].double()
        return torch.stack([((1 - e) * (-f).sigmoid() + e * (1 - m)).log(), ((1 - e) * f.sigmoid() + e * m).log()])

    def _answers(self, x: Tensor, row: Tensor, tree: Tensor, mean: Tensor, column: Tensor | None) -> Tensor:
        """What each tree answers of its row and of what the Gaussian expects there, feature D; (pairs,)."""
        nodes, (width, flat) = self.feature.shape[1], (x.shape[1], x.flatten())
        at, active = tree * nodes, torch.arange(len(tree), device=x.device)
        feature, threshold, left, right, hidden_left = (getattr(self, name).flatten() for name in NODE.names[:-1])
        for _ in range(self.leaves - 1):
            here = at[active]
            which = feature[here].long()
            inner = which >= 0
            if not inner.all():
                active, here, which = active[inner], here[inner], which[inner]
            if not len(active):
                break
            v = torch.where(which == width, mean[active], flat[row[active] * width + which.clamp(max=width - 1)])
            hidden = v.isnan() if column is None else v.isnan() | ((which >= column[active]) & (which < width))
            goes_left = torch.where(hidden, hidden_left[here], v <= threshold[here])
            at[active] = tree[active] * nodes + torch.where(goes_left, left[here], right[here])
        return self.value.flatten()[at]

    def draw(self, noise: Noise, y: Tensor | None = None, *, given: Tensor | None = None) -> Tensor:
        """Column after column, known cells held: with order any exactly, in the natural order where they are the first ones.

        Arguments:
            given: (rows, *shape), cells that are known; see `sample`.

        Raises:
            Unsupported: known cells after free ones in the natural order.
        """
        d = self.space.dimensions
        u, n = uniform_48(noise, d).to(self.device), noise.uniform(d).double().to(self.device)
        x = torch.full((noise.rows, d), torch.nan, dtype=torch.float64, device=self.device)
        x = x if given is None else given.reshape(-1, d).double().clone()
        free = x.isnan()
        if self.order == "natural" and (free.cumsum(1).bool() & ~free).any():
            raise Unsupported("boosted_trees of natural order: a known cell after a free one needs order any")
        codes = torch.zeros(x.shape, dtype=torch.int64, device=self.device)
        for j in range(d):
            rows = free[:, j].nonzero()[:, 0]
            if len(rows):
                codes[rows, j] = self._draw_cell(x[rows], j, u[rows, j])
                x[rows, j] = self.coding.values(codes[rows], Replay([n[rows]]))[:, j]
        return x.reshape(-1, *self.space.shape)

    def _draw_cell(self, x: Tensor, j: int, u: Tensor) -> Tensor:
        """The cell of column j given what is seen of x (B, D), at which its distribution function first passes u (B,)."""
        asked = self.questions
        code = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        at = torch.full_like(code, int(asked.root[j]))
        onward, found, u = asked.onward.to(x.device), asked.found.to(x.device), u.clone()
        mean, spread = self.gaussian.foretell(self.gaussian.values(x), j, earlier=self.order == "natural")
        while (rows := (at >= 0).nonzero()[:, 0]).numel():
            first, second = self._log_answer(x, rows, at[rows], mean[rows], spread[rows], earlier=False).exp()
            v = u[rows]
            is_second = v >= first
            u[rows] = torch.where(is_second, (v - first) / second, v / first)
            question, answer = at[rows], is_second.long()
            code[rows], at[rows] = found[question, answer], onward[question, answer]
        return code

    def fill(self, x: Tensor, y: Tensor | None, n: int, *, samples: int, seed: int) -> tuple[Tensor, None]:
        """n draws of missing cells, exact along the order in which those that are missing come last."""
        return completions(lambda given, label: self.draw(Ambient(given), label, given=given), x, y, n), None

    @property
    def notes(self) -> list[str]:
        """Which columns have no trees yet, and what a row with missing cells has."""
        left = int((~self.grown).sum())
        told = [f"{left} of {len(self.grown)} columns are as by themselves, since the budget ended before their turn"]
        holes = "of a row with missing cells the number is log p(observed cells | which are missing)"
        return told * (0 < left < len(self.grown)) + [holes] * (self.order == "natural")

    @property
    def facts(self) -> dict[str, str]:
        """How many trees there are, and how far a joint Gaussian is trusted."""
        trees = f"{self.trees:,} of at most {self.leaves} leaves, for {len(self.questions.column):,} questions"
        if not self.gaussian.known:
            return {"trees": trees}
        return {"trees": trees, "joint Gaussian": f"trusted by {float(self.gaussian.trust.mean()):.2f} in the mean of columns"}
