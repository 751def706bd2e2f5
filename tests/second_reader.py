"""An independent reader of log format 1, written from `contracts/FORMAT.md`; it shares no code with the project.

Rules: imports nothing of the project, and no msgpack either: the strict decoder is its own. Holds the whole ledger in
memory, checks all of it before it hands out the first event, and raises `Rejected` at the first thing that is wrong.
It only reads: LMDB is opened without a lock file, so also a copy on a read-only medium can be read. The numbers in
brackets are those of the list of checks in FORMAT.md.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Rows = Mapping[bytes, bytes]
HEADER = struct.Struct(">BBHQQ32sQQQ32s32sII")
FACTS_AT = 32 + HEADER.size
OPENS, STORES, TAGGED, CLOSES, UNKNOWN = 2, 4, 8, 16, 0xE0
CHUNK, SEAL, MAX_DOCUMENT = 65_536, 28, 1 << 26
KEY_FACTS = {("tool_call_requested", 1): ("key",)}
PAGE_HEADER = b"AgentLedger keys format 1\n".ljust(32, b"\0")
INTS = {0xCC: (1, 128), 0xCD: (2, 1 << 8), 0xCE: (4, 1 << 16), 0xCF: (8, 1 << 32)}
NEGATIVE = {0xD0: (1, -33), 0xD1: (2, -129), 0xD2: (4, -32_769), 0xD3: (8, -(1 << 31) - 1)}
SIZED = {
    **dict(zip(range(0xC4, 0xC7), (("bin", 1, 0), ("bin", 2, 1 << 8), ("bin", 4, 1 << 16)), strict=True)),
    **dict(zip(range(0xD9, 0xDC), (("str", 1, 32), ("str", 2, 1 << 8), ("str", 4, 1 << 16)), strict=True)),
    **dict(zip(range(0xDC, 0xDE), (("array", 2, 16), ("array", 4, 1 << 16)), strict=True)),
    **dict(zip(range(0xDE, 0xE0), (("map", 2, 16), ("map", 4, 1 << 16)), strict=True)),
}


class Rejected(Exception):  # noqa: N818
    """These bytes are no ledger of format 1."""


class Ledger(NamedTuple):
    """The rows of the three trees, and where keys come from."""

    events: Rows
    blobs: Rows
    index: Rows
    key_of: Callable[[int], bytes | None]


class Ref(NamedTuple):
    """An extension value of a content document."""

    code: int
    data: bytes


def need(condition: object, otherwise: str) -> None:
    if not condition:
        raise Rejected(otherwise)


def derive(key: bytes, purpose: str) -> bytes:
    return blake3(key, derive_key_context=f"AgentLedger format 1 {purpose}").digest()


def keyed(domain: str, data: bytes) -> bytes:
    return blake3(data, key=derive(b"", domain)).digest()


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


# Canonical MessagePack


def decode(data: bytes, *, refs: bool = False) -> Any:
    """The value of one canonical document; with `refs`, its top map may hold references."""
    need(len(data) <= MAX_DOCUMENT, "a document is too large")
    value, end = _value(data, 0, 0, refs)
    need(end == len(data), "bytes follow a document")
    return value


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    need(at + size <= len(data), "a document is cut short")
    return data[at : at + size], at + size


def _value(data: bytes, at: int, depth: int, refs: bool) -> tuple[Any, int]:
    (first, *_), at = _take(data, at, 1)
    if first < 0x80 or first >= 0xE0:
        return (first if first < 0x80 else first - 256), at
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], at
    if first in INTS or first in NEGATIVE:
        width, bound = (INTS if first in INTS else NEGATIVE)[first]
        raw, at = _take(data, at, width)
        number = int.from_bytes(raw, "big", signed=first in NEGATIVE)
        need(number >= bound if first in INTS else number <= bound, "an integer is not in its shortest form")
        return number, at
    if first == 0xCB:
        raw, at = _take(data, at, 8)
        (real,) = struct.unpack(">d", raw)
        need(real - real == 0, "a float is NaN or infinite")
        return real, at
    if refs and depth == 1 and data[at - 1 : at + 1] == b"\xd8\x01":
        raw, at = _take(data, at + 1, 16)
        return Ref(1, raw), at
    if refs and depth == 1 and data[at - 1 : at + 2] == b"\xc7\x11\x02":
        raw, at = _take(data, at + 2, 17)
        return Ref(2, raw), at
    if first in SIZED:
        kind, width, least = SIZED[first]
        raw, at = _take(data, at, width)
        size = int.from_bytes(raw, "big")
        need(size >= least, f"a length of {kind} is not in its shortest form")
    else:
        need(first < 0xC0, f"the byte {first:#04x} begins nothing that is allowed here")
        kind = "map" if first < 0x90 else "array" if first < 0xA0 else "str"
        size = first & (31 if kind == "str" else 15)
    if kind in ("bin", "str"):
        raw, at = _take(data, at, size)
        try:
            return (raw if kind == "bin" else raw.decode()), at
        except UnicodeDecodeError:
            raise Rejected("text is not UTF-8") from None
    need(depth < 64, "a document is nested too deep")
    items: list[Any] = []
    entries: dict[str, Any] = {}
    for _ in range(size):
        if kind == "map":
            key, at = _value(data, at, depth + 1, False)
            need(type(key) is str and key not in entries, "a map has a key that is repeated or not text")
            entries[key], at = _value(data, at, depth + 1, refs)
        else:
            item, at = _value(data, at, depth + 1, False)
            items.append(item)
    return (entries if kind == "map" else items), at


# Streams' keys and what they open


class Opener:
    """What the holder of one stream's key can open."""

    def __init__(self, ledger: Ledger, stream: int, key: bytes, chunks: Mapping[bytes, int]) -> None:
        self.check = derive(key, "key check")[:8]
        self._aead = AESGCM(derive(key, "content"))
        self._id_key = derive(key, "blob id")
        self._blobs, self._stream, self._chunks = ledger.blobs, stream, chunks

    def content(self, sealed: bytes, stream_seq: int, used: set[bytes]) -> dict[str, Any]:
        """The content of an event [21, 22]; ids of the blobs that it names are added to `used`."""
        document = decode(self._open(sealed, u64(self._stream) + u64(stream_seq)), refs=True)
        need(type(document) is dict, "content is no map")
        return {name: self._resolve(value, used) for name, value in document.items()}

    def blob(self, id_: bytes, used: set[bytes]) -> bytes:
        """The bytes of a blob [23]."""
        need(id_ in self._chunks, "content names a blob that nobody stored")
        used.add(id_)
        last = self._chunks[id_] - 1
        key, place = struct.Struct(">Q16sI"), struct.Struct(">16sI?")
        rows = ((n, self._blobs[key.pack(self._stream, id_, n)]) for n in range(last + 1))
        plain = b"".join(self._open(row, place.pack(id_, n, n == last)) for n, row in rows)
        need(blake3(plain, key=self._id_key).digest()[:16] == id_, "a blob is not what its id says")
        return plain

    def _open(self, sealed: bytes, place: bytes) -> bytes:
        try:
            return self._aead.decrypt(sealed[:12], sealed[12:], place)
        except InvalidTag:
            raise Rejected("a ciphertext does not open with its stream's key") from None

    def _resolve(self, value: Any, used: set[bytes]) -> Any:
        if not isinstance(value, Ref):
            return value
        if value.code == 1:
            return decode(self.blob(value.data, used))
        return [decode(self.blob(id_, used)) for id_ in self._leaves(value.data[0], value.data[1:], used)]

    def _leaves(self, level: int, id_: bytes, used: set[bytes]) -> Iterator[bytes]:
        """Ids of the messages below a node [24]."""
        node = self.blob(id_, used)
        ids = [node[at : at + 16] for at in range(1, len(node), 16)]
        need(level and node[:1] == bytes([level]), "a node has another level")
        need(len(node) % 16 == 1 and 1 <= len(ids) <= 32, "a node is malformed")
        need(all(one[0] >= 0x20 for one in ids[:-1]), "a node goes on behind a cut")
        for one in ids:
            yield from [one] if level == 1 else self._leaves(level - 1, one, used)


