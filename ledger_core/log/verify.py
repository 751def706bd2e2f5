"""Checking records against themselves, their chains, and the rows that they account for, as a stream of findings.

Rules: verification never raises for what it finds and never decides; it yields. It needs no key: digests are of what
is stored. Each range is first checked swiftly, for yes or no: two hashes an event, both chains, and the facts of those
events that account for other rows. Only where the answer is no is it checked again, slowly, to say what and where.
Records can be checked in ranges, by as many workers as there are; `Sums` add up, and `audit.closing` compares them
with what the trees hold. Memory does not grow with the ledger: what is remembered of streams is bounded, and found
again by its seq. An event that forks its stream shows at once if the other branch is remembered, and else in the
totals: there are more events then than the streams' heads account for. This file does not know processes, whole
ledgers or terminals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any, Final

import attrs

from ledger_core import chain, codec
from ledger_core.chain import Sealed
from ledger_core.errors import Damaged
from ledger_core.ids import Hash, Seq, StreamNo, StreamSeq
from ledger_core.log import blobs, cipher, index, queue, record
from ledger_core.log.store import Reader, Store, Tree

SNAPSHOT: Final = 2048
"""Records read in one snapshot."""
_NOTHING: Final = (0, StreamSeq(0), chain.NO_HASH)
UNREADABLE: Final = (Damaged, LookupError, TypeError, ValueError, AttributeError)
"""What reading facts may raise that were sealed by somebody else, and do not have the shape they should."""
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
    waypoints: int = 0
    placements: int = 0
    placed_streams: int = 0
    ordinals: int = 0

    def add(self, other: Sums) -> None:
        """Add another worker's sums."""
        for field in attrs.fields(Sums):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Checker:
    """Checks ranges of records, one after another, and keeps the sums."""

    def __init__(self, sums: Sums | None = None, *, deep: bool = False) -> None:
        self.sums = sums or Sums()
        self._deep = deep
        self._names: dict[int, str] = {}
        self._last: dict[int, tuple[int, StreamSeq, Hash]] = {}

    def range(self, reader: Reader, first: int, last: int) -> Iterator[Finding]:
        """Findings on the records from `first` to `last`, and on the links from the one before."""
        sums = None if self._deep else self._swift(reader, first, last)
        if sums is not None:
            self.sums.add(sums)
        else:
            yield from self.slowly(reader, first, last)

    def _swift(self, reader: Reader, first: int, last: int) -> Sums | None:
        """The sums of a range in which all is well; None if anything is not."""
        trial = Checker()
        trial._names, trial._last = self._names, dict(self._last)
        sums, lasts = trial.sums, trial._last
        before = reader.get(Tree.EVENTS, index.seq_key(first - 1)) if first > 1 else None
        wanted, then = first, 0
        previous = chain.stored_hash(before) if before is not None else None
        for key, data in reader.scan(Tree.EVENTS, index.seq_key(first)):
            if wanted > last:
                break
            if len(data) < chain.FACTS_AT:
                return None
            head = chain.HEADER.unpack_from(data, chain.HASH_SIZE)
            format_, flags, reserved, seq, time_ns, prev, stream, stream_seq, sprev, sprev_hash, digest, size, facts = (
                head
            )
            end = chain.FACTS_AT + facts
            place = index.seq_key(seq)
            if (
                seq != wanted
                or key != place
                or end + size != len(data)
                or format_ != chain.FORMAT
                or reserved
                or flags & ~chain.KNOWN_FLAGS
                or facts > chain.MAX_FACTS
                or 0 < size <= cipher.OVERHEAD
                or time_ns < then
                or (prev != previous and (previous is not None or seq > 1))
            ):
                return None
            previous = Hash(data[: chain.HASH_SIZE])
            if chain.event_hash(memoryview(data)[chain.HASH_SIZE : end]) != previous:
                return None
            if size:
                sums.contents += 1
            if chain.content_digest(data[end:]) != digest:
                return None
            stored = lasts.get(stream)
            if stored is None:
                stored = _stored(reader, sprev, stream) if sprev else _NOTHING
            if stored != (sprev, stream_seq - 1, sprev_hash) or sprev >= seq:
                return None
            lasts[stream] = (seq, stream_seq, previous)
            if stream_seq % index.WAYPOINT == 0:
                sums.waypoints += 1
                if reader.get(Tree.INDEX, index.position_key(stream, stream_seq)) != place:
                    return None
            if flags & chain.ACCOUNTABLE:
                try:
                    header = Sealed._make(head)
                    if next(trial._account(reader, header, record.decode_facts(data, header)), None) is not None:
                        return None
                except UNREADABLE:
                    return None
            wanted, then = wanted + 1, time_ns
        if wanted <= last:
            return None
        sums.events = last - first + 1
        self._last = lasts if len(lasts) <= SNAPSHOT else {}
        return sums

    def slowly(self, reader: Reader, first: int, last: int) -> Iterator[Finding]:
        """The findings of `range`, each with its place, at several times the cost."""
        before = reader.get(Tree.EVENTS, index.seq_key(first - 1)) if first > 1 else None
        previous = chain.stored_hash(before) if before is not None else None
        time_ns, wanted = 0, first
        for key, data in reader.scan(Tree.EVENTS, index.seq_key(first)):
            seq = int.from_bytes(key, "big")
            if len(key) != 8:
                yield Finding(kind="record", detail=f"a record has the key {key.hex()}, which is no seq")
                continue
            if seq > last:
                break
            if seq != wanted:
                yield _gap(wanted, seq)
                previous = None
            header = yield from self._record(reader, data, seq)
            if header is not None:
                if previous is not None and header.prev_hash != previous:
                    yield Finding(kind="chain", seq=seq, detail=f"does not link to the event at seq {seq - 1}")
                if header.time_ns < time_ns:
                    yield Finding(kind="time", seq=seq, detail="is dated before the event before it")
                time_ns = header.time_ns
            previous = chain.stored_hash(data)
            wanted = seq + 1
        if wanted <= last:
            yield _gap(wanted, last + 1)

    def stream(self, store: Store, name: str) -> Iterator[Finding]:
        """Findings on one stream alone: its records, its chain, its contents and blobs."""
        with store.read() as reader:
            number = index.find_stream(reader, name)
            if number is None:
                yield Finding(kind="missing", stream=name, detail="there is no such stream")
                return
            wanted = 1
            try:
                for seq, data in index.stream_records(reader, number, 0):
                    header = yield from self._record(reader, data, seq)
                    if header is not None and (header.stream != number or header.stream_seq != wanted):
                        yield Finding(kind="index", seq=seq, stream=name, detail=f"is not event {wanted} of its stream")
                    wanted += 1
            except Damaged as damage:
                yield Finding(kind="stream_chain", stream=name, detail=damage.sentence)
            head = index.read_head(reader, number)
            if head is None or head.stream_seq != wanted - 1:
                yield Finding(kind="index", stream=name, detail=f"the head of the stream is not its event {wanted - 1}")
            yield from self._last_placement(reader, number, name)
        self.sums.streams = 1

    def _last_placement(self, reader: Reader, number: StreamNo, name: str) -> Iterator[Finding]:
        """The rows of a stream's last placement, once all its events are checked."""
        try:
            last = queue.find(reader, number)
            if last is not None and not queue.stands(reader, number, *last):
                yield index_finding(last[0], name, "its row in the queue is missing or says something else")
        except UNREADABLE as damage:
            yield index_finding(None, name, f"its last placement cannot be read: {damage}")
        else:
            count = 0 if last is None else last[1].ordinal
            if (count, queue.ordinals(count)) != (self.sums.placements, self.sums.ordinals):
                detail = f"its {self.sums.placements:,} placements do not count from 1 to {count:,}"
                yield index_finding(None, name, detail)

    def _record(self, reader: Reader, data: bytes, seq: int) -> Generator[Finding, None, Sealed | None]:
        """Check one record by itself; returns its header, or None if nothing in it can be relied on."""
        self.sums.events += 1
        try:
            header = record.checked_header(data, seq)
        except Damaged as damage:
            yield Finding(kind="record", seq=seq, detail=damage.sentence)
            return None
        try:
            facts = record.decode_facts(data, header)
            codec.decode(data[chain.FACTS_AT : chain.FACTS_AT + header.facts_size])
            name = self._name(reader, header, facts)
            yield from self._body(reader, data, header, facts, name)
        except UNREADABLE as damage:
            yield Finding(kind="facts", seq=seq, detail=f"the facts cannot be read: {damage}")
        return header

    def _body(self, reader: Reader, data: bytes, header: Sealed, facts: list[Any], name: str) -> Iterator[Finding]:
        seq = header.seq
        if header.content_size:
            self.sums.contents += 1
        if chain.content_digest(data[chain.FACTS_AT + header.facts_size :]) != header.content_digest:
            yield Finding(kind="content", seq=seq, stream=name, detail="the content was altered")
        if header.facts_size > chain.MAX_FACTS or 0 < header.content_size <= cipher.OVERHEAD:
            yield Finding(kind="record", seq=seq, stream=name, detail="its facts or content have a size that none has")
        if header.flags & ~chain.KNOWN_FLAGS or header.reserved:
            yield Finding(kind="record", seq=seq, stream=name, detail=f"unknown flags {header.flags:#04x}")
        yield from self._stream_links(reader, header, chain.stored_hash(data), name)
        if header.stream_seq % index.WAYPOINT == 0:
            self.sums.waypoints += 1
            if reader.get(Tree.INDEX, index.position_key(header.stream, header.stream_seq)) != index.seq_key(seq):
                yield index_finding(seq, name, "the row of its place in its stream is missing or names another event")
        yield from self._account(reader, header, facts)

    def _account(self, reader: Reader, header: Sealed, facts: list[Any]) -> Iterator[Finding]:
        """Compare what an event's facts say of other rows with those rows."""
        name = self._name(reader, header, facts)
        if header.flags & chain.OPENS:
            yield from self._opening(reader, header, name)
            yield from _origins(reader, header, facts[6], name)
        if header.flags & chain.STORES:
            yield from self._blobs(reader, header, facts[7][record.EXTRA_BLOBS], name)
        if header.flags & chain.TAGGED:
            yield from self._keys(reader, header, facts, name)
        if header.flags & chain.QUEUES:
            yield from self._placement(reader, header, facts, name)
        if header.flags & chain.CLOSES:
            yield from _counts(reader, header, facts[6], name)

    def _stream_links(self, reader: Reader, header: Sealed, stored: Hash, name: str) -> Iterator[Finding]:
        """The stream's chain: the event before must be the one that is named, and nobody else may follow it."""
        named = (header.stream_prev_seq, header.stream_seq - 1, header.stream_prev_hash)
        before = _stored(reader, header.stream_prev_seq, header.stream) if header.stream_prev_seq else _NOTHING
        last = self._last.get(header.stream, _NOTHING)
        if before != named or header.stream_prev_seq >= header.seq:
            detail = "does not link to the event before it in its stream"
            yield Finding(kind="stream_chain", seq=header.seq, stream=name, detail=detail)
        elif last[0] > header.stream_prev_seq:
            detail = f"links past the event at seq {last[0]}: its stream forks"
            yield Finding(kind="stream_chain", seq=header.seq, stream=name, detail=detail)
        if len(self._last) > SNAPSHOT:
            self._last.clear()
        self._last[header.stream] = (header.seq, header.stream_seq, stored)

    def _opening(self, reader: Reader, header: Sealed, name: str) -> Iterator[Finding]:
        self.sums.streams += 1
        if reader.get(Tree.INDEX, index.name_key(name)) != index.seq_key(header.stream):
            yield index_finding(header.seq, name, "the row of its stream's name is missing or names another stream")
        if reader.get(Tree.INDEX, index.head_key(header.stream)) is None:
            yield index_finding(header.seq, name, "the row of its stream's head is missing")

    def _blobs(self, reader: Reader, header: Sealed, said: Any, name: str) -> Iterator[Finding]:
        listed = blobs.commitments(reader, header.stream, said)
        self.sums.blobs += len(listed)
        self.sums.blob_rows += blobs.rows_of(said, listed)
        for wanted in listed:
            if wrong := blobs.check(reader, header.stream, wanted):
                yield Finding(kind="blob", seq=header.seq, stream=name, detail=wrong)

    def _keys(self, reader: Reader, header: Sealed, facts: list[Any], name: str) -> Iterator[Finding]:
        for tag in {facts[6].get(field) for field in facts[7][record.EXTRA_TAGS]}:
            if tag is not None:
                first = index.find_key(reader, tag)
                self.sums.key_rows += first == header.seq
                if first is None or first > header.seq or (first < header.seq and not _carries(reader, first, tag)):
                    yield index_finding(header.seq, name, "the row of its key is missing or names another event")

    def _placement(self, reader: Reader, header: Sealed, facts: list[Any], name: str) -> Iterator[Finding]:
        """No later snapshot names an earlier event: so the row that is left names the last, if it names one at all."""
        ordinal = queue.parse(facts).ordinal
        self.sums.placements += 1
        self.sums.placed_streams += ordinal == 1
        self.sums.ordinals += ordinal
        row = reader.get(Tree.INDEX, index.placed_key(header.stream))
        if row is None or len(row) != 8 or index.parse_seq(row) < header.seq:
            detail = "the row of its stream's last placement is missing or names an earlier event"
            yield index_finding(header.seq, name, detail)

    def _name(self, reader: Reader, header: Sealed, facts: list[Any]) -> str:
        name = self._names.get(header.stream)
        if name is None:
            if header.flags & chain.OPENS:
                name = str(facts[7][record.EXTRA_STREAM])
            else:
                name = name_of(reader, header.stream)
            if len(self._names) > SNAPSHOT:
                self._names.clear()
            self._names[header.stream] = name
        return name


