"""A stream as it is stored: its records and the rows of its blobs, byte for byte, for whoever hands them on.

Rules: read in short snapshots, as everything is. Nothing is checked, decoded or opened here: whoever is given bytes
checks them against their hashes. A stream that grows meanwhile is read to where it is by then. This file does not know
who asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from ledger_core.ids import Seq, StreamNo
from ledger_core.log import blobs, index
from ledger_core.log.reading import STEP
from ledger_core.log.store import Reader, Store, Tree

LIST: Final = 0xFFFFFFFF
"""Number of the chunk that is no chunk: a list of commitments in clear, under the beginning of its digest."""


class BlobRow(NamedTuple):
    """A chunk of a blob: the blob's id, the chunk's number from 0, and its ciphertext."""

    id: bytes
    chunk: int
    data: bytes


def records(store: Store, stream: str) -> Iterator[tuple[Seq, bytes]]:
    """Seqs and records of a stream, in order; nothing if there is no such stream. Raises `Damaged`."""
    after = 0
    while True:
        with store.read() as reader:
            number = index.find_stream(reader, stream)
            batch = [] if number is None else list(islice(index.stream_records(reader, number, after), STEP))
        yield from batch
        if len(batch) < STEP:
            return
        after += len(batch)


def blob_rows(store: Store, stream: str) -> Iterator[BlobRow]:
    """Rows of a stream's blobs by id and chunk; nothing if there is no such stream."""
    start = b""
    while True:
        with store.read() as reader:
            number = index.find_stream(reader, stream)
            batch = [] if number is None else list(islice(_rows(reader, number, start), STEP))
        yield from (row for _, row in batch)
        if len(batch) < STEP:
            return
        start = batch[-1][0] + b"\0"


def _rows(reader: Reader, number: StreamNo, start: bytes) -> Iterator[tuple[bytes, BlobRow]]:
    first = blobs.row_key(number, bytes(16), 0)
    for key, data in reader.scan(Tree.BLOBS, start or first):
        if key[:8] != first[:8]:
            return
        yield key, BlobRow(key[8:24], int.from_bytes(key[24:28], "big"), data)
