"""Policies: what is decided, in doubt too, and what their authors may not have meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites.policies import ASKED, POLICIES, Odd, ask, policy, rules, verdict

from ledger_core import codec
from ledger_core.errors import BadInput
from ledger_core.governance.policy import (
    DEFAULT,
    RISKS,
    VERDICTS,
    Asked,
    Decision,
    InForce,
    parse_policy,
    strictest,
)
from ledger_core.governance.policy_pattern import compiled
from ledger_core.governance.policy_reading import Reading
from ledger_core.governance.policy_review import covers, review

# what is decided


@given(POLICIES, ASKED)
def test_a_decision_is_made_whatever_is_asked_and_is_the_same_each_time(found, asked):
    """No arguments make a policy raise; the same call, the same rules read again, and the traces say the same."""
    decision = found.decide(asked)

    assert decision == found.decide(asked) == parse_policy(found.document).decide(asked)
    assert decision.policy == found.digest
    deciding = [trace for trace in found.explain(asked) if trace.decides]
    assert [trace.rule for trace in deciding] == [decision.rule]
    assert deciding[0].verdict == decision.verdict
    codec.encode([decision.rule, decision.reason])


@given(st.lists(rules(), max_size=4), rules(), ASKED)
def test_a_deny_rule_at_the_top_never_opens_anything(each, first, asked):
    """With a deny rule before all others a verdict is the same, or deny."""
    first = {key: value for key, value in first.items() if key not in ("sandbox", "expires")} | {"verdict": "deny"}
    before, after = policy(*each).decide(asked), policy({**first, "name": "first"}, *each).decide(asked)

    assert after.verdict in (before.verdict, "deny")
    assert after.verdict == "deny" or after.sandbox == before.sandbox


@given(st.lists(rules(), min_size=1, max_size=4), ASKED)
def test_doubt_never_opens(each, asked):
    """A call is decided no more loosely than without the rules that are in doubt of it, and than the first of them."""
    found = policy(*each)
    decision = found.decide(asked)
    doubtful = [rule.name for rule in found.rules if rule.met(asked)[0] is None]
    without = policy(*(rule for place, rule in enumerate(each, 1) if f"r{place}" not in doubtful)).decide(asked)

    assert VERDICTS.index(decision.verdict) >= VERDICTS.index(without.verdict)
    traces = found.explain(asked)
    first = next(trace for trace in traces if trace.matched is not False)
    assert first.matched or VERDICTS.index(decision.verdict) >= VERDICTS.index(first.verdict)
    assert not without.sandbox or decision.sandbox or decision.verdict == "deny"


@given(ASKED, st.sampled_from(("high", "critical")))
def test_an_unknown_tool_of_high_risk_is_denied(asked, risk):
    """What no rule is for is denied by the built-in policy where its risk is high or critical."""
    call = Asked(agent=asked.agent, tool=asked.tool, risk_level=risk, arguments=asked.arguments)

    assert DEFAULT.decide(call).verdict == "deny"
    assert InForce.of(None).decide(call) == DEFAULT.decide(call)


def test_the_built_in_policy():
    """Low and medium risk are allowed, high and critical are denied, and the decision says why."""
    found = {risk: DEFAULT.decide(ask(risk_level=risk)) for risk in RISKS}

    assert {risk: one.verdict for risk, one in found.items()} == {
        "low": "allow", "medium": "allow", "high": "deny", "critical": "deny"
    }  # fmt: skip
    assert found["high"].rule == "default: high risk" and "high risk" in found["high"].reason


def test_the_first_rule_that_matches_decides():
    """Rules are asked in their order; what none is for has the default of its risk, which a policy may change."""
    found = policy(
        {"verdict": "approve", "tools": "pay.*", "roles": "Clerk", "expires": "1h"},
        {"verdict": "deny", "tools": ["pay.*", "burn"]},
        {"verdict": "allow", "tools": "pay.small"},
        defaults={"low": "deny", "high": "approve"},
    )

    decision = found.decide(ask("pay.small", role="Clerk"))
    assert (decision.verdict, decision.rule, decision.expires) == ("approve", "r1", 3600)
    assert verdict(found, "pay.small") == "deny"
    assert verdict(found, "other") == "deny" and verdict(found, "other", risk_level="high") == "approve"
    assert verdict(found, "other", risk_level="medium") == "allow"


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("pay.*", ["pay.", "pay.a", "pay.\n"], ["pay", "Pay.a", "xpay.a"]),
        ("a?c", ["abc", "a.c"], ["ac", "abbc", "ABC"]),
        ("[ab]", ["[ab]"], ["a", "b"]),
        ("!a", ["!a"], ["b"]),
        ("*", ["", "a\nb"], []),
        ("a**b***", ["ab", "axbx"], ["a"]),
        ("a\\*", ["a\\x"], ["a*", "ax"]),
    ],
)
def test_patterns(pattern, fits, fits_not):
    """`*` is any text and `?` one character; everything else is itself, and the case counts."""
    found = policy({"verdict": "deny", "tools": pattern})

    assert {name for name in [*fits, *fits_not] if verdict(found, name) == "deny"} == set(fits)


def test_a_pattern_of_many_stars_comes_to_an_end():
    """A pattern that a plain regular expression would try for ever is matched."""
    assert verdict(policy({"verdict": "deny", "tools": "*a" * 100 + "b"}), "a" * 5000) == "allow"


def test_no_role_and_no_session_fit_no_pattern():
    """A rule for roles or sessions is not for calls without one, whatever its verdict; that is no doubt."""
    for field, of in (("roles", "role"), ("sessions", "session")):
        found = policy({"verdict": "deny", field: "*"})
        assert verdict(found) == "allow" and verdict(found, **{of: "x"}) == "deny"


# amounts, and doubt

_NO_AMOUNT = [
    {},
    {"n": None},
    {"n": "5"},
    {"n": True},
    {"n": float("nan")},
    {"n": float("-inf")},
    {"n": [1]},
    {"n": b"1"},
]


@pytest.mark.parametrize("arguments", _NO_AMOUNT, ids=repr)
def test_an_amount_in_doubt_never_opens(arguments):
    """An amount that is missing or no number is no allow, is a deny, and makes an approve neither looser nor void."""
    amount = {"argument": "n", "at_least": -1000, "at_most": 1000}
    call = {"arguments": arguments, "risk_level": "high"}

    assert verdict(policy({"verdict": "allow", "amount": amount}), **call) == "deny"
    denied = policy({"verdict": "deny", "amount": amount}, {"verdict": "allow"}).decide(ask(**call))
    assert denied.verdict == "deny" and "cannot be told" in denied.reason and denied.rule == "r1"
    assert verdict(policy({"verdict": "approve", "amount": amount}, {"verdict": "deny"}), **call) == "deny"
    assert verdict(policy({"verdict": "approve", "amount": amount}, {"verdict": "allow"}), **call) == "approve"
    boxed = policy({"verdict": "allow", "amount": amount, "sandbox": True}, {"verdict": "allow"}).decide(ask(**call))
    assert (boxed.verdict, boxed.sandbox, boxed.rule) == ("allow", True, "r2")


def test_bounds():
    """Each bound means what it says, at the bound too, for integers of any size and for floats."""
    for kind, inside, outside in (
        ("at_most", [5, 5.0, -(10**30)], [5.1, 2**60]),
        ("under", [4, 4.999], [5, 5.0]),
        ("at_least", [5, 10**30], [4.999, -1]),
        ("over", [5.01], [5, 0]),
    ):
        found = policy({"verdict": "deny", "amount": {"argument": "n", kind: 5}})
        assert {verdict(found, arguments={"n": n}) for n in inside} == {"deny"}
        assert {verdict(found, arguments={"n": n}) for n in outside} == {"allow"}


def test_where_an_amount_is_found():
    """A dotted path, or a JSON pointer for keys with dots and slashes; numbers are places in lists."""
    arguments = {"order": {"items": [{"price": 1}, {"price": 9}]}, "a.b": {"c/d": 9}, "~": 9, "": {"": 9}}
    for path in ("order.items.1.price", "/order/items/1/price", "/a.b/c~1d", "/~0", "//"):
        found = policy({"verdict": "deny", "amount": {"argument": path, "over": 8}}, {"verdict": "allow"})
        assert verdict(found, arguments=arguments) == "deny", path
        assert not found.explain(ask(arguments=arguments))[0].why
    for path in ("order.items.-1.price", "order.items.２.price", "order.items.7.price", "order.items.price"):
        found = policy({"verdict": "deny", "amount": {"argument": path, "over": 8}}, {"verdict": "allow"})
        assert "is missing" in found.explain(ask(arguments=arguments))[0].why, path


def test_a_currency_without_a_bound_is_in_doubt():
    """Each currency has its bound; of others nobody can tell how much an amount is."""
    amount = {"argument": "n", "currency": "c", "over": {"EUR": 100, "USD": 110}}
    found = policy({"verdict": "deny", "amount": amount})

    for arguments, expected in (
        ({"n": 105, "c": "EUR"}, "deny"),
        ({"n": 105, "c": "USD"}, "allow"),
        ({"n": 1, "c": "eur"}, "deny"),
        ({"n": 1, "c": "JPY"}, "deny"),
        ({"n": 1, "c": ["EUR"]}, "deny"),
        ({"n": 1}, "deny"),
    ):
        assert verdict(found, arguments=arguments) == expected, arguments


# schemas


def when(schema, kind="allow"):
    return policy({"verdict": kind, "when": schema}, {"verdict": "deny"} if kind == "allow" else {"verdict": "allow"})


def test_a_schema_is_held_against_the_arguments():
    """`when` is a JSON Schema 2020-12: references inside it, types, what is required; a failed one says where."""
    schema = {
        "required": ["to"],
        "properties": {"to": {"type": "array", "items": {"$ref": "#/$defs/a%20b~1c"}}},
        "$defs": {"a b/c": {"type": "string", "pattern": "@example[.]com$"}},
    }
    found = when(schema)

    assert verdict(found, arguments={"to": ["a@example.com"]}) == "allow"
    for wrong in ({}, {"to": "a@example.com"}, {"to": ["a@example.com", "b@evil.com"]}, {"to": [1]}):
        assert verdict(found, arguments=wrong) == "deny"
    assert found.explain(ask(arguments={"to": ["x@evil.com"]}))[0].why == "when: to.0 fails pattern"


def test_the_end_of_a_pattern_is_the_end_of_the_text():
    """`$` does not also stand before a last line break, and classes are ASCII."""
    found = when({"properties": {"to": {"type": "string", "pattern": "^\\w+[$]?$"}}, "required": ["to"]})

    assert verdict(found, arguments={"to": "ab$"}) == "allow"
    assert {verdict(found, arguments={"to": to}) for to in ("ab\n", "é", "ab$\n")} == {"deny"}


@pytest.mark.parametrize(
    "arguments",
    [{"n": float("nan")}, {"n": b"x"}, {"n": {1: 2}}, {"n": (1,)}, {"n": Odd()}, {"n": "a" * 200_000}],
    ids=["nan", "bytes", "keys", "tuple", "object", "long text"],
)
def test_arguments_that_a_schema_cannot_be_held_against_are_in_doubt(arguments):
    """What no JSON can hold, and text too long for a pattern, is no allow and is a deny, also below a `not`."""
    for schema in ({"properties": {"n": {"pattern": "b+c+"}}}, {"not": {"properties": {"n": {"pattern": "x"}}}}):
        assert verdict(when(schema), arguments=arguments) == "deny"
        assert verdict(when(schema, "deny"), arguments=arguments) == "deny"


def test_arguments_without_end_are_in_doubt():
    """A list that holds itself, and one that is deeper than anything stored, is decided."""
    around = []
    around.append(around)
    doubled = []
    doubled += [doubled, doubled]
    deep = {}
    for _ in range(5_000):
        deep = {"n": deep}
    for value in (around, doubled, deep):
        assert verdict(when({"properties": {"n": {"not": {"const": 5}}}}), arguments={"n": value}) == "deny"


def test_a_long_list_is_not_compared_with_itself():
    """`uniqueItems` of a list of a hundred thousand maps is in doubt, and not computed."""
    found = when({"properties": {"n": {"uniqueItems": True}}})

    assert verdict(found, arguments={"n": [{"a": n} for n in range(900)]}) == "allow"
    assert verdict(found, arguments={"n": [{"a": n} for n in range(100_000)]}) == "deny"


_BAD_SCHEMAS = [
    ({"$ref": "https://example.com/schema"}, "another document"),
    ({"properties": {"a": {"$ref": "file.json#/a"}}}, "another document"),
    ({"$ref": "#/$defs/none"}, "where no schema is"),
    ({"$ref": "#"}, "refers to itself"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}, "refers to itself"),
    ({"propertes": {}}, "keyword 'propertes'"),
    ({"format": "email"}, "keyword 'format'"),
    ({"patternProperties": {"a": {}}}, "keyword 'patternProperties'"),
    ({"$id": "https://example.com/x"}, "keyword '\\$id'"),
    ({"$schema": "http://json-schema.org/draft-07/schema#"}, "dialect"),
    ({"type": "text"}, "no JSON Schema"),
    ({"required": "a"}, "no JSON Schema"),
    ({"pattern": "("}, "no regular expression"),
    ({"pattern": "(a+)+$"}, "for ever"),
    ({"pattern": "^(a|ab|b)*c"}, "for ever"),
    ({"pattern": "(a*)\\1"}, "for ever"),
    ({"pattern": "a?" * 30 + "a" * 30}, "for ever"),
    ({"pattern": ".*" * 9}, "for ever"),
    ({"pattern": "a" * 600}, "no pattern"),
    ({"pattern": "a{99999999999999999999}"}, "no regular expression"),
    ({"pattern": "(?x)a b"}, "flag"),
    ({"pattern": 5}, "no JSON Schema"),
    ({}, "a map of 0"),
    (True, "true"),
]


@pytest.mark.parametrize(("schema", "said"), _BAD_SCHEMAS, ids=[str(one[0])[:40] for one in _BAD_SCHEMAS])
def test_schemas_that_are_refused(schema, said):
    """A schema that is none, says what would be ignored, reaches outside, or could take for ever is no policy."""
    with pytest.raises(BadInput, match=said) as error:
        when(schema)

    assert error.value.fields["place"].startswith("rules[0].when")


def test_references_cannot_multiply():
    """A schema whose references double twenty times is refused when it is read."""
    defs = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(20)} | {"a20": {"const": 1}}

    with pytest.raises(BadInput, match="too many schemas"):
        when({"$ref": "#/$defs/a0", "$defs": defs})


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a+b", "a"),
        ("^a*a*b", "a"),
        ("a*a*b", "a"),
        ("a?" * 12 + "a" * 12 + "b", "a"),
        ("(?:ab)*(?:ab)*c", "ab"),
        ("^(?:[a-z0-9-]++[.])*example[.]com$", "a."),
        ("(?:a|b)(?:a|b)(?:a|b)x", "ab"),
    ],
)
def test_every_pattern_has_a_longest_text(pattern, text):
    """A pattern is held against text up to its longest, where it comes to an end, and longer text is in doubt."""
    longest = compiled(Reading(), (), pattern).longest
    found = when({"properties": {"n": {"type": "string", "not": {"pattern": pattern}}}, "required": ["n"]})

    assert verdict(found, arguments={"n": (text * longest)[:longest]}) == "allow"
    assert verdict(found, arguments={"n": (text * longest)[:longest] + text[0]}) == "deny"


# what the author may not have meant


def test_rules_that_never_decide_are_found():
    """A rule behind one that is for every call that it is for is unreachable; one that is for more is not."""
    found = policy(
        {"verdict": "allow", "tools": ["pay.*", "x"], "risk": ["low", "medium"]},
        {"verdict": "deny", "tools": "pay.small", "risk": "low", "when": {"required": ["n"]}},  # covered
        {"verdict": "deny", "tools": "pay.small"},  # any risk
        {"verdict": "deny", "tools": "p*", "risk": "low"},  # more tools
        {"verdict": "deny", "tools": ["pay.?", "x"], "risk": "medium"},  # covered
        {"verdict": "approve", "roles": "*"},
        {"verdict": "deny", "roles": "R"},  # covered
        {"verdict": "allow", "tools": "*", "risk": list(RISKS)},
        {"verdict": "deny"},  # covered
    )

    assert [note.rule for note in review(found) if note.kind == "unreachable"] == ["r2", "r5", "r7", "r9"]


@given(rules(), rules(), ASKED)
def test_what_is_said_to_be_covered_is(earlier, later, asked):
    """Where a rule is said to cover another, it matches every call that the other matches."""
    one, two = policy(earlier, later).rules

    if covers(one, two) and two.met(asked)[0] is not False:
        assert one.met(asked)[0] is True


def test_conditions_that_say_too_little_are_found():
    """A schema that is met by what it does not mention, and an amount without a lower bound, are noted."""
    open_ = {"when": {"properties": {"n": {"maximum": 5}}}, "amount": {"argument": "n", "at_most": 5}}
    closed = {
        "when": {"properties": {"n": {"type": "integer", "maximum": 5}}, "required": ["n"]},
        "amount": {"argument": "n", "at_most": 5, "at_least": 0},
    }

    assert [note.kind for note in review(policy({"verdict": "allow", **open_}))] == [
        "negative amount", "open schema", "open schema"
    ]  # fmt: skip
    assert review(policy({"verdict": "allow", **closed}, {"verdict": "deny", **open_})) == []


def test_the_strictest_of_several_decisions():
    """Deny before approve before allow; any sandbox; the shortest time; one digest whatever the order."""

    def made(verdict_, n, **more):
        return Decision(verdict=verdict_, rule=f"r{n}", reason="", policy=bytes([n]) * 32, **more)

    allow, slow, fast, deny = (
        made("allow", 1, sandbox=True),
        made("approve", 2, expires=50),
        made("approve", 3, expires=5),
        made("deny", 4),
    )
    assert strictest([allow]) is allow
    found = strictest([allow, slow, fast])
    assert (found.verdict, found.rule, found.expires, found.sandbox) == ("approve", "r2", 5, True)
    assert strictest([fast, allow, slow, allow]).policy == found.policy
    assert found.policy not in (allow.policy, slow.policy, fast.policy)
    assert strictest([slow, deny, fast]).verdict == "deny" and strictest([slow, deny]).expires is None
    assert strictest([allow, allow]).policy == allow.policy
    with pytest.raises(BadInput):
        strictest([])


def test_nothing_can_be_asked_of_an_unknown_risk():
    """A risk level or side effect that is none is refused where the call is described."""
    for wrong in ({"risk_level": "severe"}, {"risk_level": None}, {"side_effect": "write"}, {"risk_level": []}):
        with pytest.raises(BadInput):
            ask(**wrong)