# The log


class Stream:
    """What is known of a stream so far."""

    def __init__(self, name: str, key_check: bytes) -> None:
        self.name, self.key_check = name, key_check
        self.seq, self.stream_seq, self.hash = 0, 0, bytes(32)
        self.types: Counter[str] = Counter()
        self.tools: Counter[str] = Counter()
        self.chunks: dict[bytes, int] = {}
        self.stored_at: dict[bytes, int] = {}


def open_ledger(root: Path) -> Ledger:
    """The rows of a ledger's directory, and its keys."""
    path = root / "agentledger.lmdb"
    size = max(1 << 20, (path / "data.mdb").stat().st_size)
    names = (b"events", b"blobs", b"index")
    env = lmdb.open(str(path), readonly=True, lock=False, create=False, max_dbs=len(names), map_size=size)
    with env, env.begin() as txn:
        trees = [dict(txn.cursor(db=env.open_db(name, txn, create=False))) for name in names]

    def key_of(stream: int) -> bytes | None:
        number, slot = divmod(stream - 1, 1024)
        page = root / "keys" / f"{number:08}.keys"
        data = page.read_bytes() if page.exists() else b""
        need(not data or (data[:32] == PAGE_HEADER and len(data) == 32 + 1024 * 32), "a page of keys is malformed")
        key = data[32 + slot * 32 : 64 + slot * 32]
        return key if any(key) else None

    return Ledger(*trees, key_of)


