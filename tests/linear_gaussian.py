"""A hierarchy whose log p(x), posterior and every bound are known in closed form: x = Wz + b + σε, z ~ N(0, I)."""

import torch
from torch import distributions as D
from torch import nn

from likeli.latent.chain import Hierarchy
from likeli.probability.draw import diagonal_gaussian
from likeli.random import seeded
from likeli.spaces import Real


class LinearGaussianChain(Hierarchy):
    """q(z|x) is N(m(x), diag s²) with any linear encoder, or the exact posterior with `full`."""

    def __init__(self, space, latents=2, noise=0.5, full=False):
        super().__init__(space)
        self.latents, self.noise, self.full = latents, noise, full
        d = space.dimensions
        with seeded(0, "linear"):
            self.w = nn.Parameter(torch.randn(d, latents, dtype=torch.float64))
            self.b = nn.Parameter(torch.randn(d, dtype=torch.float64))
            self.encoder = nn.Parameter(0.1 * torch.randn(latents, d, dtype=torch.float64))
            self.log_s = nn.Parameter(torch.full((latents,), -0.7, dtype=torch.float64))

    depth = 1

    def infer(self, x, y=None):
        if self.full:
            return self.true_posterior(x)
        m = (x - self.b) @ self.encoder.T
        return diagonal_gaussian(m, self.log_s.exp().expand_as(m))

    def root(self, noise):
        return torch.zeros(noise.rows, self.latents, dtype=torch.float64)

    def prior(self, level, state, y=None):
        return diagonal_gaussian(torch.zeros_like(state), torch.ones_like(state))

    def posterior(self, level, state, context, prior):
        return context

    def descend(self, level, state, z):
        return z

    def observation(self, state, y=None):
        mean = state @ self.w.T + self.b
        return diagonal_gaussian(mean, torch.full_like(mean, self.noise))

    def marginal(self):
        """p(x), exactly."""
        return D.MultivariateNormal(self.b, self.w @ self.w.T + self.noise**2 * torch.eye(len(self.b), dtype=torch.float64))

    def true_posterior(self, x):
        """p(z|x), exactly: N(M⁻¹Wᵀ(x − b), σ²M⁻¹), M = WᵀW + σ²I."""
        m = self.w.T @ self.w + self.noise**2 * torch.eye(self.latents, dtype=torch.float64)
        mean = torch.linalg.solve(m, self.w.T @ (x - self.b).T).T
        return D.MultivariateNormal(mean, (self.noise**2 * torch.linalg.inv(m)).expand(len(x), -1, -1))


def chain(d=4, **kwargs):
    return LinearGaussianChain(Real((d,)), **kwargs).requires_grad_(False)


def data(model, n=6, seed=1):
    with seeded(seed, "data"):
        return model.marginal().sample((n,))
