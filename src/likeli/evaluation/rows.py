"""Which rows are unlike the data, at a stated rate of false alarms.

    score s(x) = −log p(x), or the error of reconstruction;    p-value (1 + #{i : s(x_i) ≥ s(x)}) / (n + 1)

over n held-out rows x_i.  If x is one more row of the same kind, its rank among them is uniform, so P(p ≤ α) ≤ α whatever the
model is worth; a better model only finds more of the strange rows.  A high density is no proof of being ordinary: in many
dimensions rows near the mode are as rare as rows far out, and a small reconstruction error says as little.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from scipy import stats
from torch import Tensor

from likeli.contract import GenerativeModel, Knows, Reconstructs, evaluating
from likeli.data.dataset import Data
from likeli.errors import InputError, Unsupported, require
from likeli.evaluation.likelihood import score
from likeli.random import derive, permutation
from likeli.spaces import Labels, Space

MOST_COLUMNS = 64  # that are looked at one by one if nothing is said
REFERENCE_ROWS = 500  # on which it is looked at what is usual of each column


@dataclass(frozen=True)
class Anomaly:
    """What a row's score says.

    Arguments:
        score: (B,) surprise in nats, or reconstruction error; larger is stranger.
        p_value: (B,) share of ordinary rows that are at least as strange; its finest step is 1/(n + 1).
        flagged: (B,) p_value ≤ rate.
        odd: (B,) the column that is strangest given the others, None where that was not asked; see `Columns`.
        odd_p: (B,) the share of ordinary rows whose cell in that column is at least as strange given their others.
        trained: (B,) whether a row is equal to one that the model was fitted to; None where these are not known.
        names: of the columns.
        index: the rows' labels, where they were a data frame.
    """

    score: Tensor
    p_value: Tensor
    flagged: Tensor
    odd: Tensor | None = None
    odd_p: Tensor | None = None
    trained: Tensor | None = None
    names: tuple[str, ...] = ()
    index: Any = field(default=None, repr=False)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """What is known of each row, by name: score, p_value, flagged, and column, column_p, trained where they are there."""
        found = {name: getattr(self, name).tolist() for name in ("score", "p_value", "flagged")}
        if self.odd is not None and self.odd_p is not None:
            names = [self.names[j] if self.names else j for j in self.odd.tolist()]
            found |= {"column": names, "column_p": self.odd_p.tolist()}
        return found if self.trained is None else found | {"trained": self.trained.tolist()}

    @property
    def frame(self) -> Any:
        """`columns` as a pandas DataFrame with the rows' own index."""
        import pandas

        return pandas.DataFrame(self.columns, index=self.index)


@dataclass(frozen=True)
class Columns:
    """How surprising each column's cell is given the row's other cells, s_j = log p(x_−j) − log p(x), in ordinary rows.

    Taking x_j as missing gives p(x_−j), so s_j = −log p(x_j|x_−j) where log p is exact, and a difference of bounds elsewhere.
    Ranks of s_j among ordinary rows have no unit, whatever the columns have.

    Arguments:
        reference: (columns, m) of ordinary rows, NaN where a cell is missing.
    """

    reference: Tensor

    def oddest(self, surprise: Tensor) -> tuple[Tensor, Tensor]:
        """(B, columns) → the column with the smallest p-value, of equals the one most above its mean, and that p-value."""
        stranger = torch.stack([(of >= s[:, None]).sum(1) for of, s in zip(self.reference, surprise.T)], 1)
        p = (1 + stranger) / (1 + (~self.reference.isnan()).sum(1))
        p = p.masked_fill(surprise.isnan(), 2.0)  # a missing cell is not odd
        least = p.min(1, keepdim=True).values
        excess = (surprise - self.reference.nanmean(1)).nan_to_num(nan=-torch.inf).masked_fill(p > least, -torch.inf)
        return excess.argmax(1), least[:, 0].clamp(max=1)


