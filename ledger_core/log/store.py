"""What the log asks of a store: three trees of bytes, snapshots to read from, and one writer at a time.

Rules: a store knows bytes and their order, never meanings. A reader sees one version, whatever is committed beside
it, and is closed soon: the log reads in short batches. A writer's block commits when it ends and leaves nothing
behind when it raises. When `write()` returns, what it put is durable. Nothing handed out outlives its block.

Adding an engine is one file that passes `tests/suites/store.py`. This file does not know LMDB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Protocol


class Tree(IntEnum):
    """The trees of the truth."""

    EVENTS = 0
    BLOBS = 1
    INDEX = 2


class Reader(Protocol):
    """One version of the store."""

    def get(self, tree: Tree, key: bytes) -> bytes | None:
        """The value of a key."""
        ...

    def scan(self, tree: Tree, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows from `start` upwards; in reverse, rows below `start` downwards (all, if it is empty)."""
        ...

    def count(self, tree: Tree) -> int:
        """Number of rows."""
        ...


class Writer(Reader, Protocol):
    """The next version of the store; it reads what it has put."""

    def put(self, tree: Tree, key: bytes, value: bytes) -> None:
        """Set a row."""
        ...

    def append(self, tree: Tree, key: bytes, value: bytes) -> None:
        """Set a row whose key is above every other; raises `Damaged` if it is not."""
        ...

    def delete(self, tree: Tree, key: bytes) -> bool:
        """Remove a row; False if there was none."""
        ...


class NeedsRoom(Exception):
    """The map is full: the caller leaves the block, calls `grow` and tries again. Never seen outside the log."""


class CommitUncertain(Exception):
    """The device failed at the commit: the caller calls `reopen` and asks. Never seen outside the log."""


class Store(Protocol):
    """The bytes of one ledger."""

    def read(self) -> AbstractContextManager[Reader]:
        """A snapshot, for a short while."""
        ...

    def write(self) -> AbstractContextManager[Writer]:
        """The one writer of all processes; commits at the end of the block.

        Raises `StoreFull` (nothing was written), `NeedsRoom`, `CommitUncertain`.
        """
        ...

    def version(self) -> int:
        """Number of the last commit, by whatever process."""
        ...

    def grow(self) -> None:
        """Make room after `NeedsRoom`."""
        ...

    def reopen(self) -> None:
        """Start anew after `CommitUncertain`, from what the device holds; raises `OutcomeUnknown` if it cannot."""
        ...

    def close(self) -> None:
        """Let go of the bytes; waits for blocks that are under way."""
        ...
