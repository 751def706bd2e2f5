"""Runs a job in a process of this machine: hands over the request, takes the answer, looks at it, ends it.

Rules: the request is sent when the other side has said that it is ready, for then it is tied to this process's life.
All pipes are read as they fill, and nothing is kept beyond its limit. Whatever happens, also in this thread (a
KeyboardInterrupt), the sandbox is ended and its end is awaited before this returns. What is started, and how it is
ended for good, is a `Started`, which an executor gives; this file does not know namespaces or users.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Protocol

import attrs

from ledger_core.governance.sandbox import watch
from ledger_core.governance.sandbox.ending import (
    MOST_STDERR,
    Ending,
    Reason,
    SandboxUnavailable,
    Seen,
    ending_of,
)
from ledger_core.governance.sandbox.executor import Stop
from ledger_core.governance.sandbox.pipes import Pipes, pipes, read, write
from ledger_core.governance.sandbox.policy import SandboxPolicy
from ledger_core.governance.sandbox.reply import Reply

_LOOK_EVERY: Final = 0.05
"""Seconds between two looks at what a sandbox takes."""
_PATIENCE: Final = 20
"""How many times longer than a look the pause behind it is, at least: a crowd is not looked at all the time."""
_END_WITHIN: Final = 10.0
"""Seconds that a sandbox which was killed may take to be gone; the kernel needs some 0.01."""
_GRACE: Final = 1.0
"""Seconds that a sandbox which has answered may take to end by itself."""


class Started(Protocol):
    """A sandbox that was started."""

    ended: int
    """A descriptor that is readable when the sandbox's first process has ended."""
    exit_code: int | None
    signal: int | None

    def told(self, line: str) -> None:
        """Take a line of what the sandbox's own machinery says (not the tool)."""
        ...

    def root(self) -> int | None:
        """The process below which all of the sandbox's are; None as long as it is not known."""
        ...

    def kill(self) -> None:
        """Kill all of it; may be called again."""
        ...

    def left(self, seconds: float) -> str:
        """Wait until nothing of it is left, for so long at most: why something may be, or nothing."""
        ...

    def close(self) -> None:
        """Let go of what it holds here."""
        ...


def converse(
    name: str,
    policy: SandboxPolicy,
    request: bytes,
    start: Callable[[Pipes], Started],
    *,
    seconds: float,
    stop: Stop,
) -> Ending:
    """Start a sandbox, have it answer a request, and end it; raises `SandboxUnavailable` if it cannot be started."""
    began = time.monotonic()
    with ExitStack() as held:
        try:
            ours = held.enter_context(pipes())
            started = start(ours)
        except OSError as error:
            raise SandboxUnavailable(f"The executor {name} could not start a sandbox: {error}.") from None
        talk = _Talk(ours, started, policy, memoryview(request), stop, seconds)
        left = ""
        try:
            ours.close_theirs()
            talk.hold(began + seconds)
        finally:
            try:
                talk.take_status()
                started.kill()
                left = started.left(_END_WITHIN)
                talk.drain()
            finally:
                started.close()
    if left:
        talk.end("killed", left)
    seen = Seen(
        executor=name,
        reason=talk.reason,
        because=talk.because,
        exit_code=started.exit_code,
        signal=started.signal,
        seconds=round(time.monotonic() - began, 6),
        memory_peak=talk.memory or None,
        printed=bytes(talk.tail),
        crowded=talk.tasks >= policy.processes,
    )
    return ending_of(seen, talk.reply, policy.output)


