"""Names for what is counted and identified, and the only places where ids are parsed, checked and made.

Rules: zero-cost types; parsing and printing at the edges. Seqs count from 1. This file does not know where ids come
to be used; randomness comes in as bytes.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NewType

from ledger_core.errors import BadInput

Seq = NewType("Seq", int)
"""Place of an event in the log, from 1, gapless; 0 is before the first."""
StreamNo = NewType("StreamNo", int)
"""Ordinal of a stream in the ledger, from 1; also its slot in the key pages."""
StreamSeq = NewType("StreamSeq", int)
"""Place of an event in its stream, from 1, gapless."""
Hash = NewType("Hash", bytes)
"""32 bytes of BLAKE3."""
LedgerId = NewType("LedgerId", bytes)
"""16 random bytes, drawn once when the ledger is created."""
RunId = NewType("RunId", str)
StepId = NewType("StepId", str)

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no i, l, o, u
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f\s](?:[^\x00-\x1f\x7f]{0,126}[^\x00-\x1f\x7f\s])?")
_STREAM: Final = re.compile(r"[a-z][a-z0-9_]{0,31}(?:/[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127})?")
RESERVED: Final = frozenset(("latest",))


class Head(NamedTuple):
    """The last event of a log or stream, as somebody held it."""

    seq: Seq
    hash: Hash

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


def parse_head(text: str) -> Head:
    """The inverse of `str(head)`, `SEQ:HEX`; raises `BadInput`."""
    seq, _, digest = text.strip().partition(":")
    if not (seq.isascii() and seq.isdigit() and re.fullmatch(r"[0-9a-f]{64}", digest) and len(seq) <= 20):
        raise BadInput(f"{text[:100]!r} is no head.", hint="A head is SEQ:HASH, as `agentledger log head` prints it.")
    return Head(Seq(int(seq)), Hash(bytes.fromhex(digest)))


def format_hash(digest: bytes) -> str:
    """A hash as other systems read it."""
    return f"blake3:{digest.hex()}"


def new_id(prefix: str, random: bytes) -> str:
    """`prefix_` and 16 letters of 80 random bits; random first, so that a few letters are a unique prefix."""
    number = int.from_bytes(random[:10], "big")
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(75, -1, -5))


def check_id(text: object, what: str) -> str:
    """`text`, if it may be an id that somebody chose (a run's, a session's); raises `BadInput`."""
    if not isinstance(text, str) or not _ID.fullmatch(text) or text in RESERVED:
        raise BadInput(
            f"{text!r:.100} cannot be the id of a {what}.",
            hint="An id has 1 to 128 ASCII letters, digits and . _ : @ + -, begins with a letter or digit, "
            "and is not 'latest'.",
        )
    return text


def check_stream(text: object) -> str:
    """`text`, if it may be the name of a stream: a kind, or a kind and an id; raises `BadInput`."""
    if not isinstance(text, str) or not _STREAM.fullmatch(text):
        raise BadInput(f"{text!r:.100} cannot be the name of a stream.", hint="A stream is KIND or KIND/ID.")
    return text


def check_name(text: object, what: str) -> str:
    """`text`, if it may be a name (a tool's, an agent's, an effect's); raises `BadInput`."""
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise BadInput(
            f"{text!r:.100} cannot be the name of a {what}.",
            hint="A name has 1 to 128 printable characters on one line, with no blanks at its ends.",
        )
    return text
