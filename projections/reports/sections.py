"""How a report is shown: sections of words and tables, the same for a terminal and for a page.

Rules: pure. Cells are text that somebody may have chosen, and are escaped by whoever shows them: the page by itself,
the terminal by its own rules. A page stands alone: no script, no address, light and dark, on a telephone too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

import attrs

Mark = Literal["", "good", "bad", "warn"]
_BLOCKS: Final = "▁▂▃▄▅▆▇█"


@attrs.frozen(kw_only=True)
class Line:
    """A row of a table."""

    cells: tuple[str, ...]
    mark: Mark = ""
    below: tuple[str, ...] = ()
    """Lines of words under the row."""


@attrs.frozen(kw_only=True)
class Section:
    """A part of a report."""

    title: str
    lead: str = ""
    headings: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    """Columns that hold numbers."""
    lines: tuple[Line, ...] = ()
    mark: Mark = ""


def line(*cells: Any, mark: Mark = "", below: Sequence[str] = ()) -> Line:
    """A row; what is absent is empty."""
    return Line(cells=tuple("" if cell is None else str(cell) for cell in cells), mark=mark, below=tuple(below))


def sparkline(values: Sequence[float]) -> str:
    """Values as blocks, the highest as the full one; what is nothing is a dot."""
    most = max(values, default=0)
    if most <= 0:
        return "·" * len(values)
    steps = len(_BLOCKS) - 1
    return "".join("·" if value <= 0 else _BLOCKS[round(value / most * steps)] for value in values)


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The report as one page."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  # only whoever renders a page pays for it

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_template()).render(title=title, lead=lead, sections=sections)


@cache
def _template() -> str:
    return resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
