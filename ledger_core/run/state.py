"""What a run's events say of it: the fold that decisions, recovery and listings stand on.

Rules: pure, over facts alone; an event of an unknown type changes nothing. `fold` takes events in order. The folding
works on one private accumulator, because copying a state per event would cost O(n²). This file does not decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import attrs

from ledger_core.events import Body, Unknown, effect
from ledger_core.events.run import DivergenceDetected, RunCompleted, RunCreated, RunFailed
from ledger_core.events.step import (
    LeaseExpired,
    StatePatchCommitted,
    StepClaimed,
    StepCompleted,
    StepCreated,
    StepFailed,
    StepReleased,
)

RunStatus = Literal["pending", "running", "waiting", "diverged", "completed", "failed"]
LedgerStatus = Literal["RESERVED", "SUCCEEDED", "FAILED_NO_EFFECT", "PENDING_VERIFICATION", "COMPENSATED"]
ENDED = ("completed", "failed")


@attrs.define(kw_only=True)
class ToolEntry:
    """A row of the tool ledger."""

    path: str
    tool: str
    side_effect: str
    attempt: int
    status: LedgerStatus
    seq: int


@attrs.define(kw_only=True)
class RunState:
    """A run after some of its events."""

    run: str = ""
    agent: str = ""
    entry_point: str | None = None
    code_digest: bytes | None = None
    seed: bytes = b""
    status: RunStatus = "pending"
    waiting: str | None = None
    """Why it waits, where it does."""
    step: str = ""
    epoch: int = 0
    worker: str | None = None
    """Who holds the step."""
    version: int = 0
    """Version of the state document."""
    created_ns: int = 0
    updated_ns: int = 0
    events: int = 0
    """Number of events folded, which is the stream_seq of the last."""
    newer: str | None = None
    """A critical event type that this version does not know: it may not decide on this run."""
    category: str | None = None
    """Of the failure, if it failed."""
    counts: Counter[str] = attrs.field(factory=Counter)
    tools: Counter[str] = attrs.field(factory=Counter)
    effects: int = 0
    ledger: dict[str, ToolEntry] = attrs.field(factory=dict)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def in_doubt(self) -> list[ToolEntry]:
        """Outside writes whose outcome nobody knows."""
        return [row for row in self.ledger.values() if row.status == "PENDING_VERIFICATION"]

    def apply(self, seq: int, time_ns: int, name: str, body: Body) -> None:
        """Fold one more event into this state."""
        self.events += 1
        self.counts[name] += 1
        self.updated_ns = time_ns
        match body:
            case RunCreated():
                self.run, self.agent, self.seed = body.run, body.agent, body.seed
                self.entry_point, self.code_digest = body.entry_point, body.code_digest
                self.created_ns = time_ns
            case StepCreated():
                self.step = body.step
            case StepClaimed():
                self.status, self.waiting = "running", None
                self.epoch, self.worker = body.epoch, body.worker
            case LeaseExpired() | StepReleased():
                self._released(body)
            case DivergenceDetected():
                self.status, self.waiting = "diverged", body.code
            case StatePatchCommitted():
                self.version = body.version
            case StepCompleted():
                self.worker = None
            case StepFailed():
                self.worker, self.category = None, body.category
            case RunCompleted():
                self.status, self.waiting = "completed", None
            case RunFailed():
                self.status, self.waiting = "failed", None
            case Unknown():
                self.newer = body.type if body.critical else self.newer
            case _:
                self._effect(seq, body)

    def _released(self, body: LeaseExpired | StepReleased) -> None:
        self.worker = None
        if self.status == "running":
            self.waiting = body.waiting if isinstance(body, StepReleased) else None
            self.status = "waiting" if self.waiting else "pending"

    def _effect(self, seq: int, body: Body) -> None:
        match body:
            case effect.ToolCallRequested():
                self.tools[body.tool] += 1
                self.effects += body.attempt == 1
                if body.side_effect == "external_write":
                    self.ledger[body.path] = ToolEntry(
                        path=body.path,
                        tool=body.tool,
                        side_effect=body.side_effect,
                        attempt=body.attempt,
                        status="RESERVED",
                        seq=seq,
                    )
            case effect.ModelCallRequested():
                self.effects += body.attempt == 1
            case effect.ValueCaptured():
                self.effects += 1
            case effect.ToolCallCompleted():
                self._row(body.path, "SUCCEEDED")
            case effect.ToolCallFailed():
                self._row(body.path, "PENDING_VERIFICATION" if body.in_doubt else "FAILED_NO_EFFECT")
            case effect.ToolCallSettled():
                settled: dict[str, LedgerStatus] = {
                    "succeeded": "SUCCEEDED",
                    "no_effect": "FAILED_NO_EFFECT",
                    "compensated": "COMPENSATED",
                }
                self._row(body.path, settled[body.outcome])

    def _row(self, path: str, status: LedgerStatus) -> None:
        if path in self.ledger:
            self.ledger[path].status = status


def fold(events: Iterable[tuple[int, int, str, Body]], state: RunState | None = None) -> RunState:
    """The state after events, `(seq, time_ns, type, body)` in order, on top of `state`, which is used up."""
    state = state or RunState()
    for seq, time_ns, name, body in events:
        state.apply(seq, time_ns, name, body)
    return state
