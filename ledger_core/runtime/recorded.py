"""What the log says of a run, in the two forms that callers want: its record, and its result.

Rules: read only. What a fork shares with its ancestor is read where it stands, in that run's stream (`lineage`). A
record holds the run's journal and documents, contents included; a result is what came of running it. This file does
not run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from ledger_core.errors import NotFound, RunFailed
from ledger_core.events import Missing
from ledger_core.events.run import DivergenceDetected, RunCancelRequested, RunCreated
from ledger_core.events.step import (
    AgentResultReturned,
    StatePatchCommitted,
    StatePatchProposed,
    StepBlocked,
    StepCreated,
    StepFailed,
    StepRetryScheduled,
)
from ledger_core.log.log import Event, Log
from ledger_core.run.journal import Journal
from ledger_core.run.patch import merge
from ledger_core.run.state import RunState
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.lineage import Inputs, Share, inherit, shared


@attrs.frozen(kw_only=True)
class Result:
    """What came of running a run: at its end, or where it waits."""

    run_id: str
    status: str
    output: Any = None
    state: dict[str, Any] = attrs.field(factory=dict)
    error_type: str | None = None
    message: str | None = None
    waiting: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the run completed."""
        return self.status == "completed"

    def raise_for_status(self) -> Result:
        """This result, if the run completed; raises `RunFailed` otherwise."""
        if self.ok:
            return self
        why = f"{self.error_type}: {self.message}" if self.error_type else self.waiting or self.status
        raise RunFailed(f"Run {self.run_id} has {self.status}: {why}", run=self.run_id, status=self.status)


@attrs.frozen(kw_only=True)
class RunRecord:
    """A run's events with their contents: what recovery and replay start from."""

    state: RunState
    journal: Journal
    document: Any
    """The state document at the head."""
    initial: Any
    """The state document that its step began with."""
    session: str | None
    variables: Any = None
    origin: Any = None
    proposed: list[Any] = attrs.field(factory=list)
    """Patches that were proposed behind the last commit of the state."""
    reason: Any = None
    """What blocks it, or why it is to be cancelled."""
    output: Any = None
    error_type: str | None = None
    message: Any = None
    divergence: Any = None

    unsettled: tuple[str, ...] = ()
    """Outside writes that were under way in an ancestor when this run was forked from it, and still are."""
    inputs: Inputs | None = None
    """Of a fork: what had come to its ancestors, and was not taken."""
    created: RunCreated | None = None
    """Of a fork: its first event."""

    @classmethod
    def read(cls, log: Log, run_id: str) -> RunRecord:
        """Read a run's events, those that it shares with an ancestor included; raises `NotFound`, `Damaged`."""
        reading = _Reading(lambda created: shared(log, created))
        for event in log.stream(stream_of(run_id)):
            reading.take(event)
        if not reading.state.events:
            raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
        return reading.record()

    @classmethod
    def steps(cls, events: Iterable[Event], share: Share) -> Iterator[RunRecord]:
        """The records of a run's steps, one after another, each as it was when the next began, or at the end."""
        reading = _Reading(share)
        for event in events:
            if isinstance(event.body, StepCreated) and reading.begun:
                yield reading.record()
                reading.next_step()
            reading.take(event)
        if reading.state.events:
            yield reading.record()


class _Reading:
    """A run's events on their way to a record."""

    def __init__(self, share: Share) -> None:
        self.state, self.journal = RunState(), Journal()
        self.begun = False
        """Whether its first step was created."""
        self._share = share
        self._found: dict[str, Any] = {"initial": {}, "document": {}, "session": None, "proposed": []}

    def next_step(self) -> None:
        """Go on in a journal and a state of the next step's own: those before are somebody's record."""
        self.state, self.journal = self.state.clone(), Journal()
        self._found["proposed"] = []

    def record(self) -> RunRecord:
        return RunRecord(state=self.state, journal=self.journal, **self._found)

    def take(self, event: Event) -> None:
        body, found = event.body, self._found
        self.state.apply(event.seq, event.time_ns, event.type, body)
        if not isinstance(body, StepCreated) or self.begun:  # a fork's first step goes on in its ancestor's journal
            self.journal.record(event.seq, body)
        if isinstance(body, RunCreated):
            found |= {"initial": body.initial_state, "document": body.initial_state}
            found |= {"session": body.session, "origin": body.origin, "variables": body.variables}
            if body.ancestor is not None:
                inputs = Inputs()
                left = inherit(self.journal, body, self._share, inputs.seen)
                found |= {"unsettled": tuple(left), "inputs": inputs, "created": body}
        elif isinstance(body, StepCreated):
            if self.begun:
                found["initial"] = found["document"]
            self.begun = True
        elif isinstance(body, (RunCancelRequested, StepBlocked)):
            found["reason"] = body.reason
        elif isinstance(body, StatePatchCommitted):
            gone = isinstance(body.patch, Missing) or isinstance(found["document"], Missing)
            found["document"] = body.patch if gone else merge(found["document"], body.patch)
            found["proposed"] = []
        elif isinstance(body, StatePatchProposed):
            found["proposed"].append(body.patch)
        elif isinstance(body, AgentResultReturned):
            found["output"] = body.output
        elif isinstance(body, (StepFailed, StepRetryScheduled)):
            found |= {"error_type": body.error_type, "message": body.message}
        elif isinstance(body, DivergenceDetected):
            found["divergence"] = body.difference


__all__ = ["Result", "RunRecord", "stream_of"]
