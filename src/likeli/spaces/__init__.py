"""p(x|z) for every space: what a decoder's numbers mean, in nats of the user's own units."""

from __future__ import annotations

from likeli.errors import Unsupported
from likeli.spaces.base import Counts, Pixels, Real, Space, Tokens
from likeli.spaces.columns import Mixed
from likeli.spaces.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from likeli.spaces.head import Cells, Observation
from likeli.spaces.pixels import Bernoulli, Categorical, DiscretisedLogistic
from likeli.spaces.real import Gaussian, StudentT
from likeli.spaces.table import Table

__all__ = [
    "Bernoulli",
    "Categorical",
    "Cells",
    "DiscretisedLogistic",
    "Gaussian",
    "Mixed",
    "NegativeBinomial",
    "Observation",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "default_observation",
    "observe",
]

FEW_LEVELS = 8  # up to here one free number a level is cheaper to learn than a shape


def observe(space: Space, head: Observation | None = None) -> Observation:
    """`head` made for `space`, or the space's default head.

    Raises:
        InputError: the head does not describe such a space.
    """
    return (head or _default(space)).on(space)


def default_observation(space: Space) -> Observation:
    """The head that a space gets when none is asked for.

    Raises:
        Unsupported: no head describes such a space.
    """
    return observe(space)


def _default(space: Space) -> Observation:
    if isinstance(space, Pixels):
        if space.levels == 2:
            return Bernoulli()
        return Categorical() if space.levels <= FEW_LEVELS else DiscretisedLogistic()
    for kind, head in ((Real, Gaussian), (Tokens, Categorical), (Counts, NegativeBinomial), (Table, Mixed)):
        if isinstance(space, kind):
            return head()
    raise Unsupported(f"no observation head describes {space.kind()}")
