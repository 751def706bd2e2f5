"""The sealed part of a bundle of evidence: a run's records and blobs as they are stored, and its events out of them.

Rules: pure, and the same functions make a bundle and check one, so that what is shown can be compared with what is
sealed. Opening is strict: what the format does not allow is `Damaged`, wherever it comes from. What was said before is
not said again: in a list of messages, those that an earlier list of the run holds are named by their place in it, so
that a conversation of n turns takes O(n) here as it does in the log. Raw bytes above `LARGE` are shown as their number.

This file does not know logs, files, or what is derived from events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from ledger_core import chain, codec
from ledger_core.chain import Sealed
from ledger_core.errors import Damaged, LedgerError
from ledger_core.events import Missing
from ledger_core.events.govern import ArtifactCreated
from ledger_core.log import record
from ledger_core.log.blobs import CHUNK, MAX_LISTED, Commitment
from ledger_core.log.cipher import ID_SIZE, Cipher
from ledger_core.log.record import Event, StreamInfo
from projections.evidence_json import to_text

SCHEMA: Final = "agentledger.evidence.v1"
SEALED: Final = Missing("sealed")
"""Stands for content in a bundle without the run's key."""
BEFORE: Final = "<said before>"
"""Key of what stands in a list of messages for those of an earlier one: `{"seq", "from", "count"}`."""
LARGE: Final = 64 * 1024
_BLOB: Final = 1
_LIST: Final = 2
_WIDTH: Final = 32
_LISTS_KEPT: Final = 64
MOST_MESSAGES: Final = 100_000_000
"""Places in all lists of messages of a bundle: nodes may be shared, so a small bundle could ask for any number."""


@attrs.frozen(kw_only=True)
class Held:
    """What a bundle holds of a stream, byte for byte."""

    stream: str
    number: int
    records: Sequence[bytes]
    """In order; empty bytes for one that cannot be read."""
    lists: Mapping[int, bytes] = attrs.field(factory=dict)
    """Lists of commitments that are too long for the facts, by the seq of their event."""
    blobs: Mapping[bytes, Sequence[bytes]] = attrs.field(factory=dict)
    """Ciphertexts of the chunks, by the blob's id."""

    def as_json(self) -> dict[str, Any]:
        """`records` and `blobs` of a bundle."""
        blobs = {blob.hex(): [to_text(chunk) for chunk in chunks] for blob, chunks in self.blobs.items()}
        return {"records": [self._record_json(data) for data in self.records], "blobs": blobs}

    def _record_json(self, data: bytes) -> dict[str, Any]:
        header = chain.unpack(data)
        end = chain.FACTS_AT + header.facts_size
        row = {
            "seq": header.seq,
            "hash": chain.stored_hash(data).hex(),
            "sealed": to_text(data[chain.HASH_SIZE : end]),
            "content": to_text(data[end:]),
        }
        return row | ({"list": to_text(self.lists[header.seq])} if header.seq in self.lists else {})


def list_digest(data: bytes, header: Sealed) -> bytes | None:
    """The digest of the list of the blobs that an event stored, where they are too many for its facts."""
    if not header.flags & chain.STORES:
        return None
    said = record.decode_facts(data, header)[7][record.EXTRA_BLOBS]
    return said if isinstance(said, bytes) else None


def commitments(data: bytes, header: Sealed, lists: Mapping[int, bytes]) -> list[Commitment]:
    """The blobs that an event stored, as it commits to them; raises `Damaged`."""
    if not header.flags & chain.STORES:
        return []
    said = record.decode_facts(data, header)[7][record.EXTRA_BLOBS]
    listed = isinstance(said, bytes)
    if listed:
        row = lists.get(header.seq, b"")
        if chain.blob_list_digest(row) != said:
            raise Damaged(f"The list of blobs of the event at seq {header.seq} is missing or altered.")
        said = codec.decode(row)
    if not isinstance(said, list) or listed != (len(said) > MAX_LISTED) or not said:
        raise Damaged(f"The blobs of the event at seq {header.seq} are not listed where they should be.")
    found = []
    for one in said:
        types = [type(part) for part in one] if isinstance(one, list) else []
        if types != [bytes, int, bytes] or len(one[0]) != ID_SIZE or not 1 <= one[1] <= codec.MAX_BYTES // CHUNK:
            raise Damaged(f"The event at seq {header.seq} commits to a blob in a way that none is written.")
        found.append(Commitment(*one))
    return found


