"""Checking a store against itself: every record, content, blob and index row, as a stream of findings.

Rules: verification never raises for what it finds and never decides; it yields. It needs no key: digests are of what
is stored. Records can be checked in ranges, by as many workers as there are; `Sums` add up, and `close` compares them
with what the trees hold, in one snapshot. Memory does not grow with the ledger.

What it cannot see: a history rewritten to its very end is as consistent as the true one. Hold a head (`log head`) or a
checkpoint elsewhere, and verify against it. This file does not know processes or terminals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import attrs

from ledger_core import chain
from ledger_core.chain import Sealed
from ledger_core.errors import CannotOpen, Damaged
from ledger_core.events import REGISTRY
from ledger_core.events.ledger import LedgerCreated
from ledger_core.events.run import RunCompleted, RunFailed
from ledger_core.ids import Hash, Head, LedgerId, Seq, StreamNo, StreamSeq
from ledger_core.log import blobs, index, record
from ledger_core.log.store import Reader, Store, Tree

SNAPSHOT: Final = 2048
"""Records read in one snapshot."""
_TERMINAL: Final = (RunCompleted.kind.name, RunFailed.kind.name)
_TOOL_CALL: Final = "tool_call_requested"


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that verification noticed."""

    kind: str
    seq: int | None = None
    stream: str | None = None
    detail: str


