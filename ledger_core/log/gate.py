"""A gate that many pass side by side and one may hold alone: readers, and the growing of the map.

Rules: whoever waits to hold it alone keeps newcomers out, so that readers in a row cannot starve it. A thread does
not enter twice. This file does not know what is behind the gate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock


class Gate:
    """Shared and exclusive passage."""

    def __init__(self) -> None:
        self._changed = Condition(Lock())
        self._inside = 0
        self._alone = False
        self._emptying = False

    def enter(self) -> None:
        """Pass beside others; pair with `leave`."""
        with self._changed:
            while self._alone or self._emptying:
                self._changed.wait()
            self._inside += 1

    def leave(self) -> None:
        """The inverse of `enter`."""
        with self._changed:
            self._inside -= 1
            if self._alone or self._emptying:
                self._changed.notify_all()

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """For the one writer, who is inside: newcomers stay out, and everybody else has left."""
        with self._changed:
            self._emptying = True
            while self._inside > 1:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._emptying = False
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the gate when nobody is inside."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._alone = True
            while self._inside:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
