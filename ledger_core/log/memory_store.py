"""A store in memory: a real target for tests and throw-away runs, and the smallest example of the protocol.

Rules: same promises as LMDB's, but for durability. Every commit copies the trees, O(n): a reader's version is never
changed under it. This file does not know files.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from ledger_core.errors import Closed, Damaged
from ledger_core.log.store import Tree


class _Rows:
    """One tree: a map and its keys in order."""

    def __init__(self, rows: dict[bytes, bytes], keys: list[bytes]) -> None:
        self.rows = rows
        self.keys = keys

    def copy(self) -> _Rows:
        return _Rows(dict(self.rows), list(self.keys))


class MemoryReader:
    """A version of the trees."""

    def __init__(self, trees: list[_Rows]) -> None:
        self._trees = trees

    def get(self, tree: Tree, key: bytes) -> bytes | None:
        return self._trees[tree].rows.get(key)

    def scan(self, tree: Tree, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        rows = self._trees[tree]
        if reverse:
            place = bisect_left(rows.keys, start) if start else len(rows.keys)
            keys = rows.keys[:place][::-1]
        else:
            keys = rows.keys[bisect_left(rows.keys, start) :]
        return ((key, rows.rows[key]) for key in keys)

    def count(self, tree: Tree) -> int:
        return len(self._trees[tree].keys)


class MemoryWriter(MemoryReader):
    """A version in the making."""

    def put(self, tree: Tree, key: bytes, value: bytes) -> None:
        rows = self._trees[tree]
        if key not in rows.rows:
            insort(rows.keys, key)
        rows.rows[key] = bytes(value)

    def append(self, tree: Tree, key: bytes, value: bytes) -> None:
        rows = self._trees[tree]
        if rows.keys and rows.keys[-1] >= key:
            raise Damaged(f"Key {key.hex()} is to be appended, but {rows.keys[-1].hex()} is there already.")
        rows.keys.append(key)
        rows.rows[key] = bytes(value)

    def delete(self, tree: Tree, key: bytes) -> bool:
        rows = self._trees[tree]
        if rows.rows.pop(key, None) is None:
            return False
        del rows.keys[bisect_left(rows.keys, key)]
        return True


class MemoryStore:
    """A store that ends with its process."""

    def __init__(self) -> None:
        self._trees = [_Rows({}, []) for _ in Tree]
        self._version = 0
        self._writing = Lock()
        self._closed = False

    @contextmanager
    def read(self) -> Iterator[MemoryReader]:
        self._check()
        yield MemoryReader(self._trees)

    @contextmanager
    def write(self) -> Iterator[MemoryWriter]:
        self._check()
        with self._writing:
            trees = [rows.copy() for rows in self._trees]
            yield MemoryWriter(trees)
            self._trees = trees
            self._version += 1

    def version(self) -> int:
        self._check()
        return self._version

    def grow(self) -> None:
        raise AssertionError("memory has no map that could be full")

    def reopen(self) -> None:
        """Nothing is open that could be uncertain."""

    def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise Closed("This ledger was closed.", hint="Open it again.")
