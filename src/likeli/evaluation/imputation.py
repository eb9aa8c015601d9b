"""Filling missing cells with draws, many of each, so that what is not known shows as spread.

    x_m ~ p(x_m | x_o)

Exact for mixtures of Gaussians on reals, latent classes, independent cells, autoregressive models and boosted trees of any
order; a masked diffusion follows its own guesses, cell after cell; a Gaussian diffusion draws by a sampler of its posterior,
with the known cells of z's clean end as readings without noise; for others z ~ p(z|x_o) by importance resampling,
x_m ~ p(x_m|z), and where a VAE models why cells are missing, (z, x_m) by p(s|x_o, x_m) too.  A Gaussian sees an observed
whole number, category or spike as an interval of its scale, whose place z is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from likeli import processes
from likeli.config import lookup
from likeli.contract import GenerativeModel, Knows, evaluating, row_noise
from likeli.diffusion.gaussian import GaussianDiffusion
from likeli.diffusion.restoration import MMPS, Mask, PosteriorSampler, posterior_draws, take_reading
from likeli.diffusion.restoration.posterior_sampler import Answer
from likeli.errors import Unsupported, require, require_draws
from likeli.latent.chain import LatentVariableModel
from likeli.latent.missingness import Hides, filled_by_codes
from likeli.probability.importance import Diagnostics, diagnose
from likeli.random import BLOCK, Keyed, Streams, derive, seeded
from likeli.spaces import Space, UnitVectors
from likeli.spaces.base import confined, held_cells
from likeli.spaces.frames import filled_frame

Drawn = tuple[Tensor, Tensor | None]
DRAWN = 512  # draws of a network at a time
UNCHECKED = "what hid itself is told by the forms of p(x) and p(s|x) alone, and intervals leave out that these may be wrong"


@runtime_checkable
class Fills(Protocol):
    """A family that draws missing cells given the others."""

    def fill(self, x: Tensor, y: Tensor | None, n: int, *, samples: int, seed: int) -> Drawn:
        """n draws (n, B, *shape) of the NaN cells of checked rows x, the others as given.

        With them come the log weights (samples, B) of the importance resampling behind them; None where they are exact.
        """
        ...


@dataclass(frozen=True)
class Imputation:
    """Draws of the missing cells; a data frame comes back as one, with its index, types and other columns.

    Arguments:
        draws: (n, B, *shape) in the user's units; observed cells are as given.
        missing: (B, *shape), which cells were.
        diagnostics: of the importance weights behind the draws, for each row with a missing cell; None where there are none.
        space: what a row is.
        given: the data frame that was filled, or None.
        answer: what the draws are of p(x_m|x_o): `exact`, `asymptotically exact` or `approximate`.
        method: by which a diffusion's were made.
        hiding: whether they rest on a model of why cells are missing, which nothing in the data can check.
    """

    draws: Tensor
    missing: Tensor
    diagnostics: Diagnostics | None
    space: Space
    given: Any = field(default=None, repr=False)
    answer: Answer = "exact"
    method: str = ""
    hiding: bool = False

    @property
    def note(self) -> str:
        """Why the draws may be off; empty for exact ones and where the weights can be trusted."""
        if self.method and lookup(self.method, PosteriorSampler).shares:  # type: ignore[type-abstract]
            return "draws of one row share ancestors and are not independent"
        doubts = [UNCHECKED] if self.hiding else []
        doubts += [] if self.diagnostics is None else [self.diagnostics.complaint()]
        return "; ".join(filter(None, doubts))

    @property
    def mean(self) -> Any:
        """The rows with each missing number at the average of its draws, and each category at the most frequent one.

        The average is taken in the user's units, whatever scale the model sees, so it may lie between whole numbers.
        """
        return self._filled_at(self.draws.double().mean(0))

    @property
    def median(self) -> Any:
        """The rows with each missing number at the median of its draws, and each category at the most frequent one.

        Of a skewed column it is nearer to most of the values than the average: where nine in ten draws are 0, it is 0.
        """
        ordered, n = self.draws.double().sort(0).values, len(self.draws)
        return self._filled_at((ordered[(n - 1) // 2] + ordered[n // 2]) / 2)

    def _filled_at(self, point: Tensor) -> Any:
        if self.space.categorical is not None:
            point = torch.where(self.space.categorical.to(point.device), self.draws.mode(0).values.double(), point)
        return self._as_given(torch.where(self.missing, point, self.draws[0].double()))

    def completed(self, i: int = 0) -> Any:
        """The rows as draw i fills them."""
        require(0 <= i < len(self.draws), "i", f"a draw from 0 to {len(self.draws) - 1}", i)
        return self._as_given(self.draws[i])

    def interval(self, level: float = 0.9) -> tuple[Any, Any]:
        """The rows with each missing number at the lower and at the upper end of an interval that holds it with chance ≥ level.

        If the model is right, a cell and its n draws are alike, so that the k-th least and k-th largest of them,
        k = ⌊(n + 1)(1 − level)/2⌋, have it between them with chance 1 − 2k/(n + 1) or more.  A category has no interval: it
        stays missing.

        Raises:
            InputError: fewer draws than 2/(1 − level) − 1.
        """
        nominal = torch.zeros_like(self.missing) if self.space.categorical is None else self.missing & self.space.categorical
        ends = []
        for end in central_interval(self.draws[:, self.missing], level):
            x = self.draws[0].double().clone()
            x[self.missing] = end
            ends.append(self._as_given(x.masked_fill(nominal, torch.nan)))
        return ends[0], ends[1]

    def cells(self, level: float = 0.9, value: Literal["mean", "median"] = "mean") -> Any:
        """A pandas DataFrame with a line for each missing cell: row, column, value, low, high, share.

        `value` is what `mean`, or `median`, has there, `low` and `high` are the interval of a number, and `share` is the part
        of the draws that agree on a category.
        """
        import pandas

        plain = replace(self, given=None)
        best, (low, high) = getattr(plain, value), plain.interval(level)
        rows, columns = (c.tolist() for c in self.missing.flatten(1).nonzero().T)
        nominal = np.zeros(self.space.dimensions, bool)
        if self.space.categorical is not None:
            nominal = self.space.categorical.flatten().numpy()
        texts = self.space.frame(best)
        values, least, most = (self._written(x) for x in (best, low, high))
        agree = (self.draws == best.to(self.draws)).double().mean(0)[self.missing].tolist()
        index = range(len(best)) if self.given is None else self.given.index
        names = self.space.names or range(self.space.dimensions)
        return pandas.DataFrame(
            {
                "row": [index[i] for i in rows],
                "column": [names[j] for j in columns],
                "value": [texts.iat[i, j] if nominal[j] else v for i, j, v in zip(rows, columns, values)],
                "low": least,
                "high": most,
                "share": [s if nominal[j] else math.nan for j, s in zip(columns, agree)],
            }
        )

    def _written(self, x: Tensor) -> list[Any]:
        """The missing cells of rows x as numbers, of dates as texts."""
        cells = x[self.missing].tolist()
        of_cell = [self.space.calendars.get(j) for j in self.missing.flatten(1).nonzero()[:, 1].tolist()]
        return [v if c is None else c.texts(np.array([v]))[0] for v, c in zip(cells, of_cell)]

    def _as_given(self, x: Tensor) -> Any:
        return x if self.given is None else filled_frame(self.given, self.space, x, self.missing)


def central_interval(draws: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """The k-th least and the k-th largest of n draws (n, …), k = ⌊(n + 1)(1 − level)/2⌋.

    Raises:
        InputError: fewer draws than 2/(1 − level) − 1.
    """
    require(0 < level < 1, "level", "a number between 0 and 1", level)
    n = len(draws)
    k = math.floor((n + 1) * (1 - level) / 2 + 1e-9)
    require(k >= 1, "n", f"at least {math.ceil(2 / (1 - level) - 1 - 1e-9)} draws for an interval of {level:g}", n)
    ordered = draws.double().sort(0).values
    return ordered[k - 1], ordered[-k]


def impute(
    model: GenerativeModel, x: Any, n: int = 99, y: Any = None, *, samples: int = 200, seed: int = 0, batch: int = 256,
    by_row: bool = False, method: str | PosteriorSampler | None = None,
) -> Imputation:  # fmt: skip
    """n draws of each row's missing cells given its observed ones; `answer` says what they are worth.

    Where the draws are not exact, `samples` codes (for a Gaussian, places of the observed whole numbers, categories and spikes
    in their intervals) are drawn from q(z|x_o), and n of them are drawn again in proportion to p(x_o, z)/q(z|x_o): right as
    `samples` grows, and as far as the diagnostics say before.  A VAE's q learns from what it drew, for rows with few
    effective codes.

    Arguments:
        model: gmm, ppca, factor_analysis, categorical_mixture, independent, autoregressive and boosted_trees of any order, a
            masked discrete_diffusion, a vae, or a Gaussian diffusion (vdm, ddpm, score_sde, edm, flow_matching).
        x: (B, *shape), NaN where a cell is missing (also −1 in images and symbols), or a data frame, which comes back as one.
        n: draws; an autoregressive model takes a pass of its network for each cell of each.
        y: (B, *condition.shape), for a conditional model.
        samples: codes to choose from.
        seed: of all draws.
        batch: rows at a time.
        by_row: whether the draws of a row are a function of what is in it, so that equal rows get equal draws; for a mean,
            not for rows that are to vary.
        method: of a Gaussian diffusion, by name or as an object: mmps if not given (approximate), twisted_smc (asymptotically
            exact in its particles, and a hundred times the work on a table), or replacement, repaint, pi_gdm, dps.

    Raises:
        InputError: x or y does not fit.
        Unsupported: a family that cannot marginalise missing cells.

    Source: Rubin (1987), Journal of the American Statistical Association 82, for the resampling; Mattei & Frellsen (2019),
    arXiv:1812.02633, for its use with a VAE.
    """
    require(isinstance(n, int) and not isinstance(n, bool) and n >= 1, "n", "a whole number of at least 1", n)
    require_draws("samples", samples, 2)
    require(batch >= 1, "batch", "at least 1", batch)
    how = _way(model, method)
    frame = x if hasattr(x, "iloc") and hasattr(x, "columns") else None
    x, missing = rows_with_holes(model.space, x)
    x, missing = x.to(model.device), missing.to(model.device)
    y = model.check_condition(y, len(x))
    holed = missing.flatten(1).any(1).nonzero()[:, 0]  # the others are as they are
    draws, weights = x.expand(n, *x.shape).clone(), list[Tensor]()
    every = holed.split((BLOCK if how is None else 1) if by_row else batch)
    mine = range(len(every))[processes.share(len(every))] if len(holed) else ()
    for rows in (every[i] for i in mine):
        padded = by_row and how is None
        rows = rows[torch.arange(BLOCK).clamp(max=len(rows) - 1)] if padded else rows  # networks see full blocks
        given, its_seed = None if y is None else y[rows], derive(seed, "impute", *[int(rows[0])] * (not by_row))
        noise = row_noise(model.space, its_seed, x[rows], given, "impute") if by_row else seeded(its_seed)
        with evaluating(model), torch.no_grad(), noise:
            if isinstance(model, GaussianDiffusion) and how is not None:
                numbers = (Keyed(seed, x[rows], given, "impute").key[:, 0] >> 1).abs() if by_row else rows
                filled, log_w = filled_by_denoiser(model, (x[rows], missing[rows], given), n, how, seed, numbers.tolist()), None
            elif isinstance(model, Fills):
                filled, log_w = model.fill(x[rows], given, n, samples=samples, seed=its_seed)
            else:
                assert isinstance(model, LatentVariableModel)
                filled, log_w = filled_by_codes(model, x[rows], given, n, samples)
        draws = draws.to(filled.dtype)
        draws[:, rows] = torch.stack([confined(model.space, one, x[rows]) for one in filled]).to(filled.dtype)
        weights += [] if log_w is None else [log_w]
    if processes.count() > 1:
        draws, weights = _everyones(draws, weights, torch.cat([every[i] for i in mine]) if len(mine) else holed[:0])
    diagnostics = diagnose(torch.cat(weights, 1)) if weights else None
    plain: Answer = "exact" if model.knows is Knows.EXACT else "approximate"
    answer = how.answer if how is not None else "asymptotically exact" if weights else plain
    hiding = isinstance(model, Hides) and model.mask_model is not None
    return Imputation(draws, missing, diagnostics, model.space, frame, answer, "" if how is None else how.kind(), hiding)


def fills(model: GenerativeModel) -> bool:
    """Whether a model can draw missing cells given the others."""
    latent = isinstance(model, LatentVariableModel) and model.takes_missing
    return latent or isinstance(model, (Fills, GaussianDiffusion))


def _way(model: GenerativeModel, method: str | PosteriorSampler | None) -> PosteriorSampler | None:
    """The sampler of a Gaussian diffusion's posterior; None for families that need none.

    Raises:
        InputError: a method for another family, or none of its names.
        Unsupported: a family that cannot condition on some cells only.
    """
    if isinstance(model, GaussianDiffusion):
        return trained(method or "mmps", model.space)
    require(method is None, "method", f"nothing, since {model.kind()} has one way only", method)
    if not fills(model):
        able = "gmm, ppca, factor_analysis, categorical_mixture, independent, autoregressive, boosted_trees, vae,"
        able += " discrete_diffusion and the Gaussian diffusions can"
        raise Unsupported(f"{model.kind()} cannot condition on some cells only; {able}")
    return None


def trained(method: str | PosteriorSampler, space: Space) -> PosteriorSampler:
    """The method of that name as a trained network needs it: cells without a range keep no draw from running away.

    Raises:
        InputError: no such method.
    """
    if isinstance(method, PosteriorSampler):
        return method
    kind = lookup(method, PosteriorSampler)  # type: ignore[type-abstract]
    return MMPS.guarded() if kind is MMPS and not space.symbols else kind()


def rows_with_holes(space: Space, x: Any) -> tuple[Tensor, Tensor]:
    """Checked rows (B, *shape) and which of their cells are missing: NaN, or the space's `blank`.

    Raises:
        InputError: another shape, or a value outside the space.
    """
    text = isinstance(x, str) or (isinstance(x, (list, tuple)) and bool(x) and isinstance(x[0], str))
    if space.blank is not None and not text:
        x = held_cells(space, x, "x")
        return x, x == space.blank
    x = space.check(x, missing=True)
    return x, x.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)


def filled_by_denoiser(
    model: GaussianDiffusion, holed: tuple[Tensor, Tensor, Tensor | None], n: int, how: PosteriorSampler, seed: int,
    numbers: Sequence[int],
) -> Tensor:  # fmt: skip
    """n draws (n, B, *shape) of hidden cells by a sampler of p(u|A u), u a row in model units and A its known cells.

    Draw i of row number b is a function of (seed, b, i) alone; a row of which nothing is known is drawn as any sample.

    Arguments:
        holed: rows x (B, *shape) in the user's units, which of their cells are hidden, and y.
        numbers: b of each row.
    """
    x, missing, y = holed
    space, hollow, out = model.latent_space, missing.flatten(1).all(1), x.expand(n, *x.shape).clone()
    blind, rows = hollow.nonzero()[:, 0], (~hollow).nonzero()[:, 0]
    if len(blind):
        ids = [numbers[b] << 32 | i for b in blind.tolist() for i in range(n)]
        noise = Streams(derive(seed, "free"), ids, model.dtype, model.device)
        free = model.draw(noise, None if y is None else y[blind.repeat_interleave(n)])
        out[:, blind] = free.reshape(len(blind), n, *x.shape[1:]).transpose(0, 1).to(x.dtype)
    if not len(rows):
        return out
    u = space.to_model(x[rows].masked_fill(missing[rows], torch.nan if model.takes_missing else 0), torch.float64)
    seen = ~u.isnan()
    if not model.takes_missing:
        seen = (~missing[rows]).reshape(len(rows), *space.shape, *[1] * (u.ndim - x.ndim)).expand(u.shape)
    u = u.nan_to_num(0)
    one, codes = torch.ones(space.model_shape, dtype=torch.float64), space.codebook(u)
    ends = (0.0, 1.0) if codes is None else (codes.min().item(), codes.max().item())
    mask = Mask(seen.cpu(), space.model_shape)
    reading = take_reading(mask, u.cpu(), 0.0, one, 0 * one, ends if space.symbols else None)
    found = posterior_draws(
        lambda which: model.denoise(None if y is None else y[rows[which]]),
        reading, how, n, seed, u.to(model.dtype), DRAWN, [numbers[b] for b in rows.tolist()],
    )  # fmt: skip
    ids, flat = [numbers[b] << 32 | i for i in range(n) for b in rows.tolist()], found.flatten(0, 1)
    place = Streams(derive(seed, "place"), ids, model.dtype, model.device)
    drawn = space.near(flat, place) if isinstance(space, UnitVectors) else space.from_model(flat)
    drawn = drawn.reshape(n, len(rows), *x.shape[1:])
    out[:, rows] = torch.where(missing[rows], drawn.to(x), x[rows])
    return out


def _everyones(draws: Tensor, weights: list[Tensor], mine: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Draws with the rows of every process filled in, and the weights of all of them."""
    held = {"rows": mine, "draws": draws[:, mine]} | ({"weights": torch.cat(weights, 1)} if weights else {})
    shared = [found for _, found in processes.exchanged(None, held)]
    dtype = next((found["draws"].dtype for found in shared if len(found["rows"])), draws.dtype)
    draws = draws.to(dtype)
    for found in shared:
        draws[:, found["rows"]] = found["draws"].to(draws)
    return draws, [found["weights"].to(draws.device) for found in shared if "weights" in found]
