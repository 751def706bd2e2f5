"""What code did when it was answered from a record, as a course: to be held against the recorded one.

Rules: pure. An attempted effect has what the code asked for, and what it was answered with; of the record it has only
what the answer stood for (the policy's word, what it cost). This file does not execute anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ledger_core import secret
from ledger_core.errors import LedgerError
from ledger_core.governance.tool import ToolSpec
from ledger_core.run.entry import Intent
from ledger_core.run.patch import diff, merge
from ledger_core.runtime.effect import normalised
from ledger_core.runtime.execute import Ended
from projections.course import Course, Effect, artifact_request, cost_request, request_of
from projections.wire import plain
from replay.journals import Aligned, Asked


def effects_of(recorded: Course, journal: Aligned, tools: Mapping[str, ToolSpec]) -> list[Effect]:
    """What code asked for that was executed against `journal`, in that order."""
    known = {one.path: one for one in recorded.effects}
    live = {} if journal.live is None else journal.live.effects
    asked = [
        live.get(path) or _effect(path, one, known.get(one.path or ""), tools, gone=path in journal.given_up)
        for path, one in journal.asked.items()
        if one.path is not None or path not in journal.given_up  # what is given up before it began is on no record
    ]
    return asked + [known[path] for path in journal.left_out() if path in known]


def end_of(ended: Ended, initial: Any) -> dict[str, Any]:
    """How code ended whose step began with the state document `initial`, as a course says it."""
    error = ended.error
    if error is None and ended.stopped is None:
        try:
            output = plain(secret.plain(ended.output))
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
    if stood is not None and stood.outcome == "given up" and not entry.final:
        gone = True
    if stood is not None and asked.exact:
        return _same(path, stood, intent, spec, gone=gone)
    return Effect(
        path=path,
        kind=intent.kind,
        name=intent.name,
        request=_REQUESTS.get(intent.kind, request_of)(intent),
        outcome="given up" if gone else "assumed",
        version=None if spec is None else spec.version,
        writes=spec is not None and spec.side_effect == "external_write",
        line=intent.line,
    )


def _same(path: str, stood: Effect, intent: Intent, spec: ToolSpec | None, *, gone: bool) -> Effect:
    """The recorded effect, as the code asks for it now; what never came to a call has no version."""
    now = attrs.evolve(stood, path=path, line=intent.line, seq=None, log_seq=None, hash=None)
    if spec is not None and stood.version is not None:
        now = attrs.evolve(now, version=spec.version)
    if gone == (stood.outcome == "given up") or (gone and stood.outcome in ("done", "failed")):
        return now  # what came in the moment in which the code stopped waiting is on record as having come
    return attrs.evolve(now, outcome="given up" if gone else "assumed", value=None, error_type=None)


_REQUESTS: Mapping[str, Callable[[Intent], Any]] = {
    "tool": lambda intent: {"arguments": request_of(intent)["arguments"]},
    "cost": lambda intent: cost_request(intent.document["spent"], intent.document["metadata"]),
    "artifact": lambda intent: artifact_request(intent.document["manifest"], intent.document["data"]),
}
"""What is on record of a request, where it is not all that is asked for."""
