"""Tool calls that a model proposed, as its answer says them, in the shapes of the usual providers.

Rules: pure; no odd answer raises. A proposal is what a model said, and nothing more: whether a tool is called is
decided by the code, and recorded apart. This file does not know tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Proposal = dict[str, Any]
"""`id`, `name` and `arguments`, each as the model said it, or None."""


def proposed(response: Any) -> list[Proposal]:
    """The tool calls in one answer: OpenAI's chat and responses, and Anthropic's."""
    if not isinstance(response, dict):
        return []
    found: list[Proposal] = []
    messages = [response, response.get("message"), *(_part(one, "message") for one in _items(response.get("choices")))]
    for message in messages:
        if not isinstance(message, dict):
            continue
        for call in _items(message.get("tool_calls")):
            function = _part(call, "function") or call
            found.append(_proposal(call.get("id"), function.get("name"), function.get("arguments")))
        for block in (*_items(message.get("content")), *_items(message.get("output"))):
            if block.get("type") == "tool_use":
                found.append(_proposal(block.get("id"), block.get("name"), block.get("input")))
            elif block.get("type") == "function_call":
                found.append(_proposal(block.get("call_id"), block.get("name"), block.get("arguments")))
    return found


def proposed_in_chunks(chunks: Iterable[Any]) -> list[Proposal]:
    """The tool calls in an answer that came in chunks; an answer in one chunk is that answer."""
    parts: dict[tuple[Any, Any], Proposal] = {}
    whole: list[Proposal] = []
    for chunk in chunks:
        if not isinstance(chunk, dict):
            continue
        whole += proposed(chunk)
        for place, id_, name, text in _pieces(chunk):
            call = parts.setdefault(place, _proposal(None, None, ""))
            call["id"], call["name"] = call["id"] or id_, call["name"] or name
            call["arguments"] += text if isinstance(text, str) else ""
    return whole or list(parts.values())


def _pieces(chunk: dict[str, Any]) -> Iterator[tuple[tuple[Any, Any], Any, Any, Any]]:
    """Place, id, name and a piece of the arguments of calls that a chunk goes on with."""
    for choice in _items(chunk.get("choices")):
        for call in _items(_part(choice, "delta").get("tool_calls")):
            function = _part(call, "function")
            place = (repr(choice.get("index")), repr(call.get("index")))
            yield place, call.get("id"), function.get("name"), function.get("arguments")
    block, delta = _part(chunk, "content_block"), _part(chunk, "delta")
    place = ("", repr(chunk.get("index")))
    if block.get("type") == "tool_use":
        yield place, block.get("id"), block.get("name"), ""
    if delta.get("type") == "input_json_delta":
        yield place, None, None, delta.get("partial_json")


def _proposal(id_: Any, name: Any, arguments: Any) -> Proposal:
    return {"id": id_, "name": name, "arguments": arguments}


def _part(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _items(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
