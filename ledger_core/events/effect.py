"""Events of effects: intents and outcomes, by path.

An intent says what is about to be asked of the world; an outcome says what came of it. `request` is a keyed tag of
the whole request: equal for equal requests, so that replay compares without the words, and worthless without the
stream's key. An outside write whose intent has no final outcome is in doubt.
"""

from __future__ import annotations

from typing import Literal

from ledger_core.events.base import JSON, Body, content, event, fact, messages

SideEffect = Literal["none", "external_read", "external_write"]
SettledAs = Literal["succeeded", "no_effect", "compensated"]


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
    arguments: JSON = content()


@event("tool_call_completed", critical=True)
class ToolCallCompleted(Body):
    """The tool returned."""

    path: str = fact()
    attempt: int = fact()
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
    message: str = content()


@event("tool_call_settled", critical=True)
class ToolCallSettled(Body):
    """What was in doubt was found out, by the tool's `verify` hook or by a person."""

    path: str = fact()
    attempt: int = fact()
    outcome: SettledAs = fact()
    by: Literal["verify", "person", "late"] = fact()
    """`late`: by the worker that made the call, after it had lost the step."""
    again: bool | None = fact(default=None)
    """Set where the failure that was recorded is not the end: nothing happened, and the tool is called again."""
    result: JSON = content(default=None)
    reason: str = content(default="")


@event("model_call_requested", critical=True)
class ModelCallRequested(Body):
    """A model is about to be asked."""

    path: str = fact()
    attempt: int = fact()
    model: str = fact()
    request: bytes = fact()
    messages: JSON = messages()
    parameters: JSON = content()


@event("model_call_completed", critical=True)
class ModelCallCompleted(Body):
    """The model answered."""

    path: str = fact()
    attempt: int = fact()
    input_tokens: int | None = fact(default=None)
    output_tokens: int | None = fact(default=None)
    response: JSON = content()


@event("model_call_failed", critical=True)
class ModelCallFailed(Body):
    """The model did not answer."""

    path: str = fact()
    attempt: int = fact()
    category: str = fact()
    error_type: str = fact()
    retry_ns: int | None = fact(default=None)
    """Set where this is not the end: the model is asked again at this time."""
    message: str = content()


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
