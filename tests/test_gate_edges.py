"""The gate, secrets and odd input, where they were broken once."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from suites.edges import HIDDEN, PATH, PATIENCE
from suites.runs import bodies

from agentledger import (
    BadInput,
    NotFound,
    Refused,
    Runtime,
    SandboxFailed,
    Secret,
    agent,
    tool,
)
from ledger_core.runtime import sessions

# The gate


@pytest.mark.invariant(18)
def test_a_sandboxed_tool_is_not_begun_elsewhere(tmp_path: Path) -> None:
    """A tool that needs a sandbox is not called without one by attached code, and no log says that it was in one."""

    @tool(name="boxed", sandbox_required=True)
    def boxed() -> int:
        return 1

    with Runtime.local(tmp_path) as runtime:
        with runtime.attach("x", tools=[boxed]) as ctx, pytest.raises(SandboxFailed):
            ctx.begin_tool("boxed", {}).succeeded(1)
        assert bodies(runtime, "sandbox_started", "x") == []


def test_a_policy_hook_changes_no_record(tmp_path: Path) -> None:
    """What is recorded is what was called with, whatever a hook does with what it is shown."""
    got: list[int] = []

    def hook(asked: Any) -> bool:
        asked.arguments["n"] = 99
        return True

    @tool(name="w", side_effect="external_write")
    def w(n: int) -> None:
        got.append(n)

    @agent(name="a", tools=[w])
    def a(ctx: Any) -> None:
        ctx.call_tool("w", n=1)

    with Runtime.local(tmp_path, policy=hook) as runtime:
        runtime.run(a, run_id="r")
        (requested,) = bodies(runtime, "tool_call_requested")
    assert [requested.arguments["n"]] == got == [1]


# Secrets


def prints(x: str) -> None:
    sys.stderr.write(x * 20_000)


@pytest.mark.invariant(19)
def test_what_a_sandboxed_tool_printed_is_cut_between_secrets(tmp_path: Path) -> None:
    """Where the text is too long to be kept whole, no part of a secret is left at the cut."""
    hidden = Secret("token", HIDDEN)
    boxed = tool(name="prints", sandbox_required=True)(prints)

    @agent(name="a", tools=[boxed])
    def a(ctx: Any) -> None:
        ctx.call_tool("prints", x=hidden)

    with Runtime.local(tmp_path) as runtime:
        runtime.run(a, run_id="r")
        (completed,) = bodies(runtime, "sandbox_completed")
    assert completed.stderr
    assert not any(HIDDEN[-length:] in completed.stderr for length in range(6, len(HIDDEN)))


@pytest.mark.invariant(19)
def test_a_compensate_hook_that_fails_tells_no_secret(tmp_path: Path) -> None:
    """What a hook raised is shown to the person who asked, without secrets, as what a tool raised is."""
    hidden = Secret("token", HIDDEN)

    def undo() -> None:
        raise RuntimeError(f"401 for {hidden.reveal()}")

    @tool(name="w", side_effect="external_write", compensate=undo)
    def w() -> int:
        return 1

    @agent(name="a", tools=[w])
    def a(ctx: Any) -> None:
        ctx.call_tool("w")

    with Runtime.local(tmp_path) as runtime:
        runtime.run(a, run_id="r")
        with pytest.raises(Exception) as raised:  # noqa: PT011  # which kind it is does not matter here
            runtime.compensate("r:1", [w], because="x")
    assert HIDDEN not in "".join(traceback.format_exception(raised.value))


def test_a_hook_is_not_given_the_name_of_a_secret_for_the_secret(tmp_path: Path) -> None:
    """What was undone with `[secret:name]` in the place of an argument was not undone."""
    hidden = Secret("account", "account-4711-0815")
    undone: list[str] = []

    @tool(name="w", side_effect="external_write", compensate=lambda account: undone.append(account))
    def w(account: str) -> int:
        return 1

    @agent(name="a", tools=[w])
    def a(ctx: Any) -> None:
        ctx.call_tool("w", account=hidden)

    with Runtime.local(tmp_path) as runtime:
        runtime.run(a, run_id="r")
        try:
            runtime.compensate("r:1", [w], because="x")
        except Refused:
            pass
    assert undone in ([], [hidden.reveal()])


_TELLS = """
from agentledger import Secret, agent
HIDDEN = Secret("token", "hunter2hunter2tokenvalue")

@agent
def tells(ctx):
    pass

raise RuntimeError(f"401 for {HIDDEN.reveal()}")
"""


@pytest.mark.invariant(19)
def test_a_traceback_that_is_asked_for_tells_no_secret(tmp_path: Path) -> None:
    """`--debug` shows a traceback, cleaned as everything else that is printed."""
    (tmp_path / "tells.py").write_text(_TELLS)
    order = [sys.executable, "-m", "agentledger", "--debug", "--root", "ledger", "run", "tells.py"]
    env = {**os.environ, "PYTHONPATH": PATH}
    done = subprocess.run(
        order, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE * 2, check=False
    )
    assert "Traceback" in done.stderr
    assert HIDDEN not in done.stdout + done.stderr


@pytest.mark.invariant(19)
@pytest.mark.parametrize("form", [repr, ascii, lambda text: repr(text.encode()), lambda text: str(KeyError(text))])
def test_a_secret_is_found_as_python_shows_it(form: Any) -> None:
    """Errors show values by their `repr`: a secret with quotes, backslashes or other letters is found there too."""
    value = "p4ss\"w'ord\\with-ü"
    Secret("odd", value)
    from ledger_core.secret import VAULT

    assert "w\\'ord" not in VAULT.clean_text(form(value))


# Odd input, and cost


@pytest.mark.parametrize("name", ["9" * 30, "9" * 5000])
def test_a_number_that_is_no_seq_names_no_call(tmp_path: Path, name: str) -> None:
    """However long the number, the answer is that there is no such call."""
    with Runtime.local(tmp_path) as runtime, pytest.raises(NotFound):
        runtime.call(name)


def test_a_stream_is_asked_for_with_a_dict(tmp_path: Path) -> None:
    """What is no request is refused in words, for streams as for whole answers."""

    @agent(name="a")
    def a(ctx: Any) -> None:
        with pytest.raises(BadInput):
            ctx.stream_model(5)

    with Runtime.local(tmp_path, models=lambda _: []) as runtime:
        result = runtime.run(a, run_id="r")
        assert result.ok, result.message


def test_a_new_run_does_not_read_all_runs_of_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events that are read for a new run do not grow with the runs that its session had."""
    read: list[int] = []
    fold = sessions.fold_session

    def counted(events: Any, before: Any = None) -> Any:
        known = list(events)
        read.append(len(known))
        return fold(known, before)

    @agent(name="a")
    def a(ctx: Any) -> int:
        return 1

    monkeypatch.setattr(sessions, "fold_session", counted)
    with Runtime.local(tmp_path) as runtime:
        for number in range(40):
            runtime.run(a, run_id=f"r{number}", session_id="s")
    assert max(read, default=0) <= 10
