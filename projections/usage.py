"""What a run has used at each of its events, what its open calls hold, and how the budgets stood that it draws on.

Rules: the fold is pure, over facts alone; an event costs what it changes, however many calls are open. What a run holds
is what its open calls reserved; at the run's end only calls in doubt go on holding. Budgets stand in streams of their
own, and move in the transaction that writes the run's event, right behind it: how they stood at an event is with what
that event moved, and without what came later. Amounts are in facts' units (billionths of a dollar, nanoseconds).

What children used is in the budgets, which families share, and not in what a run used. This file decides nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ledger_core.events import Body
from ledger_core.events.effect import ModelCallRequested, ToolCallRequested
from ledger_core.events.govern import BudgetChanged, CostRecorded
from ledger_core.events.run import RunCancelled, RunCompleted, RunCreated, RunFailed
from ledger_core.events.step import StepCreated
from ledger_core.log.log import Log
from ledger_core.log.record import Event
from ledger_core.run.budget import Account, account_of, account_words, accounts, amount_words, stream_of_account
from ledger_core.run.rows import UNSETTLED, Reservation
from ledger_core.run.spending import SPENDS
from ledger_core.run.state import RunState
from projections.standing import budget_lines

_INTENTS: Final = (ToolCallRequested, ModelCallRequested)
_ENDS: Final = (RunCompleted, RunFailed, RunCancelled)
_CHANGES: Final = SPENDS | {RunCreated, StepCreated}
_TOGETHER: Final = 64
"""Events before one that may have been written with it, and are looked at."""
_LINEAR: Final = 256
"""So few events of a budget are read in order: a read of the log fetches as many at once."""


@attrs.frozen(kw_only=True)
class Use:
    """What a run has used so far, by itself."""

    steps: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    """Each attempt is one."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    usd_nano: int = 0
    held: Mapping[str, Mapping[str, int]] = attrs.field(factory=dict)
    """What its open calls have reserved, by budget and dimension."""
    open: int = 0
    """Number of its calls that hold something."""
    bounds: Mapping[str, int] | None = None
    """Those that it was created with."""
    draws_on: tuple[str, ...] = ()
    """Names of the budgets that bound it, where there are such."""

    def as_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        used = ("steps", "model_calls", "tool_calls", "input_tokens", "output_tokens", "cached_tokens", "usd_nano")
        return {
            "used": {name: getattr(self, name) for name in used},
            "held": {name: dict(amounts) for name, amounts in self.held.items()},
            "open": self.open,
            "bounds": None if self.bounds is None else dict(self.bounds),
        }

    def words(self) -> str:
        """In one line, for a person."""
        tokens = self.input_tokens + self.output_tokens
        said = [_many(self.steps, "step"), _many(self.model_calls, "model call"), _many(self.tool_calls, "tool call")]
        said += [f"{self.input_tokens:,} tokens in and {self.output_tokens:,} out"] if tokens else []
        said += [f"{self.cached_tokens:,} of them cached"] if self.cached_tokens else []
        said += [amount_words("usd_nano", self.usd_nano)] if self.usd_nano else []
        return ", ".join(said) + (f"; {_many(self.open, 'call')} open" if self.open else "")


class Usage:
    """The fold: what was used and is held, after one event after the other."""

    def __init__(self) -> None:
        self.use = Use()
        self._calls: dict[str, Reservation] = {}
        self._held: dict[str, dict[str, int]] = defaultdict(dict)

    def take(self, body: Body, run: RunState, tool_calls: int) -> Use:
        """Take an event, behind which the run is `run`, with so many tool calls; the same `Use` if it moves nothing."""
        if type(body) not in _CHANGES:
            return self.use
        path = getattr(body, "path", None)
        if isinstance(body, _ENDS):
            for one in [one for one in self._calls if not _in_doubt(run, one)]:
                self._hold(one, None)
        elif isinstance(path, str) and not (run.ended and path not in self._calls):
            self._hold(path, run.reservations.get(path))
        self.use = Use(
            steps=run.counts["step_created"],
            model_calls=run.model_calls,
            tool_calls=tool_calls,
            input_tokens=run.input_tokens,
            output_tokens=run.output_tokens,
            cached_tokens=run.cached_tokens,
            usd_nano=run.usd_nano,
            held={name: dict(sorted(amounts.items())) for name, amounts in sorted(self._held.items())},
            open=len(self._calls),
            bounds=run.budget,
            draws_on=tuple(accounts(run.root, run.session, run.step_agent or run.agent)),
        )
        return self.use

    def _hold(self, path: str, after: Reservation | None) -> None:
        """The call at a path holds this from now on."""
        before = self._calls.pop(path, None)
        for one, sign in ((before, -1), (after, 1)):
            for account, dimension, amount in () if one is None else _amounts(one):
                amounts = self._held[account]
                amounts[dimension] = amounts.get(dimension, 0) + sign * amount
                if not amounts[dimension]:
                    del amounts[dimension]
                if not amounts:
                    del self._held[account]
        if after is not None:
            self._calls[path] = after


