"""Filling missing cells with draws, many of each, so that what is not known shows as spread.

    x_m ~ p(x_m | x_o):   exact for linear-Gaussian models; for others z ~ p(z|x_o) by importance resampling, x_m ~ p(x_m|z)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likeli.contract import GenerativeModel, evaluating
from likeli.errors import Unsupported, require
from likeli.latent.chain import LatentVariableModel, draw_latents, given_latents, log_densities
from likeli.models.autoregressive import Autoregressive
from likeli.models.linear_gaussian import LinearGaussian
from likeli.probability.draw import draw
from likeli.probability.importance import Diagnostics, diagnose
from likeli.random import Ambient, seeded


@dataclass(frozen=True)
class Imputation:
    """Draws of the missing cells.

    Arguments:
        draws: (n, B, *shape) in the user's units; observed cells are as given.
        diagnostics: of the importance weights behind the draws, by row; None for exact draws.
    """

    draws: Tensor
    diagnostics: Diagnostics | None

    @property
    def note(self) -> str:
        """Why the draws may be off; empty for exact ones and where the weights can be trusted."""
        return "" if self.diagnostics is None else self.diagnostics.complaint()


def impute(
    model: GenerativeModel, x: Any, n: int = 1, y: Any = None, *, samples: int = 200, seed: int = 0, batch: int = 256
) -> Imputation:
    """n draws of each row's missing cells given its observed ones.

    For a model with latent levels, `samples` codes are drawn from q(z|x_o), and n of them are drawn again in proportion to
    p(x_o, z)/q(z|x_o): right as `samples` grows, and as far as the diagnostics say before.

    Arguments:
        model: gmm, ppca, factor_analysis, autoregressive of any order (exact), or a vae.
        x: (B, *shape), NaN where a cell is missing.
        n: draws.
        y: (B, *condition.shape), for a conditional model.
        samples: codes to choose from.
        seed: of all draws.
        batch: rows at a time.

    Raises:
        InputError: x or y does not fit.
        Unsupported: a family that cannot marginalise missing cells.

    Source: Rubin (1987), Journal of the American Statistical Association 82, for the resampling; Mattei & Frellsen (2019),
    arXiv:1812.02633, for its use with a VAE.
    """
    require(isinstance(n, int) and n >= 1, "n", "a whole number of at least 1", n)
    require(samples >= 2, "samples", "at least 2", samples)
    require(batch >= 1, "batch", "at least 1", batch)
    if isinstance(model, LinearGaussian):
        return Imputation(model.sample_conditional(x, n, seed=seed), None)
    if isinstance(model, Autoregressive):
        x = model.space.check(x, missing=True)
        y, given = model.check_condition(y, len(x)), x.repeat(n, *[1] * len(model.space.shape))
        y = None if y is None else y.repeat(n, *[1] * (y.ndim - 1))
        return Imputation(model.sample(len(given), y, given=given, seed=seed).reshape(n, *x.shape), None)
    if not (isinstance(model, LatentVariableModel) and model.takes_missing):
        raise Unsupported(f"{model.kind()} cannot condition on some cells only; gmm, ppca, vae and autoregressive can")
    x = model.space.check(x, missing=True).to(model.device)
    y = model.check_condition(y, len(x))
    parts = []
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        with evaluating(model), torch.no_grad(), seeded(seed, "impute", start):
            parts.append(_resampled(model, x[rows], None if y is None else y[rows], n, samples))
    draws, weights = (list(column) for column in zip(*parts))
    return Imputation(torch.cat(draws, 1), diagnose(torch.cat(weights, 1)))


def _resampled(model: LatentVariableModel, x: Tensor, y: Tensor | None, n: int, samples: int) -> tuple[Tensor, Tensor]:
    """Draws (n, B, *shape) and the log weights (samples, B) that chose their codes."""
    context, codes, weights = model.infer(x, y), list[list[Tensor]](), []
    for _ in range(samples):
        codes.append(draw_latents(model, x, y, context, Ambient(x)))
        log_p, log_q = log_densities(model, x, y, context, codes[-1])
        weights.append((log_p - log_q).double())
    log_w = torch.stack(weights)
    chosen = torch.multinomial(log_w.softmax(0).T, n, replacement=True)  # (B, n)
    levels, rows, filled = [torch.stack(level) for level in zip(*codes)], torch.arange(len(x), device=x.device), []
    for k in chosen.T:
        *_, last = model.walk(Ambient(x), y, choose=given_latents([level[k, rows] for level in levels]))
        drawn = draw(model.observation(last.state, y), Ambient(x))
        filled.append(torch.where(x.isnan(), drawn.to(x.dtype), x))
    return torch.stack(filled), log_w
