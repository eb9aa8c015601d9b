"""Whether a latent variable model uses its latents, and whether its prior covers the codes that the data have.

With q̄(z) the average of q(z|x) over the data,

    E KL(q(z|x) ‖ p(z)) = I_q(x; z) + KL(q̄(z) ‖ p(z))

A collapsed latent carries no information (both terms 0); a prior hole is the second term: the model samples codes that no
example has.  n examples can show at most log n nats of information, so where there is more the split is not known, and only
a bound from below is given: codes and prior draws that a classifier tells apart are not alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributions as D

from likeli.contract import GenerativeModel, evaluating
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.errors import Unsupported, require, require_draws
from likeli.latent.chain import LatentVariableModel, Step, log_q_table
from likeli.probability.information import gaussian_kl
from likeli.random import Ambient, derive, permutation, seeded

if TYPE_CHECKING:
    from likeli.evaluation.two_sample import ClassifierTest

ACTIVE_VARIANCE = 0.01  # Burda et al. (2015): a latent is active if the variance of its posterior mean is above this
COLLAPSED_KL = 0.01  # nats
HOLE_MISMATCH = 0.1  # nats of KL(q̄ ‖ p)
HOLE_SHARE = 0.1  # ten times the share of prior draws that a perfect prior has below the 1 % quantile
EDGE = 0.01
CHANCE = 1e-3  # of as many prior draws in holes, were there none
CEILING = 2.0  # nats below log n from which the information is believed; its bias there is about e⁻²/2
ROWS, DEEP_ROWS = 1000, 300
TESTED = 256  # latents of one level that the classifier is given


@dataclass(frozen=True)
class Collapse:
    """What the latents of a model carry, in nats a row; lists have one entry a level, level 1 (next to the data) first.

    Arguments:
        kl_by_level: E KL(q ‖ p); of a chain inferred from the bottom, log-ratios, which may be negative.
        kl_by_latent: the same by latent, where q and p are diagonal Gaussians; an empty list elsewhere.
        active: latents whose posterior mean, beyond the prior's, varies over the data.
        latents: of them in all.
        information: I_q(x; z); None where n examples cannot show so much.
        mismatch: KL(q̄ ‖ p) = KL − information; None with it, or if the prior depends on y.
        mismatch_stderr: of `mismatch`.
        mismatch_at_least: a lower bound on KL(q̄ ‖ p), right with a chance of 95 %, from how well a classifier tells codes from
            draws of the prior; None for fewer than 80 examples.
        told_apart: area under that classifier's ROC curve; ½ if codes and prior are alike.
        hole: share of prior draws where q̄/p is lower than at 99 % of the data's codes; 0.01 if q̄ = p.
        rows: n, how many examples q̄ averages over.
        alarms: what is wrong and what to do, one line each.
    """

    kl_by_level: list[float]
    kl_by_latent: list[list[float]]
    active: list[int]
    latents: list[int]
    information: float | None
    mismatch: float | None
    mismatch_stderr: float | None
    mismatch_at_least: float | None
    told_apart: list[float]
    hole: float | None
    rows: int
    alarms: list[str] = field(default_factory=list)

    @property
    def dead(self) -> list[int]:
        """Levels that carry nothing."""
        return [t for t, kl in enumerate(self.kl_by_level, 1) if abs(kl) < COLLAPSED_KL]

    @property
    def missed(self) -> tuple[float | None, float]:
        """KL(q̄ ‖ p) or, where it is not known, at least how much of it; and what of it is sure beyond chance."""
        if self.mismatch is None or self.mismatch_stderr is None:
            return self.mismatch_at_least, self.mismatch_at_least or 0.0
        return self.mismatch, self.mismatch - 2 * self.mismatch_stderr

    @property
    def hollow(self) -> bool:
        """Whether prior draws lie where the data's codes hardly ever do, more of them than chance has with so few rows."""
        if self.hole is None or self.hole <= HOLE_SHARE:
            return False
        from scipy.stats import binom

        below = max(EDGE, 1 / (self.rows + 1))  # the expected share under the least of n codes, were q̄ = p
        return bool(binom.sf(round(self.hole * self.rows) - 1, self.rows, below) < CHANCE)


