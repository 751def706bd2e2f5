"""Retries, outages, timeouts, parking: what is tried again, when, and what is never made twice."""

from __future__ import annotations

import asyncio
import time

import pytest
from suites.runs import TOOLS, bodies, replayed

from agentledger import (
    BadInput,
    InDoubt,
    NoEffect,
    NonRetryableAgentError,
    RetryableAgentError,
    RetryPolicy,
    ToolFailed,
    ToolSpec,
    Unavailable,
    agent,
    tool,
)
from ledger_core.clock import NS

SOON = {"max_attempts": 4, "initial": 0.01, "maximum": 0.02}


def test_a_policy_is_checked_when_it_is_made():
    """A policy of nonsense is refused in a sentence with the name of what is wrong."""
    for wrong in (
        {"max_attempts": 0},
        {"max_attempts": True},
        {"initial": -1},
        {"factor": 0.5},
        {"jitter": 2},
        {"initial": float("nan")},
        {"maximum": float("inf")},
        {"max_losses": 0},
        {"fresh": 1},
    ):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            RetryPolicy(**wrong)
    for wrong in ({"retry_on": "ValueError"}, {"retry_on": [1]}):
        with pytest.raises(BadInput):
            RetryPolicy(**wrong)


def test_pauses_grow_are_bounded_and_drawn_from_the_seed():
    """A pause is the same for the same seed and place, other for others, and never above the maximum."""
    policy = RetryPolicy(initial=1, factor=2, maximum=10, jitter=0.5)
    seeds = [bytes([n]) * 32 for n in range(20)]

    for attempt in (1, 2, 5, 1000):
        whole = min(10, 2 ** (attempt - 1) if attempt < 100 else 10) * NS
        pauses = [policy.pause_ns(attempt, seed, "s") for seed in seeds]
        assert pauses == [policy.pause_ns(attempt, seed, "s") for seed in seeds]
        assert all(whole / 2 <= pause <= whole for pause in pauses)
        assert len(set(pauses)) == 20
    assert RetryPolicy(jitter=0).pause_ns(3, seeds[0], "s") == 4 * NS


def test_an_agent_that_asks_for_it_is_tried_again_and_writes_once(runtime):
    """A fresh attempt asks its models again, and answers an outside write that succeeded from the record."""
    asked, written = [], []

    @tool(side_effect="external_write")
    def write():
        written.append(1)
        return len(written)

    def model(request):
        asked.append(1)
        return {"content": str(len(asked))}

    @agent(name="a", tools=[write], models=model)
    async def main(ctx):
        one = await ctx.call_tool("write")
        reply = await ctx.call_model({"model": "m", "messages": []})
        if reply["content"] != "3":
            raise RetryableAgentError("not good enough")
        return [one, reply["content"], ctx.attempt]

    assert runtime.run(main, run_id="r", retry_policy=SOON).output == [1, "3", 3]
    assert len(written) == 1
    scheduled = bodies(runtime, "step_retry_scheduled")
    assert [(body.attempt, body.category, body.fresh) for body in scheduled] == [(2, "retryable", True)] + [
        (3, "retryable", True)
    ]
    replayed(runtime, main)


def test_the_effect_that_failed_is_reopened_and_the_rest_stays(runtime):
    """An attempt after a tool's failure goes on from the record, with the call that failed made again."""
    calls = []

    @tool
    def flaky():
        calls.append("flaky")
        if calls.count("flaky") < 3:
            raise ValueError("not yet")
        return "done"

    @tool
    def first():
        calls.append("first")

    @tool(side_effect="external_write")
    def notify(text: str):
        calls.append(text)

    @agent(name="a", tools=[flaky, first, notify])
    async def main(ctx):
        await ctx.call_tool("first")
        try:
            found = await ctx.call_tool("flaky")
        except ToolFailed as error:
            await ctx.call_tool("notify", text="failed")
            raise RetryableAgentError("again") from error
        await ctx.call_tool("notify", text="well")
        return found

    policy = {**SOON, "max_attempts": 5}
    with pytest.raises(Exception, match="AL105"):  # the same write, at the same place, with another request
        runtime.run(main, run_id="r", retry_policy=policy)
    assert calls == ["first", "flaky", "failed", "flaky", "flaky"]


