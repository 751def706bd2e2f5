"""Approvals: one row for every question to a person, with the answer, or why none counts any more."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.events.effect import EffectAbandoned, ToolCallRequested
from ledger_core.events.govern import EffectRefused, ToolApprovalRequired
from ledger_core.events.run import RunCancelled, RunCompleted, RunFailed
from ledger_core.events.step import StepCancelled, StepCompleted, StepCreated, StepFailed, StepRetryScheduled
from ledger_core.events.wait import ApprovalDecided, ApprovalRequested, TimerFired
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, counted

_ASKS = (ApprovalRequested, ToolApprovalRequired)
_CLOSES = (
    TimerFired,
    EffectAbandoned,
    EffectRefused,
    StepCreated,
    StepRetryScheduled,
    StepCompleted,
    StepFailed,
    StepCancelled,
    RunCompleted,
    RunFailed,
    RunCancelled,
)


def _named(event: Event, _: RunState) -> Iterable[str]:
    approval = event.body.approval  # type: ignore[attr-defined]  # only for bodies that have one
    return () if approval is None else (approval,)


def _unanswered(_: Event, state: RunState) -> Iterable[str]:
    return [approval for approval, answer in state.approvals.items() if answer is None]


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if isinstance(body, _ASKS):
        return _asked(event, body, state)
    if row is None:
        return None
    if isinstance(body, ApprovalDecided):
        row["status"] = "approved" if body.approved else "denied"
        row["decided_ns"], row["decided_seq"] = event.time_ns, event.seq
    elif isinstance(body, ToolCallRequested):
        row["used"] = True
    elif row["status"] == "pending" and not _asks(state, row["approval"]):
        expired = isinstance(body, TimerFired) or getattr(body, "error_type", "") == "ApprovalExpired"
        row["status"] = "expired" if expired else "withdrawn"
    return row


def _asked(event: Event, body: ApprovalRequested | ToolApprovalRequired, state: RunState) -> Row:
    tool = isinstance(body, ToolApprovalRequired)
    return {
        **about(event, state),
        "path": body.path,
        "approval": body.approval,
        "kind": "tool" if tool else "code",
        "tool": getattr(body, "tool", None),
        "tool_version": getattr(body, "tool_version", None),
        "request": body.request,
        "status": "pending",
        "rule": getattr(body, "rule", None),
        "requested_ns": event.time_ns,
        "wake_ns": body.wake_ns,
        "decided_ns": None,
        "seq": event.seq,
        "decided_seq": None,
        "used": False,
    }


def _asks(state: RunState, approval: str) -> bool:
    """Whether an answer would still be heard."""
    if state.ended:
        return False
    waited = any(one.kind == "approval" and one.name == approval for one in state.waits.values())
    return waited or approval in state.pending


def _sums(row: Row) -> Iterable[Contribution]:
    yield counted(("status", row["status"]), approvals=1)


APPROVALS = Projection(
    name="approvals",
    version=1,
    keys={
        **dict.fromkeys(_CLOSES, _unanswered),
        **dict.fromkeys((*_ASKS, ApprovalDecided, ToolCallRequested), _named),
    },
    fold=_fold,
    sums=_sums,
)
