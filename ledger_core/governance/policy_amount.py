"""A bound on an amount: a number among the arguments, compared with the policy's.

    amount: {argument: order.total, at_most: 100}
    amount: {argument: /order/total, currency: order.currency, over: {EUR: 100, USD: 110}}

Rules: pure. The argument is found by a dotted path, or by a JSON pointer (RFC 6901) that begins with a slash; numbers
in it are places in lists. Integers and finite floats are numbers; text, true and false are not. An amount that is
missing or no number is in doubt, and so is a currency that has no bound: 5,000 of an unknown currency is no small
amount. A negative amount is at most 100: say `at_least: 0` where that matters.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from ledger_core.governance.policy_reading import Place, Reading
from ledger_core.governance.policy_rule import Asked, Met

BOUNDS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "at_most": operator.le,
    "under": operator.lt,
    "at_least": operator.ge,
    "over": operator.gt,
}
_FIELDS: Final = ("argument", "currency", *BOUNDS)
_WORDS: Final = {"at_most": "at most", "under": "under", "at_least": "at least", "over": "over"}


@attrs.frozen(kw_only=True)
class Amount:
    """The condition that an argument is a number within bounds."""

    argument: str
    currency: str | None
    bounds: Mapping[str, Any]
    """By kind of bound: a number, or a map of numbers by currency."""

    def met(self, asked: Asked) -> Met:
        amount = found(asked.arguments, self.argument)
        if amount is None:
            return None, f"the argument {self.argument} is missing"
        if type(amount) not in (int, float) or (type(amount) is float and not math.isfinite(amount)):
            return None, f"the argument {self.argument} is no number"
        for kind, bound in self.bounds.items():
            limit = bound
            if self.currency is not None:
                currency = found(asked.arguments, self.currency)
                if type(currency) is not str or currency not in bound:
                    return None, f"the argument {self.currency} is no currency that has a bound ({', '.join(bound)})"
                limit = bound[currency]
            if not BOUNDS[kind](amount, limit):
                return False, f"amount: {self.argument} is not {_WORDS[kind]} {limit:,}"
        return True, ""


def found(arguments: Mapping[str, Any], path: str) -> Any:
    """What stands at a path of the arguments; None if nothing does. Whatever the arguments are, nothing is raised."""
    value: Any = arguments
    for step in _steps(path):
        try:
            if isinstance(value, Mapping):
                value = value[step]
            elif type(value) is list and step.isascii() and step.isdigit() and len(step) <= 9:
                value = value[int(step)]
            else:
                return None
        except Exception:
            return None
    return value


def amount(reading: Reading, place: Place, value: Any) -> Amount:
    """The condition that a document says; raises `BadInput`."""
    fields = reading.fields(place, value, _FIELDS, "an amount")
    argument = _path(reading, (*place, "argument"), fields.get("argument"))
    currency = _path(reading, (*place, "currency"), fields["currency"]) if "currency" in fields else None
    bounds = {kind: _bound(reading, (*place, kind), fields[kind], currency) for kind in BOUNDS if kind in fields}
    if not bounds or {"at_most", "under"} <= bounds.keys() or {"at_least", "over"} <= bounds.keys():
        hint = "Write at_most or under, or at_least or over, or one of each."
        raise reading.bad(place, f"An amount has {len(bounds)} bounds: {', '.join(bounds) or 'none'}.", hint)
    return Amount(argument=argument, currency=currency, bounds=bounds)


def _bound(reading: Reading, place: Place, value: Any, currency: str | None) -> Any:
    if currency is None:
        if type(value) not in (int, float):
            hint = "It is a number, or a map of numbers by currency where the amount has a currency."
            raise reading.bad(place, f"The bound {place[-1]} is no number.", hint)
        return value
    if type(value) is not dict or not value or not all(type(one) in (int, float) for one in value.values()):
        hint = "Write a number for each: {EUR: 100, USD: 110}."
        raise reading.bad(place, f"The bound {place[-1]} of an amount with a currency is no map of numbers.", hint)
    return value


def _path(reading: Reading, place: Place, value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= 256 or not (value[0] == "/" or all(_steps(value))):
        hint = "Write a dotted path (order.total), or a JSON pointer (/order/total)."
        raise reading.bad(place, f"The {place[-1]} of an amount is no path to an argument.", hint)
    return value


def _steps(path: str) -> list[str]:
    if path.startswith("/"):
        return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
    return path.split(".")
