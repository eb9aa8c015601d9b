"""DEIS, UniPC and DPM-Solver++ of the SDE: convergence orders, the formulas of papers and peers, the law that noise keeps."""

import math

import pytest
import torch
from test_solvers import end, mixture, slope, start_and_truth

from likeli.diffusion import DDIM, DEIS, DPMSolver, DPMSolverSDE, Euler, Heun, Multistep, UniPC, even_log_snr, karras, uniform
from likeli.diffusion.denoiser import Denoise, Prediction
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.sampler import Ancestral, trajectory
from likeli.diffusion.schedule import Cosine, Karras, LinearBeta, LogLinear, Schedule
from likeli.errors import Diverged, InputError

F64 = torch.float64
ORDERS = [
    (DEIS(1), 1),
    (DEIS(2), 2),
    (DEIS(3), 2),
    (DEIS(4), 2),
    (UniPC(1), 2),
    (UniPC(2), 3),
    (UniPC(2, "bh1"), 3),
    (UniPC(3), 3),
    (DPMSolverSDE(1, 0.0), 1),
    (DPMSolverSDE(2, 0.0), 2),
    (DPMSolverSDE(3, 0.0), 2),
]
NAMES = [f"{s.kind()}-{s.order}-{order}" for s, order in ORDERS]


@pytest.mark.parametrize("schedule", [LogLinear(-5, 5), Karras(0.05, 10.0), LinearBeta(first=1e-2)], ids=lambda s: s.kind())
@pytest.mark.parametrize("sampler, order", ORDERS, ids=NAMES)
def test_order_on_a_mixture(sampler, order, schedule):
    """Slope of log error on log steps over 32 to 128 even steps in log SNR, within 0.35 of the order or better."""
    denoise, (z, truth), steps = mixture(schedule), start_and_truth(schedule), [32, 64, 128]
    errors = [(end(denoise, z, even_log_snr(schedule, n), sampler) - truth).norm().item() for n in steps]
    assert slope(errors, steps) > order - 0.35
    assert errors[-1] < 0.1


@pytest.mark.parametrize("sampler, order", ORDERS, ids=NAMES)
def test_order_on_a_gaussian_against_the_closed_form(sampler, order):
    """The flow keeps (z − α m)/√(α² v + σ²) of N(m, v) constant; slope over 50 to 200 steps within 0.35 of the order."""
    schedule, one = Cosine(-6, 6), torch.ones(1, 1, dtype=F64)
    denoise = MixtureDenoiser(schedule, one[0], 0.7 * one, 0.25 * one).given(None)
    z, t, s = torch.linspace(-2, 2, 9, dtype=F64)[:, None], schedule.at(1.0), schedule.at(0.0)
    scale = ((s.alpha**2 * 0.25 + s.sigma**2) / (t.alpha**2 * 0.25 + t.sigma**2)).sqrt()
    truth, steps = s.alpha * 0.7 + (z - t.alpha * 0.7) * scale, [50, 100, 200]
    errors = [(end(denoise, z, uniform(n), sampler) - truth).abs().max().item() for n in steps]
    assert slope(errors, steps) > order - 0.35


# --- formulas, written down from the papers and run beside ours ---------------------------------------------------------


def run(denoise, z, times, update):
    """z after `update(z, points, predictions, i)` at every step; predictions are those at the points that were reached."""
    points, seen = [denoise.schedule.at(t) for t in times], []
    for i in range(len(points) - 1):
        seen.append(denoise(z, points[i]))
        z = update(z, points, seen, i)
    return z


def lam(p):
    return (p.alpha / p.sigma).log()


def deis(order):
    """tAB-DEIS in log ρ, its integrals by adaptive quadrature in place of antiderivatives."""
    from scipy.integrate import quad

    def update(z, points, seen, i):
        t, s, k = points[i], points[i + 1], min(order, i + 1)
        rho = [(points[i - j].sigma / points[i - j].alpha).item() for j in range(k)]
        out = z / t.alpha
        for j in range(k):
            others = [m for m in range(k) if m != j]

            def basis(r, j=j, others=others):
                return math.prod(math.log(r / rho[m]) / math.log(rho[j] / rho[m]) for m in others)

            last = (s.sigma / s.alpha).item()
            out = out + quad(basis, rho[0], last, epsabs=1e-13, epsrel=1e-12)[0] * seen[i - j].eps
        return s.alpha * out

    return update


def sde_2m(eta, noise):
    """The `heun` form of k-diffusion, for α = 1."""

    def update(z, points, seen, i):
        t, s = points[i], points[i + 1]
        h, x = lam(s) - lam(t), seen[i].x
        out = s.sigma / t.sigma * (-eta * h).exp() * z - torch.expm1(-h - eta * h) * x
        if i:
            slope = (x - seen[i - 1].x) * h / (lam(t) - lam(points[i - 1]))
            out = out + (torch.expm1(-h - eta * h) / (h + eta * h) + 1) * slope
        return out + s.sigma * (-torch.expm1(-2 * eta * h)).sqrt() * noise[i]

    return update


