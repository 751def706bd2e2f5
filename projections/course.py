"""The course of a run: what it did, by its program's own order, without times, ids and hashes.

Rules: pure. An effect is told once, by its path, however often it was tried, lost or asked for again; so a run that
crashed and one that did not, and two that raced otherwise, have one course. What differs from run to run by its nature
(a time that was read, the id of a child) is shown, and counts for no digest. Values are plain JSON, with bytes as hex.
Where the journal keeps what the code was given, this keeps what the run did: it is built from journals.

This file does not know logs, files, or what two courses have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final, Literal

import attrs

from ledger_core import chain, codec
from ledger_core.errors import Refused
from ledger_core.events import Body, Missing
from ledger_core.events.effect import ModelCallCompleted, ToolCallCompleted, ToolCallRequested
from ledger_core.events.govern import ArtifactCreated, CostRecorded, ToolPermissionDecided
from ledger_core.events.run import RunCreated
from ledger_core.events.step import (
    AgentResultReturned,
    StatePatchCommitted,
    StepCreated,
    StepFailed,
    StepRetryScheduled,
)
from ledger_core.log.record import Event
from ledger_core.run.journal import Entry, Intent, Journal, Standing
from ledger_core.run.patch import merge
from ledger_core.run.state import RunState
from ledger_core.runtime import lineage
from ledger_core.runtime.lineage import Share
from projections.wire import plain

Outcome = Literal["done", "failed", "open", "in doubt", "given up", "assumed"]
"""What came of an effect; `assumed` where code was answered with what is not on record."""
SCHEMA: Final = "agentledger.course.v1"
_PLACE: Final = re.compile(r"(\d+)(.*)", re.DOTALL)
_OUTCOMES: Final[dict[Standing, Outcome]] = {
    Standing.DONE: "done",
    Standing.FAILED: "failed",
    Standing.OPEN: "open",
    Standing.IN_DOUBT: "in doubt",
}
_READ_ANEW: Final = frozenset(("now", "question", "child"))
"""Kinds whose values differ from run to run by their nature: a time, and ids that were minted."""
_NAMED_ANEW: Final = frozenset(("answer", "join"))
"""Kinds whose names are minted ids."""
AMOUNTS: Final = ("input_tokens", "output_tokens", "cached_tokens", "usd_nano")


@attrs.frozen(kw_only=True, slots=False)
class Effect:
    """One effect of a run, told once."""

    path: str
    kind: str
    """`tool`, `model`, `now`, `capture`, `patch`, `sleep`, `signal`, `approval`, `question`, `answer`, `join`, `child`,
    `cost` or `artifact`."""
    name: str
    request: Any
    """What was asked for; of a tool `{"arguments": …}`, of a model `{"model", "messages", "parameters"}`."""
    outcome: Outcome
    value: Any = None
    """The result; of a failure, its message."""
    error_type: str | None = None
    policy: str | None = None
    """What the policy decided, where a decision is on record: `allow`, `approve` or `deny`."""
    version: str | None = None
    """Of the tool."""
    writes: bool = False
    """Whether it is an outside write."""
    cost: Mapping[str, int] = attrs.field(factory=dict)
    """Of `AMOUNTS` those above nothing."""
    seq: int | None = None
    """Number of the intent's event in its run, from 1; None for what was only attempted."""
    log_seq: int | None = None
    hash: str | None = None
    line: str | None = None
    """`file:line` of the code that attempted it, where code was executed."""

    @property
    def scope(self) -> str:
        """The path of the task that it is of; empty for the agent's own."""
        return self.path.rpartition("/")[0]

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands in its scope."""
        found = _PLACE.fullmatch(self.path.rpartition("/")[2])
        return (int(found[1]), found[2]) if found else (0, self.path)

    @cached_property
    def asked(self) -> bytes:
        """Digest of what was asked for: equal for equal effects, whatever came of them."""
        name = "" if self.kind in _NAMED_ANEW else self.name
        return chain.course_digest(_bytes([self.kind, name, self.request]))

    @cached_property
    def digest(self) -> bytes:
        """Digest of all that the effect logically is."""
        value = None if self.kind in _READ_ANEW and self.outcome == "done" else self.value
        if self.outcome in ("open", "given up", "in doubt", "assumed"):
            value = None
        came = [self.outcome, value, self.error_type, self.policy, self.version, dict(sorted(self.cost.items()))]
        return chain.course_digest(self.asked + _bytes(came))

    def words(self) -> str:
        """The effect as a person calls it."""
        return f"{self.kind} {self.name}".rstrip()


@attrs.frozen(kw_only=True, slots=False)
class Course:
    """What a run did. Effects are in the order of their first events."""

    source: str
    """What it was read from, as a person names it."""
    run_id: str
    agent: str
    role: str | None = None
    code_digest: str | None = None
    status: str
    initial_state: Any
    effects: tuple[Effect, ...]
    output: Any = None
    state: Any = None
    error_type: str | None = None
    message: str | None = None
    events: Mapping[str, int] = attrs.field(factory=dict)
    """Number of the run's events, by type; empty where none were appended."""

    @property
    def cost(self) -> dict[str, int]:
        """What it used, in all."""
        sums = {name: sum(one.cost.get(name, 0) for one in self.effects) for name in AMOUNTS}
        return {name: amount for name, amount in sums.items() if amount}

    @cached_property
    def scopes(self) -> dict[str, tuple[Effect, ...]]:
        """The effects by the task that they are of, each in the order of the program."""
        found: dict[str, list[Effect]] = {}
        for one in self.effects:
            found.setdefault(one.scope, []).append(one)
        return {name: tuple(sorted(ones, key=lambda one: one.place)) for name, ones in sorted(found.items())}

    @cached_property
    def beginning(self) -> bytes:
        """Digest of what it began with."""
        return chain.course_digest(_bytes([self.agent, self.initial_state]))

    @cached_property
    def end(self) -> bytes:
        """Digest of how it ended."""
        return chain.course_digest(_bytes([self.status, self.output, self.state, self.error_type, self.message]))

    @cached_property
    def digest(self) -> bytes:
        """Digest of the whole course: equal for equal runs, whatever raced, crashed or was tried again in them."""
        whole = [self.beginning, *(one.digest for _, ones in self.scopes.items() for one in ones), self.end]
        paths = _bytes([one.path for _, ones in self.scopes.items() for one in ones])
        return chain.course_digest(b"".join(whole) + paths)

    def as_json(self) -> dict[str, Any]:
        """The course as `--save` writes it, and `of_json` reads it."""
        effects = [
            {
                name: value
                for name, value in attrs.asdict(one).items()
                if value is not None and (value or name not in ("writes", "cost"))
            }
            for one in self.effects
        ]
        return {"schema": SCHEMA, **attrs.asdict(self, recurse=False), "effects": effects, "events": dict(self.events)}


