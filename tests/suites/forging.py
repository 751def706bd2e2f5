"""Small ledgers, their bare rows, and forgeries of them, as one who owns the file can make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import lmdb

from ledger_core import chain, codec
from ledger_core.chain import HASH_SIZE, HEADER
from ledger_core.events import REGISTRY
from ledger_core.log.log import STORE, Log
from ledger_core.log.memory_store import MemoryStore
from ledger_core.log.record import Draft, Placement
from ledger_core.log.store import Store, Tree

Rows = list[dict[bytes, bytes]]


def draft(stream: str, type_: str, /, **fields: Any) -> Draft:
    return Draft(stream=stream, body=REGISTRY[type_].cls(**fields))


def note(stream: str, value: object) -> Draft:
    return draft(stream, "value_captured", path="0", source="capture", name="n", value=value)


def placed(draft: Draft, key: bytes | None, note: object = None) -> Draft:
    return attrs.evolve(draft, queue=Placement(key, note))


def call(stream: str, tool: str, key: bytes) -> Draft:
    said: dict[str, Any] = {"tool_version": "1", "side_effect": "external_write", "request": b"r" * 32, "arguments": {}}
    return draft(stream, "tool_call_requested", path="0", attempt=1, tool=tool, key=key, **said)


def messages(stream: str, count: int) -> Draft:
    said = [{"role": "user", "content": f"message {n} of {stream}"} for n in range(count)]
    fields: dict[str, Any] = {"request": b"r" * 32, "messages": said, "parameters": {}}
    return draft(stream, "model_call_requested", path="1", attempt=1, model="m", **fields)


def fill(log: Log) -> None:
    """A run with a key, messages, a large content and a true account of itself; and another, interleaved.

    Both stand in the queue; the first moves in it and leaves it, the other moves.
    """
    log.append(placed(note("run/a", 1), b"r"), placed(note("run/b", 2), b"r", [2]), call("run/a", "post", b"k" * 32))
    log.append(placed(messages("run/a", 2), b"t1"))
    log.append(placed(call("run/b", "post", b"k" * 32), b"t2", {"at": 5}), note("run/a", "x" * 1200))
    counts = {"value_captured": 2, "tool_call_requested": 1, "model_call_requested": 1}
    log.append(placed(draft("run/a", "run_completed", counts=counts, tools={"post": 1}), None))


def rows_of(store: Store) -> Rows:
    with store.read() as reader:
        return [dict(reader.scan(tree)) for tree in Tree]


def store_of(rows: Rows) -> MemoryStore:
    store = MemoryStore()
    with store.write() as writer:
        for tree in Tree:
            for key, value in rows[tree].items():
                writer.put(tree, key, value)
    return store


def change(root: Path, rows: Rows) -> None:
    """Put rows into a ledger's file behind its back, in place of its own."""
    with lmdb.open(str(root / STORE), max_dbs=8, map_size=1 << 26) as env:
        for tree in Tree:
            db = env.open_db(tree.name.lower().encode())
            with env.begin(write=True) as txn:
                txn.drop(db, delete=False)
                for key, value in sorted(rows[tree].items()):
                    txn.put(key, value, db=db)


def seal(data: bytes, **fields: Any) -> bytes:
    """A record forged with other header fields, or facts, and a hash that fits."""
    facts_end = chain.FACTS_AT + chain.unpack(data).facts_size
    facts = fields.pop("facts", facts_in(data))
    header = chain.unpack(data)._replace(facts_size=len(facts), **fields)
    sealed = HEADER.pack(*header) + facts
    return chain.event_hash(sealed) + sealed + data[facts_end:]


def facts_in(data: bytes) -> bytes:
    return data[chain.FACTS_AT : chain.FACTS_AT + chain.unpack(data).facts_size]


def rechained(records: list[bytes], wrong: dict[int, dict[str, Any]] | None = None) -> dict[bytes, bytes]:
    """Records renumbered and linked anew from the first to the last, but for fields that are `wrong` at some seqs."""
    done: dict[bytes, bytes] = {}
    before = chain.unpack(records[0]).prev_hash
    streams: dict[int, tuple[int, int, bytes]] = {}
    for seq, data in enumerate(records, 1):
        number = chain.unpack(data).stream
        last = streams.get(number, (0, 0, chain.NO_HASH))
        links = {"seq": seq, "prev_hash": before, "stream_seq": last[1] + 1}
        links |= {"stream_prev_seq": last[0], "stream_prev_hash": last[2], **(wrong or {}).get(seq, {})}
        data = seal(data, **links)
        before = data[:HASH_SIZE]
        streams[number] = (seq, last[1] + 1, before)
        done[seq.to_bytes(8, "big")] = data
    return done


def indexed(rows: Rows) -> Rows:
    """The rows of the index that records account for, made anew: ends of streams, waypoints and the queue."""
    made = {key: value for key, value in rows[Tree.INDEX].items() if key[:1] not in (b"h", b"p", b"q", b"s")}
    firsts: dict[int, bytes] = {}
    queued: dict[bytes, tuple[bytes, bytes]] = {}
    for key, data in rows[Tree.EVENTS].items():
        header = chain.unpack(data)
        first = firsts.setdefault(header.stream, key)
        made[b"h" + seq(header.stream)] = first + key + seq(header.stream_seq) + data[:HASH_SIZE]
        if header.stream_seq % 256 == 0:
            made[b"p" + seq(header.stream) + seq(header.stream_seq)] = key
        if header.flags & chain.QUEUES:
            stream, (_, at, noted) = seq(header.stream), codec.decode(facts_in(data))[7]["queue"]
            queued.pop(stream, None)
            if at is not None:
                queued[stream] = (b"q" + at + stream, key + codec.encode(noted))
            made[b"s" + stream] = key
    made |= dict(queued.values())
    return [rows[Tree.EVENTS], rows[Tree.BLOBS], made]


def seq(number: int) -> bytes:
    return number.to_bytes(8, "big")
