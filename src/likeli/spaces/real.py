"""Real cells and their heads: densities are per user unit, and a missing cell (NaN) adds nothing, which integrates it out."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from likeli.errors import require
from likeli.random import Noise
from likeli.spaces.base import Space
from likeli.spaces.head import Cells, Observation, open_uniform

Number = float | tuple[float, ...]
Scale = Literal["fixed", "learned", "cells", "decoder"]
FEWEST_PIXELS = 16  # columns from which whole numbers up to 255 are thought to be a picture
FARTHEST = 80.0  # on a stretched scale: sinh is 3e34 there, and its square still a float32
NARROWEST = 1e-3  # standard deviation, in model units: likelihoods of repeated values would grow without bound below


class Real(Space):
    """Real vectors or images: u = (x − mean) / scale, so log p(x) = log p(u) − Σ log scale.

    A stretched column has u = asinh((x − mean)/scale) instead, linear about its middle and logarithmic in its tails, and
    log|∂u/∂x| = −log scale − ½ log(1 + ((x − mean)/scale)²).

    Arguments:
        shape: one example.
        mean, scale: standardisation, one number or one per cell (row-major).
        names: column names, for messages and files.
        stretch: for each column, whether it is stretched; none if empty.
    """

    measure = "density"
    obstacle = ""
    spacing = 0.0
    rank = 5

    @classmethod
    def recognise(cls, x: Tensor) -> str:
        """All that is left; told if it looks like pixels written as fractions."""
        if not x.is_floating_point():
            return "negative whole numbers were taken as real values"
        written = {"x": x.double(), "255 * x": 255 * x.double(), "127.5 * (x + 1)": 127.5 * (x.double() + 1)}
        for how, grey in written.items() if x.ndim > 2 or x.shape[1] >= FEWEST_PIXELS else ():
            if bool(((grey >= -1e-3) & (grey <= 255.001) & ((grey - grey.round()).abs() < 1e-3)).all()):
                give = f"these look like pixels written as fractions: give ({how}).round() as uint8 for an honest mass"
                return give + " of pixels; bits/dim of a density of reals are not those of pixels"
        return ""

    def __init__(
        self,
        shape: tuple[int, ...],
        mean: Number = 0.0,
        scale: Number = 1.0,
        names: tuple[str, ...] = (),
        stretch: tuple[bool, ...] = (),
    ) -> None:
        super().__init__(shape, names)
        self.mean, self.scale, self.stretch = mean, scale, tuple(stretch)
        self._mean, self._scale = _cells(mean, self.shape, "mean"), _cells(scale, self.shape, "scale")
        require(bool((self._scale > 0).all()), "scale", "positive numbers", scale)
        require(len(self.stretch) in (0, *self.shape), "stretch", "none, or one a column", stretch)
        self._bent = torch.tensor(self.stretch) if any(self.stretch) else None
        self.unit = None if any(self.stretch) else self._scale
        require(len(self.names) in (0, self.shape[0] if self.shape else 1), "names", "one per column", names)

        u_max = float(torch.finfo(torch.float32).max)
        self._low, self._high = self._mean - self._scale * u_max, self._mean + self._scale * u_max
        coarse = float((self._mean.abs() / self._scale).max()) > 1e3  # float32 in user units would lose the data's digits
        coarse = coarse or not 1e-30 < float(self._scale.min()) <= float(self._scale.max()) < 1e30
        self._coarse = coarse or self._bent is not None

    def head(self) -> Observation:
        return Gaussian().on(self)

    def _check_values(self, x: Tensor, what: str, missing: bool) -> Tensor:
        x = x if x.is_floating_point() else x.double()
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        self._refuse(x, x.isinf(), what, "finite numbers")
        if not missing:
            self._refuse(x, x.isnan(), what, "finite numbers (this family cannot take missing cells)")
        far = (x > self._high.to(x.device)) | (x < self._low.to(x.device))
        self._refuse(x, far, what, "numbers that fit float32 once standardised")
        return x

    def _standard(self, x: Tensor) -> Tensor:
        return (x.double() - self._mean.to(x.device)) / self._scale.to(x.device)

    def to_model(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        v = self._standard(x)
        return (v if self._bent is None else torch.where(self._bent.to(x.device), v.asinh(), v)).to(dtype)

    def log_slope(self, x: Tensor) -> Tensor:
        """log ∂u/∂x of each cell, (B, *shape) float64 or what broadcasts to it; not looked at where x is missing."""
        slope = -self._scale.to(x.device).log()
        if self._bent is None:
            return slope
        v = self._standard(x).nan_to_num(0)
        return slope - torch.where(self._bent.to(x.device), v.hypot(torch.ones_like(v)).log(), 0)

    def continuous(self, x: Tensor, noise: Noise, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        u, slope = self.to_model(x, dtype), self.log_slope(x).expand(len(x), *self.shape)
        return u, torch.where(u.isnan(), 0, slope).flatten(1).sum(1).to(dtype)

    def from_model(self, u: Tensor) -> Tensor:
        v = u.double()
        if self._bent is not None:
            v = torch.where(self._bent.to(u.device), v.clamp(-FARTHEST, FARTHEST).sinh(), v)
        x = v * self._scale.to(u.device) + self._mean.to(u.device)
        return x if self._coarse else x.to(u.dtype)


def _cells(value: Number, shape: tuple[int, ...], what: str) -> Tensor:
    cells = torch.from_numpy(np.asarray(value, dtype=np.float64))
    require(bool(cells.isfinite().all()), what, "finite numbers", value)
    require(cells.ndim == 0 or cells.numel() == math.prod(shape), what, f"1 or {math.prod(shape)} numbers", value)
    return cells if cells.ndim == 0 else cells.reshape(shape)


class RealCells(Cells):
    """Cells of a location-scale family: x = mean + scale·(location + width·ε), ε of a standard law.

    Arguments:
        location, log_width: of each cell in model units, (B, *shape) or what broadcasts to it.
        space: gives the user's units.
    """

    def __init__(self, location: Tensor, log_width: Tensor, space: Real) -> None:
        super().__init__(location[:, None])
        self.location, self.log_width, self.space = location, log_width, space

    @abstractmethod
    def standard_log_prob(self, e: Tensor) -> Tensor:
        """log density of ε."""

    @abstractmethod
    def standard_draw(self, noise: Noise) -> Tensor:
        """ε of every cell."""

    def cell_log_prob(self, x: Tensor) -> Tensor:
        u = self.space.to_model(x, self.location.dtype)
        missing = u.isnan()
        e = (u.masked_fill(missing, 0) - self.location) * (-self.log_width).exp()
        slope = self.space.log_slope(x).to(u.dtype)
        return (self.standard_log_prob(e) - self.log_width + slope).masked_fill(missing, 0)

    @property
    def mean(self) -> Tensor:
        """E[x|z], (B, *shape) in the user's units; of a stretched column the median."""
        return self.space.from_model(self.location)

    def draw(self, noise: Noise) -> Tensor:
        e = self.standard_draw(noise).to(self.location)
        return self.space.from_model(self.location + self.log_width.exp() * e)


