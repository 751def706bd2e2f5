"""What the events of a step make of its journal: entries by path, and the order in which the code got their outcomes.

Rules: pure; events are recorded in order. A new attempt of the code keeps the journal, with the effect that failed
reopened and what came behind its failure dropped; a fresh one drops it all. Outside writes that succeeded are never
dropped: asked for again, they are answered; the same tool at the same place with another request is a divergence;
another tool there gets a place of its own. A fork inherits its ancestor's entries up to a point.

This file does not know what the code asks for: that is `journal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from ledger_core.events import UNREAD, Body
from ledger_core.events.effect import (
    EffectAbandoned,
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    ModelChunkReceived,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
    ValueCaptured,
)
from ledger_core.events.govern import (
    ArtifactCreated,
    CostRecorded,
    EffectHeld,
    EffectRefused,
    ToolApprovalRequired,
    ToolCallJoined,
)
from ledger_core.events.step import CodePatched, StatePatchProposed, StepCreated, StepRetryScheduled
from ledger_core.events.wait import (
    ApprovalAwaited,
    ApprovalDecided,
    ApprovalRequested,
    ChildAwaited,
    ChildRunEnded,
    ChildRunRequested,
    SignalAwaited,
    SignalReceived,
    TimerFired,
    TimerStarted,
    WaitAnswered,
)
from ledger_core.run.entry import UNKNOWN, Entry, Intent, Standing


@attrs.define
class Forked:
    """The end of what a fork shares with its ancestor: what the code has to come through, and the state behind it."""

    paths: set[str]
    """What it has not asked for yet."""
    order: int
    """How many outcomes it must have been given."""
    patch: Any
    """A merge patch of the state, or None."""


class Recording:
    """The recorded effects of one step."""

    def __init__(self) -> None:
        self.patched: set[str] = set()
        """Names of the deliberate changes that the code took."""
        self.attempt = 1
        """Number of the attempt of the step's code, those of its ancestors counted."""
        self._attempts_before = 0
        self._answers: dict[int, Body] = {}
        self._restart()
        self._written: dict[str, Entry] = {}
        """Outside writes of dropped parts that succeeded."""
        self._forks: list[Forked] = []
        """Where forks of its line were made that the code has not come to yet."""

    def _restart(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._order: list[tuple[str, bool]] = []
        """Paths in the order in which the code got their outcomes, or (True) stopped waiting for them."""
        self._released = 0
        self._abandoned: set[str] = set()
        self._given_up: set[str] = set()
        self._requested: set[str] = set()
        self._ahead: list[Intent] = []

    def record(self, seq: int, body: Body) -> None:
        """Take one event of the run into the journal of its step; what is no effect is passed over."""
        recording = _RECORDINGS.get(type(body))
        if recording is not None:
            recording(self, seq, body)

    def inherit(self, later: Iterable[tuple[int, Body]], overrides: Mapping[str, Any], patch: Any) -> list[str]:
        """What is recorded so far is an ancestor's, and ends here; gives the outside writes that nobody knows of.

        What was open is asked for anew. But an outside write that was under way is the ancestor's, and nobody makes it
        again; nor is a stream asked for again whose beginning the code has: what came of them is in its `later` events.
        `overrides` are results in the place of recorded ones, and `patch` changes the state of code that has come
        through all this.
        """
        begun, left = self._under_way(later)
        begun |= self._abandoned  # the code stops waiting for those again, in its order
        for path in [path for path, entry in self.entries.items() if not entry.final and path not in begun]:
            del self.entries[path]
        for path, value in overrides.items():
            if (entry := self.entries.get(path)) is not None:
                entry.standing, entry.value, entry.error_type, entry.refusal = Standing.DONE, value, None, None
        chunks = [path for path, entry in self.entries.items() if entry.intent.kind == "chunk"] if overrides else []
        for path in (path for path in chunks if self.entries[path].intent.name in overrides):
            del self.entries[path]  # a stream is given as it came; another answer, as a whole
        self._order = [(path, gone) for path, gone in self._order if gone or path in self.entries]
        self._forks.append(Forked(set(self.entries), len(self._order), patch))
        self._attempts_before = self.attempt - 1
        return sorted(left)

    def _under_way(self, later: Iterable[tuple[int, Body]]) -> tuple[set[str], set[str]]:
        """Outside writes and streams that are under way, and the writes of which `later` events do not tell either."""
        writes = {path for path, entry in self.entries.items() if entry.writes and not entry.final}
        writes -= {
            path for path in writes if self.entries[path].no_effect and self.entries[path].standing is Standing.OPEN
        }
        seen = {entry.intent.name for entry in self.entries.values() if entry.intent.kind == "chunk"}
        seen -= self._abandoned
        streams = {path for path in seen if path in self.entries and not self.entries[path].final}
        waited = writes | streams
        for seq, body in later if waited else ():
            path = getattr(body, "path", None)
            if isinstance(body, ModelChunkReceived) and body.of in waited:
                self._written[body.path] = _chunk(seq, body)
            if path in waited and type(body) in _OUTCOMES:
                self.record(seq, body)
                entry = self.entries[path]
                undone = entry.no_effect and entry.standing is Standing.OPEN
                waited = waited - {path} if entry.final or undone else waited
            if not waited:
                break
        for path in streams - waited:  # whoever reads on gets it, in no order with others
            self._written[path] = self.entries.pop(path)
        return {path for path in writes if path in waited or self.entries[path].final} | streams, writes & waited

    def _step(self, _: int, body: StepCreated) -> None:
        if body.number > 1:
            self._restart()
            self._written, self.patched, self.attempt, self._attempts_before = {}, set(), 1, 0
            self._forks = []

    def _again(self, _: int, body: StepRetryScheduled) -> None:
        self.attempt = self._attempts_before + body.attempt
        failed = self.entries.get(body.reopened or "")
        if failed is None and not body.fresh:
            return
        if failed is None or not failed.final:
            dropped = list(self.entries) if body.fresh else []
        else:
            dropped = [path for path, entry in self.entries.items() if entry.seq > failed.ended]
            self._order = [(path, gone) for path, gone in self._order if path != failed.intent.path]
            failed.standing, failed.no_effect, failed.wake_ns, failed.failures = Standing.OPEN, True, None, 0
        self._abandoned -= {*dropped, body.reopened or ""}
        for path in dropped:
            entry = self.entries.pop(path)
            if (entry.writes or entry.intent.kind == "child") and entry.standing is not Standing.FAILED:
                self._written[path] = entry
        self._order = [(path, gone) for path, gone in self._order if path in self.entries]
        for one in self._forks:
            one.paths -= set(dropped)
            one.order = min(one.order, len(self._order))
        if body.fresh:
            self.patched = set()

    def _patched(self, _: int, body: CodePatched) -> None:
        self.patched.add(body.name)

    def _tool(self, seq: int, body: ToolCallRequested) -> None:
        self._intended(seq, body, "tool", body.tool, {"arguments": body.arguments})

    def _model(self, seq: int, body: ModelCallRequested) -> None:
        document = {"model": body.model, "messages": body.messages, "parameters": body.parameters}
        self._intended(seq, body, "model", body.model, document)

    def _intended(
        self, seq: int, body: ToolCallRequested | ModelCallRequested, kind: str, name: str, document: Any
    ) -> None:
        intent = Intent(path=body.path, kind=kind, name=name, request=body.request, document=document)
        writes = isinstance(body, ToolCallRequested) and body.side_effect == "external_write"
        before = self.entries.get(body.path)
        self.entries[body.path] = Entry(
            intent=intent,
            seq=before.seq if before else seq,
            attempt=body.attempt,
            writes=writes,
            holds=bool(body.reserved or getattr(body, "key", None)),
            version=body.tool_version if isinstance(body, ToolCallRequested) else None,
            failures=before.failures if before else 0,
            outages=before.outages if before else 0,
        )

    def _done(self, seq: int, body: ToolCallCompleted | ModelCallCompleted) -> None:
        value = body.result if isinstance(body, ToolCallCompleted) else body.response
        self._ended(seq, body.path, Standing.DONE, value=value)

    def _failed(self, seq: int, body: ToolCallFailed | ModelCallFailed) -> None:
        doubt = isinstance(body, ToolCallFailed) and body.in_doubt
        again = body.retry_ns is not None
        entry = self.entries[body.path]
        if body.category == UNKNOWN and (entry.final or entry.no_effect):
            return  # it rode, and somebody who knew was faster
        if body.category == UNKNOWN and entry.standing is Standing.IN_DOUBT:  # asked again: what it says stays
            entry.wake_ns, entry.outages = body.retry_ns, entry.outages + 1
            return
        standing = Standing.IN_DOUBT if doubt else Standing.OPEN if again else Standing.FAILED
        self._ended(seq, body.path, standing, value=body.message, error_type=body.error_type)
        entry.told = body.category != UNKNOWN
        if isinstance(body, ModelCallFailed):
            entry.partial = body.partial if isinstance(body.partial, list) else None
        entry.wake_ns, entry.no_effect = body.retry_ns, again and not doubt
        if body.category in ("outage", UNKNOWN):
            entry.outages += 1
        else:
            entry.failures, entry.outages = entry.failures + 1, 0

    def _gated(self, seq: int, path: str, kind: str, name: str, request: bytes, document: Any) -> None:
        """An effect that was asked for and has not begun."""
        if path not in self.entries:
            intent = Intent(path=path, kind=kind, name=name, request=request, document=document)
            self.entries[path] = Entry(intent=intent, seq=seq, attempt=0, no_effect=True)

    def _approval_required(self, seq: int, body: ToolApprovalRequired) -> None:
        self._gated(seq, body.path, "tool", body.tool, body.request, {"arguments": body.arguments})

    def _held(self, seq: int, body: EffectHeld) -> None:
        self._gated(seq, body.path, body.effect, body.name, body.request, {"asked": UNREAD})
        entry = self.entries[body.path]
        entry.wake_ns, entry.held = body.wake_ns, entry.held + 1

    def _refused(self, seq: int, body: EffectRefused) -> None:
        self._gated(seq, body.path, body.effect, body.name, body.request, body.document)
        self.entries[body.path].refusal = body.category
        self._ended(seq, body.path, Standing.FAILED, value=body.message, error_type=body.error_type)

    def _joined(self, seq: int, body: ToolCallJoined) -> None:
        self._gated(seq, body.path, "tool", body.tool, body.request, {"arguments": body.arguments})
        self._ended(seq, body.path, Standing.DONE, value=body.result)

    def _chunk(self, seq: int, body: ModelChunkReceived) -> None:
        self.entries.setdefault(body.path, _chunk(seq, body))
        self._order.append((body.path, False))

    def _cost(self, seq: int, body: CostRecorded) -> None:
        self._immediate(seq, body.path, "cost", body.name, None, request=body.request)

    def _artifact(self, seq: int, body: ArtifactCreated) -> None:
        self._immediate(seq, body.path, "artifact", body.schema, body.manifest, request=body.request)

    def _gone(self, _: int, body: EffectAbandoned) -> None:
        self._abandoned.add(body.path)
        self._order = [one for one in self._order if one[0] != body.path]  # an outcome that the code never saw
        self._order.append((body.path, True))

    def _captured(self, seq: int, body: ValueCaptured) -> None:
        self._immediate(seq, body.path, body.source, body.name, body.value, error_type=body.error_type)

    def _proposed(self, seq: int, body: StatePatchProposed) -> None:
        self._immediate(seq, body.path, "patch", "", body.patch, request=body.request)

    def _waits(self, kind: str, name: str, seq: int, body: Any) -> None:
        intent = Intent(path=body.path, kind=kind, name=name, request=body.request, document=body.asked)
        self.entries[body.path] = Entry(intent=intent, seq=seq, wake_ns=body.wake_ns)

    def _asked(self, seq: int, body: ApprovalRequested) -> None:
        self._waits("question" if body.pending else "approval", "", seq, body)
        self.entries[body.path].value = body.approval
        if body.pending:
            self._ended(seq, body.path, Standing.DONE, value=body.approval)

    def _spawned(self, seq: int, body: ChildRunRequested) -> None:
        intent = Intent(path=body.path, kind="child", name=body.agent, request=body.request, document=body.asked)
        self.entries[body.path] = Entry(intent=intent, seq=seq)
        self._ended(seq, body.path, Standing.DONE, value=body.run)

    def _answer(self, seq: int, body: Body) -> None:
        self._answers[seq] = body

    def _fired(self, seq: int, body: TimerFired) -> None:
        if self.entries[body.path].intent.kind == "sleep":
            self._ended(seq, body.path, Standing.DONE, value=None)
        else:
            self._ended(seq, body.path, Standing.FAILED, value="it did not come in time", error_type=TIMED_OUT)

    def _answered(self, seq: int, body: WaitAnswered) -> None:
        standing, value, error_type = answer_of(self._answers[body.answer])
        self._ended(seq, body.path, standing, value=value, error_type=error_type)

    def _ended(self, seq: int, path: str, standing: Standing, *, value: Any, error_type: str | None = None) -> None:
        entry = self.entries[path]
        entry.standing, entry.value, entry.error_type, entry.ended = standing, value, error_type, seq
        if entry.final and path not in self._abandoned:
            self._order.append((path, False))

    def _settled(self, seq: int, body: ToolCallSettled) -> None:
        entry = self.entries.get(body.path)
        if entry is None:
            return  # late evidence of a step that is over, or of a part that was dropped
        entry.wake_ns = None
        if entry.final:
            return  # undone since: what the code was told of it stays
        if body.outcome == "succeeded":
            self._ended(seq, body.path, Standing.DONE, value=body.result)
        elif body.outcome == "compensated":
            value, error_type = (entry.value, entry.error_type) if entry.told else (None, None)
            value, error_type = value or "it happened, and was undone", error_type or "Compensated"
            self._ended(seq, body.path, Standing.FAILED, value=value, error_type=error_type)
        elif (
            entry.standing is Standing.IN_DOUBT and entry.told and not body.again
        ):  # the code is told of the failure that was recorded
            self._ended(seq, body.path, Standing.FAILED, value=entry.value, error_type=entry.error_type)
        else:
            entry.no_effect, entry.standing = True, Standing.OPEN

    def _immediate(
        self,
        seq: int,
        path: str,
        kind: str,
        name: str,
        value: Any,
        *,
        request: bytes = b"",
        error_type: str | None = None,
    ) -> None:
        intent = Intent(path=path, kind=kind, name=name, request=request, document=value if kind == "patch" else None)
        standing = Standing.FAILED if error_type else Standing.DONE
        self.entries[path] = Entry(intent=intent, seq=seq, standing=standing, value=value, error_type=error_type)


def _chunk(seq: int, body: ModelChunkReceived) -> Entry:
    intent = Intent(path=body.path, kind="chunk", name=body.of, request=b"")
    return Entry(intent=intent, seq=seq, standing=Standing.DONE, value=body.chunk, ended=seq)


TIMED_OUT: Final = "WaitTimedOut"


def answer_of(body: Any) -> tuple[Standing, Any, str | None]:
    """What the code is given of an answer: how the wait stands, its value (or message), its error's type."""
    if isinstance(body, SignalReceived):
        return Standing.DONE, body.payload, None
    if isinstance(body, ApprovalDecided):
        return Standing.DONE, {"approved": body.approved, "by": body.by, "reason": body.reason}, None
    assert isinstance(body, ChildRunEnded)
    if body.status == "completed":
        return Standing.DONE, body.output, None
    return Standing.FAILED, body.message, body.error_type or "Cancelled"


_OUTCOMES: Final = frozenset((ToolCallCompleted, ToolCallFailed, ToolCallSettled, ModelCallCompleted, ModelCallFailed))
_RECORDINGS: Final[dict[type[Body], Callable[[Recording, int, Any], None]]] = {
    StepCreated: Recording._step,
    StepRetryScheduled: Recording._again,
    CodePatched: Recording._patched,
    ToolCallRequested: Recording._tool,
    ModelCallRequested: Recording._model,
    ToolCallCompleted: Recording._done,
    ModelCallCompleted: Recording._done,
    ToolCallFailed: Recording._failed,
    ModelCallFailed: Recording._failed,
    ToolCallSettled: Recording._settled,
    EffectAbandoned: Recording._gone,
    ToolApprovalRequired: Recording._approval_required,
    EffectHeld: Recording._held,
    EffectRefused: Recording._refused,
    ToolCallJoined: Recording._joined,
    CostRecorded: Recording._cost,
    ModelChunkReceived: Recording._chunk,
    ArtifactCreated: Recording._artifact,
    ValueCaptured: Recording._captured,
    StatePatchProposed: Recording._proposed,
    TimerStarted: lambda journal, seq, body: journal._waits("sleep", "", seq, body),
    SignalAwaited: lambda journal, seq, body: journal._waits("signal", body.name, seq, body),
    ApprovalRequested: Recording._asked,
    ApprovalAwaited: lambda journal, seq, body: journal._waits("answer", body.approval, seq, body),
    ChildAwaited: lambda journal, seq, body: journal._waits("join", body.run, seq, body),
    ChildRunRequested: Recording._spawned,
    SignalReceived: Recording._answer,
    ApprovalDecided: Recording._answer,
    ChildRunEnded: Recording._answer,
    TimerFired: Recording._fired,
    WaitAnswered: Recording._answered,
}
