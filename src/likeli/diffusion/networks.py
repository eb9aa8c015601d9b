"""The denoiser for a space: which network, and what it predicts."""

from __future__ import annotations

from typing import Literal

from torch import nn

from likeli.diffusion.categorical import CategoricalDenoiser, discrete_symbols
from likeli.diffusion.denoiser import Conditional, Denoiser, Predict
from likeli.diffusion.schedule import Schedule
from likeli.errors import require
from likeli.nn.denoising_mlp import DenoisingMLP
from likeli.space import Pixels, Space, Tokens

FEW_SYMBOLS = 64  # beyond it a probability for every symbol of every cell costs more than the rest of the network


def make_denoiser(
    space: Space,
    schedule: Schedule,
    predict: Literal["auto", "categorical"] | Predict = "auto",
    hidden: tuple[int, ...] = (256, 256, 256),
    dropout: float = 0.0,
    condition: Space | None = None,
) -> Conditional:
    """A fresh denoiser of the space's model units.

    Arguments:
        space: what x is.
        schedule: t → (α, σ).
        predict: `categorical` for probabilities of a discrete cell's symbols; auto takes it where there are at most 64, else v.
        hidden: width of each residual block.
        dropout: probability of zeroing a hidden feature in training.
        condition: what y is, if anything.

    Raises:
        InputError: categorical for reals, a width below 1, a dropout outside [0, 1).
    """
    require(len(hidden) >= 1 and min(hidden) >= 1, "hidden", "one or more widths of at least 1", hidden)
    require(len(set(hidden)) == 1, "hidden", "equal widths, since the blocks are residual", hidden)
    require(0 <= dropout < 1, "dropout", "a number from 0 to below 1", dropout)
    count = discrete_symbols(space)
    if predict == "auto":
        predict = "categorical" if 0 < count <= FEW_SYMBOLS else "v"
    if predict == "categorical":
        require(count > 0, "predict", "eps, x, score or v, since the cells are not discrete", predict)
        outputs = space.levels if isinstance(space, Pixels) else 1
        assert isinstance(space, (Pixels, Tokens))
        return CategoricalDenoiser(_network(space, hidden, outputs, condition, dropout), schedule, space)
    return Denoiser(_network(space, hidden, 1, condition, dropout), schedule, predict)


def _network(space: Space, hidden: tuple[int, ...], outputs: int, condition: Space | None, dropout: float) -> nn.Module:
    return DenoisingMLP(space.model_shape, hidden, outputs, condition, dropout)
