"""Blobs: content too large for a record, and messages, stored once per stream under an id of their bytes.

Rules: a blob is cut into chunks of 64 KiB, each encrypted to its place (id, number, whether it is the last). The
event that stores a blob commits to its ciphertext in its facts, so a blob is verified without any key, and a missing
one is missed. A later event that uses the same blob stores nothing. This file does not know what a blob says.

Row: `stream u64 ‖ id[16] ‖ chunk u32` -> ciphertext. A list of commitments too long for the facts is itself a row,
in clear (it holds keyed ids and digests only): `stream u64 ‖ digest[:16] ‖ 0xffffffff`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from ledger_core import chain, codec
from ledger_core.errors import Damaged
from ledger_core.ids import Hash, StreamNo
from ledger_core.log.cipher import ID_SIZE, OVERHEAD, Cipher, Nonces
from ledger_core.log.store import Reader, Tree, Writer

CHUNK: Final = 64 * 1024
MAX_LISTED: Final = 64
"""Commitments that an event's facts list themselves."""
_KEY: Final = struct.Struct(">Q16sI")
_PLACE: Final = struct.Struct(">16sI?")
_LIST: Final = 0xFFFFFFFF


class Commitment(NamedTuple):
    """What facts say of a blob: its id, its number of chunks, and the digest of its ciphertext."""

    id: bytes
    chunks: int
    digest: Hash


def row_key(stream: StreamNo, blob: bytes, chunk: int) -> bytes:
    """Key of a chunk's row."""
    return _KEY.pack(stream, blob, chunk)


def exists(reader: Reader, stream: StreamNo, blob: bytes) -> bool:
    """Whether the stream has stored the blob."""
    return reader.get(Tree.BLOBS, _KEY.pack(stream, blob, 0)) is not None


def write(writer: Writer, stream: StreamNo, cipher: Cipher, nonces: Nonces, blob: bytes, plain: bytes) -> Commitment:
    """Encrypt and put a blob; the caller seals the commitment."""
    digest = chain.blob_digester()
    chunks = max(1, -(-len(plain) // CHUNK))
    for number in range(chunks):
        piece = plain[number * CHUNK : (number + 1) * CHUNK]
        sealed = cipher.encrypt(piece, _PLACE.pack(blob, number, number == chunks - 1), nonces.draw())
        digest.update(sealed)
        writer.put(Tree.BLOBS, _KEY.pack(stream, blob, number), sealed)
    return Commitment(blob, chunks, Hash(digest.digest()))


def read(reader: Reader, stream: StreamNo, cipher: Cipher, blob: bytes) -> bytes:
    """The bytes of a blob; raises `Damaged` if a chunk is missing or altered."""
    pieces: list[bytes] = []
    rows = [value for _, value in _chunks(reader, stream, blob)]
    for number, sealed in enumerate(rows):
        pieces.append(cipher.decrypt(sealed, _PLACE.pack(blob, number, number == len(rows) - 1)))
    plain = b"".join(pieces)
    if not rows or cipher.blob_id(plain) != blob:
        raise Damaged(f"Blob {blob.hex()} of stream {stream} is missing or altered.", hint="Run `agentledger verify`.")
    return plain


def commit_list(writer: Writer, stream: StreamNo, stored: Sequence[Commitment]) -> Any:
    """What facts say of the blobs an event stored: the commitments, or the digest of their list where they are many."""
    listed = [[c.id, c.chunks, c.digest] for c in stored]
    if len(listed) <= MAX_LISTED:
        return listed
    row = codec.encode_trusted(listed)
    digest = chain.blob_list_digest(row)
    writer.put(Tree.BLOBS, _KEY.pack(stream, digest[:ID_SIZE], _LIST), row)
    return digest


def commitments(reader: Reader, stream: StreamNo, said: Any) -> list[Commitment]:
    """The inverse of `commit_list`; raises `Damaged` if the list's row is missing or altered."""
    if isinstance(said, bytes):
        row = reader.get(Tree.BLOBS, _KEY.pack(stream, said[:ID_SIZE], _LIST))
        if row is None or chain.blob_list_digest(row) != said:
            raise Damaged(f"The list of blobs {said.hex()} of stream {stream} is missing or altered.")
        said = codec.decode(row)
    return [Commitment(*one) for one in said]


def rows_of(said: Any, listed: Sequence[Commitment]) -> int:
    """How many rows a statement of facts accounts for."""
    return sum(c.chunks for c in listed) + isinstance(said, bytes)


def check(reader: Reader, stream: StreamNo, wanted: Commitment) -> str:
    """What is wrong with a stored blob, without its key; empty if nothing is."""
    digest = chain.blob_digester()
    for number in range(wanted.chunks):
        row = reader.get(Tree.BLOBS, _KEY.pack(stream, wanted.id, number))
        if row is None:
            return f"chunk {number} of {wanted.chunks} of blob {wanted.id.hex()} is missing"
        if number < wanted.chunks - 1 and len(row) != CHUNK + OVERHEAD:
            return f"chunk {number} of {wanted.chunks} of blob {wanted.id.hex()} has {len(row)} bytes"
        digest.update(row)
    return "" if digest.digest() == wanted.digest else f"blob {wanted.id.hex()} was altered"


def _chunks(reader: Reader, stream: StreamNo, blob: bytes) -> Iterator[tuple[bytes, bytes]]:
    prefix = _KEY.pack(stream, blob, 0)[:-4]
    for key, value in reader.scan(Tree.BLOBS, prefix):
        if not key.startswith(prefix) or key.endswith(b"\xff\xff\xff\xff"):
            return
        yield key, value