def diagnose_latents(
    model: GenerativeModel, x: Any, y: Any = None, *, draws: int = 2, rows: int | None = None, seed: int = 0
) -> Collapse:
    """Per-latent KL, active units, mutual information, mismatch of aggregate posterior and prior, prior hole, at any depth.

    Arguments:
        model: any model with continuous latent levels.
        x: (B, *shape) in the user's units.
        y: (B, *condition.shape), for a conditional model; z may then tell of y too, and the information is of both.
        draws: of z for each row, for the divergences by level and latent.
        rows: at most so many examples are used; the cost of the information is their square; 1000, or 300 for more levels.
        seed: of the draws.

    Raises:
        InputError: x or y does not fit, or fewer than two rows.
        Unsupported: a family without latents, or a diffusion model, whose q is fixed.

    Source: Hoffman & Johnson (2016), "ELBO surgery"; Burda et al. (2015), arXiv:1509.00519.
    """
    if isinstance(model, GaussianDiffusion):
        raise Unsupported(f"{model.kind()} has a fixed q, which cannot collapse; `likeli levels` says what each level costs")
    if not isinstance(model, LatentVariableModel):
        raise Unsupported(f"{model.kind()} has no latent variable with a posterior, so there is nothing to collapse")
    require_draws("draws", draws)
    require(rows is None or rows >= 2, "rows", "at least 2", rows)
    most = rows or (ROWS if model.depth == 1 else DEEP_ROWS)
    x = model.space.check(x, missing=model.takes_missing).to(model.device)
    require(len(x) >= 2, "x", "at least 2 rows", len(x))
    y = model.check_condition(y, len(x))
    x, y = x[:most], None if y is None else y[:most]
    with evaluating(model), torch.no_grad(), seeded(seed, "latents"):
        found = _diagnosis(model, x, y, draws, seed)
    found.alarms.extend(_alarms(found))
    return found


def _diagnosis(model: LatentVariableModel, x: Tensor, y: Tensor | None, draws: int, seed: int) -> Collapse:
    context, n = model.infer(x, y), len(x)
    visits = [list(model.walk(Ambient(x), y, context=context))[::-1] for _ in range(draws)]
    by_level, levels = [list(level) for level in zip(*visits)], visits[0]
    fresh, log_p_fresh = _prior_draws(model, x, y)
    if not all(z.is_floating_point() for z in fresh):
        raise Unsupported("discrete latents: what they carry is not measured yet")
    log_p = sum((v.p.log_prob(v.z).double() for v in levels), torch.zeros((), dtype=torch.float64))
    own = log_q_table(model, n, context, y, [v.z for v in levels])
    log_aggregate = own.logsumexp(1) - math.log(n)
    information = (own.diagonal() - log_aggregate).mean().item()
    excess = log_aggregate - log_p
    known, comparable = information < math.log(n) - CEILING, not _prior_reads_y(model, x, y)
    tests, hole = [], None
    if comparable:  # else q̄, an average over all y, has no one prior to be compared with
        tests = _tests(levels, fresh, seed)
        others = own.masked_fill(torch.eye(n, dtype=torch.bool, device=own.device), -math.inf).logsumexp(1)
        at_codes = others - math.log(n - 1) - log_p  # an example's own posterior is left out, as fresh draws have none
        at_prior = log_q_table(model, n, context, y, fresh).logsumexp(1) - math.log(n) - log_p_fresh
        hole = (at_prior < at_codes.quantile(EDGE)).double().mean().item()
    return Collapse(
        kl_by_level=[torch.stack([v.kl for v in level]).double().mean().item() for level in by_level],
        kl_by_latent=[_by_latent(level) for level in by_level],
        active=[_active(level) for level in by_level],
        latents=[v.z[0].numel() for v in levels],
        information=information if known else None,
        mismatch=excess.mean().item() if known and comparable else None,
        mismatch_stderr=(excess.std() / math.sqrt(n)).item() if known and comparable else None,
        mismatch_at_least=_at_least(tests) if tests else None,
        told_apart=[test.auc for test in tests],
        hole=hole,
        rows=n,
    )


def _prior_draws(model: LatentVariableModel, x: Tensor, y: Tensor | None) -> tuple[list[Tensor], Tensor]:
    """One draw of z ~ p(z) a row, level 1 first, and log p(z), (n,)."""
    codes, log_p = [], torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for step in model.walk(Ambient(x), y):
        codes.append(step.z)
        log_p = log_p + step.p.log_prob(step.z)
    return codes[::-1], log_p


def _by_latent(visits: list[Step]) -> list[float]:
    """E KL of each latent, at z ~ q where a level has only its log-ratio."""
    if not all(_diagonal(d) for v in visits for d in (v.q, v.p)):
        return []
    cells = []
    for v in visits:
        a, b = v.q.base_dist, v.p.base_dist  # type: ignore[attr-defined]
        kl = gaussian_kl(a.loc, a.scale, b.loc, b.scale) if v.nested else a.log_prob(v.z) - b.log_prob(v.z)
        cells.append(kl.flatten(1))
    return torch.stack(cells).double().mean((0, 1)).tolist()


def _diagonal(d: D.Distribution | None) -> bool:
    return isinstance(d, D.Independent) and isinstance(d.base_dist, D.Normal)


def _active(visits: list[Step]) -> int:
    """Latents whose posterior mean varies by more than 1 % of the prior's variance, beyond what the prior itself varies."""
    shifts = []
    for v in visits:
        base = v.p.base_dist if _diagonal(v.p) else D.Normal(0.0, 1.0)  # type: ignore[attr-defined]
        shifts.append(((v.q.mean - base.loc) / base.scale).flatten(1))
    return int((torch.cat(shifts).var(0) > ACTIVE_VARIANCE).sum())


