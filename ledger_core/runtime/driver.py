"""Two ways to carry an agent's code: in an event loop, or in the calling thread. The same effects run on both.

Rules: a driver gives effects their turn (a recorded outcome in its recorded order, or leave to go live), delivers live
outcomes in the order in which they were drafted, one at a time, when the code can do no more without one, and stops
the code for good where it may not go on. In a loop no exception carries a stop through the agent: what waits is never
answered, and the code is cancelled. A driver never knows what effects do.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, Protocol, TypeVar

import attrs

from ledger_core.log.log import Event
from ledger_core.run.journal import Entry, Intent, Journal
from ledger_core.runtime import scope
from ledger_core.runtime.recorder import Bodies, Recorder
from ledger_core.runtime.scope import Scope

T = TypeVar("T")
_PASSES: Final = 8
"""Passes of the loop without a move of the run before it counts as quiet: a gather within a gather takes one."""


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

    async def effect(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry an effect to its end, even if the code that asked for it is cancelled."""
        ...

    def flush_soon(self, recorder: Recorder) -> None:
        """Have what rides appended, without waiting for it."""
        ...

    def stop(self, why: Any) -> None:
        """Let the code go no further, because of `why`."""
        ...

    async def halt(self) -> NoReturn:
        """Never return: the code was stopped."""
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
        if (entry := self.journal.release()) is not None:
            return entry
        if (found := self.journal.stuck(ended=False)) is not None:
            self.stop(found)
            await self.halt()
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

    async def effect(self, work: Coroutine[Any, Any, T]) -> T:
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

    async def halt(self) -> NoReturn:
        raise StepStopped

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


class AsyncDriver:
    """Carries async code in the running loop, beside whatever else runs there."""

    def __init__(self, journal: Journal, root: Scope) -> None:
        self.journal = journal
        self.stopped: Any = None
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._tasks = root.tasks
        self._halted = self._loop.create_future()
        self._waiting: dict[str, asyncio.Future[Entry | None]] = {}
        self._drafted: deque[Turn] = deque()
        self._pumping = False
        self._quiet = 0
        self._working: set[asyncio.Future[Any]] = set()

    async def turn(self, intent: Intent) -> Entry | None:
        if self.journal.exhausted and not self._waiting:
            return None
        waiter = self._waiting[intent.path] = self._loop.create_future()
        self._pump_soon()
        entry: Entry | None = await waiter
        return entry

    def drafted(self) -> Turn:
        turn = Turn()
        self._drafted.append(turn)
        return turn

    async def deliver(self, turn: Turn) -> None:
        turn.ready = True
        if len(self._tasks) == 1 and self._drafted[0] is turn:
            self._drafted.popleft()  # one task, waiting for this: nothing else of the run can move
            return
        turn.waiter = self._loop.create_future()
        self._pump_soon()
        await turn.waiter

    async def commit(self, recorder: Recorder, bodies: Bodies) -> list[Event]:
        return await recorder.acommit(bodies)

    async def call(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args, **keywords)
        context = contextvars.copy_context()
        result = await self._loop.run_in_executor(None, lambda: context.run(function, *args, **keywords))
        return await result if inspect.isawaitable(result) else result

    async def effect(self, work: Coroutine[Any, Any, T]) -> T:
        with scope.outside():
            task = self._loop.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return await asyncio.shield(task)

    def flush_soon(self, recorder: Recorder) -> None:
        with scope.outside():
            task = self._loop.create_task(recorder.acommit(lambda *_: ()))
        self._working.add(task)
        task.add_done_callback(self._flushed)

    def stop(self, why: Any) -> None:
        self.stopped = self.stopped or why
        self.closed = True
        if not self._halted.done():
            self._halted.set_result(None)

    async def halt(self) -> NoReturn:
        await self._loop.create_future()
        raise AssertionError("the code was stopped, and goes on")

    async def carry(self, main: Coroutine[Any, Any, T], root: Scope) -> T:
        """Run the agent's own coroutine to its end; raises `StepStopped` once it was stopped and torn down."""
        with scope.outside():
            task = self._loop.create_task(_inside(root, main))
        self._tasks.add(task)
        try:
            await asyncio.wait({task, self._halted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._tear_down(task)
        if self.stopped is not None:
            raise StepStopped
        return task.result()

    async def finish(self) -> None:
        """Let effects that nobody waits for any more come to their ends, and so into the log."""
        while self._working:
            await asyncio.wait(set(self._working))

    async def _tear_down(self, task: asyncio.Task[Any]) -> None:
        self.closed = True
        self._tasks.discard(task)
        left = {one for one in {*self._tasks, task} if not one.done()}
        if left:
            for one in left:
                one.cancel()
            await asyncio.wait(left)
        for turn in self._drafted:
            if turn.waiter is not None and not turn.waiter.done():
                turn.waiter.cancel()

    def _flushed(self, task: asyncio.Future[Any]) -> None:
        self._working.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stop(error)

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._quiet = 0
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Release one outcome when the run is quiet; look again on the loop's next pass while there is more."""
        if self.stopped is not None:
            self._pumping = False
            return
        self._quiet = self._quiet + 1 if self._blocked() else 0
        if self._quiet >= (_PASSES if len(self._tasks) > 1 else 1):
            self._quiet = 0
            if not self._release():
                self._pumping = False
                return
        self._loop.call_soon(self._pump)

    def _blocked(self) -> bool:
        """Whether every task of the run waits for a future that is not there yet."""
        for task in self._tasks:
            waiter = getattr(task, "_fut_waiter", None)
            if not task.done() and (waiter is None or waiter.done()):
                return False
        return True

    def _release(self) -> bool:
        """Give the code the next thing it may have; False if there is nothing that it could be given now."""
        if (entry := self.journal.release()) is not None:
            waiter = self._waiting.pop(entry.intent.path, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(entry)
            return True
        if not self.journal.exhausted:
            if (found := self.journal.stuck(ended=False)) is not None:
                self.stop(found)
            return False
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            for waiter in waiting.values():
                if not waiter.done():
                    waiter.set_result(None)
            return True
        if self._drafted and self._drafted[0].ready:
            turn = self._drafted.popleft()
            if turn.waiter is not None and not turn.waiter.done():
                turn.waiter.set_result(None)
            return True
        return False


async def _inside(root: Scope, main: Coroutine[Any, Any, T]) -> T:
    with scope.entered(root):
        return await main


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
