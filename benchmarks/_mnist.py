"""What both sides of `diffusion_quality` are judged by: one bound, one classifier of digits, one two-sample test."""

import numpy as np

SIDE, LEVELS = 28, 256


def load(folder):
    """Training, validation and test digits, and the training labels, as tensors."""
    import torch

    with np.load(folder / "digits.npz") as data:
        return tuple(torch.from_numpy(data[part]) for part in ("train", "valid", "test", "labels"))


def space():
    from likeli.spaces import Pixels

    return Pixels((SIDE, SIDE), LEVELS)


def bits(model, rows, samples=16):
    """Bits per dimension of the model's own bound, and the standard error over rows."""
    from likeli.evaluation.likelihood import evaluate

    result = evaluate(model, rows, batch=125, samples=samples)
    return result.bits_per_dim, result.bits_stderr


def reader(train, labels):
    """A small convolutional classifier of digits, one pass over the training rows."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)
    )
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    for i in torch.randperm(len(train)).split(128):
        adam.zero_grad()
        nn.functional.cross_entropy(net(train[i, None] / 255), labels[i].long()).backward()
        adam.step()
    return net.eval()


def judge(samples, train, labels, test):
    """How samples differ from data: classes against the training frequencies, and a classifier's held-out accuracy.

    Arguments:
        samples: (n, 28, 28) grey levels.
    """
    import torch
    from scipy.stats import chisquare

    from likeli.evaluation.two_sample import classifier_test

    net = reader(train, labels)
    with torch.no_grad():
        counts = net(samples[:, None] / 255).argmax(1).bincount(minlength=10).double()
        digits = net(test[: len(samples), None] / 255).argmax(1).bincount(minlength=10).double()
    share = labels.long().bincount(minlength=10).double()
    expected = share / share.sum() * len(samples)
    pair = [v.long() for v in (samples, test[: len(samples)])]
    apart, coarse = (classifier_test(*(torch.div(v, k, rounding_mode="floor") for v in pair)) for k in (1, 16))
    return {
        "class_p_value": float(chisquare(counts, expected).pvalue),
        "class_p_value_of_test_digits": float(chisquare(digits, expected).pvalue),
        "c2st_accuracy": apart.accuracy,
        "c2st_stderr": apart.accuracy_stderr,
        "c2st_auc": apart.auc,
        "c2st_accuracy_16_levels": coarse.accuracy,
    }
