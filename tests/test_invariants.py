"""Invariants that no other test has for its subject: one outcome an effect, replay without effects, base versions."""

from __future__ import annotations

import asyncio
from collections import Counter
from threading import Barrier, Thread

import pytest

from agentledger import NoEffect, Refused, Runtime, agent, tool
from ledger_core.events.effect import ToolCallCompleted, ToolCallFailed, ToolCallRequested, ToolCallSettled
from ledger_core.events.step import StatePatchCommitted, StepClaimed
from ledger_core.runtime.agent import agent_of
from replay.replaying import replay


def _agent(calls: Counter):
    def find(number):
        raise NoEffect

    @tool(side_effect="external_write", verify=find)
    def write(number):
        calls["write"] += 1
        if number == 2:
            raise ConnectionError("broken")
        return number

    @tool(side_effect="external_read")
    async def read(number):
        calls["read"] += 1
        return number

    def model(request):
        calls["model"] += 1
        return {"content": "yes"}

    @agent(name="a", tools=[write, read], models=model)
    async def main(ctx):
        ctx.write_state_patch("n", ctx.capture("n", lambda: calls.update(("capture",)) or 1))
        found = await asyncio.gather(
            *(ctx.call_tool("write", number=number) for number in range(4)),
            *(ctx.call_tool("read", number=number) for number in range(4)),
            return_exceptions=True,
        )
        await ctx.call_model({"model": "m", "messages": []})
        return [str(one) for one in found]

    return main


@pytest.mark.invariant(7)
def test_an_effect_has_one_final_outcome(log):
    """Every effect of a run, failed and settled ones too, has exactly one final outcome in the log."""
    result = Runtime(log).run(_agent(Counter()))
    bodies = [event.body for event in log.stream(f"run/{result.run_id}")]
    asked = Counter(body.path for body in bodies if isinstance(body, ToolCallRequested))
    final = Counter(
        body.path
        for body in bodies
        if isinstance(body, (ToolCallCompleted, ToolCallSettled))
        or (isinstance(body, ToolCallFailed) and not body.in_doubt)
    )

    assert asked == final
    assert set(final.values()) == {1}


@pytest.mark.invariant(8)
def test_replay_does_nothing(log):
    """A replay calls no tool, no model and no captured function, and appends nothing."""
    calls: Counter = Counter()
    runtime, main = Runtime(log), _agent(calls)
    result = runtime.run(main)
    before, head = dict(calls), log.head()

    assert replay(runtime, result.run_id, agent_of(main)).ok
    assert (before, head) == (dict(calls), log.head())


@pytest.mark.invariant(14)
def test_a_state_commit_names_the_version_that_its_step_saw(log):
    """The version that a step's state is committed on is the one that its claim saw."""
    result = Runtime(log).run(_agent(Counter()))
    bodies = [event.body for event in log.stream(f"run/{result.run_id}")]
    claims = [body for body in bodies if isinstance(body, StepClaimed)]
    commits = [body for body in bodies if isinstance(body, StatePatchCommitted)]

    assert [claim.base_version for claim in claims] == [commit.base_version for commit in commits] == [0]
    assert [commit.version for commit in commits] == [1]


@pytest.mark.invariant(13)
def test_claims_that_share_a_commit_see_each_other(log):
    """Of threads that ask for one run at the same moment, one works on it and all others are refused."""
    inside, leave = Barrier(2), Barrier(2)

    @agent(name="a")
    def main(ctx):
        inside.wait(10)
        leave.wait(10)
        return 1

    runtime, refused = Runtime(log), []

    def ask() -> None:
        try:
            runtime.run(main, run_id="r")
        except Refused as error:
            refused.append(str(error))

    threads = [Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    while len(refused) < 15:
        threads[0].join(0.01)
    leave.wait(10)
    for thread in threads:
        thread.join()

    assert len(refused) == 15
    assert runtime.result("r").output == 1
    assert [event.type for event in log.stream("run/r")].count("step_claimed") == 1
