"""Workers: cancellation, outages, timeouts, retries, and code that is torn down, each beside a worker that serves."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from suites.runs import bodies, replayed
from suites.workers import Moved, kinds, ring, status, suspended, until, working

from agentledger import NoEffect, Refused, RetryableAgentError, Runtime, ToolFailed, agent, tool
from ledger_core.clock import NS
from ledger_core.errors import ChildFailed, Unavailable

AGENTS = Path(__file__).resolve().parent.parent / "fixtures" / "agents" / "held.py"
DAY = 86_400


@pytest.fixture
def moved() -> Moved:
    """A clock that the test moves."""
    return Moved()


class Busy:
    """A tool that is under way until it is let go."""

    def __init__(self, side_effect: str = "external_write") -> None:
        self.came, self.go = threading.Event(), threading.Event()
        self.calls: list[str] = []

        @tool(name="busy", side_effect=side_effect, verify=self._verify if side_effect == "external_write" else None)
        async def busy(what: str) -> str:
            self.calls.append(what)
            self.came.set()
            await asyncio.to_thread(self.go.wait, 30)
            return what

        self.tool = busy

    def _verify(self, **_: Any) -> str:
        raise NoEffect


def test_a_run_is_cancelled_while_its_tool_runs(runtime: Runtime) -> None:
    """The call comes to its end and into the log, nothing begins behind it, and the run has ended."""
    busy = Busy()

    @agent(tools=[busy.tool])
    async def works(ctx):
        ctx.write_state_patch("x", 1)
        await ctx.call_tool("busy", what="first")
        await ctx.call_tool("busy", what="second")

    with working(runtime, works):
        runtime.create_run(works, run_id="r")
        assert busy.came.wait(20)
        assert runtime.cancel_run("r", "enough")
        assert not runtime.cancel_run("r", "enough")
        assert status(runtime) == "running"
        busy.go.set()
        until(lambda: runtime.state("r").ended)

    assert status(runtime) == "cancelled"
    assert busy.calls == ["first"]
    assert runtime.result("r").state == {}
    assert [body.result for body in bodies(runtime, "tool_call_completed")] == ["first"]
    assert runtime.state("r").ledger["2"].status == "SUCCEEDED"
    with pytest.raises(Refused, match="cancelled"):
        runtime.cancel_run("r")


@pytest.mark.parametrize("wait", ["sleep", "signal", "approval"])
def test_a_run_that_waits_is_cancelled_at_once(wait: str, runtime: Runtime) -> None:
    """Nobody holds it, so nobody is waited for; what it waited for is not taken any more."""

    @agent
    async def waits(ctx):
        if wait == "sleep":
            await ctx.sleep(DAY)
        elif wait == "signal":
            await ctx.wait_signal("s")
        else:
            await ctx.request_approval("?")

    with working(runtime, waits):
        runtime.create_run(waits, run_id="r")
        until(lambda: suspended(runtime))
        assert runtime.cancel_run("r")
        assert status(runtime) == "cancelled"

    assert runtime.log.queued() == []
    assert runtime.state("r").epoch == 1
    with pytest.raises(Refused):
        runtime.signal("r", "s")


def test_a_run_is_cancelled_with_its_children(runtime: Runtime) -> None:
    """Children that sleep end at once, one that is at work at its next effect; those of others are left alone."""
    busy = Busy()

    @agent(tools=[busy.tool])
    async def young(ctx, state):
        if state["works"]:
            await ctx.call_tool("busy", what="child")
        await ctx.sleep(DAY)

    @agent
    async def old(ctx):
        children = [await ctx.spawn(young, {"works": works}, run_id=f"child-{works}") for works in (0, 1)]
        try:
            for child in children:
                await child.join()
        except ChildFailed:
            return "told"

    with working(runtime, old, young):
        runtime.create_run(young, run_id="another", initial_state={"works": 0})
        runtime.create_run(old, run_id="r")
        assert busy.came.wait(20)
        until(lambda: suspended(runtime) and suspended(runtime, "child-0") and suspended(runtime, "another"))
        runtime.cancel_run("r", "enough")
        assert [status(runtime, name) for name in ("r", "child-0", "child-1")] == ["cancelled", "cancelled", "running"]
        busy.go.set()
        until(lambda: runtime.state("child-1").ended)

    assert [status(runtime, name) for name in ("r", "child-1", "another")] == ["cancelled", "cancelled", "waiting"]
    assert len(runtime.log.queued()) == 1


def test_a_parent_is_told_of_a_child_that_was_cancelled(runtime: Runtime) -> None:
    """A child may be cancelled alone: its parent's join fails, and the parent goes on."""

    @agent
    async def young(ctx):
        await ctx.sleep(DAY)

    @agent
    async def old(ctx):
        try:
            await (await ctx.spawn(young, run_id="child")).join()
        except ChildFailed as error:
            return error.error_type

    with working(runtime, old, young):
        runtime.create_run(old, run_id="r")
        until(lambda: suspended(runtime) and suspended(runtime, "child"))
        runtime.cancel_run("child")
        until(lambda: runtime.state("r").ended)

    assert runtime.result("r").output == "Cancelled"
    replayed(runtime, old)


