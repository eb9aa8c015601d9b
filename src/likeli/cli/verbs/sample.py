"""draw from a run

likeli sample runs/vae -n 64 --out grid.png          images as a grid, two columns as points
likeli sample runs/vae -n 1000 --out samples.npy     an array (n, ...) in the units of the data
likeli sample runs/vae -n 1000 --out samples.csv     one line a sample, as the columns were; .parquet with their types too
likeli sample runs/cells -n 500 --out drawn.h5ad        counts of cells by genes, with the genes' names; labels in .obs
likeli sample runs/table -n 99 --where "age>=40,job=clerk" --out some.csv    rows of a table on conditions
likeli sample runs/vae --sample.mean true --out means.png    E[x|z] of drawn codes: smoother than what the model draws
likeli sample runs/labelled --label 3 --out threes.png       for a run with labels; without --label, as often as in training
likeli sample runs/guided --y 7 --guidance 3 --steps 50 --out sevens.png   surer sevens of fewer kinds (docs/guidance.md)
likeli sample runs/vdm --y 7 --guidance 3 --classifier judge --out sure.png    by a classifier, kept from call to call
likeli sample runs/vdm --steps 20 --sampler adams --grid optimal --animate way.webp --out last.png    a diffusion model
likeli sample runs/hvae --keep 2,3 --out like.png    a hierarchy: levels 2 and 3 as inferred for a test row, the others drawn
likeli sample runs/book -n 5 --prompt "ROMEO:" --length 200 --out s.txt    text that begins so
likeli sample runs/book --infill "To be, ____ to be"    one symbol for each _; printed where there is no --out

Sample number i is a function of the seed and i alone: a longer set begins with the shorter one.  A .csv or .parquet is written
part by part; a command that was ended goes on after its last whole part when it is given again (docs/scale.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from likeli.cli.kept_parts import CELLS_OF_A_PART, ROWS_OF_A_PART, TABLES, command_of, write_by_parts
from likeli.cli.objects import call_options, check_fits, check_room, named_labels, open_run, parse_label, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import check_matrix, check_new, emit, new_file, to_json, warn, write_samples
from likeli.cli.prompts import add_text_arguments, asked_for_text, set_out, text_samples
from likeli.cli.verbs.guidance import add_guidance_arguments, guidance_option
from likeli.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

    from likeli.checkpoint import Checkpoint
    from likeli.contract import GenerativeModel
    from likeli.diffusion.flow_error import FlowError
    from likeli.spaces import Tokens

SUFFIXES = (".png", ".npy", ".csv", ".parquet", ".txt", ".h5ad")
SHOWN = 64  # samples that an animation shows
FRAMES = 60  # at most, the last one not counted


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    parser.add_argument("-n", type=int, help="how many [64; 1 where a text is printed]")
    what = "what to write: .png, .npy, .csv, .parquet, .h5ad or .txt; a text is printed if not given"
    parser.add_argument("--out", metavar="FILE", help=what)
    parser.share("--overwrite", "--seed", "--processes")
    label = "for a run with labels: a class, its name, or numbers separated by commas; --text for one with captions"
    parser.add_argument("--label", "--y", "--text", dest="label", metavar="Y", help=label)
    encoder = "folder of the text encoder whose vectors of captions the run was fitted with; --text is read by it"
    parser.add_argument("--encoder", metavar="FOLDER", help=encoder)
    keep = "levels of a hierarchy, 1 next to the data, that keep a test row's codes"
    parser.add_argument("--keep", type=list[int], metavar="I,J", help=keep)
    parser.add_argument("--row", type=int, default=0, metavar="R", help="the test row of --keep [0]")
    where = "rows on conditions: NAME=VALUE, also != < <= > >=, several values with |, quotes around commas"
    parser.add_argument("--where", metavar="A=B,…", help=where)
    parser.add_argument("--tries", type=int, default=200_000, metavar="N", help="draws at most with --where [200000]")
    add_text_arguments(parser)
    add_guidance_arguments(parser)
    steps = parser.add_argument_group("for diffusion models")
    steps.add_argument("--steps", type=int, metavar="N", help="evaluations of the network, or as many levels as the model has")
    how = "adams, ddim ...; of symbols cached, confidence ... [what `likeli sampler RUN` stored, or the model's own]"
    steps.add_argument("--sampler", metavar="NAME", help=how)
    steps.add_argument("--grid", metavar="NAME", help="how the steps are spaced: time, log_snr, karras, optimal")
    steps.add_argument("--animate", metavar="FILE.webp", help="also write the way from noise to images as a moving picture")
    parser.epilog = "What a family's sampler takes is given as --sample.NAME VALUE."


def run(args: argparse.Namespace) -> None:
    """Sample and write."""
    from likeli import processes
    from likeli.contract import Qualified
    from likeli.spaces.labels import like_training

    n = args.n if args.n is not None else 1 if args.out is None else 64
    require(n >= 1, "n", "a whole number of at least 1", n)
    require(args.seed >= 0, "seed", "a whole number from 0", args.seed)
    check_new(args.out, overwrite=args.overwrite, suffixes=SUFFIXES)
    check_new(args.animate, overwrite=args.overwrite, suffixes=[".webp"], argument="animate")
    model = (saved := open_run(args)).model
    check_matrix(model.space, args.out)
    text = asked_for_text(args, model.space)
    require(text is not None or args.out is not None, "out", "--out FILE", "nothing")
    if args.animate is not None:
        check_animation(model)
    options = call_options(model.draw, [*step_options(args, model), *args.dotted["sample"]], "sample")
    options |= _kept(args, saved) | guidance_option(args, saved)
    choice = _recommended(saved, options)
    if choice is not None:
        options |= choice.options()
    note = model.qualification(**options) if isinstance(model, Qualified) else ""
    beside = None if args.out is None else f"{args.out}.json"  # says what the file cannot say of itself
    check_new(beside if note else None, overwrite=args.overwrite)
    y = None if args.classifier is not None and model.condition is None else _condition(args, model)
    if args.where is not None:
        _on_conditions(args, saved, n, y, options)
        return
    if y is None and model.condition is not None:
        check_fits(8 * n, f"labels of {n} samples")
        y = like_training(model.condition, n, seed=args.seed)
        require(y is not None, "label", f"--label with {model.condition.describe_shape()}", "nothing")
    x = None
    if text is None and args.animate is None and Path(str(args.out)).suffix.lower() in TABLES:
        sampled_by_parts(args, saved, n, y, options)
    else:
        check_fits(3 * 8 * n * model.space.dimensions, f"{n} samples of {model.space.dimensions} cells")
        x = _drawn(args, model, n, y, options, text)
    if not processes.is_first():
        return
    frames = states(model, min(n, SHOWN), y, args.seed, options) if args.animate is not None else []
    drawn = {} if y is None else named_labels(saved, y, n)
    about: dict[str, Any] = {"out": args.out, "n": n, "seed": args.seed, "shape": [n, *model.space.shape], "note": note}
    about |= {"labels": next(iter(drawn.values()))} if drawn and args.label is None else {}
    if text is not None and x is not None and args.out is None:
        texts = text.decode(x)
        warn([note] if note else [])
        emit(args, about | {"texts": texts}, set_out(texts)[:-1])
        return
    if x is not None:
        _write(args, saved, x, drawn, frames)
    how = ""
    if choice is not None:
        about["sampler"] = choice.row()
        how = f", by {choice.name} on {choice.grid} in {choice.steps} steps, as likeli sampler recommends for this run"
    if beside is not None and (note or (args.overwrite and Path(beside).exists())):
        with new_file(beside, overwrite=True) as path:
            path.write_text(to_json(about | {"options": {k: str(v) for k, v in options.items()}}) + "\n", encoding="utf-8")
    emit(args, about, f"{n} samples in {args.out}{how}{f'; {note}' * bool(note)}")


def _condition(args: argparse.Namespace, model: GenerativeModel) -> Tensor | None:
    """`--label`, or `--text` by `--encoder`, as one row of the model's condition."""
    if args.encoder is None:
        return parse_label(args.label, model)
    from likeli.data.frozen_encoder import FrozenEncoder

    vectors = model.condition is not None and model.condition.alphabet is None and len(model.condition.shape) == 1
    require(vectors, "encoder", "a run whose condition is a vector", "another" if model.condition else "no condition")
    require(args.label is not None, "encoder", "--text beside it", "nothing")
    return FrozenEncoder(args.encoder)([args.label])


