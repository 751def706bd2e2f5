"""Children: one row for every run that a run started, with its end as the parent heard of it."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.events.wait import ChildRunEnded, ChildRunRequested
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, counted


def _keys(event: Event, _: RunState) -> Iterable[str]:
    return (event.body.run,)  # type: ignore[attr-defined]  # both have one


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if isinstance(body, ChildRunRequested):
        return {
            **about(event, state),
            "child": body.run,
            "path": body.path,
            "agent": body.agent,
            "status": "running",
            "seq": event.seq,
            "ended_seq": None,
            "error_type": None,
        }
    if row is not None and isinstance(body, ChildRunEnded):
        row["status"], row["ended_seq"], row["error_type"] = body.status, event.seq, body.error_type
    return row


def _sums(row: Row) -> Iterable[Contribution]:
    yield counted(("status", row["status"]), children=1)


CHILDREN = Projection(
    name="children", version=1, keys=dict.fromkeys((ChildRunRequested, ChildRunEnded), _keys), fold=_fold, sums=_sums
)
