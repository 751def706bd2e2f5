"""The sealed record: its layout at fixed offsets, its hash, and the keyed hashes that everything else uses.

Rules: pure; values in, values out. A record is `hash[32] ‖ sealed ‖ content`; `sealed` is `HEADER` followed by the
facts. Both chains (of the log, and of each stream) can be followed with `unpack` and `event_hash` alone, without
decoding facts and without any key. Every hash has its own domain, so that bytes of one kind can never pass for
another. Byte by byte: `contracts/FORMAT.md`. This file does not know what facts and content say, nor where records
are stored. It is the only one that imports blake3.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from blake3 import blake3

from ledger_core.errors import Damaged
from ledger_core.ids import Hash, LedgerId, Seq, StreamNo, StreamSeq

FORMAT: Final = 1
HASH_SIZE: Final = 32
NO_HASH: Final = Hash(bytes(HASH_SIZE))
MAX_SEALED: Final = 65_535
"""Largest `sealed`, bytes: what a C2SP tlog-tiles entry may hold."""

MAX_FACTS: Final = MAX_SEALED - 148
"""Largest facts, bytes: what the fixed part leaves."""

CRITICAL: Final = 0x01
"""Flag: a reader that does not know this event's type must not decide on its stream."""
OPENS: Final = 0x02
"""Flag: first event of its stream; the facts carry the stream's name and key check."""
STORES: Final = 0x04
"""Flag: the event stored blobs; the facts commit to their ciphertext."""
TAGGED: Final = 0x08
"""Flag: the facts carry key tags, which have rows in the index."""
CLOSES: Final = 0x10
"""Flag: last event of a run; its facts count the run's events."""
QUEUES: Final = 0x20
"""Flag: the event gives its stream a place in the queue, or takes it out; the facts say which."""
KNOWN_FLAGS: Final = CRITICAL | OPENS | STORES | TAGGED | CLOSES | QUEUES
ACCOUNTABLE: Final = OPENS | STORES | TAGGED | CLOSES | QUEUES
"""Flags of events whose facts say something that verification compares with other rows."""

HEADER: Final = struct.Struct(">BBHQQ32sQQQ32s32sII")
_STREAM: Final = struct.Struct(">Q")
_STREAM_PREV: Final = struct.Struct(">Q")
FACTS_AT: Final = HASH_SIZE + HEADER.size


class Sealed(NamedTuple):
    """The fixed part of a record, in the order of its bytes."""

    format: int
    flags: int
    reserved: int
    seq: Seq
    time_ns: int
    prev_hash: Hash
    stream: StreamNo
    stream_seq: StreamSeq
    stream_prev_seq: Seq
    stream_prev_hash: Hash
    content_digest: Hash
    content_size: int
    facts_size: int


def _domain(name: str) -> bytes:
    """A public 32-byte key per kind of bytes; a constant of the format, not a secret."""
    return blake3(b"", derive_key_context=f"AgentLedger format 1 {name}").digest()


_EVENT: Final = _domain("event")
_CONTENT: Final = _domain("content")
_BLOB: Final = _domain("blob")
_BLOB_LIST: Final = _domain("blob list")
_GENESIS: Final = _domain("genesis")
_CODE: Final = _domain("code")
_ROWS: Final = _domain("rows")
_COURSE: Final = _domain("course")
_EVIDENCE: Final = _domain("evidence")


def seal(header: Sealed, facts: bytes) -> tuple[Hash, bytes]:
    """`(hash, sealed)` of an event; the caller has checked `MAX_SEALED`."""
    sealed = HEADER.pack(*header) + facts
    return Hash(blake3(sealed, key=_EVENT).digest()), sealed


def unpack(record: bytes | memoryview) -> Sealed:
    """The fixed part of a record; raises `Damaged` if the lengths in it are not the record's own."""
    if len(record) < FACTS_AT:
        raise Damaged(f"A record of {len(record)} bytes is shorter than its fixed part of {FACTS_AT}.")
    header = Sealed._make(HEADER.unpack_from(record, HASH_SIZE))
    if FACTS_AT + header.facts_size + header.content_size != len(record):
        raise Damaged(
            f"A record of {len(record)} bytes says that it has {header.facts_size} of facts "
            f"and {header.content_size} of content."
        )
    return header


def stream_of(record: bytes | memoryview) -> StreamNo:
    """Number of the stream that a record says it is of."""
    if len(record) < FACTS_AT:
        raise Damaged(f"A record of {len(record)} bytes is shorter than its fixed part of {FACTS_AT}.")
    return StreamNo(_STREAM.unpack_from(record, HASH_SIZE + 52)[0])


def stream_prev(record: bytes | memoryview) -> Seq:
    """Seq of the event before it in its stream, as a record says; 0 for the first."""
    if len(record) < FACTS_AT:
        raise Damaged(f"A record of {len(record)} bytes is shorter than its fixed part of {FACTS_AT}.")
    return Seq(_STREAM_PREV.unpack_from(record, HASH_SIZE + 68)[0])


def stored_hash(record: bytes | memoryview) -> Hash:
    """The hash that a record says it has."""
    return Hash(bytes(record[:HASH_SIZE]))


def event_hash(sealed: bytes | memoryview) -> Hash:
    """The hash that sealed bytes have."""
    return Hash(blake3(sealed, key=_EVENT).digest())


def content_digest(ciphertext: bytes | memoryview) -> Hash:
    """The digest of content as stored; 32 zero bytes where there is none."""
    return Hash(blake3(ciphertext, key=_CONTENT).digest()) if ciphertext else NO_HASH


def blob_digester() -> Any:
    """The digest of a blob's chunks as stored, one after another: `update(bytes)`, `digest()`."""
    return blake3(key=_BLOB)


def blob_list_digest(row: bytes) -> Hash:
    """The digest of a row that lists an event's blobs."""
    return Hash(blake3(row, key=_BLOB_LIST).digest())


def genesis(ledger: LedgerId) -> Hash:
    """What the first event names as its previous hash: a commitment to the ledger's id."""
    return Hash(blake3(ledger, key=_GENESIS).digest())


def code_digest(source: bytes) -> Hash:
    """The digest of an agent's code."""
    return Hash(blake3(source, key=_CODE).digest())


def rows_digester() -> Any:
    """The digest of a projection's rows, one after another: `update(bytes)`, `digest()`."""
    return blake3(key=_ROWS)


def course_digest(data: bytes) -> Hash:
    """The digest of a part of what a run logically did."""
    return Hash(blake3(data, key=_COURSE).digest())


def evidence_digest(document: bytes) -> Hash:
    """The digest of a bundle of evidence."""
    return Hash(blake3(document, key=_EVIDENCE).digest())


def derive(key: bytes, purpose: str) -> bytes:
    """A 32-byte secret for one purpose out of a stream's key (BLAKE3 `derive_key`)."""
    return blake3(key, derive_key_context=f"AgentLedger format 1 {purpose}").digest()


def tag(secret: bytes, data: bytes) -> bytes:
    """A keyed tag of `data`, 32 bytes: equal for equal data, and worthless without the secret."""
    return blake3(data, key=secret).digest()