@dataclass(frozen=True)
class Detector:
    """A model with the scores of ordinary rows that it was not fitted to.

    Arguments:
        model: any family with log p(x), a bound on it, or a reconstruction.
        reference: (n,) scores of the held-out rows, rising.
        rate: α, the false alarms that are allowed.
        unit: what a score is.
        options: what the family's `log_likelihood` takes.
        batch, seed: of the scoring.
        columns: what is usual of each column, where that was asked.
        trained: the rows that the model was fitted to, as bytes; none if they are not known.
    """

    model: GenerativeModel
    reference: Tensor
    rate: float
    unit: str
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 256
    seed: int = 0
    columns: Columns | None = None
    trained: frozenset[bytes] = field(default=frozenset(), repr=False)

    @property
    def threshold(self) -> float:
        """Scores above it are flagged: the ⌊α(n + 1)⌋-th largest of the reference."""
        return self.reference[len(self.reference) - self._allowed].item()

    @property
    def false_alarms(self) -> tuple[float, float]:
        """Where the rate of false alarms lies with 95 % chance, given how few reference rows set the threshold.

        Over ordinary rows the rate is at most a Beta(k, n + 1 − k) variable, k = ⌊α(n + 1)⌋.
        """
        k = self._allowed
        low, high = stats.beta(k, len(self.reference) + 1 - k).interval(0.95)
        return float(low), float(high)

    @property
    def _allowed(self) -> int:
        return math.floor(self.rate * (len(self.reference) + 1) + 1e-9)

    def __call__(self, x: Any, y: Any = None) -> Anomaly:
        """Score rows, (B, *shape) in the user's units or a data frame, each with its p-value.

        Raises:
            InputError: x or y does not fit the model.
        """
        index = x.index if hasattr(x, "iloc") and hasattr(x, "index") else None
        x = self.model.space.check(x, missing=self.model.takes_missing)
        how = (self.batch, derive(self.seed, "rows"), self.options)
        found = strangeness(self.model, x, y, *how)
        stranger = len(self.reference) - torch.searchsorted(self.reference, found)  # those that score at least as much
        p_value = (1 + stranger) / (len(self.reference) + 1)
        odd, odd_p = None, None
        if self.columns is not None:
            odd, odd_p = self.columns.oddest(_surprises(self.model, x, y, found, *how))
        trained = _among(x, self.trained)
        if trained is not None and trained.any():
            count = f"{int(trained.sum())} of {len(x)} rows"
            warnings.warn(f"{count} are equal to rows that the model was fitted to, which it finds less strange", stacklevel=2)
        return Anomaly(found, p_value, stranger < self._allowed, odd, odd_p, trained, self.model.space.names, index)


