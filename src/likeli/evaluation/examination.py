"""What a check of a model is: a function of a case that reads one value, with what must hold and what to do if it does not.

A check that does not apply says why by raising `Unsupported`; where a value cannot be known, whether it holds is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from likeli.contract import GenerativeModel, LogLikelihood, evaluating
from likeli.data.dataset import Data
from likeli.errors import Diverged, LikeliError, Unsupported
from likeli.evaluation.collapse import Collapse, diagnose_latents
from likeli.latent.chain import LatentVariableModel
from likeli.random import derive, permutation, seeded
from likeli.spaces import Space

Status = Literal["fails", "unknown", "passes", "does not apply"]
DRAWN = 200  # samples at least
LOSSES = 2048  # of rows, over the draws of a loss with noise
STATUSES: tuple[Status, ...] = ("fails", "unknown", "passes", "does not apply")


@dataclass(frozen=True)
class Sign:
    """What a check has read.

    Arguments:
        value: the number.
        holds: whether the condition does; None where the number cannot tell.
        evidence: what was looked at and seen, one line.
    """

    value: float | None
    holds: bool | None
    evidence: str


@dataclass(frozen=True)
class Finding:
    """What became of one check.

    Arguments:
        check: its name.
        status: `fails`, `unknown`, `passes` or `does not apply`.
        value: what was read, in the unit that the condition names; None if nothing was.
        condition: what must hold.
        evidence: what was seen, or why the check does not apply.
        remedy: what to do if it fails.
        false_alarm: chance that it fails where nothing is wrong, at most; 0 where no chance is in it, None where it looks for a
            sign of health and so has a power in place of a level.
    """

    check: str
    status: Status
    value: float | None
    condition: str
    evidence: str
    remedy: str
    false_alarm: float | None

    def __str__(self) -> str:
        value = "" if self.value is None else f" {self.value:.4g}"
        lines = [f"{self.status:<14}  {self.check}:{value} (must hold: {self.condition})", self.evidence]
        if self.status in ("passes", "does not apply"):
            return f"{self.status:<14}  {self.check}:{value} ({self.evidence})"
        chance = [f"at most {self.false_alarm:.2g} of sound models fail this"] if self.false_alarm else []
        return "\n                ".join([*lines, f"try: {self.remedy}", *chance])


@dataclass(frozen=True)
class Examination:
    """All findings, what fails first.

    Arguments:
        model: the family's name.
        findings: one a check.
    """

    model: str
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(f for f in self.findings if f.status == "fails")

    @property
    def false_alarm(self) -> float:
        """Chance that any of the checks that were made fails where nothing is wrong, at most: the sum of theirs."""
        return sum(f.false_alarm or 0.0 for f in self.findings if f.status != "does not apply")

    def __str__(self) -> str:
        """What fails or is not known, and one line on the rest."""
        shown = [str(f) for f in self.findings if f.status in ("fails", "unknown")]
        return "\n".join([*shown, self.summary()])

    def summary(self) -> str:
        """One line: how many of each status, and how often a sound model would fail."""
        counts = {s: sum(f.status == s for f in self.findings) for s in STATUSES}
        told = [f"{counts['fails']} of {len(self.findings)} checks fail" if counts["fails"] else "nothing found wrong"]
        told += [f"{counts['passes']} pass"] + [f"{counts['unknown']} cannot tell"] * bool(counts["unknown"])
        told += [f"{counts['does not apply']} do not apply"] * bool(counts["does not apply"])
        return f"{self.model}: {', '.join(told)}; a sound model fails any with a chance of at most {self.false_alarm:.2g}"

    def row(self) -> dict[str, Any]:
        """Everything as JSON values."""
        about = {"model": self.model, "fails": len(self.failures), "false_alarm": self.false_alarm}
        return about | {"findings": [asdict(f) for f in self.findings]}


@dataclass(frozen=True, eq=False)
class Case:
    """A model with what is known of it.

    Arguments:
        model: to be examined.
        x, y: held-out rows in the user's units, and their condition.
        data: with its parts, where they are known.
        history: the rows of its training, oldest first.
        info: what its checkpoint says of data, training and metrics.
        state: what its checkpoint has of the trainer.
        seed: of every draw.
    """

    model: GenerativeModel
    x: Tensor
    y: Tensor | None
    data: Data | None
    history: Sequence[Mapping[str, Any]]
    info: Mapping[str, Any]
    state: Mapping[str, Any]
    seed: int = 0
    _scores: dict[int, LogLikelihood] = field(default_factory=dict, repr=False)

    @property
    def space(self) -> Space:
        """What a row is."""
        return self.model.space

    @property
    def scores(self) -> LogLikelihood:
        """log p of the rows by the family's own default.

        Raises:
            Unsupported: it has none.
            Diverged: one is not a number.
        """
        return self.score(0)

    def score(self, turn: int) -> LogLikelihood:
        """The same with other noise at each turn."""
        if turn not in self._scores:
            found = self.model.log_likelihood(self.x, self.y, seed=derive(self.seed, "doctor", turn))
            if found.value.isnan().any():
                raise Diverged(f"log p is not a number on {int(found.value.isnan().sum())} of {len(found.value)} rows")
            self._scores[turn] = found
        return self._scores[turn]

    @cached_property
    def samples(self) -> Tensor:
        """As many draws as rows, and at least 200, under the rows' own conditions in turn."""
        n = max(len(self.x), DRAWN)
        y = None if self.y is None else self.y[torch.arange(n) % len(self.y)]
        return self.model.sample(n, y, seed=self.seed)

    @cached_property
    def latents(self) -> Collapse:
        """What the latents carry.

        Raises:
            Unsupported: there are none with a posterior that is learned.
        """
        if isinstance(self.model, LatentVariableModel) and len(self.x) < 2:
            raise Unsupported("one row shows nothing of what latents carry")
        return diagnose_latents(self.model, self.x, self.y, seed=self.seed)

    @property
    def training(self) -> Mapping[str, Any]:
        """The settings that it was trained with.

        Raises:
            Unsupported: they are not known.
        """
        found = self.info.get("training")
        if not isinstance(found, Mapping) or not self.history:
            raise Unsupported("no training history is known of this model")
        return found

    def part(self, name: Literal["train", "valid", "test"]) -> Tensor:
        """The rows of a part of the data.

        Raises:
            Unsupported: it is not known, or has no rows.
        """
        if self.data is None or not len(self.data.rows(name)):
            raise Unsupported(f"no {name} rows are known of this model")
        return self.data.split(name)[0]

    @property
    def held_out(self) -> Tensor:
        """Validation and test rows.

        Raises:
            Unsupported: there are none.
        """
        data = self.data
        parts = [] if data is None else [data.split(name)[0] for name in ("valid", "test") if len(data.rows(name))]
        if not parts:
            raise Unsupported("no validation or test rows are known of this model")
        return torch.cat(parts)

    def few(self, n: int) -> tuple[Tensor, Tensor | None]:
        """n of the held-out rows at most."""
        return self.x[:n], None if self.y is None else self.y[:n]


