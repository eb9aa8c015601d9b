"""The families whose density is exp(−E(u))/Z: what they share whatever the energy is."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from likeli.config import Configurable
from likeli.contract import GenerativeModel, Knows, LogLikelihood, evaluating
from likeli.energy.annealing import LogZ, Path, both_ends
from likeli.errors import Unsupported, require
from likeli.probability.importance import log_mean_exp
from likeli.random import Ambient, Noise, seeded
from likeli.spaces import Space


class Contrast(Configurable):
    """Where the negative rows of contrastive divergence come from.

        ∇ E log p(x) = −E_data ∇E(x) + E_model ∇E(x),

    the second mean over states that a few moves have led away from the batch (CD-k), or from where they were left (persistent).

    Arguments:
        moves: k, moves of the chain a step.
        buffer: states that are kept from step to step; 0 starts every step at the batch, which is biased by k alone.
        restart: share of the states of a step that begin anew at the base.

    Source: Hinton (2002), Neural Computation 14; Tieleman (2008), ICML; Du & Mordatch (2019), arXiv:1903.08689, for the buffer.
    """

    def __init__(self, moves: int = 1, buffer: int = 0, restart: float = 0.0) -> None:
        require(1 <= moves <= 10_000, "moves", "a whole number from 1 to 10,000", moves)
        require(0 <= buffer <= 1_000_000, "buffer", "a whole number from 0 to 1,000,000", buffer)
        require(0 <= restart <= 1, "restart", "a share from 0 to 1", restart)
        self.moves, self.buffer, self.restart = moves, buffer, restart


class EnergyBased(GenerativeModel, Path):
    """p(u) = exp(−E(u))/Z on bits, or on the continuous form of a space; and a path to it from a base whose Z is known.

    log p is unnormalised until `normalise` has found log Z, and an estimate after it; that number is kept with the weights that
    it belongs to, and forgotten as soon as they change.
    """

    knows: ClassVar[Knows] = Knows.UNNORMALIZED
    strategy: ClassVar[str] = "contrastive"
    kinds: ClassVar[tuple[str, ...]] = ("real", "binary", "pixels", "counts", "table")
    no_condition: ClassVar[str] = "log Z of E(x; y) is another number for each y, to be annealed anew; fit a run for each class"
    constants: Tensor
    owner: Tensor

    def __init__(self, space: Space, contrast: Contrast) -> None:
        super().__init__(space)
        self.contrast = contrast
        self.bits = space.symbols == 2 and space.end is None and bool(space.shape)
        if not self.bits and space.obstacle:
            raise Unsupported(f"{space.obstacle}, which {self.kind()} needs where cells are not 0 or 1; vae takes them")
        self.register_buffer("constants", torch.zeros(6, dtype=torch.float64))  # of LogZ
        self.register_buffer("owner", torch.zeros((), dtype=torch.int64))  # of which weights

    # --- what an energy has to say --------------------------------------------------------------------------------------

    @abstractmethod
    def start(self, x: Tensor) -> None:
        """Take from the training rows what the base and the scales of the energy are; before the first step."""

    def tune(self) -> None:
        """Find the step sizes of `move`, where it has any, from torch's ambient generator."""

    def count(self) -> Tensor | None:
        """log Z by going through every state, where they are few enough."""
        return None

    # --- what follows ---------------------------------------------------------------------------------------------------

    def states(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """u (B, *shape) and log|∂u/∂x| (B,) of rows in the user's units."""
        if self.bits:
            return x.to(self.dtype), torch.zeros(len(x), dtype=self.dtype, device=x.device)
        return self.space.continuous(x, noise, self.dtype)

    def draw(self, noise: Noise, y: Tensor | None = None, *, steps: int = 500) -> Tensor:
        """The state of a chain after `steps` moves: from the base along the path for half of them, then at β = 1.

        Arguments:
            steps: moves; the more, the closer to p.
        """
        require(1 <= steps <= 10_000_000, "steps", "a whole number from 1", steps)
        u = self.base(noise)
        for k in range(steps):
            u = self.move(u, min(1.0, 2 * (k + 1) / steps), noise)
        return self.space.check(u.round().long()) if self.bits else self.space.from_model(u)

    def qualification(self, *, steps: int = 500, **options: Any) -> str:
        """Samples are where chains have come to, not draws of p."""
        return f"each sample is where a chain has come to after {steps} moves, a draw of p(x) only in the limit"

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None, *, samples: int = 16) -> LogLikelihood:
        """−E(u) + log|∂u/∂x| − log Z, or without log Z where it is not known; integers of many levels are dequantised.

        Arguments:
            samples: draws of the dequantisation noise, where there is any.
        """
        found, stderr, space = self.log_z, None, self.space
        if self.bits or space.measure == "density":
            u, log_det = self.states(x, Ambient(x))
            value = self.log_f(u) + log_det
        else:
            draws = (self.states(x, Ambient(x)) for _ in range(samples))
            value, stderr = log_mean_exp(self.log_f(u) + log_det for u, log_det in draws)
        shared = {} if found is None or found.exact else {"log_z": found.stderr, "log_z_width": found.high - found.low}
        value = value.to(self.dtype) if found is None else (value.double() - found.value).to(self.dtype)
        return LogLikelihood(value, self._known(found), space.measure, stderr, shared, space.dimensions)

    @property
    def knows_here(self) -> Knows:
        """What log Z makes of it."""
        return self._known(self.log_z)

    def _known(self, found: LogZ | None) -> Knows:
        if found is None:
            return Knows.UNNORMALIZED
        if not found.exact:
            return Knows.ESTIMATE
        return Knows.EXACT if self.bits or self.space.measure == "density" else Knows.LOWER_BOUND

    @property
    def log_z(self) -> LogZ | None:
        """What `normalise` has found, if the weights are still those that it was found for."""
        if int(self.owner) != self._fingerprint():
            return None
        value, stderr, low, high, ess, chains = self.constants.tolist()
        return LogZ(value, stderr, low, high, ess, int(chains))

    def normalise(self, *, chains: int = 500, temperatures: int = 2000, mixing: int | None = None, seed: int = 0) -> LogZ:
        """Find log Z, by going through every state where they are few, else by annealing from both ends; it is kept.

        Arguments:
            chains: on each way.
            temperatures: steps from the base to the model.
            mixing: moves at β = 1 between the way there and the way back; as many as temperatures if not given.
            seed: of all draws.

        Raises:
            InputError: a number outside its range.
            Diverged: an energy is not finite.
        """
        require(chains >= 2, "chains", "at least 2", chains)
        require(temperatures >= 1, "temperatures", "at least 1", temperatures)
        with evaluating(self), torch.no_grad(), seeded(seed, "normalise"):
            counted = self.count()
            if counted is not None:
                value = counted.item()
                found = LogZ(value, 0.0, value, value, 0.0, 0)
            else:
                betas = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)
                found = self.annealed(betas, chains, temperatures if mixing is None else mixing)
        numbers = [found.value, found.stderr, found.low, found.high, found.ess, float(found.chains)]
        self.constants.copy_(torch.tensor(numbers, dtype=torch.float64))
        self.owner.fill_(self._fingerprint())
        return found

    def annealed(self, betas: Tensor, chains: int, mixing: int) -> LogZ:
        """log Z from both ends, whether or not its states could be counted."""
        return both_ends(self, betas, chains, torch.empty(0, dtype=self.dtype, device=self.device), mixing=mixing)

    def _fingerprint(self) -> int:
        """A number that changes with any weight, and is never 0."""
        apart = ("constants", "owner", "paces")  # no density depends on those
        parts = [t for name, t in self.state_dict().items() if name not in apart]
        digest = hashlib.blake2b(digest_size=8)
        for t in parts:
            digest.update(t.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return int.from_bytes(digest.digest(), "little") >> 1 | 1

    @property
    def notes(self) -> list[str]:
        """What log Z is worth."""
        found = self.log_z
        if found is None:
            return ["log Z is not known: `model.normalise()`, or `likeli normalise RUN`, estimates it between two bounds"]
        return [str(found), *([found.complaint] if found.complaint else [])]
