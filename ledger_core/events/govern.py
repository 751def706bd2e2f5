"""Events of governance: what was permitted, asked of a person, refused, kept in a sandbox, paid for, and kept.

A decision stands beside the effect that it decides on, by path. What was refused never began: `effect_refused` is its
one final outcome. The bounds of a budget are folded from the events of its own stream, each of which says how the
budget stands after it, so that its last event is the whole of it.
"""

from __future__ import annotations

from typing import Literal

from ledger_core.events.base import JSON, Body, content, event, fact

Verdict = Literal["allow", "approve", "deny"]
Refusal = Literal["policy", "approval", "budget", "sandbox", "key"]
EffectKind = Literal["tool", "model"]


@event("policy_adopted")
class PolicyAdopted(Body):
    """A policy decides from here on; in the ledger's own stream, once for each text."""

    tag: bytes = fact(key=True)
    """Finds it by the digest."""
    policy: bytes = fact()
    """Digest of the text."""
    document: JSON = content()


@event("tool_permission_decided", critical=True)
class ToolPermissionDecided(Body):
    """The policy in force said whether a tool may be called now."""

    path: str = fact()
    attempt: int = fact()
    tool: str = fact()
    tool_version: str = fact()
    verdict: Verdict = fact()
    policy: bytes = fact()
    rule: str = fact()
    approval: str | None = fact(default=None)
    """The person's answer that it stands on, if it took one."""
    reason: str = content(default="")


@event("tool_approval_required", critical=True)
class ToolApprovalRequired(Body):
    """A tool call waits for a person. The answer holds for this request to this version of the tool, once."""

    path: str = fact()
    approval: str = fact()
    tag: bytes = fact(key=True)
    """Finds the request by its id."""
    tool: str = fact()
    tool_version: str = fact()
    side_effect: str = fact()
    request: bytes = fact()
    rule: str | None = fact(default=None)
    """The rule that asks for it; left out where the tool itself does."""
    wake_ns: int | None = fact(default=None)
    """When the request expires."""
    arguments: JSON = content()
    reason: str = content(default="")


@event("effect_refused", critical=True)
class EffectRefused(Body):
    """An effect that was asked for and did not begin: the end of it. `category` says who refused."""

    path: str = fact()
    effect: EffectKind = fact()
    name: str = fact()
    request: bytes = fact()
    category: Refusal = fact()
    error_type: str = fact()
    account: str | None = fact(default=None)
    """The budget that has no room, and what it has no room for."""
    dimension: str | None = fact(default=None)
    document: JSON = content()
    """What was asked for."""
    message: str = content()


@event("tool_call_joined", critical=True)
class ToolCallJoined(Body):
    """A tool call that had been made before, under the same logical key: it has that call's result."""

    path: str = fact()
    tool: str = fact()
    request: bytes = fact()
    run: str = fact()
    joined: str = fact()
    """The run and path of the call that was made."""
    seq: int = fact()
    """The event that says that it succeeded."""
    arguments: JSON = content()
    result: JSON = content()


@event("compensation_started", critical=True)
class CompensationStarted(Body):
    """A tool's `compensate` hook is about to undo a call that succeeded."""

    path: str = fact()
    attempt: int = fact()
    tool: str = fact()
    by: str = content(default="")
    reason: str = content(default="")


@event("sandbox_started", critical=True)
class SandboxStarted(Body):
    """A tool call is about to run in a sandbox."""

    path: str = fact()
    attempt: int = fact()
    executor: str = fact()
    policy: bytes = fact()
    """Digest of what it is allowed."""
    limits: JSON = content()


@event("sandbox_completed", critical=True)
class SandboxCompleted(Body):
    """The sandbox is gone: by itself, or because it had to be ended."""

    path: str = fact()
    attempt: int = fact()
    executor: str = fact()
    status: str = fact()
    reason: str | None = fact(default=None)
    """Why it was ended: time, memory, processes, output, killed, startup."""
    exit_code: int | None = fact(default=None)
    signal: int | None = fact(default=None)
    seconds: float | None = fact(default=None)
    memory_peak: int | None = fact(default=None)
    """Bytes."""
    stderr: str = content(default="")


@event("effect_held", critical=True)
class EffectHeld(Body):
    """An effect has not begun: it waits for others, that hold what is left of a budget, or its logical key."""

    path: str = fact()
    effect: EffectKind = fact()
    name: str = fact()
    request: bytes = fact()
    why: Literal["budget", "key"] = fact()
    of: str = fact()
    """The account, or the run that holds the key."""
    wake_ns: int = fact()
    """When it looks again."""


@event("budget_changed", critical=True)
class BudgetChanged(Body):
    """How a budget stands: its bounds were set, or a call reserved, settled or spent some of it.

    `limits`, `spent` and `reserved` are the whole of it after this event, by dimension; `amounts` is what moved.
    """

    account: str = fact()
    why: Literal["set", "reserved", "settled", "spent"] = fact()
    run: str | None = fact(default=None)
    path: str | None = fact(default=None)
    attempt: int | None = fact(default=None)
    freed: dict[str, int] | None = fact(default=None)
    """What was reserved for the call and is not any more."""
    amounts: dict[str, int] | None = fact(default=None)
    limits: dict[str, int] = fact()
    spent: dict[str, int] = fact()
    reserved: dict[str, int] = fact()
    open: int = fact()
    """Number of calls that have something reserved."""
    reason: str = content(default="")


@event("cost_recorded", critical=True)
class CostRecorded(Body):
    """The code says what something cost that no tool and no model of the runtime's reported."""

    path: str = fact()
    name: str = fact()
    spent: dict[str, int] = fact()
    """By dimension; US dollars are in billionths (`usd_nano`)."""
    request: bytes = fact()
    metadata: JSON = content(default=None)


@event("artifact_created", critical=True)
class ArtifactCreated(Body):
    """Something to keep: its bytes here, or a reference to media or to a place in a stream elsewhere."""

    path: str = fact()
    artifact: str = fact()
    tag: bytes = fact(key=True)
    """Finds it by its id."""
    schema: str = fact()
    """`agentledger.artifact.v0`, `agentledger.media.v0` or `agentledger.stream.v0`."""
    media_kind: str | None = fact(default=None)
    size: int | None = fact(default=None)
    """Bytes, where they are here."""
    digest: bytes | None = fact(default=None)
    """Keyed tag of the bytes."""
    request: bytes = fact()
    manifest: JSON = content()
    data: JSON = content(default=None)
