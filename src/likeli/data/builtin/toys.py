"""Distributions that are known exactly: log p(x) in nats and independent samples.

What a family learns of them can be compared with the truth itself, not with another model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import product

import torch
from torch import Tensor

from likeli.errors import require
from likeli.random import derive
from likeli.spaces import Space, Tokens

FLOAT = torch.float64


class Toy(ABC):
    """A distribution with an exact log p(x) and exact samples.

    `stream` names its random numbers and must not change; `space` is what a row is, or None to be fitted under `kind`.
    """

    shape: tuple[int, ...]
    stream: str
    kind = "real"
    space: Space | None = None

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B,) float64, nats."""

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n independent draws, (n, *shape), a function of (n, seed)."""
        require(isinstance(n, int) and n >= 1, "n", "a whole number of at least 1", n)
        return self._draw(n, torch.Generator().manual_seed(derive(seed, "toy", self.stream)))

    @abstractmethod
    def _draw(self, n: int, generator: torch.Generator) -> Tensor: ...


class KnownMixture(Toy):
    """p(x) = Σ_k π_k N(x; μ_k, Σ_k).

    Arguments:
        weights: (K,) π, summing to one.
        means: (K, d).
        covariances: (K, d, d), positive definite.
    """

    stream = "GaussianMixture"

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means, self.covariances = weights.to(FLOAT), means.to(FLOAT), covariances.to(FLOAT)
        self.shape = (means.shape[1],)
        self._cholesky = torch.linalg.cholesky(self.covariances)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.component_log_prob(x).logsumexp(1)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log π_k + log N(x; μ_k, Σ_k), (B, K)."""
        delta = (x.to(FLOAT)[:, None] - self.means).permute(1, 2, 0)  # (K, d, B)
        white = torch.linalg.solve_triangular(self._cholesky, delta, upper=False)
        log_det = self._cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = self.weights.log() - log_det - 0.5 * self.shape[0] * math.log(2 * math.pi)
        return (constant[:, None] - 0.5 * white.square().sum(1)).T

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, *self.shape, dtype=FLOAT, generator=generator)
        return self.means[k] + (self._cholesky[k] @ eps[..., None])[..., 0]


class Checkerboard(Toy):
    """Uniform on the dark squares of a board of 4 × 4 squares (4^d cells in d dimensions) on [−4, 4)^d.

    A cell is dark when the sum of its coordinates' indices is even: p(x) = 2/8^d on half of the board, 0 elsewhere.
    """

    stream = "Checkerboard"

    def __init__(self, dims: int = 2) -> None:
        self.shape = (dims,)

    def log_prob(self, x: Tensor) -> Tensor:
        inside = ((x >= -4) & (x < 4)).all(1)
        dark = ((x.to(FLOAT) + 4) / 2).floor().sum(1) % 2 == 0
        constant = torch.tensor(math.log(2.0) - self.shape[0] * math.log(8.0), dtype=FLOAT, device=x.device)
        return torch.where(inside & dark, constant, -math.inf)

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        cell = torch.randint(4, (n, *self.shape), generator=generator)
        odd = cell.sum(1) % 2
        cell[:, 0] = torch.where(odd == 1, cell[:, 0] ^ 1, cell[:, 0])  # flips parity and keeps the dark cells uniform
        return 2 * (cell + torch.rand(n, *self.shape, dtype=FLOAT, generator=generator)) - 4


class MarkovChain(Toy):
    """A Markov chain over tokens: P(x) = π(x_1) ∏ A(x_{i−1}, x_i).

    Arguments:
        initial: (V,) π.
        transition: (V, V) A, rows summing to one.
        length: tokens in one example.
    """

    stream, kind = "MarkovChain", "tokens"

    def __init__(self, initial: Tensor, transition: Tensor, length: int) -> None:
        self.space = Tokens(length, len(initial))
        self.initial, self.transition, self.shape = initial.to(FLOAT), transition.to(FLOAT), (length,)

    def log_prob(self, x: Tensor) -> Tensor:
        steps = self.transition.log()[x[:, :-1].long(), x[:, 1:].long()]
        return self.initial.log()[x[:, 0].long()] + steps.sum(1)

    def every_sequence(self) -> Tensor:
        """All V^length sequences, (V^length, length); for short chains."""
        return torch.tensor(list(product(range(len(self.initial)), repeat=self.shape[0])))

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        x = [torch.multinomial(self.initial, n, replacement=True, generator=generator)]
        for _ in range(self.shape[0] - 1):
            x.append(torch.multinomial(self.transition[x[-1]], 1, generator=generator)[:, 0])
        return torch.stack(x, 1)


