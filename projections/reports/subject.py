"""What a report is about: the rows of the runs of a scope, and the log that has the words.

Rules: rows come from wherever they are kept; for one run and its children they are folded now, so that nobody waits for
a large ledger to be caught up. Whoever reports asks for rows by name, and is given those that belong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ledger_core.clock import NS
from ledger_core.errors import NotFound
from ledger_core.events import UNREAD
from ledger_core.log.log import Log
from ledger_core.log.record import Event
from projections.scope import Scope, runs_of
from projections.table import Row, Rows
from projections.views import of_run


@attrs.frozen(kw_only=True)
class Subject:
    """The runs that a report is about."""

    log: Log
    scope: Scope
    table: Rows | Mapping[str, Rows]
    """Rows of all runs, or of each one by its id."""
    runs: Sequence[str] | None
    """Ids of the runs that belong, parents first where one was named; None for all of them."""

    @classmethod
    def of(cls, log: Log, scope: Scope, rows: Rows | None) -> Subject:
        """The runs of a scope; `rows` may be left out for a run and its children. Raises `NotFound`."""
        runs = None if scope.whole else list(runs_of(log, scope))
        if rows is None:
            assert runs is not None, "all runs need rows that are kept"
            return cls(log=log, scope=scope, runs=runs, table={run: of_run(log, run) for run in runs})
        return cls(log=log, scope=scope, runs=runs, table=rows)

    def rows(self, name: str) -> Iterator[Row]:
        """The rows of a projection that belong."""
        if self.runs is None:
            assert not isinstance(self.table, Mapping)
            yield from self.table.rows(name)
            return
        for run in self.runs:
            rows = self.table[run] if isinstance(self.table, Mapping) else self.table
            yield from rows.rows(name, run)

    def event(self, seq: int, *, contents: bool = False) -> Event | None:
        """The event of a seq; None if it is not there."""
        try:
            return self.log.event(seq, contents=contents)
        except NotFound:
            return None

    def words(self, seq: int | None, *names: str) -> Any:
        """What the event of a seq says under the first of these names that it has; None if it says nothing."""
        event = None if seq is None else self.event(seq, contents=True)
        for name in names if event is not None else ():
            found = getattr(event.body, name, UNREAD)  # type: ignore[union-attr]  # asked above
            if found is not UNREAD and found is not None and found != "":
                return found
        return None

    def as_json(self) -> dict[str, Any]:
        """What it is about, in a report."""
        return {**self.scope.as_json(), "runs": None if self.runs is None else len(self.runs)}


def seconds(time_ns: int | None) -> float | None:
    """A time as reports print it."""
    return None if time_ns is None else time_ns / NS
