"""What a run's events say of it: the fold that decisions, recovery and listings stand on.

Rules: pure, over facts alone; an event of an unknown type changes nothing. `fold` takes events in order. The folding
works on one private accumulator, because copying a state per event would cost O(n²). This file does not decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

import attrs

from ledger_core.events import Body, Unknown, effect, wait
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

RunStatus = Literal["pending", "running", "waiting", "parked", "diverged", "completed", "failed", "cancelled"]
StepStatus = Literal[
    "created",
    "pending",
    "running",
    "waiting_tool",
    "waiting_human",
    "sleeping",
    "retry_scheduled",
    "completed",
    "failed",
    "cancelled",
]
LedgerStatus = Literal["RESERVED", "SUCCEEDED", "FAILED_NO_EFFECT", "PENDING_VERIFICATION", "COMPENSATED"]
WaitKind = Literal["sleep", "signal", "approval", "child", "retry", "outage", "settle"]
ENDED = ("completed", "failed", "cancelled")
FINAL = ("SUCCEEDED", "COMPENSATED")
"""Statuses of the tool ledger that nothing changes any more."""


@attrs.define(kw_only=True)
class ToolEntry:
    """A row of the tool ledger."""

    path: str
    tool: str
    side_effect: str
    attempt: int
    status: LedgerStatus
    seq: int
    epoch: int = 0
    worker: str | None = None
    """Who made the attempt."""
    requested_ns: int = 0


@attrs.define(kw_only=True)
class Wait:
    """One thing that a branch of the step waits for."""

    path: str
    kind: WaitKind
    name: str
    """Of the signal, the approval, the child run or the tool."""
    since_ns: int
    wake_ns: int | None = None
    """When it stops waiting."""


@attrs.define(kw_only=True)
class Child:
    """A run that this one spawned."""

    run: str
    path: str
    agent: str
    status: str = "running"
    ended: int | None = None
    """Seq of the `child_run_ended`."""


@attrs.define(kw_only=True)
class RunState:
    """A run after some of its events."""

    run: str = ""
    agent: str = ""
    role: str | None = None
    driver: str = "code"
    session: str | None = None
    entry_point: str | None = None
    code_digest: bytes | None = None
    """Of the code that last worked on the step, or is to."""
    seed: bytes = b""
    priority: int = 0
    capabilities: tuple[str, ...] = ()
    retry: Any = None
    timeout_ns: int | None = None
    parent: str | None = None
    parent_path: str | None = None
    root: str = ""
    status: RunStatus = "pending"
    waiting: str | None = None
    """Why it waits, where it does: `waits` for what its branches wait for, `in doubt`, `divergence`, `retry`."""
    cancelling: bool = False
    """Somebody wants it to end; its worker has not stopped yet."""
    step: str = ""
    step_number: int = 0
    step_agent: str = ""
    step_events: int = 0
    """Number of events before the step."""
    epoch: int = 0
    attempt: int = 1
    """Of the step's code, from 1; a recovery is no new attempt."""
    retry_ns: int | None = None
    worker: str | None = None
    """Who holds the step."""
    losses: int = 0
    """Workers lost in a row, without progress between."""
    version: int = 0
    """Version of the state document."""
    waits: dict[str, Wait] = attrs.field(factory=dict)
    signals: dict[str, list[int]] = attrs.field(factory=dict)
    """Seqs of the signals that nobody consumed, by name, oldest first."""
    senders: set[tuple[str, bytes]] = attrs.field(factory=set)
    approvals: dict[str, int | None] = attrs.field(factory=dict)
    """Seq of the answer, by the approval's id; None before there is one."""
    children: dict[str, Child] = attrs.field(factory=dict)
    created_ns: int = 0
    updated_ns: int = 0
    since_ns: int = 0
    """When it came to its status."""
    events: int = 0
    """Number of events folded, which is the stream_seq of the last."""
    newer: str | None = None
    """A critical event type that this version does not know: it may not decide on this run."""
    category: str | None = None
    """Of the failure, if it failed."""
    counts: Counter[str] = attrs.field(factory=Counter)
    tools: Counter[str] = attrs.field(factory=Counter)
    effects: int = 0
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    ledger: dict[str, ToolEntry] = attrs.field(factory=dict)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def in_doubt(self) -> list[ToolEntry]:
        """Outside writes whose outcome nobody knows."""
        return [row for row in self.ledger.values() if row.status == "PENDING_VERIFICATION"]

    @property
    def stream(self) -> str:
        """Name of the run's stream."""
        return f"run/{self.run}"

    @property
    def step_status(self) -> StepStatus:
        """The step's status in the contract's words."""
        if self.status in ("running", "completed", "failed", "cancelled"):
            return self.status
        if self.status == "pending":
            return "pending" if self.epoch else "created"
        if self.retry_ns is not None:
            return "retry_scheduled"
        kinds = {one.kind for one in self.waits.values()} if self.waiting == "waits" else set()
        if not kinds or kinds & {"approval", "signal"}:
            return "waiting_human"
        return "sleeping" if kinds == {"sleep"} else "waiting_tool"

    def answer(self, path: str) -> int | None:
        """Seq of the event that answers the wait at a path; None if there is none yet."""
        waiting = self.waits.get(path)
        if waiting is None:
            return None
        if waiting.kind == "signal":
            return next(iter(self.signals.get(waiting.name, ())), None)
        if waiting.kind == "approval":
            return self.approvals.get(waiting.name)
        if waiting.kind == "child":
            return self.children[waiting.name].ended
        return None

    def clone(self) -> RunState:
        """A copy that can be folded further without changing this one."""
        return attrs.evolve(
            self,
            waits=dict(self.waits),
            signals={name: list(seqs) for name, seqs in self.signals.items()},
            senders=set(self.senders),
            approvals=dict(self.approvals),
            children={name: attrs.evolve(child) for name, child in self.children.items()},
            counts=Counter(self.counts),
            tools=Counter(self.tools),
            ledger={path: attrs.evolve(row) for path, row in self.ledger.items()},
        )

    def apply(self, seq: int, time_ns: int, name: str, body: Body) -> None:
        """Fold one more event into this state."""
        self.events += 1
        self.counts[name] += 1
        self.updated_ns = time_ns
        step = _FOLDS.get(type(body))
        if step is not None:
            before = self.status
            step(self, seq, body)
            if self.status != before:
                self.since_ns = time_ns

    def _row(self, path: str, status: LedgerStatus) -> None:
        if path in self.ledger:
            self.ledger[path].status = status

    def _wait(self, kind: WaitKind, body: Any, name: str) -> None:
        self.effects += 1
        self.waits[body.path] = Wait(
            path=body.path, kind=kind, name=name, since_ns=self.updated_ns, wake_ns=body.wake_ns
        )

    def _progressed(self) -> None:
        self.losses = 0


