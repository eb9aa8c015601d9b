"""One chain for every model with latent levels: VAE (one level), ladder HVAE, VDM, discrete diffusion.

With q factorised from the top, q(z_T|x) ∏ q(z_t|z_{>t}, x),

    log p(x) ≥ E_q[log p(x|z_1)] − Σ_t E_q KL(q(z_t|z_{>t}, x) ‖ p(z_t|z_{>t}))

`walk` is the loop over levels; with p in place of q it is the sampler.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution

from likeli.contract import Elbo, GenerativeModel, Knows, LogLikelihood
from likeli.errors import require, require_draws
from likeli.probability.draw import diagonal_gaussian, draw
from likeli.probability.importance import log_mean_exp
from likeli.probability.information import kl
from likeli.random import Ambient, Noise

Factor = tuple[str, tuple[str, ...]]  # a variable, and what its factor is conditioned on
Choose = Callable[[int, Distribution], Tensor]  # (level, law) → z
TABLE = 2**14  # rows that pass through the networks together
SPELLED = 4  # factors, or names in one, that are written out


class Step(NamedTuple):
    """One level of a walk.

    Arguments:
        level: counted from 1, next to the data, to the depth.
        p: p(z_level | levels above), of the walk's rows.
        q: q(z_level | …, x), which z was drawn from; None where z was drawn from p.
        z: (rows, *latent).
        state: what the factors below read; after level 1, what p(x|z) reads.
        nested: whether p was conditioned on nothing that was drawn after z, so that a closed form of KL(q ‖ p) means something.
    """

    level: int
    p: Distribution
    q: Distribution | None
    z: Tensor
    state: Any
    nested: bool = True

    @property
    def log_ratio(self) -> Tensor:
        """log q(z) − log p(z), (rows,)."""
        assert self.q is not None
        return self.q.log_prob(self.z) - self.p.log_prob(self.z)

    @property
    def kl(self) -> Tensor:
        """KL(q ‖ p), (rows,), in closed form where there is one; where not nested the log-ratio, which may be negative."""
        assert self.q is not None
        return kl(self.q, self.p, self.z) if self.nested else self.log_ratio


class Graph(NamedTuple):
    """What the factors of a bound are conditioned on.

    Arguments:
        markov: whether each level, and x, sees only its neighbour; else all levels above.
        bottom_up: whether q's levels see the one below, the first one x.
        reads_y: the factors that see y, of a conditional model.
    """

    markov: bool = False
    bottom_up: bool = False
    reads_y: frozenset[str] = frozenset({"top", "prior", "posterior", "observation"})


class LatentVariableModel(GenerativeModel):
    """p(x) = ∫ p(x, z) dz with an approximate posterior q(z|x), whatever its factorisation.

    Bound, weights, samples, codes and every estimate of log p consume `walk`, the only loop over levels.
    """

    knows: ClassVar[Knows] = Knows.LOWER_BOUND
    strategy: ClassVar[str] = "sgd"
    calls: ClassVar[str] = "1"
    graph: Graph = Graph()
    depth: int  # latent levels

    @abstractmethod
    def infer(self, x: Tensor, y: Tensor | None = None) -> Any:
        """What q(·|x) needs: x (B, *shape) in the user's units → any context."""

    @abstractmethod
    def walk(
        self, noise: Noise, y: Tensor | None = None, *, context: Any = None, choose: Choose | None = None
    ) -> Iterator[Step]:
        """The levels from the top down: z ~ q(z|x) with the context of x, z ~ p(z) without.

        Arguments:
            noise: where z is drawn from, for `noise.rows` rows.
            y: (rows, *condition.shape), for a conditional model.
            context: what `infer(x, y)` gives, or what takes its place.
            choose: (level, law) → z, in place of a draw from the law.
        """

    @abstractmethod
    def observation(self, state: Any, y: Tensor | None = None) -> Distribution:
        """p(x | z): event shape `space.shape`, log_prob in nats of the user's units."""

    @property
    def facts(self) -> dict[str, str]:
        """The factorisation of p and q."""
        return {"factors": factorisation(self)}

    def elbo(self, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None) -> Elbo:
        """The evidence lower bound at one draw of z.

        Arguments:
            x: (B, *shape) in the user's units.
            y: (B, *condition.shape), for a conditional model.
            context: takes the place of `infer(x, y)`: per-datapoint variational parameters, for one.
            noise: where z is drawn from; torch's ambient generator if not given.
        """
        kls, state, context = [], None, self.infer(x, y) if context is None else context
        for step in self.walk(noise or Ambient(x), y, context=context):
            kls.append(step.kl)
            state = step.state
        return Elbo(self.observation(state, y).log_prob(x), torch.stack(kls[::-1], 1))

    def codes(self, x: Tensor, y: Tensor | None = None) -> dict[int, Tensor]:
        """The posterior's mean at each level given the means before it: a deterministic code, level → (B, *latent)."""
        steps = self.walk(Ambient(x), y, context=self.infer(x, y), choose=lambda _, q: q.mean)
        return {step.level: step.z for step in steps}

    def draw(
        self, noise: Noise, y: Tensor | None = None, *, mean: bool = False, fixed: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """x ~ p(x|z), z ~ p(z).

        Arguments:
            mean: return E[x|z] in place of a draw; smoother, but not a sample of the model.
            fixed: level → (1 or rows, *latent), kept instead of drawn (see `codes`).

        Raises:
            InputError: a code of another shape, or one that is not finite.
        """
        kept = {} if fixed is None else fixed
        check_fixed(kept, self.depth)

        def choose(level: int, p: Distribution) -> Tensor:
            return given_code(kept[level], level, noise.rows, p) if level in kept else draw(p, noise)

        *_, last = self.walk(noise, y, choose=choose)
        p = self.observation(last.state, y)
        return p.mean if mean else draw(p, noise)

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
        require_draws("samples", samples)
        context = self.infer(x, y)
        value, stderr = log_mean_exp(log_weight(self, x, y, context=context) for _ in range(samples))
        return LogLikelihood(value, Knows.LOWER_BOUND, self.space.measure, stderr, dimensions=self.space.dimensions)


class Hierarchy(LatentVariableModel):
    """p(x, z) = p(z_T) ∏ p(z_t|z_{>t}) p(x|z), with an approximate posterior drawn from the top level down."""

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

    def walk(
        self, noise: Noise, y: Tensor | None = None, *, context: Any = None, choose: Choose | None = None
    ) -> Iterator[Step]:
        state = self.root(noise)
        for level in range(self.depth, 0, -1):
            p = self.prior(level, state, y)
            q = None if context is None else self.posterior(level, state, context, p)
            law = p if q is None else q
            z = draw(law, noise) if choose is None else choose(level, law)
            state = self.descend(level, state, z)
            yield Step(level, p, q, z, state)


def log_weight(
    model: LatentVariableModel, x: Tensor, y: Tensor | None = None, *, context: Any = None, noise: Noise | None = None
) -> Tensor:
    """log p(x, z) − log q(z|x) at one draw z ~ q, (B,): the log-ratio form of the bound, and an importance weight.

    Arguments:
        model: any model with latent levels.
        x, y, context, noise: as in `elbo`.
    """
    ratio, state, context = torch.zeros((), device=x.device), None, model.infer(x, y) if context is None else context
    for step in model.walk(noise or Ambient(x), y, context=context):
        ratio = ratio - step.log_ratio
        state = step.state
    return model.observation(state, y).log_prob(x) + ratio


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


def level_names(depth: int) -> list[str]:
    """`z`, or `z_1` … `z_T`."""
    return ["z"] if depth == 1 else [f"z_{level}" for level in range(1, depth + 1)]


def factors(model: LatentVariableModel) -> tuple[list[Factor], list[Factor]]:
    """The factors of p(x, z) and those of q(z|x) that the bound multiplies, each in the order of drawing, by `graph`."""
    markov, bottom_up, reads_y = model.graph

    def read(factor: str) -> tuple[str, ...]:
        return ("y",) if model.condition is not None and factor in reads_y else ()

    names, p, q = level_names(model.depth), list[Factor](), list[Factor]()
    for level in range(model.depth, 0, -1):
        above = tuple(names[level : level + 1 if markov else None])
        p.append((names[level - 1], above + read("prior" if above else "top")))
        given = (names[level - 2] if level > 1 else "x",) if bottom_up else (*above, "x")
        q.append((names[level - 1], given + read("posterior")))
    p.append(("x", (*names[: 1 if markov else None], *read("observation"))))
    return p, q[::-1] if bottom_up else q


def factorisation(model: LatentVariableModel) -> str:
    """`p(x, z) = p(z) p(x|z); q(z|x) = q(z|x)`, from `factors`; long ones are cut in the middle."""

    def names(given: tuple[str, ...]) -> str:
        z, rest = ([n for n in given if n.startswith("z") == wanted] for wanted in (True, False))
        return ", ".join([*([z[0], "…", z[-1]] if len(z) > SPELLED else z), *rest])

    def product(name: str, factors: list[Factor]) -> str:
        many = len(factors) > SPELLED
        ends = [factors[0], *factors[-2:]] if many else factors
        shown = [f"{name}({of}{'|' if given else ''}{names(given)})" for of, given in ends]
        return " ".join([shown[0], "…", *shown[1:]] if many else shown)

    p, q = factors(model)
    y, given = ("", "") if model.condition is None else ("|y", ", y")
    return f"p(x, z{y}) = {product('p', p)}; q(z|x{given}) = {product('q', q)}"


def log_densities(
    model: LatentVariableModel, x: Tensor, y: Tensor | None, context: Any, latents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z|x), each (B,), at given latents.

    Arguments:
        model: any model with latent levels.
        x, y: as in `elbo`.
        context: what `infer(x, y)` gives, or anything that takes its place.
        latents: one tensor a level, the top level first.
    """
    log_p, log_q, state = torch.zeros((), device=x.device), torch.zeros((), device=x.device), None
    for step in model.walk(Ambient(x), y, context=context, choose=given_latents(latents)):
        assert step.q is not None
        log_p, log_q, state = log_p + step.p.log_prob(step.z), log_q + step.q.log_prob(step.z), step.state
    return log_p + model.observation(state, y).log_prob(x), log_q


def log_posterior(model: LatentVariableModel, y: Tensor | None, context: Any, latents: Sequence[Tensor]) -> Tensor:
    """log q(z|x), (B,), at given latents, with the arguments of `log_densities`."""
    steps = model.walk(Ambient(latents[-1]), y, context=context, choose=given_latents(latents))
    return torch.stack([step.q.log_prob(step.z) for step in steps if step.q is not None]).sum(0)


def given_latents(latents: Sequence[Tensor]) -> Choose:
    """What `walk` takes to visit `latents`, one tensor a level, the top level first."""
    return lambda level, _: latents[len(latents) - level]


def draw_latents(model: LatentVariableModel, x: Tensor, y: Tensor | None, context: Any, noise: Noise) -> list[Tensor]:
    """z ~ q(z|x), one tensor a level, the top level first; differentiable where q is reparameterised."""
    return [step.z for step in model.walk(noise, y, context=context)]


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


def log_q_table(model: LatentVariableModel, n: int, context: Any, y: Tensor | None, z: Sequence[Tensor]) -> Tensor:
    """log q(z_i|x_j), (rows of z, n), a block of codes at a time, each under every example.

    The average over j of q(z|x_j) is the aggregate posterior q̄(z): where the codes of the data lie.

    Arguments:
        model: with continuous latent levels.
        n: examples.
        context: theirs.
        y: (n, *condition.shape), for a conditional model.
        z: codes, one tensor a level, level 1 first.
    """
    codes, parts = max(1, TABLE // n), []
    for block in zip(*(level.split(codes) for level in z)):
        k = len(block[0])
        tiled, given = map_context(context, partial(_tiled, k)), None if y is None else _tiled(k, y)
        rows = [level.repeat_interleave(n, 0) for level in block][::-1]
        steps = model.walk(Ambient(rows[0]), given, context=tiled, choose=given_latents(rows))
        log_q = sum((s.q.log_prob(s.z) for s in steps if s.q is not None), torch.zeros((), device=rows[0].device))
        parts.append(log_q.double().unflatten(0, (k, n)))
    return torch.cat(parts)


def _tiled(k: int, rows: Tensor) -> Tensor:
    return torch.cat([rows] * k)