class Words:
    """What a run's contents say, opened event by event, in order, with the run's key."""

    def __init__(self, held: Held, cipher: Cipher) -> None:
        self._held = held
        self._cipher = cipher
        self._stored: set[bytes] = set()
        """Blobs that were committed to so far."""
        self._nodes: dict[bytes, list[bytes]] = {}
        self._messages: dict[bytes, Any] = {}
        self._places: dict[bytes, tuple[int, int]] = {}
        """Where a message was said last: the run's own seq of the event, and its place in the list."""
        self._lists: OrderedDict[int, list[bytes]] = OrderedDict()
        self._count = 0

    def of(self, data: bytes, header: Sealed) -> dict[str, Any]:
        """The content of a record as it is shown; raises `Damaged`."""
        mine = {one.id for one in commitments(data, header, self._held.lists)}
        self._stored |= mine
        if not header.content_size:
            if mine:
                raise Damaged(f"The event at seq {header.seq} stored blobs and says nothing.")
            return {}
        place = record.place(header.stream, header.stream_seq)
        plain = self._cipher.decrypt(data[chain.FACTS_AT + header.facts_size :], place)
        document = codec.decode(plain, refs=True)
        if not isinstance(document, dict):
            raise Damaged(f"The content of the event at seq {header.seq} is no map.")
        used: set[bytes] = set()
        said = {name: self._field(value, header, used) for name, value in document.items()}
        if not mine <= used:
            raise Damaged(f"The event at seq {header.seq} stored a blob that its content does not name.")
        keeps = "data" in said and record.decode_facts(data, header)[0] == ArtifactCreated.kind.name
        return _kept(said) if keeps else said

    def _field(self, value: Any, header: Sealed, used: set[bytes]) -> Any:
        if not isinstance(value, codec.Ref):
            codec.encode(value)  # raises for a reference below the top
            return _trimmed(value) if header.content_size > LARGE else value
        if value.code == _BLOB and len(value.data) == ID_SIZE:
            used.add(value.data)
            plain = self._blob(value.data)
            document = codec.decode(plain)
            return _trimmed(document) if len(plain) > LARGE else document
        if value.code == _LIST and len(value.data) == 1 + ID_SIZE and value.data[0]:
            leaves = list(self._leaves(value.data[0], value.data[1:], used))
            return self._said(leaves, header.stream_seq)
        raise Damaged(f"The content of the event at seq {header.seq} refers to something of an unknown kind.")

    def _blob(self, blob: bytes) -> bytes:
        """The bytes of a blob; raises `Damaged`."""
        if blob not in self._stored:
            raise Damaged(f"Blob {blob.hex()} is named before it is stored.")
        chunks = self._held.blobs.get(blob, ())
        last = len(chunks) - 1
        places = (blob + n.to_bytes(4, "big") + bytes([n == last]) for n in range(len(chunks)))
        plain = b"".join(self._cipher.decrypt(chunk, at) for chunk, at in zip(chunks, places, strict=True))
        if not chunks or self._cipher.blob_id(plain) != blob:
            raise Damaged(f"Blob {blob.hex()} is missing, or is not what its id says.")
        return plain

    def _leaves(self, level: int, node: bytes, used: set[bytes]) -> Iterator[bytes]:
        """Ids of the messages below a node; raises `Damaged`."""
        used.add(node)
        ids = self._nodes.get(node)
        if ids is None:
            plain = self._blob(node)
            ids = [plain[at : at + ID_SIZE] for at in range(1, len(plain), ID_SIZE)]
            if len(plain) % ID_SIZE != 1 or not 1 <= len(ids) <= _WIDTH or any(one[0] < 0x20 for one in ids[:-1]):
                raise Damaged(f"Blob {node.hex()} is no node of a list.")
            ids = self._nodes[node] = [bytes([plain[0]]), *ids]
        if ids[0] != bytes([level]):
            raise Damaged(f"Blob {node.hex()} is no node of level {level}.")
        for one in ids[1:]:
            if level > 1:
                yield from self._leaves(level - 1, one, used)
                continue
            self._count += 1
            if self._count > MOST_MESSAGES:
                raise Damaged(f"The run's lists have more than {MOST_MESSAGES:,} messages in all.")
            used.add(one)
            if one not in self._messages:
                plain = self._blob(one)
                message = codec.decode(plain)
                self._messages[one] = _trimmed(message) if len(plain) > LARGE else message
            yield one

    def _said(self, leaves: list[bytes], seq: int) -> list[Any]:
        """A list of messages; those that an earlier list holds by their place there."""
        shown: list[Any] = []
        at = 0
        while at < len(leaves):
            place = self._places.get(leaves[at])
            if place is None:
                message = self._messages[leaves[at]]
                mistakable = isinstance(message, dict) and BEFORE in message
                shown.append({BEFORE: None, "message": message} if mistakable else message)
                at += 1
                continue
            before, first, count = self._lists.get(place[0], []), place[1], 1
            for one, again in zip(before[first + 1 :], leaves[at + 1 :], strict=False):
                if one != again:
                    break
                count += 1
            shown.append({BEFORE: {"seq": place[0], "from": first, "count": count}})
            at += count
        self._places.update((one, (seq, number)) for number, one in enumerate(leaves))
        self._lists[seq] = leaves
        if len(self._lists) > _LISTS_KEPT:
            self._lists.popitem(last=False)
        return shown


