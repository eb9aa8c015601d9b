"""Where randomness comes from.

Training draws from the ambient torch generator inside `seeded(seed, step)`, so its random state is a function of the step and
needs no saving.  Sampling draws from `Streams`: one stream per sample, so that sample i depends on (seed, i) alone, never on
how many were asked for.  Scoring draws inside `keyed`: the noise of a row is a function of the seed and of what is in the row,
so its number does not depend on order, subsets or neighbours.  All speak the same verbs, and so does `Replay`, which serves
noise given by the user.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from likeli.errors import InputError, Unsupported, require

BLOCK = 64  # samples are always computed in full blocks of this many rows: a matrix product's bits depend on its shape


class Noise(Protocol):
    """A source of random tensors whose first axis is the sample."""

    rows: int

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (rows, *shape)."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), (rows, *shape)."""
        ...


class Ambient:
    """Noise from torch's current generator (see `seeded`), one draw for the whole batch; inside `keyed`, each row's own.

    Arguments:
        like: a tensor that gives the number of rows, the dtype and the device.
    """

    def __init__(self, like: Tensor, rows: int | None = None) -> None:
        self.like, self.rows = like, len(like) if rows is None else rows
        self.dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (rows, *shape)."""
        if (source := _SOURCE.get()) is not None and source.rows == self.rows:
            return source.normal(*shape).to(self.like.device, self.dtype)
        return torch.randn(self.rows, *shape, dtype=self.dtype, device=self.like.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), (rows, *shape)."""
        if (source := _SOURCE.get()) is not None and source.rows == self.rows:
            return source.uniform(*shape).to(self.like.device, self.dtype)
        return torch.rand(self.rows, *shape, dtype=self.dtype, device=self.like.device)


class Streams:
    """One random stream per sample: row r is a function of (seed, indices[r]) and of what that row drew before.

    Drawn on the CPU whatever the device, so that every device sees the same noise.

    Arguments:
        seed: the seed of the whole set.
        indices: the index of each row's sample.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows, self.dtype, self.device = len(indices), dtype, device
        self.generators = [torch.Generator().manual_seed(derive(seed, "sample", i)) for i in indices]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (rows, *shape)."""
        return self._fill(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), (rows, *shape)."""
        return self._fill(torch.rand, shape)

    def _fill(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        out = torch.empty(self.rows, *shape, dtype=self.dtype)
        for row, generator in zip(out, self.generators):
            draw(shape, generator=generator, out=row)
        return out.to(self.device)


class Keyed:
    """Noise by row: number n of a row is a function of (seed, what is in the row, n) alone.

    Word n of a row is the SplitMix64 finaliser of its key + n · ⌊2⁶⁴/golden ratio⌋; its upper 24 bits are a uniform
    number, so that float32 holds it below 1, and its upper 53 a normal one by the inverse of Φ.

    Arguments:
        seed: of the whole set.
        x, y: (rows, …), what is in the rows; y may be None.
        names: what the noise is for.
        copies: every row stands so many times in succession, each with noise of its own.

    Source: Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators.
    """

    def __init__(self, seed: int, x: Tensor, y: Tensor | None, *names: object, copies: int = 1) -> None:
        self.rows, self.used, self.copies = len(x), 0, copies
        self.content, self.purpose = (x, y), derive(seed, *names).to_bytes(8, "little")

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (rows, *shape) float64 on the CPU."""
        return torch.special.ndtri((_shifted(self._words(shape), 11).double() + 0.5) * 2.0**-53)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), (rows, *shape) float64 on the CPU."""
        return _shifted(self._words(shape), 40).double() * 2.0**-24

    @cached_property
    def key(self) -> Tensor:
        """(rows, 1) int64, found when first asked for."""
        parts = [v.detach().reshape(self.rows, -1).double().cpu() for v in self.content if v is not None]
        held = torch.cat(parts, 1).nan_to_num(nan=0.12345679) + 0.0  # one value that is missing, one zero
        keys = [self.purpose + (i % self.copies).to_bytes(4, "little") for i in range(self.rows)]
        digests = (hashlib.blake2b(row, digest_size=8, key=key).digest() for row, key in zip(held.numpy(), keys))
        return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.int64)[:, None]

    def _words(self, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        place = torch.arange(self.used + 1, self.used + count + 1, dtype=torch.int64)
        self.used += count
        return _words_at(self.key, place).reshape(self.rows, *shape)


_SOURCE: ContextVar[Keyed | None] = ContextVar("noise", default=None)


def _words_at(key: Tensor | int, place: Tensor) -> Tensor:
    """Word number `place` of the stream of `key`, int64."""
    z = key + place * -7046029254386353131
    z = (z ^ _shifted(z, 30)) * -4658895280553007687
    z = (z ^ _shifted(z, 27)) * -7723592293110705685
    return z ^ _shifted(z, 31)


def uniform_of_rows(first: int, rows: int, seed: int, *keys: object) -> Tensor:
    """Numbers on [0, 1), float64, for the rows first, first + 1, …: that of row i is a function of (seed, i)."""
    place = torch.arange(first + 1, first + rows + 1, dtype=torch.int64)
    return _shifted(_words_at(derive(seed, *keys), place), 11).double() * 2.0**-53


def _shifted(z: Tensor, bits: int) -> Tensor:
    """The words moved right, zeros from the left."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


