"""How often what is repeated is repeated: few times by default, in full by `make torture`, which sets LIKELI_TORTURE."""

import ast
import os

SHARE = float(os.environ.get("LIKELI_TORTURE", "0"))


def times(usual, full):
    """`full` repetitions where LIKELI_TORTURE is 1, that share of them where it is another number, `usual` at least."""
    return max(usual, round(full * SHARE))


def long_forms(folder):
    """(where it stands, repetitions now, repetitions in full) of all that is repeated in the tests of a folder."""
    for path in sorted(folder.rglob("test_*.py")):
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        of = {tuple(ast.literal_eval(a) for a in n.args) for n in calls if getattr(n.func, "id", "") == "times"}
        yield from ((path.relative_to(folder).as_posix(), times(*pair), pair[1]) for pair in sorted(of))
