"""A run at each of its events: what it was then, and what each event changed.

Rules: pure; events come in order, from the run's first. A standing is JSON and holds no null outside of the run's own
state: what is not there is left out, so that merge patches (RFC 7396), which cannot say null, lose nothing of it. (A
null inside the state document is in `Frame.standing`, and is not in what patches give.) An event costs what it changes,
however much the run holds; a frame costs the rows of the tables that its event changed. Unknown types change nothing,
and content that is not there is the text of why: `<forgotten>`.

This file does not know the log, and decides nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from ledger_core.events import Missing
from ledger_core.events.effect import EffectAbandoned, ToolCallRequested
from ledger_core.events.govern import EffectRefused
from ledger_core.events.run import RunCancelled, RunCompleted, RunCreated, RunFailed
from ledger_core.events.step import (
    LeaseExpired,
    StatePatchCommitted,
    StatePatchProposed,
    StepCancelled,
    StepCompleted,
    StepCreated,
    StepFailed,
    StepReleased,
    StepRetryScheduled,
)
from ledger_core.events.wait import TimerFired
from ledger_core.log.record import Event
from ledger_core.run.patch import diff, merge
from ledger_core.run.state import RunState
from projections.usage import Usage, Use
from projections.wire import plain

Standing = dict[str, Any]
"""What a run is after an event; its keys are those of `Film.take`'s docstring."""
TABLES: Final = ("ledger", "waits", "approvals", "children")
"""Parts of a standing that are maps of rows; a row is replaced, never changed in place."""
MOST_PROPOSED: Final = 32
"""Patches that a standing lists, the youngest: a step may propose thousands. `proposed_count` says how many."""
_OPEN: Final = frozenset(("RESERVED", "RUNNING"))
_BREAKS: Final = (StepCreated, StepRetryScheduled, StepCompleted, StepFailed, StepCancelled)
_SWEEPS: Final = frozenset((*_BREAKS, StepReleased, LeaseExpired))
"""Events that may change rows that they do not name."""
_CLOSES: Final = (*_BREAKS, TimerFired, EffectAbandoned, EffectRefused, RunCompleted, RunFailed, RunCancelled)
"""Events behind which nobody may listen to an answer any more."""
_ENDS: Final = {StepCompleted: "completed", StepFailed: "failed", StepCancelled: "cancelled"}
_NS: Final = 1_000_000_000


@attrs.frozen(kw_only=True)
class Delta:
    """What one event changed."""

    seq: int
    """The run's own, from 1."""
    log_seq: int
    type: str
    patch: dict[str, Any]
    """The RFC 7396 merge patch from the standing before; the first is from `{}`."""
    state: Any
    """The committed state document, whole."""
    draft: Any
    """The state as the code sees it: with what it has proposed since."""
    use: Use
    """What the run has used so far."""


@attrs.frozen(kw_only=True)
class Step:
    """A step of a run, as it stands at an event."""

    number: int
    step: str
    agent: str
    status: str
    """Of a step that goes on, the run's."""
    attempt: int
    epoch: int
    created: int
    """The run's event that created it, from 1."""
    ended: int = 0
    """The run's event that ended it; 0 where none has."""


@attrs.frozen(kw_only=True)
class Frame:
    """A run after one of its events."""

    seq: int
    """The run's own, from 1."""
    log_seq: int
    standing: Standing
    draft: Any
    """The state as the code sees it: with what it has proposed and not committed yet."""