def events_of(held: Held, words: Words | None, missing: Missing) -> Iterator[Event]:
    """The events of records that were checked; contents are opened with `words`, or `missing`. Raises `Damaged`."""
    info = StreamInfo(name=held.stream, key_check=b"")
    for data in held.records:
        header = chain.unpack(data)
        inside: dict[str, Any] | Missing = {} if not header.content_size else missing
        try:
            if words is not None:
                inside = words.of(data, header)
            yield record.to_event(data, header, info, inside)
        except (LedgerError, LookupError, TypeError, ValueError, AttributeError) as error:
            said = error.sentence if isinstance(error, LedgerError) else f"{type(error).__name__}: {error}"
            raise Damaged(f"The event at seq {header.seq} cannot be read: {said}", seq=header.seq) from None


def in_full(events: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events of a bundle with all their messages, also those that were said before: O(n²) for n turns."""
    lists: dict[Any, list[Any]] = {}
    for event in events:
        content = dict(event["content"])
        for name, value in content.items():
            if isinstance(value, list) and event["type"] == "model_call_requested" and name == "messages":
                whole: list[Any] = []
                for one in value:
                    if not isinstance(one, dict) or BEFORE not in one:
                        whole.append(one)
                    elif (place := one[BEFORE]) is None:
                        whole.append(one["message"])
                    else:
                        whole += lists[place["seq"]][place["from"] : place["from"] + place["count"]]
                content[name] = lists[event["seq"]] = whole
        yield {**event, "content": content}


def _kept(content: dict[str, Any]) -> dict[str, Any]:
    """The content of an artifact: its data are shown while they are small."""
    data = content.get("data")
    size = len(data.encode()) if isinstance(data, str) else len(codec.encode(data))
    return {**content, "data": _size(size)} if size > LARGE else content


def _trimmed(value: Any) -> Any:
    """A value with raw bytes above `LARGE` as their number."""
    if isinstance(value, bytes):
        return _size(len(value)) if len(value) > LARGE else value
    if isinstance(value, list):
        return [_trimmed(item) for item in value]
    if isinstance(value, dict):
        return {key: _trimmed(item) for key, item in value.items()}
    return value


def _size(size: int) -> str:
    return f"<{size:,} bytes>"
