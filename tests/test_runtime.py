"""Agents as their users write them: equal live, recovered and replayed; each effect once."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest

from agentledger import BadInput, InDoubt, NoEffect, Refused, Runtime, ToolFailed, ToolSpec, agent, tool
from ledger_core.errors import Fenced
from ledger_core.runtime.agent import agent_of
from ledger_core.runtime.recorded import stream_of
from replay import strict


@pytest.fixture
def runtime(log):
    return Runtime(log, models=lambda request: {"content": f"{len(request['messages'])}"})


def replayed(runtime, function, run_id="r"):
    """The run replays to its end."""
    found = strict.replay(runtime, run_id, agent_of(function))
    assert found.ok, found.divergence
    assert found.complete


def bodies(runtime, kind, run_id="r"):
    return [event.body for event in runtime.log.stream(stream_of(run_id)) if event.type == kind]


@tool(side_effect="external_read")
async def slow_read(n: int) -> int:
    await asyncio.sleep(0.001 * (5 - n % 5))
    return n


@tool
def whole(payload: dict) -> dict:
    return {"got": payload}


@tool(side_effect="external_write")
def keyed(idempotency_key: str) -> str:
    return idempotency_key


@tool
def fails(text: str) -> None:
    raise ValueError(text)


TOOLS = [slow_read, whole, keyed, fails]


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


HANGS = {
    "write in doubt after the end": """
        async def body(ctx):
            asyncio.create_task(ctx.call_tool("w"))
            await asyncio.sleep(0.02)
            return 1
        """,
    "StopIteration": """
        async def body(ctx):
            try:
                await ctx.call_tool("stop")
            except ToolFailed:
                return 1
        """,
    "polling": """
        async def body(ctx):
            task = asyncio.create_task(ctx.call_tool("r"))
            while not task.done():
                await asyncio.sleep(0)
            return task.result()
        """,
}


@pytest.mark.parametrize("what", HANGS)
def test_it_always_ends(what, python):
    """No agent waits for ever for an outcome that is there."""
    import textwrap

    script = """
import asyncio
from agentledger import *

@tool(side_effect="external_write")
async def w():
    await asyncio.sleep(0.1)
    raise ConnectionError

@tool
def stop():
    raise StopIteration

@tool
async def r():
    return 1
"""
    script += textwrap.dedent(HANGS[what])
    script += """
try:
    print(Runtime.in_memory().run(agent(name="a", tools=[w, stop, r])(body), run_id="r").status)
except InDoubt:
    print("in doubt")
"""
    assert python.run(script, timeout=6).strip() in ("completed", "in doubt")


def _timeout(ctx):
    async def body():
        try:
            async with asyncio.timeout(0.05):
                return await ctx.call_tool("slow")
        except TimeoutError:
            return "too late"

    return body()


def _unstorable(ctx):
    async def body():
        try:
            return ctx.capture("x", object)
        except ToolFailed as error:
            return error.error_type

    return body()


def _cancelling(ctx):
    async def body():
        try:
            return await ctx.call_tool("cancels")
        except (ToolFailed, asyncio.CancelledError) as error:
            return type(error).__name__

    return body()


def test_a_missing_provider_stops_a_run_and_does_not_burn_it(log):
    """A model without a provider is the caller's to mend: the run is given back, and goes on when there is one."""

    async def main(ctx):
        return await ctx.call_model({"model": "m", "messages": []})

    function = agent(name="a")(main)
    with pytest.raises(BadInput):
        Runtime(log).run(function, run_id="r")
    assert Runtime(log).state("r").status == "pending"

    assert Runtime(log, models=lambda request: {"content": "yes"}).run(function, run_id="r").output == {
        "content": "yes"
    }


@pytest.mark.parametrize("body", [_timeout, _unstorable, _cancelling])
def test_unusual_ends_of_an_effect_replay(log, body):
    """An effect that the agent gave up, or that could not begin, comes out the same when it is replayed."""

    async def slow():
        await asyncio.sleep(0.15)

    async def cancels():
        raise asyncio.CancelledError

    async def main(ctx):
        return await body(ctx)

    specs = [ToolSpec(name="slow", function=slow), ToolSpec(name="cancels", function=cancels)]
    function, runtime = agent(name="a", tools=specs)(main), Runtime(log, models={"known": lambda request: {}})
    assert runtime.run(function, run_id="r").ok
    replayed(runtime, function)


def _deep():
    value: object = 1
    for _ in range(64):
        value = [value]
    return value


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("inner")


def _raise(error):
    raise error


