"""Two networks against each other, and how to tell how far they have come: not by their losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from likeli.contract import evaluating
from likeli.errors import require
from likeli.evaluation.permutations import kernel_statistics, kernels_for, label_weights
from likeli.models.gan import GAN
from likeli.models.vae import VAE
from likeli.random import Ambient
from likeli.training.batches import Examples
from likeli.training.engine import Descent, batch_mean, training_loss
from likeli.training.history import Row
from likeli.training.run import Run, rows_of_batch
from likeli.training.strategies import descend, guard, strategy

ARRANGEMENTS = 20  # permutations of the labels, whose mean is what two equal sets would give
FEWEST, MOST = 256, 1024  # samples that are judged
SELDOM = 250  # steps between two looks: one costs what 25 steps of small perceptrons do
NARROWEST = 1e-6  # standard deviation of all cells together, in model units
CRITERION = "distance of samples from validation rows"


def sample_distance(run: Run) -> float:
    """How far fresh samples are from validation rows, in multiples of what two sets of one distribution would show.

    The mean, over the energy distance and Laplace kernels at 5 bandwidths, of MMD²(samples, rows) over its mean under
    permutations of who is a sample; about 1 where nothing is to be seen.  Codes, rows, bandwidths and permutations are the same
    each time, so that two looks differ by the weights alone.  Conditions stand beside the cells, the same in both sets.

    Source: Gretton et al. (2012), JMLR 13; Székely & Rizzo (2013), J. Stat. Plan. Inference 143.
    """
    model, valid = run.model, run.valid
    assert isinstance(model, GAN)
    assert valid is not None
    run.reseed("valid")
    held = beginning(valid, max(run.settings.valid_rows, 2))
    again = torch.arange(min(max(len(held), FEWEST), MOST), device=held.x.device) % len(held)
    x, y = held.rows(again)
    with run.averaged(), evaluating(model), torch.no_grad():
        drawn = columns(model, model.real(model.draw(Ambient(x), y)), y)
        rows, like = (columns(model, model.real(part.x), part.y) for part in (held, beginning(run.train, FEWEST)))
    both = np.concatenate([drawn, rows])
    w = label_weights(np.arange(len(both)) < len(drawn), ARRANGEMENTS, run.seed)
    energy, *laplace = [k for k in kernels_for(like) if k.name != "gauss"]
    found = kernel_statistics(both, w, [energy, *laplace[::2]])
    return float((found[:, 0] / found[:, 1:].mean(1)).mean())


def begin_like(model: GAN, x: Tensor) -> None:
    """Give the cells of an untrained generator the means and standard deviations of training rows; and D its unit."""
    u = model.real(x).flatten(1).double()
    variance, mean = torch.var_mean(u, 0, correction=0)
    model.width.copy_(u.std(correction=0).clamp(min=NARROWEST))
    model.mean.copy_(mean.reshape(model.mean.shape))
    model.scale.copy_(variance.sqrt().reshape(model.scale.shape))


def beginning(rows: Examples, n: int) -> Examples:
    """The first n of them, or all."""
    return Examples(rows.x[:n], None if rows.y is None else rows.y[:n])


def columns(model: GAN, u: Tensor, y: Tensor | None) -> np.ndarray:
    """Cells in model units beside the features of the condition, (B, cells + features)."""
    return torch.cat([u.flatten(1), model.given(y, u)], 1).cpu().numpy()


@strategy("adversarial", stochastic=True, validate=sample_distance, criterion=CRITERION, seldom=SELDOM)
def adversarial(run: Run) -> Iterator[Row]:
    """D ← Adam(D, ∇ mean_b ℓ_D(x_b, x̃_b)), and after every `turns` such steps G ← Adam(G, ∇ mean_b ℓ_G(x_b, x̃_b))."""
    model = run.model
    require(isinstance(model, GAN), "model", "a generator and a discriminator for this strategy", model.kind())
    assert isinstance(model, GAN)
    if run.step == 0:
        begin_like(model, run.train.x)
    first = run.keep("discriminator", Descent(model.discriminator.parameters(), run.settings, model))
    second = run.keep("generator", Descent(model.generator.parameters(), run.settings, model))
    model.train()
    for x, y in run.batches():
        with rows_of_batch(run):
            lr, u = run.rate(), model.real(x)
            v = model.fake(u, y)
            loss = batch_mean(model.discriminator_loss(u, v, y))
        guard(run, "loss of the discriminator", loss.item(), x, y)
        norm = descend(run, first, loss, lr, x, y, "gradient of the discriminator")
        row = {"loss": loss.item(), "epoch": run.epoch, "lr": lr, "gradient": norm}
        if (run.step + 1) % model.turns == 0:
            with fixed(model.discriminator), rows_of_batch(run):
                loss = batch_mean(model.generator_loss(u, v, y))
                guard(run, "loss of the generator", loss.item(), x, y)
                row |= {"generator_loss": loss.item(), "generator_gradient": second.step(loss, lr)}
            guard(run, "gradient of the generator", row["generator_gradient"], x, y)
        run.average.update()
        yield row


@strategy("critic", stochastic=True)
def critic(run: Run) -> Iterator[Row]:
    """c ← Adam(c, ∇ mean_b −log c(y_b|z̄_b)) some times, then θ ← Adam(θ, ∇ mean_b ℓ(x_b; θ, c)): the code is to tell c nothing.

    `critic` in a row of the history is the loss of c: near the classes' entropy it tells no more than their shares do.  The
    rate of c does not fall: as the model slows down, c comes to be the best there is against it.
    """
    model = run.model
    require(isinstance(model, VAE) and model.critic is not None, "model", "a critic for this strategy", model.kind())
    assert isinstance(model, VAE)
    assert model.critic is not None
    theirs = {id(p) for p in model.critic.parameters()}
    watching = run.keep("critic", Descent(model.critic.parameters(), run.settings, model))
    descent = run.keep("adam", Descent([p for p in model.parameters() if id(p) not in theirs], run.settings, model))
    model.train()
    for x, y in run.batches():
        assert y is not None
        lr = run.rate()
        with rows_of_batch(run):
            with torch.no_grad():
                z = model.encode(x, y)
            for _ in range(model.objective.critic_turns):
                told = batch_mean(model.critic_loss(z, y))
                guard(run, "gradient of the critic", watching.step(told, run.settings.lr), x, y)
        with fixed(model.critic):
            with rows_of_batch(run):
                loss = batch_mean(training_loss(model.loss, x, y, run.settings))
            guard(run, "loss", loss.item(), x, y)
            norm = descend(run, descent, loss, lr, x, y)
        run.average.update()
        yield {"loss": loss.item(), "critic": told.item(), "epoch": run.epoch, "lr": lr, "gradient": norm}


@contextmanager
def fixed(net: nn.Module) -> Iterator[None]:
    """Inside the block no gradient of the network's own weights is worked out."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)
