"""Where a run stands in the queue: what a worker must look at, in which order, and what it may claim.

Rules: pure. A run's place is a function of its state, asserted by the event that changed it; the log only keeps the
rows. No clock: a place names a time, and the one who looks compares. The first byte of a key tells places apart:

    'r' agent[8] group[8] ‖ 127 - priority u8 ‖ created u64   ready: somebody should claim it
    't' wake u64                                              waits for a time, or for what may come before
    'w' worker[8]                                             held: look whether its owner lives
    'p' created u64                                           waits for a signal, an answer, a child, or its driver
    'x' created u64                                           wants a person: parked, diverged, in doubt

`agent` and `group` are hashes: of the agent's name, and of what a worker must offer (capabilities, code). So a worker
that serves other agents, or other code, passes over a whole group with one look, however many runs are in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from ledger_core import chain, codec
from ledger_core.events import Body, effect, run, step, wait
from ledger_core.log.record import Placement, Queued
from ledger_core.run.state import RunState

READY, TIMER, HELD, WAITING, ATTENTION = b"r", b"t", b"w", b"p", b"x"
STUCK: Final = ("in doubt", "blocked")
"""Why a run waits for a person to change something."""
_PUBLIC: Final = bytes(32)
_U64: Final = struct.Struct(">Q")
_MOST_DUE: Final = 256
"""Due timers looked at for one claim: with more, the earliest are served first, whatever their priority."""

MOVES: Final[frozenset[type[Body]]] = frozenset(
    (
        run.RunCreated,
        run.RunCompleted,
        run.RunFailed,
        run.RunCancelled,
        run.RunParked,
        run.DivergenceDetected,
        step.StepCreated,
        step.StepClaimed,
        step.StepReleased,
        step.StepRetryScheduled,
        step.LeaseExpired,
        wait.SignalReceived,
        wait.ApprovalDecided,
        wait.ChildRunEnded,
        effect.ToolCallSettled,
    )
)
"""Bodies after which a run may stand elsewhere."""


Rows = Callable[[bytes, bytes], Iterable[Queued]]
"""Rows whose key begins with the first argument, from the second on, in order."""


@attrs.frozen(kw_only=True)
class Offer:
    """What a worker serves: agents with the digest of their code, and its capabilities."""

    agents: Mapping[str, bytes | None]
    capabilities: frozenset[str] = frozenset()
    any_code: bool = False
    """Claim runs whose code was another, too."""

    def accepts(self, note: Any) -> bool:
        """Whether a worker that offers this may claim the run that left `note`."""
        if not isinstance(note, dict) or note.get("agent") not in self.agents:
            return False
        if not self.capabilities.issuperset(note.get("needs", ())):
            return False
        recorded, own = note.get("code"), self.agents[note["agent"]]
        return self.any_code or recorded is None or own is None or recorded == own


def place(state: RunState) -> Placement:
    """Where a run stands after its events."""
    if state.ended:
        if not state.in_doubt:
            return Placement(None)
        return Placement(ATTENTION + _U64.pack(state.created_ns), _note(state))
    if state.worker is not None:
        return Placement(HELD + worker_tag(state.worker), {"worker": state.worker, "epoch": state.epoch})
    note = _note(state)
    created = _U64.pack(state.created_ns)
    if state.status in ("parked", "diverged") or (state.status == "waiting" and state.waiting in STUCK):
        return Placement(ATTENTION + created, note)
    if state.driver != "code":
        return Placement(WAITING + created, note)
    wake = _wake(state)
    if wake == 0:
        return Placement(_ready(state, note) + created, note)
    return Placement(WAITING + created, note) if wake is None else Placement(TIMER + _U64.pack(wake), note)


def candidates(rows: Rows, offer: Offer, now_ns: int) -> Iterator[str]:
    """Streams of runs that may be claimed, the best first: by priority, then the oldest."""
    found: list[tuple[int, int, str]] = []
    for agent in sorted(offer.agents):
        found += _groups(rows, READY + _hash(agent.encode()), offer)
    for looked, row in enumerate(rows(TIMER, b"")):
        if looked == _MOST_DUE or wake_of(row) > now_ns:
            break
        if offer.accepts(row.note):
            found.append((-row.note.get("priority", 0), wake_of(row), row.stream))
    return (stream for _, _, stream in sorted(found))


def wake_of(row: Queued) -> int:
    """The time in ns at which a run in a timer's place is due."""
    return int(_U64.unpack(row.key[1:9])[0])


def worker_tag(worker: str) -> bytes:
    """What the places of the runs that a worker holds have behind their first byte."""
    return _hash(worker.encode())


def group_end(key: bytes) -> bytes:
    """The first key behind the group of a ready run."""
    return key[:17] + b"\xff" * 10


def _groups(rows: Rows, prefix: bytes, offer: Offer) -> Iterator[tuple[int, int, str]]:
    """The best run of each group of an agent's that the offer accepts: one look a group."""
    start = prefix
    while True:
        row = next(iter(rows(prefix, start)), None)
        if row is None:
            return
        if offer.accepts(row.note):
            yield row.key[17] - 127, int(_U64.unpack(row.key[18:26])[0]), row.stream
        start = group_end(row.key)


def _ready(state: RunState, note: dict[str, Any]) -> bytes:
    group = codec.encode([note.get("needs", []), note.get("code")])
    return READY + _hash(state.step_agent.encode()) + _hash(group) + bytes((127 - state.priority,))


def _note(state: RunState) -> dict[str, Any]:
    note: dict[str, Any] = {"agent": state.step_agent}
    if state.capabilities:
        note["needs"] = sorted(state.capabilities)
    if state.code_digest is not None:
        note["code"] = state.code_digest
    if state.priority:
        note["priority"] = state.priority
    if _asks(state):
        note["asks"] = True
    return note


def _asks(state: RunState) -> bool:
    """Whether it asks a person."""
    return bool(state.pending) or any(one.kind == "approval" for one in state.waits.values())


def _wake(state: RunState) -> int | None:
    """When to claim it next: 0 at once, None when something comes."""
    if state.retry_ns is not None:
        return max(1, state.retry_ns)
    if state.status == "pending" or state.cancelling:
        return 0
    if any(state.answer(path) is not None for path in state.waits):
        return 0
    times = [one.wake_ns for one in state.waits.values() if one.wake_ns is not None]
    return max(1, min(times)) if times else None


def _hash(data: bytes) -> bytes:
    return chain.tag(_PUBLIC, data)[:8]
