"""Getting the right to work: the run that somebody named, or the best ones that the queue holds.

Rules: everything is decided inside the write transaction, on states at the head; whether a worker lives is looked up
there. A claim gives a run a new epoch. This file joins the pure decisions to the log and does not execute anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from ledger_core.errors import KeyConflict, Refused
from ledger_core.events.run import RunCreated
from ledger_core.events.session import SessionCreated, SessionRunAdded
from ledger_core.events.step import StepClaimed
from ledger_core.ids import new_id
from ledger_core.log.batch import View
from ledger_core.log.log import Draft, Later, Log, Queued
from ledger_core.run import decide, schedule
from ledger_core.run.budget import Account
from ledger_core.run.schedule import Offer
from ledger_core.run.state import RunState
from ledger_core.runtime.folds import Fold, Folds, Runs, stream_of

Alive = Callable[[str], bool]


@attrs.frozen(kw_only=True)
class Asked:
    """What a caller asked for: the run as it would be created."""

    created: RunCreated
    given: bool
    """Whether the caller named an initial state."""


@attrs.define(kw_only=True)
class Desk:
    """Where claims are made: what every decision of a process needs."""

    log: Log
    folds: Folds
    alive: Alive

    def runs(self, view: View) -> Runs:
        """The runs as one decision sees them."""
        return Runs(view, self.folds, self.log.clock.now_ns())

    def step_id(self) -> str:
        return new_id("step", self.log.clock.random(10))


class Opening:
    """The decision to create a run, and to claim it, or to take an existing one."""

    def __init__(
        self,
        desk: Desk,
        asked: Asked,
        *,
        worker: str | None,
        digest: Callable[[str], bytes | None],
        driver: str = "code",
    ) -> None:
        self.asked = asked
        self.run_id = asked.created.run
        self.fresh = False
        self.ended = False
        """Whether there is nothing left to claim."""
        self._desk = desk
        self._worker = worker
        self._digest = digest
        self._driver = driver

    def decide(self, view: View) -> Iterator[Draft | Later]:
        """Drafts of the claim; nothing for a run that has ended. Without a worker, the run is only created."""
        runs, created = self._desk.runs(view), self.asked.created
        state = runs.state(self.run_id)
        self.fresh, self.ended = state is None, False
        bodies = []
        before = state or RunState()
        if state is None:
            bodies = decide.create(created, self._desk.step_id())
            state = RunState()
            for body in bodies:
                state.apply(0, self._desk.log.clock.now_ns(), body.kind.name, body)
        elif state.driver != self._driver:
            raise Refused(
                f"Run {self.run_id} is driven by {'attached code' if state.driver == 'external' else 'an agent'}.",
                hint="Attach to it: Runtime.attach." if state.driver == "external" else "Run it: agentledger resume.",
            )
        elif created.agent not in (state.agent, state.step_agent):
            raise Refused(
                f"Run {self.run_id} is a run of agent {state.agent}, not of {created.agent}.",
                hint="Use another run id, or the agent that the run was started with.",
            )
        elif self.asked.given:
            self._check_same_begin(view)
        self.ended = state.ended
        if self._worker is not None and not state.ended:
            alive = state.worker is not None and self._desk.alive(state.worker)
            digest = self._digest(state.step_agent)
            claimed = decide.claim(state, self._worker, owner_alive=alive, code_digest=digest)
            self.ended = not isinstance(claimed[-1], StepClaimed)
            bodies += claimed
        yield from runs.drafts(before, bodies)
        if self.fresh and created.budget:
            account = Account(name=f"run:{created.run}", limits=created.budget)
            yield runs.change(account, why="set", run=created.run, amounts=created.budget)
        if self.fresh and created.session is not None:
            stream = f"session/{created.session}"
            if view.head(stream) is None:
                yield Draft(stream=stream, body=SessionCreated(session=created.session, variables={}))
            yield Draft(stream=stream, body=SessionRunAdded(run=self.run_id, agent=created.agent))

    def _check_same_begin(self, view: View) -> None:
        begun = next(view.events(stream_of(self.run_id), contents=True)).body
        if isinstance(begun, RunCreated) and begun.initial_state != self.asked.created.initial_state:
            raise KeyConflict(
                f"Run {self.run_id} was begun with another initial state.",
                hint="Leave the initial state out to go on with it, or choose another run id.",
            )


def ready(log: Log, offer: Offer) -> bool:
    """Whether there is something to claim, by one look without a transaction of writing."""

    def rows(prefix: bytes, start: bytes) -> Iterator[Queued]:
        return _timers(log) if prefix == schedule.TIMER else iter(log.queued(prefix, start, limit=1))

    return next(schedule.candidates(rows, offer, log.clock.now_ns()), None) is not None


def claim_next(desk: Desk, offer: Offer, worker: str, most: int, taken: list[str]) -> Callable[[View], Any]:
    """The decision to claim up to `most` runs that the offer accepts, the best first; `taken` becomes their ids."""

    def decision(view: View) -> Iterator[Draft | Later]:
        taken.clear()
        runs, passed = desk.runs(view), set[str]()
        for _ in range(most):
            claimed = _claim_one(desk, runs, view, offer, worker, taken, passed)
            if claimed is None:
                return
            yield from claimed

    return decision


def _claim_one(
    desk: Desk, runs: Runs, view: View, offer: Offer, worker: str, taken: list[str], passed: set[str]
) -> list[Draft | Later] | None:
    def rows(prefix: bytes, start: bytes) -> Iterator[Any]:
        return (row for row in view.queue(prefix, start) if row.stream not in passed)

    now = desk.log.clock.now_ns()
    while (stream := next(schedule.candidates(rows, offer, now), None)) is not None:
        state = runs.state(stream.removeprefix("run/"))
        if state is None or state.ended or state.worker is not None or state.newer is not None:
            passed.add(stream)  # not ours to claim: the next of its group is looked at
            continue
        digest = offer.agents.get(state.step_agent)
        bodies = decide.claim(state, worker, owner_alive=False, code_digest=digest)
        passed.add(stream)
        if isinstance(bodies[-1], StepClaimed):  # one that was to be cancelled has ended instead
            taken.append(state.run)
        return list(runs.drafts(state, bodies))
    return None


def held_by_the_lost(log: Log, alive: Alive) -> list[tuple[str, str]]:
    """Runs whose owners are gone or overdue, with their owners: one look at each worker that holds something."""
    found: list[tuple[str, str]] = []
    start, lives = schedule.HELD, dict[str, bool]()
    while True:
        rows = log.queued(schedule.HELD, start, limit=256)
        for row in rows:
            worker = str(row.note["worker"])
            if worker not in lives:
                lives[worker] = alive(worker)
            if not lives[worker]:
                found.append((row.stream.removeprefix("run/"), worker))
        if len(rows) < 256:
            return found
        start = rows[-1].key + b"\0"  # at most so many runs of one worker are seen in one look


def held_by_others(log: Log, worker: str) -> bool:
    """Whether another worker holds a run, as far as a short look says."""
    own = schedule.HELD + schedule.worker_tag(worker)
    before = log.queued(schedule.HELD, b"", limit=1)
    behind = log.queued(schedule.HELD, own + b"\xff", limit=1)
    return any(row.note.get("worker") != worker for row in (*before, *behind))


def expire(desk: Desk, run_id: str, worker: str, freed: list[str]) -> Callable[[View], Any]:
    """The decision to end the epoch of an owner that is gone or overdue."""

    def decision(view: View) -> Iterator[Draft | Later]:
        freed.clear()
        runs = desk.runs(view)
        state = runs.state(run_id)
        ours = state is not None and state.newer is None  # what a newer version wrote to is a newer worker's to free
        if state is not None and ours and state.worker == worker and not desk.alive(worker):
            freed.append(run_id)
            yield from runs.drafts(state, decide.expire(state, "its worker is gone or gave no sign of life"))

    return decision


def agent_of(log: Log, run_id: str) -> str:
    """Name of the agent whose code a run's step is."""
    fold = Fold()
    fold.catch_up(log, stream_of(run_id))
    return fold.state.step_agent


def wakes(log: Log, offer: Offer) -> int | None:
    """When the next run that the offer accepts is due, in ns; None if none is near."""
    return next((schedule.wake_of(row) for row in _timers(log) if offer.accepts(row.note)), None)


def _timers(log: Log) -> Iterator[Queued]:
    """The next runs that wait for a time, a few rows first: mostly the first one says all."""
    yield from (first := log.queued(schedule.TIMER, b"", limit=4))
    if len(first) == 4:
        yield from log.queued(schedule.TIMER, b"", limit=256)[4:]
