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
from ledger_core.events.govern import BudgetChanged
from ledger_core.events.run import RunCancelled, RunCompleted, RunCreated, RunFailed
from ledger_core.events.step import AgentResultReturned, StepCreated, StepFailed
from ledger_core.events.wait import ChildRunEnded
from ledger_core.ids import Hash
from ledger_core.log.batch import View
from ledger_core.log.log import Draft, Event, Later, Log
from ledger_core.run import answer, budget, schedule
from ledger_core.run.budget import Account
from ledger_core.run.spending import Movement, movements, spends
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
        self.absent: dict[str, int] = {}
        """Budgets that were not there, and the number of streams by then: most runs have none, and are asked often."""

    def remember_absent(self, name: str, streams: int) -> None:
        """A budget is not there, among so many streams."""
        if len(self.absent) > _REMEMBERED:
            self.absent.clear()
        self.absent[name] = streams

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
        self._accounts: dict[str, Account | None] = {}

    def state(self, run_id: str) -> RunState | None:
        """A run after all that this decision has drafted; None if there is no such run."""
        if run_id in self._changed:
            return self._changed[run_id]
        state = self._folds.at(self._view, stream_of(run_id))
        return state if state.events else None

    @property
    def view(self) -> View:
        return self._view

    def account(self, name: str) -> Account | None:
        """How a budget stands after all that this decision has drafted; None if there is no such budget."""
        if name not in self._accounts:
            streams = self._view.streams()
            known = streams is not None and self._folds.absent.get(name) == streams
            found = None if known else account_at(self._view, name)
            if found is None and streams is not None:
                self._folds.remember_absent(name, streams)
            self._accounts[name] = found
        return self._accounts[name]

    def accounts(self, state: RunState) -> list[Account]:
        """The budgets that a run draws on."""
        names = budget.accounts(state.root, state.session, state.step_agent)
        return [found for name in names if (found := self.account(name)) is not None]

    def change(self, account: Account, **what: Any) -> Draft:
        """The draft that says how a budget stands from now on."""
        self._accounts[account.name] = account
        return Draft(stream=budget.stream_of_account(account.name), body=budget.changed(account, **what))

    def worked(self, state: RunState, worked_ns: int) -> Iterator[Draft]:
        """What a run has worked, taken from the budgets that bound it."""
        for account in self.accounts(state) if worked_ns > 0 else ():
            if "wall_ns" in account.limits:
                spent = {"wall_ns": worked_ns}
                after = budget.moved(account, reserved={}, freed={}, spent=spent, opened=0)
                yield self.change(after, why="spent", run=state.run, amounts=spent)

    def _moved(self, state: RunState, movement: Movement) -> Iterator[Draft]:
        """What an event of a run's moves in the budgets that it draws on, and in those that it held something of."""
        names = [account.name for account in self.accounts(state)]
        for name in dict.fromkeys([*names, *movement.freed, *movement.reserved]):
            account = self.account(name)
            if account is None:
                continue
            freed, reserved = movement.freed.get(name, {}), movement.reserved.get(name, {})
            spent = {**movement.spent, **movement.lost.get(name, {})}
            if not freed and not reserved and not spent:
                continue
            opened = bool(reserved) - bool(freed)
            after = budget.moved(account, reserved=reserved, freed=freed, spent=spent, opened=opened)
            yield self.change(
                after,
                why=movement.why,
                run=state.run,
                path=movement.path,
                attempt=movement.attempt,
                freed=dict(freed) or None,
                amounts=dict(reserved if movement.why == "reserved" else spent) or None,
            )

    def drafts(
        self, state: RunState, bodies: Sequence[Body], *, actor: str = "runtime", fenced: bool = False
    ) -> Iterator[Draft | Later]:
        """Bodies for a run in this `state`, and what follows from them elsewhere; `fenced` names epochs.

        What follows: the run's new place in the queue, what its budgets hold, what its parent is told.
        """
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
        if spends(state, bodies):
            for movement in movements(state, bodies):
                yield from self._moved(state, movement)
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


def account_at(view: View | Log, name: str) -> Account | None:
    """How a budget stands: its last event says all of it."""
    stream = budget.stream_of_account(name)
    head = view.stream_head(stream) if isinstance(view, Log) else view.head(stream)
    if head is None:
        return None
    body = next(_events(view, stream, head.stream_seq - 1)).body
    assert isinstance(body, BudgetChanged)
    return budget.account_of(body)


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
