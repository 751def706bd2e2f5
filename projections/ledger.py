"""The tool ledger: every outside write, with what became of it, over all runs.

Rules: a fold of each run's facts; nothing is stored. What is open is found in the queue, without a look at runs that
have ended well. Contents are read only for the calls that are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from ledger_core.events import UNREAD
from ledger_core.log.log import Log
from ledger_core.run.rows import ToolEntry
from ledger_core.run.state import RunState
from ledger_core.runtime.governing import idempotency_key
from projections import runs
from projections.wire import plain

_NS = 1_000_000_000


@attrs.frozen(kw_only=True)
class Row:
    """A call, and its run."""

    state: RunState
    entry: ToolEntry

    @property
    def call(self) -> str:
        """How a person names it."""
        return f"{self.state.run}:{self.entry.path}"


def newest_first(log: Log, run: str | None = None) -> Iterator[Row]:
    """The calls of a run, or of all, the youngest run first, and in it the youngest call."""
    states = runs.newest_first(log) if run is None else iter([runs.of_stream(log, f"run/{run}")])
    for state in states:
        for entry in sorted(state.ledger.values(), key=lambda one: -one.seq):
            yield Row(state=state, entry=entry)


def in_doubt(log: Log) -> list[Row]:
    """The calls that nobody knows the outcome of, the longest in doubt first."""
    found: list[Row] = []
    start = b""
    while rows := log.queued(b"", start, limit=256):
        for queued in rows:
            state = runs.of_stream(log, queued.stream)
            found += [Row(state=state, entry=entry) for entry in state.in_doubt]
        start = rows[-1].key + b"\0"
    return sorted(found, key=lambda row: row.entry.requested_ns)


def row_json(log: Log, row: Row) -> dict[str, Any]:
    """A call as other systems read it, with what was asked."""
    state, entry = row.state, row.entry
    asked: Any = getattr(log.event(entry.seq).body, "arguments", UNREAD)
    return {
        "call": row.call,
        "run_id": state.run,
        "agent": state.agent,
        "path": entry.path,
        "seq": entry.seq,
        "tool": entry.tool,
        "tool_version": entry.tool_version,
        "side_effect": entry.side_effect,
        "status": entry.status,
        "attempt": entry.attempt,
        "idempotency_key": idempotency_key(state, entry),
        "logical": entry.key is not None,
        "worker": entry.worker,
        "requested": entry.requested_ns / _NS,
        "updated": entry.updated_ns / _NS,
        "settled_by": entry.settled_by,
        "compensating": entry.compensating,
        "arguments": plain(asked),
    }
