"""What every mixture of joint Gaussians can do: score and fill rows with missing cells, and count its parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from likeli.errors import require
from likeli.gaussian.covariance import Mixture
from likeli.gaussian.missing import ConditionalMoments, conditional, draw_conditional, units
from likeli.models.density import DensityModel
from likeli.random import Ambient, seeded


class LinearGaussian(DensityModel):
    """p(u) = Σ_k w_k N(u | m_k, Σ_k): marginals and conditionals of any cells are exact."""

    takes_missing: ClassVar[bool] = True
    score_block: ClassVar[int | None] = None

    @property
    @abstractmethod
    def joint(self) -> Mixture:
        """Weights (K,), means (K, D) and lower triangles (K, D, D) with Σ = L Lᵀ, in model units."""

    @property
    @abstractmethod
    def free_parameters(self) -> int:
        """Numbers that the fit is free to choose."""

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) in nats, by blocks of rows that stay in cache; rows with missing cells are grouped by pattern instead."""
        holes = x.is_floating_point() and bool(x.sum().isnan())
        blocks = (x,) if holes else x.split(block_rows(self.space.dimensions))
        return torch.cat([super(LinearGaussian, self).loss(block, y) for block in blocks])

    def conditional(self, x: Any) -> ConditionalMoments:
        """Exact moments of the missing cells given the observed ones, in the user's units.

        Arguments:
            x: (B, *shape), NaN where a cell is missing.

        Raises:
            Unsupported: the cells are not all real.
        """
        scale = units(self.space).to(self.device)
        given = conditional(self.model_units(x), *self.joint)
        covariance = given.covariance * scale * scale[:, None]
        return ConditionalMoments(given.weights, self._back(given.means), self._back(given.mean), covariance)

    def sample_conditional(self, x: Any, n: int = 1, *, seed: int = 0) -> Tensor:
        """n exact draws of the missing cells given the observed ones, (n, B, *shape); observed cells come back as given.

        Draw i is a function of (seed, i) alone.
        """
        require(isinstance(n, int) and n >= 1, "n", "a whole number of at least 1", n)
        x = self.space.check(x, missing=True).to(self.device)
        draws = draw_conditional(self.model_units(x), *self.joint, n, seed)
        filled = torch.stack([self.space.from_model(u.reshape(x.shape)) for u in draws])
        return torch.where(x.isnan(), filled, x.to(filled.dtype))

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (K,), means (K, *shape) and covariances (K, D, D) of the components, in the user's units.

        Raises:
            Unsupported: the cells are not all real.
        """
        weights, means, tril = self.joint
        scaled = units(self.space).to(self.device)[:, None] * tril
        return weights, self._back(means).reshape(-1, *self.space.shape), scaled @ scaled.mT

    def bic(self, x: Any) -> float:
        """−2 log L + p log n over the rows of x, in nats of the user's units; less is better."""
        log_p = self.log_likelihood(x).value
        return (-2 * log_p.sum() + self.free_parameters * math.log(len(log_p))).item()

    def aic(self, x: Any) -> float:
        """−2 log L + 2p."""
        return (-2 * self.log_likelihood(x).value.sum() + 2 * self.free_parameters).item()

    def model_units(self, x: Any) -> Tensor:
        """Checked rows (B, D) in model units, NaN where missing; integers stand at the middle of their bin."""
        x = self.space.check(x, missing=True).to(self.device)
        return self.space.continuous(x, Middle(x), self.dtype)[0].reshape(len(x), -1)

    def training_rows(self, x: Tensor, seed: int) -> tuple[Tensor, float]:
        """Rows (n, D) in model units, dequantised once, and the mean log-Jacobian.

        Raises:
            InputError: a column has no observed cell.
        """
        with seeded(seed, "dequantise"):
            u, log_det = self.space.continuous(x.to(self.device), Ambient(x), self.dtype)
        u = u.reshape(len(u), -1)
        empty = torch.nonzero(u.isnan().all(0)).flatten().tolist()
        names = [self.space.names[i] if self.space.names else str(i) for i in empty]
        require(not empty, "x", "an observed value in every column", f"none in column {', '.join(names)}")
        return u, log_det.mean().item()

    def _back(self, u: Tensor) -> Tensor:
        return self.space.from_model(u.reshape(-1, *self.space.shape)).reshape(u.shape)


def block_rows(cells: int) -> int:
    """Rows of a block that about fits a core's cache, and is large enough for matrix products."""
    return max(1024, 2**18 // cells)


class Middle:
    """The noise that puts an integer at the middle of its bin."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.rows = like, len(like)

    def uniform(self, *shape: int) -> Tensor:
        """½ everywhere."""
        return torch.full((self.rows, *shape), 0.5, dtype=torch.float64, device=self.like.device)

    normal = uniform


def frozen(value: Tensor) -> nn.Parameter:
    """A parameter that is counted, saved and moved, and that no gradient reaches."""
    return nn.Parameter(value, requires_grad=False)
