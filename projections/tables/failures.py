"""Failures: one row for everything that went wrong, and whether it came right later.

A row is keyed by what failed and its attempt, so that what comes right finds what went wrong before; an attempt that
failed again, because an outage counts as none, is one row with its `times`, and so is what blocked, parked or divided
a step again. An attempt of which later nobody knows what came of it keeps the cause that it had first. What the code
failed of before it began afresh is kept apart from what it asks for at the same path now, and has come right when the
step completes; so has what blocked it. Once right, always right: what is undone later had been done.

Words are content of the event at `message_seq`. Which failure caused which is for the report to say: it sees all of a
run's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ledger_core.events.effect import (
    ModelCallCompleted,
    ModelCallFailed,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallSettled,
)
from ledger_core.events.govern import EffectRefused
from ledger_core.events.run import DivergenceDetected, RunCancelled, RunParked
from ledger_core.events.step import LeaseExpired, StepBlocked, StepCompleted, StepFailed, StepRetryScheduled
from ledger_core.events.wait import ChildRunEnded
from ledger_core.log.record import Event
from ledger_core.run.entry import UNKNOWN
from ledger_core.run.state import RunState
from projections.table import Contribution, Keys, Projection, Row, about, counted

_BLOCKS = ("blocked", "parked", "divergence")
"""Kinds of what keeps a step from going on, until somebody mends it."""
_CAUSE = ("name", "category", "error_type", "message_seq")
_BACK = 1000
"""Attempts and claims that are looked at again when something comes right."""


def _attempt(event: Event, state: RunState) -> Iterable[str]:
    body: Any = event.body
    return () if state.late == state.events else (f"{state.effect_key(body.path)}#{body.attempt:06}",)


def _attempts(event: Event, state: RunState) -> Iterable[str]:
    """All attempts of an effect up to the one that came right."""
    body: Any = event.body
    key = state.effect_key(body.path)
    return _numbered(key, body.attempt) if key in state.stumbled else ()


def _settled(event: Event, state: RunState) -> Iterable[str]:
    """The same, but a step may have begun since."""
    body: Any = event.body
    return _numbered(state.effect_key(body.path), body.attempt)


def _numbered(key: str, attempt: int) -> list[str]:
    return [f"{key}#{number:06}" for number in _last(attempt)]


def _refused(event: Event, state: RunState) -> Iterable[str]:
    body: Any = event.body
    return (f"{state.effect_key(body.path, refused=True)}!",)


def _of_step(kind: str) -> Keys:
    return lambda _, state: (f"{kind}:{state.step}",)


def _cancelled(event: Event, _: RunState) -> Iterable[str]:
    return (f"cancelled:{event.seq:020}",)


def _child(event: Event, _: RunState) -> Iterable[str]:
    body: Any = event.body
    return (f"child:{body.run}",) if body.status != "completed" else ()


def _step_attempt(event: Event, _: RunState) -> Iterable[str]:
    body: Any = event.body
    return (f"step:{body.step}#{body.epoch:010}",)


def _step_completed(event: Event, state: RunState) -> Iterable[str]:
    """The step's attempts, what blocked it, and what failed before its code began afresh for the last time."""
    body: Any = event.body
    yield from (f"step:{body.step}#{epoch:010}" for epoch in _last(body.epoch))
    yield from (f"{kind}:{body.step}" for kind in _BLOCKS)
    for key, (generation, attempt) in state.stumbled.items():
        if generation < state.fresh:
            yield from (_numbered(key, attempt) if attempt else (key,))