@contextmanager
def keyed(seed: int, x: Tensor, y: Tensor | None, *names: object, copies: int = 1) -> Iterator[None]:
    """Inside the block `Ambient` noise for so many rows is `Keyed`; other draws are seeded by (seed, names)."""
    token = _SOURCE.set(Keyed(seed, x, y, *names, copies=copies))
    try:
        with seeded(seed, *names):
            yield
    finally:
        _SOURCE.reset(token)


def is_keyed(rows: int) -> bool:
    """Whether so many rows would get noise that is each row's own: see `keyed`."""
    source = _SOURCE.get()
    return source is not None and source.rows == rows


class Replay:
    """Noise given beforehand, served in order: for checking a sampler against a hand calculation.

    Arguments:
        tensors: each (rows, *shape); one is handed out per call.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.rows, self._left = len(tensors[0]), iter(tensors)

    def normal(self, *shape: int) -> Tensor:
        """The next given tensor."""
        value = next(self._left, None)
        if value is None:
            raise InputError("noise: expected one tensor per draw, got too few")
        require(tuple(value.shape[1:]) == shape, "noise", f"shape (rows, *{shape})", tuple(value.shape))
        return value

    uniform = normal


_NUMBERS = {torch.rand, torch.randn}
_LIKE = {torch.rand_like, torch.randn_like}
_DROPOUT = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d}
_OTHER_DRAWS = {
    *(torch.multinomial, torch.bernoulli, torch.poisson, torch.normal, torch.randint_like, torch.Tensor.bernoulli_),
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.exponential_, F.alpha_dropout, F.feature_alpha_dropout),
}


class BatchPart(TorchFunctionMode):
    """Inside the block, draws for `rows` rows are rows first, …, first + rows − 1 of torch's draws for a batch of `of` rows.

    So processes that share a batch, each with the same generator, give row i the noise that one process gives it: `torch.rand`,
    `randn`, their `_like`s, `randint` and dropout.  A draw whose first axis is not `rows` long is left alone, and is equal in
    all of them.

    Arguments:
        first: row of the batch with which this part begins.
        rows: of this part.
        of: rows of the whole batch.

    Raises:
        Unsupported: inside, another kind of draw for `rows` rows, such as `torch.multinomial`.
    """

    def __init__(self, first: int, rows: int, of: int) -> None:
        super().__init__()
        self.first, self.rows, self.of = first, rows, of

    def __enter__(self) -> BatchPart:
        self._token = BATCH_PART.set(self)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        BATCH_PART.reset(self._token)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call, or its part of the whole batch's."""
        kwargs = kwargs or {}
        if BATCH_PART.get() is not self:  # a block inside this one has taken its place
            return func(*args, **kwargs)
        if func in _NUMBERS and (size := _size(args, kwargs))[:1] == (self.rows,):
            rest = {k: v for k, v in kwargs.items() if k != "size"}
            return self._mine(func(self.of, *size[1:], **rest))
        if func is torch.randint:
            size = tuple(next(a for a in (*args, kwargs.get("size")) if isinstance(a, (tuple, list))))
            if size[:1] == (self.rows,):
                rest = {k: v for k, v in kwargs.items() if k != "size"}
                bounds = [a for a in args if not isinstance(a, (tuple, list))]
                return self._mine(func(*bounds, size=(self.of, *size[1:]), **rest))
        x = args[0] if args and isinstance(args[0], Tensor) and args[0].shape[:1] == (self.rows,) else None
        if func in _LIKE and x is not None:
            return self._mine(func(self._batch_like(x), *args[1:], **kwargs))
        if func in _DROPOUT and x is not None:
            return x * self._mine(func(self._batch_like(x), *args[1:], **kwargs))
        if func in _OTHER_DRAWS and x is not None:
            told = f"torch.{func.__name__} for each row of a batch that processes share"
            raise Unsupported(f"{told}: its numbers cannot be cut out of the whole batch's; draw with torch.rand")
        return func(*args, **kwargs)

    def _batch_like(self, x: Tensor) -> Tensor:
        """Ones for the whole batch, laid out in memory as x is: the order in which numbers are drawn."""
        last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        ones = torch.ones(self.of, *x.shape[1:], dtype=x.dtype, device=x.device)
        return ones.contiguous(memory_format=torch.channels_last) if last else ones

    def _mine(self, whole: Tensor) -> Tensor:
        return whole[self.first : self.first + self.rows]


