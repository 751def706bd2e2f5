"""An independent reader of log format 1, written from `contracts/FORMAT.md`; it shares no code with the project.

Rules: imports nothing of the project, and no msgpack either: the strict decoder is its own. Holds the whole ledger in
memory, checks all of it before it hands out the first event, and raises `Rejected` at the first thing that is wrong.
It only reads: LMDB is opened without a lock file, so also a copy on a read-only medium can be read. The numbers in
brackets are those of the list of checks in FORMAT.md.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Rows = Mapping[bytes, bytes]
Event = dict[str, Any]
HEADER = struct.Struct(">BBHQQ32sQQQ32s32sII")
FIELDS = "format flags reserved seq time_ns prev_hash stream_no stream_seq stream_prev_seq stream_prev_hash".split()
FIELDS += "content_digest content_size facts_size".split()
FACTS_AT = 32 + HEADER.size
FACTS = {"type": str, "version": int, "actor": str, "step": str | None, "epoch": int | None, "causation": int | None}
FACTS |= {"facts": dict, "extra": dict}
OPENS, STORES, TAGGED, CLOSES, QUEUES, UNKNOWN = 2, 4, 8, 16, 32, 0xC0
EXTRAS = {"stream": OPENS, "key_check": OPENS, "blobs": STORES, "tags": TAGGED, "queue": QUEUES}
CHUNK, SEAL, WAYPOINT, MAX_SEALED, MAX_DOCUMENT = 65_536, 28, 256, 65_535, 1 << 26
MAX_KEY, MAX_NOTE = 64, 1_024
STREAM = re.compile(r"[a-z][a-z0-9_]{0,31}(/[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127})?")
PAGE, PAGE_HEADER = 32 + 1024 * 32, b"AgentLedger keys format 1\n".ljust(32, b"\0")
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True} | {n % 256: n for n in range(-32, 128)}
REFS = {0xD8: (b"\1", 1, 16), 0xC7: (b"\x11\2", 2, 17)}
HEADS = {0xCC: ("uint", 1, 128), 0xCD: ("uint", 2, 1 << 8), 0xCE: ("uint", 4, 1 << 16), 0xCF: ("uint", 8, 1 << 32)}
HEADS |= {0xD0: ("int", 1, -33), 0xD1: ("int", 2, -129), 0xD2: ("int", 4, -32_769), 0xD3: ("int", 8, -(1 << 31) - 1)}
HEADS |= {0xC4: ("bin", 1, 0), 0xC5: ("bin", 2, 1 << 8), 0xC6: ("bin", 4, 1 << 16)}
HEADS |= {0xD9: ("str", 1, 32), 0xDA: ("str", 2, 1 << 8), 0xDB: ("str", 4, 1 << 16)}
HEADS |= {0xDC: ("array", 2, 16), 0xDD: ("array", 4, 1 << 16), 0xDE: ("map", 2, 16), 0xDF: ("map", 4, 1 << 16)}
"""First byte -> kind, bytes of the number or length behind it, and the bound behind which a shorter form would do."""
FIXED = {"map": (0x80, 16), "array": (0x90, 16), "str": (0xA0, 32)}


class Rejected(Exception):
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


def u64(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}Q", *numbers)


# Canonical MessagePack


def decode(data: bytes, *, refs: bool = False) -> Any:
    """The value of one canonical document; with `refs`, its top map may hold references."""
    need(len(data) <= MAX_DOCUMENT, "a document is too large")
    rest = BytesIO(data)
    value = _value(rest, 0, refs)
    need(not rest.read(1), "bytes follow a document")
    return value


def _take(rest: BytesIO, size: int) -> bytes:
    taken = rest.read(size)
    need(len(taken) == size, "a document is cut short")
    return taken


def _value(rest: BytesIO, depth: int, refs: bool) -> Any:
    (first,) = _take(rest, 1)
    if first in CONSTANTS:
        return CONSTANTS[first]
    if first == 0xCB:
        (real,) = struct.unpack(">d", _take(rest, 8))
        need(real - real == 0, "a float is NaN or infinite")
        return real
    if refs and depth == 1 and first in REFS:
        head, code, size = REFS[first]
        need(_take(rest, len(head)) == head, "a reference is of an unknown kind")
        return Ref(code, _take(rest, size))
    if first in HEADS:
        kind, width, bound = HEADS[first]
        size = int.from_bytes(_take(rest, width), "big", signed=kind == "int")
        need(size <= bound if kind == "int" else size >= bound, f"a {kind} is not in its shortest form")
    else:
        need(first < 0xC0, f"the byte {first:#04x} begins nothing that is allowed here")
        kind = "map" if first < 0x90 else "array" if first < 0xA0 else "str"
        size = first & (31 if kind == "str" else 15)
    if kind in ("uint", "int"):
        return size
    if kind in ("bin", "str"):
        raw = _take(rest, size)
        need(kind == "bin" or raw.decode(errors="replace").encode() == raw, "text is not UTF-8")
        return raw if kind == "bin" else raw.decode()
    need(depth < 64, "a document is nested too deep")
    if kind == "array":
        return [_value(rest, depth + 1, False) for _ in range(size)]
    entries: dict[str, Any] = {}
    for _ in range(size):
        key = _value(rest, depth + 1, False)
        need(type(key) is str and key not in entries, "a map has a key that is repeated or not text")
        entries[key] = _value(rest, depth + 1, refs)
    return entries


def encode(value: Any) -> bytes:
    """The canonical document of a value without references: the inverse of `decode`."""
    if value is None or type(value) is bool:
        return bytes([0xC0 if value is None else 0xC2 + value])
    if type(value) is float:
        return b"\xcb" + struct.pack(">d", value)
    if type(value) is int:
        return bytes([value % 256]) if -32 <= value < 128 else _head("int" if value < 0 else "uint", value)
    if type(value) is dict:
        return _head("map", len(value)) + b"".join(encode(key) + encode(item) for key, item in value.items())
    if type(value) is list:
        return _head("array", len(value)) + b"".join(map(encode, value))
    raw = value.encode() if type(value) is str else value
    return _head("str" if type(value) is str else "bin", len(raw)) + raw


def _head(kind: str, size: int) -> bytes:
    """What begins a number, or a value of that length, in its shortest form."""
    first, below = FIXED.get(kind, (0, 0))
    if 0 <= size < below:
        return bytes([first | size])
    rows = [(first, width, bound) for first, (name, width, bound) in HEADS.items() if name == kind]
    first, width, _ = [row for row in rows if (size <= row[2] if kind == "int" else size >= row[2])][-1]
    return bytes([first]) + size.to_bytes(width, "big", signed=kind == "int")


# Streams


class Stream:
    """What is known of a stream so far, and with its key, what its events say."""

    def __init__(self, number: int, name: str, key_check: bytes, first: int, blobs: Rows) -> None:
        self.number, self.name, self.key_check, self.first = number, name, key_check, first
        self.seq, self.stream_seq, self.hash = 0, 0, bytes(32)
        self.types: Counter[str] = Counter()
        self.tools: Counter[str] = Counter()
        self.stored: dict[bytes, tuple[int, int]] = {}
        """Id of a blob -> its chunks, and the seq of the event that stored it."""
        self.placed: tuple[int, int, bytes | None, bytes] = (0, 0, None, b"")
        """Seq, ordinal, key, and the note's document, of the last placement."""
        self._blobs, self._aead, self._id_key = blobs, None, b""

    def unlock(self, key: bytes) -> None:
        """Use a key, unless it is another history's [20]."""
        if derive(key, "key check")[:8] == self.key_check:
            self._aead, self._id_key = AESGCM(derive(key, "content key")), derive(key, "blob id")

    def content(self, event: Event) -> dict[str, Any] | None:
        """The content of an event in clear [21, 22]; None if it cannot be had."""
        if event["content"] and not self._aead:
            return None
        used: set[bytes] = set()
        place = u64(self.number, event["stream_seq"])
        document = decode(self._open(event["content"], place), refs=True) if event["content"] else {}
        need(type(document) is dict, "content is no map")
        said = {name: self._resolve(value, used) for name, value in document.items()}
        need(all(self.stored[one][1] <= event["seq"] for one in used), "content names a blob of a later event")
        stored = {one for one, (_, seq) in self.stored.items() if seq == event["seq"]}
        need(stored <= used, f"seq {event['seq']} stored a blob that its content does not name")  # [25]
        return said

    def blob(self, id_: bytes, used: set[bytes]) -> bytes:
        """The bytes of a blob [23]; its id is added to `used`."""
        need(id_ in self.stored, "content names a blob that nobody stored")
        used.add(id_)
        last = self.stored[id_][0] - 1
        places = [(id_ + struct.pack(">I", n), n == last) for n in range(last + 1)]
        plain = b"".join(self._open(self._blobs[u64(self.number) + at], at + bytes([end])) for at, end in places)
        need(blake3(plain, key=self._id_key).digest()[:16] == id_, "a blob is not what its id says")
        return plain

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

    def _open(self, sealed: bytes, place: bytes) -> bytes:
        try:
            return self._aead.decrypt(sealed[:12], sealed[12:], place)
        except InvalidTag:
            raise Rejected("a ciphertext does not open with its stream's key") from None


