"""Steps: one row each, with its claims, its attempts and how it ended."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.events.step import (
    LeaseExpired,
    StepCancelled,
    StepClaimed,
    StepCompleted,
    StepCreated,
    StepFailed,
    StepRetryScheduled,
)
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, counted

_ENDS = {StepCompleted: "completed", StepFailed: "failed", StepCancelled: "cancelled"}


def _keys(_: Event, state: RunState) -> Iterable[str]:
    return (state.step,) if state.step else ()


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if isinstance(body, StepCreated):
        row = {
            "run": state.run,
            "step": body.step,
            "number": body.number,
            "agent": body.agent,
            "status": "created",
            "epoch": 0,
            "attempt": 1,
            "claims": 0,
            "losses": 0,
            "created_ns": event.time_ns,
            "updated_ns": event.time_ns,
            "ended_ns": None,
            "first_seq": event.seq,
            "seq": event.seq,
            "category": None,
            "error_type": None,
        }
    if row is None or row["ended_ns"] is not None:
        return row
    row["updated_ns"], row["seq"] = event.time_ns, event.seq
    row["status"], row["attempt"] = state.step_status, state.attempt
    if isinstance(body, StepClaimed):
        row["epoch"] = body.epoch
        row["claims"] += 1
    elif isinstance(body, LeaseExpired):
        row["losses"] += 1
    elif isinstance(body, (StepFailed, StepRetryScheduled)):
        row["category"], row["error_type"] = body.category, body.error_type
    ended = _ENDS.get(type(body))
    if ended is not None:
        row["status"], row["ended_ns"] = ended, event.time_ns
    return row


def _sums(row: Row) -> Iterable[Contribution]:
    yield counted(("status", row["status"]), steps=1, claims=row["claims"], losses=row["losses"])


_ORDERED = frozenset((StepCreated, StepClaimed, LeaseExpired, StepRetryScheduled, *_ENDS))
STEPS = Projection(name="steps", version=1, keys=_keys, fold=_fold, latest=True, ordered=_ORDERED, sums=_sums)
