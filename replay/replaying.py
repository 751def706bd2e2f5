"""Replay: the agent's code runs again, and the record answers for the world.

Rules: nothing outside is touched, nothing is spent, nothing is appended. The same machine as recovery, without a pen:
whatever would have to be live is a divergence. What comes of it is a value. This file does not print.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import attrs

from ledger_core import codec
from ledger_core.errors import LedgerError, Refused
from ledger_core.events import Missing
from ledger_core.run import divergence
from ledger_core.run.divergence import Divergence, differences
from ledger_core.run.journal import Journal
from ledger_core.run.patch import diff, merge
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.effects import normalised
from ledger_core.runtime.execute import Ended, in_own_thread
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.lineage import shared, tagger
from ledger_core.runtime.recorded import RunRecord
from ledger_core.runtime.runtime import Runtime
from projections.course import of_events
from replay.attempt import course_of
from replay.comparing import STOPS, Comparison, compare
from replay.journals import Aligned, Version, Watched

Mode = Literal["strict", "collect"]


@attrs.frozen(kw_only=True)
class Replay:
    """What a replay came to."""

    run_id: str
    effects: int
    """Effects answered from the record."""
    complete: bool
    """Whether the code came to its recorded end; False where the record stops before it."""
    same_code: bool
    mode: Mode = "strict"
    divergences: tuple[Divergence, ...] = ()
    """Where the code does something else than was recorded, in order; the first alone in strict mode."""

    @property
    def divergence(self) -> Divergence | None:
        """The first divergence."""
        return self.divergences[0] if self.divergences else None

    @property
    def ok(self) -> bool:
        return not self.divergences

    def as_json(self) -> dict[str, Any]:
        """The value as `--json` prints it."""
        found = self.divergence
        return {
            "run_id": self.run_id,
            "ok": self.ok,
            "complete": self.complete,
            "effects": self.effects,
            "same_code": self.same_code,
            "mode": self.mode,
            "divergence": None if found is None else found.as_json(),
            "divergences": [one.as_json() for one in self.divergences],
        }


def replay(runtime: Runtime, run_id: str, agent: AgentSpec, *, mode: Mode = "strict") -> Replay:
    """Replay a run against an agent's code. Raises `NotFound`, and `Refused` for a forgotten run.

    Where the code does something else, it is executed once more, answered as well as the record can: what it does
    behind the first difference says what that was, an added call, a dropped one, or a moved one.
    """
    record = RunRecord.read(runtime.log, run_id)
    journal = Watched(record.journal, _version(agent))
    found = _first(record, _executed(runtime, record, journal, agent))
    complete = record.state.ended
    if found is not None and not found.recorded and found.kind is divergence.EXTRA and _broken_off(record):
        found, complete = None, False  # the code wants to go on where the record stops
    compared = None if found is None else _compared(runtime, run_id, agent)
    several = () if found is None or compared is None else compared.divergences
    several = tuple(one for one in several if one.recorded != STOPS) or (() if found is None else (found,))
    return Replay(
        run_id=run_id,
        effects=len(record.journal.entries),
        complete=complete and found is None,
        same_code=agent.code_digest == record.state.code_digest,
        mode=mode,
        divergences=tuple(several[:1] if mode == "strict" else several),
    )


def _executed(runtime: Runtime, record: RunRecord, journal: Journal, agent: AgentSpec) -> Ended:
    """Execute the code against a journal of the record's; raises `Refused` where its words were forgotten."""
    tag = tagger(runtime.log, record.state)
    if tag is None or isinstance(record.initial, Missing):
        raise Refused(
            f"What run {record.state.run} said was forgotten: its code cannot be replayed.",
            hint="`verify` still can.",
        )
    execution = runtime.execution(
        agent,
        record.state,
        journal,
        record.initial,
        tag,
        None,
        record.session,
        variables=record.variables or {},
        set_state=record.set_state,
    )
    return in_own_thread(lambda: asyncio.run(execution.arun()) if agent.is_async else execution.run())


def _first(record: RunRecord, ended: Ended) -> Divergence | None:
    """The first place where the code did something else; raises what is no divergence."""
    found = ended.stopped if ended.stopped is not None else _end(record, ended)
    if isinstance(found, LedgerError):
        raise found
    assert found is None or isinstance(found, Divergence)
    return found


def _compared(runtime: Runtime, run_id: str, agent: AgentSpec) -> Comparison | None:
    """What the code does when it is answered whatever it asks for, held against the record."""
    record = RunRecord.read(runtime.log, run_id)
    journal = Aligned(record.journal, record.state.created_ns)
    ended = _executed(runtime, record, journal, agent)
    if isinstance(ended.stopped, LedgerError):
        return None
    recorded = of_events(runtime.log.stream(stream_of(run_id)), run_id, lambda made: shared(runtime.log, made))
    number = record.state.step_number
    mine = tuple(one for one in recorded.effects if _step(one.path) == (number if number > 1 else 0))
    recorded = attrs.evolve(recorded, effects=mine)
    code = None if agent.code_digest is None else agent.code_digest.hex()
    return compare(recorded, course_of(recorded, journal, ended, record.initial, agent.tools, code))


def _step(path: str) -> int:
    """Number of the step that a path is of, 0 for the first."""
    return int(path[1:].partition("/")[0]) if path.startswith("#") else 0


def _version(agent: AgentSpec) -> Version:
    return lambda name: agent.tools[name].version if name in agent.tools else None


def refold(runtime: Runtime, run_id: str) -> Replay:
    """Read a run that attached code drove: there is nothing to execute; its record must fold to its own end."""
    record = RunRecord.read(runtime.log, run_id)
    open_ = [entry for entry in record.journal.entries.values() if not entry.final and not entry.no_effect]
    return Replay(
        run_id=run_id,
        effects=len(record.journal.entries) - len(open_),
        complete=record.state.ended,
        same_code=True,
    )


def _broken_off(record: RunRecord) -> bool:
    """Whether the record stops somewhere in the code: the run goes on, was cancelled, or its time was over."""
    state = record.state
    return not state.ended or state.status == "cancelled" or state.category == "timeout"


def _end(record: RunRecord, ended: Ended) -> Divergence | None:
    """Compare how the code ended with how it is recorded to have ended."""
    if record.state.status == "failed" and not _broken_off(record):
        was = f"{record.error_type}: {record.message}"
    elif record.state.status == "completed":
        was = "a result"
    else:
        return None
    error = ended.error
    if error is None:
        try:
            codec.encode(ended.output)
        except LedgerError as unstorable:
            error = unstorable
    now = "a result" if error is None else "{}: {}".format(*normalised(error))
    if was != now:
        return Divergence(kind=divergence.OTHER_OUTPUT, path="end", recorded=was, attempted=now)
    if error is not None:
        return None
    output, state = codec.roundtrip(ended.output), merge(record.initial, diff(record.initial, ended.state))
    for kind, before, after in (
        (divergence.OTHER_OUTPUT, record.output, output),
        (divergence.OTHER_STATE, record.document, state),
    ):
        if codec.canonical(before) != codec.canonical(after):
            return Divergence(
                kind=kind,
                path="end",
                recorded="its output" if kind is divergence.OTHER_OUTPUT else "its state",
                attempted="another",
                differences=tuple(differences(before, after)),
            )
    return None