def _created(state: RunState, _: int, body: RunCreated) -> None:
    state.created_ns = state.since_ns = state.updated_ns
    state.run, state.agent, state.role, state.driver = body.run, body.agent, body.role, body.driver
    state.seed, state.session = body.seed, body.session
    state.entry_point, state.code_digest = body.entry_point, body.code_digest
    state.priority, state.capabilities = body.priority or 0, tuple(body.capabilities or ())
    state.retry, state.timeout_ns = body.retry, body.timeout_ns
    state.parent, state.parent_path, state.root = body.parent, body.parent_path, body.root or body.run


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
    state.worker = None
    if state.status == "running":
        state._progressed()
        state.waiting = body.waiting
        state.status = "pending" if body.waiting in (None, "yield") else "waiting"


def _expired(state: RunState, _: int, __: LeaseExpired) -> None:
    state.worker = None
    state.losses += 1
    if state.status == "running":
        state.status, state.waiting = "pending", None


def _parked(state: RunState, _: int, body: RunParked) -> None:
    state.status, state.waiting, state.losses = "parked", f"{body.losses} workers were lost with it", 0


def _retry(state: RunState, _: int, body: StepRetryScheduled) -> None:
    state.worker, state.status, state.waiting = None, "waiting", "retry"
    state.attempt, state.retry_ns = body.attempt, body.wake_ns
    state._progressed()
    if body.fresh:
        state.waits.clear()


def _diverged(state: RunState, _: int, body: DivergenceDetected) -> None:
    state.status, state.waiting = "diverged", body.code


def _committed(state: RunState, _: int, body: StatePatchCommitted) -> None:
    state.version = body.version


def _step_ended(state: RunState, _: int, body: StepCompleted | StepFailed | StepCancelled) -> None:
    state.worker = None
    state.waits.clear()
    if isinstance(body, StepFailed):
        state.category = body.category


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
    state.effects += body.attempt == 1
    state.waits.pop(body.path, None)
    if body.side_effect == "external_write":
        state.ledger[body.path] = ToolEntry(
            path=body.path,
            tool=body.tool,
            side_effect=body.side_effect,
            attempt=body.attempt,
            status="RESERVED",
            seq=seq,
            epoch=state.epoch,
            worker=state.worker,
            requested_ns=state.updated_ns,
        )


def _model_requested(state: RunState, _: int, body: effect.ModelCallRequested) -> None:
    state.effects += body.attempt == 1
    state.model_calls += 1
    state.waits.pop(body.path, None)


def _model_completed(state: RunState, _: int, body: effect.ModelCallCompleted) -> None:
    state._progressed()
    state.input_tokens += body.input_tokens or 0
    state.output_tokens += body.output_tokens or 0


