"""Budgets: what is bounded, reserved, settled, blocked; whose they are; what a lost call costs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites.runs import bodies, replayed
from suites.workers import Moved

from agentledger import (
    BadInput,
    Budget,
    BudgetExceeded,
    InDoubt,
    NoEffect,
    NotFound,
    RetryPolicy,
    Runtime,
    Unavailable,
    agent,
    tool,
)
from ledger_core.run import budget
from ledger_core.run.budget import Account, Busy, NoRoom

AMOUNTS = st.one_of(st.none(), st.integers(0, 40))


@pytest.mark.invariant(20)
@given(
    limits=st.dictionaries(st.sampled_from(["calls", "usd_nano", "tokens"]), st.integers(0, 100), max_size=3),
    steps=st.lists(
        st.tuples(
            st.booleans(),
            st.dictionaries(st.sampled_from(["calls", "usd_nano", "tokens"]), AMOUNTS, max_size=3),
            st.floats(0, 1),
        ),
        max_size=40,
    ),
)
def test_reserved_and_spent_never_pass_a_bound(limits: dict[str, int], steps: Any) -> None:
    """However calls reserve and settle, at most at what they reserved, an account never holds more than it may."""
    account = Account(name="run:r", limits=limits)
    open_calls: list[dict[str, int]] = []
    for reserves, wanted, share in steps:
        if reserves or not open_calls:
            try:
                taken = budget.reserve(account, wanted)
            except (NoRoom, Busy):
                continue
            open_calls.append(taken)
            account = budget.moved(account, reserved=taken, freed={}, spent={}, opened=1)
        else:
            held = open_calls.pop()
            spent = {name: int(amount * share) for name, amount in held.items()}
            account = budget.moved(account, reserved={}, freed=held, spent=spent, opened=-1)
        for name, limit in limits.items():
            assert account.spent.get(name, 0) + account.reserved.get(name, 0) <= limit
            assert account.left(name) == limit - account.spent.get(name, 0) - account.reserved.get(name, 0)
    assert account.open == len(open_calls)


def test_a_bound_is_a_number() -> None:
    """What is no bound is refused with its name; an unknown one too."""
    for bad in ({"calls": -1}, {"calls": 1.5}, {"calls": True}, {"usd": float("nan")}, {"usd": "1"}, {"dollars": 1}, 7):
        with pytest.raises(BadInput):
            budget.budget_of(bad)  # type: ignore[arg-type]
    assert Budget(usd=0.1, wall_seconds=1.5, calls=0).limits == {"calls": 0, "usd_nano": 10**8, "wall_ns": 15 * 10**8}
    assert budget.amount_words("usd_nano", 250_000_000) == "$0.25"
    assert budget.amount_words("wall_ns", 1_500_000_000) == "1.5 s of work"


class World:
    """Tools that count how often they were called, and fail as they are told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.raises: list[BaseException] = []

        @tool(name="write", side_effect="external_write", cost=0.5)
        def write(what: Any = 0) -> int:
            return self.call(what)

        @tool(name="read", retry=RetryPolicy(max_attempts=5, initial=0))
        def read(what: Any = 0) -> int:
            return self.call(what)

        self.write, self.read = write, read

    def call(self, what: Any) -> int:
        self.calls.append(what)
        if self.raises:
            raise self.raises.pop(0)
        return len(self.calls)

    def spender(self, name: str = "write", times: int = 10) -> Any:
        @agent(name="spender", tools=[self.write, self.read])
        def spender(ctx: Any) -> Any:
            done = 0
            try:
                for number in range(times):
                    ctx.call_tool(name, what=number)
                    done += 1
            except BudgetExceeded as full:
                return [done, full.message]
            return [done, ""]

        return spender


@pytest.fixture
def world() -> World:
    return World()


def _account(runtime: Runtime, name: str) -> Account:
    return next(one for one in runtime.budgets() if one.name == name)


