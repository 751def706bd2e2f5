"""Runs that could hang: what is abandoned, lost or left open comes to an end, and is recovered."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from suites.edges import HEAD, child
from suites.runs import replayed

from agentledger import (
    Budget,
    LedgerError,
    RetryableAgentError,
    RetryPolicy,
    Runtime,
    Secret,
    agent,
    tool,
)
from ledger_core.runtime.agent import agent_of
from replay import replaying


def test_a_keyed_read_is_answered_when_its_step_begins_afresh(tmp_path: Path) -> None:
    """A fresh attempt of the code gets the result of its own key, and does not stop at it for ever."""
    fails = [True]

    @tool(name="read")
    def read() -> int:
        return 1

    @agent(name="reads", tools=[read])
    def reads(ctx: Any) -> Any:
        found = ctx.call_tool("read", _logical_operation="k")
        if fails and fails.pop():
            raise RetryableAgentError("again")
        return found

    with Runtime.local(tmp_path) as runtime:
        policy = RetryPolicy(max_attempts=3, initial=0, fresh=True)
        runtime.create_run(reads, run_id="r", retry_policy=policy)
        for _ in range(5):
            runtime.run_once(reads)
        assert runtime.state("r").status == "completed"


_CHUNKS = (
    HEAD
    + """
async def model(request):
    for number in range(3):
        await asyncio.sleep(.02)
        yield number + (0 if first else 100)

@agent(name="a", tools=[kills], models=model)
async def a(ctx):
    async def use(chunk):
        await ctx.call_tool("kills")
        return chunk
    return [await asyncio.create_task(use(chunk)) async for chunk in ctx.stream_model({"messages": []})]

with Runtime.local(root) as runtime:
    try:
        result = runtime.run(a, run_id="r")
    except (BadInput, Diverged) as refused:
        print(refused)
    else:
        if result.ok:
            replayed(runtime, a)
"""
)


def test_what_a_task_does_with_a_chunk_can_be_recovered(tmp_path: Path) -> None:
    """Effects of tasks that are made while a stream is open are recorded so that recovery does not wait for ever."""
    child(tmp_path, _CHUNKS, "first")
    code, said = child(tmp_path, _CHUNKS, "again")
    assert code == 0, said


def test_what_a_task_does_with_a_chunk_replays(tmp_path: Path) -> None:
    """A live run whose tasks call tools while a stream is open ends in its replay as well, or was refused."""
    code, said = child(tmp_path, _CHUNKS, "whole")
    assert code == 0, said


_AT_THE_GATE = (
    HEAD
    + """
async def asks(asked):
    if asked.tool == "slow" and first:
        await asyncio.sleep(60)
    return True

@tool(name="slow")
async def slow() -> int:
    return 1

@agent(name="a", tools=[slow, kills])
async def a(ctx):
    try:
        async with asyncio.timeout(.2):
            await ctx.call_tool("slow")
    except TimeoutError:
        pass
    return await ctx.call_tool("kills")

with Runtime.local(root, policy=asks) as runtime:
    assert runtime.run(a, run_id="r").ok
    replayed(runtime, a)
"""
)


def test_an_effect_that_was_abandoned_while_the_policy_was_asked_can_be_recovered(tmp_path: Path) -> None:
    """That the code stopped waiting can be on record before anything else of the effect is: the run goes on."""
    assert child(tmp_path, _AT_THE_GATE, "first")[0] == -signal.SIGKILL
    code, said = child(tmp_path, _AT_THE_GATE, "again")
    assert code == 0, said


_ABANDONED = (
    HEAD
    + """
@tool(name="slow", cost=lambda _: .1)
async def slow(number: int) -> int:
    if first:
        await asyncio.sleep(60)
    return number

@agent(name="a", tools=[slow, kills])
async def a(ctx):
    try:
        async with asyncio.timeout(.3):
            await ctx.call_tool("slow", number=1)
    except TimeoutError:
        pass
    await ctx.call_tool("kills")
    return await ctx.call_tool("slow", number=2)

with Runtime.local(root) as runtime:
    if first:
        runtime.run(a, run_id="r", budget=Budget(usd=1))
    for _ in range(5):
        runtime.run_once(a)
        time.sleep(.3)
    assert runtime.state("r").ended, [runtime.state("r").waits, runtime.budgets()]
