"""The denoiser for a space: which network, and what it predicts."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from likeli.config import Configurable
from likeli.diffusion.categorical import CategoricalDenoiser
from likeli.diffusion.denoiser import Conditional, Denoiser, Predict
from likeli.diffusion.schedule import Schedule
from likeli.errors import Unsupported, require
from likeli.nn.embedding import Conditioner
from likeli.nn.mlp import DenoisingMLP
from likeli.nn.potential import Potential
from likeli.nn.transformer import Transformer
from likeli.nn.unet import UNet
from likeli.spaces import Space, UnitVectors

Network = Literal["auto", "mlp", "unet", "dit", "transformer"]
FEW_SYMBOLS = 2**18  # of all cells together; beyond, a probability for every one costs more than the rest of the network
WIDTHS = {8: (24, 32, 32), 16: (32, 64), 32: (32, 64, 64), 64: (32, 64, 64, 96)}  # of a U-Net, by the longer side of the image


class DenoiserBackbone(Configurable):
    """The network of a denoiser.

    Arguments:
        network: mlp, unet, dit (a transformer whose patches see how far apart they are) or transformer (without that, slower to
            learn, for runs that have it); auto takes a U-Net for images of at least 8 × 8 cells, and for those with captions
            dit, which learns what they say in less time.  An mlp hears the mean of the words, the others attend to them.
        hidden: an mlp's equal block widths, or a U-Net's channels at each resolution; chosen from the space if not given.
        dropout: probability of zeroing a hidden feature in training; the family's own if not given.
        energy: predict by the gradient of one number, so that the score is that of an energy; two to three times slower.
        condition_dropout: probability of hiding a row's condition in training, so that p(x) is learned beside p(x|y), which
            guidance needs; 0 learns p(x|y) alone.

    Raises:
        InputError: a width below 1, a dropout outside [0, 1).
    """

    def __init__(
        self,
        network: Network = "auto",
        hidden: tuple[int, ...] | None = None,
        dropout: float | None = None,
        energy: bool = False,
        condition_dropout: float = 0.1,
    ) -> None:
        require(hidden is None or (len(hidden) >= 1 and min(hidden) >= 1), "hidden", "one or more widths of at least 1", hidden)
        require(dropout is None or 0 <= dropout < 1, "dropout", "a number from 0 to below 1", dropout)
        require(0 <= condition_dropout < 1, "condition_dropout", "a number from 0 to below 1", condition_dropout)
        self.network, self.hidden, self.dropout, self.energy = network, hidden, dropout, energy
        self.condition_dropout = condition_dropout

    def suited(self, space: Space, condition: Space | None) -> DenoiserBackbone:
        """The same with the network by name, as it is saved, whatever later versions may choose."""
        wide = _is_image(space) and min(space.shape[-2:]) >= 8
        captions = condition is not None and condition.alphabet is not None
        chosen: Network = "mlp" if not wide else "dit" if captions else "unet"
        network = chosen if self.network == "auto" else self.network
        return DenoiserBackbone(network, self.hidden, self.dropout, self.energy, self.condition_dropout)


def _is_image(space: Space) -> bool:
    return space.model_shape == space.shape and len(space.shape) in (2, 3)


def make_denoiser(
    space: Space,
    schedule: Schedule,
    predict: Literal["auto", "categorical"] | Predict,
    backbone: DenoiserBackbone | None,
    condition: Space | None,
    *,
    dropout: float = 0.1,
    data: float = 1.0,
) -> Conditional:
    """A fresh denoiser of the space's model units; a network of grey levels also sees sines that turn once a level.

    Arguments:
        space: what x is.
        schedule: t → (α, σ).
        predict: `categorical` for probabilities of discrete cells' symbols; auto takes it up to 2¹⁸ of them in all, else v,
            and v for an energy; of a table it is always categorical.
        backbone: the network.
        condition: what y is, if anything.
        dropout: where the backbone says none.
        data: standard deviation of the data in model units.

    Raises:
        InputError: categorical for reals, a U-Net for vectors.
        Unsupported: an energy whose gradient would be probabilities.
    """
    backbone = (backbone or DenoiserBackbone()).suited(space, condition)
    rate = dropout if backbone.dropout is None else backbone.dropout
    conditioner = Conditioner(condition, backbone.condition_dropout)
    scalar = space.model_shape == space.shape
    if isinstance(space, UnitVectors):  # any other estimate leaves it to chance that a cell's numbers make one vector
        predict = "categorical"
    elif predict == "auto":
        few = 0 < space.symbols * space.dimensions <= FEW_SYMBOLS and not backbone.energy
        predict = "categorical" if few else "v"
    if predict == "categorical":
        require(space.symbols > 0, "predict", "eps, x, score or v, since the cells are not discrete", predict)
        if backbone.energy:
            remedy = "" if isinstance(space, UnitVectors) else "; predict v, eps or x in place of categorical"
            raise Unsupported(f"energy: a gradient is no probability of symbols{remedy}")
        views = 2 if isinstance(space, UnitVectors) else 1
        net = _network(space, backbone, space.symbols if scalar else 1, conditioner, rate, views=views)
        return CategoricalDenoiser(net, schedule, space, conditioner.dropout > 0)
    waves: tuple[float, ...] = (1.0, 2.0, 4.0) if not space.symbols else ()
    if scalar and space.spacing:
        waves = (math.pi / space.spacing, 2 * math.pi / space.spacing)  # two levels and one level to a turn
    net = _network(space, backbone, 1, conditioner, rate, waves)
    return Denoiser(Potential(net) if backbone.energy else net, schedule, predict, data, conditioner.dropout > 0)


def _network(
    space: Space,
    backbone: DenoiserBackbone,
    outputs: int,
    condition: Conditioner,
    dropout: float,
    waves: tuple[float, ...] = (),
    views: int = 1,
) -> nn.Module:
    network, hidden = backbone.network, backbone.hidden
    require(network == "mlp" or _is_image(space), "network", "mlp, since x is not an image", network)
    if network == "unet":
        side = max(space.shape[-2:])
        hidden = hidden or next((w for s, w in WIDTHS.items() if side <= s), WIDTHS[64])
        attention = max(16, space.shape[-1] * space.shape[-2] // 16)
        return UNet(space.shape, hidden, outputs, condition, dropout, 1, attention, waves)
    hidden = hidden or ((256, 256, 256) if network == "mlp" else (128, 128, 128, 128))
    require(len(set(hidden)) == 1, "hidden", "equal widths, since the blocks are residual", hidden)
    if network in ("dit", "transformer"):
        require(hidden[0] <= 32 or hidden[0] % 32 == 0, "hidden", "multiples of 32, one for each head", hidden)
        return Transformer(space.shape, hidden, outputs, condition, dropout, rotary=network == "dit")
    return DenoisingMLP(space.model_shape, hidden, outputs, condition, dropout, waves, views)
