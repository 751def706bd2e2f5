"""Steering runs from the command line: what a person sees, and what a script reads; each command a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

AGENTS = """
from agentledger import agent, tool

@tool(side_effect="external_write")
def pay(amount):
    return {"paid": amount}

@agent(tools=[pay])
async def clerk(ctx, state):
    answer = await ctx.request_approval(f"Pay {state['amount']}?", timeout=86400)
    if not answer["approved"]:
        return "denied: " + answer["reason"]
    await ctx.wait_signal("go")
    return await ctx.call_tool("pay", amount=state["amount"])

@agent
async def sleeper(ctx):
    await ctx.sleep(86400)

@agent
def quick(ctx):
    return ctx.session_id
"""


@pytest.fixture
def here(tmp_path):
    """An empty folder with the agents in it."""
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    return tmp_path


def start(here, *arguments, **options):
    command = [sys.executable, "-m", "agentledger", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=here, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options)


def ran(here, *arguments, code=0, stdin=""):
    """What a command printed; it must end with `code`, and without a traceback."""
    child = start(here, *arguments)
    out, err = child.communicate(stdin, timeout=60)
    assert child.returncode == code, (arguments, out, err)
    assert "Traceback" not in err
    return out, err


def as_json(here, *arguments, code=0):
    out, _ = ran(here, *arguments, "--json", code=code)
    return json.loads(out)


def test_a_person_is_asked_and_answers(here):
    """A run that asks says how to answer, is listed, goes on when it was answered, and takes no second answer."""
    _, said = ran(here, "run", "agents.py:clerk", "--input", '{"amount": 7}', "--run-id", "o")
    assert "agentledger approve appr_" in said
    (asked,) = as_json(here, "approvals")["approvals"]
    assert (asked["run_id"], asked["question"]) == ("o", "Pay 7?")
    out, _ = ran(here, "status", "o")
    assert "a person to answer" in out
    assert as_json(here, "approve", asked["approval_id"], "--by", "Ada")["approved"] is True
    out, _ = ran(here, "status", "o")
    assert "it has come" in out
    assert "resume o" in out
    assert as_json(here, "deny", asked["approval_id"], code=1)["error"] == "Refused"
    assert as_json(here, "resume", "o")["waits"][0]["name"] == "go"
    assert as_json(here, "signal", "o", "go", "--sender-id", "a")["sent"] is True
    assert as_json(here, "signal", "o", "go", "--sender-id", "a")["sent"] is False

    out, _ = ran(here, "resume", "o")
    assert json.loads(out) == {"paid": 7}
    assert as_json(here, "signal", "o", "go", code=1)["error"] == "Refused"
    ran(here, "replay", "o")
    ran(here, "verify")


def test_bad_words_get_a_sentence(here):
    """A payload that is no JSON, a run that is not there, a name with a newline: one sentence each, and no event."""
    ran(here, "run", "agents.py:sleeper", "--detach", "--run-id", "s")
    before = as_json(here, "log", "head")
    for arguments in (
        ("signal", "s", "go", "--payload", "{"),
        ("signal", "s", "a\nb"),
        ("signal", "nobody", "go"),
        ("cancel", "nobody"),
        ("approve", ""),
        ("status", ""),
        ("sessions", "nobody"),
        ("worker", "nobody.py"),
        ("worker", "plan", "a\nb.py"),
        ("attach", ""),
        ("attach", "s"),
        ("transcript", "nobody"),
    ):
        assert as_json(here, *arguments, code=1)["message"]
    assert as_json(here, "log", "head") == before


def test_a_detached_run_is_served_cancelled_and_listed(here):
    """`run --detach` leaves a run to a worker; a drained worker ends; a cancelled run says why."""
    out, _ = ran(here, "run", "agents.py:sleeper", "--detach", "--run-id", "s", "--priority", "3")
    assert out == "s\n"
    ran(here, "run", "agents.py:quick", "--detach", "--session", "alice", "--run-id", "q")
    served = as_json(here, "worker", "agents.py:sleeper", "agents.py:quick", "--drain")
    assert served["claims"] == 2
    assert as_json(here, "status", "q")["output"] == "alice"
    assert as_json(here, "sessions", "alice")["sessions"][0]["runs"] == ["q"]
    state = as_json(here, "status", "s")
    assert (state["step_status"], state["priority"], state["worker"]) == ("sleeping", 3, None)
    assert as_json(here, "cancel", "s", "--reason", "enough")["status"] == "cancelled"
    out, _ = ran(here, "status", "s")
    assert "enough" in out
    assert [run["run_id"] for run in as_json(here, "runs", "--status", "cancelled")["runs"]] == ["s"]
    assert [run["run_id"] for run in as_json(here, "runs", "--session", "alice")["runs"]] == ["q"]
    assert as_json(here, "recover-expired") == {"recovered": []}


def test_changed_code_is_left_to_those_who_have_it(here):
    """A worker with other code passes a run over, `runs --needs-version` lists it, and --any-code takes it."""
    ran(here, "run", "agents.py:quick", "--detach", "--run-id", "q")
    (here / "agents.py").write_text(AGENTS + "\n# changed\n", encoding="utf-8")

    assert as_json(here, "worker", "agents.py:quick", "--drain")["claims"] == 0
    assert [run["run_id"] for run in as_json(here, "runs", "--needs-version", "agents.py:quick")["runs"]] == ["q"]
    assert as_json(here, "worker", "agents.py:quick", "--drain", "--any-code")["claims"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_when_it_is_told(here, number):
    """SIGTERM and Ctrl-C end a worker; what it held is given back."""
    ran(here, "run", "agents.py:sleeper", "--detach", "--run-id", "s")
    child = start(here, "worker", "agents.py:sleeper")
    assert "serves sleeper" in child.stderr.readline()
    while as_json(here, "status", "s")["epoch"] == 0:
        assert child.poll() is None
    child.send_signal(number)
    _, err = child.communicate(timeout=30)

    assert child.returncode == 0, err
    assert "Traceback" not in err
    assert as_json(here, "status", "s")["worker"] is None


def test_another_program_drives_a_run(here):
    """`attach` answers line by line; a program that is killed leaves a run that goes on with the next."""
    lines = '{"op": "begin_tool", "name": "x", "arguments": {}}\n'
    child = start(here, "attach", "o")
    child.stdin.write(lines)
    child.stdin.flush()
    assert json.loads(child.stdout.readline())["ok"]
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=30)
    out, _ = ran(here, "attach", "o", stdin='{"op": "state"}\n{"op": "complete", "output": 1}\n')
    first = json.loads(out.splitlines()[0])

    assert [row["status"] for row in first["in_doubt"]] == ["PENDING_VERIFICATION"]
    assert as_json(here, "status", "o")["output"] == 1
    ran(here, "replay", "o")
    ran(here, "verify")


def test_worker_plan_prints_units(here):
    """`worker plan` prints files for each kind, or writes them."""
    for kind, name in (("systemd", "agentledger-worker@.service"), ("compose", "compose.yaml")):
        files = as_json(here, "worker", "plan", "agents.py", "--format", kind, "--replicas", "2")["files"]
        assert "agents.py" in files[name]
    ran(here, "worker", "plan", "agents.py", "--format", "kubernetes", "--out", "units")
    assert (here / "units" / "kubernetes.yaml").read_text(encoding="utf-8")
