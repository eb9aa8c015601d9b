"""Text as rows of symbols: windows of one length, or whole lines; a vocabulary that has seen the training part alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from likeli.data.builtin.sources import Raw
from likeli.data.dataset import Fractions, split_rows
from likeli.data.readers.npy import read_utf8
from likeli.errors import InputError, nearest, require
from likeli.spaces import Alphabet, BytePairs, Bytes, Characters, Tokens
from likeli.spaces.alphabet import refuse_halves

CONTEXT = 64
BPE_SIZE = 1024  # symbols of byte pairs, where nothing else is asked for
MAX_VOCAB = 2**15  # merges of so many fit a run's config.json
MAX_CELLS = 2**27
UNITS = {"char": Characters, "byte": Bytes, "bpe": BytePairs}
OPTIONS = ("context", "unit", "cut", "vocab", "unknown", "stride")


def read_text(source: str | Sequence[str], given: Mapping[str, Any], seed: int, fractions: Fractions) -> Raw:
    """A .txt file, or lines in memory, as rows of symbols with their split.

    Windows of `context` symbols keep the order of the text, of which first the training part, then the validation and the test
    part are cut off, so that no window crosses from one to another.  Lines are split by the seed, like the rows of a table.

    Arguments:
        source: the path, or the lines.
        given: options by name.  `unit`: what a symbol is (char, byte or bpe), and with `line` before it (line, line-byte,
            line-bpe) whole lines as rows; if not given, lines where every line is one word, and bytes where characters would
            not do.  `context`: symbols of a row, or of the longest.  `cut`: whether longer lines are cut, or refused.  `vocab`:
            symbols at most, or an alphabet.  `unknown`: the character that others than the training part's are read as.
            `stride`: symbols from the start of one training window to the next.
        seed, fractions: of the split.

    Raises:
        InputError: not text, too short, a line that is too long, a character that is not in the vocabulary.
        MissingExtra: `tokenizers` is needed and not installed.
    """
    in_memory = not isinstance(source, str)
    text = "\n".join(source) if in_memory else read_utf8(source).decode()
    what = "text" if in_memory else source
    broken = next((i for i, line in enumerate(source) if "\n" in line), None) if in_memory else None
    require(broken is None, f"text, row {broken}", "one line", "a line break")
    refuse_halves(text, what)
    require(bool(text), what, "a text", "an empty one")
    require(len(set(text)) > 1, what, "at least two different characters", repr(text[:1]))
    for name in given:
        require(name in OPTIONS, f"{what}: option", f"one of {', '.join(OPTIONS)}{nearest(name, OPTIONS)}", name)
    unit, notes = given.get("unit"), list[str]()
    if unit is None and (in_memory or is_word_list(text)):
        unit = "line"
        notes += [f"{what}: every line is one word, so a line is a row; unit=char cuts windows"] * (not in_memory)
    by_line = str(unit).partition("-")[0] == "line"
    symbol = str(unit).removeprefix("line").removeprefix("-") if unit else None
    fits = symbol in (None, *UNITS) or unit == "line"
    require(fits, f"{what}: unit", "char, byte, bpe, or line, line-byte, line-bpe", unit)
    cut = {"true": True, "false": False}.get(str(given.get("cut", False)).lower())
    require(cut is not None, f"{what}: cut", "true or false", given.get("cut"))
    if by_line:
        require("stride" not in given, f"{what}: stride", "nothing for whole lines, which do not overlap", given.get("stride"))
        split = split_rows(len(split_lines(text)), seed, fractions)
        return lines_of(text, what, given, symbol or None, bool(cut), split, notes)
    require(not cut, f"{what}: cut", "nothing for windows, which are cut anyway", given.get("cut"))
    return windows_of(text, what, given, symbol, fractions, notes)


def is_word_list(text: str) -> bool:
    """Whether every line is one word: at least ten of them, none empty, none with a blank in it."""
    lines = text.removesuffix("\n").split("\n")
    return len(lines) >= 10 and all(len(line.split()) == 1 for line in lines)


def alphabet_of(
    train: str, text: str, what: str, given: Mapping[str, Any], unit: str | None, notes: list[str]
) -> Alphabet:
    """The vocabulary of the training part; `notes` is told what may surprise.

    Raises:
        InputError: options that do not fit the unit.
    """
    vocab, unknown = given.get("vocab"), given.get("unknown")
    if isinstance(vocab, Alphabet):
        require(unit in (None, next(u for u, cls in UNITS.items() if isinstance(vocab, cls))), "unit", vocab.kind(), unit)
        return vocab
    size = None if vocab is None else whole(vocab, f"{what}: vocab", 2, MAX_VOCAB)
    strange = sorted(set(text) - set(train))
    if unit is None and size is None and unknown is None and (strange or len(set(train)) > MAX_VOCAB):
        seen = f"{len(strange)} characters that the training part lacks, such as {strange[0]!r}" if strange else "too many"
        notes.append(f"{what}: {seen}, so a symbol is a byte; unit=char,unknown=? would read them as ?")
        unit = "byte"
    if unit in (None, "char"):
        fits = unknown is None or (len(unknown) == 1 and unknown not in ":=,\n")
        require(fits, f"{what}: unknown", "one character, no colon, comma or equals sign", unknown)
        alphabet = Characters.of(train, size, unknown)
        require(alphabet.size <= MAX_VOCAB, what, f"at most {MAX_VOCAB} different characters, or unit=byte", alphabet.size)
        n = alphabet.replaced(text) if unknown else 0
        notes += [f"{what}: {n} characters that the vocabulary does not have are read as {unknown!r}"] * (n > 0)
        return alphabet
    require(unknown is None, f"{what}: unknown", f"nothing with unit={unit}, which spells every text", unknown)
    if unit == "byte":
        require(size in (None, 256), f"{what}: vocab", "nothing with unit=byte, which has 256 symbols", size)
        return Bytes()
    return BytePairs.of(train, size or BPE_SIZE)


def windows_of(
    text: str, what: str, given: Mapping[str, Any], unit: str | None, fractions: Fractions, notes: list[str]
) -> Raw:
    """Windows of one length in the order of the text."""
    valid, test = (len(part) for part in split_rows(len(text), 0, fractions)[1:])
    ends = [len(text) - valid - test, len(text) - test, len(text)]
    alphabet = alphabet_of(text[: ends[0]], text, what, given, unit, notes)
    if isinstance(alphabet, Characters):
        codes = torch.tensor(alphabet.encode(text, what))
        pieces = [codes[a:b] for a, b in zip([0, *ends], ends)]
    else:
        pieces = [torch.tensor(alphabet.encode(text[a:b], what), dtype=torch.long) for a, b in zip([0, *ends], ends)]
    shortest = min(len(p) for p in pieces if len(p))
    context = whole(given.get("context", min(CONTEXT, shortest)), f"{what}: context", 1, 10**6)
    require(len(pieces[0]) >= context, what, f"at least {context} symbols (the context) to train on", len(pieces[0]))
    if "context" not in given and context < CONTEXT:
        notes.append(f"{what}: a short text, so a window has context={context} symbols, not {CONTEXT}")
    stride = whole(given.get("stride", context), f"{what}: stride", 1, context)
    steps = (stride, context, context)
    rows = [p.unfold(0, context, step) if len(p) >= context else p.new_zeros(0, context) for p, step in zip(pieces, steps)]
    counts = [len(r) for r in rows]
    cells = sum(counts) * context
    require(cells <= MAX_CELLS, f"{what}: stride", f"at most {MAX_CELLS} symbols in all windows; a larger one", f"{cells}")
    left = sum(len(p) - (context + (n - 1) * step if n else 0) for p, n, step in zip(pieces, counts, steps))
    notes += [f"{what}: {left} symbols at the ends of the parts do not fill a window and were left out"] * (left > 0)
    space = Tokens(context, alphabet.size, alphabet)
    parts = torch.arange(sum(counts)).split(counts)
    return Raw(os.path.basename(what), torch.cat(rows), space=space, kind="tokens", split=parts, warnings=notes)


def lines_of(
    text: str, what: str, given: Mapping[str, Any], unit: str | None, cut: bool, split: Sequence[Tensor], notes: list[str]
) -> Raw:
    """Whole lines of unequal length."""
    lines = split_lines(text)
    alphabet = alphabet_of("".join(lines[i] for i in split[0].tolist()), "".join(lines), what, given, unit, notes)
    rows = [alphabet.encode(line, what, first=i) for i, line in enumerate(lines, 1)]
    longest = max(map(len, rows))
    context = whole(given.get("context", longest), f"{what}: context", 1, 10**6)
    long = [i for i, row in enumerate(rows) if len(row) > context]
    if long and not cut:
        got = f"{len(rows[long[0]])}; cut=true cuts such lines, of which there are {len(long)}"
        raise InputError(f"{what}: line {long[0] + 1}: expected at most {context} symbols (the context), got {got}")
    notes += [f"{what}: {len(long)} lines are longer than context={context} and were cut there"] * (len(long) > 0)
    advice = f"at most {MAX_CELLS} symbols in all lines, each as long as the longest; context= and cut=true, or unit=char"
    require(len(rows) * context <= MAX_CELLS, what, advice, len(rows) * context)
    space = Tokens(context, alphabet.size + 1, alphabet, ends=True)
    x = space.filled([row[:context] for row in rows])
    return Raw(os.path.basename(what), x, space=space, kind="tokens", split=tuple(split), warnings=notes)


def split_lines(text: str) -> list[str]:
    """The lines of a text, without those at its end that are empty."""
    return text.rstrip("\n").split("\n")


def rows_of_text(source: str | Path, space: Tokens) -> Tensor:
    """A .txt file as rows for a model that exists: (rows, length) in its vocabulary, line by line where its rows end.

    Raises:
        InputError: no text, a character that the vocabulary does not have, a line that is too long, less than one window.
    """
    text, what = read_utf8(source).decode(), str(source)
    require(bool(text), what, "a text", "an empty one")
    assert space.alphabet is not None
    other = space.alphabet.replaced(text.replace("\n", "") if space.ends else text)
    if other:
        warnings.warn(f"{what}: {other} characters that the vocabulary does not have are read as another", stacklevel=3)
    if space.ends:
        return space.encode(split_lines(text), what, first_line=1)
    codes = torch.tensor(space.alphabet.encode(text, what), dtype=torch.long)
    rows, left = divmod(len(codes), space.length)
    require(rows >= 1, what, f"at least {space.length} symbols, one window of this model", len(codes))
    if left:
        warnings.warn(f"{what}: the last {left} symbols do not fill a window and were left out", UserWarning, stacklevel=3)
    return codes[: rows * space.length].reshape(rows, space.length)


def whole(value: Any, name: str, low: int, high: int) -> int:
    """An option that is a whole number."""
    text = str(value)
    fits = text.isdecimal() and text.isascii() and len(text) < 12 and low <= int(text) <= high
    require(fits, name, f"a whole number from {low} to {high}", text)
    return int(text)
