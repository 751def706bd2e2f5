"""Folding events into rows: one pass for all projections, whatever the batches, wherever the rows are kept.

Rules: the result depends on the events alone: not on how many are taken at a time, nor on what else is folded beside
them. A projection that raises does not stop the others: the event is parked, its rows stay as they were, and whoever
asks is told. Each event is folded into its run's state once, for all of them. This file does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import attrs

from ledger_core import chain, codec
from ledger_core.events import Body
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import RUN, Contribution, Keys, Projection, Row
from projections.tables import ALL

STATES: Final = "states"
"""What is parked under this name is an event that no run's state could be folded over."""
_LONGEST: Final = 400
_NOBODY: Final = RunState()
"""The state that folds of other streams than runs' are given."""

Place = tuple[str, bytes]
"""A projection's name, and a row's key in it."""
Load = Callable[[str, bytes], Row | None]


@attrs.frozen(kw_only=True)
class Parked:
    """An event that a projection could not take."""

    projection: str
    seq: int
    error: str


@attrs.define
class _Change:
    """A row that was touched."""

    row: Row | None
    counted: list[Contribution]
    """What the row added to sums before it was touched."""
    seq: int


@attrs.define
class _PutOff:
    """The last event of a stream, of those of which the last is enough, and its rows."""

    keys: Sequence[str]
    event: Event
    state: RunState


@attrs.define(kw_only=True)
class _Stream:
    """A stream of which the batch has events."""

    kind: str
    """What its name begins with."""
    prefix: bytes
    """What the keys of its rows begin with."""
    begins: bool
    put_off: dict[str, _PutOff] = attrs.field(factory=dict)
    """By projection."""


@attrs.define
class _Routes:
    """The projections that an event may change, with how each names its rows."""

    settles: list[str] = attrs.field(factory=list)
    """Those of which what was put off is folded before."""
    later: list[tuple[Projection, Keys]] = attrs.field(factory=list)
    now: list[tuple[Projection, Keys]] = attrs.field(factory=list)


def row_key(key: str) -> bytes:
    """The key of a row in its stream; a very long one is cut, and told apart by a digest."""
    data = key.encode()
    if len(data) > _LONGEST:
        data = data[: _LONGEST - 32] + chain.code_digest(data)
    return data


