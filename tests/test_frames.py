"""A run at each of its events: the fold that moves with what an event names says what a fold of everything says."""

from __future__ import annotations

import json
import sys
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_events import bodies

from agentledger import InDoubt, Log, RetryableAgentError, Runtime, ToolFailed, WaitTimedOut, agent, tool
from ledger_core.events import REGISTRY, Unknown
from ledger_core.events.effect import ToolCallCompleted, ToolCallRequested
from ledger_core.events.run import RunCompleted, RunCreated
from ledger_core.events.step import StatePatchCommitted, StatePatchProposed, StepClaimed, StepCreated
from ledger_core.log.record import Event
from ledger_core.run.patch import merge
from ledger_core.run.state import RunState
from projections.frames import MOST_PROPOSED, TABLES, Reel, delta, deltas, frames
from projections.wire import plain


def event(seq, body, type_=None):
    return Event(
        seq + 100, bytes(32), seq * 10**9, "run/r", 1, seq, type_ or body.kind.name, "t", None, None, None, body
    )


def whole(run: RunState, tool_calls: int) -> dict[str, Any]:
    """A standing made of all of a run's state anew; its documents and its approvals apart."""
    standing = {
        "status": run.status,
        "waiting": run.waiting,
        "step": run.step or None,
        "step_number": run.step_number,
        "attempt": run.attempt,
        "epoch": run.epoch,
        "worker": run.worker,
        "version": run.version,
        "in_doubt": len(run.in_doubt),
        "cost": {
            "model_calls": run.model_calls,
            "tool_calls": tool_calls,
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
            "usd_nano": run.usd_nano,
        },
        "ledger": {
            path: {"tool": row.tool, "status": row.status, "attempt": row.attempt} for path, row in run.ledger.items()
        },
        "waits": {
            path: {"kind": one.kind, "name": one.name}
            | ({} if one.wake_ns is None else {"wake": one.wake_ns / 1_000_000_000})
            for path, one in run.waits.items()
        },
        "children": {name: child.status for name, child in run.children.items()},
    }
    return {name: value for name, value in standing.items() if value is not None}


def answers(run: RunState) -> dict[str, str]:
    """What people answered; why nobody answered the others is for tests of recorded runs to say."""
    return {
        name: "unanswered" if seq is None else "approved" if name in run.granted else "denied"
        for name, seq in run.approvals.items()
    }


