"""A ledger in memory, made of a bundle of evidence: its one run, byte for byte, to be read like any other.

Rules: records and blobs are put where a ledger has them, and the indexes are made of the records alone, so that all
that reads a ledger reads this one. Nothing is checked here but what reading checks: hashes, and what the key opens.
Whoever is given a bundle by others checks it first (`projections.evidence_check`). A run that was forked needs what it
shares with its ancestor, which no bundle of its own holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ledger_core import chain
from ledger_core.errors import Damaged, Refused
from ledger_core.ids import LedgerId, StreamNo
from ledger_core.log import blobs, index
from ledger_core.log.cipher import ID_SIZE, KEY_SIZE
from ledger_core.log.index import StreamHead
from ledger_core.log.keys import MemoryKeys
from ledger_core.log.log import Log
from ledger_core.log.memory_store import MemoryStore, MemoryWriter
from ledger_core.log.raw import LIST
from ledger_core.log.store import Tree
from projections import evidence_files
from projections.evidence_json import of_hex
from projections.evidence_records import Held, list_digest
from projections.evidence_sealed import MALFORMED, parse


def ledger_of_file(path: Path) -> Log:
    """The ledger of the bundle at a path, for reading; raises as `evidence_files.read` and `ledger_of` do."""
    return ledger_of(evidence_files.read(path))


def ledger_of(bundle: Mapping[str, Any]) -> Log:
    """The ledger of a bundle, for reading. Raises `Refused` where its key is missing, `Damaged` for what is none."""
    held, unread = parse(bundle)
    stream = bundle.get("stream")
    key = of_hex(stream.get("key") if isinstance(stream, Mapping) else None, KEY_SIZE)
    ledger = of_hex(bundle.get("ledger_id"), 16)
    if unread or ledger is None or not held.stream:
        raise Damaged(f"The bundle cannot be read: {unread[0].detail if unread else 'it names no ledger and no run'}.")
    if key is None:
        run = str(bundle.get("run_id"))[:140]
        raise Refused(
            f"The evidence of run {run} has no key: what it said cannot be read, nor replayed.",
            hint="Export it again where its key is, without --sealed.",
        )
    store = MemoryStore()
    try:
        with store.write() as writer:
            index.write_format(writer, chain.FORMAT, LedgerId(ledger))
            _fill(writer, held)
        return Log(store, MemoryKeys({StreamNo(held.number): key}), readonly=True)
    except MALFORMED as wrong:
        raise Damaged(f"The bundle's records cannot be put in order: {wrong}"[:300]) from None


def _fill(writer: MemoryWriter, held: Held) -> None:
    """A run's records and blobs, and the rows that a log finds them by."""
    first = chain.unpack(held.records[0])
    last, number = first, first.stream
    if number != held.number:
        raise Damaged(f"The first record is of stream {number}, and the bundle names another.")
    for data in held.records:
        last = chain.unpack(data)
        writer.append(Tree.EVENTS, index.seq_key(last.seq), data)
        if last.stream_seq % index.WAYPOINT == 0:
            writer.put(Tree.INDEX, index.position_key(number, last.stream_seq), index.seq_key(last.seq))
        if (listed := list_digest(data, last)) is not None:
            writer.put(Tree.BLOBS, blobs.row_key(number, listed[:ID_SIZE], LIST), held.lists.get(last.seq, b""))
    for blob, chunks in sorted(held.blobs.items()):  # in order, a store in memory puts each behind the last
        for place, chunk in enumerate(chunks):
            writer.put(Tree.BLOBS, blobs.row_key(number, blob, place), chunk)
    head = StreamHead(first.seq, last.seq, last.stream_seq, chain.stored_hash(held.records[-1]))
    writer.put(Tree.INDEX, index.name_key(held.stream), index.seq_key(number))
    writer.put(Tree.INDEX, index.head_key(number), index.head_row(head))
