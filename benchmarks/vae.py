"""Training a VAE 784-300-300-40 on binary MNIST, batch 128, Adam at 1e-3: against pythae's VAE of the same layers.

Both see the same number of images in the same number of steps; the bound of both is computed by the same formula on the same
held-out digits, outside the time.  The speed counts only while our bound is at most 0.5 nats below the other side's; it is
above it after equal steps, because our codes start informative where pythae keeps torch's default initialisation.  Processor
seconds of one thread each, so that a busy machine does not matter.
"""

import math
import time

import numpy as np

from likeli.models.vae import CoderBackbone

METRIC, HIGHER = "images_per_second", True
VARIANTS = [{"precision": "32"}, {"precision": "bf16-mixed"}]
BATCH, ROWS, EPOCHS, HELD_OUT = 128, 25_600, 4, 2000
SIDES = (784, 300, 300, 40)


def prepare(folder, data):
    with np.load(data / "mnist_static_binary.npz") as file:
        train, valid = (np.unpackbits(file[part], axis=1) for part in ("train", "valid"))
    rows = np.random.default_rng(0).permutation(len(train))[:ROWS]
    np.savez(folder / "data.npz", train=train[rows], valid=valid[:HELD_OUT])


def load(folder):
    import torch

    with np.load(folder / "data.npz") as data:
        return torch.from_numpy(data["train"]), torch.from_numpy(data["valid"])


def bound(encode, decode, x):
    """Mean ELBO of the rows of x at one draw of z; `encode` gives μ and log σ, `decode` logits."""
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        torch.manual_seed(1)
        mean, log_std = encode(x.float())
        logits = decode(mean + log_std.exp() * torch.randn_like(mean))
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
        return (-F.binary_cross_entropy_with_logits(logits, x.float(), reduction="none").sum(1) - kl).mean().item()


def ours(folder, precision):
    import torch

    from likeli.cli.objects import keep_freed_memory
    from likeli.models.vae import VAE
    from likeli.spaces import Binary
    from likeli.training import fit

    keep_freed_memory()  # as `likeli fit` does

    train, valid = load(folder)
    torch.manual_seed(0)
    model = VAE(Binary((784,)), SIDES[-1], CoderBackbone(SIDES[1:-1], activation="relu"))
    plain = {"batch": BATCH, "lr": 1e-3, "warmup": 0.0, "decay": "none", "ema": 0.0, "weight_decay": 0.0}
    steps = ROWS // BATCH * EPOCHS
    fit(model, train[:1280], steps=10, progress=False, precision=precision, **plain)
    torch.manual_seed(0)
    model = VAE(Binary((784,)), SIDES[-1], CoderBackbone(SIDES[1:-1], activation="relu"))
    begin = time.process_time()
    fit(model, train, steps=steps, progress=False, precision=precision, **plain)
    seconds = time.process_time() - begin
    nats = bound(lambda x: model.infer(x).chunk(2, 1), lambda z: model.observation(z).out[:, 0], valid)
    return {"images_per_second": steps * BATCH / seconds, "elbo": nats}


def pythae_networks():
    """An encoder and a decoder of our layers for pythae."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from torch import nn

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(300, 40), nn.Linear(300, 40)

        def forward(self, x):
            h = self.body(x.reshape(-1, 784))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(40, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 784))

        def forward(self, z):
            return ModelOutput(reconstruction=self.body(z).sigmoid())

    return Encoder(), Decoder()


def pythae_model():
    """pythae's VAE with our layers."""
    from pythae.models import VAE, VAEConfig

    return VAE(VAEConfig(input_dim=(784,), latent_dim=40, reconstruction_loss="bce"), *pythae_networks())


def peer(folder, precision):
    """In single precision whatever `precision`, since pythae's autocast is for CUDA alone."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    train, valid = load(folder)
    data = BaseDataset(train.float(), torch.zeros(len(train)))
    torch.manual_seed(0)
    model = pythae_model()
    options = {"per_device_train_batch_size": BATCH, "num_epochs": EPOCHS, "learning_rate": 1e-3, "no_cuda": True}
    trainer = BaseTrainer(model, data, training_config=BaseTrainerConfig(output_dir=str(folder / "pythae"), **options))
    begin = time.process_time()
    trainer.train()
    seconds = time.process_time() - begin

    def encode(x):
        out = model.encoder(x)
        return out.embedding, 0.5 * out.log_covariance

    nats = bound(encode, lambda z: model.decoder.body(z), valid)
    return {"images_per_second": math.ceil(ROWS / BATCH) * BATCH * EPOCHS / seconds, "elbo": nats}
