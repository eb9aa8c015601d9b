"""A continuous density p(u) on any space that has a continuous form: exact on reals, a lower bound on the mass of integers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.errors import Unsupported
from likeli.probability.importance import log_mean_exp
from likeli.random import Ambient, Noise
from likeli.spaces import Space


@runtime_checkable
class BySize(Protocol):
    """A family some of whose options follow, where they are not given, from how many rows it will be fitted to."""

    @classmethod
    def suited(cls, space: Space, rows: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those options, in the constructor's names; `given` are the settled ones."""
        ...


class DensityModel(GenerativeModel):
    """log p(x) = log p_u(u(x)) + log|∂u/∂x|; on integers log P(x) ≥ E_n log p_u(u(x + n)) + log|∂u/∂x|, n ~ U[0,1)."""

    knows = Knows.EXACT
    kinds = ("real", "binary", "pixels", "counts", "table")

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        if space.obstacle:
            raise Unsupported(f"{space.obstacle}, which {self.kind()} needs; vae takes them")

    @property
    def knows_here(self) -> Knows:
        """Exact on reals; on integers it bounds the mass of what it sees dequantised."""
        return Knows.EXACT if self.space.measure == "density" else Knows.LOWER_BOUND

    @abstractmethod
    def log_density(self, u: Tensor, y: Tensor | None = None) -> Tensor:
        """log p_u(u), (B, *shape) model units → (B,) nats."""

    @abstractmethod
    def draw_density(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """u ~ p_u, (noise.rows, *shape) in model units."""

    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """u ~ p_u mapped to the user's units."""
        return self.space.from_model(self.draw_density(noise, y))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) in nats, with one draw of the dequantisation noise where there is one."""
        u, log_det = self.space.continuous(x, Ambient(x), self.dtype)
        return -self.log_density(u, y) - log_det

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None, *, samples: int = 16) -> LogLikelihood:
        """Exact on reals; on integers the bound log (1/K) Σ_k p_u(u(x + n_k)), whose mean rises to log P(x) with K.

        Arguments:
            samples: K, draws of the dequantisation noise.
        """
        measure, dimensions = self.space.measure, self.space.dimensions
        if measure == "density":
            return LogLikelihood(-self.loss(x, y), Knows.EXACT, measure, dimensions=dimensions)
        value, stderr = log_mean_exp(-self.loss(x, y) for _ in range(samples))
        return LogLikelihood(value, Knows.LOWER_BOUND, measure, stderr, dimensions=dimensions)
