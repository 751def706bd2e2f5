"""A step's effects and their final outcomes, by path: what recovery and replay answer from.

Rules: pure, and the same machine for a fresh run, a recovery and a replay. The code requests effects; an effect that
is in the journal must be the same one. Recorded outcomes are released in the order in which they were recorded, one
at a time, when the code can do nothing more without one: so racing code takes the same way again. What is not in the
journal waits until everything in it has been requested and released, and is live then; if the journal holds
something that a code which can do no more has not asked for, the code has diverged.

This file does not know loops, threads, the log, or what effects do.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from enum import Enum
from typing import Any, Final

import attrs

from ledger_core.events import Body, Missing
from ledger_core.events.effect import (
    EffectAbandoned,
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
    ValueCaptured,
)
from ledger_core.events.step import StatePatchProposed
from ledger_core.run import divergence
from ledger_core.run.divergence import Divergence, differences


class Standing(Enum):
    """How an effect stands."""

    OPEN = "open"
    """Intended, and nobody knows what came of it; or found to have had no effect, and to be tried again."""
    DONE = "done"
    FAILED = "failed"
    IN_DOUBT = "in doubt"
    """Failed in a way that may have had an effect outside; to be settled."""


@attrs.frozen(kw_only=True)
class Intent:
    """What code asks for at a path. `request` is its tag, `document` the request itself, for explaining."""

    path: str
    kind: str
    name: str
    request: bytes
    document: Any = None
    line: str | None = None

    def words(self) -> str:
        """The effect as a person calls it."""
        return f"{self.kind} {self.name}".rstrip()


@attrs.define(kw_only=True)
class Entry:
    """One effect of the journal."""

    intent: Intent
    seq: int
    attempt: int = 1
    standing: Standing = Standing.OPEN
    value: Any = None
    """The result; for a failure, its message."""
    error_type: str | None = None
    no_effect: bool = False
    """Its open attempt is known to have had no effect outside."""
    writes: bool = False
    """It was recorded as an outside write, whatever its tool says today."""
    told: bool = True
    """The failure is the tool's own, which the code is to be told; not the runtime's word for not knowing."""

    @property
    def final(self) -> bool:
        """Whether the outcome is settled: nothing more may come of it."""
        return self.standing in (Standing.DONE, Standing.FAILED)


UNKNOWN: Final = "unknown"
"""Category of a failure that only says that nobody knows what happened."""


class Journal:
    """The recorded effects of one step, and how far the code has come through them."""

    def __init__(self) -> None:
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
        """Take one event of the step into the journal; what is no effect is passed over."""
        if isinstance(body, ToolCallRequested):
            self._intended(seq, body, "tool", body.tool, {"arguments": body.arguments})
        elif isinstance(body, ModelCallRequested):
            document = {"model": body.model, "messages": body.messages, "parameters": body.parameters}
            self._intended(seq, body, "model", body.model, document)
        elif isinstance(body, (ToolCallCompleted, ModelCallCompleted)):
            value = body.result if isinstance(body, ToolCallCompleted) else body.response
            self._ended(body.path, Standing.DONE, value=value)
        elif isinstance(body, (ToolCallFailed, ModelCallFailed)):
            doubt = isinstance(body, ToolCallFailed) and body.in_doubt
            standing = Standing.IN_DOUBT if doubt else Standing.FAILED
            self._ended(body.path, standing, value=body.message, error_type=body.error_type)
            self.entries[body.path].told = body.category != UNKNOWN
        elif isinstance(body, EffectAbandoned):
            self._abandoned.add(body.path)
            self._order.append((body.path, True))
        elif isinstance(body, ToolCallSettled):
            self._settled(body)
        elif isinstance(body, ValueCaptured):
            self._immediate(seq, body.path, body.source, body.name, body.value, error_type=body.error_type)
        elif isinstance(body, StatePatchProposed):
            self._immediate(seq, body.path, "patch", "", body.patch, request=body.request)

    def _intended(
        self, seq: int, body: ToolCallRequested | ModelCallRequested, kind: str, name: str, document: Any
    ) -> None:
        intent = Intent(path=body.path, kind=kind, name=name, request=body.request, document=document)
        writes = isinstance(body, ToolCallRequested) and body.side_effect == "external_write"
        self.entries[body.path] = Entry(intent=intent, seq=seq, attempt=body.attempt, writes=writes)

    def _ended(self, path: str, standing: Standing, *, value: Any, error_type: str | None = None) -> None:
        entry = self.entries[path]
        entry.standing, entry.value, entry.error_type = standing, value, error_type
        if entry.final and path not in self._abandoned:
            self._order.append((path, False))

    def _settled(self, body: ToolCallSettled) -> None:
        entry = self.entries[body.path]
        if body.outcome == "succeeded":
            self._ended(body.path, Standing.DONE, value=body.result)
        elif entry.standing is Standing.IN_DOUBT and entry.told:  # the code is told of the failure that was recorded
            self._ended(body.path, Standing.FAILED, value=entry.value, error_type=entry.error_type)
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

    def request(self, intent: Intent) -> Entry | Divergence | None:
        """The entry at the intent's path, None if there is none; a divergence if another effect is recorded there."""
        entry = self.entries.get(intent.path)
        if entry is None:
            if not self.exhausted:
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
            given = not abandoned or self.entries[path].final
            if given and waiting is not None and path not in waiting:
                return None
            self._released += 1
            if given:
                return self.entries[path]
        return None

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
