"""The factors that a model prints are those that its bound uses: what each distribution was computed from is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.utils._pytree import tree_leaves

from likeli.latent.chain import LatentVariableModel, level_names
from likeli.models.hvae import HVAE
from likeli.models.markov_hvae import MarkovHVAE
from likeli.models.vae import VAE
from likeli.models.vdm import VDM
from likeli.random import Ambient
from likeli.spaces.base import Labels, Real
from likeli.theory.check import identity

SHAPE_ONLY = {"zeros_like", "ones_like", "empty_like", "full_like", "randn_like", "new_zeros", "new_ones", "new_full"}


class Traced(Tensor):
    """A tensor that remembers the names of the variables that it was computed from."""

    sources: frozenset[str] = frozenset()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function's own result, marked with the sources of all that went in."""
        out = super().__torch_function__(func, types, args, kwargs or {})
        inputs = [] if func.__name__ in SHAPE_ONLY else tree_leaves((args, kwargs or {}))
        sources = frozenset[str]().union(*(t.sources for t in inputs if isinstance(t, Traced)))
        for t in tree_leaves(out):
            if isinstance(t, Traced):
                t.sources = t.sources | sources
        return out


@identity("R50", title="the factors of p and q that a model prints are those of its bound: wrong ones", tolerance=0)
def printed_factors_are_used() -> float:
    wrong = 0
    for condition in (None, Labels(2)):
        given: dict[str, Any] = {"condition": condition}
        models: list[LatentVariableModel] = [
            VAE(Real((3,)), 2, hidden=(8,), **given),
            VAE(Real((3,)), 2, hidden=(8,), prior_family="mixture", posterior_family="full", components=3, **given),
            *(HVAE(Real((3,)), (2, 2, 2), width=8, inference=i, markov=m, **given)
              for i in ("residual", "ladder", "direct") for m in (False, True)),
            MarkovHVAE(Real((3,)), (2, 2, 2), hidden=(8,), **given),
            VDM(Real((3,)), steps=3, **given),
        ]
        wrong += sum(mistakes(model) for model in models)
    return float(wrong)


def mistakes(model: LatentVariableModel) -> int:
    """How many of the model's factors are conditioned on other variables than it says."""
    x = torch.zeros(1, *model.space.shape)
    y = None if model.condition is None else _mark(torch.zeros(1, dtype=torch.int64), "y")
    with torch.no_grad():
        found = dict(_traced(model, x, y))
    said = {(side, of): frozenset(given) for side, factors in zip("pq", model.factors()) for of, given in factors}
    return sum(found[key] != said.get(key) for key in found) + len(said.keys() - found.keys())


def _mark(value: Tensor, name: str) -> Tensor:
    traced = value.as_subclass(Traced)
    traced.sources = frozenset({name})
    return traced


def _sources(p: D.Distribution, value: Tensor) -> frozenset[str]:
    log_p = p.log_prob(value)
    return log_p.sources if isinstance(log_p, Traced) else frozenset()


def _traced(model: LatentVariableModel, x: Tensor, y: Tensor | None) -> Iterator[tuple[tuple[str, str], frozenset[str]]]:
    """(p or q, variable) → what it was computed from, of every factor of the bound."""
    names, state = level_names(model.depth), None

    def choose(level: int, law: D.Distribution) -> Tensor:
        return _mark(torch.zeros(1, *law.event_shape), names[level - 1])

    for step in model.walk(Ambient(x), y, context=model.infer(_mark(x.clone(), "x"), y), choose=choose):
        z, name, state = step.z.as_subclass(Tensor), names[step.level - 1], step.state
        assert step.q is not None
        yield ("p", name), _sources(step.p, z)
        yield ("q", name), _sources(step.q, z)
    yield ("p", "x"), _sources(model.observation(state, y), x)