# The log


def open_ledger(root: Path) -> Ledger:
    """The rows of a ledger's directory, and its keys."""
    path, names = root / "agentledger.lmdb", (b"events", b"blobs", b"index")
    size = max(1 << 20, (path / "data.mdb").stat().st_size)
    env = lmdb.open(str(path), readonly=True, lock=False, create=False, max_dbs=len(names), map_size=size)
    with env, env.begin() as txn:
        trees = [dict(txn.cursor(db=env.open_db(name, txn, create=False))) for name in names]

    def key_of(stream: int) -> bytes | None:
        number, slot = divmod(stream - 1, 1024)
        page = root / "keys" / f"{number:08}.keys"
        data = page.read_bytes() if page.exists() else b""
        need(not data or (data[:32] == PAGE_HEADER and len(data) == PAGE), "a page of keys is malformed")
        key = data[32 + slot * 32 : 64 + slot * 32]
        return key if any(key) else None

    return Ledger(*trees, key_of)


def read(ledger: Ledger, held: tuple[int, bytes] | None = None) -> Iterator[Event]:
    """Every event as a plain dict, once all is verified that needs no key; `content` is None where it is forgotten."""
    try:
        events, streams = _verified(ledger, held)
        forgets = (event for event in events if (event["stream"], event["type"]) == ("ledger", "content_forgotten"))
        forgotten = {event["facts"]["stream"] for event in forgets}
        for number, stream in streams.items():
            if number not in forgotten and (key := ledger.key_of(number)):
                stream.unlock(key)
        for event in events:
            yield event | {"content": streams[event["stream_no"]].content(event)}
    except (LookupError, TypeError, ValueError) as error:  # what nothing below asks about
        raise Rejected(f"malformed: {error!r}") from error


