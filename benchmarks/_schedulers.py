"""The deterministic samplers of diffusers and azula, with every grid and order that they document, on one exact denoiser."""

import itertools
import math

import numpy as np
import torch


def methods(bar, sigma, nfe):
    """(name, run) of every method; run(denoise, noise) gives the end in units of the data and which end it is."""
    yield from _diffusers(bar, sigma, nfe)
    yield from _edm(sigma, nfe)
    yield from _azula(bar, sigma, nfe)


def _diffusers(bar, sigma, nfe):
    import diffusers as d

    betas = (1 - bar / np.concatenate([[1.0], bar[:-1]])).tolist()
    grids = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
    spacings = [{"timestep_spacing": s} for s in ("linspace", "trailing")]
    some = [*grids[1:], *spacings]
    ends = [{"final_sigmas_type": e} for e in ("zero", "sigma_min")]
    orders = [{"solver_order": k} for k in (1, 2, 3)]
    multi = {"trained_betas": betas, "prediction_type": "sample"}
    families = [
        (
            d.DPMSolverMultistepScheduler,
            1,
            orders,
            [*some, {"use_lu_lambdas": True}],
            ends,
            [{"solver_type": s, "lower_order_final": o} for s in ("midpoint", "heun") for o in (True, False)],
        ),
        (d.DPMSolverSinglestepScheduler, 1, orders, grids, ends, [{}]),
        (
            d.UniPCMultistepScheduler,
            1,
            orders,
            some,
            ends,
            [{"solver_type": s, "lower_order_final": o} for s in ("bh1", "bh2") for o in (True, False)],
        ),
        (d.DEISMultistepScheduler, 1, orders, some, [{}], [{}]),
        (d.EulerDiscreteScheduler, 1, [{}], some, ends, [{}]),
        (d.HeunDiscreteScheduler, 2, [{}], some, [{}], [{}]),
        (d.KDPM2DiscreteScheduler, 2, [{}], some, [{}], [{}]),
        (d.LMSDiscreteScheduler, 1, [{"order": k} for k in (2, 3, 4)], some, [{}], [{}]),
        (d.DDIMScheduler, 1, [{}], spacings, [{}], [{"clip_sample": False, "set_alpha_to_one": False}]),
    ]
    for cls, evaluations, *choices in families:
        for parts in itertools.product(*choices):
            options = {k: v for part in parts for k, v in part.items()}
            yield cls.__name__, _scheduler(cls, multi | options, nfe, evaluations, bar, sigma)


