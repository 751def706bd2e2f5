"""What a run did has one digest: whoever replays it, however it raced, and wherever it was killed and recovered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentledger import Runtime, agent, tool
from ledger_core.clock import Clock
from ledger_core.runtime.agent import AgentSpec, agent_of
from replay import replaying, sides


class Killed(BaseException):
    """The end of a worker: nobody catches it."""


class Tools:
    """Tools that count their calls, and end the worker at one of them."""

    def __init__(self) -> None:
        self.calls = 0
        self.last: int | None = None

    def _called(self) -> None:
        self.calls += 1
        if self.last is not None and self.calls >= self.last:
            raise Killed

    def spec(self, program: Any) -> AgentSpec:
        """An agent that executes a program."""

        @tool(name="read")
        async def read(number: int) -> int:
            self._called()
            await asyncio.sleep(0)
            self._called()
            return number * 10

        @tool(name="add")
        def add(number: int) -> list[int]:
            self._called()
            return [number, number + 1]

        async def body(ctx, state):
            return [await _execute(ctx, program), ctx.random(), state.get("k")]

        return agent_of(
            agent(name="a", tools=[read, add], models=lambda request: {"content": str(len(request["messages"]))})(body)
        )


_calls = st.tuples(
    st.sampled_from(["read", "add", "model", "now", "capture", "patch", "look", "uuid"]), st.integers(0, 5)
)
_programs = st.recursive(
    _calls,
    lambda inner: st.tuples(st.sampled_from(["row", "gather", "group"]), st.lists(inner, min_size=1, max_size=4)),
    max_leaves=14,
)


async def _execute(ctx: Any, program: Any) -> Any:
    kind, what = program
    match kind:
        case "read" | "add":
            return await ctx.call_tool(kind, number=what)
        case "model":
            return await ctx.call_model({"model": "m", "messages": [{"role": "user", "content": "x"}] * what})
        case "now":
            return ctx.now().year > 2000
        case "capture":
            return ctx.capture("n", lambda: what)
        case "patch":
            return ctx.write_state_patch(f"k{what}", [what])
        case "look":
            return sorted(ctx.state)
        case "uuid":
            return len(ctx.uuid())
        case "row":
            return [await _execute(ctx, one) for one in what]
        case "gather":
            return await asyncio.gather(*(_execute(ctx, one) for one in what))
        case "race" | "left":
            # a race that only the loop's passes decide is on no record: each begins with what is
            tasks = [asyncio.create_task(_execute(ctx, ("row", [("read", 0), one]))) for one in what]
            _, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in late if kind == "race" else ():
                task.cancel()
            if kind == "race":
                await asyncio.gather(*late, return_exceptions=True)
            return len(tasks)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_execute(ctx, one)) for one in what]
    return [task.result() for task in tasks]


_racing = st.recursive(
    _calls,
    lambda inner: st.tuples(
        st.sampled_from(["row", "gather", "race", "left"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=10,
)
"""Programs with tasks that are cancelled, and tasks that are left behind."""


def _looks_in_tasks(program: Any, inside: bool = False) -> bool:
    """Whether a task reads a state that others of its kind write: then its result depends on who was first."""
    kind, what = program
    if isinstance(what, int):
        return inside and kind == "look"
    return any(_looks_in_tasks(one, inside or kind != "row") for one in what)


@pytest.mark.invariant(11)
@settings(max_examples=150, deadline=None)
@given(_programs)
def test_a_replay_does_what_was_recorded(program):
    """For any program, what the code does when it is answered from the record is the record: effects, output, state."""
    spec = Tools().spec(program)
    with Runtime.in_memory() as runtime:
        assert runtime.run(spec, run_id="r", initial_state={"k": 1}).ok
        found = replaying.replay(runtime, "r", spec, keep=True)
        again = replaying.attempt(runtime, "r", spec)
        recorded = sides.of_run(runtime.log, "r")
    assert found.ok and found.complete and again is not None
    assert [one.sentence() for one in again.divergences] == []
    assert recorded.digest == again.attempted.digest == found.course.digest
    assert (recorded.output, recorded.state) == (again.attempted.output, again.attempted.state)


@pytest.mark.invariant(12)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(_programs.filter(lambda one: not _looks_in_tasks(one)), st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_a_recovered_run_did_what_an_uninterrupted_one_does(program, deaths):
    """Wherever its workers end, and however often, a run's digest is that of a run which nothing interrupted."""
    digests = []
    for ends in ((), deaths):
        tools = Tools()
        spec = tools.spec(program)
        with Runtime.in_memory(clock=Clock(random=_Always())) as runtime:
            for tools.last in ends:
                tools.calls = 0
                try:
                    runtime.run(spec, run_id="r", initial_state={"k": 1})
                except (Killed, BaseExceptionGroup):
                    continue
            tools.last = None
            assert runtime.run(spec, run_id="r", initial_state={"k": 1}).ok
            digests.append(sides.of_run(runtime.log, "r").digest)
    assert digests[0] == digests[1]


@pytest.mark.invariant(11)
@settings(max_examples=60, deadline=None)
@given(_racing, st.data())
def test_a_fork_of_any_program_goes_on(program, data):
    """Behind any event of any program, also of one that races, a fork comes to its end, and replays."""
    spec = Tools().spec(program)
    with Runtime.in_memory() as runtime:
        assert runtime.run(spec, run_id="r", initial_state={"k": 1}).ok
        assert replaying.replay(runtime, "r", spec).ok
        at = data.draw(st.integers(1, runtime.state("r").events))
        fork = runtime.fork("r", at=at, live=True)
        assert runtime.run(spec, run_id=fork).ok
        assert replaying.replay(runtime, fork, spec).ok


class _Always:
    """Chance that is the same in every ledger, and never twice in one."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, size: int) -> bytes:
        self._number += 1
        return self._number.to_bytes(size, "big")
