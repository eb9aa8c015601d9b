"""Sample quality of the runs of a contest, as a table beside log p."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from likeli.cli.contest import Row, placed
from likeli.cli.output import aligned
from likeli.errors import LikeliError

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.data import Data

DRAWS, HELD = 256, 500  # samples of a family, and held-out rows, at most
SECONDS = 8.0  # of drawing from one family, after which no further block begins


def judge_samples(
    folders: Mapping[str, str], data: Data, say: Callable[[str], None], *, draws: int = DRAWS, seed: int = 0
) -> list[Row]:
    """What samples of each run score beside training rows, or why there are none.

    Arguments:
        folders: of the runs, by family.
        data: that they were fitted to.
        say: told a line for each family.
        draws: samples of each, at most; fewer where they would take more than 8 seconds.
        seed: of the samples, the choice of rows and the folds.
    """
    from likeli import checkpoint
    from likeli.evaluation.side_by_side import draw_within, score_samples
    from likeli.random import permutation

    drawn, reasons = dict[str, "Tensor"](), dict[str, str]()
    for family, folder in folders.items():
        say(f"{family}: drawing samples")
        try:
            samples = draw_within(checkpoint.read(folder).model, draws, SECONDS, seed)
            ends = samples.is_floating_point() and bool(samples.isinf().any())
            reasons |= {family: "samples have infinite cells"} if ends else {}
            drawn |= {} if ends else {family: samples}
        except LikeliError as error:
            reasons[family] = str(error)
    x, train = (data.split(part)[0] for part in ("test", "train"))
    x = x[permutation(len(x), seed, "held")[:HELD]]
    rows: list[Row] = []
    if drawn:
        try:
            found = score_samples(x, train[permutation(len(train), seed, "train")[: 2 * draws]], drawn, data.space, seed)
            holed = bool(x.is_floating_point() and x.isnan().any())
            rows = [
                {"model": name, "holed": holed, "draws": area.m, "held_out": area.n, "features": found.map}
                | {"classifier_area": asdict(area), "frechet_distance": asdict(distance)}
                for name, (area, distance) in found.scores.items()
            ]
        except LikeliError as error:
            reasons |= dict.fromkeys(drawn, str(error))
    return rows + [{"model": name, "reason": reason} for name, reason in reasons.items()]


def quality_table(rows: Sequence[Row], judged: Sequence[Row]) -> str:
    """Both axes for people: nats in the order of the ranking, and what samples score.

    Arguments:
        rows: of the ranking.
        judged: of `judge_samples`.
    """
    by_model = {r["model"]: r for r in judged}
    scored = [r for r in judged if "reason" not in r]
    if not scored:
        return ""
    lines = []
    for row in rows:
        own = by_model.get(row["model"])
        if own is not None:
            lines.append([row["model"], nats_of(row), str(own.get("draws", "-")), *scores_of(own)])
    table = aligned(["samples of", "nats", "draws", "told apart", "Fréchet distance"], lines)
    silent = [f"{r['model']}: {r['reason'].removeprefix(r['model'] + ' ')}" for r in judged if "reason" in r]
    return "\n".join([table, *legend(scored[0]), *silent])


def paragraph(text: str) -> list[str]:
    """The lines of a text that stands by itself, or nothing."""
    return ["", text] if text else []


def nats_of(row: Row) -> str:
    """log p, unless it is none or off by a constant."""
    return f"{row['nats']:.2f}" if placed(row) else "-" if row["nats"] is None else "Z unknown"


def scores_of(judged: Row) -> tuple[str, str]:
    """`value ± s.e. (training rows)` of both."""
    if "reason" in judged:
        return "-", "-"
    area, distance = judged["classifier_area"], judged["frechet_distance"]
    return _cell(area, ".2f"), _cell(distance, ".3g")


def _cell(metric: Mapping[str, Any], form: str) -> str:
    return f"{metric['value']:{form}} ± {metric['stderr']:{'.2f' if form == '.2f' else '.2g'}} ({metric['floor']:{form}})"


def legend(judged: Row) -> list[str]:
    """What the two columns are."""
    holes = "held-out rows have missing cells and samples have none, which alone tells them apart"
    return [
        f"told apart: area of a classifier of samples against {judged['held_out']} held-out rows, ½ if it cannot",
        f"Fréchet distance: of {judged['features']}, squared; neither column says the other, nor log p(x)",
        "in brackets, what as many training rows score: the best to be expected",
        *([holes] if judged["holed"] else []),
    ]
