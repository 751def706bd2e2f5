"""Group commit: commands that arrive together share one transaction and one sync.

Rules: whoever comes first leads; the others wait, in a thread or in a loop. While the leader syncs, newcomers queue
up and become the next batch, led by the first of them. A command that refuses writes nothing and hurts nobody else.
A leader that is interrupted (Ctrl-C) finds out what became of its batch and passes the lead on. There is no thread
of its own but the one that leads for event loops. This file does not know what commands do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, Generic, TypeVar

from ledger_core.errors import Closed, forked

T = TypeVar("T")
Command = TypeVar("Command")


class Ticket(Generic[Command, T]):
    """A command's place in the queue, and what came of it."""

    __slots__ = ("_done", "_loop", "command", "error", "finished", "leads", "result")

    def __init__(self, command: Command, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.command = command
        self.result: T | None = None
        self.error: BaseException | None = None
        self.finished = False
        self.leads = False
        self._loop = loop
        self._done: asyncio.Future[None] | Lock
        if loop is None:
            self._done = Lock()
            self._done.acquire()
        else:
            self._done = loop.create_future()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that waits for this ticket; None for a thread."""
        return self._loop

    def wake(self) -> None:
        """End the wait; for a loop's ticket, on its own loop only."""
        if isinstance(self._done, asyncio.Future):
            if not self._done.done():
                self._done.set_result(None)
        else:
            self._done.release()

    def wait(self) -> None:
        """Wait in a thread."""
        assert not isinstance(self._done, asyncio.Future)
        self._done.acquire()

    async def waited(self) -> None:
        """Wait in a loop; a cancelled caller leaves, its command stays."""
        assert isinstance(self._done, asyncio.Future)
        await self._done

    def outcome(self) -> T:
        """What came of the command; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # T may be None


Batch = list[Ticket[Command, T]]


class Group(Generic[Command, T]):
    """A queue of commands, and the lead over it. `commit` settles every ticket of a batch, or leaves it unfinished."""

    def __init__(self, commit: Callable[[Batch[Command, T]], None]) -> None:
        self._commit = commit
        self._mutex = Lock()
        self._queue: Batch[Command, T] = []
        self._led = False
        self._threads: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        self._closed = False

    def run(self, command: Command) -> T:
        """Have a command done, from a thread."""
        ticket: Ticket[Command, T] = Ticket(command)
        with _interrupts_deferred():
            leads = self._enqueue(ticket)
            if leads:
                self._lead()
        if not leads:
            led = False
            try:
                ticket.wait()
                with _interrupts_deferred():
                    led = True
                    if ticket.leads:
                        self._lead()
            except BaseException:
                if not led:
                    with _interrupts_deferred():
                        self._abandon(ticket)
                raise
        return ticket.outcome()

    async def arun(self, command: Command) -> T:
        """Have a command done, from an event loop that goes on meanwhile."""
        ticket: Ticket[Command, T] = Ticket(command, asyncio.get_running_loop())
        if self._enqueue(ticket):
            self._lead_in_thread()
        await ticket.waited()
        return ticket.outcome()

    def close(self) -> None:
        """End the waiting of what is queued, wait for what is under way, and let go of the leading thread."""
        if os.getpid() != self._pid:
            return
        with self._mutex:
            self._closed = True
            queue, self._queue = [t for t in self._queue if not t.leads], [t for t in self._queue if t.leads]
        for ticket in queue:
            ticket.error, ticket.finished = Closed("This ledger was closed.", hint="Open it again."), True
            if ticket.loop is None:
                ticket.wake()
            elif not ticket.loop.is_closed():
                ticket.loop.call_soon_threadsafe(ticket.wake)
        if self._threads is not None:
            self._threads.shutdown(wait=True)
            self._threads = None

    def _enqueue(self, ticket: Ticket[Command, T]) -> bool:
        if os.getpid() != self._pid:
            raise forked()
        with self._mutex:
            if self._closed:
                raise Closed("This ledger was closed.", hint="Open it again.")
            self._queue.append(ticket)
            if not self._led:
                self._led = ticket.leads = True
        return ticket.leads

    def _lead(self) -> None:
        """Settle what has queued up, then pass the lead on."""
        with self._mutex:
            batch, self._queue = self._queue, []
        try:
            self._commit(batch)
        finally:
            self._settle(batch)

    def _settle(self, batch: Batch[Command, T]) -> None:
        with self._mutex:
            self._queue[:0] = [ticket for ticket in batch if not ticket.finished and not ticket.leads]
            following = self._queue[0] if self._queue else None
            self._led = following is not None
            if following is not None:
                following.leads = True
        loops: dict[asyncio.AbstractEventLoop, Batch[Command, T]] = {}
        for ticket in batch:
            if not ticket.finished:
                continue
            if ticket.loop is None:
                ticket.wake()
            else:
                loops.setdefault(ticket.loop, []).append(ticket)
        for loop, tickets in loops.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake_all, tickets)
        if following is not None:
            self._hand_over(following)

    def _hand_over(self, ticket: Ticket[Command, T]) -> None:
        if ticket.loop is None:
            ticket.wake()
        else:
            self._lead_in_thread()

    def _lead_in_thread(self) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agentledger-commit")
        self._threads.submit(self._lead)

    def _abandon(self, ticket: Ticket[Command, T]) -> None:
        """An interrupted caller leaves the queue; if the lead had just come to it, it goes to the next."""
        with self._mutex:
            if ticket in self._queue:
                self._queue.remove(ticket)
            if not ticket.leads:
                return
            following = self._queue[0] if self._queue else None
            self._led = following is not None
            if following is not None:
                following.leads = True
        if following is not None:
            self._hand_over(following)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """In the main thread, a Ctrl-C waits until the block has ended: a lead is never lost half way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    previous = signal.signal(signal.SIGINT, lambda *what: came.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if came and callable(previous):
            previous(*came[0])


def _wake_all(tickets: Batch[Command, T]) -> None:
    for ticket in tickets:
        ticket.wake()
