"""What the author of a policy may not have meant: rules that can never decide, and conditions that say too little.

Rules: pure; yields values, and decides nothing. What is said of coverage is certain: every call that the later rule is
for, the earlier one is for too. The reverse does not hold: several rules may cover one together, unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from ledger_core.governance import policy_when
from ledger_core.governance.policy_amount import Amount
from ledger_core.governance.policy_rule import RISKS, SIDE_EFFECTS, Named, Policy, Rule
from ledger_core.governance.policy_when import When

_ALL: Final[Mapping[str, tuple[str, ...]]] = {
    "tools": ("*",),
    "versions": ("*",),
    "agents": ("*",),
    "risk": RISKS,
    "side_effects": SIDE_EFFECTS,
}
"""What a field fits that fits everything; a role and a session may be none, and then fit no pattern."""
_STAR: Final = "\0"
"""Stands for a `*` of a pattern that is itself matched: no name has it."""


@attrs.frozen(kw_only=True)
class Note:
    """One thing to look at."""

    kind: str
    """`unreachable`, `open schema` or `negative amount`."""
    rule: str
    message: str


def review(policy: Policy) -> list[Note]:
    """What to look at in a policy, in the order of its rules."""
    notes: list[Note] = []
    for at, rule in enumerate(policy.rules):
        earlier = next((one for one in policy.rules[:at] if covers(one, rule)), None)
        if earlier is not None:
            said = f"never decides: {earlier.name} stands before it, and is for every call that it is for"
            notes.append(Note(kind="unreachable", rule=rule.name, message=said))
        if rule.verdict != "deny":
            notes += _open(rule)
    return notes


def covers(earlier: Rule, later: Rule) -> bool:
    """Whether an earlier rule certainly is for every call that a later one is for."""
    for condition in earlier.conditions:
        if not isinstance(condition, Named):
            return False
        if _whole(condition):
            continue
        other = next((one for one in later.conditions if isinstance(one, Named) and one.field == condition.field), None)
        if other is None or not all(any(_within(b, a) for a in condition.patterns) for b in other.patterns):
            return False
    return True


def _whole(condition: Named) -> bool:
    return set(_ALL.get(condition.field, (_STAR,))) <= set(condition.patterns)


def _within(inner: str, outer: str) -> bool:
    """Whether every name that fits one pattern certainly fits another: `*` takes all, `?` any character but a star."""
    text = inner.replace("*", _STAR)
    at = place = 0
    star, taken = -1, 0
    while at < len(text):
        if place < len(outer) and outer[place] == "*":
            star, taken = place, at
            place += 1
        elif place < len(outer) and (outer[place] == text[at] or (outer[place] == "?" and text[at] != _STAR)):
            at, place = at + 1, place + 1
        elif star >= 0:  # the last star takes one more
            taken += 1
            at, place = taken, star + 1
        else:
            return False
    return not outer[place:].strip("*")


def _open(rule: Rule) -> list[Note]:
    notes = []
    for condition in rule.conditions:
        if isinstance(condition, When):
            notes += [
                Note(kind="open schema", rule=rule.name, message=said)
                for said in policy_when.loopholes(condition.schema)
            ]
        if isinstance(condition, Amount) and not {"at_least", "over"} & condition.bounds.keys():
            said = f"is for negative amounts too: add at_least: 0 to the amount of {condition.argument}"
            notes.append(Note(kind="negative amount", rule=rule.name, message=said))
    return notes