def read(ledger: Ledger, held: tuple[int, bytes] | None = None) -> Iterator[dict[str, Any]]:
    """As `_read`; what is malformed in a way that nothing below asks about is rejected too."""
    try:
        yield from _read(ledger, held)
    except (LookupError, TypeError, ValueError) as error:
        raise Rejected(f"malformed: {error!r}") from error


def _read(ledger: Ledger, held: tuple[int, bytes] | None) -> Iterator[dict[str, Any]]:
    """Every event as a plain dict, once all is verified that needs no key; `content` is None where it is forgotten."""
    id_, events, streams = ledger_id(ledger.index), [], {}
    index: dict[bytes, bytes] = {b"\0format": ledger.index[b"\0format"]}
    rows: set[bytes] = set()
    untold: set[bytes] = set()
    previous, time_ns = keyed("genesis", id_), 0
    for seq, (key, record) in enumerate(sorted(ledger.events.items()), 1):
        need(key == u64(seq), f"there is no event at seq {seq}")  # [3]
        event = _record(record, seq, previous, time_ns)
        _stream(event, streams, index)
        if seq == 1:  # [10]
            born = (event["type"], event["stream"]) == ("ledger_created", "ledger")
            need(born, "the log does not begin with its creation")
            need(event["facts"].get("ledger") == id_, "the first event names another ledger")
        rows |= _blobs(event, streams[event["stream_no"]], ledger.blobs)
        _tags(event, index, untold)
        events.append(event)
        previous, time_ns = event["hash"], event["time_ns"]
        need(held is None or held[0] != seq or held[1] == previous, "history was rewritten before the held head")
    need(events and (held is None or held[0] <= len(events)), "the log ends before the held head, or never began")
    for number, stream in streams.items():
        index[b"h" + u64(number)] = u64(stream.seq) + u64(stream.stream_seq) + stream.hash
    surplus = {key: row for key, row in ledger.index.items() if key not in index}
    need(all(ledger.index.get(key) == row for key, row in index.items()), "an index row is missing or wrong")  # [18]
    need(all(key[:1] == b"k" and row in untold for key, row in surplus.items()), "an index row has no event")
    need(rows == set(ledger.blobs), "blob rows are missing or belong to nobody")  # [17]
    forgotten = {event["facts"]["stream"] for event in events if event["type"] == "content_forgotten"}
    openers = {number: _opener(ledger, number, stream) for number, stream in streams.items() if number not in forgotten}
    for event in events:
        yield _opened(event, streams[event["stream_no"]], openers.get(event["stream_no"]))


