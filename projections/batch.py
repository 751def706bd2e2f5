"""One batch of catching up: events of the log, folded, and written with the cursor in one commit.

Rules: rows, sums, states and cursors move together or not at all, so a killed process leaves nothing that is wrong.
The projections that are furthest behind go first, up to where the next ones are. A cursor names the event that it
stands behind by its hash: where the log says otherwise (it was restored, or is another's), all begins anew. A state
that is not there, or stands for other events, is folded again out of the log. This file does not open stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from ledger_core import chain, codec
from ledger_core.errors import NotFound
from ledger_core.log.log import Log
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections import snapshots
from projections.folding import Folding, Parked, add
from projections.store import Reader, Writer
from projections.table import Projection, Row

SIZE: Final = 4096
"""Events in a batch: some tenths of a second, for which others wait."""
_MOST_STATES: Final = 8192
_SUM_KEY: Final = 400
_WIDE: Final = 1 << 63
"""Sums of 64-bit numbers may be wider: those are spelled out."""


@attrs.frozen(kw_only=True)
class Cursor:
    """How far a projection has come, and by which code."""

    version: int
    code: bytes
    seq: int = 0
    hash: bytes = b""


class States:
    """States of runs, kept between batches in one process, and between processes in the store."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.known: dict[int, RunState] = {}

    def before(self, reader: Reader, event: Event) -> RunState:
        """The state of an event's run just before it."""
        if event.stream_seq == 1:
            return RunState()
        kept = reader.get("states", event.stream_no.to_bytes(8, "big"))
        state = None if kept is None else snapshots.thaw(kept)
        if state is not None and state.events == event.stream_seq - 1:
            return state
        state = RunState()
        for earlier in self._log.stream(event.stream, contents=False):
            if earlier.stream_seq >= event.stream_seq:
                break
            try:
                state.apply(earlier.seq, earlier.time_ns, earlier.type, earlier.body)
            except Exception:  # noqa: S112 - it was parked when it was folded first
                continue
        return state

    def keep(self, writer: Writer) -> None:
        """Write down those that are known, and let go of ended ones, or of all where there are many."""
        for stream, state in self.known.items():
            key = stream.to_bytes(8, "big")
            if state.ended:
                writer.delete("states", key)
            else:
                self._put(writer, key, state)
        live = {stream: state for stream, state in self.known.items() if not state.ended}
        self.known.clear()
        self.known.update(live if len(live) <= _MOST_STATES else {})

    def _put(self, writer: Writer, key: bytes, state: RunState) -> None:
        try:
            writer.put("states", key, snapshots.freeze(state))
        except (ValueError, OverflowError):  # numbers that no document holds: it is folded again when it is needed
            writer.delete("states", key)


def cursors(reader: Reader, wanted: Iterable[Projection], codes: Mapping[str, bytes], log: Log) -> dict[str, Cursor]:
    """How far each projection has come; nowhere, where its code or the log is another than it was."""
    found = {}
    for one in wanted:
        begin = Cursor(version=one.version, code=codes[one.name])
        kept = read_cursor(reader, one.name)
        same = kept is not None and (kept.version, kept.code) == (begin.version, begin.code) and _stands(log, kept)
        found[one.name] = kept if kept is not None and same else begin
    return found


def read_cursor(reader: Reader, name: str) -> Cursor | None:
    """The cursor that is kept of a projection."""
    data = reader.get("meta", name.encode())
    return None if data is None else Cursor(**codec.decode_trusted(data))


def advance(
    writer: Writer,
    log: Log,
    wanted: Iterable[Projection],
    at: Mapping[str, Cursor],
    states: States,
    *,
    stop: int,
    share: tuple[int, int] | None = None,
) -> int:
    """Take the projections that are furthest behind one batch further; gives the seq that they stand at then.

    With `share` only the streams whose number leaves the first number when it is divided by the second.
    """
    low = min(cursor.seq for cursor in at.values())
    behind = [one for one in wanted if at[one.name].seq == low]
    end = min([low + SIZE, stop, *(cursor.seq for cursor in at.values() if cursor.seq > low)])
    if low == 0:
        for one in behind:
            drop(writer, one.name)
    folding = Folding(behind, lambda name, key: _row(writer, name, key), lambda event: states.before(writer, event))
    folding.states = states.known
    for event in log.read(low, stop=end, contents=False, share=share):
        folding.take(event)
    rows: dict[str, list[tuple[bytes, bytes]]] = {one.name: [] for one in behind}
    for (name, place), data in folding.changes():
        if data is None:
            writer.delete(name, place)
        else:
            rows[name].append((place, data))
    for name, found in rows.items():
        writer.put_all(name, sorted(found))
    for (name, group, key), moved in folding.sums().items():
        move(writer, name, group, key, moved)
    for parked in folding.parked:
        park(writer, parked)
    states.keep(writer)
    last = bytes(log.event(end, contents=False).hash)
    for one in behind:
        put_cursor(writer, one.name, attrs.evolve(at[one.name], seq=end, hash=last))
    return end


def put_cursor(writer: Writer, name: str, cursor: Cursor) -> None:
    """Keep a projection's cursor."""
    writer.put("meta", name.encode(), codec.encode(attrs.asdict(cursor)))


def drop(writer: Writer, name: str) -> None:
    """Forget all that is kept of a projection."""
    writer.delete("meta", name.encode())
    writer.clear(name)
    for tree in ("sums", "parked"):
        writer.clear(tree, f"{name}\0".encode())


def move(writer: Writer, name: str, group: str, key: str, moved: Mapping[str, int]) -> None:
    """Move counters of a sum; one that comes to nothing is gone."""
    place = sum_key(name, group, key)
    kept = writer.get("sums", place)
    counters = {} if kept is None else read_sum(kept)[1]
    add(counters, moved)
    if counters:
        spelled = {name: one if -_WIDE <= one < _WIDE else str(one) for name, one in sorted(counters.items())}
        writer.put("sums", place, codec.encode([group, key, spelled]))
    else:
        writer.delete("sums", place)


def read_sum(data: bytes) -> tuple[str, dict[str, int]]:
    """A sum's key and its counters."""
    _, key, spelled = codec.decode_trusted(data)
    return key, {name: int(one) for name, one in spelled.items()}


def park(writer: Writer, parked: Parked) -> None:
    """Keep word of an event that a projection could not take."""
    key = f"{parked.projection}\0".encode() + parked.seq.to_bytes(8, "big")
    writer.put("parked", key, codec.encode({"error": parked.error.encode(errors="replace").decode()}))


def sum_key(name: str, group: str, key: str) -> bytes:
    """The key of a sum; a very long one is cut, and its value says the whole."""
    data = f"{name}\0{group}\0{key}".encode(errors="surrogateescape")
    if len(data) > _SUM_KEY:
        data = data[: _SUM_KEY - 32] + chain.code_digest(data)
    return data


def _row(reader: Reader, name: str, key: bytes) -> Row | None:
    data = reader.get(name, key)
    row: Row | None = None if data is None else codec.decode_trusted(data)
    return row


def _stands(log: Log, cursor: Cursor) -> bool:
    """Whether the log still has the event that a cursor stands behind."""
    if cursor.seq == 0:
        return True
    try:
        return log.event(cursor.seq, contents=False).hash == cursor.hash
    except NotFound:
        return False
