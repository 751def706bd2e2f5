"""The pen of one worker in one step: what rides, what is durable, and the fence that every append passes.

Rules: bodies go into the log in the order in which they were drafted. What may ride waits here, without a seq, for
the step's next durable append, `MAX_RIDERS` of them or `MAX_AGE_NS` at most; a crash loses them, and with them nothing
but work, because nothing durable depends on them yet. Every append is decided on the run's state at the head, inside
the write transaction, and refused as `Fenced` if the step has another owner. This file does not know effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Final

from ledger_core.clock import NS
from ledger_core.events import Body
from ledger_core.ids import Hash
from ledger_core.log.batch import View
from ledger_core.log.log import Decision, Draft, Event, Log
from ledger_core.run import decide
from ledger_core.run.state import RunState

MAX_RIDERS: Final = 64
MAX_AGE_NS: Final = NS
Bodies = Callable[[RunState, list[Body]], Iterable[Body]]
"""From the state at the head and the bodies that ride along, the bodies to append behind them."""


class Recorder:
    """Appends to one run's stream under one epoch."""

    def __init__(self, log: Log, stream: str, state: RunState, head: Hash) -> None:
        self._log = log
        self._stream = stream
        self._epoch = state.epoch
        self._state = state
        self._head = head
        self._mutex = Lock()
        self._riders: list[Body] = []
        self._oldest_ns = 0

    @property
    def state(self) -> RunState:
        """The run as far as this worker has seen it."""
        return self._state

    @property
    def log(self) -> Log:
        return self._log

    def ride(self, body: Body) -> None:
        """Have a body go with the step's next durable append."""
        if not self._riders:
            self._oldest_ns = self._log.clock.monotonic_ns()
        self._riders.append(body)

    def drop(self) -> None:
        """Let go of what rides: the code that drafted it has diverged."""
        self._riders = []

    @property
    def overdue(self) -> bool:
        """Whether what rides has become too much, or too old, to be lost."""
        riders = len(self._riders)
        return riders >= MAX_RIDERS or (riders > 0 and self._log.clock.monotonic_ns() - self._oldest_ns > MAX_AGE_NS)

    def commit(self, bodies: Bodies) -> list[Event]:
        """Append what rides and `bodies`, durable when this returns; raises `Fenced`."""
        decision, riders = self._prepare(bodies)
        try:
            events = self._log.decide(decision)
        except BaseException:
            self._riders[:0] = riders
            raise
        return self._applied(events)

    async def acommit(self, bodies: Bodies) -> list[Event]:
        """`commit`, in an event loop that goes on meanwhile."""
        decision, riders = self._prepare(bodies)
        try:
            events = await self._log.adecide(decision)
        except Exception:
            self._riders[:0] = riders
            raise
        return self._applied(events)

    def _prepare(self, bodies: Bodies) -> tuple[Decision, list[Body]]:
        riders, self._riders = self._riders, []

        def decision(view: View) -> Iterator[Draft]:
            with self._mutex:
                self._catch_up(view)
                decide.check_fence(self._state, self._epoch)
                step, epoch = self._state.step, self._epoch
                for body in [*riders, *bodies(self._state, riders)]:
                    yield Draft(stream=self._stream, body=body, actor="agent", step=step, epoch=epoch)

        return decision, riders

    def _catch_up(self, view: View) -> None:
        """Bring the state to the head; from zero if it is ahead of the log, after a batch that was abandoned."""
        head = view.head(self._stream)
        assert head is not None
        if head.stream_seq == self._state.events and head.hash == self._head:
            return
        if head.stream_seq <= self._state.events:
            self._state = RunState()
        for event in view.events(self._stream, self._state.events):
            self._state.apply(event.seq, event.time_ns, event.type, event.body)
        self._head = head.hash

    def _applied(self, events: list[Event]) -> list[Event]:
        with self._mutex:
            for event in events:
                if event.stream_seq == self._state.events + 1:
                    self._state.apply(event.seq, event.time_ns, event.type, event.body)
                    self._head = event.hash
        return events
