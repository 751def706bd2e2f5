"""The six media tools of the runtime contract, as data: what others may expect of a tool with such a name.

Rules: names, schemas and facts are the contract's (`tool_conventions` of agentledger.runtime.v1), to the letter. Media
go by reference, never by value. A convention is a declaration: `media_tool` joins it with the function that does it.
`_logical_operation` is a word to the runtime, which a function need not name. This file calls nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from ledger_core.errors import BadInput
from ledger_core.governance.tool import ToolSpec

_TEXT: Final = {"type": "string"}
_REF: Final = {"type": "string", "minLength": 1}
_OBJECT: Final = {"type": "object"}
_OBJECTS: Final = {"type": "array", "items": _OBJECT}
_OFFSET: Final = {"type": ["integer", "string"]}
VERSION: Final = "v1"


def _object(required: tuple[str, ...], **members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": list(required), "additionalProperties": False}


def _convention(
    name: str, description: str, arguments: dict[str, Any], result: dict[str, Any], side_effect: str = "external_read"
) -> dict[str, Any]:
    arguments["properties"]["_logical_operation"] = _TEXT
    return {
        "name": name,
        "version": VERSION,
        "description": description,
        "input_schema": arguments,
        "output_schema": result,
        "side_effect": side_effect,
        "risk_level": "medium",
        "idempotency_required": True,
        "approval_required": False,
        "sandbox_required": False,
        "sandbox_executor": None,
        "sandbox_policy": {},
    }


MEDIA_TOOLS: Final[Mapping[str, Mapping[str, Any]]] = {
    one["name"]: one
    for one in (
        _convention(
            "audio.transcribe",
            "Transcribe an audio artifact ref and return transcript artifact refs.",
            _object(("source_ref",), source_ref=_REF, language=_TEXT, mime_type=_TEXT, options=_OBJECT),
            _object(
                ("transcript_ref",),
                transcript_ref=_REF,
                artifact_id=_TEXT,
                language=_TEXT,
                segments=_OBJECTS,
                metadata=_OBJECT,
            ),
        ),
        _convention(
            "video.extract_frames",
            "Extract frame artifact refs from a video artifact ref.",
            _object(
                ("source_ref",),
                source_ref=_REF,
                interval_seconds={"type": "number", "minimum": 0},
                max_frames={"type": "integer", "minimum": 1},
                options=_OBJECT,
            ),
            _object(("frame_refs",), frame_refs=_OBJECTS, timeline_ref=_TEXT, metadata=_OBJECT),
        ),
        _convention(
            "frame.describe",
            "Describe a frame artifact ref and return a derived text artifact ref.",
            _object(("frame_ref",), frame_ref=_REF, prompt=_TEXT, options=_OBJECT),
            _object(("description",), description=_TEXT, description_ref=_TEXT, artifact_id=_TEXT, metadata=_OBJECT),
        ),
        _convention(
            "video.summarize",
            "Summarize video, frame, transcript, or segment artifact refs.",
            _object(
                ("source_refs",),
                source_refs={"type": "array", "items": _TEXT, "minItems": 1},
                prompt=_TEXT,
                options=_OBJECT,
            ),
            _object(("summary",), summary=_TEXT, summary_ref=_TEXT, metadata=_OBJECT),
        ),
        _convention(
            "stream.consume",
            "Consume a stream chunk and return a durable checkpoint or partial result refs.",
            _object(
                ("stream_id", "consumer_id", "offset"),
                stream_id=_REF,
                consumer_id=_REF,
                offset=_OFFSET,
                max_chunks={"type": "integer", "minimum": 1},
            ),
            _object(("checkpoint",), checkpoint=_OBJECT, chunks=_OBJECTS, partial_result_ref=_TEXT),
        ),
        _convention(
            "stream.emit",
            "Emit a stream event or derived chunk through a managed adapter.",
            _object(("stream_id", "payload_ref"), stream_id=_REF, payload_ref=_REF, partition_key=_TEXT),
            _object(("external_id",), external_id=_TEXT, offset=_OFFSET, metadata=_OBJECT),
            side_effect="external_write",
        ),
    )
}
"""By name, in the contract's order; as `manifest` takes them."""
_DECLARED: Final = (
    *("version", "description", "input_schema", "output_schema"),
    *("side_effect", "risk_level", "approval_required", "sandbox_required"),
)
_FIELDS: Final = frozenset(str(field.alias) for field in attrs.fields(ToolSpec) if field.init)


def media_tool(name: str, function: Callable[..., Any], **overrides: Any) -> ToolSpec:
    """The tool that does what the convention `name` says; `overrides` are fields of `ToolSpec`. Raises `BadInput`."""
    if name not in MEDIA_TOOLS:
        raise BadInput(f"There is no convention {name!r:.100}.", hint=f"There are: {', '.join(sorted(MEDIA_TOOLS))}.")
    unknown = sorted(overrides.keys() - (_FIELDS - {"name", "function"}))
    if unknown:
        raise BadInput(
            f"A convention's {', '.join(unknown)} cannot be overridden.", hint="Override fields of ToolSpec."
        )
    convention = MEDIA_TOOLS[name]
    return ToolSpec(name=name, function=function, **{**{field: convention[field] for field in _DECLARED}, **overrides})
