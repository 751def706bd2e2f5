"""Whether a worker still lives: a lock that the system takes from it when its process ends, and a beat while it runs.

Rules: volatile, no event and no sync. A worker holds an exclusive `flock` on a file of its name in `workers/`; whoever
can take the lock knows that the worker is gone, at once and without a clock. In the file it writes, by a thread of its
own, the time of its last beat (monotonic, which all processes of a machine share) and how long that holds: a process
that is stopped, or hangs as a whole, is overdue, though not gone. A forked child gives its copy up, so that it cannot
keep its parent alive. Losing the directory loses nothing. This file does not know runs.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
import weakref
from pathlib import Path
from typing import Final, Literal

from ledger_core.clock import NS

LEASE_NS: Final = 30 * NS
"""How long a beat holds, where nobody said otherwise."""
Life = Literal["alive", "overdue", "gone"]
_BEAT: Final = struct.Struct(">QQ")
_held: weakref.WeakSet[Lease] = weakref.WeakSet()


class Lease:
    """One worker's sign of life."""

    def __init__(self, directory: Path | None, worker: str, lease_ns: int = LEASE_NS) -> None:
        self.worker = worker
        self.lease_ns = lease_ns
        self._last_ns = time.monotonic_ns()
        self._descriptor = -1
        self._ended = threading.Event()
        self._path = None if directory is None else directory / f"{worker}.lock"
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._beat()
            threading.Thread(target=self._beat_on, name="agentledger-beat", daemon=True).start()
        _held.add(self)

    @property
    def overdue(self) -> bool:
        """Whether others may have taken this worker for dead: it was stopped for longer than its lease."""
        return self._descriptor >= 0 and time.monotonic_ns() - self._last_ns > self.lease_ns

    def end(self) -> None:
        """Give up the sign of life."""
        self._ended.set()
        if self._descriptor >= 0:
            if self._path is not None:
                self._path.unlink(missing_ok=True)
            self.drop()
        _held.discard(self)

    def drop(self) -> None:
        """Close the descriptor without a word: in a forked child."""
        self._ended.set()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _beat(self) -> None:
        now = time.monotonic_ns()
        os.pwrite(self._descriptor, _BEAT.pack(now, self.lease_ns), 0)
        self._last_ns = now

    def _beat_on(self) -> None:
        while not self._ended.wait(self.lease_ns / NS / 3):
            try:
                self._beat()
            except OSError:
                return  # it was given up in this moment


def life(directory: Path | None, worker: str) -> Life:
    """Whether a worker lives; of one in memory, whether it is this process's."""
    if directory is None:
        return "alive" if any(lease.worker == worker for lease in _held) else "gone"
    path = directory / f"{worker}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return "gone"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        beat = os.pread(descriptor, _BEAT.size, 0)
        if len(beat) < _BEAT.size:
            return "alive"
        last, lease = _BEAT.unpack(beat)
        return "overdue" if time.monotonic_ns() - last > lease else "alive"
    else:
        path.unlink(missing_ok=True)
        return "gone"
    finally:
        os.close(descriptor)


def alive(directory: Path | None, worker: str) -> bool:
    """Whether a worker lives and is not overdue."""
    return life(directory, worker) == "alive"


def _in_child() -> None:
    for lease in list(_held):
        lease.drop()


os.register_at_fork(after_in_child=_in_child)
