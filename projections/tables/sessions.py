"""Sessions: one row each, with how many runs it has had. How those stand is summed over the runs themselves."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.events.session import SessionCreated, SessionRunAdded, SessionUpdated
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import SESSION, Contribution, Projection, Row, counted, of_stream


def _fold(row: Row | None, event: Event, _: RunState) -> Row | None:
    body = event.body
    if isinstance(body, SessionCreated):
        row = {
            "session": body.session,
            "channel": body.channel,
            "grants": body.grants,
            "runs": 0,
            "created_ns": event.time_ns,
            "updated_ns": event.time_ns,
            "first_seq": event.seq,
            "seq": event.seq,
        }
    if row is None:
        return None
    if isinstance(body, SessionRunAdded):
        row["runs"] += 1
    elif isinstance(body, SessionUpdated) and body.grants is not None:
        row["grants"] = body.grants
    row["updated_ns"], row["seq"] = event.time_ns, event.seq
    return row


def _sums(row: Row) -> Iterable[Contribution]:
    yield counted(("ledger", ""), sessions=1, runs=row["runs"])


SESSIONS = Projection(
    name="sessions",
    version=1,
    streams=SESSION,
    keys=dict.fromkeys((SessionCreated, SessionRunAdded, SessionUpdated), of_stream),
    fold=_fold,
    sums=_sums,
)
