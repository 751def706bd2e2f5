"""One write transaction of the log: what a decision sees, and how its drafts become records.

Rules: lives inside one `store.write()` block and dies with it. A decision sees the log up to the commands before it in
the same batch. Drafts are sealed in order: number the stream, encrypt, link, hash, put. Per event: one record and two
hashes; per touched stream and batch: one head; per 256 events of a stream: one waypoint; per placement: what the queue
takes. This file does not know who waits for the commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from ledger_core import chain
from ledger_core.chain import CLOSES, CRITICAL, FORMAT, NO_HASH, OPENS, QUEUES, STORES, TAGGED, Sealed
from ledger_core.clock import Clock
from ledger_core.errors import BadInput, Refused
from ledger_core.events import REGISTRY, Body, Unknown
from ledger_core.events.base import content_of, key_tags
from ledger_core.failpoints import reach
from ledger_core.ids import Hash, LedgerId, Seq, StreamNo, StreamSeq, check_stream
from ledger_core.log import blobs, content, index, queue, record
from ledger_core.log.cipher import TAG_SIZE, Cipher, Nonces
from ledger_core.log.index import StreamHead
from ledger_core.log.reading import Ciphers, Reading
from ledger_core.log.record import Draft, Event, Later, Queued
from ledger_core.log.store import Tree, Writer
from ledger_core.secret import VAULT


class View(Protocol):
    """What a decision may look at; it is run again if the batch has to be."""

    def head(self, stream: str) -> StreamHead | None:
        """The last event of a stream; None if there is none."""
        ...

    def events(self, stream: str, after: int = 0, *, contents: bool = False) -> Iterator[Event]:
        """A stream's events behind its `after`th."""
        ...

    def event(self, seq: Seq) -> Event:
        """The event at a seq, facts only; raises `NotFound`."""
        ...

    def streams(self) -> int | None:
        """Number of streams: while it stays the same, none has come to be; None where this batch adds some."""
        ...

    def find_key(self, tag: bytes) -> Seq | None:
        """The first event that carries a key tag."""
        ...

    def queue(self, prefix: bytes = b"", start: bytes = b"") -> Iterator[Queued]:
        """Streams in the queue whose key begins with `prefix`, by key, from the first that is not below `start`."""
        ...