def ledger_id(index: Rows) -> bytes:
    """The ledger's id, out of the row that names the format [1]."""
    row = index.get(b"\0format", b"")
    need(len(row) == 32 and row[:12] == b"AgentLedger\n", "there is no row that names the format")
    need(row[12:16] == b"\0\0\0\1", "this reader knows format 1 only")
    return row[16:]


def _record(record: bytes, seq: int, previous: bytes, time_ns: int) -> dict[str, Any]:
    """Header, hash, link and facts of one record."""
    need(len(record) >= FACTS_AT, f"record {seq} is cut short")
    format_, flags, reserved, seq_, time, prev, stream, stream_seq, sprev, sprev_hash, digest, size, facts_size = (
        HEADER.unpack_from(record, 32)
    )
    end = FACTS_AT + facts_size
    sealed, content = record[32:end], record[end:]
    need(format_ == 1 and not reserved and not flags & UNKNOWN, f"record {seq} is of a kind not known here")  # [2]
    need(seq_ == seq and len(content) == size and len(sealed) <= 65_535, f"record {seq} has another place or size")
    need(keyed("event", sealed) == record[:32], f"record {seq} was altered")  # [4]
    need(prev == previous, f"record {seq} does not link to the one before it")  # [5]
    need(time >= time_ns, f"record {seq} is dated before the one before it")  # [6]
    need(digest == (keyed("content", content) if content else bytes(32)), f"content {seq} was altered")  # [8]
    need(not content or size > SEAL, f"the content of record {seq} is no ciphertext")
    facts = decode(sealed[HEADER.size :])  # [9]
    shaped = type(facts) is list and len(facts) == 7 + bool(flags & (OPENS | STORES))
    kinds = ((str,), (int,), (str,), (str, type(None)), (int, type(None)), (int, type(None)), (dict,), (dict,))
    shaped = shaped and all(type(fact) in kind for fact, kind in zip(facts, kinds, strict=False))
    need(shaped and facts[1] >= 1, f"the facts of record {seq} have another shape")
    names = ("type", "version", "actor", "step", "epoch", "causation", "facts")
    place = {"seq": seq, "hash": record[:32], "time_ns": time, "flags": flags}
    place |= {"stream_no": stream, "stream_seq": stream_seq, "content": content}
    private = {"_prev": (sprev, sprev_hash), "_extra": facts[7] if len(facts) > 7 else {}}
    return place | private | dict(zip(names, facts, strict=False))


def _stream(event: dict[str, Any], streams: dict[int, Stream], index: dict[bytes, bytes]) -> None:
    """The stream's chain, number, name and counts."""
    seq, number, flags, extra = event["seq"], event["stream_no"], event["flags"], event["_extra"]
    need(bool(flags & OPENS) == (number not in streams), f"seq {seq} does not open its stream once")  # [11]
    if flags & OPENS:
        name, check = extra.get("stream"), extra.get("key_check")
        need(type(name) is str and type(check) is bytes and len(check) == 8, f"the opening at seq {seq} is malformed")
        need(number == len(streams) + 1 and b"n" + name.encode() not in index, f"seq {seq} opens a stream out of turn")
        streams[number] = Stream(name, check)
        index[b"n" + name.encode()] = u64(number)
    stream = streams[number]
    need(event["_prev"] == (stream.seq, stream.hash), f"seq {seq} does not link to its stream")  # [7]
    need(event["stream_seq"] == stream.stream_seq + 1, f"seq {seq} has another place in its stream")
    if flags & CLOSES:  # [12]
        said = (event["facts"].get("counts"), event["facts"].get("tools"))
        need(said == (stream.types, stream.tools), f"seq {seq} miscounts its stream")
    stream.seq, stream.stream_seq, stream.hash = seq, event["stream_seq"], event["hash"]
    stream.types[event["type"]] += 1
    if event["type"] == "tool_call_requested":
        stream.tools[event["facts"]["tool"]] += 1
    index[b"p" + u64(number) + u64(event["stream_seq"])] = u64(seq)
    event["stream"] = stream.name


