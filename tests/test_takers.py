"""The page that says which family takes which data is what the constructors say."""

from pathlib import Path

import likeli
from likeli.errors import LikeliError
from likeli.models import families
from likeli.spaces import Binary, Column, Counts, Pixels, Real, Table, Tokens

COLUMNS = (Column("a"), Column("n", "integer"), Column("c", "categorical", categories=("u", "v")))
SPACES = {
    "reals": Real((4,)),
    "grey levels": Pixels((8, 8), 16),
    "binary": Binary((8, 8)),
    "tokens, text": Tokens(8, 5),
    "counts": Counts((4,)),
    "tables": Table(COLUMNS),
}


def takes(family: type, space: likeli.Space) -> bool:
    try:
        family(space)
    except LikeliError:
        return False
    return True


def gaps(family: type) -> str:
    """Where a family takes missing cells."""
    if family.takes_missing:
        return "yes"
    table = SPACES["tables"]
    return "in tables" if takes(family, table) and family(table).takes_missing else ""


def page() -> list[str]:
    """The table as it should stand in docs/data.md."""
    rows = [f"| family | {' | '.join(SPACES)} | missing cells | labels |", "|---" * (len(SPACES) + 3) + "|"]
    for name, family in sorted(families().items()):
        if family.__module__.startswith("likeli."):
            marks = [takes(family, space) for space in SPACES.values()]
            marks += [gaps(family), "condition" in likeli.config.parameters_of(family)]
            rows.append(f"| `{name}` | {' | '.join(m if isinstance(m, str) else 'yes' if m else '' for m in marks)} |")
    return rows


def test_the_page_says_who_takes_what():
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    for row in page():
        assert row in text, row
