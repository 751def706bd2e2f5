"""Budgets and streams where they break off: what is charged, given back, and replayed."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from suites.edges import ASKED, PATIENCE, account_of
from suites.runs import bodies, replayed

from agentledger import (
    BadInput,
    Budget,
    BudgetExceeded,
    InDoubt,
    ModelFailed,
    PermissionDenied,
    Runtime,
    agent,
    tool,
)

# Budgets


@pytest.mark.invariant(20)
def test_a_lost_call_that_is_refused_gives_back_what_it_held(tmp_path: Path) -> None:
    """A read that was lost, and is forbidden by the time of its recovery, does not hold its session's budget."""
    deaths = [True]

    @tool(name="paid", cost=lambda _: 0.1)
    def paid() -> int:
        if deaths and deaths.pop():
            raise KeyboardInterrupt
        return 1

    @agent(name="a", tools=[paid])
    def a(ctx: Any) -> None:
        try:
            ctx.call_tool("paid")
        except PermissionDenied:
            ctx.wait_signal("never")

    with Runtime.local(tmp_path) as runtime:
        runtime.set_budget(Budget(usd=1), session="s")
        with pytest.raises(KeyboardInterrupt):
            runtime.run(a, run_id="r", session_id="s")
    with Runtime.local(tmp_path, policy=lambda _: False) as runtime:
        runtime.run(a, run_id="r")
        account = account_of(runtime, "session:s")
    assert (account.reserved, account.open) == ({}, 0)


@pytest.mark.parametrize("kind", ["model", "tool"])
@pytest.mark.invariant(20)
def test_what_a_lost_attachment_held_comes_back(tmp_path: Path, kind: str) -> None:
    """A read or a model's answer that an attachment never told of holds nothing once the run is attached again."""
    with Runtime.local(tmp_path) as runtime:
        runtime.set_budget(Budget(tokens=100, calls=1), agent="attached")
        with runtime.attach("x") as ctx:
            if kind == "model":
                ctx.begin_model(ASKED)
            else:
                ctx.begin_tool("q", {}, side_effect="external_read")
        with runtime.attach("x"):
            assert account_of(runtime, "agent:attached").reserved == {}


@pytest.mark.invariant(20)
def test_time_that_was_worked_is_charged_once(tmp_path: Path) -> None:
    """Calls that depart side by side tell the budget of the same work only once."""

    @tool(name="read")
    async def read(n: int) -> int:
        return n

    @agent(name="a", tools=[read])
    async def a(ctx: Any) -> None:
        time.sleep(0.2)
        await asyncio.gather(*(ctx.call_tool("read", n=n) for n in range(20)))

    with Runtime.local(tmp_path) as runtime:
        begun = time.monotonic_ns()
        runtime.run(a, run_id="r", budget=Budget(wall_seconds=1000))
        took = time.monotonic_ns() - begun
        assert account_of(runtime, "run:r").spent["wall_ns"] <= took


@pytest.mark.invariant(20)
def test_a_stream_that_broke_off_is_charged_at_its_bound(tmp_path: Path) -> None:
    """Chunks that came are paid for, though the answer never said what it took."""

    def model(_: Any) -> Any:
        yield {"text": "word " * 200}
        raise ConnectionResetError

    @agent(name="a")
    def a(ctx: Any) -> None:
        with pytest.raises(ModelFailed):
            list(ctx.stream_model({**ASKED, "max_tokens": 1000}))

    with Runtime.local(tmp_path, models=model, prices={"m": {"input": 1, "output": 1000}}) as runtime:
        assert runtime.run(a, run_id="r", budget=Budget(usd=10)).ok
        assert account_of(runtime, "run:r").spent["usd_nano"] >= 10**9


@pytest.mark.parametrize("usd", [-5, float("nan"), float("inf"), "1", 1e300])
def test_a_person_cannot_settle_for_what_is_no_price(tmp_path: Path, usd: Any) -> None:
    """A negative price would give a budget more than it has; it is refused, as all that is no price."""

    @tool(name="w", side_effect="external_write", cost=0.5)
    def w(lost: bool) -> int:
        if lost:
            raise ConnectionResetError
        return 1

    @agent(name="a", tools=[w])
    def a(ctx: Any) -> None:
        ctx.call_tool("w", lost=False)
        ctx.call_tool("w", lost=True)

    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(InDoubt):
            runtime.run(a, run_id="r", budget=Budget(usd=1))
        with pytest.raises(BadInput):
            runtime.settle("r:2", "succeeded", because="it is there", usd=usd)
        assert account_of(runtime, "run:r").spent["usd_nano"] == 500_000_000


