"""The indexes that decisions need: rows that are pure functions of the records.

Rules: one tree, rows told apart by their first byte. Every row can be recomputed from the records alone, and `verify`
does. This file knows sealed bytes and facts' envelopes, not what bodies mean.

    0x00 name                     -> the ledger's own: format, id
    'h'  stream u64               -> first, last, stream_seq u64 ‖ hash[32]      ends of a stream
    'k'  tag[32]                  -> seq u64                                     first event that carries a key tag
    'n'  name                     -> stream u64                                  streams by name
    'p'  stream u64 ‖ stream_seq  -> seq u64                                     every 256th event of a stream
    'q'  key ‖ stream u64         -> seq u64 ‖ note                              streams in the queue (`log.queue`)
    's'  stream u64               -> seq u64                                     last event that placed its stream

A stream is read by its own chain, backwards from a waypoint and turned round: one row in 256 events, instead of one an
event in as many leaves as there are streams.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from ledger_core import chain
from ledger_core.errors import CannotOpen, Damaged
from ledger_core.ids import Hash, LedgerId, Seq, StreamNo, StreamSeq
from ledger_core.log.store import Reader, Tree, Writer

META, HEAD, KEY, NAME, POSITION, QUEUED, PLACED = b"\0", b"h", b"k", b"n", b"p", b"q", b"s"
FORMAT_ROW: Final = META + b"format"
_LONGEST_NAME: Final = 200
_U64: Final = struct.Struct(">Q")
_HEAD: Final = struct.Struct(">QQQ32s")
WAYPOINT: Final = 256
"""Every so manyth event of a stream has a row of its own."""
_POSITION: Final = struct.Struct(">cQQ")
_FORMAT: Final = struct.Struct(">12sI16s")
_MAGIC: Final = b"AgentLedger\n"


class StreamHead(NamedTuple):
    """The first and the last event of a stream."""

    first: Seq
    seq: Seq
    stream_seq: StreamSeq
    hash: Hash


def seq_key(seq: int) -> bytes:
    """Key of a record."""
    return _U64.pack(seq)


def parse_seq(data: bytes) -> Seq:
    """The inverse of `seq_key`; raises `Damaged`."""
    if len(data) != 8:
        raise Damaged(f"{len(data)} bytes stand where a seq of 8 should.")
    return Seq(_U64.unpack(data)[0])


def head_key(stream: int) -> bytes:
    return HEAD + _U64.pack(stream)


def head_row(head: StreamHead) -> bytes:
    return _HEAD.pack(*head)


def parse_head_row(value: bytes) -> StreamHead:
    """The inverse of `head_row`; raises `Damaged`."""
    if len(value) != _HEAD.size:
        raise Damaged(f"{len(value)} bytes stand where the head of a stream, {_HEAD.size}, should.")
    return StreamHead._make(_HEAD.unpack(value))


def name_key(name: str) -> bytes:
    return NAME + name.encode()


def position_key(stream: int, stream_seq: int) -> bytes:
    return _POSITION.pack(POSITION, stream, stream_seq)


def queue_key(key: bytes, stream: int) -> bytes:
    return QUEUED + key + _U64.pack(stream)


def placed_key(stream: int) -> bytes:
    return PLACED + _U64.pack(stream)


def read_head(reader: Reader, stream: StreamNo) -> StreamHead | None:
    """Head of a stream; None before its first event."""
    row = reader.get(Tree.INDEX, head_key(stream))
    return None if row is None else parse_head_row(row)


def find_stream(reader: Reader, name: str) -> StreamNo | None:
    """Number of the stream of that name."""
    if len(name) > _LONGEST_NAME or not name.isascii():
        return None  # no stream has such a name, and LMDB no such key
    row = reader.get(Tree.INDEX, name_key(name))
    return None if row is None else StreamNo(parse_seq(row))


def names(reader: Reader, prefix: str) -> Iterator[tuple[str, StreamNo]]:
    """Streams whose name begins with `prefix`, by name."""
    start = name_key(prefix)
    for key, value in reader.scan(Tree.INDEX, start):
        if not key.startswith(start):
            return
        yield key[1:].decode(), StreamNo(parse_seq(value))


def streams_newest_first(reader: Reader, below: int | None = None) -> Iterator[tuple[StreamNo, StreamHead]]:
    """Streams by their number, downwards from below `below`."""
    for key, value in reader.scan(Tree.INDEX, HEAD + b"\xff" * 9 if below is None else head_key(below), reverse=True):
        if key[:1] != HEAD:
            return
        yield StreamNo(parse_seq(key[1:])), parse_head_row(value)


def stream_records(reader: Reader, stream: StreamNo, after: int) -> Iterator[tuple[Seq, bytes]]:
    """Records of a stream behind its `after`th, in order; holds at most 256 of them.

    Raises `Damaged` where the stream's chain leads nowhere; what the records say of themselves is not checked.
    """
    head = read_head(reader, stream)
    start = after + 1
    while head is not None and start <= head.stream_seq:
        end = min(-(-start // WAYPOINT) * WAYPOINT, head.stream_seq)
        row = None if end == head.stream_seq else reader.get(Tree.INDEX, position_key(stream, end))
        seq = head.seq if end == head.stream_seq else Seq(0) if row is None else parse_seq(row)
        segment: list[tuple[Seq, bytes]] = []
        while len(segment) <= end - start:
            data = reader.get(Tree.EVENTS, seq_key(seq))
            if data is None:
                raise Damaged(f"Stream {stream} has no event {end - len(segment)}.", hint="Run `agentledger verify`.")
            segment.append((seq, data))
            seq = chain.stream_prev(data)
        yield from reversed(segment)
        start = end + 1


def find_key(reader: Reader, tag: bytes) -> Seq | None:
    """The first event that carries a key tag."""
    row = reader.get(Tree.INDEX, KEY + tag)
    return None if row is None else parse_seq(row)


def write_format(writer: Writer, format_: int, ledger: LedgerId) -> None:
    """Mark a new ledger."""
    writer.put(Tree.INDEX, FORMAT_ROW, _FORMAT.pack(_MAGIC, format_, ledger))


def read_format(reader: Reader, known: int) -> LedgerId | None:
    """The ledger's id; None in an empty store; raises `CannotOpen` for a newer format, else `Damaged`."""
    row = reader.get(Tree.INDEX, FORMAT_ROW)
    if row is None:
        if reader.count(Tree.EVENTS) or reader.count(Tree.INDEX):
            raise Damaged("The row that names the format is missing.", hint="Restore the ledger from a backup.")
        return None
    if len(row) != _FORMAT.size or not row.startswith(_MAGIC):
        raise Damaged("The row that names the format is not this program's.", hint="Restore the ledger from a backup.")
    _, format_, ledger = _FORMAT.unpack(row)
    if format_ > known:
        raise CannotOpen(
            f"This ledger has format {format_}; this AgentLedger reads formats up to {known}.",
            hint="Upgrade: python -m pip install --upgrade agentledger.",
        )
    if format_ < 1:
        raise Damaged(f"The ledger says that it has format {format_}.", hint="Restore the ledger from a backup.")
    return LedgerId(ledger)
