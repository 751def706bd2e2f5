"""Forks behind every single event of runs that do all there is to do: each comes to what the run came to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from suites.runs import replayed

from agentledger import ModelFailed, Runtime, agent, tool
from ledger_core.errors import BadInput, InDoubt, RetryableAgentError
from ledger_core.runtime.folds import stream_of
from replay import sides

SENT: list[str] = []
TRIED: list[int] = []


@tool(side_effect="external_write")
def send(text: str) -> str:
    SENT.append(text)
    return f"sent {text}"


@tool
def read(number: int) -> int:
    return number * 10


@tool
async def slow(number: int) -> int:
    await asyncio.sleep(0.001 * (3 - number))
    return number


def chunks(request: Any) -> Any:
    if request.get("stream"):
        return iter([{"delta": letter} for letter in "abc"])
    return {"content": "yes", "usage": {"input_tokens": 3, "output_tokens": 2}}


ALL = {"tools": [send, read, slow], "models": chunks}


@agent(name="child", **ALL)
def child(ctx, state):
    return [state["n"], ctx.call_tool("read", number=state["n"])]


@agent(name="in a row", **ALL)
def in_a_row(ctx, state):
    first = ctx.call_tool("send", text="first")
    answer = ctx.call_model({"model": "m", "messages": [{"role": "user", "content": first}]})
    ctx.write_state_patch("answer", answer["content"])
    kept = ctx.create_artifact("note", answer["content"])
    ctx.record_cost("gpu", usd=0.5)
    ctx.sleep(0)
    more = ctx.call_tool("send", text="second", _logical_operation="once")
    again = ctx.call_tool("send", text="second", _logical_operation="once")
    return [first, answer["content"], kept["name"], more, again, ctx.state, round(ctx.random(), 6)]


@agent(name="streams", **ALL)
def streams(ctx):
    found = []
    for chunk in ctx.stream_model({"model": "m", "messages": []}):
        found.append(chunk["delta"])
        ctx.call_tool("read", number=len(found))
    return found


@agent(name="beside", **ALL)
async def beside(ctx):
    async def part(n: int) -> list[Any]:
        return [await ctx.call_tool("slow", number=n), await ctx.call_tool("send", text=f"part {n}")]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part(n)) for n in range(3)]
    tasks_done = [task.result() for task in tasks]
    race = [asyncio.create_task(ctx.call_tool("slow", number=n)) for n in range(2)]
    done, late = await asyncio.wait(race, return_when=asyncio.FIRST_COMPLETED)
    for one in late:
        one.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return [tasks_done, await ctx.call_tool("read", number=len(done) * 0)]


@agent(name="waits", **ALL)
def waits(ctx):
    kid = ctx.spawn(child, {"n": 4})
    question = ctx.request_approval({"may": "I?"}, wait=False)
    ctx.now()
    signal = ctx.wait_signal("go")
    answer = question.wait()
    return [kid.join(), signal, answer["approved"], ctx.call_tool("send", text="at last")]


@agent(name="second", **ALL)
def second(ctx, state):
    return [state, ctx.call_tool("send", text=f"step {state['n']}")]


@agent(name="steps", **ALL)
def steps(ctx, state):
    n = state.get("n", 0) + 1
    ctx.call_tool("read", number=n)
    return ctx.continue_with(second if n == 2 else None, {"n": n})


@agent(name="tries", **ALL)
def tries(ctx):
    first = ctx.call_tool("read", number=ctx.attempt)
    sent = ctx.call_tool("send", text="tried")
    if ctx.attempt == 1:
        raise RetryableAgentError("once more")
    return [sent, first > 0]


def _answered(runtime: Runtime, run_id: str) -> None:
    """Say what a run waits for."""
    state = runtime.state(run_id)
    if not state.ended and any(one.kind == "signal" for one in state.waits.values()):
        runtime.signal(run_id, "go", "now")
    for approval, seq in state.approvals.items():
        if seq is None and not state.ended:
            runtime.approve(approval, by="me", reason="yes")


def _run(runtime: Runtime, spec: Any, run_id: str) -> Any:
    for _ in range(6):
        result = runtime.run(spec, run_id=run_id)
        if result.status != "waiting":
            break
        _answered(runtime, run_id)
    return result


@pytest.mark.parametrize("spec", [in_a_row, streams, beside, tries, steps, waits], ids=lambda one: one.__name__)
@pytest.mark.parametrize("live", [True, False])
def test_a_fork_behind_any_event_comes_to_the_same(spec, live):
    """Live, it comes to the run's own output, and makes the outside writes that it does not share, each once.

    Not live, it ends by itself as well, and makes none.
    """
    with Runtime.in_memory() as runtime:
        SENT.clear()
        whole = _run(runtime, spec, "r")
        assert whole.ok, whole
        writes, events = list(SENT), list(runtime.log.stream(stream_of("r")))
        intents = [event for event in events if event.type == "tool_call_requested" and event.body.tool == "send"]
        keyed = sum(1 for event in intents if event.body.key is not None)  # once in a whole line of forks
        course = sides.of_run(runtime.log, "r")
        for at in range(1, len(events) + 1):
            SENT.clear()
            fork = runtime.fork("r", at=at, live=live)
            last = {"second": second}.get(runtime.state(fork).step_agent, spec)
            result = _run(runtime, last, fork)
            assert runtime.state(fork).ended, (at, events[at - 1].type, result)
            if not live:
                assert SENT == [], (at, events[at - 1].type)
                continue
            shared = sum(1 for event in intents if event.stream_seq <= at and event.body.key is None)
            assert (result.status, result.output) == ("completed", whole.output), (at, events[at - 1].type, result)
            assert set(SENT) <= set(writes)
            assert len(SENT) == len(writes) - keyed - shared, (at, events[at - 1].type)
            assert sides.of_run(runtime.log, fork).output == course.output
            replayed(runtime, second if spec is steps else last, fork)


def test_a_fork_of_a_stream_that_was_lost_has_lost_it_too():
    """Where nobody heard the rest of a stream, the fork's code is told that it broke off; it is not asked again."""
    asked: list[int] = []

    def model(request):
        asked.append(1)
        yield {"delta": "a"}
        raise KeyboardInterrupt

    @agent(name="reads", tools=[read], models=model)
    def reads(ctx):
        found = []
        try:
            for chunk in ctx.stream_model({"model": "m", "messages": []}):
                found.append(chunk["delta"])
                ctx.call_tool("read", number=1)
        except ModelFailed as failed:
            found.append(failed.error_type)
        return found

    with Runtime.in_memory() as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.run(reads, run_id="r")
        fork = runtime.fork("r")
        assert runtime.run(reads, run_id=fork).output == ["a", "ConnectionError"]
        assert asked == [1]
        replayed(runtime, reads, fork)


