"""The pipes between this process and a sandbox.

Rules: every end is closed when the block ends, whatever happened; what this side reads or writes never blocks. None is
inherited by a program that is started elsewhere (PEP 446), but by a fork of this process: so no end of a pipe is waited
for where nothing else would tell. A sandbox is passed its own ends by number.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

PART: Final = 1 << 16


@attrs.define
class Pipes:
    """Descriptors, -1 where closed: this side's ends, and the other side's (`their_…`)."""

    their_request: int = -1
    request: int = -1
    answer: int = -1
    their_answer: int = -1
    output: int = -1
    their_output: int = -1
    status: int = -1
    their_status: int = -1
    their_life: int = -1
    life: int = -1

    def close(self, *names: str) -> None:
        """Close some; what is closed stays so."""
        for name in names:
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)

    def tell(self, name: str) -> None:
        """Have the other side see that this is over: by a byte, since a fork of this process may hold the pipe open."""
        fd = getattr(self, name)
        if fd >= 0:
            try:
                os.write(fd, b"!")
            except OSError:  # it is full, or nobody reads it: then it is seen in another way
                pass
        self.close(name)

    def close_theirs(self) -> None:
        """Close what the other side has by now."""
        self.close(*(name for name in _NAMES if name.startswith("their_")))


_NAMES: Final = tuple(field.name for field in attrs.fields(Pipes))


@contextmanager
def pipes() -> Iterator[Pipes]:
    """Open all of them."""
    made = Pipes()
    try:
        for read, write in zip(_NAMES[::2], _NAMES[1::2], strict=True):
            pair = os.pipe()
            setattr(made, read, pair[0])
            setattr(made, write, pair[1])
        for fd in (made.request, made.answer, made.output, made.status, made.life):
            os.set_blocking(fd, False)
        yield made
    finally:
        made.close(*_NAMES)


def over(fd: int, seconds: float) -> bool:
    """Whether a process, by its descriptor, is dead within so many seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def read(fd: int) -> bytes | None:
    """What a pipe holds, nothing at its end; None if it holds nothing now."""
    try:
        return os.read(fd, PART)
    except BlockingIOError:
        return None


def write(fd: int, data: memoryview) -> int:
    """How much of the data a pipe took; all of it, where nobody reads any more."""
    try:
        return os.write(fd, data[:PART])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(data)
