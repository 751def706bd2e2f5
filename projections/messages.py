"""Messages for models in the two usual shapes, and what makes a list of them valid: a result for every tool call.

Rules: pure; no odd document raises. A call's result directly follows it, once, in the order of the calls: for OpenAI as
messages of the role `tool`, for Anthropic as the first blocks of the user's next message. A result belongs to the last
call of its id before it. What has no place is not shown but listed: results of no call, second results, calls without
an id of their own. What is valid already stays as it is.

This file knows the shapes of OpenAI's chat messages and Anthropic's; it knows no provider, no log and no tool.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from ledger_core.events import Missing
from projections.wire import plain

Message = dict[str, Any]
Shape = Literal["openai", "anthropic"]
INVENTED: Final = "[agentledger] No result was recorded for this call"
"""What the content of every invented result begins with."""
_UNUSABLE: Final = "[agentledger] A tool call without an id of its own was left out."
_SAID: Final = frozenset(("content", "tool_calls"))
_ENVELOPE: Final = frozenset(
    ("id", "object", "type", "created", "model", "usage", "stop_reason", "stop_sequence", "stop_details", "container")
)
"""Fields of a response that are no part of its message: providers refuse them in a request."""


@attrs.frozen(kw_only=True)
class Call:
    """A tool call that a model proposed; equal ones are the same call, in whatever shape."""

    id: str
    name: str
    arguments: str
    """As one text, the same for equal arguments (`comparable`)."""
    shape: Shape = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class Result:
    """A result that was said: in the message `at`, as the `nth` of it."""

    at: int
    nth: int
    id: str
    document: Message
    shape: Shape

    @property
    def text(self) -> str:
        """What it says."""
        return text_of(self.document.get("content"))


@attrs.frozen(kw_only=True)
class Pair:
    """A call of the message `at`, and its result, if one was said."""

    at: int
    call: Call
    result: Result | None


@attrs.frozen(kw_only=True)
class Answer:
    """What is shown for a call without a result; an invented one is an error to the model."""

    text: str
    invented: bool


NEVER_BEGUN: Final = Answer(text=f"{INVENTED}: it was never begun.", invented=True)


@attrs.frozen(kw_only=True)
class Repaired:
    """Valid messages, and what was done for it."""

    messages: list[Message]
    invented: tuple[str, ...]
    """Ids of the tool calls whose result was invented, in order."""
    restored: tuple[str, ...]
    """Ids of the tool calls that got a real result from elsewhere, in order."""
    dropped: tuple[Any, ...]
    """Documents that are not shown."""


def repair(messages: Any) -> Repaired:
    """Messages that no log knows, made valid: a call without a result among them was never begun."""
    documents = documents_of(messages)
    return compose(documents, paired(documents), {})


def documents_of(messages: Any) -> list[Message]:
    """Messages as dicts: what is none is a user's text."""
    listed = messages if isinstance(messages, (list, tuple)) else [messages]
    return [
        message if isinstance(message, dict) else {"role": "user", "content": text_of(message)} for message in listed
    ]


def response_message(response: Any) -> Message:
    """The assistant's message of a response, in whatever shape it came: unknown ones as text."""
    if isinstance(response, Missing):
        return {"role": "assistant", "content": f"[agentledger] This response cannot be read: {response.reason}."}
    found = response
    if isinstance(response, dict):
        choices = response.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            found = choices[0].get("message")
        elif isinstance(response.get("content"), (str, list)) or isinstance(response.get("tool_calls"), list):
            found = {name: value for name, value in response.items() if name not in _ENVELOPE}
    if not isinstance(found, dict) or found.get("role", "assistant") != "assistant" or not found.keys() & _SAID:
        return {"role": "assistant", "content": text_of(response)}
    if not isinstance(found.get("content"), (str, list, type(None))):
        return {"role": "assistant", "content": text_of(response)}
    return {"role": "assistant", **found}


