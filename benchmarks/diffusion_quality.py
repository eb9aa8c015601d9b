"""A diffusion of MNIST's 256 grey levels in equal CPU seconds on one core: against denoising-diffusion-pytorch.

Both have at most 2 million parameters and are scored by one evaluator: bits per dimension of the bound on test digits.  The
peer's network is read as a denoiser on its own schedule of 1,000 levels; its first level, which the peer leaves open, is
decoded by the mixture of three Gaussians around x̂ and a uniform that is best on validation digits.  Samples take 20
evaluations of the network; a classifier that tells them from digits sees them with 256 and with 16 grey levels, since ours has
exact zeros in the background and the peer does not.  `bits_at_half_time` is ours on validation digits half-way through, while
its learning rate is still high.  A model whose loss is the bound spends its steps on fine noise: which digit is drawn is
settled at large noise, so that the shares of classes (`class_p_value`) are asked of flow matching.
"""

import time

import numpy as np

from benchmarks._mnist import bits, judge, load, space
from benchmarks._precision import fastest

METRIC, HIGHER = "bits_per_dim", False
SHARES = {"seconds": 2380, "drawn": 2000, "family": "flow_matching", "network": "dit"}
VARIANTS = [{"seconds": 890}, SHARES]
VALID, WATCHED, TEST, SCORED, NFE, BATCH = 5000, 512, 2000, 500, 20, 64


def prepare(folder, data):
    with np.load(data / "mnist.npz") as file:
        images, labels, test, theirs = (file[f"{part}_{of}"] for part in ("train", "test") for of in ("images", "labels"))
    order, rows = np.random.default_rng(0).permutation(len(images)), np.random.default_rng(1).permutation(len(test))[:TEST]
    parts = {"train": images[order[VALID:]], "valid": images[order[:VALID]], "labels": labels[order[VALID:]]}
    np.savez(folder / "digits.npz", test=test[rows], all_test=test, all_test_labels=theirs, **parts)


def ours(folder, seconds, drawn=500, seed=0, family="vdm", network="unet", **options):
    import torch

    import likeli
    from likeli.data.dataset import Data
    from likeli.training import fit

    train, valid, test, _ = load(folder)
    rows, n = torch.arange(len(train) + WATCHED), len(train)
    data = Data("mnist", torch.cat([train, valid[:WATCHED]]), None, space(), None, rows[:n], rows[n:], rows[:0])
    settings = {"batch": 32, "precision": fastest(), "lr": 2e-3, "valid_rows": WATCHED} | options.pop("settings", {})
    torch.manual_seed(seed)
    model = likeli.families()[family](space(), network=network, **options)
    steps = int(seconds / seconds_a_step(model, train, settings))
    begin = time.process_time()
    history = fit(model, data, steps=steps, validate_every=max(steps // 8, 1), seed=seed, progress=False, **settings)
    spent = time.process_time() - begin
    curve = [row["valid"] / (784 * np.log(2)) for row in history.rows if "valid" in row]
    score, error = bits(model, test[:SCORED])
    solver = {"sampler": "multistep", "grid": "log_snr"} if family == "vdm" else {}
    samples = model.sample(drawn, steps=NFE, seed=0, **solver)
    np.save(folder / "ours.npy", samples.numpy())
    return {
        "bits_per_dim": score,
        "stderr": error,
        "bits_at_half_time": float(min(curve[: len(curve) // 2])),
        "cpu_seconds": spent,
        "images_per_second": steps * settings["batch"] / spent,
        "parameters": sum(p.numel() for p in model.parameters()),
    } | judge(samples, folder)


def seconds_a_step(model, train, settings):
    """CPU seconds of a training step, on a copy."""
    import copy
    import statistics

    from likeli.training.engine import Descent, training_loss
    from likeli.training.settings import resolve

    trial = copy.deepcopy(model).train()
    chosen = resolve(settings, trial.train_defaults)
    descent, taken = Descent(trial.parameters(), chosen, trial), []
    for _ in range(12):
        begin = time.process_time()
        descent.step(training_loss(trial.loss, train[: settings["batch"]], None, chosen).mean(), 1e-4)
        taken.append(time.process_time() - begin)
    return statistics.median(taken[2:])


def peer(folder, seconds, drawn=500, family=None, network=None):
    """`family` and `network` are ours alone."""
    import torch

    from benchmarks._stand_ins import stand_in

    stand_in("torchvision", "zuko")
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    train, valid, test, _ = load(folder)
    torch.manual_seed(0)
    net = Unet(dim=32, dim_mults=(1, 2, 2), channels=1, flash_attn=False)
    model = GaussianDiffusion(net, image_size=28, timesteps=1000, sampling_timesteps=NFE)
    adam = torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.99))
    ema, generator = EMA(model, beta=0.995, update_every=10), torch.Generator().manual_seed(0)
    steps, begin = 0, time.process_time()
    while time.process_time() - begin < seconds:
        rows = torch.randint(0, len(train), (BATCH,), generator=generator)
        loss = model(train[rows, None].float() / 255)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        ema.update()
        steps += 1
    spent, best = time.process_time() - begin, ema.ema_model.eval()
    return {
        "cpu_seconds": spent,
        "images_per_second": steps * BATCH / spent,
        "parameters": sum(p.numel() for p in net.parameters()),
    } | scored(folder, best, valid, test, drawn)


def scored(folder, diffusion, valid, test, drawn):
    """The peer's bound and its samples."""
    import torch

    from benchmarks._lucid import as_likeli

    score, error = bits(as_likeli(diffusion, valid[:256]), test[:SCORED])
    samples = (diffusion.sample(drawn)[:, 0] * 255).round().clamp(0, 255).to(torch.uint8)
    np.save(folder / "peer.npy", samples.numpy())
    return {"bits_per_dim": score, "stderr": error} | judge(samples, folder)