def _blobs(event: dict[str, Any], stream: Stream, blobs: Rows) -> set[bytes]:
    """Check what an event stored against its commitments [13 to 16]; returns the keys of its rows."""
    said, seq, number = event["_extra"].get("blobs"), event["seq"], event["stream_no"]
    need(bool(event["flags"] & STORES) == (said is not None), f"seq {seq} and its flags differ about blobs")
    keys: set[bytes] = set()
    if type(said) is bytes:
        key = u64(number) + said[:16] + b"\xff" * 4
        need(keyed("content", blobs.get(key, b"")) == said, f"the list of blobs of seq {seq} was altered")
        keys.add(key)
        said = decode(blobs[key])
        need(len(said) > 64, f"the list of blobs of seq {seq} belongs into its facts")
    for id_, chunks, digest in said or ():
        need(type(id_) is bytes and len(id_) == 16 and 1 <= chunks <= 1024, f"a commitment of seq {seq} is malformed")
        need(id_ not in stream.chunks, f"seq {seq} stores a blob again")
        names = [u64(number) + id_ + struct.pack(">I", n) for n in range(chunks)]
        rows = [blobs.get(name, b"") for name in names]
        need(all(len(row) == CHUNK + SEAL for row in rows[:-1]), f"a chunk of seq {seq} is missing or has another size")
        need(SEAL < len(rows[-1]) <= CHUNK + SEAL, f"the last chunk of a blob of seq {seq} is missing or too large")
        need(keyed("content", b"".join(rows)) == digest, f"a blob of seq {seq} was altered")
        stream.chunks[id_], stream.stored_at[id_] = chunks, seq
        keys.update(names)
    return keys


def _tags(event: dict[str, Any], index: dict[bytes, bytes], untold: set[bytes]) -> None:
    """Rows of key tags; which facts are tags is known by type, so those of unknown types cannot be told."""
    names = KEY_FACTS.get((event["type"], event["version"]))
    tags = [event["facts"][name] for name in names or () if name in event["facts"]]
    if names is None and event["flags"] & TAGGED:
        untold.add(u64(event["seq"]))
    need(names is None or bool(tags) == bool(event["flags"] & TAGGED), f"seq {event['seq']} hides a tag")
    for tag in tags:
        index.setdefault(b"k" + tag, u64(event["seq"]))


def _opener(ledger: Ledger, number: int, stream: Stream) -> Opener | None:
    """What opens a stream; None without its key, or with another history's [20]."""
    key = ledger.key_of(number)
    opener = Opener(ledger, number, key, stream.chunks) if key else None
    return opener if opener and opener.check == stream.key_check else None


def _opened(event: dict[str, Any], stream: Stream, opener: Opener | None) -> dict[str, Any]:
    """The event with its content in clear, if it can be had."""
    used: set[bytes] = set()
    sealed = event["content"]
    content = {} if not sealed else opener.content(sealed, event["stream_seq"], used) if opener else None
    if content is not None:
        need(all(stream.stored_at[one] <= event["seq"] for one in used), "content names a blob of a later event")
        stored = {one for one, seq in stream.stored_at.items() if seq == event["seq"]}
        need(stored <= used, f"seq {event['seq']} stored a blob that its content does not name")  # [25]
    return {name: value for name, value in event.items() if name[0] != "_"} | {"content": content}
