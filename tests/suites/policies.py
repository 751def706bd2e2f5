"""Policies and calls of every kind, for tests that hold for all of them."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from ledger_core.governance.policy import RISKS, VERDICTS, Asked, parse_policy
from ledger_core.governance.policy_rule import SIDE_EFFECTS

EXAMPLES = Path(__file__).parents[2] / "fixtures" / "policies"


def policy(*rules, **top):
    """A policy of rules that are called r1, r2, …"""
    named = [{"name": f"r{place}", **rule} for place, rule in enumerate(rules, 1)]
    return parse_policy({"version": 1, "rules": named, **top})


def ask(tool="t", **fields):
    """A call."""
    return Asked(agent="a", tool=tool, **fields)


def verdict(found, *words, **fields):
    """What a policy says of a call."""
    return found.decide(ask(*words, **fields)).verdict


class Odd:
    """What no argument should be."""


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.just(Odd()),
    st.just(10**400),
    st.sampled_from(["EUR", "USD", "eur", "5", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"]),
)
KEYS = st.one_of(st.sampled_from(["n", "o", "currency", "to"]), st.text(max_size=3), st.integers(), st.none())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner), st.dictionaries(KEYS, inner, max_size=3), st.frozensets(KEYS)
    ),
    max_leaves=8,
)
_ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
_PATTERNS = st.sampled_from(["*", "t", "t.*", "t.?", "?.*", "*x*", "[t]", "T"])
_SCHEMAS = st.sampled_from(
    [
        {"required": ["n"]},
        {"properties": {"n": {"maximum": 5}}},
        {"not": {"required": ["to"]}},
        {"properties": {"to": {"type": "string", "pattern": "^a+$"}}, "required": ["to"]},
        {"properties": {"o": {"$ref": "#/$defs/list"}}, "$defs": {"list": {"uniqueItems": True, "multipleOf": 0.1}}},
        {"anyOf": [{"properties": {"n": {"enum": [1, "5", None]}}}, {"maxProperties": 1}]},
    ]
)
_AMOUNTS = st.sampled_from(
    [
        {"argument": "n", "at_most": 5},
        {"argument": "/o/0/n", "over": 5.5},
        {"argument": "o.n", "currency": "currency", "under": {"EUR": 5, "USD": 6}, "at_least": {"EUR": 0, "USD": 0}},
    ]
)


@st.composite
def rules(draw):
    """The fields of a rule but its name."""
    found = {"verdict": draw(st.sampled_from(VERDICTS))}
    for field in ("tools", "agents", "roles", "versions", "sessions"):
        if draw(st.integers(0, 3)) == 0:
            found[field] = draw(st.lists(_PATTERNS, min_size=1, max_size=2))
    for field, known in (("risk", RISKS), ("side_effects", SIDE_EFFECTS)):
        if draw(st.integers(0, 3)) == 0:
            found[field] = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    for field, values in (("when", _SCHEMAS), ("amount", _AMOUNTS)):
        if draw(st.integers(0, 2)) == 0:
            found[field] = draw(values)
    if found["verdict"] == "approve" and draw(st.booleans()):
        found["expires"] = draw(st.sampled_from([5, "1h"]))
    if found["verdict"] != "deny":
        found["sandbox"] = draw(st.booleans())
    return found


_NAMES = st.sampled_from(["t", "t.a", "t.x", "T", "ax", "[t]", "t.ab\n", ""])
ASKED = st.builds(
    Asked,
    agent=_NAMES,
    role=st.none() | _NAMES,
    tool=_NAMES,
    version=_NAMES,
    risk_level=st.sampled_from(RISKS),
    side_effect=st.sampled_from(SIDE_EFFECTS),
    arguments=_ARGUMENTS,
    session=st.none() | _NAMES,
)
POLICIES = st.lists(rules(), max_size=5).map(lambda each: policy(*each))
