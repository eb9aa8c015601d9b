"""Diffusion of symbols: masked, uniform or among neighbours, with a bound on log p(x) of T levels or of infinitely many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import Distribution

from likeli.contract import Elbo, Knows, LogLikelihood
from likeli.diffusion.bound import low_discrepancy, spread_mean
from likeli.diffusion.guidance import Guidance, as_guidance, check_null, sharpened
from likeli.discrete.backbone import SymbolBackbone
from likeli.discrete.corruption import (
    LOG_ZERO,
    Absorbing,
    Corruption,
    DiscretisedGaussian,
    UniformCorruption,
    log_odds_lost,
    log_one_hot,
)
from likeli.discrete.elbo import Guess, Reverse, forgetting_kl, jump_integral, level_sum
from likeli.discrete.lengths import Lengths, behind, length_of
from likeli.discrete.orders import Order, chain_rule
from likeli.discrete.samplers import SamplerName, SymbolSampler, symbol_sampler
from likeli.discrete.survival import CosineSurvival, LearnedSurvival, LogLinearSurvival, OrderedMasks, Survival
from likeli.errors import Unsupported, require, require_draws
from likeli.latent.chain import Choose, Graph, LatentVariableModel, Step
from likeli.models.symbols import completions
from likeli.probability.draw import at_least_single, draw_symbols, tempered
from likeli.random import Ambient, Noise
from likeli.spaces import CategoricalCells, CodedCells, Space, coding_of

CHAIN = 128  # levels of the chain that is walked when time is continuous
CORRUPTIONS: dict[str, Callable[[], Corruption]] = {
    "absorbing": Absorbing, "uniform": UniformCorruption, "discretised_gaussian": DiscretisedGaussian,
}  # fmt: skip
SURVIVALS: dict[str, Callable[[], Survival]] = {
    "log_linear": LogLinearSurvival, "cosine": CosineSurvival, "learned": LearnedSurvival, "ordered": OrderedMasks,
}  # fmt: skip


class DiscreteDiffusion(LatentVariableModel):
    """Symbols are forgotten one cell at a time, and a network that sees all cells brings them back.

    Where rows are of unequal length, p(x) = P(length) · p(symbols|length): what is behind the end is seen, and never predicted.
    Missing cells show [MASK] at all times: the number is then of the cells that are there, drawn first.
    Trained on its bound, in nats: with [MASK] in continuous time the mean of −log p(x_i|z) over n masked cells, times D.

    Arguments:
        space: tokens, binary, grey levels, or a table whose columns are all categorical.
        corruption: absorbing puts [MASK], uniform any symbol, discretised_gaussian a neighbouring level; or any `Corruption`.
        schedule: log_linear, cosine, learned (by the bound of `steps` levels), ordered (one cell a level, which makes the model
            autoregressive); or any `Survival`.
        steps: T for the bound of T levels; None for continuous time.
        backbone: the network.
        condition: what y is, if anything.

    Raises:
        Unsupported: some cells are not of finitely many symbols.

    Source: Austin et al. (2021), arXiv:2107.03006; Sahoo et al. (2024), arXiv:2406.07524; Shi et al. (2024), arXiv:2406.04329;
        Schiff et al. (2024), arXiv:2412.10193, for uniform corruption in continuous time.
    """

    loss_in_nats = True
    takes_missing: bool = True
    graph = Graph(markov=True, reads_y=frozenset({"prior", "observation"}))
    kinds: ClassVar[tuple[str, ...]] = ("binary", "pixels", "tokens", "table")
    calls: ClassVar[str] = "steps"
    train_defaults: ClassVar[dict[str, Any]] = {"batch": 64, "lr": 2e-3, "ema": 0.995, "weight_decay": 0.01, "clip": 5.0}
    text_defaults: ClassVar[dict[str, Any]] = {"batch": 16, "lr": 5e-3}  # a row has hundreds of symbols

    def __init__(
        self,
        space: Space,
        corruption: Literal["absorbing", "uniform", "discretised_gaussian"] | Corruption = "absorbing",
        schedule: Literal["log_linear", "cosine", "learned", "ordered"] | Survival = "log_linear",
        steps: int | None = None,
        backbone: SymbolBackbone | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.coding = coding_of(space, self.kind())
        require(steps is None or steps >= 1, "steps", "at least 1, or nothing for continuous time", steps)
        self.__dict__["corruption"], self.__dict__["schedule"] = corruption, schedule  # what acts is made from them below
        backbone = (backbone or SymbolBackbone()).suited(space)
        self.steps, self.backbone, self.condition = steps, backbone, condition
        sizes = [k - (space.end is not None) for k in self.coding.sizes]
        self.kernel = (CORRUPTIONS[corruption]() if isinstance(corruption, str) else corruption).on(sizes)
        self.lengths = None if space.end is None else Lengths(space.dimensions)
        self.survival = (SURVIVALS[schedule]() if isinstance(schedule, str) else schedule).on(space.dimensions, steps)
        timed = not self.kernel.masks if backbone.timed is None else backbone.timed
        require(timed or self.kernel.masks, "timed", "true, since without [MASK] z does not say how noisy it is", timed)
        require(self.kernel.masks or not self.survival.by_cell, "schedule", "one for all cells without [MASK]", "ordered")
        self.takes_null = condition is not None and backbone.condition_dropout > 0
        self.net = backbone.on(space, self.kernel, condition, timed)
        self.levels = space.dimensions if self.survival.by_cell else steps
        self.depth = self.levels or CHAIN

    @property
    def knows_here(self) -> Knows:
        """Exact with ordered masks, where the bound is the chain rule."""
        return Knows.EXACT if self.survival.by_cell else Knows.LOWER_BOUND

    # --- the network ---------------------------------------------------------------------------------------------------

    def guess(self, y: Tensor | None = None, over: Tensor | None = None) -> Guess:
        """z (B, D), α → log g, (B, D, states): the network's law of every cell given the others.

        Where there is a [MASK], a cell that does not show it is known.  `over` (B, D) are cells behind the end of a row.
        """
        kernel = self.kernel

        def guessed(z: Tensor, alpha: Tensor) -> Tensor:
            level = log_odds_lost(alpha.double().reshape(len(alpha), -1).mean(1)).to(self.dtype)
            logits = at_least_single(self.net(z if over is None else z.masked_fill(over, kernel.states), level, y))
            log_g = logits.masked_fill(~kernel.valid[:, : logits.shape[2]], LOG_ZERO).log_softmax(-1)
            if not kernel.masks:
                return log_g
            log_g = nn.functional.pad(log_g, (0, 1), value=LOG_ZERO)
            return torch.where((z == kernel.states - 1)[..., None], log_g, log_one_hot(z, kernel.states, log_g.dtype))

        return guessed

    def _parts(self, x: Tensor, fixed: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Symbols (B, D), which of them are predicted and which are behind the end (B, D), and log P(length) (B,).

        Predicted are those with more than one symbol that stand before the end, are not fixed and not missing.
        """
        cells = self.space.dimensions
        symbols = self._held(x)
        missing = symbols < 0
        if missing.any() and not self.kernel.masks:
            raise Unsupported("missing cells need a state that says so: corruption=absorbing has one")
        symbols = symbols.masked_fill(missing, self.kernel.states - 1)
        require(all(0 <= i < cells for i in fixed), "fixed", f"cells from 0 to {cells - 1}", fixed)
        length = length_of(symbols, self.space.end)
        over, free = behind(length, cells), (self.kernel.sizes > 1).clone()
        free[list(fixed)] = False
        log_p = torch.zeros(len(x), dtype=self.dtype, device=x.device)
        if self.lengths is not None:
            log_p = self.lengths.log_prob(length, fixed)
        return symbols.masked_fill(over, 0), free & ~over & ~missing, over, log_p

    # --- the chain -----------------------------------------------------------------------------------------------------

    def infer(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x as symbols, and which of them are behind the end, (B, D) each: all that q needs.

        Raises:
            Unsupported: missing cells, which the chain would draw.
        """
        if x.is_floating_point() and x.isnan().any():
            raise Unsupported("missing cells have no chain of states; log_likelihood and impute take them")
        symbols, _, over, _ = self._parts(x)
        return symbols, over

    def walk(
        self, noise: Noise, y: Tensor | None = None, *, context: Any = None, choose: Choose | None = None
    ) -> Iterator[Step]:
        kernel, z, shape = self.kernel, None, (noise.rows, self.space.dimensions)
        x, over = (None, torch.zeros(shape, dtype=torch.bool, device=self.device)) if context is None else context
        if context is None and self.lengths is not None:
            nothing = torch.full(shape, -1, device=self.device)
            over = behind(self.lengths.draw(noise, nothing, self.space.end or 0), shape[1])
        guess, still = self.guess(y, over), log_one_hot(torch.zeros(1, 1, device=self.device), kernel.states, self.dtype)
        t = torch.linspace(0, 1, self.depth + 1, dtype=torch.float64, device=self.device)
        alphas = [a.expand(noise.rows, *a.shape) for a in self.survival(t)]
        x = None if x is None else log_one_hot(x, kernel.states, self.dtype)
        for level in range(self.depth, 0, -1):
            if z is None:
                p = kernel.log_pi.to(self.dtype).expand(noise.rows, -1, -1)
                q = None if x is None else kernel(x, alphas[level])
            else:
                ends = alphas[level], alphas[level + 1]
                p = kernel.bridge(guess(z, ends[1]), z, *ends)
                q = None if x is None else kernel.bridge(x, z, *ends)
            p, q = torch.where(over[..., None], still, p), None if q is None else torch.where(over[..., None], still, q)
            laws = [None if w is None else D.Independent(D.Categorical(logits=w, validate_args=False), 1) for w in (p, q)]
            law = laws[0] if laws[1] is None else laws[1]
            z = draw_symbols(p if q is None else q, noise) if choose is None else choose(level, law)
            yield Step(level, laws[0], laws[1], z, (z, alphas[1], over))

    def observation(self, state: tuple[Tensor, Tensor, Tensor], y: Tensor | None = None) -> Distribution:
        """p(x|z_1) given the length: the network's law of each cell and what z_1 says of it."""
        (z, alpha, over), end = state, self.space.end
        log_p = self.kernel.bridge(self.guess(y, over)(z, alpha), z, torch.ones_like(alpha), alpha)
        log_p = log_p[..., : self.kernel.states - self.kernel.masks]
        if end is not None:
            log_p = nn.functional.pad(log_p, (0, 1), value=LOG_ZERO)
            log_p = torch.where(over[..., None], log_one_hot(over * end, end + 1, log_p.dtype), log_p)
        logits = log_p.mT.reshape(len(z), -1, *self.space.shape)
        return CategoricalCells(logits, end) if self.space.coding is None else CodedCells(logits, self.coding)

    def elbo(self, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None) -> Elbo:
        """The bound through all levels of the chain, log P(length) in its reconstruction."""
        found = super().elbo(x, y, context=context, noise=noise)
        return Elbo(found.reconstruction + self._parts(x)[3], found.kl)

    # --- the bound -----------------------------------------------------------------------------------------------------

    def bound(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        *,
        noise: Noise | None = None,
        fixed: tuple[int, ...] = (),
        steps: int | None = None,
    ) -> Elbo:
        """One draw of the bound at one time a row; log P(length), the KL of all levels below the top, and that of the top.

        Arguments:
            x: (B, *shape).
            t: (B,) in [0, 1), float64: where it looks.
            y: the condition.
            noise: where z is drawn from; torch's ambient generator if not given.
            fixed: cells that are seen as they are: the bound is then on log p(the others|these).
            steps: T; the model's own if not given.
        """
        z, free, over, log_length = self._parts(x, fixed)
        noise, reverse = noise or Ambient(x), Reverse(self.kernel, self.survival, self.guess(y, over))
        levels = steps or self.levels
        if levels is None:
            below = jump_integral(reverse, z, t, free, noise)
        else:
            below = level_sum(reverse, z, t, free, noise, levels)
        top = forgetting_kl(reverse, z, free).to(below)
        return Elbo((log_length + self._within(x, fixed)).to(below), torch.stack([below, top], 1))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−ELBO in nats, at one time a row, the times of a batch evenly spread."""
        return -self.bound(x, low_discrepancy(len(x), x.device), y).value

    def measure_likelihood(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        method: Literal["bound", "chain_rule"] = "bound",
        samples: int = 16,
        order: Order | tuple[int, ...] = "left_to_right",
        fixed: tuple[int, ...] = (),
        steps: int | None = None,
    ) -> LogLikelihood:
        """The bound on log p(x), or log p(x) itself of the model that draws one cell after the other.

        Arguments:
            method: `bound`, of the chain; or `chain_rule`, exact for drawing along `order`, another model of the same network.
            samples: draws of the bound for each example.
            order: of the chain rule: left_to_right, confidence, or the cells' numbers, each once.
            fixed: cells that are given: the number is then of log p(the others|these).
            steps: T of the bound, the model's own if not given; another T is another model of the same network.

        Raises:
            InputError: samples < 1, no such cell, an order beside the bound or not of the cells, another T than was learned.
            Unsupported: a chain rule without [MASK].
        """
        require_draws("samples", samples)
        told = method == "bound" and order != "left_to_right"
        require(not told, "order", "nothing beside method=bound, whose order is the chain's", order)
        settled = self.survival.learned or self.survival.by_cell
        any_t = f"nothing, or {self.levels}, for which the schedule is" if settled else "at least 1"
        require(steps in (None, self.levels) or (not settled and steps >= 1), "steps", any_t, steps)
        measure, cells, (z, free, over, log_length) = self.space.measure, self.space.dimensions, self._parts(x, fixed)
        dimensions = max(1, cells - len(set(fixed)))
        ordered = isinstance(self.survival, OrderedMasks)
        if method == "chain_rule" or ordered:
            if not self.kernel.masks:
                raise Unsupported("the chain rule needs a state that says what is not yet drawn; corruption=absorbing has one")
            along = self.survival.rank.argsort().tolist() if ordered and method == "bound" else order
            known = isinstance(along, str) or sorted(along) == list(range(cells))
            require(known, "order", f"each cell from 0 to {cells - 1} once", order)
            value = log_length + chain_rule(self.guess(y, over), z, free, self.kernel.states - 1, along)
            value = value + self._within(x, fixed)
            return LogLikelihood(value.to(self.dtype), Knows.EXACT, measure, dimensions=dimensions)
        noise = Ambient(x)
        first = noise.uniform().double()
        times = [(first + k / samples) % 1 for k in range(samples)]
        draws = torch.stack([self.bound(x, t, y, noise=noise, fixed=fixed, steps=steps).value for t in times])
        value, stderr = spread_mean(draws)
        return LogLikelihood(value, Knows.LOWER_BOUND, measure, stderr, dimensions=dimensions)

    def fill(self, x: Tensor, y: Tensor | None, n: int, *, samples: int, seed: int) -> tuple[Tensor, None]:
        """n draws of missing cells given the others, by the network's own guesses: any order, one cell after the other.

        Raises:
            Unsupported: no [MASK], so that known cells were never seen beside forgotten ones.
        """
        if not self.kernel.masks:
            raise Unsupported("filling missing cells needs a state that says what is missing; corruption=absorbing has one")
        return completions(lambda given, label: self.draw(Ambient(given), label, given=given), x, y, n), None

    # --- samples -------------------------------------------------------------------------------------------------------

    def draw(
        self,
        noise: Noise,
        y: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: SamplerName | SymbolSampler | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        given: Tensor | None = None,
        guidance: Guidance | float | None = None,
    ) -> Tensor:
        """x at the end of the chain, by default that which the bound is of.

        Arguments:
            steps: levels; the model's own if not given, in continuous time as many as cells (for blocks and the cached sampler
                infinitely many).
            sampler: cached (the chain, its idle levels passed over), ancestral, confidence, remasking or blocks.
            temperature, top_p: of the network's probabilities; draws of others than 1 are not draws of the model.
            given: (rows, *shape), symbols that stay, -1 (NaN in a table) where free.
            guidance: γ of (1 − γ) log g(·) + γ log g(·|y), each cell's law; 1 is the plain conditional model, 0 the
                unconditional one, and other draws are of no posterior.
        """
        require(steps is None or steps >= 1, "steps", "at least 1", steps)
        chosen = symbol_sampler(sampler, self.kernel.masks)
        tempered(torch.zeros(1), temperature, top_p)  # refuses what is out of range before any work
        kernel, end, shape = self.kernel, self.space.end, (noise.rows, self.space.dimensions)
        held = torch.full(shape, -1, device=self.device) if given is None else self._held(given)
        over = torch.zeros(shape, dtype=torch.bool, device=self.device)
        if self.lengths is not None and end is not None:
            over = behind(self.lengths.draw(noise, held, end), shape[1])
        guess = self.guess(y, over)
        if as_guidance(guidance).scale != 1:
            check_null(self)
            guess = sharpened(self.guess, y, over, as_guidance(guidance))

        def tempered_guess(z: Tensor, alpha: Tensor) -> Tensor:
            return tempered(guess(z, alpha), temperature, top_p).clamp(min=LOG_ZERO)

        reverse = Reverse(kernel, self.survival, guess if (temperature, top_p) == (1, 1) else tempered_guess)
        held = torch.where((kernel.sizes == 1) | over, 0, held)
        z = torch.where(held >= 0, held, draw_symbols(kernel.log_pi.expand(noise.rows, -1, -1), noise))
        states = chosen.run(reverse, z, held < 0, noise, self.levels if steps is None else steps)
        (z,) = deque(chain([z], states), 1)
        z = z if end is None else z.masked_fill(over, end)
        if self.space.coding is None:
            return self.space.check(z.reshape(-1, *self.space.shape))
        x = self.coding.values(z, noise)
        return x if given is None else torch.where(given.isnan(), x, given)

    def _held(self, given: Tensor) -> Tensor:
        """Known cells as symbols, -1 where one is free or missing: (B, *shape) → (B, D) int64."""
        return given.flatten(1).nan_to_num(-1).long() if self.space.coding is None else self.coding.symbols(given)

    def _within(self, x: Tensor, fixed: tuple[int, ...]) -> Tensor:
        """Σ log p(x_i | its symbol) of the cells that are not fixed, (B,)."""
        inside = self.coding.log_within(x)
        inside[:, list(fixed)] = 0
        return inside.sum(1)

    def qualification(self, **options: Any) -> str:
        """Says so of temperatures, cut tails, and samplers with a law of their own."""
        parts = [f"{name} {options[name]:g}" for name in ("temperature", "top_p") if options.get(name, 1) != 1]
        parts += [said] if (said := as_guidance(options.get("guidance")).said()) else []
        parts += [law] if (law := symbol_sampler(options.get("sampler"), self.kernel.masks).law) else []
        return f"not draws of the model that the bound is of: {', '.join(parts)}" if parts else ""
