"""Budgets: bounds of what runs may use, and the accounts in which it is reserved before and settled after.

Rules: pure, whole numbers only. A call reserves what it may take at most, with its intent, and settles what it took,
with its outcome, inside the transaction that writes them: reserved and spent together never pass a bound, under any
number of workers. Where nobody knows how much a call takes, it reserves all that is left, and goes alone. A call in
doubt keeps what it reserved. A call that had no effect gives everything back; one that was lost, and is made again, is
charged as the one that took its place. Working time is measured, not reserved: it bounds what begins.

This file does not know the log. An account is the state of one budget; who names it is `accounts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from ledger_core import chain
from ledger_core.clock import NS
from ledger_core.errors import BadInput, Refused
from ledger_core.events.govern import BudgetChanged

Amounts = Mapping[str, int]
USD: Final = 1_000_000_000
"""Billionths of a dollar in one: the price of a token is a whole number of them."""
_DOLLARS: Final = ("usd", "usd_nano", USD)
_SECONDS: Final = ("wall_seconds", "wall_ns", NS)
DIMENSIONS: Final[Mapping[str, str]] = {
    "calls": "calls",
    "tool_calls": "tool calls",
    "model_calls": "model calls",
    "tokens": "tokens",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "cached_tokens": "cached tokens",
    "usd_nano": "dollars",
    "wall_ns": "seconds of work",
}
"""What can be bounded, by its name in facts, in words."""
MOST: Final = 1 << 62
"""No amount is larger: what passes it counts as it."""
_PUBLIC: Final = bytes(32)


def _whole(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
    del instance
    if value is not None and (type(value) is not int or not 0 <= value <= MOST):
        raise BadInput(f"A budget of {value!r:.50} {field.name} is none.", hint="It is a whole number from 0 up.")


def _number(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
    del instance
    if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1e9):
        raise BadInput(f"A budget of {value!r:.50} {field.name} is none.", hint="It is a number from 0 up.")


@attrs.frozen(kw_only=True)
class Budget:
    """Bounds of what may be used; what is left out has none. Raises `BadInput`."""

    calls: int | None = attrs.field(default=None, validator=_whole)
    """Of tools and models, retries included; an attempt that had no effect counts nothing."""
    tool_calls: int | None = attrs.field(default=None, validator=_whole)
    model_calls: int | None = attrs.field(default=None, validator=_whole)
    tokens: int | None = attrs.field(default=None, validator=_whole)
    """Of input and output together."""
    input_tokens: int | None = attrs.field(default=None, validator=_whole)
    output_tokens: int | None = attrs.field(default=None, validator=_whole)
    cached_tokens: int | None = attrs.field(default=None, validator=_whole)
    usd: float | None = attrs.field(default=None, validator=_number)
    wall_seconds: float | None = attrs.field(default=None, validator=_number)
    """Of work: while a run waits, its time stands still."""

    @property
    def limits(self) -> dict[str, int]:
        """The bounds as facts hold them."""
        found: dict[str, int] = {}
        for name, value in attrs.asdict(self).items():
            fact, unit = next(((f, u) for n, f, u in (_DOLLARS, _SECONDS) if n == name), (name, 1))
            if value is not None:
                found[fact] = round(value * unit)
        return found


def budget_of(given: Budget | Mapping[str, Any] | None) -> Budget | None:
    """A budget, however it is given; raises `BadInput` for what is none."""
    if given is None or isinstance(given, Budget):
        return given
    if not isinstance(given, Mapping):
        raise BadInput(f"{given!r:.100} is no budget.", hint="Pass Budget(calls=…, usd=…), or a dict of it.")
    known = {field.name for field in attrs.fields(Budget)}
    if unknown := sorted(str(name) for name in given if name not in known):
        raise BadInput(f"A budget has no {', '.join(unknown)}.", hint="It has: " + ", ".join(sorted(known)) + ".")
    return Budget(**given)


@attrs.frozen(kw_only=True)
class Account:
    """How a budget stands, by dimension."""

    name: str
    limits: dict[str, int] = attrs.field(factory=dict)
    spent: dict[str, int] = attrs.field(factory=dict)
    reserved: dict[str, int] = attrs.field(factory=dict)
    open: int = 0

    def left(self, dimension: str) -> int | None:
        """What is neither spent nor reserved of a bound; None where there is no bound; never below 0."""
        limit = self.limits.get(dimension)
        if limit is None:
            return None
        return max(0, limit - self.spent.get(dimension, 0) - self.reserved.get(dimension, 0))


class NoRoom(Refused):
    """A budget has no room for a call, and none will come back by itself."""

    def __init__(self, account: Account, dimension: str, asked: int | None) -> None:
        limit, spent = account.limits[dimension], account.spent.get(dimension, 0)
        wanted = "" if not asked else f"; the call may take {amount_words(dimension, asked)}"
        super().__init__(
            f"The budget of {account_words(account.name)} is {amount_words(dimension, limit)}, "
            f"and {amount_words(dimension, spent)} are spent{wanted}.",
            hint="Raise it: agentledger budget set.",
        )
        self.account, self.dimension = account.name, dimension


class Busy(Exception):
    """What is left of a budget is reserved by calls that have not settled: some of it may come back."""

    def __init__(self, account: Account, dimension: str) -> None:
        super().__init__(f"what is left of the {dimension} of {account.name} is reserved")
        self.account, self.dimension, self.open = account.name, dimension, account.open


def reserve(account: Account, wanted: Mapping[str, int | None]) -> dict[str, int]:
    """What a call reserves of an account; `wanted` is the most that it takes, None where nobody knows.

    Raises `NoRoom`, `Busy`.
    """
    taken: dict[str, int] = {}
    for dimension, limit in account.limits.items():
        amount = wanted.get(dimension, 0)
        room = limit - account.spent.get(dimension, 0)
        if dimension == "wall_ns":  # what was worked since the account last heard of it
            if room <= (amount or 0):
                raise NoRoom(account, dimension, None)
            continue
        if room < (amount or 0) or (room <= 0 and amount is None):
            raise NoRoom(account, dimension, amount)
        held = account.reserved.get(dimension, 0)
        if amount is None:
            if held > 0:
                raise Busy(account, dimension)
            amount = room
        elif held + amount > room and amount:
            raise Busy(account, dimension)
        if amount:
            taken[dimension] = amount
    return taken


def moved(account: Account, *, reserved: Amounts, freed: Amounts, spent: Amounts, opened: int) -> Account:
    """An account after a movement; `opened` is how many more calls have something reserved."""
    return attrs.evolve(
        account,
        spent=total(account.spent, spent),
        reserved=total(account.reserved, reserved, {name: -amount for name, amount in freed.items()}),
        open=max(0, account.open + opened),
    )


def account_of(body: BudgetChanged) -> Account:
    """The account as its last event says it is."""
    return Account(name=body.account, limits=body.limits, spent=body.spent, reserved=body.reserved, open=body.open)


def changed(account: Account, **what: Any) -> BudgetChanged:
    """The event that says how an account stands."""
    return BudgetChanged(
        account=account.name,
        limits=account.limits,
        spent=account.spent,
        reserved=account.reserved,
        open=account.open,
        **what,
    )


def accounts(root: str, session: str | None, agent: str) -> list[str]:
    """Names of the accounts that a run draws on: its family's, its session's, its agent's."""
    return [f"run:{root}", *([f"session:{session}"] if session else []), f"agent:{agent}"]