"""
)


@pytest.mark.invariant(20)
def test_a_read_that_was_abandoned_and_lost_holds_nothing_of_a_budget(tmp_path: Path) -> None:
    """Nobody asks again for what the code had given up as its worker died: what it held comes back."""
    assert child(tmp_path, _ABANDONED, "first")[0] == -signal.SIGKILL
    code, said = child(tmp_path, _ABANDONED, "again")
    assert code == 0, said


def test_what_cannot_be_recorded_does_not_hold_a_run_for_ever(tmp_path: Path) -> None:
    """A rider that the log refuses ends the claim: the run is blocked and named, not kept as running by nobody."""
    Secret("word", "warehouse-db")

    @tool(name="warehouse-db.query")
    def query() -> int:
        return 1

    @agent(name="a", tools=[query])
    def a(ctx: Any) -> Any:
        return ctx.call_tool("warehouse-db.query")

    with Runtime.local(tmp_path) as runtime:
        result = runtime.run(a, run_id="r")
        assert (result.status, result.error_type) == ("failed", "BadInput")


def test_costs_beyond_what_facts_can_hold_are_refused_at_the_call(tmp_path: Path) -> None:
    """Counts that add up to more than 64 bits do not leave a run that can neither go on nor end."""

    @agent(name="a")
    def a(ctx: Any) -> int:
        for _ in range(6):
            ctx.record_cost("x", input_tokens=(1 << 62) - 1)
        return 1

    with Runtime.local(tmp_path) as runtime:
        try:
            runtime.run(a, run_id="r", budget=Budget(tokens=1 << 62))
        except LedgerError:
            pass
        assert runtime.state("r").status != "running"


def test_an_outcome_that_nobody_waits_for_holds_up_nobody(python: Any) -> None:
    """A call that was given up and ends while the code waits for the next one is passed over: the code goes on."""
    said = python.run(
        """
        import asyncio, random
        from agentledger import Runtime, agent, tool

        @tool(side_effect="external_write")
        async def slow(n: int) -> int:
            await asyncio.sleep(random.uniform(0.002, 0.02))
            return n

        @tool
        async def fast(n: int) -> int:
            return n

        @agent(tools=[slow, fast])
        async def a(ctx):
            for i in range(40):
                try:
                    await asyncio.wait_for(ctx.call_tool("slow", n=i), 0.001)
                except TimeoutError:
                    pass
                for j in range(4):
                    await ctx.call_tool("fast", n=j)
            return "done"

        for number in range(15):
            random.seed(number)
            with Runtime.in_memory() as runtime:
                assert runtime.run(a, run_id="r").output == "done"
        print("ended")
        """,
        timeout=90,
    )
    assert said.strip() == "ended"


def test_a_stream_that_loses_a_race_replays() -> None:
    """A chunk that came when the code had just stopped reading holds up no replay, however the race went."""

    async def model(request: Any) -> Any:
        for number in range(4):
            await asyncio.sleep(0.004)
            yield {"delta": number}

    @tool
    async def read(n: int, wait: float) -> int:
        await asyncio.sleep(wait)
        return n

    @agent(name="races", tools=[read], models=model)
    async def races(ctx: Any) -> Any:
        async def reads() -> Any:
            return [chunk async for chunk in ctx.stream_model({"model": "m", "messages": []})]

        tasks = [asyncio.create_task(reads()), asyncio.create_task(ctx.call_tool("read", n=1, wait=0.004))]
        _, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return await ctx.call_tool("read", n=2, wait=0.01)

    for _ in range(12):
        with Runtime.in_memory() as runtime:
            assert runtime.run(races, run_id="r").output == 2
            assert replaying.replay(runtime, "r", agent_of(races)).ok


@pytest.mark.parametrize("awaits", ["asyncio.timeout", "wait_for"])
def test_a_stream_that_is_given_up_before_its_first_chunk_replays(awaits: str) -> None:
    """Code that stops waiting for a stream before anything of it came does so again in its replay."""

    async def slow(request: Any) -> Any:
        await asyncio.sleep(0.2)
        yield {"delta": "a"}

    @tool
    def read(n: int) -> int:
        return n

    async def first(stream: Any) -> Any:
        return [chunk async for chunk in stream]

    @agent(name="impatient", tools=[read], models=slow)
    async def impatient(ctx: Any) -> Any:
        found = []
        stream = ctx.stream_model({"model": "m", "messages": []})
        try:
            if awaits == "wait_for":
                await asyncio.wait_for(first(stream), 0.03)
            else:
                async with asyncio.timeout(0.03):
                    await first(stream)
        except TimeoutError:
            found.append("too slow")
        await ctx.call_tool("read", n=1)
        await ctx.sleep(0.25)
        return found

    with Runtime.in_memory() as runtime:
        assert runtime.run(impatient, run_id="r").output == ["too slow"]
        replayed(runtime, impatient)
