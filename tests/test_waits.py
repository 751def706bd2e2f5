"""Durable waits: sleeps, signals, people and children, together and one by one, live, resumed and replayed."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest
from suites.runs import TOOLS, bodies, replayed

from agentledger import BadInput, ChildFailed, Refused, Runtime, WaitTimedOut, agent, current_context, tool
from ledger_core.clock import NS
from ledger_core.log.record import Event


def waits(runtime: Runtime, run_id: str = "r") -> set[str]:
    """Kinds of what a run waits for."""
    return {one.kind for one in runtime.state(run_id).waits.values()}


def test_a_sleep_is_not_begun_again(runtime):
    """A run that sleeps wakes at the time that was recorded first, and the replay does not sleep."""

    @agent(name="a")
    async def sleeper(ctx):
        begun = ctx.now()
        await ctx.sleep(0.6)
        await ctx.sleep_until(begun + timedelta(seconds=0.7))
        return (ctx.now() - begun).total_seconds() >= 0.7

    assert runtime.run(sleeper, run_id="r").output is True
    assert [body.waiting for body in bodies(runtime, "step_released")] == ["waits"]
    replayed(runtime, sleeper)


def test_a_signal_may_come_before_it_is_waited_for(runtime):
    """Signals are taken once, in the order of arrival, and one of the same sender is one."""

    @agent(name="a")
    async def waiter(ctx):
        return [await ctx.wait_signal("go"), await ctx.wait_signal("go"), await ctx.wait_signal("other")]

    runtime.create_run(waiter, run_id="r")
    assert runtime.signal("r", "go", 1, sender_id="a")
    assert not runtime.signal("r", "go", 2, sender_id="a")
    assert runtime.signal("r", "go", 3)
    runtime.signal("r", "go", 4)
    waiting = runtime.run(waiter, run_id="r")
    assert waiting.status == "waiting"
    assert waits(runtime) == {"signal"}
    runtime.signal("r", "other", {"x": None})

    assert runtime.run(waiter, run_id="r").output == [1, 3, {"x": None}]
    replayed(runtime, waiter)


def test_a_sync_agent_waits_as_well(runtime):
    """Code without a loop sleeps, waits, asks and joins by the same names."""

    @agent(name="child")
    def child(ctx, state):
        ctx.sleep(0.01)
        return state["n"] * 2

    @agent(name="a")
    def main(ctx):
        kid = ctx.spawn(child, {"n": 4})
        ctx.sleep(0.7)
        return [kid.join(), ctx.wait_signal("go"), ctx.request_approval("May I?")["approved"]]

    assert runtime.run(main, run_id="r").status == "waiting"
    runtime.signal("r", "go", "now")
    assert runtime.run(main, run_id="r").status == "waiting"
    (approval,) = runtime.state("r").approvals
    runtime.deny(approval, by="Eve", reason="no")

    assert runtime.run(main, run_id="r").output == [8, "now", False]
    replayed(runtime, main)


def test_a_wait_that_takes_too_long_ends(runtime):
    """A signal, an answer and a child that do not come in time raise `WaitTimedOut`, live and replayed."""

    @agent(name="child")
    async def child(ctx):
        await ctx.wait_signal("never")

    @agent(name="a")
    async def main(ctx):
        kid = await ctx.spawn(child)
        late = []
        for wait in (
            lambda: ctx.wait_signal("go", timeout=0.01),
            lambda: ctx.request_approval("?", timeout=0.6),
            lambda: kid.join(timeout=0.01),
        ):
            try:
                await wait()
            except WaitTimedOut as error:
                late.append(error.error_type)
        return late

    assert runtime.run(main, run_id="r", wait=False).status in ("waiting", "completed")
    while not runtime.state("r").ended:
        runtime.run(main, run_id="r")
    assert runtime.result("r").output == ["WaitTimedOut"] * 3
    replayed(runtime, main)


def test_an_answer_holds_once(runtime):
    """An approval is answered once, by whoever is first; the agent is told by whom, and why."""

    @agent(name="a")
    async def main(ctx):
        return await ctx.request_approval({"pay": 7})

    runtime.run(main, run_id="r")
    (approval,) = runtime.state("r").approvals
    assert runtime.approve(approval, by="Ada", reason="fine") == "r"
    for again in (runtime.approve, runtime.deny):
        with pytest.raises(Refused):
            again(approval)

    assert runtime.run(main, run_id="r").output == {"approved": True, "by": "Ada", "reason": "fine"}
    replayed(runtime, main)


def test_branches_wait_side_by_side(runtime):
    """A gather of a sleep, a signal, a child, an answer and a tool is right, and holds nobody while it waits."""

    @agent(name="child", tools=TOOLS)
    async def child(ctx, state):
        await ctx.sleep(0.02)
        return await ctx.call_tool("slow_read", n=state["n"])

    @agent(name="a", tools=TOOLS)
    async def main(ctx):
        kids = [await ctx.spawn(child, {"n": n}) for n in range(3)]
        async with asyncio.TaskGroup() as group:
            joins = [group.create_task(kid.join()) for kid in kids]
            others = [
                group.create_task(one)
                for one in (ctx.sleep(0.6), ctx.wait_signal("go"), ctx.call_tool("keyed"), ctx.request_approval("?"))
            ]
        return [[task.result() for task in joins], others[1].result(), others[3].result()["approved"]]

    assert runtime.run(main, run_id="r").status == "waiting"
    assert runtime.state("r").worker is None
    assert waits(runtime) <= {"signal", "approval", "sleep"}
    (approval,) = runtime.state("r").approvals
    runtime.approve(approval)
    runtime.signal("r", "go", 5)

    assert runtime.run(main, run_id="r").output == [[0, 1, 2], 5, True]
    assert len(bodies(runtime, "tool_call_requested")) == 1
    replayed(runtime, main)


def test_a_timer_of_the_code_keeps_its_worker(runtime):
    """`asyncio.timeout` around a durable wait ends it: such a step is not torn down while the timer runs."""

    @agent(name="a")
    async def main(ctx):
        try:
            async with asyncio.timeout(0.4):
                await ctx.wait_signal("go")
        except TimeoutError:
            return "late"

    assert runtime.run(main, run_id="r").output == "late"
    assert not bodies(runtime, "step_released")
    assert not runtime.state("r").waits


def test_a_finally_of_a_torn_down_agent_does_no_effect(runtime):
    """What a `finally` block asks for while the step is given back never happens."""
    came = []

    @tool(side_effect="external_write")
    def clean():
        came.append(1)

    @agent(name="a", tools=[clean])
    async def main(ctx):
        try:
            return await ctx.wait_signal("go")
        finally:
            await ctx.call_tool("clean")

    runtime.run(main, run_id="r")
    assert came == []
    runtime.signal("r", "go", 1)
    assert runtime.run(main, run_id="r").output == 1
    assert came == [1]
    replayed(runtime, main)


def test_a_childs_first_event_names_its_parents_and_the_join_names_its_last(runtime):
    """Causality is in the hashes: of the parent's intent in the child, of the child's end in the parent."""

    @agent(name="child")
    async def child(ctx):
        return 1

    @agent(name="a")
    async def main(ctx):
        return await (await ctx.spawn(child, run_id="kid")).join()

    assert runtime.run(main, run_id="r").output == 1
    of: dict[str, list[Event]] = {name: list(runtime.log.stream(f"run/{name}")) for name in ("r", "kid")}
    asked = next(event for event in of["r"] if event.type == "child_run_requested")
    ended = next(event for event in of["r"] if event.type == "child_run_ended")
    first, last = of["kid"][0], of["kid"][-1]

    assert (first.body.parent, first.body.parent_seq, first.body.parent_hash) == ("r", asked.seq, asked.hash)
    assert (ended.body.seq, ended.body.hash, ended.body.status) == (last.seq, last.hash, "completed")


def test_a_childs_failure_passes_up_and_cancellation_passes_down(runtime):
    """A join raises what its child failed with; a cancelled parent takes its children along."""

    @agent(name="bad")
    async def bad(ctx):
        raise ValueError("broken")

    @agent(name="patient")
    async def patient(ctx):
        await ctx.wait_signal("never")

    @agent(name="a")
    async def main(ctx):
        try:
            await (await ctx.spawn(bad)).join()
        except ChildFailed as error:
            ctx.write_state_patch("failed", [error.error_type, error.message])
        await (await ctx.spawn(patient, run_id="kid")).join()

    runtime.run(main, run_id="r")
    assert waits(runtime) == {"child"}
    assert runtime.cancel_run("r", "enough")

    assert [runtime.state(name).status for name in ("r", "kid")] == ["cancelled", "cancelled"]
    assert runtime.log.queued() == []
    with pytest.raises(Refused):
        runtime.cancel_run("r")


def test_a_cancelled_agent_ends_at_its_next_effect(runtime):
    """A run that is at work is not torn out of a tool: its next effect does not begin, and its end says why."""
    begun, go = threading.Event(), threading.Event()
    after = []

    @tool(side_effect="external_write")
    def slow():
        begun.set()
        assert go.wait(20)
        return 1

    @tool
    def next_one():
        after.append(1)

    @agent(name="a", tools=[slow, next_one])
    async def main(ctx):
        await ctx.call_tool("slow")
        await ctx.call_tool("next_one")

    came: list = []
    thread = threading.Thread(target=lambda: came.append(runtime.run(main, run_id="r")))
    thread.start()
    assert begun.wait(20)
    assert runtime.cancel_run("r", "stop")
    assert not runtime.cancel_run("r")
    assert runtime.state("r").status == "running"
    go.set()
    thread.join(20)

    assert came[0].status == "cancelled"
    assert after == []
    assert runtime.state("r").ledger["1"].status == "SUCCEEDED"


def test_patched_code_takes_the_new_branch_in_new_work_only(runtime):
    """`ctx.patched` is False in a record that was made without it, True in new work, and stays what it was."""
    new = False

    @agent(name="a", tools=TOOLS)
    async def main(ctx):
        if new and ctx.patched("greet"):
            await ctx.call_tool("slow_read", n=9)
        one = await ctx.call_tool("slow_read", n=1)
        await ctx.wait_signal("go")
        two = new and ctx.patched("later")
        return [one, two]

    runtime.run(main, run_id="r")
    new = True
    runtime.signal("r", "go")
    assert runtime.run(main, run_id="r").output == [1, True]
    assert runtime.run(main, run_id="s", wait=False).status == "waiting"
    runtime.signal("s", "go")
    assert runtime.run(main, run_id="s").output == [1, True]

    assert [body.name for body in bodies(runtime, "code_patched")] == ["later"]
    assert [body.name for body in bodies(runtime, "code_patched", "s")] == ["greet", "later"]
    for run_id in ("r", "s"):
        replayed(runtime, main, run_id)


def test_steps_follow_one_another_with_fresh_journals(runtime):
    """`continue_with` ends a step and begins the next, of this agent or another; no path is used twice."""

    @agent(name="second", tools=TOOLS)
    async def second(ctx, state):
        return [state["n"], await ctx.call_tool("keyed")]

    @agent(name="a", tools=TOOLS)
    async def main(ctx, state):
        n = state.get("n", 0) + 1
        await ctx.call_tool("keyed")
        return ctx.continue_with(second if n == 3 else None, {"n": n})

    result = runtime.run(main, run_id="r")
    requested = bodies(runtime, "tool_call_requested")

    assert result.output[0] == 3
    assert [body.number for body in bodies(runtime, "step_created")] == [1, 2, 3, 4]
    assert len({body.path for body in requested}) == len(requested) == 4
    replayed(runtime, second)


def test_the_context_is_found_from_inside(runtime):
    """`current_context` is the running agent's, also in a function that was not given it; outside there is none."""

    def framework():
        return current_context().run_id

    @agent(name="a")
    async def main(ctx):
        return [framework(), await asyncio.create_task(asyncio.sleep(0, current_context().run_id))]

    assert runtime.run(main, run_id="r").output == ["r", "r"]
    with pytest.raises(BadInput):
        current_context()


