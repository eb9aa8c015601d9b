"""One HTML file of parts with words, a table and pictures: what a whole job has to show of its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from likeli.show.report import Figure


@dataclass(frozen=True)
class SheetPart:
    """One heading and what is under it.

    Arguments:
        heading: of the part.
        texts: paragraphs.
        table: a line of headings, then lines of cells, the first of each its name; none if empty.
        caption: of the table.
        figures: pictures.
    """

    heading: str
    texts: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    caption: str = ""
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Sheet:
    """What goes on a page.

    Arguments:
        title: heading.
        facts: on the data and the model, by name.
        parts: in their order.
        commands: how to do it again.
    """

    title: str
    facts: Mapping[str, Any]
    parts: Sequence[SheetPart]
    commands: Sequence[str]

    def html(self) -> str:
        """The page; it refers to nothing outside, and whatever came from the data is escaped."""
        templates = FileSystemLoader(Path(__file__).parent / "templates")
        page = Environment(loader=templates, autoescape=True, undefined=StrictUndefined).get_template("sheet.html")
        return page.render(**vars(self))
