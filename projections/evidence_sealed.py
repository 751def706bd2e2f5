"""Checking the sealed part of a bundle: each record against its hash, the run's chain, its blobs, its own account.

Rules: as `contracts/FORMAT.md` section 9 has them, as far as they can be seen from one stream, and without any key.
Nothing is raised and nothing decided: findings are yielded. What is given may be any JSON. Facts are looked at in
full, for nothing but these bytes is to be trusted. This file does not know what events mean, nor what is derived.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ledger_core import chain, codec
from ledger_core.chain import Sealed
from ledger_core.errors import Damaged, LedgerError
from ledger_core.ids import Hash, LedgerId
from ledger_core.log import record
from ledger_core.log.blobs import CHUNK
from ledger_core.log.cipher import CHECK_SIZE, OVERHEAD, TAG_SIZE
from ledger_core.log.verify import Finding
from projections.evidence_json import of_text
from projections.evidence_records import Held, commitments

_RECORD: Final = frozenset(("seq", "hash", "sealed", "content"))
_BLOB_ID: Final = re.compile(r"[0-9a-f]{32}")
_EXTRAS: Final = {
    record.EXTRA_STREAM: chain.OPENS,
    record.EXTRA_KEY_CHECK: chain.OPENS,
    record.EXTRA_BLOBS: chain.STORES,
    record.EXTRA_TAGS: chain.TAGGED,
    record.EXTRA_QUEUE: chain.QUEUES,
}
_WITH_EXTRAS: Final = chain.OPENS | chain.STORES | chain.TAGGED | chain.QUEUES
_TYPES: Final = ((str,), (int,), (str,), (str, type(None)), (int, type(None)), (int, type(None)), (dict,), (dict,))
_MAX_KEY: Final = 64
_MAX_NOTE: Final = 1024
MALFORMED: Final = (LedgerError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What looking at other people's facts may raise."""


def parse(bundle: Mapping[str, Any]) -> tuple[Held, list[Finding]]:
    """The bytes in a bundle, and what cannot be read of them."""
    findings: list[Finding] = []
    stream = bundle.get("stream")
    stream = stream if isinstance(stream, dict) else {}
    name, number = stream.get("name"), stream.get("number")
    rows, records, lists = bundle.get("records"), list[bytes](), dict[int, bytes]()
    for place, row in enumerate(rows if isinstance(rows, list) else (), 1):
        try:
            records.append(_record(row, lists))
        except MALFORMED as wrong:
            records.append(b"")
            findings.append(finding("record", name, f"record {place} cannot be read: {wrong}"))
    blobs: dict[bytes, list[bytes]] = {}
    given = bundle.get("blobs")
    for blob, chunks in (given if isinstance(given, dict) else {}).items():
        try:
            if not _BLOB_ID.fullmatch(blob) or not isinstance(chunks, list):
                raise Damaged("It is no id and no list of chunks.")
            blobs[bytes.fromhex(blob)] = [of_text(chunk) for chunk in chunks]
        except MALFORMED as wrong:
            findings.append(finding("blob", name, f"blob {blob!r:.40} cannot be read: {wrong}"))
    if not records:
        findings.append(finding("record", name, "the bundle has no records"))
    held = Held(
        stream=name if isinstance(name, str) else "",
        number=number if type(number) is int else 0,
        records=records,
        lists=lists,
        blobs=blobs,
    )
    return held, findings


def finding(kind: str, stream: Any, detail: str, seq: int | None = None) -> Finding:
    """A finding, whatever a bundle says its stream is called."""
    return Finding(kind=kind, seq=seq, stream=printable(stream), detail=printable(detail, 500) or "")


def printable(said: Any, most: int = 200) -> str | None:
    """A text of somebody else's as text that can be written: not too long, without halves of characters."""
    return said[:most].encode(errors="replace").decode() if isinstance(said, str) else None


