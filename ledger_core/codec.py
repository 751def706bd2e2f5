"""Canonical MessagePack: one encoding for a value and its order.

Rules: null, booleans, integers of 64 bits, float64 without NaN and infinities, UTF-8 text, bytes, arrays, and maps
with text keys. Shortest forms only. At most `MAX_DEPTH` deep. A map keeps the order it was given; `canonical` sorts
keys by their UTF-8 bytes, for digests that must not depend on it. Decoding is strict: decode, encode, compare.

Extension types are `Ref`s, and only where the caller says so: content that was moved out to a blob. This file does
not know what a blob is, nor what an event is. It is the only one that imports msgpack.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from ledger_core.errors import Damaged, NotStorable

MAX_DEPTH: Final = 64
MAX_VALUE_DEPTH: Final = 56
"""What a value of the user's may have: an event wraps it in a few levels of its own."""
MAX_BYTES: Final = 64 * 1024 * 1024

Ref = msgpack.ExtType
"""A reference inside content: `Ref(code, data)`; codes are defined in `log.content`."""

_pack = msgpack.Packer(use_bin_type=True, strict_types=True, autoreset=True).pack
_SCALARS: Final = frozenset((type(None), bool, str, bytes))
_TEXT: Final = frozenset((str,))
_HINT: Final = "Use plain data: None, bool, int, float, str, bytes, list, and dict with text keys."


def encode(value: Any) -> bytes:
    """The canonical bytes of `value`; raises `NotStorable` with the place of what has no encoding."""
    _check(value)
    return _encode_checked(value)


def encode_trusted(value: Any) -> bytes:
    """As `encode`, for values whose types the caller has already checked (facts): saves one walk per event."""
    return _encode_checked(value)


def decode(data: bytes | memoryview, *, refs: bool = False) -> Any:
    """The value of canonical bytes; raises `Damaged` for anything `encode` would not have written.

    With `refs`, extension values come back as `Ref`; without, they are damage.
    """
    raw = bytes(data)
    if len(raw) > MAX_BYTES:
        raise Damaged(f"A document of {len(raw):,} bytes is larger than any that is written, {MAX_BYTES:,}.")
    try:
        value = msgpack.unpackb(raw, raw=False, strict_map_key=True, ext_hook=Ref, timestamp=0)
        same = msgpack.packb(value, use_bin_type=True) == raw
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Damaged(f"{len(raw)} bytes are no canonical document: {error or type(error).__name__}.") from None
    if not same:
        raise Damaged(f"{len(raw)} bytes are a document, but not in its canonical encoding.")
    try:
        _check(value, refs=refs)
    except NotStorable as error:
        raise Damaged(f"A stored document breaks the rules of its encoding: {error.sentence}") from None
    return value


def decode_trusted(data: bytes | memoryview, *, refs: bool = False) -> Any:
    """As `decode`, for bytes whose hash or seal has just been checked: they are what `encode` wrote."""
    try:
        return msgpack.unpackb(data, raw=False, ext_hook=Ref if refs else _no_ref)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Damaged(f"{len(data)} bytes are no document: {error or type(error).__name__}.") from None


def roundtrip(value: Any) -> Any:
    """What an agent gets back of `value`, live as much as replayed: `decode(encode(value))`."""
    if value is None or type(value) is bool:
        return value
    return msgpack.unpackb(stored(value), raw=False)


def stored(value: Any) -> bytes:
    """The canonical bytes of a value of the user's, which has fewer levels than an event; raises `NotStorable`."""
    _check(value, limit=MAX_VALUE_DEPTH)
    return _encode_checked(value)


def canonical(value: Any) -> bytes:
    """The bytes of `value` with every map's keys in order of their UTF-8 bytes: the input of tags and digests."""
    return encode(_sorted(value))


def canonical_trusted(value: Any) -> bytes:
    """As `canonical`, for a value that has been through `roundtrip`."""
    return _encode_checked(_sorted(value))


def _no_ref(code: int, data: bytes) -> Any:
    raise ValueError(f"an extension of the kind {code} and {len(data)} bytes where none may be")


def _encode_checked(value: Any) -> bytes:
    try:
        data: bytes = _pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        _pack_reset()
        raise NotStorable(f"The value cannot be stored: {error}.", hint=_HINT) from None
    if len(data) > MAX_BYTES:
        raise NotStorable(
            f"The value takes {len(data):,} bytes; one value may take {MAX_BYTES:,}.",
            hint="Store it outside and keep a reference, or pass it in parts.",
        )
    return data


def _pack_reset() -> None:
    """A packer that raised may hold half a document: start a clean one."""
    global _pack  # noqa: PLW0603 - the one packer of the process
    _pack = msgpack.Packer(use_bin_type=True, strict_types=True, autoreset=True).pack


def _check(value: Any, *, refs: bool = False, limit: int = MAX_DEPTH) -> None:
    """Raise `NotStorable` unless all of `value` has an encoding; the place is looked for only when it has not."""
    if not _fine(value, refs, limit):
        _complain(value, 0, "value", refs, limit)


def _fine(value: Any, refs: bool, limit: int = MAX_DEPTH) -> bool:
    """Whether all of `value` has an encoding: level by level, so that a flat document costs a few calls into C."""
    level: list[Any] = [value]
    for depth in range(limit + 1):
        if _SCALARS.issuperset(map(type, level)):
            return True
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind in _SCALARS:
                continue
            if kind is dict:
                if depth == limit or not _TEXT.issuperset(map(type, item)):
                    return False
                below.extend(item.values())
            elif kind is list:
                if depth == limit:
                    return False
                below.extend(item)
            elif kind is int:
                if not -(2**63) <= item < 2**64:
                    return False
            elif not (math.isfinite(item) if kind is float else refs and kind is Ref):
                return False
        level = below
    return not level


def _complain(value: Any, depth: int, where: str, refs: bool, limit: int) -> None:
    kind = type(value)
    if kind is int and not _fine(value, refs):
        raise NotStorable(f"{where} is an integer of more than 64 bits.", hint="Store it as text.")
    if kind is float and not math.isfinite(value):
        raise NotStorable(f"{where} is {value}, which has no canonical encoding.", hint="Use None, or text.")
    if kind in (dict, list) and depth >= limit:
        raise NotStorable(f"{where} is nested more than {limit} deep.", hint="Flatten it, or store it as text.")
    if kind is list:
        for place, item in enumerate(value):
            _complain(item, depth + 1, f"{where}[{place}]", refs, limit)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise NotStorable(f"{where} has the key {key!r}, which is not text.", hint="Use text keys.")
            _complain(item, depth + 1, f"{where}.{key}", refs, limit)
    elif not _fine(value, refs):
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        raise NotStorable(f"{where} is a {name}, which has no place in a stored document.", hint=_HINT)


def _sorted(value: Any) -> Any:
    if type(value) is dict:
        if not _TEXT.issuperset(map(type, value)):
            return value
        if _SCALARS.issuperset(map(type, value.values())):
            return dict(sorted(value.items()))
        return {key: _sorted(value[key]) for key in sorted(value)}
    if type(value) is list:
        return value if _SCALARS.issuperset(map(type, value)) else [_sorted(item) for item in value]
    return value