def test_another_write_at_a_dropped_place_gets_a_place_of_its_own(runtime):
    """What a failed attempt wrote in passing does not stand in the way of what the next one writes."""
    calls = []

    @tool
    def flaky():
        calls.append("flaky")
        if calls.count("flaky") < 2:
            raise ValueError("not yet")

    @tool(side_effect="external_write")
    def apologise():
        calls.append("apologise")

    @tool(side_effect="external_write")
    def deliver(idempotency_key: str):
        calls.append("deliver")
        return idempotency_key

    @agent(name="a", tools=[flaky, apologise, deliver])
    async def main(ctx):
        try:
            await ctx.call_tool("flaky")
        except ToolFailed as error:
            await ctx.call_tool("apologise")
            raise RetryableAgentError("again") from error
        return await ctx.call_tool("deliver")

    result = runtime.run(main, run_id="r", retry_policy=SOON)

    assert result.ok
    assert calls == ["flaky", "apologise", "flaky", "deliver"]
    assert set(runtime.state("r").ledger) == {"2", "2~2"}
    replayed(runtime, main)


@pytest.mark.parametrize("error", [ValueError, NonRetryableAgentError])
def test_what_nobody_asked_to_retry_fails_at_once(runtime, error):
    """An error that the policy does not name ends the run, with its category."""

    @agent(name="a")
    def main(ctx):
        raise error("no")

    result = runtime.run(main, run_id="r")

    assert (result.status, result.error_type) == ("failed", error.__name__)
    assert not bodies(runtime, "step_retry_scheduled")
    category = {"ValueError": "unhandled", "NonRetryableAgentError": "non_retryable"}[error.__name__]
    assert runtime.state("r").category == category


def test_rules_name_errors(runtime):
    """`retry_on` and `stop_on` name classes of errors and categories; attempts end at the maximum."""

    @agent(name="a")
    def main(ctx):
        raise (KeyError if ctx.attempt == 1 else OSError)("x")

    policy = RetryPolicy(**SOON, retry_on=("LookupError", "OSError"), stop_on=("Fatal",))
    assert runtime.run(main, run_id="r", retry_policy=policy).status == "failed"
    assert runtime.state("r").attempt == 4
    policy = RetryPolicy(**SOON, retry_on=("*",), stop_on=("OSError",))
    assert runtime.run(main, run_id="s", retry_policy=policy).status == "failed"
    assert runtime.state("s").attempt == 2


def test_a_tools_attempts_are_recorded_and_the_journal_knows_the_last(runtime):
    """A tool with a policy is called again below the journal; a write only when nothing happened."""
    calls = []

    @tool(retry=RetryPolicy(**SOON))
    def read():
        calls.append("read")
        if calls.count("read") < 3:
            raise ValueError("no")
        return "read"

    @tool(side_effect="external_write", retry=RetryPolicy(**SOON))
    def write():
        calls.append("write")
        if calls.count("write") < 3:
            raise NoEffect("refused")
        return "written"

    @agent(name="a", tools=[read, write])
    async def main(ctx):
        return await asyncio.gather(ctx.call_tool("read"), ctx.call_tool("write"))

    assert runtime.run(main, run_id="r").output == ["read", "written"]
    assert sorted(calls) == ["read"] * 3 + ["write"] * 3
    failed = bodies(runtime, "tool_call_failed")
    assert len(failed) == 4
    assert all(body.retry_ns for body in failed)
    replayed(runtime, main)


def test_an_outage_is_waited_for_and_burns_no_attempt(runtime):
    """A tool that is not there pauses the run, which gives its step back meanwhile; its policy does not count it."""
    calls = []

    @tool(side_effect="external_write", outage=(ConnectionError,))
    def write():
        calls.append(time.monotonic())
        if len(calls) < 2:
            raise ConnectionRefusedError("down")
        return "up"

    def model(request):
        if len(calls) < 2:
            raise Unavailable("down")
        return {"content": "hi"}

    @agent(name="a", tools=[write], models=model)
    async def main(ctx):
        return [await ctx.call_tool("write"), (await ctx.call_model({"messages": []}))["content"]]

    assert runtime.run(main, run_id="r").output == ["up", "hi"]
    assert [body.category for body in bodies(runtime, "tool_call_failed")] == ["outage"]
    assert runtime.state("r").attempt == 1
    replayed(runtime, main)