def gaussian(dims: int = 2) -> KnownMixture:
    """One Gaussian: mean i + 1 and standard deviation 1 + i/2 in column i, correlation 0.8^|i−j|."""
    _require_room("gaussian", dims**2)
    i = torch.arange(dims, dtype=FLOAT)
    std = 1 + i / 2
    covariance = 0.8 ** (i[:, None] - i).abs() * std[:, None] * std
    return KnownMixture(torch.ones(1), (i + 1)[None], covariance[None])


def ring8() -> KnownMixture:
    """Eight Gaussians of standard deviation 0.2 on a circle of radius 2."""
    angle = torch.arange(8, dtype=FLOAT) * (math.pi / 4)
    means = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return KnownMixture(torch.full((8,), 1 / 8), means, (0.04 * torch.eye(2)).expand(8, 2, 2))


def checkerboard(dims: int = 2) -> Checkerboard:
    """Uniform on every other square of a board on [−4, 4)^dims."""
    return Checkerboard(dims)


def ppca_draw(dims: int = 8, latent: int = 2, draw: int = 0) -> KnownMixture:
    """x = W z + μ + ε with z ~ N(0, I), ε ~ N(0, 0.3²I), and W, μ themselves drawn: N(μ, WWᵀ + 0.09 I).

    Arguments:
        latent: columns of W.
        draw: the seed of W and μ.
    """
    require(latent <= dims, "latent", f"at most dims = {dims}", latent)
    _require_room("ppca_draw", dims**2)
    g = _parameters("ppca", draw)
    W, mu = torch.randn(dims, latent, dtype=FLOAT, generator=g), torch.randn(dims, dtype=FLOAT, generator=g)
    return KnownMixture(torch.ones(1), mu[None], (W @ W.T + 0.09 * torch.eye(dims, dtype=FLOAT))[None])


def gmm_draw(dims: int = 2, components: int = 5, draw: int = 0) -> KnownMixture:
    """A mixture of full-covariance Gaussians with drawn parameters: means N(0, 9I), covariances LLᵀ/d + 0.1 I.

    Arguments:
        components: how many.
        draw: the seed of the parameters.
    """
    _require_room("gmm_draw", components * dims**2)
    g = _parameters("gmm", draw)
    weights = 1 + torch.rand(components, dtype=FLOAT, generator=g)
    means = 3 * torch.randn(components, dims, dtype=FLOAT, generator=g)
    L = torch.randn(components, dims, dims, dtype=FLOAT, generator=g)
    covariances = L @ L.mT / dims + 0.1 * torch.eye(dims, dtype=FLOAT)
    return KnownMixture(weights / weights.sum(), means, covariances)


def markov(length: int = 16, vocab: int = 5, draw: int = 0) -> MarkovChain:
    """A Markov chain over tokens with drawn probabilities.

    Arguments:
        length, vocab: tokens in one example, and how many there are.
        draw: the seed of the probabilities.
    """
    _require_room("markov", vocab * (vocab + 1))
    p = (2 * torch.randn(vocab + 1, vocab, dtype=FLOAT, generator=_parameters("markov", draw))).softmax(1)
    return MarkovChain(p[0], p[1:], length)


def _parameters(name: str, draw: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(draw, "parameters of", name))


def _require_room(name: str, parameters: int) -> None:
    require(parameters <= 2**24, name, f"at most {2**24:,} parameters", f"options that ask for {parameters:,}")
