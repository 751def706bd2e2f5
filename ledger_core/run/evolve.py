"""What each event changes in a run's state.

Rules: pure but for the one state that is folded: one function a type, over facts alone, in a table. An event that is
not in it changes nothing. This file does not decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger_core.events import Body, Unknown, effect, govern, wait
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
from ledger_core.run.rows import UNSETTLED, Child, LedgerStatus, ToolEntry, Wait, WaitKind
from ledger_core.run.spending import hold

if TYPE_CHECKING:
    from ledger_core.run.state import RunState


def _created(state: RunState, _: int, body: RunCreated) -> None:
    state.created_ns = state.since_ns = state.updated_ns
    state.run, state.agent, state.role, state.driver = body.run, body.agent, body.role, body.driver
    state.seed, state.session = body.seed, body.session
    state.entry_point, state.code_digest = body.entry_point, body.code_digest
    state.priority, state.capabilities = body.priority or 0, tuple(body.capabilities or ())
    state.retry, state.timeout_ns = body.retry, body.timeout_ns
    state.parent, state.parent_path, state.root = body.parent, body.parent_path, body.root or body.run
    state.budget = body.budget


def _step(state: RunState, _: int, body: StepCreated) -> None:
    state.step, state.step_number, state.step_agent = body.step, body.number, body.agent
    state.step_events = state.events
    if body.number > 1:
        state.entry_point, state.code_digest = body.entry_point, body.code_digest
        state.status, state.waiting, state.attempt = "pending", None, 1
    state.waits.clear()


def _claimed(state: RunState, _: int, body: StepClaimed) -> None:
    state.status, state.waiting, state.retry_ns = "running", None, None
    state.epoch, state.worker = body.epoch, body.worker
    state.code_digest = body.code_digest or state.code_digest


def _released(state: RunState, _: int, body: StepReleased) -> None:
    _doubted(state)
    state.worker = None
    if state.status == "running":
        _progressed(state)
        state.waiting = body.waiting
        state.status = "pending" if body.waiting in (None, "yield") else "waiting"


def _expired(state: RunState, _: int, __: LeaseExpired) -> None:
    _doubted(state)
    state.worker = None
    state.losses += 1
    if state.status == "running":
        state.status, state.waiting = "pending", None


def _parked(state: RunState, _: int, body: RunParked) -> None:
    state.status, state.waiting, state.losses = "parked", f"{body.losses} workers were lost with it", 0


def _retry(state: RunState, _: int, body: StepRetryScheduled) -> None:
    state.worker, state.status, state.waiting = None, "waiting", "retry"
    state.attempt, state.retry_ns = body.attempt, body.wake_ns
    _progressed(state)
    since = state.failed.pop(body.reopened or "", None)
    if body.fresh:
        state.waits.clear()
    elif since is not None:  # what began behind the failure is dropped with the journal's part
        state.waits = {path: one for path, one in state.waits.items() if one.event <= since}


def _diverged(state: RunState, _: int, body: DivergenceDetected) -> None:
    state.status, state.waiting = "diverged", body.code


def _committed(state: RunState, _: int, body: StatePatchCommitted) -> None:
    state.version = body.version


def _step_ended(state: RunState, _: int, body: StepCompleted | StepFailed | StepCancelled) -> None:
    _doubted(state, ends=True)
    state.worker = None
    state.waits.clear()
    state.pending.clear()
    state.failed.clear()
    if isinstance(body, StepFailed):
        state.category = body.category
    elif isinstance(body, StepCompleted):
        _progressed(state)


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


def _tool_requested(state: RunState, seq: int, body: effect.ToolCallRequested) -> None:
    state.tools[body.tool] += 1
    state.effects += body.attempt == 1 and body.path not in state.waits
    state.waits.pop(body.path, None)
    hold(state.reservations, body)
    if body.approval is not None:
        state.used.add(body.approval)
    if body.side_effect == "external_write" or body.key is not None:
        state.ledger[body.path] = ToolEntry(
            path=body.path,
            tool=body.tool,
            tool_version=body.tool_version,
            side_effect=body.side_effect,
            attempt=body.attempt,
            status="RUNNING",
            seq=seq,
            epoch=state.epoch,
            worker=state.worker,
            requested_ns=state.updated_ns,
            updated_ns=state.updated_ns,
            key=body.key,
            key_request=body.key_request,
            idempotency=body.idempotency,
        )


def _model_requested(state: RunState, _: int, body: effect.ModelCallRequested) -> None:
    hold(state.reservations, body)
    state.effects += body.attempt == 1 and body.path not in state.waits
    state.model_calls += 1
    state.waits.pop(body.path, None)


def _model_completed(state: RunState, _: int, body: effect.ModelCallCompleted) -> None:
    _progressed(state)
    hold(state.reservations, body)
    state.input_tokens += body.input_tokens or 0
    state.output_tokens += body.output_tokens or 0
    state.cached_tokens += body.cached_tokens or 0
    state.usd_nano += body.usd_nano or 0


def _model_failed(state: RunState, _: int, body: effect.ModelCallFailed) -> None:
    _progressed(state)
    _paid(state, body)
    if body.retry_ns is None:
        state.failed[body.path] = state.events
    else:
        _again(state, body.path, "outage" if body.category == "outage" else "retry", "the model", body.retry_ns)


def _captured(state: RunState, _: int, __: effect.ValueCaptured) -> None:
    state.effects += 1
    _progressed(state)


def _tool_completed(state: RunState, seq: int, body: effect.ToolCallCompleted) -> None:
    _progressed(state)
    state.waits.pop(body.path, None)
    _paid(state, body)
    _row(state, body.path, "SUCCEEDED", seq)


def _tool_failed(state: RunState, _: int, body: effect.ToolCallFailed) -> None:
    _progressed(state)
    row = state.ledger.get(body.path)
    if body.category == "unknown" and row is not None and row.status not in UNSETTLED:
        return  # the word for not knowing rode, and somebody who knew was faster
    _paid(state, body)
    _row(state, body.path, "PENDING_VERIFICATION" if body.in_doubt else "FAILED_NO_EFFECT")
    if body.retry_ns is None and not body.in_doubt:
        state.failed[body.path] = state.events
    if body.retry_ns is not None:
        kind: WaitKind = "settle" if body.in_doubt else "outage" if body.category == "outage" else "retry"
        _again(state, body.path, kind, row.tool if row else "a tool", body.retry_ns)


def _again(state: RunState, path: str, kind: WaitKind, name: str, wake_ns: int) -> None:
    state.waits[path] = Wait(
        path=path, kind=kind, name=name, since_ns=state.updated_ns, wake_ns=wake_ns, event=state.events
    )


def _tool_settled(state: RunState, seq: int, body: effect.ToolCallSettled) -> None:
    waited = state.waits.pop(body.path, None)
    state.failed[body.path] = state.events
    _paid(state, body)
    _row(state, body.path, _SETTLED[body.outcome], seq if body.outcome == "succeeded" else None)
    if body.path in state.ledger:
        row = state.ledger[body.path]
        row.settled_by, row.compensating, row.resend = body.by, False, body.outcome == "resent"
    if body.outcome == "succeeded":
        _progressed(state)
    known = state.waiting == "in doubt" and not state.in_doubt
    if state.status == "waiting" and (known or (state.waiting == "waits" and waited is not None)):
        state.status, state.waiting = "pending", None


def _abandoned(state: RunState, _: int, body: effect.EffectAbandoned) -> None:
    state.waits.pop(body.path, None)
    took = state.taken.pop(body.path, None)
    if took is not None:
        state.signals[took[0]] = sorted([*state.signals.get(took[0], ()), took[1]])


def _timer(state: RunState, _: int, body: wait.TimerStarted) -> None:
    _wait(state, "sleep", body, "")


def _fired(state: RunState, _: int, body: wait.TimerFired) -> None:
    state.waits.pop(body.path, None)
    state.failed[body.path] = state.events
    _progressed(state)


def _signal_awaited(state: RunState, _: int, body: wait.SignalAwaited) -> None:
    _wait(state, "signal", body, body.name)
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
        _wait(state, "approval", body, body.approval)
    state.approvals[body.approval] = None


def _approval_awaited(state: RunState, _: int, body: wait.ApprovalAwaited) -> None:
    _wait(state, "approval", body, body.approval)


def _decided(state: RunState, seq: int, body: wait.ApprovalDecided) -> None:
    state.pending.pop(body.approval, None)
    if body.approved:
        state.granted.add(body.approval)
    state.approvals[body.approval] = seq


def _tool_approval(state: RunState, seq: int, body: govern.ToolApprovalRequired) -> None:
    _wait(state, "approval", body, body.approval)
    state.approvals[body.approval] = None
    state.ledger[body.path] = ToolEntry(
        path=body.path,
        tool=body.tool,
        tool_version=body.tool_version,
        side_effect=body.side_effect,
        attempt=0,
        status="RESERVED",
        seq=seq,
        requested_ns=state.updated_ns,
        updated_ns=state.updated_ns,
    )


def _refused(state: RunState, _: int, body: govern.EffectRefused) -> None:
    state.effects += body.path not in state.waits
    state.refused[body.category] += 1
    state.waits.pop(body.path, None)
    state.failed[body.path] = state.events
    _row(state, body.path, "FAILED_NO_EFFECT")


def _joined(state: RunState, _: int, body: govern.ToolCallJoined) -> None:
    state.effects += 1
    state.waits.pop(body.path, None)
    _progressed(state)


def _effect_held(state: RunState, _: int, body: govern.EffectHeld) -> None:
    state.effects += body.path not in state.waits
    _again(state, body.path, body.why, body.of, body.wake_ns)


def _cost(state: RunState, _: int, body: govern.CostRecorded) -> None:
    state.effects += 1
    state.usd_nano += body.spent.get("usd_nano", 0)
    state.input_tokens += body.spent.get("input_tokens", 0)
    state.output_tokens += body.spent.get("output_tokens", 0)
    state.cached_tokens += body.spent.get("cached_tokens", 0)


def _artifact(state: RunState, _: int, __: govern.ArtifactCreated) -> None:
    state.effects += 1
    state.artifacts += 1
    _progressed(state)


def _compensating(state: RunState, _: int, body: govern.CompensationStarted) -> None:
    if body.path in state.ledger:
        state.ledger[body.path].compensating = True


def _child(state: RunState, _: int, body: wait.ChildRunRequested) -> None:
    state.effects += 1
    state.children[body.run] = Child(run=body.run, path=body.path, agent=body.agent)


def _child_awaited(state: RunState, _: int, body: wait.ChildAwaited) -> None:
    _wait(state, "child", body, body.run)


def _child_ended(state: RunState, seq: int, body: wait.ChildRunEnded) -> None:
    child = state.children.get(body.run)
    if child is not None:
        child.status, child.ended = body.status, seq


def _answered(state: RunState, _: int, body: wait.WaitAnswered) -> None:
    _progressed(state)
    state.failed[body.path] = state.events
    waiting = state.waits.pop(body.path, None)
    if waiting is not None and waiting.kind == "signal":
        state.taken[body.path] = (waiting.name, body.answer)
        left = [seq for seq in state.signals.get(waiting.name, ()) if seq != body.answer]
        if left:
            state.signals[waiting.name] = left
        else:
            state.signals.pop(waiting.name, None)


_SETTLED: dict[str, LedgerStatus] = {
    "succeeded": "SUCCEEDED",
    "no_effect": "FAILED_NO_EFFECT",
    "compensated": "COMPENSATED",
    "resent": "PENDING_VERIFICATION",
}
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
    effect.ToolCallRequested: _tool_requested,
    effect.ModelCallRequested: _model_requested,
    effect.ModelCallCompleted: _model_completed,
    effect.ModelCallFailed: _model_failed,
    effect.ValueCaptured: _captured,
    effect.ToolCallCompleted: _tool_completed,
    effect.ToolCallFailed: _tool_failed,
    effect.ToolCallSettled: _tool_settled,
    effect.EffectAbandoned: _abandoned,
    govern.ToolApprovalRequired: _tool_approval,
    govern.EffectRefused: _refused,
    govern.ToolCallJoined: _joined,
    govern.EffectHeld: _effect_held,
    govern.CostRecorded: _cost,
    govern.ArtifactCreated: _artifact,
    govern.CompensationStarted: _compensating,
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


def _row(state: RunState, path: str, status: LedgerStatus, done: int | None = None) -> None:
    row = state.ledger.get(path)
    if row is not None:
        row.status, row.updated_ns, row.done = status, state.updated_ns, done or row.done


def _paid(state: RunState, body: Any) -> None:
    hold(state.reservations, body)
    if body.spent:
        state.usd_nano += body.spent.get("usd_nano", 0)


def _wait(state: RunState, kind: WaitKind, body: Any, name: str) -> None:
    state.effects += 1
    state.waits[body.path] = Wait(
        path=body.path,
        kind=kind,
        name=name,
        since_ns=state.updated_ns,
        wake_ns=body.wake_ns,
        event=state.events,
    )


def _doubted(state: RunState, *, ends: bool = False) -> None:
    """Whoever made the calls that are under way has lost the step: nobody knows what came of them."""
    for row in state.ledger.values():
        if row.status == "RUNNING":
            row.status = "PENDING_VERIFICATION"
        elif row.status == "RESERVED" and ends:
            row.status = "FAILED_NO_EFFECT"


def _progressed(state: RunState) -> None:
    state.losses = 0
