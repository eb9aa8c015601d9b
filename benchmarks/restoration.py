"""Posterior samplers on exact denoisers against posteriors in closed form: 64 steps, 1024 draws, 16 readings of each problem.

`gaussian`: 8 correlated cells of which 3 are seen, σ = 0.05 or 0.5; `mixture`: 25 modes in the plane, unequal shares, one
linear reading, σ = 0.1.  `mean` is the root mean square error of the mean in posterior standard deviations over cells and
readings, the draws' own noise subtracted in square; `variance` the ratio; `sliced` the sliced Wasserstein-1 distance to 1024
exact draws, `floor` that of two such sets.  The peer is azula's form of the method on the same denoiser, on its own schedule:
the better of DDIM and DDPM under MMPS (whose solver takes as many steps as there are readings), and its defaults of the others.
`simplest` is the same of the simplest honest way: as many draws of p(x) as a run has evaluations, 64 × 1024, weighed by p(y|x)
and drawn again.
"""

import math
import time

METRIC = "sliced"
PROBLEMS, READINGS, DRAWS, STEPS = ("gaussian 0.05", "gaussian 0.5", "mixture 0.1"), 16, 1024, 64
METHODS = ("mmps", "twisted_smc", "pi_gdm", "dps")
VARIANTS = [{"problem": p, "method": m, "draws": DRAWS} for p in PROBLEMS for m in METHODS]
VARIANTS += [{"problem": p, "method": "twisted_smc", "draws": 4 * DRAWS} for p in PROBLEMS]


def prepare(folder, data):
    """Nothing: problems are drawn by their number."""


def law_of(name):
    """Weights, means and covariances."""
    import torch

    generator = torch.Generator().manual_seed(5)
    if name.startswith("gaussian"):
        turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=generator))[0]
        covariance = (turn * torch.linspace(0.05, 1.9, 8, dtype=torch.float64)) @ turn.mT
        return torch.ones(1).double(), torch.zeros(1, 8).double(), covariance[None]
    means = 8 * torch.cartesian_prod(*[torch.arange(-2, 3).double()] * 2)
    scale = (means.square().mean() + 1).sqrt()
    weights = torch.rand(25, dtype=torch.float64, generator=generator) + 0.2
    return weights / weights.sum(), means / scale, (torch.eye(2).double() / scale**2).repeat(25, 1, 1)


def exact_draws(law, n, generator):
    """n rows of a mixture."""
    import torch

    weights, means, covariances = law
    k = torch.multinomial(weights, n, True, generator=generator)
    e = torch.randn(n, means.shape[1], 1, dtype=torch.float64, generator=generator)
    return means[k] + (torch.linalg.cholesky(covariances)[k] @ e)[..., 0]


def readings(name, seed):
    """The law, the matrix and σ of a problem, one reading, its posterior as a law, and a generator."""
    import torch

    from likeli.gaussian.linear_reading import given_reading

    law, sigma, generator = law_of(name), float(name.split()[1]), torch.Generator().manual_seed(1000 + seed)
    seen = torch.eye(8).double()[:3] if name.startswith("gaussian") else torch.tensor([[0.8, 0.6]]).double()
    x = exact_draws(law, 1, generator)
    y = x @ seen.mT + sigma * torch.randn(1, len(seen), dtype=torch.float64, generator=generator)
    found = given_reading(y, seen, sigma, law[0], law[1], torch.linalg.cholesky(law[2]))
    return law, seen, sigma, y, (found.weights[0], found.means[0], found.covariances), found, generator


def judged(x, posterior, found, generator):
    """Squared error of the mean, ratio of variances, distance, floor."""
    import torch

    way = torch.randn(x.shape[1], 128, dtype=torch.float64, generator=generator)
    way = way / way.norm(dim=0)
    one, two = (exact_draws(posterior, DRAWS, generator) @ way for _ in range(2))
    own = (x[:DRAWS] @ way).sort(0).values
    error = ((x.mean(0) - found.mean[0]).square() / found.variance[0]).mean() - 1 / len(x)
    ratio = (x.var(0) / found.variance[0]).mean()
    apart = [(a - one.sort(0).values).abs().mean() for a in (own, two.sort(0).values)]
    return [error.item(), ratio.item(), *(v.item() for v in apart)]


def summed(rows, begin):
    """The numbers of a problem, with standard errors over its readings."""
    n, columns = len(rows), list(zip(*rows))
    means = [sum(c) / n for c in columns]
    errors = [math.sqrt(sum((v - m) ** 2 for v in c) / (n - 1) / n) for c, m in zip(columns, means)]
    root = math.copysign(math.sqrt(abs(means[0])), means[0])
    return {
        "seconds": time.perf_counter() - begin, "mean": root, "mean_squared_se": errors[0], "variance": means[1],
        "variance_se": errors[1], "sliced": means[2], "floor": means[3], "sliced_over_floor": means[2] / means[3],
    }  # fmt: skip


