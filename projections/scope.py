"""Which runs a report or a trace is about: one with its children, those of a session or of a time, or all.

Rules: a time says when a run was created: from `since_ns` on, and before `until_ns`. A child belongs where its parent
does, but for times, which each run has of its own. This file knows no terminal and no rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import attrs

from ledger_core.clock import NS
from ledger_core.errors import NotFound
from ledger_core.events.run import RunCreated
from ledger_core.events.session import SessionRunAdded
from ledger_core.events.wait import ChildRunRequested
from ledger_core.log.log import Log

_RUN, _SESSION = "run/", "session/"


@attrs.frozen(kw_only=True)
class Scope:
    """The runs that somebody asks about; with nothing set, all of them."""

    run: str | None = None
    """This one and its children, theirs too."""
    session: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is the whole ledger."""
        return self == Scope()

    @property
    def words(self) -> str:
        """For a heading."""
        if self.run is not None:
            return f"run {self.run}"
        parts = [] if self.session is None else [f"of session {self.session}"]
        parts += [] if self.since_ns is None else [f"created since {_day(self.since_ns)}"]
        parts += [] if self.until_ns is None else [f"created before {_day(self.until_ns)}"]
        return "runs " + ", ".join(parts) if parts else "all runs"

    def as_json(self) -> dict[str, Any]:
        """The scope as reports print it; times in unix seconds."""
        times = {"since": self.since_ns, "until": self.until_ns}
        seconds = {name: None if value is None else value / NS for name, value in times.items()}
        return {"run_id": self.run, "session_id": self.session, **seconds}

    def begun(self, created_ns: int) -> bool:
        """Whether a run that was created at this time belongs, as far as times say."""
        early = self.since_ns is not None and created_ns < self.since_ns
        return not early and (self.until_ns is None or created_ns < self.until_ns)


def runs_of(log: Log, scope: Scope) -> Iterator[str]:
    """Ids of the runs that belong, from the log itself, a few at a time; raises `NotFound` for what is not there.

    All runs, and those of a time: the youngest first. A run, and the runs of a session: each before its children.
    """
    if scope.run is not None:
        yield from _family(log, [scope.run])
    elif scope.session is not None:
        if log.stream_head(_SESSION + scope.session) is None:
            raise NotFound(f"There is no session {scope.session!r:.100}.", hint="`agentledger sessions` lists them.")
        added = log.stream(_SESSION + scope.session, contents=False)
        first = [event.body.run for event in added if isinstance(event.body, SessionRunAdded)]
        yield from (run for run in _family(log, first) if scope.begun(_created_ns(log, run)))
    else:
        for name, _ in log.streams_newest_first(_RUN):
            run = name.removeprefix(_RUN)
            if scope.whole or scope.begun(_created_ns(log, run)):
                yield run


def _family(log: Log, first: list[str]) -> Iterator[str]:
    """Runs and their children, each once."""
    left, seen = first[::-1], set[str]()
    while left:
        run = left.pop()
        if run in seen:
            continue
        seen.add(run)
        if log.stream_head(_RUN + run) is None:
            if run in first:
                raise NotFound(f"There is no run {run!r:.100}.", hint="`agentledger runs` lists them.")
            continue
        yield run
        spawned = (event.body for event in log.stream(_RUN + run, contents=False))
        left += reversed([body.run for body in spawned if isinstance(body, ChildRunRequested)])


def _created_ns(log: Log, run: str) -> int:
    first = next(log.stream(_RUN + run, contents=False))
    return first.time_ns if isinstance(first.body, RunCreated) else 0


def _day(time_ns: int) -> str:
    """A time in words that say the same everywhere."""
    return datetime.fromtimestamp(time_ns / NS, UTC).strftime("%Y-%m-%d %H:%M:%S UTC").replace(" 00:00:00 UTC", " UTC")
