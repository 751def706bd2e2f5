"""Log format 1 holds: `contracts/FORMAT.md`, its vectors, the project and a reader that shares no code agree.

Rules: what is expected comes from the committed vectors or from the drafts as they were written, never from what was
read back. The second reader (`second_reader.py`) must reject every change of a row: else it would accept anything.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import re
import struct
import sys
import typing
from collections import Counter
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any

import pytest
import second_reader
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from second_reader import Ledger, Rejected, Stream

from ledger_core import chain, codec, ids
from ledger_core.errors import Damaged
from ledger_core.events import REGISTRY, Body, EventType
from ledger_core.events.base import content_of, facts_of
from ledger_core.events.effect import ToolCallCompleted
from ledger_core.ids import Hash, StreamNo
from ledger_core.log import blobs, content, index, queue, record
from ledger_core.log.cipher import Cipher
from ledger_core.log.keys import MemoryKeys
from ledger_core.log.log import Draft, Event, Log, Placement
from ledger_core.log.memory_store import MemoryStore
from ledger_core.log.store import Tree

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "contracts" / "vectors"
FORMAT = (ROOT / "contracts" / "FORMAT.md").read_text(encoding="utf-8")


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))


def plain(value: Any) -> Any:
    """A value of the vectors, with its bytes."""
    if isinstance(value, dict):
        return bytes.fromhex(value["$bytes"]) if list(value) == ["$bytes"] else {k: plain(v) for k, v in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def pattern(length: int) -> bytes:
    """Byte i is i % 251."""
    return bytes(i % 251 for i in range(length))


def digest_of_rows(*rows: bytes) -> bytes:
    """The project's digest of a blob's rows."""
    digest = chain.blob_digester()
    for row in rows:
        digest.update(row)
    return digest.digest()


def strictly(decode: Any, data: bytes) -> str | None:
    """What a decoder makes of some bytes, told apart by type and order; None if it rejects them."""
    try:
        return repr(decode(data))
    except (Damaged, Rejected):
        return None


def unlocked(key: bytes, number: int, rows: dict[bytes, bytes], stored: dict[bytes, tuple[int, int]]) -> Stream:
    """A stream of the second reader, with its key."""
    stream = Stream(number, "run/a", second_reader.derive(key, "key check")[:8], 1, rows)
    stream.stored = stored
    stream.unlock(key)
    return stream


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", VECTORS / "make.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


# The vectors


def test_regenerating_the_vectors_changes_nothing(make):
    """The committed vectors are, byte for byte, what today's code makes."""
    committed = {path.name: path.read_text(encoding="ascii") for path in VECTORS.glob("*.json")}

    assert make.files() == committed
    assert sum(map(len, committed.values())) < 60_000


def test_both_decoders_accept_what_the_codec_vectors_accept():
    """Accepted values have exactly the bytes of the vectors, and come back with their types and order."""
    for case in vectors("codec")["accepted"]:
        value, data = plain(case["value"]), bytes.fromhex(case["bytes"])

        assert codec.encode(value) == second_reader.encode(value) == data
        assert strictly(codec.decode, data) == strictly(second_reader.decode, data) == repr(value)


@pytest.mark.parametrize("case", vectors("codec")["rejected"], ids=lambda case: case["why"])
def test_both_decoders_reject_what_the_codec_vectors_reject(case):
    """Bytes that no canonical encoder writes are damage."""
    data = bytes.fromhex(case["bytes"])

    assert strictly(codec.decode, data) is None
    assert strictly(second_reader.decode, data) is None


def test_sorted_documents_have_the_bytes_of_the_vectors():
    """Where order must not count, every map's keys are sorted by their UTF-8 bytes."""

    def ordered(value: Any) -> bool:
        if isinstance(value, dict):
            keys = [key.encode() for key in value]
            return keys == sorted(keys) and all(map(ordered, value.values()))
        return not isinstance(value, list) or all(map(ordered, value))

    for case in vectors("codec")["sorted"]:
        data = bytes.fromhex(case["bytes"])

        assert codec.canonical(plain(case["value"])) == data
        assert second_reader.decode(data) == plain(case["value"])
        assert ordered(second_reader.decode(data)) and not ordered(plain(case["value"]))


