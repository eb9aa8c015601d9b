"""The best single-layer VAE in 600 CPU seconds of one core on statically binarised MNIST: IWAE-5000 on 1,000 test digits.

Ours has a mixture of 200 Gaussians as its prior; pythae's VAE, IWAE, VampPrior and IAF run in turn, with layers of the same
size and its own trainer's defaults but for Adam at 1e-3 and batches of 128, for as many epochs as fit in the time.
"""

import time

import numpy as np

from benchmarks._precision import fastest
from likeli.models.vae import VAE, CoderBackbone, LatentPrior, VariationalObjective

METRIC, HIGHER = "negative_log_likelihood", False
VARIANTS = [{"family": family, "seconds": 600} for family in ("VAE", "IWAE", "VAMP", "VAE_IAF")]
TEST, SAMPLES, LATENT, HIDDEN, TRIAL = 1000, 5000, 40, (300, 300), 1000
PRIOR, OBJECTIVE = LatentPrior("mixture", 200), VariationalObjective(train_samples=5, gradient="dreg")
SETTINGS = {"lr": 2e-3, "ema": 0.9995}


def prepare(folder, data):
    with np.load(data / "mnist_static_binary.npz") as file:
        parts = {part: np.unpackbits(file[part], axis=1) for part in ("train", "valid", "test")}
    rows = np.random.default_rng(0).permutation(len(parts["test"]))[:TEST]
    np.savez(folder / "digits.npz", train=parts["train"], valid=parts["valid"][:2000], test=parts["test"][rows])


def load(folder):
    import torch

    with np.load(folder / "digits.npz") as data:
        return tuple(torch.from_numpy(data[part]) for part in ("train", "valid", "test"))


def ours(folder, family, seconds):
    import torch

    from likeli.data.dataset import Data
    from likeli.evaluation.likelihood import evaluate
    from likeli.spaces import Binary
    from likeli.training import fit

    train, valid, test = load(folder)
    space, rows = Binary((784,)), torch.arange(len(train) + len(valid))
    data = Data("mnist", torch.cat([train, valid]), None, space, None, rows[: len(train)], rows[len(train) :], rows[:0])

    settings = SETTINGS | {"precision": fastest()}

    def trained(steps):
        torch.manual_seed(0)
        model = VAE(space, LATENT, CoderBackbone(HIDDEN, activation="relu"), latent_prior=PRIOR, objective=OBJECTIVE)
        begin = time.process_time()
        fit(model, data, steps=steps, progress=False, **settings)
        return model, time.process_time() - begin

    _, spent = trained(TRIAL)
    model, spent = trained(int(TRIAL * (seconds - spent) / spent))
    return {"negative_log_likelihood": -evaluate(model, test, samples=SAMPLES).nats, "cpu_seconds": spent}


def peer(folder, family, seconds):
    import pythae.models as zoo
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    from benchmarks.vae import pythae_networks

    class Deadline(TrainingCallback):
        """Ends the training when the time is up, after the epoch under way."""

        def on_epoch_end(self, training_config, **kwargs):
            if time.process_time() - begin > seconds:
                raise TimeoutError

    train, valid, test = load(folder)
    rows = [BaseDataset(x.float(), torch.zeros(len(x))) for x in (train, valid)]
    torch.manual_seed(0)
    name = f"{family}_Config" if family == "VAE_IAF" else f"{family}Config"
    config = getattr(zoo, name)(input_dim=(784,), latent_dim=LATENT, reconstruction_loss="bce")
    model = getattr(zoo, family)(config, *pythae_networks())
    options = {"per_device_train_batch_size": 128, "per_device_eval_batch_size": 500, "num_epochs": 10_000}
    settings = BaseTrainerConfig(output_dir=str(folder / "pythae"), learning_rate=1e-3, no_cuda=True, **options)
    trainer = BaseTrainer(model, *rows, training_config=settings, callbacks=[Deadline()])
    begin = time.process_time()
    try:
        trainer.train()
    except TimeoutError:
        model = trainer._best_model.eval()
    with torch.no_grad():
        nats = model.get_nll(test.float(), n_samples=SAMPLES, batch_size=250)
    return {"negative_log_likelihood": -float(nats)}
