"""Autoencoders: codes without a density.

An autoencoder learns x ↦ z = g(x) ↦ r(x) = f(g(x)) with ‖r(x) − x‖² small.  Nothing says which z occur, so there is no p(x) and
no way to sample; the denoising kind knows one thing more, the score of the smoothed data.  Errors are measured in model units
(standardised reals, pixels on [−1, 1], one-hot symbols).
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from likeli.contract import GenerativeModel, Knows, LogLikelihood
from likeli.errors import Unsupported, require
from likeli.nn.mlp import ACTIVATIONS, MLP
from likeli.random import Noise
from likeli.spaces import Space

_NO_DENSITY = (
    "an autoencoder has no p(x): nothing says which codes occur. Use vae for the same code with a bound on log p(x), "
    "or ppca for the linear case with log p(x) itself"
)


class Reconstructor(GenerativeModel):
    """z = g(x), r = f(z), trained on ‖r − x‖² over model units."""

    knows: ClassVar[Knows] = Knows.NOTHING
    strategy: ClassVar[str] = "sgd"

    encoder: nn.Sequential
    decoder: nn.Sequential

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """g(x), (B, *shape) → (B, latent_dim)."""
        return self.encoder(self._flat(x))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """f(z), (B, latent_dim) → (B, *shape) in the user's units."""
        return self.space.from_model(self.decoder(z).reshape(-1, *self.space.model_shape))

    def reconstruct(self, x: Tensor) -> Tensor:
        """f(g(x)), (B, *shape) → (B, *shape) in the user's units."""
        return self.decode(self.encode(x))

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """‖r(x) − x‖² in model units, (B,)."""
        u = self._flat(x)
        return (self.decoder(self.encoder(u)) - u).square().sum(1)

    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        raise Unsupported(f"{self.kind()} cannot sample: {_NO_DENSITY}")

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        raise Unsupported(_NO_DENSITY)

    def _flat(self, x: Tensor) -> Tensor:
        return self.space.to_model(x, self.dtype).flatten(1)

    @property
    def _width(self) -> int:
        return math.prod(self.space.model_shape)