def test_both_decoders_agree_on_any_bytes():
    """The project's decode-encode-compare and a parser of the grammar accept the same documents."""
    dice = random.Random(1)
    known = [bytes.fromhex(case["bytes"]) for kind in ("accepted", "rejected") for case in vectors("codec")[kind]]
    known = [data for data in known if 0 < len(data) < 64]
    accepted = 0
    for _ in range(20_000):
        data = bytearray(dice.choice(known) if dice.random() < 0.7 else dice.randbytes(dice.randint(1, 12)))
        for _ in range(dice.randint(0, 2)):
            data[dice.randrange(len(data))] = dice.choice((dice.randrange(256), 0x81, 0xA1, 0xC0, 0xC4, 0xD9, 0xCC))
        ours = strictly(codec.decode, bytes(data))
        accepted += ours is not None

        assert strictly(second_reader.decode, bytes(data)) == ours, data.hex()
    assert 2_000 < accepted < 18_000


def test_hashes_and_derived_keys_are_those_of_the_vectors():
    """Domains, digests, genesis and what comes out of a stream's key are constants of the format."""
    made = vectors("hash")
    inputs = [pattern(i["length"]) if "length" in i else bytes.fromhex(i["bytes"]) for i in made["inputs"]]
    ledger, key = bytes.fromhex(made["genesis"]["ledger"]), bytes.fromhex(made["stream_key"]["key"])
    derived = {name: bytes.fromhex(value) for name, value in made["stream_key"]["derived"].items()}
    ours, cipher = {"event": chain.event_hash, "content": chain.content_digest, "code": chain.code_digest}, Cipher(key)
    ours |= {"blob": digest_of_rows, "blob list": chain.blob_list_digest}

    for name, domain in made["domains"].items():
        assert second_reader.derive(b"", name).hex() == domain
        assert f"| `{name}` | `{domain}` |" in FORMAT
    for name, hash_ in ours.items():
        assert [hash_(data).hex() for data in inputs] == made[name]
        wanted = [second_reader.keyed(name, data).hex() for data in inputs]
        assert wanted[1:] == made[name][1:]
        assert made[name][0] == ("00" * 32 if name == "content" else wanted[0])
    assert chain.genesis(ledger).hex() == second_reader.keyed("genesis", ledger).hex() == made["genesis"]["hash"]
    assert {name: second_reader.derive(key, name) for name in derived} == derived
    assert cipher.check == derived["key check"][:8] == bytes.fromhex(made["stream_key"]["key_check"])
    for data, id_, tag in zip(inputs, made["stream_key"]["blob_id"], made["stream_key"]["tag"], strict=True):
        assert cipher.blob_id(data).hex() == blake3(data, key=derived["blob id"]).hexdigest()[:32] == id_
        assert cipher.tag(data).hex() == blake3(data, key=derived["request tag"]).hexdigest() == tag


def test_the_record_of_the_vectors_is_read_by_both():
    """A record's header, facts and content stand where the format says, and open with the stream's key."""
    made = vectors("record")
    data, key, header = bytes.fromhex(made["record"]), bytes.fromhex(made["key"]), made["header"]
    ours = record.checked_header(data, header["seq"])
    last = {"hash": bytes.fromhex(header["prev_hash"]), "time_ns": header["time_ns"]}
    theirs = second_reader._record(data, header["seq"], last)
    info = record.StreamInfo(name="run/run_1", key_check=b"")
    event = record.to_event(data, ours, info, record.open_content(None, data, ours, Cipher(key)))
    stream = unlocked(key, header["stream"], {}, {})

    assert {n: v.hex() if isinstance(v, bytes) else v for n, v in ours._asdict().items()} == header
    assert data == bytes.fromhex(made["hash"] + made["sealed"] + made["content"]["stored"])
    assert {name: theirs[name] for name in second_reader.FIELDS if name != "stream_no"} == {
        name: bytes.fromhex(value) if type(value) is str else value
        for name, value in header.items()
        if name != "stream"
    }
    assert theirs["stream_no"] == header["stream"]
    assert theirs["hash"].hex() == event.hash.hex() == made["hash"]
    names = ("type", "version", "actor", "step", "epoch", "causation", "facts")
    assert [theirs[name] for name in names] == plain(made["facts"]["value"])
    assert [event.type, 1, event.actor, event.step, event.epoch, event.causation, facts_of(event.body)] == plain(
        made["facts"]["value"]
    )
    assert content_of(event.body) == plain(made["content"]["value"])
    assert stream.content(theirs) == plain(made["content"]["value"])


