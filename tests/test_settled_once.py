"""A call is settled once: whatever stops, answers late, or is sent again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from suites.edges import PATH, PATIENCE, statuses

from agentledger import (
    Budget,
    InDoubt,
    Refused,
    Runtime,
    Unavailable,
    agent,
    tool,
)


def _same_key(write: Any, name: str) -> Any:
    @agent(name=name, tools=[write])
    def once(ctx: Any) -> Any:
        return ctx.call_tool("w", _logical_operation="k", _scope="ledger")

    return once


_STOPPED = """
import sys, time
from agentledger import agent, tool, Runtime

@tool(name="w", side_effect="external_write")
def w() -> int:
    print("in", flush=True)
    time.sleep(2)
    return 1

@agent(name="a", tools=[w])
def a(ctx):
    return ctx.call_tool("w", _logical_operation="k", _scope="ledger")

with Runtime.local(sys.argv[1], lease=1) as runtime:
    runtime.run(a, run_id="r")
"""


@pytest.mark.invariant(15)
def test_a_worker_that_was_stopped_cannot_succeed_after_a_person_said_no_effect(tmp_path: Path) -> None:
    """What a person settled while its worker was stopped does not become a second success of its key."""
    script = tmp_path / "stopped.py"
    script.write_text(_STOPPED)
    env = {**os.environ, "PYTHONPATH": PATH}
    order = [sys.executable, str(script), str(tmp_path / "ledger")]
    child = subprocess.Popen(order, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        os.kill(child.pid, signal.SIGSTOP)

        @tool(name="w", side_effect="external_write")
        def w() -> int:
            return 2

        with Runtime.local(tmp_path / "ledger") as runtime:
            while runtime.alive(runtime.state("r").worker or ""):
                time.sleep(0.1)
            try:
                runtime.settle("r:1", "no_effect", because="it is not there")
                runtime.run(_same_key(w, "b"), run_id="b")
                settled = ["r", "b"]
            except Refused:
                settled = ["r"]
            os.kill(child.pid, signal.SIGCONT)
            child.communicate(timeout=PATIENCE)
            assert statuses(runtime, *settled).count("SUCCEEDED") == 1
    finally:
        child.kill()
        child.wait()


@pytest.mark.invariant(15)
def test_a_verify_hook_that_answers_late_does_not_overrule_a_person(tmp_path: Path) -> None:
    """A person's word while the hook is asking is final: the key may have been given to another since."""
    asking, answers = threading.Event(), threading.Event()
    asked: list[int] = []
    calls: list[int] = []

    def verify() -> int:
        asked.append(1)
        if len(asked) == 1:
            raise Unavailable("not now")
        asking.set()
        answers.wait(PATIENCE)
        return 1

    @tool(name="w", side_effect="external_write", verify=verify)
    def w() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionResetError
        return 1

    with Runtime.local(tmp_path) as runtime:
        worker = threading.Thread(target=lambda: runtime.run(_same_key(w, "a"), run_id="r"))
        worker.start()
        try:
            assert asking.wait(PATIENCE)
            runtime.settle("r:1", "no_effect", because="it is not there")
            runtime.run(_same_key(w, "b"), run_id="b")
        finally:
            answers.set()
            worker.join()
        assert statuses(runtime, "r", "b").count("SUCCEEDED") == 1


def _lost_put(calls: list[str]) -> Any:
    """A tool that honours keys, whose first call is lost with its process after it happened."""

    @tool(name="put", side_effect="external_write", idempotency="key")
    def put(idempotency_key: str) -> str:
        calls.append(idempotency_key)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return "done"

    @agent(name="puts", tools=[put])
    def puts(ctx: Any) -> Any:
        return ctx.call_tool("put", _logical_operation="k", _scope="ledger")

    return puts


@pytest.mark.parametrize("why", ["budget", "policy"])
def test_a_call_that_may_have_happened_stays_in_doubt_when_it_may_not_be_sent_again(tmp_path: Path, why: str) -> None:
    """That the same key is not sent again does not say that the first sending had no effect."""
    puts = _lost_put([])
    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.run(puts, run_id="r", budget=Budget(calls=1) if why == "budget" else None)
    with Runtime.local(tmp_path, policy=(lambda _: False) if why == "policy" else None) as runtime:
        try:
            runtime.run(puts, run_id="r")
        except InDoubt:
            pass
        assert statuses(runtime, "r") == ["PENDING_VERIFICATION"]


@pytest.mark.invariant(15)
def test_a_call_in_doubt_that_waits_for_a_person_keeps_its_key_and_its_doubt(tmp_path: Path) -> None:
    """An approval that is asked for before the key is sent again does not make the lost call one that never began."""
    calls: list[str] = []
    puts = _lost_put(calls)
    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.run(puts, run_id="r")
    with Runtime.local(tmp_path, policy=lambda asked: "approve" if asked.run == "r" else "allow") as runtime:
        runtime.run(puts, run_id="r")
        runtime.create_run(puts, run_id="b")
        runtime.run_once(puts)
        assert len(calls) == 1
        runtime.cancel_run("r")
        assert statuses(runtime, "r") == ["PENDING_VERIFICATION"]


def test_a_task_called_step_shares_no_path_with_the_next_step(tmp_path: Path) -> None:
    """Effects of the second task `step` and of the second step are two effects, with two idempotency keys."""
    keys: list[str] = []

    @tool(name="w", side_effect="external_write")
    def w(what: int, idempotency_key: str) -> int:
        keys.append(idempotency_key)
        return what

    @agent(name="second", tools=[w])
    async def second(ctx: Any) -> Any:
        return await ctx.call_tool("w", what=3)

    @agent(name="first", tools=[w])
    async def first(ctx: Any) -> Any:
        async def step(number: int) -> None:
            await ctx.call_tool("w", what=number)

        await asyncio.gather(step(1), step(2))
        return ctx.continue_with(second)

    with Runtime.local(tmp_path) as runtime:
        assert runtime.run(first, run_id="r").output == 3
    assert len(set(keys)) == 3
