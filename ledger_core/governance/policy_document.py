"""Reading a policy out of plain data: every field checked, every mistake said with its place.

    version: 1
    name: shop
    defaults: {low: allow, medium: allow, high: approve, critical: deny}
    rules:
      - name: small refunds
        verdict: allow                # allow, approve or deny; the first rule that matches decides
        tools: payments.refund        # patterns, as in agents, roles, versions, sessions
        risk: [medium, high]          # and side_effects: what the tool declares
        amount: {argument: total, at_least: 0, at_most: 50}
        when: {required: [order]}     # a JSON Schema 2020-12 over the arguments
        reason: Small enough.
        sandbox: true
      - {name: refunds, verdict: approve, tools: payments.refund, expires: 1h}

Rules: pure. A field that is not known is refused, and so is one that says nothing (an empty list), or nothing here
(`expires` of a rule that asks nobody). There are no lists of tools by role: two rules say the same, and where two
mechanisms can contradict each other the first match no longer decides. This file does not know files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ledger_core import codec
from ledger_core.errors import BadInput, NotStorable
from ledger_core.governance import policy_amount, policy_rule, policy_when
from ledger_core.governance.policy_reading import Place, Reading, shown, spelled
from ledger_core.governance.policy_rule import NAMED, RISKS, SIDE_EFFECTS, VERDICTS, Condition, Policy, Rule
from ledger_core.ids import check_name

VERSION: Final = 1
TOP: Final = ("version", "name", "defaults", "rules")
RULE: Final = ("name", "verdict", *NAMED, "when", "amount", "reason", "expires", "sandbox")
_KNOWN_NAMES: Final = {"risk": RISKS, "side_effects": SIDE_EFFECTS}
_LONGEST: Final = {"pattern": 256, "reason": 1_000}
_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}


def parse_policy(document: Mapping[str, Any], *, source: str = "", lines: Mapping[Place, int] | None = None) -> Policy:
    """The policy that a document of plain data says; raises `BadInput` with the place of what is wrong.

    `source` is how the document is called in errors, `lines` the line of each place, where a parser knew them.
    """
    reading = Reading(source=source, lines=lines or {})
    if not isinstance(document, Mapping):
        raise reading.bad((), f"A policy is a map, and this is {shown(document)}.", "Begin with version: 1.")
    try:
        plain = codec.roundtrip(dict(document))
    except NotStorable as error:
        said = (
            error.sentence.replace("value", "the policy", 1) if error.sentence.startswith("value") else error.sentence
        )
        raise reading.bad((), said[:1].upper() + said[1:], error.hint) from None
    top = reading.fields((), plain, TOP, "a policy")
    if top.get("version") != VERSION or type(top.get("version")) is not int:
        found = shown(top["version"]) if "version" in top else "missing"
        raise reading.bad(("version",), f"version is {found}.", f"Write version: {VERSION}, the only one there is.")
    name = _text(reading, ("name",), top.get("name", ""), "pattern", empty=True)
    defaults = {
        risk: reading.one_of(("defaults", risk), verdict, VERDICTS)
        for risk, verdict in reading.fields(("defaults",), top.get("defaults", {}), RISKS, "the defaults").items()
    }
    return Policy(document=plain, rules=_rules(reading, top.get("rules", [])), defaults=defaults, name=name)


def _rules(reading: Reading, value: Any) -> list[Rule]:
    if type(value) is not list:
        raise reading.bad(("rules",), f"rules is {shown(value)}.", "It is a list: the first rule that matches decides.")
    rules: list[Rule] = []
    places: dict[str, int] = {}
    for number, each in enumerate(value):
        place = ("rules", number)
        rule = _rule(reading, place, reading.fields(place, each, RULE, "a rule"))
        if rule.name in places:
            raise reading.bad(
                (*place, "name"),
                f"rules[{places[rule.name]}] and rules[{number}] have one name, {rule.name!r}.",
                "Decisions are recorded by the names of rules: give each its own.",
            )
        places[rule.name] = number
        rules.append(rule)
    return rules


def _rule(reading: Reading, place: Place, fields: dict[str, Any]) -> Rule:
    for needed in ("name", "verdict"):
        if needed not in fields:
            raise reading.bad(place, f"{spelled(place)} has no {needed}.", "A rule has a name and a verdict.")
    verdict = reading.one_of((*place, "verdict"), fields["verdict"], VERDICTS)
    conditions: list[Condition] = [
        policy_rule.named(field, _patterns(reading, (*place, field), fields[field]))
        for field in NAMED
        if field in fields
    ]
    if "amount" in fields:
        conditions.append(policy_amount.amount(reading, (*place, "amount"), fields["amount"]))
    if "when" in fields:
        conditions.append(policy_when.when(reading, (*place, "when"), fields["when"]))
    sandbox = fields.get("sandbox", False)
    if type(sandbox) is not bool or (sandbox and verdict == "deny"):
        hint = "It is true or false, and says nothing where the verdict is deny."
        raise reading.bad((*place, "sandbox"), f"{spelled((*place, 'sandbox'))} is {shown(sandbox)}.", hint)
    if "expires" in fields and verdict != "approve":
        hint = "Only an approval expires: write verdict: approve, or leave it out."
        raise reading.bad((*place, "expires"), f"{spelled(place)} has an expires, and its verdict is {verdict}.", hint)
    return Rule(
        name=_name(reading, (*place, "name"), fields["name"]),
        verdict=verdict,
        conditions=tuple(conditions),
        reason=_text(reading, (*place, "reason"), fields.get("reason", ""), "reason", empty=True),
        expires=_seconds(reading, (*place, "expires"), fields["expires"]) if "expires" in fields else None,
        sandbox=sandbox,
    )


def _name(reading: Reading, place: Place, value: Any) -> str:
    try:
        name = check_name(value, "rule")
    except BadInput as error:
        raise reading.bad(place, f"{spelled(place)}: {error.sentence}", error.hint) from None
    if name.startswith(("default:", "hook ")) or name == "policy file":
        hint = "Decisions that no rule made are recorded under names that begin so."
        raise reading.bad(place, f"A rule cannot be called {name!r:.60}.", hint)
    return name


def _patterns(reading: Reading, place: Place, value: Any) -> list[str]:
    each = value if type(value) is list else [value]
    if not each:
        hint = "A rule with an empty list would never match: leave the field out, or the rule."
        raise reading.bad(place, f"{spelled(place)} is an empty list.", hint)
    known = _KNOWN_NAMES.get(str(place[-1]))
    found = []
    for number, one in enumerate(each):
        where = (*place, number) if type(value) is list else place
        found.append(reading.one_of(where, one, known) if known else _text(reading, where, one, "pattern"))
    return found


def _text(reading: Reading, place: Place, value: Any, kind: str, *, empty: bool = False) -> str:
    longest = _LONGEST[kind]
    if type(value) is not str or not (empty or value) or len(value) > longest:
        found = f"text of {len(value):,} characters" if type(value) is str and value else shown(value)
        hint = f"It is text of at most {longest:,} characters; write it in quotes."
        raise reading.bad(place, f"{spelled(place)} is {found}.", hint)
    return value


def _seconds(reading: Reading, place: Place, value: Any) -> float:
    seconds: Any = value
    if type(value) is str:
        found = re.fullmatch(r"([0-9]{1,9}) ?(s|m|min|h|d)", value)
        seconds = int(found[1]) * _UNITS[found[2]] if found else None
    if type(seconds) not in (int, float) or not 0 < seconds < 1e9:
        hint = "It is a number of seconds, or text such as 90s, 15m, 1h, 7d."
        raise reading.bad(place, f"{spelled(place)} is {shown(value)}.", hint)
    return float(seconds)
