"""What the symbols of a text stand for: characters, bytes, or pairs of bytes that were merged."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from likeli.config import Configurable
from likeli.errors import InputError, MissingExtra, nearest, require

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that are written as themselves


class Alphabet(Configurable, ABC):
    """Symbols 0 … size−1 and the texts that they spell.

    Attributes of a kind:
        unambiguous: whether only one sequence of symbols spells a text; elsewhere P(sequence) is a lower bound on P(text), the
            sum over all sequences that spell it.
    """

    unambiguous: bool = True

    @property
    @abstractmethod
    def size(self) -> int:
        """How many symbols there are."""

    @abstractmethod
    def encode(self, text: str, what: str = "text", first: int = 1) -> list[int]:
        """The symbols that spell a text, whose first line is called line `first` in messages.

        Raises:
            InputError: a character that is not among them, or half of one; its line and column are named.
        """

    @abstractmethod
    def decode(self, codes: Sequence[int]) -> str:
        """The text that symbols spell; bytes that are no UTF-8 become U+FFFD."""

    @property
    @abstractmethod
    def widths(self) -> list[int]:
        """Bytes of UTF-8 of each symbol."""

    def replaced(self, text: str) -> int:
        """How many characters of a text `encode` cannot tell apart from another."""
        return 0


class Characters(Alphabet):
    """One symbol a character.

    Arguments:
        symbols: the characters, each once.
        unknown: the one among them that any other character is read as; None refuses others.
    """

    def __init__(self, symbols: str, unknown: str | None = None) -> None:
        self.symbols, self.unknown = symbols, unknown
        self._codes = {c: i for i, c in enumerate(symbols)}
        require(len(self._codes) == len(symbols) > 0, "symbols", "characters that differ", symbols[:80])
        require(unknown is None or unknown in self._codes, "unknown", "one of the symbols", unknown)

    @classmethod
    def of(cls, text: str, most: int | None = None, unknown: str | None = None) -> Characters:
        """The characters of a text, sorted.

        Arguments:
            text: not empty.
            most: symbols at most: the commonest are kept, `unknown` with them.
            unknown: as above; added where the text does not have it.

        Raises:
            InputError: more characters than `most`, and nothing that the others are read as.
        """
        found = [c for c, _ in sorted(Counter(text).items(), key=lambda pair: (-pair[1], pair[0])) if c != unknown]
        if most is not None and len(found) + (unknown is not None) > most:
            require(unknown is not None, "vocab", f"at least {len(found)} characters, or unknown= for the others", most)
            found = found[: max(most - 1, 0)]
        return cls("".join(sorted({*found, *(unknown or "")})), unknown)

    @property
    def size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str, what: str = "text", first: int = 1) -> list[int]:
        refuse_halves(text, what, first)
        if self.unknown is not None:
            other = self._codes[self.unknown]
            return [self._codes.get(c, other) for c in text]
        strange = set(text) - self._codes.keys()
        if strange:
            at = next(i for i, c in enumerate(text) if c in strange)
            known = f"is not among the {self.size} of the vocabulary"
            raise InputError(f"{what}: {line_and_column(text, at, first)}: character {text[at]!r} {known}")
        return [self._codes[c] for c in text]

    def decode(self, codes: Sequence[int]) -> str:
        return "".join(self.symbols[i] for i in codes)

    @property
    def widths(self) -> list[int]:
        return [len(c.encode()) for c in self.symbols]

    def replaced(self, text: str) -> int:
        return 0 if self.unknown is None else sum(n for c, n in Counter(text).items() if c not in self._codes)


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


class Bytes(Alphabet):
    """One symbol a byte of UTF-8: 256 of them, which spell every text."""

    @property
    def size(self) -> int:
        return 256

    def encode(self, text: str, what: str = "text", first: int = 1) -> list[int]:
        refuse_halves(text, what, first)
        return list(text.encode())

    def decode(self, codes: Sequence[int]) -> str:
        return bytes(codes).decode(errors="replace")

    @property
    def widths(self) -> list[int]:
        return [1] * 256


class BytePairs(Alphabet):
    """Byte-pair encoding: the 256 bytes, and for each merge the bytes of two earlier symbols as one more.

    Many sequences spell one text, of which `encode` gives one: log p(symbols) ≤ log p(text).

    Arguments:
        merges: pairs of symbols in the order in which they are merged.  A pair that spells what a symbol spells already gives
            that one.

    Source: Sennrich, Haddow & Birch (2016), arXiv:1508.07909; on bytes, Radford et al. (2019).
    """

    unambiguous = False

    def __init__(self, merges: tuple[tuple[int, int], ...]) -> None:
        self.merges = merges
        known: dict[bytes, int] = {bytes([i]): i for i in range(256)}
        self._tokens = list(known)
        for a, b in merges:
            require(min(a, b) >= 0 and max(a, b) < len(self._tokens), "merges", "pairs of earlier symbols", (a, b))
            merged = self._tokens[a] + self._tokens[b]
            require(len(merged) <= 4096, "merges", "symbols of at most 4096 bytes", len(merged))
            if merged not in known:
                known[merged] = len(self._tokens)
                self._tokens.append(merged)

    @classmethod
    def of(cls, text: str, size: int) -> BytePairs:
        """Up to `size` symbols, merged in the order of how often they meet in a text.

        Raises:
            InputError: fewer symbols than bytes.
            MissingExtra: `tokenizers` is not installed.
        """
        require(size >= 256, "vocab", "at least 256, one a byte", size)
        package = _tokenizers()
        learner = package.Tokenizer(package.models.BPE())
        learner.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        start = package.pre_tokenizers.ByteLevel.alphabet()
        trainer = package.trainers.BpeTrainer(vocab_size=size, initial_alphabet=start, show_progress=False)
        learner.train_from_iterator([text], trainer)
        found = json.loads(learner.to_str())["model"]["merges"]
        byte_of = {c: i for i, c in enumerate(_written())}
        known, merges = {bytes([i]): i for i in range(256)}, []
        for pair in found:
            left, right = (bytes(byte_of[c] for c in part) for part in (pair.split(" ") if isinstance(pair, str) else pair))
            merges.append((known[left], known[right]))
            known.setdefault(left + right, len(known))
        return cls(tuple(merges))

    @property
    def size(self) -> int:
        return len(self._tokens)

    @cached_property
    def _encoder(self) -> Any:
        package, letters = _tokenizers(), _written()
        names = ["".join(letters[i] for i in token) for token in self._tokens]
        pairs = [(names[a], names[b]) for a, b in self.merges]
        encoder = package.Tokenizer(package.models.BPE({name: i for i, name in enumerate(names)}, pairs))
        encoder.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return encoder

    def encode(self, text: str, what: str = "text", first: int = 1) -> list[int]:
        refuse_halves(text, what, first)
        return self._encoder.encode(text).ids

    def decode(self, codes: Sequence[int]) -> str:
        return b"".join(self._tokens[i] for i in codes).decode(errors="replace")

    @property
    def widths(self) -> list[int]:
        return [len(token) for token in self._tokens]


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra("tokenizers", "text", "a vocabulary of byte pairs") from error
    return tokenizers


def _written() -> list[str]:
    """The character that stands for each byte where the package writes bytes as text: itself, or U+0100 and on."""
    others = {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in PRINTABLE)}
    return [others.get(b, chr(b)) for b in range(256)]


def refuse_halves(text: str, what: str, first: int = 1) -> None:
    """Refuse a text with half a UTF-8 character in it, as a byte that a command line or a pipe cut off.

    Raises:
        InputError: names its line and column.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = line_and_column(text, error.start, first)
        raise InputError(f"{what}: {place}: expected UTF-8, got half a character") from None


def line_and_column(text: str, at: int, first: int = 1) -> str:
    """`line 3, column 14` of the character at a position; columns are counted from 1, lines from `first`."""
    return f"line {text.count(chr(10), 0, at) + first}, column {at - text.rfind(chr(10), 0, at)}"
