"""What every `Keys` owes: for adapter authors, who subclass `KeysSuite` and give it a `keys` fixture."""

from __future__ import annotations

import threading

import pytest

from ledger_core.ids import StreamNo
from ledger_core.log.keys import Keys

STREAMS = [StreamNo(n) for n in (1, 2, 1023, 1024, 1025, 2048, 2049, 5000)]


class KeysSuite:
    """The promises of `ledger_core.log.keys.Keys`. `keys` must hold none."""

    @pytest.mark.parametrize("stream", STREAMS)
    def test_a_key_is_drawn_once(self, keys: Keys, stream: StreamNo) -> None:
        """A stream has no key until one is drawn; drawn again it is the same, of 32 bytes."""
        assert keys.get(stream) is None
        key = keys.draw(stream)

        assert 32 == len(key)
        assert key == keys.draw(stream) == keys.get(stream)

    def test_every_stream_has_a_key_of_its_own(self, keys: Keys) -> None:
        """No two streams share a key, and none is of zeros."""
        drawn = [keys.draw(stream) for stream in STREAMS]

        assert len(STREAMS) == len(set(drawn))
        assert bytes(32) not in drawn

    def test_a_destroyed_key_is_gone(self, keys: Keys) -> None:
        """A destroyed key is gone, those beside it are not, and destroying it again is False."""
        drawn = {stream: keys.draw(stream) for stream in STREAMS}

        assert keys.destroy(STREAMS[3])
        assert not keys.destroy(STREAMS[3])
        assert not keys.destroy(StreamNo(9_999))
        assert {**drawn, STREAMS[3]: None} == {stream: keys.get(stream) for stream in STREAMS}

    def test_a_key_drawn_after_destruction_is_another(self, keys: Keys) -> None:
        """Where a restored ledger uses a number again, its stream gets a new key and not the destroyed one."""
        key = keys.draw(STREAMS[1])
        keys.destroy(STREAMS[1])

        assert key != keys.draw(STREAMS[1])

    def test_threads_that_draw_at_once_get_the_same(self, keys: Keys) -> None:
        """Threads that draw the key of one stream at the same moment get one key."""
        drawn: list[bytes] = []
        ready = threading.Barrier(8)

        def draw() -> None:
            ready.wait(20)
            drawn.append(keys.draw(StreamNo(7)))

        threads = [threading.Thread(target=draw) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [keys.get(StreamNo(7))] * 8 == drawn