def _last(number: int) -> range:
    """The numbers up to one, as far as anybody looks back: a forged one is no reason to count for ever."""
    return range(max(1, number - _BACK + 1), number + 1)


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if isinstance(body, (ToolCallCompleted, ModelCallCompleted, StepCompleted)):
        return None if row is None else {**row, "recovered": True}
    if isinstance(body, ToolCallSettled):
        if row is None:
            return None
        doubt, came_right = row["in_doubt"] and body.outcome == "resent", body.outcome == "succeeded"
        return {**row, "in_doubt": doubt, "recovered": row["recovered"] or came_right}
    failure = _FAILURES.get(type(body))
    if failure is None:
        return row
    kept = _CAUSE if row is not None and getattr(body, "category", "") == UNKNOWN else ()
    return {
        **about(event, state),
        "path": getattr(body, "path", None),
        "kind": "",
        "name": "",
        "category": "",
        "error_type": "",
        "attempt": getattr(body, "attempt", state.attempt),
        "times": 1 + (row["times"] if row else 0),
        "first_seq": row["first_seq"] if row else event.seq,
        "seq": event.seq,
        "time_ns": event.time_ns,
        "final": True,
        "in_doubt": False,
        "recovered": False,
        "child": None,
        "message_seq": event.seq,
        **failure(body, state),
        **{name: row[name] for name in kept if row},
    }


def _tool(body: ToolCallFailed, state: RunState) -> Row:
    return {
        "kind": "tool",
        "name": state.names.get(body.path, ""),
        "category": body.category,
        "error_type": body.error_type,
        "final": body.retry_ns is None,
        "in_doubt": body.in_doubt,
    }


def _model(body: ModelCallFailed, state: RunState) -> Row:
    return {
        "kind": "model",
        "name": state.names.get(body.path, ""),
        "category": body.category,
        "error_type": body.error_type,
        "final": body.retry_ns is None,
    }


_FAILURES: dict[type, Any] = {
    ToolCallFailed: _tool,
    ModelCallFailed: _model,
    EffectRefused: lambda body, _: {
        "kind": "refused",
        "name": body.name,
        "category": body.category,
        "error_type": body.error_type,
    },
    StepRetryScheduled: lambda body, state: {
        "kind": "step",
        "name": state.step_agent,
        "category": body.category,
        "error_type": body.error_type,
        "attempt": body.attempt - 1,
        "final": False,
    },
    StepFailed: lambda body, state: {
        "kind": "step",
        "name": state.step_agent,
        "category": body.category,
        "error_type": body.error_type,
    },
    StepBlocked: lambda _, state: {"kind": "blocked", "name": state.step_agent, "category": "blocked"},
    LeaseExpired: lambda body, state: {
        "kind": "lease",
        "name": state.step_agent,
        "category": "lease lost",
        "error_type": body.reason,
        "final": False,
        "message_seq": None,
    },
    RunParked: lambda body, state: {
        "kind": "parked",
        "name": state.agent,
        "category": "lease lost",
        "error_type": f"{body.losses} workers lost",
        "message_seq": None,
    },
    DivergenceDetected: lambda body, state: {
        "kind": "divergence",
        "name": state.step_agent,
        "category": "divergence",
        "error_type": body.code,
    },
    ChildRunEnded: lambda body, state: {
        "kind": "child",
        "name": state.children[body.run].agent if body.run in state.children else "",
        "path": state.children[body.run].path if body.run in state.children else None,
        "category": body.status,
        "error_type": body.error_type or "",
        "child": body.run,
    },
    RunCancelled: lambda _, state: {
        "kind": "cancelled",
        "name": state.agent,
        "category": "cancelled",
        "message_seq": None,
    },
}


def _sums(row: Row) -> Iterable[Contribution]:
    came_right = int(row["recovered"])
    yield counted(("kind", row["kind"]), ("category", row["category"]), failures=row["times"], recovered=came_right)


FAILURES = Projection(
    name="failures",
    version=1,
    keys={
        ToolCallFailed: _attempt,
        ModelCallFailed: _attempt,
        ToolCallCompleted: _attempts,
        ModelCallCompleted: _attempts,
        ToolCallSettled: _settled,
        EffectRefused: _refused,
        StepRetryScheduled: _step_attempt,
        StepFailed: _step_attempt,
        LeaseExpired: _step_attempt,
        StepCompleted: _step_completed,
        StepBlocked: _of_step("blocked"),
        RunParked: _of_step("parked"),
        DivergenceDetected: _of_step("divergence"),
        ChildRunEnded: _child,
        RunCancelled: _cancelled,
    },
    fold=_fold,
    sums=_sums,
)
