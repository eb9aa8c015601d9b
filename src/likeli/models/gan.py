"""Generative adversarial networks: x = G(z) is learned only from what tells its draws and the data apart.

    z ~ N(0, I),  x = G(z, y);      a discriminator D = σ(f) is trained to tell data from draws, and G to keep it from that

A draw costs one pass of one network.  There is no log p(x): where z has fewer numbers than x, the draws lie on a surface, which
has no density; where it has more, p(x) is an integral over all z that lead to x, which is intractable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeli.config import Configurable
from likeli.contract import GenerativeModel, Knows, LogLikelihood, evaluating, row_noise
from likeli.errors import Unsupported, require
from likeli.nn.conv import ConvDecoder, ConvEncoder, image_shape, usual_stages
from likeli.nn.embedding import Conditioner
from likeli.nn.mlp import MLP
from likeli.random import Ambient, Noise
from likeli.spaces import Space

Game = Literal["minimax", "non_saturating", "hinge", "wgan_gp", "relativistic"]
SEARCH = 300  # steps towards a code
SMALL = 256  # cells of an image from which it is worth a convolution
HARDLY = 1e-12  # keeps the root of a squared slope differentiable at 0


class Payoff(NamedTuple):
    """What either side minimises, given the logits f(x) of data and f(x̃) of draws, (B,) each → (B,)."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]


GAMES: dict[str, Payoff] = {
    "minimax": Payoff(lambda f, g: F.softplus(-f) + F.softplus(g), lambda f, g: -F.softplus(g)),
    "non_saturating": Payoff(lambda f, g: F.softplus(-f) + F.softplus(g), lambda f, g: F.softplus(-g)),
    "hinge": Payoff(lambda f, g: F.relu(1 - f) + F.relu(1 + g), lambda f, g: -g),
    "wgan_gp": Payoff(lambda f, g: g - f, lambda f, g: -g),
    "relativistic": Payoff(lambda f, g: F.softplus(g - f), lambda f, g: F.softplus(f - g)),
}


class AdversarialObjective(Configurable):
    """The game, and how the discriminator is kept from growing steep.

        minimax          D: −log D(x) − log(1 − D(x̃))       G: log(1 − D(x̃))
        non_saturating   D: the same                        G: −log D(x̃)
        hinge            D: (1 − f(x))₊ + (1 + f(x̃))₊       G: −f(x̃)
        wgan_gp          D: f(x̃) − f(x) + λ(‖∇f‖ − 1)²      G: −f(x̃),   ∇f at a place between x and x̃
        relativistic     D: −log σ(f(x) − f(x̃))             G: −log σ(f(x̃) − f(x)),   x and x̃ in pairs

    To D's loss R1 and R2 add r1/2 · ‖∇f(x)‖² and r2/2 · ‖∇f(x̃)‖², in units of the standard
    deviation of all cells.

    Arguments:
        game: one of these.
        r1, r2: weights of the penalties on data and on draws; 0.1 if not given, 0 for wgan_gp.
        slope: λ of wgan_gp.
        turns: steps of D for one of G; 5 for wgan_gp and 1 otherwise if not given.

    Raises:
        InputError: a number outside its range.

    Source: Goodfellow et al. (2014), arXiv:1406.2661; Lim & Ye (2017), arXiv:1705.02894, for hinge; Gulrajani et al. (2017),
    arXiv:1704.00028, for wgan_gp; Jolicoeur-Martineau (2018), arXiv:1807.00734, for relativistic; Mescheder et al. (2018),
    arXiv:1801.04406, and Huang et al. (2024), arXiv:2501.05441, for R1 and R2.
    """

    def __init__(
        self,
        game: Game = "relativistic",
        r1: float | None = None,
        r2: float | None = None,
        slope: float = 10.0,
        turns: int | None = None,
    ) -> None:
        require(game in GAMES, "game", f"one of {', '.join(GAMES)}", game)
        for name, weight in (("r1", r1), ("r2", r2), ("slope", slope)):
            require(weight is None or 0 <= weight < math.inf, name, "a number of at least 0", weight)
        require(turns is None or 1 <= turns <= 1000, "turns", "a whole number from 1 to 1000", turns)
        self.game, self.r1, self.r2, self.slope, self.turns = game, r1, r2, slope, turns