def sde_3m(eta, noise, half):
    """The form of k-diffusion, for α = 1, whose second difference enters by half of its integral if `half`."""

    def update(z, points, seen, i):
        if i < 2:
            return sde_2m(eta, noise)(z, points, seen, i)
        t, s, x = points[i], points[i + 1], [seen[i - j].x for j in range(3)]
        h, last, before = (lam(b) - lam(a) for a, b in ((t, s), (points[i - 1], t), (points[i - 2], points[i - 1])))
        c, r0, r1 = h * (1 + eta), last / h, before / h
        first, second = (x[0] - x[1]) / r0, (x[1] - x[2]) / r1
        d1, d2 = first + (first - second) * r0 / (r0 + r1), (first - second) / (r0 + r1)
        phi_2 = torch.expm1(-c) / c + 1
        out = (-c).exp() * z - torch.expm1(-c) * x[0] + phi_2 * d1 - (phi_2 / c - 0.5) * d2 * (1 if half else 2)
        return out + s.sigma * (-torch.expm1(-2 * eta * h)).sqrt() * noise[i]

    return update


def unipc(order, bh2):
    """UniPC by the linear systems of the paper's theorem 3.1, data prediction."""
    state = {}

    def solve(z, t, s, places, values):
        h = lam(s) - lam(t)
        hh, r = -h, torch.tensor([(p - lam(t)) / h for p in places[1:]], dtype=F64)
        big, b, phi = torch.expm1(hh) if bh2 else hh, [], torch.expm1(hh) / hh - 1
        for k in range(1, len(r) + 1):
            b.append(phi * math.factorial(k) / big)
            phi = phi / hh - 1 / math.factorial(k + 1)
        rho = torch.tensor([0.5], dtype=F64)
        if len(r) > 1:
            rho = torch.linalg.solve(torch.stack([r**k for k in range(len(r))]), torch.stack(b))
        slopes = sum(w * (v - values[0]) / q for w, v, q in zip(rho, values[1:], r)) if len(r) else 0
        return s.sigma / t.sigma * z - s.alpha * torch.expm1(hh) * values[0] - s.alpha * big * slopes

    def update(z, points, seen, i):
        if i:
            k = state["order"]
            nodes = [i - 1, i, *range(i - 2, i - 1 - k, -1)]
            places, values = [lam(points[j]) for j in nodes], [seen[j].x for j in nodes]
            z = solve(state["z"], points[i - 1], points[i], places, values)
        k = state["order"] = min(order, i + 1)
        state["z"] = z
        nodes = range(i, i - k, -1)
        return solve(z, points[i], points[i + 1], [lam(points[j]) for j in nodes], [seen[j].x for j in nodes])

    return update


