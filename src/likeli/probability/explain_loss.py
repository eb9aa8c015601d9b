"""Which model a loss of the form "reconstruction error + weight · KL" stands for.

A loss that puts a on one example's sum of squared errors and b on its KL, L = a·SSE + b·KL, is b times

    −ELBO = SSE / (2σ²) + (D/2) log 2πσ² + KL,      σ² = b / (2a),

less the constant: a Gaussian VAE with that σ, no more and no less.  Averaging one term and summing the other moves σ, not
merely the learning rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from likeli.errors import require

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class LossModel:
    """The likelihood model behind a loss.

    Arguments:
        family: `gaussian` for squared errors, `bernoulli` for binary cross-entropy.
        sigma2: the Gaussian's variance per cell, in squared units of the data that the error was taken in; None for Bernoulli.
        beta: KL weight at unit weight of −log p(x|z); 1 for a Gaussian, whose σ² takes it up.
        scale: −ELBO = scale · loss + constant, per example.
        constant: nats.
        text: one paragraph for a person.
    """

    family: Literal["gaussian", "bernoulli"]
    sigma2: float | None
    beta: float
    scale: float
    constant: float
    text: str


def explain_loss(
    error: Literal["squared", "half_squared", "bce"] = "squared",
    *,
    data_dim: int,
    latent_dim: int,
    reduction: Reduction = "mean",
    kl_reduction: Reduction = "sum",
    kl_weight: float = 1.0,
    batch_size: int = 1,
    batch_reduction: Reduction = "mean",
    kl_batch_reduction: Reduction = "mean",
) -> LossModel:
    """The model whose bound the loss `error + kl_weight · KL` optimises.

    Arguments:
        error: (x − x̂)², ½(x − x̂)², or the binary cross-entropy, per cell.
        data_dim: D_x, cells of one example.
        latent_dim: D_z, latent features.
        reduction: over the D_x cells of an example.
        kl_reduction: over the D_z latents.
        kl_weight: w > 0.
        batch_size: only matters when the two terms are reduced over the batch differently.
        batch_reduction, kl_batch_reduction: of the error and of the KL over the batch.

    Returns:
        The model.  Mean-squared error plus w times the averaged KL is a Gaussian VAE with σ² = w·D_x / (2·D_z).

    Raises:
        InputError: a size below 1, or a weight that is not positive.
    """
    for name, value in (("data_dim", data_dim), ("latent_dim", latent_dim), ("batch_size", batch_size)):
        require(isinstance(value, int) and value >= 1, name, "a whole number of at least 1", value)
    require(0 < kl_weight < math.inf, "kl_weight", "a positive number", kl_weight)
    require(error in ("squared", "half_squared", "bce"), "error", "squared, half_squared or bce", error)
    a = (0.5 if error == "half_squared" else 1.0) / (data_dim if reduction == "mean" else 1)
    b = kl_weight / (latent_dim if kl_reduction == "mean" else 1)
    a /= batch_size if batch_reduction == "mean" else 1
    b /= batch_size if kl_batch_reduction == "mean" else 1
    # a and b weigh one example's terms in a batch's loss; the loss of a batch that averages is that of one example / batch_size
    if error == "bce":
        return _bernoulli(a, b)
    return _gaussian(a, b, data_dim)


def _gaussian(a: float, b: float, data_dim: int) -> LossModel:
    sigma2 = b / (2 * a)
    constant = 0.5 * data_dim * math.log(2 * math.pi * sigma2)
    text = (
        f"This loss is {b:.6g} times the negative ELBO (less {constant:.6g} nats) of a VAE whose decoder is a Gaussian with "
        f"the fixed variance σ² = {sigma2:.6g} in every cell, σ = {math.sqrt(sigma2):.6g}. At unit variance it is a β-VAE with "
        f"β = {sigma2:.6g}. Its samples are draws from N(x̂, σ²), not x̂; to let the data choose, learn σ."
    )
    return LossModel("gaussian", sigma2, 1.0, 1 / b, constant, text)


def _bernoulli(a: float, b: float) -> LossModel:
    beta = b / a
    bound = "the negative ELBO" if math.isclose(beta, 1) else "a β-VAE's objective, not a bound on log p(x) when β ≠ 1"
    text = f"This loss is {a:.6g} times {bound} of a VAE with a Bernoulli decoder and β = {beta:.6g}."
    return LossModel("bernoulli", None, beta, 1 / a, 0.0, text)
