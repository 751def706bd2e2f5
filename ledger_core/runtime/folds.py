"""Runs as a decision sees them: their states at the head, and the drafts that bodies become.

Rules: a state is folded once and brought up to the head by its new events; what was read of a batch that was abandoned
is noticed by its hash and folded anew. Whoever changes where a run stands gives the queue its new place in the same
commit, and a run that ends tells its parent. States that are handed out are looked at, never changed. This file does
not know workers or code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ledger_core.chain import NO_HASH
from ledger_core.events import Body
from ledger_core.events.run import RunCancelled, RunCompleted, RunCreated, RunFailed
from ledger_core.events.step import AgentResultReturned, StepCreated, StepFailed
from ledger_core.events.wait import ChildRunEnded
from ledger_core.ids import Hash
from ledger_core.log.batch import View
from ledger_core.log.log import Draft, Event, Later, Log
from ledger_core.run import answer, schedule
from ledger_core.run.state import RunState

_REMEMBERED: Final = 2_048
_STATUS: Final = {RunCompleted: "completed", RunFailed: "failed", RunCancelled: "cancelled"}


def stream_of(run_id: str) -> str:
    """Name of a run's stream."""
    return f"run/{run_id}"


class Fold:
    """A run's state, and the event that it is the state after."""

    def __init__(self, state: RunState | None = None, head: Hash = NO_HASH) -> None:
        self.state = state or RunState()
        self._head = head

    def catch_up(self, view: View | Log, stream: str) -> bool:
        """Bring the state to the head; False if it was there."""
        head = view.head(stream) if not isinstance(view, Log) else view.stream_head(stream)
        if head is None:  # what was read of it, if anything, was never committed
            known, self.state, self._head = self.state.events, RunState(), NO_HASH
            return known > 0
        if head.stream_seq == self.state.events and head.hash == self._head:
            return False
        events = _events(view, stream, max(0, self.state.events - 1))
        if self.state.events and (head.stream_seq < self.state.events or next(events).hash != self._head):
            self.state, events = RunState(), _events(view, stream, 0)
        for event in events:
            self.apply(event)
        return True

    def apply(self, event: Event) -> None:
        """Fold one more event."""
        self.state.apply(event.seq, event.time_ns, event.type, event.body)
        self._head = event.hash


class Folds:
    """The folds that decisions of this process have made; used inside write transactions, one at a time."""

    def __init__(self) -> None:
        self._folds: OrderedDict[str, Fold] = OrderedDict()

    def at(self, view: View, stream: str) -> RunState:
        """A run's state at the head; an empty one if there is no such run."""
        fold = self._folds.setdefault(stream, Fold())
        self._folds.move_to_end(stream)
        if len(self._folds) > _REMEMBERED:
            self._folds.popitem(last=False)
        fold.catch_up(view, stream)
        return fold.state


class Runs:
    """What one decision sees of runs, its own changes included."""

    def __init__(self, view: View, folds: Folds, clock_ns: int) -> None:
        self._view = view
        self._folds = folds
        self._now_ns = clock_ns
        self._changed: dict[str, RunState] = {}

    def state(self, run_id: str) -> RunState | None:
        """A run after all that this decision has drafted; None if there is no such run."""
        if run_id in self._changed:
            return self._changed[run_id]
        state = self._folds.at(self._view, stream_of(run_id))
        return state if state.events else None

    def drafts(
        self, state: RunState, bodies: Sequence[Body], *, actor: str = "runtime", fenced: bool = False
    ) -> Iterator[Draft | Later]:
        """Bodies for a run in this `state`, with its new place, and what its parent is told; `fenced` names epochs."""
        run_id = state.run or next(body.run for body in bodies if isinstance(body, RunCreated))
        moves = any(type(body) in schedule.MOVES for body in bodies)
        after = state.clone() if moves else state
        if moves:
            for body in bodies:
                after.apply(0, self._now_ns, body.kind.name, body)
            self._changed[run_id] = after
        step, epoch = state.step or None, state.epoch if fenced else None
        for place, body in enumerate(bodies, 1):
            step = body.step if isinstance(body, StepCreated) else step
            where = schedule.place(after) if moves and place == len(bodies) else None
            yield Draft(stream=stream_of(run_id), body=body, actor=actor, step=step, epoch=epoch, queue=where)
        if moves and after.ended and not state.ended and after.parent is not None:
            yield from self._tell_parent(after, bodies)

    def _tell_parent(self, child: RunState, bodies: Sequence[Body]) -> Iterator[Later]:
        assert child.parent is not None
        parent = self.state(child.parent)
        words = _words(bodies)
        placeholder = ChildRunEnded(run=child.run, status=child.status, seq=0, hash=b"", **words)
        if parent is None or not answer.child_ended(parent, placeholder):
            return
        after = parent.clone()
        after.apply(0, self._now_ns, placeholder.kind.name, placeholder)
        self._changed[parent.run] = after
        where = schedule.place(after)

        def later(events: Sequence[Event]) -> Draft:
            end = next(one for one in reversed(events) if one.stream == child.stream and type(one.body) in _STATUS)
            ended = ChildRunEnded(run=child.run, status=child.status, seq=end.seq, hash=end.hash, **words)
            return Draft(stream=stream_of(parent.run), body=ended, causation=end.seq, queue=where)

        yield later


def _words(bodies: Sequence[Body]) -> dict[str, Any]:
    """What a run's last bodies say that its parent is to hear."""
    for body in bodies:
        if isinstance(body, AgentResultReturned):
            return {"output": body.output}
        if isinstance(body, StepFailed):
            return {"error_type": body.error_type, "message": body.message}
        if isinstance(body, RunCancelled):
            return {"error_type": "Cancelled", "message": "it was cancelled"}
    return {}


def _events(view: View | Log, stream: str, after: int) -> Iterator[Event]:
    if isinstance(view, Log):
        return view.stream(stream, after, contents=False)
    return view.events(stream, after)
