"""What every mixture of joint Gaussians can do: score and fill rows with missing cells, and count its parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as D

from likeli import processes
from likeli.errors import require
from likeli.gaussian.covariance import FullCovariance, Mixture
from likeli.gaussian.em import masked, over_processes
from likeli.gaussian.missing import ConditionalMoments, conditional, draw_conditional, group_rows, log_joint_observed, units
from likeli.models.density import DensityModel
from likeli.probability.draw import diagonal_gaussian
from likeli.random import Ambient, Noise, seeded
from likeli.spaces import Space
from likeli.spaces.arrays import row_weights


class LinearGaussian(DensityModel):
    """p(u) = Σ_k w_k N(u | m_k, Σ_k): marginals and conditionals of any cells are exact."""

    calls: ClassVar[str] = "0"
    takes_missing: bool = True
    takes_weights: ClassVar[bool] = True
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
        """n draws of the missing cells given the observed ones, (n, B, *shape); observed cells come back as given.

        Exact on reals.  An observed cell of mass stands for the middle of its interval, so that draws given whole numbers or
        categories are too certain; `likeli.impute` draws its place as well.  Draw i is a function of (seed, i) alone.
        """
        require(isinstance(n, int) and n >= 1, "n", "a whole number of at least 1", n)
        x = self.space.check(x, missing=True).to(self.device)
        draws = draw_conditional(self.model_units(x), *self.joint, n, seed)
        filled = torch.stack([self.space.from_model(u.reshape(x.shape)) for u in draws])
        return torch.where(x.isnan(), filled, x.to(filled.dtype))

    def fill(self, x: Tensor, y: Tensor | None, n: int, *, samples: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """n draws of missing cells; exact on reals.

        Elsewhere the observed cells of mass are intervals of u, not points: of `samples` places in them, drawn as in
        dequantisation, n are drawn again in proportion to p(u_o)·|∂x/∂u|, and the draws given these are exact.
        """
        log_w = None
        if self.space.measure == "density":
            places = self.model_units(x).expand(n, len(x), -1)
        else:
            copies = x.repeat(samples, *[1] * len(self.space.shape))
            u, log_det = self.space.continuous(copies, Ambient(copies), self.dtype)
            log_w = (self.log_density(u) + log_det).double().reshape(samples, len(x))
            chosen = torch.multinomial(log_w.softmax(0).T, n, replacement=True).T  # (n, B)
            places = u.reshape(samples, len(x), -1)[chosen, torch.arange(len(x), device=x.device)]
        drawn = draw_conditional(places.flatten(0, 1), *self.joint, 1, seed)[0]
        filled = self.space.from_model(drawn.reshape(-1, *self.space.shape)).reshape(n, *x.shape)
        return torch.where(x.isnan(), filled, x.to(filled.dtype)), log_w

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

    def training_rows(self, x: Tensor, seed: int, weight: Tensor | None = None) -> tuple[Tensor, float]:
        """Rows (n, D) in model units, dequantised once, and the mean log-Jacobian.

        Arguments:
            weight: (n,) above 0, how often each row counts; once if not given.

        Raises:
            InputError: a column has no observed cell.
        """
        with seeded(seed, "dequantise"):
            u, log_det = self.space.continuous(x.to(self.device), Ambient(x), self.dtype)
        u = u.reshape(len(u), -1)
        empty = torch.nonzero(u.isnan().all(0)).flatten().tolist()
        names = [self.space.names[i] if self.space.names else str(i) for i in empty]
        require(not empty, "x", "an observed value in every column", f"none in column {', '.join(names)}")
        return u, (log_det.mean() if weight is None else weight @ log_det.to(weight) / weight.sum()).item()

    def counted(self, x: Tensor, sample_weight: Any) -> tuple[Tensor, Tensor | None]:
        """The rows that count at all, and how often each does; None where each counts once."""
        if sample_weight is None:
            return x, None
        weight = row_weights(sample_weight, len(x)).to(self.device)
        return x[(weight > 0).to(x.device)], weight[weight > 0]

    def _back(self, u: Tensor) -> Tensor:
        return self.space.from_model(u.reshape(-1, *self.space.shape)).reshape(u.shape)


LATENT = 16


class LatentGaussian(LinearGaussian):
    """A Gaussian with a Gaussian code: what PPCA and factor analysis share, whatever the noise ψ of each cell.

        z ~ N(0, I_L),  u | z ~ N(W z + b, diag ψ)   ⇒   u ~ N(b, C),  C = W Wᵀ + diag ψ
        z | u ~ N(M⁻¹ Wᵀ (u − b)/ψ, M⁻¹),  M = Wᵀ diag(1/ψ) W + I

    Arguments:
        latent_dim: L, less than the number of cells; min(16, cells − 1) if not given.
    """

    def __init__(self, space: Space, latent_dim: int | None = None) -> None:
        super().__init__(space)
        d = space.dimensions
        size = min(LATENT, d - 1) if latent_dim is None else latent_dim
        require(0 <= size < d, "latent_dim", f"a whole number below {d}, the number of cells", latent_dim)
        self.latent_dim = latent_dim
        self.W = frozen(torch.zeros(d, size, dtype=torch.float64))
        self.b = frozen(torch.zeros(d, dtype=torch.float64))

    @property
    @abstractmethod
    def noise(self) -> Tensor:
        """ψ, the variance of each cell given z, (D,), in model units."""

    @property
    def joint(self) -> Mixture:
        """One Gaussian, weight 1."""
        tril = torch.linalg.cholesky(self.W @ self.W.T + self.noise.diag_embed())
        return Mixture(torch.ones_like(self.b[:1]), self.b[None], tril[None])

    def log_density(self, u: Tensor, y: Tensor | None = None) -> Tensor:
        """log N(u | b, C) over the observed cells; inside span(W) and outside it apart, so that small ψ costs no digits."""
        u = u.reshape(len(u), -1).to(self.dtype)
        if u.isnan().any():
            return log_joint_observed(u, *self.joint)[:, 0]
        basis, values = self.spectrum()
        diff = (u - self.b) / self.noise.sqrt()
        code = diff @ basis
        outside = (diff - code @ basis.T).square().sum(1)
        return -0.5 * (outside + (code.square() / values).sum(1) + self._log_volume(values))

    def draw_density(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """W z + b + √ψ ε."""
        d, size = self.W.shape
        z, eps = noise.normal(size).to(self.W), noise.normal(d).to(self.W)
        return (z @ self.W.T + self.b + self.noise.sqrt() * eps).reshape(-1, *self.space.shape)

    def posterior(self, x: Tensor) -> D.MultivariateNormal:
        """p(z | observed cells of x), batch (B,)."""
        diff = self.model_units(x) - self.b
        observed = (~diff.isnan()).to(self.dtype) / self.noise
        products = (self.W[:, :, None] * self.W[:, None]).flatten(1)
        size = self.W.shape[1]
        precision = (observed @ products).view(-1, size, size) + torch.eye(size).to(self.W)
        tril = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve(((diff / self.noise).nan_to_num(0) @ self.W)[..., None], tril)[..., 0]
        return D.MultivariateNormal(mean, covariance_matrix=torch.cholesky_inverse(tril))

    def observation(self, z: Tensor) -> D.Independent:
        """p(x | z), one normal a cell, in the user's units.

        Raises:
            Unsupported: the cells are not all real.
        """
        std = self.noise.sqrt() * units(self.space).to(self.device)
        return diagonal_gaussian(self.decode(z), std.reshape(self.space.shape).expand(len(z), *self.space.shape))

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """E[z | x], (B, L)."""
        return self.posterior(x).mean

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """W z + b in the user's units, (B, *shape)."""
        return self.space.from_model((z @ self.W.T + self.b).reshape(-1, *self.space.shape))

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Where cells are whitened by their noise: an orthonormal basis of span(W) (D, L) and the variances of C in it (L,)."""
        basis, s, _ = torch.linalg.svd(self.W / self.noise.sqrt()[:, None], full_matrices=False)
        return basis, s.square() + 1

    def expected_log_density(self, times: Callable[[Tensor], Tensor], variances: Tensor) -> float:
        """E log N(u | b, C) = −½ (log|2πC| + tr C⁻¹S) over rows with second moment S = E (u − b)(u − b)ᵀ.

        Arguments:
            times: v (D, m) → S v.
            variances: the diagonal of S.
        """
        basis, values = self.spectrum()
        whitening = basis / self.noise.sqrt()[:, None]
        along = (whitening * times(whitening)).sum(0)
        trace = (variances / self.noise).sum() - along.sum() + (along / values).sum()
        return -0.5 * (trace + self._log_volume(values)).item()

    def filling(self, u: Tensor, weight: Tensor | None) -> Callable[[], tuple[Tensor, Tensor, float]]:
        """An E-step over missing cells → mean and covariance of the rows as filled in, and the mean log-likelihood.

        Arguments:
            u: (n, D), NaN where missing.
            weight: (n,), how often each row counts; once if not given.
        """
        n, mine = len(u) if weight is None else weight.sum(), processes.share(len(u))
        u, weight = u[mine], None if weight is None else weight[mine]
        groups, kind = group_rows(~u.isnan(), 1), FullCovariance()

        def expected() -> tuple[Tensor, Tensor, float]:
            found = over_processes(masked(u, self.joint, kind, groups, weight))
            delta = found.first[0] / n
            scatter = found.second[0] / n - delta[:, None] * delta
            return self.b + delta, (scatter + scatter.T) / 2, (found.log_likelihood / n).item()

        return expected

    def _log_volume(self, values: Tensor) -> Tensor:
        """log |2πC| from the variances of the whitened cells."""
        return values.log().sum() + self.noise.log().sum() + len(self.b) * math.log(2 * math.pi)


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
