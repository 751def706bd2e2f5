"""The queue: which streams want attention, in the order of keys, as rows that follow from the records.

Rules: a stream has one place or none. An event may move its stream, or take it out; it then has the flag QUEUES, and
says in its extras `[ordinal, key or null, note]`, ordinal counting the stream's placements from 1. Two rows follow from
a stream's last placement: `'s'` names the event, also when it took the stream out; `'q'` is the place itself. A
placement costs a record read and its facts decoded, to find the row that goes. Rows are ordered by `key ‖ stream`:
that is the order of keys where none is another's beginning. What keys and notes mean is said by who places and who
reads, not here; nor does this file know who waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ledger_core import chain, codec
from ledger_core.errors import BadInput, Damaged, NotStorable
from ledger_core.events.base import JSON
from ledger_core.ids import Seq, StreamNo
from ledger_core.log import index, record
from ledger_core.log.record import Placement
from ledger_core.log.store import Reader, Tree, Writer

MAX_KEY: Final = 64
"""Longest key, bytes."""
MAX_NOTE: Final = 1024
"""Largest note, bytes in its encoding."""


class Place(NamedTuple):
    """A stream's placement, as its event says it."""

    ordinal: int
    key: bytes | None
    note: JSON


class Move(NamedTuple):
    """From a stream's last placement to its next."""

    row: bytes | None
    """Key of the row that goes."""
    to: Place


def prepare(reader: Reader, stream: StreamNo, wanted: Placement) -> Move:
    """The move to a new placement; raises `BadInput`, or `Damaged` where the last one cannot be read."""
    key = wanted.key
    if key is not None and not _is_key(key):
        raise BadInput(f"A key in the queue has 1 to {MAX_KEY} bytes.")
    note = codec.roundtrip(wanted.note)
    if (size := len(codec.encode_trusted(note))) > MAX_NOTE:
        raise BadInput(
            f"A note in the queue takes {size:,} bytes; it may have {MAX_NOTE:,}.",
            hint="What is large belongs into an event's content.",
        )
    last = find(reader, stream)
    if last is None:
        return Move(None, Place(1, key, note))
    before = last[1]
    row = None if before.key is None else index.queue_key(before.key, stream)
    return Move(row, Place(before.ordinal + 1, key, note))


def make(writer: Writer, stream: StreamNo, seq: Seq, move: Move) -> None:
    """Put the rows of a move that the event at `seq` makes."""
    if move.row is not None:
        writer.delete(Tree.INDEX, move.row)
    if (row := row_of(stream, seq, move.to)) is not None:
        writer.put(Tree.INDEX, *row)
    writer.put(Tree.INDEX, index.placed_key(stream), index.seq_key(seq))


def scan(reader: Reader, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, StreamNo, Seq, JSON]]:
    """Key, stream, event and note of those whose key begins with `prefix` and is not below `start`, in row order."""
    within = index.QUEUED + prefix
    for row, value in reader.scan(Tree.INDEX, (index.QUEUED + max(prefix, start))[: MAX_KEY + 9]):
        if not row.startswith(within):
            return
        key = row[1:-8]
        if key >= start and key.startswith(prefix):  # a shorter key goes on in the number of its stream
            yield key, StreamNo(index.parse_seq(row[-8:])), index.parse_seq(value[:8]), codec.decode(value[8:])


def find(reader: Reader, stream: StreamNo) -> tuple[Seq, Place] | None:
    """A stream's last placement and its event; None if it was never placed; raises `Damaged`."""
    row = reader.get(Tree.INDEX, index.placed_key(stream))
    if row is None:
        return None
    seq = index.parse_seq(row)
    data = reader.get(Tree.EVENTS, row)
    header = None if data is None else record.checked_header(data, seq)
    if data is None or header is None or header.stream != stream or not header.flags & chain.QUEUES:
        raise Damaged(f"The event at seq {seq} does not place stream {stream}.", hint="Run `agentledger verify`.")
    return seq, parse(record.decode_facts(data, header))


def parse(facts: list[JSON]) -> Place:
    """The placement in the facts of an event with QUEUES; raises `Damaged`."""
    said = facts[7].get(record.EXTRA_QUEUE) if len(facts) == 8 and isinstance(facts[7], dict) else None
    if not isinstance(said, list) or len(said) != 3:
        raise Damaged("An event places its stream, and does not say where.")
    ordinal, key, note = place = Place._make(said)
    if type(ordinal) is not int or ordinal < 1 or not (key is None or _is_key(key)):
        raise Damaged("An event's placement has another shape.")
    try:
        size = len(codec.encode(note))
    except NotStorable as error:
        raise Damaged(f"An event's placement has a note that none has: {error.sentence}") from None
    if size > MAX_NOTE:
        raise Damaged(f"An event's placement has a note of {size:,} bytes.")
    return place


def row_of(stream: StreamNo, seq: Seq, place: Place) -> tuple[bytes, bytes] | None:
    """The row of a stream's last placement; None where it took the stream out."""
    if place.key is None:
        return None
    return index.queue_key(place.key, stream), index.seq_key(seq) + codec.encode(place.note)


def stands(reader: Reader, stream: StreamNo, seq: Seq, place: Place) -> bool:
    """Whether the queue has the row of a stream's last placement, if there is one to have."""
    row = row_of(stream, seq, place)
    return row is None or reader.get(Tree.INDEX, row[0]) == row[1]


def ordinals(count: int) -> int:
    """What the ordinals of so many placements of a stream sum up to."""
    return count * (count + 1) // 2


def _is_key(key: object) -> bool:
    return type(key) is bytes and 1 <= len(key) <= MAX_KEY
