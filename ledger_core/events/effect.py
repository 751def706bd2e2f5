"""Events of effects: intents and outcomes, by path.

An intent says what is about to be asked of the world; an outcome says what came of it. `request` is a keyed tag of
the whole request: equal for equal requests, so that replay compares without the words, and worthless without the
stream's key. An outside write whose intent has no final outcome is in doubt.
"""

from __future__ import annotations

from typing import Any, Literal

from ledger_core.events.base import JSON, Body, content, event, fact, messages

SideEffect = Literal["none", "external_read", "external_write"]
SettledAs = Literal["succeeded", "no_effect", "compensated", "resent"]
"""`resent`: nobody knows, and it need not be known: the call is made again with the same key."""


@event("tool_call_requested", critical=True)
class ToolCallRequested(Body):
    """A tool is about to be called."""

    path: str = fact()
    attempt: int = fact()
    tool: str = fact()
    tool_version: str = fact()
    side_effect: SideEffect = fact()
    request: bytes = fact()
    key: bytes | None = fact(key=True, default=None)
    """Tag of a logical key that a caller chose; the default key follows from the run and the path, and needs no row."""
    key_request: bytes | None = fact(default=None)
    """Tag of what is asked for under that key: the same key with another request is a conflict."""
    idempotency: str | None = fact(default=None)
    """The key that the other side is given, where it follows from a logical key."""
    approval: str | None = fact(default=None)
    reserved: dict[str, Any] | None = fact(default=None)
    """What is reserved for the attempt, by account and dimension."""
    unbounded: list[str] | None = fact(default=None)
    """Dimensions of which nobody knows beforehand how much it takes."""
    arguments: JSON = content()


@event("tool_call_completed", critical=True)
class ToolCallCompleted(Body):
    """The tool returned."""

    path: str = fact()
    attempt: int = fact()
    spent: dict[str, int] | None = fact(default=None)
    """What it cost, by dimension, where there was something to pay or to count."""
    result: JSON = content()


@event("tool_call_failed", critical=True)
class ToolCallFailed(Body):
    """The tool did not return. `in_doubt`: something may have happened outside, and the call is not settled."""

    path: str = fact()
    attempt: int = fact()
    category: str = fact()
    error_type: str = fact()
    in_doubt: bool = fact()
    retry_ns: int | None = fact(default=None)
    """Set where this is not the end: it is looked at again at this time, tried again or settled."""
    spent: dict[str, int] | None = fact(default=None)
    message: str = content()


@event("tool_call_settled", critical=True)
class ToolCallSettled(Body):
    """What was in doubt was found out, by the tool's `verify` hook or by a person."""

    path: str = fact()
    attempt: int = fact()
    outcome: SettledAs = fact()
    by: Literal["verify", "person", "late", "key"] = fact()
    """`late`: by the worker that made the call, after it had lost the step."""
    again: bool | None = fact(default=None)
    """Set where the failure that was recorded is not the end: nothing happened, and the tool is called again."""
    spent: dict[str, int] | None = fact(default=None)
    result: JSON = content(default=None)
    reason: str = content(default="")


@event("model_call_requested", critical=True)
class ModelCallRequested(Body):
    """A model is about to be asked."""

    path: str = fact()
    attempt: int = fact()
    model: str = fact()
    request: bytes = fact()
    reserved: dict[str, Any] | None = fact(default=None)
    unbounded: list[str] | None = fact(default=None)
    messages: JSON = messages()
    parameters: JSON = content()


@event("model_call_completed", critical=True)
class ModelCallCompleted(Body):
    """The model answered."""

    path: str = fact()
    attempt: int = fact()
    input_tokens: int | None = fact(default=None)
    output_tokens: int | None = fact(default=None)
    cached_tokens: int | None = fact(default=None)
    """Of the input tokens, those that the provider had kept."""
    usd_nano: int | None = fact(default=None)
    """Billionths of a US dollar, as the response or the price table says."""
    prices: bytes | None = fact(default=None)
    """Digest of the price table that was used."""
    proposed: int | None = fact(default=None)
    """Number of tool calls that the model proposed; they stand in the next event."""
    streamed: bool | None = fact(default=None)
    """The response is a list of chunks."""
    spent: dict[str, int] | None = fact(default=None)
    response: JSON = content()


@event("model_chunk_received", critical=True)
class ModelChunkReceived(Body):
    """The code was given a chunk of a streamed answer, and something else of the run is recorded before its end.

    A chunk that nothing stands on is not recorded by itself: the answer holds it.
    """

    path: str = fact()
    """The stream's own, `@`, and the chunk's number, from 1."""
    of: str = fact()
    chunk: JSON = content()


@event("model_call_failed", critical=True)
class ModelCallFailed(Body):
    """The model did not answer."""

    path: str = fact()
    attempt: int = fact()
    category: str = fact()
    error_type: str = fact()
    retry_ns: int | None = fact(default=None)
    """Set where this is not the end: the model is asked again at this time."""
    spent: dict[str, int] | None = fact(default=None)
    message: str = content()
    partial: JSON = content(default=None)
    """Chunks of a stream that the code was given before it broke off."""


@event("tool_calls_proposed")
class ToolCallsProposed(Body):
    """A model wants tools to be called. Whether they are is the code's to decide, and stands in events of its own."""

    path: str = fact()
    """Of the model call."""
    count: int = fact()
    calls: JSON = content()
    """Each with its `id`, `name` and `arguments`."""


@event("effect_abandoned")
class EffectAbandoned(Body):
    """The code stopped waiting for an effect (a timeout, a cancelled task); the effect itself came to its own end."""

    path: str = fact()


@event("value_captured")
class ValueCaptured(Body):
    """A local value that another execution would not get again: the clock, or what `ctx.capture` was given."""

    path: str = fact()
    source: Literal["now", "capture"] = fact()
    name: str = fact()
    error_type: str | None = fact(default=None)
    """Set where the captured function raised; then `value` is its message."""
    value: JSON = content()
