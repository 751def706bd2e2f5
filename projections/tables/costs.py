"""Costs: one row for every model call, tool call and recorded cost, summed by whatever somebody pays by.

An outcome that is known late belongs to the day on which the call began. A call's attempts are one row.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ledger_core.clock import NS
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
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, of_path

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
        row["calls"] += 1
    elif isinstance(body, CostRecorded):
        row = _begun(event, state, "recorded", body.name)
        _spend(row, body.spent)
    elif row is None:
        return None
    elif isinstance(body, ModelCallCompleted):
        for name in _AMOUNTS:
            row[name] += getattr(body, name) or 0
    else:
        row["failed"] += isinstance(body, (ToolCallFailed, ModelCallFailed))
        _spend(row, body.spent or {})  # type: ignore[attr-defined]  # the other outcomes
    row["last_ns"] = event.time_ns
    return row


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
    keys=dict.fromkeys((ToolCallRequested, ModelCallRequested, CostRecorded, *_OUTCOMES), of_path),
    fold=_fold,
    sums=_sums,
)
