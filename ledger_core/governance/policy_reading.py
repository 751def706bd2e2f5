"""A document under way: what may stand where, and how a mistake in it is said, with its place and its line.

Rules: pure; errors are `BadInput` with `place` and `line` among their fields. This file does not know policies.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ledger_core.errors import BadInput

Place = tuple[str | int, ...]
"""Where something stands in a document: keys and ordinals from its root."""


@attrs.frozen(kw_only=True)
class Reading:
    """A document under way: where it came from, and the lines of its places where they are known."""

    source: str = ""
    lines: Mapping[Place, int] = attrs.field(factory=dict)

    def bad(self, place: Place, sentence: str, hint: str = "") -> BadInput:
        """The error that something in a place is wrong."""
        line = next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), None)
        where = ", ".join(filter(None, [self.source, f"line {line}" if line else ""]))
        return BadInput(f"{where}: {sentence}" if where else sentence, hint=hint, place=spelled(place), line=line)

    def fields(self, place: Place, value: Any, known: Iterable[str], what: str) -> dict[str, Any]:
        """A map of known fields only."""
        names = tuple(known)
        if type(value) is not dict:
            raise self.bad(place, f"{spelled(place)} is {shown(value)} instead of {what}.", f"{what} is a map.")
        for name in value:
            if name not in names:
                near = nearest(name, names)
                raise self.bad(
                    (*place, name),
                    f"{spelled(place)} has the field {name!r:.60}, which {what} does not have.",
                    (f"Did you mean {near}? " if near else "") + f"Its fields are: {', '.join(names)}.",
                )
        return value

    def one_of(self, place: Place, value: Any, known: tuple[str, ...]) -> Any:
        """One word of several."""
        if type(value) is not str or value not in known:
            near = nearest(value, known) if type(value) is str else None
            hint = (f"Did you mean {near}? " if near else "") + f"It is one of: {', '.join(known)}."
            raise self.bad(place, f"{spelled(place)} is {shown(value)}.", hint)
        return value


def spelled(place: Place) -> str:
    """A place as a person reads it: `rules[2].tools`."""
    text = "".join(f"[{one}]" if type(one) is int else f".{one}" for one in place).removeprefix(".")
    return text[:100] or "the policy"


def shown(value: Any) -> str:
    """A value of a document in a few words."""
    if type(value) in (dict, list):
        return f"{'a map' if type(value) is dict else 'a list'} of {len(value):,}"
    if type(value) is int and value.bit_length() > 64:
        return f"an integer of {value.bit_length():,} bits"
    if type(value) in (bool, int, float):
        return str(value).lower()[:60]
    if type(value) is str:
        return f"{value!r:.60}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    close = difflib.get_close_matches(name.lower()[:60], list(known), n=1, cutoff=0.6)
    return close[0] if close else None
