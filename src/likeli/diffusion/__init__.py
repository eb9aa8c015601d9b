"""Schedules, denoisers, samplers, grids, the flow; importing this room makes every sampler and schedule known by its name."""

from likeli.diffusion.denoiser import Denoise, Denoiser, Prediction, clipped
from likeli.diffusion.exact import variance_ratio
from likeli.diffusion.exponential import DEIS, DPMSolverSDE, UniPC
from likeli.diffusion.langevin import AnalyticDPM, AnnealedLangevin, EulerMaruyama, PredictorCorrector
from likeli.diffusion.learned import Monotone
from likeli.diffusion.probability_flow import flow, log_density, solve
from likeli.diffusion.sampler import DDIM, Ancestral, Sampler, invert, trajectory
from likeli.diffusion.schedule import Schedule
from likeli.diffusion.solvers import Adams, DPMSolver, Euler, Heun, Multistep
from likeli.diffusion.tabulated import Tabulated
from likeli.diffusion.times import even_log_snr, grid_of, karras, optimal, uniform

__all__ = [
    "DDIM",
    "DEIS",
    "Adams",
    "AnalyticDPM",
    "Ancestral",
    "AnnealedLangevin",
    "DPMSolver",
    "DPMSolverSDE",
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
    "Tabulated",
    "UniPC",
    "clipped",
    "even_log_snr",
    "flow",
    "grid_of",
    "invert",
    "karras",
    "log_density",
    "optimal",
    "solve",
    "trajectory",
    "uniform",
    "variance_ratio",
]
