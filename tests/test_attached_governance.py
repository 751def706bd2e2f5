"""Attached code and other languages pass the same gate: policies, budgets, secrets, artifacts and costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from suites.runs import bodies

from agentledger import Budget, BudgetExceeded, PermissionDenied, Runtime, Secret
from ledger_core.secret import marker

RULES = {"version": 1, "rules": [{"name": "no mail", "verdict": "deny", "tools": ["mail.*"]}]}


def test_a_call_that_is_made_elsewhere_is_asked_for_first(tmp_path: Path) -> None:
    """`begin_tool` is denied where the policy says so, and nothing was begun; what is allowed goes on."""
    with Runtime.local(tmp_path, policy=RULES) as runtime:
        with runtime.attach("r") as ctx:
            with pytest.raises(PermissionDenied):
                ctx.begin_tool("mail.send", {"to": "Ada"})
            ctx.begin_tool("tickets.create", {"title": "x"}).succeeded({"id": 1})
            ctx.complete("done")
        assert [one.tool for one in bodies(runtime, "tool_call_requested")] == ["tickets.create"]
        assert [one.category for one in bodies(runtime, "effect_refused")] == ["policy"]


def test_budgets_bound_what_is_made_elsewhere(tmp_path: Path) -> None:
    """Calls and answers of attached code reserve and settle as others do, failures included."""
    with Runtime.local(tmp_path, prices={"m": {"input": 1, "output": 1}}) as runtime:
        with runtime.attach("r", budget=Budget(calls=2)) as ctx:
            ctx.begin_tool("a", {}).succeeded(1)
            ctx.begin_tool("a", {}).failed("Gone", no_effect=True)
            model = ctx.begin_model({"model": "m", "messages": []})
            model.succeeded({"usage": {"input_tokens": 4, "output_tokens": 2}})
            with pytest.raises(BudgetExceeded):
                ctx.begin_tool("a", {})
            with pytest.raises(BudgetExceeded):
                ctx.begin_model({"model": "m", "messages": []})
        (account,) = runtime.budgets()
    assert (account.spent["calls"], account.reserved, account.spent["tool_calls"]) == (2, {}, 1)
    assert account.spent["usd_nano"] == 6_000


def test_secrets_of_attached_code_are_hidden(tmp_path: Path) -> None:
    """What attached code says is cleaned as everything else."""
    Secret("attached", "open-sesame-42")
    with Runtime.local(tmp_path) as runtime:
        with runtime.attach("r") as ctx:
            ctx.begin_tool("a", {"token": "open-sesame-42"}).succeeded("it was open-sesame-42")
            ctx.begin_tool("a", {}).failed("Odd", "open-sesame-42", no_effect=True)
            ctx.complete("open-sesame-42")
        text = repr(list(runtime.log.read()))
        assert "open-sesame-42" not in text
        assert text.count(marker("attached")) == 4


def test_the_protocol_keeps_artifacts_and_costs(tmp_path: Path) -> None:
    """Other languages keep bytes, references and costs; what the gate refuses is told by its name."""
    commands: list[dict[str, Any]] = [
        {"op": "artifact", "name": "a.bin", "hex": "00ff"},
        {"op": "artifact", "name": "a.txt", "data": "words", "metadata": {"pages": 1}},
        {"op": "media_artifact", "kind": "image", "ref": "s3://x"},
        {"op": "media_artifact", "kind": "image", "ref": "data:xx"},
        {"op": "stream_checkpoint", "stream_id": "s", "consumer_id": "c", "offset": 5},
        {"op": "cost", "name": "search", "usd": 0.5},
        {"op": "cost", "name": "search", "euros": 0.5},
        {"op": "begin_tool", "name": "mail.send", "arguments": {}},
        {"op": "complete"},
    ]
    (tmp_path / "policy.json").write_text(json.dumps(RULES))
    line = [sys.executable, "-m", "agentledger", "--root", str(tmp_path / "l"), "attach", "r"]
    line += ["--policy", str(tmp_path / "policy.json")]
    said = "".join(json.dumps(one) + "\n" for one in commands)
    done = subprocess.run(line, input=said, capture_output=True, text=True, timeout=60, check=False)
    answers = [json.loads(answer) for answer in done.stdout.splitlines()][-len(commands) :]
    assert [one["ok"] for one in answers] == [True, True, True, False, True, True, False, False, True], done
    assert answers[7]["error"] == "PermissionDenied"
    assert answers[0]["artifact"]["size"] == 2