class Given:
    """Noise written down beforehand."""

    def __init__(self, values):
        self.rows, self.values = values.shape[1], iter(values)

    def normal(self, *shape):
        return next(self.values)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_deis_is_the_papers(order):
    schedule = LinearBeta(first=1e-2)
    denoise, z = mixture(schedule), torch.randn(8, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    times = even_log_snr(schedule, 9)
    torch.testing.assert_close(end(denoise, z, times, DEIS(order)), run(denoise, z, times, deis(order)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_the_papers(order, variant):
    schedule = Cosine(-6, 6)
    denoise, z = mixture(schedule), torch.randn(8, 2, dtype=F64, generator=torch.Generator().manual_seed(4))
    times = karras(schedule, 9)
    ours = end(denoise, z, times, UniPC(order, variant))
    torch.testing.assert_close(ours, run(denoise, z, times, unipc(order, variant == "bh2")), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("order", [2, 3])
def test_the_sde_solver_is_that_of_peers_integrated_exactly(order, eta):
    """2M is k-diffusion's `heun` form to rounding; 3M is theirs with the second difference's whole integral."""
    schedule, g = Karras(0.05, 20.0), torch.Generator().manual_seed(5)
    denoise, times = mixture(schedule), even_log_snr(schedule, 9)
    z, noise = 20 * torch.randn(8, 2, dtype=F64, generator=g), torch.randn(9, 8, 2, dtype=F64, generator=g)
    ours = list(trajectory(denoise, z, times, Given(noise), DPMSolverSDE(order, eta)))[-1][1]
    theirs = sde_2m(eta, noise) if order == 2 else sde_3m(eta, noise, False)
    torch.testing.assert_close(ours, run(denoise, z, times, theirs), rtol=1e-9, atol=1e-9)


def test_half_a_second_difference_errs_more():
    """Half of the second difference's integral, as in peers: at η = 0 and 64 steps nearly twice as far from the flow."""
    schedule = Karras(0.05, 10.0)
    denoise, times = mixture(schedule), even_log_snr(schedule, 64)
    z = 10 * torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    truth, still = end(denoise, z, even_log_snr(schedule, 600), Multistep(4)), torch.zeros(64, 64, 2, dtype=F64)
    error = {
        "3M": (end(denoise, z, times, DPMSolverSDE(3, 0.0)) - truth).norm(),
        "3M, half": (run(denoise, z, times, sde_3m(0.0, still, True)) - truth).norm(),
        "2M": (end(denoise, z, times, DPMSolverSDE(2, 0.0)) - truth).norm(),
    }
    assert error["3M"] < 0.6 * error["3M, half"] < 0.6 * error["2M"]


class Unit:
    """The noise of step i is 1 in row i + 2 alone, so that a linear run tells what each draw does to the end."""

    def __init__(self, steps):
        self.rows, self.step = steps + 2, 0

    def normal(self, *shape):
        out = torch.zeros(self.rows, *shape, dtype=F64)
        out[2 + self.step], self.step = 1, self.step + 1
        return out


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("order, expected", [(1, 1), (2, 2), (3, 2)])
def test_the_law_at_the_end_is_right_to_its_order(order, expected, eta):
    """N(0.7, 0.25): a run is linear in z_1 and its draws, so its mean and variance are sums of squares without sampling."""
    schedule, one, wrong, steps = LogLinear(-6, 6), torch.ones(1, 1, dtype=F64), [], [25, 50, 100, 200]
    denoise, t, s = MixtureDenoiser(schedule, one[0], 0.7 * one, 0.25 * one).given(None), schedule.at(1.0), schedule.at(0.0)
    for n in steps:
        z = (t.alpha * 0.7).expand(n + 2, 1).clone()
        z[1] += (t.alpha**2 * 0.25 + t.sigma**2).sqrt()
        x = list(trajectory(denoise, z, even_log_snr(schedule, n), Unit(n), DPMSolverSDE(order, eta)))[-1][1][:, 0]
        assert x[0].item() == pytest.approx((s.alpha * 0.7).item(), abs=1e-10)
        wrong.append(abs((x[1:] - x[0]).square().sum() - (s.alpha**2 * 0.25 + s.sigma**2)).item())
    assert slope(wrong, steps) > expected - 0.15


def test_one_point_is_ddim():
    schedule = LogLinear(-5, 5)
    denoise, z = mixture(schedule), torch.randn(8, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(9, 8, 2, dtype=F64, generator=torch.Generator().manual_seed(4))
    pairs = ((DEIS(1), DDIM()), (DPMSolverSDE(1, 0.0), DDIM()), (DPMSolverSDE(1, 1.0), DDIM(1.0)))
    for ours, known in pairs:
        a, b = (list(trajectory(denoise, z, uniform(9), Given(noise), s))[-1][1] for s in (ours, known))
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class Whole(Schedule):
    """α = cos, σ = sin over the whole quarter: no noise at t = 0 and no signal at t = 1."""

    def forward(self, t):
        return (math.pi / 2 * t).cos() * (t < 1), (math.pi / 2 * t).sin()


@pytest.mark.parametrize("sampler", [
    Multistep(), Multistep(correct=False), DPMSolver(), UniPC(), DEIS(), DPMSolverSDE(3), DDIM(), DDIM(1.0), Ancestral(),
], ids=lambda s: s.kind())  # fmt: skip
def test_steps_to_no_noise_and_from_no_signal(sampler):
    """Of N(0.7, 0.25) with the exact x̂: 400 samples after 40 steps have its mean and variance within 4.5 s.e. and 0.02 bias."""
    schedule = Whole()

    def exact(z, at):
        gain = at.alpha * 0.25 / (at.alpha**2 * 0.25 + at.sigma**2)
        x = 0.7 + gain * (z - at.alpha * 0.7)
        return Prediction(z, at.alpha, at.sigma, x, (z - at.alpha * x) / at.sigma)

    z = torch.randn(400, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    x = end(Denoise(schedule, exact), z, uniform(40), sampler)
    assert abs(x.mean().item() - 0.7) < 4.5 * 0.5 / math.sqrt(1200) + 0.02
    assert abs(x.var().item() - 0.25) < 4.5 * 0.25 * math.sqrt(2 / 1200) + 0.02


def test_what_has_no_meaning_at_an_end_is_one_line():
    with pytest.raises(InputError, match="finite log SNR"):
        even_log_snr(Whole(), 5)
    z = torch.ones(2, 1, dtype=F64)
    none = Denoise(Whole(), lambda z, at: Prediction.of_eps(z, z, at.alpha, at.sigma))
    for sampler in (Heun(), Euler(), Multistep(), DEIS()):
        with pytest.raises(Diverged, match="not finite at step 1 of 4"):
            end(none, z, uniform(4), sampler)
    for cls, *wrong in ((DEIS, 5), (UniPC, 0), (UniPC, 2, "bh3"), (DPMSolverSDE, 4), (DPMSolverSDE, 2, -1.0)):
        with pytest.raises(InputError):
            cls(*wrong)
