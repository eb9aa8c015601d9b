"""Whether a run's samples have the classes of its data: a χ² test in which the judge's errors are counted.

    likeli fit mnist.npz --model flow_matching --minutes 40 --out runs/mnist
    python examples/class_shares.py runs/mnist mnist.npz -n 2000 --steps 20
    python examples/class_shares.py runs/digits digits --judge runs/judge   # the judge is kept in a folder

The judge is the classifier of noised rows at its clean end, trained on the run's training rows; its confusion is that of the
test rows.  It need not be good: what it errs by is expected of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import likeli
from likeli.diffusion.noisy_classifier import NoisyClassifier, fit_noisy_classifier, load_classifier, save_classifier
from likeli.evaluation.sample_metrics import class_shares
from likeli.models import GaussianDiffusion


def judged(judge: NoisyClassifier, x: torch.Tensor) -> torch.Tensor:
    """The class that the judge gives to each row, (N,)."""
    return torch.cat([judge.of(part).argmax(1).cpu() for part in x.split(1000)])


def judge_of(model: GaussianDiffusion, data: likeli.Data, folder: str | None, steps: int) -> NoisyClassifier:
    """From its folder if it is there, else trained, and kept if a folder is named."""
    if folder and Path(folder).exists():
        return load_classifier(folder, model)
    x, y = data.split("train")
    assert y is not None
    found = fit_noisy_classifier(model, x, y, data.condition, steps=steps)
    if folder:
        save_classifier(found, folder)
    return found


def main() -> None:
    """Sample, judge, print a line for each class and the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", help="what the run was fitted on")
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", metavar="FOLDER")
    parser.add_argument("--judge-steps", type=int, default=2000)
    args = parser.parse_args()
    model, data = likeli.load(args.run), likeli.load_data(args.data)
    assert isinstance(model, GaussianDiffusion)
    judge = judge_of(model, data, args.judge, args.judge_steps)
    held, truth = data.split("test")
    assert truth is not None
    classes = judge.condition.symbols
    confusion = torch.zeros(classes, classes)
    confusion.index_put_((truth.long(), judged(judge, held)), torch.ones(len(truth)), accumulate=True)
    counts = data.split("train")[1].bincount(minlength=classes)
    x = model.sample(args.n, seed=args.seed, steps=args.steps)
    found = class_shares(judged(judge, x), confusion, counts)
    print(f"the judge is right on {confusion.trace() / confusion.sum():.2%} of {len(truth)} test rows")
    for k in range(classes):
        print(f"class {k}: {counts[k] / counts.sum():6.1%} of the data, {found.corrected[k]:6.1%} of the samples")
    print(f"chi-square {found.statistic:.1f} of {found.degrees} degrees, p = {found.p_value:.3g}")


if __name__ == "__main__":
    main()
