"""How an agent's code is carried: what effects ask of a driver, and the driver for code in the calling thread.

Rules: a driver gives effects their turn (a recorded outcome in its recorded order, or leave to go live), delivers live
outcomes in the order in which they were drafted, one at a time, when the code can do no more without one, lets effects
wait for what comes from elsewhere, and stops the code for good where it may not go on. In a loop no exception carries a
stop through the agent: what waits is never answered, and the code is cancelled (`loop_driver`). A driver never knows
what effects do.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol, TypeVar

import attrs

from ledger_core.clock import NS
from ledger_core.log.log import Decision, Event, Log
from ledger_core.run.journal import Entry, Intent, Journal
from ledger_core.runtime import scope
from ledger_core.runtime.recorder import Bodies, Family, First, Recorder

T = TypeVar("T")
Heard = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Has a function called, in another thread, after commits, while a block lasts."""
HOLD_NS: Final = NS // 2
"""A wait for a time that is nearer keeps its worker: giving the step back and claiming it costs two syncs."""
GRACE: Final = 0.05
"""Seconds for which a step whose every branch waits for somebody else keeps its worker."""
LOOK: Final = 5.0
"""Seconds after which a wait looks at the clock again: it may have been moved."""
_BESIDE: Final = 0.1
"""Seconds between looks of a thread that waits beside others."""
_OTHERS: Final = 60.0
"""Seconds that an effect of one thread waits for the effects of others that were recorded before it."""


class StepStopped(BaseException):
    """Ends agent code that may not go on; not an `Exception`, so that no agent mistakes it for a failure of its own."""


class Suspended:
    """Why a step was stopped: all its branches wait for something that needs no worker."""


class TimedOut:
    """Why a step was stopped: its claim worked for longer than it may."""


class HandedBack:
    """Why a step was stopped: its worker ends, and gives it to others."""


class TookTooLong(Exception):
    """An attempt of an effect that did not end in time; nobody knows what it did, or will do."""


@attrs.define(eq=False)
class Turn:
    """A live outcome's place in the order of delivery."""

    ready: bool = False
    waiter: asyncio.Future[None] | None = None


@contextmanager
def unheard(_: Callable[[], None]) -> Iterator[None]:
    """Nobody to hear of: where nothing is live."""
    yield


class Driver(Protocol):
    """What effects ask of the way in which the code is carried."""

    journal: Journal
    stopped: Any
    """Why the code was stopped, if it was."""
    closed: bool
    """Whether the code may begin no more effects: it ended, or is being torn down."""

    async def turn(self, intent: Intent) -> Entry | None:
        """The recorded outcome of an intent when it is its turn; None when it is to go live."""
        ...

    def drafted(self) -> Turn:
        """Take the next place in the order of delivery: when an outcome is drafted."""
        ...

    async def deliver(self, turn: Turn) -> None:
        """Wait until the code may be given the outcome that was drafted at `turn`."""
        ...

    async def park(self, path: str, wake_ns: int | None) -> None:
        """Wait until it is worth looking again: at `wake_ns`, or when somebody else has appended to the run."""
        ...

    def leave(self, path: str) -> None:
        """End a wait that the code has given up."""
        ...

    def nudge(self) -> None:
        """Have waits look again: something came free that they may be waiting for."""
        ...

    @property
    def idle_ns(self) -> int:
        """For how long, in ns, the step has only waited."""
        ...

    async def commit(
        self,
        recorder: Recorder,
        bodies: Bodies,
        *,
        begins: bool = False,
        first: First | None = None,
        family: Family | None = None,
    ) -> list[Event]:
        """Append durably."""
        ...

    async def decide(self, log: Log, decision: Decision) -> list[Event]:
        """Append what a decision says, without the step's pen."""
        ...

    async def call(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **keywords: Any
    ) -> Any:
        """Call a function of the user's, sync or async; within `effect`, and so outside the agent's scope.

        Raises `TookTooLong` after `timeout` seconds.
        """
        ...

    async def effect(self, work: Coroutine[Any, Any, T], abandoned: Callable[[], None]) -> T:
        """Carry an effect to its end, even if the code stops waiting for it: `abandoned` is told."""
        ...

    def flush_soon(self, recorder: Recorder) -> None:
        """Have what rides appended, without waiting for it."""
        ...

    def stop(self, why: Any) -> None:
        """Let the code go no further, because of `why`."""
        ...

    @property
    def calls(self) -> int:
        """Calls of the user's functions that are still under way somewhere."""
        ...


