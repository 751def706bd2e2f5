"""Runs whose calls went wrong in every way that rows of costs, models and failures have to tell apart, for real.

`gone_wrong(runtime)` makes them all; each function makes one, with its own agent. Calls that were really made are
counted outside, by the tools and models themselves.
"""

from __future__ import annotations

from typing import Any

import pytest

from agentledger import (
    InDoubt,
    NoEffect,
    RetryableAgentError,
    RetryPolicy,
    Runtime,
    ToolFailed,
    Unavailable,
    agent,
    tool,
)
from ledger_core.errors import BadInput
from ledger_core.run.state import RunState
from projections.runs import of_stream

SOON = {"max_attempts": 4, "initial": 0.01, "maximum": 0.02}
SPENT = ("usd_nano", "input_tokens", "output_tokens", "cached_tokens")


def answer(request: Any) -> Any:
    return {"content": "x", "usage": {"input_tokens": 10, "output_tokens": 5}}


def state_of(runtime: Runtime, run: str) -> RunState:
    return of_stream(runtime.log, f"run/{run}")


def began_afresh(runtime: Runtime) -> int:
    """`fresh`: three attempts of a step, each with a recorded cost and a model call; the third is right."""
    asked = 0

    def model(request: Any) -> Any:
        nonlocal asked
        asked += 1
        return answer(request)

    @agent(name="fresh", models=model)
    async def fresh(ctx: Any) -> None:
        ctx.record_cost("search", usd=0.5)
        await ctx.call_model({"model": "m", "messages": []})
        if asked < 3:
            raise RetryableAgentError("again")

    assert runtime.run(fresh, run_id="fresh", retry_policy=SOON).ok
    return asked


def asked_for_others(runtime: Runtime) -> None:
    """`others`: the second attempt calls other tools and models at the same paths than the first."""
    attempts = 0

    @tool
    def alpha() -> None:
        raise ValueError("alpha broke")

    @tool
    def beta() -> int:
        return 1

    @agent(name="others", tools=[alpha, beta], models=answer)
    async def others(ctx: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            with pytest.raises(ToolFailed):
                await ctx.call_tool("alpha")
            await ctx.call_model({"model": "large", "messages": []})
            await ctx.call_tool("beta")
            raise RetryableAgentError("x")
        await ctx.call_tool("beta")
        await ctx.call_model({"model": "small", "messages": []})
        await ctx.call_model({"model": "small", "messages": []})

    assert runtime.run(others, run_id="others", retry_policy=SOON).ok


def flaky_calls(runtime: Runtime, run: str, *, fresh: bool) -> int:
    """A tool that fails twice, in a step that is then tried again: afresh, or with what is recorded."""
    made = 0

    @tool(retry=RetryPolicy(max_attempts=2, initial=0.01), cost=0.5)
    def flaky() -> int:
        nonlocal made
        made += 1
        if made < 3:
            raise ValueError(f"no {made}")
        return made

    @agent(name="flaky", tools=[flaky])
    async def calls(ctx: Any) -> None:
        await ctx.call_tool("flaky")

    policy = RetryPolicy(fresh=fresh, max_attempts=4, initial=0.01, retry_on=("*",))
    assert runtime.run(calls, run_id=run, retry_policy=policy).ok
    return made


def tried_three_times(runtime: Runtime) -> int:
    """`thrice`: a read that comes right with its third attempt."""
    made = 0

    @tool(side_effect="external_read", retry=RetryPolicy(max_attempts=3, initial=0.01))
    def read() -> int:
        nonlocal made
        made += 1
        if made < 3:
            raise ValueError("not yet")
        return made

    @agent(name="thrice", tools=[read])
    async def thrice(ctx: Any) -> Any:
        return await ctx.call_tool("read")

    assert runtime.run(thrice, run_id="thrice").ok
    return made


def doubted(runtime: Runtime, run: str, *, by_a_person: bool) -> None:
    """A write whose answer was lost; `verify` cannot say twice, then it says, or a person was faster."""
    asked = 0

    def verify(k: int, idempotency_key: str) -> Any:
        nonlocal asked
        asked += 1
        if by_a_person and asked == 2:
            runtime.settle(f"{run}:1", "succeeded", because="I saw it", result=5)
        if by_a_person or asked < 3:
            raise Unavailable("down")
        return {"id": 1}

    @tool(side_effect="external_write", verify=verify, cost=0.25)
    def write(k: int) -> None:
        raise ConnectionError("lost")

    @agent(name="doubter", tools=[write])
    async def doubter(ctx: Any) -> Any:
        return await ctx.call_tool("write", k=1)

    assert runtime.run(doubter, run_id=run).ok


def settled_as_nothing(runtime: Runtime) -> None:
    """`nothing`: a write in doubt, of which a person finds out that it had no effect."""

    @tool(side_effect="external_write", cost=0.25)
    def write() -> None:
        raise ConnectionError("lost")

    @agent(name="nothing", tools=[write])
    async def nothing(ctx: Any) -> Any:
        return await ctx.call_tool("write")

    with pytest.raises(InDoubt):
        runtime.run(nothing, run_id="nothing")
    runtime.settle("nothing:1", "no_effect", because="looked")
    assert runtime.run(nothing, run_id="nothing").status == "failed"


def undone(runtime: Runtime) -> None:
    """`undone`: a write that came right with its second attempt, and that a person undid later."""
    made = 0

    def undo(**_: Any) -> None:
        return None

    @tool(side_effect="external_write", retry=RetryPolicy(max_attempts=3, initial=0.01), compensate=undo)
    def write() -> int:
        nonlocal made
        made += 1
        if made == 1:
            raise NoEffect("no")
        return made

    @agent(name="undone", tools=[write])
    async def undoing(ctx: Any) -> Any:
        return await ctx.call_tool("write")

    assert runtime.run(undoing, run_id="undone").ok
    runtime.settle("undone:1", "compensated", because="undone by hand")


def blocked(runtime: Runtime) -> None:
    """`blocked`: twice without a provider, then with one."""

    def made(**how: Any) -> Any:
        @agent(name="blocked", **how)
        async def asks(ctx: Any) -> Any:
            return await ctx.call_model({"model": "m", "messages": []})

        return asks

    for _ in range(2):
        with pytest.raises(BadInput):
            runtime.run(made(), run_id="blocked")
    assert runtime.run(made(models=answer), run_id="blocked").ok


def gone_wrong(runtime: Runtime) -> None:
    """All of them but those that need a worker of their own."""
    began_afresh(runtime)
    asked_for_others(runtime)
    flaky_calls(runtime, "flaky", fresh=True)
    flaky_calls(runtime, "kept", fresh=False)
    tried_three_times(runtime)
    doubted(runtime, "doubted", by_a_person=False)
    doubted(runtime, "late", by_a_person=True)
    settled_as_nothing(runtime)
    undone(runtime)
    blocked(runtime)