@dataclass(frozen=True)
class HealthCheck:
    """A named check: see `Finding` for its words."""

    name: str
    condition: str
    remedy: str
    false_alarm: float | None
    read: Callable[[Case], Sign]

    def __call__(self, case: Case) -> Finding:
        """Read, and say what came of it."""
        status: Status
        try:
            found = self.read(case)
            status = "unknown" if found.holds is None else "passes" if found.holds else "fails"
        except Unsupported as reason:
            found, status = Sign(None, None, str(reason)), "does not apply"
        except Diverged as error:
            found, status = Sign(None, False, str(error)), "fails"
        except LikeliError as error:
            found, status = Sign(None, None, str(error)), "unknown"
        return Finding(self.name, status, found.value, self.condition, found.evidence, self.remedy, self.false_alarm)


CHECKS: list[HealthCheck] = []


def health_check(
    name: str, *, condition: str, remedy: str, false_alarm: float | None = 0.0
) -> Callable[[Callable[[Case], Sign]], HealthCheck]:
    """Register a function as the check of this name."""

    def register(read: Callable[[Case], Sign]) -> HealthCheck:
        CHECKS.append(HealthCheck(name, condition, remedy, false_alarm, read))
        return CHECKS[-1]

    return register


def some_rows(x: Tensor, y: Tensor | None, most: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """At most so many rows, drawn by the seed, in their order."""
    if len(x) <= most:
        return x, y
    rows = permutation(len(x), seed, "doctor")[:most].sort().values
    return x[rows], None if y is None else y[rows]


def losses_of(model: GenerativeModel, x: Tensor, y: Tensor | None, seed: int) -> Tensor:
    """The loss of each row, (n,) float64, a mean over draws of its noise, which are the same for any model of a kind."""
    total, first, done = torch.zeros(len(x), dtype=torch.float64), None, 0
    with evaluating(model), torch.no_grad():
        while done * len(x) < LOSSES or done < 2:
            with seeded(seed, "losses", done):
                drawn = model.loss(x, y).double().cpu()
            total, done = total + drawn, done + 1
            if first is not None and torch.equal(first, drawn):
                break  # no noise in it
            first = drawn
    return total / done


def z_of(difference: Tensor) -> tuple[float, float]:
    """Mean of paired differences (n,) and its standard error."""
    d = difference.double().cpu()
    return d.mean().item(), (d.std() / len(d) ** 0.5).item() if len(d) > 1 else torch.inf