@pytest.mark.parametrize("name", ["write", "read"])
def test_what_has_no_room_is_recorded_and_not_executed(tmp_path: Path, world: World, name: str) -> None:
    """The call that passes the bound is refused with the numbers, on record; caught, the code goes on; it replays."""
    spender = world.spender(name)
    with Runtime.local(tmp_path) as runtime:
        done, message = runtime.run(spender, run_id="r", budget=Budget(calls=3)).output
        assert done == len(world.calls) == 3
        assert "3 calls" in message
        (refused,) = bodies(runtime, "effect_refused")
        assert (refused.category, refused.account, refused.dimension) == ("budget", "run:r", "calls")
        assert refused.document == {"arguments": {"what": 3}}
        replayed(runtime, spender)
        assert len(world.calls) == 3


def test_a_run_that_does_not_catch_it_fails_for_its_budget(tmp_path: Path, world: World) -> None:
    """The failure's category says that it was the budget."""

    @agent(tools=[world.write], budget={"usd": 0.75})
    def spends(ctx: Any) -> None:
        ctx.call_tool("write")
        ctx.call_tool("write")

    with Runtime.local(tmp_path) as runtime:
        result = runtime.run(spends, run_id="r")
        assert (result.error_type, runtime.state("r").category) == ("BudgetExceeded", "budget")
    assert len(world.calls) == 1


def test_budgets_of_a_session_and_of_an_agent_span_runs(tmp_path: Path, world: World) -> None:
    """Runs of one session draw on one budget, runs of one agent on another; the nearest bound counts."""
    spender = world.spender()
    with Runtime.local(tmp_path) as runtime:
        runtime.set_budget(Budget(calls=4), session="s")
        runtime.set_budget(Budget(calls=7), agent="spender")
        done = [
            runtime.run(spender, run_id=run, session_id=session).output[0]
            for run, session in (("a", "s"), ("b", "s"), ("c", "t"), ("d", None))
        ]
        assert done == [4, 0, 3, 0]
        assert _account(runtime, "session:s").spent["calls"] == 4
        assert _account(runtime, "agent:spender").spent["calls"] == 7
        runtime.set_budget(Budget(calls=9), agent="spender")
        assert runtime.run(spender, run_id="e").output[0] == 2
        for bad in ({}, {"run": "a", "agent": "b"}):
            with pytest.raises(BadInput):
                runtime.set_budget(Budget(calls=1), **bad)
        with pytest.raises(NotFound):
            runtime.set_budget(Budget(calls=1), run="nobody")


def test_children_draw_on_their_roots_budget(tmp_path: Path, world: World) -> None:
    """A family has one budget, that of the run that began it; a child cannot be given its own."""
    spender = world.spender(times=3)

    @agent
    async def parent(ctx: Any) -> Any:
        children = [await ctx.spawn(spender) for _ in range(2)]
        return [await child.join() for child in children]

    @agent
    async def generous(ctx: Any) -> Any:
        await ctx.spawn(spender, budget=Budget(calls=100))

    with Runtime.local(tmp_path) as runtime:
        output = runtime.run(parent, run_id="r", budget=Budget(calls=4)).output
        assert sum(done for done, _ in output) == len(world.calls) == 4
        assert [one.name for one in runtime.budgets()] == ["run:r"]
        assert "budget" in str(runtime.run(generous).message)
        assert len(world.calls) == 4


@pytest.mark.parametrize("error", [NoEffect("no"), Unavailable("away")])
def test_what_had_no_effect_costs_nothing(tmp_path: Path, world: World, error: Exception) -> None:
    """An attempt that had no effect, or found nobody, gives back what it held."""
    world.raises = [error]
    moved = Moved()
    spender = world.spender("read", times=2)
    with Runtime.local(tmp_path, clock=moved.clock) as runtime:
        runtime.create_run(spender, run_id="r", budget=Budget(calls=2))
        while not runtime.state("r").ended:
            runtime.run_once(spender)
            moved.on(100)
        assert runtime.result("r").output == [2, ""]
        assert (len(world.calls), _account(runtime, "run:r").spent["calls"]) == (3, 2)


def test_an_attempt_that_failed_counts(tmp_path: Path, world: World) -> None:
    """Each attempt that went out is a call, also one that is made again."""
    world.raises = [ValueError("x"), ValueError("y")]
    with Runtime.local(tmp_path) as runtime:
        done, _ = runtime.run(world.spender("read"), run_id="r", budget=Budget(calls=4)).output
    assert (done, len(world.calls)) == (2, 4)


