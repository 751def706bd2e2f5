"""Whether a worker still lives: a lock that the system takes from it when its process ends, however it ends.

Rules: volatile, no event and no sync. A worker holds an exclusive `flock` on a file of its name in `workers/`; whoever
can take the lock knows that the worker is gone, at once and without a clock. A forked child gives its copy up, so that
it cannot keep its parent alive. Losing the directory loses nothing. This file does not know runs.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

_held: weakref.WeakSet[Lease] = weakref.WeakSet()


class Lease:
    """One worker's sign of life."""

    def __init__(self, directory: Path | None, worker: str) -> None:
        self.worker = worker
        self._descriptor = -1
        self._path = None if directory is None else directory / f"{worker}.lock"
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held.add(self)

    def end(self) -> None:
        """Give up the sign of life."""
        if self._descriptor >= 0:
            if self._path is not None:
                self._path.unlink(missing_ok=True)
            self.drop()
        _held.discard(self)

    def drop(self) -> None:
        """Close the descriptor without a word: in a forked child."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def alive(directory: Path | None, worker: str) -> bool:
    """Whether the worker lives; of one in memory, whether it is this process's."""
    if directory is None:
        return any(lease.worker == worker for lease in _held)
    path = directory / f"{worker}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)


def _in_child() -> None:
    for lease in list(_held):
        lease.drop()


os.register_at_fork(after_in_child=_in_child)
