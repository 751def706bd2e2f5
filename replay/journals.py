"""Journals for replay: one that notes what the code asks for, and one that answers whatever it asks for.

Rules: nothing is live but what `Live` is given to make. `Watched` is the journal of recovery, which stops at the first
difference; it sees one thing more, that a tool declares another version. `Aligned` goes on: what the code asks for is
answered by the recorded effect that it most likely is, each used once; where there is none, by an assumption, which is
noted. Recorded outcomes are released in their recorded order as far as the code asks for them. What of it was a
divergence is nobody's question here: who compares what was done with what was recorded (`comparing`) says it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Final

import attrs

from ledger_core.run import divergence
from ledger_core.run.divergence import Difference, Divergence
from ledger_core.run.journal import Entry, Intent, Journal, Standing
from replay.live import Live

Version = Callable[[str], str | None]
"""The version that a tool declares today; None for one that is not known."""
_MORE: Final = 1000
"""Effects beyond twice the recorded ones, behind which code that never ends is stopped."""
_ASSUMED: Final[dict[str, Any]] = {
    "model": {"role": "assistant", "content": ""},
    "approval": {"approved": False, "by": "", "reason": "nobody was asked: this is a replay"},
    "answer": {"approved": False, "by": "", "reason": "nobody was asked: this is a replay"},
    "question": "appr_not_recorded",
    "child": "run_not_recorded",
}
"""What the code is given where nothing like it is recorded; else None."""


class Watched(Journal):
    """A journal that notes what the code asks for, and stops at a tool of another version."""

    def __init__(self, journal: Journal, version: Version) -> None:
        vars(self).update(vars(journal))
        self._version = version

    def request(self, intent: Intent) -> Entry | Divergence | None:
        found = super().request(intent)
        if not isinstance(found, Entry) or found.version is None:
            return found
        now = self._version(intent.name)
        if now is None or now == found.version:
            return found
        return Divergence(
            kind=divergence.OTHER_VERSION,
            path=intent.path,
            recorded=intent.words(),
            attempted=intent.words(),
            seq=found.seq,
            differences=(Difference(at="$.version", recorded=found.version, attempted=now),),
            line=intent.line,
        )


@attrs.define
class Asked:
    """Something that the code asked for, and what it was answered with."""

    intent: Intent
    entry: Entry
    path: str | None
    """Of the recorded effect that answered it; None for an assumption."""
    exact: bool
    """Whether that was the very same request."""
    place: str | None = None
    """The recorded effect whose turn the answer comes at, where it is not that one's."""