@attrs.define(kw_only=True)
class Sums:
    """What was checked, and what the trees must add up to."""

    events: int = 0
    streams: int = 0
    contents: int = 0
    blobs: int = 0
    blob_rows: int = 0
    key_rows: int = 0
    unknown: int = 0
    """Events of types that this version does not know: their index rows cannot be recomputed."""

    def add(self, other: Sums) -> None:
        """Add another worker's sums."""
        for field in attrs.fields(Sums):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Checker:
    """Checks ranges of records, one after another, and keeps the sums."""

    def __init__(self) -> None:
        self.sums = Sums()
        self._names: dict[int, str] = {}
        self._last: dict[int, tuple[int, StreamSeq, Hash]] = {}

    def records(self, store: Store, first: int, last: int) -> Iterator[Finding | int]:
        """Findings on the records from `first` to `last`, and now and then the seq that has been reached."""
        before: bytes | None = None
        at = first
        while at <= last:
            with store.read() as reader:
                before = before or self._before(reader, at)
                stop = min(last, at + SNAPSHOT - 1)
                for found in self._range(reader, at, stop, before):
                    if isinstance(found, Finding):
                        yield found
                    else:
                        before = found
            at = stop + 1
            yield stop

    def stream(self, store: Store, name: str) -> Iterator[Finding]:
        """Findings on one stream alone: its records, its chain, its contents and blobs."""
        with store.read() as reader:
            number = index.find_stream(reader, name)
            if number is None:
                yield Finding(kind="missing", stream=name, detail="there is no such stream")
                return
            wanted = 1
            for seq in index.positions(reader, number, 0):
                data = reader.get(Tree.EVENTS, index.seq_key(seq))
                if data is None:
                    yield Finding(kind="missing", seq=seq, stream=name, detail="the record is missing")
                    continue
                header = yield from self._record(reader, data, seq)
                if header is not None and (header.stream != number or header.stream_seq != wanted):
                    yield Finding(kind="index", seq=seq, stream=name, detail=f"is not event {wanted} of its stream")
                wanted += 1
            head = index.read_head(reader, number)
            if head is None or head.stream_seq != wanted - 1:
                yield Finding(kind="index", stream=name, detail=f"the head of the stream is not its event {wanted - 1}")
        self.sums.streams = 1

    def _before(self, reader: Reader, at: int) -> bytes | None:
        return reader.get(Tree.EVENTS, index.seq_key(at - 1)) if at > 1 else None

    def _range(self, reader: Reader, first: int, last: int, before: bytes | None) -> Iterator[Finding | bytes]:
        wanted = first
        previous = chain.stored_hash(before) if before is not None else None
        time_ns = chain.unpack(before).time_ns if before is not None and len(before) >= chain.FACTS_AT else 0
        data = before
        for key, data in reader.scan(Tree.EVENTS, index.seq_key(first)):
            seq = int.from_bytes(key, "big")
            if len(key) != 8 or seq > last:
                if len(key) != 8:
                    yield Finding(kind="record", detail=f"a record has the key {key.hex()}, which is no seq")
                    continue
                break
            if seq != wanted:
                yield _gap(wanted, seq)
                previous = None
            header = yield from self._record(reader, data, seq)
            if header is not None:
                yield from _links(reader, header, previous, time_ns)
                time_ns = header.time_ns
            previous = chain.stored_hash(data)
            wanted = seq + 1
        if wanted <= last:
            yield _gap(wanted, last + 1)
        if data is not None:
            yield data

    def _record(self, reader: Reader, data: bytes, seq: int) -> Iterator[Finding] | Any:
        """Check one record by itself; returns its header, or None if nothing in it can be relied on."""
        self.sums.events += 1
        try:
            header = record.checked_header(data, seq)
        except Damaged as damage:
            yield Finding(kind="record", seq=seq, detail=damage.sentence)
            return None
        try:
            facts = record.decode_facts(data, header)
            name = self._name(reader, header, facts)
            yield from self._body(reader, data, header, facts, name)
        except (Damaged, LookupError, TypeError, ValueError) as damage:
            yield Finding(kind="facts", seq=seq, detail=f"the facts cannot be read: {damage}")
        return header

    def _body(
        self, reader: Reader, data: bytes, header: Sealed, facts: list[Any], name: str
    ) -> Iterator[Finding]:
        seq = header.seq
        if header.content_size:
            self.sums.contents += 1
            if chain.content_digest(data[chain.FACTS_AT + header.facts_size :]) != header.content_digest:
                yield Finding(kind="content", seq=seq, stream=name, detail="the content was altered")
        if header.flags & ~chain.KNOWN_FLAGS or header.reserved:
            yield Finding(kind="record", seq=seq, stream=name, detail=f"unknown flags {header.flags:#04x}")
        yield from self._stream_links(reader, header, name)
        if reader.get(Tree.INDEX, index.position_key(header.stream, header.stream_seq)) != index.seq_key(seq):
            yield _index(seq, name, "the row of its position is missing or names another event")
        if header.flags & chain.OPENS:
            yield from self._opening(reader, header, name)
        if header.flags & chain.STORES:
            yield from self._blobs(reader, header, facts[7][record.EXTRA_BLOBS], name)
        yield from self._keys(reader, header, facts, name)
        if facts[0] in _TERMINAL:
            yield from _counts(reader, header, facts[6], name)

    def _stream_links(self, reader: Reader, header: Sealed, name: str) -> Iterator[Finding]:
        """The stream's chain: the event before is found by its seq, or remembered."""
        last = self._last.get(header.stream)
        if last is None or last[0] != header.stream_prev_seq:
            last = _stored(reader, header) if header.stream_prev_seq else (0, StreamSeq(0), chain.NO_HASH)
        if last is None or header.stream_prev_seq >= header.seq:
            yield Finding(
                kind="stream_chain", seq=header.seq, stream=name, detail=f"seq {header.stream_prev_seq} is not before it"
            )
        elif last[1] + 1 != header.stream_seq or last[2] != header.stream_prev_hash:
            yield Finding(
                kind="stream_chain", seq=header.seq, stream=name, detail="does not link to the event before it in its stream"
            )
        if len(self._last) > SNAPSHOT:
            self._last.clear()
        self._last[header.stream] = (header.seq, header.stream_seq, header_hash(reader, header))

    def _opening(self, reader: Reader, header: Sealed, name: str) -> Iterator[Finding]:
        self.sums.streams += 1
        if reader.get(Tree.INDEX, index.name_key(name)) != index.seq_key(header.stream):
            yield _index(header.seq, name, "the row of its stream's name is missing or names another stream")
        if reader.get(Tree.INDEX, index.head_key(header.stream)) is None:
            yield _index(header.seq, name, "the row of its stream's head is missing")

    def _blobs(self, reader: Reader, header: Sealed, said: Any, name: str) -> Iterator[Finding]:
        listed = blobs.commitments(reader, header.stream, said)
        self.sums.blobs += len(listed)
        self.sums.blob_rows += blobs.rows_of(said, listed)
        for wanted in listed:
            if wrong := blobs.check(reader, header.stream, wanted):
                yield Finding(kind="blob", seq=header.seq, stream=name, detail=wrong)

    def _keys(self, reader: Reader, header: Sealed, facts: list[Any], name: str) -> Iterator[Finding]:
        kind = REGISTRY.get(facts[0])
        if kind is None or facts[1] > kind.version:
            self.sums.unknown += 1
            return
        for field in kind.keys:
            if (tag := facts[6].get(field)) is not None:
                first = index.find_key(reader, tag)
                self.sums.key_rows += first == header.seq
                if first is None or first > header.seq or (first < header.seq and not _carries(reader, first, tag)):
                    yield _index(header.seq, name, "the row of its key is missing or names another event")

    def _name(self, reader: Reader, header: Sealed, facts: list[Any]) -> str:
        name = self._names.get(header.stream)
        if name is None:
            if header.flags & chain.OPENS:
                name = str(facts[7][record.EXTRA_STREAM])
            else:
                name = _name_of(reader, header.stream)
            if len(self._names) > SNAPSHOT:
                self._names.clear()
            self._names[header.stream] = name
        return name