class GAN(GenerativeModel):
    """x = G(z), z ~ N(0, I), learned against a discriminator; it draws in one pass and knows nothing of log p(x).

    The discriminator sees reals as they are.  Of grey levels, which are evenly spaced, it sees data and draws with the same
    uniform noise of one level, so that a generator of exact levels is a perfect one.  Counts and the columns of tables it sees
    as every density does, dequantised on their own scales, and there the generator makes the noise as well.

    Arguments:
        space: reals; pixels, counts and tables by their continuous form.
        latent_dim: numbers in z; twice as many as cells, at most 64, if not given.
        hidden: widths of the perceptrons, or channels of the discriminator's stages, which the generator mirrors.
        network: mlp or conv; conv for images of 256 cells or more if not given, below which a perceptron is 10 times as fast.
        objective: the game; relativistic with R1 and R2 if not given.
        condition: what y is, for p(x|y).

    Raises:
        InputError: a number outside its range.
        Unsupported: cells without a continuous form.

    An untrained generator's cells have about the means and spreads of the training rows'.

    Source: Goodfellow et al. (2014), arXiv:1406.2661; Mirza & Osindero (2014), arXiv:1411.1784, for y; Sønderby et al. (2016),
    arXiv:1610.04490, for noise on both sides.
    """

    knows: ClassVar[Knows] = Knows.NOTHING
    strategy: ClassVar[str] = "adversarial"
    kinds: ClassVar[tuple[str, ...]] = ("real", "binary", "pixels", "counts", "table")
    calls: ClassVar[str] = "1"
    mean: Tensor
    scale: Tensor
    width: Tensor
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-3, "ema": 0.99, "betas": (0.0, 0.99)}

    def __init__(
        self,
        space: Space,
        latent_dim: int | None = None,
        hidden: tuple[int, ...] | None = None,
        network: Literal["mlp", "conv"] | None = None,
        objective: AdversarialObjective | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space)
        self.latent_dim = min(2 * space.dimensions, 64) if latent_dim is None else latent_dim
        self.hidden, self.network = None if hidden is None else tuple(hidden), network
        self.objective, self.condition = objective, condition
        require(1 <= self.latent_dim <= 100_000, "latent_dim", "a whole number from 1 to 100,000", latent_dim)
        require(network in (None, "mlp", "conv"), "network", "mlp or conv", network)
        require(all(h >= 1 for h in self.hidden or ()), "hidden", "widths of at least 1", hidden)
        if space.obstacle:
            raise Unsupported(f"{space.obstacle}, through which a generator could learn; autoregressive and vae take them")
        given = AdversarialObjective() if objective is None else objective
        self.game, self.payoff, self.slope = given.game, GAMES[given.game], given.slope
        usual = 0.0 if given.game == "wgan_gp" else 0.1
        self.r1, self.r2 = (usual if r is None else r for r in (given.r1, given.r2))
        self.turns = given.turns or (5 if given.game == "wgan_gp" else 1)
        self.given = Conditioner(condition)
        picture = len(space.shape) > 1 and space.dimensions >= SMALL
        self.generator, self.discriminator = self._networks(network or ("conv" if picture else "mlp"))
        spread(self.generator)
        self.register_buffer("mean", torch.zeros(space.shape))  # of the training rows' cells, where there are any
        self.register_buffer("scale", torch.ones(space.shape))
        self.register_buffer("width", torch.ones(()))  # standard deviation of all cells together, the discriminator's unit

    def _networks(self, network: str) -> tuple[nn.Module, nn.Module]:
        """(z, y) → model units and (u, y) → a logit."""
        shape, y, cells = self.space.shape, self.given.width, self.space.dimensions
        if network == "mlp":
            hidden = (128, 128, 128) if self.hidden is None else self.hidden
            return MLP(self.latent_dim + y, cells, hidden, "relu"), MLP(cells + y, 1, hidden, "relu")
        image_shape(shape)
        hidden = self.hidden or usual_stages(shape)
        return ConvDecoder(self.latent_dim + y, shape, 1, hidden[::-1], 0.0), ConvEncoder(shape, y, 1, hidden, 0.0)

    # --- the two networks -----------------------------------------------------------------------------------------------

    def generate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """G(z, y), (B, latent_dim) → (B, *shape) in model units."""
        raw = self.generator(torch.cat([z, self.given(y, z)], 1)).reshape(len(z), *self.space.shape)
        return torch.addcmul(self.mean, self.scale, raw)

    def logit(self, u: Tensor, y: Tensor | None = None) -> Tensor:
        """f(u, y), (B, *shape) in model units → (B,)."""
        c, u = self.given(y, u), (u - self.mean.mean()) / self.width
        if isinstance(self.discriminator, ConvEncoder):
            return self.discriminator(u, c)[:, 0]
        return self.discriminator(torch.cat([u.flatten(1), c], 1))[:, 0]

    def real(self, x: Tensor) -> Tensor:
        """What the discriminator sees of rows, (B, *shape)."""
        return self.space.continuous(x, Ambient(x), self.dtype)[0]

    def fake(self, like: Tensor, y: Tensor | None = None) -> Tensor:
        """What it sees of as many fresh draws, (B, *shape); differentiable."""
        u, noise = self.generate(Ambient(like).normal(self.latent_dim).to(self.dtype), y), self.space.spacing
        return u + noise * (torch.rand_like(u) - 0.5) if noise else u

    # --- the game -------------------------------------------------------------------------------------------------------

    def discriminator_loss(self, u: Tensor, v: Tensor, y: Tensor | None = None) -> Tensor:
        """What D minimises on data u and draws v, (B, *shape) each → (B,), penalties and all."""
        with torch.enable_grad():
            both = torch.cat([u, v]).detach().requires_grad_()
            logits = self.logit(both, None if y is None else torch.cat([y, y]))
            f, g = logits.chunk(2)
            loss = self.payoff.discriminator(f, g)
            if self.r1 or self.r2:
                on_data, on_draws = squared_slope(logits, both).chunk(2)
                loss = loss + self.width**2 * (self.r1 * on_data + self.r2 * on_draws) / 2
            if self.game == "wgan_gp" and self.slope:
                share = torch.rand(len(u), *[1] * (u.ndim - 1), dtype=u.dtype, device=u.device)
                between = torch.lerp(u, v, share).detach().requires_grad_()
                steepness = self.width * (squared_slope(self.logit(between, y), between) + HARDLY).sqrt()
                loss = loss + self.slope * (steepness - 1).square()
        return loss if torch.is_grad_enabled() else loss.detach()

    def generator_loss(self, u: Tensor, v: Tensor, y: Tensor | None = None) -> Tensor:
        """What G minimises, (B, *shape) each → (B,)."""
        f = self.logit(u, y) if self.game == "relativistic" else v.new_zeros(len(v))
        return self.payoff.generator(f, self.logit(v, y))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What the discriminator minimises, (B,), against fresh draws; it does not tell how good they are."""
        u = self.real(x)
        with torch.no_grad():
            v = self.fake(u, y)
        return self.discriminator_loss(u, v, y)

    def density_ratio(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log D(x)/(1 − D(x)), (B, *shape) → (B,): the discriminator's log p(x)/q(x), p of the data and q of the draws.

        It is that ratio for the best D only; R1 and R2 pull it towards 0.

        Raises:
            Unsupported: a game whose best discriminator is no such ratio.

        Source: Goodfellow et al. (2014), proposition 1.
        """
        if self.game not in ("minimax", "non_saturating"):
            why = "a ratio up to an unknown constant" if self.game == "relativistic" else "no density ratio"
            raise Unsupported(f"the best discriminator of {self.game} is {why}; minimax and non_saturating have one")
        x = self.space.check(x).to(self.device)
        y = self.check_condition(y, len(x))
        with evaluating(self), torch.no_grad(), row_noise(self.space, 0, x, y, "density_ratio"):
            return self.logit(self.real(x), y)

    # --- the contract ---------------------------------------------------------------------------------------------------

    def draw(self, noise: Noise, y: Tensor | None = None) -> Tensor:
        """G(z) at z ~ N(0, I)."""
        return self.decode(noise.normal(self.latent_dim).to(self.dtype), y)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """argmin_z ‖G(z, y) − u‖², (B, *shape) → (B, latent_dim), by a search that may end beside it.

        300 steps of Adam from the nearest of 256 codes of N(0, I), the same for every row.

        Source: Creswell & Bharath (2016), arXiv:1611.05644.
        """
        with evaluating(self), torch.enable_grad(), row_noise(self.space, 0, x, y, "encode"):
            u = self.real(x).flatten(1)
            z = self._nearest(u, y).requires_grad_()
            first, second = torch.zeros_like(z), torch.zeros_like(z)
            for step in range(1, SEARCH + 1):
                (slope,) = torch.autograd.grad((self.generate(z, y).flatten(1) - u).square().sum(), z)
                first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope.square()
                pace = 0.1 * (1 - step / (SEARCH + 1)) * (1 - 0.99**step) ** 0.5 / (1 - 0.9**step)
                z = (z - pace * first / (second.sqrt() + 1e-8)).detach().requires_grad_()
        return z.detach()

    @torch.no_grad()
    def _nearest(self, u: Tensor, y: Tensor | None) -> Tensor:
        """Of 256 codes the one whose draw is nearest to each row, (B, cells) → (B, latent_dim)."""
        codes = torch.randn(256, self.latent_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(u)
        if y is None:
            return codes[torch.cdist(u, self.generate(codes).flatten(1)).argmin(1)]
        each = (self.generate(codes, c.expand(len(codes), *c.shape)).flatten(1) for c in y)
        return torch.stack([codes[(draws - one).square().sum(1).argmin()] for draws, one in zip(each, u)])

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """G(z, y), (B, latent_dim) → (B, *shape) in the user's units."""
        return self.space.from_model(self.generate(z, y))

    def measure_likelihood(self, x: Tensor, y: Tensor | None = None) -> LogLikelihood:
        raise Unsupported(self._why_not())

    def _why_not(self) -> str:
        z, cells = self.latent_dim, self.space.dimensions
        surface = f"its draws lie on a surface of {z} dimensions among {cells}, which has no density"
        why = surface if z < cells else "it is an integral over all z that lead to x, which is intractable"
        return f"gan has no log p(x): {why}. Compare its samples (`likeli test`), or use flow or vae for a log p(x)"


def spread(net: nn.Module) -> None:
    """Give every layer about the variance of its input, so that an untrained generator is as wide as standardised data.

    Source: He et al. (2015), arXiv:1502.01852.
    """
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.any():
            nn.init.kaiming_normal_(layer.weight)


def squared_slope(logits: Tensor, at: Tensor) -> Tensor:
    """‖∇f‖² at each row, (B,), itself differentiable."""
    (slope,) = torch.autograd.grad(logits.sum(), at, create_graph=True)
    return slope.flatten(1).square().sum(1)