@pytest.mark.invariant(20)
def test_doubt_keeps_what_it_reserved(tmp_path: Path, world: World) -> None:
    """A call that nobody knows the outcome of holds its place until it is settled; others wait for it."""
    world.raises = [ConnectionResetError()]
    spender = world.spender(times=1)
    with Runtime.local(tmp_path) as runtime:
        runtime.set_budget(Budget(usd=0.5), agent="spender")
        with pytest.raises(InDoubt):
            runtime.run(spender, run_id="a")
        account = _account(runtime, "agent:spender")
        assert (account.reserved, account.spent.get("usd_nano", 0)) == ({"usd_nano": 500_000_000}, 0)
        runtime.create_run(spender, run_id="b")
        runtime.run_once(spender)
        waits = list(runtime.state("b").waits.values())
        assert [(one.kind, one.name) for one in waits] == [("budget", "agent:spender")]
        assert len(world.calls) == 1
        runtime.settle("a:1", "no_effect", because="it never arrived")
        assert _account(runtime, "agent:spender").reserved == {}
        assert runtime.run(spender, run_id="b").output == [1, ""]


def test_a_call_that_was_lost_is_charged(tmp_path: Path, world: World) -> None:
    """A read whose worker died is made again, and both are paid for: nobody knows how far the first one came."""
    deaths = [True]

    @tool(name="paid", cost=0.5)
    def paid() -> str:
        if deaths and deaths.pop():
            raise KeyboardInterrupt  # as a process that is killed: there is no outcome
        return "here"

    @agent(tools=[paid])
    def asks(ctx: Any) -> Any:
        return ctx.call_tool("paid")

    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.run(asks, run_id="r", budget=Budget(usd=1, calls=10))
        assert _account(runtime, "run:r").reserved == {"calls": 1, "usd_nano": 500_000_000}
        assert runtime.run(asks, run_id="r").output == "here"
        account = _account(runtime, "run:r")
    assert (account.spent["usd_nano"], account.spent["calls"]) == (10**9, 2)
    assert (account.reserved, account.open) == ({}, 0)


def test_a_run_that_ends_gives_back_what_nobody_will_settle(tmp_path: Path) -> None:
    """A read that was under way as its run was cancelled is charged at its bound, and holds nothing any more."""

    @tool(name="paid", cost=lambda _: 0.1, cost_bound=0.5)
    def paid() -> str:
        raise KeyboardInterrupt

    @agent(tools=[paid])
    def asks(ctx: Any) -> Any:
        return ctx.call_tool("paid")

    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.run(asks, run_id="r", budget=Budget(usd=1))
        runtime.cancel_run("r")
        account = _account(runtime, "run:r")
    assert (account.reserved, account.spent["usd_nano"], account.open) == ({}, 500_000_000, 0)


def test_waiting_is_not_wall_time(tmp_path: Path) -> None:
    """Work takes from the time that a run has; sleeping and waiting for a person do not; used up, nothing begins."""

    @tool(name="work")
    def work() -> None:
        time.sleep(0.2)

    @agent(name="works", tools=[work])
    async def works(ctx: Any) -> Any:
        done = 0
        try:
            for _ in range(20):
                await ctx.sleep(0.3)
                await ctx.call_tool("work")
                done += 1
        except BudgetExceeded as full:
            return [done, full.message]

    with Runtime.local(tmp_path) as runtime:
        done, message = runtime.run(works, run_id="r", budget=Budget(wall_seconds=0.9)).output
        spent = _account(runtime, "run:r").spent["wall_ns"]
    assert 3 <= done <= 5  # with what was slept it would be one or two
    assert "s of work" in message
    assert spent >= 0.2e9 * done


