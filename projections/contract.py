"""The runtime contract, made from the code: what another language, or another tool, may rely on.

Rules: names that were published once keep their place; what this runtime has besides stands behind them. Schemas are
JSON Schema 2020-12, read off the declarations of the bodies themselves. Nothing here is written twice: lists come from
where the code has them. What the contract names and this runtime does otherwise is said in `reserved`.
"""

from __future__ import annotations

import typing
from types import UnionType
from typing import Any, Final

import attrs

from ledger_core import chain, errors
from ledger_core.events import REGISTRY, EventType
from ledger_core.governance.artifacts import ARTIFACT, MEDIA, MEDIA_KINDS, STREAM
from ledger_core.governance.conventions import MEDIA_TOOLS
from ledger_core.run import divergence, rows
from projections.tables import ALL

CONTRACT: Final = "contracts/agentledger.runtime.v1.json"
PUBLISHED_EVENTS: Final = (
    "run_created",
    "step_created",
    "step_claimed",
    "state_patch_committed",
    "tool_call_requested",
    "tool_permission_decided",
    "tool_approval_required",
    "tool_call_completed",
    "tool_call_failed",
    "sandbox_started",
    "sandbox_completed",
    "artifact_created",
    "step_completed",
    "step_failed",
    "step_retry_scheduled",
    "lease_heartbeat",
    "lease_expired",
    "run_cancel_requested",
    "step_cancelled",
    "run_cancelled",
    "agent_result_returned",
)
"""In the order of the contract's first version."""
CORE_OBJECTS: Final = (
    *("Run", "Session", "Step", "StepClaim", "AgentContext", "RuntimeEvent", "ToolRequest", "ToolResult"),
    *("ToolLedgerEntry", "ArtifactRef", "ArtifactLineage", "MediaArtifact", "MediaMetadata", "StreamChunkRef"),
    *("EventStreamCheckpoint", "CostRecord", "ApprovalRequest", "EvidenceBundle", "MigrationStatus"),
)
_OPERATIONS: Final = (
    *("create_run", "claim_step", "heartbeat", "recover_expired_leases", "cancel_run", "load_state"),
    *("commit_state_patch", "append_event", "reserve_ledger", "update_ledger"),
)
_PLAIN: Final = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    float: {"type": "number"},
    bytes: {"type": "string", "pattern": "^([0-9a-f]{2})*$"},
    dict: {"type": "object"},
    list: {"type": "array"},
}
EXIT_CODES: Final = {
    "0": "well",
    "1": "refused or failed",
    "2": "usage",
    "3": "integrity: changed, damaged, or shorter than a head that is held against it",
    "4": "divergence or regression",
    "5": "a conflict, or an unknown outcome that needs a decision",
    "6": "incomplete: not all could be checked",
}


INVARIANTS: Final = {
    1: "Seqs are gapless from 1.",
    2: "Every event links to the one before it in the log and in its stream.",
    3: "A value and its order have one encoding.",
    4: "No sealed byte ever changes.",
    5: "Rebuild, catch-up and any batching give the same rows, at a given head and set of forgotten streams.",
    6: "The intent of an effect that writes outside or spends is durable before it starts.",
    7: "At most one final outcome settles an effect.",
    8: "Replay performs no outside effect and appends nothing.",
    9: "An unknown event type is kept and verified, and changes no fold.",
    10: "An append is all or nothing, indexes included.",
    11: "The same journal and inputs give the same decisions.",
    12: "After a crash at any instant the log opens at a prefix that holds every acknowledged append.",
    13: "A fenced or cancelled worker changes no step and no state.",
    14: "A state commit names its base version.",
    15: "One logical key, at most one effect marked successful.",
    16: "An effect in doubt is never retried by itself.",
    17: "Approval-required tools do not run before approval; an approval holds for exactly one request, once.",
    18: "Sandbox-required tools fail closed.",
    19: "Secrets are in no event, content or report.",
    20: "Reserved and spent together never pass a budget, under any number of workers.",
    21: "Forgetting a stream breaks no hash and no fold of facts.",
}
"""By number; `contracts/INVARIANTS.md` says the same, and tests carry the numbers."""
_PUBLISHED_INVARIANTS: Final = (
    "append-only event ordering per run",
    "state commits require a valid lease token",
    "state commits require the expected base state version",
    "cancelled or expired workers are fenced from committing",
    "managed side-effect tools reserve a unique idempotency key",
    "PENDING_VERIFICATION side effects are not auto-retried",
    "replay and shadow mode must not create external side effects",
    "sandbox-required tools fail closed when the executor is missing or disabled",
    "media and stream artifacts store refs, metadata, lineage, and checkpoints instead of raw codec processing",
)