def budgets_at(log: Log, event: Event, use: Use) -> list[Account]:
    """How the budgets stood that a run draws on, or holds something of, at its `event`, after which it had used `use`.

    Costs O(log n) reads of a budget that moved n times.
    """
    names = dict.fromkeys((*use.draws_on, *use.held))
    together: list[Event] | None = None
    found = []
    for name in names:
        stream = stream_of_account(name)
        head = log.stream_head(stream)
        if head is None:
            continue
        together = _together(log, event) if together is None else together
        if (body := _at(log, stream, head.stream_seq, event, together)) is not None:
            found.append(account_of(body))
    return found


def budgets_words(found: list[Account]) -> list[str]:
    """A line for each budget: what is left of it."""
    return [
        f"{account_words(account.name)}: {'; '.join(budget_lines(account)) or 'no bound is set any more'}"
        for account in found
    ]


def _at(log: Log, stream: str, last: int, event: Event, together: list[Event]) -> BudgetChanged | None:
    """The last change of a budget up to an event, and with what it moved itself."""
    low, high = 0, last  # changes up to `low` are not behind the event; those behind `high` are
    while high - low > _LINEAR:
        middle = (low + high) // 2
        before = next(log.stream(stream, middle - 1, contents=False))
        low, high = (middle, high) if before.seq <= event.seq else (low, middle)
    found = None
    for one in log.stream(stream, max(0, low - 1), contents=False):
        body = one.body
        assert isinstance(body, BudgetChanged)
        if one.seq > event.seq and not _moves(body, event.stream, together):
            break
        found = body if one.seq <= event.seq or _counts(body) else found
    return found


def _together(log: Log, event: Event) -> list[Event]:
    """The run's events that stand right before one, and it: what may have been written in one transaction."""
    found: list[Event] = []
    for one in log.read(max(0, event.seq - _TOGETHER), stop=event.seq, contents=False):
        found = [*found, one] if one.stream == event.stream else []
    return found


def _moves(body: BudgetChanged, stream: str, together: list[Event]) -> bool:
    """Whether a change behind an event was made by it, or by one that was written with it and before it."""
    if body.run is None or stream != f"run/{body.run}":
        return False
    return not _counts(body) or any(_moved_by(body, one.body) for one in together)


def _counts(body: BudgetChanged) -> bool:
    """Whether a change is an event's own; working time is measured, and belongs to none."""
    return body.why == "set" or body.path is not None


def _moved_by(change: BudgetChanged, body: Any) -> bool:
    if change.why == "set":
        return isinstance(body, RunCreated)
    if isinstance(body, _ENDS):
        return change.why == "settled"
    if type(body) not in SPENDS or body.path != change.path:
        return False
    why = "reserved" if isinstance(body, _INTENTS) else "spent" if isinstance(body, CostRecorded) else "settled"
    return why == change.why


def _in_doubt(run: RunState, path: str) -> bool:
    row = run.ledger.get(path)
    return row is not None and row.status in UNSETTLED and row.writes


def _amounts(one: Reservation) -> Iterator[tuple[str, str, int]]:
    for account, amounts in one.by_account.items():
        for dimension, amount in amounts.items() if isinstance(amounts, Mapping) else ():
            if type(amount) is int and amount > 0:
                yield account, dimension, amount


def _many(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
