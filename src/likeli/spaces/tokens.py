"""Sequences of symbols, such as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from likeli.errors import InputError, require
from likeli.spaces.alphabet import Alphabet, Characters, Words, split_words
from likeli.spaces.base import Space, counted, ended
from likeli.spaces.head import Categorical, Observation


class Tokens(Space):
    """Sequences of symbols 0 … vocab−1.

    Arguments:
        length: symbols of one example, or the most that one may have.
        vocab: number of symbols, the one that ends a row among them.
        alphabet: what each symbol stands for, if it spells text; a text is its characters.
        ends: whether rows are of unequal length: the last symbol, vocab−1, ends a row and fills what is left of it.
    """

    measure = "mass"
    spacing = math.sqrt(2)
    blank = -1

    def __init__(self, length: int, vocab: int, alphabet: Alphabet | str | None = None, ends: bool = False) -> None:
        super().__init__((length,))
        self.alphabet = Characters(alphabet) if isinstance(alphabet, str) else alphabet
        self.length, self.vocab, self.ends, self.symbols = length, vocab, ends, vocab
        require(vocab >= 1 + ends, "vocab", f"at least {1 + ends}", vocab)
        size = vocab if self.alphabet is None else self.alphabet.size + ends
        require(size == vocab, "alphabet", f"{vocab - ends} symbols", size - ends)
        self.end = vocab - 1 if ends else None
        self.amounts: dict[str, list[int]] = {"symbol": [1] * vocab}
        if self.alphabet is not None:
            self.amounts["byte"] = [*self.alphabet.widths, *[1] * ends]  # a line break for an end
        self.unambiguous = self.alphabet is None or self.alphabet.unambiguous

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (self.length, self.vocab)

    def head(self) -> Observation:
        return Categorical().on(self)

    def check(self, x: Any, *, what: str = "x", missing: bool = False) -> Tensor:
        """Also takes texts, one or a list of them, where the symbols spell text; see `encode`."""
        texts = [x] if isinstance(x, str) else x
        if isinstance(texts, (list, tuple)) and texts and all(isinstance(t, str) for t in texts):
            x = self.encode(texts, what)
        return super().check(x, what=what, missing=missing)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        return ended(self._whole(x, self.vocab - 1, what, f"symbols from 0 to {self.vocab - 1}").long(), self.end)

    def encode(self, texts: Sequence[str], what: str = "x", first_line: int | None = None) -> Tensor:
        """Texts as rows (n, length), filled up with `end`.

        Arguments:
            texts: one a row.
            what: their name, for messages.
            first_line: the number of the first one where they are the lines of a file.

        Raises:
            InputError: symbols that spell no text, a character that is not among them, or a text that is too long, or too short
                where rows are of one length.
        """
        if self.alphabet is None:
            raise InputError(f"{what}: expected rows of symbols, since they stand for no characters, got text")
        rows = []
        for i, text in enumerate(texts):
            where, line = (f"{what}, row {i}", 1) if first_line is None else (what, first_line + i)
            row = self.alphabet.encode(text, where, line)
            fits = len(row) <= self.length if self.ends else len(row) == self.length
            size = f"{'at most ' * self.ends}{self.length} symbols (the context)"
            where = where if first_line is None else f"{what}: line {line}"
            require(fits, where, size, f"{len(row)}: {text[:60]!r}")
            rows.append(row)
        return self.filled(rows)

    def filled(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Symbols of at most `length` a row as (n, length), with `end` after them."""
        out = torch.full((len(rows), self.length), self.vocab - 1)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out

    def decode(self, x: Tensor) -> list[str]:
        """Rows as texts, up to their ends; without an alphabet, as numbers with blanks between."""
        mask = counted(x, self.end) & (x != (-1 if self.end is None else self.end))
        rows = [row[keep].tolist() for row, keep in zip(x.cpu(), mask.cpu())]
        if self.alphabet is None:
            return [" ".join(map(str, row)) for row in rows]
        return [self.alphabet.decode(row) for row in rows]

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return F.one_hot(x.long(), self.vocab).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        return ended(u.argmax(-1), self.end)


def caption_space(texts: Sequence[str], most: int | None = None) -> Tokens:
    """What captions are: at most as many words as the longest has (or `most`), of the words that occur.

    Raises:
        InputError: texts without a word.
    """
    alphabet = Words.of(texts)
    longest = max(len(split_words(text)) for text in texts)
    return Tokens(max(most or longest, 1), alphabet.size + 1, alphabet, ends=True)
