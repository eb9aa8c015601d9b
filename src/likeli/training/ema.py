"""The exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class EMA:
    """ā ← ā + (1 − d_n)(a − ā) with d_n = min(d, (1 + n)/(10 + n)): a young average forgets where it began.

    Arguments:
        parameters: what is averaged, by name.
        decay: d; 0 makes the average the weights themselves.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.parameters, self.decay, self.updates = dict(parameters), decay, 0
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if decay else {}
        self._pairs = list(self.average.values()), [self.parameters[name] for name in self.average]

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        if self.average:
            torch._foreach_lerp_(*self._pairs, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"updates": torch.tensor(self.updates)} | {f"average.{k}": v for k, v in self.average.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`, in place."""
        self.updates = int(tensors["updates"])
        for name, value in self.average.items():
            value.copy_(tensors[f"average.{name}"])


@contextmanager
def holding(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block `targets[name]` holds `values[name]`, without a copy; names that only `targets` has are left alone."""
    pairs = [(targets[name], value) for name, value in values.items()]
    _exchange(pairs)
    try:
        yield
    finally:
        _exchange(reversed(pairs))  # a tied tensor comes twice


def _exchange(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for target, value in pairs:
        target.data, value.data = value.data, target.data
