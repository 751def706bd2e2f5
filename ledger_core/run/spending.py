"""What a run's events move in the accounts that it draws on: reserved with an intent, settled with its outcome.

Rules: pure, over facts alone. A run knows what its open calls hold, by path; what an event does to that is a movement,
and the same for whoever writes the event: its worker, a late one, a person, the end of the run. This file does not know
how much there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from ledger_core.events import Body
from ledger_core.events.effect import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
)
from ledger_core.events.govern import CostRecorded, EffectRefused
from ledger_core.events.run import RunCancelled, RunCompleted, RunFailed
from ledger_core.run.rows import UNSETTLED, Reservation

if TYPE_CHECKING:
    from ledger_core.run.state import RunState

_INTENTS: Final = (ToolCallRequested, ModelCallRequested)
_OUTCOMES: Final = (ToolCallCompleted, ToolCallFailed, ToolCallSettled, ModelCallCompleted, ModelCallFailed)
_ENDS: Final = (RunCompleted, RunFailed, RunCancelled)
SPENDS: Final[frozenset[type[Body]]] = frozenset((*_INTENTS, *_OUTCOMES, *_ENDS, CostRecorded, EffectRefused))
"""Bodies that may move something."""


@attrs.frozen(kw_only=True)
class Movement:
    """What one event moves, by account; `spent` is the same for all of them."""

    path: str
    attempt: int
    why: str
    freed: Mapping[str, Mapping[str, int]] = attrs.field(factory=dict)
    reserved: Mapping[str, Mapping[str, int]] = attrs.field(factory=dict)
    spent: Mapping[str, int] = attrs.field(factory=dict)
    lost: Mapping[str, Mapping[str, int]] = attrs.field(factory=dict)
    """What calls that nobody will hear of are charged, by account: what they reserved."""


def spends(state: RunState, bodies: Iterable[Body]) -> bool:
    """Whether bodies may move anything: most do not, and are not looked at any further."""
    if state.reservations:
        return any(type(body) in SPENDS for body in bodies)
    return any(
        type(body) in SPENDS and (getattr(body, "reserved", None) or getattr(body, "spent", None)) for body in bodies
    )


def movements(state: RunState, bodies: Iterable[Body]) -> list[Movement]:
    """What bodies move that are appended to a run in this state."""
    held, found = dict(state.reservations), []
    ended = dict[str, bool]()
    for body in bodies:
        if type(body) in SPENDS:
            if isinstance(body, (ToolCallSettled, ToolCallFailed)):
                ended[body.path] = not _open(body)
            moved = _movement(state, held, body, ended)
            found += [one for one in moved if one.freed or one.reserved or one.spent or one.lost]
            hold(held, body)
    return found


def hold(held: dict[str, Reservation], body: Any) -> None:
    """Fold an event into what open calls hold."""
    if isinstance(body, _INTENTS):
        before = held.pop(body.path, None)
        if body.reserved:
            lost = 0 if before is None else before.lost + bool(before.unbounded)
            held[body.path] = Reservation(
                attempt=body.attempt, by_account=body.reserved, unbounded=tuple(body.unbounded or ()), lost=lost
            )
    elif isinstance(body, (*_OUTCOMES, EffectRefused)) and not _open(body):
        held.pop(body.path, None)


def _open(body: Any) -> bool:
    """Whether an outcome leaves open what came of the call: it keeps what it holds."""
    return getattr(body, "in_doubt", False) or getattr(body, "outcome", "") == "resent"


def _movement(state: RunState, held: Mapping[str, Reservation], body: Any, ended: Mapping[str, bool]) -> list[Movement]:
    if isinstance(body, _ENDS):
        return [_lost(path, one) for path, one in held.items() if not _in_doubt(state, path, ended)]
    if isinstance(body, CostRecorded):
        return [Movement(path=body.path, attempt=1, why="spent", spent=body.spent)]
    before = held.get(body.path)
    if isinstance(body, EffectRefused):  # an attempt that was lost, and is not made again
        return [] if before is None else [_lost(body.path, before)]
    freed = {} if before is None else before.by_account
    if isinstance(body, _INTENTS):
        lost = {} if before is None else _lost(body.path, before).lost
        reserved = body.reserved or {}
        return [
            Movement(path=body.path, attempt=body.attempt, why="reserved", freed=freed, reserved=reserved, lost=lost)
        ]
    if _open(body):
        return []
    spent = body.spent or {}
    if before is not None and before.lost:
        spent = {name: value * (1 + before.lost * (name in before.unbounded)) for name, value in spent.items()}
    return [Movement(path=body.path, attempt=body.attempt, why="settled", freed=freed, spent=spent)]


def _lost(path: str, one: Reservation) -> Movement:
    """The end of a reservation that nobody settles: what was bounded is charged."""
    charged = {
        account: {name: value for name, value in amounts.items() if name not in one.unbounded}
        for account, amounts in one.by_account.items()
    }
    return Movement(path=path, attempt=one.attempt, why="settled", freed=one.by_account, lost=charged)


def _in_doubt(state: RunState, path: str, ended: Mapping[str, bool]) -> bool:
    row = state.ledger.get(path)
    return row is not None and row.status in UNSETTLED and row.writes and not ended.get(path, False)