def without_nulls(value: Any) -> Any:
    """What RFC 7396 can say of a value."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def same(patch: Any, other: Any) -> bool:
    """Whether two patches say the same, but for nulls of the state document, which no patch can say."""
    pair = [{name: value for name, value in one.items() if name != "state"} for one in (patch, other)]
    return pair[0] == pair[1] and without_nulls(patch.get("state")) == without_nulls(other.get("state"))


def check(events: list[Event]) -> list[Any]:
    """Frames, deltas and the reel agree with each other and with a fold of everything; returns the frames."""
    run, tool_calls = RunState(), 0
    found, changes, reel = list(frames(events)), list(deltas(events)), Reel(events, every=3)
    assert len(found) == len(changes) == len(reel) == len(events)
    patched: Any = {}
    before: Any = {}
    for one, frame, change in zip(events, found, changes, strict=True):
        run.apply(one.seq, one.time_ns, one.type, one.body)
        tool_calls += one.type == "tool_call_requested"
        expected = whole(run, tool_calls)
        assert {name: frame.standing.get(name) for name in expected} == expected
        assert set(frame.standing) == {*expected, "state", "proposed", "proposed_count", "approvals"}
        said = {
            name: status if status in ("approved", "denied") else "unanswered"
            for name, status in frame.standing["approvals"].items()
        }
        assert said == answers(run)

        assert (frame.seq, frame.log_seq) == (change.seq, change.log_seq) == (one.stream_seq, one.seq)
        json.dumps(frame.standing, allow_nan=False)
        json.dumps(change.patch, allow_nan=False)
        patched = merge(patched, change.patch)
        assert without_nulls(patched) == without_nulls(frame.standing)
        assert same(change.patch, delta(before, frame.standing))
        assert reel.frame(one.stream_seq) == frame
        before = frame.standing
    return found


# Any events at all

_SMALL = st.sampled_from(["1", "2", "3"])
_KINDS = [REGISTRY[name] for name in sorted(REGISTRY)]


@st.composite
def _bodies(draw: Any, kinds: Any = _KINDS) -> Any:
    body = draw(st.sampled_from(kinds).flatmap(bodies))
    names = {field.name for field in attrs.fields(type(body))}
    place = {name: draw(_SMALL) for name in ("path", "run", "step") if name in names}
    if "approval" in names and (body.approval is not None or draw(st.booleans())):
        place["approval"] = draw(_SMALL)
    if getattr(body, "reopened", None) is not None:
        place["reopened"] = draw(_SMALL)
    return attrs.evolve(body, **place)


@settings(max_examples=60)
@given(written=st.lists(_bodies(), max_size=15))
def test_any_events_in_any_order_have_frames(written: list[Any]) -> None:
    """Whatever events come, in whatever order: each has its frame, which is what a fold of everything says."""
    check([event(seq, body) for seq, body in enumerate(written, 1)])


_LIFE = [
    REGISTRY[name]
    for name in sorted(REGISTRY)
    if name.startswith(("tool_call_", "approval", "step_", "lease", "timer", "effect", "run_c", "child"))
]


@settings(max_examples=60)
@given(written=st.lists(_bodies(_LIFE), max_size=20))
def test_what_sweeps_sweeps_all(written: list[Any]) -> None:
    """Events that change rows they do not name (the end of a claim, of a step, of a run) leave no old row behind."""
    check([event(seq, body) for seq, body in enumerate(written, 1)])


def test_an_unknown_type_changes_nothing():
    """An event of a type that is not known has its frame, the same as the one before."""
    created = RunCreated(run="r", agent="a", seed=bytes(32), initial_state={"a": 1})
    unknown = Unknown(type="run_polished", version=9, facts={"path": "1", "run": [], "approval": {}})
    found = check([event(1, created), event(2, unknown, "run_polished")])

    assert found[1].standing == found[0].standing
    assert [one.patch for one in deltas([event(1, created), event(2, unknown, "run_polished")])][1] == {}


# Documents


def test_state_moves_by_its_patches():
    """Committed state, what is proposed, and the state as the code sees it, each where it changes."""
    joined = {"a": {"b": 2, "c": None}, "d": [None, b"\x01"]}
    events = [
        event(1, RunCreated(run="r", agent="a", seed=bytes(32), initial_state={"a": {"b": 1, "c": 2}, "n": None})),
        event(2, StepCreated(step="s", number=1, agent="a")),
        event(3, StatePatchProposed(path="1", request=b"x", patch={"a": {"b": 2}})),
        event(4, StatePatchProposed(path="2", request=b"x", patch={"a": {"c": None}, "d": [None, b"\x01"]})),
        event(5, StatePatchCommitted(step="s", base_version=0, version=1, patch=joined)),
    ]
    one, _, three, four, five = check(events)

    assert one.standing["state"] == one.draft == {"a": {"b": 1, "c": 2}, "n": None}
    assert three.standing["proposed"] == [{"a": {"b": 2}}]
    assert three.draft["a"] == {"b": 2, "c": 2}
    assert four.standing["state"] == one.standing["state"]
    assert four.draft == {"a": {"b": 2}, "n": None, "d": [None, "01"]}
    assert (five.standing["state"], five.standing["proposed"]) == (four.draft, [])
    assert [one.patch for one in deltas(events)][4] == {
        "state": {"a": {"b": 2, "c": None}, "d": [None, "01"]},
        "proposed": [],
        "proposed_count": 0,
        "version": 1,
    }


def test_a_patch_that_changes_nothing_is_no_difference():
    """A commit of what is there already changes the version and nothing else; 1 and True and 1.0 are three values."""
    created = RunCreated(run="r", agent="a", seed=bytes(32), initial_state={"a": 1, "b": {"c": 1}})
    same = StatePatchCommitted(step="s", base_version=0, version=1, patch={"a": 1, "b": {"c": 1}, "gone": None})
    other = StatePatchCommitted(step="s", base_version=1, version=2, patch={"a": True, "b": {"c": 1.0}})
    changes = list(deltas([event(1, created), event(2, same), event(3, other)]))

    assert changes[1].patch == {"version": 1}
    assert json.dumps(changes[2].patch["state"]) == '{"a": true, "b": {"c": 1.0}}'


def test_many_proposals_cost_what_they_are():
    """A step that proposes thousands of patches lists the youngest, counts all, and applies all."""
    events = [event(1, RunCreated(run="r", agent="a", seed=bytes(32), initial_state={}))]
    events += [event(n, StatePatchProposed(path=str(n), request=b"x", patch={f"k{n % 7}": n})) for n in range(2, 3_000)]
    *_, last = frames(events)

    assert last.standing["proposed_count"] == 2_998
    assert last.standing["proposed"][-1] == {"k3": 2_999}
    assert len(last.standing["proposed"]) == MOST_PROPOSED
    assert len(last.draft) == 7
    assert max(len(json.dumps(one.patch)) for one in deltas(events)) < 2_000


def test_what_a_retry_drops_is_not_proposed_any_more():
    """What the code proposed behind the failure that is tried again is gone; what it proposed before stays."""

    def flaky():
        tried.append(1)
        if len(tried) == 1:
            raise ValueError("not now")
        return "well"

    tried: list[int] = []
    runtime = Runtime(Log.in_memory())

    @agent(name="a", tools=[tool(name="flaky", side_effect="external_read")(flaky)])
    def main(ctx):
        ctx.write_state_patch("before", 1)
        try:
            ctx.call_tool("flaky")
        except ToolFailed as failed:
            ctx.write_state_patch("told", 1)
            raise RetryableAgentError("again") from failed
        ctx.write_state_patch("after", 1)

    runtime.run(main, run_id="r", retry_policy={"max_attempts": 3, "initial": 0.01, "maximum": 0.02})
    events = list(runtime.log.stream("run/r"))
    found = check(events)
    told = [frame.standing["proposed"] for frame in found]
    assert found[-1].standing["state"] == {"before": 1, "after": 1}
    assert [one for one in told if {"told": 1} in one]
    retried = next(at for at, one in enumerate(events) if one.type == "step_retry_scheduled")
    assert (told[retried - 1], told[retried]) == ([{"before": 1}, {"told": 1}], [{"before": 1}])
    assert found[retried].draft == {"before": 1}


# Recorded runs


def test_a_recorded_run_is_told_at_each_of_its_events(runtime):
    """Children, signals, approvals, sleeps, models, tools that fail and are in doubt: frames of what was recorded."""

    @tool(name="post", side_effect="external_write")
    def post(text: str) -> str:
        if text == "lost":
            raise ConnectionResetError("the answer was lost")
        return text

    @agent(name="child")
    def child(ctx, state):
        ctx.sleep(0.01)
        raise ValueError("the child's own")

    @agent(name="main", tools=[post])
    def main(ctx, state):
        ctx.call_model({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        ctx.write_state_patch("asked", True)
        ctx.call_tool("post", text="a")
        kid = ctx.spawn(child, {})
        try:
            kid.join()
        except Exception as error:
            ctx.write_state_patch("child", type(error).__name__)
        try:
            ctx.request_approval("Late?", timeout=0.01)
        except WaitTimedOut:
            pass
        ctx.request_approval("May I?")
        ctx.wait_signal("go")
        ctx.call_tool("post", text="lost")

    runtime.run(main, run_id="r", initial_state={"big": ["x"] * 50})
    while not (waiting := [name for name, seq in runtime.state("r").approvals.items() if seq is None][1:]):
        runtime.run(main, run_id="r")
    runtime.approve(waiting[0], by="Ada")
    runtime.signal("r", "go", 1)
    with pytest.raises(InDoubt):
        runtime.run(main, run_id="r", wait=False)
    found = check(list(runtime.log.stream("run/r")))
    last = found[-1].standing

    assert sorted(last["approvals"].values()) == ["approved", "expired"]
    assert list(last["children"].values()) == ["failed"]
    assert last["in_doubt"] == 1
    assert {row["status"] for row in last["ledger"].values()} == {"SUCCEEDED", "PENDING_VERIFICATION"}
    assert last["cost"]["model_calls"] == 1
    assert {kind for frame in found for kind in (one["kind"] for one in frame.standing["waits"].values())} >= {
        "child",
        "approval",
        "signal",
    }


def test_what_was_forgotten_is_said_to_be(runtime):
    """A run whose content was forgotten has all its frames; its state is the text of why."""

    @agent(name="a")
    def main(ctx, state):
        ctx.write_state_patch("name", "Ada Lovelace")
        return "well"

    runtime.run(main, run_id="r", initial_state={"name": "somebody"})
    before = check(list(runtime.log.stream("run/r")))
    runtime.log.forget("run/r")
    after = check(list(runtime.log.stream("run/r")))

    assert {frame.standing["state"] for frame in after} == {"<forgotten>"}
    assert {frame.draft for frame in after} == {"<forgotten>"}
    assert [one for frame in after for one in frame.standing["proposed"]] == ["<forgotten>"] * sum(
        frame.standing["proposed_count"] for frame in after
    )
    for one, other in zip(before, after, strict=True):
        assert {name: one.standing[name] for name in ("status", "version")} == {
            name: other.standing[name] for name in ("status", "version")
        }


# Cost


def _long(calls):
    yield event(1, RunCreated(run="r", agent="a", seed=bytes(32), initial_state={"plan": ["step"] * 1_000}))
    yield event(2, StepCreated(step="s", number=1, agent="a"))
    yield event(3, StepClaimed(step="s", epoch=1, worker="w", base_version=0))
    for number in range(calls):
        call = {"path": str(number), "attempt": 1}
        intent = ToolCallRequested(
            **call, tool="t", tool_version="1", side_effect="external_write", request=b"x", arguments={}
        )
        yield event(4 + 2 * number, intent)
        yield event(5 + 2 * number, ToolCallCompleted(**call, result=None))
    yield event(4 + 2 * calls, RunCompleted(counts={}, tools={}))


def _work(of: Any) -> int:
    """Lines of projections/frames.py and of run/ that were executed while `of` was drawn."""
    count = 0

    def trace(frame: Any, what: str, _: Any) -> Any:
        nonlocal count
        if "frames.py" not in frame.f_code.co_filename and "/run/" not in frame.f_code.co_filename:
            return None
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for _ in of:
            pass
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("made", [deltas, frames])
def test_work_grows_with_events_and_not_with_their_square(made):
    """Ten times the events cost ten times the steps, however large the ledger of the run has grown."""
    small, large = _work(made(_long(20))), _work(made(_long(200)))

    assert large < 10.5 * small


def test_a_run_of_fifty_thousand_events():
    """A run of 50,000 events has small deltas, and any of its frames at hand."""
    events = list(_long(25_000))
    sizes = [len(json.dumps(change.patch)) for change in deltas(events)]
    assert len(sizes) == 50_004
    assert max(sizes[1:]) < 500

    reel = Reel(events)
    assert reel.frame(50_004).standing["status"] == "completed"
    assert len(reel.frame(30_004).standing["ledger"]) == 15_001
    assert reel.frame(30_003).standing["ledger"]["14999"]["status"] == "SUCCEEDED"
    assert plain(reel.frame(1).standing)["state"] == {"plan": ["step"] * 1_000}


def test_frames_do_not_change_when_later_ones_are_drawn():
    """A frame that is kept is what it was when it was drawn."""
    kept = []
    for frame in frames(_long(20)):
        kept.append((frame, json.dumps(frame.standing)))
    assert all(json.dumps(frame.standing) == text for frame, text in kept)
    assert all(kept[0][0].standing[name] == {} for name in TABLES)
