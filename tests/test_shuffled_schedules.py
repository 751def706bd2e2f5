"""An unchanged agent replays to its end, whatever order the loop runs its tasks in: live, recovered and replayed."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from suites import shuffling
from suites.shuffling import AGENTS, SETTLED, in_time, shuffled

from agentledger import Runtime, agent
from ledger_core import codec
from ledger_core.runtime.agent import AgentSpec, agent_of
from ledger_core.runtime.recorded import stream_of
from projections import course
from replay import replaying

RECORDINGS, REPLAYS = 12, 8
"""For each of the agents: above a thousand schedules in all."""


def _course(runtime: Runtime) -> course.Course:
    return course.of_events(runtime.log.stream(stream_of("r")), "the ledger")


def _seen(spec: AgentSpec, ends: list[Any]) -> AgentSpec:
    """The same agent; what it returns, and its state at the end, are kept as it sees them."""

    async def function(ctx: Any) -> Any:
        output = await spec.function(ctx)
        ends.append(codec.roundtrip([output, ctx.state]))
        return output

    return attrs.evolve(spec, function=function)


def _replayed(runtime: Runtime, spec: AgentSpec, seed: int) -> list[Any]:
    """What a replay under a schedule comes to; it must be no divergence."""
    ends: list[Any] = []
    with shuffled(seed):
        found = in_time(lambda: replaying.replay(runtime, "r", _seen(spec, ends)))
    assert found.ok and found.complete, f"schedule {seed}: {found.divergence}"
    return ends[0]


def test_there_are_a_thousand_schedules():
    """The agents, recordings and replays of this file are more than a thousand schedules."""
    assert len(AGENTS) * RECORDINGS * (REPLAYS + 1) > 1000
    assert 0 < len(SETTLED) < len(AGENTS)


@pytest.mark.invariant(11)
@pytest.mark.parametrize("racing", AGENTS, ids=lambda one: one.__name__)
def test_another_schedule_is_no_divergence(racing):
    """Recorded under one schedule and replayed under others, an agent ends as it did, and nothing is appended."""
    spec, courses = agent_of(racing), set()
    for seed in range(RECORDINGS):
        shuffling.DICE.seed(seed)
        with Runtime.in_memory() as runtime:
            with shuffled(seed):
                result = runtime.run(spec, run_id="r")
            assert result.ok, result
            before, head = _course(runtime), runtime.log.head()
            for other in range(REPLAYS):
                assert _replayed(runtime, spec, 1000 + 100 * seed + other) == [result.output, result.state]
            assert (runtime.log.head(), _course(runtime).digest) == (head, before.digest)
            courses.add(before.digest)
    assert len(courses) == 1 or racing not in SETTLED


@pytest.mark.parametrize("racing", AGENTS, ids=lambda one: one.__name__)
def test_a_recovered_run_keeps_what_it_did(racing):
    """Broken off under one schedule and gone on with under another, a run does nothing again, and replays."""
    spec, broken = agent_of(racing), 0
    for seed in range(6):
        shuffling.DICE.seed(seed)
        with Runtime.in_memory() as runtime:
            with shuffled(seed):
                asyncio.run(_broken_off(runtime, spec, 0.0015 * (seed + 1)))
            before = _course(runtime)
            broken += before.status != "completed"
            with shuffled(50 + seed):
                result = runtime.run(spec, run_id="r")
            assert result.ok, result
            after = {one.path: one for one in _course(runtime).effects}
            for one in before.effects:
                if one.outcome in ("done", "failed", "given up"):
                    assert after[one.path].digest == one.digest
            for other in range(3):
                assert _replayed(runtime, spec, 2000 + 10 * seed + other) == [result.output, result.state]
    assert broken


async def _broken_off(runtime: Runtime, spec: AgentSpec, after: float) -> None:
    """Run an agent, and end its loop's work in the midst of it."""
    begun = asyncio.Event()

    async def function(ctx: Any) -> Any:
        begun.set()
        return await spec.function(ctx)

    work = asyncio.create_task(runtime.arun(attrs.evolve(spec, function=function), run_id="r"))
    await begun.wait()
    await asyncio.wait({work}, timeout=after)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


def test_a_task_that_leaves_out_a_call_is_found():
    """A task that no longer makes a call that others wait behind is a divergence: the replay comes to an end."""

    def build(calls: int) -> AgentSpec:
        async def body(ctx):
            async def member(number):
                for place in range(calls if number else 2):
                    await ctx.call_tool("look", number=place)

            await asyncio.gather(member(0), member(1))
            return await ctx.call_tool("add", number=1, other=2)

        return agent_of(agent(name="a", tools=shuffling.TOOLS)(body))

    with Runtime.in_memory() as runtime:
        assert runtime.run(build(2), run_id="r").ok
        for seed in range(20):
            with shuffled(seed):
                found = in_time(lambda: replaying.replay(runtime, "r", build(1)))
            assert found.divergence is not None
            assert (found.divergence.kind.code, found.divergence.path) == ("AL101", "member.2/2")


def test_tasks_in_a_row_are_not_tasks_side_by_side():
    """Code that waits for one task before it makes the next cannot take what was recorded in turns, and is told so."""

    def build(row: bool) -> AgentSpec:
        async def body(ctx):
            async def member(number):
                for place in range(3):
                    await ctx.call_tool("add", number=number, other=place)

            if row:
                await asyncio.create_task(member(0))
                await asyncio.create_task(member(1))
            else:
                await asyncio.gather(member(0), member(1))

        return agent_of(agent(name="a", tools=shuffling.TOOLS)(body))

    with Runtime.in_memory() as runtime:
        assert runtime.run(build(row=False), run_id="r").ok
        assert replaying.replay(runtime, "r", build(row=False)).ok
        assert not in_time(lambda: replaying.replay(runtime, "r", build(row=True))).ok