def close(store: Store, sums: Sums, checked: int) -> Iterator[Finding | Head]:
    """Check what came after `checked`, and compare the sums with the trees, all in one snapshot; yields the head."""
    with store.read() as reader:
        pinned = _Pinned(reader)
        last = _last(reader)
        if last.seq > checked:
            checker = Checker()
            yield from (found for found in checker.records(pinned, checked + 1, last.seq) if isinstance(found, Finding))
            sums.add(checker.sums)
        yield from _heads(reader, sums)
        rows = reader.count(Tree.EVENTS)
        if rows != sums.events:
            yield Finding(kind="record", detail=f"there are {rows:,} records, and {sums.events:,} were in their places")
        rows = reader.count(Tree.BLOBS)
        if rows != sums.blob_rows:
            yield Finding(kind="blob", detail=f"there are {rows:,} rows of blobs, and events stored {sums.blob_rows:,}")
        rows, wanted = reader.count(Tree.INDEX), 1 + 2 * sums.streams + sums.events + sums.key_rows
        if rows != wanted and not sums.unknown:
            yield _index(None, None, f"there are {rows:,} rows, and the events account for {wanted:,}")
        yield last


def opening(store: Store) -> Iterator[Finding | Head]:
    """Check the ledger's own rows and its first event; yields the head to check up to, or nothing if that is no use."""
    with store.read() as reader:
        try:
            ledger = index.read_format(reader, chain.FORMAT)
        except CannotOpen:
            raise
        except Damaged as damage:
            yield Finding(kind="format", detail=damage.sentence)
            ledger = None
        data = reader.get(Tree.EVENTS, index.seq_key(1))
        if ledger is not None and data is not None:
            yield from _first(data, ledger)
        yield _last(reader)


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


