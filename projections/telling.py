"""What each type of event says to a person: words, what was said, and whether it is good or bad.

Rules: pure; one function a type, in a table. Words are of facts alone; contents are handed on as they are, and may be
missing. What goes without saying beside its neighbours (a chunk, a permission that was given) does not matter. This
file knows one event at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import attrs

from ledger_core.clock import NS
from ledger_core.events import Body, effect, govern, run, step, wait
from ledger_core.run.budget import account_words, amount_words

Mark = Literal["", "ok", "failed", "doubt", "waits", "person"]


@attrs.frozen
class Told:
    """What an event says."""

    words: str
    said: Any = None
    mark: Mark = ""
    begins: str = attrs.field(default="", kw_only=True)
    """What begins at the event's path: a name for those that go on with it."""
    ends: bool = attrs.field(default=False, kw_only=True)
    timed: bool = attrs.field(default=False, kw_only=True)
    """How long it took since its beginning is worth saying."""
    matters: bool = attrs.field(default=True, kw_only=True)


def tell(body: Body, type_: str, name: str) -> Told:
    """What an event says; `name` is of the effect that began at its path."""
    telling = TELLINGS.get(type(body))
    return Told(type_.replace("_", " ")) if telling is None else telling(body, name)


def span(ns: int) -> str:
    """A time that passed, in a word: `3 d`, `12.5 s`, `40 ms`."""
    seconds = abs(ns) / NS
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1_000:.0f} ms"


def _ended(words: str, said: Any = None, mark: Mark = "ok") -> Told:
    return Told(words, said, mark, ends=True, timed=True)


def _failed(body: effect.ToolCallFailed | effect.ModelCallFailed, name: str) -> Told:
    doubt = bool(getattr(body, "in_doubt", False))
    after = "nobody knows whether it happened" if doubt else ""
    if body.retry_ns is not None:
        after = "; ".join(filter(None, (after, "it is asked again" if doubt else "it is tried again")))
    words = f"{name or 'it'} failed: {body.error_type} ({body.category})" + (f": {after}" if after else "")
    return Told(
        words,
        body.message,
        "doubt" if doubt else "failed",
        ends=body.retry_ns is None and not doubt,
        timed=True,
    )


def _answered(body: effect.ModelCallCompleted, name: str) -> Told:
    amounts = [
        f"{value:,} tokens {way}" for value, way in ((body.input_tokens, "in"), (body.output_tokens, "out")) if value
    ]
    amounts += [amount_words("usd_nano", body.usd_nano)] if body.usd_nano else []
    amounts += [f"proposes {body.proposed} tool call{'' if body.proposed == 1 else 's'}"] if body.proposed else []
    return _ended(f"{name or 'the model'} answered" + (f": {', '.join(amounts)}" if amounts else ""), body.response)


def _settled(body: effect.ToolCallSettled, name: str) -> Told:
    words = {
        "succeeded": "it happened",
        "no_effect": "it did not happen",
        "compensated": "it was undone",
        "resent": "it is sent again with its key",
    }[body.outcome]
    who = {"verify": "its tool", "person": "a person", "late": "its worker, late", "key": "its key"}[body.by]
    mark: Mark = "doubt" if body.outcome == "resent" else "ok"
    said = body.reason if body.result is None else body.result
    return Told(f"{name or 'the call'} is settled by {who}: {words}", said, mark, ends=body.outcome != "resent")


def _permission(body: govern.ToolPermissionDecided, _: str) -> Told:
    words = f"{body.tool}: the policy says {body.verdict}, by rule {body.rule!r}"
    return Told(words, _said(body.reason), "failed" if body.verdict == "deny" else "", matters=body.verdict != "allow")


def _waits(thing: str) -> Told:
    return Told(f"waits for {thing}", None, "waits", begins=thing)


def _approval(body: wait.ApprovalRequested, _: str) -> Told:
    question = body.asked.get("question") if isinstance(body.asked, dict) else body.asked
    return Told(f"asks a person: {body.approval}", question, "person", begins=f"approval {body.approval}")