class Aligned(Journal):
    """A journal that answers whatever the code asks for, as well as the record can."""

    def __init__(self, journal: Journal, begun_ns: int, live: Live | None = None) -> None:
        """`live` makes what it chooses; nothing is live without it."""
        vars(self).update(vars(journal))
        self.live = live
        self._begun_ns = begun_ns
        self.asked: dict[str, Asked] = {}
        """By the path at which it was asked for, in the order of asking."""
        self._claimed: set[str] = set()
        """Recorded paths that answered the very request that they are of."""
        self._lent: set[str] = set()
        """Recorded paths that answered anything: the very request of one that answered another may still come."""
        self._alike: dict[Any, deque[str]] = defaultdict(deque)
        """Recorded paths by what was asked for, and by its scope too, in the order of the record."""
        self._answers_to: dict[Any, str] = {}
        self._latest: dict[tuple[str, str], Any] = {}
        """Values of the last recorded calls, by kind and name."""
        self._positions: dict[str, float] = {path: place for place, (path, gone) in enumerate(self._order) if not gone}
        self._pending: dict[str, Asked] = {}
        self._last = -1.0
        known = {**self._written, **self.entries}
        for path, entry in known.items():
            if entry.intent.kind != "chunk":
                for key in _keys(entry.intent, path):
                    self._alike[key].append(path)
                self._answers_to.setdefault(_key(entry.intent), path)
                if entry.standing is Standing.DONE:
                    self._latest[entry.intent.kind, entry.intent.name] = entry.value
        self._known = known

    def request(self, intent: Intent) -> Entry | Divergence | None:
        if intent.kind == "chunk":
            chunk = self._known[intent.path]
            self._pending[intent.path] = Asked(intent, chunk, intent.path, exact=True)
            return chunk
        if len(self.asked) > 2 * len(self._known) + _MORE:
            return self.beyond(intent)
        if intent.path not in self._known and self.was_given_up(intent.path):
            left = Entry(intent=intent, seq=0)  # the recorded code had stopped waiting before there was anything
            self.asked[intent.path] = Asked(intent, left, None, exact=False)
            return left
        path = self._claim(intent)
        self._pass(path or "")
        exact = path is not None and _key(self._known[path].intent) == _key(intent)
        place = path
        if self.live is not None and self.live.ask(intent, exact) and (made := self.live.call(intent)) is not None:
            path, exact, entry = None, False, made
        else:
            entry = self._assumed(intent) if path is None else attrs.evolve(self._known[path], intent=intent)
        self.asked[intent.path] = self._pending[intent.path] = Asked(intent, entry, path, exact=exact, place=place)
        return entry

    def _claim(self, intent: Intent) -> str | None:
        """The recorded effect that this most likely is: the same request, here or next; else the same call."""
        scope, exact, called = _scope(intent.path), _key(intent), (intent.kind, intent.name)
        here = self._known.get(intent.path)
        if here is not None and intent.path not in self._claimed and _key(here.intent) == exact:
            found: str | None = intent.path
        else:
            found = self._next((scope, exact), self._claimed) or self._next(exact, self._claimed)
        if found is not None:
            self._claimed.add(found)
            self._lent.add(found)
            return found
        if here is not None and intent.path not in self._lent and (here.intent.kind, here.intent.name) == called:
            found = intent.path
        else:
            found = self._next((scope, called), self._lent)
        if found is not None:
            self._lent.add(found)
            return found
        return self._answers_to.get(exact)  # once more, what the same request was answered with

    def _next(self, key: Any, taken: set[str]) -> str | None:
        """The first of those that are alike and not taken yet."""
        paths = self._alike.get(key)
        while paths and paths[0] in taken:
            paths.popleft()
        return paths[0] if paths else None

    def _assumed(self, intent: Intent) -> Entry:
        """An answer that is not recorded: of the last call like it, of what stands there, or nothing."""
        here = self._known.get(intent.path)
        if (intent.kind, intent.name) in self._latest:
            value = self._latest[intent.kind, intent.name]
        elif here is not None and here.intent.kind == intent.kind and here.standing is Standing.DONE:
            value = here.value  # of another name: it may have been renamed
        else:
            value = self._begun_ns if intent.kind == "now" else _ASSUMED.get(intent.kind)
        if intent.kind == "model" and isinstance(value, list) != bool(intent.document["parameters"].get("stream")):
            value = _ASSUMED["model"] if isinstance(value, list) else []
        return Entry(intent=intent, seq=0, standing=Standing.DONE, value=value)

    def knows(self, path: str) -> bool:
        found = self._known.get(path)
        if found is not None and found.intent.kind == "chunk":
            asked = self.asked.get(found.intent.name)
            return asked is not None and asked.path == found.intent.name
        return path in self.asked

    def kept(self, entry: Entry) -> bool:
        if entry.intent.kind == "chunk":
            return entry.intent.path in self._written
        asked = self.asked.get(entry.intent.path)
        return asked is not None and asked.path in self._written

    def left_out(self) -> Iterator[str]:
        """Outside writes of dropped parts that the code has not asked for again: they happened all the same."""
        return (path for path in self._written if path not in self._claimed)

    @property
    def exhausted(self) -> bool:
        return True

    @property
    def all_requested(self) -> bool:
        return True

    def _behind(self, order: int) -> bool:
        return self._last >= order - 1

    def release(self, waiting: Container[str] | None = None) -> Entry | None:
        best: tuple[float, int] | None = None
        found: Entry | None = None
        for place, (path, asked) in enumerate(self._pending.items()):
            if not asked.entry.final or (waiting is not None and path not in waiting):
                continue
            if asked.path is not None and asked.path not in self._positions:
                continue
            rank = (self._positions.get(asked.path or asked.place or "", _LAST), place)
            if best is None or rank < best:
                best, found = rank, asked.entry
        if found is not None and best is not None:
            del self._pending[found.intent.path]
            self._last = max(self._last, best[0]) if best[0] != _LAST else self._last
        return found

    def late(self, waiting: Container[str]) -> Entry | None:
        """An outcome that the recorded code had stopped waiting for, where this code goes on waiting."""
        found = next((path for path, asked in self._pending.items() if path in waiting and asked.entry.final), None)
        return None if found is None else self._pending.pop(found).entry

    def recorded(self, paths: Iterable[str]) -> bool:
        del paths
        return True

    def stuck(self, *, ended: bool) -> Divergence | None:
        del ended
        return None

    def held_up(self) -> Divergence | None:
        return None


_LAST: Final = float("inf")
"""An assumption is given when nothing that is recorded can be: the code may stop waiting for it by then."""


def _key(intent: Intent) -> Any:
    return (intent.kind, intent.name, intent.request)


def _keys(intent: Intent, path: str) -> Iterable[Any]:
    scope, exact, called = _scope(path), _key(intent), (intent.kind, intent.name)
    return ((scope, exact), exact, (scope, called))


def _scope(path: str) -> str:
    return path.rpartition("/")[0]
