"""A journal for replay that goes on where the code does something else, and notes all that it asks for.

Rules: nothing is live. What the code asks for is answered by the recorded effect that it most likely is, each used
once; where there is none, by an assumption, which is noted. Recorded outcomes are released in their recorded order as
far as the code asks for them. What of it was a divergence is nobody's question here: who compares what was done with
what was recorded (`comparing`) says it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable
from typing import Any, Final

import attrs

from ledger_core.run.divergence import Divergence
from ledger_core.run.journal import Entry, Intent, Journal, Standing

_ASSUMED: Final[dict[str, Any]] = {
    "model": {"role": "assistant", "content": ""},
    "approval": {"approved": False, "by": "", "reason": "nobody was asked: this is a replay"},
    "answer": {"approved": False, "by": "", "reason": "nobody was asked: this is a replay"},
    "question": "appr_not_recorded",
    "child": "run_not_recorded",
}
"""What the code is given where nothing like it is recorded; else None."""


@attrs.define
class Asked:
    """Something that the code asked for, and what it was answered with."""

    intent: Intent
    entry: Entry
    path: str | None
    """Of the recorded effect that answered it; None for an assumption."""


class Aligned(Journal):
    """A journal that answers whatever the code asks for, as well as the record can."""

    def __init__(self, journal: Journal, begun_ns: int) -> None:
        vars(self).update(vars(journal))
        self._begun_ns = begun_ns
        self.asked: dict[str, Asked] = {}
        """By the path at which it was asked for, in the order of asking."""
        self._claimed: set[str] = set()
        self._alike: dict[Any, list[str]] = defaultdict(list)
        """Recorded paths by what was asked for, and by its scope too, in the order of the record."""
        self._positions = {path: place for place, (path, gone) in enumerate(self._order) if not gone}
        self._given: set[str] = set()
        self._last = -1.0
        known = {**self._written, **self.entries}
        for path, entry in known.items():
            if entry.intent.kind != "chunk":
                for key in _keys(entry.intent, path):
                    self._alike[key].append(path)
        self._known = known

    def request(self, intent: Intent) -> Entry | Divergence | None:
        if intent.kind == "chunk":
            return self.entries[intent.path]
        path = self._claim(intent)
        if path is None:
            entry = self._assumed(intent)
        else:
            self._claimed.add(path)
            entry = attrs.evolve(self._known[path], intent=intent)
        self.asked[intent.path] = Asked(intent, entry, path)
        return entry

    def _claim(self, intent: Intent) -> str | None:
        """The recorded effect that this most likely is: the same request, here or next; else the same call."""
        here = self._known.get(intent.path)
        exact, called = _key(intent), (intent.kind, intent.name)
        free = here is not None and intent.path not in self._claimed
        if free and here is not None and _key(here.intent) == exact:
            return intent.path
        scope = _scope(intent.path)
        for key in ((scope, exact), exact):
            if (found := self._next(key)) is not None:
                return found
        if free and here is not None and (here.intent.kind, here.intent.name) == called:
            return intent.path
        if (found := self._next((scope, called))) is not None:
            return found
        return next(iter(self._alike.get(exact, ())), None)  # once more, what the same request was answered with

    def _next(self, key: Any) -> str | None:
        """The first of those that are alike and not claimed yet."""
        paths = self._alike.get(key)
        while paths and paths[0] in self._claimed:
            paths = self._alike[key] = paths[1:]
        return paths[0] if paths else None

    def _assumed(self, intent: Intent) -> Entry:
        """An answer that is not recorded: of the last call like it, or nothing."""
        value = _ASSUMED.get(intent.kind)
        if intent.kind == "now":
            value = self._begun_ns
        for path in reversed(self._alike.get((intent.kind, intent.name), ())):
            entry = self._known[path]
            if entry.standing is Standing.DONE:
                value = entry.value
                break
        return Entry(intent=intent, seq=0, standing=Standing.DONE, value=value)

    def knows(self, path: str) -> bool:
        found = self.entries.get(path)
        if found is not None and found.intent.kind == "chunk":
            asked = self.asked.get(found.intent.name)
            return asked is not None and asked.path == found.intent.name
        return path in self.asked

    def kept(self, entry: Entry) -> bool:
        del entry
        return False

    @property
    def exhausted(self) -> bool:
        return True

    @property
    def all_requested(self) -> bool:
        return True

    def release(self, waiting: Container[str] | None = None) -> Entry | None:
        best: tuple[float, int] | None = None
        found: Entry | None = None
        for place, (path, asked) in enumerate(self.asked.items()):
            if path in self._given or not asked.entry.final or (waiting is not None and path not in waiting):
                continue
            rank = (self._rank(asked), place)
            if best is None or rank < best:
                best, found = rank, asked.entry
        if found is not None and best is not None:
            self._given.add(found.intent.path)
            self._last = max(self._last, best[0] if best[0] < _LATE else self._last)
        return found

    def _rank(self, asked: Asked) -> float:
        """When an outcome is given: in recorded order; an assumption at once; one that was given up, last."""
        if asked.path is None:
            return self._last + 0.5
        return self._positions.get(asked.path, _LATE)

    def recorded(self, paths: Iterable[str]) -> bool:
        del paths
        return True

    def stuck(self, *, ended: bool) -> Divergence | None:
        del ended
        return None

    def held_up(self) -> Divergence | None:
        return None


_LATE: Final = float("inf")


def _key(intent: Intent) -> Any:
    return (intent.kind, intent.name, intent.request)


def _keys(intent: Intent, path: str) -> Iterable[Any]:
    scope, exact, called = _scope(path), _key(intent), (intent.kind, intent.name)
    return ((scope, exact), exact, (scope, called), called)


def _scope(path: str) -> str:
    return path.rpartition("/")[0]
