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

    from likeli.contract import GenerativeModel
    from likeli.data import Data
    from likeli.evaluation.rows import Anomaly, Detector
    from likeli.evaluation.synthesis import Worth
    from likeli.show.report import Contender
    from likeli.show.sheet import Sheet
    from likeli.spaces import Space
    from likeli.training import History

SHOWN, DRAWN = 64, 1000  # samples of images, and of what is cheaper to draw
TEXTS = 5  # samples of text that are printed
WORST = 8  # pairs of columns that are listed
STRANGE = 100  # flagged rows that are listed
PARTS = {
    "columns": ("Columns one by one", (
        "Each column's values as shares of its cells (categories, exact values, intervals). Two honest samples "
        "differ too: the training rows say by how much."
    )),
    "pairs": ("Columns two by two", (
        "Cramér's V is 0 where two columns are independent and 1 where one is a function of the other; numbers are "
        "taken in eight groups of equal share."
    )),
    "told apart": ("Can they be told from real rows?", (
        "Boosted trees learn to tell synthetic rows from real ones, each row judged by trees that did not see it: ½ "
        "where they cannot, 1 where they always can. Against training rows and against held-out rows; in the last "
        "column training rows are judged in the place of synthetic ones, which is the best to be expected."
    )),
    "use": ("What a model learned from them can do", (
        "Boosted trees learn one column from the others, once on synthetic rows and once on as many training rows, "
        "and are judged on the same held-out rows."
    )),
    "remembered": ("Are training rows remembered?", (
        "A row that lies nearer to a training row than held-out rows do may be a copy. Membership: how well who "
        "holds a row can tell whether it was trained on, by its distance to the nearest synthetic row or by log p. "
        "These are two attacks among many: an area of ½ shows that these two fail on these rows on the average, and "
        "is no promise of privacy, least of all for rare rows. In the last column are copies of training rows, the "
        "worst case."
    )),
    "log p": ("What the model knows of held-out rows", (
        "Nats a row; in the last column, of training rows: the difference is what was learned by heart."
    )),
}


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
    from likeli.show.pictures import grid, is_image, points_svg

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


def worth_cells(w: Worth) -> tuple[str, str, str]:
    """`value ± s.e.`, n, and what training rows score."""

    def words(value: float, stderr: float) -> str:
        if value != value:
            return "–"
        return f"{value:.4g}" + ("" if stderr != stderr else f" ± {stderr:.2g}")

    return words(w.value, w.stderr), f"{w.n:,}", words(w.oracle, w.oracle_stderr)


def synthesis_sheet(
    model: GenerativeModel, data: Data, sets: tuple[Tensor, ...], found: Sequence[Worth], again: str, history: History
) -> Sheet:
    """The page on synthetic rows.

    Arguments:
        model: that drew them.
        data: that it was fitted to.
        sets: training, held-out and synthetic rows.
        found: what they are worth.
        again: the command.
        history: of the fit.
    """
    from likeli.evaluation.synthesis import associations
    from likeli.evaluation.two_sample import marginals
    from likeli.show.sheet import Sheet, SheetPart

    (train, held, drawn), space = sets, model.space
    parts, head = list[SheetPart](), ["", "synthetic", "n", "training rows"]
    for key, (heading, text) in PARTS.items():
        lines = [[w.name, *worth_cells(w)] for w in found if w.part == key]
        if lines:
            parts.append(SheetPart(heading, [text], [head, *lines], "± is one standard error; n, the rows behind the figure."))
    columns = marginals({"held-out rows": held, "training rows": train, "synthetic rows": drawn}, space)
    if len(columns) > 1:
        star = (
            "Mean (and standard deviation), or the share of the held-out rows' commonest value; a star where it "
            "differs by more than four standard errors."
        )
        parts.append(SheetPart("Every column", (), columns, star))
    if space.coding is not None and space.dimensions > 1:
        names = space.names or tuple(f"x{i}" for i in range(space.dimensions))
        worst = [[what, f"{a:.3f}", f"{b:.3f}"] for what, a, b in associations(space.coding, held, drawn, names)[:WORST]]
        lines = [["columns", "held-out rows", "synthetic rows"], *worst]
        parts.append(SheetPart("Pairs that differ most", (), lines, "Cramér's V"))
    holed = bool(train.is_floating_point() and train.isnan().any())
    gaps = (
        "Real rows have missing cells, and the model draws none: for the figures, synthetic rows were given the "
        "gaps of training rows drawn at random, whatever their cells are."
    )
    notes = [*([gaps] if holed else []), *history.notes, *model.notes]
    if notes:
        parts.append(SheetPart("Why a figure may be off", notes))
    counts = {"synthetic rows": f"{len(drawn):,}", "training rows": f"{len(train):,}", "held-out rows": f"{len(held):,}"}
    facts = {"data": data.name, "model": model.kind()} | model.facts | counts | {"seconds of fitting": f"{history.seconds:.0f}"}
    return Sheet(f"Synthetic rows of {data.name}", facts, parts, [again])


