"""The yardstick of appending: the same encoding, encryption, hashes and puts, in one loop, and nothing else."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import lmdb
import msgpack
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_HEADER = struct.Struct(">BBHQQ32sQQQ32s32sII")
_U64 = struct.Struct(">Q")
_EVENT, _CONTENT = bytes(range(32)), bytes(range(1, 33))


class Bare:
    """Rows as the log writes them, without a log."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._env = lmdb.open(str(directory), map_size=1 << 36, max_dbs=3)
        self._events, self._index = self._env.open_db(b"events"), self._env.open_db(b"index")
        self._aead = AESGCM(os.urandom(32))
        self._seq, self._hash = 0, bytes(32)

    def append(self, facts: list[Any], content: dict[str, Any], count: int) -> None:
        """One synced commit of `count` events."""
        with self._env.begin(write=True) as txn:
            for _ in range(count):
                self._seq += 1
                place = _U64.pack(self._seq)
                plain, sealed_facts = msgpack.packb(content), msgpack.packb(facts)
                nonce = os.urandom(12)
                sealed_content = nonce + self._aead.encrypt(nonce, plain, place)
                digest = blake3(sealed_content, key=_CONTENT).digest()
                sealed = (
                    _HEADER.pack(
                        1,
                        0,
                        0,
                        self._seq,
                        self._seq,
                        self._hash,
                        1,
                        self._seq,
                        self._seq - 1,
                        self._hash,
                        digest,
                        len(sealed_content),
                        len(sealed_facts),
                    )
                    + sealed_facts
                )
                self._hash = blake3(sealed, key=_EVENT).digest()
                txn.put(place, self._hash + sealed + sealed_content, db=self._events, append=True)
            txn.put(b"h" + _U64.pack(1), _U64.pack(1) + place + place + self._hash, db=self._index)

    def scan(self) -> int:
        """Read every record and hash its two parts."""
        count = 0
        with self._env.begin() as txn, txn.cursor(db=self._events) as cursor:
            for _, record in cursor:
                facts = int.from_bytes(record[176:180], "big")
                end = 180 + facts
                blake3(record[32:end], key=_EVENT).digest()
                blake3(record[end:], key=_CONTENT).digest()
                count += 1
        return count

    def close(self) -> None:
        self._env.close()