def _decided(body: wait.ApprovalDecided, _: str) -> Told:
    answer = "approved" if body.approved else "denied"
    said = None if body.by == body.reason == "" else {"by": body.by, "reason": body.reason}
    return Told(f"{body.approval} is {answer}", said, "ok" if body.approved else "failed")


def _child_ended(body: wait.ChildRunEnded, _: str) -> Told:
    well = body.status == "completed"
    error = "" if body.error_type is None else f": {body.error_type}"
    said = body.output if well else _said(body.message)
    return Told(f"child {body.run} {body.status}{error}", said, "ok" if well else "failed")


def _sandboxed(body: govern.SandboxCompleted, _: str) -> Told:
    well = body.status == "exited" and not body.exit_code and not body.signal
    why = f": {body.reason}" if body.reason else ""
    return Told(f"sandbox {body.executor} {body.status}{why}", _said(body.stderr), "" if well else "failed")


def _again(body: step.StepRetryScheduled, _: str) -> Told:
    fresh = ", from its beginning" if body.fresh else ""
    words = f"the step failed: {body.error_type} ({body.category}); attempt {body.attempt} is to come{fresh}"
    return Told(words, body.message, "failed")


def _refused(body: govern.EffectRefused, _: str) -> Told:
    of = "" if body.account is None else f", the budget of {account_words(body.account)}"
    return Told(f"{body.name} was refused: {body.error_type} ({body.category}{of})", body.message, "failed", ends=True)


def _spent(body: govern.CostRecorded, _: str) -> Told:
    return Told(f"cost {body.name}: " + ", ".join(amount_words(*one) for one in sorted(body.spent.items())))


def _captured(body: effect.ValueCaptured, _: str) -> Told:
    mark: Mark = "failed" if body.error_type else ""
    return Told(f"{body.source} {body.name}".strip(), body.value, mark, matters=body.source != "now")


def _created(body: run.RunCreated, _: str) -> Told:
    parent = "" if body.parent is None else f", child of {body.parent} at effect {body.parent_path}"
    session = "" if body.session is None else f", in session {body.session}"
    fork = "" if body.ancestor is None else f", fork of {body.ancestor} behind its event {body.ancestor_event}"
    return Told(f"run of agent {body.agent}{session}{parent}{fork}", body.initial_state)


def _released(body: step.StepReleased, _: str) -> Told:
    words = {None: "for another worker", "yield": "until its next turn", "waits": "while it waits"}
    return Told(f"given back {words.get(body.waiting, f'for a person: {body.waiting}')}", None, "waits")


def _held(body: govern.EffectHeld, _: str) -> Told:
    of = account_words(body.of) if body.why == "budget" else f"run {body.of}"
    what = "room in the budget of" if body.why == "budget" else "the logical key that is held by"
    return Told(f"{body.name} waits for {what} {of}", None, "waits", begins=body.name)


def _artifact(body: govern.ArtifactCreated, _: str) -> Told:
    size = "" if body.size is None else f", {body.size:,} bytes"
    return Told(f"keeps {body.artifact} ({body.schema.split('.')[1] if '.' in body.schema else body.schema}{size})")


