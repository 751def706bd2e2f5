"""The tool ledger: one row for every outside write, and every call under a logical key, with what became of it."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.events.effect import ToolCallCompleted, ToolCallFailed, ToolCallRequested, ToolCallSettled
from ledger_core.events.govern import CompensationStarted, EffectRefused, ToolApprovalRequired
from ledger_core.events.step import (
    LeaseExpired,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepReleased,
    StepRetryScheduled,
)
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, counted, of_path


def _open(_: Event, state: RunState) -> Iterable[str]:
    """Calls that the end of a claim puts in doubt, or that were never begun."""
    return [path for path, one in state.ledger.items() if one.status in ("PENDING_VERIFICATION", "FAILED_NO_EFFECT")]


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    entry = state.ledger.get(getattr(event.body, "path", None) or (row["path"] if row else ""))
    if entry is None:
        return row
    if row is None or (isinstance(event.body, (ToolCallRequested, ToolApprovalRequired)) and row["seq"] != entry.seq):
        row = {**about(event, state), "path": entry.path}
    row |= {
        "tool": entry.tool,
        "tool_version": entry.tool_version,
        "side_effect": entry.side_effect,
        "status": entry.status,
        "attempt": entry.attempt,
        "seq": entry.seq,
        "done": entry.done,
        "requested_ns": entry.requested_ns,
        "updated_ns": entry.updated_ns,
        "settled_by": entry.settled_by,
        "worker": entry.worker,
        "compensating": entry.compensating,
        "resend": entry.resend,
        "key": entry.key,
        "key_request": entry.key_request,
        "idempotency": entry.idempotency,
    }
    return row


def _sums(row: Row) -> Iterable[Contribution]:
    yield counted(("status", row["status"]), calls=1)
    yield counted(("tool", row["tool"]), ("run", row["run"]), calls=1, **{row["status"]: 1})


_CALLS = (
    ToolCallRequested,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallSettled,
    ToolApprovalRequired,
    EffectRefused,
    CompensationStarted,
)
_ENDINGS = (StepReleased, LeaseExpired, StepRetryScheduled, StepCompleted, StepFailed, StepCancelled)
TOOL_LEDGER = Projection(
    name="tool_ledger",
    version=1,
    keys={**dict.fromkeys(_CALLS, of_path), **dict.fromkeys(_ENDINGS, _open)},
    fold=_fold,
    sums=_sums,
)