def calls_of(message: Message) -> list[Call]:
    """The calls of an assistant's message, each id once: OpenAI's if it has any, else Anthropic's."""
    if message.get("role") != "assistant":
        return []
    found: dict[str, Call] = {}
    for entry in _items(message.get("tool_calls")):
        if _id(entry, "id"):
            part = entry.get("function", entry.get("custom"))
            part = part if isinstance(part, dict) else {}
            arguments = comparable(part.get("arguments", part.get("input")))
            call = Call(id=entry["id"], name=text_of(part.get("name", "")), arguments=arguments, shape="openai")
            found.setdefault(call.id, call)
    if found:
        return list(found.values())
    for block in _items(message.get("content"), "tool_use"):
        if _id(block, "id"):
            arguments = comparable(block.get("input"))
            call = Call(id=block["id"], name=text_of(block.get("name", "")), arguments=arguments, shape="anthropic")
            found.setdefault(call.id, call)
    return list(found.values())


def _results(at: int, message: Message) -> Iterator[Result]:
    if message.get("role") == "tool":
        yield Result(at=at, nth=0, id=_id(message, "tool_call_id"), document=message, shape="openai")
    elif message.get("role") == "user":
        for nth, block in enumerate(_items(message.get("content"), "tool_result")):
            yield Result(at=at, nth=nth, id=_id(block, "tool_use_id"), document=block, shape="anthropic")


def paired(messages: Sequence[Message]) -> list[Pair]:
    """Every call with the first result of its id after it, and before another call of that id."""
    said: dict[str, list[Result]] = defaultdict(list)
    asked: list[tuple[int, Call]] = []
    ends: dict[tuple[int, str], int] = {}
    last: dict[str, int] = {}
    for at, message in enumerate(messages):
        for result in _results(at, message):
            said[result.id].append(result)
        for call in calls_of(message):
            asked.append((at, call))
            if call.id in last:
                ends[last[call.id], call.id] = at
            last[call.id] = at
    pairs = []
    for at, call in asked:
        end = ends.get((at, call.id), len(messages))
        first = next((result for result in said[call.id] if at < result.at < end), None)
        pairs.append(Pair(at=at, call=call, result=first))
    return pairs


