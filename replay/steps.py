"""A run's steps, each with its record and its code: executed again, and held against how it ended.

Rules: nothing is live, whatever the journal: an execution has no pen. A step's code is the one that is given where it
is of that agent, else the one that the run recorded, or that the step before names; where it cannot be found, the step
is not executed, and the replay says so. This file does not compare courses, and does not know modes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import attrs

from ledger_core import codec, secret
from ledger_core.errors import LedgerError, NotFound, Refused
from ledger_core.events import Missing
from ledger_core.run import divergence
from ledger_core.run.divergence import Divergence, differences
from ledger_core.run.journal import Journal
from ledger_core.run.patch import diff, merge
from ledger_core.runtime import target as targets
from ledger_core.runtime.agent import AgentSpec, agent_of
from ledger_core.runtime.context import ContinueWith
from ledger_core.runtime.effects import normalised
from ledger_core.runtime.execute import Ended, in_own_thread
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.lineage import shared, tagger
from ledger_core.runtime.recorded import RunRecord
from ledger_core.runtime.runtime import Runtime


@attrs.frozen(kw_only=True)
class Step:
    """One step of a run, as it was when the next began, or is now."""

    record: RunRecord
    spec: AgentSpec | None
    """Its code; None where it cannot be found."""
    following: str | None
    """Agent of the next step; None for the last one."""

    @property
    def number(self) -> int:
        return self.record.state.step_number

    @property
    def end(self) -> str:
        """The path at which its end is told."""
        return "end" if self.following is None else f"#{self.number}/end"

    @property
    def broken_off(self) -> bool:
        """Whether the record stops somewhere in the code: the run goes on, was cancelled, or its time was over."""
        state = self.record.state
        if self.following is not None:
            return False
        return not state.ended or state.status == "cancelled" or state.category == "timeout"


def steps_of(runtime: Runtime, run_id: str, agent: AgentSpec) -> list[Step]:
    """A run's steps; `agent` is the code of the last one, and of all that are of its agent. Raises `NotFound`."""
    log = runtime.log
    records = list(RunRecord.steps(log.stream(stream_of(run_id)), lambda made: shared(log, made)))
    if not records:
        raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
    last = records[-1].state.step_agent
    return [
        Step(
            record=record,
            spec=agent if record.state.step_agent == last else _known(runtime, record),
            following=after.state.step_agent if after is not None else None,
        )
        for record, after in zip(records, [*records[1:], None], strict=True)
    ]


def _known(runtime: Runtime, record: RunRecord) -> AgentSpec | None:
    """The code of a step of another agent: known here, or found where the run says that it is."""
    if (spec := runtime.agents.get(record.state.step_agent)) is not None:
        return spec
    origin = record.origin if isinstance(record.origin, str) else None
    found = targets.recorded(record.state.entry_point, origin)
    try:
        return None if found is None else targets.load(found)
    except LedgerError:
        return None


def execute(runtime: Runtime, record: RunRecord, journal: Journal, spec: AgentSpec) -> Ended:
    """Execute a step's code against a journal; raises `Refused` where the run's words were forgotten."""
    tag = tagger(runtime.log, record.state)
    if tag is None or isinstance(record.initial, Missing):
        raise Refused(
            f"What run {record.state.run} said was forgotten: its code cannot be replayed.",
            hint="`verify` still can.",
        )
    execution = runtime.execution(
        spec,
        record.state,
        journal,
        record.initial,
        tag,
        None,
        record.session,
        variables=record.variables or {},
    )
    return in_own_thread(lambda: asyncio.run(execution.arun()) if spec.is_async else execution.run())


class Executed(NamedTuple):
    """A step whose code was executed again."""

    step: Step
    spec: AgentSpec
    journal: Any
    """The one that it was executed against, as it was made for it."""
    ended: Ended


def executed(
    runtime: Runtime, steps: list[Step], journal_of: Callable[[Step, AgentSpec], Journal]
) -> Iterator[Executed]:
    """Execute the steps whose code is known, one after another; the code of a next one may come from the one before."""
    goes_on: AgentSpec | str | None = None
    for step in steps:
        spec = step.spec or (goes_on if isinstance(goes_on, AgentSpec) else None)
        if spec is None:
            goes_on = None
            continue
        journal = journal_of(step, spec)
        ended = execute(runtime, step.record, journal, spec)
        goes_on = following(ended, spec)
        yield Executed(step, spec, journal, ended)


def first_difference(done: Executed) -> Divergence | None:
    """The first place where the code did something else; raises what is no divergence."""
    found = done.ended.stopped if done.ended.stopped is not None else next(end_differences(done), None)
    if isinstance(found, LedgerError):
        raise found
    assert found is None or isinstance(found, Divergence)
    return found


def end_differences(done: Executed) -> Iterator[Divergence]:
    """In what the end of a step's code differs from the recorded one."""
    step, ended = done.step, done.ended
    was = _recorded_end(step)
    if was is None or ended.stopped is not None:
        return
    now = _end(ended, done.spec)
    if was != now:
        yield Divergence(kind=divergence.OTHER_OUTPUT, path=step.end, recorded=was, attempted=now)
        return
    if step.record.state.status == "failed" and step.following is None:
        return  # of the same error
    record = step.record
    output = None if step.following is not None else secret.plain(ended.output)
    state = merge(record.initial, diff(record.initial, ended.state))
    for kind, before, after in (
        (divergence.OTHER_OUTPUT, None if step.following is not None else record.output, output),
        (divergence.OTHER_STATE, record.document, state),
    ):
        if codec.canonical(before) != codec.canonical(after):
            yield Divergence(
                kind=kind,
                path=step.end,
                recorded="its output" if kind is divergence.OTHER_OUTPUT else "its state",
                attempted="another",
                differences=tuple(differences(before, after)),
            )


def following(ended: Ended, spec: AgentSpec) -> AgentSpec | str | None:
    """The agent that the code wants its run to go on with, or its name; None where it does not."""
    if ended.error is not None or not isinstance(ended.output, ContinueWith):
        return None
    asked = ended.output.agent
    return spec if asked is None else asked if isinstance(asked, str) else agent_of(asked)


def _recorded_end(step: Step) -> str | None:
    """How a step ended; None where its record stops before."""
    record = step.record
    if step.following is not None:
        return f"a next step of agent {step.following}"
    if record.state.status == "failed" and not step.broken_off:
        return f"{record.error_type}: {record.message}"
    return "a result" if record.state.status == "completed" else None


def _end(ended: Ended, spec: AgentSpec) -> str:
    error = ended.error
    if (goes_on := following(ended, spec)) is not None:
        return f"a next step of agent {goes_on if isinstance(goes_on, str) else goes_on.name}"
    if error is None:
        try:
            secret.plain(ended.output)
        except LedgerError as unstorable:
            error = unstorable
    return "a result" if error is None else "{}: {}".format(*normalised(error))
