"""One execution of an agent's code against a journal: live on what is new, or answered from the record alone.

Rules: what an execution comes to is a value (`Ended`): the code returned, raised, or was stopped. Nothing is decided
here about the run. This file does not claim steps and appends nothing by itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import attrs

from ledger_core.clock import Clock
from ledger_core.errors import BadInput
from ledger_core.governance.tool import ToolSpec
from ledger_core.run.journal import Journal
from ledger_core.runtime import scope
from ledger_core.runtime.agent import AgentSpec, Provider
from ledger_core.runtime.agent_context import AgentContext
from ledger_core.runtime.context import made_current
from ledger_core.runtime.driver import BlockingDriver, Driver, HandedBack, Heard, StepStopped, unheard
from ledger_core.runtime.effect import Surroundings
from ledger_core.runtime.effects import AllEffects
from ledger_core.runtime.loop_driver import AsyncDriver
from ledger_core.runtime.recorder import Recorder
from ledger_core.runtime.scope import Scope
from ledger_core.runtime.sync_context import SyncContext

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Ended:
    """How an execution ended: with an output, an error of the code's, or stopped by `stopped`."""

    output: Any = None
    error: Exception | None = None
    stopped: Any = None
    state: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Execution:
    """All that an execution needs; `recorder` is None where nothing may be live."""

    spec: AgentSpec
    journal: Journal
    recorder: Recorder | None
    tag: Callable[[bytes], bytes]
    tools: Mapping[str, ToolSpec]
    model: Callable[[str], Provider]
    seed: bytes
    lineage_seed: bytes
    """What random numbers derive from: the seed of the first run of its line of forks."""
    run_id: str
    step_id: str
    step_number: int
    attempt: int
    epoch: int
    session_id: str | None
    variables: dict[str, Any]
    state: dict[str, Any]
    clock: Clock
    surroundings: Surroundings = attrs.field(factory=Surroundings)
    heard: Heard = unheard
    timeout_ns: int | None = None
    drivers: list[Driver] = attrs.field(factory=list)
    """The driver, while there is one: whoever holds this may stop it."""
    effects: list[AllEffects] = attrs.field(factory=list)
    """Those of the code, while it is executed, and afterwards."""
    left: list[None] = attrs.field(factory=list)
    """One for each call of the user's that was still under way when the execution was broken off."""

    def run(self) -> Ended:
        """Execute sync code in this thread."""
        driver = BlockingDriver(self.journal, self.heard, self.timeout_ns)
        if self.recorder is not None:
            driver.watch(self.recorder)
        root = self._root()
        self.drivers.append(driver)
        context = SyncContext(self._effects(driver), **self._identity(root))
        try:
            with scope.entered(root), made_current(context):
                output = self.spec.function(*self._arguments(context))
            if hasattr(output, "__await__"):
                raise BadInput(f"Agent {self.spec.name} returned an awaitable.", hint="Declare it with `async def`.")
        except StepStopped:
            return Ended(stopped=driver.stopped)
        except Exception as error:  # whatever it is, it is the agent's outcome
            return self._ended(driver, context, error=error)
        finally:
            driver.closed = True
            driver.close()
        return self._ended(driver, context, output=output)

    async def arun(self) -> Ended:
        """Execute async code in the running loop."""
        root = self._root()
        driver = AsyncDriver(self.journal, root, clock=self.clock, heard=self.heard, timeout_ns=self.timeout_ns)
        if self.recorder is not None:
            driver.watch(self.recorder)
        self.drivers.append(driver)
        context = AgentContext(self._effects(driver), **self._identity(root))
        try:
            with scope.tasks_counted(asyncio.get_running_loop()), made_current(context):
                output = await driver.carry(self.spec.function(*self._arguments(context)), root)
        except StepStopped:
            await driver.finish()
            return Ended(stopped=driver.stopped)
        except Exception as error:  # whatever it is, it is the agent's outcome
            await driver.finish()
            return self._ended(driver, context, error=error)
        except BaseException:  # cancelled from outside: first what is under way, so that nobody else does it again
            try:
                await driver.finish()
            finally:
                self.left.extend([None] * driver.calls)
            raise
        await driver.finish()
        return self._ended(driver, context, output=output)

    def _ended(self, driver: Driver, context: Any, *, output: Any = None, error: Exception | None = None) -> Ended:
        """The code came to its end; it diverged if it was stopped, or left something recorded out."""
        # a worker that ends was to be handed back what has ended meanwhile: the end is worth more
        why = None if isinstance(driver.stopped, HandedBack) else driver.stopped
        stopped = why or driver.journal.stuck(ended=True)
        if stopped is not None:
            return Ended(stopped=stopped)
        return Ended(output=output, error=error, state=context.state)

    def stop(self, why: Any) -> None:
        """Let the code go no further than its next effect."""
        for driver in self.drivers:
            driver.stop(why)

    def _root(self) -> Scope:
        """The agent's own scope; a later step's has the step's number in it, so that no path of a run is used twice."""
        return Scope("" if self.step_number <= 1 else f"#{self.step_number}/")

    @property
    def worked_ns(self) -> int:
        """For how long the code has worked since the budgets were told."""
        return sum(one._worked_ns() for one in self.effects)

    def _effects(self, driver: Driver) -> AllEffects:
        found = AllEffects(
            driver=driver,
            recorder=self.recorder,
            tag=self.tag,
            tools=self.tools,
            model=self.model,
            seed=self.seed,
            lineage_seed=self.lineage_seed,
            surroundings=self.surroundings,
        )
        self.effects.append(found)
        return found

    def _identity(self, root: Scope) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "step_id": self.step_id,
            "attempt": self.attempt,
            "epoch": self.epoch,
            "variables": self.variables,
            "root": root,
            "session_id": self.session_id,
            "state": dict(self.state),
            "clock": self.clock,
        }

    def _arguments(self, context: Any) -> tuple[Any, ...]:
        return (context, context.state) if self.spec.takes_state else (context,)


def in_own_thread(work: Callable[[], T]) -> T:
    """Call `work` where no event loop runs: here, or, inside a loop (a notebook), in a thread of its own."""
    if asyncio._get_running_loop() is None:
        return work()
    done: Future[T] = Future()

    def carry() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # carried over to the caller, whatever it is
            done.set_exception(error)

    threading.Thread(target=carry, name="agentledger-run").start()
    return done.result()
