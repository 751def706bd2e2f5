"""What a run's events say of it: the fold that decisions, recovery and listings stand on.

Rules: pure, over facts alone; an event of an unknown type changes nothing. `fold` takes events in order. The folding
works on one private accumulator, because copying a state per event would cost O(n²). What each event changes is in
`evolve`. This file does not decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

from ledger_core.events import Body
from ledger_core.run.evolve import FOLDS
from ledger_core.run.rows import (
    ENDED,
    FINAL,
    UNSETTLED,
    Child,
    LedgerStatus,
    Reservation,
    RunStatus,
    StepStatus,
    ToolEntry,
    Wait,
    WaitKind,
)

__all__ = [
    "ENDED",
    "FINAL",
    "UNSETTLED",
    "Child",
    "LedgerStatus",
    "RunState",
    "RunStatus",
    "StepStatus",
    "ToolEntry",
    "Wait",
    "WaitKind",
    "fold",
]


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
    ancestor: str | None = None
    """The run that it was forked from, and the number of the last event that it shares with it."""
    ancestor_event: int = 0
    lineage: str = ""
    """The run whose key makes the tags of its requests: itself, or where its line of forks began."""
    lineage_seed: bytes = b""
    writes_blocked: bool = False
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
    taken: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    """Name and seq of the signal that a wait was answered with, by path: given back if the code never saw it."""
    failed: dict[str, int] = attrs.field(factory=dict)
    """Number of the run's events as an effect of the step ended that may have failed, by path."""
    senders: set[tuple[str, bytes]] = attrs.field(factory=set)
    approvals: dict[str, int | None] = attrs.field(factory=dict)
    """Seq of the answer, by the approval's id; None before there is one."""
    pending: dict[str, int | None] = attrs.field(factory=dict)
    """Approvals that were asked for and that the code went on without, and when they expire."""
    children: dict[str, Child] = attrs.field(factory=dict)
    names: dict[str, str] = attrs.field(factory=dict)
    """Of the tool or model of the step's calls that have not succeeded, by path."""
    fresh: int = 0
    """Number of times that a step's code began afresh, without its journal."""
    generations: dict[str, int] = attrs.field(factory=dict)
    """What `fresh` was when the last effect at a path was begun; only where it was above 0."""
    stumbled: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """What failed of the step, whatever came of it later: its generation and its last attempt, by `effect_key`."""
    asking: set[str] = attrs.field(factory=set)
    """The step's model calls that nobody has answered yet, by `effect_key`."""
    late: int = 0
    """Number of the last event that did not know what somebody else had settled before: it changes nothing."""
    first_seq: int = 0
    """Of the run's first event."""
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
    cached_tokens: int = 0
    usd_nano: int = 0
    """Billionths of a dollar."""
    artifacts: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)
    """Effects that did not begin, by who refused."""
    budget: dict[str, int] | None = None
    """Bounds that it was created with; how they stand is in its account."""
    reservations: dict[str, Reservation] = attrs.field(factory=dict)
    granted: set[str] = attrs.field(factory=set)
    """Approvals that a person gave."""
    used: set[str] = attrs.field(factory=set)
    """Approvals that a tool call stood on."""
    ledger: dict[str, ToolEntry] = attrs.field(factory=dict)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def words(self) -> str:
        """How it stands, as a sentence goes on behind its name."""
        return "was cancelled" if self.status == "cancelled" else f"has {self.status}"

    @property
    def in_doubt(self) -> list[ToolEntry]:
        """Outside writes whose outcome nobody knows."""
        return [row for row in self.ledger.values() if row.status == "PENDING_VERIFICATION" and row.writes]

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

    def effect_key(self, path: str, *, refused: bool = False) -> str:
        """What tells the effect at a path from others that were asked for there before the code began afresh: of the
        last that was begun, or of one that is `refused` just now."""
        generation = self.fresh if refused else self.generations.get(path, 0)
        return f"{path}~{generation}" if generation else path

    def clone(self) -> RunState:
        """A copy that can be folded further without changing this one."""
        return attrs.evolve(
            self,
            waits=dict(self.waits),
            signals={name: list(seqs) for name, seqs in self.signals.items()},
            senders=set(self.senders),
            taken=dict(self.taken),
            failed=dict(self.failed),
            names=dict(self.names),
            generations=dict(self.generations),
            stumbled=dict(self.stumbled),
            asking=set(self.asking),
            approvals=dict(self.approvals),
            pending=dict(self.pending),
            children={name: attrs.evolve(child) for name, child in self.children.items()},
            counts=Counter(self.counts),
            tools=Counter(self.tools),
            ledger={path: attrs.evolve(row) for path, row in self.ledger.items()},
            refused=Counter(self.refused),
            reservations=dict(self.reservations),
            granted=set(self.granted),
            used=set(self.used),
        )

    def apply(self, seq: int, time_ns: int, name: str, body: Body) -> None:
        """Fold one more event into this state."""
        self.events += 1
        self.counts[name] += 1
        self.updated_ns = time_ns
        step = FOLDS.get(type(body))
        if step is not None:
            before = self.status
            step(self, seq, body)
            if self.status != before:
                self.since_ns = time_ns


def fold(events: Iterable[tuple[int, int, str, Body]], state: RunState | None = None) -> RunState:
    """The state after events, `(seq, time_ns, type, body)` in order, on top of `state`, which is used up."""
    state = state or RunState()
    for seq, time_ns, name, body in events:
        state.apply(seq, time_ns, name, body)
    return state