# Failures


@pytest.mark.parametrize("side_effect", ["external_write", "external_read"])
def test_an_outage_is_waited_for_without_a_worker_and_burns_nothing(
    side_effect: str, moved: Moved, tmp_path: Path
) -> None:
    """The other side is away for hours: no attempt is used up, and between its looks nobody holds the run."""
    away = [True]

    @tool(side_effect=side_effect, verify=lambda **_: 1 / 0)
    def post() -> str:
        if away:
            raise Unavailable("it is away")
        return "posted"

    @agent(tools=[post])
    async def posts(ctx):
        return await ctx.call_tool("post")

    with Runtime.local(tmp_path, clock=moved.clock) as runtime, working(runtime, posts):
        runtime.create_run(posts, run_id="r", retry_policy={"max_attempts": 1, "max_losses": 1})
        while not runtime.state("r").ended:
            until(lambda: suspended(runtime) or runtime.state("r").ended)
            if len(bodies(runtime, "tool_call_failed")) >= 8:
                away.clear()
            moved.on(61)
            ring(runtime)
            until(lambda: not suspended(runtime))

        failed = bodies(runtime, "tool_call_failed")
        assert runtime.result("r").output == "posted"
        assert {body.category for body in failed} == {"outage"}
        assert not any(body.in_doubt for body in failed)
        released = [body.waiting for body in bodies(runtime, "step_released")]
        assert (set(released), len(failed)) == ({"waits"}, 8)
        assert len(released) <= len(failed)  # a first pause may be short enough to be held
        assert bodies(runtime, "step_retry_scheduled") == bodies(runtime, "tool_call_settled") == []
        replayed(runtime, posts)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_tool_has_so_much_time(is_async: bool, runtime: Runtime) -> None:
    """A read that takes too long has failed; of an outside write, its hook is asked."""
    let_go = threading.Event()

    async def hang() -> None:
        await asyncio.to_thread(let_go.wait, 30)

    def hang_here() -> None:
        let_go.wait(30)

    function = hang if is_async else hang_here
    reading = tool(name="read", side_effect="external_read", timeout=0.05)(function)

    async def hang_too() -> None:
        await hang()

    def hang_here_too() -> None:
        hang_here()

    writing = tool(name="write", side_effect="external_write", timeout=0.05, verify=lambda: "found")(
        hang_too if is_async else hang_here_too
    )

    @agent(tools=[reading, writing])
    async def times(ctx):
        try:
            await ctx.call_tool("read")
        except ToolFailed as error:
            return [error.error_type, await ctx.call_tool("write")]

    with working(runtime, times):
        runtime.create_run(times, run_id="r")
        until(lambda: runtime.state("r").ended)
        let_go.set()

    assert runtime.result("r").output == ["TimeoutError", "found"]
    assert [(body.category, body.in_doubt) for body in bodies(runtime, "tool_call_failed")] == [
        ("timeout", False),
        ("timeout", True),
    ]
    assert [body.by for body in bodies(runtime, "tool_call_settled")] == ["verify"]
    replayed(runtime, times)


