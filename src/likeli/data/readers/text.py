"""Text as rows of characters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from likeli.data.readers.npy import read_utf8
from likeli.errors import require
from likeli.spaces import Characters, Tokens

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
    alphabet = Characters.of(text)
    require(alphabet.size <= MAX_ALPHABET, str(path), f"at most {MAX_ALPHABET} different characters", alphabet.size)
    require(alphabet.size > 1, str(path), "at least two different characters", repr(alphabet.symbols))
    left = len(text) - rows * length
    warnings = [f"{path}: the last {left} characters do not fill a window and were left out"] * (left > 0)
    codes = torch.tensor(alphabet.encode(text[: rows * length], str(path)))
    return codes.reshape(rows, length), Tokens(length, alphabet.size, alphabet), warnings
