"""Between drafts, records and events: what a body becomes in the log, and what a record says when it is read.

Rules: values in, values out; the store is reached only through a `Reader` that the caller holds open. A record's hash
is checked whenever it is read, so nobody acts on bytes that changed on the device. Facts are an array: type, version,
actor, step, epoch, causation, the body's own, and, where the flags say so, what the log itself adds (`EXTRA_*`).
This file does not decide, does not commit, and does not know what bodies mean.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import attrs

from ledger_core import chain, codec
from ledger_core.chain import Sealed
from ledger_core.errors import BadInput, Damaged
from ledger_core.events import FORGOTTEN, UNREAD, Body, Missing, Unknown
from ledger_core.events.base import JSON, build, facts_of
from ledger_core.ids import Hash, Seq, StreamNo, StreamSeq
from ledger_core.log import blobs, content
from ledger_core.log.cipher import Cipher
from ledger_core.log.store import Reader

EXTRA_STREAM: Final = "stream"
EXTRA_KEY_CHECK: Final = "key_check"
EXTRA_BLOBS: Final = "blobs"
EXTRA_TAGS: Final = "tags"
"""Names of the facts that are key tags, so that the key index can be recomputed for types one does not know."""
EXTRA_QUEUE: Final = "queue"
"""The event's placement: `[ordinal, key or null, note]`."""
_WORDS: Final = frozenset((str, type(None)))
_PLACES: Final = frozenset((int, type(None)))
_PLACE: Final = struct.Struct(">QQ")


class Placement(NamedTuple):
    """Where an event puts its stream in the queue; whoever reads the queue says what keys mean.

    A key has 1 to 64 bytes; None takes the stream out. The note is a document of at most 1,024 bytes.
    """

    key: bytes | None
    note: JSON = None


class Queued(NamedTuple):
    """A stream in the queue, and the event that put it there."""

    key: bytes
    stream: str
    seq: Seq
    note: JSON


@attrs.frozen(kw_only=True)
class Draft:
    """A body addressed to a stream, not yet in the log."""

    stream: str
    body: Body
    actor: str = "runtime"
    step: str | None = None
    epoch: int | None = None
    causation: Seq | None = None
    """Seq of the event that this one answers."""
    queue: Placement | None = None
    """The stream's new place in the queue; None leaves it where it is."""


class Event(NamedTuple):
    """A sealed draft: its place in the log and in its stream, and its hash."""

    seq: Seq
    hash: Hash
    time_ns: int
    stream: str
    stream_no: StreamNo
    stream_seq: StreamSeq
    type: str
    actor: str
    step: str | None
    epoch: int | None
    causation: Seq | None
    body: Body


Later = Callable[[Sequence[Event]], Draft]
"""A draft that is made when those before it in its decision are sealed, of their events; it may be made again."""


@attrs.frozen(kw_only=True)
class StreamInfo:
    """What the first event of a stream says of it."""

    name: str
    key_check: bytes


def encode_facts(draft: Draft, extra: dict[str, Any]) -> bytes:
    """The facts of a record; raises `BadInput` if they are too large to be sealed."""
    body = draft.body
    if (
        type(draft.actor) is not str
        or type(draft.step) not in _WORDS
        or type(draft.epoch) not in _PLACES
        or type(draft.causation) not in _PLACES
    ):
        raise BadInput("A draft's actor and step are text, its epoch and causation numbers.")
    name, version = (body.type, body.version) if isinstance(body, Unknown) else (body.kind.name, body.kind.version)
    envelope: list[Any] = [name, version, draft.actor, draft.step, draft.epoch, draft.causation, facts_of(body)]
    if extra:
        envelope.append(extra)
    data = codec.encode(envelope) if isinstance(body, Unknown) else codec.encode_trusted(envelope)
    if len(data) > chain.MAX_FACTS:
        raise BadInput(
            f"The facts of a {name} take {len(data):,} bytes; an event may have {chain.MAX_FACTS:,}.",
            hint="Names and counts belong into facts; everything else into content.",
        )
    return data


def place(stream: StreamNo, stream_seq: StreamSeq) -> bytes:
    """What an event's content is sealed to."""
    return _PLACE.pack(stream, stream_seq)


def checked_header(record: bytes, seq: int) -> Sealed:
    """The fixed part of the record stored at `seq`, after its hash; raises `Damaged`."""
    header = chain.unpack(record)
    sealed = memoryview(record)[chain.HASH_SIZE : chain.FACTS_AT + header.facts_size]
    if header.seq != seq or header.format != chain.FORMAT or chain.event_hash(sealed) != record[: chain.HASH_SIZE]:
        raise Damaged(
            f"The record at seq {seq} is not what was written.",
            hint="Run `agentledger verify` for everything that is damaged.",
            seq=seq,
        )
    return header


def decode_facts(record: bytes | memoryview, header: Sealed) -> list[Any]:
    """The envelope of a checked record; raises `Damaged`."""
    envelope = codec.decode_trusted(record[chain.FACTS_AT : chain.FACTS_AT + header.facts_size])
    if not isinstance(envelope, list) or len(envelope) not in (7, 8):
        raise Damaged(f"The facts of the record at seq {header.seq} have another shape.", seq=header.seq)
    return envelope


def read_info(record: bytes) -> StreamInfo:
    """What the first event of a stream says of it."""
    extra = decode_facts(record, chain.unpack(record))[7]
    return StreamInfo(name=extra[EXTRA_STREAM], key_check=extra[EXTRA_KEY_CHECK])


def to_event(record: bytes, header: Sealed, info: StreamInfo, inside: dict[str, Any] | Missing = UNREAD) -> Event:
    """The event of a checked record, with the content that the caller has opened, or why it has not."""
    type_, version, actor, step, epoch, causation, own, *_ = decode_facts(record, header)
    return Event(
        header.seq,
        chain.stored_hash(record),
        header.time_ns,
        info.name,
        header.stream,
        header.stream_seq,
        type_,
        actor,
        step,
        epoch,
        causation,
        build(type_, version, own, inside, critical=bool(header.flags & chain.CRITICAL)),
    )


def open_content(reader: Reader, record: bytes, header: Sealed, cipher: Cipher | None) -> dict[str, Any] | Missing:
    """The content of a checked record; `FORGOTTEN` without its key; raises `Damaged`."""
    if not header.content_size:
        return {}
    if cipher is None:
        return FORGOTTEN
    sealed = record[chain.FACTS_AT + header.facts_size :]
    plain = cipher.decrypt(sealed, place(header.stream, header.stream_seq))
    return content.unpack(plain, lambda blob: blobs.read(reader, header.stream, cipher, blob))
