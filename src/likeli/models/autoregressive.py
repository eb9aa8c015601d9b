"""Autoregressive models: every cell given the cells before it, so that log p(x) is exact and one pass of a network.

    p(x) = Π_t p(x_o(t) | x_o(1), …, x_o(t−1))
"""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from likeli.config import Configurable
from likeli.contract import GenerativeModel, Knows, LogLikelihood, Sequential
from likeli.errors import Unsupported, require
from likeli.models.symbols import after_end, completions
from likeli.nn.causal import CausalTransformer
from likeli.nn.embedding import Conditioner
from likeli.nn.masked import MADE, CausalNetwork
from likeli.nn.pixel_cnn import GatedPixelCNN
from likeli.nn.recurrence import CausalLSTM, RowLSTM
from likeli.probability.draw import draw_symbols, tempered
from likeli.probability.importance import diagnose
from likeli.random import Ambient, Noise, permutation
from likeli.spaces import Cells, DiscretisedLogistic, Gaussian, MixtureDensity, Observation, Space
from likeli.spaces.head import MassCells

NETWORKS: dict[str, type[CausalNetwork]] = {
    "made": MADE,
    "conv": GatedPixelCNN,
    "rows": RowLSTM,
    "transformer": CausalTransformer,
    "lstm": CausalLSTM,
}
HIDDEN = {"made": (512, 512), "conv": (32,) * 4, "rows": (256,), "transformer": (128,) * 4, "lstm": (256,)}
MOST_COLUMNS = 64  # up to here attention over columns costs seconds, and gains nats
MOST_WEIGHTS = 2**24  # of a perceptron from all cells to all cells, which then costs more than attention
COMPONENTS = 5  # of the mixtures that describe a number


class CausalBackbone(Configurable):
    """The network that reads the cells before a cell.

    Arguments:
        network: made (masked perceptron), rows (LSTMs down the rows of an image, a masked perceptron along each), conv (gated
            masked convolutions, for images of one plane), transformer, or lstm (for symbols, in their natural order); chosen
            from the space if not given.
        hidden: width of each layer or block; chosen with the network if not given.
        dropout: probability of zeroing a hidden feature in training; None for 0.2 on images of several levels and 0 elsewhere.

    Raises:
        InputError: an unknown network, a width below 1, a dropout outside [0, 1).
    """

    def __init__(
        self,
        network: Literal["made", "conv", "rows", "transformer", "lstm"] | None = None,
        hidden: tuple[int, ...] | None = None,
        dropout: float | None = None,
    ) -> None:
        self.network, self.hidden, self.dropout = network, None if hidden is None else tuple(hidden), dropout
        require(network is None or network in NETWORKS, "network", f"one of {', '.join(NETWORKS)}", network)
        require(hidden is None or (len(hidden) >= 1 and min(hidden) >= 1), "hidden", "widths of at least 1", hidden)
        require(hidden is None or len(set(hidden)) == 1, "hidden", "layers of one width", hidden)
        require(dropout is None or 0 <= dropout < 1, "dropout", "a number in [0, 1)", dropout)


