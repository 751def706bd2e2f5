"""Two texts compared line by line, or clause by clause.

Rules: pure, and bounded whatever the texts are. This file does not know what the texts are of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from replay.alignment import matches

LONG: Final = 200
"""Letters from which a text is compared as a text."""
_CONTEXT: Final = 3
_LINES: Final = 400
"""Lines of a text's differences that are shown."""
_WIDEST: Final = 1000
_SENTENCE: Final = re.compile(r"(?<=[.!?;:,]) +")


def is_text(before: Any, after: Any) -> bool:
    """Whether two values are to be compared as texts: line by line, or sentence by sentence."""
    both = isinstance(before, str) and isinstance(after, str)
    return both and any("\n" in one or len(one) > LONG for one in (before, after))


def text_diff(before: str, after: str) -> list[str]:
    """The lines in which two texts differ, with those around them, as in a unified diff without its first two lines.

    A text of one line is compared by its clauses. O(n + d²) as `alignment.matches`; at most 400 lines, the last of
    which says how many more there are.
    """
    lines = [_pieces(one, by_line="\n" in before or "\n" in after) for one in (before, after)]
    found = list(islice(_hunks(*lines), _LINES + 1))
    if len(found) > _LINES:
        rest = sum(1 for _ in islice(_hunks(*lines), _LINES, None))
        found[_LINES:] = [f"… and {rest:,} more lines"]
    return found


def _pieces(text: str, *, by_line: bool) -> list[str]:
    pieces = text.split("\n") if by_line else _SENTENCE.split(text)
    return [piece[at : at + _WIDEST] for piece in pieces for at in range(0, max(len(piece), 1), _WIDEST)]


def _hunks(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    edits = [(x, to_x, y, to_y) for x, to_x, y, to_y in _edits(before, after) if x < to_x or y < to_y]
    at = 0
    while at < len(edits):
        end = at + 1
        while end < len(edits) and edits[end][0] - edits[end - 1][1] <= 2 * _CONTEXT:
            end += 1
        first, last = edits[at], edits[end - 1]
        lead = min(_CONTEXT, first[0])
        tail = min(_CONTEXT, len(before) - last[1])
        sizes = (last[1] - first[0] + lead + tail, last[3] - first[2] + lead + tail)
        yield f"@@ -{first[0] - lead + 1},{sizes[0]} +{first[2] - lead + 1},{sizes[1]} @@"
        place = first[0] - lead
        for x, to_x, y, to_y in edits[at:end]:
            yield from (f" {line}" for line in before[place:x])
            yield from (f"-{line}" for line in before[x:to_x])
            yield from (f"+{line}" for line in after[y:to_y])
            place = to_x
        yield from (f" {line}" for line in before[place : place + tail])
        at = end


def _edits(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
    x = y = 0
    for i, j in [*matches(before, after), (len(before), len(after))]:
        yield x, i, y, j
        x, y = i + 1, j + 1
