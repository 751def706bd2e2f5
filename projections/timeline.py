"""A run's timeline for a person: a line for each event that matters, with what was said, and how long it took.

Rules: pure; one line a type, in a table, and a test keeps the table whole. An event of an unknown type has a line too:
nobody says of it that it does not matter. Words are for people, fields for programs; what people, tools and models said
is `said`, beside the words. A gap is the time in which nobody worked on the run. What the words say is `telling`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from ledger_core.clock import NS
from ledger_core.events.step import StepRetryScheduled
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.frames import Film
from projections.telling import Mark, span, tell
from projections.wire import plain

_IDLE = ("pending", "waiting", "parked", "diverged")


@attrs.frozen(kw_only=True)
class Line:
    """What a person reads of one event."""

    seq: int
    """The run's own, from 1."""
    log_seq: int
    time_ns: int
    since_ns: int
    """After the run was created."""
    type: str
    step: int
    attempt: int
    path: str | None
    mark: Mark
    words: str
    said: Any
    """What somebody said, as JSON; None where nobody said anything."""
    took_ns: int | None
    """From the intent to the outcome."""
    idle_ns: int | None
    """How long nobody had worked on the run before it."""
    idle_for: str
    """Why, in words."""
    patch: dict[str, Any] | None = None
    """What the event changed, where that was asked for."""

    def as_json(self) -> dict[str, Any]:
        """The line as the command line prints it; times in seconds."""
        return {
            "seq": self.seq,
            "log_seq": self.log_seq,
            "type": self.type,
            "time": self.time_ns / NS,
            "since": self.since_ns / NS,
            "step": self.step,
            "attempt": self.attempt,
            "path": self.path,
            "mark": self.mark,
            "words": self.words,
            "said": self.said,
            "took": None if self.took_ns is None else self.took_ns / NS,
            "idle": None if self.idle_ns is None else self.idle_ns / NS,
            "idle_for": self.idle_for,
            **({} if self.patch is None else {"diff": self.patch}),
        }


def timeline(events: Iterable[Event], *, diffs: bool = False) -> Iterator[Line]:
    """The lines of a run's events, in order, each as it is drawn."""
    state, film = RunState(), Film() if diffs else None
    begun: dict[str, int] = {}
    names: dict[str, str] = {}
    """Of effects by path, also of those that have ended: a call that is made again may have no intent of its own."""
    idle_since, idle_for = 0, ""
    for event in events:
        body, path = event.body, getattr(event.body, "path", None)
        path = path if isinstance(path, str) else None
        patch = None if film is None else film.take(event)
        before = state.status
        if before not in _IDLE:
            idle_since, idle_for = event.time_ns, ""
        state.apply(event.seq, event.time_ns, event.type, body)
        told = tell(body, event.type, names.get(path or "", ""))
        since_ns = None
        if path is not None and told.begins:
            names[path] = told.begins
            begun.setdefault(path, event.time_ns)
        elif path is not None and told.timed:
            since_ns = begun.get(path)
        if path is not None and told.ends:
            begun.pop(path, None)
        idles = state.status in _IDLE
        if idles and (before not in _IDLE or state.events == 1):
            idle_since = event.time_ns
        gap = event.time_ns - idle_since if before in _IDLE and not idles else None
        if told.matters:
            yield Line(
                seq=event.stream_seq,
                log_seq=event.seq,
                time_ns=event.time_ns,
                since_ns=event.time_ns - state.created_ns if state.created_ns else 0,
                type=event.type,
                step=state.step_number,
                attempt=state.attempt,
                path=path,
                mark=told.mark,
                words=told.words + _until(state, event, path),
                said=plain(told.said),
                took_ns=None if since_ns is None else event.time_ns - since_ns,
                idle_ns=gap,
                idle_for=idle_for if gap is not None else "",
                patch=patch,
            )
        if idles:
            idle_for = _why(state) or idle_for


def _until(state: RunState, event: Event, path: str | None) -> str:
    """When what the event began to wait for is over at the latest."""
    waiting = state.waits.get(path or "")
    wake_ns = waiting.wake_ns if waiting is not None and waiting.since_ns == event.time_ns else None
    if isinstance(event.body, StepRetryScheduled):
        wake_ns = event.body.wake_ns
    return "" if wake_ns is None else f", until in {span(max(0, wake_ns - event.time_ns))}"


def _why(state: RunState) -> str:
    """What a run waits for that nobody works on."""
    if state.status == "pending":
        return "a worker"
    if state.status == "diverged":
        return "the code that agrees with the record"
    if state.waiting != "waits":
        return "its next attempt" if state.waiting == "retry" else str(state.waiting or state.status)
    return ", ".join(sorted({f"{one.kind} {one.name}".strip() for one in state.waits.values()}))
