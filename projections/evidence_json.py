"""JSON as a bundle of evidence has it: one text for a value, bytes in base64, and where two values differ.

Rules: pure. What is written has one form, and what is read must be in it, so that no byte of a bundle can be another
without a difference. This file does not know what a bundle holds.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ledger_core import chain
from ledger_core.errors import Damaged
from ledger_core.ids import format_hash

DIGEST: Final = "bundle_digest"
_HEX_DIGITS: Final = re.compile(r"[0-9a-f]+")
_LONGEST: Final = 300


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: keys by code point, no blanks, UTF-8, numbers as Python writes them.

    Raises `TypeError`, `ValueError`, `RecursionError` for what has none: NaN, infinities, surrogates, other types.
    """
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def digest(bundle: Mapping[str, Any]) -> str:
    """What `bundle_digest` must be: over everything but itself. Raises as `canonical` does."""
    rest = {name: value for name, value in bundle.items() if name != DIGEST}
    return format_hash(chain.evidence_digest(canonical(rest)))


def to_text(data: bytes) -> str:
    """Bytes as base64 (RFC 4648 section 4, padded)."""
    return binascii.b2a_base64(data, newline=False).decode()


def of_text(text: Any) -> bytes:
    """The inverse of `to_text`, and of nothing else: each bytes have one text. Raises `Damaged`."""
    if not isinstance(text, str) or not text.isascii():
        raise Damaged("What should be base64 is something else.")
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise Damaged(f"{len(text):,} letters are no base64: {error}.") from None
    if to_text(data) != text:
        raise Damaged(f"{len(text):,} letters are base64, but not as it is written.")
    return data


def of_hex(text: Any, size: int) -> bytes | None:
    """So many bytes, of the one way in which they are written as hex; None for anything else."""
    if not isinstance(text, str) or len(text) != 2 * size or not _HEX_DIGITS.fullmatch(text):
        return None
    return bytes.fromhex(text)


def differences(said: Any, computed: Any, where: str) -> Iterator[tuple[str, str]]:
    """Places where what is said is not what was computed, each `other` (both say something), `more` or `less`."""
    if same(said, computed):
        return
    if isinstance(said, dict) and isinstance(computed, dict):
        for name in computed:
            if name in said:
                yield from differences(said[name], computed[name], f"{where}.{name}"[:_LONGEST])
            else:
                yield "less", f"{where}.{name}"[:_LONGEST]
        for name in said:
            if name not in computed:
                yield "more", f"{where}.{name}"[:_LONGEST]
    elif isinstance(said, list) and isinstance(computed, list) and len(said) == len(computed):
        for number, (one, other) in enumerate(zip(said, computed, strict=True)):
            yield from differences(one, other, f"{where}[{number}]"[:_LONGEST])
    else:
        yield "other", where


def same(said: Any, computed: Any) -> bool:
    """Whether two values are one JSON text: 1, 1.0 and true are three."""
    try:
        return canonical(said) == canonical(computed)
    except (TypeError, ValueError, RecursionError):
        return False