def test_a_stream_may_have_come_to_something_else():
    """An overridden stream is given as the other answer, and nothing of the chunks that came."""

    @agent(name="reads", **ALL)
    async def reads(ctx):
        found = []
        async for chunk in ctx.stream_model({"model": "m", "messages": []}):
            found.append(chunk["delta"])
            ctx.now()
        return found

    with Runtime.in_memory() as runtime:
        assert runtime.run(reads, run_id="r").output == ["a", "b", "c"]
        begun = next(one.stream_seq for one in runtime.log.stream(stream_of("r")) if one.type == "model_chunk_received")
        ends = next(one.stream_seq for one in runtime.log.stream(stream_of("r")) if one.type == "model_call_completed")
        assert begun < ends  # there are chunks on record that the override has to displace
        fork = runtime.fork("r", at=ends, overrides={"1": [{"delta": "x"}] * 3})
        assert runtime.run(reads, run_id=fork).output == ["x"] * 3
        replayed(runtime, reads, fork)


def test_a_question_that_nobody_answered_is_waited_for_by_a_person():
    """A question of the ancestor's that has no answer holds a fork up in a sentence; answered, it is the fork's too."""

    @agent(name="asks")
    def asks(ctx):
        question = ctx.request_approval("may I?", wait=False)
        ctx.now()
        return question.wait()["approved"]

    with Runtime.in_memory() as runtime:
        assert runtime.run(asks, run_id="q").status == "waiting"
        at = next(event.stream_seq for event in runtime.log.stream(stream_of("q")) if event.type == "value_captured")
        fork = runtime.fork("q", at=at)
        for _ in range(2):
            with pytest.raises(BadInput, match="nobody answered it"):
                runtime.run(asks, run_id=fork)
            assert runtime.state(fork).worker is None
        _answered(runtime, "q")
        assert runtime.run(asks, run_id=fork).output is True
        assert runtime.run(asks, run_id="q").output is True
        replayed(runtime, asks, fork)


