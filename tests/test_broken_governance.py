"""Ways in which governed effects broke: calls made twice, budgets that leak, runs that hang, words that get out."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from suites.runs import bodies, replayed

from agentledger import (
    BadInput,
    Budget,
    InDoubt,
    LedgerError,
    ModelFailed,
    NotFound,
    PermissionDenied,
    Refused,
    RetryableAgentError,
    RetryPolicy,
    Runtime,
    SandboxFailed,
    Secret,
    Unavailable,
    agent,
    tool,
)
from ledger_core.run.budget import Account
from ledger_core.runtime import sessions

ASKED = {"model": "m", "messages": []}
HIDDEN = "hunter2hunter2tokenvalue"
PATH = os.pathsep.join([str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)])
PATIENCE = 15
"""Seconds after which a child hangs: each needs less than one."""


def _account(runtime: Runtime, name: str) -> Account:
    return next(one for one in runtime.budgets() if one.name == name)


def _statuses(runtime: Runtime, *runs: str) -> list[str]:
    return [row.status for run in runs for row in runtime.state(run).ledger.values()]


def _child(tmp_path: Path, text: str, phase: str) -> tuple[int | str, str]:
    """A child's exit code, or `hangs`, and what it printed."""
    script = tmp_path / "scenario.py"
    script.write_text(text)
    order = [sys.executable, str(script), str(tmp_path / "ledger"), phase]
    try:
        done = subprocess.run(
            order,
            env={**os.environ, "PYTHONPATH": PATH},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return "hangs", str(late.stderr)[-2000:]
    return done.returncode, done.stdout + done.stderr[-2000:]


_HEAD = """
import asyncio, os, sys, time
from agentledger import *
from agentledger import agent, tool, Budget, Runtime
from suites.runs import replayed
root, phase = sys.argv[1:]
first = phase == "first"

@tool(name="kills", side_effect="external_write", verify=lambda: 1, cost=0)
async def kills() -> int:
    if first:
        os.kill(os.getpid(), 9)
    return 1
"""

# Executed twice, or settled against what is known


def _same_key(write: Any, name: str) -> Any:
    @agent(name=name, tools=[write])
    def once(ctx: Any) -> Any:
        return ctx.call_tool("w", _logical_operation="k", _scope="ledger")

    return once


_STOPPED = """
import sys, time
from agentledger import agent, tool, Runtime

@tool(name="w", side_effect="external_write")
def w() -> int:
    print("in", flush=True)
    time.sleep(2)
    return 1

@agent(name="a", tools=[w])
def a(ctx):
    return ctx.call_tool("w", _logical_operation="k", _scope="ledger")

with Runtime.local(sys.argv[1], lease=1) as runtime:
    runtime.run(a, run_id="r")
"""


@pytest.mark.invariant(15)
def test_a_worker_that_was_stopped_cannot_succeed_after_a_person_said_no_effect(tmp_path: Path) -> None:
    """What a person settled while its worker was stopped does not become a second success of its key."""
    script = tmp_path / "stopped.py"
    script.write_text(_STOPPED)
    env = {**os.environ, "PYTHONPATH": PATH}
    order = [sys.executable, str(script), str(tmp_path / "ledger")]
    child = subprocess.Popen(order, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        os.kill(child.pid, signal.SIGSTOP)

        @tool(name="w", side_effect="external_write")
        def w() -> int:
            return 2

        with Runtime.local(tmp_path / "ledger") as runtime:
            while runtime.alive(runtime.state("r").worker or ""):
                time.sleep(0.1)
            try:
                runtime.settle("r:1", "no_effect", because="it is not there")
                runtime.run(_same_key(w, "b"), run_id="b")
                settled = ["r", "b"]
            except Refused:
                settled = ["r"]
            os.kill(child.pid, signal.SIGCONT)
            child.communicate(timeout=PATIENCE)
            assert _statuses(runtime, *settled).count("SUCCEEDED") == 1
    finally:
        child.kill()
        child.wait()


@pytest.mark.invariant(15)
def test_a_verify_hook_that_answers_late_does_not_overrule_a_person(tmp_path: Path) -> None:
    """A person's word while the hook is asking is final: the key may have been given to another since."""
    asking, answers = threading.Event(), threading.Event()
    asked: list[int] = []
    calls: list[int] = []

    def verify() -> int:
        asked.append(1)
        if len(asked) == 1:
            raise Unavailable("not now")
        asking.set()
        answers.wait(PATIENCE)
        return 1

    @tool(name="w", side_effect="external_write", verify=verify)
    def w() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionResetError
        return 1

    with Runtime.local(tmp_path) as runtime:
        worker = threading.Thread(target=lambda: runtime.run(_same_key(w, "a"), run_id="r"))
        worker.start()
        try:
            assert asking.wait(PATIENCE)
            runtime.settle("r:1", "no_effect", because="it is not there")
            runtime.run(_same_key(w, "b"), run_id="b")
        finally:
            answers.set()
            worker.join()
        assert _statuses(runtime, "r", "b").count("SUCCEEDED") == 1


def _lost_put(calls: list[str]) -> Any:
    """A tool that honours keys, whose first call is lost with its process after it happened."""

    @tool(name="put", side_effect="external_write", idempotency="key")
    def put(idempotency_key: str) -> str:
        calls.append(idempotency_key)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return "done"

    @agent(name="puts", tools=[put])
    def puts(ctx: Any) -> Any:
        return ctx.call_tool("put", _logical_operation="k", _scope="ledger")

    return puts


@pytest.mark.parametrize("why", ["budget", "policy"])
def test_a_call_that_may_have_happened_stays_in_doubt_when_it_may_not_be_sent_again(tmp_path: Path, why: str) -> None:
    """That the same key is not sent again does not say that the first sending had no effect."""
    puts = _lost_put([])
    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.run(puts, run_id="r", budget=Budget(calls=1) if why == "budget" else None)
    with Runtime.local(tmp_path, policy=(lambda _: False) if why == "policy" else None) as runtime:
        try:
            runtime.run(puts, run_id="r")
        except InDoubt:
            pass
        assert _statuses(runtime, "r") == ["PENDING_VERIFICATION"]


@pytest.mark.invariant(15)
def test_a_call_in_doubt_that_waits_for_a_person_keeps_its_key_and_its_doubt(tmp_path: Path) -> None:
    """An approval that is asked for before the key is sent again does not make the lost call one that never began."""
    calls: list[str] = []
    puts = _lost_put(calls)
    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.run(puts, run_id="r")
    with Runtime.local(tmp_path, policy=lambda asked: "approve" if asked.run == "r" else "allow") as runtime:
        runtime.run(puts, run_id="r")
        runtime.create_run(puts, run_id="b")
        runtime.run_once(puts)
        assert len(calls) == 1
        runtime.cancel_run("r")
        assert _statuses(runtime, "r") == ["PENDING_VERIFICATION"]


def test_a_task_called_step_shares_no_path_with_the_next_step(tmp_path: Path) -> None:
    """Effects of the second task `step` and of the second step are two effects, with two idempotency keys."""
    keys: list[str] = []

    @tool(name="w", side_effect="external_write")
    def w(what: int, idempotency_key: str) -> int:
        keys.append(idempotency_key)
        return what

    @agent(name="second", tools=[w])
    async def second(ctx: Any) -> Any:
        return await ctx.call_tool("w", what=3)

    @agent(name="first", tools=[w])
    async def first(ctx: Any) -> Any:
        async def step(number: int) -> None:
            await ctx.call_tool("w", what=number)

        await asyncio.gather(step(1), step(2))
        return ctx.continue_with(second)

    with Runtime.local(tmp_path) as runtime:
        assert runtime.run(first, run_id="r").output == 3
    assert len(set(keys)) == 3


# Runs that hang


def test_a_keyed_read_is_answered_when_its_step_begins_afresh(tmp_path: Path) -> None:
    """A fresh attempt of the code gets the result of its own key, and does not stop at it for ever."""
    fails = [True]

    @tool(name="read")
    def read() -> int:
        return 1

    @agent(name="reads", tools=[read])
    def reads(ctx: Any) -> Any:
        found = ctx.call_tool("read", _logical_operation="k")
        if fails and fails.pop():
            raise RetryableAgentError("again")
        return found

    with Runtime.local(tmp_path) as runtime:
        policy = RetryPolicy(max_attempts=3, initial=0, fresh=True)
        runtime.create_run(reads, run_id="r", retry_policy=policy)
        for _ in range(5):
            runtime.run_once(reads)
        assert runtime.state("r").status == "completed"


_CHUNKS = (
    _HEAD
    + """
async def model(request):
    for number in range(3):
        await asyncio.sleep(.02)
        yield number + (0 if first else 100)

@agent(name="a", tools=[kills], models=model)
async def a(ctx):
    async def use(chunk):
        await ctx.call_tool("kills")
        return chunk
    return [await asyncio.create_task(use(chunk)) async for chunk in ctx.stream_model({"messages": []})]

with Runtime.local(root) as runtime:
    try:
        result = runtime.run(a, run_id="r")
    except (BadInput, Diverged) as refused:
        print(refused)
    else:
        if result.ok:
            replayed(runtime, a)
"""
)


def test_what_a_task_does_with_a_chunk_can_be_recovered(tmp_path: Path) -> None:
    """Effects of tasks that are made while a stream is open are recorded so that recovery does not wait for ever."""
    _child(tmp_path, _CHUNKS, "first")
    code, said = _child(tmp_path, _CHUNKS, "again")
    assert code == 0, said


def test_what_a_task_does_with_a_chunk_replays(tmp_path: Path) -> None:
    """A live run whose tasks call tools while a stream is open ends in its replay as well, or was refused."""
    code, said = _child(tmp_path, _CHUNKS, "whole")
    assert code == 0, said


_AT_THE_GATE = (
    _HEAD
    + """
async def asks(asked):
    if asked.tool == "slow" and first:
        await asyncio.sleep(60)
    return True

@tool(name="slow")
async def slow() -> int:
    return 1

@agent(name="a", tools=[slow, kills])
async def a(ctx):
    try:
        async with asyncio.timeout(.2):
            await ctx.call_tool("slow")
    except TimeoutError:
        pass
    return await ctx.call_tool("kills")

with Runtime.local(root, policy=asks) as runtime:
    assert runtime.run(a, run_id="r").ok
    replayed(runtime, a)
"""
)


def test_an_effect_that_was_abandoned_while_the_policy_was_asked_can_be_recovered(tmp_path: Path) -> None:
    """That the code stopped waiting can be on record before anything else of the effect is: the run goes on."""
    assert _child(tmp_path, _AT_THE_GATE, "first")[0] == -signal.SIGKILL
    code, said = _child(tmp_path, _AT_THE_GATE, "again")
    assert code == 0, said


_ABANDONED = (
    _HEAD
    + """
@tool(name="slow", cost=lambda _: .1)
async def slow(number: int) -> int:
    if first:
        await asyncio.sleep(60)
    return number

@agent(name="a", tools=[slow, kills])
async def a(ctx):
    try:
        async with asyncio.timeout(.3):
            await ctx.call_tool("slow", number=1)
    except TimeoutError:
        pass
    await ctx.call_tool("kills")
    return await ctx.call_tool("slow", number=2)

with Runtime.local(root) as runtime:
    if first:
        runtime.run(a, run_id="r", budget=Budget(usd=1))
    for _ in range(5):
        runtime.run_once(a)
        time.sleep(.3)
    assert runtime.state("r").ended, [runtime.state("r").waits, runtime.budgets()]
"""
)


@pytest.mark.invariant(20)
def test_a_read_that_was_abandoned_and_lost_holds_nothing_of_a_budget(tmp_path: Path) -> None:
    """Nobody asks again for what the code had given up as its worker died: what it held comes back."""
    assert _child(tmp_path, _ABANDONED, "first")[0] == -signal.SIGKILL
    code, said = _child(tmp_path, _ABANDONED, "again")
    assert code == 0, said


async def _numbers(_: Any) -> Any:
    for number in range(3):
        await asyncio.sleep(0.02)
        yield number


def test_what_cannot_be_recorded_does_not_hold_a_run_for_ever(tmp_path: Path) -> None:
    """A rider that the log refuses ends the claim: the run is blocked and named, not kept as running by nobody."""
    Secret("word", "warehouse-db")

    @tool(name="warehouse-db.query")
    def query() -> int:
        return 1

    @agent(name="a", tools=[query])
    def a(ctx: Any) -> Any:
        return ctx.call_tool("warehouse-db.query")

    with Runtime.local(tmp_path) as runtime:
        result = runtime.run(a, run_id="r")
        assert (result.status, result.error_type) == ("failed", "BadInput")


def test_costs_beyond_what_facts_can_hold_are_refused_at_the_call(tmp_path: Path) -> None:
    """Counts that add up to more than 64 bits do not leave a run that can neither go on nor end."""

    @agent(name="a")
    def a(ctx: Any) -> int:
        for _ in range(6):
            ctx.record_cost("x", input_tokens=(1 << 62) - 1)
        return 1

    with Runtime.local(tmp_path) as runtime:
        try:
            runtime.run(a, run_id="r", budget=Budget(tokens=1 << 62))
        except LedgerError:
            pass
        assert runtime.state("r").status != "running"


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
        account = _account(runtime, "session:s")
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
            assert _account(runtime, "agent:attached").reserved == {}


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
        assert _account(runtime, "run:r").spent["wall_ns"] <= took


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
        assert _account(runtime, "run:r").spent["usd_nano"] >= 10**9


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
        assert _account(runtime, "run:r").spent["usd_nano"] == 500_000_000


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


# The gate


@pytest.mark.invariant(18)
def test_a_sandboxed_tool_is_not_begun_elsewhere(tmp_path: Path) -> None:
    """A tool that needs a sandbox is not called without one by attached code, and no log says that it was in one."""

    @tool(name="boxed", sandbox_required=True)
    def boxed() -> int:
        return 1

    with Runtime.local(tmp_path) as runtime:
        with runtime.attach("x", tools=[boxed]) as ctx, pytest.raises(SandboxFailed):
            ctx.begin_tool("boxed", {}).succeeded(1)
        assert bodies(runtime, "sandbox_started", "x") == []


def test_a_policy_hook_changes_no_record(tmp_path: Path) -> None:
    """What is recorded is what was called with, whatever a hook does with what it is shown."""
    got: list[int] = []

    def hook(asked: Any) -> bool:
        asked.arguments["n"] = 99
        return True

    @tool(name="w", side_effect="external_write")
    def w(n: int) -> None:
        got.append(n)

    @agent(name="a", tools=[w])
    def a(ctx: Any) -> None:
        ctx.call_tool("w", n=1)

    with Runtime.local(tmp_path, policy=hook) as runtime:
        runtime.run(a, run_id="r")
        (requested,) = bodies(runtime, "tool_call_requested")
    assert [requested.arguments["n"]] == got == [1]


# Secrets


def prints(x: str) -> None:
    sys.stderr.write(x * 20_000)


@pytest.mark.invariant(19)
def test_what_a_sandboxed_tool_printed_is_cut_between_secrets(tmp_path: Path) -> None:
    """Where the text is too long to be kept whole, no part of a secret is left at the cut."""
    hidden = Secret("token", HIDDEN)
    boxed = tool(name="prints", sandbox_required=True)(prints)

    @agent(name="a", tools=[boxed])
    def a(ctx: Any) -> None:
        ctx.call_tool("prints", x=hidden)

    with Runtime.local(tmp_path) as runtime:
        runtime.run(a, run_id="r")
        (completed,) = bodies(runtime, "sandbox_completed")
    assert completed.stderr
    assert not any(HIDDEN[-length:] in completed.stderr for length in range(6, len(HIDDEN)))


@pytest.mark.invariant(19)
def test_a_compensate_hook_that_fails_tells_no_secret(tmp_path: Path) -> None:
    """What a hook raised is shown to the person who asked, without secrets, as what a tool raised is."""
    hidden = Secret("token", HIDDEN)

    def undo() -> None:
        raise RuntimeError(f"401 for {hidden.reveal()}")

    @tool(name="w", side_effect="external_write", compensate=undo)
    def w() -> int:
        return 1

    @agent(name="a", tools=[w])
    def a(ctx: Any) -> None:
        ctx.call_tool("w")

    with Runtime.local(tmp_path) as runtime:
        runtime.run(a, run_id="r")
        with pytest.raises(Exception) as raised:  # noqa: PT011  # which kind it is does not matter here
            runtime.compensate("r:1", [w], because="x")
    assert HIDDEN not in "".join(traceback.format_exception(raised.value))


def test_a_hook_is_not_given_the_name_of_a_secret_for_the_secret(tmp_path: Path) -> None:
    """What was undone with `[secret:name]` in the place of an argument was not undone."""
    hidden = Secret("account", "account-4711-0815")
    undone: list[str] = []

    @tool(name="w", side_effect="external_write", compensate=lambda account: undone.append(account))
    def w(account: str) -> int:
        return 1

    @agent(name="a", tools=[w])
    def a(ctx: Any) -> None:
        ctx.call_tool("w", account=hidden)

    with Runtime.local(tmp_path) as runtime:
        runtime.run(a, run_id="r")
        try:
            runtime.compensate("r:1", [w], because="x")
        except Refused:
            pass
    assert undone in ([], [hidden.reveal()])


_TELLS = """
from agentledger import Secret, agent
HIDDEN = Secret("token", "hunter2hunter2tokenvalue")

@agent
def tells(ctx):
    pass

raise RuntimeError(f"401 for {HIDDEN.reveal()}")
"""


@pytest.mark.invariant(19)
def test_a_traceback_that_is_asked_for_tells_no_secret(tmp_path: Path) -> None:
    """`--debug` shows a traceback, cleaned as everything else that is printed."""
    (tmp_path / "tells.py").write_text(_TELLS)
    order = [sys.executable, "-m", "agentledger", "--debug", "--root", "ledger", "run", "tells.py"]
    env = {**os.environ, "PYTHONPATH": PATH}
    done = subprocess.run(
        order, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE * 2, check=False
    )
    assert "Traceback" in done.stderr
    assert HIDDEN not in done.stdout + done.stderr


@pytest.mark.invariant(19)
@pytest.mark.parametrize("form", [repr, ascii, lambda text: repr(text.encode()), lambda text: str(KeyError(text))])
def test_a_secret_is_found_as_python_shows_it(form: Any) -> None:
    """Errors show values by their `repr`: a secret with quotes, backslashes or other letters is found there too."""
    value = "p4ss\"w'ord\\with-ü"
    Secret("odd", value)
    from ledger_core.secret import VAULT

    assert "w\\'ord" not in VAULT.clean_text(form(value))


# Odd input, and cost


@pytest.mark.parametrize("name", ["9" * 30, "9" * 5000])
def test_a_number_that_is_no_seq_names_no_call(tmp_path: Path, name: str) -> None:
    """However long the number, the answer is that there is no such call."""
    with Runtime.local(tmp_path) as runtime, pytest.raises(NotFound):
        runtime.call(name)


def test_a_stream_is_asked_for_with_a_dict(tmp_path: Path) -> None:
    """What is no request is refused in words, for streams as for whole answers."""

    @agent(name="a")
    def a(ctx: Any) -> None:
        with pytest.raises(BadInput):
            ctx.stream_model(5)

    with Runtime.local(tmp_path, models=lambda _: []) as runtime:
        result = runtime.run(a, run_id="r")
        assert result.ok, result.message


def test_a_new_run_does_not_read_all_runs_of_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events that are read for a new run do not grow with the runs that its session had."""
    read: list[int] = []
    fold = sessions.fold_session

    def counted(events: Any, before: Any = None) -> Any:
        known = list(events)
        read.append(len(known))
        return fold(known, before)

    @agent(name="a")
    def a(ctx: Any) -> int:
        return 1

    monkeypatch.setattr(sessions, "fold_session", counted)
    with Runtime.local(tmp_path) as runtime:
        for number in range(40):
            runtime.run(a, run_id=f"r{number}", session_id="s")
    assert max(read, default=0) <= 10
