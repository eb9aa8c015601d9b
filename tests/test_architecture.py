"""The drawing in docs/architecture.md is the import graph: `python tests/test_architecture.py` draws it anew."""

import re
import sys
from pathlib import Path

from test_house import LAYER, LAYERS, MODULES, ROOT, TREES, imports

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
DRAWING = re.compile(r"(?<=<!-- drawn -->\n```text\n).*?(?=```\n)", re.DOTALL)
NAMES = {"__init__": "likeli", "__main__": "likeli -m"}


def arrows():
    """room → the rooms that it imports, wherever in its files the import stands (from above, the version alone)."""
    found = {name[0]: set() for name in MODULES}
    for name, path in MODULES.items():
        found[name[0]] |= {target[0] for target in imports(TREES[path], everywhere=True)} - {name[0]}
    return {room: {r for r in below if r != "__init__" or LAYER[room] > LAYER[r]} for room, below in found.items()}


def drawing():
    """The layers as storeys, the upper lean on the lower; beside each room what it leans on."""
    graph = arrows()
    storeys = [[room for room in rooms.split() if room in graph] for rooms in LAYERS]
    order = [room for storey in storeys for room in storey]
    lines = []
    for level, storey in reversed(list(enumerate(storeys, 1))):
        for i, room in enumerate(storey):
            below = [NAMES.get(r, r) for r in reversed(order) if r in graph[room]]
            lines += wrapped(f"{level if i == 0 else '':>2} │ {NAMES.get(room, room):<12}│ ", below)
        lines.append("───┼─────────────┼" + "─" * 83)
    return "\n".join([" n │ room        │ imports", "═══╪═════════════╪" + "═" * 83, *lines[:-1]]) + "\n"


def wrapped(start, words):
    lines, line = [], start
    for word in words:
        if len(line) + len(word) > 100:
            lines, line = [*lines, line.rstrip()], "   │             │ "
        line += word + " "
    return [*lines, line.rstrip()]


def test_the_drawing_is_the_import_graph():
    """It fails when a room or an arrow between two rooms appears or vanishes."""
    assert DRAWING.findall(PAGE.read_text(encoding="utf-8")) == [drawing()], "python tests/test_architecture.py draws it anew"


def test_every_path_on_the_page_exists():
    page = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", page))
    assert len(named) > 20
    homes = (ROOT, PAGE.parent.parent)
    assert not [name for name in sorted(named) if not any((home / name).exists() for home in homes)]
    assert not [room for room in arrows() if not room.startswith("__") and not re.search(rf"`{room}[/.]", page)]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(DRAWING.sub(lambda _: drawing(), text, count=1), encoding="utf-8")
    sys.exit(0 if DRAWING.search(text) else "no drawing to replace")