def _verified(ledger: Ledger, held: tuple[int, bytes] | None) -> tuple[list[Event], dict[int, Stream]]:
    """Events and streams of a ledger in which all is well that needs no key."""
    row = ledger.index.get(b"\0format", b"")
    need(len(row) == 32 and row[:12] == b"AgentLedger\n", "there is no row that names the format")  # [1]
    need(row[12:16] == b"\0\0\0\1", "this reader knows format 1 only")
    index, rows, events, streams = {b"\0format": row}, set(), [], {}
    last = {"hash": keyed("genesis", row[16:]), "time_ns": 0}
    for seq, (key, record) in enumerate(sorted(ledger.events.items()), 1):
        need(key == u64(seq), f"there is no event at seq {seq}")  # [3]
        last = _record(record, seq, last)
        stream = _stream(last, streams, index, ledger.blobs)
        if seq == 1:  # [10]
            born = (last["type"], stream.name) == ("ledger_created", "ledger")
            need(born, "the log does not begin with its creation")
            need(last["facts"]["ledger"] == row[16:], "the first event names another ledger")
        rows |= _blobs(last, stream, ledger.blobs)
        _place(last, stream)
        events.append(last)
        need(not held or held[0] != seq or held[1] == last["hash"], "history was rewritten before its held head")
    need(events and (not held or held[0] <= len(events)), "the log ends before its held head, or never began")  # [19]
    for number, stream in streams.items():
        index[b"h" + u64(number)] = u64(stream.first, stream.seq, stream.stream_seq) + stream.hash
        placed, _, key, note = stream.placed
        index |= {b"s" + u64(number): u64(placed)} if placed else {}
        index |= {b"q" + key + u64(number): u64(placed) + note} if key else {}
    need(index == ledger.index, "an index row is missing, wrong, or has no event")  # [18]
    need(rows == set(ledger.blobs), "blob rows are missing or belong to nobody")  # [17]
    return events, streams


