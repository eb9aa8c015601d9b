"""Samples of text that keep what they are given: how one begins, or all of it but its holes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from likeli.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.spaces import Alphabet, Space, Tokens

    Draw = Callable[[int, Tensor | None], Tensor]  # (seed, cells that are given) → rows

ATTEMPTS = 100  # draws of a text whose holes must not end its line


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    text = parser.add_argument_group("for text")
    text.add_argument("--prompt", metavar="TEXT", help="how every sample begins")
    text.add_argument("--length", type=int, metavar="N", help="symbols of a sample, the prompt's among them [the context]")
    text.add_argument("--infill", metavar="TEXT", help="a text whose holes are filled, such as 'To be, ____ to be'")
    text.add_argument("--hole", default="_", metavar="C", help="the character that stands for one symbol to be drawn [_]")


def asked_for_text(args: argparse.Namespace, space: Space) -> Tokens | None:
    """The space, if its rows are text; nothing where they are not and nothing was asked of text.

    Raises:
        InputError: options for text that do not go together, or a run on other data.
    """
    given = [name for name in ("prompt", "length", "infill") if getattr(args, name) is not None]
    text = space.alphabet is not None
    require(text or not given, ", ".join(given), "a run on text", f"one on {space.kind()}")
    require("infill" not in given or len(given) == 1, "infill", "no --prompt and no --length beside it", ", ".join(given))
    require(args.prompt != "", "prompt", "a text (leave it out to draw freely)", "an empty one")
    require(len(args.hole) == 1, "hole", "one character", args.hole)
    return cast("Tokens", space) if text else None


def text_samples(args: argparse.Namespace, space: Tokens, alphabet: Alphabet, draw: Draw) -> Tensor:
    """Symbols (n, any length) as `--prompt`, `--length` and `--infill` ask for them.

    Beyond the context every window is drawn given the latter half of the one before it.

    Arguments:
        args: the command line.
        space, alphabet: of the model.
        draw: rows of a window from a seed, and cells (1 or n, length) that are −1 where they are free, or None.

    Raises:
        InputError: texts that do not fit.
    """
    import torch

    from likeli.random import derive

    if args.infill is not None:
        known = holes(args.infill, args.hole, alphabet)
        require(len(known) <= space.length, "infill", f"at most {space.length} symbols (the context)", len(known))
        row = torch.full((1, space.length), -1 if space.end is None else space.end)
        row[0, : len(known)] = torch.tensor(known)
        x = draw(args.seed, row)[:, : len(known)]
        for attempt in range(1, ATTEMPTS):  # a line that ends in a hole contradicts the text after it
            short = (x == (-1 if space.end is None else space.end)).any(1)
            if not short.any():
                return x
            x[short] = draw(derive(args.seed, "attempt", attempt), row)[short, : len(known)]
        raise InputError(f"infill: expected a text that this run can fill, got one that it ended in a hole {ATTEMPTS} times")
    known = [] if args.prompt is None else alphabet.encode(args.prompt, "prompt")
    most = space.length - 1
    require(len(known) <= most, "prompt", f"at most {most} symbols, one less than the context", len(known))
    length = space.length if args.length is None else args.length
    require(length > len(known), "length", f"more symbols than the prompt's {len(known)}", length)
    require(not space.ends or length <= space.length, "length", f"at most {space.length}, the longest line of this run", length)
    row = torch.full((1, space.length), -1)
    row[0, : len(known)] = torch.tensor(known)
    x, window = draw(args.seed, row if known else None), 0
    keep = space.length // 2
    while x.shape[1] < length:
        window += 1
        rows = torch.full((len(x), space.length), -1)
        rows[:, :keep] = x[:, x.shape[1] - keep :]
        x = torch.cat([x, draw(derive(args.seed, "window", window), rows)[:, keep:]], 1)
    return x[:, :length]


def holes(text: str, hole: str, alphabet: Alphabet) -> list[int]:
    """The symbols of a text, −1 for each hole.

    Raises:
        InputError: no hole, nothing but holes, or a character that the vocabulary does not have.
    """
    require(hole in text, "infill", f"a text with holes, {hole} for each symbol to be drawn", text)
    require(text.strip(hole) != "", "infill", "a text around its holes", text)
    filler = next(c for i in range(alphabet.size) if (c := alphabet.decode([i])) != "\n")
    alphabet.encode(text.replace(hole, filler), "infill")  # so that a fault's line and column are those of the text
    known: list[int] = []
    for i, part in enumerate(text.split(hole)):
        known += [-1] * (i > 0) + alphabet.encode(part, "infill")
    return known


def set_out(texts: list[str]) -> str:
    """Samples as the lines of a file: one a line, or with a rule between them where some are of several lines."""
    rule = f"\n{'-' * 20}\n" if any("\n" in text for text in texts) else "\n"
    return rule.join(texts) + "\n"
