"""A conditional VAE of digits: drawn as asked, judged by a classifier that never saw the VAE, and walked about in.

    python examples/conditional_digits.py                                        # the 8×8 digits of scikit-learn, half a minute
    python examples/conditional_digits.py --data mnist.npz --steps 3500          # 28×28, made binary at half brightness

Writes to --out: `samples.png` (a column for each digit), `from_3_to_8.png` (code and label both go from a real 3 to a real 8),
`analogies.png` (a row for each style z, a column for each digit y) and `traversal.png` (an 8 over 20 × 20 values of the two
numbers of the code that vary most).  An .npz file holds `train_images`, `train_labels`, `test_images` and `test_labels`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import Tensor

import likeli
from likeli.models.vae import CoderBackbone, VariationalObjective
from likeli.show.pictures import grid

Rows = tuple[Tensor, Tensor]
CLASSES, JUDGED = 10, 2000


def read(source: str) -> tuple[Rows, Rows, likeli.Pixels]:
    """Training rows, test rows and their space."""
    if source == "digits":
        digits = load_digits()
        x, y = torch.tensor(digits.images).long(), torch.tensor(digits.target)
        return (x[:1300], y[:1300]), (x[1300:], y[1300:]), likeli.Pixels((8, 8), levels=17)
    with np.load(source) as file:
        parts = [[torch.from_numpy(file[f"{part}_{what}"]) for what in ("images", "labels")] for part in ("train", "test")]
    train, test = (((x > 127).to(torch.uint8), y.long()) for x, y in parts)
    return train, test, likeli.Binary(tuple(train[0].shape[1:]))


def conditional_vae(space: likeli.Pixels) -> likeli.VAE:
    """p(x|y): y enters the encoder and the decoder, so that z is left to hold what the label does not say, the style.

    On the large images twice the weight of the KL keeps the class out of z; the loss is then not a bound, `evaluate` still is.
    """
    labels = likeli.Labels(CLASSES)
    if space.levels > 2:
        return likeli.VAE(space, condition=labels)
    backbone, objective = CoderBackbone((400, 400), activation="relu"), VariationalObjective(beta=2.0)
    return likeli.VAE(space, 8, backbone, objective=objective, condition=labels)


def judge(train: Rows, space: likeli.Pixels) -> SVC | MLPClassifier:
    """A classifier of the training rows."""
    rows = train[0].flatten(1).double().numpy()
    large = MLPClassifier((256,), max_iter=8, random_state=0)
    return (SVC(gamma=0.001) if space.levels > 2 else large).fit(rows, train[1].numpy())


def accuracy(classifier: SVC | MLPClassifier, x: Tensor, y: Tensor) -> str:
    """The share of x that is seen as y, with its binomial standard error."""
    share = float((classifier.predict(x.flatten(1).double().numpy()) == y.numpy()).mean())
    return f"{100 * share:.2f} ± {100 * math.sqrt(share * (1 - share) / len(x)):.2f} %"


def from_one_digit_to_another(vae: likeli.VAE, x: Tensor, y: Tensor, a: int, b: int, rows: int = 6, steps: int = 12) -> Tensor:
    """Each row leads from a real digit a to a real digit b, the label with the code: a mixture of two labels is a label."""
    ends = [likeli.embed(vae, x[y == digit][:rows], torch.full((rows,), digit)) for digit in (a, b)]
    labels = likeli.interpolate(*torch.eye(CLASSES)[[a, b]], steps)
    return torch.cat([likeli.decode_codes(vae, likeli.interpolate(u, v, steps), labels) for u, v in zip(*ends)])


def analogies(vae: likeli.VAE, x: Tensor, y: Tensor, rows: int = 10) -> Tensor:
    """Styles of real digits, each worn by every digit: row i is z of example i, column j is y = j."""
    styles = likeli.embed(vae, x[:rows], y[:rows]).repeat_interleave(CLASSES, 0)
    return likeli.decode_codes(vae, styles, torch.arange(CLASSES).repeat(rows))


def traversal(vae: likeli.VAE, x: Tensor, y: Tensor, digit: int = 8, steps: int = 20) -> Tensor:
    """One digit over the two numbers of its code that vary most among the test rows, to 2.5 standard deviations there."""
    codes = likeli.embed(vae, x, y)
    first, second = codes.std(0).topk(2).indices.tolist()
    reach = 2.5 * float(codes[:, [first, second]].std())
    grid_of_codes = likeli.traverse(codes.mean(0), (first, second), torch.linspace(-reach, reach, steps))
    return likeli.decode_codes(vae, grid_of_codes, digit).flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, or the path of an .npz file [digits]")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of 128 rows [1500]")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights, the batches and the draws [0]")
    parser.add_argument("--out", type=Path, default=Path("conditional_digits"), help="folder of the pictures")
    args = parser.parse_args()
    train, test, space = read(args.data)
    torch.manual_seed(args.seed)
    vae = conditional_vae(space)
    likeli.fit(vae, *train, steps=args.steps, seed=args.seed)
    print(likeli.evaluate(vae, test[0][:1000], test[1][:1000], samples=20).row())
    wanted = torch.arange(JUDGED) % CLASSES
    drawn, classifier = vae.sample(JUDGED, wanted, seed=args.seed), judge(train, space)
    print("real test rows recognised:", accuracy(classifier, *test))
    print("samples classified as asked:", accuracy(classifier, drawn, wanted))
    print("means classified as asked:", accuracy(classifier, vae.sample(JUDGED, wanted, seed=args.seed, mean=True), wanted))
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "samples": (drawn[: 10 * CLASSES], CLASSES),
        "from_3_to_8": (from_one_digit_to_another(vae, *test, 3, 8), 12),
        "analogies": (analogies(vae, *test), CLASSES),
        "traversal": (traversal(vae, *test), 20),
    }
    for name, (x, columns) in pictures.items():
        grid(x, space, columns=columns).save(args.out / f"{name}.png")
        print("wrote", args.out / f"{name}.png")


if __name__ == "__main__":
    main()
