"""A worker: takes runs from the queue and carries many at once, in one process, over one group commit.

Rules: it looks when a commit rings, when a run that it serves is due, and every few seconds (a clock may be moved, a
worker may die without a word); between looks it sleeps. Looking writes nothing. It frees the runs of workers that are
gone, takes only what it serves, and hands back what it holds when it is told to end. That a step was lost is said, not
hidden. What one run raises harms no other. This file decides nothing about runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from ledger_core.clock import NS
from ledger_core.errors import BadInput, Diverged, Fenced, InDoubt, LedgerError, Refused
from ledger_core.ids import check_name
from ledger_core.log.log import Event
from ledger_core.run.schedule import Offer
from ledger_core.runtime import claims
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.carry import Carried, Carrier
from ledger_core.runtime.driver import LOOK, HandedBack

if TYPE_CHECKING:
    from ledger_core.runtime.runtime import AnyAgent, Runtime

log = logging.getLogger("agentledger")
_RECOVER_NS: Final = NS
"""Pause between looks for workers that are gone."""
_NEAR: Final = 1.0
"""Seconds between looks while others hold something: they may be killed, which no commit says."""
_AFTER_ERROR: Final = 1.0
"""Seconds without a claim after the ledger could not be written."""


class Worker:
    """Serves agents' runs from one ledger; made by `Runtime.worker`."""

    def __init__(
        self,
        runtime: Runtime,
        agents: Iterable[AnyAgent],
        *,
        concurrency: int,
        capabilities: Iterable[str],
        any_code: bool,
        grace: float,
    ) -> None:
        specs = [runtime.register_agent(declared) for declared in agents]
        if not specs:
            raise BadInput("A worker needs an agent to serve.", hint="Pass functions decorated with @agent.")
        if type(concurrency) is not int or not 1 <= concurrency <= 100_000:
            raise BadInput(f"A concurrency of {concurrency!r:.50} is none.", hint="It is a whole number from 1 up.")
        if isinstance(capabilities, str):
            raise BadInput("Capabilities are a list of names.", hint='Write capabilities=["gpu"].')
        self._runtime = runtime
        self._agents: dict[str, AgentSpec] = {spec.name: spec for spec in specs}
        self._capabilities = frozenset(check_name(name, "capability") for name in capabilities)
        self._any_code = any_code
        self._concurrency = concurrency
        self._grace = grace
        self._tasks: dict[asyncio.Task[None], Carrier] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._recovered_ns = 0
        self._paused_until = 0.0
        self.looks = 0
        """How often it woke to look."""
        self.carried = 0
        """How many claims it has carried."""

    @property
    def worker_id(self) -> str:
        """The name under which it holds steps."""
        return self._runtime.worker_id

    def run(self, *, drain: bool = False) -> None:
        """`serve`, in an event loop of its own, until `stop`; Ctrl-C hands back what it holds, and is raised."""
        asyncio.run(self.serve(drain=drain))

    def stop(self) -> None:
        """Claim nothing more; what is held has `grace` seconds to end and is handed back then. From any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            self._ending.set()
        else:
            loop.call_soon_threadsafe(self._ending.set)

    async def serve(self, *, drain: bool = False) -> None:
        """Serve runs until `stop`; or, to `drain`, until nothing is held and nothing can be claimed."""
        self._loop = asyncio.get_running_loop()
        rung = asyncio.Event()
        loop = self._loop

        def ring() -> None:
            try:
                loop.call_soon_threadsafe(rung.set)
            except RuntimeError:
                return  # the loop has ended in this moment

        with self._runtime.pulse.heard(ring):
            try:
                while not self._ending.is_set():
                    rung.clear()
                    self.looks += 1
                    await self._look()
                    if drain and not self._tasks and loop.time() >= self._paused_until:
                        return  # it looked, and took nothing: what is left is not for it
                    await self._sleep(rung)
            finally:
                await self._hand_back()

    async def once(self) -> int:
        """Claim what there is, up to the concurrency, and carry it as far as it goes; how many claims that were."""
        self._loop = asyncio.get_running_loop()
        before = self.carried
        try:
            await self._look()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            await self._hand_back()
        return self.carried - before

    # Looking

    async def _look(self) -> None:
        try:
            self._recover()
            while self._claimable():
                taken: list[str] = []
                free = self._concurrency - len(self._tasks)
                claim = claims.claim_next(self._runtime.desk, self._offer(), self.worker_id, free, taken)
                events = await self._runtime.log.adecide(claim)
                if not taken:
                    return
                for run_id in taken:
                    self._begin(run_id, [event for event in events if event.stream == f"run/{run_id}"])
        except LedgerError as error:
            log.error("The ledger could not be looked at: %s", error)  # noqa: TRY400  # one sentence, no traceback
            self._paused_until = asyncio.get_running_loop().time() + _AFTER_ERROR

    def _claimable(self) -> bool:
        paused = asyncio.get_running_loop().time() < self._paused_until
        return not self._ending.is_set() and not paused and len(self._tasks) < self._concurrency and self._more()

    def _more(self) -> bool:
        return claims.ready(self._runtime.log, self._offer())

    def _offer(self) -> Offer:
        digests = {name: spec.code_digest for name, spec in self._agents.items()}
        return Offer(agents=digests, capabilities=self._capabilities, any_code=self._any_code)

    def _recover(self) -> None:
        now = self._runtime.log.clock.monotonic_ns()
        if now - self._recovered_ns >= _RECOVER_NS or not self._recovered_ns:
            self._recovered_ns = now
            for run_id in self._runtime.recover_expired_leases():
                log.info("Freed run %s: its worker is gone or gave no sign of life.", run_id)

    async def _sleep(self, rung: asyncio.Event) -> None:
        """Until a commit rings, a run is due, a slot is free, the end, or the next look."""
        left = _NEAR if claims.held_by_others(self._runtime.log, self.worker_id) else LOOK
        if len(self._tasks) < self._concurrency:
            wake_ns = claims.wakes(self._runtime.log, self._offer())
            if wake_ns is not None:
                left = min(left, max(0.001, (wake_ns - self._runtime.log.clock.now_ns()) / NS))
        waits = [asyncio.ensure_future(rung.wait()), asyncio.ensure_future(self._ending.wait())]
        full = len(self._tasks) >= self._concurrency
        try:
            await asyncio.wait(
                [*self._tasks, *(waits[1:] if full else waits)], timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()

    # Carrying

    def _begin(self, run_id: str, events: list[Event]) -> None:
        agent = claims.agent_of(self._runtime.log, run_id)
        try:
            carrier = Carrier(self._runtime, self._agents[agent], run_id, events, fresh=False)
        except LedgerError as error:  # forgotten, damaged: said, and left alone until a person looks
            log.error("Run %s cannot be carried: %s", run_id, error)  # noqa: TRY400
            return
        task = asyncio.get_running_loop().create_task(self._carry(run_id, carrier))
        self._tasks[task] = carrier
        task.add_done_callback(self._done)

    async def _carry(self, run_id: str, carrier: Carrier) -> None:
        self.carried += 1
        try:
            if carrier.execution.spec.is_async:
                carried = await carrier.acarry()
            else:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="agentledger-sync")
                carried = await asyncio.get_running_loop().run_in_executor(self._threads, carrier.carry)
        except Exception as error:
            log.error("Run %s was given back: %s: %s", run_id, type(error).__name__, error)  # noqa: TRY400
            self._paused_until = asyncio.get_running_loop().time() + _AFTER_ERROR
        else:
            _say(run_id, carried)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("A run was given up: %s: %s", type(error).__name__, error)

    async def _hand_back(self) -> None:
        """Let what is held end, for `grace` seconds; then stop it at its next effect, and give it back."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace)
        for carrier in self._tasks.values():
            carrier.execution.stop(HandedBack())
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None


def _say(run_id: str, carried: Carried) -> None:
    """What a person must hear of."""
    error = carried.error
    if isinstance(error, Fenced):
        log.warning("Lost run %s: %s", run_id, error.sentence)
    elif isinstance(error, (Diverged, InDoubt, BadInput)):
        log.warning("Run %s waits for a person: %s", run_id, error)
    elif isinstance(error, Refused):
        log.info("Run %s: %s", run_id, error)
    elif error is not None:
        log.error("Run %s was given back: %s", run_id, error)
