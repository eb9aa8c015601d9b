"""Text as rows of characters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from likeli.data.readers.npy import read_utf8
from likeli.errors import InputError, require
from likeli.spaces import Tokens

MAX_ALPHABET = 4096


def read_tokens(path: str | Path, length: int = 64) -> tuple[Tensor, Tokens, list[str]]:
    """A .txt file cut into windows of `length` characters, in order: (rows, length) codes, their space, warnings.

    The alphabet is every character of the file, sorted; characters after the last whole window are left out.

    Raises:
        InputError: not text, shorter than two windows, or more than `MAX_ALPHABET` different characters.
    """
    text = read_utf8(path).decode()
    require(length >= 1, "length", "at least 1", length)
    rows = len(text) // length
    require(rows >= 2, str(path), f"at least 2 windows of length={length} characters", f"{len(text)} characters")
    alphabet = "".join(sorted(set(text)))
    require(len(alphabet) <= MAX_ALPHABET, str(path), f"at most {MAX_ALPHABET} different characters", len(alphabet))
    require(len(alphabet) > 1, str(path), "at least two different characters", repr(alphabet))
    left = len(text) - rows * length
    warnings = [f"{path}: the last {left} characters do not fill a window and were left out"] * (left > 0)
    space = Tokens(length, len(alphabet), alphabet)
    return encode(text[: rows * length], alphabet, str(path)).reshape(rows, length), space, warnings


def encode(text: str, alphabet: str, what: str) -> Tensor:
    """Characters as their positions in the alphabet.

    Raises:
        InputError: a character that is not in it; its line is named.
    """
    codes = {c: i for i, c in enumerate(alphabet)}
    unknown = next((i for i, c in enumerate(text) if c not in codes), None) if set(text) - codes.keys() else None
    if unknown is not None:
        line = text.count("\n", 0, unknown) + 1
        raise InputError(f"{what}: line {line}: character {text[unknown]!r} is not in the model's alphabet")
    return torch.tensor([codes[c] for c in text])


def decode(x: Tensor, space: Tokens) -> list[str]:
    """Rows of codes as text; without an alphabet, as numbers separated by spaces."""
    if space.alphabet is None:
        return [" ".join(map(str, row)) for row in x.tolist()]
    return ["".join(space.alphabet[i] for i in row) for row in x.tolist()]
