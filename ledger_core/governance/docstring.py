"""What a docstring says: its prose, and a description for each parameter. Google's, NumPy's and Sphinx's ways.

Rules: pure. A section of parameters leaves the prose, the rest of the text stays as it is. Types that a docstring
names are not believed: annotations say them. What looks like none of the three ways is prose. This file does not know
functions or schemas.
"""

from __future__ import annotations

import inspect
import re
from typing import Final, NamedTuple

_GOOGLE: Final = re.compile(r"(?:args|arguments|params|parameters|keyword arg(?:ument)?s|other parameters|attributes):")
_NUMPY: Final = frozenset(("parameters", "other parameters", "attributes", "keyword arguments"))
_RULE: Final = re.compile(r"\s*-{3,}\s*")
_ITEM: Final = re.compile(r"\*{0,2}(\w+)[ \t]*(?:\(.*?\))?[ \t]*:(?:[ \t]+(.*)|$)")
_NAMES: Final = re.compile(r"(\*{0,2}\w+(?:[ \t]*,[ \t]*\*{0,2}\w+)*)[ \t]*(?::.*)?$")
_SPHINX: Final = re.compile(
    r":(?:param|parameter|arg|argument|key|keyword|var|ivar)[ \t]+(?:[^:]*[ \t])?\*{0,2}(\w+):(.*)"
)
_TYPE: Final = re.compile(r":(?:type|rtype|vartype)(?:[ \t]+[^:]*)?:")


class Doc(NamedTuple):
    """A docstring: its prose, and the descriptions of parameters by name, each on one line."""

    text: str
    parameters: dict[str, str]


def read(docstring: str | None) -> Doc:
    """Read a docstring; never fails."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    prose: list[str] = []
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        if _GOOGLE.fullmatch(line.strip().lower()):
            at = _items(lines, at + 1, _indent(line) + 1, found, numpy=False)
        elif line.strip().lower() in _NUMPY and at + 1 < len(lines) and _RULE.fullmatch(lines[at + 1]):
            at = _items(lines, at + 2, _indent(line), found, numpy=True)
        elif field := _SPHINX.match(line.strip()):
            end = _deeper(lines, at + 1, _indent(line) + 1)
            found.setdefault(field[1], []).extend([field[2], *lines[at + 1 : end]])
            at = end
        elif _TYPE.match(line.strip()):
            at = _deeper(lines, at + 1, _indent(line) + 1)
        else:
            prose.append(line)
            at += 1
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(prose)).strip()
    return Doc(text, {name: joined for name, parts in found.items() if (joined := " ".join(" ".join(parts).split()))})


def _items(lines: list[str], at: int, least: int, found: dict[str, list[str]], *, numpy: bool) -> int:
    """Read the items of a section that begins at line `at`, indented by `least` or more; the line behind it."""
    while at < len(lines) and not lines[at].strip():
        at += 1
    if at == len(lines) or _indent(lines[at]) < least:
        return at
    own = _indent(lines[at])
    names: tuple[str, ...] = ()
    while at < len(lines):
        line = lines[at]
        if line.strip():
            depth = _indent(line)
            if depth < own or (numpy and depth == own and at + 1 < len(lines) and _RULE.fullmatch(lines[at + 1])):
                break
            if depth > own:
                for name in names:
                    found[name].append(line)
            else:
                names = _named(line.strip(), found, numpy=numpy)
        elif numpy and not any(_indent(one) >= own and one.strip() for one in lines[at + 1 : at + 3]):
            break
        at += 1
    return at


def _named(line: str, found: dict[str, list[str]], *, numpy: bool) -> tuple[str, ...]:
    """The parameters that an item's first line names; what is no item names none."""
    item = (_NAMES if numpy else _ITEM).match(line)
    if item is None:
        return ()
    names = tuple(name.strip(" \t*") for name in item[1].split(",")) if numpy else (item[1],)
    for name in names:
        found[name] = [] if numpy else [item[2] or ""]
    return names


def _deeper(lines: list[str], at: int, least: int) -> int:
    while at < len(lines) and lines[at].strip() and _indent(lines[at]) >= least:
        at += 1
    return at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
