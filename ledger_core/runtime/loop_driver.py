"""The driver for async code: in the running loop, beside whatever else runs there.

Rules: as in `driver`. The run is quiet when all its tasks wait, and have waited for the same for a number of passes of
the loop; then, and only then, one outcome is released. Code that waits for something of its own (a sleep, a thread)
is given time before it is said to have diverged. This file knows no effects.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, Final, TypeVar

from ledger_core.clock import NS, SYSTEM, Clock
from ledger_core.log.log import Decision, Event, Log
from ledger_core.run.journal import Entry, Intent, Journal
from ledger_core.runtime import scope
from ledger_core.runtime.driver import (
    GRACE,
    HOLD_NS,
    LOOK,
    Heard,
    StepStopped,
    Suspended,
    TimedOut,
    TookTooLong,
    Turn,
    unheard,
)
from ledger_core.runtime.own_waits import waits_of_its_own
from ledger_core.runtime.recorder import Bodies, Family, First, Recorder
from ledger_core.runtime.scope import Scope

T = TypeVar("T")
_PASSES: Final = 32
"""Passes of the loop without a move of the run before it counts as quiet: a gather within a gather takes one."""
_RESTLESS: Final = 1000
"""Passes after which code that never rests (it polls with `sleep(0)`) is given what it waits for all the same."""
_PATIENCE: Final = 0.01
"""Seconds between looks at a run that waits for something of its own before it asks for what is recorded."""
_GRACE: Final = 60.0
"""Seconds after which code that waits for something of its own, and leaves out what is recorded, has diverged."""


class AsyncDriver:
    """Carries async code in the running loop, beside whatever else runs there."""

    def __init__(
        self,
        journal: Journal,
        root: Scope,
        *,
        clock: Clock = SYSTEM,
        heard: Heard = unheard,
        timeout_ns: int | None = None,
    ) -> None:
        self.journal = journal
        self._clock = clock
        self._heard = heard
        self._timeout = None if timeout_ns is None else timeout_ns / NS
        self._listening = ExitStack()
        self._recorder: Recorder | None = None
        self._parked: dict[str, tuple[asyncio.Future[None], int | None]] = {}
        self._parked_since = 0.0
        self._carrier: asyncio.Task[Any] | None = None
        self._idle_ns = 0
        self._idle_since: int | None = None
        self._context = scope.outer_context()
        """For the driver's own callbacks: a timer in the agent's context would pass for one of the agent's."""
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
        self._calls = 0
        self._seen: list[Any] = []
        self._passes = 0
        self._stuck_since = 0.0
        self._doubts = 0
        """How often in a row the code was found to have diverged: what was released may still be on its way to it."""

    async def turn(self, intent: Intent) -> Entry | None:
        if self.closed:
            raise StepStopped
        if self.journal.exhausted and not self._waiting and self._recorder is not None:
            return None
        if self._recorder is not None:
            self._listen()
        self._doubts = 0
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
        if self.closed:
            return
        if len(self._tasks) == 1 and self._drafted[0] is turn:
            self._drafted.popleft()  # one task, waiting for this: nothing else of the run can move
            if self._drafted:  # nobody waited for this one any more: the task waits for one behind it
                self._pump_soon()
            return
        turn.waiter = self._loop.create_future()
        self._pump_soon()
        await turn.waiter

    def watch(self, recorder: Recorder) -> None:
        """Whose news to hear while effects wait."""
        self._recorder = recorder

    def nudge(self) -> None:
        for waiter, _ in list(self._parked.values()):
            _answer(waiter)

    @property
    def idle_ns(self) -> int:
        since = 0 if self._idle_since is None else time.monotonic_ns() - self._idle_since
        return self._idle_ns + since

    def _rested(self) -> None:
        """Note whether every effect that is under way is parked: only then does time stand still."""
        idle = len(self._parked) > 0 and len(self._parked) >= len(self._working)
        now = time.monotonic_ns()
        if idle and self._idle_since is None:
            self._idle_since = now
        elif not idle and self._idle_since is not None:
            self._idle_ns += now - self._idle_since
            self._idle_since = None

    async def park(self, path: str, wake_ns: int | None) -> None:
        waiter = self._loop.create_future()
        left = LOOK if wake_ns is None else min(LOOK, max(0, wake_ns - self._clock.now_ns()) / NS)
        timer = self._loop.call_later(left, _answer, waiter)
        self._listen()
        self._parked[path] = (waiter, wake_ns)
        self._rested()
        self._pump_soon()
        try:
            await waiter
        finally:
            timer.cancel()
            self._parked.pop(path, None)
            self._rested()

    def _listen(self) -> None:
        """Hear of what others append to the run, from the first wait to the end; and look once: it may be there."""
        if self._heard is not unheard:
            heard, self._heard = self._heard, unheard
            self._listening.enter_context(heard(self._rung))
            self._loop.call_soon(self._news)

    def _rung(self) -> None:
        self._loop.call_soon_threadsafe(self._news)

    def _news(self) -> None:
        if self._recorder is None or self.closed:
            return
        try:
            news = self._recorder.look(begins=True)
        except Exception as error:  # fenced, to be cancelled, damaged: the code may not go on
            self.stop(error)
            return
        if news:
            self._parked_since = 0.0
            for waiter, _ in list(self._parked.values()):
                _answer(waiter)

    def leave(self, path: str) -> None:
        """End a wait that the code has given up: it must take no answer from those who still wait."""
        if path in self._parked and not self._parked[path][0].done():
            self._parked[path][0].set_exception(StepStopped())

    async def commit(
        self,
        recorder: Recorder,
        bodies: Bodies,
        *,
        begins: bool = False,
        first: First | None = None,
        family: Family | None = None,
    ) -> list[Event]:
        return await recorder.acommit(bodies, begins=begins, first=first, family=family)

    async def decide(self, log: Log, decision: Decision) -> list[Event]:
        return await log.adecide(decision)

    async def call(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **keywords: Any
    ) -> Any:
        self._calls += 1
        if inspect.iscoroutinefunction(function):
            try:
                return await _in_time(function(*args, **keywords), timeout)
            finally:
                self._calls -= 1
        context = contextvars.copy_context()
        done = self._loop.run_in_executor(None, lambda: context.run(_contained, function, args, keywords))
        done.add_done_callback(self._called)
        result, error = await _in_time(asyncio.shield(done), timeout)
        if error is not None:
            raise error
        return await _in_time(result, timeout) if inspect.isawaitable(result) else result

    async def effect(self, work: Coroutine[Any, Any, T], abandoned: Callable[[], None]) -> T:
        # not `create_task`: the factory's counting is for the agent's own tasks, and this is the hot path
        task = asyncio.Task(work, loop=self._loop, context=scope.outer_context())
        self._working.add(task)
        if self._idle_since is not None:
            self._rested()
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except StepStopped:
            await self._loop.create_future()  # until the code is torn down
            raise
        except asyncio.CancelledError:  # by the code; where the whole loop ends, it has given up nothing
            ends = self._carrier is not None and self._carrier.cancelling() > 0
            if not ends and not self.closed and not task.cancelled():
                abandoned()
                self._pump_soon()
            raise
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            self.stop(error)  # the worker ends: what the code would make of that is nobody's record
            await self._loop.create_future()
            raise

    @property
    def calls(self) -> int:
        return self._calls

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

    async def carry(self, main: Coroutine[Any, Any, T], root: Scope) -> T:
        """Run the agent's own coroutine to its end; raises `StepStopped` once it was stopped and torn down."""
        self._carrier = asyncio.current_task()
        with scope.outside():
            task = self._loop.create_task(_inside(root, main))
        self._tasks.add(task)
        task.add_done_callback(_seen)
        try:
            done, _ = await asyncio.wait(
                {task, self._halted}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                self.stop(TimedOut())
        finally:
            await self._tear_down(task)
        if self.stopped is not None:
            raise StepStopped
        return task.result()

    async def finish(self) -> None:
        """Let effects that are under way come to their ends, and so into the log; those without a turn end here."""
        cancelled = False
        self._listening.close()
        while self._working:
            self._end_waiting()
            try:
                await asyncio.wait(set(self._working))
            except asyncio.CancelledError:
                cancelled = True  # once more after the ends: a write under way must not be left to another worker
        if cancelled:
            raise asyncio.CancelledError

    def _end_waiting(self) -> None:
        """The code is gone: what it asked for and has not begun is not begun, and nobody's turn is waited for."""
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(StepStopped())
        self._waiting.clear()
        for parked, _ in self._parked.values():
            if not parked.done():
                parked.set_exception(StepStopped())
        for turn in self._drafted:
            if turn.waiter is not None and not turn.waiter.done():
                turn.waiter.set_result(None)

    async def _tear_down(self, task: asyncio.Task[Any]) -> None:
        self.closed = True
        self._tasks.discard(task)
        left = {one for one in {*self._tasks, task} if not one.done()}
        if left:
            for one in left:
                one.cancel()
            await asyncio.wait(left)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)
        if self._parked:
            self._rested()
            self._pump_soon()
        _seen(task)

    def _called(self, _: object) -> None:
        self._calls -= 1

    def _flushed(self, task: asyncio.Future[Any]) -> None:
        self._working.discard(task)
        if self._parked:
            self._pump_soon()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stop(error)

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._quiet = 0
            self._loop.call_soon(self._pump, context=self._context)

    def _pump(self) -> None:
        """Release one outcome when the run is quiet; look again on the loop's next pass while there is more."""
        if self.closed:
            self._pumping = False
            return
        if self._rests():
            self._quiet = self._passes = 0
            try:
                released = self._release()
            except Exception as error:  # nobody would hear of it, and the code would wait for ever
                self.stop(error)
                released = False
            if not released:
                self._pumping = False
                return
        self._loop.call_soon(self._pump, context=self._context)

    def _rests(self) -> bool:
        """Whether the run can do no more: all its tasks wait, and have waited for the same for `_PASSES` passes."""
        self._passes += 1
        if self._passes > _RESTLESS:
            return True
        if 0 < self._quiet < _PASSES and len(self._tasks) > 1:
            self._quiet += 1
            return False
        now = [getattr(task, "_fut_waiter", None) for task in self._tasks]
        if any(waiter is None or waiter.done() for waiter in now):
            self._quiet = 0
            return False
        rests = len(self._tasks) <= 1 or (self._quiet == _PASSES and now == self._seen)
        self._quiet, self._seen = 1, now
        return rests

    def _release(self) -> bool:
        """Give the code the next thing it may have; False if there is nothing that it could be given now."""
        if (entry := self.journal.release(self._waiting)) is not None:
            return self._given(entry)
        if not self.journal.exhausted:
            found = self.journal.stuck(ended=False)
            if found is None and len(self._waiting) == len(self._working):
                found = self.journal.held_up()
            if found is not None:
                self._stuck_since = self._stuck_since or self._loop.time()
                others = waits_of_its_own(self._loop, self._tasks)
                if others and self._loop.time() - self._stuck_since < _GRACE:
                    self._loop.call_later(_PATIENCE, self._pump_soon, context=self._context)
                elif self._doubts < _PASSES:
                    self._doubts += 1
                    return True
                else:
                    self.stop(found)
            return False
        left_open = self._waiting and self._recorder is None and self.journal.recorded(self._waiting)
        if left_open and waits_of_its_own(self._loop, self._tasks):
            self._loop.call_later(_PATIENCE, self._pump_soon, context=self._context)
            return False  # the record leaves them open, and so may the code
        if self._waiting:
            if (entry := self.journal.late(self._waiting)) is not None:
                return self._given(entry)
            waiting, self._waiting = self._waiting, {}
            for path, waiter in waiting.items():
                if waiter.done():
                    continue
                if self.journal.idle(path, live=self._recorder is not None):
                    waiter.set_exception(StepStopped())
                else:
                    waiter.set_result(None)
            return True
        if self._drafted and self._drafted[0].ready:
            turn = self._drafted.popleft()
            if turn.waiter is not None and not turn.waiter.done():
                turn.waiter.set_result(None)
            return True
        if self._parked:
            self._suspend()
        return False

    def _given(self, entry: Entry) -> bool:
        self._stuck_since, self._doubts = 0.0, 0
        if (waiter := self._waiting.pop(entry.intent.path, None)) is not None and not waiter.done():
            waiter.set_result(entry)
        return True

    def _suspend(self) -> None:
        """Stop the step if all its branches wait for what needs no worker; look again where that may come to be."""
        if self._drafted or len(self._parked) < len(self._working):
            return  # something is under way: its end pumps
        if waits_of_its_own(self._loop, self._tasks):
            self._loop.call_later(1.0, self._pump_soon, context=self._context)
            return
        times = [wake_ns for _, wake_ns in self._parked.values() if wake_ns is not None]
        if times and min(times) - self._clock.now_ns() <= HOLD_NS:
            return  # the wait itself ends soon
        now = self._loop.time()
        self._parked_since = self._parked_since or now
        if now - self._parked_since < GRACE:
            self._loop.call_later(GRACE, self._pump_soon, context=self._context)
        else:
            self.stop(Suspended())


def _answer(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _in_time(awaitable: Any, timeout: float | None) -> Any:
    if timeout is None:
        return await awaitable
    work = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait({work}, timeout=timeout)
    if not done:
        work.cancel()
        work.add_done_callback(_seen)
        raise TookTooLong(f"it took longer than {timeout:g} s")
    return work.result()


def _seen(task: asyncio.Task[Any]) -> None:
    """Look at a task's error: nobody may be left who waits for it, and asyncio would complain at its end."""
    if not task.cancelled():
        task.exception()


def _contained(function: Callable[..., Any], args: Any, keywords: Any) -> tuple[Any, Exception | None]:
    """A call's result or error as values: a future cannot carry a StopIteration."""
    try:
        return function(*args, **keywords), None
    except StopIteration as error:
        return None, RuntimeError(f"StopIteration: {error.value}")
    except Exception as error:
        return None, error


async def _inside(root: Scope, main: Coroutine[Any, Any, T]) -> T:
    with scope.entered(root):
        return await main
