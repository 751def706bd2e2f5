"""What a projection is: a named, versioned, pure fold of rows over the facts of a stream.

Rules: a row belongs to one stream, and is folded from that stream's events alone, in order; so streams can be folded in
any order, on several cores, and one at a time. A fold reads facts, never contents: rows name the event that holds the
words. It is total: of a type that it does not know nothing changes. The row that it is given is its own, to change and
to give back, but not what is nested in it; None takes the row away. What is summed over rows is a function of each row
alone, so that a sum moves by the difference. This file does not know where rows are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

import attrs

from ledger_core.events import Body
from ledger_core.log.record import Event
from ledger_core.run.state import RunState

Row = dict[str, Any]
"""Plain data: None, bool, int, float, str, bytes, lists, dicts with text keys."""
Keys = Callable[[Event, RunState], Iterable[str]]
Fold = Callable[[Row | None, Event, RunState], Row | None]
Contribution = tuple[Mapping[str, int], tuple[tuple[str, str], ...]]
"""What a row adds to counters, and where: groups of sums, with the key in each. The map is its own, not the row's."""

RUN: Final = "run/"
SESSION: Final = "session/"


class Rows(Protocol):
    """Where rows are asked for, wherever they are kept."""

    def rows(self, name: str, run: str | None = None) -> Iterator[Row]:
        """Rows of a projection, the oldest stream first, in it by key; only those of one run, if it is named."""
        ...

    def sums(self, name: str, group: str) -> dict[str, dict[str, int]]:
        """Counters summed over the rows of a projection, by the keys of a group."""
        ...


def _no_sums(_: Row) -> Iterable[Contribution]:
    return ()


@attrs.frozen(kw_only=True)
class Projection:
    """A kind of rows."""

    name: str
    version: int
    streams: str = RUN
    """What the names of the streams begin with that it is folded from."""
    keys: Mapping[type[Body], Keys] | Keys
    """The rows that an event may change: by the type of its body, or of any event."""
    fold: Fold
    latest: bool = False
    """Of several events the last is enough: the fold sets what it sets to what both say, and never raises."""
    ordered: frozenset[type[Body]] = frozenset()
    """Where the last is enough: bodies that are folded in order all the same; only with them may the keys change."""
    sums: Callable[[Row], Iterable[Contribution]] = _no_sums


def of_path(event: Event, _: RunState) -> Iterable[str]:
    """The row of the effect that the event is of."""
    return (event.body.path,)  # type: ignore[attr-defined]  # only for bodies that have one


def of_effect(event: Event, state: RunState) -> Iterable[str]:
    """The row of the effect that the event is of; one that was asked for before the code began afresh was another."""
    return (state.effect_key(event.body.path),)  # type: ignore[attr-defined]  # only for bodies that have one


def of_seq(event: Event, _: RunState) -> Iterable[str]:
    """A row of the event's own."""
    return (f"{event.seq:020}",)


def of_stream(_: Event, __: RunState) -> Iterable[str]:
    """The one row of the stream."""
    return ("",)


def about(event: Event, state: RunState) -> Row:
    """What rows of a run say of where they belong."""
    return {
        "run": state.run,
        "agent": state.step_agent or state.agent,
        "session": state.session,
        "step": event.step or state.step or None,
    }


def counted(*places: tuple[str, Any], **counters: int) -> Contribution:
    """A contribution to counters, under keys of which some may be absent."""
    return counters, tuple((group, str(key)) for group, key in places if key is not None)