def anomaly(
    model: GenerativeModel,
    x: Any,
    y: Any = None,
    *,
    rate: float = 0.05,
    batch: int = 256,
    seed: int = 0,
    columns: bool | None = None,
    trained: Any = None,
    **options: Any,
) -> Detector:
    """A detector whose false alarms are known, from rows that the model was not fitted to.

    Arguments:
        model: any family with log p(x) or a bound (its score is −log p), or an autoencoder (its score is ‖r(x) − x‖²).
        x: (n, *shape) ordinary rows in the user's units, held out; or a `Data`, whose test rows they are.
        y: (n, *condition.shape), for a conditional model.
        rate: α, the share of ordinary rows that may be flagged; at least 1/(n + 1).
        batch: rows at a time.
        seed: of Monte Carlo draws.
        columns: whether to say which column of a row is odd, at the price of scoring it once more for each; if not given, for
            up to 64 columns of families that score missing cells without a network.
        trained: rows that the model was fitted to, which are then recognised; those of a `Data` are.
        options: what the family's `log_likelihood` takes, such as `samples`.

    Raises:
        InputError: rows that do not fit, or too few for the rate.
        Unsupported: the family has neither, or columns are asked of one that cannot take a cell as missing.

    Source: Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World, for the p-value.
    """
    require(0 < rate < 1, "rate", "a number between 0 and 1", rate)
    if isinstance(x, Data):
        trained = x.split("train")[0] if trained is None else trained
        x, y = x.split("test") if model.condition is not None else (x.split("test")[0], y)
    able = model.takes_missing and model.knows is not Knows.NOTHING and len(model.space.shape) == 1
    if columns and not able:
        raise Unsupported(f"columns: {model.kind()} cannot take a cell of these rows as missing, so none is odd by itself")
    wanted = able and model.score_block is None and 2 <= model.space.dimensions <= MOST_COLUMNS if columns is None else columns
    x, how = model.space.check(x, missing=model.takes_missing), (batch, derive(seed, "reference"), options)
    reference = strangeness(model, x, y, *how)
    require(rate * (len(reference) + 1) >= 1 - 1e-9, "rate", f"at least 1/{len(reference) + 1} with that many rows", rate)
    unit = "‖r(x) − x‖², model units" if model.knows is Knows.NOTHING else f"−log p(x), nats ({model.knows_here.value})"
    usual = None
    if wanted:
        some = permutation(len(x), seed, "columns")[:REFERENCE_ROWS].sort().values
        given = None if y is None or len(y) != len(x) else y[some]
        usual = Columns(_surprises(model, x[some], given, reference[some], *how).T)
    known = frozenset() if trained is None else frozenset(_bytes(model.space.check(trained, missing=True)))
    seen = _among(x, known)
    if seen is not None and seen.any():
        count = f"{int(seen.sum())} of {len(x)} reference rows are equal to rows that the model was fitted to"
        warnings.warn(f"{count}: the rate of false alarms may be higher", stacklevel=2)
    return Detector(model, reference.sort().values, rate, unit, options, batch, seed, usual, known)


def _surprises(
    model: GenerativeModel, x: Tensor, y: Any, whole: Tensor, batch: int, seed: int, options: dict[str, Any]
) -> Tensor:
    """log p(x_−j) − log p(x) of each cell j, (B, columns); NaN where it is missing anyway."""
    found = []
    for j in range(x.shape[1]):
        without = x.double().clone()
        without[:, j] = torch.nan
        left = strangeness(model, without, y, batch, seed, options)
        found.append((whole - left).masked_fill(x[:, j].isnan().cpu(), torch.nan))
    return torch.stack(found, 1)


def _bytes(x: Tensor) -> list[bytes]:
    rows = x.double().flatten(1).nan_to_num(nan=torch.inf) + 0.0
    return [row.tobytes() for row in rows.cpu().numpy()]


def _among(x: Tensor, known: frozenset[bytes]) -> Tensor | None:
    """Which rows are among those known, (B,); None where none are."""
    return torch.tensor([row in known for row in _bytes(x)]) if known else None


def strangeness(model: GenerativeModel, x: Any, y: Any, batch: int, seed: int, options: dict[str, Any]) -> Tensor:
    """s(x) = −log p(x), or ‖r(x) − x‖² of a family that has no log p, (B,) float64; a function of the row and the seed.

    Raises:
        InputError: rows that do not fit.
        Unsupported: the family has neither.
    """
    require(batch >= 1, "batch", "at least 1", batch)
    x = model.space.check(x, missing=model.takes_missing)
    y = model.check_condition(y, len(x))
    if model.knows is not Knows.NOTHING:
        return torch.cat([-part.value.double() for part in score(model, x, y, batch=batch, seed=seed, **options)]).cpu()
    if not isinstance(model, Reconstructs):
        raise Unsupported(f"{model.kind()} has neither log p(x) nor a reconstruction, so nothing says how strange a row is")
    require(not options, "options", "none, since the score is an error of reconstruction", sorted(options))
    with evaluating(model), torch.no_grad():
        return torch.cat([model.reconstruction_error(rows.to(model.device)).double() for rows in x.split(batch)]).cpu()


