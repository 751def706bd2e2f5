"""What code did when it was answered from a record, as a course: to be held against the recorded one.

Rules: pure. An attempted effect has what the code asked for, and what it was answered with; of the record it has only
what the answer stood for (the policy's word, what it cost). This file does not execute anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ledger_core import codec
from ledger_core.errors import LedgerError
from ledger_core.governance.tool import ToolSpec
from ledger_core.run.entry import Entry, Intent
from ledger_core.run.journal import Standing
from ledger_core.run.patch import diff, merge
from ledger_core.runtime.effect import normalised
from ledger_core.runtime.execute import Ended
from projections.course import Course, Effect, artifact_request, cost_request, request_of
from projections.wire import plain
from replay.journals import Aligned, Asked

_SILENT = frozenset(("patch", "cost", "artifact"))


def course_of(
    recorded: Course, journal: Aligned, ended: Ended, initial: Any, tools: Mapping[str, ToolSpec], code: str | None
) -> Course:
    """The course of an execution against `journal`, whose step began with the state document `initial`."""
    known = {one.path: one for one in recorded.effects}
    effects = tuple(
        _effect(path, asked, known.get(asked.path or ""), tools, gone=path in journal.given_up)
        for path, asked in journal.asked.items()
    )
    return attrs.evolve(
        recorded, source="the code of today", code_digest=code, effects=effects, events={}, **_end(ended, initial)
    )


def _end(ended: Ended, initial: Any) -> dict[str, Any]:
    error = ended.error
    if error is None and ended.stopped is None:
        try:
            output = plain(codec.roundtrip(ended.output))
        except LedgerError as unstorable:
            error = unstorable
    nothing = {"output": None, "error_type": None, "message": None, "state": plain(initial)}
    if ended.stopped is not None:
        return {**nothing, "status": "waiting"}
    if error is not None:
        kind, message = normalised(error)
        return {**nothing, "status": "failed", "error_type": kind, "message": message}
    state = merge(initial, diff(initial, ended.state))
    return {**nothing, "status": "completed", "output": output, "state": plain(state)}


def _effect(path: str, asked: Asked, stood: Effect | None, tools: Mapping[str, ToolSpec], *, gone: bool) -> Effect:
    intent, entry = asked.intent, asked.entry
    spec = tools.get(intent.name) if intent.kind == "tool" else None
    settled = entry.final and not gone and asked.exact
    if stood is not None and stood.outcome == "given up" and not settled:
        gone = True
    return Effect(
        path=path,
        kind=intent.kind,
        name=intent.name,
        request=_REQUESTS.get(intent.kind, request_of)(intent),
        outcome="given up" if gone else _outcome(entry) if asked.exact else "assumed",
        value=plain(entry.value) if settled and intent.kind not in _SILENT else None,
        error_type=entry.error_type if settled else None,
        policy=stood.policy if stood is not None and asked.exact else None,
        version=spec.version if spec is not None else None if stood is None else stood.version,
        writes=spec.side_effect == "external_write" if spec is not None else bool(stood and stood.writes),
        cost=stood.cost if stood is not None and asked.exact else {},
        line=intent.line,
    )


def _outcome(entry: Entry) -> Any:
    found = {Standing.DONE: "done", Standing.FAILED: "failed", Standing.OPEN: "open", Standing.IN_DOUBT: "in doubt"}
    return found[entry.standing]


_REQUESTS: Mapping[str, Callable[[Intent], Any]] = {
    "cost": lambda intent: cost_request(intent.document["spent"], intent.document["metadata"]),
    "artifact": lambda intent: artifact_request(intent.document["manifest"], intent.document["data"]),
}