def ours(folder, problem, method, draws):
    import torch

    from likeli.diffusion import Multistep
    from likeli.diffusion.exact import MixtureDenoiser
    from likeli.diffusion.restoration import DPS, MMPS, Linear, PiGDM, TwistedSMC, posterior_draws, take_reading
    from likeli.diffusion.schedule import LogLinear

    how = {
        "mmps": MMPS(STEPS, sampler=Multistep()), "twisted_smc": TwistedSMC(STEPS, particles=draws),
        "pi_gdm": PiGDM(STEPS, sampler=Multistep()), "dps": DPS(STEPS),
    }[method]  # fmt: skip
    begin, rows = time.perf_counter(), []
    for seed in range(READINGS):
        law, matrix, sigma, y, posterior, found, generator = readings(problem, seed)
        cells = law[1].shape[1]
        denoise = MixtureDenoiser(LogLinear(-13.3, 10.0), *law).given(None)
        reading = take_reading(Linear((cells,), matrix), y, sigma, torch.ones(cells).double(), torch.zeros(cells).double())
        like = torch.zeros(1, cells, dtype=torch.float64)
        with torch.no_grad():
            x = posterior_draws(lambda rows, d=denoise: d, reading, how, draws, seed, like, draws)[:, 0]
        rows.append(judged(x, posterior, found, generator))
    return summed(rows, begin)


def peer(folder, problem, method, draws):
    import torch

    begin, found_by = time.perf_counter(), {way: [] for way in ("ddim", "ddpm") if method == "mmps" or way == "ddpm"}
    simplest = []
    for seed in range(READINGS):
        law, matrix, sigma, y, posterior, found, generator = readings(problem, seed)
        for way, rows in found_by.items():
            torch.manual_seed(seed)
            x = _azula(method, way, law, matrix, sigma, y, draws)
            rows.append(judged(x, posterior, found, generator))
    best = min((summed(rows, begin) | {"sampler": way} for way, rows in found_by.items()), key=lambda r: r["sliced"])
    for seed in range(READINGS):
        law, matrix, sigma, y, posterior, found, generator = readings(problem, seed)
        x = exact_draws(law, STEPS * draws, generator)
        log_w = -0.5 * ((y - x @ matrix.mT) / sigma).square().sum(1)
        chosen = torch.multinomial(log_w.softmax(0), draws, True, generator=generator)
        simplest.append(judged(x[chosen], posterior, found, generator))
    plain = summed(simplest, begin)
    return best | {f"simplest_{k}": plain[k] for k in ("mean", "variance", "sliced_over_floor")}


def _azula(method, way, law, matrix, sigma, y, draws):
    """(draws, cells) by one of azula's posterior samplers."""
    import torch
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance.dps import DPSSampler
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.pgdm import PGDMSampler
    from azula.guidance.tds import TDSSampler
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import VPSchedule
    from azula.sample import DDIMSampler, DDPMSampler

    class Exact(Denoiser):
        """E[x|z] of a Gaussian mixture, α x + σ ε being N(α μ_k, α² C_k + σ² I) in each part."""

        def __init__(self):
            super().__init__()
            self.schedule = VPSchedule()

        def forward(self, z, t):
            weights, means, covariances = law
            alpha, s = self.schedule(t)
            noisy = alpha**2 * covariances + s**2 * torch.eye(z.shape[1], dtype=z.dtype)
            off = z[:, None] - alpha * means
            solved = torch.linalg.solve(noisy, off[..., None])[..., 0]
            log_r = weights.log() - 0.5 * (off * solved).sum(-1) - 0.5 * torch.logdet(noisy)
            x = means + alpha * (covariances @ solved[..., None])[..., 0]
            return DiracPosterior(mean=(log_r.softmax(-1)[..., None] * x).sum(1))

    settings = {"steps": STEPS, "silent": True, "dtype": torch.float64}
    known, told = Exact(), y.expand(draws, -1)
    if method == "mmps":
        noise = IsotropicCovariance(torch.tensor(sigma**2, dtype=torch.float64))
        guided = MMPSDenoiser(known, told, lambda x: x @ matrix.mT, noise, iterations=len(matrix))
        sampler = {"ddim": DDIMSampler, "ddpm": DDPMSampler}[way](guided, **settings)
    elif method == "twisted_smc":
        gram = matrix @ matrix.mT

        def twist(x, ratio):  # N(y; A x̂, σ² + A Aᵀ (σ_t/α_t)²/(1 + (σ_t/α_t)²)), the data being of about unit spread
            spread = sigma**2 * torch.eye(len(matrix), dtype=x.dtype) + ratio**2 / (1 + ratio**2) * gram
            return torch.distributions.MultivariateNormal(x @ matrix.mT, spread).log_prob(y)

        sampler = TDSSampler(known, twist, **settings)
    elif method == "pi_gdm":
        inverse = torch.linalg.pinv(matrix)
        sampler = PGDMSampler(known, told, lambda x: x @ matrix.mT, lambda v: v @ inverse.mT, **settings)
    else:
        sampler = DPSSampler(known, told, lambda x: x @ matrix.mT, **settings)
    return sampler(sampler.init((draws, matrix.shape[1])))
