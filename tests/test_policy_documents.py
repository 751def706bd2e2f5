"""What is refused as a policy, and how the same policy is read from three kinds of files."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites.policies import EXAMPLES, KEYS, LEAVES, Odd, ask, policy, verdict

from ledger_core.errors import BadInput
from ledger_core.governance.policy import (
    DEFAULT,
    load_policy,
    parse_policy,
    strictest,
)
from ledger_core.governance.policy_file import MAX_FILE
from ledger_core.governance.policy_review import review

_RULE = {"name": "r", "verdict": "allow"}
_BAD = [
    ([], "a list of 0", "the policy"),
    ({}, "version is missing", "version"),
    ({"version": 2}, "version is 2", "version"),
    ({"version": True}, "version is true", "version"),
    ({"version": 1.0}, "version is 1.0", "version"),
    ({"version": 1, "ruls": []}, "Did you mean rules", "ruls"),
    ({"version": 1, "name": 5}, "name is 5", "name"),
    ({"version": 1, "defaults": {"hgih": "deny"}}, "Did you mean high", "defaults.hgih"),
    ({"version": 1, "defaults": {"high": "denied"}}, "Did you mean deny", "defaults.high"),
    ({"version": 1, "rules": {}}, "rules is a map", "rules"),
    ({"version": 1, "rules": ["x"]}, r"rules\[0\] is 'x'", "rules[0]"),
    ({"version": 1, "rules": [{"verdict": "deny"}]}, "has no name", "rules[0]"),
    ({"version": 1, "rules": [{"name": "r"}]}, "has no verdict", "rules[0]"),
    ({"version": 1, "rules": [_RULE, _RULE]}, "have one name", "rules[1].name"),
    ({"version": 1, "name": b"x"}, "b'x'|bytes", "name"),
    ({"version": 1, "x": float("nan")}, "nan", "the policy"),
    ({"version": 1, "x": Odd()}, "Odd", "the policy"),
    ({1: 2}, "key 1", "the policy"),
    ("version: 1", "'version: 1'", "the policy"),
    (None, "nothing", "the policy"),
    (10**5000, "16,610 bits", "the policy"),
]
_BAD_RULES = [
    ({"name": "default: high risk"}, "cannot be called", "name"),
    ({"name": " "}, "name", "name"),
    ({"verdict": "Allow"}, "Did you mean allow", "verdict"),
    ({"verdict": False}, "verdict is false", "verdict"),
    ({"tool": "x"}, "Did you mean tools", "tool"),
    ({"tools": []}, "empty list", "tools"),
    ({"tools": ["a", 1.1]}, r"tools\[1\] is 1.1", "tools[1]"),
    ({"tools": ""}, "tools is ''", "tools"),
    ({"tools": "x" * 257}, "257 characters", "tools"),
    ({"risk": "hi"}, "risk is 'hi'", "risk"),
    ({"side_effects": ["write"]}, "external_write", "side_effects[0]"),
    ({"expires": 5}, "verdict is allow", "expires"),
    ({"verdict": "deny", "sandbox": True}, "sandbox", "sandbox"),
    ({"sandbox": "yes"}, "sandbox", "sandbox"),
    ({"reason": "x" * 1001}, "1,001 characters", "reason"),
    ({"amount": 5}, "amount is 5", "amount"),
    ({"amount": {"argument": "n"}}, "0 bounds", "amount"),
    ({"amount": {"argument": "n", "at_most": 1, "under": 2}}, "2 bounds", "amount"),
    ({"amount": {"at_most": 5}}, "no path", "amount.argument"),
    ({"amount": {"argument": "a..b", "over": 1}}, "no", "amount.argument"),
    ({"amount": {"argument": "n", "over": True}}, "number", "amount.over"),
    ({"amount": {"argument": "n", "over": {"EUR": 1}}}, "no number", "amount.over"),
    ({"amount": {"argument": "n", "currency": "c", "over": 5}}, "no map", "amount.over"),
]


@pytest.mark.parametrize(("document", "said", "place"), _BAD, ids=[f"{one[2]} {one[1]}"[:50] for one in _BAD])
def test_what_is_refused_as_a_policy(document, said, place):
    """A mistake is said with its place, in one sentence and a hint that names the nearest word."""
    with pytest.raises(BadInput, match=said) as error:
        parse_policy(document, source="mine")

    assert str(error.value).startswith("mine: ") and "\n" not in str(error.value)
    assert error.value.fields["place"] == place


@pytest.mark.parametrize(("fields", "said", "place"), _BAD_RULES, ids=[f"{one[2]} {one[1]}"[:50] for one in _BAD_RULES])
def test_what_is_refused_as_a_rule(fields, said, place):
    """A mistake in a rule is said with the place of the field."""
    with pytest.raises(BadInput, match=said) as error:
        parse_policy({"version": 1, "rules": [{**_RULE, **fields}]})

    assert error.value.fields["place"] == f"rules[0].{place}"


@pytest.mark.parametrize("expires", [0, -1, True, "1", "h", "1 week", "1.5h", "-1h", "1h ", None, [], 1e9, "99999999d"])
def test_times_that_are_refused(expires):
    """A time is a positive number of seconds, or a whole number with a unit."""
    with pytest.raises(BadInput, match="expires"):
        policy({"verdict": "approve", "expires": expires})


def test_times():
    """Seconds, or text with a unit."""
    for written, seconds in (
        (90, 90),
        (0.5, 0.5),
        ("90s", 90),
        ("15m", 900),
        ("15 min", 900),
        ("1h", 3600),
        ("7d", 604_800),
    ):
        assert policy({"verdict": "approve", "expires": written}).decide(ask()).expires == seconds


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)))
def test_any_value_is_a_policy_or_bad_input(value):
    """Whatever stands where a rule, a schema or an amount should be is refused with `BadInput`, or is one."""
    for document in (
        value,
        {"version": 1, "rules": value},
        {"version": 1, "rules": [value]},
        {"version": 1, "rules": [{**_RULE, "when": value}]},
        {"version": 1, "rules": [{**_RULE, "amount": value}]},
        {"version": 1, "rules": [{**_RULE, "tools": value}]},
        {"version": 1, "rules": [{**_RULE, "when": {"properties": value, "items": value, "anyOf": value}}]},
    ):
        try:
            parse_policy(document)
        except BadInput:
            continue


# files


def test_the_examples_are_policies_and_nothing_in_them_is_to_note():
    """Every file in fixtures/policies is a policy whose rules can all decide."""
    found = {path.name: load_policy(path) for path in EXAMPLES.iterdir()}

    assert len(found) >= 4
    assert {name: review(one) for name, one in found.items()} == dict.fromkeys(found, [])


def test_the_same_data_is_the_same_policy():
    """YAML, TOML and JSON of the same data have one digest; comments and order of keys do not count, rules do."""
    shop = load_policy(EXAMPLES / "shop.yaml")
    assert len({load_policy(EXAMPLES / f"shop.{kind}").digest for kind in ("yaml", "toml", "json")}) == 1
    assert len(shop.digest) == 32 and parse_policy(shop.document) == shop

    document = shop.document
    turned = {key: document[key] for key in reversed(document)}
    assert parse_policy(turned).digest == shop.digest
    document["rules"] = document["rules"][::-1]
    assert parse_policy(document).digest != shop.digest


def test_the_digest_of_a_policy_stays_what_it_is():
    """Digests are recorded: they may not change with the code."""
    assert DEFAULT.digest.hex() == "d713d0d7df03cf84b8e72629f6d1d110b69fe208dfa0d4099968cf4bb2a6a35f"
    both = strictest([DEFAULT.decide(ask()), parse_policy({"version": 1}).decide(ask())])
    assert both.policy.hex() == "2a7c993bb9c004f5687239c76f43dae5c060950bfe855dca259e9e8a0cda54fe"


def test_a_policy_is_a_value():
    """What is done to its document afterwards, or to what it gave, changes nothing."""
    given = {"version": 1, "rules": [{"name": "r", "verdict": "deny", "when": {"required": ["n"]}, "tools": ["t"]}]}
    found = parse_policy(given)
    given["rules"][0]["verdict"] = "allow"
    given["rules"][0]["when"]["required"].clear()
    found.document["rules"].clear()

    assert verdict(found, arguments={"n": 1}) == "deny" and verdict(found) == "allow"
    assert len(found.document["rules"]) == 1 and hash(found) == hash(parse_policy(found.document))


_BAD_YAML = [
    ("version: 1\nrules:\n  - name: a\n    name: b\n", "line 4.*stands twice"),
    ("version: 1\nversion: 1\n", "line 2.*stands twice"),
    ("a: &a [x]\nb: *a\n", "line 2.*alias"),
    ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "line 2.*alias"),
    ("version: !!python/object/apply:os.system ['true']\n", "line 1.*no plain data"),
    ("version: !mine 1\n", "line 1.*no plain data"),
    ("version: 1\nname: 2024-01-01\n", "line 2.*timestamp"),
    ("version: 1\nname: !!binary aGk=\n", "line 2.*binary"),
    ("version: 1\nrules:\n- name: a\n  verdict: approve\n  expires: 1:30\n", "line 5.*1:30 is 90"),
    ("version: .nan\n", "line 1.*nan"),
    ("version: " + "9" * 5000 + "\n", "line 1"),
    ("1: 2\n", "line 1.*no text"),
    ("on: 2\n", "line 1.*no text"),
    ("? [a]\n: b\n", "line 1.*no text"),
    ("? !!str {a: b}\n: b\n", "line 1"),
    ("<<: {version: 1}\n", "line 1.*no text"),
    ("version: 1\n--- \nversion: 1\n", "line 2"),
    ("version: [1\nrules: 2\n", "line 2.*no YAML"),
    ("\tversion: 1", "line 1"),
    ("version: 1\x07", "no YAML"),
    ("", "nothing"),
    ("# only words\n", "nothing"),
    ("just text", "just text"),
    ("[" * 60 + "]" * 60, "nested too deep"),
    ("[" * 20_000, "nested too deep"),
    ("{a: " * 20_000, "nested too deep"),
    ("version: 1\nrules:\n- name: a\n  verdict: allow\n- name: b\n  verdict: allow\n  tols: x\n", "line 7.*tols"),
    ("version: 1\nrules:\n- name: a\n  verdict: allow\n  tools: [a,\n    5]\n", r"line 6.*tools\[1\]"),
    ("version: 1\nrules:\n- name: a\n  verdict: allow\n  when:\n    properties:\n      a: {typ: b}\n", "line 7.*typ"),
    ("version: 1\nrules:\n- name: yes\n  verdict: no\n", "line 4.*verdict is false"),
]


@pytest.mark.parametrize(("text", "said"), _BAD_YAML, ids=[one[0][:30] for one in _BAD_YAML])
def test_yaml_that_is_refused(tmp_path, text, said):
    """What YAML could make something else of is refused with its line: twice a key, aliases, tags, dates, depth."""
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(BadInput, match=said) as error:
        load_policy(path)

    assert str(error.value).startswith(str(path))


_BAD_FILES = [
    ("p.toml", b"version = 1\nversion = 2\n", "line 2"),
    ("p.toml", b"version = 1\nwhen = 2024-01-01\n", "date"),
    ("p.toml", b"version = nan\n", "nan"),
    ("p.toml", b"a = " + b"[" * 9_000, "nested too deep|TOML"),
    ("p.toml", b"version = 1\n" + b"a." * 100_000 + b"a = 1\n", "line 2.*100,000 dots"),
    ("p.json", b'{"version": 1, "version": 1}', "stands twice"),
    ("p.json", b'{"version": NaN}', "NaN"),
    ("p.json", b'{"version": 1e999}', "inf"),
    ("p.json", b'{"version": 1,\n', "line 2"),
    ("p.json", b"[" * 100_000, "nested too deep"),
    ("p.json", b'{"version": 1, "name": "\\ud800"}', "stored"),
    ("p.json", b"", "line 1"),
    ("p.yaml", b"version: 1\nname: \xff\n", "no UTF-8"),
    ("p.yaml", b"#" * (MAX_FILE + 1), "bytes"),
    ("p.txt", b"version: 1\n", "suffix"),
    ("p", b"version: 1\n", "suffix"),
]


@pytest.mark.parametrize(("name", "raw", "said"), _BAD_FILES, ids=[f"{one[0]} {one[2]}" for one in _BAD_FILES])
def test_files_that_are_refused(tmp_path, name, raw, said):
    """A file that is no policy is refused in one sentence with its name."""
    (tmp_path / name).write_bytes(raw)

    with pytest.raises(BadInput, match=said) as error:
        load_policy(tmp_path / name)

    assert name in str(error.value)


def test_what_is_no_file_is_refused(tmp_path):
    """A directory, a pipe nobody writes to, a device, a loop of links and an impossible name are refused at once."""
    os.mkfifo(tmp_path / "pipe.yaml")
    os.symlink(tmp_path / "loop.yaml", tmp_path / "loop.yaml")
    os.symlink("/dev/zero", tmp_path / "zero.yaml")
    for name in ("", "pipe.yaml", "loop.yaml", "zero.yaml", "none.yaml", "a\0b.yaml", "x" * 300):
        with pytest.raises(BadInput):
            load_policy(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_a_policy(tmp_path):
    """A file that begins with one is read as if it did not."""
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbfversion: 1\n")

    assert load_policy(tmp_path / "p.yaml") == parse_policy({"version": 1})