def _record(record: bytes, seq: int, last: Event) -> Event:
    """Header, hash, link and facts of one record."""
    need(len(record) >= FACTS_AT, f"record {seq} is cut short")
    event = dict(zip(FIELDS, HEADER.unpack_from(record, 32), strict=True))
    end, flags, size = FACTS_AT + event["facts_size"], event["flags"], event["content_size"]
    sealed, content = record[32:end], record[end:]
    kind = (event["format"], event["reserved"], flags & UNKNOWN)
    need(kind == (1, 0, 0), f"record {seq} is of a kind not known here")  # [2]
    need((event["seq"], len(content)) == (seq, size), f"record {seq} has another place or size")  # [3]
    need(len(sealed) <= MAX_SEALED, f"the facts of record {seq} are too large")
    need(keyed("event", sealed) == record[:32], f"record {seq} was altered")  # [4]
    need(event["prev_hash"] == last["hash"], f"record {seq} does not link to the one before it")  # [5]
    need(event["time_ns"] >= last["time_ns"], f"record {seq} is dated before the one before it")  # [6]
    digest = keyed("content", content) if size else bytes(32)
    need(event["content_digest"] == digest, f"content {seq} was altered")  # [8]
    need(not size or size > SEAL, f"the content of record {seq} is no ciphertext")
    facts = decode(sealed[HEADER.size :])  # [9]
    shaped = type(facts) is list and len(facts) == 7 + bool(flags & (OPENS | STORES | TAGGED | QUEUES))
    shaped = shaped and all(map(isinstance, facts, FACTS.values())) and bool not in map(type, facts)
    need(shaped and facts[1] >= 1, f"the facts of record {seq} have another shape")
    event |= {"extra": {}, "hash": record[:32], "content": content} | dict(zip(FACTS, facts, strict=False))
    same = all((name in event["extra"]) == bool(flags & flag) for name, flag in EXTRAS.items())
    need(same, f"the flags and the extras of record {seq} differ")
    return event


