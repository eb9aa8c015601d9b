"""What a sampler itself costs a step: 20 steps on a network that gives zero at once, batch 1; against diffusers' schedulers.

The peer's time is that of `set_timesteps` and 20 calls of `step`; ours that of the whole trajectory, with the check for numbers
that are not finite and the reading of ε as x̂.  The least of 40 runs each, after one to warm up.
"""

import time

METRIC = "microseconds_per_step"
VARIANTS = [{"sampler": s} for s in ("ddim", "dpm_solver", "adams")]
STEPS, RUNS, SHAPE = 20, 40, (1, 3, 32, 32)


def prepare(folder, data):
    """Nothing."""


def least(run):
    """Microseconds a step of the fastest of `RUNS` runs."""
    run()
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return {"microseconds_per_step": min(seconds) / STEPS * 1e6}


def ours(folder, sampler):
    import torch

    from likeli.diffusion.denoiser import Denoise, Prediction
    from likeli.diffusion.sampler import trajectory
    from likeli.diffusion.schedule import LinearBeta
    from likeli.diffusion.times import uniform
    from likeli.random import Ambient

    eps, z = torch.zeros(SHAPE), torch.ones(SHAPE)
    bound = Denoise(LinearBeta(), lambda z, at: Prediction.of_eps(eps, z, *(v.to(z) for v in (at.alpha, at.sigma))))

    def run():
        for _ in trajectory(bound, z, uniform(STEPS), Ambient(z), sampler):
            pass

    with torch.no_grad():
        return least(run)


def peer(folder, sampler):
    """DDIM for ours; DPM-Solver++(2M) for the multistep ones."""
    import diffusers
    import torch

    scheduler = (diffusers.DDIMScheduler if sampler == "ddim" else diffusers.DPMSolverMultistepScheduler)()
    eps, first = torch.zeros(SHAPE), torch.ones(SHAPE)

    def run():
        scheduler.set_timesteps(STEPS)
        z = first
        for t in scheduler.timesteps:
            z = scheduler.step(eps, t, z, return_dict=False)[0]

    with torch.no_grad():
        return least(run)