class BlockingDriver:
    """Carries sync code in its own thread; its coroutines never suspend, so `run_blocking` steps through them.

    Other threads that the code makes may use the context too, in a scope of their own: one effect at a time.
    """

    def __init__(self, journal: Journal, heard: Heard = unheard, timeout_ns: int | None = None) -> None:
        self.journal = journal
        self.stopped: Any = None
        self.closed = False
        self._heard = heard
        self._news = threading.Event()
        self._recorder: Recorder | None = None
        self._turns = threading.Condition()
        self.threads = 0
        """Scopes that other threads of the code are in."""
        self._waiting = 0
        self._runner: asyncio.Runner | None = None
        self._late_ns = None if timeout_ns is None else time.monotonic_ns() + timeout_ns
        self._idle_ns = 0

    async def turn(self, intent: Intent) -> Entry | None:
        while True:
            if self._late_ns is not None and time.monotonic_ns() > self._late_ns:
                self.stop(TimedOut())
            if self.closed:
                raise StepStopped
            if (entry := self.journal.release({intent.path})) is not None:
                self._turns.notify_all()
                return entry
            if (entry := self.journal.late({intent.path})) is not None:
                return entry
            if self.journal.exhausted or self.threads == 0 or not self._turns.wait(_OTHERS):
                break
        if (found := self.journal.stuck(ended=False)) is not None:
            self.stop(found)
            raise StepStopped
        return None

    def drafted(self) -> Turn:
        return Turn()

    async def deliver(self, turn: Turn) -> None:
        del turn

    def leave(self, path: str) -> None:
        del path

    def nudge(self) -> None:
        """Nobody waits in this thread; others of the code look now and then."""

    @property
    def idle_ns(self) -> int:
        return self._idle_ns

    async def park(self, path: str, wake_ns: int | None) -> None:
        del path
        begun = time.monotonic_ns()
        try:
            self._park(wake_ns)
        finally:
            self._idle_ns += time.monotonic_ns() - begun

    def _park(self, wake_ns: int | None) -> None:
        if self.threads:
            self._park_beside(wake_ns)
            return
        assert self._recorder is not None
        left = None if wake_ns is None else wake_ns - self._recorder.log.clock.now_ns()
        if left is not None and left <= HOLD_NS:
            self._pause(max(0, left) / NS)
        elif not self._pause(GRACE):
            self.stop(Suspended())
            raise StepStopped

    def watch(self, recorder: Recorder) -> None:
        """Whose news to hear while an effect waits."""
        self._recorder = recorder

    def _park_beside(self, wake_ns: int | None) -> None:
        """Wait while other threads of the code may work: the step is suspended when all of them wait.

        A thread cannot be woken by a commit without waiting for the lock: it looks now and then.
        """
        assert self._recorder is not None
        clock, begun = self._recorder.log.clock, time.monotonic()
        self._waiting += 1
        try:
            while not self.closed:
                left = None if wake_ns is None else (wake_ns - clock.now_ns()) / NS
                if (left is not None and left <= 0) or self._recorder.look(begins=True):
                    return
                late = time.monotonic() - begun > _BESIDE
                if self._waiting >= self.threads and late and (left is None or left > HOLD_NS / NS):
                    self.stop(Suspended())
                    break
                self._turns.wait(_BESIDE if left is None else min(_BESIDE, left))
        except Exception as error:
            self.stop(error)
            raise StepStopped from error
        finally:
            self._waiting -= 1
            self._turns.notify_all()
        raise StepStopped

    def _pause(self, seconds: float) -> bool:
        """Wait; whether somebody else has appended to the run meanwhile."""
        assert self._recorder is not None
        with self._heard(self._news.set):
            end = time.monotonic() + seconds
            while True:
                self._news.clear()
                try:
                    if self._recorder.look(begins=True):
                        return True
                except Exception as error:
                    self.stop(error)
                    raise StepStopped from error
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._news.wait(left)

    async def commit(
        self,
        recorder: Recorder,
        bodies: Bodies,
        *,
        begins: bool = False,
        first: First | None = None,
        family: Family | None = None,
    ) -> list[Event]:
        return recorder.commit(bodies, begins=begins, first=first, family=family)

    async def decide(self, log: Log, decision: Decision) -> list[Event]:
        return log.decide(decision)

    async def call(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **keywords: Any
    ) -> Any:
        with scope.outside():
            if timeout is not None and not inspect.iscoroutinefunction(function):
                result = _in_thread(lambda: function(*args, **keywords), timeout)
            else:
                result = function(*args, **keywords)
            if inspect.isawaitable(result):
                self._runner = self._runner or asyncio.Runner()
                return self._runner.run(_awaited(result, timeout))
        return result

    async def effect(self, work: Coroutine[Any, Any, T], abandoned: Callable[[], None]) -> T:
        del abandoned
        try:
            with self._turns:
                return await work
        except BaseException as error:
            if not isinstance(error, Exception):  # the worker ends: nobody records what the code makes of that
                self.stop(error)
            raise

    def flush_soon(self, recorder: Recorder) -> None:
        try:
            recorder.commit(lambda *_: ())
        except Exception as error:
            self.stop(error)
            raise StepStopped from error

    def stop(self, why: Any) -> None:
        self.stopped = self.stopped or why
        self.closed = True

    @property
    def calls(self) -> int:
        return 0

    def close(self) -> None:
        """Let go of the loop for async tools, if there was one."""
        if self._runner is not None:
            self._runner.close()


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("a blocking effect suspended")


def _in_thread(work: Callable[[], T], timeout: float) -> T:
    """Call `work` in a thread that is left behind if it takes longer: nothing can end a thread."""
    came: list[Any] = []

    def carry() -> None:
        try:
            came.append((work(), None))
        except BaseException as error:  # carried over to the caller, whatever it is
            came.append((None, error))

    thread = threading.Thread(target=carry, name="agentledger-call", daemon=True)
    thread.start()
    thread.join(timeout)
    if not came:
        raise TookTooLong(f"it took longer than {timeout:g} s")
    result, error = came[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


async def _awaited(awaitable: Any, timeout: float | None) -> Any:
    if timeout is None:
        return await awaitable
    done, _ = await asyncio.wait({asyncio.ensure_future(awaitable)}, timeout=timeout)
    if not done:
        raise TookTooLong(f"it took longer than {timeout:g} s")
    return done.pop().result()