def _model_failed(state: RunState, _: int, body: effect.ModelCallFailed) -> None:
    state._progressed()
    if body.retry_ns is not None:
        _again(state, body.path, "outage" if body.category == "outage" else "retry", "the model", body.retry_ns)


def _captured(state: RunState, _: int, __: effect.ValueCaptured) -> None:
    state.effects += 1
    state._progressed()


def _tool_completed(state: RunState, _: int, body: effect.ToolCallCompleted) -> None:
    state._progressed()
    state.waits.pop(body.path, None)
    state._row(body.path, "SUCCEEDED")


def _tool_failed(state: RunState, _: int, body: effect.ToolCallFailed) -> None:
    state._progressed()
    state._row(body.path, "PENDING_VERIFICATION" if body.in_doubt else "FAILED_NO_EFFECT")
    if body.retry_ns is not None:
        kind: WaitKind = "settle" if body.in_doubt else "outage" if body.category == "outage" else "retry"
        row = state.ledger.get(body.path)
        _again(state, body.path, kind, row.tool if row else "a tool", body.retry_ns)


def _again(state: RunState, path: str, kind: WaitKind, name: str, wake_ns: int) -> None:
    state.waits[path] = Wait(path=path, kind=kind, name=name, since_ns=state.updated_ns, wake_ns=wake_ns)


def _tool_settled(state: RunState, _: int, body: effect.ToolCallSettled) -> None:
    state.waits.pop(body.path, None)
    state._row(body.path, _SETTLED[body.outcome])
    if state.status == "waiting" and state.waiting == "in doubt" and not state.in_doubt:
        state.status, state.waiting = "pending", None


def _abandoned(state: RunState, _: int, body: effect.EffectAbandoned) -> None:
    state.waits.pop(body.path, None)


def _timer(state: RunState, _: int, body: wait.TimerStarted) -> None:
    state._wait("sleep", body, "")


def _fired(state: RunState, _: int, body: wait.TimerFired) -> None:
    state.waits.pop(body.path, None)
    state._progressed()


def _signal_awaited(state: RunState, _: int, body: wait.SignalAwaited) -> None:
    state._wait("signal", body, body.name)


def _signal(state: RunState, seq: int, body: wait.SignalReceived) -> None:
    state.signals.setdefault(body.name, []).append(seq)
    if body.sender is not None:
        state.senders.add((body.name, body.sender))


def _approval(state: RunState, _: int, body: wait.ApprovalRequested) -> None:
    state._wait("approval", body, body.approval)
    state.approvals[body.approval] = None


def _decided(state: RunState, seq: int, body: wait.ApprovalDecided) -> None:
    state.approvals[body.approval] = seq


def _child(state: RunState, _: int, body: wait.ChildRunRequested) -> None:
    state.effects += 1
    state.children[body.run] = Child(run=body.run, path=body.path, agent=body.agent)


def _child_awaited(state: RunState, _: int, body: wait.ChildAwaited) -> None:
    state._wait("child", body, body.run)


def _child_ended(state: RunState, seq: int, body: wait.ChildRunEnded) -> None:
    child = state.children.get(body.run)
    if child is not None:
        child.status, child.ended = body.status, seq


def _answered(state: RunState, _: int, body: wait.WaitAnswered) -> None:
    state._progressed()
    waiting = state.waits.pop(body.path, None)
    if waiting is not None and waiting.kind == "signal":
        left = [seq for seq in state.signals.get(waiting.name, ()) if seq != body.answer]
        if left:
            state.signals[waiting.name] = left
        else:
            state.signals.pop(waiting.name, None)


_SETTLED: dict[str, LedgerStatus] = {
    "succeeded": "SUCCEEDED",
    "no_effect": "FAILED_NO_EFFECT",
    "compensated": "COMPENSATED",
}
_FOLDS: dict[type[Body], Callable[[RunState, int, Any], None]] = {
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
    wait.TimerStarted: _timer,
    wait.TimerFired: _fired,
    wait.SignalAwaited: _signal_awaited,
    wait.SignalReceived: _signal,
    wait.ApprovalRequested: _approval,
    wait.ApprovalDecided: _decided,
    wait.ChildRunRequested: _child,
    wait.ChildAwaited: _child_awaited,
    wait.ChildRunEnded: _child_ended,
    wait.WaitAnswered: _answered,
}
"""One function a type: a state is folded for every append, and a chain of comparisons would cost more than the fold."""


def fold(events: Iterable[tuple[int, int, str, Body]], state: RunState | None = None) -> RunState:
    """The state after events, `(seq, time_ns, type, body)` in order, on top of `state`, which is used up."""
    state = state or RunState()
    for seq, time_ns, name, body in events:
        state.apply(seq, time_ns, name, body)
    return state
