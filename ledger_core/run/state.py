"""What a run's events say of it: the fold that decisions, recovery and listings stand on.

Rules: pure, over facts alone; an event of an unknown type changes nothing. `fold` takes events in order. The folding
works on one private accumulator, because copying a state per event would cost O(n²). This file does not decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

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
        if isinstance(body, RunCreated):
            self.created_ns = time_ns
        step = _FOLDS.get(type(body))
        if step is not None:
            step(self, seq, body)

    def _row(self, path: str, status: LedgerStatus) -> None:
        if path in self.ledger:
            self.ledger[path].status = status


def _created(state: RunState, _: int, body: RunCreated) -> None:
    state.run, state.agent, state.seed = body.run, body.agent, body.seed
    state.entry_point, state.code_digest = body.entry_point, body.code_digest


def _step(state: RunState, _: int, body: StepCreated) -> None:
    state.step = body.step


def _claimed(state: RunState, _: int, body: StepClaimed) -> None:
    state.status, state.waiting = "running", None
    state.epoch, state.worker = body.epoch, body.worker


def _released(state: RunState, _: int, body: LeaseExpired | StepReleased) -> None:
    state.worker = None
    if state.status == "running":
        state.waiting = body.waiting if isinstance(body, StepReleased) else None
        state.status = "waiting" if state.waiting else "pending"


def _diverged(state: RunState, _: int, body: DivergenceDetected) -> None:
    state.status, state.waiting = "diverged", body.code


def _committed(state: RunState, _: int, body: StatePatchCommitted) -> None:
    state.version = body.version


def _step_ended(state: RunState, _: int, body: StepCompleted | StepFailed) -> None:
    state.worker = None
    if isinstance(body, StepFailed):
        state.category = body.category


def _ended(state: RunState, _: int, body: RunCompleted | RunFailed) -> None:
    state.status, state.waiting = "completed" if isinstance(body, RunCompleted) else "failed", None


def _newer(state: RunState, _: int, body: Unknown) -> None:
    state.newer = body.type if body.critical else state.newer


def _tool_requested(state: RunState, seq: int, body: effect.ToolCallRequested) -> None:
    state.tools[body.tool] += 1
    state.effects += body.attempt == 1
    if body.side_effect == "external_write":
        state.ledger[body.path] = ToolEntry(
            path=body.path,
            tool=body.tool,
            side_effect=body.side_effect,
            attempt=body.attempt,
            status="RESERVED",
            seq=seq,
        )


def _model_requested(state: RunState, _: int, body: effect.ModelCallRequested) -> None:
    state.effects += body.attempt == 1


def _captured(state: RunState, _: int, __: effect.ValueCaptured) -> None:
    state.effects += 1


def _tool_completed(state: RunState, _: int, body: effect.ToolCallCompleted) -> None:
    state._row(body.path, "SUCCEEDED")


def _tool_failed(state: RunState, _: int, body: effect.ToolCallFailed) -> None:
    state._row(body.path, "PENDING_VERIFICATION" if body.in_doubt else "FAILED_NO_EFFECT")


def _tool_settled(state: RunState, _: int, body: effect.ToolCallSettled) -> None:
    state._row(body.path, _SETTLED[body.outcome])


_SETTLED: dict[str, LedgerStatus] = {
    "succeeded": "SUCCEEDED",
    "no_effect": "FAILED_NO_EFFECT",
    "compensated": "COMPENSATED",
}
_FOLDS: dict[type[Body], Callable[[RunState, int, Any], None]] = {
    RunCreated: _created,
    StepCreated: _step,
    StepClaimed: _claimed,
    LeaseExpired: _released,
    StepReleased: _released,
    DivergenceDetected: _diverged,
    StatePatchCommitted: _committed,
    StepCompleted: _step_ended,
    StepFailed: _step_ended,
    RunCompleted: _ended,
    RunFailed: _ended,
    Unknown: _newer,
    effect.ToolCallRequested: _tool_requested,
    effect.ModelCallRequested: _model_requested,
    effect.ValueCaptured: _captured,
    effect.ToolCallCompleted: _tool_completed,
    effect.ToolCallFailed: _tool_failed,
    effect.ToolCallSettled: _tool_settled,
}
"""One function a type: a state is folded for every append, and a chain of comparisons would cost more than the fold."""


def fold(events: Iterable[tuple[int, int, str, Body]], state: RunState | None = None) -> RunState:
    """The state after events, `(seq, time_ns, type, body)` in order, on top of `state`, which is used up."""
    state = state or RunState()
    for seq, time_ns, name, body in events:
        state.apply(seq, time_ns, name, body)
    return state
