"""the code of every row of a file, and what each code decodes to

likeli encode runs/vae digits.npy --out codes.csv              columns z0, z1, …; or a .npy array
likeli encode runs/cells cells.h5ad --out coded.h5ad           all that was in it, and the codes in .obsm["X_likeli"]
likeli encode runs/cells cells.h5ad --out means.h5ad --denoised                and E[x|z] in the layer likeli_denoised
likeli encode runs/cells cells.h5ad --out b1.h5ad --denoised --decode-as b1    as if every cell were of batch b1
likeli encode runs/cells cells.h5ad --out cpm.h5ad --denoised --total 1e6      shares of each gene, in counts per million

For families with a code: vae, flow, ppca, the autoencoders.  The code of a vae is the mean of q(z|x), the same every time.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeli.cli.objects import open_run, parse_label, parts_for, rows_for
from likeli.cli.options import Parser
from likeli.cli.output import add_to_h5ad, check_rows_out, emit, new_file
from likeli.errors import require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from likeli.contract import GenerativeModel


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.share("run_folder")
    parser.add_argument("data", metavar="DATA", help="rows like those that the run was fitted on")
    parser.add_argument("--out", metavar="FILE", required=True, help="where to write: .csv, .npy, or .h5ad for rows of one")
    parser.share("--overwrite", "--label")
    parser.add_argument("--denoised", action="store_true", help="with .h5ad: also E[x|z], as a layer")
    changed = "the y that --denoised decodes with, in place of each row's own"
    parser.add_argument("--decode-as", metavar="Y", help=changed)
    total = "scale each row of --denoised to this sum, so that shallow and deep cells compare"
    parser.add_argument("--total", type=float, metavar="N", help=total)


def run(args: argparse.Namespace) -> None:
    """Encode part by part, and write."""
    import numpy as np

    from likeli.data import columns_of, write_csv, write_npy
    from likeli.spaces import Real

    annotated = check_rows_out(args, [".csv", ".npy"])
    require(annotated or not args.denoised, "denoised", "--out FILE.h5ad beside it", args.out)
    require(args.denoised or args.decode_as is None, "decode-as", "--denoised beside it", args.decode_as)
    require(args.denoised or args.total is None, "total", "--denoised beside it", args.total)
    require(args.total is None or 0 < args.total < math.inf, "total", "a number above 0", args.total)
    saved = open_run(args)
    model, other = saved.model, parse_label(args.decode_as, saved.model)
    streamed = parts_for(saved, args.data, args.label)
    parts = [(None, *rows_for(saved, args.data, label=args.label))] if streamed is None else streamed[1]
    found = [_coded(model, x, y, other, args.denoised) for _, x, y in parts]
    z = np.concatenate([codes for codes, _ in found])
    about = {"out": args.out, "rows": len(z), "code": z.shape[1], "family": model.kind()}
    if annotated:
        more = {"obsm": {"X_likeli": z}}
        if args.denoised:
            means = np.concatenate([means for _, means in found])
            more |= {"layers": {"likeli_denoised": means if args.total is None else _scaled(means, args.total)}}
        add_to_h5ad(args, {"run": args.run_folder, "family": model.kind()}, **more)
    else:
        with new_file(args.out, overwrite=args.overwrite) as path:
            if Path(args.out).suffix.lower() == ".npy":
                write_npy(path, z)
            else:
                names = tuple(f"z{i}" for i in range(z.shape[1]))
                write_csv(path, columns_of(_tensor(z), Real((z.shape[1],), names=names)))
    emit(args, about, f"codes of {len(z)} rows, {z.shape[1]} numbers each, in {args.out}")


def _scaled(means: np.ndarray, total: float) -> np.ndarray:
    """Rows that sum to the total.

    Raises:
        InputError: means below 0.
    """
    require(bool((means >= 0).all()), "total", "nothing where means are below 0", total)
    return means * (total / means.sum(1, keepdims=True))


def _tensor(z: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(z).double()


def _coded(
    model: GenerativeModel, x: Tensor, y: Tensor | None, other: Tensor | None, denoised: bool
) -> tuple[np.ndarray, Any]:
    """Codes and means of rows in full blocks, the last of which repeats its last row, so that none depends on the others."""
    import torch

    from likeli.latent.codes import decode_codes, embed
    from likeli.random import BLOCK

    codes, means = [], []
    for first in range(0, len(x), BLOCK):
        rows = torch.arange(first, first + BLOCK).clamp(max=len(x) - 1)
        own = None if y is None else y[rows]
        z = embed(model, x[rows], own)
        kept = min(BLOCK, len(x) - first)
        codes.append(z[:kept].flatten(1).cpu())
        if denoised:
            means.append(decode_codes(model, z, own if other is None else other)[:kept].float().cpu())
    return torch.cat(codes).numpy(), torch.cat(means).numpy() if denoised else None
