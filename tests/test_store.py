"""The stores that there are, under the one suite that every store passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from suites.store import StoreSuite

from ledger_core.log.lmdb_store import open_store
from ledger_core.log.memory_store import MemoryStore
from ledger_core.log.store import NeedsRoom, Store, Tree


class TestMemory(StoreSuite):
    """Memory."""

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestLmdb(StoreSuite):
    """LMDB."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = open_store(tmp_path / "store")
        yield store
        store.close()

    def test_rows_outlive_the_store(self, store: Store, tmp_path: Path) -> None:
        """What was committed is there when the store is opened again."""
        self.fill(store, b"a", b"b")
        store.close()
        again = open_store(tmp_path / "store")
        with again.read() as reader:
            assert 2 == reader.count(Tree.INDEX)
        again.close()

    def test_a_full_map_needs_room_and_grows(self, tmp_path: Path) -> None:
        """A full map is `NeedsRoom`, leaves nothing behind, and takes the same rows after `grow`."""
        store = open_store(tmp_path / "small", map_size=1 << 17)
        self.fill(store, b"a")
        with pytest.raises(NeedsRoom), store.write() as writer:
            for n in range(100):
                writer.put(Tree.BLOBS, bytes([n]), bytes(4000))
        with store.read() as reader:
            assert (0, 1) == (reader.count(Tree.BLOBS), reader.count(Tree.INDEX))
        for _ in range(3):
            store.grow()
        with store.write() as writer:
            for n in range(100):
                writer.put(Tree.BLOBS, bytes([n]), bytes(4000))
        store.close()