def test_a_sync_agents_threads_have_scopes(runtime):
    """Threads of a sync agent use the context in scopes of their own; a recovery answers each from the record."""

    @agent(name="a", tools=TOOLS)
    def main(ctx):
        found = {}

        def work(n):
            with ctx.scope(f"thread{n}"):
                found[n] = ctx.call_tool("whole", {"n": n})

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [found[n] for n in range(4)]

    assert runtime.run(main, run_id="r").output == [{"got": {"n": n}} for n in range(4)]
    replayed(runtime, main)


def test_a_moved_clock_wakes_who_sleeps(log):
    """A run that sleeps thirty days goes on when the clock says so, and not before."""
    days = [0]
    clock = log.clock

    class Moved(type(clock)):  # type: ignore[misc]
        pass

    moved = Moved(now_ns=lambda: clock.now_ns() + days[0] * 86_400 * NS)
    log.clock = moved
    runtime = Runtime(log)

    @agent(name="a")
    async def main(ctx):
        await ctx.sleep(30 * 86_400)
        return "awake"

    runtime.create_run(main, run_id="r")
    assert runtime.run_once(main) == 1
    days[0] = 29
    assert runtime.run_once(main) == 0
    days[0] = 30
    assert runtime.run_once(main) == 1
    assert runtime.result("r").output == "awake"
    assert datetime.fromtimestamp(runtime.state("r").updated_ns / NS, UTC) > datetime.now(UTC) + timedelta(days=29)
    log.clock = clock