def test_a_budget_of_a_child_is_refused(tmp_path: Path) -> None:
    """A bound that would bound nothing is not taken: a child draws on its root's budget."""

    @agent(name="child")
    def child(ctx: Any) -> None:
        ctx.wait_signal("go")

    @agent(name="parent")
    async def parent(ctx: Any) -> None:
        await ctx.spawn(child, run_id="kid")

    with Runtime.local(tmp_path) as runtime:
        runtime.run(parent, run_id="r")
        with pytest.raises(BadInput, match="run r"):
            runtime.set_budget(Budget(calls=2), run="kid")


# Streams that do not replay


async def _numbers(_: Any) -> Any:
    for number in range(3):
        await asyncio.sleep(0.02)
        yield number


def test_a_stream_ends_once(tmp_path: Path) -> None:
    """A stream that is closed while its end is being read has one outcome, and is charged once."""

    async def model(_: Any) -> Any:
        yield {"n": 1}
        await asyncio.sleep(0.3)

    @agent(name="a")
    async def a(ctx: Any) -> None:
        stream = ctx.stream_model(ASKED)
        try:
            async with asyncio.timeout(0.1):
                async for _ in stream:
                    pass
        except TimeoutError:
            pass
        await stream.aclose()
        await ctx.sleep(0.5)

    with Runtime.local(tmp_path, models=model) as runtime:
        runtime.run(a, run_id="r", budget=Budget(calls=9))
        assert len(bodies(runtime, "model_call_completed")) == 1


@pytest.mark.parametrize("how", ["returned", "in time"])
def test_a_stream_that_was_left_open_replays(tmp_path: Path, how: str) -> None:
    """What the code was given of a stream that it left without closing it is on record."""

    @agent(name="a")
    async def a(ctx: Any) -> Any:
        got = []
        try:
            async with asyncio.timeout(0.05 if how == "in time" else 5):
                async for chunk in ctx.stream_model(ASKED):
                    got.append(chunk)
                    if how == "returned":
                        return got
        except TimeoutError:
            pass
        return got

    with Runtime.local(tmp_path, models=_numbers) as runtime:
        assert runtime.run(a, run_id="r").ok
        replayed(runtime, a)


def test_a_stream_whose_loop_is_ending_has_not_failed(tmp_path: Path) -> None:
    """That everything in the loop is cancelled is no outcome of the model's: the stream is asked for again."""
    ends = [True]

    async def model(_: Any) -> Any:
        yield 1
        if ends:
            await asyncio.sleep(60)

    @agent(name="a")
    async def a(ctx: Any) -> Any:
        return [chunk async for chunk in ctx.stream_model(ASKED)]

    async def interrupted(runtime: Runtime) -> None:
        task = asyncio.create_task(runtime.arun(a, run_id="r"))
        while not runtime.log.stream_head("run/r") or not bodies(runtime, "model_call_requested"):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)
        for one in asyncio.all_tasks() - {asyncio.current_task()}:
            one.cancel()
        await asyncio.wait({task}, timeout=PATIENCE)

    with Runtime.local(tmp_path, models=model) as runtime:
        asyncio.run(interrupted(runtime))
        ends.clear()
        assert runtime.run(a, run_id="r").output == [1]


@pytest.mark.parametrize("order", range(6))
def test_a_run_whose_loop_is_ending_has_given_nothing_up(tmp_path: Path, order: int) -> None:
    """`asyncio.run` cancels what is left at its end, the agent's tasks first or last: that is not the code's doing."""
    ends = [True]

    @tool(name="read")
    async def read() -> int:
        await asyncio.sleep(60 if ends else 0)
        return 1

    @agent(name="a", tools=[read])
    async def a(ctx: Any) -> Any:
        return await ctx.call_tool("read")

    async def interrupted(runtime: Runtime) -> None:
        task = asyncio.create_task(runtime.arun(a, run_id="r"))
        await asyncio.sleep(0.3)
        left = sorted(asyncio.all_tasks() - {asyncio.current_task()}, key=lambda one: str(one.get_coro()))
        for one in list(itertools.permutations(left))[order]:
            one.cancel()
        await asyncio.wait({task}, timeout=PATIENCE)

    with Runtime.local(tmp_path) as runtime:
        asyncio.run(interrupted(runtime))
        ends.clear()
        assert runtime.run(a, run_id="r").output == 1


def test_a_run_does_not_wait_for_what_it_holds_itself(tmp_path: Path) -> None:
    """A stream that a task let go holds all that was left, and nobody ends it: the next call is told so at once."""

    async def chunks(_: Any) -> Any:
        for number in range(3):
            yield number

    @agent
    async def lets_go(ctx: Any) -> Any:
        async def first() -> None:
            async for _ in ctx.stream_model(ASKED):
                return

        await asyncio.create_task(first())
        try:
            await ctx.call_model(ASKED)
        except BudgetExceeded as held:
            return held.message

    with Runtime.local(tmp_path, models=chunks) as runtime:
        said = runtime.run(lets_go, run_id="r", budget=Budget(tokens=1000)).output
        assert "of this run" in said
        assert account_of(runtime, "run:r").reserved == {}
        replayed(runtime, lets_go)