@dataclass(frozen=True)
class Classes:
    """p(y|x) of each row.

    Arguments:
        log_posterior: (B, K) in nats.
        exact: whether every log p(x|y) was exact; bounds and estimates leave p(y|x) approximate, to either side.
        prior: (K,) p(y).
        note: where the prior comes from.
        names: of the classes, where they are known.
        index: the rows' labels, where they were a data frame.
    """

    log_posterior: Tensor
    exact: bool
    prior: Tensor
    note: str
    names: tuple[str, ...] = ()
    index: Any = None

    @property
    def best(self) -> Tensor:
        """The most probable class, (B,)."""
        return self.log_posterior.argmax(1)

    @property
    def frame(self) -> Any:
        """p(y|x) as a pandas DataFrame: a column for each class, by name where it has one, and the rows' own index."""
        import pandas

        columns = list(self.names) or list(range(self.log_posterior.shape[1]))
        return pandas.DataFrame(self.log_posterior.exp().cpu().numpy(), index=self.index, columns=columns)


def classify(
    model: GenerativeModel | Sequence[GenerativeModel],
    x: Any,
    *,
    prior: Sequence[float] | Tensor | Literal["uniform"] | None = None,
    batch: int = 256,
    seed: int = 0,
    **options: Any,
) -> Classes:
    """p(y|x) from a conditional model of x, or from one model for each class.

    Arguments:
        model: conditional on labels, or a sequence of K unconditional models.
        x: (B, *shape) in the user's units, or a data frame; the result's `frame` then has its index.
        prior: (K,) p(y), summing to one, or `uniform`; if not given, the classes' shares of the rows that the model was fitted
            to where it knows them, else uniform.  The result's `note` says which.
        batch: rows at a time.
        seed: of Monte Carlo draws.
        options: what the family's `log_likelihood` takes, such as `samples`.

    Raises:
        InputError: a prior or rows that do not fit, or a model that is conditional on no label.
        Unsupported: a family whose number is not log p(x), a bound or an estimate of it.
    """
    one = isinstance(model, GenerativeModel)
    models = [model] if isinstance(model, GenerativeModel) else list(model)
    require(len(models) > 0, "model", "at least one model", "none")
    silent = [m.kind() for m in models if m.knows_here in (Knows.NOTHING, Knows.UNNORMALIZED)]
    if silent:
        raise Unsupported(f"{silent[0]} has no normalised log p(x), so classes cannot be weighed against each other")
    known = models[0].condition if one else Labels(len(models))
    if known is None or not known.symbols or known.shape:
        raise InputError(f"model: expected one that is conditional on labels, or one a class, got {models[0].kind()}")
    p, note = _prior(prior, known)
    index = x.index if hasattr(x, "iloc") and hasattr(x, "index") else None
    x = models[0].space.check(x, missing=models[0].takes_missing)
    columns = []
    for k in range(known.symbols):
        y = torch.full((len(x),), k) if one else None
        parts = list(score(models[0 if one else k], x, y, batch=batch, seed=seed, **options))
        columns.append((torch.cat([part.value.double() for part in parts]), parts[0].knows is Knows.EXACT))
    joint = torch.stack([values for values, _ in columns], 1) + p.log().to(columns[0][0].device)
    return Classes(joint.log_softmax(1), all(exact for _, exact in columns), p, note, known.names, index)


def _prior(prior: Sequence[float] | Tensor | str | None, known: Space) -> tuple[Tensor, str]:
    """p(y) and where it comes from."""
    count = known.symbols
    if prior is None and known.shares:
        return torch.tensor(known.shares, dtype=torch.float64), f"prior: the classes' shares in training: {known.proportion}"
    if prior is None or isinstance(prior, str):
        require(prior in (None, "uniform"), "prior", f"{count} probabilities, or uniform", prior)
        return torch.full((count,), 1 / count, dtype=torch.float64), "prior: all classes alike"
    p = torch.as_tensor(prior, dtype=torch.float64)
    fits = tuple(p.shape) == (count,) and bool((p >= 0).all()) and abs(p.sum().item() - 1) < 1e-6
    require(fits, "prior", f"{count} probabilities that sum to 1", p.tolist())
    return p, "prior: as given"