def delta(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The RFC 7396 merge patch between two standings; `run.patch.merge` applies it."""
    return diff(dict(before), dict(after))


def deltas(events: Iterable[Event]) -> Iterator[Delta]:
    """What each event of a run changed, at the cost of what it changed."""
    film = Film()
    for event in events:
        yield film.delta(event)


def frames(events: Iterable[Event]) -> Iterator[Frame]:
    """The run after each of its events. Frames share what did not change, and none changes later.

    Keep those that are needed: of a long run, `Reel` has any of them at hand.
    """
    film, standing = Film(), Standing()
    for event in events:
        changed = film.take(event)
        standing = {**standing, **{name: _copied(film.standing[name]) for name in changed if name in film.standing}}
        for name in [name for name in changed if name not in film.standing]:
            del standing[name]
        yield Frame(seq=event.stream_seq, log_seq=event.seq, standing=standing, draft=film.draft)


class Reel:
    """Any frame of a run, fast: its deltas, and a whole frame every so often."""

    def __init__(self, events: Iterable[Event], *, every: int = 512) -> None:
        self._every = every
        self._deltas: list[Delta] = []
        self._whole: list[Standing] = [{}]
        film = Film()
        for event in events:
            self._deltas.append(film.delta(event))
            if len(self._deltas) % every == 0:
                self._whole.append({name: _copied(value) for name, value in film.standing.items()})
        self._steps = film.steps

    def __len__(self) -> int:
        return len(self._deltas)

    def delta(self, seq: int) -> Delta:
        """What the run's event `seq` changed."""
        return self._deltas[seq - 1]

    def frame(self, seq: int) -> Frame:
        """The run after its event `seq`, from 1."""
        found, place = self._deltas[seq - 1], seq // self._every
        standing = {name: _copied(value) for name, value in self._whole[place].items()}
        for one in self._deltas[place * self._every : seq]:
            for name, change in one.patch.items():
                _apply(standing, name, change)
        standing["state"] = found.state
        return Frame(seq=seq, log_seq=found.log_seq, standing=standing, draft=found.draft)

    def steps(self, frame: Frame) -> list[Step]:
        """The run's steps, as they stood at a frame."""
        return steps_at(self._steps, frame.seq, frame.standing)

    def of_types(self, types: frozenset[str]) -> list[int]:
        """The run's events of some types, in order."""
        return [one.seq for one in self._deltas if one.type in types]


def steps_at(steps: Sequence[Step], seq: int, standing: Standing) -> list[Step]:
    """Steps as they stood at an event, after which the run was `standing`; what came later is not there."""
    now = {name: standing[name] for name in ("status", "attempt", "epoch")}
    begun = steps[: bisect_right(steps, seq, key=lambda one: one.created)]
    return [one if 0 < one.ended <= seq else attrs.evolve(one, ended=0, **now) for one in begun]


class Film:
    """The fold: one standing that events change in place."""

    def __init__(self) -> None:
        self.standing = _nothing()
        self.steps: list[Step] = []
        self.use = Use()
        self._usage = Usage()
        self.committed: Any = {}
        self.draft: Any = {}
        self._run = RunState()
        self._tool_calls = 0
        self._in_doubt: set[str] = set()
        self._open: set[str] = set()
        """Paths of the tool ledger whose status the end of a claim changes."""
        self._asked: set[str] = set()
        """Approvals without an answer."""
        self._late: dict[str, str] = {}
        """Approvals that nobody answered in time, or while the code asked: `expired`, `withdrawn`."""
        self._proposals: list[tuple[int, Any]] = []
        """Patches that are not committed, each with the number of the run's events as it was proposed."""

    def delta(self, event: Event) -> Delta:
        """Fold one more event; what it changed."""
        patch = self.take(event)
        return Delta(
            seq=event.stream_seq,
            log_seq=event.seq,
            type=event.type,
            patch=patch,
            state=self.committed,
            draft=self.draft,
            use=self.use,
        )

    def take(self, event: Event) -> dict[str, Any]:
        """Fold one more event; the merge patch from the standing before.

        A standing: `status`, `waiting`, `step`, `step_number`, `attempt`, `epoch`, `worker`, `version`, `state`,
        `proposed` (patches that are not committed, the youngest 32), `proposed_count`, `in_doubt` (outside writes),
        `cost` {model_calls, tool_calls, input_tokens, output_tokens, usd_nano}, and by path `ledger` {tool, status,
        attempt} and `waits` {kind, name, wake in unix seconds}, by id `approvals` (pending, approved, denied, expired,
        withdrawn), by run `children` (their status).
        """
        body, run = event.body, self._run
        kept = run.failed.get(body.reopened or "") if isinstance(body, StepRetryScheduled) else None
        changed = {} if run.events else _nothing()
        run.apply(event.seq, event.time_ns, event.type, body)
        self._tool_calls += isinstance(body, ToolCallRequested)
        if isinstance(body, (RunCreated, StatePatchCommitted, StatePatchProposed, StepRetryScheduled)):
            self._document(body, kept, changed)
        self._tables(body, changed)
        self._approvals(body, changed)
        self._fields(changed)
        self._stepped(body)
        self.use = self._usage.take(body, run, self._tool_calls)
        return changed

    def _stepped(self, body: Any) -> None:
        """Steps follow one another: only the last one can end."""
        run = self._run
        now: dict[str, Any] = {"attempt": run.attempt, "epoch": run.epoch}
        if isinstance(body, StepCreated):
            self.steps.append(
                Step(number=body.number, step=body.step, agent=body.agent, status=run.status, created=run.events, **now)
            )
        elif type(body) in _ENDS and self.steps and not self.steps[-1].ended:
            self.steps[-1] = attrs.evolve(self.steps[-1], status=_ENDS[type(body)], ended=run.events, **now)

    def _fields(self, changed: dict[str, Any]) -> None:
        """What is one value each."""
        run, standing = self._run, self.standing
        for name, value in (
            ("status", run.status),
            ("waiting", run.waiting),
            ("step", run.step or None),
            ("step_number", run.step_number),
            ("attempt", run.attempt),
            ("epoch", run.epoch),
            ("worker", run.worker),
            ("version", run.version),
            ("in_doubt", len(self._in_doubt)),
            ("proposed_count", len(self._proposals)),
        ):
            if standing.get(name) != value:
                changed[name] = value
                _apply(standing, name, value)
        cost = {
            "model_calls": run.model_calls,
            "tool_calls": self._tool_calls,
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
            "usd_nano": run.usd_nano,
        }
        before = standing["cost"]
        if cost != before:
            changed["cost"] = {name: value for name, value in cost.items() if before.get(name) != value}
            standing["cost"] = cost

    def _document(self, body: Any, kept: int | None, changed: dict[str, Any]) -> None:
        """The state document, and what is proposed for it."""
        if isinstance(body, RunCreated):
            before, self._proposals = self.committed, []
            self.committed = plain(body.initial_state)
            self._moved(before, None, changed)
        elif isinstance(body, StatePatchCommitted):
            before, self._proposals = self.committed, []
            self.committed = _merged(before, body.patch)
            self._moved(before, body.patch, changed)
        elif isinstance(body, StatePatchProposed):
            self._proposals.append((self._run.events, body.patch))
        elif body.fresh:
            self._proposals = []
        elif kept is not None:  # what the code did behind the failure is dropped with the journal's part
            self._proposals = [one for one in self._proposals if one[0] <= kept]
        if isinstance(body, StatePatchProposed):
            self.draft = _merged(self.draft, body.patch)
        else:
            self.draft = self.committed
            for _, patch in self._proposals:
                self.draft = _merged(self.draft, patch)
        shown = [plain(patch) for _, patch in self._proposals[-MOST_PROPOSED:]]
        if shown != self.standing["proposed"]:
            changed["proposed"] = self.standing["proposed"] = shown

    def _moved(self, before: Any, keys: Any, changed: dict[str, Any]) -> None:
        """The committed document is another; only `keys` of it can have moved, where it was and is a map."""
        after = self.standing["state"] = self.committed
        if isinstance(before, dict) and isinstance(after, dict) and isinstance(keys, dict):
            before, after = ({key: one[key] for key in keys if key in one} for one in (before, after))
        changed |= diff({"state": before}, {"state": after})

    def _tables(self, body: Any, changed: dict[str, Any]) -> None:
        """The rows that the event names, and those that it may change besides."""
        path, run = getattr(body, "path", None), getattr(body, "run", None)
        sweeps = type(body) in _SWEEPS
        for one in self._open | {path} if sweeps else (path,):
            if isinstance(one, str):
                self._entry(one, changed)
        for one in list(self.standing["waits"]) if sweeps else (path,):
            if isinstance(one, str):
                self._row("waits", one, _wait(self._run, one), changed)
        if isinstance(run, str) and (child := self._run.children.get(run)) is not None:
            self._row("children", run, child.status, changed)

    def _entry(self, path: str, changed: dict[str, Any]) -> None:
        entry = self._run.ledger.get(path)
        if entry is not None:
            doubtful = entry.status == "PENDING_VERIFICATION" and entry.writes
            (self._in_doubt.add if doubtful else self._in_doubt.discard)(path)
            (self._open.add if entry.status in _OPEN else self._open.discard)(path)
            row = {"tool": entry.tool, "status": entry.status, "attempt": entry.attempt}
            self._row("ledger", path, row, changed)

    def _approvals(self, body: Any, changed: dict[str, Any]) -> None:
        """The approval that the event names, and those that no answer can come to any more."""
        run, named = self._run, set[str]()
        if isinstance(getattr(body, "approval", None), str):
            named.add(body.approval)
        if self._asked and isinstance(body, _CLOSES):
            waited = {one.name for one in run.waits.values() if one.kind == "approval"}
            named |= (lost := self._asked if run.ended else self._asked - waited - run.pending.keys())
            timely = isinstance(body, TimerFired) or getattr(body, "error_type", "") == "ApprovalExpired"
            self._late |= dict.fromkeys(lost, "expired" if timely else "withdrawn")
        for name in named & run.approvals.keys():
            answered = run.approvals[name] is not None
            said = "approved" if name in run.granted else "denied"
            (self._asked.discard if answered or name in self._late else self._asked.add)(name)
            self._row("approvals", name, said if answered else self._late.get(name, "pending"), changed)

    def _row(self, table: str, key: str, row: Any, changed: dict[str, Any]) -> None:
        """Put a row in its place; None takes it away."""
        rows = self.standing[table]
        before = rows.get(key)
        if row == before:
            return
        patch = delta(before, row) if isinstance(before, dict) and isinstance(row, dict) else row
        changed.setdefault(table, {})[key] = patch
        if row is None:
            del rows[key]
        else:
            rows[key] = row


def _nothing() -> Standing:
    """A run before its first event: what the first difference begins with, in the order that people read it."""
    return {
        "status": "pending",
        "step_number": 0,
        "attempt": 1,
        "epoch": 0,
        "version": 0,
        "state": {},
        "proposed": [],
        "proposed_count": 0,
        "ledger": {},
        "in_doubt": 0,
        "waits": {},
        "approvals": {},
        "children": {},
        "cost": {},
    }


def _wait(run: RunState, path: str) -> dict[str, Any] | None:
    one = run.waits.get(path)
    if one is None:
        return None
    wake = {} if one.wake_ns is None else {"wake": one.wake_ns / _NS}
    return {"kind": one.kind, "name": one.name, **wake}


def _merged(document: Any, patch: Any) -> Any:
    """A document after a patch; one of the two that cannot be read stays unreadable."""
    if isinstance(patch, Missing):
        return plain(patch)
    return document if document in _GONE else merge(document, plain(patch))


_GONE: Final = ("<forgotten>", "<not read>")


def _copied(value: Any) -> Any:
    """A part of a standing that later events leave as it is: rows are not copied, their table is."""
    return dict(value) if isinstance(value, dict) else value


def _apply(standing: Standing, name: str, change: Any) -> None:
    """Change one part of a standing as a merge patch says; a table of one's own is changed in place."""
    if name in TABLES and isinstance(change, dict):
        rows = standing.setdefault(name, {})
        for key, row in change.items():
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = merge(rows.get(key), row)
    elif change is None:
        standing.pop(name, None)
    else:
        standing[name] = merge(standing.get(name), change)
