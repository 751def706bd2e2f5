"""Events and values as other systems read them: the contract's names, JSON's types.

Rules: pure. Bytes become hex, hashes `blake3:<hex>`, times unix seconds; content that is not there says why. The
log's own fields stand beside the contract's. Fields are a contract (`contracts/cli/`): added, never renamed.
"""

from __future__ import annotations

from typing import Any

from ledger_core.events import Missing, Unknown
from ledger_core.events.base import content_of, facts_of
from ledger_core.ids import format_hash
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.standing import waits_json

_NS = 1_000_000_000


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Missing):
        return repr(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def event_json(event: Event) -> dict[str, Any]:
    """An event: the contract's fields, then the log's own."""
    body = event.body
    return {
        "event_id": f"evt_{event.hash.hex()[:16]}",
        "run_id": event.stream.removeprefix("run/") if event.stream.startswith("run/") else None,
        "seq": event.stream_seq,
        "type": event.type,
        "timestamp": event.time_ns / _NS,
        "payload_hash": format_hash(event.hash),
        "payload_ref": f"log:{event.seq}",
        "log_seq": event.seq,
        "stream": event.stream,
        "hash": event.hash.hex(),
        "time_ns": event.time_ns,
        "actor": event.actor,
        "step_id": event.step,
        "epoch": event.epoch,
        "causation": event.causation,
        "facts": plain(facts_of(body)),
        "content": {} if isinstance(body, Unknown) else plain(content_of(body)),
    }


def run_json(state: RunState) -> dict[str, Any]:
    """A run in a list."""
    return {
        "run_id": state.run,
        "agent": state.agent,
        "status": state.status,
        "waiting": state.waiting,
        "created": state.created_ns / _NS,
        "updated": state.updated_ns / _NS,
        "events": state.events,
        "effects": state.effects,
        "in_doubt": len(state.in_doubt),
        "session_id": state.session,
        "parent": state.parent,
        "ancestor": state.ancestor,
        "ancestor_event": state.ancestor_event or None,
        "priority": state.priority,
    }


def status_json(state: RunState) -> dict[str, Any]:
    """One run at a look."""
    return {
        **run_json(state),
        "entry_point": state.entry_point,
        "code_digest": state.code_digest and format_hash(state.code_digest),
        "step_id": state.step,
        "epoch": state.epoch,
        "step_status": state.step_status,
        "step_number": state.step_number,
        "step_agent": state.step_agent,
        "attempt": state.attempt,
        "driver": state.driver,
        "writes_blocked": state.writes_blocked,
        "since": state.since_ns / _NS,
        "cancelling": state.cancelling,
        "waits": waits_json(state),
        "retry_at": None if state.retry_ns is None else state.retry_ns / _NS,
        "children": [
            {"run_id": child.run, "path": child.path, "agent": child.agent, "status": child.status}
            for child in state.children.values()
        ],
        "signals": {name: len(seqs) for name, seqs in sorted(state.signals.items())},
        "model_calls": state.model_calls,
        "input_tokens": state.input_tokens,
        "output_tokens": state.output_tokens,
        "cached_tokens": state.cached_tokens,
        "usd": state.usd_nano / 1_000_000_000,
        "budget": state.budget,
        "refused": dict(sorted(state.refused.items())),
        "artifacts": state.artifacts,
        "pending_approvals": sorted(state.pending),
        "worker": state.worker,
        "state_version": state.version,
        "category": state.category,
        "counts": dict(sorted(state.counts.items())),
        "tools": dict(sorted(state.tools.items())),
        "ledger": [
            {"path": row.path, "tool": row.tool, "attempt": row.attempt, "status": row.status, "seq": row.seq}
            for row in state.ledger.values()
        ],
    }
