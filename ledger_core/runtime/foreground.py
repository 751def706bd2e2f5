"""Running a run where its caller waits: claim, carry, wait for what it waits for, claim again; and its children.

Rules: a time is waited for here, because nobody else may be there; what waits for a signal or a person is left waiting
unless the caller wants to wait for them too. Children that this process knows the code of are run beside their parent.
What another worker holds is that worker's: its news are waited for. This file decides nothing about runs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ledger_core.clock import NS
from ledger_core.errors import BadInput, LedgerError
from ledger_core.run import schedule
from ledger_core.run.state import RunState
from ledger_core.runtime import scope
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.carry import Carried, Carrier
from ledger_core.runtime.claims import Asked, Opening, agent_of
from ledger_core.runtime.folds import Fold, stream_of
from ledger_core.runtime.recorded import Result

if TYPE_CHECKING:
    from ledger_core.runtime.runtime import Runtime

_LOOK: Final = 1.0
"""Seconds after which a waiting caller looks whether the worker of a child is gone, or the clock was moved."""


class Foreground:
    """One call of `Runtime.run`: the run that it names, and the family that comes of it."""

    def __init__(self, runtime: Runtime, *, wait: bool) -> None:
        self._runtime = runtime
        self._wait = wait
        self._children: list[str] = []
        """Runs that were spawned and that nobody here has begun."""
        self._begun: set[str] = set()

    # Async

    async def arun(self, asked: Asked) -> Result:
        """An async agent's run, in the running loop, to its end or to where it waits for somebody."""
        tasks: dict[str, asyncio.Task[Any]] = {}

        def spawned(run_id: str) -> None:
            if run_id not in self._begun and (child := self._child(run_id)) is not None:
                self._begun.add(run_id)
                with scope.outside():
                    tasks[run_id] = asyncio.get_running_loop().create_task(self._abeside(child, run_id))

        opening = self._opening(asked)
        try:
            while True:
                events = await self._aclaim(opening)
                if opening.ended:
                    break
                carried = await self._acarry(opening, events, spawned)
                if carried.error is not None:
                    raise carried.error
                if carried.result is not None:
                    await _all(tasks)
                    return carried.result
                if not carried.goes_on or not await self._acome(opening.run_id, tasks):
                    break
            await _all(tasks)
            return self._runtime.result(opening.run_id)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _aclaim(self, opening: Opening) -> Any:
        """Claim the step; a claim that is in the log by the time that nobody wants it any more is given back."""
        claiming = asyncio.ensure_future(self._runtime.log.adecide(opening.decide))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            while not claiming.done():  # a commit is short, and whoever cancels twice would leave the claim
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({claiming})
            if not claiming.cancelled() and claiming.exception() is None and not opening.ended:
                await self._carrier(opening, claiming.result()).give_back()
            raise

    async def _acarry(self, opening: Opening, events: Any, spawned: Callable[[str], None]) -> Carried:
        carrier = self._carrier(opening, events)
        carrier.spawning(spawned)
        if carrier.execution.spec.is_async:
            return await carrier.acarry()
        return await asyncio.to_thread(carrier.carry)

    async def _abeside(self, spec: AgentSpec, run_id: str) -> None:
        """Run a child beside its parent; its errors are in its own run."""
        try:
            if spec.is_async:
                await self._runtime.arun(spec, run_id=run_id, wait=self._wait)
            else:
                await asyncio.to_thread(self._runtime.run, spec, run_id=run_id, wait=self._wait)
        except LedgerError:
            return  # it stands in the child's run, or another worker has it

    async def _acome(self, run_id: str, tasks: dict[str, asyncio.Task[Any]]) -> bool:
        """Wait until a run can go on; False if it waits for somebody, and nobody here shall."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def heard() -> None:
            loop.call_soon_threadsafe(news.set)

        with self._runtime.pulse.heard(heard):
            fold = Fold()
            while True:
                news.clear()
                busy = {task for task in tasks.values() if not task.done()}
                left = self._left(fold, run_id, own=bool(busy))
                if left is None or left == 0:
                    return left == 0
                waiting = {loop.create_task(news.wait()), *busy}
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in waiting - busy:
                    task.cancel()

    # Sync

    def run(self, asked: Asked) -> Result:
        """A sync agent's run, in this thread, to its end or to where it waits for somebody."""
        opening = self._opening(asked)
        while True:
            events = self._runtime.log.decide(opening.decide)
            if opening.ended:
                break
            carrier = self._carrier(opening, events)
            carrier.spawning(self._children.append)
            carried = asyncio.run(carrier.acarry()) if carrier.execution.spec.is_async else carrier.carry()
            if carried.error is not None:
                raise carried.error
            self._run_children()
            if carried.result is not None:
                return carried.result
            if not carried.goes_on or not self._come(opening.run_id):
                break
        return self._runtime.result(opening.run_id)

    def _run_children(self) -> None:
        children, self._children = self._children, []
        for run_id in children:
            spec = self._child(run_id)
            if spec is not None and run_id not in self._begun:
                self._begun.add(run_id)
                try:
                    self._runtime.run(spec, run_id=run_id, wait=self._wait)
                except LedgerError:
                    continue  # it stands in the child's run, or another worker has it

    def _come(self, run_id: str) -> bool:
        news, fold = threading.Event(), Fold()
        with self._runtime.pulse.heard(news.set):
            while True:
                news.clear()
                left = self._left(fold, run_id, own=False)
                if left is None or left == 0:
                    return left == 0
                news.wait(left)

    # Both

    def _opening(self, asked: Asked) -> Opening:
        return Opening(self._runtime.desk, asked, worker=self._runtime.worker_id, digest=self._runtime.digest)

    def _carrier(self, opening: Opening, events: Any) -> Carrier:
        name = opening.asked.created.agent if opening.fresh else agent_of(self._runtime.log, opening.run_id)
        spec = self._runtime.agents.get(name)
        if spec is None:
            raise BadInput(
                f"The step of run {opening.run_id} is agent {name}'s, whose code is not known here.",
                hint="Register it, or leave the run to a worker that serves it: agentledger worker TARGET.",
            )
        return Carrier(self._runtime, spec, opening.run_id, events, fresh=opening.fresh)

    def _child(self, run_id: str) -> AgentSpec | None:
        fold = Fold()
        fold.catch_up(self._runtime.log, stream_of(run_id))
        return None if fold.state.ended else self._runtime.agents.get(fold.state.step_agent)

    def _left(self, fold: Fold, run_id: str, *, own: bool) -> float | None:
        """Seconds until it is worth looking at a run again: 0 if it can be claimed, None if it waits for somebody."""
        fold.catch_up(self._runtime.log, stream_of(run_id))
        state = fold.state
        if state.ended or state.status == "pending":
            return 0
        place = schedule.place(state)
        key = place.key or b"x"
        if key.startswith(schedule.READY):
            return 0
        people = bool(state.waits) and all(one.kind in ("signal", "approval") for one in state.waits.values())
        if key.startswith(schedule.TIMER) and (self._wait or own or not people or state.retry_ns is not None):
            left = (int.from_bytes(key[1:9], "big") - self._runtime.log.clock.now_ns()) / NS
            return min(_LOOK, max(0.0, left))
        if key.startswith(schedule.HELD):
            if state.worker is not None and not self._runtime.alive(state.worker):
                return 0
            return _LOOK
        if key.startswith(schedule.ATTENTION):
            return None
        return _LOOK if self._wait or own or self._children_live(state) else None

    def _children_live(self, state: RunState) -> bool:
        """Whether some worker is at a child that the run waits for."""
        for one in state.waits.values():
            if one.kind == "child":
                fold = Fold()
                fold.catch_up(self._runtime.log, stream_of(one.name))
                worker = fold.state.worker
                if worker is not None and self._runtime.alive(worker):
                    return True
        return False


async def _all(tasks: dict[str, asyncio.Task[Any]]) -> None:
    """Wait for children that outlive their parent's last effect, as far as they go."""
    while left := [task for task in tasks.values() if not task.done()]:
        await asyncio.wait(left)