class AE(Reconstructor):
    """The plain autoencoder: ‖f(g(x)) − x‖².  With `hidden=()` both maps are linear and the codes span PCA's subspace.

    Arguments:
        space: what one example is.
        latent_dim: numbers in a code.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        activation: silu, relu, gelu, tanh or softplus.
        dropout: probability of zeroing a hidden feature in training.

    Source: Baldi & Hornik (1989), Neural Networks 2(1), for the linear case.
    """

    def __init__(
        self,
        space: Space,
        latent_dim: int = 8,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "silu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(space)
        self.latent_dim, self.hidden, self.activation, self.dropout = latent_dim, tuple(hidden), activation, dropout
        _check(latent_dim, self.hidden, activation)
        self.encoder = MLP(self._width, latent_dim, self.hidden, activation, dropout)
        self.decoder = MLP(latent_dim, self._width, self.hidden[::-1], activation, dropout)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """‖f(g(x)) − x‖² in model units, (B,)."""
        return self.reconstruction_error(x)


class DAE(Reconstructor):
    """The denoising autoencoder: ‖r(x + σε) − x‖², ε ~ N(0, I).

    The best r is E[x | x̃], so (r(x̃) − x̃)/σ² = ∇ log p_σ(x̃): the score of the data smoothed by N(0, σ²I).

    Arguments:
        space: what one example is.
        noise_std: σ, in model units.
        latent_dim: numbers in a code.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        activation: silu, relu, gelu, tanh or softplus.

    Source: Vincent (2011), Neural Computation 23(7); Alain & Bengio (2014), arXiv:1211.4246.
    """

    def __init__(
        self,
        space: Space,
        noise_std: float = 0.3,
        latent_dim: int = 32,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "silu",
    ) -> None:
        super().__init__(space)
        self.noise_std, self.latent_dim, self.hidden, self.activation = noise_std, latent_dim, tuple(hidden), activation
        _check(latent_dim, self.hidden, activation)
        require(noise_std > 0, "noise_std", "a positive number", noise_std)
        self.encoder = MLP(self._width, latent_dim, self.hidden, activation)
        self.decoder = MLP(latent_dim, self._width, self.hidden[::-1], activation)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """‖r(x + σε) − x‖² in model units, (B,)."""
        u = self._flat(x)
        return (self.decoder(self.encoder(u + self.noise_std * torch.randn_like(u))) - u).square().sum(1)

    def score(self, x: Tensor) -> Tensor:
        """∇_x log p_σ(x), (B, *shape) per user unit: the read-out (r(u) − u)/σ², carried back through u = (x − m)/s.

        Raises:
            Unsupported: the space is not real, so log p has no gradient.
        """
        unit = self.space.unit
        if unit is None or self.space.model_shape != self.space.shape:
            raise Unsupported(f"the score needs real data on a linear scale; got {self.space.kind()}")
        u = self._flat(x)
        score = (self.decoder(self.encoder(u)) - u) / self.noise_std**2
        return (score.reshape(x.shape) / unit.to(score.device)).to(score.dtype)


class CAE(Reconstructor):
    """The contractive autoencoder: ‖r(x) − x‖² + λ‖∂g/∂x‖²_F.

    With one hidden layer, g(x) = W₂ s(W₁x + b₁) + b₂ has the Jacobian W₂ diag(s′) W₁, and

        ‖∂g/∂x‖²_F = s′ᵀ [(W₁W₁ᵀ) ∘ (W₂ᵀW₂)] s′

    so the exact penalty costs two products of weights and one matrix product per batch, whatever the size of the code.

    Arguments:
        space: what one example is.
        penalty: λ, at least 0.
        latent_dim: numbers in a code.
        hidden: width of the one hidden layer of the encoder, and of the decoder.
        activation: silu, relu, gelu, tanh or softplus.

    Source: Rifai et al. (2011), ICML.
    """

    def __init__(
        self, space: Space, penalty: float = 0.1, latent_dim: int = 8, hidden: int = 256, activation: str = "softplus"
    ) -> None:
        super().__init__(space)
        self.penalty, self.latent_dim, self.hidden, self.activation = penalty, latent_dim, hidden, activation
        _check(latent_dim, (hidden,), activation)
        require(penalty >= 0, "penalty", "a number of at least 0", penalty)
        self.encoder = MLP(self._width, latent_dim, (hidden,), activation)
        self.decoder = MLP(latent_dim, self._width, (hidden,), activation)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """‖r(x) − x‖² + λ‖∂g/∂x‖²_F in model units, (B,)."""
        u = self._flat(x)
        code, jacobian = self._code_and_jacobian(u)
        return (self.decoder(code) - u).square().sum(1) + self.penalty * jacobian

    def jacobian_norm(self, x: Tensor) -> Tensor:
        """‖∂g/∂u‖²_F at each example in model units, (B,)."""
        return self._code_and_jacobian(self._flat(x))[1]

    def _code_and_jacobian(self, u: Tensor) -> tuple[Tensor, Tensor]:
        first, activation, last = self.encoder
        a = first(u)
        h, slope = cast(tuple[Tensor, Tensor], torch.func.jvp(activation, (a,), (torch.ones_like(a),)))
        mixed = (first.weight @ first.weight.T) * (last.weight.T @ last.weight)
        return last(h), ((slope @ mixed) * slope).sum(1)


def _check(latent_dim: int, hidden: tuple[int, ...], activation: str) -> None:
    require(latent_dim >= 1, "latent_dim", "at least 1", latent_dim)
    require(all(h >= 1 for h in hidden), "hidden", "widths of at least 1", hidden)
    require(activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}", activation)