@attrs.define
class Chain:
    """Follows a run's records; what it has counted is what was checked."""

    held: Held
    ledger: LedgerId | None
    """The ledger's id as the bundle says."""
    contents: int = 0
    blobs: int = 0
    key_check: bytes = b""
    types: Counter[str] = attrs.field(factory=Counter)
    tools: Counter[str] = attrs.field(factory=Counter)
    placements: int = 0
    stored: dict[bytes, int] = attrs.field(factory=dict)
    """Blobs that were committed to, with the seq of the event."""

    def check(self) -> Iterator[Finding]:
        """Findings on all records and blobs."""
        before: tuple[Sealed, Hash] | None = None
        for place, data in enumerate(self.held.records, 1):
            try:
                header = chain.unpack(data)
                wrong = list(self._record(place, data, header, before))
                before = (header, chain.stored_hash(data))
            except MALFORMED as error:
                header, wrong = None, [("facts", f"record {place} cannot be read: {error}")]
            for kind, detail in wrong:
                yield finding(kind, self.held.stream, detail, None if header is None else header.seq)
        for blob in self.held.blobs.keys() - self.stored.keys():
            yield finding("blob", self.held.stream, f"blob {blob.hex()} is there, and no event stored it")

    def _record(
        self, place: int, data: bytes, header: Sealed, before: tuple[Sealed, Hash] | None
    ) -> Iterator[tuple[str, str]]:
        end = chain.FACTS_AT + header.facts_size
        if chain.event_hash(data[chain.HASH_SIZE : end]) != chain.stored_hash(data):
            yield "record", "the record was altered: its hash is another"
        if header.format != chain.FORMAT or header.reserved or header.flags & ~chain.KNOWN_FLAGS:
            yield "record", f"the record has format {header.format}, flags {header.flags:#04x}: none of format 1"
        if header.facts_size > chain.MAX_FACTS or 0 < header.content_size <= OVERHEAD:
            yield "record", "its facts or content have a size that none has"
        if chain.content_digest(data[end:]) != header.content_digest:
            yield "content", "the content was altered"
        self.contents += header.content_size > 0
        yield from self._links(place, header, before)
        facts = codec.decode(data[chain.FACTS_AT : end])
        if (shape := _shape(facts, header)) is not None:
            yield "facts", shape
            return
        yield from self._account(place, data, header, facts)
        self.types[facts[0]] += 1
        if facts[0] == "tool_call_requested":
            self.tools[facts[6]["tool"]] += 1

    def _links(self, place: int, header: Sealed, before: tuple[Sealed, Hash] | None) -> Iterator[tuple[str, str]]:
        """Both chains, as far as one stream shows them."""
        if header.stream != self.held.number:
            yield "stream_chain", f"is of stream {header.stream}, not {self.held.number}"
        if header.stream_seq != place:
            yield "stream_chain", f"is event {header.stream_seq} of its stream, in place {place}"
        if before is None and place > 1:
            return
        last, hash_ = before or (None, chain.NO_HASH)
        named = (0 if last is None else last.seq, hash_)
        if (header.stream_prev_seq, header.stream_prev_hash) != named or header.seq <= named[0]:
            yield "stream_chain", "does not link to the event before it in its stream"
        if header.seq == 1 and self.ledger is not None:
            hash_ = chain.genesis(self.ledger)
        if header.seq == named[0] + 1 and header.prev_hash != hash_:
            yield "chain", f"does not link to the event at seq {header.seq - 1}"
        if last is not None and header.time_ns < last.time_ns:
            yield "time", "is dated before the event before it"

    def _account(self, place: int, data: bytes, header: Sealed, facts: list[Any]) -> Iterator[tuple[str, str]]:
        """What facts say of the stream, its blobs, its tags and its places."""
        own, extras = facts[6], facts[7] if len(facts) == 8 else {}
        if bool(header.flags & chain.OPENS) != (place == 1):
            yield "stream_chain", "opens a stream that is open, or does not open it"
        if header.flags & chain.OPENS:
            self.key_check = extras[record.EXTRA_KEY_CHECK]
            if extras[record.EXTRA_STREAM] != self.held.stream:
                yield "stream_chain", f"opens the stream {extras[record.EXTRA_STREAM]!r:.150}, not the bundle's"
            if type(self.key_check) is not bytes or len(self.key_check) != CHECK_SIZE:
                yield "facts", "its key check is none"
        if header.flags & chain.TAGGED and not _tagged(own, extras[record.EXTRA_TAGS]):
            yield "facts", "its key tags are none"
        if header.flags & chain.QUEUES:
            self.placements += 1
            if not _placed(extras[record.EXTRA_QUEUE], self.placements):
                yield "facts", "its place in the queue is none, or miscounted"
        if header.flags & chain.CLOSES and (own.get("counts") != self.types or own.get("tools") != self.tools):
            yield "counts", "its counts are not those of its stream"
        if facts[5] is not None and not 0 < facts[5] < header.seq:
            yield "facts", f"answers the event at seq {facts[5]}, which is not before it"
        if not header.flags & chain.STORES and header.seq in self.held.lists:
            yield "blob", "comes with a list of blobs, and stored none"
        for one in commitments(data, header, self.held.lists):
            self.blobs += 1
            if one.id in self.stored:
                yield "blob", f"blob {one.id.hex()} is stored a second time"
            self.stored[one.id] = header.seq
            if (wrong := _blob(self.held.blobs.get(one.id, ()), one.chunks, one.digest)) is not None:
                yield "blob", f"blob {one.id.hex()} {wrong}"