class GaussianCells(RealCells):
    """Independent normal cells."""

    def standard_log_prob(self, e: Tensor) -> Tensor:
        return -0.5 * e.square() - 0.5 * math.log(2 * math.pi)

    def standard_draw(self, noise: Noise) -> Tensor:
        return noise.normal(*self.event_shape)


class StudentTCells(RealCells):
    """Independent Student-t cells.

    Arguments:
        df: degrees of freedom, a scalar tensor above 1.
    """

    def __init__(self, location: Tensor, log_width: Tensor, space: Real, df: Tensor) -> None:
        super().__init__(location, log_width, space)
        self.df = df

    def standard_log_prob(self, e: Tensor) -> Tensor:
        half = (self.df + 1) / 2
        constant = half.lgamma() - (self.df / 2).lgamma() - 0.5 * (self.df * math.pi).log()
        return constant - half * (e.square() / self.df).log1p()

    def standard_draw(self, noise: Noise) -> Tensor:
        return torch.from_numpy(stdtrit(self.df.item(), open_uniform(noise, *self.event_shape).cpu().numpy()))


class LocationScale(Observation):
    """A location for each cell from the decoder, and a scale that is fixed, learned once, learned for each cell, or decoded.

    Subclasses store `scale` and `width`.
    """

    spaces = (Real,)
    scale: Scale
    width: float

    @property
    def channels(self) -> int:
        return 2 if self.scale == "decoder" else 1

    def bind(self) -> None:
        require(self.scale in ("fixed", "learned", "cells", "decoder"), "scale", "fixed, learned, cells or decoder", self.scale)
        require(self.width >= NARROWEST, "width", f"at least {NARROWEST:g}", self.width)
        start = torch.full(self.space.shape if self.scale == "cells" else (), math.log(self.width))
        if self.scale in ("learned", "cells"):
            self.log_width = nn.Parameter(start)
        else:
            self.register_buffer("log_width", start, persistent=False)

    def parts(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log width in model units."""
        log_width = self.log_width.to(out.dtype)
        if self.scale == "decoder":
            log_width = log_width + out[:, 1]
        return out[:, 0], log_width.clamp(min=math.log(NARROWEST))


class Gaussian(LocationScale):
    """Real cells N(μ(z), σ²), in the user's units: log N(u; μ, σ²) − Σ log scale at u = (x − mean)/scale.

    Arguments:
        scale: σ is `fixed`, one `learned` number, one for each of the `cells`, or a second output of the `decoder`.
        width: σ in model units (of the standardised data), where it is fixed; where it starts, if it is learned.
    """

    def __init__(self, scale: Scale = "cells", width: float = 0.5) -> None:
        super().__init__()
        self.scale, self.width = scale, width

    def read(self, out: Tensor) -> GaussianCells:
        return GaussianCells(*self.parts(out), self.space)


class StudentT(LocationScale):
    """Real cells of Student's t, whose heavy tails forgive outliers; degrees of freedom are learned, above 1.

    Arguments:
        scale: as for the Gaussian head.
        width: as for the Gaussian head; the scale of t, not its standard deviation.
        df: degrees of freedom at the start, above 1.
    """

    def __init__(self, scale: Scale = "cells", width: float = 0.5, df: float = 4.0) -> None:
        super().__init__()
        self.scale, self.width, self.df = scale, width, df
        require(df > 1, "df", "above 1, so that the mean exists", df)

    def bind(self) -> None:
        super().bind()
        self.log_df = nn.Parameter(torch.tensor(math.log(self.df - 1)))

    def read(self, out: Tensor) -> StudentTCells:
        return StudentTCells(*self.parts(out), self.space, 1 + self.log_df.exp().to(out.dtype))


class MixtureDensity(Observation):
    """Real cells of a mixture of Gaussians, each with its own place, width and weight: p(u) = Σ_c π_c N(u; μ_c, σ_c²).

    Arguments:
        components: Gaussians in the mixture of each cell.
    """

    spaces = (Real,)

    def __init__(self, components: int = 5) -> None:
        super().__init__()
        self.components = components
        require(components >= 1, "components", "at least 1", components)

    @property
    def channels(self) -> int:
        return 3 * self.components

    def read(self, out: Tensor) -> MixtureDensityCells:
        return MixtureDensityCells(out, self.space, self.components)


class MixtureDensityCells(Cells):
    """Independent mixtures of Gaussians.

    Arguments:
        out: (B, 3·components, *shape): places, log widths and logits of the weights, in model units.
        space: gives the user's units.
    """

    def __init__(self, out: Tensor, space: Real, components: int) -> None:
        super().__init__(out)
        self.space, self.parts = space, gaussian_parts(out.unflatten(1, (3, components)))

    def cell_log_prob(self, x: Tensor) -> Tensor:
        u = self.space.to_model(x, self.out.dtype)
        missing = u.isnan()
        log_p = gaussian_mixture_log_prob(u.masked_fill(missing, 0), *self.parts)
        return (log_p + self.space.log_slope(x).to(u.dtype)).masked_fill(missing, 0)

    @property
    def mean(self) -> Tensor:
        location, _, log_weight = self.parts
        return self.space.from_model((log_weight.exp() * location).sum(1))

    def draw(self, noise: Noise) -> Tensor:
        return self.space.from_model(draw_gaussian_mixture(noise, *self.parts).to(self.out))


def gaussian_parts(out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places, log widths and log weights, (B, 3, components, *shape) → each (B, components, *shape); apart at the start."""
    location, log_width, logits = out.unbind(1)
    spread = torch.linspace(-1, 1, out.shape[2] + 2, dtype=out.dtype, device=out.device)[1:-1] * (out.shape[2] > 1) * 2
    location = location + spread.reshape(-1, *[1] * (location.ndim - 2))
    return location, (log_width + math.log(0.5)).clamp(min=math.log(NARROWEST)), logits.log_softmax(1)


def gaussian_mixture_log_prob(u: Tensor, location: Tensor, log_width: Tensor, log_weight: Tensor) -> Tensor:
    """log Σ_c π_c N(u; μ_c, σ_c²) of every cell, u (B, *shape) in model units."""
    e = (u[:, None] - location) * (-log_width).exp()
    return (log_weight - 0.5 * e.square() - log_width).logsumexp(1) - 0.5 * math.log(2 * math.pi)


def draw_gaussian_mixture(noise: Noise, location: Tensor, log_width: Tensor, log_weight: Tensor) -> Tensor:
    """One draw for each cell, (B, *shape)."""
    shape = location.shape[2:]
    cdf = log_weight.double().exp().cumsum(1)
    chosen = (cdf <= noise.uniform(*shape).to(cdf)[:, None] * cdf[:, -1:]).sum(1, keepdim=True).clamp(max=cdf.shape[1] - 1)
    return (location.gather(1, chosen) + log_width.gather(1, chosen).exp() * noise.normal(*shape).to(location)[:, None])[:, 0]
