"""Makes the vectors of log format 1: small JSON files that a reader in any language can be tested against.

Rules: what is written depends on nothing but this file and the project's code. Keys, nonces and ids come from
`FixedRandom`, a counter hashed with SHA-256, in place of the system's random source. Bytes are hex strings; inside
values, `{"$bytes": hex}` stands for bytes. Run it from the project's root: `python contracts/vectors/make.py`.
`tests/test_format.py` asserts that running it changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))  # the project, where it is not installed

from ledger_core import chain, codec  # noqa: E402
from ledger_core.clock import Clock  # noqa: E402
from ledger_core.events.base import content_of  # noqa: E402
from ledger_core.events.effect import ModelCallRequested, ToolCallCompleted, ToolCallRequested, ValueCaptured  # noqa: E402
from ledger_core.events.run import RunCompleted  # noqa: E402
from ledger_core.ids import Hash, LedgerId, Seq, StreamNo, StreamSeq  # noqa: E402
from ledger_core.log import blobs, content, record  # noqa: E402
from ledger_core.log.cipher import Cipher, Nonces  # noqa: E402
from ledger_core.log.keys import MemoryKeys  # noqa: E402
from ledger_core.log.log import Draft, Log, Placement  # noqa: E402
from ledger_core.log.memory_store import MemoryStore  # noqa: E402
from ledger_core.log.store import Tree  # noqa: E402

NOW_NS = 1_700_000_000_000_000_000
PATTERN = "byte i is i % 251"


class FixedRandom:
    """Bytes that look random and are the same every time."""

    def __init__(self, name: str) -> None:
        self._name, self._count = name, 0

    def __call__(self, size: int) -> bytes:
        assert size <= hashlib.sha256().digest_size
        self._count += 1
        return hashlib.sha256(f"{self._name} {self._count}".encode()).digest()[:size]


def pattern(size: int) -> bytes:
    """The bytes that `PATTERN` describes."""
    return bytes(i % 251 for i in range(size))


def fixed_nonces(name: str) -> Any:
    """Every transaction's nonces, for the length of a block; nobody else's randomness is touched."""
    random = FixedRandom(name)
    return patch.object(Nonces, "draw", lambda _: random(12))


def plain_json(value: Any) -> Any:
    """A value with bytes written as `{"$bytes": hex}`."""
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    return [plain_json(item) for item in value] if isinstance(value, list) else value


def codec_vectors() -> dict[str, Any]:
    nested: Any = None
    for _ in range(codec.MAX_DEPTH):
        nested = [nested]
    edges = (0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
    below = (-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63))
    values: list[Any] = [None, False, True, *edges, *below, 0.0, -0.0, 1.0, 0.1, -1.5, 5e-324, 1.7976931348623157e308]
    values += ["", "a", "é", "e\u0301", "\u0000", "\U0001f600", "x" * 31, "x" * 32, "x" * 255, "x" * 256]
    values += [b"", b"\x00\xff", bytes(255), bytes(256), [], [1, [2, [3]]], [0] * 15, [0] * 16, {}, {"": None}]
    values += [{"b": 1, "a": {"d": [], "c": b"\x01"}}, {f"{i:02}": i for i in range(15)}]
    values += [{f"{i:02}": i for i in range(16)}, nested]
    unsorted = [{"b": 1, "a": 2}, [{"é": 1, "z": 2, "\U0001f600": 3, "\uffff": 4}], {"b": {"d": 1, "c": 2}, "B": 0}]
    return {
        "accepted": [{"value": plain_json(value), "bytes": codec.encode(value).hex()} for value in values],
        "rejected": [{"why": why, "bytes": data} for why, data in REJECTED],
        "sorted": [{"value": plain_json(value), "bytes": codec.canonical(value).hex()} for value in unsorted],
    }


REJECTED = [
    ("no bytes at all", ""),
    ("the byte that MessagePack never uses", "c1"),
    ("bytes behind the end", "c0c0"),
    ("an array cut short", "92c0"),
    ("a text cut short", "a261"),
    ("a map without its last value", "81a161"),
    ("a length cut short", "da01"),
    ("an integer cut short", "cd01"),
    ("a float cut short", "cb3ff00000000000"),
    ("1 as uint8", "cc01"),
    ("255 as uint16", "cd00ff"),
    ("65535 as uint32", "ce0000ffff"),
    ("2^32 - 1 as uint64", "cf00000000ffffffff"),
    ("-1 as int8", "d0ff"),
    ("-128 as int16", "d1ff80"),
    ("-32768 as int32", "d2ffff8000"),
    ("-2^31 as int64", "d3ffffffff80000000"),
    ("127 as int8", "d07f"),
    ("128 as int16", "d10080"),
    ("2^31 as int64", "d30000000080000000"),
    ("float32", "ca3f800000"),
    ("NaN", "cb7ff8000000000000"),
    ("another NaN", "cbfff0000000000001"),
    ("infinity", "cb7ff0000000000000"),
    ("minus infinity", "cbfff0000000000000"),
    ("a short text as str8", "d90161"),
    ("a text of 32 as str16", "da0020" + "78" * 32),
    ("a text of 32 as str32", "db00000020" + "78" * 32),
    ("bytes as bin16", "c5000161"),
    ("bytes as bin32", "c60000000161"),
    ("a short array as array16", "dc0001c0"),
    ("a short array as array32", "dd00000001c0"),
    ("a short map as map16", "de0001a161c0"),
    ("a short map as map32", "df00000001a161c0"),
    ("text that is not UTF-8", "a1ff"),
    ("UTF-8 in a longer form", "a2c080"),
    ("a surrogate", "a3eda080"),
    ("an integer as a key", "8101c0"),
    ("null as a key", "81c0c0"),
    ("bytes as a key", "81c40161c0"),
    ("an array as a key", "8190c0"),
    ("a key twice", "82a161c0a161c0"),
    ("a key twice, with two values", "82a16101a16102"),
    ("an extension of 1", "d40161"),
    ("a reference where none may be", "d801" + "00" * 16),
    ("a list's reference where none may be", "c7110201" + "00" * 16),
    ("an extension of 0", "c70001"),
    ("a timestamp", "d6ff00000000"),
    ("a timestamp of 96 bits", "c70cff" + "00" * 12),
    ("an array 65 deep", "91" * 64 + "90"),
    ("a map 65 deep", "81a161" * 64 + "80"),
]


DOMAINS = ("event", "content", "blob", "blob list", "genesis", "code", "rows", "evidence")
PURPOSES = ("key check", "content key", "blob id", "request tag")


def blob_digest(rows: bytes) -> str:
    """The digest of a blob's rows, joined."""
    digest = chain.blob_digester()
    digest.update(rows)
    return str(digest.hexdigest())


