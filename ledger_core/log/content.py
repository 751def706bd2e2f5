"""What an event's content becomes: one encrypted document, with what is large or said again moved out to blobs.

Rules: a document up to `INLINE` bytes stays in the record. Above, its largest fields move to blobs, one each. A field
of messages always moves: every message is a blob, and the list is a tree of nodes that are blobs too, cut where a
message's id says so and not by position. So a list that grew, lost its beginning or changed in the middle shares all
nodes but a few with the one before: a conversation of n turns costs O(n) bytes, whatever the agent does to it.

This file knows neither streams' names nor how blobs are encrypted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from ledger_core import codec
from ledger_core.errors import Damaged
from ledger_core.log.cipher import ID_SIZE

INLINE: Final = 1024
_SPILL: Final = 96
"""A field below this size is not worth a blob's row."""
_BLOB: Final = 1
_LIST: Final = 2
_WIDTH: Final = 32
"""Most children of a node."""

Save = Callable[[bytes], bytes]
"""Store the bytes of a blob unless they are there already; returns the blob's id."""
Load = Callable[[bytes], bytes]
"""The bytes of a blob by its id."""


def pack(content: Mapping[str, Any], lists: Sequence[str], save: Save) -> bytes:
    """The document of `content`, in clear, after `save` has been given all that moved out."""
    document = dict(content)
    said = {name: value for name, value in content.items() if name not in lists or not isinstance(value, list)}
    plain = codec.encode(said)
    if len(said) < len(document):
        for name in document.keys() - said.keys():
            document[name] = _save_list(document[name], save) if document[name] else []
        plain = codec.encode_trusted(document)
    if len(plain) <= INLINE:
        return plain
    sizes = {name: codec.encode(value) for name, value in document.items() if not isinstance(value, codec.Ref)}
    room = len(plain)
    for name in sorted(sizes, key=lambda name: -len(sizes[name])):
        if room <= INLINE or len(sizes[name]) < _SPILL:
            break
        document[name] = codec.Ref(_BLOB, save(sizes[name]))
        room -= len(sizes[name]) - ID_SIZE - 2
    return codec.encode_trusted(document)


def unpack(plain: bytes, load: Load) -> dict[str, Any]:
    """The inverse of `pack`."""
    document = codec.decode_trusted(plain, refs=True)
    for name, value in document.items():
        if isinstance(value, codec.Ref):
            document[name] = _follow(value, load)
    return dict(document)


def _follow(ref: codec.Ref, load: Load) -> Any:
    if ref.code == _BLOB:
        return codec.decode_trusted(load(ref.data))
    if ref.code == _LIST:
        return [codec.decode_trusted(load(item)) for item in _items(ref.data[0], ref.data[1:], load)]
    raise Damaged(f"Content refers to something of the unknown kind {ref.code}.")


def _save_list(items: list[Any], save: Save) -> codec.Ref:
    level, ids = 0, [save(codec.encode(item)) for item in items]
    while level == 0 or len(ids) > 1:
        level += 1
        ids = [save(bytes([level]) + b"".join(node)) for node in _nodes(ids)]
    return codec.Ref(_LIST, bytes([level]) + ids[0])


def _nodes(ids: list[bytes]) -> Iterator[list[bytes]]:
    """Cut behind every id that begins with three zero bits: the same neighbours are cut the same way, wherever."""
    node: list[bytes] = []
    for one in ids:
        node.append(one)
        if one[0] < 0x20 or len(node) == _WIDTH:
            yield node
            node = []
    if node:
        yield node


def _items(level: int, node: bytes, load: Load) -> Iterator[bytes]:
    if level == 0:
        yield node
        return
    plain = load(node)
    if plain[0] != level or (len(plain) - 1) % ID_SIZE:
        raise Damaged(f"Blob {node.hex()} is no node of level {level}.")
    for at in range(1, len(plain), ID_SIZE):
        yield from _items(level - 1, plain[at : at + ID_SIZE], load)
