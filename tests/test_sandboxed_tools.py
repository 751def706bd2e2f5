"""Sandboxed tools within runs: they run inside or not at all, with their start and end on record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import needs
import pytest
from suites.runs import bodies, replayed
from suites.workers import kinds

from agentledger import InDoubt, NoEffect, Runtime, SandboxFailed, SandboxPolicy, ToolFailed, agent, tool

HERE: list[int] = []
"""What tools leave in this process if they run in it."""


@tool(name="inside", sandbox_required=True)
def inside(number: int) -> dict[str, Any]:
    """Says where it runs."""
    HERE.append(number)
    print("printed", number)
    return {"pid": os.getpid(), "home": os.environ.get("HOME"), "token": os.environ.get("SANDBOX_TEST_TOKEN")}


@tool(name="plain")
def plain(number: int) -> int:
    """Runs where it is called."""
    HERE.append(number)
    return number


@tool(name="fails", sandbox_required=True)
def fails(how: str) -> None:
    """Fails as it is told."""
    if how == "no effect":
        raise NoEffect("nothing happened")
    if how == "raise":
        raise LookupError("not found")
    if how == "exit":
        os._exit(3)
    while True:
        pass


@tool(name="writes", sandbox_required=True, side_effect="external_write", timeout=5)
def writes() -> None:
    """Never returns."""
    while True:
        pass


@agent(tools=[inside, plain, fails, writes])
def caller(ctx: Any, state: dict[str, Any]) -> Any:
    """Calls one tool, and says what came of it."""
    try:
        return ctx.call_tool(state["tool"], **state.get("with", {}))
    except SandboxFailed as failed:
        return ["SandboxFailed", failed.error_type, failed.message]
    except ToolFailed as failed:
        return ["ToolFailed", failed.error_type, failed.message]


@pytest.fixture(autouse=True)
def nothing_here() -> None:
    HERE.clear()


def _run(runtime: Runtime, name: str, **arguments: Any) -> Any:
    return runtime.run(caller, run_id="r", initial_state={"tool": name, "with": arguments}).output


@pytest.mark.parametrize("is_async", [False, True])
def test_a_sandboxed_tool_runs_elsewhere_with_its_start_and_end_on_record(
    tmp_path: Path, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in another process, without this one's environment; the log says in what, for how long, and what came."""
    needs.bubblewrap()
    monkeypatch.setenv("SANDBOX_TEST_TOKEN", "do not inherit me")

    @agent(name="caller", tools=[inside])
    async def awaits(ctx: Any, state: dict[str, Any]) -> Any:
        return await ctx.call_tool("inside", number=1)

    function = awaits if is_async else caller
    with Runtime.local(tmp_path) as runtime:
        output = runtime.run(function, run_id="r", initial_state={"tool": "inside", "with": {"number": 1}}).output
        assert output["pid"] != os.getpid()
        assert output["token"] is None
        assert HERE == []
        (started,), (completed,) = bodies(runtime, "sandbox_started"), bodies(runtime, "sandbox_completed")
        assert (started.executor, completed.executor, completed.status) == ("bubblewrap", "bubblewrap", "exited")
        assert started.limits["network"] is False
        assert len(started.policy) == 32
        assert completed.exit_code == 0
        assert "printed 1" in completed.stderr
        order = [kind for kind in kinds(runtime) if kind.startswith(("tool", "sandbox"))]
        assert order == ["tool_call_requested", "sandbox_started", "sandbox_completed", "tool_call_completed"]
        replayed(runtime, function)
        assert HERE == []


