"""Policy decisions: one row each time a policy said whether a tool may be called."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.events.govern import ToolPermissionDecided
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, counted, of_seq

_SAID = ("path", "attempt", "tool", "tool_version", "verdict", "policy", "rule", "approval")


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if not isinstance(body, ToolPermissionDecided):
        return row
    said = {name: getattr(body, name) for name in _SAID}
    return {**about(event, state), **said, "seq": event.seq, "time_ns": event.time_ns}


def _sums(row: Row) -> Iterable[Contribution]:
    yield counted(("verdict", row["verdict"]), decisions=1)
    yield counted(("tool", row["tool"]), ("rule", row["rule"]), decisions=1, **{row["verdict"]: 1})


POLICY_DECISIONS = Projection(
    name="policy_decisions", version=1, keys={ToolPermissionDecided: of_seq}, fold=_fold, sums=_sums
)
