"""Agents as their users write them: equal live, recovered and replayed; each effect once."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest
from suites.runs import TOOLS, bodies, replayed

from agentledger import InDoubt, NoEffect, Refused, ToolFailed, ToolSpec, agent


def in_a_row(ctx, state):
    out = [ctx.call_tool("slow_read", n=1), ctx.call_tool("whole", {"a": 1}), ctx.call_tool("keyed")]
    out += [str(ctx.now()), ctx.uuid(), ctx.random(), ctx.capture("u", lambda: str(uuid.uuid4()))]
    try:
        ctx.call_tool("fails", text="no")
    except ToolFailed as error:
        out.append([error.error_type, error.message, str(error)])
    out.append(ctx.call_model({"model": "m", "messages": [{"role": "user", "content": "hi"}]}))
    ctx.write_state_patch({"a": {"x": None, "z": 3}})
    ctx.delete_state("b")
    return [*out, ctx.state, state]


async def side_by_side(ctx, state):
    async def branch(n):
        inner = await asyncio.gather(*(ctx.call_tool("slow_read", n=n + i) for i in range(2)))
        return [inner, str(ctx.now()), ctx.random(), await ctx.call_tool("keyed")]

    out = await asyncio.gather(*(branch(n) for n in range(3)))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.call_tool("slow_read", n=n)) for n in range(3)]
    racing = [asyncio.create_task(ctx.call_tool("slow_read", n=n)) for n in (0, 4)]
    first, late = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    ctx.write_state_patch("first", [task.result() for task in first])
    return [out, [task.result() for task in tasks], state]


@pytest.mark.parametrize("body", [in_a_row, side_by_side])
def test_equal_live_recovered_and_replayed(runtime, body):
    """What an agent returns and writes is the same live, after an interruption at its end, and replayed."""
    seen = []

    def sync(ctx, state):
        seen.append(body(ctx, state))
        if len(seen) == 1:
            raise KeyboardInterrupt
        return seen[-1]

    async def loop(ctx, state):
        seen.append(await body(ctx, state))
        if len(seen) == 1:
            raise KeyboardInterrupt
        return seen[-1]

    function = agent(name="a", tools=TOOLS)(loop if body is side_by_side else sync)
    initial = {"a": {"x": 1, "y": 2}, "b": 1}
    with pytest.raises(KeyboardInterrupt):
        runtime.run(function, run_id="r", initial_state=initial)
    assert runtime.state("r").status == "pending"
    result = runtime.run(function, run_id="r")
    assert result.ok
    assert result.output == seen[0] == seen[1]
    if body is in_a_row:
        assert result.state == {"a": {"y": 2, "z": 3}} == result.output[-2]
    head = runtime.log.head()
    assert runtime.run(function, run_id="r") == result
    assert (len(seen), runtime.log.head()) == (2, head), "a completed run is not executed again"
    replayed(runtime, function)


def test_in_a_running_loop(runtime):
    """Both kinds of agents run inside a running loop, by `run` and by `arun`."""

    async def notebook():
        return [
            runtime.run(agent(name="a", tools=TOOLS)(in_a_row)).status,
            runtime.run(agent(name="b", tools=TOOLS)(side_by_side)).status,
            (await runtime.arun(agent(name="a", tools=TOOLS)(in_a_row))).status,
            (await runtime.arun(agent(name="b", tools=TOOLS)(side_by_side))).status,
        ]

    assert asyncio.run(notebook()) == ["completed"] * 4


def _mutates_read(ctx):
    got = ctx.call_tool("rows")
    got.append(2)
    return len(got)


def _mutates_capture(ctx):
    got = ctx.capture("rows", lambda: [1])
    got.append(2)
    return len(got)


@pytest.mark.parametrize("body", [_mutates_read, _mutates_capture])
def test_what_the_agent_changes_is_not_what_was_recorded(runtime, body):
    """An agent that changes a value it was given does not change the record of it."""
    function = agent(name="a", tools=[ToolSpec(name="rows", function=lambda: [1])])(body)
    assert runtime.run(function, run_id="r").output == 2
    assert [body.result for body in bodies(runtime, "tool_call_completed")] in ([], [[1]])
    assert [body.value for body in bodies(runtime, "value_captured")] in ([], [[1]])
    replayed(runtime, function)


def test_arguments_are_recorded_as_they_were(runtime):
    """A tool that changes its arguments does not change the record of what it was asked."""
    spec = ToolSpec(name="t", function=lambda rows: rows.append(9))
    runtime.run(agent(name="a", tools=[spec])(lambda ctx: ctx.call_tool("t", rows=[1])), run_id="r")
    assert [body.arguments for body in bodies(runtime, "tool_call_requested")] == [{"rows": [1]}]


@pytest.mark.invariant(16)
@pytest.mark.parametrize("verdict", ["found", "no effect", "cannot tell"])
def test_a_write_in_doubt_is_settled_by_verify(runtime, verdict):
    """A failed outside write is what its verify hook says, or waits and is settled by a later resume."""
    answers, calls = [verdict], []

    def verify(n):
        if answers[-1] == "found":
            return "found"
        raise NoEffect if answers[-1] == "no effect" else OSError("down")

    def write(n):
        calls.append(n)
        raise ConnectionError("cut")

    function = agent(name="a", tools=[ToolSpec(name="w", function=write, side_effect="external_write", verify=verify)])
    function = function(lambda ctx: ctx.call_tool("w", n=1))
    if verdict == "cannot tell":
        with pytest.raises(InDoubt, match="down"):
            runtime.run(function, run_id="r")
        assert runtime.state("r").in_doubt[0].status == "PENDING_VERIFICATION"
        answers.append("found")
        assert runtime.resume("r", function).output == "found"
    else:
        result = runtime.run(function, run_id="r")
        wanted = ("found", None) if verdict == "found" else (None, "ConnectionError")
        assert (result.output, result.error_type) == wanted
    assert calls == [1]
    replayed(runtime, function)


def test_in_doubt_says_what_the_tool_said(runtime):
    """Without a verify hook, the sentence holds the tool's own error: the person must find out with it."""
    spec = ToolSpec(name="w", function=lambda: 1 / 0, side_effect="external_write")
    with pytest.raises(InDoubt, match="ZeroDivisionError"):
        runtime.run(agent(name="a", tools=[spec])(lambda ctx: ctx.call_tool("w")), run_id="r")