def compose(messages: Sequence[Message], pairs: Sequence[Pair], answers: Mapping[int, Answer]) -> Repaired:
    """Valid messages of `messages` and their `paired` calls; `answers` by the place of a pair without a result."""
    invented: list[str] = []
    restored: list[str] = []
    following: dict[int, list[Message]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        if pair.result is not None:
            following[pair.at].append(_in_shape(pair.call, pair.result))
            continue
        answer = answers.get(place, NEVER_BEGUN)
        (invented if answer.invented else restored).append(pair.call.id)
        following[pair.at].append(_answer(pair.call, answer))
    rows, dropped = _rows(messages, pairs, following)
    return Repaired(
        messages=copy.deepcopy(rows),
        invented=tuple(invented),
        restored=tuple(restored),
        dropped=tuple(copy.deepcopy(dropped)),
    )


def _rows(
    messages: Sequence[Message], pairs: Sequence[Pair], following: Mapping[int, list[Message]]
) -> tuple[list[Message], list[Any]]:
    """The messages with their results where they belong, and what is left."""
    used = {(pair.result.at, pair.result.nth) for pair in pairs if pair.result is not None}
    shapes = {pair.at: pair.call.shape for pair in pairs}
    rows: list[Message] = []
    dropped: list[Any] = []
    blocks: list[Message] = []
    """Anthropic's results that the user's next message begins with."""
    for at, message in enumerate(messages):
        dropped += [result.document for result in _results(at, message) if (result.at, result.nth) not in used]
        if message.get("role") == "tool":
            continue
        led = _led(blocks, message) if blocks else None
        if blocks:
            rows.append(led or {"role": "user", "content": blocks})
            blocks = []
        rest = None if led else _without_results(message)
        if rest is not None:
            rows.append(_usable(rest, dropped))
        if shapes.get(at) == "openai":
            rows += following[at]
        elif at in following:
            blocks = following[at]
    if blocks:
        rows.append({"role": "user", "content": blocks})
    return rows, dropped


def _led(blocks: list[Message], message: Message) -> Message | None:
    """A user's message that begins with results; None if it is none that can."""
    content = message.get("content")
    if message.get("role") != "user" or not isinstance(content, (str, list)):
        return None
    if isinstance(content, str):
        return {**message, "content": [*blocks, *([{"type": "text", "text": content}] if content else [])]}
    return {**message, "content": [*blocks, *(block for block in content if not _is(block, "tool_result"))]}


def _without_results(message: Message) -> Message | None:
    """A message without the results in it; None if nothing is left."""
    content = message.get("content")
    if message.get("role") != "user" or not isinstance(content, list) or not _items(content, "tool_result"):
        return message
    left = [block for block in content if not _is(block, "tool_result")]
    return {**message, "content": left} if left else None


def _usable(message: Message, dropped: list[Any]) -> Message:
    """An assistant's message without the calls that cannot be answered, which go to `dropped`."""
    entries, content = message.get("tool_calls"), message.get("content")
    if message.get("role") != "assistant" or not ("tool_calls" in message or _items(content, "tool_use")):
        return message
    calls = calls_of(message)
    row = dict(message)
    if "tool_calls" in row:
        listed = entries if isinstance(entries, list) else [] if entries is None else [entries]
        row["tool_calls"] = _first_of(listed, calls, "openai", dropped)
        if not row["tool_calls"]:  # refused where it is empty
            del row["tool_calls"]
    if isinstance(content, list):
        row["content"] = _first_of(content, calls, "anthropic", dropped) or None
    if (entries or content) and not row.get("content") and "tool_calls" not in row:
        row["content"] = _UNUSABLE
    return row


def _first_of(items: Sequence[Any], calls: Sequence[Call], shape: Shape, dropped: list[Any]) -> list[Any]:
    """The first item of each call of a shape, and whatever is no call."""
    unseen = {call.id for call in calls if call.shape == shape}
    left = []
    for item in items:
        if shape == "openai" or _is(item, "tool_use"):
            name = _id(item, "id") if isinstance(item, dict) else ""
            if name not in unseen:
                dropped.append(item)
                continue
            unseen.remove(name)
        left.append(item)
    return left


def _in_shape(call: Call, result: Result) -> Message:
    """A result in the shape of its call: as it was said, wherever that is valid."""
    content = result.document.get("content")
    if call.shape == result.shape and (call.shape == "anthropic" or isinstance(content, (str, list))):
        return result.document
    if call.shape == result.shape:
        return {**result.document, "content": result.text}
    return _answer(call, Answer(text=result.text, invented=result.document.get("is_error") is True))


def _answer(call: Call, answer: Answer) -> Message:
    if call.shape == "openai":
        return {"role": "tool", "tool_call_id": call.id, "content": answer.text}
    block: Message = {"type": "tool_result", "tool_use_id": call.id, "content": answer.text}
    return {**block, "is_error": True} if answer.invented else block


def says_the_same(answer: Message, sent: Message) -> bool:
    """Whether `sent` is the model's answer, said again in the agent's own shape."""
    if answer == sent:
        return True
    return sent.get("role") == "assistant" and calls_of(answer) == calls_of(sent) and _words(answer) == _words(sent)


def _words(message: Message) -> list[Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return [content] if content else []
    blocks = [block for block in content if not _is(block, "tool_use")]
    return [block["text"] if _is(block, "text") and block.keys() == {"type", "text"} else block for block in blocks]


# Documents of unknown shape


def _items(value: Any, kind: str | None = None) -> list[Message]:
    """The dicts of a list, of one type if it is named; nothing for what is no list."""
    if not isinstance(value, list):
        return []
    return [item for item in value if isinstance(item, dict) and (kind is None or item.get("type") == kind)]


def _is(block: Any, kind: str) -> bool:
    return isinstance(block, dict) and block.get("type") == kind


def _id(document: Message, name: str) -> str:
    """An id that can be answered; empty for none."""
    value = document.get(name)
    return value if isinstance(value, str) else ""


def text_of(value: Any) -> str:
    """A value as a model reads it: text as it is, a list of text blocks joined, everything else as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [block["text"] for block in _items(value, "text") if isinstance(block.get("text"), str)]
        if texts and len(texts) == len(value):
            return "\n".join(texts)
    return json.dumps(plain(value), ensure_ascii=False, default=repr)


def comparable(arguments: Any) -> str:
    """Arguments as one text, the same for equal ones; text is read as JSON where it can be."""
    try:
        value = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
        return json.dumps(plain({} if value is None else value), sort_keys=True, default=repr)
    except (ValueError, TypeError, RecursionError):
        return str(arguments)