def test_a_step_has_so_much_time(runtime: Runtime) -> None:
    """A step that works for longer fails of it, with what it had begun in the log; waiting is no work."""

    @tool(side_effect="external_read")
    async def slow() -> str:
        await asyncio.sleep(0.4)
        return "done"

    @agent(tools=[slow], timeout=0.3)
    async def works(ctx):
        await ctx.sleep(0.7)
        await ctx.call_tool("slow")
        await ctx.call_tool("slow")

    @agent(tools=[slow])
    def rows(ctx):
        ctx.sleep(0.7)
        ctx.call_tool("slow")
        ctx.call_tool("slow")

    with working(runtime, works, rows):
        runtime.create_run(works, run_id="r")
        runtime.create_run(rows, run_id="row", timeout=0.3)
        until(lambda: runtime.state("r").ended and runtime.state("row").ended)

    for name in ("r", "row"):
        result = runtime.result(name)
        assert (result.status, result.error_type, runtime.state(name).category) == ("failed", "TimeoutError", "timeout")
        assert len(bodies(runtime, "tool_call_requested", name)) == 1


def test_retries_follow_their_schedule(tmp_path: Path) -> None:
    """Each failure records when it is tried again; the pauses grow as the policy says, and nobody is held."""
    moved = Moved(still=True)

    @agent
    async def fails(ctx):
        raise RetryableAgentError(f"attempt {ctx.attempt}")

    policy = {"max_attempts": 4, "initial": 10.0, "factor": 3.0, "maximum": 60.0, "jitter": 0}
    with Runtime.local(tmp_path, clock=moved.clock) as runtime, working(runtime, fails):
        runtime.create_run(fails, run_id="r", retry_policy=policy)
        for pause in (10, 30, 60):
            until(lambda: suspended(runtime))
            scheduled = bodies(runtime, "step_retry_scheduled")[-1]
            assert scheduled.wake_ns - runtime.log.clock.now_ns() == pause * NS
            assert runtime.state("r").step_status == "retry_scheduled"
            moved.on(pause - 0.001)
            ring(runtime)
            time.sleep(0.05)
            assert suspended(runtime)
            moved.on(0.001)
            ring(runtime)
            until(lambda: len(bodies(runtime, "step_claimed")) > scheduled.attempt - 1)
        until(lambda: runtime.state("r").ended)

        assert [body.attempt for body in bodies(runtime, "step_retry_scheduled")] == [2, 3, 4]
        assert runtime.result("r").message == "attempt 4"
        assert (status(runtime), runtime.state("r").attempt) == ("failed", 4)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("end", ["wakes", "cancelled"])
def test_effects_of_code_that_is_torn_down_do_nothing(is_async: bool, end: str, moved: Moved, tmp_path: Path) -> None:
    """What stands in `finally` runs when the code is put to sleep, and does nothing; when it really ends, it does."""
    calls: list[int] = []
    torn: list[bool] = []

    @tool(side_effect="external_write", verify=lambda: 1 / 0)
    def clean() -> str:
        calls.append(1)
        return "cleaned"

    @agent(tools=[clean])
    async def tidy(ctx):
        try:
            await ctx.sleep(DAY)
        finally:
            torn.append(True)
            ctx.write_state_patch("tidy", True)
            await ctx.call_tool("clean")

    @agent(tools=[clean])
    def tidy_in_a_row(ctx):
        try:
            ctx.sleep(DAY)
        finally:
            torn.append(True)
            ctx.write_state_patch("tidy", True)
            ctx.call_tool("clean")

    function = tidy if is_async else tidy_in_a_row
    with Runtime.local(tmp_path, clock=moved.clock) as runtime, working(runtime, function):
        runtime.create_run(function, run_id="r")
        until(lambda: suspended(runtime))
        assert (torn, calls) == ([True], [])
        assert kinds(runtime)[-2:] == ["timer_started", "step_released"]
        if end == "cancelled":
            runtime.cancel_run("r")
            assert (status(runtime), calls) == ("cancelled", [])
            return
        moved.on(DAY)
        ring(runtime)
        until(lambda: runtime.state("r").ended)
        assert (status(runtime), calls) == ("completed", [1])
        assert runtime.result("r").state == {"tidy": True}
        replayed(runtime, function)
