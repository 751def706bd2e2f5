"""An answer that came in chunks, put together as the message that it is.

Rules: pure; no odd chunk raises. Anthropic's events become a message of blocks, OpenAI's a chat message; chunks of
another shape become the text that they hold, or stand as they are. This file knows no provider and no log.
"""

from __future__ import annotations

import json
from typing import Any

from ledger_core.governance.proposals import proposed_in_chunks

Message = dict[str, Any]


def message_of(chunks: Any) -> Any:
    """The message of a streamed answer, in the shape of its provider; the chunks themselves if they have none."""
    if not isinstance(chunks, list) or not chunks:
        return chunks
    if len(chunks) == 1 and not _delta(chunks[0]):
        return chunks[0]
    texts = [text for chunk in chunks if (text := _text(chunk)) is not None]
    calls = proposed_in_chunks(chunks)
    if not texts and not calls:
        return chunks
    text = "".join(texts)
    if any(isinstance(chunk, dict) and "content_block" in chunk for chunk in chunks):
        blocks: list[Message] = [{"type": "text", "text": text}] if text else []
        blocks += [
            {"type": "tool_use", "id": call["id"], "name": call["name"], "input": _document(call["arguments"])}
            for call in calls
        ]
        return {"role": "assistant", "content": blocks}
    message: Message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in calls
        ]
    return message


def _text(chunk: Any) -> str | None:
    """The text that a chunk goes on with."""
    if isinstance(chunk, str):
        return chunk
    delta = _delta(chunk)
    found = delta.get("content", delta.get("text")) if delta else chunk.get("text") if isinstance(chunk, dict) else None
    return found if isinstance(found, str) else None


def _delta(chunk: Any) -> Message:
    """The part of a chunk that is new."""
    if not isinstance(chunk, dict):
        return {}
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    found = first.get("delta") if isinstance(first, dict) else chunk.get("delta")
    if isinstance(found, str):
        return {"text": found}
    return found if isinstance(found, dict) else {}


def _document(text: Any) -> Any:
    """The arguments of a call, which come as JSON in pieces; the text itself where it is none."""
    try:
        return json.loads(text) if text else {}
    except (TypeError, ValueError):
        return text