def hash_vectors() -> dict[str, Any]:
    key = FixedRandom("stream key")(32)
    cipher = Cipher(key)
    inputs = (b"", b"AgentLedger", pattern(1_025))
    ledger = LedgerId(pattern(16))
    return {
        "domains": {name: chain._domain(name).hex() for name in DOMAINS},
        "inputs": [{"pattern": PATTERN, "length": len(i)} if len(i) > 16 else {"bytes": i.hex()} for i in inputs],
        "event": [chain.event_hash(data).hex() for data in inputs],
        "content": [chain.content_digest(data).hex() for data in inputs],
        "blob": [blob_digest(data) for data in inputs],
        "blob list": [chain.blob_list_digest(data).hex() for data in inputs],
        "code": [chain.code_digest(data).hex() for data in inputs],
        "evidence": [chain.evidence_digest(data).hex() for data in inputs],
        "genesis": {"ledger": ledger.hex(), "hash": chain.genesis(ledger).hex()},
        "stream_key": {
            "key": key.hex(),
            "derived": {name: chain.derive(key, name).hex() for name in PURPOSES},
            "key_check": cipher.check.hex(),
            "blob_id": [cipher.blob_id(data).hex() for data in inputs],
            "tag": [cipher.tag(data).hex() for data in inputs],
        },
    }


