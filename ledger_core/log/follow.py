"""Hearing of new commits without asking all the time: what `Log.follow` waits on.

Rules: the number of the last commit is the truth; a bell only says when to look. On Linux the bell is inotify on the
data file, which every commit of every process writes to: an idle follower wakes once in `_PATIENCE` seconds. Elsewhere,
or where no inotify instance is to be had, it looks at intervals that double from 1 to 20 ms. Nothing is missed either
way: who waits says which commit it has seen. This file does not know events.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ledger_core.log.lmdb_store import LmdbStore
from ledger_core.log.store import Store

_PATIENCE: Final = 5.0
"""Seconds after which a follower looks without having been called: the price of a bell that failed."""
_SHORTEST: Final = 0.001
_LONGEST: Final = 0.020
_LOOKS: Final = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Pauses between looks after a ring: LMDB lets readers see a commit a moment after it has written the meta page."""
_IN_MODIFY: Final = 0x2
_IN_CLOEXEC_NONBLOCK: Final = os.O_CLOEXEC | os.O_NONBLOCK
_EVENT: Final = struct.Struct("iIII")


class Bell:
    """Waits for a store to go beyond a commit that the caller has seen."""

    def __init__(self, store: Store, descriptor: int | None) -> None:
        self._store = store
        self._descriptor = descriptor

    def version(self) -> int:
        """Number of the last commit."""
        return self._store.version()

    def wait(self, seen: int, timeout: float | None = None, *, stop: int | None = None) -> bool:
        """Wait in a thread until there is a newer commit; False after `timeout` seconds without one.

        False as well when the descriptor `stop` can be read: somebody wants the thread back.
        """
        end = None if timeout is None else time.monotonic() + timeout
        pause = _SHORTEST
        calls = [] if stop is None else [stop]
        while not (calls and select.select(calls, [], [], 0)[0]) and self._store.version() == seen:
            left = _PATIENCE if end is None else end - time.monotonic()
            if left <= 0:
                return False
            if self._descriptor is None:
                select.select(calls, [], [], min(pause, left))
                pause = min(pause * 2, _LONGEST)
            elif self._descriptor in select.select([self._descriptor, *calls], [], [], min(left, _PATIENCE))[0]:
                self._drain()
                for look in _LOOKS:
                    if self._store.version() != seen:
                        break
                    time.sleep(look)
        return not (calls and select.select(calls, [], [], 0)[0])

    async def await_(self, seen: int) -> None:
        """Wait in an event loop until there is a newer commit."""
        loop, pause = asyncio.get_running_loop(), _SHORTEST
        while self._store.version() == seen:
            if self._descriptor is None:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST)
                continue
            rung = loop.create_future()
            loop.add_reader(self._descriptor, _ring, rung)
            try:
                await asyncio.wait([rung], timeout=_PATIENCE)
            finally:
                loop.remove_reader(self._descriptor)
            if rung.done():
                self._drain()
                for look in _LOOKS:
                    if self._store.version() != seen:
                        break
                    await asyncio.sleep(look)

    def _drain(self) -> None:
        assert self._descriptor is not None
        try:
            while len(os.read(self._descriptor, 256 * _EVENT.size)) == 256 * _EVENT.size:
                pass
        except BlockingIOError:
            pass


def _ring(rung: asyncio.Future[None]) -> None:
    if not rung.done():
        rung.set_result(None)


@contextmanager
def bell(store: Store) -> Iterator[Bell]:
    """A bell on a store, for as long as somebody follows."""
    descriptor = _watch(store.data_version_file()) if isinstance(store, LmdbStore) else None
    try:
        yield Bell(store, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _watch(path: Path) -> int | None:
    """An inotify descriptor that becomes readable when the file is written to; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(_IN_CLOEXEC_NONBLOCK)
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(descriptor)
        return None
    return int(descriptor)
