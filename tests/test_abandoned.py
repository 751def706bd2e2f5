"""Effects that the code stopped waiting for: what comes of them at a resume, in the next attempt, and in a replay."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from suites.runs import replayed

from agentledger import agent, tool

SOON = {"max_attempts": 3, "initial": 0.01, "maximum": 0.02}


@tool(name="read", side_effect="external_read")
async def read(n: int) -> int:
    await asyncio.sleep(0.001)
    return n


async def dropped(*tasks):
    """Cancel tasks, and wait for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_the_first_of_two_and_then_a_sleep(runtime):
    """The other one's outcome, which the code never saw, holds nobody up at a resume."""

    @agent(name="a", tools=[read])
    async def main(ctx):
        tasks = {asyncio.create_task(ctx.call_tool("read", n=n)) for n in (1, 2)}
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await dropped(*left)
        await ctx.sleep(0.6)
        return sorted(task.result() for task in done)

    assert runtime.run(main, run_id="r").ok
    replayed(runtime, main)


def test_a_timeout_that_races_an_outcome_is_told_the_same_way_again(runtime):
    """What the code saw the first time, an outcome or its own timeout, it sees at every execution."""
    saw = []

    @tool(name="slow")
    async def slow(k: int) -> int:
        await asyncio.sleep(0.05)
        return k

    @agent(name="a", tools=[slow])
    async def main(ctx):
        got = []
        for k in range(8):
            try:
                async with asyncio.timeout(0.047 + k * 0.001):
                    got.append(await ctx.call_tool("slow", k=k))
            except TimeoutError:
                got.append("late")
        saw.append(got)
        await ctx.sleep(0.6)
        return got

    assert runtime.run(main, run_id="r").output == saw[0]
    assert saw[0] == saw[-1]
    replayed(runtime, main)


def test_a_given_up_wait_takes_no_signal(runtime):
    """Signals go to those who still wait, in the order in which they came."""

    @agent(name="a")
    async def main(ctx):
        got = []
        for name in ("first", "second"):
            task = asyncio.create_task(ctx.wait_signal("m"), name=name)
            await asyncio.sleep(0.05)
            await dropped(task)
        ctx.write_state_patch("ready", True)
        await ctx.sleep(0.6)
        while len(got) < 2:
            got.append(await ctx.wait_signal("m"))
        return got

    runtime.create_run(main, run_id="r")
    assert runtime.run(main, run_id="r").status == "waiting"
    runtime.signal("r", "m", 1)
    runtime.signal("r", "m", 2)
    assert runtime.run(main, run_id="r").output == [1, 2]
    replayed(runtime, main)


def test_a_signal_that_was_taken_and_not_seen_is_there_for_the_next(runtime):
    """Of two waits with answers the code takes one; the other's signal is not lost."""

    @agent(name="a")
    async def main(ctx):
        tasks = {asyncio.create_task(ctx.wait_signal(name), name=name) for name in ("a", "b")}
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        (won,) = done
        await dropped(*left)
        other = "b" if won.get_name() == "a" else "a"
        await ctx.sleep(0.6)
        return sorted([won.result(), await ctx.wait_signal(other)])

    runtime.create_run(main, run_id="r")
    runtime.signal("r", "a", 1)
    runtime.signal("r", "b", 2)
    assert runtime.run(main, run_id="r").output == [1, 2]
    replayed(runtime, main)


def test_given_up_in_one_attempt_and_wanted_in_the_next(runtime):
    """A fresh attempt knows nothing of what the last one gave up."""

    @agent(name="a", tools=[read])
    async def main(ctx):
        task = asyncio.create_task(ctx.call_tool("read", n=1))
        if ctx.attempt == 1:
            await asyncio.sleep(0.05)
            await dropped(task)
            raise ValueError("again")
        found = await task
        await ctx.sleep(0.6)
        return found

    policy = {**SOON, "fresh": True, "retry_on": ["ValueError"]}
    assert runtime.run(main, run_id="r", retry_policy=policy).output == 1
    replayed(runtime, main)


def test_waits_that_nobody_came_back_to_replay(runtime):
    """A wait that was given up, and tasks that the agent left behind, are no extra effects of a replay."""

    @agent(name="a")
    async def gives_up(ctx):
        task = asyncio.create_task(ctx.wait_signal("go"))
        await asyncio.sleep(0.05)
        await dropped(task)
        return await ctx.wait_signal("go")

    @agent(name="b")
    async def leaves(ctx):
        ctx.left = [asyncio.create_task(ctx.sleep(100)), asyncio.create_task(ctx.wait_signal("never"))]
        await asyncio.sleep(0.05)
        return 1

    assert runtime.run(gives_up, run_id="r").status == "waiting"
    runtime.signal("r", "go", 5)
    assert runtime.run(gives_up, run_id="r").output == 5
    assert runtime.run(leaves, run_id="s").output == 1
    replayed(runtime, gives_up)
    replayed(runtime, leaves, "s")


def test_threads_of_a_sync_agent_are_not_torn_away_from_their_work(runtime):
    """A step with a thread that works is not suspended because another one waits."""
    told = []

    @tool(name="notify", side_effect="external_write")
    def notify():
        told.append(1)
        runtime.signal("r", "go", "told")

    @agent(name="a", tools=[notify])
    def main(ctx):
        def waits():
            with ctx.scope("waits"):
                return ctx.wait_signal("go")

        def works():
            with ctx.scope("works"):
                time.sleep(0.3)
                return ctx.call_tool("notify")

        with ThreadPoolExecutor(2) as pool:
            return [one.result() for one in (pool.submit(waits), pool.submit(works))]

    assert runtime.run(main, run_id="r").output == ["told", None]
    assert told == [1]
    replayed(runtime, main)