class Folding:
    """A batch of events under way: what it changes is in `changes`, `sums` and `parked`."""

    def __init__(
        self, projections: Iterable[Projection], load: Load, state_before: Callable[[Event], RunState]
    ) -> None:
        self._load = load
        self._state_before = state_before
        self._projections = {one.name: one for one in projections}
        self._routes: dict[tuple[str, type[Body]], _Routes] = {}
        self._streams: dict[int, _Stream] = {}
        self._changes: dict[Place, _Change] = {}
        self.parked: list[Parked] = []
        self.states: dict[int, RunState] = {}
        """States of the runs that were touched, by the number of their stream."""

    def take(self, event: Event) -> None:
        """Fold one more event."""
        stream = self._streams.get(event.stream_no) or self._met(event)
        routes = self._routes.get((stream.kind, type(event.body))) or self._route(stream.kind, type(event.body))
        for name in routes.settles:
            self._settle(stream, name)
        state = self._folded(event) if stream.kind == RUN else _NOBODY
        for projection, keys in routes.later:
            put_off = stream.put_off.get(projection.name)
            if put_off is not None:  # the keys are the same: only ordered bodies change them
                put_off.event = event
            elif (named := self._named(projection, keys, event, state)) is not None:
                stream.put_off[projection.name] = _PutOff(named, event, state)
        for projection, keys in routes.now:
            for key in self._named(projection, keys, event, state) or ():
                self._fold(projection, stream, key, event, state)

    def _named(self, projection: Projection, keys: Keys, event: Event, state: RunState) -> Sequence[str] | None:
        """The rows that an event may change; None where the projection cannot say it."""
        try:
            return tuple(keys(event, state))
        except Exception as error:
            self._park(projection.name, event.seq, error)
            return None

    def _settle(self, stream: _Stream, name: str) -> None:
        """Fold the last event of a stream that was put off, while the state is the one behind it."""
        put_off = stream.put_off.pop(name, None)
        for key in put_off.keys if put_off else ():
            self._fold(self._projections[name], stream, key, put_off.event, put_off.state)  # type: ignore[union-attr]

    def changes(self) -> Iterator[tuple[Place, bytes | None]]:
        """The rows that are new or other, as bytes; None for those that are gone. Ends the batch."""
        for stream in self._streams.values():
            for name in list(stream.put_off):
                self._settle(stream, name)
        for place, change in list(self._changes.items()):
            try:
                yield place, None if change.row is None else codec.encode_trusted(change.row)
            except Exception as error:  # a row that is no plain data
                del self._changes[place]
                self._park(place[0], change.seq, error)

    def sums(self) -> dict[tuple[str, str, str], dict[str, int]]:
        """By how much counters moved, by projection, group and key; after `changes`."""
        moved: dict[tuple[str, str, str], dict[str, int]] = {}
        alike: dict[str, dict[tuple[tuple[str, str], ...], dict[str, int]]] = {name: {} for name in self._projections}
        for (name, _), change in self._changes.items():
            now = self._counted(name, change.row, change.seq)
            if now == change.counted:
                continue
            of_name = alike[name]
            for sign, contributions in ((-1, change.counted), (1, now)):
                for counters, keys in contributions:
                    target = of_name.get(keys)
                    if target is None:
                        target = of_name[keys] = {}
                    for counter, amount in counters.items():
                        target[counter] = target.get(counter, 0) + sign * amount
        for name, of_name in alike.items():
            for keys, counters in of_name.items():
                for group, key in keys:
                    add(moved.setdefault((name, group, key), {}), counters)
        return moved

    def _met(self, event: Event) -> _Stream:
        """A stream that no event of this batch was of before; what begins in the batch has no rows yet."""
        kind = event.stream.partition("/")[0] + "/"
        prefix = event.stream_no.to_bytes(8, "big")
        stream = self._streams[event.stream_no] = _Stream(kind=kind, prefix=prefix, begins=event.stream_seq == 1)
        return stream

    def _folded(self, event: Event) -> RunState:
        """The state of the event's run behind the event."""
        state = self.states.get(event.stream_no)
        if state is None or state.events != event.stream_seq - 1:
            state = self.states[event.stream_no] = self._state_before(event)
        try:
            state.apply(event.seq, event.time_ns, event.type, event.body)
        except Exception as error:
            self._park(STATES, event.seq, error)
        return state

    def _route(self, kind: str, body: type[Body]) -> _Routes:
        """What an event of such a stream and body goes to."""
        found = self._routes[kind, body] = _Routes()
        for one in self._projections.values():
            keys = one.keys if callable(one.keys) else one.keys.get(body)
            if keys is None or one.streams != kind:
                continue
            later = one.latest and body not in one.ordered
            (found.later if later else found.now).append((one, keys))
            if one.latest and not later:
                found.settles.append(one.name)
        return found

    def _fold(self, projection: Projection, stream: _Stream, key: str, event: Event, state: RunState) -> None:
        """Fold an event into one row."""
        try:
            place = (projection.name, stream.prefix + row_key(key))
            change = self._changes.get(place)
            if change is None:
                loaded = None if stream.begins else self._load(*place)
                counted = self._counted(projection.name, loaded)
                row = projection.fold(loaded, event, state)
                if row is not None or loaded is not None:
                    self._changes[place] = _Change(row, counted, event.seq)
            else:  # a copy, so that a fold that raises half-way has changed nothing
                row = None if change.row is None else dict(change.row)
                change.row, change.seq = projection.fold(row, event, state), event.seq
        except Exception as error:  # whatever a fold may raise: one bad projection is not everybody's
            self._park(projection.name, event.seq, error)

    def _counted(self, name: str, row: Row | None, seq: int | None = None) -> list[Contribution]:
        """What a row adds to sums: nothing, where that cannot be said."""
        try:
            return [] if row is None else list(self._projections[name].sums(row))
        except Exception as error:
            if seq is not None:
                self._park(name, seq, error)
            return []

    def _park(self, name: str, seq: int, error: Exception) -> None:
        self.parked.append(Parked(projection=name, seq=seq, error=f"{type(error).__name__}: {error}"[:500]))


@attrs.frozen(kw_only=True)
class Folded:
    """Rows in memory: what some events give."""

    tables: dict[str, list[tuple[bytes, Row]]]
    parked: tuple[Parked, ...] = ()

    def rows(self, name: str, run: str | None = None) -> Iterator[Row]:
        """Rows of a projection, by key."""
        for _, row in self.tables[name]:
            if run is None or row.get("run") == run:
                yield row

    def sums(self, name: str, group: str) -> dict[str, dict[str, int]]:
        """Counters summed over the rows, by the keys of a group."""
        return summed(name, group, (row for _, row in self.tables[name]))


def summed(name: str, group: str, rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Counters summed over rows of a projection, by the keys of a group."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        for counters, keys in ALL[name].sums(row):
            for key in (key for one, key in keys if one == group):
                add(found.setdefault(key, {}), counters)
    return {key: counters for key, counters in sorted(found.items()) if counters}


def add(counters: dict[str, int], more: Any) -> None:
    """Add counters to others; one that comes to nothing is gone."""
    for name, amount in more.items():
        total = counters.get(name, 0) + amount
        if total:
            counters[name] = total
        else:
            counters.pop(name, None)


def of_events(events: Iterable[Event]) -> Folded:
    """The rows of events in order, from the first of each stream on; facts are enough."""
    folding = Folding(ALL.values(), lambda *_: None, lambda _: RunState())
    for event in events:
        folding.take(event)
    tables: dict[str, list[tuple[bytes, Row]]] = {name: [] for name in ALL}
    for (name, key), data in folding.changes():
        if data is not None:
            tables[name].append((key, codec.decode_trusted(data)))
    for rows in tables.values():
        rows.sort(key=lambda pair: pair[0])
    return Folded(tables=tables, parked=tuple(folding.parked))
