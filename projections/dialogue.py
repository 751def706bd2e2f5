"""What was said and heard in a run up to any of its events: transcripts that one can go through, both ways.

Rules: at each event the transcript is what `transcript.of_events` makes of the events up to there, so it is always
valid. One event further costs one event, and one back hardly more: copies of the fold are kept behind the place where
one is, at distances that double, so that n events need log n of them. Only events that say something are read again.

This file does not know the shapes of messages, nor the log: it is handed what fetches an event.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from ledger_core.events import Missing
from ledger_core.events.effect import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
)
from ledger_core.log.record import Event
from ledger_core.run.journal import Entry, Journal
from projections.messages import comparable
from projections.transcript import Conversation, Reading, Transcript

SPEAKS: Final = frozenset(
    body.kind.name
    for body in (
        ModelCallRequested,
        ModelCallCompleted,
        ModelCallFailed,
        ToolCallRequested,
        ToolCallCompleted,
        ToolCallFailed,
        ToolCallSettled,
    )
)
"""Types of events that a transcript is made of."""
_Key = tuple[str, str, str]
"""A call by its stream, its tool, and its arguments as one text."""


class Dialogue:
    """The transcript of a run at any of its events."""

    def __init__(self, spoken: Sequence[int], event: Callable[[int], Event]) -> None:
        """`spoken` are the run's events that say something (of a type in `SPEAKS`), in order; `event` fetches one."""
        self._spoken = spoken
        self._event = event
        self._place = 0
        """Number of spoken events that were taken."""
        self._reading = _Live({})
        self._kept: dict[int, _Live] = {}
        """The fold at places before this one."""
        self._made: Transcript | None = None

    def at(self, seq: int) -> Transcript:
        """The transcript after the run's event `seq`; it is not to be changed."""
        place = bisect_right(self._spoken, seq)
        if place == self._place and self._made is not None:
            return self._made
        if place < self._place:
            self._back(place)
        while self._place < place:
            if (place - self._place).bit_count() == 1:  # as far from where one goes as a power of two
                self._kept[self._place] = self._reading.copied()
            self._reading.take(self._event(self._spoken[self._place]))
            self._place += 1
        self._thin()
        self._made = self._reading.transcript()
        return self._made

    def _back(self, place: int) -> None:
        """Go on from the last copy that is not behind a place."""
        self._kept = {at: one for at, one in self._kept.items() if at <= place}
        self._place = max(self._kept, default=0)
        alike = self._reading._alike
        self._reading = self._kept[self._place].copied() if self._kept else _Live(alike)

    def _thin(self) -> None:
        """Keep one copy for each doubling of the distance: the farthest, which stays the longest."""
        far: dict[int, int] = {}
        for at in sorted(self._kept):
            far.setdefault((self._place - at).bit_length(), at)
        self._kept = {at: self._kept[at] for at in far.values()}


def latest(found: Transcript) -> list[Conversation]:
    """Its conversations, the one in which something was said last at the end."""
    return sorted(found.conversations, key=lambda one: one.seqs[1])


class _Live(Reading):
    """The fold, made for going to and fro: copies share entries of calls, and which calls are alike is known."""

    def __init__(self, alike: dict[_Key, dict[str, None]]) -> None:
        super().__init__()
        self._alike = alike
        """Paths by what was called, of all that was ever read: a copy looks only at those that it has itself."""

    def take(self, event: Event) -> None:
        """Take the next event; an entry that another copy may hold is not changed, but replaced."""
        body = event.body
        if isinstance(body, (ToolCallCompleted, ToolCallFailed, ToolCallSettled)):
            entries = self._journals[event.stream].entries
            if body.path in entries:
                entries[body.path] = attrs.evolve(entries[body.path])
        super().take(event)
        if isinstance(body, ToolCallRequested) and not isinstance(body.arguments, Missing):
            self._alike.setdefault((event.stream, body.tool, comparable(body.arguments)), {})[body.path] = None

    def _recorded(self) -> dict[_Key, list[Entry]]:
        return _Recorded(self._journals, self._alike)

    def copied(self) -> _Live:
        """A fold of its own: messages are shared, because nothing changes them."""
        found = _Live(self._alike)
        talks = {id(one): attrs.evolve(one, said=list(one.said), origins=list(one.origins)) for one in self._talks}
        found._talks = list(talks.values())
        found._unread = {stream: talks[id(talk)] for stream, talk in self._unread.items()}
        found._waiting = {key: (talks[id(talk)], count, seq) for key, (talk, count, seq) in self._waiting.items()}
        found._journals.update((stream, _journal(journal)) for stream, journal in self._journals.items())
        found._proposed.update((call, list(places)) for call, places in self._proposed.items())
        return found


class _Recorded(dict[_Key, list[Entry]]):
    """Recorded calls in order, by stream, tool and arguments; only those that are asked for are put together."""

    def __init__(self, journals: Mapping[str, Journal], alike: Mapping[_Key, Mapping[str, None]]) -> None:
        super().__init__()
        self._journals = journals
        self._alike = alike

    def __missing__(self, key: _Key) -> list[Entry]:
        stream, tool, arguments = key
        entries = self._journals[stream].entries if stream in self._journals else {}
        found = [entries[path] for path in self._alike.get(key, ()) if path in entries]
        found = [one for one in found if one.intent.name == tool and _asked(one) == arguments]
        self[key] = sorted(found, key=lambda one: one.seq)
        return self[key]


def _asked(one: Entry) -> str | None:
    """What a call was asked, to be compared; the path may have been another call's before."""
    arguments = one.intent.document["arguments"]
    return None if isinstance(arguments, Missing) else comparable(arguments)


def _journal(one: Journal) -> Journal:
    """A journal that tool calls can be recorded in without changing this one."""
    found = copy.copy(one)
    found.entries = dict(one.entries)
    found._order = list(one._order)
    return found
