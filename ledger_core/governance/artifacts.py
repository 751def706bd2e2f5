"""What is kept beside a run's events: artifacts, and references to media and to places in streams.

Rules: pure. An artifact's bytes are kept in the log, encrypted as all content. Media and streams are only referred to:
a manifest says what they are, where, and what they were made of, and never holds their bytes. Kinds and fields are
those of the published contract. This file does not know the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger_core import codec, secret
from ledger_core.errors import BadInput
from ledger_core.ids import check_name

ARTIFACT: Final = "agentledger.artifact.v0"
MEDIA: Final = "agentledger.media.v0"
STREAM: Final = "agentledger.stream.v0"
MEDIA_KINDS: Final = (
    "audio",
    "audio_segment",
    "derived",
    "embedding",
    "frame",
    "image",
    "transcript",
    "video",
    "video_segment",
)
MAX_BYTES: Final = codec.MAX_BYTES - (1 << 16)
_LONGEST_REF: Final = 4_096
_LONGEST_TEXT: Final = 8_192
"""Letters that one text of a manifest may have: what is longer is the thing itself, not what is said of it."""


def artifact(name: str, data: Any, media_type: str | None, metadata: Any, lineage: Any) -> tuple[dict[str, Any], Any]:
    """An artifact's manifest, and its data as it is kept: bytes, text, or plain data. Raises `BadInput`."""
    check_name(name, "artifact")
    if isinstance(data, (bytearray, memoryview)):
        data = bytes(data)
    if isinstance(data, (bytes, str)) and len(data) > MAX_BYTES:
        raise BadInput(
            f"Artifact {name} has {len(data):,} bytes; one may have {MAX_BYTES:,}.",
            hint="Store it elsewhere, and keep a reference: ctx.create_media_artifact, or its parts.",
        )
    kept = secret.plain(data)
    form = "bytes" if isinstance(kept, bytes) else "text" if isinstance(kept, str) else "json"
    known = {"bytes": "application/octet-stream", "text": "text/plain; charset=utf-8", "json": "application/json"}
    manifest = {
        "schema": ARTIFACT,
        "name": name,
        "media_type": known[form] if media_type is None else check_name(media_type, "media type"),
        "form": form,
        "metadata": _document(metadata, "metadata"),
        "lineage": _lineage(lineage),
    }
    return secret.plain(manifest), kept


def media(kind: str, ref: str, mime_type: str | None, metadata: Any, lineage: Any) -> dict[str, Any]:
    """The manifest of media that are kept elsewhere. Raises `BadInput`."""
    if kind not in MEDIA_KINDS:
        raise BadInput(f"{kind!r:.50} is no kind of media.", hint="It is one of: " + ", ".join(MEDIA_KINDS) + ".")
    manifest = {
        "schema": MEDIA,
        "kind": kind,
        "ref": _ref(ref, "media"),
        "mime_type": None if mime_type is None else check_name(mime_type, "media type"),
        "metadata": _document(metadata, "metadata"),
        "lineage": _lineage(lineage),
    }
    _only_says(manifest)
    return dict(secret.plain(manifest))


def stream_checkpoint(
    stream_id: str,
    consumer_id: str,
    offset: int | str,
    watermark: Any,
    chunk: Any,
    partial_result_ref: str | None,
    backpressure: Any,
) -> dict[str, Any]:
    """How far a consumer has come in a stream. Raises `BadInput`."""
    if type(offset) not in (int, str) or (isinstance(offset, int) and offset < 0) or offset == "":
        raise BadInput(f"{offset!r:.50} is no offset.", hint="It is a number from 0 up, or the stream's own text.")
    manifest = {
        "schema": STREAM,
        "stream_id": check_name(stream_id, "stream"),
        "consumer_id": check_name(consumer_id, "consumer"),
        "offset": offset,
        "watermark": watermark,
        "chunk": chunk,
        "partial_result_ref": None if partial_result_ref is None else _ref(partial_result_ref, "partial result"),
        "backpressure": backpressure,
    }
    _only_says(manifest)
    return dict(secret.plain(manifest))


def _ref(ref: Any, what: str) -> str:
    if not isinstance(ref, str) or not ref.strip() or len(ref) > _LONGEST_REF:
        raise BadInput(f"The reference to the {what} is no text of 1 to {_LONGEST_REF:,} letters.")
    if ref.lstrip().lower().startswith("data:"):
        raise BadInput(
            f"The reference to the {what} is a data: URL, which holds it.",
            hint="Store it where it can be fetched, and pass where that is: raw media are never kept in the log.",
        )
    return ref


def _document(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadInput(f"An artifact's {what} are a dict.", hint='Write {"duration_seconds": 12.5}.')
    return dict(value)


def _lineage(given: Any) -> dict[str, Any]:
    """What it was made of, and by what: `{"sources": [ids], "operation": …}`; a list is its sources."""
    if given is None:
        return {"sources": []}
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        given = {"sources": list(given)}
    lineage = _document(given, "lineage")
    sources = lineage.get("sources", [])
    if not isinstance(sources, list) or not all(
        isinstance(one, str) and 0 < len(one) <= _LONGEST_REF for one in sources
    ):
        raise BadInput("The sources of a lineage are a list of ids or references.", hint='Write ["artifact_…"].')
    return {**lineage, "sources": sources}


def _only_says(value: Any, place: str = "the manifest") -> None:
    """Raise `BadInput` for a manifest that holds the thing itself."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise BadInput(f"There are raw bytes in {place}.", hint="Store them elsewhere, and pass a reference.")
    if isinstance(value, str) and (len(value) > _LONGEST_TEXT or value.lstrip().lower().startswith("data:")):
        raise BadInput(
            f"The text in {place} is the thing itself, or as long ({len(value):,} letters).",
            hint=f"Store it elsewhere, and pass a reference; a text may have {_LONGEST_TEXT:,} letters.",
        )
    if isinstance(value, Mapping):
        for name, item in value.items():
            _only_says(item, f"{place}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _only_says(item, f"{place}[{number}]")