def the_chain() -> tuple[Ledger, tuple[int, bytes], list[dict[str, Any]]]:
    """The ledger of the vectors, its head, and what its events say."""
    made = vectors("chain")
    keys = {int(number): bytes.fromhex(key) for number, key in made["keys"].items()}
    trees = [{bytes.fromhex(k): bytes.fromhex(v) for k, v in made["rows"][t]} for t in ("events", "blobs", "index")]
    return Ledger(*trees, keys.get), (made["head"]["seq"], bytes.fromhex(made["head"]["hash"])), made["events"]


def test_the_chain_of_the_vectors_is_verified_and_read_by_the_second_reader():
    """A reader that shares no code with the project accepts the ledger of the vectors, up to its head."""
    ledger, head, wanted = the_chain()
    events = list(second_reader.read(ledger, held=head))

    assert [{name: event[name] for name in wanted[0]} for event in events] == plain(wanted)
    assert [event["stream_no"] for event in events] == [1, 2, 3, 2, 2, 3, 2]
    assert (events[-1]["seq"], events[-1]["hash"]) == head


def test_the_chain_of_the_vectors_is_verified_and_read_by_the_project(findings):
    """The project reads the rows of the vectors, finds nothing wrong, and forgets what it has no key for."""
    ledger, head, wanted = the_chain()
    store = MemoryStore()
    with store.write() as writer:
        for tree, rows in zip(Tree, ledger[:3], strict=True):
            for key, value in rows.items():
                writer.put(tree, key, value)
    with Log(store, MemoryKeys({StreamNo(number): ledger.key_of(number) for number in (1, 2)})) as log:
        assert log.head() == head
        assert findings(store) == []
        for event, case in zip(log.read(), wanted, strict=True):
            assert [event.seq, event.stream, event.stream_seq, event.type] == [*case.values()][:4]
            said = content_of(event.body)
            assert case["content"] == said if case["content"] is not None else not any(said.values())


def test_the_key_of_another_stream_opens_nothing():
    """A key that is not the stream's own leaves contents forgotten, and all else verified."""
    ledger, head, wanted = the_chain()
    events = list(second_reader.read(ledger._replace(key_of=lambda _: b"\1" * 32), held=head))

    assert [event["content"] for event in events] == [{} if case["content"] == {} else None for case in wanted]


# Blobs and lists


@pytest.mark.parametrize("case", vectors("blob")["blobs"], ids=lambda case: str(case["plain"]["length"]))
def test_blobs_of_the_vectors_are_read_by_both(case):
    """A blob's rows follow from its bytes, its key and its nonces; both readers get the bytes back."""
    made = vectors("blob")
    stream, key, text = made["stream"], bytes.fromhex(made["key"]), pattern(case["plain"]["length"])
    (id_, chunks, digest), aead = case["commitment"], AESGCM(second_reader.derive(key, "content key"))
    rows = {}
    for number, row in enumerate(case["rows"]):
        place = bytes.fromhex(id_) + struct.pack(">I?", number, number == chunks - 1)
        nonce, piece = bytes.fromhex(row["nonce"]), text[number * 65_536 : (number + 1) * 65_536]
        value = rows[bytes.fromhex(row["key"])] = nonce + aead.encrypt(nonce, piece, place)
        assert (len(value), second_reader.keyed("blob", value).hex()) == (row["size"], row["digest"])
        assert value.hex() == row.get("value", value.hex())
    store, listed = MemoryStore(), blobs.Commitment(bytes.fromhex(id_), chunks, Hash(bytes.fromhex(digest)))
    with store.write() as writer:
        for name, value in rows.items():
            writer.put(Tree.BLOBS, name, value)

    assert second_reader.keyed("blob", b"".join(rows.values())).hex() == digest_of_rows(*rows.values()).hex() == digest
    assert unlocked(key, stream, rows, {listed.id: (chunks, 1)}).blob(listed.id, set()) == text
    with store.read() as reader:
        assert blobs.check(reader, StreamNo(stream), listed) == ""
        assert blobs.read(reader, StreamNo(stream), Cipher(key), listed.id) == text