def test_a_child_that_goes_on_is_waited_for_by_a_person():
    """A child of the ancestor's that goes on holds a fork up in a sentence; when it has ended, the fork goes on."""

    @agent(name="child")
    def long(ctx):
        return ctx.wait_signal("end")

    @agent(name="parent")
    def parent(ctx):
        kid = ctx.spawn(long)
        ctx.now()
        return kid.join()

    with Runtime.in_memory() as runtime:
        assert runtime.run(parent, run_id="p").status == "waiting"
        kid = next(iter(runtime.state("p").children))
        at = next(event.stream_seq for event in runtime.log.stream(stream_of("p")) if event.type == "value_captured")
        fork = runtime.fork("p", at=at)
        with pytest.raises(BadInput, match="a child of a run that it was forked from"):
            runtime.run(parent, run_id=fork)
        assert runtime.state(fork).status == "waiting"
        runtime.signal(kid, "end", 7)
        assert runtime.run(long, run_id=kid).ok
        assert runtime.run(parent, run_id=fork).output == 7


def test_a_write_in_doubt_holds_up_any_fork_behind_it():
    """Of a run whose write nobody knows of, forks in front of it go on, and forks behind it do not."""

    @tool(name="risky", side_effect="external_write")
    def risky() -> str:
        raise TimeoutError

    @agent(name="d", tools=[risky, read])
    def doubtful(ctx):
        ctx.call_tool("read", number=1)
        return ctx.call_tool("risky")

    with Runtime.in_memory() as runtime:
        with pytest.raises(InDoubt):
            runtime.run(doubtful, run_id="r")
        events = list(runtime.log.stream(stream_of("r")))
        intent = next(event.stream_seq for event in events if getattr(event.body, "tool", "") == "risky")
        for at in range(1, len(events) + 1):
            fork = runtime.fork("r", at=at)
            if at < intent:
                assert runtime.run(doubtful, run_id=fork).error_type == "PermissionDenied"
            else:
                with pytest.raises(Exception, match="nobody knows what came of it"):
                    runtime.run(doubtful, run_id=fork)


def test_what_a_race_left_behind_is_left_behind_again():
    """Behind any event of a race whose losers are given up, code that did not change does nothing otherwise.

    A loser that was asked for, and that the fork gives up before it began, is on no record, and wins no replay.
    """

    @tool(name="late")
    async def late(n: int, wait: float) -> int:
        await asyncio.sleep(wait)
        return n

    @agent(name="races", tools=[late])
    async def races(ctx):
        async def one(n, wait):
            return await ctx.call_tool("late", n=n, wait=wait)

        tasks = [asyncio.create_task(one(n, wait)) for n, wait in ((1, 0.04), (2, 0.0), (3, 0.1))]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await one(9, 0.02)
        return sorted(task.result() for task in done)

    with Runtime.in_memory() as runtime:
        assert runtime.run(races, run_id="r").output == [2]
        events = list(runtime.log.stream(stream_of("r")))
        for at in range(1, len(events) + 1):
            fork = runtime.fork("r", at=at)
            assert runtime.run(races, run_id=fork).output == [2]
            replayed(runtime, races, fork)
            gone = {one.body.path for one in events[:at] if one.type == "effect_abandoned"}
            told = {one.path for one in sides.of_run(runtime.log, fork).effects if one.outcome == "given up"}
            assert gone <= told, (at, gone, told)


def test_an_outcome_that_only_a_task_left_behind_waits_for_is_no_divergence():
    """Code that comes to its end while a task that it left behind was to be given something goes on as it did."""

    @agent(name="leaves", tools=[slow])
    async def leaves(ctx):
        async def outer():
            await asyncio.wait([asyncio.create_task(ctx.sleep(0))])  # its task stays when it is cancelled

        task = asyncio.create_task(outer())
        await ctx.call_tool("slow", number=3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return ctx.now().year > 2000

    with Runtime.in_memory() as runtime:
        assert runtime.run(leaves, run_id="r").output is True
        for at in range(1, runtime.state("r").events + 1):
            assert runtime.run(leaves, run_id=runtime.fork("r", at=at)).output is True
