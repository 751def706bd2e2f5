"""Costs: one row for every model call, tool call and recorded cost, summed by whatever somebody pays by.

An outcome that is known late belongs to the day on which the call began. A call's attempts are one row; a call that a
step makes when its code begins afresh is another, so nothing that was paid is written over. `calls` are attempts that
are known to have begun, by their intents and their outcomes: one that was tried again without the rest of the journal
has no intent of its own. `failed` are those that are known to have come to nothing; what is in doubt is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ledger_core.clock import NS
from ledger_core.events import Body
from ledger_core.events.effect import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
)
from ledger_core.events.govern import CostRecorded
from ledger_core.log.record import Event
from ledger_core.run.entry import UNKNOWN
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, of_effect

_TOKENS = ("input_tokens", "output_tokens", "cached_tokens")
_AMOUNTS = (*_TOKENS, "usd_nano")
_COUNTERS = ("calls", "failed", *_AMOUNTS)
_GROUPS = ("run", "root", "agent", "session", "step", "day")
_DAY: dict[int, str] = {}
"""Days that were spelled before."""


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if isinstance(body, (ToolCallRequested, ModelCallRequested)):
        row = row or _begun(event, state, *_named(body))
        row["first_attempt"] = row["first_attempt"] or body.attempt
        row["calls"] += 1
    elif isinstance(body, CostRecorded):
        row = row or _begun(event, state, "recorded", body.name)
        _spend(row, body.spent)
    elif row is None or state.late == state.events:
        return row
    else:
        row["failed"] += _failed(body)
        row["succeeded"] += _succeeded(body)
        attempts = body.attempt - row["first_attempt"] + 1  # type: ignore[attr-defined]  # all outcomes say it
        row["calls"] = max(row["calls"], attempts, row["failed"] + row["succeeded"])
        if isinstance(body, ModelCallCompleted):
            _spend(row, {name: getattr(body, name) or 0 for name in _AMOUNTS})
        else:
            _spend(row, body.spent or {})  # type: ignore[attr-defined]  # the other outcomes
    row["last_ns"] = event.time_ns
    return row


def _failed(body: Body) -> bool:
    """Whether an attempt is known to have come to nothing."""
    if isinstance(body, ToolCallFailed):
        return not body.in_doubt and body.category != UNKNOWN
    return isinstance(body, ModelCallFailed) or (isinstance(body, ToolCallSettled) and body.outcome == "no_effect")


def _succeeded(body: Body) -> bool:
    if isinstance(body, ToolCallSettled):
        return body.outcome == "succeeded"
    return isinstance(body, (ToolCallCompleted, ModelCallCompleted))


def _named(body: ToolCallRequested | ModelCallRequested) -> tuple[str, str]:
    return ("tool", body.tool) if isinstance(body, ToolCallRequested) else ("model", body.model)


def _begun(event: Event, state: RunState, kind: str, name: str) -> Row:
    return {
        **about(event, state),
        "root": state.root or state.run,
        "kind": kind,
        "name": name,
        "path": event.body.path,  # type: ignore[attr-defined]  # all of them have one
        "day": _day(event.time_ns),
        **dict.fromkeys(_COUNTERS, 0),
        "succeeded": 0,
        "first_attempt": 0,
        "other": {},
        "first_ns": event.time_ns,
        "last_ns": event.time_ns,
        "seq": event.seq,
    }


def _spend(row: Row, spent: dict[str, int]) -> None:
    for name, amount in spent.items():
        if name in _AMOUNTS:
            row[name] += amount
        elif name not in ("calls", "tool_calls", "model_calls"):
            row["other"] = {**row["other"], name: row["other"].get(name, 0) + amount}


def _day(time_ns: int) -> str:
    number = time_ns // (86_400 * NS)
    found = _DAY.get(number)
    if found is None:
        found = _DAY[number] = datetime.fromtimestamp(number * 86_400, UTC).date().isoformat()
    return found


def _sums(row: Row) -> Iterable[Contribution]:
    counters = {name: row[name] for name in _COUNTERS if row[name]} | row["other"]
    places = [("ledger", ""), (row["kind"], row["name"])]
    places += [(group, row[group]) for group in _GROUPS if row[group] is not None]
    yield counters, tuple(places)


_OUTCOMES = (ToolCallCompleted, ToolCallFailed, ToolCallSettled, ModelCallCompleted, ModelCallFailed)
COSTS = Projection(
    name="costs",
    version=1,
    keys=dict.fromkeys((ToolCallRequested, ModelCallRequested, CostRecorded, *_OUTCOMES), of_effect),
    fold=_fold,
    sums=_sums,
)
