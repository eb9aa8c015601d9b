"""One side of one entry, in its own interpreter: pin to a core, run, print JSON.

python benchmarks/_side.py ENTRY ours|peer FOLDER CORE VARIANT_JSON
"""

import importlib
import json
import os
import sys
import warnings
from pathlib import Path


def main() -> None:
    entry, side, folder, core, variant = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    out = os.dup(1)
    os.dup2(2, 1)  # what a peer prints must not mix with the result
    warnings.simplefilter("ignore")
    module = importlib.import_module(f"benchmarks.{entry}")
    result = getattr(module, side)(Path(folder), **json.loads(variant))
    os.write(out, json.dumps(result).encode())


if __name__ == "__main__":
    main()
