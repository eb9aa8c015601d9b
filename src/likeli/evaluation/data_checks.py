"""Whether the rows that a model was fitted to are sound: constant, repeated, leaking between parts, tied."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from likeli.errors import Unsupported
from likeli.evaluation.examination import Case, Sign, health_check
from likeli.evaluation.own_density import movable_cells

ATOM = 0.05  # of the rows that may share one exact value of a real column
FEW_VALUES, FROM = 0.1, 200  # distinct values a row, where there are rows enough to tell
REPEATED, LEAKING = 0.01, 0.01


def _real_cells(case: Case, x: Tensor, atoms: bool = False) -> Tensor:
    """Which cells have a density, (cells,) bool: there a repeated value is infinitely likely, unless it has a mass of its own.

    Arguments:
        atoms: whether columns with such values are among them.
    """
    cells = movable_cells(case.space, x.reshape(len(x), -1).double())
    return ~cells.whole if atoms or cells.held is None else ~cells.whole & ~cells.held.any(0)


def _names(case: Case, which: Tensor) -> str:
    names = [case.space.names[i] if case.space.names else f"column {i + 1}" for i in which.nonzero().flatten().tolist()]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@health_check(
    "constant columns",
    condition="no real column, and no whole data set, has one value only",
    remedy="drop the column: its density has no bound, so that log p says how small a width the model dared",
)
def constant_columns(case: Case) -> Sign:
    """Cells of the training rows that do not vary."""
    x = case.part("train").reshape(len(case.part("train")), -1)
    if len(x) < 2:
        raise Unsupported("one training row has nothing that varies")
    still = ((x == x[:1]) | (x.isnan() & x[:1].isnan())).all(0)
    bad = still & _real_cells(case, x)
    if bool(still.all()):
        return Sign(float(still.sum()), False, f"all {len(x)} training rows are alike")
    return Sign(float(bad.sum()), not bad.any(), f"{len(x)} training rows{': ' + _names(case, bad) if bad.any() else ''}")


@health_check(
    "duplicated rows",
    condition=f"at most {REPEATED:.0%} of rows with real cells repeat another",
    remedy="drop repeated rows before the split: they count twice, and their copies land in both parts",
)
def duplicated_rows(case: Case) -> Sign:
    """Training rows that are others, bit for bit."""
    x = case.part("train")
    if not bool(_real_cells(case, x, atoms=True).any()):
        raise Unsupported("rows of symbols repeat by chance")
    share = 1 - len(set(_keys(x))) / len(x)
    return Sign(share, share <= REPEATED, f"{share:.1%} of {len(x)} training rows repeat others")


@health_check(
    "leaking rows",
    condition=f"held-out rows are found among training rows no more often than training rows among each other, within "
    f"{LEAKING:.0%} and 4 s.e.",
    remedy="split by what belongs together (a person, a session, a source file), after repeated rows are dropped",
    false_alarm=3.2e-5,
)
def leaking_rows(case: Case) -> Sign:
    """Were rows drawn independently, a held-out row would be met in the training rows as often as any training row is."""
    known = Counter(_keys(case.part("train")))
    held = _keys(case.held_out)
    own = sum(n for n in known.values() if n > 1) / sum(known.values())
    shared = sum(key in known for key in held) / len(held)
    allowed = own + LEAKING + 4 * (max(own * (1 - own), 1 / len(held)) / len(held)) ** 0.5
    told = f"{shared:.1%} of {len(held)} held-out rows are training rows, {own:.1%} of training rows are others"
    return Sign(shared - own, shared <= allowed, told)


def _keys(x: Tensor) -> list[bytes]:
    """Each row's bytes, one zero and one missing cell for all."""
    rows = (x.cpu().double().reshape(len(x), -1) + 0.0).nan_to_num(nan=0.12345679).contiguous().numpy()
    return [row.tobytes() for row in rows]


@health_check(
    "ties",
    condition=f"no real column has one value in more than {ATOM:.0%} of its rows, or fewer than {FEW_VALUES:g} values a row",
    remedy="a table, which gives repeated values a mass of their own, or whole numbers in units of the rounding",
)
def ties(case: Case) -> Sign:
    """Values of real columns that many rows share: there a density grows without bound, and log p tells of the rounding."""
    x = case.part("train")
    flat, real = x.reshape(len(x), -1), _real_cells(case, x)
    if not real.any() or len(flat) < 20:
        raise Unsupported("no real columns, or fewer than 20 rows")
    varies = ~((flat == flat[:1]) | (flat.isnan() & flat[:1].isnan())).all(0)
    worst, bad = 0.0, torch.zeros_like(real)
    for i in (real & varies).nonzero().flatten().tolist():
        column = flat[:, i][~flat[:, i].isnan()]
        values, counts = column.unique(return_counts=True)
        share = counts.max().item() / max(len(column), 1)
        worst = max(worst, share)
        bad[i] = share > ATOM or (len(column) >= FROM and len(values) < FEW_VALUES * len(column))
    told = f"the commonest value has {worst:.1%} of {len(flat)} rows{'; tied: ' + _names(case, bad) if bad.any() else ''}"
    return Sign(worst, not bad.any(), told)