def record_vectors() -> dict[str, Any]:
    """One record by itself, with every field of the header another than the rest."""
    random = FixedRandom("record")
    key, prev, sprev = random(32), random(32), random(32)
    cipher = Cipher(key)
    body = ToolCallCompleted(path="3/1", attempt=2, result={"ok": True, "text": "Grüße", "raw": b"\x00\x01"})
    draft = Draft(stream="run/run_1", body=body, actor="worker", step="step_1", epoch=4, causation=Seq(40))
    plain = content.pack({"result": body.result}, (), lambda _: b"")
    sealed_content = cipher.encrypt(plain, record.place(StreamNo(7), StreamSeq(9)), FixedRandom("record nonces")(12))
    facts = record.encode_facts(draft, {})
    header = chain.Sealed(
        chain.FORMAT, chain.CRITICAL, 0, Seq(42), NOW_NS, Hash(prev), StreamNo(7), StreamSeq(9), Seq(38), Hash(sprev),
        chain.content_digest(sealed_content), len(sealed_content), len(facts),
    )  # fmt: skip
    hash_, sealed = chain.seal(header, facts)
    envelope = codec.decode(facts)
    return {
        "key": key.hex(),
        "header": {name: v.hex() if isinstance(v, bytes) else v for name, v in header._asdict().items()},
        "facts": {"value": plain_json(envelope), "bytes": facts.hex()},
        "content": {"value": plain_json({"result": body.result}), "plain": plain.hex(), "stored": sealed_content.hex()},
        "sealed": sealed.hex(),
        "hash": hash_.hex(),
        "record": (hash_ + sealed + sealed_content).hex(),
    }


def chain_vectors() -> dict[str, Any]:
    """A whole ledger of three streams, as the rows of its trees; the key of the third is withheld.

    Two streams are placed in the queue and moved in it, and one has left it.
    """
    random, ticks = FixedRandom("chain"), iter(range(1_000))
    keys = {StreamNo(number): random(32) for number in (1, 2, 3)}
    clock = Clock(now_ns=lambda: NOW_NS + 1_000 * next(ticks), monotonic_ns=lambda: 0, random=random)
    store = MemoryStore()
    said = {"path": "1", "attempt": 1, "tool": "issues.create", "tool_version": "1", "side_effect": "external_write"}
    version = patch("ledger_core.log.log.__version__", "of the vectors")  # no release changes them
    with version, fixed_nonces("chain nonces"), Log(store, MemoryKeys(keys), clock=clock) as log:
        tag = Cipher(keys[StreamNo(2)]).tag
        call = ToolCallRequested(**said, request=tag(b"request"), key=tag(b"key"), arguments={"title": "Hello"})
        ready, later = Placement(b"ready"), Placement(b"timer\0\1", {"at": 1.5, "of": [1, b"\0"]})
        log.append(Draft(stream="run/a", body=call, actor="worker", step="step_a", epoch=1, queue=ready))
        log.append(
            Draft(stream="run/b", body=ValueCaptured(path="1", source="now", name="now", value=1.5), queue=ready),
            Draft(
                stream="run/a",
                body=ToolCallCompleted(path="1", attempt=1, result={"id": 7, "log": "line\n" * 300}),
                causation=Seq(2),
            ),
        )
        asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        ask = ModelCallRequested(path="2", attempt=1, model="m", request=tag(b"r"), messages=asked, parameters={})
        log.append(Draft(stream="run/a", body=ask, queue=later), Draft(stream="run/b", body=call, queue=later))
        counts = {"tool_call_requested": 1, "tool_call_completed": 1, "model_call_requested": 1}
        done = RunCompleted(counts=counts, tools={"issues.create": 1})
        log.append(Draft(stream="run/a", body=done, queue=Placement(None)))
        head = log.head()
        events = [
            {
                "seq": event.seq,
                "stream": event.stream,
                "stream_seq": event.stream_seq,
                "type": event.type,
                "content": plain_json(content_of(event.body)) if event.stream_no < 3 else None,
            }
            for event in log.read()
        ]
        with store.read() as reader:
            rows = {tree.name.lower(): [[k.hex(), v.hex()] for k, v in reader.scan(tree)] for tree in Tree}
        return {
            "ledger": log.id.hex(),
            "keys": {str(number): keys[StreamNo(number)].hex() for number in (1, 2)},
            "head": {"seq": head.seq, "hash": head.hash.hex()},
            "events": events,
            "rows": rows,
        }


