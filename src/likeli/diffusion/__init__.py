"""Noise schedules, denoisers and samplers; importing this room makes every sampler and schedule known by its name."""

from likeli.diffusion.denoiser import Denoise, Denoiser, Prediction
from likeli.diffusion.langevin import AnnealedLangevin, EulerMaruyama, PredictorCorrector
from likeli.diffusion.learned import Monotone
from likeli.diffusion.sampler import DDIM, Ancestral, Sampler, invert, trajectory
from likeli.diffusion.schedule import Schedule
from likeli.diffusion.solvers import Adams, DPMSolver, Euler, Heun, Multistep

__all__ = [
    "DDIM",
    "Adams",
    "Ancestral",
    "AnnealedLangevin",
    "DPMSolver",
    "Denoise",
    "Denoiser",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Monotone",
    "Multistep",
    "Prediction",
    "PredictorCorrector",
    "Sampler",
    "Schedule",
    "invert",
    "trajectory",
]
