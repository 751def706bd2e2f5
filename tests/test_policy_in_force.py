"""The policy in force: files that change under it, several at once, and outside engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites.policies import VALUES, Odd, ask, policy

from ledger_core import codec
from ledger_core.errors import BadInput
from ledger_core.governance.policy import (
    DEFAULT,
    VERDICTS,
    Decision,
    InForce,
    strictest,
)


def write(path, *rules_, **top):
    """Write a policy file, whole at once."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"version": 1, "rules": list(rules_), **top}))
    os.replace(new, path)


def test_a_file_is_read_again_when_it_changed(tmp_path):
    """A decision follows the file: replaced, written in place with the same size and times, gone, broken, back."""
    path = tmp_path / "p.json"
    write(path, {"name": "aa", "verdict": "allow"})
    force = InForce.of(path)
    assert force.configured and force.decide(ask()).rule == "aa"

    write(path, {"name": "bb", "verdict": "deny"})
    assert force.decide(ask()).verdict == "deny"

    for name in ("cc", "dd", "ee"):  # same size, same inode, times put back
        found = os.stat(path)
        path.write_text(path.read_text().replace(force.decide(ask()).rule, name))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        assert force.decide(ask()).rule == name

    path.unlink()
    assert (force.decide(ask()).rule, force.decide(ask()).verdict) == ("policy file", "deny")
    path.write_text('{"version": 1, "rules": [')
    for _ in range(2):
        broken = force.decide(ask())
        assert broken.verdict == "deny" and "no JSON" in broken.reason and broken.policy == bytes(32)
    path.unlink()
    path.mkdir()
    assert force.decide(ask()).verdict == "deny"
    path.rmdir()
    write(path, {"name": "ff", "verdict": "allow"})
    assert force.decide(ask()).rule == "ff"


def test_an_unchanged_file_is_looked_at_and_not_read(tmp_path):
    """A file that has not changed for a while costs one stat a decision: nothing else is opened or read."""
    path = tmp_path / "p.json"
    write(path, {"name": "a", "verdict": "allow"})
    script = """
import os, sys, time
from ledger_core.governance.policy import InForce, Asked
force = InForce.of(sys.argv[1])
asked = Asked(agent="a", tool="t")
time.sleep(0.3)
force.decide(asked)
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event in ("open", "os.listdir") else None)
for _ in range(50):
    assert force.decide(asked).rule == "a"
print(seen)
"""
    ran = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[]"


