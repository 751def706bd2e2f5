"""Records into events, for everybody who reads: names and keys of streams, contents, in short snapshots.

Rules: a stream's key is fetched anew for every batch of reading, so that a key destroyed by another process is gone
here too. Contents are opened only when asked for. This file does not write, and does not know who follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ledger_core import chain
from ledger_core.errors import Damaged, NotFound
from ledger_core.events import UNREAD
from ledger_core.ids import Seq, StreamNo
from ledger_core.log import index, record
from ledger_core.log.cipher import Cipher
from ledger_core.log.keys import Keys
from ledger_core.log.record import Event, StreamInfo
from ledger_core.log.store import Reader, Store, Tree

STEP: Final = 256
"""Events read in one snapshot: no reader, however slow its caller, holds old pages for longer."""
_REMEMBERED: Final = 65_536

Ciphers = dict[StreamNo, Cipher | None]
"""Ciphers found in one batch of reading."""


class Reading:
    """What can be read of one ledger with the keys at hand."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._forgotten: set[StreamNo] = set()
        self._numbers: dict[str, StreamNo] = {}
        self._infos: dict[StreamNo, StreamInfo] = {}
        self._ciphers: dict[StreamNo, Cipher] = {}

    def draw(self, stream: StreamNo) -> Cipher:
        """A key for a new stream, durable before this returns."""
        return self._remember(stream, self._keys.draw(stream))

    def cipher(self, reader: Reader, stream: StreamNo, seen: Ciphers) -> Cipher | None:
        """What the stream's key opens; None if it is gone, or another than the stream was begun with."""
        return self._present(stream, self.info(reader, stream), seen)

    def forget(self, stream: StreamNo) -> None:
        """Never again open a stream whose key is destroyed, or would be if this process might."""
        self._forgotten.add(stream)
        self._ciphers.pop(stream, None)

    def reset(self) -> None:
        """Let go of streams' names: a batch that read them was abandoned, and their numbers are free again."""
        self._infos.clear()
        self._numbers.clear()

    def number(self, reader: Reader, stream: str) -> StreamNo | None:
        """Number of the stream of that name; once given, it never changes."""
        number = self._numbers.get(stream)
        if number is None and (number := index.find_stream(reader, stream)) is not None:
            if len(self._numbers) >= _REMEMBERED:
                self._numbers.clear()
            self._numbers[stream] = number
        return number

    def info(self, reader: Reader, stream: StreamNo) -> StreamInfo:
        """Name and key check of a stream."""
        info = self._infos.get(stream)
        if info is None:
            head = index.read_head(reader, stream)
            data = None if head is None else reader.get(Tree.EVENTS, index.seq_key(head.first))
            if head is None or data is None or not record.checked_header(data, head.first).flags & chain.OPENS:
                raise Damaged(f"Stream {stream} has no first event.", hint="Run `agentledger verify`.")
            if len(self._infos) >= _REMEMBERED:
                self._infos.clear()
            info = self._infos[stream] = record.read_info(data)
        return info

    def event(self, reader: Reader, seq: Seq, *, contents: bool) -> Event:
        """The event at a seq; raises `NotFound`, `Damaged`."""
        data = reader.get(Tree.EVENTS, index.seq_key(seq))
        if data is None:
            raise NotFound(f"There is no event at seq {seq}.", hint="`agentledger log head` prints the last one.")
        return self.of_record(reader, data, seq, contents=contents)

    def of_record(self, reader: Reader, data: bytes, seq: Seq, *, contents: bool) -> Event:
        """The event of a record that was read; raises `Damaged`."""
        return self._event(reader, data, seq, {} if contents else None)

    def log(
        self, after: int, *, contents: bool, stop: int | None = None, share: tuple[int, int] | None = None
    ) -> Iterator[Event]:
        """Events of the log strictly after a cursor, up to `stop`; with `share`, those of some streams only."""
        while True:
            batch: list[Event] = []
            with self._store.read() as reader:
                seen: Ciphers = {}
                for key, data in reader.scan(Tree.EVENTS, index.seq_key(after + 1)):
                    seq = index.parse_seq(key)
                    if len(batch) == STEP or (stop is not None and seq > stop):
                        break
                    if share is None or chain.stream_of(data) % share[1] == share[0]:
                        batch.append(self._event(reader, data, seq, seen if contents else None))
                    after = seq
            yield from batch
            if len(batch) < STEP:
                return

    def newest(self, *, contents: bool) -> Iterator[Event]:
        """Events of the log from the last backwards."""
        below = b""
        while True:
            batch: list[Event] = []
            with self._store.read() as reader:
                seen: Ciphers = {}
                for key, data in reader.scan(Tree.EVENTS, below, reverse=True):
                    if len(batch) == STEP:
                        break
                    batch.append(self._event(reader, data, index.parse_seq(key), seen if contents else None))
                    below = key
            yield from batch
            if len(batch) < STEP:
                return

    def stream(self, name: str, after: int, *, contents: bool) -> Iterator[Event]:
        """Events of a stream behind its `after`th."""
        while True:
            batch: list[Event] = []
            with self._store.read() as reader:
                seen: Ciphers = {}
                number = index.find_stream(reader, name)
                if number is None:
                    return
                for seq, data in index.stream_records(reader, number, after):
                    if len(batch) == STEP:
                        break
                    batch.append(self._event(reader, data, seq, seen if contents else None))
            yield from batch
            if len(batch) < STEP:
                return
            after = batch[-1].stream_seq

    def nth(self, reader: Reader, name: str, number: int, *, contents: bool) -> Event | None:
        """A stream's `number`th event, from 1; None if it has no such event. Nothing else is decoded."""
        stream = index.find_stream(reader, name)
        found = None if stream is None or number < 1 else next(index.stream_records(reader, stream, number - 1), None)
        return None if found is None else self._event(reader, found[1], found[0], {} if contents else None)

    def _event(self, reader: Reader, data: bytes, seq: Seq, seen: Ciphers | None) -> Event:
        header = record.checked_header(data, seq)
        info = self.info(reader, header.stream)
        if seen is None:
            return record.to_event(data, header, info, UNREAD if header.content_size else {})
        cipher = self._present(header.stream, info, seen)
        return record.to_event(data, header, info, record.open_content(reader, data, header, cipher))

    def _present(self, stream: StreamNo, info: StreamInfo, seen: Ciphers) -> Cipher | None:
        """The cipher of the key that is there now; None for another history's key, which opens nothing here."""
        if stream in self._forgotten:
            return None
        if stream not in seen:
            key, known = self._keys.get(stream), self._ciphers.get(stream)
            if key is not None and (known is None or known.key != key):
                known = self._remember(stream, key)
            seen[stream] = known if key is not None and known and known.check == info.key_check else None
        return seen[stream]

    def _remember(self, stream: StreamNo, key: bytes) -> Cipher:
        if len(self._ciphers) >= _REMEMBERED:
            self._ciphers.clear()
        cipher = self._ciphers[stream] = Cipher(key)
        return cipher
