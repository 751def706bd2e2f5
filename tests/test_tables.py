"""Rows of costs, models and failures say what happened: of runs that began afresh, were in doubt, blocked, or lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites import afresh, histories
from suites.afresh import SPENT, state_of

from agentledger import Clock, Diverged, RetryableAgentError, Runtime, ToolFailed, agent, tool
from ledger_core.events import REGISTRY
from ledger_core.events.effect import ModelCallCompleted, ModelCallRequested
from ledger_core.events.step import StepRetryScheduled
from ledger_core.log.log import Log
from ledger_core.log.record import Draft
from ledger_core.run.schedule import Offer
from ledger_core.runtime.claims import claim_next
from projections import folding, snapshots
from projections.runs import of_stream
from projections.table import Row

_OF_CALLS = (
    "tool_call_requested model_call_requested tool_call_completed tool_call_failed tool_call_settled "
    "model_call_completed model_call_failed cost_recorded effect_refused step_created step_claimed "
    "step_retry_scheduled step_completed step_failed step_blocked run_parked divergence_detected lease_expired"
).split()
_INTENTS = {"tool_call_requested": "tool", "model_call_requested": "model"}


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime.in_memory() as made:
        yield made


def rows(runtime: Runtime, name: str, run: str) -> list[Row]:
    """Rows of a run, in the order in which they began."""
    found = folding.of_events(runtime.log.stream(f"run/{run}", contents=False))
    assert found.parked == ()
    return sorted(found.rows(name), key=lambda row: row.get("first_seq") or row["seq"])


def of(runtime: Runtime, name: str, run: str, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in rows(runtime, name, run)]


def days_ns(*days: int) -> list[int]:
    return [day * 86_400 * 10**9 for day in days]


# Costs


def test_a_step_that_began_afresh_keeps_what_it_paid_before(runtime):
    """Three attempts that each record a cost and ask a model have six rows, and their sum is what the run spent."""
    assert afresh.began_afresh(runtime) == 3

    state, found = state_of(runtime, "fresh"), rows(runtime, "costs", "fresh")
    assert (state.usd_nano, state.input_tokens) == (1_500_000_000, 30)
    assert {name: sum(row[name] for row in found) for name in SPENT} == {name: getattr(state, name) for name in SPENT}
    assert [(row["path"], row["kind"], row["calls"]) for row in found] == [("1", "recorded", 0), ("2", "model", 1)] * 3
    assert of(runtime, "models", "fresh", "status", "attempt", "input_tokens") == [("completed", 1, 10)] * 3


def test_another_tool_or_model_at_the_same_path_has_a_row_of_its_own(runtime):
    """What the second attempt asks for at a path is not counted under the name that the first asked for there."""
    afresh.asked_for_others(runtime)

    assert of(runtime, "costs", "others", "path", "name", "calls", "failed", "input_tokens") == [
        ("1", "alpha", 1, 1, 0),
        ("2", "large", 1, 0, 10),
        ("3", "beta", 1, 0, 0),
        ("1", "beta", 1, 0, 0),
        ("2", "small", 1, 0, 10),
        ("3", "small", 1, 0, 10),
    ]
    assert of(runtime, "models", "others", "model") == [("large",), ("small",), ("small",)]


def test_a_fresh_attempt_is_paid_on_its_own_day():
    """A call that is made again three days later belongs to the day on which it was made again."""
    now, asked = days_ns(20_000), []

    def answer(request: Any) -> Any:
        asked.append(request)
        return afresh.answer(request)

    @agent(name="days", models=answer)
    async def days(ctx: Any) -> None:
        await ctx.call_model({"model": "m", "messages": []})
        if len(asked) == 1:
            now[0] += days_ns(3)[0]
            raise RetryableAgentError("later")

    def now_ns() -> int:
        now[0] += 10**6
        return now[0]

    with Runtime.in_memory(clock=Clock(now_ns=now_ns)) as runtime:
        assert runtime.run(days, run_id="d", retry_policy={"max_attempts": 2, "initial": 0.001}).ok
        assert of(runtime, "costs", "d", "day", "input_tokens") == [("2024-10-04", 10), ("2024-10-07", 10)]


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "kept"])
def test_calls_and_failures_are_those_that_were_made(runtime, fresh):
    """Two attempts that failed and one that came right are three calls, two failed, however it was tried again."""
    assert afresh.flaky_calls(runtime, "r", fresh=fresh) == 3

    found = rows(runtime, "costs", "r")
    assert sum(row["calls"] for row in found) == 3
    assert sum(row["failed"] for row in found) == 2
    assert len(found) == (2 if fresh else 1)
    assert sum(row["usd_nano"] for row in found) == state_of(runtime, "r").usd_nano == 1_500_000_000


def test_three_attempts_of_a_read_are_three_calls(runtime):
    """A read that came right with its third attempt was called three times, and failed twice; both came right."""
    assert afresh.tried_three_times(runtime) == 3
    assert of(runtime, "costs", "thrice", "calls", "failed", "succeeded") == [(3, 2, 1)]
    assert of(runtime, "failures", "thrice", "attempt", "recovered") == [(1, True), (2, True)]


# Doubts


def test_a_doubt_that_was_settled_never_failed(runtime):
    """A call that nobody could say of for a while, and that had succeeded, failed not once, and keeps its cause."""
    afresh.doubted(runtime, "r", by_a_person=False)

    assert of(runtime, "costs", "r", "calls", "failed", "succeeded", "usd_nano") == [(1, 0, 1, 250_000_000)]
    (failure,) = rows(runtime, "failures", "r")
    assert (failure["category"], failure["error_type"], failure["times"]) == ("tool", "ConnectionError", 3)
    assert (failure["in_doubt"], failure["recovered"]) == (False, True)
    said = runtime.log.event(failure["message_seq"])
    assert said.body.message == "lost"
    assert failure["first_seq"] == failure["message_seq"] < failure["seq"]


def test_who_does_not_know_does_not_undo_what_somebody_knew(runtime):
    """That nobody knows, said after a person settled the call, changes neither the failure, nor the cost, nor both."""
    afresh.doubted(runtime, "r", by_a_person=True)

    types = [event.type for event in runtime.log.stream("run/r") if event.type.startswith("tool_call")]
    assert types[-2:] == ["tool_call_settled", "tool_call_failed"]
    assert state_of(runtime, "r").ledger["1"].status == "SUCCEEDED"
    assert of(runtime, "costs", "r", "calls", "failed", "succeeded") == [(1, 0, 1)]
    assert of(runtime, "failures", "r", "times", "error_type", "in_doubt", "recovered", "final") == [
        (2, "ConnectionError", False, True, False)
    ]


def test_a_doubt_that_came_to_nothing_failed_once(runtime):
    """A call in doubt that had no effect is one failed call, and did not come right."""
    afresh.settled_as_nothing(runtime)
    assert of(runtime, "costs", "nothing", "calls", "failed", "succeeded") == [(1, 1, 0)]
    assert of(runtime, "failures", "nothing", "kind", "in_doubt", "recovered") == [
        ("tool", False, False),
        ("step", False, False),
    ]


def test_what_is_undone_had_come_right(runtime):
    """A failure that came right stays right when somebody undoes the call later."""
    afresh.undone(runtime)
    assert state_of(runtime, "undone").ledger["1"].status == "COMPENSATED"
    assert of(runtime, "failures", "undone", "attempt", "recovered") == [(1, True)]
    assert of(runtime, "costs", "undone", "calls", "failed", "succeeded") == [(2, 1, 1)]


# What comes right with the step


def test_failures_of_attempts_that_were_given_up_come_right_with_the_step(runtime):
    """What failed before the code began afresh is recovered when the step completes, whatever was asked for since."""
    afresh.flaky_calls(runtime, "r", fresh=True)
    assert of(runtime, "failures", "r", "kind", "attempt", "recovered") == [
        ("tool", 1, True),
        ("tool", 2, True),
        ("step", 1, True),
    ]
    afresh.asked_for_others(runtime)
    assert of(runtime, "failures", "others", "kind", "name", "recovered") == [
        ("tool", "alpha", True),
        ("step", "others", True),
    ]


def test_failures_of_the_attempt_that_completed_stay(runtime):
    """A failure that the code of the last attempt went on without did not come right because the step completed."""
    attempts = []

    @tool
    def broken() -> None:
        raise ValueError("broken")

    @agent(name="stays", tools=[broken])
    async def stays(ctx: Any) -> None:
        attempts.append(1)
        with pytest.raises(ToolFailed):
            await ctx.call_tool("broken")
        if len(attempts) == 1:
            raise RetryableAgentError("x")

    # ToolFailed is no longer being handled when the step fails, so that nothing is reopened and all is asked for again
    assert runtime.run(stays, run_id="r", retry_policy=afresh.SOON).ok
    assert of(runtime, "failures", "r", "kind", "recovered") == [("tool", True), ("step", True), ("tool", False)]


def test_what_blocked_a_step_comes_right_with_it(runtime):
    """A step that was blocked twice and then completed has one row for it, twice, that came right."""
    afresh.blocked(runtime)
    assert of(runtime, "failures", "blocked", "kind", "times", "recovered") == [("blocked", 2, True)]


def test_what_parked_a_run_comes_right_with_its_step(runtime):
    """A run that was parked because workers were lost with it, and was resumed: neither is left standing."""

    @agent(name="a")
    async def main(ctx: Any) -> str:
        return "alive"

    runtime.create_run(main, run_id="r", retry_policy={"max_losses": 2})
    alive, runtime.desk.alive = runtime.desk.alive, lambda _: False
    for _ in range(2):
        runtime.log.decide(claim_next(runtime.desk, Offer(agents={"a": None}), runtime.worker_id, 1, []))
        assert runtime.recover_expired_leases() == ["r"]
    runtime.desk.alive = alive
    assert of(runtime, "failures", "r", "kind", "recovered") == [("lease", False), ("lease", False), ("parked", False)]

    assert runtime.run(main, run_id="r").ok
    assert of(runtime, "failures", "r", "kind", "recovered") == [("lease", True), ("lease", True), ("parked", True)]


def test_a_divergence_comes_right_with_the_step(runtime):
    """A step whose changed code diverged, and that completed when the code was put back, is not left diverged."""

    def made(name: str) -> Any:
        @agent(name="a")
        async def main(ctx: Any) -> Any:
            ctx.record_cost(name, usd=1) if name == "one" else await ctx.sleep(0.01)
            return await ctx.wait_signal("go")

        return main

    assert runtime.run(made("one"), run_id="r").status == "waiting"
    runtime.signal("r", "go", 1)
    with pytest.raises(Diverged):
        runtime.run(made("two"), run_id="r")
    assert of(runtime, "failures", "r", "kind", "recovered") == [("divergence", False)]
    assert runtime.run(made("one"), run_id="r").ok
    assert of(runtime, "failures", "r", "kind", "recovered") == [("divergence", True)]


# Model calls that nobody answered


def test_a_model_call_of_a_cancelled_run_is_lost(tmp_path, python):
    """A call that was under way when its worker died and its run was cancelled took no time that anybody knows."""
    code = """
        import os, sys
        from agentledger import Runtime, agent

        @agent(name="a", models=lambda request: os._exit(9))
        async def main(ctx):
            await ctx.call_model({"model": "m", "messages": []})

        with Runtime.local(sys.argv[1]) as runtime:
            runtime.run(main, run_id="r")
    """
    child = python.start(code, tmp_path / "ledger")
    child.communicate(timeout=60)
    assert child.returncode == 9
    with Runtime.local(tmp_path / "ledger") as runtime:
        assert of(runtime, "models", "r", "status", "ended_ns") == [("running", None)]
        runtime.cancel_run("r")
        assert state_of(runtime, "r").status == "cancelled"
        (ended,) = (event.time_ns for event in runtime.log.stream("run/r") if event.type == "step_cancelled")
        assert of(runtime, "models", "r", "status", "ended_ns") == [("lost", ended)]
        sums = folding.of_events(runtime.log.stream("run/r", contents=False)).sums("models", "model")
        assert sums == {"m": {"calls": 1, "lost": 1}}


def test_a_model_call_that_broke_off_with_its_attempt_is_lost():
    """A call that nobody had answered when the code began afresh is lost; the one that was made again is not."""
    asked = ModelCallRequested(path="1", attempt=1, model="m", request=bytes(32), messages=[], parameters={})
    again = StepRetryScheduled(
        step="st1", epoch=1, attempt=2, wake_ns=1, category="x", error_type="X", fresh=True, message="m"
    )
    answered = ModelCallCompleted(path="1", attempt=1, input_tokens=3, response={})
    with Log.in_memory() as log:
        log.append(*histories.beginning("run/r1"))
        log.append(*(Draft(stream="run/r1", body=body) for body in (asked, again, asked, answered)))
        found = sorted(folding.of_events(log.read(contents=False)).rows("models"), key=lambda row: row["seq"])
    assert [(row["status"], row["input_tokens"]) for row in found] == [("lost", None), ("completed", 3)]


# Any history


def histories_of_calls() -> st.SearchStrategy[list[Draft]]:
    """Histories that are dense with calls, of which every outcome has an intent before it in its run."""
    bodies = st.sampled_from(_OF_CALLS).flatmap(lambda name: histories._body(REGISTRY[name].cls))
    return st.lists(bodies, min_size=1, max_size=60).map(_asked)


def _asked(bodies: list[Any]) -> list[Draft]:
    kinds = {type(body): body.kind.name for body in bodies}
    seen: set[str] = set()
    kept = []
    for body in bodies:
        name = kinds[type(body)]
        if name in (*_INTENTS, "cost_recorded"):
            seen.add(body.path)
        if not name.endswith(("_completed", "_failed", "_settled")) or name.startswith("step") or body.path in seen:
            kept.append(Draft(stream="run/r1", body=body))
    return [*histories.beginning("run/r1"), *kept]


@given(drafts=histories_of_calls())
@settings(max_examples=150)
def test_costs_of_any_history_add_up_to_what_the_run_spent(drafts):
    """Whatever happened in whatever order, rows of costs add up to the run's totals, and no more failed than began."""
    with Log.in_memory() as log:
        log.append(*drafts)
        found = folding.of_events(log.read(contents=False))
        state = of_stream(log, "run/r1")
        assert found.parked == ()
        costs = list(found.rows("costs"))
        assert {name: sum(row[name] for row in costs) for name in SPENT} == {
            name: getattr(state, name) for name in SPENT
        }
        assert all(row["failed"] + row["succeeded"] <= row["calls"] for row in costs)
        assert all(row["done"] is not None or row["status"] in ("running", "lost") for row in found.rows("models"))


@given(drafts=histories_of_calls())
@settings(max_examples=60)
def test_a_state_that_was_put_aside_and_taken_up_tells_calls_apart_as_before(drafts):
    """A state frozen after any event and thawed is the same, also in what tells calls apart that share a path."""
    with Log.in_memory() as log:
        log.append(*drafts)
        state = of_stream(log, "run/r1")
        thawed = snapshots.thaw(snapshots.freeze(state))
        assert attrs.asdict(thawed) == attrs.asdict(state) == attrs.asdict(state.clone())
