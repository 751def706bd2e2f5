"""How an agent's code is carried: what effects ask of a driver, and the driver for code in the calling thread.

Rules: a driver gives effects their turn (a recorded outcome in its recorded order, or leave to go live), delivers live
outcomes in the order in which they were drafted, one at a time, when the code can do no more without one, and stops
the code for good where it may not go on. In a loop no exception carries a stop through the agent: what waits is never
answered, and the code is cancelled (`loop_driver`). A driver never knows what effects do.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import attrs

from ledger_core.log.log import Event
from ledger_core.run.journal import Entry, Intent, Journal
from ledger_core.runtime import scope
from ledger_core.runtime.recorder import Bodies, Recorder

T = TypeVar("T")


class StepStopped(BaseException):
    """Ends agent code that may not go on; not an `Exception`, so that no agent mistakes it for a failure of its own."""


@attrs.define(eq=False)
class Turn:
    """A live outcome's place in the order of delivery."""

    ready: bool = False
    waiter: asyncio.Future[None] | None = None


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

    async def commit(self, recorder: Recorder, bodies: Bodies) -> list[Event]:
        """Append durably."""
        ...

    async def call(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Call a function of the user's, sync or async; within `effect`, and so outside the agent's scope."""
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
    """Carries sync code in its own thread; its coroutines never suspend, so `run_blocking` steps through them."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.stopped: Any = None
        self.closed = False
        self._runner: asyncio.Runner | None = None

    async def turn(self, intent: Intent) -> Entry | None:
        del intent
        if self.closed:
            raise StepStopped
        if (entry := self.journal.release()) is not None:
            return entry
        if (found := self.journal.stuck(ended=False)) is not None:
            self.stop(found)
            raise StepStopped
        return None

    def drafted(self) -> Turn:
        return Turn()

    async def deliver(self, turn: Turn) -> None:
        del turn

    async def commit(self, recorder: Recorder, bodies: Bodies) -> list[Event]:
        return recorder.commit(bodies)

    async def call(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        with scope.outside():
            result = function(*args, **keywords)
            if inspect.isawaitable(result):
                self._runner = self._runner or asyncio.Runner()
                return self._runner.run(_awaited(result))
        return result

    async def effect(self, work: Coroutine[Any, Any, T], abandoned: Callable[[], None]) -> T:
        del abandoned
        return await work

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


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
