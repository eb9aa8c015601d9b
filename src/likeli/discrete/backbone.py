"""The network that guesses symbols: which one for which cells."""

from __future__ import annotations

from typing import Literal

from torch import nn

from likeli.config import Configurable
from likeli.discrete.corruption import Corruption
from likeli.errors import require
from likeli.nn.bidirectional import SymbolImage, SymbolPerceptron, SymbolTransformer
from likeli.nn.embedding import Conditioner
from likeli.nn.recurrence import SymbolRecurrence
from likeli.spaces import Space


class SymbolBackbone(Configurable):
    """The network of a diffusion of symbols.

    Arguments:
        network: transformer over all cells; lstm from both ends of a row of symbols, which learns text and sources of short
            memory sooner; for images a unet; mlp over all cells at once; auto takes unet for images of at least 8 × 8 cells,
            lstm for text, mlp for tables, and else the transformer.
        hidden: equal widths of the blocks of a transformer or an mlp or of LSTM layers, or a U-Net's channels at each
            resolution; chosen if not given.
        dropout: probability of zeroing a hidden feature in training.
        timed: whether the network is told the time; chosen if not given: [MASK] tells it enough, other corruptions need it.
        condition_dropout: probability of hiding a row's condition in training, so that p(x) is learned beside p(x|y), which
            guidance needs; 0 learns p(x|y) alone.
    """

    def __init__(
        self,
        network: Literal["auto", "transformer", "lstm", "unet", "mlp"] = "auto",
        hidden: tuple[int, ...] | None = None,
        dropout: float = 0.0,
        timed: bool | None = None,
        condition_dropout: float = 0.1,
    ) -> None:
        require(hidden is None or (len(hidden) >= 1 and min(hidden) >= 1), "hidden", "one or more widths of at least 1", hidden)
        require(0 <= dropout < 1, "dropout", "a number from 0 to below 1", dropout)
        require(0 <= condition_dropout < 1, "condition_dropout", "a number from 0 to below 1", condition_dropout)
        self.network, self.hidden, self.dropout, self.timed = network, hidden, dropout, timed
        self.condition_dropout = condition_dropout

    def suited(self, space: Space) -> SymbolBackbone:
        """The same with the network by name, as it is saved, whatever later versions may choose."""
        large = bool(space.symbols) and len(space.shape) in (2, 3) and min(space.shape[-2:]) >= 8
        alike = "lstm" if space.alphabet is not None else "unet" if large else "transformer"
        chosen = alike if space.symbols else "mlp"
        network = chosen if self.network == "auto" else self.network
        return SymbolBackbone(network, self.hidden, self.dropout, self.timed, self.condition_dropout)

    def on(self, space: Space, corruption: Corruption, condition: Space | None, timed: bool) -> nn.Module:
        """The network for cells of a space.

        Raises:
            InputError: a U-Net for what is no image, widths that differ.
        """
        given = Conditioner(condition, self.condition_dropout) if condition is not None else None
        image = len(space.shape) in (2, 3) and bool(space.symbols)
        network, alike = self.suited(space).network, bool(space.symbols)
        require(network != "unet" or image, "network", "transformer, mlp or lstm, since x is not an image", network)
        require(network != "lstm" or alike, "network", "mlp or transformer, since columns stand in no order", network)
        if network == "unet":
            return SymbolImage(space.shape, space.symbols, self.hidden or (32, 64), given, self.dropout, timed)
        hidden = self.hidden or {"lstm": (192,), "mlp": (512, 512, 512)}.get(network, (128, 128, 128, 128))
        why = "one for all layers" if network == "lstm" else "since the blocks are residual"
        require(len(set(hidden)) == 1, "hidden", f"equal widths, {why}", hidden)
        states = [corruption.states + (space.end is not None)] * space.dimensions  # the end of a row is seen, not predicted
        outputs = corruption.states - corruption.masks
        if network == "lstm":
            return SymbolRecurrence(states, outputs, hidden, given, self.dropout, timed)
        if network == "mlp":
            return SymbolPerceptron(states, outputs, hidden, given, self.dropout, timed)
        return SymbolTransformer(states, outputs, hidden, given, self.dropout, timed, alike)
