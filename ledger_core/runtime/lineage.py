"""Lines of forks: what a run shares with its ancestors, read where it stands.

Rules: nothing is copied. A fork names the event that it was forked behind by its seq and hash; what that event and
those before it say is the beginning of the fork's own history, and is looked up in the ancestor's stream, and its
ancestor's. Requests of a whole line are tagged under the key of its first run, so that they can be compared. This file
does not know what an effect is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from ledger_core.errors import Damaged, NotFound
from ledger_core.events import Body
from ledger_core.events.run import RunCreated
from ledger_core.events.step import StepCreated
from ledger_core.events.wait import (
    ApprovalDecided,
    ApprovalRequested,
    ChildRunEnded,
    ChildRunRequested,
    SignalReceived,
    WaitAnswered,
)
from ledger_core.log.log import Event, Log
from ledger_core.run.journal import Journal
from ledger_core.run.state import RunState
from ledger_core.runtime.folds import stream_of

Shared = tuple[Iterable[Event], Iterable[Event]]
"""Events that a fork shares with its ancestors, and what its ancestor did later."""
Share = Callable[[RunCreated], Shared]


@attrs.define
class Inputs:
    """What came to a line of runs up to an event, and was not taken."""

    signals: dict[int, SignalReceived] = attrs.field(factory=dict)
    children: dict[str, str | None] = attrs.field(factory=dict)
    """Children that were not joined."""
    asked: set[str] = attrs.field(factory=set)
    """Questions that people had not answered, or whose answer was not read."""
    decided: dict[str, ApprovalDecided] = attrs.field(factory=dict)
    _answers: dict[int, Body] = attrs.field(factory=dict)

    def seen(self, event: Event) -> None:
        """Take one event of the shared history."""
        body = event.body
        if isinstance(body, SignalReceived):
            self.signals[event.seq] = body
            self._answers[event.seq] = body
        elif isinstance(body, ChildRunRequested):
            self.children[body.run] = None
        elif isinstance(body, ChildRunEnded):
            self._answers[event.seq] = body
        elif isinstance(body, ApprovalRequested) and body.pending:
            self.asked.add(body.approval)
        elif isinstance(body, ApprovalDecided):
            self.decided[body.approval] = body
            self._answers[event.seq] = body
        elif isinstance(body, WaitAnswered):
            self._taken(body.answer)

    def _taken(self, answer: int) -> None:
        body = self._answers.pop(answer, None)
        self.signals.pop(answer, None)
        if isinstance(body, ChildRunEnded):
            self.children.pop(body.run, None)
        elif isinstance(body, ApprovalDecided):
            self.asked.discard(body.approval)


def shared(log: Log, created: RunCreated) -> Shared:
    """What a fork shares with its ancestors. Raises `Damaged` if the event that it names is another one."""
    assert created.ancestor is not None
    assert created.ancestor_event is not None
    check(log, created)
    before = history(log, created.ancestor, created.ancestor_event)
    return before, log.stream(stream_of(created.ancestor), created.ancestor_event)


def check(log: Log, created: RunCreated) -> None:
    """That the event that a fork was made behind is the one that it names. Raises `Damaged`."""
    try:
        event = log.event(created.ancestor_seq or 0, contents=False)
        place = (stream_of(str(created.ancestor)), created.ancestor_event, created.ancestor_hash)
        same = (event.stream, event.stream_seq, bytes(event.hash)) == place
    except NotFound:
        same = False
    if not same:
        raise Damaged(
            f"Run {created.run} was forked from {created.ancestor} behind its event {created.ancestor_event}, and the "
            f"event at seq {created.ancestor_seq} is another one.",
            seq=created.ancestor_seq,
        )


def history(log: Log, run_id: str, last: int) -> Iterator[Event]:
    """What was before the end of a run's event `last`, as its code saw it: its own events, and those it shares.

    A fork's first step is its ancestor's, which goes on; that it was forked comes behind what it shares. Raises
    `Damaged`.
    """
    forked = False
    for event in log.stream(stream_of(run_id)):
        body = event.body
        if event.stream_seq > last:
            return
        if isinstance(body, RunCreated) and body.ancestor is not None:
            forked = True
            yield from shared(log, body)[0]
            yield event
        elif forked and isinstance(body, StepCreated):
            forked = False
        else:
            yield event


def inherit(
    journal: Journal, created: RunCreated, share: Share, seen: Callable[[Event], None] = lambda _: None
) -> list[str]:
    """Take over the journal of a fork's ancestors; gives the outside writes of theirs that nobody knows of.

    `seen` is told of every event before the journal is. Raises `Damaged`.
    """
    before, later = share(created)
    for event in before:
        seen(event)
        take(journal, event, share)
    return _forked(journal, created, later)


def take(journal: Journal, event: Event, share: Share) -> None:
    """Take one event of a history into its journal."""
    body = event.body
    if isinstance(body, RunCreated) and body.ancestor is not None:
        _forked(journal, body, share(body)[1])
    else:
        journal.record(event.seq, body)


def _forked(journal: Journal, created: RunCreated, later: Iterable[Event]) -> list[str]:
    overrides = created.overrides if isinstance(created.overrides, dict) else {}
    patch = created.set_state if isinstance(created.set_state, dict) else None
    return journal.inherit(((one.seq, one.body) for one in later), overrides, patch)


def forgotten(log: Log, state: RunState) -> str | None:
    """The first run of a run's line, from itself backwards, whose words were forgotten."""
    run: str | None = state.run
    while run is not None:
        if log.tagger(stream_of(run)) is None:
            return run
        created = log.nth(stream_of(run), 1, contents=False).body
        run = created.ancestor if isinstance(created, RunCreated) else None
    return None


def tagger(log: Log, state: RunState) -> Callable[[bytes], bytes] | None:
    """What makes the tags of a run's requests: the key of the first run of its line.

    None where the words of a run of the line were forgotten: what the run shares with it cannot be answered.
    """
    if state.ancestor is not None and forgotten(log, state) is not None:
        return None
    return log.tagger(stream_of(state.lineage or state.run))