def of_json(value: Mapping[str, Any], source: str) -> Course:
    """The inverse of `Course.as_json`. Raises `TypeError`, `KeyError`, `ValueError` for what is none."""
    if value["schema"] != SCHEMA:
        raise ValueError(f"its schema is {value['schema']!r:.80}")
    fields = {name: value[name] for name in (one.name for one in attrs.fields(Course)) if name in value}
    effects = tuple(Effect(**{"request": None, **one}) for one in value["effects"])
    return Course(**{**fields, "source": source, "effects": effects})


def of_events(events: Iterable[Event], source: str, share: Share | None = None) -> Course:
    """The course that a run's events tell, contents included. Raises `Refused` where its words were forgotten.

    What a fork shares with its ancestor is told where `share` gives it.
    """
    found = _Reading(share)
    for event in events:
        found.take(event)
    return found.course(source)


class _Reading:
    """Events on their way to a course."""

    def __init__(self, share: Share | None) -> None:
        self._share = share
        self._state = RunState()
        self._journal = Journal()
        self._told: dict[str, Effect] = {}
        self._begun: RunCreated | None = None
        self._document: Any = {}
        self._initial: Any = {}
        """What its line began with."""
        self._end: dict[str, Any] = {}
        self._met: dict[int, tuple[int, str]] = {}
        self._policy: dict[str, str] = {}
        self._costs: dict[str, dict[str, int]] = {}
        self._versions: dict[str, str] = {}
        self._requests: dict[str, Any] = {}
        self._steps = 0

    def take(self, event: Event) -> None:
        body = event.body
        self._state.apply(event.seq, event.time_ns, event.type, body)
        if isinstance(body, RunCreated):
            if isinstance(body.initial_state, Missing):
                raise Refused(f"What run {body.run} said was forgotten: nobody can tell what it did.")
            self._begun, self._document, self._initial = body, body.initial_state, body.initial_state
            if body.ancestor is not None and self._share is not None:
                self._inherit(body, self._share)
        elif isinstance(body, StepCreated) and self._steps:
            self._harvest()
        elif isinstance(body, StatePatchCommitted):
            self._document = merge(self._document, body.patch)
        elif isinstance(body, AgentResultReturned):
            self._end = {"output": plain(body.output)}
        elif isinstance(body, (StepFailed, StepRetryScheduled)):
            self._end = {"error_type": body.error_type, "message": body.message}
        if isinstance(body, StepCreated):
            self._steps += 1
            if self._steps == 1:
                return  # of a fork, it goes on in what it shares
        self._record(event)

    def _record(self, event: Event) -> None:
        self._note(event)
        self._journal.record(event.seq, event.body)

    def _note(self, event: Event) -> None:
        path = getattr(event.body, "path", None)
        if path is not None:
            self._met.setdefault(event.seq, (event.stream_seq, event.hash.hex()))
            self._beside(path, event.body)

    def _inherit(self, created: RunCreated, share: Share) -> None:
        def seen(event: Event) -> None:
            if isinstance(event.body, RunCreated) and event.body.ancestor is None:
                self._initial = event.body.initial_state
            if isinstance(event.body, StepCreated) and event.body.number > 1:
                self._harvest()
            self._note(event)

        lineage.inherit(self._journal, created, share, seen)

    def _beside(self, path: str, body: Body) -> None:
        """What the journal has no use for: the policy's word, versions and amounts."""
        if isinstance(body, ToolPermissionDecided):
            self._policy[path] = body.verdict
        elif isinstance(body, ToolCallRequested):
            self._versions[path] = body.tool_version
        elif isinstance(body, ModelCallCompleted):
            self._costs[path] = {name: getattr(body, name) or 0 for name in AMOUNTS}
        elif isinstance(body, (ToolCallCompleted, CostRecorded)):
            self._costs[path] = {name: amount for name, amount in (body.spent or {}).items() if name in AMOUNTS}
        if isinstance(body, CostRecorded):
            self._requests[path] = cost_request(body.spent, body.metadata)
        elif isinstance(body, ArtifactCreated):
            self._requests[path] = artifact_request(body.manifest, body.data)

    def _harvest(self) -> None:
        """Tell the effects of the step that the journal holds; a next step has its own paths."""
        kept = {entry.intent.path: entry for entry in self._journal.kept_writes()}
        for path, entry in {**kept, **self._journal.entries}.items():
            if entry.intent.kind != "chunk":  # its answer holds it
                self._told[path] = self._effect(path, entry)

    def _effect(self, path: str, entry: Entry) -> Effect:
        intent, gone = entry.intent, self._journal.was_given_up(path)
        outcome: Outcome = "given up" if gone else _OUTCOMES[entry.standing]
        seq, hash_ = self._met.get(entry.seq, (None, None))
        settled = entry.final and not gone
        return Effect(
            path=path,
            kind=intent.kind,
            name=intent.name,
            request=self._requests.get(path) if intent.kind in ("cost", "artifact") else request_of(intent),
            outcome=outcome,
            value=plain(entry.value) if settled and intent.kind not in ("patch", "cost", "artifact") else None,
            error_type=entry.error_type if settled else None,
            policy=self._policy.get(path),
            version=self._versions.get(path),
            writes=entry.writes,
            cost={name: amount for name, amount in self._costs.get(path, {}).items() if amount},
            seq=seq,
            log_seq=entry.seq,
            hash=hash_,
        )

    def course(self, source: str) -> Course:
        self._harvest()
        state, begun = self._state, self._begun
        assert begun is not None
        return Course(
            source=source,
            run_id=state.run,
            agent=state.agent,
            role=state.role,
            code_digest=None if state.code_digest is None else state.code_digest.hex(),
            status=state.status,
            initial_state=plain(self._initial),
            effects=tuple(sorted(self._told.values(), key=lambda one: one.log_seq or 0)),
            state=plain(self._document),
            events=dict(state.counts),
            **(self._end if state.ended else {}),
        )


def request_of(intent: Intent) -> Any:
    """What an intent asks for, as far as it is on record."""
    document = intent.document
    values = document.values() if isinstance(document, dict) else (document,)
    if intent.kind in ("now", "capture", "join") or any(isinstance(value, Missing) for value in values):
        return None
    return plain(document)


def cost_request(spent: Mapping[str, int], metadata: Any) -> Any:
    """What a recorded cost says."""
    return plain({"spent": dict(spent), "metadata": metadata})


def artifact_request(manifest: Mapping[str, Any], data: Any) -> Any:
    """What an artifact is, without its id; what it holds is told by a digest."""
    what = {name: value for name, value in manifest.items() if name not in ("artifact_id", "size")}
    held = None if data is None else chain.course_digest(codec.encode(data)).hex()
    return plain({**what, "holds": held})


def _bytes(value: Any) -> bytes:
    """The one encoding of a JSON value; numbers that no event holds are spelled out."""
    try:
        return codec.canonical(value)
    except Exception:  # a transcript that somebody wrote by hand: its integers may be of any size
        return repr(value).encode(errors="backslashreplace")


def in_order(course: Course) -> Iterator[Effect]:
    """The effects in the order of the program, task by task."""
    for ones in course.scopes.values():
        yield from ones
