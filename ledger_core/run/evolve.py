"""What each event changes in a run's state.

Rules: pure but for the one state that is folded: one function a type, over facts alone, in a table. An event that is
not in it changes nothing. What effects change is in `evolve_effects`. This file does not decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger_core.events import Body, Unknown, wait
from ledger_core.events.run import (
    DivergenceDetected,
    RunCancelled,
    RunCancelRequested,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunParked,
)
from ledger_core.events.step import (
    LeaseExpired,
    StatePatchCommitted,
    StepCancelled,
    StepClaimed,
    StepCompleted,
    StepCreated,
    StepFailed,
    StepReleased,
    StepRetryScheduled,
)
from ledger_core.run.evolve_effects import EFFECTS, doubted, progressed, wait_for
from ledger_core.run.rows import Child

if TYPE_CHECKING:
    from ledger_core.run.state import RunState


def _created(state: RunState, seq: int, body: RunCreated) -> None:
    state.first_seq = seq
    state.created_ns = state.since_ns = state.updated_ns
    state.run, state.agent, state.role, state.driver = body.run, body.agent, body.role, body.driver
    state.seed, state.session = body.seed, body.session
    state.entry_point, state.code_digest = body.entry_point, body.code_digest
    state.priority, state.capabilities = body.priority or 0, tuple(body.capabilities or ())
    state.retry, state.timeout_ns = body.retry, body.timeout_ns
    state.parent, state.parent_path, state.root = body.parent, body.parent_path, body.root or body.run
    state.budget = body.budget
    state.ancestor, state.ancestor_event = body.ancestor, body.ancestor_event or 0
    state.lineage, state.lineage_seed = body.lineage or body.run, body.lineage_seed or body.seed
    state.writes_blocked = bool(body.writes_blocked)


def _step(state: RunState, _: int, body: StepCreated) -> None:
    state.step, state.step_number, state.step_agent = body.step, body.number, body.agent
    state.step_events = state.events
    if body.number > 1:
        state.entry_point, state.code_digest = body.entry_point, body.code_digest
        state.status, state.waiting, state.attempt = "pending", None, 1
    state.waits.clear()
    state.stumbled.clear()  # not at the step's end: who folds rows asks then what failed of it, and what is open
    state.asking.clear()


def _claimed(state: RunState, _: int, body: StepClaimed) -> None:
    state.status, state.waiting, state.retry_ns = "running", None, None
    state.epoch, state.worker = body.epoch, body.worker
    state.code_digest = body.code_digest or state.code_digest


def _released(state: RunState, _: int, body: StepReleased) -> None:
    doubted(state)
    state.worker = None
    if state.status == "running":
        progressed(state)
        state.waiting = body.waiting
        state.status = "pending" if body.waiting in (None, "yield") else "waiting"


def _expired(state: RunState, _: int, __: LeaseExpired) -> None:
    doubted(state)
    state.worker = None
    state.losses += 1
    if state.status == "running":
        state.status, state.waiting = "pending", None


def _parked(state: RunState, _: int, body: RunParked) -> None:
    state.status, state.waiting, state.losses = "parked", f"{body.losses} workers were lost with it", 0


def _retry(state: RunState, _: int, body: StepRetryScheduled) -> None:
    doubted(state)
    state.worker, state.status, state.waiting = None, "waiting", "retry"
    state.attempt, state.retry_ns = body.attempt, body.wake_ns
    progressed(state)
    since = state.failed.pop(body.reopened or "", None)
    if body.fresh:
        state.fresh += 1
        state.waits.clear()
    elif since is not None:  # what began behind the failure is dropped with the journal's part
        state.waits = {path: one for path, one in state.waits.items() if one.event <= since}


def _diverged(state: RunState, _: int, body: DivergenceDetected) -> None:
    state.status, state.waiting = "diverged", body.code


def _committed(state: RunState, _: int, body: StatePatchCommitted) -> None:
    state.version = body.version


def _step_ended(state: RunState, _: int, body: StepCompleted | StepFailed | StepCancelled) -> None:
    doubted(state, ends=True)
    state.worker = None
    state.waits.clear()
    state.pending.clear()
    state.failed.clear()
    state.names.clear()
    if isinstance(body, StepFailed):
        state.category = body.category
    elif isinstance(body, StepCompleted):
        progressed(state)


def _completed(state: RunState, _: int, __: RunCompleted) -> None:
    state.status, state.waiting, state.retry_ns = "completed", None, None


def _failed(state: RunState, _: int, __: RunFailed) -> None:
    state.status, state.waiting, state.retry_ns = "failed", None, None


def _cancelled(state: RunState, _: int, __: RunCancelled) -> None:
    state.status, state.waiting, state.retry_ns, state.cancelling = "cancelled", None, None, False


def _cancelling(state: RunState, _: int, __: RunCancelRequested) -> None:
    state.cancelling = True


def _newer(state: RunState, _: int, body: Unknown) -> None:
    state.newer = body.type if body.critical else state.newer


def _timer(state: RunState, _: int, body: wait.TimerStarted) -> None:
    wait_for(state, "sleep", body, "")


def _fired(state: RunState, _: int, body: wait.TimerFired) -> None:
    state.waits.pop(body.path, None)
    state.failed[body.path] = state.events
    progressed(state)


def _signal_awaited(state: RunState, _: int, body: wait.SignalAwaited) -> None:
    wait_for(state, "signal", body, body.name)
    state.taken.pop(body.path, None)  # of an earlier attempt, whose code saw it


def _signal(state: RunState, seq: int, body: wait.SignalReceived) -> None:
    state.signals.setdefault(body.name, []).append(seq)
    if body.sender is not None:
        state.senders.add((body.name, body.sender))


def _approval(state: RunState, _: int, body: wait.ApprovalRequested) -> None:
    if body.pending:
        state.effects += 1
        state.pending[body.approval] = body.wake_ns
    else:
        wait_for(state, "approval", body, body.approval)
    state.approvals[body.approval] = None


def _approval_awaited(state: RunState, _: int, body: wait.ApprovalAwaited) -> None:
    wait_for(state, "approval", body, body.approval)


def _decided(state: RunState, seq: int, body: wait.ApprovalDecided) -> None:
    state.pending.pop(body.approval, None)
    if body.approved:
        state.granted.add(body.approval)
    state.approvals[body.approval] = seq


def _child(state: RunState, _: int, body: wait.ChildRunRequested) -> None:
    state.effects += 1
    state.children[body.run] = Child(run=body.run, path=body.path, agent=body.agent)


def _child_awaited(state: RunState, _: int, body: wait.ChildAwaited) -> None:
    wait_for(state, "child", body, body.run)


def _child_ended(state: RunState, seq: int, body: wait.ChildRunEnded) -> None:
    if body.run not in state.children and state.ancestor is not None:
        state.children[body.run] = Child(run=body.run, path="", agent="")  # one that an ancestor spawned
    child = state.children.get(body.run)
    if child is not None:
        child.status, child.ended = body.status, seq


def _answered(state: RunState, _: int, body: wait.WaitAnswered) -> None:
    progressed(state)
    state.failed[body.path] = state.events
    waiting = state.waits.pop(body.path, None)
    if waiting is not None and waiting.kind == "signal":
        state.taken[body.path] = (waiting.name, body.answer)
        left = [seq for seq in state.signals.get(waiting.name, ()) if seq != body.answer]
        if left:
            state.signals[waiting.name] = left
        else:
            state.signals.pop(waiting.name, None)


FOLDS: dict[type[Body], Callable[[RunState, int, Any], None]] = {
    RunCreated: _created,
    StepCreated: _step,
    StepClaimed: _claimed,
    LeaseExpired: _expired,
    StepReleased: _released,
    StepRetryScheduled: _retry,
    RunParked: _parked,
    DivergenceDetected: _diverged,
    StatePatchCommitted: _committed,
    StepCompleted: _step_ended,
    StepFailed: _step_ended,
    StepCancelled: _step_ended,
    RunCompleted: _completed,
    RunFailed: _failed,
    RunCancelled: _cancelled,
    RunCancelRequested: _cancelling,
    Unknown: _newer,
    **EFFECTS,
    wait.TimerStarted: _timer,
    wait.TimerFired: _fired,
    wait.SignalAwaited: _signal_awaited,
    wait.SignalReceived: _signal,
    wait.ApprovalRequested: _approval,
    wait.ApprovalAwaited: _approval_awaited,
    wait.ApprovalDecided: _decided,
    wait.ChildRunRequested: _child,
    wait.ChildAwaited: _child_awaited,
    wait.ChildRunEnded: _child_ended,
    wait.WaitAnswered: _answered,
}
"""One function a type: a state is folded for every append, and a chain of comparisons would cost more than the fold."""
