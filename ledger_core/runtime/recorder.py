"""The pen of one worker in one step: what rides, what is durable, and the fence that every append passes.

Rules: bodies go into the log in the order in which they were drafted. What may ride waits here, without a seq, for
the step's next durable append, `MAX_RIDERS` of them or `MAX_AGE_NS` at most; a crash loses them, and with them nothing
but work, because nothing durable depends on them yet. Every append is decided on the run's state at the head, inside
the write transaction, and refused as `Fenced` if the step has another owner, as `Cancelled` if something is to begin
in a run that is to end. This file does not know effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Final

from ledger_core.clock import NS
from ledger_core.events import Body
from ledger_core.ids import Hash
from ledger_core.log.batch import View
from ledger_core.log.log import Decision, Draft, Event, Later, Log
from ledger_core.run import decide, schedule
from ledger_core.run.spending import spends
from ledger_core.run.state import RunState
from ledger_core.runtime.folds import Fold, Folds, Runs

MAX_RIDERS: Final = 64
MAX_AGE_NS: Final = NS
Bodies = Callable[[RunState, list[Body]], Iterable[Body]]
"""From the state at the head and the bodies that ride along, the bodies to append behind them."""
First = Callable[[Runs, RunState, list[Body]], "Family | None"]
"""What a decision looks at before it drafts anything, told what rides along: what it raises refuses the append, what it
returns follows it."""
Family = Callable[[Runs, RunState], Iterable[Draft | Later]]
"""From the runs of the decision and this run's state, drafts for other streams, sealed behind this run's own."""


class Recorder:
    """Appends to one run's stream under one epoch."""

    def __init__(self, log: Log, stream: str, state: RunState, head: Hash, folds: Folds | None = None) -> None:
        self._log = log
        self._stream = stream
        self._epoch = state.epoch
        self._fold = Fold(state, head)
        self._folds = folds or Folds()
        self._mutex = Lock()
        self._riders: list[Body] = []
        self._held: list[tuple[str, Body]] = []
        """What is recorded only if something else is: chunks of streams, by the stream."""
        self._oldest_ns = 0

    @property
    def state(self) -> RunState:
        """The run as far as this worker has seen it."""
        return self._fold.state

    @property
    def log(self) -> Log:
        return self._log

    @property
    def stream(self) -> str:
        return self._stream

    def ride(self, body: Body) -> None:
        """Have a body go with the step's next durable append."""
        self._take_held()
        if not self._riders:
            self._oldest_ns = self._log.clock.monotonic_ns()
        self._riders.append(body)

    def hold(self, of: str, body: Body) -> None:
        """Have a body go in front of the next one of the run, whichever that is."""
        self._held.append((of, body))

    def let_go(self, of: str) -> None:
        """What is held of a stream need not be recorded: the next body holds it all."""
        self._held = [one for one in self._held if one[0] != of]

    def forget_held(self) -> None:
        """The code is executed again: what nothing stands on need not come back."""
        self._held = []

    def _take_held(self) -> None:
        if self._held:
            self._riders += [body for _, body in self._held]
            self._held = []

    @property
    def riders(self) -> int:
        """How many bodies wait for the next append."""
        return len(self._riders)

    def drop(self) -> None:
        """Let go of what rides: the code that drafted it has diverged."""
        self._riders, self._held = [], []

    def look(self, *, begins: bool = False) -> bool:
        """Read what others have appended to the run; whether there was anything.

        Raises `Fenced` if the step has another owner, and `Cancelled`, if something `begins`, in a run that is to end.
        """
        with self._mutex:
            news = self._fold.catch_up(self._log, self._stream)
            decide.check_fence(self.state, self._epoch)
            if begins:
                decide.check_begins(self.state)
        return news

    @property
    def overdue(self) -> bool:
        """Whether what rides has become too much, or too old, to be lost."""
        riders = len(self._riders)
        return riders >= MAX_RIDERS or (riders > 0 and self._log.clock.monotonic_ns() - self._oldest_ns > MAX_AGE_NS)

    def commit(
        self, bodies: Bodies, *, begins: bool = False, first: First | None = None, family: Family | None = None
    ) -> list[Event]:
        """Append what rides and `bodies`, durable when this returns; raises `Fenced`, `Cancelled`, `Settled`."""
        decision, riders = self._prepare(bodies, begins, first, family)
        try:
            events = self._log.decide(decision)
        except Exception:
            self._riders[:0] = riders
            raise
        return self._applied(events)

    async def acommit(
        self, bodies: Bodies, *, begins: bool = False, first: First | None = None, family: Family | None = None
    ) -> list[Event]:
        """`commit`, in an event loop that goes on meanwhile."""
        decision, riders = self._prepare(bodies, begins, first, family)
        try:
            events = await self._log.adecide(decision)
        except Exception:
            self._riders[:0] = riders
            raise
        return self._applied(events)

    def _prepare(
        self, bodies: Bodies, begins: bool, first: First | None, family: Family | None
    ) -> tuple[Decision, list[Body]]:
        self._take_held()
        riders, self._riders = self._riders, []

        def decision(view: View) -> Iterator[Draft | Later]:
            with self._mutex:
                self._fold.catch_up(view, self._stream)
                state = self.state
                decide.check_fence(state, self._epoch)
                if begins:
                    decide.check_begins(state)
                runs = Runs(view, self._folds, self._log.clock.now_ns())
                follows = family if first is None else first(runs, state, riders) or family
                drafted = [*riders, *bodies(state, riders)]
                for body in drafted:
                    decide.check_unsettled(state, body)
                plain = follows is None and not any(type(body) in schedule.MOVES for body in drafted)
                if plain and not spends(state, drafted):
                    step, epoch = state.step, self._epoch
                    for body in drafted:
                        yield Draft(stream=self._stream, body=body, actor="agent", step=step, epoch=epoch)
                    return
                yield from runs.drafts(state, drafted, actor="agent", fenced=True)
                if follows is not None:
                    yield from follows(runs, state)

        return decision, riders

    def _applied(self, events: list[Event]) -> list[Event]:
        with self._mutex:
            for event in events:
                if event.stream == self._stream and event.stream_seq == self.state.events + 1:
                    self._fold.apply(event)
        return events
