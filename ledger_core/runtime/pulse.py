"""One thread that hears of new commits, for all in this process who wait for somebody else's.

Rules: it lives only while somebody listens, and sleeps in the bell (`log.follow`): an idle process is not woken but
for the bell's own rare look. A listener is called in this thread and must only wake somebody; commits that come close
together are told once. This file does not know what is waited for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ledger_core.log.log import Log

_TOGETHER: Final = 0.002
"""Seconds in which commits are told together."""
Listener = Callable[[], None]


class Pulse:
    """Calls its listeners after commits, of any process."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._mutex = threading.Lock()
        self._listeners: list[Listener] = []
        self._thread: threading.Thread | None = None
        self._stop = (-1, -1)
        self.looks = 0
        """How often the thread was woken."""

    @contextmanager
    def heard(self, listener: Listener) -> Iterator[None]:
        """Have `listener` called after every commit (or a few) while the block lasts."""
        with self._mutex:
            self._listeners.append(listener)
            if self._thread is None:
                self._stop = os.pipe()
                seen = self._log.commits()  # before this returns: no commit may fall behind it and before the thread
                self._thread = threading.Thread(
                    target=self._listen,
                    args=(self._stop[0], seen),
                    name="agentledger-pulse",
                    daemon=True,
                )
                self._thread.start()
        try:
            yield
        finally:
            self._leave(listener)

    def _leave(self, listener: Listener) -> None:
        with self._mutex:
            self._listeners.remove(listener)
            if self._listeners or self._thread is None:
                return
            thread, self._thread = self._thread, None
            (reading, writing), self._stop = self._stop, (-1, -1)
        os.close(writing)
        thread.join()
        os.close(reading)

    def _listen(self, stop: int, seen: int) -> None:
        with self._log.bell() as bell:
            while bell.wait(seen, stop=stop):
                self.looks += 1
                time.sleep(_TOGETHER)
                seen = bell.version()
                with self._mutex:
                    listeners = list(self._listeners)
                for listener in listeners:
                    listener()
