"""A schedule from the numbers that a trained model came with: ᾱ, β or σ of every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from likeli.diffusion.schedule import Schedule, between
from likeli.errors import require
from likeli.spaces.arrays import as_tensor

END = 20.0  # γ that stands for no signal at all: α = 4.5e-5, SNR = 2e-9, below what float32 tells apart beside noise


class Tabulated(Schedule):
    """γ_1 < … < γ_T at t = (i − 1)/(T − 1), γ linear between; a chain of T levels meets every row of the table.

    Arguments:
        gammas: log σ²/α², at least two, rising, within ±60; the log-linear schedule if not given.
        preserving: whether α² + σ² = 1; else α = 1.

    Raises:
        InputError: numbers that do not rise, or too far out.
    """

    table: Tensor

    def __init__(self, gammas: tuple[float, ...] = (-13.3, 5.0), preserving: bool = True) -> None:
        super().__init__()
        table = torch.tensor(gammas, dtype=torch.float64)
        require(len(gammas) >= 2, "gammas", "at least two numbers", len(gammas))
        inside = bool((table.isfinite() & (table.abs() <= 60)).all())
        require(inside, "gammas", "numbers within 60 of 0", [g for g in gammas if not abs(g) <= 60][:4])
        require(bool((table.diff() > 0).all()), "gammas", "rising numbers", _turns(table, table.diff() > 0))
        self.gammas, self.preserving = gammas, preserving
        self.register_buffer("table", table, persistent=False)

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: Any, zero_terminal_snr: bool = False) -> Tabulated:
        """The variance-preserving chain with α_i² = ᾱ_i, ᾱ falling from below 1.

        With `zero_terminal_snr`, √ᾱ is shifted and stretched so that its last is 0 and its first stays.  A last ᾱ of 0, given
        or made, is taken as 2e-9 or less, since log SNR must be finite; there a network of ε tells nothing, one of v or x does.

        Arguments:
            alphas_cumprod: (T,), first step first.
            zero_terminal_snr: whether the last step is to hold no signal.

        Raises:
            InputError: numbers outside (0, 1), or that do not fall.

        Source: Lin et al. (2023), arXiv:2305.08891, algorithm 1, for the shift.
        """
        bar = _table(alphas_cumprod, "alphas_cumprod")
        fine = bool(((bar >= 0) & (bar < 1)).all()) and bool((bar[:-1] > 0).all())
        require(fine, "alphas_cumprod", "numbers below 1 and above 0 (the last may be 0)", _turns(bar, (bar > 0) & (bar < 1)))
        require(bool((bar.diff() < 0).all()), "alphas_cumprod", "falling numbers", _turns(bar, bar.diff() < 0))
        if zero_terminal_snr:
            root = bar.sqrt()
            bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
        gamma = torch.log1p(-bar) - bar.log()
        gamma[-1] = min(gamma[-1].item(), max(END, gamma[-2].item() + 1)) if zero_terminal_snr or bar[-1] == 0 else gamma[-1]
        return Tabulated(tuple(gamma.tolist()))

    @staticmethod
    def from_betas(betas: Any, zero_terminal_snr: bool = False) -> Tabulated:
        """The same from the variances β_i that each step adds, ᾱ_i = Π_{j≤i} (1 − β_j).

        Arguments:
            betas: (T,), in (0, 1); the last may be 1.
        """
        beta = _table(betas, "betas")
        fine = (beta > 0) & (beta < 1)
        fine[-1] = 0 < beta[-1] <= 1
        require(bool(fine.all()), "betas", "numbers above 0 and below 1 (the last may be 1)", _turns(beta, fine))
        return Tabulated.from_alphas_cumprod(torch.log1p(-beta).cumsum(0).exp(), zero_terminal_snr)

    @staticmethod
    def from_sigmas(sigmas: Any) -> Tabulated:
        """The variance-exploding one, α = 1, through σ_i of either order; leave a final 0 out, for x is drawn from p(x|z_0).

        Arguments:
            sigmas: (T,), positive, rising or falling, in units of data of about unit variance.
        """
        sigma = _table(sigmas, "sigmas")
        require(bool((sigma > 0).all()), "sigmas", "positive numbers, a final 0 left out", _turns(sigma, sigma > 0))
        sigma = sigma.flip(0) if sigma[0] > sigma[-1] else sigma
        rising = sigma.diff() > 0
        require(bool(rising.all()), "sigmas", "numbers that rise or fall throughout", _turns(sigma, rising))
        return Tabulated(tuple((2 * sigma.log()).tolist()), preserving=False)

    def gamma(self, t: Tensor) -> Tensor:
        return between(self.table, t)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        gamma = self.gamma(t)
        if not self.preserving:
            return 1 + 0 * gamma, (gamma / 2).exp()
        return (-softplus(gamma) / 2).exp(), (-softplus(-gamma) / 2).exp()


def _table(given: Any, what: str) -> Tensor:
    table = as_tensor(given, what).double()
    require(table.ndim == 1 and len(table) >= 2, what, "at least two numbers, one a step", f"shape {tuple(table.shape)}")
    return table


def _turns(table: Tensor, fine: Tensor) -> str:
    """The first number that is not as it should be, or the pair."""
    i = int((~fine).nonzero()[0]) if not bool(fine.all()) else 0
    return f"{table[i : i + 1 + len(table) - len(fine)].tolist()} at step {i + 1}"
