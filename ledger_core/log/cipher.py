"""Encryption of content under a stream's key, and the tags that only its holder can make.

AES-256-GCM with random 96-bit nonces (NIST SP 800-38D section 8.2.2: at most 2^32 contents per key, far more than a
stream has events): fast in hardware, and readable by a browser's WebCrypto. A nonce is never a position, because a
ledger restored from a backup would use it again. `sealed = nonce[12] ‖ ciphertext ‖ tag[16]`.

This file does not know where keys live. It is the only one that imports cryptography's ciphers.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger_core import chain
from ledger_core.errors import Damaged

KEY_SIZE: Final = 32
OVERHEAD: Final = 12 + 16
"""Bytes that encryption adds."""
_NONCE: Final = 12
_POOL: Final = 64
ID_SIZE: Final = 16
TAG_SIZE: Final = 32
CHECK_SIZE: Final = 8


class Nonces:
    """Random nonces for one transaction, drawn from the system a few at a time, and more each time.

    Made anew for every transaction, so that a copied process (a fork, a snapshot of a machine) hardly ever has any left
    that its twin would use as well.
    """

    def __init__(self) -> None:
        self._pool: list[bytes] = []
        self._next = 1

    def draw(self) -> bytes:
        """One nonce, used once."""
        if not self._pool:
            drawn = os.urandom(_NONCE * self._next)
            self._next = min(2 * self._next, _POOL)
            self._pool = [drawn[at : at + _NONCE] for at in range(0, len(drawn), _NONCE)]
        return self._pool.pop()


class Cipher:
    """What the holder of a stream's key can do."""

    __slots__ = ("_aead", "_id_key", "_tag_key", "check", "key")

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_SIZE
        self.key = key
        self.check = chain.derive(key, "key check")[:CHECK_SIZE]
        self._aead = AESGCM(chain.derive(key, "content key"))
        self._id_key = chain.derive(key, "blob id")
        self._tag_key = chain.derive(key, "request tag")

    def encrypt(self, plain: bytes, place: bytes, nonce: bytes) -> bytes:
        """`plain` sealed to its `place` (additional data): it opens nowhere else."""
        return nonce + self._aead.encrypt(nonce, plain, place)

    def decrypt(self, sealed: bytes, place: bytes) -> bytes:
        """The inverse of `encrypt`; raises `Damaged` if the bytes, the key or the place are others."""
        try:
            return self._aead.decrypt(sealed[:12], sealed[12:], place)
        except (InvalidTag, ValueError):
            raise Damaged(f"{len(sealed)} bytes of content do not open with their stream's key.") from None

    def blob_id(self, plain: bytes) -> bytes:
        """The id of a blob in this stream, 16 bytes: equal for equal bytes, unguessable without the key."""
        return chain.tag(self._id_key, plain)[:ID_SIZE]

    def tag(self, data: bytes) -> bytes:
        """A keyed tag of a request, 32 bytes: so that nothing short can be guessed back once the key is gone."""
        return chain.tag(self._tag_key, data)