TELLINGS: Final[dict[type[Body], Callable[[Any, str], Told]]] = {
    run.RunCreated: _created,
    run.RunCompleted: lambda *_: Told("the run completed", None, "ok"),
    run.RunFailed: lambda body, _: Told(f"the run failed ({body.category})", None, "failed"),
    run.RunCancelRequested: lambda body, _: Told("somebody wants it to end", _said(body.reason), "person"),
    run.RunCancelled: lambda *_: Told("the run was cancelled", None, "failed"),
    run.RunParked: lambda body, _: Told(f"parked: {body.losses} workers in a row were lost with it", None, "failed"),
    run.DivergenceDetected: lambda body, _: Told(f"diverged: {body.code}", body.difference, "failed"),
    step.StepCreated: lambda body, _: Told(f"step {body.number} of agent {body.agent}"),
    step.StepClaimed: lambda body, _: Told(f"claimed by {body.worker}, epoch {body.epoch}"),
    step.StepReleased: _released,
    step.StepBlocked: lambda body, _: Told("blocked", body.reason, "failed"),
    step.LeaseExpired: lambda body, _: Told(f"epoch {body.epoch} lost: {body.reason}", None, "failed"),
    step.StepRetryScheduled: _again,
    step.StepCancelled: lambda *_: Told("the step ends: its run was asked to", matters=False),
    step.CodePatched: lambda body, _: Told(f"takes the branch {body.name!r} that was added on purpose"),
    step.StatePatchProposed: lambda body, _: Told("writes to its state", body.patch),
    step.StatePatchCommitted: lambda body, _: Told(f"state version {body.version}", body.patch),
    step.AgentResultReturned: lambda body, _: Told("returns", body.output),
    step.StepCompleted: lambda *_: Told("the step completed", None, "ok", matters=False),
    step.StepFailed: lambda body, _: Told(
        f"the step failed: {body.error_type} ({body.category})", body.message, "failed"
    ),
    effect.ToolCallRequested: lambda body, _: Told(_nth(f"tool {body.tool}", body), body.arguments, begins=body.tool),
    effect.ToolCallCompleted: lambda body, name: _ended(f"{name or 'it'} returned", body.result),
    effect.ToolCallFailed: _failed,
    effect.ToolCallSettled: _settled,
    effect.ModelCallRequested: lambda body, _: Told(
        _nth(f"model {body.model}", body), _last(body.messages), begins=body.model
    ),
    effect.ModelCallCompleted: _answered,
    effect.ModelChunkReceived: lambda body, _: Told("a chunk", body.chunk, matters=False),
    effect.ModelCallFailed: _failed,
    effect.ToolCallsProposed: lambda body, _: Told(f"{body.count} tool calls proposed", body.calls, matters=False),
    effect.EffectAbandoned: lambda _, name: Told(f"the code stopped waiting for {name or 'it'}", ends=True),
    effect.ValueCaptured: _captured,
    govern.ToolPermissionDecided: _permission,
    govern.ToolApprovalRequired: lambda body, _: Told(
        f"asks a person whether {body.tool} may be called: {body.approval}", body.arguments, "person", begins=body.tool
    ),
    govern.EffectRefused: _refused,
    govern.ToolCallJoined: lambda body, _: _ended(
        f"{body.tool} was called before, by {body.run} at {body.joined}", body.result
    ),
    govern.CompensationStarted: lambda body, _: Told(f"{body.tool} is being undone", _said(body.reason), "person"),
    govern.SandboxStarted: lambda body, _: Told(f"sandbox {body.executor}", matters=False),
    govern.SandboxCompleted: _sandboxed,
    govern.EffectHeld: _held,
    govern.CostRecorded: _spent,
    govern.ArtifactCreated: _artifact,
    wait.TimerStarted: lambda *_: Told("sleeps", None, "waits", begins="the sleep"),
    wait.TimerFired: lambda _, name: _ended(f"its time came: {name or 'a wait'} is over", mark=""),
    wait.SignalAwaited: lambda body, _: _waits(f"signal {body.name}"),
    wait.SignalReceived: lambda body, _: Told(f"signal {body.name} came", body.payload, "person"),
    wait.ApprovalRequested: _approval,
    wait.ApprovalAwaited: lambda body, _: _waits(f"approval {body.approval}"),
    wait.ApprovalDecided: _decided,
    wait.ChildRunRequested: lambda body, _: Told(f"starts child {body.run} of agent {body.agent}", _input(body.asked)),
    wait.ChildAwaited: lambda body, _: _waits(f"child {body.run}"),
    wait.ChildRunEnded: _child_ended,
    wait.WaitAnswered: lambda _, name: _ended(f"goes on: {name or 'what it waited for'} came"),
}
"""Every type of a run's stream that this version knows."""


def _nth(words: str, body: effect.ToolCallRequested | effect.ModelCallRequested) -> str:
    return words if body.attempt == 1 else f"{words}, attempt {body.attempt}"


def _said(text: Any) -> Any:
    """What was said, if anything was."""
    return None if text == "" else text


def _last(messages: Any) -> Any:
    """What was said to a model last: the whole of it is in the transcript."""
    return messages[-1] if isinstance(messages, list) and messages else messages


def _input(asked: Any) -> Any:
    return asked.get("initial_state", asked) if isinstance(asked, dict) else asked
