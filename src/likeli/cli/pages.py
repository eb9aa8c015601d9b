"""What a page shows of a run: its number and the parts of it, its history, its samples and tests of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.contest import Row
from likeli.cli.output import new_file
from likeli.cli.quality import scores_of
from likeli.errors import LikeliError, Unsupported

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from likeli.data import Data
    from likeli.show.report import Contender
    from likeli.spaces import Space

SHOWN, DRAWN = 64, 1000  # samples of images, and of what is cheaper to draw
TEXTS = 5  # samples of text that are printed


def contender(
    folder: Path | str,
    row: Row,
    x: Tensor,
    y: Tensor | None,
    *,
    seed: int = 0,
    rank: int | None = None,
    role: str = "",
    judged: Row | None = None,
) -> Contender:
    """The row of a run with all that a page has to say of it.

    Arguments:
        folder: of the run.
        row: its line of the table, of its evaluation on x and y.
        x, y: held-out rows.
        seed: of samples, parts and tests.
        rank, role: see `Contender`.
        judged: what its samples score, of `judge_samples`.
    """
    from likeli import checkpoint
    from likeli.evaluation.collapse import diagnose_latents
    from likeli.evaluation.ledger import ledger
    from likeli.evaluation.two_sample import FEWEST, classifier_test
    from likeli.show.pictures import is_image
    from likeli.show.report import Contender
    from likeli.spaces import Tokens

    if "error" in row:
        return Contender(row, role=role)
    saved = checkpoint.read(folder)
    model, about = saved.model, saved.info.get("metrics", {})
    y = None if model.condition is None else y
    samples, told_apart, alarms = None, None, list[str]()
    with suppress(Unsupported):
        n = min(SHOWN if is_image(model.space) else DRAWN, len(x))
        samples = model.sample(n, None if y is None else y[:n], seed=seed)
        if n >= FEWEST:
            with suppress(LikeliError):  # infinite cells
                told_apart = classifier_test(x, samples, seed)
    with suppress(Unsupported):
        alarms = diagnose_latents(model, x, y, seed=seed, rows=256).alarms if len(x) > 1 else []
    return Contender(
        row,
        checkpoint.read_history(folder),
        None if samples is None else shown(samples, model.space),
        role,
        model.loss_in_nats,
        rank,
        about.get("best"),
        about.get("step"),
        ledger(model, x, y, seed=seed),
        told_apart,
        alarms,
        samples,
        model.space.decode(samples[:TEXTS]) if samples is not None and isinstance(model.space, Tokens) else (),
        about.get("criterion", ""),
        None if judged is None or "reason" in judged else scores_of(judged),
    )


def shown(x: Tensor, space: Space) -> Image | str | None:
    """A picture that lies on a page of any colour: a grid of images, or the points of two columns; None for other data."""
    from likeli.show.pictures import grid, is_image
    from likeli.show.vector import points_svg

    if is_image(space):
        large = max(space.shape[-2:]) > 16
        return grid(x[:SHOWN], space, columns=8, zoom=None if large else 4, clear=True)
    return points_svg({"": x}) if space.shape == (2,) else None


def write_page(
    path: Path | str, title: str, data: Data, entries: Sequence[Contender], notes: Sequence[str], commands: Sequence[str]
) -> None:
    """One self-contained HTML file."""
    from likeli.evaluation.two_sample import marginals
    from likeli.show.report import Report

    parts = {"training": len(data.train), "validation": len(data.valid), "held out": len(data.test)}
    facts: Mapping[str, Any] = {"data": data.name, "one example": data.space.describe_shape()} | parts | {"seed": data.seed}
    x, _ = data.split("test")
    sets = {"held-out data": x} | {e.row["model"]: e.drawn for e in entries if e.drawn is not None}
    columns = marginals(sets, data.space) if len(sets) > 1 else []
    page = Report(title, facts, data.space.dimensions, entries, notes, shown(x[:DRAWN], data.space), commands, columns).html()
    with new_file(str(path), overwrite=True) as target:
        target.write_text(page, encoding="utf-8")