@pytest.mark.parametrize("place", ["tool", "agent"])
@pytest.mark.parametrize("what", ["surrogate", "unprintable", "deep", "object"])
def test_what_cannot_be_stored_is_a_failure_like_any(runtime, place, what):
    """An error text or value that has no encoding fails the call or the run; it never leaves the run held or broken."""
    odd = {
        "surrogate": lambda: _raise(ValueError("\udc80")),
        "unprintable": lambda: _raise(Unprintable()),
        "deep": _deep,
        "object": object,
    }[what]

    def body(ctx):
        if place == "agent":
            return odd()
        try:
            ctx.call_tool("t")
        except ToolFailed:
            return "told"
        return "told" if what == "deep" else None

    function = agent(name="a", tools=[ToolSpec(name="t", function=odd)])(body)
    result = runtime.run(function, run_id="r")
    assert result.status == ("completed" if place == "tool" or (what == "deep" and result.ok) else "failed")
    assert runtime.state("r").worker is None


@pytest.mark.parametrize("run_id", ["", "a\nb", "latest", "é", "x" * 129])
def test_bad_run_ids_are_refused(runtime, run_id):
    """An id that cannot be one is refused before anything is written."""
    with pytest.raises(BadInput):
        runtime.run(agent(lambda ctx: 1), run_id=run_id)
    assert runtime.log.head().seq == 1


def test_another_agent_is_refused(runtime):
    """A run's id belongs to the agent that it was started with."""
    runtime.run(agent(name="a")(lambda ctx: 1), run_id="r")
    with pytest.raises(Refused, match="agent a"):
        runtime.run(agent(name="b")(lambda ctx: 1), run_id="r")


def test_another_input_for_a_run_is_refused(runtime):
    """The same id with another initial state is a conflict, not silently the old run."""
    function = agent(name="a")(lambda ctx, state: state)
    runtime.run(function, run_id="r", initial_state={"n": 1})
    with pytest.raises(Refused):
        runtime.run(function, run_id="r", initial_state={"n": 2})


def test_the_context_is_refused_elsewhere(runtime):
    """In a thread that the agent starts, also with its context copied, and after the end: a clear error."""
    kept = []

    async def body(ctx):
        kept.append(ctx)
        await asyncio.to_thread(ctx.now)

    result = runtime.run(agent(name="a")(body), run_id="r")
    assert (result.status, result.error_type) == ("failed", "BadInput")
    with pytest.raises(BadInput, match="outside"):
        kept[0].now()


def test_a_bound_method_is_a_tool(runtime):
    """A client's method can be a tool."""

    class Client:
        def search(self, q):
            return q

    function = agent(name="a", tools=[Client().search])(lambda ctx: ctx.call_tool("search", q=1))
    assert runtime.run(function).output == 1


def test_a_state_keeps_its_types(runtime):
    """A change from 1 to true inside a list is a change."""
    function = agent(name="a")(lambda ctx: ctx.write_state_patch("k", [True]))
    assert runtime.run(function, initial_state={"k": [1]}).state["k"][0] is True


@pytest.mark.invariant(13)
def test_a_fenced_worker_changes_nothing(runtime):
    """A worker whose epoch is over is stopped at its next durable call, and the later owner's run goes on."""
    other = Runtime(runtime.log)

    def body(ctx):
        if ctx.attempt == 1:
            runtime._lease.end()
            other.run(function, run_id="r")
        return ctx.call_tool("keyed")

    function = agent(name="a", tools=TOOLS)(body)
    with pytest.raises(Fenced):
        runtime.run(function, run_id="r")
    assert runtime.result("r").ok
    assert len(bodies(runtime, "tool_call_requested")) == 1


def test_two_processes_race_for_one_run(tmp_path, python):
    """One process works on the run, the other is refused; the run of a killed process is free at once."""
    script = """
        import sys, time
        from agentledger import *
        @agent
        def a(ctx):
            print("working", flush=True)
            time.sleep(float(sys.argv[2]))
            return 1
        try:
            print(Runtime.local(sys.argv[1]).run(a, run_id="r").status)
        except Refused as error:
            print("refused", error)
        """
    first = python.start(script, tmp_path / "l", 60)
    assert first.stdout.readline() == "working\n"
    assert "is being worked on" in python.run(script, tmp_path / "l", 0)
    first.kill()
    first.wait()
    assert python.run(script, tmp_path / "l", 0).split() == ["working", "completed"]


def test_a_task_that_sleeps_is_not_a_divergence(runtime):
    """On recovery, a branch that merely sleeps before its recorded effect is waited for."""
    first = [True]

    async def body(ctx):
        async def sleeper():
            await asyncio.sleep(0.1)
            return str(ctx.now())

        async def worker():
            await ctx.call_tool("slow")
            if first:
                raise KeyboardInterrupt
            return await ctx.call_tool("slow")

        return len(await asyncio.gather(sleeper(), worker()))

    async def slow():
        await asyncio.sleep(0.2 * bool(first))

    function = agent(name="a", tools=[ToolSpec(name="slow", function=slow)])(body)
    with pytest.raises(KeyboardInterrupt):
        runtime.run(function, run_id="r")
    first.clear()
    assert runtime.run(function, run_id="r").output == 2
