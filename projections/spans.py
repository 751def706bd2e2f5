"""A span in the shape of OpenTelemetry, its ids, and how it is written.

Rules: pure values. Ids follow from the ledger's id and from seqs: exported twice, the same. Attributes are facts,
never what people or models said. A span holds at most `MOST_EVENTS` events, the others are counted.
This file does not know which events make spans.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import attrs

from ledger_core import chain
from ledger_core.clock import NS
from ledger_core.events.base import facts_of
from ledger_core.log.record import Event

SCHEMA: Final = "agentledger.span.v1"
MOST_EVENTS: Final = 128
"""Events in a span, as OpenTelemetry's own limit is."""
_PUBLIC: Final = bytes(32)
_UNLISTED: Final = frozenset(("counts", "tools", "budget", "retry"))


@attrs.define(kw_only=True)
class Span:
    """One span, while it is told and then."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: str
    """run, step, tool, model, child or wait."""
    start_ns: int
    end_ns: int | None = None
    status: str = "UNSET"
    message: str = ""
    attributes: dict[str, Any] = attrs.field(factory=dict)
    events: list[dict[str, Any]] = attrs.field(factory=list)
    dropped: int = 0

    def as_json(self) -> dict[str, Any]:
        """The span as a line of `trace --format jsonl`."""
        return {
            "schema": SCHEMA,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "parent_span_id": self.parent_span_id,
            "name": self.name,
            "kind": "CLIENT" if self.kind in ("tool", "model") else "INTERNAL",
            "start_time_unix_nano": self.start_ns,
            "end_time_unix_nano": self.end_ns,
            "status": {"code": self.status, "message": self.message},
            "attributes": {"agentledger.kind": self.kind, **self.attributes},
            "events": self.events,
            "dropped_events_count": self.dropped,
        }


def trace_id(ledger: bytes, root: str) -> str:
    """The id of the trace of a family of runs: 16 bytes in hex."""
    return chain.tag(_PUBLIC, b"trace\0" + ledger + root.encode()).hex()[:32]


def span_id(ledger: bytes, run_id: str, seq: int) -> str:
    """The id of the span that an event of a run began: 8 bytes in hex. The run's own has seq 0."""
    return chain.tag(_PUBLIC, b"span\0" + ledger + seq.to_bytes(8, "big") + run_id.encode()).hex()[:16]


def as_jsonl(span: Span) -> str:
    """A span as one line of JSON."""
    return json.dumps(span.as_json(), ensure_ascii=False)


FORMATS: Final[dict[str, Callable[[Span], str]]] = {"jsonl": as_jsonl}
"""How a span is written, by the name of the format."""


def note(span: Span, event: Event) -> None:
    """Write an event into its span."""
    if len(span.events) >= MOST_EVENTS:
        span.dropped += 1
        return
    facts: dict[str, Any] = {}
    for name, value in facts_of(event.body).items():
        if isinstance(value, (str, int, float)):
            facts[f"agentledger.{name}"] = value
        elif isinstance(value, dict) and name not in _UNLISTED:
            flat = {key: amount for key, amount in value.items() if isinstance(amount, (str, int, float))}
            facts |= {f"agentledger.{name}.{key}": amount for key, amount in flat.items()}
    span.events.append(
        {
            "name": event.type,
            "time_unix_nano": event.time_ns,
            "attributes": {"agentledger.run_seq": event.stream_seq, "agentledger.log_seq": event.seq, **facts},
        }
    )


def usage(tokens_in: int | None, tokens_out: int | None, cached: int | None, usd_nano: int | None) -> dict[str, Any]:
    return {
        "gen_ai.usage.input_tokens": tokens_in or 0,
        "gen_ai.usage.output_tokens": tokens_out or 0,
        "agentledger.cached_tokens": cached or 0,
        "agentledger.usd": (usd_nano or 0) / NS,
    }


def named(kind: str, name: str) -> dict[str, Any]:
    key = {"tool": "gen_ai.tool.name", "model": "gen_ai.request.model"}.get(kind, "agentledger.name")
    return {key: name}