@pytest.mark.parametrize("sync", [True, False])
def test_a_tool_that_takes_too_long(runtime, sync):
    """A read that does not end in time has failed; an outside write is in doubt."""

    async def never():
        await asyncio.sleep(3)

    def stays():
        time.sleep(0.5)

    slow = stays if sync else never
    slow_read = ToolSpec(name="read", timeout=0.1, function=slow)
    slow_write = ToolSpec(name="write", timeout=0.1, side_effect="external_write", function=slow)

    @agent(name="a", tools=[slow_read, slow_write])
    async def main(ctx):
        try:
            await ctx.call_tool("read")
        except ToolFailed as error:
            assert error.error_type == "TimeoutError"
        await ctx.call_tool("write")

    with pytest.raises(InDoubt):
        runtime.run(main, run_id="r")
    assert [body.category for body in bodies(runtime, "tool_call_failed")] == ["timeout", "timeout"]
    assert len(runtime.state("r").in_doubt) == 1


@pytest.mark.parametrize("sync", [True, False])
def test_a_step_that_works_too_long_ends(runtime, sync):
    """A claim may work so long, and no longer; waiting without a worker is no work."""

    def stays(ctx):
        time.sleep(0.3)
        ctx.call_tool("slow_read", n=1)

    async def never(ctx):
        await ctx.call_tool("slow_read", n=1)
        await asyncio.sleep(5)

    main = agent(name="a", tools=TOOLS)(stays if sync else never)
    result = runtime.run(main, run_id="r", timeout=0.2)

    assert (result.status, result.error_type) == ("failed", "TimeoutError")
    assert runtime.state("r").category == "timeout"


def test_a_run_that_costs_one_worker_after_the_other_is_parked(runtime):
    """After `max_losses` workers without progress nobody claims the run, until a person resumes it."""
    worker = runtime.worker_id

    @agent(name="a")
    async def main(ctx):
        return "alive"

    runtime.create_run(main, run_id="r", retry_policy={"max_losses": 3})
    alive, runtime.desk.alive = runtime.desk.alive, lambda _: False
    for _ in range(3):
        claim(runtime, worker)
        assert runtime.recover_expired_leases() == ["r"]
    runtime.desk.alive = alive

    assert runtime.state("r").status == "parked"
    assert runtime.run_once(main) == 0
    assert runtime.run(main, run_id="r").output == "alive"


def claim(runtime, worker):
    """Claim what there is, as a worker that never comes to work."""
    from ledger_core.run.schedule import Offer
    from ledger_core.runtime.claims import claim_next

    taken: list[str] = []
    runtime.log.decide(claim_next(runtime.desk, Offer(agents={"a": None}), worker, 1, taken))
    assert taken == ["r"]


def test_a_fresh_attempt_starts_no_child_twice(runtime):
    """A child that a failed attempt started is the child of the next one, too."""

    @agent(name="kid")
    async def kid(ctx):
        return 1

    @agent(name="a")
    async def main(ctx):
        child = await ctx.spawn(kid)
        if ctx.attempt < 3:
            raise RetryableAgentError("again")
        return await child.join()

    assert runtime.run(main, run_id="r", retry_policy=SOON).output == 1
    assert len(bodies(runtime, "child_run_requested")) == 1
    replayed(runtime, main)


def test_a_fresh_attempt_asks_anew(runtime):
    """An answer holds for the request that it was given to; the next attempt's is another."""

    @agent(name="a")
    async def main(ctx):
        answer = await ctx.request_approval("May I?")
        if ctx.attempt == 1:
            raise RetryableAgentError("again")
        return answer["by"]

    for who in ("Ada", "Eve"):
        assert runtime.run(main, run_id="r", retry_policy=SOON).status == "waiting"
        (asked,) = [one.name for one in runtime.state("r").waits.values()]
        runtime.approve(asked, by=who)
    assert runtime.run(main, run_id="r").output == "Eve"
    assert len(runtime.state("r").approvals) == 2
    replayed(runtime, main)


def test_a_wait_of_a_dropped_part_moves_nobody(runtime):
    """What began behind the effect that failed is forgotten with it: its signal finds nobody who waits."""
    calls, tasks = [], []

    @tool
    def flaky():
        calls.append(1)
        if len(calls) < 2:
            raise ValueError("no")

    @agent(name="a", tools=[flaky])
    async def main(ctx):
        try:
            await ctx.call_tool("flaky")
        except ToolFailed as error:
            tasks.append(asyncio.create_task(ctx.wait_signal("early")))
            await asyncio.sleep(0.05)
            raise RetryableAgentError("again") from error
        return await ctx.wait_signal("go")

    assert runtime.run(main, run_id="r", retry_policy=SOON).status == "waiting"
    runtime.signal("r", "early")
    assert {one.name for one in runtime.state("r").waits.values()} == {"go"}
    assert runtime.run_once(main) == 0
    runtime.signal("r", "go", 3)
    assert runtime.run(main, run_id="r").output == 3