def _stream(event: Event, streams: dict[int, Stream], index: dict[bytes, bytes], blobs: Rows) -> Stream:
    """The stream of an event: its chain, number, name, counts, and rows of the index."""
    seq, number, extra, facts = event["seq"], event["stream_no"], event["extra"], event["facts"]
    need(bool(event["flags"] & OPENS) == (number not in streams), f"seq {seq} does not open its stream once")  # [11]
    if number not in streams:
        name, check = extra["stream"], extra["key_check"]
        shaped = type(check) is bytes and len(check) == 8 and STREAM.fullmatch(name)
        need(shaped, f"the opening at seq {seq} is malformed")
        need(number == len(streams) + 1 and b"n" + name.encode() not in index, f"seq {seq} opens a stream out of turn")
        streams[number], index[b"n" + name.encode()] = Stream(number, name, check, seq, blobs), u64(number)
    stream, before = streams[number], (event["stream_prev_seq"], event["stream_prev_hash"])
    need(before == (stream.seq, stream.hash), f"seq {seq} does not link to its stream")  # [7]
    need(event["stream_seq"] == stream.stream_seq + 1, f"seq {seq} has another place in its stream")
    if event["flags"] & CLOSES:  # [12]
        need((facts["counts"], facts["tools"]) == (stream.types, stream.tools), f"seq {seq} miscounts its stream")
    stream.seq, stream.stream_seq, stream.hash = seq, event["stream_seq"], event["hash"]
    stream.types[event["type"]] += 1
    if event["type"] == "tool_call_requested":
        stream.tools[facts["tool"]] += 1
    if stream.stream_seq % WAYPOINT == 0:
        index[b"p" + u64(number, stream.stream_seq)] = u64(seq)
    names = extra.get("tags", [])
    tags = [facts[name] for name in names if name in facts]
    need(len(tags) > 0 or not event["flags"] & TAGGED, f"seq {seq} names no tag that it has")
    need(type(names) is list and len(set(names)) == len(names), f"the tags of seq {seq} are no list of names")
    need(all(type(tag) is bytes and len(tag) == 32 for tag in tags), f"a tag of seq {seq} is malformed")
    for tag in tags:
        index.setdefault(b"k" + tag, u64(seq))
    event["stream"] = stream.name
    return stream


def _place(event: Event, stream: Stream) -> None:
    """The stream's place in the queue, where the event says one [9, 18]."""
    if not event["flags"] & QUEUES:
        return
    said, seq = event["extra"]["queue"], event["seq"]
    need(type(said) is list and len(said) == 3, f"the placement of seq {seq} is malformed")
    ordinal, key, note = said[0], said[1], encode(said[2])
    need(type(ordinal) is int and ordinal == stream.placed[1] + 1, f"seq {seq} miscounts the placements of its stream")
    sized = key is None or (type(key) is bytes and 1 <= len(key) <= MAX_KEY)
    need(sized and len(note) <= MAX_NOTE, f"the key or the note of seq {seq} is none")
    stream.placed = (seq, ordinal, key, note)


def _blobs(event: Event, stream: Stream, blobs: Rows) -> set[bytes]:
    """Check what an event stored against its commitments [13 to 16]; returns the keys of its rows."""
    said, seq, number = event["extra"].get("blobs", ()), event["seq"], u64(event["stream_no"])
    keys: set[bytes] = set()
    if type(said) is bytes:
        keys.add(key := number + said[:16] + b"\xff" * 4)
        need(keyed("blob list", blobs.get(key, b"")) == said, f"the list of blobs of seq {seq} was altered")
        said = decode(blobs[key])
    need(bool(keys) == (len(said) > 64) and (said or said == ()), f"the list of blobs of seq {seq} is out of place")
    for id_, chunks, digest in said:
        need(type(id_) is bytes and len(id_) == 16 and 1 <= chunks <= 1024, f"a commitment of seq {seq} is malformed")
        need(id_ not in stream.stored, f"seq {seq} stores a blob again")
        names = [number + id_ + struct.pack(">I", n) for n in range(chunks)]
        sealed = [blobs.get(name, b"") for name in names]
        need({CHUNK + SEAL}.issuperset(map(len, sealed[:-1])), f"a chunk of seq {seq} is missing or has another size")
        need(SEAL < len(sealed[-1]) <= CHUNK + SEAL, f"the last chunk of a blob of seq {seq} is missing or too large")
        need(keyed("blob", b"".join(sealed)) == digest, f"a blob of seq {seq} was altered")
        stream.stored[id_] = (chunks, seq)
        keys.update(names)
    return keys
