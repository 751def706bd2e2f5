"""What every `Store` owes: for adapter authors, who subclass `StoreSuite` and give it a `store` fixture."""

from __future__ import annotations

import random
import threading

import pytest

from ledger_core.errors import Closed, Damaged
from ledger_core.log.store import Store, Tree

EVENTS, BLOBS, INDEX = Tree


class StoreSuite:
    """The promises of `ledger_core.log.store`. `store` must be a new and empty one."""

    def fill(self, store: Store, *keys: bytes) -> None:
        with store.write() as writer:
            for key in keys:
                writer.put(INDEX, key, b"value of " + key)

    def test_a_new_store_is_empty(self, store: Store) -> None:
        """A new store has three trees without a row."""
        with store.read() as reader:
            assert [0, 0, 0] == [reader.count(tree) for tree in Tree]
            assert [[], [], []] == [list(reader.scan(tree)) + list(reader.scan(tree, reverse=True)) for tree in Tree]
            assert reader.get(EVENTS, b"a") is None

    def test_trees_are_apart(self, store: Store) -> None:
        """The same key in two trees is two rows; a row is set anew by `put`; values are bytes of their own."""
        with store.write() as writer:
            writer.put(EVENTS, b"a", b"1")
            writer.put(BLOBS, b"a", b"2")
            writer.put(BLOBS, b"a", b"3")
            writer.put(INDEX, b"e", b"")
        with store.read() as reader:
            assert (b"1", b"3", None) == tuple(reader.get(tree, b"a") for tree in Tree)
            assert b"" == reader.get(INDEX, b"e")
            value = reader.get(BLOBS, b"a")
        with store.write() as writer:
            writer.put(BLOBS, b"a", b"4")
        assert b"3" == value
        assert type(value) is bytes

    def test_rows_are_in_order_of_their_bytes(self, store: Store) -> None:
        """A scan goes upwards from its start, itself included; in reverse downwards, its start not included."""
        self.fill(store, b"b", b"a", b"\xff", b"ab", b"\0", b"b\0")
        ordered = [b"\0", b"a", b"ab", b"b", b"b\0", b"\xff"]
        with store.read() as reader:
            for start in [b"", *ordered, b"aa", b"c", b"\xff\xff"]:
                up = [key for key in ordered if key >= start]
                down = [key for key in reversed(ordered) if not start or key < start]
                assert up == [key for key, _ in reader.scan(INDEX, start)]
                assert down == [key for key, _ in reader.scan(INDEX, start, reverse=True)]
            assert all(value == b"value of " + key for key, value in reader.scan(INDEX))

    def test_a_writer_reads_what_it_has_put(self, store: Store) -> None:
        """Inside its block a writer gets, scans and counts its own rows."""
        self.fill(store, b"a", b"c")
        with store.write() as writer:
            writer.put(INDEX, b"b", b"new")
            assert writer.delete(INDEX, b"a")
            assert not writer.delete(INDEX, b"a")
            assert (None, b"new", 2) == (writer.get(INDEX, b"a"), writer.get(INDEX, b"b"), writer.count(INDEX))
            assert [b"b", b"c"] == [key for key, _ in writer.scan(INDEX)]
            assert [b"c", b"b"] == [key for key, _ in writer.scan(INDEX, reverse=True)]

    def test_a_block_that_raises_leaves_nothing(self, store: Store) -> None:
        """What a writer put, set anew and deleted before it raised is as it was, and no commit was counted."""
        self.fill(store, b"a", b"b")
        version = store.version()
        with pytest.raises(KeyError), store.write() as writer:
            writer.put(INDEX, b"a", b"other")
            writer.put(INDEX, b"c", b"new")
            writer.append(EVENTS, b"z", b"new")
            writer.delete(INDEX, b"b")
            raise KeyError
        with store.read() as reader:
            assert {b"a": b"value of a", b"b": b"value of b"} == dict(reader.scan(INDEX))
            assert 0 == reader.count(EVENTS)
        assert version == store.version()

    def test_append_takes_rising_keys_only(self, store: Store) -> None:
        """A key that is not above every other is `Damaged`, and the block can still be abandoned."""
        with store.write() as writer:
            writer.append(EVENTS, b"b", b"1")
            writer.append(EVENTS, b"c", b"2")
        for key in (b"c", b"a", b"bb", b""):
            with pytest.raises(Damaged), store.write() as writer:
                writer.append(EVENTS, key, b"3")
        with store.read() as reader:
            assert {b"b": b"1", b"c": b"2"} == dict(reader.scan(EVENTS))

    def test_a_reader_sees_one_version(self, store: Store) -> None:
        """A reader sees what was there when it began, whatever is committed beside it, also in the midst of a scan."""
        self.fill(store, b"a", b"b", b"c")
        with store.read() as reader:
            scan = reader.scan(INDEX)
            assert b"a" == next(scan)[0]
            self.write_in_a_thread(store, b"aa", b"d")
            assert [b"b", b"c"] == [key for key, _ in scan]
            assert (3, None) == (reader.count(INDEX), reader.get(INDEX, b"d"))
            with store.read() as later:
                assert 5 == later.count(INDEX)

    def write_in_a_thread(self, store: Store, *keys: bytes) -> None:
        thread = threading.Thread(target=self.fill, args=(store, *keys))
        thread.start()
        thread.join(20)

    def test_versions_count_commits(self, store: Store) -> None:
        """Every commit raises the version by one, and reading raises it not at all."""
        version = store.version()
        for n in range(3):
            self.fill(store, bytes([n]))
            with store.read() as reader:
                assert n + 1 == reader.count(INDEX)
        assert version + 3 == store.version()

    def test_one_writer_at_a_time(self, store: Store) -> None:
        """Writers of many threads follow one another: a count that each reads and sets anew misses none."""

        def work() -> None:
            for _ in range(25):
                with store.write() as writer:
                    count = int(writer.get(INDEX, b"count") or b"0")
                    writer.put(INDEX, b"count", b"%d" % (count + 1))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with store.read() as reader:
            assert b"100" == reader.get(INDEX, b"count")

    @pytest.mark.parametrize("size", [1, 2000, 5000, 66_000, 1_000_000])
    def test_values_of_every_size(self, store: Store, size: int) -> None:
        """Values below and above a page, and keys of up to 500 bytes, come back as they were."""
        rows = {bytes([n]) * (n * 124 + 1): random.Random(n).randbytes(size) for n in range(5)}
        with store.write() as writer:
            for key, value in rows.items():
                writer.put(BLOBS, key, value)
        with store.read() as reader:
            assert rows == dict(reader.scan(BLOBS))

    def test_a_store_is_a_sorted_map(self, store: Store) -> None:
        """Whatever is put and deleted, in commits and abandoned blocks, a store is what a sorted dict would be."""
        chance, model = random.Random(5), {}
        for _ in range(60):
            trial = dict(model)
            try:
                with store.write() as writer:
                    for _ in range(chance.randrange(8)):
                        key = bytes(chance.choices(b"ab\0\xff", k=chance.randrange(1, 4)))
                        if chance.random() < 0.3:
                            assert writer.delete(INDEX, key) == (trial.pop(key, None) is not None)
                        else:
                            trial[key] = chance.randbytes(chance.randrange(9))
                            writer.put(INDEX, key, trial[key])
                    if chance.random() < 0.3:
                        raise InterruptedError
                model = trial
            except InterruptedError:
                pass
            start = bytes(chance.choices(b"ab\0\xff", k=2))
            with store.read() as reader:
                assert sorted(model.items()) == list(reader.scan(INDEX))
                assert sorted((k, v) for k, v in model.items() if k >= start) == list(reader.scan(INDEX, start))
                assert len(model) == reader.count(INDEX)

    def test_a_closed_store_says_so(self, store: Store) -> None:
        """After `close` reading, writing and asking for the version raise `Closed`."""
        store.close()
        with pytest.raises(Closed), store.read():
            pass
        with pytest.raises(Closed), store.write():
            pass
        with pytest.raises(Closed):
            store.version()