def _record(row: Any, lists: dict[int, bytes]) -> bytes:
    """A record out of its JSON; raises `Damaged`."""
    if not isinstance(row, dict) or not row.keys() >= _RECORD or row.keys() - _RECORD - {"list"}:
        raise Damaged("It is no object with seq, hash, sealed and content.")
    sealed = of_text(row["sealed"])
    if len(sealed) < chain.HEADER.size:
        raise Damaged(f"Its sealed part has {len(sealed)} bytes.")
    hash_ = row["hash"]
    if not isinstance(hash_, str) or not re.fullmatch(r"[0-9a-f]{64}", hash_):
        raise Damaged("Its hash is none.")
    data = bytes.fromhex(hash_) + sealed + of_text(row["content"])
    header = chain.unpack(data)
    if (
        type(row["seq"]) is not int
        or header.seq != row["seq"]
        or chain.FACTS_AT + header.facts_size != 32 + len(sealed)
    ):
        raise Damaged("Its seq or its parts are not those that its sealed bytes name.")
    if "list" in row:
        lists[header.seq] = of_text(row["list"])
    return data


def _shape(facts: Any, header: Sealed) -> str | None:
    """What is wrong with the shape of decoded facts; None if nothing is."""
    if not isinstance(facts, list) or len(facts) != 7 + bool(header.flags & _WITH_EXTRAS):
        return "its facts have another shape"
    if any(type(one) not in types for one, types in zip(facts, _TYPES, strict=False)) or facts[1] < 1:
        return "its facts have parts of other types"
    extras = facts[7] if len(facts) == 8 else {}
    if any((name in extras) != bool(header.flags & flag) for name, flag in _EXTRAS.items()):
        return "its flags and its extras differ"
    return None


def _tagged(own: dict[str, Any], names: Any) -> bool:
    if not isinstance(names, list) or len(set(names)) != len(names):
        return False
    tags = [own[name] for name in names if name in own]
    return bool(tags) and all(type(tag) is bytes and len(tag) == TAG_SIZE for tag in tags)


def _placed(said: Any, ordinal: int) -> bool:
    if not isinstance(said, list) or len(said) != 3:
        return False
    key = said[1]
    keyed = key is None or (type(key) is bytes and 1 <= len(key) <= _MAX_KEY)
    return type(said[0]) is int and said[0] == ordinal and keyed and len(codec.encode(said[2])) <= _MAX_NOTE


def _blob(chunks: Any, count: int, digest: bytes) -> str | None:
    """What is wrong with the chunks of a blob; None if nothing is."""
    if len(chunks) != count:
        return f"has {len(chunks)} of {count} chunks"
    if any(len(chunk) != CHUNK + OVERHEAD for chunk in chunks[:-1]):
        return "has a chunk of another size"
    if not OVERHEAD < len(chunks[-1]) <= CHUNK + OVERHEAD:
        return "has a last chunk of another size"
    digester = chain.blob_digester()
    for chunk in chunks:
        digester.update(chunk)
    return None if digester.digest() == digest else "was altered"