class Autoregressive(GenerativeModel, Sequential):
    """p(x) = Π_t p(x_o(t) | cells before it in the order o), each factor read by the space's head off a causal network.

    With `order="any"` one network learns every order: each training row gets its own.  log p(x) is then that of an equal
    mixture of `ensemble` fixed orders, row-major first.  Missing cells are put last in each, where leaving them out is exact;
    known cells of `sample(given=…)` come first.  Different orders are different models that only training brings together.

    Arguments:
        space: what one example is.
        backbone: the network; chosen from the space if not given.
        order: `natural` (row-major), or `any`; natural if not given, but any where cells may be missing (reals and tables).
        ensemble: orders whose mixture is p(x), with order any.
        head: p(x_i | before); chosen from the space if not given.
        condition: what y is, for p(x|y); None for p(x).

    Raises:
        InputError: options that exclude each other, or a number outside its range.

    Source: Germain et al. (2015), arXiv:1502.03509; Uria et al. (2013), arXiv:1310.1757, for orders.
    """

    knows: ClassVar[Knows] = Knows.EXACT
    strategy: ClassVar[str] = "sgd"
    calls: ClassVar[str] = "cells"
    takes_missing: bool = True
    train_defaults: ClassVar[dict[str, Any]] = {"batch": 64, "lr": 3e-3, "ema": 0.998, "weight_decay": 1e-2, "clip": 1.0}
    text_defaults: ClassVar[dict[str, Any]] = {"batch": 16, "lr": 5e-3}  # a row has hundreds of symbols

    def __init__(
        self,
        space: Space,
        backbone: CausalBackbone | None = None,
        order: Literal["natural", "any"] | None = None,
        ensemble: int = 1,
        head: Observation | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.backbone, self.order, self.ensemble, self.condition = backbone or CausalBackbone(), order, ensemble, condition
        self.follows = order or ("any" if space.blank is None else "natural")
        require(len(space.shape) > 0, "space", "examples with cells", space.kind())
        require(order in (None, "natural", "any"), "order", "natural or any", order)
        require(self.follows == "natural" or space.end is None, "order", "natural where rows end with a symbol", order)
        require(ensemble >= 1, "ensemble", "at least 1", ensemble)
        require(ensemble == 1 or self.follows == "any", "ensemble", "1 unless order is any", ensemble)
        self.head = (head or finer(space.head())).on(space)
        require(self.head.cellwise, "head", "one of independent cells", self.head.kind())
        self.features, cells = Conditioner(condition), space.dimensions
        name = self.backbone.network or suited(space, self.head.channels, self.follows)
        usual_hidden = HIDDEN[name] if space.symbols or name == "made" else (64,) * 3
        hidden, network = self.backbone.hidden or usual_hidden, NETWORKS[name]
        require(self.follows == "natural" or network.any_order, "order", f"natural with network {name}", order)
        usual = 0.2 if name in ("conv", "rows") and space.symbols > 2 else 0.0
        rate = usual if self.backbone.dropout is None else self.backbone.dropout
        self.backbone = CausalBackbone(name, hidden, rate)  # as it is saved, whatever later versions may choose
        told = {"presence": self.follows == "any"} if network.any_order else {}
        self.net = network(space, self.features.width, self.head.channels, hidden, rate, **told)
        orders = [torch.arange(cells), *(permutation(cells, k, "cells") for k in range(1, ensemble))]
        self.register_buffer("orders", torch.stack(orders), persistent=False)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) in nats along the natural order, or along one drawn for each row (for the batch with MADE)."""
        if self.follows == "natural":
            return -self.log_prob(x, y, self.orders[0])
        if isinstance(self.net, MADE):  # by a single number, which is the same in every process that shares the batch
            order = permutation(self.space.dimensions, int(2**53 * torch.rand((), dtype=torch.float64)), "cells")
        else:
            order = Ambient(x).uniform(self.space.dimensions).argsort(1)
        return -self.log_prob(x, y, last(order.expand(len(x), -1), self._missing(x)) if self._missing(x).any() else order)

    def log_prob(self, x: Tensor, y: Tensor | None, order: Tensor, fixed: tuple[int, ...] = ()) -> Tensor:
        """log p(x) along an order, (B, *shape) → (B,); missing cells add nothing and have to stand last.

        Arguments:
            x: (B, *shape), checked.
            y: (B, *condition.shape) or None.
            order: (D,), or (B, D) one for each row.
            fixed: cells that are given and not counted; they have to stand first.
        """
        known = torch.where(x.isnan(), 0, x) if x.is_floating_point() else x
        out = self.net(known.flatten(1), self.features(y, self._like(x)), order)
        if not fixed:
            return self._cells(out).log_prob(x)
        return self._cells(out).cell_log_prob(x).flatten(1).index_fill(1, torch.tensor(fixed, device=x.device), 0).sum(1)

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None, *, fixed: tuple[int, ...] = ()) -> LogLikelihood:
        """The exact value: log (1/K) Σ_k p_k(x) over the orders of the ensemble.

        Arguments:
            fixed: cells that are given: the number is then of log p(the others|these), in the natural order the first ones.

        Raises:
            InputError: no such cell.
            Unsupported: given cells after free ones in the natural order, or with an ensemble, whose orders are then weighted.
        """
        missing, cells = self._missing(x), self.space.dimensions
        require(all(0 <= i < cells for i in fixed), "fixed", f"cells from 0 to {cells - 1}", fixed)
        if self.follows == "natural":
            self.space.check(x)
        if fixed and (self.ensemble > 1 or (self.follows == "natural" and sorted(fixed) != list(range(len(fixed))))):
            raise Unsupported("fixed: only the first cells of a natural order, or any of one model of order any")
        given = torch.tensor(fixed, dtype=torch.long, device=x.device)
        free = torch.ones(cells, dtype=torch.bool, device=x.device).index_fill(0, given, 0)
        orders = [last(o.expand(len(x), -1), free.expand(len(x), -1)) if fixed else o for o in self.orders]
        orders = [last(o.expand(len(x), -1), missing) for o in orders] if missing.any() else orders
        value = torch.stack([self.log_prob(x, y, o, fixed) for o in orders]).logsumexp(0) - math.log(len(orders))
        return LogLikelihood(value, Knows.EXACT, self.space.measure, dimensions=max(1, int(free.sum())))

    def next_log_pmf(self, x: Tensor, i: int) -> Tensor:
        """log P(x_i = s | cells before i), (B, symbols), along the natural order; cells from i on are not looked at.

        Raises:
            Unsupported: the cells are not symbols, or y is needed.
        """
        if not self.space.symbols:
            raise Unsupported(f"a pmf for each symbol: {self.space.kind()} data have none; pixels, binary cells and tokens do")
        if self.condition is not None:
            raise Unsupported("next_log_pmf: the model is conditional, and a code has no place for y")
        cells = x.reshape(len(x), -1)
        seen = torch.cat([cells[:, :i], torch.zeros_like(cells[:, i:])], 1)
        out = self.net(seen, self.features(None, self._like(x)), self.orders[0, : i + 1])
        return after_end(self._log_pmf(out[:, :, i]), cells[:, :i], self.space.end)

    def fill(self, x: Tensor, y: Tensor | None, n: int, *, samples: int, seed: int) -> tuple[Tensor, None]:
        """n exact draws of missing cells, which come last; with order any only."""
        return completions(lambda given, label: self.draw(Ambient(given), label, given=given), x, y, n), None

    def draw(
        self,
        noise: Noise,
        y: Tensor | None = None,
        *,
        given: Tensor | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        particles: int = 64,
    ) -> Tensor:
        """Cell after cell.

        Known cells that come first in the order are held exactly; with order any they are put first.  In the natural order,
        cells that are free before a known one are drawn by importance resampling: of `particles` draws that hold the known
        cells, one is kept with probability in proportion to how well it foretold them; a warning says so.

        Arguments:
            given: (rows, *shape), cells that are known; see `sample`.
            temperature: of symbols, their log-probabilities are divided by it; other than 1 is not a draw from the model.
            top_p: the most probable symbols whose mass first reaches it are kept; below 1 is not a draw from the model.
            particles: of importance resampling.

        Raises:
            InputError: a number outside its range.
            Unsupported: temperature or top_p of cells that are no symbols.
        """
        self._check_draw(temperature, top_p, particles)
        c = self.features(y, noise.normal(0).new_zeros(noise.rows, 1, dtype=self.dtype, device=self.device))
        known = torch.zeros(noise.rows, self.space.dimensions, dtype=torch.bool, device=self.device)
        order = self.orders[0].expand(noise.rows, -1)
        held = torch.zeros_like(known, dtype=torch.float64 if self.space.blank is None else torch.long)
        if given is not None:
            flat = given.flatten(1)
            known = (flat != self.space.blank) & ~flat.isnan()
            held = torch.where(known, flat, 0).to(held.dtype)
        elif self.ensemble > 1:
            order = self.orders[(noise.uniform().to(self.device) * self.ensemble).long()]
        if self.follows == "any" and given is not None:
            order = last(order, ~known)
        if self.follows == "natural" and ((~known).cumsum(1)[known] > 0).any():
            return self._resample(noise, c, order, known, held, (temperature, top_p), particles)
        return self._finish(self._fill(noise, c, order, known, held, (temperature, top_p), 1)[0])

    def _fill(
        self, noise: Noise, c: Tensor, order: Tensor, known: Tensor, held: Tensor, how: tuple[float, float], copies: int
    ) -> tuple[Tensor, Tensor]:
        """x (rows·copies, D) with the known cells held, and Σ log p(known cell | before), (rows·copies,)."""
        c, order, known, x = (v.repeat_interleave(copies, 0) for v in (c, order, known, held))
        fixed, rows, log_w = x.clone(), torch.arange(len(x), device=x.device), c.new_zeros(len(x), dtype=torch.float64)
        seen = torch.zeros_like(known)
        for cell, out in zip(order.unbind(1), self.net.unroll(x, c, order)):
            if self.space.symbols:
                before = x if self.space.end is None else torch.where(seen, x, -1)
                log_pmf = after_end(self._log_pmf(out).double(), before, self.space.end)
                log_q = log_pmf if how == (1, 1) else tempered(log_pmf, *how)
                drawn = draw_symbols(log_q.unflatten(0, (-1, copies)), noise).flatten()
                log_p = log_pmf.gather(1, fixed[rows, cell, None])[:, 0]
            else:
                numbers = out.new_zeros(*out.shape, known.shape[1])
                numbers[rows, :, cell] = out
                cells = self._cells(numbers)
                drawn = cells.draw(noise).flatten(1)[rows, cell].to(x)
                log_p = log_w.new_zeros(())
            seen[rows, cell], is_known = True, known[rows, cell]
            x[rows, cell] = torch.where(is_known, fixed[rows, cell], drawn)
            log_w += torch.where(is_known, log_p, 0)
        return x, log_w

    def _resample(
        self,
        noise: Noise,
        c: Tensor,
        order: Tensor,
        known: Tensor,
        held: Tensor,
        how: tuple[float, float],
        particles: int,
    ) -> Tensor:
        if not self.space.symbols:
            raise Unsupported("given: a known cell after a free one needs order any, since the cells are no symbols")
        x, log_w = self._fill(noise, c, order, known, held, how, particles)
        log_w = log_w.reshape(noise.rows, particles)
        ess = diagnose(log_w.T).ess
        warnings.warn(
            f"given: known cells after free ones: draws by importance resampling of {particles} particles, not exact; the "
            f"smallest effective number of them is {ess.min():.1f}.  A model of order any draws exactly",
            UserWarning,
            stacklevel=4,
        )
        kept = draw_symbols(log_w, noise)
        return self._finish(x.reshape(noise.rows, particles, -1)[torch.arange(noise.rows), kept])

    def qualification(self, **options: Any) -> str:
        """Says so of temperatures and cut tails."""
        parts = [f"{name} {options[name]:g}" for name in ("temperature", "top_p") if options.get(name, 1) != 1]
        return f"not draws from the model: {', '.join(parts)}" if parts else ""

    def _check_draw(self, temperature: float, top_p: float, particles: int) -> None:
        require(0 < temperature <= 1e6, "temperature", "a number above 0", temperature)
        require(0 < top_p <= 1, "top_p", "a number above 0, at most 1", top_p)
        require(1 <= particles <= 2**16, "particles", "1 to 65536", particles)
        if temperature == 1 and top_p == 1:
            return
        if not self.space.symbols:
            raise Unsupported("temperature, top_p: only for cells of finitely many symbols")
        what = f"temperature {temperature:g}, top_p {top_p:g}: these are not draws from the model"
        warnings.warn(what, UserWarning, stacklevel=4)

    def _cells(self, out: Tensor) -> Cells:
        """p of every cell from numbers (B, channels, D)."""
        return cast(Cells, self.head(out.reshape(*out.shape[:2], *self.space.shape)))

    def _log_pmf(self, out: Tensor) -> Tensor:
        """(B, channels) → (B, symbols)."""
        cells = self.head(out[:, :, None])
        assert isinstance(cells, MassCells)
        return cells.log_pmf()[:, 0]

    def _like(self, x: Tensor) -> Tensor:
        return torch.empty(len(x), 0, dtype=self.dtype, device=x.device)

    def _missing(self, x: Tensor) -> Tensor:
        return x.isnan().flatten(1)

    def _finish(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, *self.space.shape)
        return self.space.check(x)


def suited(space: Space, channels: int, order: str) -> str:
    """The network that did best on such data: LSTMs on text and rows of images, attention on symbols, MADE on columns."""
    if space.alphabet is not None and order == "natural":
        return "lstm"
    if space.symbols and len(space.shape) > 1:
        return "rows" if order == "natural" else "transformer"
    weights = math.prod(space.model_shape) * space.dimensions * channels
    return "transformer" if (space.symbols and space.model_shape != space.shape) or weights > MOST_WEIGHTS else "made"


def finer(head: Observation) -> Observation:
    """The head that a space offers, or for reals and pixels one of several components, as no code lends a factor its shape."""
    if isinstance(head, Gaussian):
        return MixtureDensity(COMPONENTS)
    return DiscretisedLogistic(COMPONENTS) if isinstance(head, DiscretisedLogistic) else head


def last(order: Tensor, missing: Tensor) -> Tensor:
    """Orders (B, D) with the missing cells put last, all else as it was."""
    return order.gather(1, missing.gather(1, order).long().argsort(dim=1, stable=True))