def contract() -> dict[str, Any]:
    """The contract as one JSON document."""
    own = [name for name in REGISTRY if name not in PUBLISHED_EVENTS]
    return {
        "project": "agentledger",
        "contract_version": "1.0",
        "status": "stable-runtime-core",
        "reference_implementation": {"language": "python", "package": "agentledger", "status": "active"},
        "core_objects": list(CORE_OBJECTS),
        "event_types": [*PUBLISHED_EVENTS, *own],
        "required_event_fields": [
            *("event_id", "run_id", "seq", "type", "timestamp", "payload_hash", "payload_ref"),
        ],
        "log_event_fields": [
            *("log_seq", "stream", "hash", "time_ns", "actor", "step_id", "epoch", "causation", "facts", "content"),
        ],
        "reserved": {"lease_heartbeat": "a sign of life is no event here: it costs the log nothing"},
        "event_schemas": {name: event_schema(REGISTRY[name]) for name in (*PUBLISHED_EVENTS, *own) if name in REGISTRY},
        "statuses": {
            "run": list(typing.get_args(rows.RunStatus)),
            "step": list(typing.get_args(rows.StepStatus)),
            "tool_ledger": list(typing.get_args(rows.LedgerStatus)),
            "ended": list(rows.ENDED),
            "tool_ledger_final": list(rows.FINAL),
        },
        "projections": {one.name: one.version for one in ALL.values()},
        "state_store_operations": list(_OPERATIONS),
        "artifact_contracts": {
            "artifact_schema_version": ARTIFACT,
            "media_kinds": list(MEDIA_KINDS),
            "media_schema_version": MEDIA,
            "stream_checkpoint_fields": [
                *("stream_id", "consumer_id", "offset", "watermark", "chunk", "partial_result_ref", "backpressure"),
            ],
            "stream_schema_version": STREAM,
        },
        "tool_conventions": {"media_stream": [_convention(one) for one in MEDIA_TOOLS.values()]},
        "invariants": list(_PUBLISHED_INVARIANTS),
        "numbered_invariants": {str(number): text for number, text in INVARIANTS.items()},
        "exit_codes": dict(EXIT_CODES),
        "errors": {name: cls.exit_code for name, cls in sorted(vars(errors).items()) if _is_error(cls)},
        "divergence_codes": {one.code: {"name": one.name, "cause": one.cause} for one in divergence.KINDS},
        "wire_format": {
            "encoding": "json",
            "hashes": "blake3:<hex>",
            "ids": "string-with-prefix",
            "state_patch": "json-merge-patch-compatible-object",
            "timestamps": "unix_seconds_float",
            "log_format": chain.FORMAT,
        },
    }


def event_schema(kind: EventType) -> dict[str, Any]:
    """What an event of a type says, as other systems read it: its facts, and the names of its contents."""
    hints = typing.get_type_hints(kind.cls)
    fields: Any = attrs.fields(kind.cls)  # type: ignore[arg-type]  # attrs made the class
    facts = [one for one in fields if one.metadata["part"] == "facts"]
    return {
        "description": (kind.cls.__doc__ or "").strip().split("\n")[0],
        "version": kind.version,
        "critical": kind.critical,
        "facts": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {one.name: _schema(hints[one.name]) for one in facts},
            "required": [one.name for one in facts if one.default is attrs.NOTHING],
        },
        "content": list(kind.content),
    }


def removed(published: Any, now: Any, at: str = "") -> list[str]:
    """Names that were published and are gone, or stand elsewhere in their list: places as JSON pointers."""
    if isinstance(published, dict):
        if not isinstance(now, dict):
            return [at or "/"]
        return [
            place
            for key, value in published.items()
            for place in ([f"{at}/{key}"] if key not in now else removed(value, now[key], f"{at}/{key}"))
        ]
    if isinstance(published, list):
        if not isinstance(now, list) or len(now) < len(published):
            return [at]
        found = (removed(one, now[number], f"{at}/{number}") for number, one in enumerate(published))
        return [place for places in found for place in places]
    return [] if published == now else [at]


def _schema(hint: Any) -> dict[str, Any]:
    if typing.get_origin(hint) is typing.Literal:
        return {"enum": list(typing.get_args(hint))}
    if typing.get_origin(hint) in (typing.Union, UnionType):  # what is absent is left out of facts, never null
        return next(_schema(part) for part in typing.get_args(hint) if part is not type(None))
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return dict(_PLAIN.get(typing.get_origin(hint) or hint, {}))


def _convention(one: typing.Mapping[str, Any]) -> dict[str, Any]:
    return {key: one[key] for key in sorted(one)}


def _is_error(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, errors.LedgerError)