class _Pinned:
    """A store whose readers all see one snapshot."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self) -> Any:
        return attrs.evolve(_Held(reader=self._reader))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a pinned store is only read, not asked for {name}")


@attrs.frozen
class _Held:
    reader: Reader

    def __enter__(self) -> Reader:
        return self.reader

    def __exit__(self, *_: object) -> None:
        pass


def _first(data: bytes, ledger: LedgerId) -> Iterator[Finding]:
    try:
        header = record.checked_header(data, 1)
        facts = record.decode_facts(data, header)
    except Damaged:
        return  # found again, and named, with the records
    if header.prev_hash != chain.genesis(ledger) or (
        facts[0] == LedgerCreated.kind.name and facts[6].get("ledger") != ledger
    ):
        yield Finding(kind="format", seq=1, detail="the first event does not belong to the ledger's id")


def _heads(reader: Reader, sums: Sums) -> Iterator[Finding]:
    """Every head row must name the last event of its stream; together they must account for all events."""
    total = 0
    for key, value in reader.scan(Tree.INDEX, index.HEAD):
        if key[:1] != index.HEAD:
            break
        try:
            number, head = StreamNo(index.parse_seq(key[1:])), index.parse_head_row(value)
            data = reader.get(Tree.EVENTS, index.seq_key(head.seq))
            header = None if data is None else chain.unpack(data)
        except Damaged as damage:
            yield _index(None, None, f"row {key.hex()}: {damage.sentence}")
            continue
        right = header is not None and data is not None and head.hash == chain.stored_hash(data)
        right = right and header is not None and (header.stream, header.stream_seq) == (number, head.stream_seq)
        if not right or reader.get(Tree.INDEX, index.position_key(number, head.stream_seq + 1)) is not None:
            yield _index(head.seq, None, f"the head of stream {number} is not its last event")
        total += head.stream_seq
    if total != sums.events:
        yield _index(None, None, f"the heads account for {total:,} events of {sums.events:,}")


def _counts(reader: Reader, header: Sealed, own: dict[str, Any], name: str) -> Iterator[Finding]:
    """Recount what the terminal event of a run asserts about its stream."""
    counts: Counter[str] = Counter()
    tools: Counter[str] = Counter()
    for seq in index.positions(reader, header.stream, 0):
        if seq >= header.seq:
            break
        data = reader.get(Tree.EVENTS, index.seq_key(seq))
        if data is not None:
            facts = record.decode_facts(data, chain.unpack(data))
            counts[facts[0]] += 1
            if facts[0] == _TOOL_CALL:
                tools[facts[6]["tool"]] += 1
    if own.get("counts") != counts or own.get("tools") != tools:
        yield Finding(kind="counts", seq=header.seq, stream=name, detail="its counts are not those of its stream")


def _links(reader: Reader, header: Sealed, previous: Hash | None, time_ns: int) -> Iterator[Finding]:
    if previous is not None and header.prev_hash != previous:
        yield Finding(kind="chain", seq=header.seq, detail=f"does not link to the event at seq {header.seq - 1}")
    if header.time_ns < time_ns:
        yield Finding(kind="time", seq=header.seq, detail="is dated before the event before it")
    assert reader is not None


def _gap(wanted: int, seq: int) -> Finding:
    missing = f"seq {wanted} is missing" if seq == wanted + 1 else f"seqs {wanted} to {seq - 1} are missing"
    return Finding(kind="gap", seq=wanted, detail=missing)


def _index(seq: int | None, stream: str | None, detail: str) -> Finding:
    return Finding(kind="index", seq=seq, stream=stream, detail=detail)


def _stored(reader: Reader, header: Sealed) -> tuple[int, StreamSeq, Hash] | None:
    data = reader.get(Tree.EVENTS, index.seq_key(header.stream_prev_seq))
    if data is None:
        return None
    before = chain.unpack(data)
    return (before.seq, before.stream_seq, chain.stored_hash(data)) if before.stream == header.stream else None


def header_hash(reader: Reader, header: Sealed) -> Hash:
    """The stored hash of the record of a header."""
    data = reader.get(Tree.EVENTS, index.seq_key(header.seq))
    assert data is not None
    return chain.stored_hash(data)


def _carries(reader: Reader, seq: Seq, tag: bytes) -> bool:
    data = reader.get(Tree.EVENTS, index.seq_key(seq))
    if data is None:
        return False
    facts = record.decode_facts(data, chain.unpack(data))
    kind = REGISTRY.get(facts[0])
    return kind is not None and any(facts[6].get(field) == tag for field in kind.keys)


def _name_of(reader: Reader, number: StreamNo) -> str:
    seq = next(index.positions(reader, number, 0), None)
    data = None if seq is None else reader.get(Tree.EVENTS, index.seq_key(seq))
    if data is None:
        raise Damaged(f"stream {number} has no first event")
    return record.read_info(data).name


def _last(reader: Reader) -> Head:
    for key, value in reader.scan(Tree.EVENTS, reverse=True):
        return Head(Seq(int.from_bytes(key[:8], "big")), chain.stored_hash(value))
    return Head(Seq(0), chain.NO_HASH)