def records(store: Store, checker: Checker, first: int, last: int) -> Iterator[Finding | int]:
    """Check a range in short snapshots; yields findings, and after each snapshot the seq that has been reached."""
    for at in range(first, last + 1, SNAPSHOT):
        stop = min(last, at + SNAPSHOT - 1)
        with store.read() as reader:
            yield from checker.range(reader, at, stop)
        yield stop


def _origins(reader: Reader, header: Sealed, own: dict[str, Any], name: str) -> Iterator[Finding]:
    """The events that the first event of a run names as those which it came of must be the ones of that hash."""
    for what in ("parent", "ancestor"):
        seq, hash_ = own.get(f"{what}_seq"), own.get(f"{what}_hash")
        if seq is None and hash_ is None:
            continue
        known = isinstance(seq, int) and 0 < seq < header.seq
        data = reader.get(Tree.EVENTS, index.seq_key(Seq(seq))) if known and seq is not None else None
        if data is None or chain.stored_hash(data) != hash_:
            detail = f"names an event of its {what} that is not the one at seq {seq}"
            yield Finding(kind="origin", seq=header.seq, stream=name, detail=detail)


def _counts(reader: Reader, header: Sealed, own: dict[str, Any], name: str) -> Iterator[Finding]:
    """Recount what the terminal event of a run asserts about its stream."""
    counts: Counter[str] = Counter()
    tools: Counter[str] = Counter()
    seq = header.stream_prev_seq
    while seq and (data := reader.get(Tree.EVENTS, index.seq_key(seq))) is not None:
        before = chain.unpack(data)
        facts = record.decode_facts(data, before)
        counts[facts[0]] += 1
        if facts[0] == _TOOL_CALL:
            tools[facts[6]["tool"]] += 1
        seq = before.stream_prev_seq if before.stream_prev_seq < seq else Seq(0)
    if own.get("counts") != counts or own.get("tools") != tools:
        yield Finding(kind="counts", seq=header.seq, stream=name, detail="its counts are not those of its stream")


