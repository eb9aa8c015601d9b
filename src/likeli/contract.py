"""The contract: a generative model can be fitted, can sample, and says honestly what it knows of log p(x)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from inspect import signature
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from likeli.config import Configurable
from likeli.errors import Unsupported, check_options, require
from likeli.random import BLOCK, Noise, Streams, blocks, keyed
from likeli.spaces import Space, ended, like_training
from likeli.spaces.base import Measure, confined, held_cells


class Knows(Enum):
    """What a number says of log p(x), the strongest first."""

    EXACT = "exact"
    LOWER_BOUND = "lower bound"
    ESTIMATE = "estimate"
    UNNORMALIZED = "unnormalized"
    NOTHING = "nothing"


@dataclass(frozen=True, repr=False)
class LogLikelihood:
    """log p(x), labelled with what it is.

    Arguments:
        value: (B,) nats per example, in the units of the user's data (the preprocessing's Jacobian is included).
        knows: what `value` is of log p(x).
        measure: `density`, `mass`, or `mixed` (a density of some columns and a mass of others).
        stderr: (B,) Monte Carlo standard error of `value`; None when it is deterministic.
        errors: other sources of error in nats, by name; the mean over rows where each row has its own.
        dimensions: cells of one example, for bits/dim.
        row_errors: (B,) those of each row, where they are known.
    """

    value: Tensor
    knows: Knows
    measure: Measure
    stderr: Tensor | None = None
    errors: dict[str, float] = field(default_factory=dict)
    dimensions: int = 1
    row_errors: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        (nats, error), rows = self.mean(), len(self.value)
        spread = "" if math.isnan(error) else f" ± {error:.2g}"
        of = f"mean of {rows} row{'s' * (rows != 1)}"
        return f"LogLikelihood({nats:.4g}{spread} nats, {of}; {self.knows.value}, {self.measure})"

    def bits_per_dim(self) -> Tensor:
        """−log₂ p(x) / D, shape (B,).

        Raises:
            Unsupported: the value is unnormalised, so it has no unit.
        """
        if self.knows in (Knows.UNNORMALIZED, Knows.NOTHING):
            raise Unsupported(f"bits per dimension of a value that is {self.knows.value}: it has no absolute unit")
        return -self.value / (self.dimensions * math.log(2))

    def mean(self) -> tuple[float, float]:
        """The average over examples in nats and its standard error over examples (NaN for one example).

        Equal rows have one noise and so one value, which their number does not make more certain: of n_c equal rows with the
        Monte Carlo error s_c the mean's variance has (n_c² − n_c) s_c²/n² that their spread does not show, and log Z's error.
        """
        value, n = self.value.double(), len(self.value)
        if n < 2:
            return value.mean().item(), math.nan
        variance = value.var() / n + self.errors.get("log_z", 0.0) ** 2
        if self.stderr is not None:
            known, of, count = value.unique(return_inverse=True, return_counts=True)
            error = torch.zeros_like(known).index_copy_(0, of, self.stderr.double().nan_to_num(0.0))
            variance = variance + ((count**2 - count) * error.square()).sum() / n**2
        return value.mean().item(), variance.sqrt().item()


def joined(parts: Sequence[LogLikelihood], rows: int) -> LogLikelihood:
    """Batches of rows in their order, cut to the first `rows`; an error that is not known by row is the largest of them."""
    drawn = [p.stderr for p in parts if p.stderr is not None]
    by_row = {name: torch.cat([p.row_errors[name] for p in parts])[:rows] for name in parts[0].row_errors}
    errors = {name: max(abs(p.errors.get(name, 0.0)) for p in parts) for p in parts for name in p.errors}
    return LogLikelihood(
        value=torch.cat([p.value for p in parts])[:rows],
        knows=max((p.knows for p in parts), key=list(Knows).index),
        measure=parts[0].measure,
        stderr=torch.cat(drawn)[:rows] if len(drawn) == len(parts) else None,
        errors=errors | {name: value.mean().item() for name, value in by_row.items()},
        dimensions=parts[0].dimensions,
        row_errors=by_row,
    )


@dataclass(frozen=True)
class Elbo:
    """E_q log p(x|z₁) − Σ_t KL_t, one row per example.

    Arguments:
        reconstruction: (B,) log p(x|z₁) at the drawn z, nats in the user's units.
        kl: (B, depth), level 1 (next to the data) first.
    """

    reconstruction: Tensor
    kl: Tensor

    @property
    def value(self) -> Tensor:
        """reconstruction − Σ_t kl_t, shape (B,)."""
        return self.reconstruction - self.kl.sum(1)

    @property
    def prior(self) -> Tensor:
        """KL of the top level, (B,): of a diffusion the terminal mismatch KL(q(z_1|x) ‖ p(z_1))."""
        return self.kl[:, -1]

    @property
    def diffusion(self) -> Tensor:
        """The KLs below the top level, (B, depth − 1), or (B, 1) for their estimated sum."""
        return self.kl[:, :-1]


@runtime_checkable
class Coded(Protocol):
    """A family with a code: a VAE's mean, a flow's inverse, the probability-flow ODE, PPCA's posterior mean."""

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, *shape) → (B, *code), deterministic."""
        ...

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, *code) → (B, *shape), deterministic, in the user's units (a mean may be fractional)."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """A family without log p(x) that is trained to give its input back."""

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B,), larger for what was not seen."""
        ...