BATCH_PART: ContextVar[BatchPart | None] = ContextVar("part of a batch", default=None)


def _size(args: Any, kwargs: Any) -> tuple[int, ...]:
    """The shape that `torch.rand` and its like were asked for."""
    given = args if args else (kwargs["size"],)
    return tuple(given[0]) if isinstance(given[0], (tuple, list)) else tuple(given)


@contextmanager
def repeated_rows(copies: int) -> Iterator[None]:
    """Inside the block every row of the batch stands `copies` times in succession."""
    part = BATCH_PART.get()
    with nullcontext() if part is None else BatchPart(copies * part.first, copies * part.rows, copies * part.of):
        yield


@contextmanager
def every_row_of(n: int, start: int, step: int) -> Iterator[Tensor]:
    """Which of n rows are rows start, start + step, … of the batch; inside the block these are the batch."""
    part = BATCH_PART.get()
    if part is None or part.rows != n:
        yield torch.arange(n)[start::step]
        return
    before, upto, of = (len(range(start, end, step)) for end in (part.first, part.first + n, part.of))
    with BatchPart(before, upto - before, of):
        yield torch.arange(n)[(start - part.first) % step :: step]


def derive(seed: int, *keys: object) -> int:
    """A 63-bit seed that is a function of `seed` and `keys` (blake2b), so that no two purposes share a stream."""
    require(hasattr(seed, "__index__") and not isinstance(seed, bool), "seed", "a whole number", seed)
    text = repr((int(seed), *keys)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def seeded(seed: int, *keys: object) -> Iterator[None]:
    """Seed torch's generators inside the block and put the caller's state back after it."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        number = derive(seed, *keys)
        torch.default_generator.manual_seed(number)  # torch.manual_seed asks every kind of device: 0.3 to 1 ms
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(number)
        yield


def permutation(n: int, seed: int, *keys: object) -> Tensor:
    """A permutation of range(n), a function of (seed, keys): the data order of an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "order", *keys)))


def blocks(n: int, size: int = BLOCK) -> Iterator[range]:
    """Index ranges of full blocks that cover n samples; the last may run past n and is cut by the caller."""
    for start in range(0, n, size):
        yield range(start, start + size)
