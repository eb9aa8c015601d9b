"""What samples of MNIST are judged by: one bound, one reader of digits whose errors are known, one two-sample test."""

import math

import numpy as np

SIDE, LEVELS = 28, 256


def load(folder):
    """Training, validation and test digits, and the training labels, as tensors."""
    import torch

    with np.load(folder / "digits.npz") as data:
        return tuple(torch.from_numpy(data[part]) for part in ("train", "valid", "test", "labels"))


def all_test(folder):
    """All 10,000 test digits and their labels, by which a reader's errors are counted."""
    import torch

    with np.load(folder / "digits.npz") as data:
        return torch.from_numpy(data["all_test"]), torch.from_numpy(data["all_test_labels"]).long()


def space():
    from likeli.spaces import Pixels

    return Pixels((SIDE, SIDE), LEVELS)


def bits(model, rows, samples=16):
    """Bits per dimension of the model's own bound, and the standard error over rows."""
    from likeli.evaluation.likelihood import evaluate

    result = evaluate(model, rows, batch=125, samples=samples)
    return result.bits_per_dim, result.bits_stderr


def reader(train, labels, epochs=4):
    """A convolutional classifier of digits that reads 99 % of the test's; it sees training rows moved by up to two cells.

    Arguments:
        train: (n, 28, 28) grey levels.
        labels: (n,).
    """
    import torch
    from torch import nn

    torch.manual_seed(0)
    stages = [(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for a, b in ((1, 32), (32, 64), (64, 64))]
    net = nn.Sequential(*(layer for stage in stages for layer in stage), nn.Flatten(), nn.Dropout(0.3), nn.Linear(576, 10))
    steps = epochs * math.ceil(len(train) / 128)
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for i in torch.randperm(len(train)).split(128):
            move = torch.randint(-2, 3, (2,)).tolist()
            x = torch.roll(train[i, None] / 255, move, (2, 3))
            adam.zero_grad()
            nn.functional.cross_entropy(net(x), labels[i].long()).backward()
            adam.step()
            rate.step()
    return net.eval()


def read(net, images):
    """The class that a reader gives each image, (n, 28, 28) grey levels → (n,)."""
    import torch

    with torch.no_grad():
        return torch.cat([net(part[:, None] / 255).argmax(1) for part in images.split(500)])


def confusion(net, test, labels):
    """P(read as j | a digit i), (10, 10), on test digits."""
    import torch

    counts = torch.zeros(10, 10, dtype=torch.float64)
    counts.index_put_((labels.long(), read(net, test)), torch.ones((), dtype=torch.float64), accumulate=True)
    return counts / counts.sum(1, keepdim=True)


def judge(samples, folder):
    """How samples differ from data: classes against the training frequencies, and a classifier's held-out accuracy.

    The frequencies expected of the reader's classes are the training rows' through its confusion, so that what it misreads is
    not held against the samples.

    Arguments:
        samples: (n, 28, 28) grey levels.
        folder: what `prepare` of `diffusion_quality` wrote.
    """
    from scipy.stats import chisquare

    from likeli.evaluation.two_sample import classifier_test

    train, _, test, labels = load(folder)
    every, theirs = all_test(folder)
    net = reader(train, labels)
    misread = confusion(net, every, theirs)
    share = labels.long().bincount(minlength=10).double()
    expected = (share / share.sum()) @ misread
    counts, digits = (read(net, x).bincount(minlength=10).double() for x in (samples, test))
    pair = [v.long() for v in (samples, test[: len(samples)])]
    apart, coarse = (classifier_test(*(v // k for v in pair)) for k in (1, 16))
    return {
        "class_p_value": float(chisquare(counts, expected * len(samples)).pvalue),
        "class_p_value_of_test_digits": float(chisquare(digits, expected * len(test)).pvalue),
        "reader_accuracy": float((read(net, every) == theirs).double().mean()),
        "c2st_accuracy": apart.accuracy,
        "c2st_stderr": apart.accuracy_stderr,
        "c2st_auc": apart.auc,
        "c2st_accuracy_16_levels": coarse.accuracy,
    }
