"""Restoration: linear readings of an example, and samplers of p(x|y) from a denoiser; importing this room names them all."""

from likeli.diffusion.restoration.matching import DPS, MMPS, PiGDM
from likeli.diffusion.restoration.operator import Blur, Composed, Crop, Grey, Linear, Mask, Operator, Pool, Stacked
from likeli.diffusion.restoration.posterior_sampler import PosteriorSampler, Repaint, Replacement, posterior_draws
from likeli.diffusion.restoration.reading import Reading, affine, take_reading
from likeli.diffusion.restoration.twisted import TwistedSMC

__all__ = [
    "DPS",
    "MMPS",
    "Blur",
    "Composed",
    "Crop",
    "Grey",
    "Linear",
    "Mask",
    "Operator",
    "PiGDM",
    "Pool",
    "PosteriorSampler",
    "Reading",
    "Repaint",
    "Replacement",
    "Stacked",
    "TwistedSMC",
    "affine",
    "posterior_draws",
    "take_reading",
]