def anomaly_sheet(
    title: str, detector: Detector, found: Anomaly, written: Sequence[Mapping[str, Any]], again: str
) -> Sheet:
    """The page on strange rows.

    Arguments:
        title: heading.
        detector: with its threshold and rate.
        found: what it says of the rows.
        written: the rows' cells by column.
        again: the command.
    """
    from likeli.show.pictures import curves_svg
    from likeli.show.report import Figure
    from likeli.show.sheet import Sheet, SheetPart

    n, (low, high) = len(detector.reference), detector.false_alarms
    flagged = found.flagged.nonzero()[:, 0]
    order = flagged[found.score[flagged].argsort(descending=True)].tolist()
    rate = (
        f"{detector.rate:.2%} of ordinary rows may be flagged. The threshold was set by {n:,} rows that the model "
        f"was not fitted to, and so few rows leave the rate of false alarms between {low:.2%} and {high:.2%} (95 %)."
    )
    expected = (
        f"Of {len(found.score):,} ordinary rows {detector.rate * len(found.score):.1f} would be flagged; "
        f"{len(order):,} were."
    )
    both = {"ordinary rows": detector.reference, "rows of the file": found.score.sort().values}
    series = {}
    for name, values in both.items():
        at = [round(i * (len(values) - 1) / 199) for i in range(200)] if len(values) > 200 else range(len(values))
        series[name] = ([values[i].item() for i in at], [1 - i / len(values) for i in at])
    marks, above = {"threshold": (detector.threshold, detector.rate)}, "share of rows above a score"
    picture = curves_svg(series, title=above, x=detector.unit, y="share", marks=marks)
    caption = f"Share of rows whose score is at least so high; the threshold is {detector.threshold:.4g}."
    head = ["row", "score", "p-value", *(["odd column", "its cell", "p of that"] if found.odd is not None else [])]
    lines = [head]
    for i in order[:STRANGE]:
        line = [str(i), f"{found.score[i].item():.4g}", f"{found.p_value[i].item():.3g}"]
        if found.odd is not None and found.odd_p is not None:
            j = int(found.odd[i])
            name = found.names[j] if found.names else str(j)
            line += [name, str(written[i].get(name, "")), f"{found.odd_p[i].item():.3g}"]
        lines.append(line)
    why = (
        "The odd column is the one whose cell is rarest given the row's other cells; its p is the share of ordinary "
        "rows whose cell there is at least as rare."
    )
    more = [f"The {STRANGE} strangest of {len(order):,}."] * (len(order) > STRANGE)
    facts = {"rows": f"{len(found.score):,}", "flagged": f"{len(order):,}", "threshold": f"{detector.threshold:.4g}"}
    facts |= {"score": detector.unit}
    return Sheet(title, facts, [
        SheetPart("At which rate of false alarms?", [rate, expected], figures=[Figure(picture, caption, caption)]),
        SheetPart("Rows that are flagged", [why] * (found.odd is not None) + more, lines if order else ()),
    ], [again])  # fmt: skip