def stream_of_account(name: str) -> str:
    """Name of an account's stream; an agent's name may have letters that no stream's has, and is hashed."""
    kind, _, of = name.partition(":")
    return f"budget_{kind}/{chain.tag(_PUBLIC, of.encode()).hex()[:32] if kind == 'agent' else of}"


def amount_words(dimension: str, amount: int) -> str:
    """An amount for a person: `12 tool calls`, `$0.25`, `3.5 s of work`."""
    if dimension == "usd_nano":
        return f"${amount / USD:,.9f}".rstrip("0").rstrip(".")
    if dimension == "wall_ns":
        return f"{amount / NS:,.3f}".rstrip("0").rstrip(".") + " s of work"
    return f"{amount:,} {DIMENSIONS.get(dimension, dimension)}"


def account_words(name: str) -> str:
    """An account for a person: `run run_8k…`, `agent triage`."""
    kind, _, of = name.partition(":")
    return f"{kind} {of}"


def total(*parts: Amounts) -> dict[str, int]:
    """Amounts together, by dimension; none is below 0, and those of 0 are left out."""
    found: dict[str, int] = {}
    for part in parts:
        for name, amount in part.items():
            found[name] = min(MOST, max(0, found.get(name, 0) + amount))
    return {name: amount for name, amount in sorted(found.items()) if amount}