def test_a_verify_hook_that_does_not_fit_cannot_tell(runtime):
    """A verify hook with other parameters leaves the write in doubt: the run waits, it does not fail."""
    spec = ToolSpec(name="w", function=lambda n: 1 / 0, side_effect="external_write", verify=lambda nope: None)
    with pytest.raises(InDoubt):
        runtime.run(agent(name="a", tools=[spec])(lambda ctx: ctx.call_tool("w", n=1)), run_id="r")
    assert runtime.state("r").status == "waiting"


@pytest.mark.invariant(16)
def test_a_write_in_doubt_is_not_retried_as_a_read(runtime):
    """A tool redeclared as harmless does not repeat the outside write that is in doubt."""
    calls = []

    def write():
        calls.append(1)
        raise ConnectionError

    def build(side_effect):
        spec = ToolSpec(name="w", function=write, side_effect=side_effect)
        return agent(name="a", tools=[spec])(lambda ctx: ctx.call_tool("w"))

    for side_effect in ("external_write", "none"):
        try:
            runtime.run(build(side_effect), run_id="r")
        except Exception:
            pass
    assert calls == [1]


@pytest.mark.parametrize("how", ["in doubt beside it", "cancelled from outside"])
def test_a_write_in_flight_is_never_done_twice(runtime, how):
    """A run that is stopped while an outside write is under way is not free until that write has ended."""
    stored = []

    def find(idempotency_key):
        if idempotency_key not in stored:
            raise NoEffect
        return 1

    def slow(idempotency_key):
        time.sleep(0.3)
        stored.append(idempotency_key)
        return 1

    async def body(ctx):
        calls = [ctx.call_tool(name) for name in ("slow", "bad")[: 1 + (how == "in doubt beside it")]]
        return await asyncio.gather(*calls)

    specs = [
        ToolSpec(name="slow", function=slow, side_effect="external_write", verify=find),
        ToolSpec(name="bad", function=lambda: 1 / 0, side_effect="external_write"),
    ]
    function = agent(name="a", tools=specs)(body)

    async def twice():
        for _ in range(2):
            try:
                await asyncio.wait_for(runtime.arun(function, run_id="r"), 0.1 if how.startswith("canc") else 5)
            except (InDoubt, Refused, TimeoutError):
                pass
        await asyncio.sleep(0.8)

    asyncio.run(twice())
    assert len(stored) == 1
