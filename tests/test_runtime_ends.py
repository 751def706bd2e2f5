"""Runs that end in unusual ways: stopped, abandoned, fenced, with values that cannot be kept, or not at all."""

from __future__ import annotations

import asyncio

import pytest
from suites.runs import TOOLS, bodies, replayed

from agentledger import BadInput, Refused, Runtime, ToolFailed, ToolSpec, agent
from ledger_core.errors import Fenced

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
    assert Runtime(log).state("r").waiting == "blocked"

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
    replayed(runtime, function)


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
        if ctx.epoch == 1:
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


@pytest.mark.parametrize("times", [1, 2])
def test_a_claim_that_nobody_waits_for_any_more_is_given_back(runtime, times):
    """Cancelled while its claim is being committed, a run is nobody's afterwards, and goes on at the next call."""

    @agent(name="a", tools=TOOLS)
    async def main(ctx):
        return await ctx.call_tool("keyed")

    claim, claimed = runtime.log.adecide, asyncio.Event()

    async def slowly(decision):
        events = await claim(decision)
        claimed.set()
        await asyncio.sleep(0.02)
        return events

    async def cancelled():
        runtime.log.adecide = slowly
        task = asyncio.create_task(runtime.arun(main, run_id="r"))
        await claimed.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        runtime.log.adecide = claim
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert runtime.state("r").worker is None
    assert runtime.run(main, run_id="r").ok
