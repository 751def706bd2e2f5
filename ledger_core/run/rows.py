"""What a run's state is made of: words for its statuses, and rows for its outside writes, its waits and its children.

Rules: plain values; who folds them is `evolve`.
"""

from __future__ import annotations

from typing import Literal

import attrs

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
UNSETTLED = ("RESERVED", "PENDING_VERIFICATION")
"""Statuses of the tool ledger of calls that nobody knows the outcome of."""
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
    event: int = 0
    """Number of the run's events as it began."""


@attrs.define(kw_only=True)
class Child:
    """A run that this one spawned."""

    run: str
    path: str
    agent: str
    status: str = "running"
    ended: int | None = None
    """Seq of the `child_run_ended`."""
