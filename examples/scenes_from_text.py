"""Pictures from captions: train on drawn scenes, choose γ on one set of captions, judge on others and on pairs never seen.

    python examples/scenes_from_text.py --minutes 40                       # 32 × 32 pixels, one core
    python examples/scenes_from_text.py --minutes 8 --size 16 --network mlp --hidden 384,384,384,384

Training leaves out four of the 24 pairs of colour and shape.  Every sample is read back (`read_scenes`, exact on scenes), so
that what its caption says can be checked: the share of attributes that are right, and of samples in which all are.  Writes the
run, and `captions.png`: rows of samples for the captions printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import likeli
from likeli.data.builtin import scenes
from likeli.data.builtin.scenes import true_of
from likeli.show.pictures import grid

SHOWN = ("two red bricks", "a green cross", "a small blue egg left of a large yellow triangle", "a violet egg on a green floor")


def asked(n: int, seed: int, which: str) -> list[str]:
    """Captions of scenes with one object, with two, or with a pair of colour and shape that training never showed."""
    factors = scenes.draw_scenes(40 * n, seed)
    two, unseen = factors[:, 6] >= 0, scenes.held_out(factors)
    kept = {"one": ~two & ~unseen, "two": two & ~unseen, "unseen": unseen & ~two}[which]
    return scenes.draw_captions(factors[kept][:n], seed)


def judged(model: likeli.GenerativeModel, captions: list[str], scale: float, steps: int) -> tuple[float, float]:
    """Share of attributes that are right, and of samples in which all are."""
    x: Tensor = model.sample(len(captions), captions, steps=steps, guidance=scale, seed=1)
    share, whole = true_of(x, captions)
    return share.mean().item(), whole.double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--run", help="a run that is there already, in place of training one")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--n", type=int, default=20_000, help="training pictures")
    parser.add_argument("--network", default="auto")
    parser.add_argument("--hidden", default=None)
    parser.add_argument("--model", default="flow_matching")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step; many steps matter more than large ones")
    parser.add_argument("--optimiser", default="muon", choices=["adam", "muon"])
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--captions", type=int, default=200, help="of each kind")
    parser.add_argument("--steps", type=int, default=25, help="evaluations of a sample")
    parser.add_argument("--out", type=Path, default=Path("runs/scenes"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.run:
        model = likeli.load(args.run)
    else:
        data = likeli.load_data(f"scenes:objects=2,unseen=1,size={args.size},n={args.n}", labels="captions")
        hidden = None if args.hidden is None else [int(h) for h in args.hidden.split(",")]
        network = {"network": args.network, "hidden": hidden, "dropout": args.dropout}
        spec = {"class": args.model, "space": data.space, "condition": data.condition, **network}
        model = likeli.build(spec, likeli.GenerativeModel)
        settings = {"batch": args.batch, "optimiser": args.optimiser}
        likeli.fit(model, data, minutes=args.minutes, out=args.out, overwrite=True, **settings)
    chosen = {g: judged(model, asked(args.captions // 4, 11, "one") + asked(args.captions // 4, 12, "two"), g, args.steps)
              for g in (1.0, 1.5, 2.0, 3.0, 4.0)}  # fmt: skip
    for scale, (share, whole) in chosen.items():
        print(f"γ = {scale:g}: {100 * share:.1f} % of attributes, {100 * whole:.1f} % of samples whole, to choose γ by")
    best = max(chosen, key=lambda g: chosen[g])
    for which in ("one", "two", "unseen"):
        share, whole = judged(model, asked(args.captions, 13, which), best, args.steps)
        error = (whole * (1 - whole) / args.captions) ** 0.5
        said = f"{100 * share:.1f} % of attributes, {100 * whole:.1f} ± {100 * error:.1f} % of samples whole"
        print(f"{which}: {said}, γ = {best:g}")
    rows = [model.sample(8, [text], steps=args.steps, guidance=best) for text in SHOWN]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    grid(torch.cat(rows), model.space, columns=8).save(args.out.parent / "captions.png")
    print("\n".join(SHOWN))


if __name__ == "__main__":
    main()