class Batch:
    """Drafts on their way into the log."""

    def __init__(self, writer: Writer, reading: Reading, clock: Clock, ledger: LedgerId) -> None:
        self._writer = writer
        self._reading = reading
        self._clock = clock
        self._nonces = Nonces()
        self._heads: dict[StreamNo, StreamHead] = {}
        self._new: dict[StreamNo, Cipher] = {}
        self._named: dict[StreamNo, str] = {}
        self._found: dict[StreamNo, StreamHead | None] = {}
        self._seen: Ciphers = {}
        self._streams: int | None = None
        self.first: StreamHead | None = None
        """The first event that this batch sealed: to ask for, if nobody knows whether it was committed."""
        self._seq, self._hash, self._time_ns = self._last(ledger)

    @property
    def sealed(self) -> Seq:
        """Seq of the last event, sealed here or before."""
        return self._seq

    def head(self, stream: str) -> StreamHead | None:
        number = self._number(stream)
        return None if number is None else self._head(number)

    def events(self, stream: str, after: int = 0, *, contents: bool = False) -> Iterator[Event]:
        number = self._number(stream)
        if number is None:
            return
        if number in self._heads:  # the walk begins at the head's row, and earlier commands of this batch moved it
            self._writer.put(Tree.INDEX, index.head_key(number), index.head_row(self._heads[number]))
        for seq, data in index.stream_records(self._writer, number, after):
            yield self._reading.of_record(self._writer, data, seq, contents=contents)

    def event(self, seq: Seq) -> Event:
        return self._reading.event(self._writer, seq, contents=False)

    def streams(self) -> int | None:
        return None if self._named else self._newest_stream()

    def find_key(self, tag: bytes) -> Seq | None:
        return index.find_key(self._writer, tag)

    def queue(self, prefix: bytes = b"", start: bytes = b"") -> Iterator[Queued]:
        for key, number, seq, note in queue.scan(self._writer, prefix, start):
            name = self._named.get(number) or self._reading.info(self._writer, number).name
            yield Queued(key, name, seq, note)

    def seal(self, drafts: Iterable[Draft | Later]) -> list[Event]:
        """Put drafts behind the log's end; raises what makes one unfit, after which the batch must be abandoned."""
        events: list[Event] = []
        for draft in drafts:
            events.append(self._seal(draft if isinstance(draft, Draft) else draft(tuple(events))))
        return events

    def finish(self) -> None:
        """Put the heads of the streams that grew."""
        for number, head in self._heads.items():
            self._writer.put(Tree.INDEX, index.head_key(number), index.head_row(head))

    def _seal(self, draft: Draft) -> Event:
        body = draft.body
        extra: dict[str, Any] = {}
        tags = key_tags(body)
        flags = _flags(body) | TAGGED if tags else _flags(body)
        _check(body, tags)
        number = self._number(draft.stream)
        if number is None:
            number, flags = self._new_stream(draft.stream), flags | OPENS
            extra[record.EXTRA_STREAM] = draft.stream
            self._new[number] = self._reading.draw(number)
            extra[record.EXTRA_KEY_CHECK] = self._new[number].check
        before = self._head(number) or StreamHead(Seq(self._seq + 1), Seq(0), StreamSeq(0), NO_HASH)
        stream_seq = StreamSeq(before.stream_seq + 1)
        ciphertext, stored = self._encrypt(draft, number, stream_seq)
        if tags:
            extra[record.EXTRA_TAGS] = list(body.kind.keys)
        if stored:
            flags |= STORES
            extra[record.EXTRA_BLOBS] = blobs.commit_list(self._writer, number, stored)
        move: queue.Move | None = None
        if draft.queue is not None:
            flags |= QUEUES
            move = queue.prepare(self._writer, number, draft.queue)
            extra[record.EXTRA_QUEUE] = list(move.to)
        facts = record.encode_facts(draft, extra)
        if VAULT.holds(facts):
            raise BadInput(
                f"The facts of a {body.kind.name} hold a secret.",
                hint="Names of runs, tools, signals and errors are kept in clear: leave secrets out of them.",
            )
        header = Sealed(
            FORMAT,
            flags,
            0,
            Seq(self._seq + 1),
            max(self._time_ns, self._clock.now_ns()),
            self._hash,
            number,
            stream_seq,
            before.seq,
            before.hash,
            chain.content_digest(ciphertext),
            len(ciphertext),
            len(facts),
        )
        hash_, sealed = chain.seal(header, facts)
        self._writer.append(Tree.EVENTS, index.seq_key(header.seq), hash_ + sealed + ciphertext)
        reach("record-put")
        if stream_seq % index.WAYPOINT == 0:
            self._writer.put(Tree.INDEX, index.position_key(number, stream_seq), index.seq_key(header.seq))
        for tag in tags:
            if index.find_key(self._writer, tag) is None:
                self._writer.put(Tree.INDEX, index.KEY + tag, index.seq_key(header.seq))
        if move is not None:
            queue.make(self._writer, number, header.seq, move)
        self._seq, self._hash, self._time_ns = header.seq, hash_, header.time_ns
        self._heads[number] = StreamHead(before.first, header.seq, stream_seq, hash_)
        self.first = self.first or self._heads[number]
        return _event(draft, header, hash_)

    def _encrypt(self, draft: Draft, number: StreamNo, stream_seq: StreamSeq) -> tuple[bytes, list[blobs.Commitment]]:
        inside = content_of(draft.body)
        if VAULT.armed:  # whoever drafted it has cleaned it already; nothing may depend on that
            inside = VAULT.clean(inside)
        stored: list[blobs.Commitment] = []
        if not inside:
            return b"", stored
        cipher = self._new.get(number) or self._reading.cipher(self._writer, number, self._seen)
        if cipher is None:
            raise Refused(
                f"The key of {draft.stream} was destroyed or is not here: nothing more can be said in it.",
                hint="Start a new run, or bring its key back.",
            )

        def save(plain: bytes) -> bytes:
            blob = cipher.blob_id(plain)
            if not blobs.exists(self._writer, number, blob):
                stored.append(blobs.write(self._writer, number, cipher, self._nonces, blob, plain))
            return blob

        plain = content.pack(inside, draft.body.kind.messages, save)
        return cipher.encrypt(plain, record.place(number, stream_seq), self._nonces.draw()), stored

    def _number(self, stream: str) -> StreamNo | None:
        return self._reading.number(self._writer, stream)

    def _new_stream(self, stream: str) -> StreamNo:
        check_stream(stream)
        self._streams = self._newest_stream() + 1
        number = StreamNo(self._streams)
        self._writer.put(Tree.INDEX, index.name_key(stream), index.seq_key(number))
        self._named[number] = stream
        return number

    def _newest_stream(self) -> int:
        if self._streams is None:
            newest = next(index.streams_newest_first(self._writer), None)
            self._streams = newest[0] if newest else 0
        return self._streams

    def _head(self, number: StreamNo) -> StreamHead | None:
        if number in self._heads:
            return self._heads[number]
        if number not in self._found:
            self._found[number] = index.read_head(self._writer, number)
        return self._found[number]

    def _last(self, ledger: LedgerId) -> tuple[Seq, Hash, int]:
        for key, value in self._writer.scan(Tree.EVENTS, reverse=True):
            header = record.checked_header(value, index.parse_seq(key))
            return header.seq, chain.stored_hash(value), header.time_ns
        return Seq(0), chain.genesis(ledger), 0


def _check(body: Body, tags: Sequence[bytes]) -> None:
    """Refuse what could be written and not be read again as what it was."""
    if any(len(tag) != TAG_SIZE for tag in tags):
        raise BadInput(f"A key's tag has {TAG_SIZE} bytes.")
    if isinstance(body, Unknown) and (kind := REGISTRY.get(body.type)) is not None and body.version <= kind.version:
        raise BadInput(f"{body.type} version {body.version} is known, and has a class of its own.")


def _flags(body: Body) -> int:
    if isinstance(body, Unknown):
        return body.critical * CRITICAL
    return body.kind.critical * CRITICAL | body.kind.closes * CLOSES


def _event(draft: Draft, header: Sealed, hash_: Hash) -> Event:
    body: Any = draft.body
    return Event(
        header.seq,
        hash_,
        header.time_ns,
        draft.stream,
        header.stream,
        header.stream_seq,
        body.type if isinstance(body, Unknown) else body.kind.name,
        draft.actor,
        draft.step,
        draft.epoch,
        draft.causation,
        body,
    )