def _scheduler(cls, options, nfe, evaluations, bar, sigma):
    def run(denoise, noise):
        extra = {"order": options.pop("order")} if "order" in options else {}
        scheduler = cls(**options)
        scheduler.alphas_cumprod = torch.from_numpy(bar)  # its own are float32, too coarse for the least σ
        scheduler.set_timesteps((nfe + evaluations - 1) // evaluations)
        exploding = hasattr(scheduler, "sigmas") and not hasattr(scheduler, "lambda_t")
        check(scheduler.sigmas[0] if hasattr(scheduler, "sigmas") else sigma[int(scheduler.timesteps[0])], sigma[-1])
        z = noise * sigma[-1] / (1 if exploding else math.sqrt(1 + sigma[-1] ** 2))
        for t in scheduler.timesteps:
            z = scheduler.step(_output(scheduler, denoise, z, t, sigma, exploding), t, z, **extra, return_dict=False)[0]
        last = float(scheduler.sigmas[-1]) if hasattr(scheduler, "sigmas") else sigma[0]
        if last < 1e-6:
            return z, "zero"
        check(last, sigma[0])
        return (z if exploding else z * math.sqrt(1 + sigma[0] ** 2)), "clean"

    return run


def _output(scheduler, denoise, z, t, sigma, exploding):
    if not hasattr(scheduler, "sigmas"):
        scale = sigma[int(t)]
    else:
        if scheduler.step_index is None:
            scheduler._init_step_index(t)
        scale = float(scheduler.sigmas[scheduler.step_index])
    if exploding:
        scheduler.is_scale_input_called = True
        return denoise(z, scale)
    alpha = 1 / math.sqrt(1 + scale**2)
    return denoise(z / alpha, scale)


def check(found, wanted):
    """Refuse a grid that does not reach from end to end."""
    if abs(float(found) / wanted - 1) > 1e-3:
        raise ValueError("another range")


def _edm(sigma, nfe):
    import diffusers as d

    ends = {"sigma_min": float(sigma[0]), "sigma_max": float(sigma[-1]), "prediction_type": "epsilon"}
    for grid, last in itertools.product(("karras", "exponential"), ("zero", "sigma_min")):
        common = ends | {"sigma_schedule": grid, "final_sigmas_type": last}
        yield "EDMEulerScheduler", _edm_scheduler(d.EDMEulerScheduler, common, nfe)
        for order, solver, low in itertools.product((1, 2, 3), ("midpoint", "heun"), (True, False)):
            options = common | {"solver_order": order, "solver_type": solver, "lower_order_final": low}
            yield "EDMDPMSolverMultistepScheduler", _edm_scheduler(d.EDMDPMSolverMultistepScheduler, options, nfe)


def _edm_scheduler(cls, options, nfe):
    def run(denoise, noise):
        scheduler = cls(**options)
        scheduler.set_timesteps(nfe)
        z, s = noise * options["sigma_max"], scheduler.config.sigma_data
        for t in scheduler.timesteps:
            if scheduler.step_index is None:
                scheduler._init_step_index(t)
            scheduler.is_scale_input_called = True
            at = float(scheduler.sigmas[scheduler.step_index])
            skip, out = s**2 / (at**2 + s**2), at * s / math.sqrt(at**2 + s**2)
            z = scheduler.step((denoise(z, at) - skip * z) / out, t, z, return_dict=False)[0]
        return z, "zero" if options["final_sigmas_type"] == "zero" else "clean"

    return run


def _azula(bar, sigma, nfe):
    from azula import sample

    kinds = [(cls, {"order": k}) for k in (1, 2, 3, 4) for cls in ("zAB", "vAB", "zEAB", "xEAB", "REAB")]
    for (kind, options), (forth, back) in itertools.product([("Heun", {}), ("Euler", {}), *kinds], GRIDS):
        cls = getattr(sample, f"{kind}Sampler")
        yield f"azula {kind}", _azula_sampler(cls, options, nfe // 2 if kind == "Heun" else nfe, forth, back, sigma)


# what each of azula's schedules, and EDM's grid, are even in: VE, Karras, VP, cosine, rectified
GRIDS = [
    (np.log, torch.exp),
    (lambda s: s ** (1 / 7), lambda u: u**7),
    (lambda s: np.sqrt(np.log1p(s * s)), lambda u: (u * u).expm1().sqrt()),
    (np.arctan, torch.tan),
    (lambda s: s / (1 + s), lambda u: u / (1 - u)),
]


class _Known:
    """A denoiser as azula wants it: a schedule and a mean."""

    def __init__(self, denoise, first, last, back):
        self.denoise, self.first, self.last, self.back = denoise, first, last, back

    def schedule(self, t):
        sigma = self.back(self.first + (self.last - self.first) * t)
        return torch.ones_like(sigma), sigma

    def __call__(self, z, t):
        self.mean = self.denoise(z, self.schedule(t)[1])
        return self


def _azula_sampler(cls, options, steps, forth, back, sigma):
    def run(denoise, noise):
        known = _Known(denoise, float(forth(sigma[0])), float(forth(sigma[-1])), back)
        sampler = cls(known, steps=steps, silent=True, dtype=torch.float64, **options)
        return sampler(noise * sigma[-1]), "clean"

    return run
