"""Deterministic samplers against the probability flow: families × samplers × evaluations, on trained networks and exact laws.

    python examples/sampler_table.py --exact                     # mixtures in 2 and 64 dimensions
    python examples/sampler_table.py --data digits --minutes 1   # a network of every family, then its table
    python examples/sampler_table.py --runs runs/a,runs/b        # runs that are there
    python examples/sampler_table.py --variance                  # what every sampler makes of a Gaussian's variance

A line is a sampler on the grid that was best for it, the one of least geometric mean error over the numbers of evaluations,
seen on the very starts that report, which flatters it a little.  The numbers are distances to the flow over √D in model units.
`own` is what `model.sample(steps=…)` does; what is worse than Euler's method on the same grid by more than two standard errors
(of the two, taken as independent) is marked with a star.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch

import likeli
from likeli.config import registered
from likeli.diffusion import Sampler, grid_of, variance_ratio
from likeli.diffusion.exact import MixtureDenoiser
from likeli.diffusion.flow_error import EVALUATIONS, FlowError, FlowErrors, flow_errors, steps_within
from likeli.diffusion.schedule import Betas, VarianceExploding
from likeli.models import DDPM, EDM, VDM, FlowMatching, ScoreSDE

FAMILIES = (VDM, DDPM, ScoreSDE, EDM, FlowMatching)


def exact(seed: int) -> Iterator[tuple[str, likeli.GenerativeModel]]:
    """Five Gaussians of unit variance in all and spectra 1/j^1.5, drawn by the seed, as every family's denoiser."""
    for d in (2, 64):
        g = torch.Generator().manual_seed(seed)
        means, weights = (torch.randn(5, d, dtype=torch.float64, generator=g) for _ in range(2))
        axes = torch.linalg.qr(torch.randn(5, d, d, dtype=torch.float64, generator=g))[0]
        spectrum = torch.arange(1, d + 1, dtype=torch.float64) ** -1.5
        covariances = axes * (0.51 * spectrum / spectrum.mean()) @ axes.mT
        for family in FAMILIES:
            model = family(likeli.Real((d,))).double()
            divides = model.denoiser.divides_by_alpha  # the family's network's, by which its own way is chosen
            model.denoiser = MixtureDenoiser(model.schedule, weights[:, 0].softmax(0), 0.7 * means, covariances)
            model.denoiser.divides_by_alpha = divides
            yield f"{family.kind()}, exact, {d} dimensions", model


def trained(source: str, minutes: float, seed: int) -> Iterator[tuple[str, likeli.GenerativeModel]]:
    """Every family with its own network, fitted to the data."""
    data = likeli.load_data(source)
    for family in FAMILIES:
        with likeli.seeded(seed, "weights"):
            model = family(data.space)
        done = likeli.fit(model, data, minutes=minutes, seed=seed, progress=False)
        yield f"{family.kind()}, {source}, {done.steps} steps", model


def table(found: FlowErrors) -> str:
    """Markdown, the model's own way first."""
    numbers = sorted(found.best)
    own = set(map(id, found.own.values()))
    ways = {(r.name, r.grid): {} for r in found.rows if id(r) not in own}
    for row in found.rows:
        if id(row) not in own:
            ways[row.name, row.grid][row.evaluations] = row
    euler = ways["euler", "time"]

    def cell(row: FlowError) -> str:
        base = ways["euler", row.grid][row.evaluations]
        worse = row.error - base.error > 2 * math.hypot(row.stderr, base.stderr)
        return f"{row.error:.2g} ± {row.stderr:.1g}{' *' * worse}"

    best = {}
    for (name, grid), cells in ways.items():
        mean = sum(math.log(max(r.error, 1e-300)) for r in cells.values()) if len(cells) == len(numbers) else math.inf
        best[name] = min(best.get(name, (math.inf, grid)), (mean, grid))
    chosen = ", ".join(f"{n}: {found.own[n].name} on {found.own[n].grid}" for n in numbers if n in found.own)
    head = ["sampler", "grid", *map(str, numbers)]
    lines = [head, ["---"] * len(head), ["own", "", *(cell(found.own[n]) if n in found.own else "-" for n in numbers)]]
    lines += [["euler", "time", *(cell(euler[n]) for n in numbers)]]
    for name, (_, grid) in sorted(best.items()):
        if (name, grid) != ("euler", "time"):
            lines += [[name, grid, *(cell(r) if (r := ways[name, grid].get(n)) else "-" for n in numbers)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\nown: {chosen}\n"


def variances() -> str:
    """Markdown: Var of the draws over Var of the data at 16, 32 and 64 evaluations, N(0, v) with its denoiser known."""
    vp, ve = Betas(1000, "linear", 1e-4, 0.02), VarianceExploding()
    cases = ((vp, "time", 1.0), (vp, "time", 0.1), (vp, "log_snr", 1.0), (vp, "log_snr", 0.1), (ve, "log_snr", 1.0))
    head = [f"{'VP' if schedule is vp else 'VE'}, {grid}, v = {v:g}" for schedule, grid, v in cases]
    lines = [["sampler", *head], ["---"] * (len(cases) + 1)]
    for name, kind in registered(Sampler).items():
        counts = [(n, steps_within(kind(), n)) for n in (16, 32, 64)]
        ratios = [
            [f"{variance_ratio(kind(), schedule, grid_of(grid, schedule, k), v):.3g}" if k else "-" for _, k in counts]
            for schedule, grid, v in cases
        ]
        lines += [[f"`{name}`", *(" ".join(of) for of in ratios)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print one table a model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--variance", action="store_true")
    parser.add_argument("--data")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--runs", default="")
    parser.add_argument("--samplers", type=lambda text: text.split(","))
    parser.add_argument("--starts", type=int, default=64)
    parser.add_argument("--evaluations", type=lambda text: [int(n) for n in text.split(",")], default=EVALUATIONS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.variance:
        print(variances())
    models = [*exact(args.seed)] if args.exact else []
    if args.data:
        models = trained(args.data, args.minutes, args.seed)
    for run in filter(None, args.runs.split(",")):
        models = [*models, (run, likeli.load(run))]
    for title, model in models:
        found = flow_errors(model, evaluations=args.evaluations, samplers=args.samplers, starts=args.starts, seed=args.seed)
        print(f"### {title}\n\n{table(found)}", flush=True)


if __name__ == "__main__":
    main()