@attrs.define
class _Talk:
    """A conversation with one sandbox."""

    pipes: Pipes
    started: Started
    policy: SandboxPolicy
    request: memoryview
    stop: Stop
    seconds: float
    reason: Reason | None = None
    because: str = ""
    tail: bytearray = attrs.field(factory=bytearray)
    memory: int = 0
    tasks: int = 0
    reply: Reply = attrs.field(init=False)
    _printed: int = 0
    _sent: int = 0
    _line: bytes = b""
    _answered: float | None = None
    """When it had answered, or would not answer any more."""

    def __attrs_post_init__(self) -> None:
        self.reply = Reply(most=self.policy.output)

    def end(self, reason: Reason, because: str) -> None:
        """Have it ended; the first reason counts."""
        if self.reason is None:
            self.reason, self.because = reason, because

    def hold(self, deadline: float) -> None:
        """Talk until the sandbox has ended, or must."""
        poll = select.poll()
        for fd in (self.started.ended, self.stop.fileno()):
            poll.register(fd, select.POLLIN)
        open_ones = {
            self.pipes.status: self.take_status,
            self.pipes.answer: self.take_answer,
            self.pipes.output: self.take_output,
        }
        for fd in open_ones:
            poll.register(fd, select.POLLIN)
        asking, look_at = False, time.monotonic() + _LOOK_EVERY
        while self.reason is None:
            until = deadline if self._answered is None else min(deadline, self._answered + _GRACE)
            wake = until if self._answered is not None else min(until, look_at)
            ready = dict(poll.poll(max(0.0, wake - time.monotonic()) * 1000))
            for fd in [fd for fd in open_ones if fd in ready]:
                if not open_ones[fd]():
                    poll.unregister(fd)
                    del open_ones[fd]
            if self.started.ended in ready:
                break
            if self.stop.fileno() in ready:
                self.end("killed", "it was told to stop")
            wanted = self.reply.ready and self._answered is None and self._sent < len(self.request)
            if asking and self.pipes.request in ready:
                self._sent += write(self.pipes.request, self.request[self._sent :])
            if asking != wanted:
                (poll.register if wanted else poll.unregister)(self.pipes.request)
                asking = wanted
            if self._answered is not None:
                self.pipes.tell("request")  # it has been looked at, and may go
            now = time.monotonic()
            if now >= look_at and self._answered is None:  # what has answered is on its way out
                self.look()
                look_at = now + max(_LOOK_EVERY, _PATIENCE * (time.monotonic() - now))
            if now >= until:
                if self._answered is None:
                    self.end("time", f"it was not done after {self.seconds:g} s")
                elif not self.reply.finished:
                    self.end("output", "it closed its answer's pipe, and gave none")
                break

    def look(self) -> None:
        """See what it takes; too much ends it."""
        root = self.started.root()
        if root is None:
            return
        seen = watch.look(root, self.policy.memory)
        self.memory, self.tasks = max(self.memory, seen.memory), seen.tasks
        if seen.memory > self.policy.memory:
            self.end("memory", f"its {seen.processes:,} processes took {seen.memory:,} bytes together")
        elif seen.tasks > self.policy.processes:
            self.end("processes", f"it had {seen.tasks:,} processes and threads")

    def take_answer(self) -> bool:
        """Read of the answer; False when there is no more."""
        data = read(self.pipes.answer)
        if data is None:
            return True
        self.reply.feed(data)
        if self.reply.wrong:
            self.end("output", self.reply.wrong)
        elif self._answered is None and (self.reply.finished or not data):
            self.look()
            root = self.started.root()
            self.memory = max(self.memory, (root and watch.peak(root)) or 0)
            self._answered = time.monotonic()
        return bool(data) and not self.reply.finished

    def take_output(self) -> bool:
        """Read of what it prints; False when there is no more."""
        data = read(self.pipes.output)
        if data:
            self._printed += len(data)
            self.tail += data
            del self.tail[: -2 * MOST_STDERR]  # more than is kept: what is hidden is found before the text is cut
            if self._printed > self.policy.output:
                self.end("output", f"it printed more than {self.policy.output:,} bytes")
        return data != b""

    def take_status(self) -> bool:
        """Read what the sandbox's machinery says; False when there is no more."""
        data = read(self.pipes.status)
        if data:
            *lines, self._line = (self._line + data).split(b"\n")
            for line in lines:
                self.started.told(line.decode("ascii", "replace"))
        return data != b""

    def drain(self) -> None:
        """Read what was written before it ended: a pipe holds no more than so many parts."""
        self.take_status()
        for _ in range(32):
            self.take_output()
        while not self.reply.finished and (data := read(self.pipes.answer)):
            self.reply.feed(data)