def _gap(wanted: int, seq: int) -> Finding:
    missing = f"seq {wanted} is missing" if seq == wanted + 1 else f"seqs {wanted} to {seq - 1} are missing"
    return Finding(kind="gap", seq=wanted, detail=missing)


def index_finding(seq: int | None, stream: str | None, detail: str) -> Finding:
    return Finding(kind="index", seq=seq, stream=stream, detail=detail)


def _stored(reader: Reader, seq: Seq, stream: StreamNo) -> tuple[int, StreamSeq, Hash] | None:
    """What the event at `seq` is for the one that follows it in its stream; None if it is not of that stream."""
    data = reader.get(Tree.EVENTS, index.seq_key(seq))
    try:
        before = chain.unpack(data or b"")
    except Damaged:
        return None
    return (before.seq, before.stream_seq, chain.stored_hash(data or b"")) if before.stream == stream else None


def _carries(reader: Reader, seq: Seq, tag: bytes) -> bool:
    data = reader.get(Tree.EVENTS, index.seq_key(seq))
    if data is None:
        return False
    header = chain.unpack(data)
    facts = record.decode_facts(data, header)
    tagged = bool(header.flags & chain.TAGGED)
    return tagged and any(facts[6].get(field) == tag for field in facts[7][record.EXTRA_TAGS])


def name_of(reader: Reader, number: StreamNo) -> str:
    head = index.read_head(reader, number)
    data = None if head is None else reader.get(Tree.EVENTS, index.seq_key(head.first))
    if data is None:
        raise Damaged(f"stream {number} has no first event")
    return record.read_info(data).name