@runtime_checkable
class ByEM(Protocol):
    """A family fitted by expectation-maximisation: `em` yields after every iteration, at most `max_iter` times."""

    max_iter: int

    def em(self, x: Tensor) -> Iterator[Any]:
        """One iteration on all rows at each `next`."""
        ...


@runtime_checkable
class Sequential(Protocol):
    """A family that gives cells one after the other, in row-major order: what a coder needs."""

    def next_log_pmf(self, x: Tensor, i: int) -> Tensor:
        """log P(x_i = s | cells before i), (B, *shape) → (B, symbols); cells from i on are not looked at, to the bit.

        Arguments:
            x: (B, *shape) in the user's units, on the model's device.
            i: cell, row-major.

        Raises:
            Unsupported: the cells are not symbols.
        """
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A family that samples step by step, and shows every state on the way."""

    def trajectory(self, noise: Noise, y: Tensor | None = None, **options: Any) -> Iterator[Any]:
        """States from t = 1 down, for `noise.rows` rows."""
        ...

    def observation(self, state: Any, y: Tensor | None = None) -> Distribution:
        """p(x|z) at one of those states."""
        ...


@runtime_checkable
class Qualified(Protocol):
    """A family some of whose ways to sample do not draw from its p(x): `qualification` of the options says so, or is empty."""

    def qualification(self, **options: Any) -> str: ...


class GenerativeModel(Configurable, nn.Module, ABC):
    """A distribution over one `Space`.

    The constructor stores its arguments and builds modules; `Model(space)` works.  x is (B, *space.shape) in the user's units.

    Arguments:
        space: what one example is.
        condition: what y is, for conditional models; None for p(x).
    """

    knows: ClassVar[Knows]
    strategy: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("real", "binary", "pixels", "counts", "tokens", "table")  # spaces it is built on
    calls: ClassVar[str] = ""  # of the network for one sample, in the names of options; see `network_calls`
    takes_missing: bool = False
    takes_null: bool = False  # y may be missing, whole or in part, since training hid it at times
    takes_weights: ClassVar[bool] = False  # its `em` and `fit_closed_form` have `sample_weight`
    train_defaults: ClassVar[dict[str, Any]] = {}
    text_defaults: ClassVar[dict[str, Any]] = {}  # come before those where rows are text
    score_block: ClassVar[int | None] = BLOCK  # rows that a network sees at once; None for closed forms
    condition: Space | None = None

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, *shape) → (B,), minimised by training; promises no unit.  Draws from torch's ambient generator."""

    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        *,
        given: Any = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
        first: int = 0,
        **options: Any,
    ) -> Tensor:
        """Draw n examples, (n, *shape) in the user's units.

        Sample i is a function of (seed, i) alone: `sample(8)` is the first eight rows of `sample(16)`, to the bit.

        Arguments:
            n: how many.
            y: (n, *condition.shape) or one row for all, for a conditional model; else see `like_training`.
            given: (n, *shape) or one row for all, cells that are known, −1 (symbols, counts) or NaN where a cell is drawn.
            seed: the seed of the whole set.
            generator: takes the place of `seed` by drawing one from it.
            first: index of the first sample, to continue or to share a set among processes.
            options: what the family offers (see its `draw`).

        Raises:
            InputError: n < 1, or a y or known cells that do not fit.
            Unsupported: known cells, which the family cannot hold on to.
        """
        require(isinstance(n, int) and not isinstance(n, bool) and n >= 1, "n", "a whole number of at least 1", n)
        require(isinstance(first, int) and first >= 0, "first", "a whole number of at least 0", first)
        check_options(self.draw, options, f"{type(self).__name__}.sample")
        seed = seed if generator is None else int(torch.randint(2**62, (), generator=generator))
        y = like_training(self.condition, n, seed=seed, first=first) if y is None and self.condition else y
        y, known = self.check_condition(y, n), None if given is None else known_cells(self, given, n)
        start = first - first % BLOCK  # blocks are aligned, so that a row's place in its block never changes
        parts = []
        with evaluating(self), torch.no_grad():
            for block in blocks(first + n - start):
                rows = [start + i for i in block]
                noise = Streams(seed, rows, self.dtype, self.device)
                held = {} if known is None else {"given": _rows(known, rows, first, n)}
                drawn = self.draw(noise, _rows(y, rows, first, n), **held, **options)
                parts.append(confined(self.space, drawn, **held))
        return ended(torch.cat(parts)[first - start : first - start + n], self.space.end)

    @abstractmethod
    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """Turn a source of noise into `noise.rows` examples in the user's units."""

    def log_likelihood(self, x: Tensor, y: Tensor | None = None, *, seed: int = 0, **options: Any) -> LogLikelihood:
        """What the model knows of log p(x) (or log p(x|y)): (B, *shape) → nats per example, labelled.

        A row's number is a function of the row and `seed` alone, whatever the rows beside it: its noise is keyed by what is in
        the row, and networks see full blocks, of which the last repeats its last row.  torch's global state is left untouched.

        Raises:
            InputError: x or y does not fit the model's space.
            Unsupported: the family has no log p(x).
        """
        x = self.space.check(x, missing=self.takes_missing).to(self.device)
        y = self.check_condition(y, len(x))
        check_options(self.measure_likelihood, options, f"{type(self).__name__}.log_likelihood")
        whole = self.score_block is None and self.knows_here is Knows.EXACT  # closed forms without noise
        parts, size = [], len(x) if whole else BLOCK
        with evaluating(self), torch.no_grad():
            for start in range(0, len(x), size):
                rows = torch.arange(start, start + size, device=x.device).clamp(max=len(x) - 1)
                given = None if y is None else y[rows]
                with row_noise(self.space, seed, x[rows], given, "log_likelihood"):
                    parts.append(self.measure_likelihood(x[rows], given, **options))
        found = joined(parts, len(x))
        bound = found.knows is Knows.EXACT and not self.space.unambiguous
        return replace(found, knows=Knows.LOWER_BOUND) if bound else found

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        """`log_likelihood` for checked input; families write this one."""
        raise Unsupported(f"{self.kind()} has no log p(x)")

    @property
    def knows_here(self) -> Knows:
        """What `log_likelihood` is on this model's own space, where that is not what it is of the family."""
        return self.knows

    @property
    def loss_in_nats(self) -> bool:
        """Whether `loss` is −log p(x) or a bound on it."""
        return self.knows in (Knows.EXACT, Knows.LOWER_BOUND)

    @property
    def notes(self) -> list[str]:
        """What an evaluation should say beside the number."""
        bound = self.loss_in_nats or self.knows not in (Knows.EXACT, Knows.LOWER_BOUND)
        return [] if bound else ["the loss is a weighted error, not a bound on log p(x); the reported log-likelihood is"]

    @property
    def facts(self) -> dict[str, str]:
        """What the model card says besides what it says of every model."""
        return {}

    def check_condition(self, y: Any, n: int) -> Tensor | None:
        """y as a tensor of n rows (one row is repeated), or None for an unconditional model.

        Raises:
            InputError: y is missing, not wanted, or outside its space.
        """
        if self.condition is None:
            require(y is None, "y", "nothing, since this model is not conditional", y)
            return None
        require(y is not None, "y", f"{self.condition.describe_shape()}, since {self.kind()} is conditional", "nothing")
        y = self.condition.check(y, what="y", missing=self.takes_null).to(self.device)
        require(len(y) in (1, n), "y", f"{n} rows or one", f"{len(y)} rows")
        return y.expand(n, *y.shape[1:]) if len(y) != n else y

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that the model computes in."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.parameters()
        yield from self.buffers()


