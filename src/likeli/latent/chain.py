"""One chain for every model with latent levels: VAE (one level), ladder HVAE, VDM, discrete diffusion, PPCA.

With q factorised from the top, q(z_T|x) ∏ q(z_t|z_{>t}, x),

    log p(x) ≥ E_q[log p(x|z_1)] − Σ_t E_q KL(q(z_t|z_{>t}, x) ‖ p(z_t|z_{>t}))

and the loop that computes the bound, with p in place of q, is the sampler.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution

from likeli.contract import Elbo, GenerativeModel, Knows, LogLikelihood
from likeli.errors import require
from likeli.probability.draw import diagonal_gaussian, draw
from likeli.probability.importance import log_mean_exp
from likeli.probability.information import kl
from likeli.random import Ambient, Noise

Factor = tuple[str, tuple[str, ...]]  # a variable, and what its factor is conditioned on
SPELLED = 4  # factors, or names in one, that are written out


class LatentVariableModel(GenerativeModel):
    """p(x) = ∫ p(x, z) dz with an approximate posterior q(z|x): whatever the factorisation of q, a bound and weights."""

    knows: ClassVar[Knows] = Knows.LOWER_BOUND
    strategy: ClassVar[str] = "sgd"

    @abstractmethod
    def infer(self, x: Tensor, y: Tensor | None = None) -> Any:
        """What q(·|x) needs: x (B, *shape) in the user's units → any context."""

    @abstractmethod
    def elbo(self, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None) -> Elbo:
        """The evidence lower bound at one draw of z.

        Arguments:
            x: (B, *shape) in the user's units.
            y: (B, *condition.shape), for a conditional model.
            context: takes the place of `infer(x, y)`: per-datapoint variational parameters, for one.
            noise: where z is drawn from; torch's ambient generator if not given.
        """

    @abstractmethod
    def log_weight(self, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None) -> Tensor:
        """log p(x, z) − log q(z|x) at one draw z ~ q, (B,): the log-ratio form of the bound, and an importance weight."""

    def factors(self) -> tuple[list[Factor], list[Factor]]:
        """The factors of p(x, z) and those of q(z|x) that the bound multiplies, each in the order of drawing."""
        y = () if self.condition is None else ("y",)
        return [("z", ()), ("x", ("z", *y))], [("z", ("x", *y))]

    def factorisation(self) -> str:
        """`p(x, z) = p(z) p(x|z); q(z|x) = q(z|x)`, from `factors`."""
        p, q = self.factors()
        y, given = ("", "") if self.condition is None else ("|y", ", y")
        return f"p(x, z{y}) = {_product('p', p)}; q(z|x{given}) = {_product('q', q)}"

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−ELBO at one draw, in nats."""
        return -self.elbo(x, y).value

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None, *, samples: int = 16) -> LogLikelihood:
        """The importance-weighted bound L_K = E log (1/K) Σ_k p(x, z_k)/q(z_k|x) ≤ log p(x); L_1 is the ELBO.

        Arguments:
            samples: K, at least 1; the bound rises to log p(x) with K.  x is encoded once; memory does not grow with K.

        Raises:
            InputError: samples < 1.

        Source: Burda et al. (2015), arXiv:1509.00519.
        """
        require(isinstance(samples, int) and samples >= 1, "samples", "a whole number of at least 1", samples)
        context = self.infer(x, y)
        value, stderr = log_mean_exp(self.log_weight(x, y, context=context) for _ in range(samples))
        return LogLikelihood(value, Knows.LOWER_BOUND, self.space.measure, stderr, dimensions=self.space.dimensions)


class Hierarchy(LatentVariableModel):
    """p(x, z) = p(z_T) ∏ p(z_t|z_{>t}) p(x|z), with an approximate posterior drawn from the top level down.

    Levels are counted from 1, next to the data, to `depth`.
    """

    markov: bool = False  # whether each level, and x, sees only the one above it
    reads_y: ClassVar[frozenset[str]] = frozenset({"top", "prior", "posterior", "observation"})  # the factors that do

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of latent levels."""

    @abstractmethod
    def root(self, noise: Noise) -> Any:
        """The state above the top level, for `noise.rows` rows."""

    @abstractmethod
    def prior(self, level: int, state: Any, y: Tensor | None = None) -> Distribution:
        """p(z_level | z_{>level}), where `state` holds what the levels above left."""

    @abstractmethod
    def posterior(self, level: int, state: Any, context: Any, prior: Distribution) -> Distribution:
        """q(z_level | z_{>level}, x); `prior` is p at the same level, which a ladder combines with its own evidence."""

    @abstractmethod
    def descend(self, level: int, state: Any, z: Tensor) -> Any:
        """The state below `level`, given its draw."""

    @abstractmethod
    def observation(self, state: Any, y: Tensor | None = None) -> Distribution:
        """p(x | z): event shape `space.shape`, log_prob in nats of the user's units."""

    def factors(self) -> tuple[list[Factor], list[Factor]]:
        """p(z_T) … p(x|z) and q(z_T|x) …: a level sees all above it, or in a Markov chain the next."""
        names = ["z"] if self.depth == 1 else [f"z_{level}" for level in range(1, self.depth + 1)]
        p, q = list[Factor](), list[Factor]()
        for level in range(self.depth, 0, -1):
            above = tuple(names[level : level + 1 if self.markov else None])
            p.append((names[level - 1], above + self._y("prior" if above else "top")))
            q.append((names[level - 1], (*above, "x", *self._y("posterior"))))
        return [*p, ("x", (*names[: 1 if self.markov else None], *self._y("observation")))], q

    def _y(self, factor: str) -> tuple[str, ...]:
        return ("y",) if self.condition is not None and factor in self.reads_y else ()

    def elbo(self, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None) -> Elbo:
        """E_q log p(x|z_1) − Σ_t KL_t at one draw of z; KL in closed form where there is one."""
        context = self.infer(x, y) if context is None else context
        noise = noise or Ambient(x)
        state, ledger = self.root(noise), []
        for level in range(self.depth, 0, -1):
            p = self.prior(level, state, y)
            q = self.posterior(level, state, context, p)
            z = draw(q, noise)
            ledger.append(kl(q, p, z))
            state = self.descend(level, state, z)
        return Elbo(self.observation(state, y).log_prob(x), torch.stack(ledger[::-1], 1))

    def log_weight(self, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None) -> Tensor:
        """Σ_t log p(z_t|z_{>t}) − log q(z_t|z_{>t}, x) + log p(x|z_1) at one draw, (B,)."""
        context = self.infer(x, y) if context is None else context
        noise = noise or Ambient(x)
        state, ratio = self.root(noise), torch.zeros((), device=x.device)
        for level in range(self.depth, 0, -1):
            p = self.prior(level, state, y)
            q = self.posterior(level, state, context, p)
            z = draw(q, noise)
            ratio = ratio + p.log_prob(z) - q.log_prob(z)
            state = self.descend(level, state, z)
        return self.observation(state, y).log_prob(x) + ratio

    def codes(self, x: Tensor, y: Tensor | None = None) -> dict[int, Tensor]:
        """The posterior's mean at each level given the means above it: a deterministic code, level → (B, *latent)."""
        context, rows = self.infer(x, y), Ambient(x)
        state, codes = self.root(rows), {}
        for level in range(self.depth, 0, -1):
            codes[level] = self.posterior(level, state, context, self.prior(level, state, y)).mean
            state = self.descend(level, state, codes[level])
        return codes

    def generate(self, noise: Noise, y: Tensor | None = None, *, fixed: Mapping[int, Tensor] | None = None) -> Distribution:
        """p(x | z) at z drawn from the prior: the chain of `elbo` with p in place of q.

        Arguments:
            fixed: level → (1 or rows, *latent), kept instead of drawn.

        Raises:
            InputError: a code of another shape, or one that is not finite.
        """
        state, kept = self.root(noise), fixed or {}
        for level in range(self.depth, 0, -1):
            p = self.prior(level, state, y)
            z = given_code(kept[level], level, noise.rows, p) if level in kept else draw(p, noise)
            state = self.descend(level, state, z)
        return self.observation(state, y)

    def draw(
        self, noise: Noise, y: Tensor | None = None, *, mean: bool = False, fixed: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """x ~ p(x|z), z ~ p(z).

        Arguments:
            mean: return E[x|z] in place of a draw; smoother, but not a sample of the model.
            fixed: level → (1, *latent), one code for all samples at these levels (see `codes`); the other levels are drawn.
        """
        check_fixed({} if fixed is None else fixed, self.depth)
        p = self.generate(noise, y, fixed=fixed)
        return p.mean if mean else draw(p, noise)


def check_fixed(fixed: Mapping[int, Tensor], depth: int) -> None:
    """Codes by level, counted from 1 to `depth`.

    Raises:
        InputError: anything else.
    """
    codes = isinstance(fixed, Mapping) and all(isinstance(z, Tensor) for z in fixed.values())
    require(codes, "fixed", "codes by level", type(fixed).__name__)
    unknown = [level for level in fixed if level not in range(1, depth + 1)]
    require(not unknown, "fixed", f"levels from 1 to {depth}", unknown)


def given_code(z: Tensor, level: int, rows: int, p: Distribution) -> Tensor:
    """A code (1 or rows, *latent) for all rows of one level whose prior is p.

    Raises:
        InputError: another shape, or numbers that are not finite.
    """
    shape = tuple(p.event_shape)
    fits = z.ndim in (len(shape), len(shape) + 1) and tuple(z.shape[z.ndim - len(shape) :]) == shape
    fits = fits and (z.ndim == len(shape) or len(z) in (1, rows))
    require(fits, "fixed", f"a code of shape {(1, *shape)} at level {level}", tuple(z.shape))
    require(bool(z.isfinite().all()), "fixed", f"numbers that are finite at level {level}", "others")
    return z.to(p.mean).expand(rows, *shape)


def _product(name: str, factors: list[Factor]) -> str:
    shown = [f"{name}({of}{'|' if given else ''}{_list(given)})" for of, given in _ends(factors)]
    return " ".join([shown[0], "…", *shown[1:]] if len(factors) > SPELLED else shown)


def _list(names: tuple[str, ...]) -> str:
    z = [n for n in names if n.startswith("z")]
    rest = [n for n in names if not n.startswith("z")]
    return ", ".join([*([z[0], "…", z[-1]] if len(z) > SPELLED else z), *rest])


def _ends(factors: list[Factor]) -> list[Factor]:
    return [factors[0], *factors[-2:]] if len(factors) > SPELLED else factors


def log_densities(
    model: Hierarchy, x: Tensor, y: Tensor | None, context: Any, latents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z|x), each (B,), at given latents.

    Arguments:
        model: any model with latent levels.
        x, y: as in `elbo`.
        context: what `infer(x, y)` gives, or anything that takes its place.
        latents: one tensor a level, the top level first.
    """
    state = model.root(Ambient(x))
    log_p, log_q = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
    for level, z in zip(range(model.depth, 0, -1), latents, strict=True):
        p = model.prior(level, state, y)
        log_q = log_q + model.posterior(level, state, context, p).log_prob(z)
        log_p = log_p + p.log_prob(z)
        state = model.descend(level, state, z)
    return log_p + model.observation(state, y).log_prob(x), log_q


def draw_latents(model: Hierarchy, x: Tensor, y: Tensor | None, context: Any, noise: Noise) -> list[Tensor]:
    """z ~ q(z|x), one tensor a level, the top level first; differentiable where q is reparameterised."""
    state, latents = model.root(noise), []
    for level in range(model.depth, 0, -1):
        z = draw(model.posterior(level, state, context, model.prior(level, state, y)), noise)
        latents.append(z)
        state = model.descend(level, state, z)
    return latents


def map_context(context: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """`context` with `f` applied to each tensor in it; a Gaussian is its mean and its logarithmic scales."""
    if isinstance(context, Tensor):
        return f(context)
    if isinstance(context, D.Independent) and isinstance(context.base_dist, D.Normal):
        return diagonal_gaussian(f(context.base_dist.loc), f(context.base_dist.scale.log()).exp())
    if isinstance(context, D.MultivariateNormal):
        lower = context._unbroadcasted_scale_tril
        factor = f(lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).log()))
        scale = factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).exp())
        return D.MultivariateNormal(f(context.loc), scale_tril=scale)
    if dataclasses.is_dataclass(context) and not isinstance(context, type):
        names = [k.name for k in dataclasses.fields(context)]
        return dataclasses.replace(context, **{name: map_context(getattr(context, name), f) for name in names})
    if isinstance(context, dict):
        return {k: map_context(v, f) for k, v in context.items()}
    if isinstance(context, tuple) and hasattr(context, "_fields"):
        return type(context)(*[map_context(v, f) for v in context])
    if isinstance(context, (list, tuple)):
        return type(context)(map_context(v, f) for v in context)
    return context


