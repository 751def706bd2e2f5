"""A step's effects and their final outcomes, by path: what recovery and replay answer from.

Rules: pure, and the same machine for a fresh run, a recovery and a replay. The code requests effects; an effect that
is in the journal must be the same one. Recorded outcomes are released in the order in which they were recorded, one
at a time, when the code can do nothing more without one: so racing code takes the same way again. What is not in the
journal waits until everything in it has been requested and released, and is live then; if the journal holds
something that a code which can do no more has not asked for, the code has diverged.

A new attempt of the code keeps the journal, with the effect that failed reopened and what came behind its failure
dropped; a fresh one drops it all. Outside writes that succeeded are never dropped: asked for again, they are answered;
the same tool at the same place with another request is a divergence; another tool there gets a place of its own.

This file does not know loops, threads, the log, or what effects do.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any, Final

from ledger_core.events import UNREAD, Body, Missing
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
from ledger_core.run import divergence
from ledger_core.run.divergence import Divergence, differences
from ledger_core.run.entry import UNKNOWN, Entry, Intent, Standing


class Journal:
    """The recorded effects of one step, and how far the code has come through them."""

    def __init__(self) -> None:
        self.patched: set[str] = set()
        """Names of the deliberate changes that the code took."""
        self.attempt = 1
        """Number of the attempt of the step's code."""
        self._answers: dict[int, Body] = {}
        self._restart()
        self._written: dict[str, Entry] = {}
        """Outside writes of dropped parts that succeeded."""

    def _restart(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._order: list[tuple[str, bool]] = []
        """Paths in the order in which the code got their outcomes, or (True) stopped waiting for them."""
        self._released = 0
        self._abandoned: set[str] = set()
        self._given_up: set[str] = set()
        self._requested: set[str] = set()
        self._ahead: list[Intent] = []

    # Recording: fold the step's events, in order

    def record(self, seq: int, body: Body) -> None:
        """Take one event of the run into the journal of its step; what is no effect is passed over."""
        recording = _RECORDINGS.get(type(body))
        if recording is not None:
            recording(self, seq, body)

    def _step(self, _: int, body: StepCreated) -> None:
        if body.number > 1:
            self._restart()
            self._written, self.patched, self.attempt = {}, set(), 1

    def _again(self, _: int, body: StepRetryScheduled) -> None:
        self.attempt = body.attempt
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
        self._gated(seq, body.path, "chunk", body.of, b"", None)
        self._ended(seq, body.path, Standing.DONE, value=body.chunk)

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

    # Answering: what the code asks for, in whatever order it does

    def placed(self, path: str, kind: str, name: str) -> str:
        """The path of an effect: its own, or one beside it, where a dropped part made another outside write there."""
        before = self._written.get(path)
        if before is None or (before.intent.kind, before.intent.name) == (kind, name):
            return path
        return f"{path}~{self.attempt}"

    def knows(self, path: str) -> bool:
        """Whether an effect is recorded at a path."""
        return path in self.entries or path in self._written

    def kept_writes(self) -> Iterable[Entry]:
        """The outside writes of dropped parts that succeeded."""
        return self._written.values()

    def was_given_up(self, path: str) -> bool:
        """Whether it is recorded that the code stopped waiting for an effect."""
        return path in self._abandoned

    def kept(self, entry: Entry) -> bool:
        """Whether an entry is an outside write of a dropped part: it is answered out of order."""
        return self._written.get(entry.intent.path) is entry

    def request(self, intent: Intent) -> Entry | Divergence | None:
        """The entry at the intent's path, None if there is none; a divergence if another effect is recorded there."""
        entry = self.entries.get(intent.path)
        written = None if entry is not None else self._written.get(intent.path)
        if written is not None:
            return _compare(written, intent) or written
        if entry is None:
            if not self.exhausted and intent.path not in self._abandoned:
                self._ahead.append(intent)
            return None
        self._requested.add(intent.path)
        return _compare(entry, intent) or entry

    @property
    def exhausted(self) -> bool:
        """Whether everything recorded was requested and released: what is asked for now is live."""
        return len(self._requested) == len(self.entries) and self._released == len(self._order)

    @property
    def all_requested(self) -> bool:
        """Whether the code has asked for everything recorded: what it asks for now may have been lost with a crash."""
        return len(self._requested) == len(self.entries)

    def release(self, waiting: Container[str] | None = None) -> Entry | None:
        """The next recorded outcome, if the code has asked for it; to be called only when it can do no more.

        `waiting` holds the paths of those who can be given one just now; everybody, if it is None.

        Where the code stopped waiting for an effect, it has to do so again before anything else is released.
        """
        while self._released < len(self._order):
            path, abandoned = self._order[self._released]
            if path not in (self._given_up if abandoned else self._requested):
                return None
            entry = self.entries.get(path)  # none, where the code gave up before anything was recorded
            given = entry is not None and (not abandoned or entry.final)
            if given and waiting is not None and path not in waiting:
                return None
            self._released += 1
            if given and entry is not None:
                return entry
        return None

    def recorded(self, paths: Iterable[str]) -> bool:
        """Whether all of these are recorded, or given up: nothing that asks for them is new."""
        return all(path in self.entries or path in self._given_up for path in paths)

    def idle(self, path: str, *, live: bool) -> bool:
        """Whether nobody waits for an open effect any more; where it may be `live`, nor anything outside."""
        entry = self.entries.get(path)
        return path in self._given_up and not (live and entry is not None and (entry.writes or entry.holds))

    def held_up(self) -> Divergence | None:
        """The divergence of code that asked for all that is recorded, and does not take the next of it."""
        if self._released == len(self._order):
            return None
        path, abandoned = self._order[self._released]
        entry = self.entries.get(path)
        if entry is None:
            return None
        what = f"that it stopped waiting for {entry.intent.words()}" if abandoned else entry.intent.words()
        return Divergence(kind=divergence.MISSING, path=path, recorded=what, attempted="", seq=entry.seq)

    @property
    def given_up(self) -> Container[str]:
        """Paths of the effects that the code has stopped waiting for."""
        return self._given_up

    def give_up(self, path: str) -> bool:
        """The code stops waiting for an effect; False if that is news, and to be recorded."""
        self._given_up.add(path)
        return path in self._abandoned

    @staticmethod
    def beyond(intent: Intent) -> Divergence:
        """The divergence of code that goes on where the record ends."""
        return Divergence(
            kind=divergence.EXTRA, path=intent.path, recorded="", attempted=intent.words(), line=intent.line
        )

    def stuck(self, *, ended: bool) -> Divergence | None:
        """The divergence of code that can do no more: it asked for what is not recorded, or `ended` too early."""
        if self.exhausted or not (self._ahead or ended):
            return None
        missing = next((entry for path, entry in self.entries.items() if path not in self._requested), None)
        if self._ahead:
            extra = self._ahead[0]
            return Divergence(
                kind=divergence.EXTRA,
                path=extra.path,
                recorded=f"{missing.intent.words()} at effect {missing.intent.path}" if missing else "",
                attempted=extra.words(),
                seq=missing.seq if missing else None,
                line=extra.line,
            )
        if missing is None:
            return None
        return Divergence(
            kind=divergence.MISSING,
            path=missing.intent.path,
            recorded=missing.intent.words(),
            attempted="",
            seq=missing.seq,
        )


TIMED_OUT: Final = "WaitTimedOut"
__all__ = ["TIMED_OUT", "UNKNOWN", "Entry", "Intent", "Journal", "Standing", "answer_of", "read_journal"]


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


_RECORDINGS: Final[dict[type[Body], Callable[[Journal, int, Any], None]]] = {
    StepCreated: Journal._step,
    StepRetryScheduled: Journal._again,
    CodePatched: Journal._patched,
    ToolCallRequested: Journal._tool,
    ModelCallRequested: Journal._model,
    ToolCallCompleted: Journal._done,
    ModelCallCompleted: Journal._done,
    ToolCallFailed: Journal._failed,
    ModelCallFailed: Journal._failed,
    ToolCallSettled: Journal._settled,
    EffectAbandoned: Journal._gone,
    ToolApprovalRequired: Journal._approval_required,
    EffectHeld: Journal._held,
    EffectRefused: Journal._refused,
    ToolCallJoined: Journal._joined,
    CostRecorded: Journal._cost,
    ModelChunkReceived: Journal._chunk,
    ArtifactCreated: Journal._artifact,
    ValueCaptured: Journal._captured,
    StatePatchProposed: Journal._proposed,
    TimerStarted: lambda journal, seq, body: journal._waits("sleep", "", seq, body),
    SignalAwaited: lambda journal, seq, body: journal._waits("signal", body.name, seq, body),
    ApprovalRequested: Journal._asked,
    ApprovalAwaited: lambda journal, seq, body: journal._waits("answer", body.approval, seq, body),
    ChildAwaited: lambda journal, seq, body: journal._waits("join", body.run, seq, body),
    ChildRunRequested: Journal._spawned,
    SignalReceived: Journal._answer,
    ApprovalDecided: Journal._answer,
    ChildRunEnded: Journal._answer,
    TimerFired: Journal._fired,
    WaitAnswered: Journal._answered,
}


def read_journal(events: Iterable[tuple[int, Body]]) -> Journal:
    """The journal of a step's events, `(seq, body)` in order."""
    journal = Journal()
    for seq, body in events:
        journal.record(seq, body)
    return journal


def _compare(entry: Entry, attempted: Intent) -> Divergence | None:
    recorded = entry.intent
    if recorded.kind != attempted.kind:
        kind = divergence.OTHER_KIND
    elif recorded.name != attempted.name:
        kind = divergence.OTHER_NAME
    elif recorded.request != attempted.request:
        kind = divergence.OTHER_STATE if recorded.kind == "patch" else divergence.OTHER_REQUEST
    else:
        return None
    readable = recorded.kind == attempted.kind and not _holds_missing(recorded.document)
    return Divergence(
        kind=kind,
        path=attempted.path,
        recorded=recorded.words(),
        attempted=attempted.words(),
        seq=entry.seq,
        differences=tuple(differences(recorded.document, attempted.document)) if readable else (),
        line=attempted.line,
    )


def _holds_missing(document: Any) -> bool:
    values = document.values() if isinstance(document, dict) else (document,)
    return any(isinstance(value, Missing) for value in values)
