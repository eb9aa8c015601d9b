"""Captions: rows of words from a list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from likeli.errors import InputError, nearest, require
from likeli.spaces.alphabet import Alphabet
from likeli.spaces.tokens import Tokens


class Words(Alphabet):
    """One symbol a word; case, punctuation and the number of blanks between words say nothing.

    Arguments:
        words: each once, in small letters.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = tuple(words)
        self._codes = {w: i for i, w in enumerate(self.words)}
        require(len(self._codes) == len(self.words) > 0, "words", "words that differ", self.words[:8])

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        """The words of texts, sorted."""
        return cls(tuple(sorted({word for text in texts for word in split_words(text)})))

    @property
    def size(self) -> int:
        return len(self.words)

    def encode(self, text: str, what: str = "text", first: int = 1) -> list[int]:
        found = split_words(text)
        for word in found:
            if word not in self._codes:
                listed = ", ".join(self.words[:40]) + ", …" * (self.size > 40)
                raise InputError(f"{what}: unknown word {word[:40]!r}{nearest(word, self._codes)}; known are {listed}")
        return [self._codes[word] for word in found]

    def decode(self, codes: Sequence[int]) -> str:
        return " ".join(self.words[i] for i in codes)

    @property
    def widths(self) -> list[int]:
        return [len(w.encode()) + 1 for w in self.words]


def split_words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return re.findall(r"\w+", text.lower())


def caption_space(texts: Sequence[str], most: int | None = None) -> Tokens:
    """What captions are: at most as many words as the longest has (or `most`), of the words that occur.

    Raises:
        InputError: texts without a word.
    """
    alphabet = Words.of(texts)
    longest = max(len(split_words(text)) for text in texts)
    return Tokens(max(most or longest, 1), alphabet.size + 1, alphabet, ends=True)
