"""How often what is repeated is repeated: few times by default, in full by `make torture`, which sets LIKELI_TORTURE."""

import os

SHARE = float(os.environ.get("LIKELI_TORTURE", "0"))


def times(usual, full):
    """`full` repetitions where LIKELI_TORTURE is 1, that share of them where it is another number, `usual` at least."""
    return max(usual, round(full * SHARE))