def blob_vectors() -> dict[str, Any]:
    """Blobs by a rule for their bytes, with digests; the small one with its rows."""
    key = FixedRandom("blob")(32)
    cipher, found = Cipher(key), []
    for size in (40, blobs.CHUNK, blobs.CHUNK + 1, 150_000):
        store = MemoryStore()
        with fixed_nonces(f"blob {size}"), store.write() as writer:
            plain = pattern(size)
            made = blobs.write(writer, StreamNo(2), cipher, Nonces(), cipher.blob_id(plain), plain)
            rows = list(writer.scan(Tree.BLOBS))
        found.append(
            {
                "plain": {"pattern": PATTERN, "length": size},
                "commitment": [made.id.hex(), made.chunks, made.digest.hex()],
                "rows": [
                    {"key": k.hex(), "nonce": v[:12].hex(), "size": len(v), "digest": blob_digest(v)}
                    | ({"value": v.hex()} if len(v) < 100 else {})
                    for k, v in rows
                ],
            }
        )
    store = MemoryStore()
    listed = [blobs.Commitment(bytes([i]) * 16, 1, Hash(bytes([i]) * 32)) for i in range(65)]
    with store.write() as writer:
        digest = blobs.commit_list(writer, StreamNo(2), listed)
        ((row_key, row),) = writer.scan(Tree.BLOBS)
    rule = "65 commitments; number i, from 0: the id is 16 bytes i, chunks is 1, the digest is 32 bytes i"
    list_row = {"rule": rule, "blobs": digest.hex(), "key": row_key.hex(), "size": len(row)}
    moved = [moved_fields(cipher, lengths) for lengths in MOVED]
    return {"stream": 2, "key": key.hex(), "blobs": found, "list": list_row, "moved": moved}


MOVED = ({"a": 500, "b": 500}, {"a": 400, "b": 700, "c": 300}, {"a": 500, "b": 600, "c": 500, "d": 600}, {"a": 2_000})


def moved_fields(cipher: Cipher, lengths: dict[str, int]) -> dict[str, Any]:
    """The document of fields that are text, the letter x so many times, and which of them moved to blobs."""
    ids: list[bytes] = []

    def save(plain: bytes) -> bytes:
        ids.append(cipher.blob_id(plain))
        return ids[-1]

    document = content.pack({name: "x" * length for name, length in lengths.items()}, (), save)
    refs = [name for name, value in codec.decode(document, refs=True).items() if isinstance(value, codec.Ref)]
    return {"lengths": lengths, "moved": refs, "document": document.hex()}


def list_vectors() -> dict[str, Any]:
    """Message lists, by how many from 0 or by their numbers: ids, nodes, and the document that refers to the root."""
    key = FixedRandom("list")(32)
    cipher, lists = Cipher(key), []
    ids = [cipher.blob_id(codec.encode(message(i))) for i in range(100)]
    uncut = next(i for i, id_ in enumerate(ids) if id_[0] >= 0x20)
    for numbers in (*map(range, (1, 2, 40, 100)), [uncut] * 70):
        saved: dict[bytes, bytes] = {}

        def save(plain: bytes, saved: dict[bytes, bytes] = saved) -> bytes:
            saved[id_ := cipher.blob_id(plain)] = plain
            return id_

        document = content.pack({"messages": [message(i) for i in numbers]}, ("messages",), save)
        nodes = [
            {"id": id_.hex(), "level": plain[0], "children": len(plain) // 16}
            | ({"plain": plain.hex()} if len(numbers) < 70 else {})
            for id_, plain in saved.items()
            if id_ not in ids
        ]
        said = numbers if isinstance(numbers, list) else len(numbers)
        lists.append({"messages": said, "document": document.hex(), "nodes": nodes})
    rule = 'message i, from 0: {"role": "user" if i is even, else "assistant", "content": "message i"}'
    return {"key": key.hex(), "rule": rule, "ids": [id_.hex() for id_ in ids], "lists": lists}


def message(number: int) -> dict[str, str]:
    """The message of that number, by the rule in `list.json`."""
    return {"role": ("user", "assistant")[number % 2], "content": f"message {number}"}


def files() -> dict[str, str]:
    """Every file's name and text."""
    made = {
        "codec.json": codec_vectors(),
        "hash.json": hash_vectors(),
        "record.json": record_vectors(),
        "chain.json": chain_vectors(),
        "blob.json": blob_vectors(),
        "list.json": list_vectors(),
    }
    return {name: json.dumps(value, indent=1, ensure_ascii=True) + "\n" for name, value in made.items()}


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="ascii")
        print(f"{len(text):>7,} {name}", file=sys.stderr)  # noqa: T201