@pytest.mark.invariant(18)
@pytest.mark.parametrize(
    "config",
    [
        {"executors": {"bubblewrap": {"enabled": False}}},
        {"default": "docker"},
        {"default": "process"},  # it cannot keep a tool from the network
    ],
)
def test_without_its_sandbox_a_tool_does_not_run(tmp_path: Path, config: dict[str, Any]) -> None:
    """An executor that is disabled, missing, or cannot enforce what is asked: the tool is not called, here or there."""
    with Runtime.local(tmp_path, sandbox=config) as runtime:
        said = _run(runtime, "inside", number=1)
        assert said[:2] == ["SandboxFailed", "SandboxUnavailable"]
        (refused,) = bodies(runtime, "effect_refused")
        assert refused.category == "sandbox"
        assert "tool_call_requested" not in kinds(runtime)
        replayed(runtime, caller)
    assert HERE == []


@pytest.mark.invariant(18)
def test_a_tool_that_no_sandbox_can_be_given_does_not_run(tmp_path: Path) -> None:
    """A function that another process cannot find by its name is not called in this one instead."""
    needs.bubblewrap()

    @tool(name="local", sandbox_required=True)
    def local() -> None:
        HERE.append(1)

    @agent(tools=[local])
    def calls(ctx: Any) -> Any:
        ctx.call_tool("local")

    with Runtime.local(tmp_path) as runtime:
        result = runtime.run(calls, run_id="r")
        assert not result.ok
        assert result.error_type in ("SandboxUnavailable", "SandboxFailed")
        assert runtime.state("r").category in ("sandbox", "tool")
    assert HERE == []


@pytest.mark.invariant(18)
def test_a_policy_may_put_a_tool_into_a_sandbox(tmp_path: Path) -> None:
    """A rule with `sandbox: true` holds for a tool that did not ask for one; where there is none, it does not run."""
    rules = {"version": 1, "rules": [{"name": "caged", "verdict": "allow", "tools": ["plain"], "sandbox": True}]}
    off = {"executors": {"bubblewrap": {"enabled": False}, "process": {"enabled": False}}}
    with Runtime.local(tmp_path / "a", policy=rules, sandbox=off) as runtime:
        assert _run(runtime, "plain", number=1)[0] == "SandboxFailed"
    assert HERE == []
    needs.bubblewrap()
    with Runtime.local(tmp_path / "b", policy=rules) as runtime:
        assert _run(runtime, "plain", number=1) == 1
        assert kinds(runtime).count("sandbox_completed") == 1
    assert HERE == []


@pytest.mark.parametrize(("how", "error"), [("raise", "LookupError"), ("no effect", "NoEffect"), ("exit", None)])
def test_what_fails_inside_is_told_as_outside(tmp_path: Path, how: str, error: str | None) -> None:
    """The code sees the tool's own error, by its type and its words; a process that just ends is a failure too."""
    needs.bubblewrap()
    with Runtime.local(tmp_path) as runtime:
        said = _run(runtime, "fails", how=how)
        assert said[0] == "ToolFailed"
        assert error is None or said[1] == error
        assert kinds(runtime).count("tool_call_failed") == 1
        replayed(runtime, caller)


def test_an_outside_write_that_never_returns_is_in_doubt_and_gone(tmp_path: Path) -> None:
    """A write that its sandbox had to end may have had its effect: nobody retries it, and nothing of it runs on."""
    needs.bubblewrap()
    with Runtime.local(tmp_path) as runtime:
        with runtime_in_doubt():
            _run(runtime, "writes")
        (completed,) = bodies(runtime, "sandbox_completed")
        assert (completed.status, completed.reason) == ("stopped", "time")
        assert [row.status for row in runtime.state("r").ledger.values()] == ["PENDING_VERIFICATION"]


def runtime_in_doubt() -> Any:
    return pytest.raises(InDoubt)


def test_the_ledger_is_not_readable_inside(tmp_path: Path) -> None:
    """The directory of the ledger, keys included, is hidden from the tools that run for it."""
    needs.bubblewrap()
    with Runtime.local(tmp_path / "ledger") as runtime:
        plan = runtime.sandboxes.plan("inside", SandboxPolicy())
        with pytest.raises(Exception, match="FileNotFoundError|PermissionError"):
            plan.run(os.stat, (str(tmp_path / "ledger" / "keys"),), {})
