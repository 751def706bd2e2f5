"""Regular expressions of a policy, each with the longest text that it can be held against in bounded time.

Rules: pure. Python's `re` tries one way after another, and agents choose the text: so the ways that a pattern can be
tried are counted when it is read, as a function of the length of the text. A pattern that could take more than
`MAX_WAYS` on a few characters is refused; every other has a longest text, and longer text is in doubt. `$` is the end
of the text, and not also before a last line break; `\\d`, `\\w` and `\\s` mean ASCII, as in ECMA 262.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable
from typing import Any, Final

import attrs

from ledger_core.governance.policy_reading import Place, Reading, spelled

MAX_PATTERN: Final = 512
MAX_WAYS: Final = 3e7
"""About a second of one core, at worst."""
LENGTHS: Final = (100_000, 50_000, 20_000, 10_000, 5_000, 2_000, 1_000, 500, 250, 100, 50)
"""What the longest text of a pattern may be, characters."""
_REFUSED: Final = ("GROUPREF", "GROUPREF_EXISTS", "GROUPREF_IGNORE")
_HINT: Final = "Write what repeats inside a repeat possessively, as in ([a-z]++[.])*, or say it with fewer repeats."


@attrs.frozen
class Pattern:
    """A compiled pattern, and the longest text it may be held against."""

    regex: re.Pattern[str]
    longest: int


def compiled(reading: Reading, place: Place, pattern: Any) -> Pattern:
    """A pattern of a document; raises `BadInput` for one that is none, or could take for ever."""
    if type(pattern) is not str or len(pattern) > MAX_PATTERN:
        hint = f"It is text of at most {MAX_PATTERN} characters."
        raise reading.bad(place, f"{spelled(place)} is no pattern that may be used here.", hint)
    try:
        text = _ends(pattern)
        regex = re.compile(text, re.ASCII)
        tree = importlib.import_module("re._parser").parse(text, re.ASCII)
        longest = next((length for length in LENGTHS if _ways_of_search(tree, length) <= MAX_WAYS), None)
    except (re.error, RecursionError, OverflowError) as error:
        raise reading.bad(place, f"{spelled(place)} is no regular expression: {error}.") from None
    if regex.flags & (re.MULTILINE | re.VERBOSE):
        raise reading.bad(place, f"{spelled(place)} sets a flag that may not be used here.", "Only (?i) and (?s) may.")
    if longest is None:
        raise reading.bad(place, f"{spelled(place)} could take for ever on text of {LENGTHS[-1]} characters.", _HINT)
    return Pattern(regex, longest)


def _ends(pattern: str) -> str:
    r"""A pattern whose `$` is the end of the text, which in Python's own words is `\Z`."""
    out, inside, at = [], False, 0
    while at < len(pattern):
        size = 2 if pattern[at] == "\\" else 1
        one = pattern[at : at + size]
        if inside:
            inside = one != "]" or pattern[at - 1] == "[" or pattern[at - 2 : at] == "[^"
        elif one == "[":
            inside = True
        elif one == "$":
            one = r"\Z"
        out.append(one)
        at += size
    return "".join(out)


def _ways_of_search(tree: Any, length: int) -> float:
    """How many ways there are to try a pattern on text of a length, at every place where it may begin."""
    anchored = len(tree) > 0 and str(tree[0][0]) == "AT" and str(tree[0][1]) in ("AT_BEGINNING", "AT_BEGINNING_STRING")
    ways, work = _ways(tree, length)
    return (1 if anchored else length) * (ways + work)


def _ways(tree: Iterable[Any], length: int) -> tuple[float, float]:
    """The ways through a sequence that backtracking may come back to, and those that it tries and then forgets."""
    ways, work = 1.0, 0.0
    for operator, argument in tree:
        one, forgotten = _ways_of(str(operator), argument, length)
        work += ways * forgotten
        ways *= one
    return ways, work


def _ways_of(operator: str, argument: Any, length: int) -> tuple[float, float]:
    if operator in _REFUSED:
        return math.inf, 0.0
    if operator in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = argument
        most = min(int(most), max(length, int(least)))
        ways, work = _ways(body, length)
        inner = math.exp(min(700.0, most * math.log(ways))) if ways > 1 else 1.0
        ways, work = (most - int(least) + 1) * inner, most * work
        if operator != "POSSESSIVE_REPEAT":
            return ways, work
        return 1.0, work + (ways if inner > 1 else 0.0)
    if operator == "BRANCH":
        each = [_ways(one, length) for one in argument[1]]
        return sum(ways for ways, _ in each), sum(work for _, work in each)
    if operator == "SUBPATTERN":
        return _ways(argument[3], length)
    if operator in ("ATOMIC_GROUP", "ASSERT", "ASSERT_NOT"):
        ways, work = _ways(argument if operator == "ATOMIC_GROUP" else argument[1], length)
        return 1.0, work + (ways if ways > 1 else 0.0)
    return 1.0, 0.0
