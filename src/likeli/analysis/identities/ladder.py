"""What a ladder's q reaches and a q that factorises over the levels cannot: a linear-Gaussian chain, every posterior known.

    z_2 ~ N(0, 1),   z_1 = a z_2 + s ε,   x = w z_1 + r ε:      x ~ N(0, w² (a² + s²) + r²)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as D

from likeli.analysis.check import identity
from likeli.analysis.identities.truth import minimise
from likeli.distributions import gaussian_product
from likeli.information import full_gaussian_kl

A, S, W, R = 0.8, 0.6, 1.5, 0.4


def _normal(mean: Tensor | float, std: float) -> D.Normal:
    return D.Normal(torch.as_tensor(mean, dtype=torch.float64), std)


@identity("R54", "I16", title="linear chain, q(z_i|z_{>i}, x) ∝ p·d: every weight is p(x)", tolerance=1e-12)
def ladder_is_exact() -> float:
    """d_1 is p(x|z_1) as a Gaussian of z_1, and d_2 is p(x|z_2) as one of z_2: evidence read from x alone."""
    x, n = torch.randn(200, dtype=torch.float64), 200
    width = torch.tensor(R / W, dtype=torch.float64)
    scale_1, one = torch.tensor(S, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    q_2 = D.Normal(*gaussian_product(torch.zeros(n, dtype=torch.float64), one, x / (W * A), (S**2 + width**2).sqrt() / A))
    z_2 = q_2.sample()
    q_1 = D.Normal(*gaussian_product(A * z_2, scale_1, x / W, width))
    z_1 = q_1.sample()
    joint = _normal(0.0, 1.0).log_prob(z_2) + _normal(A * z_2, S).log_prob(z_1) + _normal(W * z_1, R).log_prob(x)
    weights = joint - q_2.log_prob(z_2) - q_1.log_prob(z_1)
    truth = _normal(0.0, (W**2 * (A**2 + S**2) + R**2) ** 0.5).log_prob(x)
    return (weights - truth).abs().max().item()


@identity("R54", title="the same chain: the best q(z_1|x) q(z_2|x) stays −½ log(1 − ρ²) nats away", tolerance=1e-8)
def factorised_levels_stay_away() -> float:
    """ρ is the correlation of z_1 and z_2 given x, which a product over the levels has no room for."""
    precision = torch.tensor([[(W / R) ** 2 + 1 / S**2, -A / S**2], [-A / S**2, 1 + A**2 / S**2]], dtype=torch.float64)
    posterior = D.MultivariateNormal(torch.zeros(2, dtype=torch.float64), precision_matrix=precision)
    mean, log_std = torch.ones(2, dtype=torch.float64).requires_grad_(), torch.zeros(2, dtype=torch.float64).requires_grad_()

    def gap() -> Tensor:
        return full_gaussian_kl(D.MultivariateNormal(mean, scale_tril=log_std.exp().diag()), posterior)

    found = minimise(gap, [mean, log_std])
    squared = (precision[0, 1] ** 2 / (precision[0, 0] * precision[1, 1])).item()
    return abs(found + 0.5 * torch.log1p(torch.tensor(-squared)).item())
