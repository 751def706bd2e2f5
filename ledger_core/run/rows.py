"""What a run's state is made of: words for its statuses, and rows for its outside writes, its waits and its children.

Rules: plain values; who folds them is `evolve`.
"""

from __future__ import annotations

from collections.abc import Mapping
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
LedgerStatus = Literal["RESERVED", "RUNNING", "SUCCEEDED", "FAILED_NO_EFFECT", "PENDING_VERIFICATION", "COMPENSATED"]
WaitKind = Literal["sleep", "signal", "approval", "child", "retry", "outage", "settle", "budget", "key"]
ENDED = ("completed", "failed", "cancelled")
UNSETTLED = ("RUNNING", "PENDING_VERIFICATION")
"""Statuses of the tool ledger of calls that nobody knows the outcome of: under way, or in doubt."""
FINAL = ("SUCCEEDED", "COMPENSATED")
"""Statuses of the tool ledger that nothing changes any more."""


@attrs.define(kw_only=True)
class ToolEntry:
    """A row of the tool ledger.

    `RESERVED`: it has its place, and has not begun: it waits for a person. `RUNNING`: its intent is durable, and
    whoever made it still has the step. `PENDING_VERIFICATION`: nobody knows what came of it. The rest is final.
    """

    path: str
    tool: str
    side_effect: str
    attempt: int
    status: LedgerStatus
    seq: int
    """Of the intent."""
    tool_version: str = ""
    epoch: int = 0
    worker: str | None = None
    """Who made the attempt."""
    requested_ns: int = 0
    updated_ns: int = 0
    key: bytes | None = None
    """Tag of its logical key."""
    key_request: bytes | None = None
    idempotency: str | None = None
    """What the other side was given as key, where it follows from a logical key."""
    done: int | None = None
    """Seq of the event that says that it succeeded."""
    settled_by: str | None = None
    resend: bool = False
    """It is in doubt, and may be made again all the same, with its key."""
    compensating: bool = False
    """Its `compensate` hook was begun, and nobody has said that it ended."""

    @property
    def writes(self) -> bool:
        """Whether it changes something outside."""
        return self.side_effect == "external_write"


@attrs.frozen(kw_only=True)
class Reservation:
    """What an open call holds of the accounts that its run draws on."""

    attempt: int
    by_account: Mapping[str, Mapping[str, int]]
    unbounded: tuple[str, ...] = ()
    """Dimensions of which it holds all that was left, because nobody knew how much it takes."""
    lost: int = 0
    """Attempts before it that nobody will hear of, and that held all that was left."""


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