def known_cells(model: GenerativeModel, given: Any, n: int) -> Tensor:
    """`given` of `sample` as n rows; see `held_cells`.

    Raises:
        InputError: values or rows that do not fit.
        Unsupported: the family draws whole examples only.
    """
    if "given" not in signature(model.draw).parameters:
        raise Unsupported(f"{model.kind()} draws whole examples only; autoregressive and discrete_diffusion hold cells fixed")
    x = held_cells(model.space, given).to(model.device)
    require(len(x) in (1, n), "given", f"{n} rows or one", f"{len(x)} rows")
    return x.expand(n, *model.space.shape)


def row_noise(
    space: Space, seed: int, x: Tensor, y: Tensor | None, *names: object, copies: int = 1
) -> AbstractContextManager[None]:
    """`keyed` by what is in rows of a space: whole numbers as they are, reals by float32's digits in model units.

    In these units no offset of a column hides what tells rows apart, and in these digits processors agree.
    """
    return keyed(seed, x if space.measure == "mass" else space.to_model(x), y, *names, copies=copies)


def _rows(y: Tensor | None, rows: list[int], first: int, n: int) -> Tensor | None:
    return None if y is None else y[torch.tensor(rows).sub(first).clamp(0, n - 1)]  # others only fill the block


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off inside the block, every submodule's mode as it was after it."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode
