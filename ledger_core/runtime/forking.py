"""Forks: a new run that shares another's history up to an event, and goes on from there by itself.

Rules: nothing of the ancestor is copied, and nothing of it is changed. The fork names the event that it was made behind
by seq and hash, and what it shares is read where it stands (`lineage`). Making one costs as much for a long run as for
a short one: a few events are looked up, and the run is not folded; only who overrides results has them looked up too.
What the ancestor did outside is not done again; what the fork does outside is refused, unless it is made live. This
file does not run the fork.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ledger_core import secret
from ledger_core.errors import BadInput, NotFound, Refused
from ledger_core.events import Missing
from ledger_core.events.run import RunCreated
from ledger_core.events.session import SessionRunAdded
from ledger_core.events.step import StatePatchCommitted, StepCreated
from ledger_core.ids import check_id, new_id
from ledger_core.log.batch import View
from ledger_core.log.log import Draft, Event, Later, Log
from ledger_core.run.journal import Journal
from ledger_core.run.patch import merge
from ledger_core.run.state import RunState
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.claims import Desk
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.lineage import Shared, forgotten, history, shared, take

_RESULTS: Final = frozenset(("tool", "model", "capture", "signal", "approval", "answer", "join"))
"""Kinds of effects that come to a result which somebody may want to be another one."""


@attrs.frozen(kw_only=True)
class Fork:
    """What somebody asks for: a run forked from another, behind one of its own events."""

    run_id: str
    at: int | None = None
    """Number of the event in its run, from 1; if left out, the last one, or the last result that is overridden."""
    agent: AgentSpec | None = None
    """Other code to go on with."""
    set_state: Mapping[str, Any] | None = None
    """A merge patch of the state (RFC 7396), in force behind the shared part."""
    overrides: Mapping[str, Any] = attrs.field(factory=dict)
    """Results in the place of recorded ones, by the effect's path."""
    live: bool = False
    """Whether it may write outside."""
    new_id: str | None = None


def make(log: Log, desk: Desk, asked: Fork) -> str:
    """Append a fork's first events, three at most; gives its id. Raises `NotFound`, `BadInput`, `Refused`, `Damaged`.

    An id that is taken is refused, so that a fork is never mistaken for another one.
    """
    created, step = _Reading(log, asked).first()

    def decision(view: View) -> Iterator[Draft | Later]:
        runs = desk.runs(view)
        if runs.state(created.run) is not None:
            raise Refused(f"There is a run {created.run} already.", hint="Give the fork another id.")
        yield from runs.drafts(RunState(), [created, step])
        if created.session is not None:
            body = SessionRunAdded(run=created.run, agent=created.agent)
            yield Draft(stream=f"session/{created.session}", body=body)

    log.decide(decision)
    return created.run


class _Reading:
    """What of the ancestor a fork is made of."""

    def __init__(self, log: Log, asked: Fork) -> None:
        self._log = log
        self._asked = asked
        self._stream = stream_of(check_id(asked.run_id, "run"))
        head = log.stream_head(self._stream)
        if head is None:
            raise NotFound(f"There is no run {asked.run_id!r}.", hint="`agentledger runs` lists them.")
        self._last = int(head.stream_seq)
        self.at = asked.at if asked.at is not None else self._behind_overrides() if asked.overrides else self._last
        if type(self.at) is not int or not 1 <= self.at <= self._last:
            raise BadInput(
                f"Run {asked.run_id} has no event {self.at!r:.40}: it has 1 to {self._last}.",
                hint=f"agentledger debug {asked.run_id} lists them.",
            )

    def first(self) -> tuple[RunCreated, StepCreated]:
        """The fork's first events."""
        asked, log = self._asked, self._log
        begun = self._event(1).body
        assert isinstance(begun, RunCreated)
        if begun.driver != "code":
            raise Refused(
                f"Run {asked.run_id} was driven by attached code, which cannot be executed again.",
                hint="Start another run, and give it what this one came to.",
            )
        gone = forgotten(log, RunState(run=asked.run_id))
        if gone is not None or isinstance(begun.initial_state, Missing):
            raise Refused(f"What run {gone or asked.run_id} said was forgotten: {asked.run_id} cannot be forked.")
        behind = self._event(self.at)
        going_on, initial = self._step(begun, behind)
        first_step = going_on.number == 1
        patch = None if asked.set_state is None else secret.plain(dict(asked.set_state))
        created = RunCreated(
            run=new_id("run", log.clock.random(10)) if asked.new_id is None else check_id(asked.new_id, "run"),
            **(_code_of(begun) if asked.agent is None or not first_step else _code(asked.agent)),
            session=begun.session,
            seed=log.clock.random(32),
            priority=begun.priority,
            capabilities=begun.capabilities,
            retry=begun.retry,
            timeout_ns=begun.timeout_ns,
            root=begun.root or begun.run,
            ancestor=begun.run,
            ancestor_event=self.at,
            ancestor_seq=behind.seq,
            ancestor_hash=bytes(behind.hash),
            lineage=begun.lineage or begun.run,
            lineage_seed=begun.lineage_seed or begun.seed,
            writes_blocked=None if asked.live else True,
            variables=begun.variables,
            initial_state=initial,
            set_state=patch,
            overrides=self._overrides() or None,
        )
        code = going_on if asked.agent is None else asked.agent
        step = StepCreated(
            step=new_id("step", log.clock.random(10)),
            number=going_on.number,
            agent=going_on.agent if asked.agent is None else asked.agent.name,
            entry_point=None if first_step else code.entry_point,
            code_digest=None if first_step else code.code_digest,
        )
        return created, step

    def _step(self, begun: RunCreated, behind: Event) -> tuple[StepCreated, Any]:
        """The step that the fork goes on in, and its initial state."""
        first = self._first_of(behind) or self._event(min(2, self._last))
        if not isinstance(first.body, StepCreated):
            return StepCreated(step="", number=1, agent=begun.agent), begun.initial_state
        ends: list[int] = []
        following: Event | None = first
        while following is not None and following.stream_seq > 2:
            ends.append(following.stream_seq - 1)
            following = self._first_of(self._event(ends[-1]))
        document = begun.initial_state
        for end in reversed(ends):
            document = self._committed(document, end)
        return first.body, document

    def _first_of(self, event: Event) -> Event | None:
        """The event that created the step that an event is of; found by halves, for steps follow one another."""
        if event.step is None:
            return None
        second = self._event(min(2, self._last))
        if second.step == event.step:
            return second
        low, high = 3, int(event.stream_seq)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._event(middle).step == event.step else (middle + 1, high)
        return self._event(low)

    def _committed(self, document: Any, end: int) -> Any:
        """The state document behind a step that ended with the run's event `end`."""
        last = self._event(end)
        for number in range(end, max(0, end - 3), -1):
            event = self._event(number)
            if event.step == last.step and isinstance(event.body, StatePatchCommitted):
                if isinstance(event.body.patch, Missing):
                    raise Refused(f"What run {self._asked.run_id} said was forgotten: it cannot be forked.")
                return merge(document, event.body.patch)
        return document

    def _overrides(self) -> dict[str, Any]:
        """Results that take the place of shared ones; raises `BadInput` for effects that are not shared."""
        journal = Journal()
        for event in history(self._log, self._asked.run_id, self.at) if self._asked.overrides else ():
            take(journal, event, self._share)
        for path in self._asked.overrides:
            entry = journal.entries.get(path)
            if entry is None or not entry.final or entry.intent.kind not in _RESULTS:
                what = "has no such effect" if entry is None else f"has {entry.intent.words()}, and no result, there"
                raise BadInput(
                    f"The result of effect {path!r:.80} cannot be another one: run {self._asked.run_id} {what} "
                    f"at its event {self.at}.",
                    hint=f"agentledger timetravel {self._asked.run_id} --at-seq {self.at} shows what it had done.",
                )
        return {path: secret.plain(value) for path, value in self._asked.overrides.items()}

    def _behind_overrides(self) -> int:
        """The first event behind which all the effects have results that are to be other ones; else the last."""
        journal, left = Journal(), set(self._asked.overrides)
        for event in history(self._log, self._asked.run_id, self._last):
            take(journal, event, self._share)
            path = getattr(event.body, "path", None)
            if path in left and (entry := journal.entries.get(path)) is not None and entry.final:
                left.discard(path)
                if not left:
                    return int(event.stream_seq) if event.stream == self._stream else min(2, self._last)
        return self._last

    def _share(self, created: RunCreated) -> Shared:
        return shared(self._log, created)

    def _event(self, number: int) -> Event:
        return self._log.nth(self._stream, number)


def _code(spec: AgentSpec) -> dict[str, Any]:
    """What a run says of its code."""
    return {
        "agent": spec.name,
        "role": spec.role,
        "entry_point": spec.entry_point,
        "code_digest": spec.code_digest,
        "origin": spec.origin,
    }


def _code_of(begun: RunCreated) -> dict[str, Any]:
    names = ("agent", "role", "entry_point", "code_digest", "origin")
    return {name: value for name in names if not isinstance(value := getattr(begun, name), Missing)}
