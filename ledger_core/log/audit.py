"""Checking a ledger as a whole: its own rows, its heads, its totals, and a head that somebody kept.

Rules: as in `verify`. What the trees hold in all is compared in one snapshot with what the events account for, so a
row too many is found as surely as one too few.

What no check of a ledger against itself can see: a history rewritten to its very end is as consistent as the true
one. Hold a head (`log head`) elsewhere, and verify against it. This file does not know processes or terminals.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import takewhile

from ledger_core import chain
from ledger_core.errors import Damaged
from ledger_core.events.ledger import LedgerCreated
from ledger_core.ids import Head, LedgerId, Seq, StreamNo
from ledger_core.log import index, queue, record
from ledger_core.log.store import Reader, Store, Tree
from ledger_core.log.verify import SNAPSHOT, UNREADABLE, Checker, Finding, Sums, index_finding, name_of, records


def opening(store: Store) -> Iterator[Finding | Head]:
    """Check the ledger's own rows and its first event; yields the head to check up to.

    Raises `CannotOpen` for a newer format, which nothing here can check.
    """
    with store.read() as reader:
        try:
            ledger = index.read_format(reader, chain.FORMAT)
        except Damaged as damage:
            yield Finding(kind="format", detail=damage.sentence)
            ledger = None
        data = reader.get(Tree.EVENTS, index.seq_key(1))
        if ledger is not None and data is not None:
            yield from _first(data, ledger)
        yield _last(reader)


def closing(store: Store, sums: Sums, checked: int) -> Iterator[Finding | Head]:
    """Check what came after `checked`, and compare all sums with the trees, in one snapshot; yields the head."""
    with store.read() as reader:
        last = _last(reader)
        checker = Checker(sums)
        yield from checker.slowly(reader, checked + 1, last.seq)
        yield from _astray(reader, last)
        yield from _heads(reader, sums)
        rows = reader.count(Tree.EVENTS)
        if rows != sums.events:
            yield Finding(kind="record", detail=f"there are {rows:,} records, and {sums.events:,} were in their places")
        rows = reader.count(Tree.BLOBS)
        if rows != sums.blob_rows:
            yield Finding(kind="blob", detail=f"there are {rows:,} rows of blobs, and events stored {sums.blob_rows:,}")
        queued = yield from _places(reader, sums)
        rows, wanted = reader.count(Tree.INDEX), 1 + 2 * sums.streams + sums.waypoints + sums.key_rows
        wanted += sums.placed_streams + queued
        if rows != wanted:
            yield index_finding(None, None, f"there are {rows:,} rows, and the events account for {wanted:,}")
        yield last


def whole(store: Store, held: Head | None = None) -> Iterator[Finding]:
    """All findings on a store, in this process: for stores in memory, and files that are known to be intact."""
    last, checker = Head(Seq(0), chain.NO_HASH), Checker()
    for found in opening(store):
        if isinstance(found, Finding):
            yield found
        else:
            last = found
    yield from (found for found in records(store, checker, 1, last.seq) if isinstance(found, Finding))
    yield from (found for found in closing(store, checker.sums, last.seq) if isinstance(found, Finding))
    if held is not None:
        yield from against(store, held)


def against(store: Store, held: Head) -> Iterator[Finding]:
    """Compare the log with a head that somebody kept."""
    with store.read() as reader:
        last = _last(reader)
        data = reader.get(Tree.EVENTS, index.seq_key(held.seq))
    if held.seq > last.seq:
        detail = f"the log ends at seq {last.seq}, before the held head at seq {held.seq}: its tail was cut off"
        yield Finding(kind="truncated", seq=last.seq, detail=detail)
    elif held.seq and (data is None or chain.stored_hash(data) != held.hash):
        detail = f"the event at seq {held.seq} is not the one that the held head names: history was rewritten"
        yield Finding(kind="rewritten", seq=held.seq, detail=detail)


def _first(data: bytes, ledger: LedgerId) -> Iterator[Finding]:
    try:
        header = record.checked_header(data, 1)
        facts = record.decode_facts(data, header)
    except Damaged:
        return  # found again, and named, with the records
    named = isinstance(facts[6], dict) and facts[6].get("ledger") == ledger
    if header.prev_hash != chain.genesis(ledger) or facts[0] != LedgerCreated.kind.name or not named:
        yield Finding(kind="format", seq=1, detail="the first event does not create the ledger of this id")


def _opens(reader: Reader, seq: Seq, number: StreamNo) -> bool:
    """Whether the event at `seq` is the first of the stream."""
    data = reader.get(Tree.EVENTS, index.seq_key(seq))
    try:
        header = chain.unpack(data or b"")
    except Damaged:
        return False
    return (header.stream, header.stream_seq) == (number, 1)


def _heads(reader: Reader, sums: Sums) -> Iterator[Finding]:
    """Every head row must name the last event of its stream; together they must account for all events."""
    total, wanted = 0, 1
    for key, value in reader.scan(Tree.INDEX, index.HEAD):
        if key[:1] != index.HEAD:
            break
        try:
            number, head = StreamNo(index.parse_seq(key[1:])), index.parse_head_row(value)
            data = reader.get(Tree.EVENTS, index.seq_key(head.seq))
            header = None if data is None else chain.unpack(data)
        except Damaged as damage:
            yield index_finding(None, None, f"row {key.hex()}: {damage.sentence}")
            continue
        right = header is not None and data is not None and head.hash == chain.stored_hash(data)
        right = right and header is not None and (header.stream, header.stream_seq) == (number, head.stream_seq)
        if not right or not _opens(reader, head.first, number):
            yield index_finding(head.seq, None, f"the head of stream {number} does not name its first and last events")
        if number != wanted:
            yield index_finding(head.seq, None, f"stream {number} stands where stream {wanted} should")
        total, wanted = total + head.stream_seq, number + 1
    if total != sums.events:
        yield index_finding(None, None, f"the heads account for {total:,} events of {sums.events:,}")


def _places(reader: Reader, sums: Sums) -> Generator[Finding, None, int]:
    """The rows of the queue; returns how many streams the events put in it.

    Every event that places its stream found a row that names it or a later one. Here every such row must name an event
    that does, so it names the last; and with as many places as those events give, there is no place beside theirs.
    """
    rows = placements = ordinals = queued = 0
    astray = False
    for key, _ in reader.scan(Tree.INDEX, index.PLACED):
        if key[:1] != index.PLACED:
            break
        rows += 1
        try:
            number = StreamNo(index.parse_seq(key[1:]))
            last = queue.find(reader, number)
            assert last is not None
            right = queue.stands(reader, number, *last)
        except UNREADABLE as damage:
            yield index_finding(None, None, f"row {key.hex()}: the last placement of a stream: {damage}")
            continue
        count = last[1].ordinal
        placements, ordinals = placements + count, ordinals + queue.ordinals(count)
        queued += last[1].key is not None
        if not right:
            astray = True
            detail = f"the row of stream {number} in the queue is missing or says something else"
            yield index_finding(last[0], _name(reader, number), detail)
    if rows != sums.placed_streams:
        yield index_finding(None, None, f"{rows:,} streams have a last placement, and {sums.placed_streams:,} a first")
    if (placements, ordinals) != (sums.placements, sums.ordinals):
        detail = f"last placements account for {placements:,} of {sums.placements:,}, or placements are misnumbered"
        yield index_finding(None, None, detail)
    if astray or queued != sum(1 for _ in _in_queue(reader)):
        yield from _strays(reader)
    return queued


def _strays(reader: Reader) -> Iterator[Finding]:
    """Rows in the queue that no last placement gives: there are such, or too few."""
    for key, value in _in_queue(reader):
        try:
            number = StreamNo(index.parse_seq(key[-8:]))
            last = queue.find(reader, number)
        except UNREADABLE as damage:
            yield index_finding(None, None, f"row {key.hex()}: the place of a stream: {damage}")
            continue
        if last is None or queue.row_of(number, *last) != (key, value):
            detail = f"stream {number} has a row in the queue that its last placement does not give"
            yield index_finding(None, _name(reader, number), detail)


def _in_queue(reader: Reader) -> Iterator[tuple[bytes, bytes]]:
    return takewhile(lambda row: row[0][:1] == index.QUEUED, reader.scan(Tree.INDEX, index.QUEUED))


def _name(reader: Reader, number: StreamNo) -> str | None:
    try:
        return name_of(reader, number)
    except UNREADABLE:
        return None


def _last(reader: Reader) -> Head:
    """The last record in its place: a damaged key may name any seq, and nobody should look for all before it."""
    plausible = 2 * reader.count(Tree.EVENTS) + SNAPSHOT
    for key, value in reader.scan(Tree.EVENTS, reverse=True):
        if len(key) == 8 and int.from_bytes(key, "big") <= plausible:
            return Head(Seq(int.from_bytes(key, "big")), chain.stored_hash(value))
    return Head(Seq(0), chain.NO_HASH)


def _astray(reader: Reader, last: Head) -> Iterator[Finding]:
    """Records behind the last one."""
    for key, _ in reader.scan(Tree.EVENTS, index.seq_key(last.seq + 1)):
        yield Finding(kind="record", detail=f"a record has the key {key.hex()}, far from every other")