def _drawn(
    args: argparse.Namespace, model: GenerativeModel, n: int, y: Tensor | None, options: dict[str, Any], text: Tokens | None
) -> Tensor:
    """All samples, which fit into memory."""
    if text is None or text.alphabet is None:
        return sampled(model, n, y, args.seed, options)
    return text_samples(args, text, text.alphabet, lambda seed, given: sampled(model, n, y, seed, options, given))


def sampled_by_parts(args: argparse.Namespace, saved: Checkpoint, n: int, y: Tensor | None, options: dict[str, Any]) -> None:
    """Draw a table's rows and write those of each part before the next is drawn."""
    from likeli import processes
    from likeli.data import frame_of
    from likeli.random import BLOCK

    space, about, typed = saved.model.space, saved.info.get("data", {}), Path(args.out).suffix.lower() == ".parquet"
    each = max(min(ROWS_OF_A_PART, CELLS_OF_A_PART // space.dimensions) // BLOCK, 1) * BLOCK
    check_fits(3 * 8 * min(each, n) * space.dimensions, f"{min(each, n)} samples of {space.dimensions} cells")
    check_room(args.out, n * space.dimensions / 8, f"{n} samples of {space.dimensions} cells")  # a bit a cell, well packed

    def work(rows: slice, first: int) -> tuple[dict[str, Any], list[Any]]:
        count, some = rows.stop - rows.start, y if y is None or len(y) == 1 else y[rows]
        x = sampled(saved.model, count, some, args.seed, options, first=first)
        labels = {} if some is None else named_labels(saved, some, count)
        return {"rows": count}, [frame_of(x, space, labels, about, typed=typed)] if processes.is_first() else []

    parts = (slice(first, min(first + each, n)) for first in range(0, n, each))
    write_by_parts(args, [args.out], command_of(args, saved), parts, work)


def _write(
    args: argparse.Namespace, saved: Checkpoint, x: Tensor, labels: dict[str, list[Any]],
    frames: Sequence[tuple[str, Tensor]] = (),
) -> None:  # fmt: skip
    """Samples x and, where there are frames, the way from noise to them as the moving picture `--animate`."""
    from likeli.show.pictures import animation

    space = saved.model.space
    with new_file(args.out, overwrite=args.overwrite) as path:
        write_samples(path, x, space, labels, saved.info.get("data", {}))
    if frames:
        with new_file(args.animate, overwrite=args.overwrite) as path:
            captions, shown = zip(*frames, (f"samples, seed {args.seed}", x[: len(frames[0][1])]))
            path.write_bytes(animation(shown, space, captions=captions))


def _on_conditions(args: argparse.Namespace, saved: Checkpoint, n: int, y: Tensor | None, options: dict[str, Any]) -> None:
    """Draw rows on conditions, write them, and say how they were drawn.

    Raises:
        InputError: options of another kind of samples, conditions that do not fit.
    """
    from likeli import processes
    from likeli.evaluation.where import sample_where

    for name in ("keep", "animate", "prompt", "infill"):
        require(getattr(args, name, None) is None, name, "nothing beside --where", getattr(args, name, None))
    require(args.out is not None, "out", "--out FILE", "nothing")
    labels = saved.info.get("data", {}).get("labels")
    try:
        found = sample_where(saved.model, n, args.where, y, seed=args.seed, tries=args.tries, **options)
    except InputError as error:
        own = saved.model.condition is not None and labels and f"no column {labels!r}" in str(error)
        raise InputError(f"{error}{'; the run is conditional on it: --label Y' * bool(own)}") from error
    if not processes.is_first():
        return
    _write(args, saved, found.x, {} if found.y is None else named_labels(saved, found.y, n))
    about = {"out": args.out, "n": n, "seed": args.seed, "shape": list(found.x.shape), "note": found.note, "how": found.how}
    about |= {"drawn": found.drawn, "acceptance": found.acceptance, "log_p": found.log_p, "stderr": found.stderr}
    about |= {} if found.ess is None else {"ess": [found.ess.min().item(), found.ess.max().item()]}
    emit(args, about, f"{n} samples with {args.where} in {args.out}: {found.note}")


def step_options(args: argparse.Namespace, model: GenerativeModel) -> list[tuple[str, str]]:
    """The options as `--sample.NAME VALUE` would give them.

    Raises:
        InputError: no such sampler or grid, no steps.
    """
    from likeli.config import lookup
    from likeli.diffusion import Sampler
    from likeli.diffusion.times import Grid

    require(args.steps is None or args.steps >= 1, "steps", "a whole number of at least 1", args.steps)
    if args.sampler is not None:
        own = _names(get_type_hints(model.draw).get("sampler"))
        require(not own or args.sampler in own, "sampler", f"one of {', '.join(own)} for {model.kind()}", args.sampler)
        if not own:
            lookup(args.sampler, Sampler)  # type: ignore[type-abstract]
    if args.grid is not None:
        names = Grid.__args__  # type: ignore[attr-defined]
        require(args.grid in names, "grid", f"one of {', '.join(names)}", args.grid)
        require(args.steps is not None, "steps", f"a number of them with grid {args.grid}", "nothing")
    return [(k, str(v)) for k in ("steps", "sampler", "grid") if (v := getattr(args, k)) is not None]


def _names(hint: Any) -> list[str]:
    """The words among what a type allows."""
    return [name for part in get_args(hint) for name in ([part] if isinstance(part, str) else _names(part))]


def _recommended(saved: Checkpoint, options: Mapping[str, Any]) -> FlowError | None:
    """What `likeli sampler` stored with the run for about so many steps, where neither a sampler nor a grid is named."""
    from likeli.diffusion.flow_error import recommended

    kept = saved.info.get("samplers")
    if kept is None or "steps" not in options or "sampler" in options or "grid" in options:
        return None
    return recommended(kept, options["steps"])


def check_animation(model: GenerativeModel) -> None:
    """Refuse what has no way from noise to images to show.

    Raises:
        InputError: another family, or data that are not images.
    """
    from likeli.contract import Stepwise
    from likeli.show.pictures import is_image

    if not isinstance(model, Stepwise):
        raise InputError(f"animate: expected a run of a diffusion model, since {model.kind()} samples in one go")
    require(is_image(model.space), "animate", "a run on images", model.space.describe_shape())


def _kept(args: argparse.Namespace, saved: Checkpoint) -> dict[str, Any]:
    """The sampler's option that fixes some levels at the codes of a test row.

    Raises:
        InputError: not a hierarchy of codes, no such level, no such row.
    """
    import torch

    from likeli.contract import evaluating
    from likeli.latent.chain import LatentVariableModel

    model, levels = saved.model, args.keep
    if levels is None:
        return {}
    fixable = "fixed" in signature(model.draw).parameters and isinstance(model, LatentVariableModel)
    require(fixable, "keep", "a run of a model with latent levels, such as hvae", model.kind())
    assert isinstance(model, LatentVariableModel)
    shown = ",".join(map(str, levels))
    require(all(1 <= i <= model.depth for i in levels), "keep", f"levels from 1 to {model.depth}", shown)
    x, y = rows_for(saved, None)
    require(0 <= args.row < len(x), "row", f"a test row from 0 to {len(x) - 1}", args.row)
    row = slice(args.row, args.row + 1)
    with evaluating(model), torch.no_grad():
        codes = model.codes(x[row].to(model.device), None if y is None else y[row])
    return {"fixed": {i: codes[i] for i in levels}}


def sampled(
    model: GenerativeModel, n: int, y: Tensor | None, seed: int, options: Mapping[str, Any], given: Tensor | None = None,
    *, first: int = 0,
) -> Tensor:  # fmt: skip
    """`model.sample` from number `first` on, to the bit, with a bar on a terminal; processes share blocks, each gets all."""
    import torch
    from tqdm import tqdm

    from likeli import processes
    from likeli.random import BLOCK

    parts: list[Tensor] = []
    mine = processes.share(n, BLOCK)
    with tqdm(total=mine.stop - mine.start, unit="sample", disable=not sys.stderr.isatty(), leave=False) as bar:
        for at in range(mine.start, mine.stop, BLOCK):
            count = min(BLOCK, mine.stop - at)
            rows, known = (v if v is None or len(v) == 1 else v[at : at + count] for v in (y, given))
            parts.append(model.sample(count, rows, given=known, seed=seed, first=first + at, **options))
            bar.update(count)
    shared = processes.exchanged(None, {"x": torch.cat(parts)} if parts else {})
    return torch.cat([found["x"] for _, found in shared if found])


def states(model: Any, n: int, y: Tensor | None, seed: int, options: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Up to 60 states of the first n samples' reverse process, each (n, *shape), scaled to the spread of the data.

    Their names say where they are: time, and log SNR = log α²/σ² (its mean, where every cell has its own).
    """
    import torch

    from likeli.contract import evaluating
    from likeli.random import BLOCK, Streams

    kept = []
    with evaluating(model), torch.no_grad():
        noise = Streams(seed, range(BLOCK), model.dtype, model.device)
        y = model.check_condition(y, n)
        y = None if y is None else y[torch.arange(BLOCK).clamp(max=n - 1)]
        for at, z in model.trajectory(noise, y, **{k: v for k, v in options.items() if k != "mean"}):
            name = f"t = {at.t.mean():.3f}, log SNR {-at.gamma.mean():+.2f}"
            kept.append((name, model.space.from_model(z[:n] / torch.hypot(at.alpha, at.sigma).to(z)).cpu()))
    pick = torch.linspace(0, len(kept) - 1, min(len(kept), FRAMES)).round().long().unique()
    return [kept[i] for i in pick.tolist()]