def test_threads_decide_while_a_file_is_replaced(tmp_path):
    """While a file is replaced hundreds of times, every decision is one that some whole version of it makes."""
    path = tmp_path / "p.json"
    write(path, {"name": "n0", "verdict": "allow"})
    force, rules_seen, ended = InForce.of(path), [], threading.Event()

    def decide():
        while not ended.is_set():
            rules_seen.append(force.decide(ask()))

    threads = [threading.Thread(target=decide) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(1, 300):
        write(path, {"name": f"n{n}", "verdict": "allow" if n % 2 == 0 else "deny"})
        assert force.decide(ask()).rule == f"n{n}"
    ended.set()
    for thread in threads:
        thread.join()

    assert all(one.verdict == ("deny" if int(one.rule[1:]) % 2 else "allow") for one in rules_seen)


def test_what_may_be_given_as_a_policy(tmp_path):
    """Nothing, a path, a policy, a document, a callable, or several; anything else, and a bad file, at once refused."""
    path = tmp_path / "p.json"
    write(path, name="file")

    assert not InForce.of(None).configured and not InForce.of([]).configured
    force = InForce.of([str(path), DEFAULT, {"version": 1, "rules": [{"name": "no", "verdict": "deny"}]}, print])
    assert force.decide(ask()).rule == "no" and force.hooks == (print,)
    assert InForce.of(force) is force
    for wrong in (5, b"p.json", [5], [[]], {"version": 2}, tmp_path / "none.json", tmp_path):
        with pytest.raises(BadInput):
            InForce.of(wrong)


def test_several_policies_decide_together(tmp_path):
    """The strictest of all counts, and the documents of all can be kept by the digest that was recorded."""
    path = tmp_path / "p.json"
    write(path, {"name": "people", "verdict": "approve", "expires": 60})
    force = InForce.of(
        [policy({"verdict": "approve", "expires": 20}), path, policy({"verdict": "allow", "sandbox": True})]
    )

    decision = force.decide(ask())
    assert (decision.verdict, decision.rule, decision.expires, decision.sandbox) == ("approve", "r1", 20, True)
    documents = force.documents()
    assert len(documents) == 4
    assert documents[decision.policy] == {"all_of": sorted(one.hex() for one in documents if one != decision.policy)}
    path.unlink()
    assert force.decide(ask()).verdict == "deny" and len(force.documents()) == 3
    assert InForce.of(None).documents() == {DEFAULT.digest: DEFAULT.document}


def test_outside_engines_alone_decide_where_only_they_were_given():
    """Nothing but hooks: the built-in policy does not stand in their way; what they fail at denies."""
    force = InForce.of(lambda asked: asked.risk_level == "high")

    assert force.configured and force.decide(ask(risk_level="critical")).verdict == "allow"
    assert len(force.documents()) == 3
    said = force.of_hook(force.hooks[0](ask(risk_level="critical")), force.name_of(force.hooks[0]))
    both = strictest([force.decide(ask()), said])
    assert both.verdict == "deny"
    assert {bytes.fromhex(one) for one in force.documents()[both.policy]["all_of"]} < force.documents().keys()


_DIGEST = b"\1" * 32


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (True, "allow"),
        (False, "deny"),
        ("approve", "approve"),
        ({"verdict": "allow", "reason": "fine", "rule": "x", "more": object()}, "allow"),
        ({"decision": "approve", "expires": 5}, "approve"),
        ({"decision": True}, "allow"),
        ({"verdict": "deny", "decision": "deny"}, "deny"),
        ({"verdict": "allow", "decision": "deny"}, "deny"),
        ({"verdict": "allow", "sandbox": "yes"}, "deny"),
        ({"verdict": "allow", "expires": float("nan")}, "deny"),
        ({"verdict": ["allow"]}, "deny"),
        ({"verdict": 1}, "deny"),
        ({"result": True}, "deny"),
        ({}, "deny"),
        ("ALLOW", "deny"),
        ("", "deny"),
        (None, "deny"),
        (1, "deny"),
        ([], "deny"),
        (["allow"], "deny"),
        (b"allow", "deny"),
        (Odd(), "deny"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0][:40],
)
def test_what_an_outside_engine_answers(answer, expected):
    """A decision, a bool, a verdict, or a map with one; whatever else it answers denies."""
    decision = InForce.of_hook(answer, "opa")

    assert decision.verdict == expected and decision.rule.startswith("hook opa") and len(decision.policy) == 32
    codec.encode([decision.rule, decision.reason])


@given(VALUES | st.dictionaries(st.sampled_from(["verdict", "decision", "reason", "rule", "expires"]), VALUES))
def test_no_answer_of_an_outside_engine_opens_by_accident(answer):
    """Only True and the words of the contract allow; no answer makes the boundary raise."""
    decision = InForce.of_hook(answer, "opa")

    if decision.verdict != "deny":
        assert answer is True or answer in VERDICTS or {"verdict", "decision"} & answer.keys()
    codec.encode([decision.rule, decision.reason])


def test_a_decision_of_an_outside_engine_is_taken_as_it_is():
    """A hook may answer with a whole decision; a failure, and a coroutine that nobody awaited, deny."""
    own = Decision(verdict="approve", rule="mine", reason="because", policy=_DIGEST, expires=5)
    assert InForce.of_hook(own, "opa") is own

    async def hook(asked):
        return True

    assert InForce.of_hook(hook(None), "opa").verdict == "deny"
    assert InForce.failed(ConnectionError("secret"), "opa").verdict == "deny"
    assert "secret" not in InForce.failed(ConnectionError("secret"), "opa").reason
    assert "in time" in InForce.failed(TimeoutError(), "opa").reason
    assert InForce.failed(OSError(), "\ud800" * 500).verdict == "deny"


def test_the_front_door_loads_nothing_of_policy_files():
    """Importing agentledger and the policy in force imports neither jsonschema nor yaml."""
    script = """
import sys, agentledger, ledger_core.governance.policy as p
p.InForce.of(None)
print([one for one in ("jsonschema", "yaml", "referencing") if one in sys.modules])
"""

    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
