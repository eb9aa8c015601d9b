"""The Gaussian mixture: exact log p(x), responsibilities, missing cells integrated out, exact conditionals.

    p(u) = Σ_k w_k N(u | m_k, Σ_k)

Source: Dempster, Laird & Rubin (1977), maximum likelihood from incomplete data via the EM algorithm.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from likeli import processes
from likeli.errors import require
from likeli.gaussian.covariance import COVARIANCES, Covariance, Kind, Mixture, free_entries
from likeli.gaussian.em import iterate, k_means, log_joint, maximise, moments
from likeli.gaussian.missing import column_moments, group_rows, log_joint_observed, units
from likeli.models.linear_gaussian import LinearGaussian, frozen
from likeli.random import Noise
from likeli.spaces import Space


class GMM(LinearGaussian):
    """A mixture of K Gaussians, fitted by EM from k-means++ starts.

    Arguments:
        space: what one example is; integers are dequantised, and their number is then a lower bound.
        components: K.
        covariance: one matrix each (full), one for all (tied), one variance per cell (diag) or per component (spherical).
        tol: EM ends when the mean log-likelihood gains less than this many nats; 0 runs `max_iter` iterations.
        max_iter: EM iterations at most.
        regularization: no variance of a component, in any direction, falls below this share of the columns' variances.
        starts: k-means++ starts, of which the one of least inertia begins EM.
    """

    strategy: ClassVar[str] = "em"

    def __init__(
        self,
        space: Space,
        components: int = 10,
        covariance: Kind = "full",
        tol: float = 1e-3,
        max_iter: int = 200,
        regularization: float = 1e-6,
        starts: int = 4,
    ) -> None:
        super().__init__(space)
        require(components >= 1, "components", "at least 1", components)
        require(covariance in COVARIANCES, "covariance", f"one of {', '.join(COVARIANCES)}", covariance)
        require(tol >= 0, "tol", "0 or more", tol)
        require(max_iter >= 1, "max_iter", "at least 1", max_iter)
        require(0 < regularization < 1, "regularization", "a number between 0 and 1", regularization)
        require(starts >= 1, "starts", "at least 1", starts)
        self.components, self.covariance, self.tol, self.max_iter = components, covariance, tol, max_iter
        self.regularization, self.starts = regularization, starts
        d = space.dimensions
        self.weights = frozen(torch.full((components,), 1 / components, dtype=torch.float64))
        self.means = frozen(torch.zeros(components, d, dtype=torch.float64))
        self.factor = frozen(self.kind_of_covariance.standard(components, d))
        self.register_buffer("floored", torch.zeros((), dtype=torch.int64))  # covariances that the floor holds
        self.register_buffer("progress", torch.zeros(3, dtype=torch.float64))  # of EM

    @classmethod
    def from_parameters(cls, space: Space, weights: Any, means: Any, covariances: Any, covariance: Kind = "full") -> GMM:
        """The mixture with the given parameters, in the user's units.

        Arguments:
            weights: (K,), sum to one.
            means: (K, *shape).
            covariances: (K, D, D), (D, D), (K, D) or (K,) for full, tied, diag or spherical; variances, not deviations.

        Raises:
            InputError: shapes that do not fit, weights that are not a distribution, covariances that are not positive definite.
        """
        weights, means, covariances = (torch.as_tensor(a, dtype=torch.float64) for a in (weights, means, covariances))
        require(weights.ndim == 1 and len(weights) > 0, "weights", "one weight a component", tuple(weights.shape))
        total = weights.sum().item()
        require(bool((weights >= 0).all()) and abs(total - 1) < 1e-6, "weights", "weights that sum to 1", f"sum {total:g}")
        model = cls(space, len(weights), covariance)
        require(len(means) == len(weights), "means", f"{len(weights)} rows", len(means))
        shape, scale = model.factor.shape, units(space)
        require(covariances.shape == shape, "covariances", f"shape {tuple(shape)}", tuple(covariances.shape))
        equal = covariance != "spherical" or bool((scale == scale[0]).all())
        require(equal, "covariance", "diag or full, since the columns have different scales", covariance)
        square = covariance in ("full", "tied")
        factor, info = torch.linalg.cholesky_ex(covariances) if square else (covariances.sqrt(), (covariances <= 0).int())
        require(not info.any(), "covariances", "positive definite covariances", "others")
        u = space.to_model(space.check(means, what="means"), torch.float64).flatten(1)
        model._set(Mixture(weights, u, model.kind_of_covariance.scaled(factor, 1 / scale)))
        return model

    @classmethod
    def suited(cls, space: Space, rows: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """At most ten components, each with five training rows a cell; variances alone where there are not two for one.

        On scikit-learn's wine, iris, breast cancer and diabetes the best K of held-out rows is within a factor of two of this.

        Arguments:
            rows: how many rows the mixture will be fitted to.
            given: options that are settled.
        """
        d = space.dimensions
        covariance = given.get("covariance") or ("full" if rows >= 2 * d else "diag")
        each = 5 * d if covariance == "full" else 20
        return {"covariance": covariance, "components": max(1, min(10, rows // each))}

    @property
    def kind_of_covariance(self) -> Covariance:
        """The algebra of this mixture's covariances."""
        return COVARIANCES[self.covariance]

    @property
    def notes(self) -> list[str]:
        """What the fit has to say: whether the covariance floor holds, and where."""
        if not self.floored:
            return []
        of = 1 if self.kind_of_covariance.shared else self.components
        share = f"regularization={self.regularization:g} of the columns' variances"
        return [f"covariance floor: {share} holds in {int(self.floored)} of {of} covariances"]

    @property
    def mixture(self) -> Mixture:
        """Weights, means and factor in model units."""
        return Mixture(self.weights, self.means, self.factor)

    @property
    def joint(self) -> Mixture:
        """The covariances as lower triangles (K, D, D)."""
        return Mixture(self.weights, self.means, self.kind_of_covariance.dense(self.factor, *self.means.shape))

    @property
    def free_parameters(self) -> int:
        """K − 1 weights, K·D means and the covariances' free entries."""
        k, d = self.means.shape
        return k - 1 + k * d + free_entries(self.factor, self.kind_of_covariance)

    def em(self, x: Tensor, *, seed: int = 0, start: bool = True, sample_weight: Any = None) -> Iterator[float]:
        """Run EM in place, one iteration a step; ends when the gain is below `tol` or after `max_iter` iterations.

        Each step gives the mean log-likelihood in nats (user's units) of the parameters before its M-step; it never falls.

        Arguments:
            x: (n, *shape), NaN where a cell is missing.
            seed: for the start and the dequantisation noise.
            start: begin from k-means++; False goes on from the present parameters.
            sample_weight: (n,), how often each row counts: a whole number stands for so many equal rows, 0 for none.

        Raises:
            InputError: fewer rows than components, a column with no observed cell, or weights that are none.
        """
        x, weight = self.counted(x, sample_weight)
        if start and self.free_parameters > len(x):
            told = f"{self.free_parameters:,} free parameters for {len(x):,} rows, which says little of new rows"
            warnings.warn(f"gmm: {told}: try fewer components or covariance diag", UserWarning, stacklevel=3)
        v, centre, scale, log_det = self._standardise(x, weight, seed)
        kind = self.kind_of_covariance
        rows, holes = len(v) if weight is None else weight.sum().item(), bool(v.isnan().any())
        if start:
            labels = k_means(v.nan_to_num(0), self.components, seed=seed, starts=self.starts)
            self._set(_in_units(_first(v, labels, weight, self.components, kind, self.regularization), kind, centre, scale))
            self.progress.zero_()
            self.floored.zero_()
        mine = processes.share(len(v))
        v, weight = v[mine], None if weight is None else weight[mine]
        groups = group_rows(~v.isnan(), self.components) if holes else None

        def step() -> tuple[float, float]:
            p = Mixture(self.weights, (self.means - centre) / scale, kind.scaled(self.factor, 1 / scale))
            found = moments(v, p, kind, self.regularization, groups, weight)
            better, floored = maximise(found, p, kind, self.regularization)
            self._set(_in_units(better, kind, centre, scale))
            value = found.log_likelihood.item() / rows + log_det
            self._report_floor(floored)
            return value, value

        yield from iterate(step, self.progress, self.tol, self.max_iter)

    def log_density(self, u: Tensor, y: Tensor | None = None) -> Tensor:
        """log Σ_k w_k N(u | m_k, Σ_k) over the observed cells."""
        return self._log_joint(u.reshape(len(u), -1).to(self.dtype)).logsumexp(1)

    def draw_density(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """A component, then a draw from it."""
        cdf = self.weights.cumsum(0)
        u = noise.uniform().to(cdf) * cdf[-1]
        k = torch.searchsorted(cdf, u, right=True).clamp(max=self.components - 1)
        eps = noise.normal(self.space.dimensions).to(cdf)
        return (self.means[k] + self.kind_of_covariance.colour(self.factor, k, eps)).reshape(-1, *self.space.shape)

    def responsibilities(self, x: Any) -> Tensor:
        """p(component | observed cells of x), (B, K)."""
        return self._log_joint(self.model_units(x)).softmax(1)

    def _log_joint(self, u: Tensor) -> Tensor:
        if u.isnan().any():
            return log_joint_observed(u, *self.joint)
        return torch.cat([joint.T for _, joint in log_joint(u, self.mixture, self.kind_of_covariance)])

    def _set(self, p: Mixture) -> None:
        for mine, given in zip(self.mixture, p):
            mine.copy_(given)

    def _standardise(self, x: Tensor, weight: Tensor | None, seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
        """The rows centred and scaled by column, the centre and scale, and the mean log-Jacobian back to the user's units."""
        require(len(x) >= self.components, "components", f"at most {len(x)}, the number of rows", self.components)
        u, log_det = self.training_rows(x, seed, weight)
        centre, scale = column_scale(u, weight)
        scale = scale.square().mean().sqrt().expand_as(scale) if self.covariance == "spherical" else scale
        share = torch.full_like(u[:, 0], 1 / len(u)) if weight is None else weight / weight.sum()
        log_scale = (share @ (~u.isnan()).to(u) @ scale.log()).item()
        return (u - centre) / scale, centre, scale, log_det - log_scale

    def _report_floor(self, floored: int) -> None:
        first = not self.floored
        self.floored.fill_(floored)
        if first and floored:
            warnings.warn(f"gmm: {self.notes[0]}", UserWarning, stacklevel=5)


def column_scale(u: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column's observed cells; a constant column takes the others' typical scale."""
    centre, variance = column_moments(u, weight)
    deviation = variance.sqrt()
    constant = deviation <= 4 * torch.finfo(u.dtype).eps * centre.abs()
    typical = deviation[~constant].square().mean().sqrt() if not constant.all() else torch.ones_like(centre[0])
    return centre, torch.where(constant, typical, deviation)


def _in_units(p: Mixture, kind: Covariance, centre: Tensor, scale: Tensor) -> Mixture:
    return Mixture(p.weights, centre + scale * p.means, kind.scaled(p.factor, scale))


def _first(v: Tensor, labels: Tensor, weight: Tensor | None, k: int, kind: Covariance, floor: float) -> Mixture:
    """The mixture of k-means clusters, each covariance shrunk towards the pooled one by as many rows as there are cells."""
    v, d = v.nan_to_num(0), v.shape[1]  # 0 is the column's mean
    w = torch.ones_like(v[:, 0]) if weight is None else weight
    n = torch.bincount(labels, w, minlength=k)
    means = torch.zeros(k, d, dtype=v.dtype, device=v.device).index_add_(0, labels, v * w[:, None])
    means = means / torch.where(n > 0, n, 1)[:, None]
    pooled = (v - means[labels]) * w.sqrt()[:, None]
    scatter = torch.stack([kind.second(torch.ones_like(c[None, :, 0]), c[None]) for c in split(pooled, labels, k)])
    scatter = scatter.sum(0) if kind.shared else scatter[:, 0]
    if not kind.shared:
        scatter = scatter + d / w.sum() * scatter.sum(0)
    factor, _ = kind.estimate(scatter, n if kind.shared else n + d, d, floor)
    return Mixture((n + 1) / (n + 1).sum(), means, factor)


def split(rows: Tensor, labels: Tensor, k: int) -> list[Tensor]:
    """The rows of each label."""
    return [rows[labels == i] for i in range(k)]


def select_components(
    space: Space,
    x: Tensor,
    candidates: Sequence[int],
    *,
    criterion: Literal["bic", "aic"] = "bic",
    seed: int = 0,
    **options: Any,
) -> tuple[GMM, dict[int, float]]:
    """Fit a mixture for each candidate K and return the best by the criterion, with every K's score (less is better).

    Arguments:
        x: (n, *shape) in the user's units.
        candidates: values of K.
        options: other arguments of `GMM`.
    """
    require(len(candidates) > 0, "candidates", "at least one number of components", "none")
    require(criterion in ("bic", "aic"), "criterion", "bic or aic", criterion)
    x, models, scores = space.check(x, missing=True), {}, {}
    for k in candidates:
        models[k] = GMM(space, k, **options)
        for _ in models[k].em(x, seed=seed):
            pass
        scores[k] = getattr(models[k], criterion)(x)
    return models[min(scores, key=scores.__getitem__)], scores
