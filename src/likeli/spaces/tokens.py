"""Sequences of symbols, such as text."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.errors import require
from likeli.spaces.base import Space
from likeli.spaces.head import Categorical, Observation


class Tokens(Space):
    """Sequences of symbols 0 … vocab−1.

    Arguments:
        length: symbols of one example.
        vocab: number of symbols.
        alphabet: what each symbol stands for, if it stands for a character.
    """

    measure = "mass"
    spacing = math.sqrt(2)
    blank = -1

    def __init__(self, length: int, vocab: int, alphabet: str | None = None) -> None:
        super().__init__((length,))
        self.length, self.vocab, self.alphabet, self.symbols = length, vocab, alphabet, vocab
        require(vocab >= 1, "vocab", "at least 1", vocab)
        require(alphabet is None or len(alphabet) == vocab, "alphabet", f"{vocab} characters", alphabet)

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (self.length, self.vocab)

    def head(self) -> Observation:
        return Categorical().on(self)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        return self._whole(x, self.vocab - 1, what, f"symbols from 0 to {self.vocab - 1}").long()

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return F.one_hot(x.long(), self.vocab).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        return u.argmax(-1)
