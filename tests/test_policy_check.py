"""`policy check`, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from suites.policies import EXAMPLES

AGENTS = """
from agentledger import agent, tool

@tool(name="look")
def look(n=0):
    return n

@tool(name="pay", side_effect="external_write", risk_level="high", approval_required=True)
def pay(n=0):
    return n

@agent(role="Clerk", tools=[look, pay])
def clerk(ctx):
    return None

@agent
def idle(ctx):
    return None
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """`policy check` in a process of its own, in a folder with agents and the example policies."""
    (tmp_path / "agents.py").write_text(AGENTS)
    monkeypatch.delenv("AGENTLEDGER_ROOT", raising=False)
    for path in EXAMPLES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def run(*words, code=0):
        ran = subprocess.run(
            [sys.executable, "-m", "agentledger", "policy", "check", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == code, f"{words} ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
        assert "Traceback" not in ran.stderr and "defect" not in ran.stderr
        return ran.stdout if "--json" not in words else json.loads(ran.stdout), ran.stderr

    run.folder = tmp_path
    return run


def test_check_says_what_is_in_a_policy(check):
    """A policy is shown with its rules and its digest, and exits with 0; what is none exits with 1 and its line."""
    out, err = check("shop.yaml")
    assert "other refunds" in out and "blake3:" in out and not err
    assert check("--policy", "shop.yaml", "--json")[0]["rule_count"] == 6
    assert "built-in" in check()[0]
    (check.folder / ".agentledger").mkdir()
    (check.folder / ".agentledger" / "policy.yaml").write_text("version: 1\nname: the ledger's own\n")
    assert "the ledger's own" in check()[0]

    (check.folder / "bad.yaml").write_text("version: 1\nrules:\n- name: a\n  verdit: allow\n")
    assert "line 4" in check("bad.yaml", code=1)[1] and "verdict" in check("bad.yaml", code=1)[1]
    assert check("bad.yaml", "--json", code=1)[0]["line"] == 4
    check("shop.yaml", "--policy", "shop.yaml", code=1)


def test_check_notes_what_can_never_decide(check):
    """Notes go to stderr and into the object; only --strict makes them a failure."""
    rules_ = [{"name": "all", "verdict": "allow"}, {"name": "late", "verdict": "deny", "tools": "x"}]
    (check.folder / "p.json").write_text(json.dumps({"version": 1, "rules": rules_}))

    assert "late: never decides" in check("p.json")[1]
    value, _ = check("p.json", "--json", "--strict", code=1)
    assert not value["ok"] and value["notes"] == [
        {"kind": "unreachable", "rule": "late", "message": value["notes"][0]["message"]}
    ]


def test_check_decides(check):
    """With --tool the verdict and every rule are shown; deny exits with 1, and --expect says what is well."""
    words = ("shop.yaml", "--tool", "payments.refund", "--role", "Support", "--arguments")
    out, _ = check(*words, '{"order": {"total": 20, "currency": "EUR"}}')
    assert out.startswith("allow: payments.refund (small refunds)") and "not reached" in out

    value, _ = check(*words, '{"order": {"total": "20", "currency": "EUR"}}', "--json", "--expect", "approve")
    assert (value["verdict"], value["rule"], value["expires"]) == ("approve", "other refunds", 14_400)
    assert [one["matched"] for one in value["trace"]] == [False, None, True, False, False, False, True]
    assert [one["rule"] for one in value["trace"] if one["decides"]] == ["other refunds"]

    check("shop.yaml", "--tool", "customers.delete_all", code=1)
    check("shop.yaml", "--tool", "customers.delete_all", "--expect", "deny")
    assert "Expected allow" in check("shop.yaml", "--tool", "customers.delete_all", "--expect", "allow", code=1)[1]
    assert check("--tool", "x", "--risk", "high", code=1)[0].startswith("deny")


def test_check_decides_for_every_tool_of_an_agent(check):
    """With --target each tool is decided as it is declared; --expect is for all of them; --tool picks one."""
    value, _ = check("shop.yaml", "--target", "agents.py:clerk", "--json")
    assert [(one["tool"], one["risk_level"], one["verdict"]) for one in value["tools"]] == [
        ("look", "low", "allow"),
        ("pay", "high", "approve"),
    ]
    assert [one["approval_required"] for one in value["tools"]] == [False, True]
    assert "pay asks for a person's yes" in check("shop.yaml", "--target", "agents.py:clerk")[1]
    assert "pay (approve)" in check("shop.yaml", "--target", "agents.py:clerk", "--expect", "allow", code=1)[1]
    assert "pay" in check("--target", "agents.py:clerk", "--tool", "pay", code=1)[0]
    check("--target", "agents.py:clerk", "--tool", "none", code=1)
    check("--target", "agents.py:idle", code=1)
    check("--target", "agents.py", code=1)


@pytest.mark.parametrize(
    "words",
    [
        ("--tool", "x", "--arguments", "{"),
        ("--tool", "x", "--arguments", "[]"),
        ("--tool", "x", "--arguments", '{"n": NaN}'),
        ("--tool", "x", "--arguments", "[" * 100_000),
        ("--expect", "deny"),
        ("--risk", "high"),
        ("none.yaml",),
        (".",),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_questions_that_cannot_be_answered_are_refused(check, words):
    """Arguments that are no object, a gate that asks nothing, and files that are none end with 1 and a sentence."""
    assert check(*words, code=1)[1].startswith("error: ")