def test_side_by_side_calls_share_what_is_left(tmp_path: Path) -> None:
    """Of ten calls at once on a budget of four, four are made; the others find it reserved, wait, and are told."""
    made: list[int] = []

    @tool(name="slow", side_effect="external_write")
    async def slow(number: int) -> int:
        made.append(number)
        await asyncio.sleep(0.05)
        return number

    @agent(tools=[slow])
    async def asks(ctx: Any) -> Any:
        calls = (ctx.call_tool("slow", number=number) for number in range(10))
        said = await asyncio.gather(*calls, return_exceptions=True)
        return sorted(type(one).__name__ for one in said)

    with Runtime.local(tmp_path) as runtime:
        assert runtime.run(asks, run_id="r", budget=Budget(tool_calls=4)).output == ["BudgetExceeded"] * 6 + ["int"] * 4
        replayed(runtime, asks)
        assert _account(runtime, "run:r").open == 0
    assert len(made) == 4


def test_costs_that_the_code_records_count(tmp_path: Path, world: World) -> None:
    """`record_cost` takes from the budgets, even past their bound: it was spent; then nothing more begins."""

    @agent(tools=[world.write])
    def records(ctx: Any) -> Any:
        ctx.record_cost("search", usd=3.0, input_tokens=10, metadata={"engine": "x"})
        try:
            ctx.call_tool("write")
        except BudgetExceeded:
            return "no more"

    @agent
    def wrong(ctx: Any, state: Any) -> None:
        ctx.record_cost("x", **state)

    with Runtime.local(tmp_path) as runtime:
        assert runtime.run(records, run_id="r", budget=Budget(usd=2)).output == "no more"
        assert _account(runtime, "run:r").spent["usd_nano"] == 3 * 10**9
        assert runtime.state("r").usd_nano == 3 * 10**9
        replayed(runtime, records)
        for bad in ({}, {"usd": -1}, {"usd": "1"}, {"input_tokens": 1.5}, {"euros": 1}):
            assert runtime.run(wrong, initial_state=bad).error_type == "BadInput"


def test_a_budget_that_is_set_later_counts_what_was_used(tmp_path: Path, world: World) -> None:
    """A run that nobody had bounded has used something already; its budget begins with that."""

    @agent(tools=[world.write])
    def waits(ctx: Any) -> Any:
        ctx.call_tool("write")
        ctx.wait_signal("go")
        try:
            ctx.call_tool("write")
        except BudgetExceeded as full:
            return full.message

    with Runtime.local(tmp_path) as runtime:
        runtime.run(waits, run_id="r")
        assert runtime.set_budget(Budget(usd=0.75), run="r").spent["usd_nano"] == 500_000_000
        runtime.signal("r", "go")
        assert "$0.75" in str(runtime.run(waits, run_id="r").output)
    assert len(world.calls) == 1


def test_a_default_budget_of_the_runtime_and_one_of_the_agent(tmp_path: Path, world: World) -> None:
    """What is given with the run counts, else what the agent declares, else what the runtime has for every run."""
    spender = world.spender()
    with Runtime.local(tmp_path, budget={"calls": 2}) as runtime:
        assert runtime.run(spender, run_id="a").output[0] == 2
        assert runtime.run(spender, run_id="b", budget=Budget(calls=3)).output[0] == 3
        assert runtime.state("a").budget == {"calls": 2}
    assert attrs.fields(Budget).usd.default is None


def test_without_a_budget_nothing_is_counted_and_no_account_is_made(tmp_path: Path, world: World) -> None:
    """Runs that nobody bounds have no accounts, and cost no more than they did."""
    with Runtime.local(tmp_path) as runtime:
        runtime.run(world.spender(times=1), run_id="warm")
        before = runtime.log.commits()
        runtime.run(world.spender(times=3), run_id="r")
        assert runtime.log.commits() - before == 2 + 2 * 3
        assert runtime.budgets() == []


def test_a_budget_costs_no_further_sync(tmp_path: Path, world: World) -> None:
    """What is reserved and settled goes with the intent and the outcome: two commits for a write, as without."""
    with Runtime.local(tmp_path) as runtime:
        runtime.set_budget(Budget(calls=100), agent="spender")
        runtime.run(world.spender(times=1), run_id="warm")
        before = runtime.log.commits()
        runtime.run(world.spender(times=3), run_id="r")
        assert runtime.log.commits() - before == 2 + 2 * 3