def _prior_reads_y(model: LatentVariableModel, x: Tensor, y: Tensor | None) -> bool:
    """Whether the prior changes with y."""
    log_p = []
    for given in () if y is None else (y, y.roll(1, 0)):
        with seeded(0, "prior and y"):
            log_p.append(_prior_draws(model, x, given)[1])
    return bool(log_p) and not torch.equal(*log_p)


def _tests(levels: list[Step], fresh: list[Tensor], seed: int) -> list[ClassifierTest]:
    """Codes against draws of the prior, level by level."""
    from likeli.evaluation.two_sample import FEWEST, classifier_test  # scikit-learn's seconds, for these alone

    if len(fresh[0]) < 2 * 2 * FEWEST:
        return []
    pairs = [(level.z.flatten(1), drawn.flatten(1)) for level, drawn in zip(levels, fresh)]
    return [classifier_test(b[:, :TESTED], a[:, :TESTED], seed) for a, b in pairs]


def _at_least(tests: list[ClassifierTest]) -> float:
    """The largest over levels of KL ≥ −log(1 − TV²), TV ≥ 2·accuracy − 1, all of them right together with 95 %.

    Source: Bretagnolle & Huber (1979), Zeitschrift für Wahrscheinlichkeitstheorie 47.
    """
    caution = NormalDist().inv_cdf(1 - 0.05 / len(tests))
    sure = max(test.accuracy - caution * test.accuracy_stderr for test in tests)
    return -math.log1p(-(max(0.0, 2 * sure - 1) ** 2))


def _alarms(found: Collapse) -> list[str]:
    return [text for text in (_dead(found), _unused(found), _mismatch(found), _hollow(found), _unknown(found)) if text]


def _dead(found: Collapse) -> str:
    dead = ", ".join(map(str, found.dead))
    return dead and (
        f"posterior collapse: level {dead} carries less than {COLLAPSED_KL:g} nats, so x does not depend on it; "
        "try kl_warmup, free_nats, a weaker decoder, or fewer levels"
    )


def _unused(found: Collapse) -> str:
    idle = [(t, n - a, n) for t, (a, n) in enumerate(zip(found.active, found.latents), 1) if a < n]
    if not idle or all(abs(kl) < COLLAPSED_KL for kl in found.kl_by_level):
        return ""
    where = [f"{few} of {n}" + (f" at level {t}" if len(found.latents) > 1 else "") for t, few, n in idle]
    return (
        f"{', '.join(where)} latents are not used; harmless if the bound is good: fewer of them cost nothing, kl_warmup or "
        "free_nats may wake them"
    )


def _mismatch(found: Collapse) -> str:
    nats, sure = found.missed
    how = "by at least" if found.mismatch is None else "by"
    return "" if nats is None or sure <= HOLE_MISMATCH else (
        f"prior mismatch: the codes of the data differ from the prior {how} {nats:.2f} nats, so samples come "
        "from codes that no example has; try prior_family mixture, vamp or flow"
    )


def _hollow(found: Collapse) -> str:
    return "" if not found.hollow else (
        f"prior hole: {found.hole:.0%} of prior draws lie where the data's codes hardly ever do; try a learned prior_family"
    )


def _unknown(found: Collapse) -> str:
    return "" if found.information is not None else (
        f"the mutual information is near or above its ceiling log n = {math.log(found.rows):.2f} nats, so neither it nor the "
        "mismatch is known; use more rows, or read told_apart"
    )


SHUFFLED = 128  # rows on which it is looked at whether a conditional model reads y


@dataclass(frozen=True)
class ReadingY:
    """log p(x|y) of some rows, and the same with y shuffled among them.

    Arguments:
        own, shuffled: mean nats.
        gap: own − shuffled.
        stderr: of `gap` over rows, compared one by one.
        rows: how many.
    """

    own: float
    shuffled: float
    gap: float
    stderr: float
    rows: int

    def __str__(self) -> str:
        told = f"with y shuffled among {self.rows} rows log p(x|y) falls by {self.gap:.3g} ± {self.stderr:.2g} nats"
        return told if self.gap > 3 * self.stderr else f"{told}: no sign that the model reads y"


def reading_of_y(model: GenerativeModel, x: Tensor, y: Tensor, *, seed: int = 0, **options: Any) -> ReadingY:
    """Whether a conditional model reads y.

    Arguments:
        model: a conditional family with a log p(x|y).
        x, y: two rows or more.
        seed: of the shuffle and of the Monte Carlo draws, the same for both.
        options: what the family's `log_likelihood` takes.
    """
    other = y[permutation(len(y), seed, "shuffled")]
    own, wrong = (model.log_likelihood(x, of, seed=derive(seed, "evaluate"), **options).value.double() for of in (y, other))
    gap = own - wrong
    return ReadingY(
        own.mean().item(), wrong.mean().item(), gap.mean().item(), (gap.std() / math.sqrt(len(gap))).item(), len(gap)
    )