def test_a_long_list_of_commitments_is_a_row_under_its_digest():
    """65 commitments are one row, in clear, that facts name by its digest."""
    made = vectors("blob")["list"]
    row = codec.encode([[bytes([i]) * 16, 1, bytes([i]) * 32] for i in range(65)])
    digest = second_reader.keyed("blob list", row)
    store = MemoryStore()
    with store.write() as writer:
        writer.put(Tree.BLOBS, bytes.fromhex(made["key"]), row)
        found = blobs.commitments(writer, StreamNo(2), bytes.fromhex(made["blobs"]))

    assert (digest.hex(), len(row)) == (made["blobs"], made["size"])
    assert bytes.fromhex(made["key"]) == struct.pack(">Q", 2) + digest[:16] + b"\xff" * 4
    assert [list(one) for one in found] == second_reader.decode(row)


def test_lists_of_the_vectors_are_read_by_both(make):
    """A list's nodes follow from its messages' ids alone; both readers find every message below the root."""
    made = vectors("list")
    key = bytes.fromhex(made["key"])
    cipher = Cipher(key)
    for case in made["lists"]:
        numbers = case["messages"] if isinstance(case["messages"], list) else range(case["messages"])
        messages = [make.message(number) for number in numbers]
        saved: dict[bytes, bytes] = {}

        def save(data: bytes, saved: dict[bytes, bytes] = saved) -> bytes:
            saved[cipher.blob_id(data)] = data
            return cipher.blob_id(data)

        document = content.pack({"messages": messages}, ("messages",), save)
        leaves = [cipher.blob_id(codec.encode(message)) for message in messages]
        nodes = [(i.hex(), data[0], len(data) // 16) for i, data in saved.items() if i not in leaves]
        stream = unlocked(key, 1, {}, {})
        stream.blob = lambda id_, used, saved=saved: saved[id_]

        assert document.hex() == case["document"]
        assert [leaf.hex() for leaf in leaves] == [made["ids"][number] for number in numbers]
        assert nodes == [(node["id"], node["level"], node["children"]) for node in case["nodes"]]
        assert content.unpack(document, saved.__getitem__) == {"messages": messages}
        assert stream._resolve(second_reader.decode(document, refs=True)["messages"], set()) == messages


def test_large_documents_move_their_largest_fields_to_blobs():
    """A document above the inline limit loses its largest fields, one by one, until it fits."""
    made = vectors("blob")["moved"]
    cipher, saved = Cipher(bytes.fromhex(vectors("blob")["key"])), {}

    def save(data: bytes) -> bytes:
        saved[cipher.blob_id(data)] = data
        return cipher.blob_id(data)

    for case in made:
        value = {name: "x" * length for name, length in case["lengths"].items()}
        document = content.pack(value, (), save)
        refs = second_reader.decode(document, refs=True)

        assert document.hex() == case["document"]
        assert [name for name, said in refs.items() if isinstance(said, second_reader.Ref)] == case["moved"]
        assert content.unpack(document, saved.__getitem__) == value


# A ledger on disk


def fact_value(hint: Any) -> Any:
    """Some value of a fact's annotation."""
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return fact_value(args[0])
    if origin is typing.Literal:
        return args[0]
    return {str: "name", int: 7, bool: True, bytes: b"\xab" * 32, dict: {}, list: [], float: 0.5}[origin or hint]


def some_body(kind: EventType, **given: Any) -> Body:
    """A body of the type, every field filled."""
    hints = typing.get_type_hints(kind.cls)
    said = {name: {"text": f"{name} of {kind.name}", "list": [1.5, None, b"\0"]} for name in kind.content}
    lists = {name: [{"role": "user", "content": str(i)} for i in range(3)] for name in kind.messages}
    return kind.cls(**{name: fact_value(hints[name]) for name in kind.facts} | said | lists | given)


def tool_call(**given: Any) -> Body:
    return some_body(REGISTRY["tool_call_requested"], **given)


def write_ledger(root: Path) -> tuple[list[Event], int]:
    """A ledger with all that the format has; returns what was appended, and the number of the forgotten stream."""
    of_ledger = ("ledger_created", "content_forgotten")
    kinds = [kind for kind in REGISTRY.values() if kind.name not in of_ledger]
    with Log.open(root) as log:
        written = list(log.read())
        written += log.append(*(Draft(stream="run/all", body=some_body(kind)) for kind in kinds if not kind.closes))
        written += log.append(Draft(stream="run/gone", body=tool_call(arguments="r" * 5_000)))
        for kind in (kind for kind in kinds if kind.closes):
            stream, counts = f"run/{kind.name}", Counter({"tool_call_requested": 2, "tool_call_completed": 1})
            given = {"counts": dict(counts), "tools": {"name": 2}}
            done = some_body(REGISTRY["tool_call_completed"])
            written += log.append(*(Draft(stream=stream, body=body) for body in (tool_call(), done, tool_call())))
            written += log.append(Draft(stream=stream, body=some_body(kind, **given), causation=written[-1].seq))
        big = {"text": "ü" * 100_000, "bytes": pattern(65_536)}
        written += log.append(Draft(stream="run/big", body=ToolCallCompleted(path="1", attempt=1, result=big)))
        for turns in (100, 101, 0):
            said = [{"role": "user", "content": f"turn {turn} " * 20} for turn in range(turns)]
            body = some_body(REGISTRY["model_call_requested"], messages=said, parameters={"big": "p" * 3_000})
            written += log.append(Draft(stream="run/big", body=body, actor="worker", step="step_1", epoch=3))
        note = some_body(REGISTRY["value_captured"])
        written += log.append(*(Draft(stream=f"run/{'long' if i % 2 else 'longer'}", body=note) for i in range(1_030)))
        for key in (b"run", b"timer 1", None, b"run"):
            places = ("longer", Placement(key, {"at": 1.5, "k": b"\0"})), ("long", Placement(key and key * 9))
            written += log.append(*(Draft(stream=f"run/{name}", body=note, queue=place) for name, place in places))
        tagged = [tool_call(key=bytes([number]) * 32) for number in (1, 2, 1)]
        written += log.append(*(Draft(stream=f"run/{i}", body=body) for i, body in enumerate(tagged)))
        number, _ = log.key("run/gone")
        assert log.forget("run/gone", reason="asked for")
        written += log.read(written[-1].seq)
    return written, number


def test_a_ledger_written_by_the_project_is_verified_and_read_by_the_second_reader(tmp_path):
    """All event types, large contents, shared messages, tags and a forgotten stream come back as written."""
    written, gone = write_ledger(tmp_path)
    head = (written[-1].seq, written[-1].hash)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    events = list(second_reader.read(second_reader.open_ledger(tmp_path), held=head))
    same = set(Event._fields) - {"body"}

    assert len(events) == len(written) > len(REGISTRY)
    assert {event["type"] for event in events} == set(REGISTRY)
    for found, event in zip(events, written, strict=True):
        assert {name: found[name] for name in same} == {name: getattr(event, name) for name in same}
        assert found["facts"] == codec.roundtrip(facts_of(event.body))
        assert bool(found["flags"] & 1) == event.body.kind.critical
        said = codec.roundtrip(content_of(event.body))
        assert found["content"] == (None if event.stream_no == gone and said else said)
    assert any(event["content"] is None for event in events)
    assert second_reader.open_ledger(tmp_path).key_of(gone) is None
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_a_ledger_without_its_keys_is_verified_and_its_contents_are_forgotten(tmp_path):
    """Integrity needs no key: without `keys/` all verifies, and no content is had."""
    written, _ = write_ledger(tmp_path)
    for page in (tmp_path / "keys").iterdir():
        page.unlink()
    events = list(second_reader.read(second_reader.open_ledger(tmp_path)))

    assert [event["content"] for event in events] == [None if content_of(event.body) else {} for event in written]
    (tmp_path / "keys" / "00000000.keys").write_bytes(bytes(32_800))
    with pytest.raises(Rejected, match="page of keys"):
        list(second_reader.read(second_reader.open_ledger(tmp_path)))


def test_bytes_moved_from_one_chunk_to_the_next_are_rejected(tmp_path):
    """A blob's digest is of its rows joined, so the size of every chunk but the last is fixed too."""
    write_ledger(tmp_path)
    ledger = second_reader.open_ledger(tmp_path)
    rows = dict(ledger.blobs)
    first = next(key for key in sorted(rows) if key[-4:] == b"\0\0\0\0" and key[:-4] + b"\0\0\0\1" in rows)
    second = first[:-4] + b"\0\0\0\1"
    rows[second], rows[first] = rows[first][-1:] + rows[second], rows[first][:-1]

    with pytest.raises(Rejected, match="size"):
        list(second_reader.read(ledger._replace(blobs=rows)))


# The document and the second reader are kept honest


def test_the_second_reader_imports_nothing_of_the_project():
    """What it accepts is judged by other code: stdlib, lmdb, blake3 and cryptography only."""
    tree = ast.parse((ROOT / "tests" / "second_reader.py").read_text(encoding="utf-8"))
    imported = {
        (name.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

    assert imported - sys.stdlib_module_names == {"lmdb", "blake3", "cryptography"}
    assert not called & {"__import__", "eval", "exec", "importlib"}
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def test_the_document_has_the_offsets_of_the_code():
    """The table of the record in FORMAT.md is the struct that the code packs."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \|", FORMAT.split("## 2.")[1].split("## 3.")[0], re.MULTILINE)
    at, wanted = chain.HASH_SIZE, [("0", "32", "hash")]
    codes = re.findall(r"\d*[a-zA-Z]", chain.HEADER.format.lstrip(">"))
    for name, code in zip(chain.Sealed._fields, codes, strict=True):
        wanted.append((str(at), str(struct.calcsize(">" + code)), name))
        at += struct.calcsize(">" + code)

    assert rows == wanted
    assert at == chain.FACTS_AT == second_reader.FACTS_AT == 180


def test_the_document_has_the_flags_and_limits_of_the_code():
    """Flags, index prefixes and sizes in FORMAT.md are those of the code."""
    flags = {name: int(bit, 16) for bit, name in re.findall(r"^\| (0x\d\d) \| ([A-Z]+) \|", FORMAT, re.MULTILINE)}

    assert flags == {name: getattr(chain, name) for name in flags} and sum(flags.values()) == chain.KNOWN_FLAGS
    assert {f"{p}".encode() for p in re.findall(r'^\| `"(\w)"` ‖', FORMAT, re.MULTILINE)} == {
        index.HEAD, index.NAME, index.POSITION, index.KEY, index.QUEUED, index.PLACED,
    }  # fmt: skip
    for number in (chain.MAX_SEALED, blobs.CHUNK, content.INLINE, queue.MAX_NOTE):
        assert f"{number:,}" in FORMAT
    assert f"1 to {blobs.MAX_LISTED} |" in FORMAT and f"bytes, 1 to {queue.MAX_KEY} of them" in FORMAT
    assert (second_reader.MAX_KEY, second_reader.MAX_NOTE) == (queue.MAX_KEY, queue.MAX_NOTE)
    assert f"every {index.WAYPOINT}th" in FORMAT and f"at most {chain.MAX_FACTS:,} bytes" in FORMAT
    assert f"`{ids._STREAM.pattern.replace('(?:', '(')}`" in FORMAT
    assert second_reader.MAX_DOCUMENT == codec.MAX_BYTES
    assert strictly(second_reader.decode, b"\xc6\x04\0\0\0" + bytes(codec.MAX_BYTES)) is None
    assert f"at most {codec.MAX_DEPTH} deep" in FORMAT and f"{codec.MAX_BYTES >> 20} MiB" in FORMAT
